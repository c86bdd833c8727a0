"""Keys: what must not run beside each other, as names carry it.

Does:    a word and whose it is -> the key that all have which must not run at once.
Reads:   its arguments.
Trusts:  the caller to know whose a word is.
Fails:   never.

A word belongs to whoever wrote it: in a job file to its submitter, in a crontab to its owner, in the configuration and
in root's crontabs to root (rootless, everything is one user's). The same word of somebody else is another key, so
nobody's word holds up another user's job.
"""

from __future__ import annotations

from cronq.entry import digest

LETTERS = 16  # of the digest: 96 bits, so that two keys fit into a name


def mutex(owner: int, word: str) -> str:
    """The key of those that never run at once since they say so by this word."""
    return _key("mutex", str(owner), word)


def line(uid: int, identity: str) -> str:
    """The key of the ticks of one line of a crontab, where they must not overlap."""
    return _key("line", str(uid), identity)


def group(group: str | None, task: str, text: str) -> str:
    """The key of the jobs of a group, or of a task where it is in none, whose key has this text."""
    return _key("group", group, text) if group is not None else _key("task", task, text)


def hook(uid: int, lane: str) -> str:
    """The key of what this user's hook of that lane is told: one event after the other."""
    return _key("hook", str(uid), lane)


def unique(owner: int, text: str) -> str:
    """The key of the jobs of which there is one at a time."""
    return _key("unique", str(owner), text)


def _key(*parts: str) -> str:
    return digest("\0".join(parts).encode())[:LETTERS]
