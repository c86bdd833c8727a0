"""Where a change of the clocks touches a schedule: the runs that it shifts, merges, repeats or leaves out.

Does:    (schedule, zone, change) -> a `Mark`, if the change touches the schedule, with its sentence:
         "02:30 does not exist; runs at 03:00". The changes of a span are listed by `changes`.
Reads:   nothing but its arguments.
Trusts:  that `upcoming` and `clock` follow the same rules: in the hour that a zone skips, fixed-time lines run at its
         end and wildcard lines not at all; in the hour it repeats, wildcard lines run twice and fixed-time lines once.
Fails:   not at all.

A wildcard line that runs in every hour of the day (`*/5 * * * *`) goes on evenly over such a night, and has no mark.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

from cronq.schedule import Every, Extended, Schedule
from cronq.upcoming import FEW, MANY, AnySchedule, Run, change, matching, wall

_MOST = 1440  # minutes of one change that are looked at
_LISTED = 3
_EPOCH = datetime.datetime(1970, 1, 1)


class Mark(NamedTuple):
    """`at` is when the clocks change, seconds since the epoch; `until` the end of what is repeated (else `at`)."""

    at: int
    until: int
    text: str
    touched: frozenset[int]  # minutes of the wall clock

    def covers(self, run: Run, zone: datetime.tzinfo) -> bool:
        """Is this one of the runs that the mark is about?"""
        if self.until == self.at:
            return run.at == self.at and run.instant != run.at
        return 2 * self.at - self.until <= run.at < self.until and wall(zone, run.at // 60) in self.touched


def changes(zone: datetime.tzinfo, after: int, until: int) -> list[int]:
    """When the clocks of this zone change, after < at <= until, seconds since the epoch."""
    found, minute, last = [], after // 60, until // 60 + 1
    while (minute := change(zone, minute, last)) < last:
        found.append(minute * 60)
    return found


def mark(schedule: AnySchedule, zone: datetime.tzinfo, at: int) -> Mark | None:
    """What the change of the clocks at this instant does to the schedule; None if nothing."""
    if isinstance(schedule, Every):
        return None
    before, now = wall(zone, at // 60 - 1), wall(zone, at // 60)
    gap = now - before - 1
    low, high = (before + 1, now - 1) if gap > 0 else (now, before)
    hits = _minutes(schedule, low, min(high, low + _MOST))
    if not hits or _goes_on(schedule, abs(gap)):
        return None
    if gap > 0:
        return Mark(at, at, _skipped(schedule, hits, now, gap), frozenset(hits))
    return Mark(at, at - gap * 60, _repeated(schedule, hits, -gap), frozenset(hits))


def _minutes(schedule: Schedule | Extended, low: int, high: int) -> list[int]:
    """The minutes of the wall clock from `low` to `high` in which the schedule is due."""
    if isinstance(schedule, Schedule):
        return list(matching(schedule, low, high))
    found: list[int] = []
    local = _EPOCH + datetime.timedelta(minutes=low, seconds=-1)
    while (following := schedule.after(local)) and following < _EPOCH + datetime.timedelta(minutes=high + 1):
        minute = (following - _EPOCH) // datetime.timedelta(minutes=1)
        found.append(minute)
        local = _EPOCH + datetime.timedelta(minutes=minute + 1, seconds=-1)
    return found


def _goes_on(schedule: Schedule | Extended, minutes: int) -> bool:
    """A wildcard line of every hour: by elapsed time, nothing changes for it."""
    if isinstance(schedule, Schedule):
        return (
            schedule.wild and schedule.hour == (1 << 24) - 1 and (not minutes % 60 or schedule.minute == (1 << 60) - 1)
        )
    hour, minute = schedule.text.split()[-4], schedule.text.split()[-5]
    return hour == "*" and (not minutes % 60 or minute == "*")


def _skipped(schedule: Schedule | Extended, hits: list[int], end: int, gap: int) -> str:
    what = f"{_listed(hits)} {'do' if len(hits) > 1 else 'does'} not exist"
    burst = isinstance(schedule, Schedule) and gap < FEW
    if gap >= MANY or (schedule.wild and not burst):
        return f"{what}; {'these runs are' if len(hits) > 1 else 'this run is'} left out"
    count = len(hits) + len(_minutes(schedule, end, end))
    if isinstance(schedule, Extended):
        return f"{what}; runs at {clock(end)}"
    return f"{what}; runs {_times(count)}at {clock(end)}"


def _times(count: int) -> str:
    return {1: "", 2: "twice "}.get(count, f"{count} times ")


def _repeated(schedule: Schedule | Extended, hits: list[int], length: int) -> str:
    what = f"{_listed(hits)} {'come' if len(hits) > 1 else 'comes'} twice"
    both = schedule.wild or length >= MANY
    return f"{what}; runs {'both times' if both else 'the first time only'}"


def _listed(minutes: list[int]) -> str:
    """`02:00, 02:15 and 02:45`; of many, the first and the last."""
    times = [clock(minute) for minute in minutes]
    if len(times) > _LISTED:
        return f"{times[0]} to {times[-1]}"
    return " and ".join(part for part in (", ".join(times[:-1]), times[-1]) if part)


def clock(minute: int) -> str:
    """`02:30` of a minute of the wall clock."""
    return f"{minute % 1440 // 60:02}:{minute % 60:02}"
