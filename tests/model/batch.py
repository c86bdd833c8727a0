"""Batches: many jobs as one, made as they are needed, and what runs when one has come so far; a part of the reference.

A batch's jobs are its members, of which only so many wait at a time, and those that were added to it meanwhile.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from facts import UNFINISHED, Job

if TYPE_CHECKING:
    from reference import Queue


def waiting(batch: Job) -> int:
    """How many of its members are jobs of their own, and have not ended."""
    return sum(member.state in UNFINISHED for member in batch.members[: batch.made])


def has_begun(batch: Job) -> bool:
    """Whether there is more to it than a file: its end is told then, however it comes."""
    return bool(batch.made or batch.added or batch.calls or batch.state == "running")


def takes(queue: Queue, job: Job) -> bool:
    """Whether a batch takes one more job: until it is cancelled or has ended, or its end was told to another job."""
    told = [event for event in ("success", "complete") if f"{job.parent.id}+{event}" in queue.jobs]
    return job.parent.state in UNFINISHED and not job.parent.cancel and not told


def expand(queue: Queue, batch: Job) -> None:
    """Make its next members."""
    most = min(waiting(batch) + queue.says.window, queue.says.most)
    while batch.made < len(batch.members) and waiting(batch) < most:
        member = batch.members[batch.made]
        batch.made += 1
        queue.jobs[member.id] = member
        member.state = "delayed" if member.due > queue.now else "ready"
    if batch.made == len(batch.members):
        queue.move(batch, "running")


def cancel(queue: Queue, batch: Job) -> None:
    """All of its jobs are cancelled, and no more are made."""
    batch.cancel = True
    if batch.state in ("held", "delayed"):
        queue.move(batch, "ready")
    if batch.state == "ready":
        queue.move(batch, "running")
    for job in (*batch.members[: batch.made], *batch.added):
        queue.cancelled(job)


def reopen(queue: Queue, batch: Job | None) -> None:
    """A job of it that was dead is to be tried again."""
    if batch is not None and batch.state == "done":
        queue.move(batch, "running")
        batch.reopened = True


def look(queue: Queue, over: list[Job]) -> None:
    """Tell of the first death; end what is over."""
    for job in over:
        if job.state == "dead" and job.parent is not None and job.parent.state in UNFINISHED:
            call(queue, job.parent, "first_death")
    for batch in [job for job in queue.of("running") if job.members]:
        open_ones = waiting(batch) or any(job.state in UNFINISHED for job in batch.added)
        if not open_ones and not called(queue, batch):
            done = all(job.state == "done" for job in (*batch.members, *batch.added))
            queue.move(batch, "cancelled" if batch.cancel else "done", "" if done else "in part")


def called(queue: Queue, batch: Job) -> bool:
    """Whether a batch that is over has a job to make first: it ends when that is safe."""
    ends = {job.state for job in (*batch.members, *batch.added)}
    events = ["first_death"] * ("dead" in ends) + ["complete"] + ["success"] * (ends == {"done"})
    return sum(call(queue, batch, event) for event in events) > 0


def call(queue: Queue, batch: Job, event: str) -> bool:
    """Make the job of this event, once."""
    job = Job(f"{batch.id}+{event}", due=queue.now, first=sys.maxsize, event=event)  # its id has its batch's time
    if event not in batch.calls or job.id in queue.jobs:
        return False
    queue.jobs[job.id] = job
    queue.move(job, "ready")
    return True
