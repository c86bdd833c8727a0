"""The clock: which entries are due, tick by tick, as Vixie's cron decides it when clocks step and hours change.

Does:    `Clock.turn(now, local)` -> the `Tick`s due by now. One virtual clock per time zone: it follows the zone's wall
         clock minute by minute, catches up when that is put forward, stands still when it is put back.
Reads:   nothing but its arguments: time is an argument, and so is the machine's own zone, at every turn (a changed
         /etc/localtime is a step of the clock like any other).
Trusts:  that `turn` is called at least once a minute while the process runs, and `start` once before.
Fails:   not at all. What was passed over and not made up for is in `Clock.passed_over`.

**The name of a run.** A tick is (entry, instant), and no two runs that Debian's cron would make have the same one:

* Normally the instant is the minute, in seconds since the epoch. In a repeated hour 01:30 comes twice, as two instants:
  a wildcard line runs at both, a fixed-time line at the first.
* A missed minute that is made up for is named by itself, not by the minute in which that happens.
* A local minute that never was (skipped by the zone, or by a change of /etc/localtime) is named by the minute it would
  have been without the change, plus 30 seconds: that minute has a local name of its own, and perhaps a run.
* When the clock itself is put back, minutes come again. To the name of such a one 1 … 29 seconds are added, another
  number at each step back, until the clock is past where it was. (From the 30th step back into the same minutes on,
  runs are taken as made.) Extended schedules stand still until then, as fixed-time lines do; after 3 hours back they
  begin anew.

A restart within six minutes is no gap: the virtual clocks go on from `state`. After a longer one nothing is due for the
time between, except by an entry's `catchup`. Idle turns cost the same for one entry as for 10,000.
"""

from __future__ import annotations

import datetime
import heapq
import itertools
import math
import zoneinfo
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from cronq.options import Options
from cronq.schedule import Schedule
from cronq.upcoming import FEW, MANY, SKIPPED, AnySchedule, Run, instants, last_runs, runs, wall

_STEPS_BACK = 29
_MOST_REMEMBERED = 1000
_AHEAD = 41 * 366 * 86400


class Timed(Protocol):
    """What the clock needs of an entry: a line of a crontab, or a schedule of cronq.toml."""

    @property
    def schedule(self) -> AnySchedule: ...
    @property
    def zone(self) -> str: ...
    @property
    def options(self) -> Options: ...


class Tick(NamedTuple):
    """An entry is due. `instant` names the run (see above); `caught_up`: it was missed, and its options ask for it."""

    entry: Any
    instant: int
    caught_up: bool = False


class Due(NamedTuple):
    """A virtual minute to run, and which kinds of lines."""

    minute: int
    wild: bool
    fixed: bool


def step(virtual: int, now: int) -> tuple[int, list[Due]]:
    """The rule: the wall clock shows minute `now`, the virtual clock `virtual`; what that becomes, and what is due.

    Both in minutes of one zone's wall clock. The limits are Debian's cron 3.0.
    """
    difference = now - virtual
    if 0 < difference <= FEW:
        return now, [Due(minute, True, True) for minute in range(virtual + 1, now + 1)]
    if FEW < difference <= MANY:
        return now, [Due(now, True, False), *(Due(minute, False, True) for minute in range(virtual + 1, now + 1))]
    if -MANY < difference <= 0:
        return virtual, [Due(now, True, False)]
    return now, [Due(now, True, True)]


class Clock:
    """The virtual clocks, and an index of the entries by the minute of the hour.

    `passed_over` has the runs that the last `start` or `turn` found missed and did not make up for, of entries with a
    catchup (too old, or too many); the caller says so in its log.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        """`state` is what `state()` gave before the restart; None or anything odd: cron has never run here."""
        self.passed_over: list[Tick] = []
        self._virtual: dict[str, int] = {}
        self._minute = self._newest = self._second = -1
        self._repeats = 0
        self._partial = -1  # the minute into whose midst the clock was put back
        self._tables: dict[str, _Table] = {}
        self._extended: list[tuple[int, int, Timed]] = []  # a heap: next run, a number, entry
        self._unplaced: list[Timed] = []
        self._catching_up: list[Timed] = []
        self._numbers = itertools.count()
        if state and _is_state(state):
            self._virtual = dict(state["zones"])
            self._minute, self._newest, self._second = state["minute"], state["newest"], state["second"]
            self._repeats = state["repeats"]

    def state(self) -> dict[str, Any]:
        """To be kept across a restart: the virtual minute of each zone, and where the real clock was. Plain JSON."""
        numbers = {"minute": self._minute, "newest": self._newest, "second": self._second, "repeats": self._repeats}
        return {"zones": dict(self._virtual), **numbers}

    def load(self, entries: Iterable[Timed]) -> None:
        """Replace all entries. Virtual clocks go on; a new zone's begins with the next minute."""
        self._tables, self._extended, self._unplaced, self._catching_up = {}, [], [], []
        for entry in entries:
            if not isinstance(entry.schedule, Schedule):
                self._unplaced.append(entry)
            else:
                if entry.zone not in self._tables:
                    self._tables[entry.zone] = _Table(_zone(entry.zone))
                self._tables[entry.zone].add(entry)
            if entry.options.catchup != "none":
                self._catching_up.append(entry)
        self._virtual = {zone: at for zone, at in self._virtual.items() if zone in self._tables or not zone}

    def start(self, now: float, local: datetime.tzinfo) -> list[Tick]:
        """Once, after the first `load`: a gap under six minutes is none, a longer one is lost but for catchup."""
        minute, before, since = int(now) // 60, self._minute, self._second
        self.passed_over = []
        if before >= 0 and minute - before <= FEW:
            return []
        for zone in dict.fromkeys(("", *self._tables)):
            shown = wall(self._tz(zone, local), minute)
            virtual = self._virtual.get(zone, shown)
            self._virtual[zone] = virtual if 0 <= virtual - shown < MANY else shown
        self._minute, self._newest, self._second = minute, max(minute, self._newest), int(now)
        if before < 0:
            return []
        ticks = []
        for entry in self._catching_up:
            after = before * 60 if isinstance(entry.schedule, Schedule) else since
            ticks += self._missed(entry, self._past(entry, after, int(now), local), int(now))
        return ticks

    def turn(self, now: float, local: datetime.tzinfo) -> list[Tick]:
        """All that has become due since the last turn, in cron's order. `now` is seconds since the epoch."""
        second, minute = int(now), int(now) // 60
        self.passed_over = []
        ticks: list[Tick] = []
        if minute != self._minute and not self._put_back(minute):
            ticks = self._look(minute, local)
        if self._extended or self._unplaced:
            ticks += self._look_at_extended(second, local)
        if not 0 <= self._second - second < MANY * 60:
            self._second = second
        return ticks

    def wake(self, now: float) -> float:
        """When the next `turn` can find anything, seconds since the epoch; infinity if there is nothing to wait for."""
        if self._unplaced:
            return now
        minute = (int(now) // 60 + 1) * 60.0 if self._tables else float("inf")
        return min(minute, self._extended[0][0]) if self._extended else minute

    def _put_back(self, minute: int) -> bool:
        """The clock was put back into the midst of a minute: cron looks when one begins, so this one is let pass."""
        if minute > self._minute or minute == self._partial + 1 > 0:
            return False
        self._partial = minute
        return True

    def _look(self, minute: int, local: datetime.tzinfo) -> list[Tick]:
        """A new minute: every zone's virtual clock makes its step."""
        before, newest = self._minute, self._newest
        self._minute, self._newest, self._partial = minute, max(newest, minute), -1
        if minute < before:
            self._repeats = self._repeats % _STEPS_BACK + 1
        ticks: list[Tick] = []
        for zone in dict.fromkeys(("", *self._tables)):
            tz = self._tz(zone, local)
            shown = wall(tz, minute)
            virtual = self._virtual.get(zone, shown - 1)
            self._virtual[zone], due = step(virtual, shown)
            if table := self._tables.get(zone):
                span = _Span(tz, before, minute, virtual, shown)
                for one in due:
                    instant = span.instant(one)
                    instant += self._repeats if instant // 60 <= newest else 0
                    ticks += [Tick(entry, instant) for entry in table.due(one)]
        if 0 <= newest < minute - 1:
            ticks += self._catch_up(newest, minute, ticks, local)
        return ticks

    def _catch_up(self, newest: int, minute: int, made: list[Tick], local: datetime.tzinfo) -> list[Tick]:
        """A gap while running (the machine slept): what the rule left out, for the entries that want it."""
        ticks: list[Tick] = []
        names = {(id(tick.entry), tick.instant) for tick in made} if self._catching_up else set()
        for entry in self._catching_up:
            if isinstance(entry.schedule, Schedule):
                past = self._past(entry, newest * 60, minute * 60, local)
                missed = [run for run in past if (id(entry), run.instant) not in names]
                ticks += self._missed(entry, missed, minute * 60)
        return ticks

    def _past(self, entry: Timed, after: int, until: int, local: datetime.tzinfo) -> list[Run]:
        return last_runs(entry.schedule, self._tz(entry.zone, local), after, until, _MOST_REMEMBERED)

    def _missed(self, entry: Timed, missed: list[Run], now: int) -> list[Tick]:
        """Those of the missed runs that the entry's catchup wants, oldest first; the others are passed over."""
        options = entry.options
        most = {"none": 0, "last": 1}.get(options.catchup, options.catchup_most)
        within = options.catchup_within or math.inf
        first = len(missed) - min(most, sum(now - run.at <= within for run in missed))
        if most:
            self.passed_over += [Tick(entry, run.instant) for run in missed[:first]]
        return [Tick(entry, run.instant, True) for run in missed[first:]]

    def _look_at_extended(self, second: int, local: datetime.tzinfo) -> list[Tick]:
        """Extended schedules never burst: of what a late turn finds due, the newest is made; catchup may want more."""
        ticks: list[Tick] = []
        if self._second - second >= MANY * 60:  # the clock was put back for good: begin anew
            self._unplaced += [entry for _, _, entry in self._extended]
            self._extended, self._second = [], second
        since = self._second if self._second >= 0 else second
        due, self._unplaced = [(since, entry) for entry in self._unplaced], []
        while self._extended and self._extended[0][0] <= second:
            at, _, entry = heapq.heappop(self._extended)
            due.append((at - 1, entry))
        for after, entry in due:
            past = self._past(entry, after, second, local)
            ticks += self._missed(entry, past[:-1], second)
            if past and second - past[-1].at < MANY * 60:
                ticks.append(Tick(entry, past[-1].instant))
            start = max(second, since)
            future = runs(entry.schedule, self._tz(entry.zone, local), start, start + _AHEAD)
            if following := next(future, None):
                heapq.heappush(self._extended, (following.at, next(self._numbers), entry))
        return ticks

    def _tz(self, zone: str, local: datetime.tzinfo) -> datetime.tzinfo:
        if not zone:
            return local
        table = self._tables.get(zone)
        return table.zone if table else _zone(zone)


class _Span(NamedTuple):
    """From the last look at a zone's clock to this one: names the runs of the minutes between (module docstring)."""

    zone: datetime.tzinfo
    before: int  # UTC minutes
    minute: int
    virtual: int  # the wall clock's, or where it stood still
    shown: int

    def instant(self, due: Due) -> int:
        if due.minute == self.shown and not due.fixed:
            return self.minute * 60
        shown_at = instants(self.zone, due.minute)
        for instant in shown_at:
            if self.before * 60 < instant <= self.minute * 60:
                return instant
        if due.minute == self.shown:
            return self.minute * 60
        behind = self.before - self.virtual  # from the zone's minutes to UTC's, before the change
        return (due.minute + behind) * 60 + SKIPPED


class _Table:
    """The cron lines of one zone. Equal schedules are judged once, and only those that have this minute at all."""

    def __init__(self, zone: datetime.tzinfo) -> None:
        self.zone = zone
        self._alike: dict[Schedule, list[Timed]] = {}
        self._minutes: list[list[tuple[Schedule, list[Timed]]]] = [[] for _ in range(60)]

    def add(self, entry: Timed) -> None:
        schedule = entry.schedule
        if not isinstance(schedule, Schedule) or schedule.never():
            return
        if alike := self._alike.get(schedule):
            alike.append(entry)
            return
        alike = self._alike[schedule] = [entry]
        for minute, lines in enumerate(self._minutes):
            if schedule.minute >> minute & 1:
                lines.append((schedule, alike))

    def due(self, due: Due) -> Sequence[Timed]:
        """The entries due at a local minute."""
        days, rest = divmod(due.minute, 1440)
        hour, minute = divmod(rest, 60)
        date = datetime.date(1970, 1, 1) + datetime.timedelta(days=days)
        day, month, weekday = date.day, date.month, date.isoweekday() % 7
        return [
            entry
            for schedule, entries in self._minutes[minute]
            if schedule.hour >> hour & 1
            and (due.wild if schedule.wild else due.fixed)
            and schedule.on_day(day, month, weekday)
            for entry in entries
        ]


def _zone(name: str) -> datetime.tzinfo:
    """A zone by its name; UTC where the name is unknown by now (`crontab` refused it when it read the table)."""
    try:
        return zoneinfo.ZoneInfo(name) if name else datetime.UTC
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.UTC


def _is_state(state: dict[str, Any]) -> bool:
    zones = state.get("zones")
    numbers = [state.get(key) for key in ("minute", "newest", "second", "repeats")]
    return isinstance(zones, dict) and all(type(number) is int for number in (*numbers, *zones.values()))
