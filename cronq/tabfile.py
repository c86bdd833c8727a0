"""A crontab in a file or on standard input, as a person hands it to a command: whose it is, and what it says.

Does:    a path -> `TabFile`: its bytes, whether it has a user column, the user, and the crontab read from it.
Reads:   the file, no more than a crontab may have; owner and names of users.
Trusts:  the caller, whose files they are and with whose rights they are opened. Not their content.
Fails:   `UsageError` where nothing is there, `BadJob` with a sentence where it is no crontab at all.

Whether there is a user column can be told by the place: /etc/crontab and files in a directory cron.d have one.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys

from cronq import cronrules, show
from cronq.cronfiles import uid_of, user_of
from cronq.crontab import MAX_BYTES, Crontab, Problem, parse_crontab
from cronq.errors import BadJob, UsageError

STDIN = "-"
_SYSTEM_TABLES = (cronrules.SYSTEM_TABLE, "/etc/cronq/crontab")
_LIKE_A_USER = re.compile(r"[a-z_][a-z0-9_]*")


@dataclasses.dataclass(frozen=True, slots=True)
class TabFile:
    """A crontab and where it comes from; `label` is what messages call it."""

    label: str
    data: bytes
    system: bool
    user: str
    table: Crontab

    def problems(self) -> list[Problem]:
        """All that is wrong or doubtful, by line; with a user column also users whom nobody knows."""
        found = [*self.table.problems, *self._unknown_users()]
        return sorted(found, key=lambda problem: problem.line)  # stable: within a line as they came

    def _unknown_users(self) -> list[Problem]:
        if not self.system:
            return []
        lines, known = self.data.split(b"\n"), {entry.user: is_user(entry.user) for entry in self.table.entries}
        found = []
        for entry in self.table.entries:
            if not known[entry.user]:
                shown, source = ascii(entry.user)[1:-1], os.fsdecode(lines[entry.line - 1])
                text, mend = f"there is no user {shown}: the line does not run", "name another user, or make this one"
                if not _LIKE_A_USER.fullmatch(entry.user):
                    mend = "write the user before the command"
                column = _behind(source, entry.when) + 1
                found.append(Problem(entry.line, column, "no-user", False, text, mend, source, "bad username"))
        return found


def _behind(source: str, when: str) -> int:
    """Where the word behind the schedule begins in its line."""
    at = 0
    for word in when.split():
        at = source.index(word, at) + len(word)
    return len(source) - len(source[at:].lstrip(" \t"))


def is_user(name: str) -> bool:
    """Does the machine know this user?"""
    return uid_of(name) is not None


def read(path: str, *, system: bool = False, user: str | None = None) -> TabFile:
    """Read a crontab; `system`: it has a user column wherever it is. Raises `UsageError`, `BadJob`."""
    system = system or is_system(path)
    data, owner = _read(path)
    label = "standard input" if path == STDIN else path
    user = "" if system else owner if user is None else user
    table = parse_crontab(data, user=user, system=system)
    if table.refused:
        raise BadJob(f"{show.escape(label)}: {table.refused}")
    return TabFile(label, data, system, user, table)


def is_system(path: str) -> bool:
    """Has a file of this place a user column?"""
    full = os.path.abspath(path)
    return full in _SYSTEM_TABLES or in_cron_d(path)


def in_cron_d(path: str) -> bool:
    """Is this a file in a directory cron.d?"""
    return path != STDIN and os.path.basename(os.path.dirname(os.path.abspath(path))) == "cron.d"


def _read(path: str) -> tuple[bytes, str]:
    """The file, and the name of its owner."""
    shown = show.escape(path)
    try:
        if path == STDIN:
            data, owner = sys.stdin.buffer.read(MAX_BYTES + 1), os.getuid()
        else:
            _must_not_wait(path, shown)
            with open(path, "rb") as file:
                data, owner = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_uid
    except FileNotFoundError:
        raise UsageError(f"{shown} is not there") from None
    except (OSError, ValueError) as error:
        raise BadJob(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise BadJob(f"{shown} has more than {MAX_BYTES >> 20} MiB, and no more is read of a crontab: split it")
    return data, user_of(owner)


def _must_not_wait(path: str, shown: str) -> None:
    """Refuse what is no file, but take a shell's <(command)."""
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise BadJob(f"{shown} is a directory, not a crontab")
    if not stat.S_ISREG(kind) and not path.startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        raise BadJob(f"{shown} is no regular file: this is no crontab")
