"""Firing: each tick that has become due is made a job, once, by a file that is named by (entry, scheduled instant).

Does:    loads schedules and the lines of crontabs into the almanac, makes the jobs of what is due, a slice a turn, as
         the options of each want it; says what was passed over. What is paused is passed over; by hand it runs.
Writes:  job files of ours in ready or delayed (`shelves.create`).
Trusts:  configuration and tables. A tick whose name is queued or has a result has been made: neither a restart, nor a
         crash, nor a step of the clock makes it twice.
Fails:   `OSError` of the disk: what is not made yet stays due.
"""

from __future__ import annotations

import hashlib
import os
import time

from cronq import admission, cancel, cronjobs, job, keys, states, tablelog
from cronq.clock import Tick
from cronq.config import Schedule
from cronq.cronfiles import INSTALLED
from cronq.entry import LINE, Entry, digest
from cronq.errors import BadConfig, BadJob, Full, NotPermitted
from cronq.house import House, Now
from cronq.log import line as log
from cronq.tables import Line

SLICE_SECONDS = 0.020  # how long a turn is at making ticks
REST = 10  # times as long as all lines took to be loaded they are not loaded again: whoever changes his all the time
MACHINE = "/etc/machine-id"
PASSED_OVER = "passed-over"  # in the history, of a tick of which no job was made


def fire(house: House, now: Now) -> None:
    """Make a job of every tick that has become due."""
    almanac = house.almanac
    if _others(house, now):
        began = time.monotonic()
        schedules = [schedule for schedule in house.config.schedules.values() if schedule.enabled]
        almanac.load([*schedules, *house.tables.lines()])
        house.tables.rest(now.mono + REST * (time.monotonic() - began))
    house.urgent = house.urgent or house.tables.busy
    if not house.tables.ready:
        return  # nothing is due before all that there is has been read: else it would owe nothing for a downtime
    if _reads(house) and almanac.is_due(now.wall) and almanac.hold(now.mono):
        return  # as with cron, a minute goes by the tables that there are when it begins
    begun = bool(almanac.at_start)
    almanac.look(now.wall)
    if not begun and house.config.cron_system:  # nobody else is this machine's cron
        house.cronlog.table(os.getpid(), "CRON", "INFO", almanac.at_start, now.wall)
    while almanac.passed_over:
        _say_passed_over(house, now, almanac.passed_over.pop(0))
    while almanac.stood:
        house.history.stood(*almanac.stood.pop(0))
    deadline = time.monotonic() + SLICE_SECONDS
    while almanac.pending:
        _make(house, now, almanac.pending[0])
        almanac.pending.popleft()
        if time.monotonic() > deadline:
            break
    house.urgent = house.urgent or bool(almanac.pending)


def _reads(house: House) -> bool:
    """Whether tables are being looked at, or read."""
    return house.tables.busy or (house.listing is not None and house.listing.busy)


def _others(house: House, now: Now) -> bool:
    """Whether schedules or lines are others than those in the almanac."""
    due = house.almanac.is_due(now.wall)
    if house.listing is not None:
        house.listing.turn(now.wall, now.mono, house.config.cron_system, due)
    others = house.tables.turn(now.wall, now.mono, due)
    if others:
        for uid, identity in house.backlog.lines:  # what waits from before a restart needs its tables too
            if (line := house.tables.find(uid, identity)) is not None:
                house.tables.note(uid, line.table)
    others = others or house.loaded is not house.config
    house.loaded = house.config
    return others


def _say_passed_over(house: House, now: Now, tick: Tick) -> None:
    name = tick.entry.name if isinstance(tick.entry, Schedule) else tick.entry.identity
    reason = "too old, or too many were missed"
    log("tick-passed-over", entry=name, instant=tick.instant, reason=reason)
    uid = house.shelves.uid if isinstance(tick.entry, Schedule) else whose(house, tick.entry)
    if uid is not None:
        _keep_skipped(house, now, tick_id(ticks_of(house, tick.entry, uid), tick.instant), f"{reason} (catchup)")


def _skip(house: House, now: Now, job_id: str, reason: str) -> None:
    """No job is made of a tick."""
    log("tick-skipped", id=job_id, reason=reason)
    _keep_skipped(house, now, job_id, reason)


def _keep_skipped(house: House, now: Now, job_id: str, reason: str) -> None:
    """Whoever asks why an entry did not run then is to hear it."""
    house.history.note(now.wall, job_id, "due", PASSED_OVER, cause=reason)


def _make(house: House, now: Now, tick: Tick) -> None:
    # A run of a skipped hour has a name that is in the future; it is due all the same.
    due = min(tick.instant, now.wall)
    if isinstance(tick.entry, Line):
        _make_of_line(house, now, tick, due)
        return
    schedule: Schedule = tick.entry
    name = ticks_of(house, schedule, house.shelves.uid)
    job_id = tick_id(name, tick.instant)
    if house.pauses.passes_over(name, due):
        _skip(house, now, job_id, "paused")
        return
    due += schedule.jitter * share(schedule.name)
    put(house, now, job_id, job.encode(schedule.fields()), due, "schedule")


def tick_id(name: str, instant: int) -> str:
    """The id of the tick at this instant, in seconds, of an entry whose ticks are called `name`."""
    return f"{name}-{instant * 1_000_000:013x}"


def ticks_of(house: House, entry: Line | Schedule, uid: int) -> str:
    """How the ids of an entry's ticks begin: all but their instant."""
    if isinstance(entry, Schedule):
        return f"{house.shelves.uid}-cron-{entry.name}"
    return f"{uid}-{LINE}{entry.identity}"


def _make_of_line(house: House, now: Now, tick: Tick, due: float) -> None:
    line: Line = tick.entry
    uid = whose(house, line)
    if uid is None:
        return
    job_id = cronjobs.job_id(uid, line.identity, tick.instant)
    if house.pauses.passes_over(ticks_of(house, line, uid), due):
        _skip(house, now, job_id, "paused")
        return
    due += line.options.jitter * share(f"{uid} {line.identity}")
    if why := _put_line(house, now, line, uid, job_id, due, "crontab"):
        _skip(house, now, job_id, why)


def run(house: House, now: Now, entry: Line | Schedule, uid: int) -> str:
    """Run an entry now, paused or not; the job's id. Raises `Full` where its option `overlap` excludes that."""
    name, micros = ticks_of(house, entry, uid), now.micros
    while True:
        job_id = f"{name}-{micros:013x}"
        # A whole second is the name of a tick that the clock makes.
        if micros % 1_000_000 and job_id not in house.backlog and not house.shelves.result(job_id):
            break
        micros += 1
    if isinstance(entry, Schedule):
        put(house, now, job_id, job.encode(entry.fields()), now.wall, "manual")
    elif why := _put_line(house, now, entry, uid, job_id, now.wall, "manual"):
        raise Full(f"it is not run: {why}")
    if job_id not in house.backlog:
        raise Full("no job could be made of it; the dispatcher's log says why")
    return job_id


def _put_line(house: House, now: Now, line: Line, uid: int, job_id: str, due: float, cause: str) -> str:
    """Make the job of a line's tick, as far as its option `overlap` lets it; why it is not made."""
    options = line.options
    alive = house.backlog.lines.get((uid, line.identity), set()) - {job_id}
    if alive and options.overlap == "skip":
        return f"overlap=skip, and {min(alive)} has not ended"
    if options.overlap == "replace":
        for earlier in sorted(alive):
            if (kept := house.backlog.find(earlier)) is not None:
                cancel.cancel(house, now, *kept, at_once=False)
    house.tables.note(uid, line.table)
    put(house, now, job_id, cronjobs.encode(line.entry), due, cause, _key(house, line, uid))
    return ""


def whose(house: House, line: Line) -> int | None:
    """The uid that a line runs as; None, and it is said once, where nothing may run as that user."""
    table = line.table
    user = line.entry.user
    if table.startswith(INSTALLED):
        uid: int | None = int(table.removeprefix(INSTALLED))
    elif house.authority is None:
        uid = house.shelves.uid
    else:
        uid = house.authority.accounts.uid(user)
    try:
        if uid is None:
            raise BadJob(tablelog.no_user(user))
        if house.authority is not None:
            house.authority.runs_line(table, uid)
    except (BadConfig, BadJob, NotPermitted) as error:
        house.tables.complain(line, error.sentence)
        return None
    return uid


def _key(house: House, line: Line, uid: int) -> str:
    """What a tick must not run beside: whatever has the same key. A word in a table of root's is root's."""
    options = line.options
    if options.mutex:
        return keys.mutex(house.master if house.tables.places.has_column(line.table) else uid, options.mutex)
    return keys.line(uid, line.identity) if options.overlap in ("queue", "replace") else ""


def put(house: House, now: Now, job_id: str, data: bytes, due: float, cause: str, key: str = "") -> None:
    """Make the job of a tick, unless it has been made."""
    if job_id in house.backlog or house.shelves.result(job_id):
        return
    state, move = (states.DELAYED, "postpone") if due > now.wall else (states.READY, "admit")
    house.almanac.made += 1
    try:
        entry: Entry = admission.entry_of(house, job_id, job.decode(data), digest(data), due).but(key=key)
        entry = entry.but(due=entry.due + house.almanac.made)  # microseconds: they start in the order of their lines
    except BadJob as error:
        log("tick-refused", id=job_id, reason=error.sentence)
        _keep_skipped(house, now, job_id, error.sentence)
        return
    if house.shelves.create(state, entry, data):
        house.backlog.put(state, entry)
        house.history.note(now.wall, job_id, states.QUEUED, state, move=move, cause=cause)


def share(what: str) -> float:
    """From 0 to 1: which part of its jitter an entry waits; always the same on this machine, another on the next."""
    try:
        with open(MACHINE, "rb") as file:
            machine = file.read(64)
    except OSError:
        machine = b""
    return int.from_bytes(hashlib.sha256(machine + what.encode()).digest()[:8]) / 2**64
