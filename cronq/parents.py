"""Parents: the jobs that another one names in `after`, `after_any`, `after_fail`, and how each of them has ended.

Does:    `end` tells how a job has ended; `unjudged` makes sure that those a new job names are known.
Reads:   the backlog, results; names in inboxes.
Trusts:  nothing in a job: it names jobs of its own submitter, or jobs that are unknown to him. Nothing of another's is
         looked for.
Fails:   `BadJob` for an id that is no job's.

No circle can come to be. A job names jobs that were taken before it; or one that is in the inbox still, whose generated
name must then sort before its own: of jobs that name each other in a circle one is always refused, and then all are.
"""

from __future__ import annotations

import json
import os

from cronq import after, inboxes, job, linux, spool, states
from cronq.errors import BadJob
from cronq.house import House
from cronq.job import Job


def end(house: House, job_id: str) -> str | None:
    """How this job has ended, None where it has not; `GONE` where nothing is known of it."""
    return house.backlog.waits.end(job_id, lambda asked: _look(house, asked))


def _look(house: House, job_id: str) -> str | None:
    found = house.backlog.find(job_id)
    if found is not None:
        return found[0] if found[0] in states.TERMINAL else None
    try:
        result = json.loads(house.shelves.result(job_id) or b"{}")
        state = result.get("state")
    except (ValueError, AttributeError):
        return after.GONE
    if isinstance(state, str):
        return after.IN_PART if state == states.DONE and result.get("exit_code") else state
    return None if _is_to_come(house, job_id) else after.GONE


def _is_to_come(house: House, job_id: str) -> bool:
    """Whether this is a member of a batch that is no entry of its own yet."""
    base, plus, line = job_id.partition("+")
    kept = house.backlog.find(base) if plus else None
    if kept is None or kept[1].batch is None or line in job.CALLBACKS:
        return False
    made, _, total = kept[1].batch
    return made < int(line) <= total and len(line) == len(str(total))


def unjudged(house: House, uid: int, name: str, wanted: Job) -> bool:
    """Whether a job that this one names is still to be judged: then this one is, after it. Raises `BadJob`.

    `name` is the one by which the job's file came.
    """
    for key in after.KEYS:
        for parent in getattr(wanted, key) or ():
            if int(parent.partition("-")[0]) != uid:
                raise _unknown(key, parent)
            if end(house, parent) != after.GONE:
                continue
            if not is_before(house, parent, name):
                raise _unknown(key, parent, house.backlog.named(uid, parent.partition("-")[2]))
            return True
    return False


def _unknown(key: str, parent: str, meant: str | None = None) -> BadJob:
    hint = f"; that is a name, which may come again: write {meant}" if meant is not None else ""
    return BadJob(f"{key} names the unknown job {job.show(parent, 120)}{hint}")


def is_before(house: House, parent: str, name: str) -> bool:
    """Whether a job is queued that is not judged yet, and comes before the one that names it."""
    base = parent.partition("+")[0]
    owner, _, other = base.partition("-")
    if job.name_time(other) is None or (job.name_time(name) is not None and other >= name):
        return False
    stays = any((int(owner), other + ending) in house.left for ending in spool.ENDINGS)
    return not stays and is_queued(house, base)


def is_queued(house: House, job_id: str) -> bool:
    """Whether a file of this name lies in its user's inbox still, or was taken and is being judged."""
    owner, _, name = job_id.partition("-")
    for ending in spool.ENDINGS:
        for path in (f"in/{owner}/{name}{ending}", f"{inboxes.CAPTURE}/{owner},{name}{ending}"):
            try:
                os.close(linux.open_inside(house.shelves.fd, path, os.O_PATH | os.O_NOFOLLOW))
            except OSError:
                continue
            return True
    return False
