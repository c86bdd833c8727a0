"""Callbacks: the jobs that a batch's first line names, to run when the batch has come so far.

    {"jobs": 3, "on_success": {"task": "merge"}, "on_complete": {…}, "on_first_death": {…}}

Does:    a batch's first line -> how many jobs it says there are and the callbacks, each as the bytes of a job file;
         of an event that a callback is told, the variables of its environment.
Reads:   nothing but what it is handed. Standard library only: it is a worker's, who finds the job there by himself.
Trusts:  nothing in the line: `job.decode` judges each callback as any other job.
Fails:   `BadJob` with a sentence that begins with the callback's key.
"""

from __future__ import annotations

from cronq import job as jobs
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYS = tuple(f"on_{event}" for event in jobs.CALLBACKS)
_UNIQUE = ("unique", "unique_keys", "unique_until", "unique_for", "on_conflict")  # there is one of it anyway
_NOT = ("stdin", "after", "after_any", "after_fail", "batch", *_UNIQUE)


class Header:
    """What a batch's first line says."""

    __slots__ = ("callbacks", "jobs")

    def __init__(self, number: int | None, callbacks: dict[str, bytes]) -> None:
        self.jobs = number  # how many there are, where it says so
        self.callbacks = callbacks  # by event: the bytes of a job file


def header(line: bytes) -> Header | None:
    """What this line says, where it is a batch's first line and no job; None for any other. Raises `BadJob`."""
    try:
        said = jobs.parse_object(line, "the batch's first line")
    except BadJob:
        return None
    if not said or not set(said) <= {"jobs", *KEYS}:
        return None
    number = None if "jobs" not in said else jobs.whole("jobs", said["jobs"], 0, 10**9 - 1)
    return Header(number, {key.removeprefix("on_"): _job(key, said[key]) for key in KEYS if key in said})


def _job(key: str, said: Any) -> bytes:
    if not isinstance(said, dict):
        raise BadJob(f'{key} must be a job, like {{"task": "merge"}}, not {jobs.show(said)}')
    for name in said:
        if name in _NOT:
            raise BadJob(f"{key}: {name} is no key of a callback, which waits for its batch and is told of it")
    if None in said.values():
        raise BadJob(f"{key}: null is not a value; leave the key out")  # `encode` would
    return jobs.encode(said)


def wanted(start: bytes, event: str) -> bytes:
    """The bytes of a callback, from how its batch's file begins. Raises `BadJob`."""
    found = header(first_line(start))
    if found is None or event not in found.callbacks:
        raise BadJob(f"its batch has no on_{event}")
    return found.callbacks[event]


def first_line(start: bytes) -> bytes:
    """The first line that is not blank, of how a file begins."""
    return start.lstrip().partition(b"\n")[0]


def variables(job_id: str, spool: bytes) -> dict[bytes, bytes]:
    """What a batch's job, and a callback, has of its batch in its environment; nothing for any other job.

    CRONQ_BATCH_RESULTS is how the paths of the jobs' result directories begin: +1, +2 … comes after it.
    """
    batch, plus, line = job_id.partition("+")
    if not plus:
        return {}
    found = {b"CRONQ_BATCH_ID": batch.encode()}
    if line in jobs.CALLBACKS:
        found[b"CRONQ_BATCH_EVENT"] = line.encode()
        found[b"CRONQ_BATCH_RESULTS"] = b"%s/out/%s/%s" % (spool, batch.partition("-")[0].encode(), batch.encode())
    return found
