"""Whether an entry was due at a time: pure judgement by its schedule, as it is now.

Does:    (schedule, zone, time) -> the runs of that time, and where there are none, those before and after it; what a
         change of the clocks has to do with it.
Reads:   nothing but its arguments.
Trusts:  that `upcoming` and `clock` follow the same rules.
Fails:   not at all: a schedule that never runs has no runs.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

from cronq import dst
from cronq.schedule import Schedule
from cronq.upcoming import MANY, AnySchedule, Run, last_runs, next_runs, runs, wall

FAR = 5 * 366 * 86400  # how far back a run is looked for
_DAY = 86400


class Due(NamedTuple):
    """What a schedule had to do with a time: from `first` to before `last`, seconds since the epoch."""

    first: int
    last: int
    runs: list[Run]
    before: Run | None
    after: Run | None
    mark: str  # what a change of the clocks does to it then; empty for nothing


def at(schedule: AnySchedule, zone: datetime.tzinfo, moment: int) -> Due:
    """The runs of the minute of this moment, or, of what can run each second, of that second."""
    first = moment // 60 * 60 if isinstance(schedule, Schedule) else moment
    last = first + 60 if isinstance(schedule, Schedule) else first + 1
    if is_silent(schedule):
        return Due(first, last, [], None, None, "")
    # A run of a skipped hour is named by a minute that comes after its start (`upcoming`).
    near = runs(schedule, zone, first - MANY * 60 - 1, last - 1)
    found = [run for run in near if first <= run.at < last or first <= run.instant < last]
    before, after = last_before(schedule, zone, first), next(iter(next_runs(schedule, zone, last - 1, 1)), None)
    return Due(first, last, found, before, after, _mark(schedule, zone, first, found))


def is_silent(schedule: AnySchedule) -> bool:
    """Whether the clock never starts it."""
    return isinstance(schedule, Schedule) and (schedule.reboot or schedule.never())


def last_before(schedule: AnySchedule, zone: datetime.tzinfo, moment: int) -> Run | None:
    """The last run before a moment, of the years before it."""
    return next(iter(last_runs(schedule, zone, max(0, moment - FAR), moment - 1, 1)), None)


def _mark(schedule: AnySchedule, zone: datetime.tzinfo, moment: int, found: list[Run]) -> str:
    """What a change of the clocks does to these runs, or to the minute that the clock shows, or would without it."""
    for change in dst.changes(zone, moment - _DAY, moment + _DAY):
        mark = dst.mark(schedule, zone, change)
        if mark is None:
            continue
        shown = wall(zone, moment // 60)
        without = shown - (wall(zone, change // 60) - wall(zone, change // 60 - 1) - 1) * (moment >= change)
        near = abs(moment - change) < MANY * 60
        if any(mark.covers(run, zone) for run in found) or (near and mark.touched & {shown, without}):
            return mark.text
    return ""
