"""What can be asked of a dispatcher: list, show, ids, cancel, retry, rm, about; `pastverbs`, `gateverbs` …

Does:    one generator a verb, which yields the objects of its answer. Where there is much to look through it yields
         None in between, so that whoever drives it can stop there and go on a turn later.
Reads:   the backlog; the job files of what is listed, results, reasons.
Writes:  as `cancel`, `house.move` and `shelves` do.
Trusts:  the caller to be who he is (`caller`). A job that is not his is unknown to him: the same sentence, and nothing
         of it is looked for.
Fails:   `CronqError`; a refusal that concerns one of several ids is an object of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from cronq import (
    arrivals,
    cancel,
    completion,
    edit,
    entryverbs,
    force,
    gateverbs,
    glance,
    job,
    parents,
    pastverbs,
    postmortem,
    states,
    tabverbs,
    whys,
    whyticks,
)
from cronq.caller import Caller
from cronq.entry import ATTACHED, CANCEL_WANTED, START_NOW, WAITS, Entry
from cronq.errors import BadJob, CronqError, Full, NotPermitted, UnknownJob, UsageError
from cronq.house import House, Now
from cronq.job import is_id, is_whole

Found = Iterator[dict[str, Any] | None]


class Ask:
    """One request: of which house, by whom, and when it is worked on."""

    def __init__(self, house: House, caller: Caller, request: dict[str, Any], now: Now) -> None:
        self.house = house
        self.caller = caller
        self.request = request
        self.now = now
        self.changes = False
        self._admitted = False

    def find(self, job_id: str) -> tuple[str, Entry] | None:
        """State and entry of a job below `queue/`; None for one that may have ended. Raises `UnknownJob`."""
        if not is_id(job_id) or not self.caller.may(owner(job_id)):
            raise unknown(job_id)
        found = self._kept(job_id)
        if found is None and not self._admitted and not self.house.stopping and not self.house.broken:
            self._admitted = True  # whoever was told "queued" may ask for it at once
            arrivals.admit(self.house, self.now, {("inbox", owner(job_id))})
            found = self._kept(job_id)
        return found

    def _kept(self, job_id: str) -> tuple[str, Entry] | None:
        backlog = self.house.backlog
        return backlog.find(job_id) or backlog.find(backlog.named(owner(job_id), job_id.partition("-")[2]) or "")

    def result(self, job_id: str) -> dict[str, Any]:
        """The result of a job that has ended. Raises `UnknownJob`, or `Full` for one that is not judged yet."""
        found = glance.result(self.house, job_id)
        if not found:
            base, plus, line = job_id.partition("+")
            kept = self.house.backlog.find(base) if plus else None
            batch = kept[1].batch if kept is not None and is_whole(line) else None
            if batch is not None and 0 < int(line) <= batch[2]:
                raise Full(f"job {job_id} waits in its batch still; ask for {base}")
            if parents.is_queued(self.house, job_id):
                raise Full(f"job {job_id} is queued, and has not been looked at yet; ask again in a moment")
            raise unknown(job_id)
        return found


def owner(job_id: str) -> int:
    """Whose job this is."""
    return int(job_id.partition("-")[0])


def unknown(job_id: str) -> UnknownJob:
    """What is said of an id that is no job's, and of another user's."""
    return UnknownJob(f"unknown job {job.show(job_id)}")


def answer(ask: Ask) -> Found:
    """What a request is told. Raises `CronqError`."""
    name = ask.request.get("do")
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise UsageError(f"unknown request {job.show(name)}")
    ask.changes = name in CHANGING
    if ask.changes and ask.house.broken:
        raise Full(ask.house.broken)
    return verb(ask)


# ---------------------------------------------------------------- looking


def _list(ask: Ask) -> Found:
    wanted = ask.request.get("states") or states.KEPT
    if not isinstance(wanted, list | tuple):
        raise UsageError("states must be a list")
    limit = pastverbs.limit(ask)
    yield pastverbs.sees(ask)
    left, whole = (1 << 60, glance.WHOLE) if limit is None else (limit, limit)
    for found in glance.over(ask.house, frozenset(map(str, wanted)), pastverbs.uids(ask), limit, whole):
        yield found
        left -= found is not None
        if left <= 0:
            return


def _show(ask: Ask) -> Found:
    job_id = str(ask.request.get("id"))
    kept = ask.find(job_id)
    found = glance.view(ask.house, *kept) if kept is not None else ask.result(job_id)
    if found.get("state") == states.DEAD:
        may = postmortem.may_read(ask.house, ask.caller.uid, found["id"])
        found |= postmortem.of(ask.house, found["id"], printed=may)
    yield found


def _ids(ask: Ask) -> Found:
    """The ids that end so, or of jobs that were given this name."""
    text = ask.request.get("like")
    if not isinstance(text, str) or not text:
        raise UsageError("like must be some text")
    yield from glance.alike(ask.house, text, pastverbs.uids(ask))


def _about(ask: Ask) -> Found:
    house = ask.house
    facts = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "cgroups": house.cgroups,
        "placing": house.placing,
        "broken": house.broken,
        "cron": house.config.cron_system,
        "paused": list(gateverbs.paused(ask)),
        **gateverbs.running(house),
    }
    yield facts | {"operators": house.config.operators, "operator": ask.caller.everything}


# ---------------------------------------------------------------- changing


def _each(ask: Ask, act: Callable[[str, Entry], str | dict[str, Any]]) -> Found:
    for job_id in pastverbs.meant(ask):
        if job_id is None:
            yield None
            continue
        try:
            kept = ask.find(job_id)
            if kept is None:
                kept = str(ask.result(job_id)["state"]), Entry(id=job_id, due=0)
            told = act(*kept)
            yield {"id": kept[1].id, **(told if isinstance(told, dict) else {"state": told})}
        except CronqError as error:
            yield {"id": job_id, "error": error.sentence, "code": error.exit_code}


def _cancel(ask: Ask) -> Found:
    at_once = bool(ask.request.get("now"))
    return _each(ask, lambda state, entry: cancel.cancel(ask.house, ask.now, state, entry, at_once))


def _retry(ask: Ask) -> Found:
    def act(state: str, entry: Entry) -> str:
        if state == states.SKIPPED:
            raise BadJob(f"job {entry.id} is skipped: retry what it waits for, and it waits again")
        if state != states.DEAD:
            raise BadJob(f"job {entry.id} is {state}; only a dead job is tried again")
        if entry.id not in ask.house.backlog:
            raise BadJob(f"job {entry.id} is no dead letter any more: its crontab's line has come again since")
        if CANCEL_WANTED in (ask.house.backlog.find(entry.parent) or ("", entry.but(flags="")))[1].flags:
            raise BadJob(f"batch {entry.parent} is being cancelled; retry its job when it has ended")
        completion.reopen(ask.house, ask.now, entry.parent)
        ask.house.shelves.revive(entry)
        anew = dict.fromkeys(("attempt", "crashes", "snoozes", "interruptions"), 0)
        anew["expires"] = entry.expires if entry.expires > ask.now.micros else 0  # whoever says so now wants it now
        changed = entry.but(**anew, due=ask.now.micros).unflagged(CANCEL_WANTED).unflagged(ATTACHED)
        return ask.house.move(ask.now, "revive", state, entry, changed, cause="retry", by=ask.caller.uid)

    return _each(ask, act)


def _hold(ask: Ask) -> Found:
    def act(state: str, entry: Entry) -> str:
        if state == states.HELD:
            return state
        if state not in cancel.UNSTARTED:
            raise BadJob(f"job {entry.id} is {state}; only a job that has not started can be held")
        why = "held by hand; cronq release lets it go on"
        return ask.house.move(ask.now, "hold", state, entry, entry.unflagged(START_NOW), cause=why, by=ask.caller.uid)

    return _each(ask, act)


def _release(ask: Ask) -> Found:
    def act(state: str, entry: Entry) -> str:
        if state != states.HELD:
            raise BadJob(f"job {entry.id} is {state}; only a held job is released")
        ask.house.crew.bars.clear()  # an account that was locked is looked at again, not in a while
        move = "await" if WAITS in entry.flags else "defer" if entry.due > ask.now.micros else "release"
        anew = bool(ask.request.get("anew"))  # to the end of its row, not to its original place
        changed = entry.but(due=max(entry.due, ask.now.micros)) if anew else entry
        cause = "released anew" if anew else "released"
        return ask.house.move(ask.now, move, state, entry, changed, cause=cause, by=ask.caller.uid)

    return _each(ask, act)


def _edit(ask: Ask) -> Found:
    fields = edit.wanted(ask.request)
    return _each(ask, lambda state, entry: edit.edit(ask.house, ask.now, state, entry, fields))


def _start(ask: Ask) -> Found:
    if not ask.caller.everything:
        raise NotPermitted("only root and operators ([control] operators in cronq.toml) start a job past its gates")
    alone = bool(ask.request.get("ignore_after"))
    return _each(ask, lambda state, entry: force.ask(ask.house, ask.now, state, entry, waits_for_nothing=alone))


def _rm(ask: Ask) -> Found:
    def act(state: str, entry: Entry) -> str:
        house = ask.house
        if state in (*cancel.UNSTARTED, states.RUNNING):
            raise BadJob(f"job {entry.id} is {state}; cancel it first")
        if (child := _waiting_for(house, entry.id)) is not None:
            raise BadJob(f"job {child} waits for it still, and would never know how it ended; cancel that first")
        batch = entry.proof if entry.event else ""
        if batch and (batch in house.backlog or house.shelves.result(batch)):
            raise BadJob(f"job {entry.id} is a callback of {batch}, and would run again; remove that first")
        if (call := next(completion.callbacks_of(house, entry.id), None)) is not None:
            raise BadJob(f"job {call} is a callback of it, and has not ended; wait for that, or cancel it first")
        house.remove(ask.now, state, entry)
        return "removed"

    return _each(ask, act)


def _waiting_for(house: House, job_id: str) -> str | None:
    children = ((child, house.backlog.find(child)) for child in house.backlog.waits.children(job_id))
    return next((child for child, kept in children if kept is not None and kept[0] != states.SKIPPED), None)


_OF_JOBS = ("cancel", "retry", "hold", "release", "edit", "start", "rm")
CHANGING = frozenset((*_OF_JOBS, "pause", "resume", "run", "drain", *tabverbs.VERBS))
VERBS: dict[str, Callable[[Ask], Found]] = {
    "list": _list,
    "show": _show,
    "ids": _ids,
    "about": _about,
    "cancel": _cancel,
    "retry": _retry,
    "hold": _hold,
    "release": _release,
    "edit": _edit,
    "start": _start,
    "rm": _rm,
    "why": whys.why,
    **whyticks.VERBS,
    **tabverbs.VERBS,
    **entryverbs.VERBS,
    **gateverbs.VERBS,
    **pastverbs.VERBS,
}
