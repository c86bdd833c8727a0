"""The annals: the history, read in slices for whoever asks what has ended, and how.

Does:    `ends` gives the lines that end a job, oldest first, of all or of the last ones only; `Ended` counts them.
Reads:   `history/DAY.jsonl`, a block of some lines at a time with None in between, so that whoever drives it can go on
         a turn later; days that are not asked for are not opened. What is told is never held in memory as a whole.
Trusts:  that a day's file has the lines of that day (UTC). Not the outcomes in them, which a worker wrote.
Fails:   never: a line that a crash cut is passed over; a file that was pruned meanwhile is left out.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from cronq.entry import LINE
from cronq.states import CANCELLED, DONE, EXPIRED, REJECTED, TERMINAL

BLOCK = 64 * 1024
DAY = 86400.0
COUNTED = (DONE, CANCELLED, EXPIRED, REJECTED)
_NAME = re.compile(r"\d{4}-\d\d-\d\d\.jsonl")
_ENDED = re.compile(rb'"id":"(\d+)-[^"]*","from":"\w+","to":"(%s)"' % "|".join(COUNTED).encode())


def days(folder: str) -> list[str]:
    """The history's files, oldest first."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if _NAME.fullmatch(name)]


def day_of(path: str) -> str:
    """Whose lines a file has: `2026-12-24`."""
    return os.path.basename(path).removesuffix(".jsonl")


class Wanted(NamedTuple):
    """Which lines somebody asks for."""

    uids: frozenset[int] | None = None  # None: everybody's
    states: frozenset[str] = frozenset(TERMINAL)
    task: str | None = None  # of this task; or a free command of this name
    since: float = 0.0
    until: float = math.inf

    def paths(self, folder: str) -> list[str]:
        """The files that can have such lines, oldest first."""
        first, last = int(self.since // DAY), int(min(self.until, 1e11) // DAY)
        return [path for path in days(folder) if first <= _number(day_of(path)) <= last]

    def line(self) -> re.Pattern[bytes]:
        """What a line looks like that may be one of them."""
        whose = rb"\d+" if self.uids is None else b"(?:%s)" % b"|".join(b"%d" % uid for uid in sorted(self.uids))
        to = "|".join(sorted(self.states)).encode()
        return re.compile(rb'^\{"t":[^,]+,"id":"%s-[^"]*","from":"\w+","to":"(?:%s)".*$' % (whose, to), re.M)

    def takes(self, line: bytes) -> dict[str, Any] | None:
        """What the line says, if it is one of them."""
        try:
            record = json.loads(line)
            good = self.since <= record["t"] <= self.until and record["from"] != record["to"]
        except (ValueError, KeyError, TypeError):
            return None
        return record if good and (self.task is None or self.task in (record.get("task"), program(record))) else None


def _number(day: str) -> int:
    """How many days after the first of 1970 this is."""
    import datetime

    try:
        return (datetime.date.fromisoformat(day) - datetime.date(1970, 1, 1)).days
    except ValueError:
        return -1


def begin_of(path: str) -> float:
    """The instant at which a file's day begins."""
    return _number(day_of(path)) * DAY


def program(record: dict[str, Any]) -> str:
    """The program of a free command: its last part, as processes are called; of a crontab's line, all of it."""
    command = str(record.get("command") or "")
    return command if f"-{LINE}" in str(record.get("id")) else os.path.basename(command.partition(" ")[0].strip("'"))


def blocks(path: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file, some at a time, and where each block begins."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        end = os.fstat(descriptor).st_size if end is None else end
        rest, place = b"", start
        while place < end and (part := os.pread(descriptor, min(BLOCK, end - place), place)):
            begin = place - len(rest)
            place += len(part)
            whole, newline, rest = (rest + part).rpartition(b"\n")
            yield begin, whole + newline
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- what has ended


def ends(folder: str, wanted: Wanted, last: int | None = None) -> Iterator[dict[str, Any] | None]:
    """The lines that are asked for, oldest first; with `last` only so many, the latest ones."""
    paths, start = wanted.paths(folder), 0
    if last is not None:
        found = yield from _find(paths, wanted, last)
        paths, start = (paths[found[0] :], found[1]) if found is not None else (paths, 0)
    line = wanted.line()
    for path in paths:
        for _, block in blocks(path, start):
            for match in line.finditer(block):
                yield wanted.takes(match.group())
            yield None
        start = 0


def _find(paths: list[str], wanted: Wanted, last: int) -> Generator[None, None, tuple[int, int] | None]:
    """Look back from the end; returns in which file, and where in it, the last so many lines begin."""
    line = wanted.line()
    for number in reversed(range(len(paths))):
        for begin, block in _backwards(paths[number]):
            places = [match.start() for match in line.finditer(block) if wanted.takes(match.group()) is not None]
            if len(places) >= last:
                return number, begin + places[-last]
            last -= len(places)
            yield None
    return None


def _backwards(path: str) -> Iterator[tuple[int, bytes]]:
    """The same as `blocks`, the last one first."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        end, rest = os.fstat(descriptor).st_size, b""
        while end > 0:
            begin = max(0, end - BLOCK)
            data = os.pread(descriptor, end - begin, begin) + rest
            end, rest = begin, b""
            if begin:
                head, newline, data = data.partition(b"\n")
                rest = head + newline
            yield begin + len(rest), data
    finally:
        os.close(descriptor)


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What is told of a line that ends a job."""
    ran = outcome(record)
    return {
        "id": record["id"],
        "uid": int(str(record["id"]).partition("-")[0]),
        "ended": record["t"],
        "task": record.get("task"),
        "command": record.get("command"),
        "queue": record.get("queue"),
        "state": record["to"],
        "attempts": record.get("attempt") or 0,
        "wait": seconds(record.get("wait")),
        "run": seconds(ran.get("wall")),
        "exit_code": ran.get("exit_code"),
        "signal": ran.get("signal"),
        "reason": record.get("cause"),
    }


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    """How the attempt ended, as its worker said."""
    found = record.get("outcome")
    return found if isinstance(found, dict) else {}


def fate(record: dict[str, Any]) -> tuple[bool, bool]:
    """Of a line that has an outcome: whether the attempt failed, and whether the job is tried again for that."""
    verdict = record.get("verdict")
    again = verdict == "Again" and record.get("uses") in ("attempts", "crashes")
    return again or verdict in ("Dead", "Held"), again


def seconds(value: object) -> float | None:
    """A duration, if this is one."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if good else None  # type: ignore[arg-type]


class Ended:
    """How many jobs ended in which way, as the files say: each line is read once, and only when somebody asks."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._days: dict[str, tuple[int, Counter[tuple[int, str]]]] = {}  # how far each is read; by uid and state

    def look(self) -> Iterator[None]:
        """Read what is new. Several may do so at the same time: each goes on where the last one stood."""
        there = days(self._folder)
        self._days = {path: read for path, read in self._days.items() if path in there}
        for path in there:
            while True:
                start, counts = self._days.get(path, (0, Counter()))
                begin, block = next(blocks(path, start), (start, b""))
                if not block:
                    break
                for owner, state in _ENDED.findall(block):
                    counts[int(owner), state.decode()] += 1
                self._days[path] = begin + len(block), counts
                yield None

    def counts(self, uid: int | None = None) -> dict[str, int]:
        """How many ended in which way, of one user or of all, as far as it was read."""
        sums = dict.fromkeys(COUNTED, 0)
        for _, counts in self._days.values():
            for (owner, state), number in counts.items():
                if uid in (None, owner):
                    sums[state] += number
        return sums
