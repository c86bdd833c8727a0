"""The post-mortem of a dead job: when each of its attempts ran and how it ended, and the last that it printed.

Reads:   `result.json.N`, `result.json` and the end of `stderr` in its result directory, which is ours.
Trusts:  its caller about who may see what a job prints: its owner and root, nobody else.
Fails:   never: what cannot be read is left out.
"""

from __future__ import annotations

import json
import os
from typing import Any

from cronq import spool
from cronq.entry import Entry
from cronq.house import House

MOST_ATTEMPTS = 100
MOST_OUTPUT = 4096  # bytes, and lines
MOST_LINES = 10
_TOLD = ("attempt", "started", "ended", "exit_code", "signal", "reason")


def of(house: House, job_id: str, printed: bool) -> dict[str, Any]:
    """What there is; with `printed` also the last lines of its standard error."""
    folder = spool.results("", job_id)
    attempts: dict[tuple[Any, Any], dict[str, Any]] = {}
    for name in _results(house, folder):
        told = _attempt(_end(house, f"{folder}/{name}", 1 << 20))
        if told:  # that of a job that expired tells of its last attempt once more
            attempts.setdefault((told.get("attempt"), told.get("started")), told)
    found: dict[str, Any] = {"attempts": list(attempts.values())}
    if printed:
        found["last_stderr"] = last_lines(house, job_id)
    return found


def last_lines(house: House, job_id: str) -> list[str]:
    """What its last attempt printed last to standard error; of a crontab's line, to both in one, as it is mailed."""
    name = "stdout" if Entry(id=job_id, due=0).line else "stderr"
    text = _end(house, f"{spool.results('', job_id)}/{name}", MOST_OUTPUT).decode("utf-8", "backslashreplace")
    return text.splitlines()[-MOST_LINES:]


def may_read(house: House, uid: int, job_id: str) -> bool:
    """Whether this user may see what a job printed: its owner and root may, an operator not."""
    return house.shelves.gid is None or uid in (0, Entry(id=job_id, due=0).uid)


def _results(house: House, folder: str) -> list[str]:
    try:
        names = os.listdir(f"{house.shelves.root}/{folder}")
    except OSError:
        return []
    numbers = (name.removeprefix("result.json.") for name in names if name.startswith("result.json."))
    numbered = sorted(int(number) for number in numbers if number.isdecimal())
    return [*(f"result.json.{number}" for number in numbered[1 - MOST_ATTEMPTS :]), "result.json"]


def _attempt(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.partition(b"\n")[0])
        return {key: found[key] for key in _TOLD if found.get(key) is not None}
    except (ValueError, TypeError, AttributeError):
        return {}


def _end(house: House, path: str, most: int) -> bytes:
    """The last bytes of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=house.shelves.fd)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, most, max(0, os.fstat(descriptor).st_size - most))
    finally:
        os.close(descriptor)
