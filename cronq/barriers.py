"""Barriers: what keeps a job from starting now, all of it; `cronq why` tells it.

Does:    `closed` gives every gate that is closed for a job that has not started: which, why, which jobs hold it so, and
         when it opens, or opens at the latest.
Reads:   what `choosing`, `cronrun` and `turn.launch` go by, at this instant; outcome files of those who hold a gate.
Trusts:  entries. It tells of everybody's jobs: who may see which, its caller must ask.
Fails:   never.

Each room that can keep a job from starting has one function here, and they stand together in `GATES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cronq import after, cronrun, pace, parents, pauses, settle, states, underway
from cronq.choosing import Choice, why_held
from cronq.crew import MOST_UNANSWERED
from cronq.entry import PUT_OFF, START_NOW, WAITS, Entry
from cronq.errors import BadConfig, CronqError
from cronq.gates import Gates
from cronq.house import House, Now
from cronq.states import READY

# Gates that what is to start now passes (`force`), whoever holds them.
_OWN, _SHARED = ("held", "delay", "after", "after_any", "after_fail"), ("paused", "pressure", "rate")
PASSED = frozenset((*_OWN, *_SHARED, "max_jobs", "max_jobs_per_user", "slots", "limit", "concurrency"))
SHUT_AGAIN = 1.5  # seconds in which a lane that was shut is tried once more, and shut again


class Barrier(NamedTuple):
    """A gate that is closed. Times are of the wall clock; None where nobody can tell."""

    gate: str
    why: str
    holders: tuple[str, ...] = ()  # jobs
    over: int = 0  # how much weight of those who hold it must go
    opens: float | None = None


def closed(house: House, now: Now, state: str, entry: Entry) -> list[Barrier]:
    """Every gate that is closed for a job which has not started."""
    passed = PASSED if START_NOW in entry.flags else frozenset()
    entry = entry.unflagged(START_NOW)
    if entry.batch is not None:  # it starts nothing by itself, so it passes no queue's gates
        entry = entry.but(queue="", weight=0)
    found = [each for gate in GATES for each in gate(house, now, state, entry) if each.gate not in passed]
    if found or entry.batch is not None:
        return found
    return list(_worker(house, entry))  # while others are closed, nobody asks for one


def beside(house: House, now: Now, entry: Entry, gates: Gates) -> set[str]:
    """The gates that are closed for a ready job, by name: for whoever counts many, and has the `gates` of a turn."""
    if START_NOW in entry.flags:
        return set()
    found = {each.gate for gate in GATES if gate not in (_itself, _room) for each in gate(house, now, READY, entry)}
    return found | {each.gate for each in gates.closed(entry)}


def gates_of(house: House, now: Now, entry: Entry) -> Gates:
    """What is beside it now, and for whom room is kept."""
    if entry.tabled:
        return cronrun.gates_of(house)
    choice = Choice(house, now)
    choice.next()  # as a turn would: then it is known for whom room is kept
    return choice.gates


def until(house: House, job_id: str) -> float | None:
    """When a job that holds a gate goes at the latest."""
    running = house.running.get(job_id)
    return None if running is None else underway.until(house, running)


def _dispatcher(house: House, now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    if house.broken:
        yield Barrier("dispatcher", house.broken)
    if house.stopping:
        yield Barrier("dispatcher", "the dispatcher is stopping; the next one goes on")
    if now.mono < house.paused_until:
        why = f"the disk refuses: {house.paused_why}"
        yield Barrier("disk", why, opens=_wall(now, house.paused_until))
    if entry.tabled and not house.tables.ready:
        yield Barrier("crontabs", "the crontabs are being read still")


def _itself(house: House, now: Now, state: str, entry: Entry) -> Iterator[Barrier]:
    """What it waits for by itself: a time, other jobs, somebody who releases it, its own jobs."""
    if state == states.HELD:
        yield Barrier("held", house.reasons.get(entry.id) or "it is held; cronq release lets it go on")
    if entry.due > now.micros and state != states.READY:
        why = "it is not due yet"
        if PUT_OFF in entry.flags:
            why = "it put itself off"
        elif entry.attempt or entry.crashes or entry.interruptions:
            why = "its next attempt is not due yet"
        yield Barrier("delay", why, opens=entry.due / 1e6)
    if WAITS in entry.flags:
        yield from _parents(house, state, entry)
    if entry.batch is not None and entry.id not in house.backlog.ready and state == states.READY:
        unfinished = house.backlog.unfinished(entry.id)
        why = f"{len(unfinished)} of its jobs wait already; the next are made when some of them have ended"
        yield Barrier("batch", why, (*unfinished,))


def _parents(house: House, state: str, entry: Entry) -> Iterator[Barrier]:
    needs = house.backlog.waits.needs.get(entry.id)
    if needs is None:
        wanted = settle.read(house, state, entry)
        needs = after.Needs() if wanted is None else after.Needs.of(wanted)
    for parent in after.judge(needs, lambda asked: parents.end(house, asked)).open:
        kept = house.backlog.find(parent)
        to = "be done" if parent in needs.after else "end" if parent in needs.after_any else "fail"
        where = "not made yet of its batch" if kept is None else kept[0]
        opens = kept[1].due / 1e6 if kept is not None and kept[0] == states.DELAYED else None
        key = "after" if parent in needs.after else "after_any" if parent in needs.after_any else "after_fail"
        yield Barrier(key, f"it waits for {parent} to {to}, which is {where}", (parent,), opens=opens)


def _paused(house: House, _now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    for name in house.pauses.closed(entry.queue, entry.task):
        pause = house.pauses.gates[name]
        opens = pause.until if pause.until != pauses.FOR_EVER else None
        yield Barrier("paused", pauses.sentence(name, pause), (pause.job,) if pause.job else (), opens=opens)


def _pressure(house: House, now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    said = house.config
    reason = "" if entry.tabled else house.pressure.reason(now.mono, said.max_load, said.min_free_memory)
    if reason:
        yield Barrier("pressure", f"the machine has no room for more: {reason}")


def _room(house: House, now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    """What runs beside it, and what is kept for those before it."""
    for each in gates_of(house, now, entry).closed(entry):
        yield Barrier(each.gate, each.why, tuple(each.holders), each.over)
    first = cronrun.yields_to(house, now, entry, []) if entry.tabled else ""
    if first:
        yield Barrier("mutex", "a job of its mutex comes before it, and starts now", (first,))


def _rates(house: House, now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    for what, opens in pace.closed(house, now, entry):
        why = f"the rate of {what} lets the next one start later"
        yield Barrier("rate", why, opens=_wall(now, opens))


def _lane(house: House, now: Now, _state: str, entry: Entry) -> Iterator[Barrier]:
    """What its task and its users need: a configuration that holds, an account, a worker."""
    if entry.batch is not None:
        return
    shut = house.lanes_closed.get((entry.task, entry.uid))
    if shut is not None and now.mono < shut.until + SHUT_AGAIN:
        yield Barrier("configuration", f"{shut.why}; it is tried again until that is mended")
        return
    try:
        runner = house.runner(entry.task, entry.uid)
    except BadConfig as error:
        yield Barrier("configuration", f"{error.sentence}; it is tried again until that is mended")
        return
    except CronqError:
        return  # it is refused when its turn comes
    held, bar = why_held(house, now, entry.uid, runner), house.crew.barred(runner, now.mono)
    if held is not None:
        yield Barrier("account", held)
    elif bar is not None:
        yield Barrier("worker", f"its user has no worker: {bar.reason}", opens=_wall(now, bar.until))


def _worker(house: House, entry: Entry) -> Iterator[Barrier]:
    try:
        worker = house.crew.current.get(house.runner(entry.task, entry.uid))
    except CronqError:
        return
    if worker is None or worker.condemned or len(worker.unanswered) >= MOST_UNANSWERED:
        yield Barrier("worker", "its user's worker is being started, or has no room for more")


def _wall(now: Now, mono: float) -> float:
    return now.wall + mono - now.mono


Gate = Callable[[House, Now, str, Entry], Iterator[Barrier]]
# A room that is new to keep jobs from starting tells it by a function of its own, in its place here.
GATES: tuple[Gate, ...] = (_dispatcher, _itself, _paused, _pressure, _room, _rates, _lane)
