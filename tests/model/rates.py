"""How often something may start (GCRA): so many seconds apart, a few at once where there were fewer for a while; a part
of the reference. Of each limiter there is one instant: when all that has started will be paid for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facts import Job
    from reference import Queue


def limiters(queue: Queue, job: Job) -> dict[str, tuple[float, int]]:
    """What limits a job, by name: its queue's rate, its task's, and that of its key."""
    said = {f"queue {job.queue}": f"queue {job.queue}", f"task {job.task}": f"task {job.task}"}
    said |= {f"key {job.task} {job.key}": f"key {job.task}"} if job.key else {}
    return {name: queue.says.rates[rate] for name, rate in said.items() if rate in queue.says.rates}


def opens(queue: Queue, job: Job) -> dict[str, float]:
    """When each of its limiters lets the next one start: who was started past it holds others up for one burst."""
    found = {}
    for name, (apart, burst) in limiters(queue, job).items():
        if name in queue.paid:
            queue.paid[name] = min(queue.paid[name], queue.mono + apart * burst)
            found[name] = queue.paid[name] - apart * burst + apart
    return found


def is_open(queue: Queue, job: Job, *kinds: str) -> bool:
    """Whether the rates of these kinds let it start."""
    return all(when <= queue.mono for name, when in opens(queue, job).items() if name.partition(" ")[0] in kinds)


def spend(queue: Queue, job: Job) -> None:
    for name, (apart, _) in limiters(queue, job).items():
        queue.paid[name] = max(queue.paid.get(name, queue.mono), queue.mono) + apart


def give_back(queue: Queue, job: Job) -> None:
    """It did not start after all."""
    for name, (apart, _) in limiters(queue, job).items():
        queue.paid[name] = queue.paid.get(name, queue.mono) - apart
