"""Starting now: what an operator wants to run at once passes every gate but those that keep jobs apart.

Does:    `ask` marks a job in its name, so that neither a crash nor a restart forgets it, and says which gates it
         passes; `launch` starts what is marked as soon as a worker of its user is there. The mark goes with the end of
         the attempt, so only that one is started so.
Reads:   what runs, the configuration (`barriers`, `choosing`).
Writes:  the flag in the entry's name, and what `turn.start` does. A start is durable before it is made.
Trusts:  its caller to have asked whether somebody may (`verbs`).
Fails:   `BadJob` for what has started, is none of its own, or waits for another job and nobody said that it need not.

A mutex is passed by nothing: it is no limit, but a promise that two never run at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cronq import barriers, cancel, edit, settle, states
from cronq.choosing import Choice
from cronq.entry import CANCEL_WANTED, START_NOW, WAITS, Entry
from cronq.errors import BadJob
from cronq.house import House, Now, Running

STARTING = "starting"
CAUSE = "start --now"
_MOVES = {states.DELAYED: "ripen", states.HELD: "release", states.WAITING: "unblock"}
Started = tuple[dict[str, Any], list[int], Running]


def ask(house: House, now: Now, state: str, entry: Entry, *, waits_for_nothing: bool = False) -> dict[str, Any]:
    """Have a job that has not started start now, and say which gates it passes. Raises `BadJob`."""
    edit.must_wait(state, entry, "started now", "cronq run starts the line anew")
    if WAITS in entry.flags and not waits_for_nothing:
        raise BadJob(f"job {entry.id} waits for other jobs (cronq show); --ignore-after starts it all the same")
    closed = barriers.closed(house, now, state, entry)
    changed = entry.flagged(START_NOW).unflagged(WAITS)
    if state in _MOVES:
        house.move(now, _MOVES[state], state, entry, changed, cause=CAUSE)
    elif changed != entry:
        house.shelves.rename(state, entry, changed)
        house.backlog.put(state, changed)
        house.history.note(now.wall, entry.id, state, state, cause=CAUSE)
    passed = [each.why for each in closed if each.gate in barriers.PASSED]
    waits = [each.why for each in closed if each.gate not in (*barriers.PASSED, "worker")]
    return {"state": STARTING, "bypassed": passed} | ({"waits": waits} if waits else {})


def launch(
    house: House, now: Now, waiting: list[Started], start: Callable[[House, Now, Entry], Started | None]
) -> None:
    """Start what is marked; all of it goes into `waiting`, to be sent once that is durable."""
    for entry in sorted(house.backlog.forced.values(), key=lambda each: each.order):  # as it would be after a restart
        if now.mono < house.paused_until:
            break
        if CANCEL_WANTED in entry.flags or entry.id in house.stops:
            cancel.cancel(house, now, states.READY, entry, at_once=False)
        elif 0 < entry.expires <= now.micros:
            settle.expire(house, now, states.READY, entry)
        elif _is_alone(house, entry) and Choice(house, now).reachable(entry.task, entry.uid):
            started = start(house, now, entry)
            if started is not None:
                waiting.append(started)


def _is_alone(house: House, entry: Entry) -> bool:
    return not entry.key or all(each.entry.key != entry.key for each in house.running.values())
