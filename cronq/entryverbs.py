"""What is asked about what runs by the clock: the lines of crontabs and the schedules; pause, resume, run one of them.

Does:    one generator a verb, as in `verbs`. An entry is named as its ticks are, without their instant; `entries` tells
         that name of all of the caller's, or of those that a text means.
Reads:   the tables and the configuration, as the dispatcher has them.
Writes:  as `pauses` and `fire.run` do.
Trusts:  the caller to be who he is (`caller`). An entry of another user's is unknown to him.
Fails:   `UnknownJob` for an entry that is not his, or not there; `Full` while tables are being read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from cronq import fire, job, pauses
from cronq.config import Schedule
from cronq.entry import LINE
from cronq.errors import Full, NotRunning, UnknownJob, UsageError
from cronq.tables import Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]
RUN = 64  # entries that are looked at at a time
SCHEDULE = "cron-"


def entries(ask: Ask) -> Found:
    """The entries whose ticks the caller sees; with `like`, those of them that this text means."""
    house, like = ask.house, ask.request.get("like")
    if not isinstance(like, str | None):
        raise UsageError("like must be some text")
    if house.tables.turn(ask.now.wall, ask.now.mono, due=True):
        house.loaded = None  # what was found just now is for the almanac too
    while house.tables.busy:
        yield None
    _must_be_read(ask)
    known: list[Line | Schedule] = [each for each in house.config.schedules.values() if each.enabled]
    known += house.tables.lines()
    for number, entry in enumerate(known):
        if number % RUN == 0:
            yield None
        if like is not None and like not in names(entry) and not like.endswith(_own_name(entry)):
            continue
        uid = house.shelves.uid if isinstance(entry, Schedule) else fire.whose(house, entry)
        if uid is None or not ask.caller.may(uid):
            continue
        name = fire.ticks_of(house, entry, uid)
        if like is None or like in (name, *names(entry)):
            yield {"id": name, **_view(ask, entry, uid), "paused": _paused(ask, name)}


def names(entry: Line | Schedule) -> tuple[str, ...]:
    """What an entry may be called."""
    if isinstance(entry, Schedule):
        return entry.name, f"schedules.{entry.name}"
    own = (entry.options.name,) if entry.options.name else ()
    return entry.identity, f"{entry.table}:{entry.entry.line}", *own


def _own_name(entry: Line | Schedule) -> str:
    return f"-{entry.name}" if isinstance(entry, Schedule) else f"-{entry.identity}"


def _view(ask: Ask, entry: Line | Schedule, uid: int) -> dict[str, Any]:
    if isinstance(entry, Schedule):
        task = ask.house.config.tasks.get(entry.task)
        when = {"every": entry.every, "cron": entry.cron, "zone": entry.zone}
        about = {"entry": entry.name, "table": None, "line": None, "user": (task and task.user) or "", **when}
        return about | {"command": shlex.join([entry.task, *entry.args])}
    line = entry.entry
    about = {"entry": entry.identity, "table": entry.table, "line": line.line, "user": line.user, "uid": uid}
    return about | {"when": line.when, "zone": entry.zone, "command": line.command}


def _paused(ask: Ask, name: str) -> float | bool:
    """Until when it is paused; True for until somebody resumes it."""
    until = ask.house.pauses.until(name)
    return until > ask.now.wall and told(until)


def _must_be_read(ask: Ask) -> None:
    if not ask.house.tables.ready:
        raise Full("the crontabs are being read still; ask again in a moment")


def find(ask: Ask) -> tuple[Line | Schedule, int, str]:
    """The entry that is asked for, whose it is, and its name. Raises `UnknownJob`."""
    _must_be_read(ask)
    name = ask.request.get("entry")
    owner, _, rest = name.partition("-") if isinstance(name, str) else ("", "", "")
    if owner.isascii() and owner.isdecimal() and len(owner) <= 10 and ask.caller.may(int(owner)):
        found: Line | Schedule | None = None
        if rest.startswith(LINE):
            line = ask.house.tables.find(int(owner), rest.removeprefix(LINE))
            found = line if line is not None and fire.whose(ask.house, line) == int(owner) else None
            if found is not None and ask.request.get("table", found.table) != found.table:
                raise UnknownJob(f"the line {job.show(found.identity)} of {found.table} has the same name; rename one")
        elif rest.startswith(SCHEDULE):
            schedule = ask.house.config.schedules.get(rest.removeprefix(SCHEDULE))
            found = schedule if schedule is not None and schedule.enabled else None
        if found is not None and fire.ticks_of(ask.house, found, int(owner)) == name:
            return found, int(owner), name
    raise UnknownJob(f"unknown entry {job.show(name)}")


def pause(ask: Ask) -> Found:
    """Pass its ticks over from now on, until it is resumed or until a time."""
    until = pauses_until(ask)
    _, _, name = find(ask)
    ask.house.pauses.begin(name, pauses.Pause(until))
    yield {"id": name, "paused": told(until)}


def pauses_until(ask: Ask) -> float:
    """Until when a pause is asked for; infinity where that is not said. Raises `UsageError`."""
    until = ask.request.get("until")
    if isinstance(until, bool) or not isinstance(until, int | float | None):
        raise UsageError("until must be seconds since the epoch")
    if until is not None and not ask.now.wall < until < job.LAST_INSTANT:
        raise UsageError("until must be a time that is to come")
    return pauses.FOR_EVER if until is None else until


def told(until: float) -> float | bool:
    """Until when something is paused, as it is told: True for until somebody resumes it."""
    return until == pauses.FOR_EVER or until


def resume(ask: Ask) -> Found:
    """Pass no more of its ticks over."""
    _, _, name = find(ask)
    yield {"id": name, "paused": False, "was": ask.house.pauses.end(name)}


def run(ask: Ask) -> Found:
    """Run it now, as its next tick would be run."""
    if ask.house.stopping:
        raise NotRunning("the dispatcher is stopping")
    found, uid, _ = find(ask)
    yield {"id": fire.run(ask.house, ask.now, found, uid)}


VERBS = {"entries": entries, "pause": pause, "resume": resume, "run": run}
