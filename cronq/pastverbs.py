"""What is asked about many jobs at once: how many are in which state and queue, what has ended, what each task came to.

Does:    one generator a verb, as in `verbs`.
Reads:   the backlog; the history, in slices (`annals`, `figures`).
Trusts:  the caller to be who he is (`caller`). Of other users' jobs nothing is told, nor counted.
Fails:   `UsageError`, `NotPermitted`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cronq import annals, figures, gateverbs, glance, states
from cronq.entry import Entry
from cronq.errors import NotPermitted, UsageError
from cronq.house import House

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]


def uids(ask: Ask) -> list[int] | None:
    """Whose jobs are asked for; None for everybody's. Raises `NotPermitted`."""
    uid = ask.request.get("user")
    if not isinstance(uid, int):
        return None if ask.caller.everything else [ask.caller.uid]
    if not ask.caller.may(uid):
        raise NotPermitted("only root and operators ([control] operators in cronq.toml) see other users' jobs")
    return [uid]


def sees(ask: Ask) -> dict[str, Any]:
    """The first object of a list: whether it is of more than one user's jobs."""
    return {"sees": "all" if ask.caller.everything and ask.house.shelves.gid is not None else "own"}


def meant(ask: Ask) -> Iterator[str | None]:
    """The ids of the jobs that are meant: named one by one, or by state, task and time, at most so many.

    Raises `UsageError`, `NotPermitted`.
    """
    request = ask.request
    ids, wanted, limit = request.get("ids"), request.get("states"), request.get("limit")
    if isinstance(ids, list):
        yield from map(str, ids)
        return
    if not isinstance(wanted, list) or not wanted:
        raise UsageError("ids must be a list")
    left = limit if isinstance(limit, int) else 1 << 60
    task, since = request.get("task"), _instant(request.get("since"), 0.0)
    for found in glance.over(ask.house, frozenset(map(str, wanted)), uids(ask)):
        if left <= 0:
            return
        if found is None:
            yield None
        elif task in (None, found.get("task")) and (found.get("ended") or found.get("submitted") or 0.0) >= since:
            left -= 1
            yield str(found["id"])


def _stats(ask: Ask) -> Found:
    house, whose = ask.house, uids(ask)
    arrived = 0
    for found in glance.arrived(house, whose):
        if found is None:
            yield None
        else:
            arrived += found
    yield from house.history.ended.look()
    queues: dict[str, dict[str, Any]] = {}
    yield from _queues(ask, whose, queues)
    if whose is None:
        kept, ended = house.backlog.counts, house.history.ended.counts()
    else:
        kept, ended = house.backlog.counts_of(whose[0]), house.history.ended.counts(whose[0])
    paused = list(gateverbs.paused(ask))
    yield {"in": arrived, **kept, **ended, **({"paused": paused} if paused else {}), "queues": queues}


def _queues(ask: Ask, whose: list[int] | None, found: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Of each queue: how many are in which state, and for how long the oldest ready one has been due."""
    for state in states.KEPT:
        for number, entry in enumerate(_entries(ask.house, state, whose)):
            if number % glance.RUN == glance.RUN - 1:
                yield None
            queue = found.setdefault(entry.queue, {})
            queue[state] = queue.get(state, 0) + 1
            if state == states.READY:
                age = round(max(0.0, ask.now.wall - entry.due / 1e6), 3)
                queue["oldest_ready"] = max(age, queue.get("oldest_ready", 0.0))


def _entries(house: House, state: str, whose: list[int] | None) -> list[Entry]:
    return house.backlog.entries(state, None if whose is None else whose[0])


def _history(ask: Ask) -> Found:
    last = ask.request.get("last")
    yield sees(ask)
    for record in annals.ends(ask.house.history.folder, _wanted(ask), last if isinstance(last, int) else None):
        yield None if record is None else annals.told(record)


def _figures(ask: Ask) -> Found:
    yield from figures.figures(ask.house.history.folder, _wanted(ask))


def _wanted(ask: Ask) -> annals.Wanted:
    """Which lines of the history are asked for. Raises `UsageError`, `NotPermitted`."""
    request, whose = ask.request, uids(ask)
    wanted, task = request.get("states") or states.TERMINAL, request.get("task")
    if not isinstance(wanted, list | tuple) or not set(wanted) <= set(states.TERMINAL):
        raise UsageError(f"states must be a list of these: {', '.join(states.TERMINAL)}")
    if not isinstance(task, str | None):
        raise UsageError("task must be a name")
    since, until = (_instant(request.get(key), bound) for key, bound in (("since", 0.0), ("until", math.inf)))
    return annals.Wanted(None if whose is None else frozenset(whose), frozenset(wanted), task, since, until)


def _instant(value: object, bound: float) -> float:
    return value if isinstance(value, int | float) and value >= 0 else bound


VERBS = {"stats": _stats, "history": _history, "figures": _figures}
