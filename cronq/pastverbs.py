"""What is asked about many jobs at once: how many are where, what has ended, what tasks came to; figures.

Does:    one generator a verb, as in `verbs`.
Reads:   the backlog; the history, in slices (`annals`, `figures`).
Trusts:  the caller to be who he is (`caller`). Of other users' jobs nothing is told, nor counted.
Fails:   `UsageError`, `NotPermitted`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cronq import annals, cancel, depths, figures, gateverbs, glance, measures, overview, states
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
    ids, wanted = request.get("ids"), request.get("states")
    if isinstance(ids, list):
        yield from map(str, ids)
        return
    if not isinstance(wanted, list) or not wanted:
        raise UsageError("ids must be a list")
    task, since = request.get("task"), _instant(request.get("since"), 0.0)
    most, left = limit(ask), limit(ask) or 1 << 60
    enough = most if task is None and not since else None
    for found in glance.over(ask.house, frozenset(map(str, wanted)), uids(ask), enough, whole=0):
        if found is None or task not in (None, found.get("task")) or not _is_since(ask.house, found, since):
            yield None
            continue
        yield str(found["id"])
        left -= 1
        if left <= 0:
            return


def _is_since(house: House, found: dict[str, Any], since: float) -> bool:
    """Whether a job ended since then; one that has not, whether it was submitted."""
    if (found.get("submitted") or 0.0) >= since:
        return True
    if found.get("unread") and found["state"] in states.TERMINAL:
        found = glance.result(house, found["id"])
    return (found.get("ended") or 0.0) >= since


def limit(ask: Ask) -> int | None:
    """How many jobs are wanted; None for all of them."""
    most = ask.request.get("limit")
    return most if isinstance(most, int) and most > 0 else None


def _stats(ask: Ask) -> Found:
    house, whose = ask.house, uids(ask)
    arrived = 0
    for found in glance.arrived(house, whose):
        if found is None:
            yield None
        else:
            arrived += found
    yield from house.history.ended.look()
    queues = _queues(ask, whose)
    if whose is None:
        kept, ended = house.backlog.counts, house.history.ended.counts()
    else:
        kept, ended = house.backlog.counts_of(whose[0]), house.history.ended.counts(whose[0])
    paused = list(gateverbs.paused(ask))
    yield {"in": arrived, **kept, **ended, **({"paused": paused} if paused else {}), "queues": queues}


def _queues(ask: Ask, whose: list[int] | None) -> dict[str, dict[str, Any]]:
    """Of each queue: how many are in which state, and for how long the oldest ready one has been due."""
    found: dict[str, dict[str, Any]] = {}
    uid = None if whose is None else whose[0]
    for (queue, state), number in ask.house.backlog.queues(uid):
        found.setdefault(queue, {})[state] = number
    for queue, due in ask.house.backlog.oldest_ready(uid).items():
        found[queue]["oldest_ready"] = round(max(0.0, ask.now.wall - due / 1e6), 3)
    return found


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


def _metrics(ask: Ask) -> Found:
    """The text for Prometheus, some lines an object."""
    whose = uids(ask)
    for piece in measures.text(ask.house, lambda: ask.now, None if whose is None else whose[0]):
        yield None if piece is None else {"text": piece}


def _overview(ask: Ask) -> Found:
    """What `cronq top` shows of jobs, as one object."""
    whose = uids(ask)
    yield from overview.overview(ask.house, lambda: ask.now, None if whose is None else whose[0])


def _ages(ask: Ask) -> Found:
    """How long jobs have waited: a row for each queue, task or user."""
    by, state, whose = ask.request.get("by", "queue"), ask.request.get("state", states.READY), uids(ask)
    if by not in ("queue", "task", "user") or state not in cancel.UNSTARTED:
        raise UsageError("ages are told by queue, task or user, of ready, delayed, waiting or held jobs")
    yield from depths.ages(ask.house, ask.now, str(by), str(state), None if whose is None else whose[0])


VERBS = {
    "stats": _stats,
    "ages": _ages,
    "history": _history,
    "figures": _figures,
    "metrics": _metrics,
    "overview": _overview,
}
