"""Running what crontabs owe: which ticks may start, beside whom, with which evidence.

Does:    `launch` starts the ticks that are ready: they pass the slots of the queue `cron` (none unless the
         configuration gives it some), and what `overlap` and `mutex` exclude; they take no place of other jobs.
Reads:   the tick's file, and the line that it stands for as `tables` knows it.
Trusts:  nothing of it is evidence: the worker finds the line by itself (`lineproof`).
Fails:   `BadJob` for a tick whose line is another now: it is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from cronq import cancel, cronmail, hooks, job, pace, settle, states, task
from cronq.choosing import Choice, running
from cronq.crew import Worker
from cronq.cronfiles import INSTALLED
from cronq.entry import CANCEL_WANTED, HAS_DATA, Entry
from cronq.errors import BadJob
from cronq.gates import Gates
from cronq.heads import FITS, NOT_NOW
from cronq.house import House, Now, Running
from cronq.inboxes import DATA
from cronq.lineproof import CHANGED

# Mails, and hooks, under way at once, unless [queues.mail] or [queues.notify] says otherwise: their receivers may hang.
ERRANDS = {cronmail.QUEUE: 4, hooks.QUEUE: 4}
Started = tuple[dict[str, Any], list[int], Running]
Start = Callable[[House, Now, Entry], Started | None]


def launch(house: House, now: Now, waiting: list[Started], start: Start) -> None:
    """Start what may run; all of it goes into `waiting`: a tick runs once at most, so its move must be durable."""
    if not house.tables.ready or not len(house.backlog.ticks):
        return
    gates = gates_of(house)

    def gate(queue: str, _task: str, uid: int, _weight: int) -> bool:
        if not gates.open(queue, "", uid) or house.pauses.closed(queue, ""):
            return False
        opens = pace.ticks_open(house, now, queue)
        if opens > now.mono:
            house.opens = min(house.opens, opens)
            return False
        return not house.shut(now, "", uid) and _reachable(house, now, uid)

    jobs_next: list[Choice] = []

    def fits(entry: Entry) -> float:
        found = gates.fits(entry)
        return NOT_NOW if found == FITS and yields_to(house, now, entry, jobs_next) else found

    ticks = house.backlog.ticks
    for uid in ticks.watched | gates.by_user.keys():
        ticks.weigh(uid, gates.load(uid))
    while now.mono >= house.paused_until:
        gates.claims.clear()
        entry = ticks.peek(gate, None, fits)
        if entry is None:
            break
        if CANCEL_WANTED in entry.flags:
            cancel.cancel(house, now, states.READY, entry, at_once=False)
        elif (started := start(house, now, entry)) is not None:
            gates.count(entry)
            ticks.weigh(entry.uid, gates.load(entry.uid))
            waiting.append(started)


def gates_of(house: House) -> Gates:
    """What ticks, and what is told about them, must pass beside what runs."""
    jobs, ticks = running(house)
    return Gates(sys.maxsize, {**ERRANDS, **house.config.slots}, {}, ticks, others=jobs)


def yields_to(house: House, now: Now, tick: Entry, made: list[Choice]) -> str:
    """The job of the same mutex that was first, and starts now; empty for none.

    `made` holds the view of the jobs, once it was needed: ticks that start meanwhile change none of it but who has
    their mutex, and a tick of that does not fit anyway.
    """
    if not tick.key:
        return ""
    earlier = [entry for entry in house.backlog.ready.keyed(tick.key) if entry.order < tick.order]
    if earlier and not made:
        made.append(Choice(house, now))
    return next((entry.id for entry in earlier if made[0].may(entry)), "")


def _reachable(house: House, now: Now, uid: int) -> bool:
    """Whether a tick of this user gets a worker now, or something else must be decided about it."""
    bar = house.crew.barred(uid, now.mono)
    if house.stranger(uid) is not None or (bar is not None and bar.hold):
        return True
    return _worker(house, now, uid) is not None


def worker(house: House, now: Now, entry: Entry) -> Worker | None:
    """Who takes this attempt: for a tick, somebody who has the crontabs open as they are now."""
    return _worker(house, now, entry.uid) if entry.tabled else house.crew.ready(entry.runner, now.mono)


def _worker(house: House, now: Now, uid: int) -> Worker | None:
    tables, since = house.tables.needed(uid) if house.listing is not None else ({}, 0.0)
    if tables and house.listing is not None and house.listing.busy:
        return None
    return house.crew.ready(uid, now.mono, tables, since)


def table(house: House, entry: Entry) -> str:
    """The crontab of whose line this is a tick, or is told about one; empty for any other job.

    A hook of the configuration's stands in `cronq.toml`.
    """
    if entry.hook:
        return hooks.main_file(house.config_dir)
    line = house.tables.find(entry.uid, entry.tabled) if entry.tabled else None
    return "" if line is None else line.table


def examine(house: House, entry: Entry, descriptors: list[int]) -> tuple[job.Job, task.Plan, int]:
    """The job of a tick, its plan, and who runs it; its evidence is opened. Raises `CronqError`."""
    descriptors.append(house.shelves.open_entry(states.READY, entry))
    wanted = job.decode(settle.check_bytes(descriptors[0], entry))
    where = table(house, entry)
    if not where:
        raise BadJob(CHANGED)
    if house.authority is not None:
        house.authority.runs_line(where, entry.uid)
    if not entry.hook:
        house.tables.note(entry.uid, where)  # it may be an errand from before a restart
    if where.startswith(INSTALLED):
        os.close(descriptors.pop())
        descriptors.append(house.shelves.open_installed(entry.uid))
    if HAS_DATA in entry.flags:
        descriptors.append(house.shelves.open_file(f"{DATA}/{entry.id}", house.shelves.uid)[0])
    return wanted, house.plan(wanted), entry.uid
