"""Blocked: what becomes of a job whose turn has come, but whose concurrency key is taken.

Does:    as its task's `on_block` says: it waits; it is discarded; it takes the place of what runs; or it stands for all
         that wait beside it. `undecided` says that there is something to do, `decide` does it, a slice a turn.
Reads:   what runs and waits.
Writes:  as `cancel` and `settle` do.
Trusts:  entries. Between jobs of different submitters there is only waiting: nobody ends another's job.
Fails:   never by itself.
"""

from __future__ import annotations

import time

from cronq import cancel, settle, states
from cronq.entry import CANCEL_WANTED, Entry
from cronq.gates import Gates
from cronq.house import House, Now
from cronq.limitkeys import COALESCE, DISCARD, REPLACE, WAIT

SLICE_SECONDS = 0.010


def undecided(house: House, gates: Gates, entry: Entry) -> bool:
    """Whether something must be done about a job whose key is taken."""
    what = _what(house, gates, entry)
    if what == REPLACE:
        return not house.backlog.ready.alone(entry) or bool(_to_end(house, gates, entry))
    return what == DISCARD or (what == COALESCE and not house.backlog.ready.alone(entry))


def decide(house: House, now: Now, gates: Gates, entry: Entry) -> bool:
    """Do it; False where the key is not taken, or it waits for it."""
    if gates.free(entry) or not undecided(house, gates, entry):
        return False
    what = _what(house, gates, entry)
    if what == DISCARD:
        _end(house, now, entry, f"discarded: {gates.holders(entry.group)[0].id} runs and has its concurrency key")
        return True
    row = house.backlog.ready.row(entry)
    kept = row[0] if what == COALESCE else max(row, key=lambda each: (each.due, each.id))
    said = f"coalesced: {kept.id} waits, and runs for it too" if what == COALESCE else f"replaced by {kept.id}"
    deadline = time.monotonic() + SLICE_SECONDS
    for each in row:
        if each is not kept:
            _end(house, now, each, said)
        if time.monotonic() > deadline:
            return True
    if what == REPLACE:
        for each in _to_end(house, gates, kept):
            cancel.cancel(house, now, states.RUNNING, each, at_once=False)
    return True


def _what(house: House, gates: Gates, entry: Entry) -> str:
    task = house.config.tasks.get(entry.task)
    if task is None or task.concurrency is None or any(each.uid != entry.uid for each in gates.holders(entry.group)):
        return WAIT
    return task.concurrency.on_block


def _to_end(house: House, gates: Gates, entry: Entry) -> list[Entry]:
    """What must end so that it fits, the earliest first, beyond what ends already."""
    left = gates.by_group[entry.group] + entry.weight - gates.key_limits.get(entry.task, 0)
    found = []
    for each in sorted(gates.holders(entry.group), key=lambda each: each.due):
        if left <= 0:
            break
        left -= each.weight
        running = house.running.get(each.id)
        if running is not None and CANCEL_WANTED not in running.entry.flags:
            found.append(running.entry)
    return found


def _end(house: House, now: Now, entry: Entry, reason: str) -> None:
    settle.end_unstarted(house, now, "cancel", states.READY, entry, reason)
