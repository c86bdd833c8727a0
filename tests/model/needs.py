"""What a job that names others comes to by how each of those has ended; a part of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facts import Job
    from reference import Queue

ENDS = ("done", "dead", "skipped", "cancelled", "expired")
AFTER, AFTER_ANY, AFTER_FAIL = KEYS = ("after", "after_any", "after_fail")


def end(job: Job) -> str:
    """How it has ended; empty where it has not, `gone` where nobody can tell any more."""
    if job.state == "removed" or (job.state == "queued" and job.parent is not None and end(job.parent)):
        return "gone"  # a member that was never made is no more when its batch has ended
    if job.members and job.state == "done" and job.reason:
        return "done in part"
    return job.state if job.state in ENDS else ""


def hopeless(job: Job) -> Job | None:
    """By whose end it will never run: `after` wants all done, `after_fail` one that has ended otherwise."""
    for parent in job.needs.get(AFTER, ()):
        if end(parent) not in ("", "done"):
            return parent
    failing = job.needs.get(AFTER_FAIL, [])
    return failing[0] if failing and all(end(parent) in ("done", "gone") for parent in failing) else None


def is_met(job: Job) -> bool:
    """Whether it waits for nothing more. Of `after_fail` the first failure is enough."""
    failing = job.needs.get(AFTER_FAIL, [])
    left = [parent for key in (AFTER, AFTER_ANY) for parent in job.needs.get(key, ()) if not end(parent)]
    return not left and (not failing or any(end(parent) not in ("", "done", "gone") for parent in failing))


def look(queue: Queue, job: Job) -> bool:
    """Whether it goes on, is skipped, or waits again since that by which it was skipped is to be tried again."""
    parent = hopeless(job)
    if (job.state == "skipped") == (parent is not None):
        if parent is not None or not is_met(job):
            return False
        job.waits = False
        queue.move(job, queue.place(job))
    else:
        queue.move(job, "waiting" if parent is None else "skipped", "" if parent is None else parent.id)
    return True
