"""The history: one line for every move, with its cause; the line that ends a job carries its whole outcome.

Does:    appends lines, flushes them once a turn, finds after a restart what they alone tell, and says which days are
         needed no more. Reading of what has ended is `annals`.
Writes:  `history/YYYY-MM-DD.jsonl` (UTC days), append only. Where unique keys are taken for a while, a day begins with
         a line that says until when at the latest (`reach`): no day before it is needed for them after that.
Trusts:  itself. A line that a crash cut is passed over.
Fails:   `OSError` where it cannot be written; `SyncFailed` where it cannot be flushed: then nothing is published.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from cronq import annals, spool
from cronq.counting import Counts
from cronq.entry import Entry
from cronq.job import LAST_INSTANT, Job
from cronq.shelves import SyncFailed
from cronq.spool import write_all

MOST_WORDS, MOST_SAID = 20, 200  # words and characters of a command that are kept
_OF_ATTEMPTS = (b'"outcome":', b'"move":"start"', b'"move":"revive"')
TAIL = 8 << 20  # one turn writes far less; what is before the last turn's lines is on disk in its place as well


_Told = TypeVar("_Told")


class Recalled(NamedTuple):
    """What the history alone tells of a spool that is taken up."""

    rates: dict[str, float]  # how far each is spent, by name: what was said last
    windows: dict[str, tuple[int, str]]  # of unique keys that are taken: until when (microseconds), and by which job
    causes: dict[str, str]  # why jobs are held, by id: the cause of the last move to there


class History:
    """The history below one spool."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, "history")
        self.lines: list[bytes] = []
        self.ended = annals.Ended(self.folder)
        self.counts = Counts()
        self.reach: Callable[[], int] = int  # until when unique keys are taken at the latest, in microseconds
        self._day = ""
        self._fd = -1

    def note(self, now: float, job_id: str, source: str, to: str, entry: Entry | None = None, **facts: Any) -> None:
        """One move, to be written with the turn's others; facts that are None are left out.

        It is counted, too, and nowhere else: `entry` is for that, where the facts do not say queue and task.
        """
        line = {"t": round(now, 6), "id": job_id, "from": source, "to": to}
        line |= {key: value for key, value in facts.items() if value is not None}
        self.lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self.counts.take(line, entry)

    def stood(self, since: float, until: float) -> None:
        """Nobody looked at the clock in between: no dispatcher ran, or the machine slept."""
        line = {"t": round(until, 6), "stood": [round(since, 6), round(until, 6)]}
        self.lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def flush(self, now: float) -> None:
        """Write the turn's lines, and make them durable. Raises `OSError`, `SyncFailed`."""
        if not self.lines:
            return
        self._open(now)
        written = os.lseek(self._fd, 0, os.SEEK_END)
        reach = 0 if written else self.reach()
        first = [json.dumps({"t": round(now, 6), "reach": reach}, separators=(",", ":")).encode() + b"\n"] * bool(reach)
        try:
            write_all(self._fd, b"".join([*first, *self.lines]))
        except OSError:
            os.ftruncate(self._fd, written)  # no room: the whole turn's lines are written when there is
            raise
        self.lines.clear()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise SyncFailed(f"{self.folder}: {error.strerror}") from error

    def _open(self, now: float) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        if day == self._day:
            return
        path = os.path.join(self.folder, f"{day}.jsonl")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            if self._fd < 0:
                _mend(path, descriptor)
            self._flush_names(folder)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        finally:
            os.close(folder)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._day = descriptor, day

    def _flush_names(self, folder: int) -> None:
        """Make the day's name durable, also where it is there: whoever made it may have been killed before this."""
        try:
            os.fsync(folder)
        except OSError as error:
            raise SyncFailed(f"{self.folder}: {error.strerror}") from error

    def days(self) -> list[str]:
        """The history's files, oldest first."""
        return annals.days(self.folder)

    def last(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The outcomes, by id and by attempt, among the last lines: what a crash may have kept from its place.

        Attempts are numbered anew when a job is revived, and after a crash: an outcome before the job's last start, or
        before it was revived, is not of the attempt that was under way.
        """
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for path in self.days()[-2:]:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                for line in file.read().splitlines():
                    if not any(said in line for said in _OF_ATTEMPTS):
                        continue
                    try:
                        record = json.loads(line)
                        of_job = found.setdefault(record["id"], {})
                        if record.get("move") == "revive":
                            of_job.clear()
                            continue
                        of_job.pop(record["attempt"], None)
                        if "outcome" in record:
                            of_job[record["attempt"]] = record
                    except (ValueError, KeyError, TypeError):
                        continue
        return found

    def lately(self, seconds: float) -> dict[str, dict[str, Any]]:
        """By id, the last line of each job that moved within so long before the last line of all."""
        found: dict[str, dict[str, Any]] = {}
        for path in self.days()[-2:]:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                for record in _said(_MOVE, file.read()):
                    if isinstance(record.get("id"), str) and isinstance(record.get("t"), int | float):
                        found[record["id"]] = record
        since = max((each["t"] for each in found.values()), default=0.0) - seconds
        return {job_id: each for job_id, each in found.items() if each["t"] >= since}

    def recall(self, now: float, since: float, held: set[str]) -> Recalled:
        """What is told of rates since then, of keys that are taken now, and of why these jobs are held.

        Read once, the last day first, and no further back than anything of it can be told there.
        """
        found = Recalled({}, {}, {})
        for path in reversed(self.days()):
            today = Recalled({}, {}, {})
            for _, block in annals.blocks(path):
                for pattern, take in _TAKERS.items():
                    for record in _said(pattern, block):
                        take(today, record)
            _join(found.rates, today.rates)
            _join(found.windows, today.windows)
            _join(found.causes, today.causes)
            begin, reach = annals.begin_of(path), _reach(path)
            asked = min((spool.time_of(each) or 0.0 for each in held if each not in found.causes), default=math.inf)
            if min(since, asked) >= begin and reach is not None and reach <= now * 1e6:
                break
        windows = {key: each for key, each in found.windows.items() if each[0] > now * 1e6}
        causes = {each: cause for each, cause in found.causes.items() if each in held}
        return Recalled(found.rates, windows, causes)

    def unneeded(self, now: float, before: float, most: int | None) -> list[str]:
        """The days that may be removed: that ended before this instant, or are too much beside `most` bytes.

        Not the last two, by which a crash is mended, nor any that tells of a unique key that is still taken.
        """
        paths, left = self.days(), 0
        sizes = {path: os.stat(path).st_size for path in paths}
        old: list[str] = []
        for path in reversed(paths):
            left += sizes[path]
            if path not in paths[-2:] and (
                annals.begin_of(path) + annals.DAY <= before or (most is not None and left > most)
            ):
                old.insert(0, path)
        reached = [reach is not None and reach <= now * 1e6 for reach in map(_reach, paths)]
        return [path for path in old if any(reached[paths.index(path) + 1 :])]

    def about(self, marks: Sequence[bytes], since: float) -> Iterator[Any]:
        """What the lines with any of these bytes in them say, oldest first, from the day of this instant on.

        Now and then None, where the caller may stop and go on later.
        """
        pattern = re.compile(b"|".join(map(re.escape, marks)))
        for path in self._days(since):
            for _, block in annals.blocks(path):
                yield None
                yield from _said(pattern, block)
        yield from _said(pattern, b"".join(self.lines))

    def _days(self, since: float) -> list[str]:
        return [path for path in self.days() if annals.begin_of(path) + annals.DAY > since]

    def close(self) -> None:
        """Close the day's file."""
        if self._fd >= 0:
            os.close(self._fd)


def _said(pattern: re.Pattern[bytes], text: bytes) -> Iterator[dict[str, Any]]:
    """What the lines of a text say in which the pattern is found."""
    end = -1
    for found in pattern.finditer(text):
        if found.start() < end:
            continue  # twice in one line
        end = text.find(b"\n", found.end())
        end = len(text) if end < 0 else end
        try:
            record = json.loads(text[text.rfind(b"\n", 0, found.start()) + 1 : end])
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _mend(path: str, descriptor: int) -> None:
    """Begin on a new line where a crash cut the last one."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            write_all(descriptor, b"\n")


def _join(found: dict[str, _Told], earlier: dict[str, _Told]) -> None:
    """Add what an earlier day told; what a later one said stays."""
    found |= {key: told for key, told in earlier.items() if key not in found}


def _rate(found: Recalled, record: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        found.rates.update({str(name): float(paid) for name, paid in record["rate"].items()})


def _window(found: Recalled, record: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found.windows[record["unique"]] = int(record["window"]), record["id"]


def _cause(found: Recalled, record: dict[str, Any]) -> None:
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        found.causes[record["id"]] = str(record.get("cause") or "")


_MOVE = re.compile(rb'"to":"')
_TAKERS = {
    re.compile(rb'"rate":\{'): _rate,
    re.compile(rb'"window":'): _window,
    re.compile(rb'"to":"held"'): _cause,
}


def _reach(path: str) -> int | None:
    """Until when what was said of unique keys before this day matters (microseconds); None where it cannot be told."""
    try:
        with open(path, "rb") as file:
            return int(json.loads(file.readline(1 << 20)).get("reach", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def named(entry: Entry, wanted: Job | None = None) -> dict[str, Any]:
    """What the history is to know of a job that ends, beside its id: its task, or the begin of its command; its queue.

    Of a crontab's line the command is what its shell is given.
    """
    words = (wanted.command or [])[2 if entry.line else 0 :][:MOST_WORDS] if wanted is not None else []
    command = (words[0] if entry.line and words else shlex.join(words))[:MOST_SAID]
    return {"task": entry.task or None, "command": command or None, "queue": entry.queue}


def waited(entry: Entry, outcome: dict[str, Any]) -> float | None:
    """For how many seconds an attempt was due before it started. A worker said when that was."""
    started = outcome.get("started")
    good = isinstance(started, int | float) and abs(started) < LAST_INSTANT
    return round(max(0.0, started - entry.due / 1e6), 6) if good else None  # type: ignore[operator]
