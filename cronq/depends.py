"""Dependencies: a job that waits for others goes on when they have ended as it wants, or is skipped as soon as they
have ended otherwise; what was skipped waits again when that is no longer so, since somebody retried what had failed.

Does:    `look` at those whose turn it is (`after.Waits`), a slice a turn, of all users in turn.
Reads:   the backlog, results; of each job that waits its file, once, for what it waits for.
Writes:  moves, and the `result.json` of what is skipped.
Trusts:  where files lie, and nothing else: after a restart all that wait or were skipped are looked at again.
Fails:   `OSError` of the disk; then the same job is looked at again.
"""

from __future__ import annotations

import time

from cronq import after, completion, glance, parents, settle, states
from cronq.entry import WAITS, Entry
from cronq.history import named
from cronq.house import House, Now, encode
from cronq.job import Job
from cronq.log import line as log

SLICE_SECONDS = 0.020


def look(house: House, now: Now) -> None:
    """Let go on, skip, or let wait again whoever something may have changed for."""
    deadline = time.monotonic() + SLICE_SECONDS
    for job_id in house.backlog.waits.called():
        if time.monotonic() > deadline:
            house.urgent = True
            break
        found = house.backlog.find(job_id)
        if found is not None:
            _look(house, now, *found)


def _look(house: House, now: Now, state: str, entry: Entry) -> None:
    waits = house.backlog.waits
    if entry.id not in waits.needs:
        waits.add(entry.id, after.Needs.of(_read(house, state, entry)))
    found = after.judge(waits.needs[entry.id], lambda parent: parents.end(house, parent))
    if state == states.WAITING and found.hopeless:
        _skip(house, now, entry, found.hopeless)
    elif state == states.WAITING and not found.open:
        move = "defer" if entry.due > now.micros else "unblock"
        house.move(now, move, state, entry, entry.unflagged(WAITS))
    elif state == states.SKIPPED and not found.hopeless:
        completion.reopen(house, now, entry.parent)
        house.shelves.revive(entry)
        house.step("revived")
        house.move(now, "rejoin", state, entry, entry, cause="what it waits for was retried")
        log("rejoined", id=entry.id)
    elif state == states.SKIPPED and not glance.result(house, entry.id):  # a crash came before it
        _publish(house, now, entry, found.hopeless)


def _read(house: House, state: str, entry: Entry) -> Job:
    """The job, for what it waits for; where it is not to be had, nothing: it is refused when it is to start."""
    return settle.read(house, state, entry) or Job()


def _skip(house: House, now: Now, entry: Entry, reason: str) -> None:
    house.move(now, "skip", states.WAITING, entry, entry, cause=reason, **named(entry))
    house.step("skipped")
    _publish(house, now, entry, reason)
    house.tally(entry, states.SKIPPED)


def _publish(house: House, now: Now, entry: Entry, reason: str) -> None:
    facts = {**settle.describe(entry, _read(house, states.SKIPPED, entry)), "state": states.SKIPPED}
    ended = {"attempt": entry.attempt, "started": None, "ended": now.wall, "exit_code": None, "signal": None}
    house.shelves.publish(entry, encode({**facts, **ended, "reason": reason}))
    log("ended", id=entry.id, state=states.SKIPPED, reason=reason)
