"""Results that a power cut kept off the disk: the history has their outcomes, and they are written again.

Does:    at the first start after a boot, looks at the results of what ended in the last minutes before; one that is
         empty, or not whole, is made anew from the history's line and the job's file; where there is no such line, the
         job had not run, and it is cancelled with a reason that says so. The bytes of a result are not
         flushed when it is published, the history's are: so ending a job costs one flush a turn, not one a job.
Reads:   the end of the history; `out/<uid>/<id>/`.
Writes:  `result.json`, whole or not at all.
Trusts:  the history. A result that can be read stays as it is.
Fails:   `OSError` of the disk: the dispatcher does not start. Where the job's file cannot be read, it says less.
"""

from __future__ import annotations

import json
from typing import Any

from cronq import job, reboot, safeopen, settle, spool, states
from cronq.entry import Entry
from cronq.errors import CronqError
from cronq.house import House, Now, Running, Settled, encode
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log

LATELY = 600.0  # seconds before the last line; the kernel writes what is 30 s old
UNKNOWN = "it was cancelled, replaced or too late when the power went: which of them was not on disk yet"
_ENDS = (*states.ENDED_IN_OUT, states.DEAD)


def results(house: House, now: Now) -> None:
    """Write the results again that are not whole."""
    if not reboot.is_new(house.shelves):
        return
    told = house.history.lately(LATELY)
    since = max((record["t"] for record in told.values()), default=0.0) - LATELY
    for job_id in {*told, *house.shelves.results_since(since)}:
        record = told.get(job_id, {})
        if record.get("to") not in _ENDS:
            if not house.shelves.has_ended(job_id):
                continue
            # It ended without having run, and the power went before the turn's flush: nobody was told yet.
            record = {"t": now.wall, "to": states.CANCELLED, "cause": UNKNOWN, **_named(record)}
        if _ended(house, job_id) and not _whole(house.shelves.result(job_id)):
            found = _made(house, now, job_id, record)
            house.shelves.put_small(_entry(job_id, record), "result.json", encode(found))
            log("restored", id=job_id, state=record["to"])


def _named(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("task", "command", "queue") if key in record}


def _ended(house: House, job_id: str) -> bool:
    """Whether it is where the history says: else it is settled from there, or was removed."""
    kept = house.backlog.find(job_id)
    return kept[0] == states.DEAD if kept is not None else house.shelves.has_results(job_id)


def _whole(result: bytes) -> bool:
    """Whether it says how it ended: the bytes may still be those of the outcome file that became it (seen on btrfs)."""
    try:
        found = json.loads(result)
    except ValueError:
        return False
    return isinstance(found, dict) and "state" in found


def _made(house: House, now: Now, job_id: str, record: dict[str, Any]) -> dict[str, Any]:
    entry, wanted = _entry(job_id, record), _job(house, job_id, record)
    if "outcome" in record:
        try:
            plan = house.plan(wanted)
        except CronqError:  # its task has gone since
            plan = None
        settled = Settled(Running(entry, wanted, plan), settle.restored(record, now), record["outcome"])
        return settle.result(house, settled)
    facts = {**settle.describe(entry, wanted), "state": record["to"], "reason": record.get("cause")}
    facts |= {"attempt": entry.attempt, "started": None, "ended": record["t"], "exit_code": None, "signal": None}
    if "counts" in record:  # a batch
        left = record["jobs"] - record["counts"].get(states.DONE, 0)
        facts |= {"jobs": record["jobs"], "counts": record["counts"]}
        facts |= {"exit_code": int(bool(left)) if record["to"] == states.DONE else None}
        facts["reason"] = f"{left} jobs of the batch are not done" if left else None
    return facts


def _entry(job_id: str, record: dict[str, Any]) -> Entry:
    """Its entry, as far as the history tells: the file's name is gone."""
    started = record.get("outcome", {}).get("started")
    due = started - record["wait"] if started and record.get("wait") is not None else spool.time_of(job_id)
    micros = int((due or record["t"]) * 1e6)
    facts = {"queue": record.get("queue") or "default", "task": record.get("task") or ""}
    return Entry(id=job_id, due=micros, attempt=record.get("attempt", 0), **facts)


def _job(house: House, job_id: str, record: dict[str, Any]) -> job.Job:
    kept = house.backlog.find(job_id)
    try:
        if kept is not None:
            return job.decode(house.shelves.read(*kept, MAX_JOB_BYTES))
        with open(house.shelves.open_ended(job_id), "rb") as file:
            return job.decode(safeopen.read(file.fileno(), MAX_JOB_BYTES))
    except (CronqError, OSError):
        task = record.get("task")
        return job.Job(task=task) if task else job.Job(command=[record.get("command") or "?"])
