"""Completion: how a batch ends, what runs then, and how it is open again.

Does:    `finish` ends a batch when all its members are entries no more, and has its callbacks run: `on_first_death` as
         soon as a member is dead, `on_complete` and `on_success` when it ends; each of them once for ever, by its id.
         `reopen` takes a batch up again of which a dead member is retried; `recover` finds after a restart what was to
         be told.
Reads:   the batch's first line; where its members, and what was added, are; for a tally after a restart, their results,
         a slice a turn.
Writes:  callbacks' files, what they are told as their data (`queue/data`), the batch's `result.json`.
Trusts:  where files lie. Nothing is counted down: a batch is over when no member is unfinished. Callbacks are durable a
         turn before the batch that they belong to has ended, so a crash at any step neither loses nor doubles one.
Fails:   a callback that may not be (its task has gone since) is set down as refused, and the batch ends all the same.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator

from cronq import additions, batches, callbacks, job, mails, safeopen, spool, states
from cronq.admission import entry_of, judged
from cronq.entry import CALLS, CANCEL_WANTED, HAS_DATA, Entry, digest
from cronq.errors import BadJob, CronqError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log

SLICE_SECONDS = 0.020
SUCCESS, COMPLETE, FIRST_DEATH = job.CALLBACKS


def finish(house: House, now: Now) -> None:
    """Tell of the first death, end what is over: computed from where members are, never counted down."""
    for batch_id, member_id in list(house.deaths.items()):
        _, entry = house.backlog.find(batch_id) or ("", None)
        if entry is not None:
            _call(house, now, entry, FIRST_DEATH, {"dead": member_id})
        del house.deaths[batch_id]
    deadline = time.monotonic() + SLICE_SECONDS
    over = house.backlog.over()
    additions.forget(house, over)
    for entry in over:
        if not additions.may_end(house, entry):
            continue
        tally = _tally(house, entry, deadline)
        if tally is None:
            house.urgent = True
        elif _call_all(house, now, entry, tally):
            house.urgent = True  # it ends when they are durable
        else:
            _end(house, now, entry, tally)


def _end(house: House, now: Now, entry: Entry, tally: dict[str, int]) -> None:
    cancelled = CANCEL_WANTED in entry.flags
    total = sum(tally.values())
    left = total - tally.get(states.DONE, 0)
    reason = f"{left} jobs of the batch are not done" if left else None
    found = {
        "id": entry.id,
        "uid": entry.uid,
        "jobs": total,
        "queue": entry.queue,
        "counts": tally,
        "state": states.CANCELLED if cancelled else states.DONE,
        "priority": entry.priority,
        "submitted": spool.submitted(entry.id, entry.due),
        "due": entry.due / 1e6,
        "ended": now.wall,
        "exit_code": None if cancelled else int(bool(left)),
        "signal": None,
        "reason": f"cancelled; {reason}" if cancelled and reason else reason,
    }
    facts = {"jobs": total, "queue": entry.queue, "counts": tally}
    house.end(now, "stop" if cancelled else "finish", states.RUNNING, entry, found, **facts)
    house.tallies.pop(entry.id, None)
    log("ended", id=entry.id, state=found["state"], jobs=total)


# -------------------------------------------------------------------- how the members ended


def _tally(house: House, entry: Entry, deadline: float) -> dict[str, int] | None:
    """How many members ended how; None where it is not known yet (deadline: monotonic)."""
    assert entry.batch is not None  # noqa: S101 - the caller looked
    made, _, total = entry.batch
    tally = house.tallies.get(entry.id, {})
    added = additions.of(house.shelves, entry.id)
    if sum(tally.values()) != made + len(added):  # a restart in between: what the members' results say
        lines = (f"{entry.id}+{number:0{len(str(total))}d}" for number in range(1, made + 1))
        counting = house.counting.setdefault(entry.id, (itertools.chain(lines, added), Counter()))
        for member_id in counting[0]:
            counting[1][_ended(house, member_id)] += 1
            if time.monotonic() > deadline:
                return None
        del house.counting[entry.id]
        tally = house.tallies[entry.id] = dict(counting[1])
    tally = {state: number for state, number in tally.items() if number}
    if made < total:  # it was cancelled before they were made
        tally[states.CANCELLED] = tally.get(states.CANCELLED, 0) + total - made
    return tally


def _ended(house: House, member_id: str) -> str:
    """How a member has ended."""
    kept = house.backlog.find(member_id)
    if kept is not None:
        return kept[0]
    found = house.shelves.result(member_id)
    try:
        return str(json.loads(found)["state"]) if found else states.REJECTED
    except (ValueError, KeyError, TypeError):
        return states.REJECTED


# -------------------------------------------------------------------- callbacks


def _call_all(house: House, now: Now, entry: Entry, tally: dict[str, int]) -> bool:
    """Have the callbacks of a batch run that is over; whether there was one that had not been made."""
    counts: dict[str, object] = {"counts": tally}
    made = states.DEAD in tally and _call(house, now, entry, FIRST_DEATH, {})
    made |= _call(house, now, entry, COMPLETE, counts)
    if tally.get(states.DONE) == sum(tally.values()):
        made |= _call(house, now, entry, SUCCESS, counts)
    return made


def _call(house: House, now: Now, batch: Entry, event: str, told: dict[str, object]) -> bool:
    """Make the callback of this event, unless the batch has none, or it has been made; whether it was made now."""
    job_id = f"{batch.id}+{event}"
    if CALLS not in batch.flags or job_id in house.backlog or house.shelves.result(job_id):
        return False
    try:
        data = callbacks.wanted(_first_line(house, batch.id), event)
    except BadJob:  # it names none
        return False
    try:
        entry = entry_of(house, job_id, judged(data, young=False), digest(data), now.wall).flagged(HAS_DATA)
    except CronqError as error:
        log("callback-refused", id=job_id, reason=error.sentence)
        house.history.note(now.wall, job_id, states.QUEUED, states.REJECTED, cause=error.sentence)
        house.shelves.give_reason(batch.uid, f"{job_id.partition('-')[2]}.job", spool.reason_text(error))
        return False
    said = {"batch": batch.id, "event": event, "jobs": additions.number(house.shelves, batch), **told}
    said["results"] = f"{house.shelves.root}/out/{batch.uid}/{batch.id}"
    house.step("over")
    mails.send(house, now, entry, data, [json.dumps(said).encode() + b"\n"], f"{event} of {batch.id}")
    house.step("called")
    log("callback", id=job_id)
    return True


def _first_line(house: House, batch_id: str) -> bytes:
    """How the batch's file begins. Raises `BadJob`."""
    descriptor = batches.open_batch(house, batch_id)
    try:
        return safeopen.read(descriptor, MAX_JOB_BYTES)
    finally:
        os.close(descriptor)


def callbacks_of(house: House, batch_id: str) -> Iterator[str]:
    """The ids of a batch's callbacks that have not ended."""
    for event in job.CALLBACKS:
        kept = house.backlog.find(f"{batch_id}+{event}")
        if kept is not None and kept[0] not in states.TERMINAL:
            yield f"{batch_id}+{event}"


# -------------------------------------------------------------------- again


def reopen(house: House, now: Now, batch_id: str) -> None:
    """Have a batch run again that has ended, since a dead member of it is retried: its end is computed anew.

    One that was cancelled stays so; one that has been removed is gone.
    """
    if not batch_id or batch_id in house.backlog:
        return
    try:
        found = json.loads(house.shelves.result(batch_id) or b"{}")
        total = int(found["jobs"]) - len(additions.of(house.shelves, batch_id))
        due, counts = int(found["submitted"] * 1e6), dict(found["counts"])
        start = _first_line(house, batch_id)
        header = callbacks.header(callbacks.first_line(start))
    except (BadJob, ValueError, KeyError, TypeError):
        return
    if found.get("state") != states.DONE:
        return
    flags = CALLS if header is not None and header.callbacks else ""
    entry = Entry(id=batch_id, due=due, priority=found.get("priority", 0), flags=flags, batch=(total, 0, total))
    house.shelves.reopen(entry, states.target("reopen", states.DONE))
    house.step("reopened")
    house.shelves.revive(entry)
    house.backlog.put(states.RUNNING, entry)
    house.tallies[batch_id] = counts
    house.history.note(now.wall, batch_id, states.DONE, states.RUNNING, move="reopen", cause="retry")


def recover(house: House) -> None:
    """After a restart: of which batches somebody may still be to be told that a member is dead."""
    for entry in house.backlog.entries(states.DEAD):
        kept = house.backlog.find(entry.parent)
        if kept is not None and CALLS in kept[1].flags:
            house.deaths.setdefault(entry.parent, entry.id)
