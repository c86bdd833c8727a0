"""Jobs as people read them: a table on a terminal, tabs and plain text in a pipe. Control characters are escaped.

Does:    the one home of that escaping: `escape` for a line of text, `printable` and `Printable` for what jobs print,
         `json_line` for JSON.
Reads:   job objects as the dispatcher's control socket gives them. rich is imported for a table only.
Trusts:  no text of a job: names, notes and outputs are strangers', and a terminal obeys what it is sent.
"""

from __future__ import annotations

import codecs
import functools
import json
import os
import pwd
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

from cronq import spool as spools
from cronq import statement, usage

# They end a line, or show what follows the other way round.
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {code: f"\\u{code:04x}" for code in _TURNING}
_IN_OUTPUT = {code: text for code, text in _CONTROLS.items() if chr(code) not in "\n\t"}
_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(127, 160), *_TURNING)}  # the same text to whoever parses it
_TIMES = ("submitted", "due", "started", "ended", "expires")
_HEADS = ("ID", "STATE", "JOB", "QUEUE", "PRIO", "TRY", "TIME", "WHY")


def escape(text: object) -> str:
    """A stranger's text on one line, control characters as `\\x1b`."""
    return str(text).translate(_CONTROLS).encode("utf-8", "backslashreplace").decode()


class Printable:
    """A descriptor's writer: as it is into a file or pipe, control characters escaped onto a terminal."""

    def __init__(self, descriptor: int, raw: bool) -> None:
        self._descriptor = descriptor
        self._decoder = (
            None if raw or not os.isatty(descriptor) else codecs.getincrementaldecoder("utf-8")("backslashreplace")
        )

    def write(self, part: bytes) -> None:
        """Write all of `part`; a character that is cut in two waits for its other half."""
        if self._decoder is not None:
            part = self._decoder.decode(part).translate(_IN_OUTPUT).encode("utf-8", "backslashreplace")
        spools.write_all(self._descriptor, part)


def printable(part: bytes) -> str:
    """A job's output as a terminal may have it."""
    return part.decode("utf-8", "backslashreplace").translate(_IN_OUTPUT)


def json_line(value: object) -> bytes:
    """One line of JSON."""
    return (json.dumps(value, ensure_ascii=False).translate(_IN_JSON) + "\n").encode("utf-8", "backslashreplace")


def one_object(value: object) -> None:
    """Print one line of JSON."""
    print(json_line(value).decode(), end="")


def table(jobs: Iterable[dict[str, Any]], users: bool = False) -> int:
    """A job a line, with `users` also whose it is: a table on a terminal, otherwise tabs.

    Returns of how many jobs there is more to tell than their names do (`glance.over`).
    """
    unread = 0
    if not sys.stdout.isatty():
        for job in jobs:
            unread += bool(job.get("unread"))
            print("\t".join(row(job, users)))
        return unread
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in _HEADS[:1] + ("USER",) * users + _HEADS[1:]:
        folds = head in ("JOB", "WHY")
        made.add_column(head, no_wrap=not folds, overflow="ellipsis" if folds else "fold")
    for job in jobs:
        unread += bool(job.get("unread"))
        made.add_row(*map(Text, row(job, users)))
    Console().print(made)
    return unread


def row(job: dict[str, Any], users: bool = False) -> list[str]:
    """The columns of a job's line."""
    attempts = f"{job.get('attempt') or 0}/{'?' if job.get('unread') else job.get('max_attempts') or 1}"
    cells = (
        job.get("id"),
        *([user(job.get("uid"))] if users else ()),
        job.get("state"),
        what(job),
        job.get("queue"),
        job.get("priority"),
        attempts,
        instant(_moment(job)),
        why(job),
    )
    return [escape("" if cell is None else cell) for cell in cells]


@functools.cache
def user(uid: object) -> str:
    """An account's name; its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name if isinstance(uid, int) else ""
    except KeyError:
        return str(uid)


def what(job: dict[str, Any]) -> str:
    """The task, or the command as one would type it."""
    command = job.get("command")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    return str(job.get("task") or command or "")


def _moment(job: dict[str, Any]) -> Any:
    """The time that matters in its state."""
    key = {"delayed": "due", "waiting": "due", "running": "started", "ready": "submitted", "held": "submitted"}
    return job.get(key.get(str(job.get("state")), "ended")) or job.get("submitted")


def why(job: dict[str, Any]) -> str:
    """Why it is as it is: the reason, else how it ended; how far it is, while it runs; else its note."""
    if job.get("reason"):
        return str(job["reason"])
    if job.get("exit_code"):
        return f"exit code {job['exit_code']}"
    says = statement.words(statement.clean(job)) if job.get("state") == "running" else ""
    return says or str(job.get("note") or "")


def instant(seconds: Any) -> str:
    """A local time without its fraction; empty for none."""
    if not isinstance(seconds, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def details(job: dict[str, Any]) -> None:
    """One job, a key a line."""
    for key, value in job.items():
        if value is None or value in ("", [], {}):
            continue
        lines = value if key in ("attempts", "last_stderr") and isinstance(value, list) else [value]
        for line in lines:
            said = _attempt(line) if key == "attempts" else line if key == "last_stderr" else _value(key, line)
            print(f"{escape(key)}:{' ' * max(1, 14 - len(key))}{escape(said)}")


def _attempt(found: Any) -> str:
    """When an attempt ran, and how it ended."""
    if not isinstance(found, dict):
        return str(found)
    return f"{instant(found.get('started'))} to {instant(found.get('ended'))}  {why(found)}".rstrip()


def _value(key: str, value: Any) -> str:
    if key == "progress":
        return statement.words(statement.clean({"progress": value}))
    if key in _TIMES and isinstance(value, int | float):
        return usage.rfc3339(value)
    if key in ("command", "args") and isinstance(value, list):
        return shlex.join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def counts(stats: dict[str, Any]) -> None:
    """A count a line."""
    for key, value in stats.items():
        if key != "paused":
            print(f"{escape(key)}\t{value}")
    for each in stats.get("paused", ()):
        print("\t".join(map(escape, ("paused", each["gate"], gate(each)))))


def gate(paused: dict[str, Any]) -> str:
    """Why something is paused, and until when."""
    until = paused.get("paused")
    return f"{paused.get('why')}, until {'it is resumed' if until is True else instant(until)}" + (
        f" ({paused['job']})" if paused.get("job") else ""
    )
