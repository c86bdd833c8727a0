"""Cancelling: what waits never runs, what runs is ended, and a batch is all of its members.

Does:    `cancel` one job or batch; `press` sees to it that everything which runs and is to be cancelled is told so.
Reads:   the outcome file of an attempt whose worker is not of this crew: the pid stands there.
Writes:  the flag in the entry's name (cancel wanted), which outlives a restart; else what `settle` writes.
Trusts:  the backlog.
Fails:   never by itself. A worker that does not listen is told again each turn.
"""

from __future__ import annotations

import time
from itertools import chain, zip_longest

from cronq import additions, settle, states, underway
from cronq.entry import CALLS, CANCEL_WANTED, Entry
from cronq.house import House, Now, Running

UNSTARTED = (states.READY, states.DELAYED, states.WAITING, states.HELD)
CANCELLING = "cancelling"  # what is said of a job that runs: it ends soon
REASON = "cancelled before it started"
SLICE_SECONDS = 0.020
_TO_READY = {states.DELAYED: "ripen", states.WAITING: "unblock", states.HELD: "release"}


def cancel(house: House, now: Now, state: str, entry: Entry, at_once: bool) -> str:
    """Cancel what is in this state, and say in which one it is now. What has ended stays as it is."""
    if entry.batch is not None and state in (*UNSTARTED, states.RUNNING):
        return _batch(house, now, state, entry, at_once)
    if state == states.RUNNING:
        return _running(house, now, entry, at_once)
    if state in UNSTARTED:
        house.stops[entry.id] = at_once  # where the disk refuses a part of it, `press` goes on
        settle.end_unstarted(house, now, "cancel", state, entry, REASON)
        house.stops.pop(entry.id, None)
        return states.CANCELLED
    return state


def _running(house: House, now: Now, entry: Entry, at_once: bool) -> str:
    house.stops[entry.id] = at_once or house.stops.get(entry.id, False)
    running = house.running.get(entry.id)
    if running is not None:  # else its attempt has just ended: if it is to be tried again, `press` will see it
        running.entry = _wanted(house, states.RUNNING, entry)
        _tell(house, now, running)
    return CANCELLING


def _wanted(house: House, state: str, entry: Entry) -> Entry:
    """Write into its name that it is to be cancelled."""
    if CANCEL_WANTED in entry.flags:
        return entry
    changed = entry.flagged(CANCEL_WANTED)
    house.shelves.rename(state, entry, changed)
    house.backlog.put(state, changed)
    return changed


def _batch(house: House, now: Now, state: str, entry: Entry, at_once: bool) -> str:
    """A batch: its members are cancelled, no more are made, and it ends when the last of them has.

    What waits never starts from now on, and `press` ends as much of it a turn as nobody else waits long for.
    """
    assert entry.batch is not None  # noqa: S101 - the caller looked
    is_new = entry.batch[0] == 0 and not additions.of(house.shelves, entry.id)
    if state in UNSTARTED and is_new and CALLS not in entry.flags:
        settle.end_unstarted(house, now, "cancel", state, entry, REASON)
        return states.CANCELLED
    entry = _wanted(house, state, entry)
    if state in _TO_READY:
        state = house.move(now, _TO_READY[state], state, entry, entry, cause="cancel")
    if state == states.READY:
        house.move(now, "start", state, entry, entry, cause="cancel")
    for member_id in house.backlog.unfinished(entry.id):
        kept = house.backlog.find(member_id)
        if kept is not None and kept[0] == states.RUNNING:
            cancel(house, now, *kept, at_once)
        elif kept is not None:
            house.stops.setdefault(member_id, at_once)
            house.urgent = True
    return CANCELLING


def take_up(house: House) -> None:
    """After a restart: what was to be cancelled still is."""
    for state in (states.READY, states.RUNNING):
        wanted = [entry for entry in house.backlog.entries(state) if CANCEL_WANTED in entry.flags]
        house.stops |= {entry.id: False for entry in wanted}


def press(house: House, now: Now) -> None:
    """Go on with what could not be done or told at once: what runs is told, and of what waits a slice ends."""
    waiting: dict[int, list[str]] = {}  # by submitter
    for job_id in list(house.stops):
        state, entry = house.backlog.find(job_id) or ("", None)
        if entry is None:
            del house.stops[job_id]
        elif state != states.RUNNING or entry.batch is not None:
            waiting.setdefault(entry.uid, []).append(job_id)
        elif job_id in house.running:
            _tell(house, now, house.running[job_id])
    deadline = time.monotonic() + SLICE_SECONDS
    for job_id in filter(None, chain.from_iterable(zip_longest(*waiting.values()))):  # each submitter's in turn
        found = house.backlog.find(job_id)
        if found is not None:  # else its batch came before it
            cancel(house, now, *found, house.stops.get(job_id, False))
        house.stops.pop(job_id, None)
        if time.monotonic() > deadline:
            house.urgent = True
            break


def _tell(house: House, now: Now, running: Running) -> None:
    entry = running.entry
    worker = house.crew.of(entry.id)
    if worker is not None:
        stop = {"do": "stop", "id": entry.id, "now": house.stops[entry.id]}
        told = house.crew.tell(entry.runner, stop, now.mono, worker)
    else:
        told = running.orphan and _end_orphan(house, now, running)
    if house.placing and house.stops[entry.id]:
        house.crew.kill(entry.id, entry.attempt, now.mono)
    if told:
        del house.stops[entry.id]


def _end_orphan(house: House, now: Now, running: Running) -> bool:
    """The worker of a dispatcher that is gone hears nobody: the user's present one kills the job, and it tells how."""
    if running.reap is not None:
        return True  # its worker is gone too, and it is being ended anyway
    started = underway.started(house, running.entry)
    if started is None:
        return False
    identity = {key: started.get(key) for key in ("pid", "start", "boot")}
    message = {"do": "reap", "id": running.entry.id, "attempt": running.entry.attempt, **identity}
    return house.crew.tell(running.entry.runner, message, now.mono)
