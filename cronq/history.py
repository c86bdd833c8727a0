"""The history: one line for every move, with its cause; the line that ends a job carries its whole outcome.

Does:    appends lines, flushes them once a turn, counts what ended, and finds the last outcomes after a crash.
Writes:  `history/YYYY-MM-DD.jsonl` (UTC days), append only.
Trusts:  itself. A line that a crash cut is passed over.
Fails:   `OSError` where it cannot be written; `SyncFailed` where it cannot be flushed: then nothing is published.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cronq.shelves import SyncFailed
from cronq.spool import sync_directory, write_all
from cronq.states import CANCELLED, DONE, EXPIRED, REJECTED

COUNTED = (DONE, CANCELLED, EXPIRED, REJECTED)
_ENDED = re.compile(rb'"id":"(\d+)-[^"]*","from":"\w+","to":"(%s)"' % "|".join(COUNTED).encode())
SLICE = 1 << 18  # bytes that are looked through at a time, well below a millisecond
TAIL = 8 << 20  # one turn writes far less; what is before the last turn's lines is on disk in its place as well


class History:
    """The history below one spool."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, "history")
        self.lines: list[bytes] = []
        self._ended: Counter[tuple[int, str]] = Counter()  # by uid and state
        self._day = ""
        self._fd = -1

    def note(self, now: float, job_id: str, source: str, to: str, **facts: Any) -> None:
        """One move, to be written with the turn's others; facts that are None are left out."""
        line = {"t": round(now, 6), "id": job_id, "from": source, "to": to}
        line |= {key: value for key, value in facts.items() if value is not None}
        self.lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if to in COUNTED:
            self._ended[int(job_id.partition("-")[0]), to] += 1

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
        try:
            write_all(self._fd, b"".join(self.lines))
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
        fresh = not os.path.exists(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        if fresh:
            sync_directory(self.folder)
        elif self._fd < 0:
            _mend(path, descriptor)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._day = descriptor, day

    def days(self) -> list[str]:
        """The history's files, oldest first."""
        return [os.path.join(self.folder, name) for name in sorted(os.listdir(self.folder)) if name.endswith(".jsonl")]

    def counts(self, uid: int | None = None) -> dict[str, int]:
        """How many jobs ended in which way, of one user or of all."""
        sums = dict.fromkeys(COUNTED, 0)
        for (owner, state), number in self._ended.items():
            if uid in (None, owner):
                sums[state] += number
        return sums

    def count(self) -> None:
        """Count what ended, from all that the history still holds."""
        self._ended.clear()
        for path in self.days():
            with open(path, "rb") as file:
                rest = b""
                while part := file.read(1 << 22):
                    whole, newline, rest = (rest + part).rpartition(b"\n")
                    for (owner, state), number in Counter(_ENDED.findall(whole + newline)).items():
                        self._ended[int(owner), state.decode()] += number

    def last(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The outcomes, by id and attempt, among the last lines: what a crash may have kept from its place.

        Attempts are numbered anew when a job is revived, and after a crash: an outcome before the job's last start is
        not of the attempt that was under way.
        """
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for path in self.days()[-2:]:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                for line in file.read().splitlines():
                    if b'"outcome":' not in line and b'"move":"start"' not in line:
                        continue
                    try:
                        record = json.loads(line)
                        key = record["id"], record["attempt"]
                        found.pop(key, None)
                        if "outcome" in record:
                            found[key] = record
                    except (ValueError, KeyError, TypeError):
                        continue
        return found

    def rates(self, since: float) -> dict[str, float]:
        """How far the rates of what started since then are spent, by name: what was said last."""
        found: dict[str, float] = {}
        for record in self._records(b'"rate":{', max(0.0, since)):
            try:
                found |= {str(name): float(paid) for name, paid in record["rate"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return found

    def causes(self, wanted: set[str]) -> dict[str, str]:
        """Why these jobs are held: the cause of the last move to there, by id."""
        found: dict[str, str] = {}
        for record in self._records(b'"to":"held"'):
            try:
                if record["id"] in wanted:
                    found[record["id"]] = str(record.get("cause") or "")
            except (KeyError, TypeError):
                continue
        return found

    def windows(self) -> dict[str, tuple[int, str]]:
        """Of each unique key that was taken for a while: until when (microseconds), and by which job, the last one."""
        found: dict[str, tuple[int, str]] = {}
        for record in self._records(b'"window":'):
            try:
                found[record["unique"]] = int(record["window"]), record["id"]
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def _records(self, marker: bytes, since: float = 0.0) -> Iterator[Any]:
        """What the lines with these bytes in them say, oldest first, from the day of this instant on."""
        for path in self._days(since):
            with open(path, "rb") as file:
                for line in file:
                    if marker in line:
                        try:
                            yield json.loads(line)
                        except ValueError:
                            continue

    def about(self, marks: Sequence[bytes], since: float) -> Iterator[Any]:
        """What the lines with any of these bytes in them say, oldest first, from the day of this instant on.

        Now and then None, where the caller may stop and go on later.
        """
        pattern = re.compile(b"|".join(map(re.escape, marks)))
        for path in self._days(since):
            with open(path, "rb") as file:
                rest = b""
                while part := file.read(SLICE):
                    yield None
                    whole, newline, rest = (rest + part).rpartition(b"\n")
                    yield from _said(pattern, whole + newline)
        yield from _said(pattern, b"".join(self.lines))

    def _days(self, since: float) -> list[str]:
        first = time.strftime("%Y-%m-%d", time.gmtime(max(0.0, since)))
        return [path for path in self.days() if os.path.basename(path)[: len(first)] >= first]

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
