"""Firing: each tick that has become due is made a job, once, by a file that is named by (entry, scheduled instant).

Does:    loads schedules into the almanac, makes the jobs of what is due, a slice a turn; says what was passed over.
Writes:  job files of ours in ready or delayed (`shelves.create`).
Trusts:  the configuration. A tick whose name is queued or has a result has been made: neither a restart, nor a crash,
         nor a step of the clock makes it twice.
Fails:   `OSError` of the disk: what is not made yet stays due.
"""

from __future__ import annotations

import hashlib
import time

from cronq import admission, job, states
from cronq.clock import Tick
from cronq.config import Schedule
from cronq.entry import digest
from cronq.errors import BadJob
from cronq.house import House, Now
from cronq.log import line as log

SLICE_SECONDS = 0.020  # how long a turn is at making ticks
MACHINE = "/etc/machine-id"


def fire(house: House, now: Now) -> None:
    """Make a job of every tick that has become due."""
    almanac = house.almanac
    if house.loaded is not house.config:
        house.loaded = house.config
        almanac.load(schedule for schedule in house.config.schedules.values() if schedule.enabled)
    almanac.look(now.wall)
    while almanac.passed_over:
        _say_passed_over(almanac.passed_over.pop(0))
    deadline = time.monotonic() + SLICE_SECONDS
    while almanac.pending:
        _make(house, now, almanac.pending[0])
        almanac.pending.popleft()
        if time.monotonic() > deadline:
            break
    house.urgent = house.urgent or bool(almanac.pending)


def _say_passed_over(tick: Tick) -> None:
    log("tick-passed-over", schedule=tick.entry.name, instant=tick.instant, reason="too old, or too many were missed")


def _make(house: House, now: Now, tick: Tick) -> None:
    schedule: Schedule = tick.entry
    job_id = f"{house.shelves.uid}-cron-{schedule.name}-{tick.instant * 1_000_000:013x}"
    # A run of a skipped hour has a name that is in the future; it is due all the same.
    due = min(tick.instant, now.wall) + schedule.jitter * share(schedule.name)
    put(house, now, job_id, job.encode(schedule.fields()), due, "schedule")


def put(house: House, now: Now, job_id: str, data: bytes, due: float, cause: str) -> None:
    """Make the job of a tick, unless it has been made."""
    if job_id in house.backlog or house.shelves.result(job_id):
        return
    try:
        entry = admission.entry_of(house, job_id, job.decode(data), digest(data), due)
    except BadJob as error:
        log("tick-refused", id=job_id, reason=error.sentence)
        return
    state, move = (states.DELAYED, "postpone") if entry.due > now.micros else (states.READY, "admit")
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
