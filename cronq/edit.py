"""Editing: what a job's name carries may change until it starts: its priority, due time, queue, and when it expires.

Does:    `edit` has the job judged again as if it had been submitted with these fields, and changes its name alone: the
         file stays as it is. `reorder` gives an entry another place.
Reads:   the job's file.
Writes:  one rename and one line of the history.
Trusts:  nothing in the request: fields are read as a job file's are (`job.from_fields`), and what the task lets its
         submitter set holds, whoever edits.
Fails:   `BadJob` for a job that has started, or is none of its own; `NotPermitted`, `BadConfig`, as at admission.
"""

from __future__ import annotations

from typing import Any

from cronq import admission, cancel, job, states
from cronq.entry import START_NOW, Entry
from cronq.errors import BadJob, UsageError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES

KEYS = ("priority", "at", "delay", "queue", "expires")


def wanted(request: dict[str, Any]) -> dict[str, Any]:
    """The fields that a request changes. Raises `UsageError`."""
    found = {key: request[key] for key in KEYS if request.get(key) is not None}
    if not found:
        raise UsageError(f"say what to change: one of {', '.join(KEYS)}")
    return found


def edit(house: House, now: Now, state: str, entry: Entry, fields: dict[str, Any]) -> str:
    """Change a job that has not started; the state it is in then. Raises `CronqError`."""
    must_wait(state, entry, "edited", "edit the line")
    asked = job.fields(house.shelves.read(state, entry, MAX_JOB_BYTES))
    replaced = {key for pair in job.EXCLUDE if fields.keys() & pair for key in pair}
    judged = job.from_fields({key: value for key, value in asked.items() if key not in replaced} | fields)
    house.permit(judged, entry.uid)
    plan = house.plan(judged)
    changed = entry
    if "priority" in fields:
        changed = changed.but(priority=plan.priority)
    if "queue" in fields:
        changed = changed.but(queue=plan.queue)
    if "expires" in fields:
        changed = changed.but(expires=int((judged.expires or 0) * 1e6))
    if "at" in fields or "delay" in fields:
        due = judged.at if judged.at is not None else now.wall + (judged.delay or 0)
        due = min(max(due, now.wall), job.LAST_INSTANT)
        changed = changed.but(due=int(due * 1e6)).unflagged(START_NOW)
        if judged.expires is None and (late := admission.expires(house, judged, due)):  # so long after it is due
            changed = changed.but(expires=int(late * 1e6))
    admission.must_fit(changed)
    if changed == entry:
        return state
    cause = house.reasons.get(entry.id, "") if state == states.HELD else "edited"
    return reorder(house, now, state, entry, changed, cause, edit=fields)


def must_wait(state: str, entry: Entry, done: str, instead: str) -> None:
    """Refuse what is no job of its own that has not started; `done` to it is this. Raises `BadJob`."""
    if entry.batch is not None:
        raise BadJob(f"job {entry.id} is a batch; name its jobs ({entry.id}+1 …), as far as they are there")
    if state not in cancel.UNSTARTED:
        raise BadJob(f"job {entry.id} is {state}; only a job that has not started is {done}")
    if entry.tabled:
        raise BadJob(f"job {entry.id} is what a crontab's line made; {instead}")


def reorder(house: House, now: Now, state: str, older: Entry, changed: Entry, cause: str, **facts: Any) -> str:
    """Give a job that has not started another place; the state it is in then.

    What was due stays so where its time is not changed, whatever the clock was set to since.
    """
    is_due = changed.due <= now.micros
    if changed.due != older.due and (state, is_due) in _ELSEWHERE:
        return house.move(now, _ELSEWHERE[state, is_due], state, older, changed, cause=cause, **facts)
    house.shelves.rename(state, older, changed)
    house.backlog.put(state, changed)
    house.history.note(now.wall, older.id, state, state, cause=cause or None, **facts)
    return state


_ELSEWHERE = {(states.READY, False): "defer", (states.DELAYED, True): "ripen"}
