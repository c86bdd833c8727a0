"""Claiming a key: at its acceptance, and only then, a unique job is compared with those that have the same key.

Does:    `claim` lets a new job pass, perhaps changed, or says which job stands for it; `recover` finds the windows of
         keys again.
Reads:   which keys are taken (`unique.Taken`); after a restart the history, and the files of jobs it does not tell of.
Writes:  ends an older job that a newer one replaces, before that has its place: a crash in between leaves the newer one
         captured, and it is judged again. What it takes over of the older one's place is written down before that.
Trusts:  nothing in the job: the key of another user's job counts only where a task says so, and nothing of that job is
         told then.
Fails:   `Same` where another job stands for it, `Duplicate` where there must be none.
"""

from __future__ import annotations

import json

from cronq import admission, edit, settle, spool, states, unique
from cronq.entry import WINDOW, Entry
from cronq.errors import Duplicate, Same
from cronq.house import House, Now
from cronq.job import Job
from cronq.uniquekeys import ATTACH, DEBOUNCE, REJECT, REPLACE, Conflict

PLACE = "place"  # in a job's result directory: when it is due and how urgent it is, if those are an older one's
_UNSTARTED = (states.READY, states.DELAYED, states.WAITING, states.HELD)


def claim(house: House, now: Now, entry: Entry, wanted: Job) -> Entry:
    """Take the job's key for it; its entry, as it is to be placed. Raises `Same`, `Duplicate`."""
    if not entry.unique:
        return entry
    taken, said = house.backlog.taken, wanted.on_conflict or Conflict()
    found = taken.holder(entry.unique, now.micros, said.action, entry.uid)
    if found is not None:
        entry = _conflict(house, now, entry, said, *found)
    elif said.action == REPLACE:
        entry = _inherit(house, entry)
    if said.action == DEBOUNCE:
        first = now.wall if found is None else taken.first.get(entry.unique, now.wall)
        taken.first[entry.unique] = first
        due = now.wall + said.wait
        if said.longest is not None:
            due = min(due, first + said.longest)
        entry = entry.but(due=max(entry.due, int(due * 1e6)))
    length = unique.window(wanted)
    if length is not None:
        taken.open(entry.unique, _until(entry, length), entry.id, now.micros)
    return entry


def _until(entry: Entry, length: float) -> int:
    return entry.due + int(length * 1e6)


def _conflict(house: House, now: Now, entry: Entry, said: Conflict, job_id: str, state: str) -> Entry:
    if int(job_id.partition("-")[0]) != entry.uid:
        raise Duplicate("another user's job has this unique key; submit it again when that has ended")
    how = f"is {state}" if state else "was submitted not long ago"
    if said.action == REJECT:
        raise Duplicate(f"job {job_id} has this unique key, and {how}")
    if said.action in (REPLACE, DEBOUNCE):
        kept = house.backlog.find(job_id)
        if kept is None or kept[0] not in _UNSTARTED:
            raise Duplicate(f"job {job_id} has this unique key, and {how}: too late to replace it")
        return _replace(house, now, entry, said, *kept)
    raise Same(f"job {job_id} has this unique key, and {how}: it stands for this one", job_id, said.action == ATTACH)


def _replace(house: House, now: Now, entry: Entry, said: Conflict, state: str, older: Entry) -> Entry:
    """Have the newer job in the older one's place; or of the older one only what is asked for changed."""
    due = entry.due if "at" in said.parts else older.due
    priority = entry.priority if "priority" in said.parts else older.priority
    if "args" in said.parts:
        first = house.backlog.taken.first.get(entry.unique)
        if not {"at", "priority"} <= set(said.parts):  # where it is killed before the newer one has it: see `_inherit`
            house.shelves.put_small(entry, PLACE, json.dumps({"due": due, "priority": priority}).encode() + b"\n")
        settle.end_unstarted(house, now, "cancel", state, older, f"replaced by {entry.id}")
        house.step("replaced")
        if first is not None:
            house.backlog.taken.first[entry.unique] = first
        return entry.but(due=due, priority=priority)
    changed = older.but(due=due, priority=priority)
    if changed != older:
        edit.reorder(house, now, state, older, changed, f"as {entry.id} wanted it")
    raise Same(f"job {older.id} has this unique key, and was changed instead", older.id, attached=True)


def _inherit(house: House, entry: Entry) -> Entry:
    """A newer job that is judged again: the one whose place it was to have has ended for it already."""
    try:
        place = json.loads(house.shelves.small(entry, PLACE))
    except ValueError:
        return entry
    return entry.but(due=place["due"], priority=place["priority"])


def recover(house: House, now: Now, windows: dict[str, tuple[int, str]]) -> None:
    """After a restart: until when keys are taken, as the history tells, or the job where a crash came before that."""
    taken = house.backlog.taken
    taken.windows = windows
    for job_id in [each for own in taken.holders.values() for each in own]:
        state, entry = house.backlog.find(job_id) or ("", None)
        if entry is not None and WINDOW in entry.flags and entry.unique not in taken.windows:
            _read_again(house, now, state, entry)


def _read_again(house: House, now: Now, state: str, entry: Entry) -> None:
    wanted = settle.read(house, state, entry)
    if wanted is None:
        return
    wanted = unique.adopt(wanted, house.config.tasks.get(entry.task))
    due = admission.due_of(wanted, spool.submitted(entry.id, entry.due))
    if wanted.on_conflict is not None and wanted.on_conflict.action == DEBOUNCE:
        due += wanted.on_conflict.wait
    begun = min(due, entry.due / 1e6)  # by a retry or an edit its own is later, and the key is not taken for longer
    until = int((begun + (unique.window(wanted) or 0.0)) * 1e6)
    if until > now.micros:
        house.backlog.taken.open(entry.unique, until, entry.id, now.micros)
        house.history.note(now.wall, entry.id, state, state, cause="restart", unique=entry.unique, window=until)
