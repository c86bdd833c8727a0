"""Upcoming: when a schedule runs if nobody touches the clock; the runs of a span, the next N, and the last ones missed.

Does:    (schedule, time zone, span) -> `Run`s in order, by the same rules as `clock` follows tick by tick: in the hour
         that a zone skips, fixed-time lines run at its end and wildcard lines not at all; in the hour it repeats,
         wildcard lines run twice and fixed-time lines once.
Reads:   nothing but its arguments; a time zone answers for its own offsets (zoneinfo).
Trusts:  that schedules come from `schedule`.
Fails:   not at all: a schedule that never runs has no runs.

A run is named by its `instant`, in seconds since the epoch. It is the minute itself wherever the local minute exists. A
fixed-time line that ran at the end of a skipped hour is named by the minute its zone would have had without the change,
plus `SKIPPED` seconds: so `30 2,3 * * *` has two runs that night, 02:30 (skipped, done at 03:00) and 03:30.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from cronq.schedule import Every, Extended, Schedule

SKIPPED = 30  # added to an instant whose local minute the wall clock never showed
FEW, MANY = 5, 180  # minutes: up to FEW missed ones all run, up to MANY the fixed-time lines still do
_DAY = 1440
_MINUTES_TO_1970 = 719163 * _DAY  # date.fromordinal counts from year 1
_HORIZON = 41 * 366 * 86400  # 29 February on a Monday can take forty years
_EPOCH = datetime.datetime(1970, 1, 1)
_PROBE = 86400  # a zone is asked for its offset once a day
_STRETCH = 60 * _DAY  # looked at in one go
_YEAR_9999 = 253_370_764_800

AnySchedule = Schedule | Every | Extended


class Run(NamedTuple):
    """`instant` names the run, `at` is its start: seconds since the epoch. They differ in skipped hours only."""

    instant: int
    at: int


def offset(zone: datetime.tzinfo, instant: int) -> int:
    """Seconds the zone's wall clock is ahead of UTC at this instant."""
    ahead = datetime.datetime.fromtimestamp(instant, zone).utcoffset()
    return round(ahead.total_seconds()) if ahead is not None else 0


def wall(zone: datetime.tzinfo, minute: int) -> int:
    """What the zone's wall clock shows at a UTC minute (since the epoch): minutes since its own 1970-01-01 00:00."""
    return minute + offset(zone, minute * 60) // 60


def instants(zone: datetime.tzinfo, local: int) -> list[int]:
    """When the wall clock shows this local minute: once, twice in a repeated hour, never in a skipped one."""
    naive = _EPOCH + datetime.timedelta(minutes=local)
    found: list[int] = []
    for fold in (0, 1):
        ahead = naive.replace(tzinfo=zone, fold=fold).utcoffset() or datetime.timedelta()
        instant = local * 60 - round(ahead.total_seconds())
        if wall(zone, instant // 60) == local and instant not in found:
            found.append(instant)
    return found


def next_runs(schedule: AnySchedule, zone: datetime.tzinfo, after: float, count: int) -> list[Run]:
    """The first `count` runs later than `after` (seconds since the epoch); fewer if there are no more in 41 years."""
    found = []
    for run in runs(schedule, zone, int(after), min(int(after) + _HORIZON, _YEAR_9999)):
        found.append(run)
        if len(found) == count:
            break
    return found


def last_runs(schedule: AnySchedule, zone: datetime.tzinfo, after: int, until: int, count: int) -> list[Run]:
    """The newest `count` runs with after < at <= until, oldest first; the work is bounded however long the span is."""
    span = 3600
    while True:
        start = max(after, until - span)
        found = deque(runs(schedule, zone, start, until), maxlen=count)
        if len(found) == count or start == after:
            return list(found)
        span *= 8


def runs(schedule: AnySchedule, zone: datetime.tzinfo, after: int, until: int) -> Iterator[Run]:
    """All runs with after < at <= until, in order of `at`."""
    if isinstance(schedule, Every):
        first = (after // schedule.seconds + 1) * schedule.seconds
        return (Run(at, at) for at in range(first, until + 1, schedule.seconds))
    if isinstance(schedule, Extended):
        return _extended(schedule, zone, after, until)
    return _minutes(schedule, zone, after // 60 + 1, until // 60)


def _minutes(schedule: Schedule, zone: datetime.tzinfo, first: int, last: int) -> Iterator[Run]:
    """A cron line between two UTC minutes, both included."""
    virtual = _virtual(zone, first)
    while first <= last:
        end = change(zone, first, min(last + 1, first + _STRETCH))
        ahead = wall(zone, first) - first
        gap = first + ahead - virtual - 1  # local minutes that were never shown
        if 0 < gap < MANY and (gap < FEW or not schedule.wild):
            for local in matching(schedule, virtual + 1, virtual + gap):
                yield Run((local + gap - ahead) * 60 + SKIPPED, first * 60)
        start = first
        if -MANY < gap + 1 <= 0 and not schedule.wild:  # the hour is repeated: wait until the clock has caught up
            start = virtual + 1 - ahead
        for local in matching(schedule, start + ahead, end - 1 + ahead):
            yield Run((local - ahead) * 60, (local - ahead) * 60)
        virtual = max(virtual, end - 1 + ahead) if gap + 1 > -MANY else end - 1 + ahead
        first = end


def _virtual(zone: datetime.tzinfo, minute: int) -> int:
    """The virtual minute before a UTC minute: the wall clock's, or where that was before an hour began to repeat."""
    before = wall(zone, minute - 1)
    start = minute - MANY
    changed = change(zone, start, minute)
    if changed < minute and -MANY < wall(zone, changed) - wall(zone, changed - 1) <= 0:
        return max(before, wall(zone, changed - 1))
    return before


def change(zone: datetime.tzinfo, first: int, last: int) -> int:
    """The first UTC minute after `first` that has another offset than `first`; `last` if there is none before it."""
    now, low, step = offset(zone, first * 60), first, _PROBE // 60
    while low < last:
        high = min(low + step, last)
        if offset(zone, high * 60) != now:
            while high - low > 1:
                middle = (low + high) // 2
                if offset(zone, middle * 60) == now:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return last


def matching(schedule: Schedule, first: int, last: int) -> Iterator[int]:
    """The local minutes from `first` to `last` that suit the schedule."""
    hours = [hour * 60 for hour in range(24) if schedule.hour >> hour & 1]
    minutes = [minute for minute in range(60) if schedule.minute >> minute & 1]
    for day in range(first // _DAY, last // _DAY + 1):
        date = datetime.date.fromordinal(day + _MINUTES_TO_1970 // _DAY)
        if not schedule.on_day(date.day, date.month, date.isoweekday() % 7):
            continue
        for hour in hours:
            start = day * _DAY + hour
            if start + 59 < first or start > last:
                continue
            for minute in minutes:
                if first <= start + minute <= last:
                    yield start + minute


def _extended(schedule: Extended, zone: datetime.tzinfo, after: int, until: int) -> Iterator[Run]:
    """By the wall clock: a schedule that begins with `*` follows it, a fixed one neither skips nor repeats."""
    if schedule.wild:
        yield from _extended_wild(schedule, zone, after + 1, until)
        return
    local = _naive(after + offset(zone, after))
    while following := schedule.after(local):
        local = following
        run = _first_time(zone, local)
        if run.at > until:
            return
        if run.at > after:
            yield run


def _extended_wild(schedule: Extended, zone: datetime.tzinfo, start: int, until: int) -> Iterator[Run]:
    while start <= until:
        ahead = offset(zone, start)
        end = change(zone, start // 60, min(until // 60 + 1, start // 60 + _STRETCH)) * 60
        following = schedule.after(_naive(start + ahead - 1))
        while following and (at := _seconds(following) - ahead) < end:
            if at > until:
                return
            yield Run(at, at)
            following = schedule.after(following)
        if following is None:
            return
        start = end


def _first_time(zone: datetime.tzinfo, local: datetime.datetime) -> Run:
    """The first time the wall clock shows this; in a skipped hour, its end."""
    ahead = local.replace(tzinfo=zone).utcoffset() or datetime.timedelta()
    instant = _seconds(local) - round(ahead.total_seconds())
    if offset(zone, instant) == ahead.total_seconds():
        return Run(instant, instant)
    return Run(instant + SKIPPED, change(zone, instant // 60 - MANY, instant // 60 + 1) * 60)


def _naive(seconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(seconds=seconds)


def _seconds(local: datetime.datetime) -> int:
    return round((local - _EPOCH).total_seconds())
