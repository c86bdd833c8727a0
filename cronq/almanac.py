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

from collections import deque
from collections.abc import Iterable

from cronq import localzone
from cronq.clock import Clock, Tick, Timed
from cronq.log import line as log
from cronq.reboot import Reboot
from cronq.shelves import Shelves
from cronq.upcoming import FEW

FILE = "schedule/clock.json"
MINUTE = 60.0
NO_GAP = (FEW + 1) * MINUTE  # what is shorter is made up for
LONGEST_HELD = 5.0  # seconds that what is due waits for tables to be read


class Almanac:
    """What is due, and what was made of it."""

    def __init__(self, shelves: Shelves) -> None:
        self.pending: deque[Tick] = deque()  # due, and no job yet
        self.made = 0  # of those that became due together
        self.passed_over: list[Tick] = []  # missed, and not to be made up for; whoever reads it empties it
        self.stood: list[tuple[float, float]] = []  # from when until when nobody looked at the clock; likewise
        self.at_start = ""  # what cron says of its @reboot jobs, as soon as that is known
        self._shelves = shelves
        self._clock = Clock(shelves.load(FILE))
        self._reboot = Reboot(shelves)
        self._at_boot: list[Timed] = []
        self._any = False
        self._started = False
        self._looked = float(self._clock.state()["second"])  # the last time; below 0: never
        self._from, self._until = 0.0, 0.0  # nothing becomes due in between
        self._held: float | None = None  # since when what is due waits for tables to be read
        self._changed = False  # since it was written down

    def load(self, entries: Iterable[Timed]) -> None:
        """Replace all entries."""
        entries = list(entries)
        self._clock.load(entries)
        self._at_boot = [entry for entry in entries if getattr(entry.schedule, "reboot", False)]
        self._changed = self._changed or self._any or bool(entries)
        self._any = bool(entries)
        self._from = self._until = 0.0

    def look(self, wall: float) -> None:
        """Find what has become due; to be called after the first `load`, at least once a second."""
        if not self._reboot.looked:
            self._look_at_boot(wall)
        if not self.is_due(wall):
            return
        self._held = None
        zone = localzone.local()
        if 0 <= self._looked < wall - NO_GAP:
            self.stood.append((self._looked, wall))
        self._looked = wall
        if not self.pending:
            self.made = 0
        if not self._started:
            self._started = True
            self._take(self._clock.start(wall, zone))
        self._take(self._clock.turn(wall, zone))
        # With no entry it goes on all the same: a line that comes later must not be due for a time before it came.
        self._from, self._until = wall, min(self._clock.wake(wall), (wall // MINUTE + 1) * MINUTE)
        self._changed = self._any

    def _look_at_boot(self, wall: float) -> None:
        instant = self._reboot.owed(wall)
        if instant is not None:
            self.pending += [Tick(entry, instant) for entry in self._at_boot]
            log("reboot", entries=len(self._at_boot))
            self.at_start = "Running @reboot jobs"
            return
        self.at_start = "Skipping @reboot jobs -- not system startup"
        if self._at_boot:
            log("reboot-skipped", entries=len(self._at_boot), reason="this boot's have been started before")

    def _take(self, ticks: list[Tick]) -> None:
        self.pending += ticks
        self.passed_over += self._clock.passed_over

    def is_due(self, wall: float) -> bool:
        """Whether `look` will look."""
        return not self._from <= wall < self._until

    def hold(self, mono: float) -> bool:
        """Let what is due wait for tables that are being read; False where it has waited long enough."""
        self._held = mono if self._held is None else self._held
        return mono - self._held < LONGEST_HELD

    def patience(self, wall: float) -> float:
        """Seconds until something can become due."""
        return max(0.001 if self._held is None else 0.020, self._until - wall)

    def save(self) -> None:
        """Write down where the clock stands, if all that was due is a job, durably. Raises `OSError`."""
        if self.pending or not self._started:
            return
        self._reboot.done()
        if not self._changed:
            return
        self._shelves.save(FILE, self._clock.state())
        self._changed = False
