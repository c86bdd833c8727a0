"""Looking over many jobs without holding anything up: in slices, with None between them.

Does:    `over` tells of the jobs in some states, `alike` which ids are meant by a text, `arrived` how much lies in the
         inboxes; `view` and `result` tell of one job, `named` what its name tells without a look at any file.
Reads:   the backlog; job files (`shelves.read`), results, reasons; the names in `out/`, `rejected/` and inboxes.
Trusts:  its caller to ask only for users whose jobs may be seen.
Fails:   never: what cannot be read, or has gone meanwhile, is told of as far as its name tells, or left out.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cronq import additions, after, inboxes, job, linux, parents, pauses, settle, spool, statement, states, task
from cronq.backlog import given_name
from cronq.entry import START_NOW, Entry
from cronq.errors import CronqError
from cronq.house import House
from cronq.job import MAX_JOB_BYTES, is_id
from cronq.shelves import STATUS

RUN = 2048  # names that are looked at or sorted at a time: about a millisecond
WHOLE = 1000  # jobs of which a list tells what their files say, where it is not said how many are wanted
_ORDER = (states.RUNNING, states.READY, states.DELAYED, states.WAITING, states.HELD, states.DEAD, states.SKIPPED)
_Item = TypeVar("_Item")
Found = Iterator[dict[str, Any] | None]


def over(
    house: House, wanted: frozenset[str], uids: list[int] | None, most: int | None = None, whole: int = WHOLE
) -> Found:
    """The jobs in these states: those that have not ended in the order of dispatch, then what ended, latest first.

    With `most` the first so many are enough, which of very many are found without sorting all of them. Of what is below
    `queue/` the files of `whole` jobs are read, of further ones it is told what their names say.
    """
    if states.QUEUED in wanted:
        for name in _names(house, "in", uids):
            split = inboxes.split(name[1]) if name is not None else None
            yield None if name is None or split is None else _bare(f"{name[0]}-{split[0]}", states.QUEUED)
    for entry in _kept(house, [state for state in _ORDER if state in wanted], uids, most):
        now = house.backlog.find(entry.id) if entry is not None else None
        if now is None or now[0] not in wanted:
            yield None
            continue
        yield view(house, *now) if whole > 0 else named(house, *now)
        whole -= 1
    if wanted.intersection(states.ENDED_IN_OUT):
        for job_id in _ended(house, uids):
            found = result(house, job_id) if job_id is not None and job_id not in house.backlog else {}
            yield found if found.get("state") in wanted else None
    if states.REJECTED in wanted:
        yield from _rejected(house, uids)


def _kept(house: House, wanted: list[str], uids: list[int] | None, most: int | None) -> Iterator[Entry | None]:
    """The entries of these states, state by state: the first ones, or all that there are now."""
    if most is None or most > RUN:
        for entries in [_entries(house, state, uids) for state in wanted]:
            yield from _ordered(entries, lambda each: each.order)
        return
    found: list[Entry] = []
    for state in wanted:
        of_state: list[Entry] = []
        if state == states.READY:
            of_state = house.backlog.first_ready(most - len(found), uids)
        else:
            for best in _first(_entries(house, state, uids), most - len(found)):
                of_state = best
                yield None
        found += of_state
        if len(found) == most:
            break
    yield from found


def _first(entries: list[Entry], most: int) -> Iterator[list[Entry]]:
    """The first so many in the order of dispatch, of all that were looked at so far: a run after the other."""
    best: list[Entry] = []
    for start in range(0, len(entries), RUN):
        run = entries[start : start + RUN]
        if len(best) == most:
            priority, due = best[-1].priority, best[-1].due
            run = [each for each in run if each.priority > priority or (each.priority == priority and each.due <= due)]
        best = heapq.nsmallest(most, best + run, key=lambda each: each.order) if run else best
        yield best


def _entries(house: House, state: str, uids: list[int] | None) -> list[Entry]:
    if uids is None:
        return house.backlog.entries(state)
    return [entry for uid in uids for entry in house.backlog.entries(state, uid)]


def _ordered(items: list[_Item], key: Callable[[_Item], Any]) -> Iterator[_Item | None]:
    """The items in order: sorted in runs, and the runs merged, so that no step of it takes long."""
    runs = []
    for start in range(0, len(items), RUN):
        runs.append(sorted(items[start : start + RUN], key=key))
        yield None
    yield from heapq.merge(*runs, key=key)


def _ended(house: House, uids: list[int] | None) -> Iterator[str | None]:
    """The ids that have a result directory, the latest first."""
    known = []
    for name in _names(house, "out", uids):
        if name is None:
            yield None
        elif is_id(name[1]):
            known.append(name[1])
    yield from _ordered(known, lambda job_id: (-(spool.time_of(job_id) or 0.0), job_id))


def _rejected(house: House, uids: list[int] | None) -> Found:
    for name in _names(house, "rejected", uids):
        filename = name[1].removesuffix(".reason") if name is not None and name[1].endswith(".reason") else ""
        split = inboxes.split(filename)
        reason = spool.reason(house.shelves.root, name[0], split[0]) if name is not None and split is not None else None
        if name is None or split is None or reason is None:
            yield None
        else:
            yield _bare(f"{name[0]}-{split[0]}", states.REJECTED) | {"reason": reason[0]}


def _names(house: House, top: str, uids: list[int] | None) -> Iterator[tuple[int, str] | None]:
    """The names in the users' directories below `top`, each with its uid.

    An inbox is its user's: nothing that is mounted there is waited for.
    """
    if uids is None and top == "in":
        uids = house.shelves.inboxes.uids()
    elif uids is None:
        uids = sorted(int(name) for name in os.listdir(f"{house.shelves.root}/{top}") if name.isdigit())
    for uid in uids:
        try:
            directory = _enter(house.shelves.fd, f"{top}/{uid}")
        except OSError:
            continue  # nothing of his is there, or it cannot be read
        try:
            with os.scandir(directory) as names:
                for number, each in enumerate(names):
                    if number % RUN == RUN - 1:
                        yield None
                    yield uid, each.name
        finally:
            os.close(directory)


def _enter(spool_fd: int, path: str) -> int:
    return linux.open_inside(spool_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def arrived(house: House, uids: list[int] | None) -> Iterator[int | None]:
    """What lies in the inboxes or has just been taken out of them: numbers to be summed."""
    for name in _names(house, "in", uids):
        if name is None:
            yield None
        elif inboxes.split(name[1]) is not None:
            yield 1
    owners = (name.partition(",")[0] for name in house.shelves.captured())
    yield sum(1 for owner in owners if uids is None or owner in map(str, uids))


def alike(house: House, text: str, uids: list[int] | None) -> Found:
    """The ids that end in this text, or whose jobs were given this name."""
    for state in states.KEPT:
        for number, entry in enumerate(_entries(house, state, uids)):
            if number % RUN == RUN - 1:
                yield None
            if entry.id.endswith(text) or given_name(entry) == text:
                yield {"id": entry.id, "state": state}
    for name in _names(house, "out", uids):
        if name is None:
            yield None
        elif name[1].endswith(text) and is_id(name[1]) and name[1] not in house.backlog:
            yield {"id": name[1], "state": None}


def result(house: House, job_id: str) -> dict[str, Any]:
    """What `result.json` of a job says; empty where there is none."""
    try:
        found = json.loads(house.shelves.result(job_id) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _bare(job_id: str, state: str) -> dict[str, Any]:
    return {"id": job_id, "uid": int(job_id.partition("-")[0]), "state": state, "submitted": spool.time_of(job_id)}


def named(house: House, state: str, entry: Entry) -> dict[str, Any]:
    """What is told of such a job without reading any of its files; `unread` says so."""
    wanted = job.Job(task=entry.task or None)
    return {
        **{key: value for key, value in settle.describe(entry, wanted).items() if value is not None},
        "state": state,
        "attempt": entry.attempt,
        "reason": house.reasons.get(entry.id),
        "unread": True,
    }


def view(house: House, state: str, entry: Entry) -> dict[str, Any]:
    """What is told of a job that is below `queue/`."""
    found = result(house, entry.id) if state in (states.DEAD, states.SKIPPED) else {}
    wanted = job.Job(task=entry.task or None)
    plan = None
    if entry.batch is None:
        try:
            wanted = job.decode(house.shelves.read(state, entry, MAX_JOB_BYTES))
            plan = task.plan(wanted, house.config.tasks)
        except (CronqError, OSError):
            pass
    needs = after.Needs.of(wanted)
    basic = {
        **settle.describe(entry, wanted),
        "state": state,
        "attempt": entry.attempt,
        "max_attempts": 1 + plan.retries if plan is not None else None,
        "started": None,
        "ended": None,
        "exit_code": None,
        "signal": None,
        "reason": house.reasons.get(entry.id),
        "cwd": wanted.cwd,
        **{key: list(ids) for key, ids in needs._asdict().items() if ids},
    }
    if state == states.WAITING:
        open_ones = after.judge(needs, lambda parent: parents.end(house, parent)).open
        basic["reason"] = f"waits for {after.names(open_ones)}" if open_ones else None
    waits = state == states.READY and START_NOW not in entry.flags
    if waits and (closed := house.pauses.closed(entry.queue, entry.task)):
        basic["reason"] = "; ".join(pauses.sentence(name, house.pauses.gates[name]) for name in closed)
    if state == states.RUNNING and not entry.tabled:
        basic |= statement.read(house.shelves.small(entry, STATUS))
    if entry.runner != entry.uid:
        basic["runs_as"] = entry.runner
    if entry.batch is not None:
        basic["jobs"] = additions.number(house.shelves, entry)
    return basic | found | {"state": state}
