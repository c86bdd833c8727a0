"""The almanac: the dispatcher's clock, what it owes, and where it stood, on disk.

Does:    asks `clock` what has become due, keeps that until each tick is a job, and writes down where the clock stood
         only when all of them are, durably: whatever a crash leaves undone is found due again, under the same name.
Reads:   `schedule/clock.json`; the machine's time zone (`localzone`) at every look.
Writes:  `schedule/clock.json`, whole or not at all.
Trusts:  `schedule/` is ours alone. A state that is not whole is none: cron has never run here.
Fails:   `OSError` of the disk: the state is written at a later turn.

An idle turn costs a comparison, however many entries there are.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable
from typing import Any

from cronq import localzone
from cronq.clock import Clock, Tick, Timed
from cronq.shelves import Shelves
from cronq.spool import write_all

FILE = "schedule/clock.json"
MINUTE = 60.0
MOST_STATE = 1 << 20


class Almanac:
    """What is due, and what was made of it."""

    def __init__(self, shelves: Shelves) -> None:
        self.pending: deque[Tick] = deque()  # due, and no job yet
        self.made = 0  # of those that became due together
        self.passed_over: list[Tick] = []  # missed, and not to be made up for; whoever reads it empties it
        self._shelves = shelves
        self._clock = Clock(_read(shelves))
        self._any = False
        self._started = False
        self._from, self._until = 0.0, 0.0  # nothing becomes due in between
        self._changed = False  # since it was written down

    def load(self, entries: Iterable[Timed]) -> None:
        """Replace all entries."""
        entries = list(entries)
        self._clock.load(entries)
        self._changed = self._changed or self._any or bool(entries)
        self._any = bool(entries)
        self._from = self._until = 0.0

    def look(self, wall: float) -> None:
        """Find what has become due; to be called after the first `load`, at least once a second."""
        if self._from <= wall < self._until:
            return
        zone = localzone.local()
        if not self.pending:
            self.made = 0
        if not self._started:
            self._started = True
            self._take(self._clock.start(wall, zone))
        self._take(self._clock.turn(wall, zone))
        # With no entry it goes on all the same: a line that comes later must not be due for a time before it came.
        self._from, self._until = wall, min(self._clock.wake(wall), (wall // MINUTE + 1) * MINUTE)
        self._changed = self._any

    def _take(self, ticks: list[Tick]) -> None:
        self.pending += ticks
        self.passed_over += self._clock.passed_over

    def patience(self, wall: float) -> float:
        """Seconds until something can become due."""
        return max(0.001, self._until - wall)

    def save(self) -> None:
        """Write down where the clock stands, if all that was due is a job, durably. Raises `OSError`."""
        if not self._changed or self.pending or not self._started:
            return
        draft = f"{FILE}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=self._shelves.fd)
        try:
            write_all(descriptor, json.dumps(self._clock.state()).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(draft, FILE, src_dir_fd=self._shelves.fd, dst_dir_fd=self._shelves.fd)
        self._changed = False


def _read(shelves: Shelves) -> dict[str, Any] | None:
    try:
        descriptor = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=shelves.fd)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(os.read(descriptor, MOST_STATE))
    except ValueError:
        return None
    finally:
        os.close(descriptor)
    return found if isinstance(found, dict) else None
