"""What may start beside what runs, and what of it is next; a part of the reference.

Room that is too small for one that is looked at before is kept for that one: `kept` has the rooms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import batch
import rates

if TYPE_CHECKING:
    from facts import Job
    from reference import Queue

Kept = set[tuple[str, str]]


def of(job: Job) -> tuple[str, ...]:
    """The gates whose pause keeps it from starting; a batch starts nothing by itself, its members do."""
    return () if job.members else ("drain", f"queue:{job.queue}", f"task:{job.task}")


def launch(queue: Queue) -> None:
    """Start what is to start now, whatever its gates say; then what may."""
    for job in queue.of("ready"):
        if job.at_once and not queue.expire(job) and not is_kept_apart(queue, job):
            start(queue, job)
    while (found := following(queue)) is not None:
        if queue.expire(found) or block(queue, found):
            continue
        if found.members:
            batch.expand(queue, found)
        else:
            start(queue, found)


def start(queue: Queue, job: Job) -> None:
    rates.spend(queue, job)
    queue.start(job)


def give_back(queue: Queue, job: Job) -> None:
    """It did not start after all."""
    rates.give_back(queue, job)


# ---------------------------------------------------------------- what is next


def following(queue: Queue) -> Job | None:
    """The first that fits beside what runs, or what came earlier and has waited for long enough to count as much."""
    kept: Kept = set()
    waiting = [job for job in queue.of("ready") if not job.at_once and len(queue.running) < queue.says.max_jobs]
    while (urgent := next((job for job in waiting if fits(queue, job, kept)), None)) is not None:
        aged = [job for job in waiting if has_aged(queue, job, urgent)]
        for priority in dict.fromkeys(job.priority for job in sorted(aged, key=lambda job: job.order[1:])):
            level = [job for job in aged if job.priority == priority]
            found = next((job for job in level if fits(queue, job, kept)), None)
            if found is not None:
                aged = [job for job in aged if job.order[1:] < found.order[1:]]
                urgent = found
        if fits(queue, urgent, kept):
            return urgent
    return None


def has_aged(queue: Queue, job: Job, urgent: Job) -> bool:
    """Whether it comes before what is more urgent."""
    aging = queue.says.agings.get(job.queue, 300) * 1_000_000
    less = urgent.priority - job.priority
    return less > 0 < aging and queue.now - job.due >= less * aging and job.order[1:] < urgent.order[1:]


# ---------------------------------------------------------------- what fits


def fits(queue: Queue, job: Job, kept: Kept) -> bool:
    if any(gate in queue.paused for gate in of(job)):
        return False
    if job.members:
        return batch.waiting(job) < queue.says.most
    lane = [room(queue, job, "queue", queue.says.slots, kept), room(queue, job, "task", queue.says.limits, kept)]
    if "full" in lane or not rates.is_open(queue, job, "queue", "task"):
        return False
    if has_key_room(queue, job, kept) != "":
        return is_to_be_blocked(queue, job)
    if is_kept_apart(queue, job):
        return False
    kept |= {(kind, getattr(job, kind)) for kind, found in zip(("queue", "task"), lane, strict=True) if found}
    return not any(lane) and rates.is_open(queue, job, "key")


def room(queue: Queue, job: Job, kind: str, most: dict[str, int], kept: Kept) -> str:
    """Whether there is room for its weight in its queue or of its task: `full`, `narrow`, or empty where there is.
    What weighs more than there ever is room for runs when nothing else does."""
    name = getattr(job, kind)
    used = sum(other.weight for other in queue.running if getattr(other, kind) == name)
    return _room(job.weight, used, most.get(name), (kind, name) in kept)


def has_key_room(queue: Queue, job: Job, kept: Kept) -> str:
    """The same of its task's concurrency key."""
    most, _ = queue.says.keys.get(job.task, (None, ""))
    name = "key", f"{job.task} {job.key}"
    found = _room(job.weight, sum(other.weight for other in holders(queue, job)), most, name in kept)
    kept |= {name} if found == "narrow" else set()
    return found


def _room(weight: int, used: int, most: int | None, is_kept: bool) -> str:
    if not weight or most is None:
        return ""
    if used >= most or is_kept:
        return "full"
    return "narrow" if used and used + weight > most else ""


def holders(queue: Queue, job: Job) -> list[Job]:
    """What runs of its concurrency key."""
    return [other for other in queue.running if job.key and (other.task, other.key) == (job.task, job.key)]


def is_kept_apart(queue: Queue, job: Job) -> bool:
    """Whether something of its mutex runs."""
    return job.mutex != "" and any(other.mutex == job.mutex for other in queue.running)


# ---------------------------------------------------------------- what becomes of one whose key is taken


def row(queue: Queue, job: Job) -> list[Job]:
    """Those that are ready and wait for the same, it among them."""
    alike = ("queue", "task", "weight", "mutex", "key")
    waiting = [other for other in queue.of("ready") if not other.at_once and not other.members]
    return [other for other in waiting if all(getattr(other, each) == getattr(job, each) for each in alike)]


def is_to_be_blocked(queue: Queue, job: Job) -> bool:
    """Whether something is to be done about a job whose key is taken, other than to wait."""
    _, what = queue.says.keys[job.task]
    if what == "replace":
        return len(row(queue, job)) > 1 or bool(to_end(queue, job))
    return what == "discard" or (what == "coalesce" and len(row(queue, job)) > 1)


def to_end(queue: Queue, job: Job) -> list[Job]:
    """What must end for it, the earliest first."""
    most, _ = queue.says.keys[job.task]
    left = sum(other.weight for other in holders(queue, job)) + job.weight - most
    found = []
    for other in sorted((each for each in holders(queue, job) if each.weight), key=lambda each: each.due):
        if left > 0:
            found.append(other)
            left -= other.weight
    return [other for other in found if not other.cancel]


def block(queue: Queue, job: Job) -> bool:
    """It is discarded; or one of those that wait runs for all of them, or in the place of what runs."""
    if job.members or has_key_room(queue, job, set()) == "" or not is_to_be_blocked(queue, job):
        return False
    _, what = queue.says.keys[job.task]
    beside = row(queue, job)
    stays = {"coalesce": beside[0], "replace": max(beside, key=lambda each: (each.due, each.id))}.get(what)
    for other in beside if stays is not None else [job]:
        if other is not stays:
            queue.move(other, "cancelled", {"discard": "discarded", "coalesce": "coalesced"}.get(what, "replaced"))
    for other in to_end(queue, stays) if what == "replace" else ():
        queue.cancelled(other)
    return True
