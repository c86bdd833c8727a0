"""One turn of the dispatcher: settle, admit, fire, ripen, launch; then everything that happened is made durable.

Does:    `turn(house, now, rung)` does all there is to do at one instant and says when to be woken at the latest.
Trusts:  as its verbs do. Time is an argument; forever is `dispatcher`.
Fails:   a full disk (`OSError`) ends the turn and nothing is lost: the next one begins where this one stood. A failed
         flush stops the house for good: nothing is accepted or started any more, and `house.broken` says why.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from cronq import (
    admission,
    arrivals,
    attached,
    batches,
    blocked,
    cancel,
    completion,
    cronrun,
    cursors,
    depends,
    fire,
    force,
    freezing,
    job,
    mails,
    metricsfile,
    pace,
    retention,
    settle,
    states,
    task,
)
from cronq.choosing import Choice, why_held
from cronq.entry import AT_MOST_ONCE, CANCEL_WANTED, HAS_DATA, NONE, Entry
from cronq.errors import BadConfig, BadJob, CronqError
from cronq.house import House, Now, Running, Shut
from cronq.inboxes import DATA
from cronq.log import line as log
from cronq.shelves import SHARD_DIGITS, SyncFailed

POLL = 1.0
DISK_PAUSE = 1.0
CONFIG_PAUSE = 1.0
PRUNE_EVERY = 60.0
SLICE_SECONDS = 0.020  # how long a turn is at what starts nothing: ending what expired, ripening, refusing, expanding
Waiting = list[tuple[dict[str, Any], list[int], Running]]


def turn(house: House, now: Now, rung: set[Any]) -> float:
    """Do what there is to do; how long to wait at most, in seconds."""
    house.urgent = False
    house.turns += 1
    if house.broken:
        return POLL
    waiting: Waiting = []
    try:
        settle.settle(house, now)
        attached.look(house, now)
        cancel.press(house, now)
        if not house.stopping:
            arrivals.admit(house, now, rung)
            fire.fire(house, now)
            ripen(house, now)
            depends.look(house, now)
        launch(house, now, waiting)
        freezing.press(house, now)
        house.pauses.save()
        written = len(house.history.lines)
        _flush(house, now)
        house.almanac.save()
        settle.publish(house, now)
        completion.finish(house, now)
        prune(house, now)
        send(house, now, waiting)
        waiting.clear()
        retention.turn(house, now, written)
        metricsfile.turn(house, now)
        house.history.flush(now.wall)
    except SyncFailed as error:
        house.broken = f"a flush failed ({error}); nothing is accepted or started until the disk is mended"
        log("broken", reason=house.broken)
        _abandon(waiting)
    except OSError as error:
        log("disk", reason=str(error))
        house.pause(now.mono + DISK_PAUSE, str(error))
        _abandon(waiting)
        return DISK_PAUSE
    return _patience(house, now)


def _flush(house: House, now: Now) -> None:
    """Make all moves of the turn durable: the one group sync. Raises `OSError`, `SyncFailed`."""
    began = time.monotonic() if house.history.lines or house.shelves.dirty else None
    house.history.flush(now.wall)
    house.shelves.sync()
    house.flushes += 1
    if began is not None:
        house.history.counts.flushes.add(time.monotonic() - began)


def _abandon(waiting: Waiting) -> None:
    """Attempts whose move is not known to be durable are not sent: unlocked and empty, they never started."""
    for _, descriptors, running in waiting:
        _close(descriptors)
        running.orphan = True


def _patience(house: House, now: Now) -> float:
    if house.urgent or house.settled or (house.backlog.waits.busy and not house.stopping):
        return 0.0
    due = house.backlog.next_due()
    seconds = min(POLL, retention.patience(house), metricsfile.patience(house, now))
    seconds = seconds if due is None else min(seconds, max(0.0, (due - now.micros) / 1e6))
    seconds = min(seconds, house.almanac.patience(now.wall), max(0.0, house.pauses.ends() - now.wall))
    opens = house.backlog.ready.next_wake()
    opens = house.opens if opens is None else min(opens, house.opens)
    seconds = min(seconds, max(0.001, opens - now.mono))
    if house.attached:
        seconds = min(seconds, max(0.001, house.attached_at - now.mono))
    for look in house.looks.values():
        seconds = min(seconds, max(0.001, look - now.mono))
    return seconds


def ripen(house: House, now: Now) -> None:
    """What expired ends; what became due is ready before anything is chosen: a slice of each, of all users in turn."""
    deadline = time.monotonic() + SLICE_SECONDS
    for state, entry in house.backlog.expired(now.micros):
        settle.expire(house, now, state, entry)
        if time.monotonic() > deadline:
            house.urgent = True
            break
    deadline = time.monotonic() + SLICE_SECONDS
    for entry in house.backlog.ripe(now.micros):
        house.move(now, "ripen", states.DELAYED, entry, entry)
        if time.monotonic() > deadline:
            house.urgent = True
            break


def prune(house: House, now: Now) -> None:
    """Once a minute, remove the empty directories of times gone by: each 17 seconds of jobs make one."""
    if now.mono < house.prune_at:
        return
    house.prune_at = now.mono + PRUNE_EVERY
    for state in SHARD_DIGITS:
        house.shelves.prune(state, now.micros)


def launch(house: House, now: Now, waiting: Waiting) -> None:
    """Start what may run; those whose move must be durable first go into `waiting`, to be sent then."""
    house.opens = float("inf")
    house.backlog.ready.wake(now.mono)
    for name in house.pauses.lapse(now.wall):
        log("resumed", gate=name, reason="its time has come")
    house.backlog.ready.age(house.config.agings)
    if house.stopping or now.mono < house.paused_until:
        return
    force.launch(house, now, waiting, start)
    cronrun.launch(house, now, waiting, start)
    if not len(house.backlog.ready):
        return
    choice = Choice(house, now)
    spent: Counter[int] = Counter()  # by submitter, the nanoseconds that went into what started nothing
    while now.mono >= house.paused_until:
        entry = choice.next()
        if entry is None:
            break
        began = time.monotonic_ns()
        if CANCEL_WANTED in entry.flags or entry.id in house.stops:  # one that never started was given back meanwhile
            cancel.cancel(house, now, states.READY, entry, at_once=False)
        elif 0 < entry.expires <= now.micros:  # a batch's member that was just made, or more expired than a turn ends
            settle.expire(house, now, states.READY, entry)
        elif entry.batch is not None:
            batches.expand(house, now, entry)
        elif blocked.decide(house, now, choice.gates, entry):
            pass
        elif (started := start(house, now, entry)) is not None:
            choice.started(entry)
            if AT_MOST_ONCE in entry.flags or pace.is_limited(house, entry):
                waiting.append(started)
            elif not send(house, now, [started]):
                choice.deaf.add((entry.task, entry.uid))
            continue
        spent[entry.uid] += time.monotonic_ns() - began
        if spent[entry.uid] > SLICE_SECONDS * 1e9:
            choice.rest(entry.uid)
            house.urgent = True


def start(house: House, now: Now, entry: Entry) -> tuple[dict[str, Any], list[int], Running] | None:
    """Make an attempt of a ready job: the message and the descriptors for its worker."""
    descriptors: list[int] = []
    try:
        wanted, plan, runner = _examine(house, entry, descriptors)
    except BadConfig as error:  # the administrator's to mend: its jobs wait, all others go on
        _close(descriptors)
        log("config-bad", id=entry.id, reason=error.sentence)
        house.lanes_closed[entry.task, entry.uid] = Shut(now.mono + CONFIG_PAUSE, error.sentence)
        return None
    except OSError as error:
        _close(descriptors)
        if isinstance(error, FileNotFoundError):
            settle.refuse(house, now, entry, states.READY, BadJob(str(error)))
            return None
        log("disk", id=entry.id, reason=str(error))  # no descriptor, no memory: in a while there is
        house.lanes_closed[entry.task, entry.uid] = Shut(now.mono + DISK_PAUSE, str(error))
        return None
    except CronqError as error:
        _close(descriptors)
        settle.refuse(house, now, entry, states.READY, error)
        return None
    reason = why_held(house, now, entry.uid, runner)
    if reason is not None and entry.tabled:
        _close(descriptors)
        settle.end_unstarted(house, now, "expire", states.READY, entry, reason)  # a later tick is another job
        return None
    if reason is not None:
        _close(descriptors)
        house.move(now, "hold", states.READY, entry, entry, cause=reason)
        log("held", id=entry.id, reason=reason)
        return None
    redelivered = entry.attempt > 0 or entry.crashes > 0 or entry.interruptions > 0
    changed = entry.but(attempt=entry.attempt + 1, runs_as=NONE if runner == entry.uid else runner)
    spent = pace.spend(house, now, changed)
    house.move(now, "start", states.READY, entry, changed, attempt=changed.attempt, uid=runner, rate=spent)
    running = house.running[entry.id] = Running(changed, wanted, plan)
    try:
        descriptors.insert(1, house.shelves.lock_outcome(changed))
        descriptors[2:2] = house.shelves.outputs(changed)  # before the payload, if there is one
    except OSError as error:
        _close(descriptors)
        settle.give_back(house, now, running, str(error))
        house.pause(now.mono + DISK_PAUSE, str(error))
        return None
    house.step("locked")
    message = {
        "do": "run",
        "id": entry.id,
        "attempt": changed.attempt,
        "redelivered": redelivered,
        "scheduled": admission.scheduled(entry, wanted),
        "hash": entry.hash,
        "data": HAS_DATA in entry.flags,
        "offset": entry.offset,
        "table": cronrun.table(house, entry),
        "status": not entry.tabled,
        "cursor": cursors.load(house.shelves, entry),
    }
    return message, descriptors, running


def _examine(house: House, entry: Entry, descriptors: list[int]) -> tuple[job.Job, task.Plan, int]:
    """The job, what it comes to, and who runs it; the file that proves it is opened. Raises `CronqError`."""
    if entry.tabled:
        return cronrun.examine(house, entry, descriptors)
    if entry.proof:
        descriptors.append(batches.open_batch(house, entry.proof))
    else:
        descriptors.append(house.shelves.open_entry(states.READY, entry))
    wanted = job.decode(settle.check_bytes(descriptors[0], entry))
    house.permit(wanted, entry.uid)
    runner = house.runner(entry.task, entry.uid)
    if HAS_DATA in entry.flags:
        owner = entry.uid if runner == entry.uid and not entry.event else house.shelves.uid
        try:
            descriptors.append(house.shelves.open_file(f"{DATA}/{entry.id}", owner)[0])
        except FileNotFoundError:
            raise BadJob("its input is gone: somebody removed it; submit it again") from None
    return wanted, house.plan(wanted), runner


def send(house: House, now: Now, started: Waiting) -> bool:
    """Hand attempts to their worker; whether it took them all.

    Our copies of the descriptors are closed at once, so the lock is the worker's.
    """
    all_sent = True
    for message, descriptors, running in started:
        worker = cronrun.worker(house, now, running.entry)
        sent = worker is not None and house.crew.run(worker, message, descriptors, now.mono)
        _close(descriptors)
        if sent and worker is not None and running.entry.line:
            mails.started(house, now, running.entry, worker.pid)
        house.step("sent")
        if not sent:
            all_sent = False
            settle.give_back(house, now, running, "its worker could not take it")
    return all_sent


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
