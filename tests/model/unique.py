"""Of what there is one at a time: who keeps a unique key, and what becomes of another job that has it; a part of the
reference. It is asked once, when a job arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facts import UNFINISHED, UNSTARTED

if TYPE_CHECKING:
    from facts import Job
    from reference import Queue

ONLY_WAITING = ("requeue-once", "debounce")  # they ask for what has not started, and leave alone what runs


def keeps(job: Job) -> bool:
    """Whether a job keeps its key: until it starts, ends, or succeeds."""
    if job.until == "start":
        return job.state in UNSTARTED and not job.attempt and not job.crashes
    return job.state in UNFINISHED or (job.until == "success" and job.state in ("dead", "skipped"))


def keepers(queue: Queue, key: str) -> list[Job]:
    """Who keeps this key; those that can be replaced first."""
    own = [job for job in queue.jobs.values() if job.unique == key and keeps(job)]
    return sorted(own, key=lambda job: (job.state not in UNSTARTED, job.state != "running", job.id))


def moved(queue: Queue, job: Job) -> None:
    """What is put off again and again begins anew when nobody keeps its key."""
    if job.unique in queue.begun and not keepers(queue, job.unique):
        del queue.begun[job.unique]


def claim(queue: Queue, job: Job) -> bool:
    """Whether a new job takes its place; else another one stands for it, or it is refused."""
    if not job.unique:
        return True
    found = holder(queue, job)
    said = job.conflict
    if found is not None:
        if said.action not in ("replace", "debounce") or found.state not in UNSTARTED:
            return False
        places = {"due": job.due if "at" in said.parts else found.due}
        places["priority"] = job.priority if "priority" in said.parts else found.priority
        if "args" not in said.parts:
            queue.change(found, **places)
            return False
        begun = queue.begun.get(job.unique)
        queue.move(found, "cancelled", f"replaced by {job.id}")
        if begun is not None:
            queue.begun[job.unique] = begun
        job.inherits = not {"at", "priority"} <= set(said.parts)
        job.due, job.priority = places["due"], places["priority"]
    if said.action == "debounce":
        begun = queue.now if found is None else queue.begun.get(job.unique, queue.now)
        queue.begun[job.unique] = begun
        due = queue.now + said.wait
        job.due = max(job.due, due if said.longest is None else min(due, begun + said.longest))
    if job.lasts:
        queue.windows[job.unique] = job.due + job.lasts, job
    return True


def holder(queue: Queue, job: Job) -> Job | None:
    """With whom a new job conflicts. A throttle asks only how long ago the last one was due."""
    action = job.conflict.action
    for other in keepers(queue, job.unique) if action != "throttle" else ():
        if other.state != "running" or action not in ONLY_WAITING:
            return other
    until, last = queue.windows.get(job.unique, (0, None))
    return last if until > queue.now and action not in ONLY_WAITING else None
