"""Admission: what one job's bytes come to: whose it is, what it is called, where it waits.

Does:    `judged` bytes -> job, `identify` a name -> id, `entry_of` a job -> entry, `place` it, `refuse` what is wrong.
Reads:   nothing but its arguments and the house.
Trusts:  nothing in the bytes (`intake.judge`, `task.plan`, `authority`).
Fails:   `BadJob`, `NotPermitted`, `Duplicate`; `NotWhole` for a file that is still being written.
"""

from __future__ import annotations

import os
from typing import Any

from cronq import inboxes, intake, job, keys, limitkeys, parents, states, taskkeys, unique, uniquekeys
from cronq.after import Needs
from cronq.entry import AT_MOST_ONCE, ATTACHED, UNTIL_START, UNTIL_SUCCESS, WAITS, WINDOW, Entry
from cronq.errors import BadConfig, BadJob, CronqError, Duplicate
from cronq.evidence import TICK
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES, Job
from cronq.log import line as log
from cronq.spool import reason_text, submitted


class NotWhole(Exception):
    """A file that is still being written; look again."""


class Behind(NotWhole):
    """A file whose job waits for one that is still to be judged; look again."""


def judged(data: bytes, young: bool) -> Job:
    verdict = intake.judge(data)
    if isinstance(verdict, Job):
        return verdict
    if young and len(data) <= MAX_JOB_BYTES:
        try:
            job.parse_object(data, "the job")
        except BadJob:
            raise NotWhole from None
    refused = BadJob("; ".join([verdict.sentence, *verdict.more]))
    refused.exit_code = verdict.code
    raise refused


def permit(house: House, wanted: Job, submitter: int) -> None:
    try:
        house.permit(wanted, submitter)
    except BadConfig:
        pass  # an administrator's to mend; it is judged again when it is to start


def know_parents(house: House, uid: int, name: str, wanted: Job) -> None:
    """Make sure that the jobs which one of this name waits for are known. Raises `BadJob`, `Behind`."""
    if parents.unjudged(house, uid, name, wanted):
        raise Behind


def identify(house: House, uid: int, name: str, found: os.stat_result) -> str:
    """The id of the job that is named so. Raises `Duplicate`.

    A name made by `job.new_name` is one job for ever; any other gets the time put before it (the file's change time,
    which stays the same if it is judged again), and may come again when the earlier job has ended.
    """
    if job.name_time(name) is None:
        earlier = house.backlog.named(uid, name)
        if earlier is not None:
            raise Duplicate(f"job {earlier} has this name and has not ended; wait for it, or choose another name")
    job_id = _id(uid, name, found)
    if job_id in house.backlog or house.shelves.result(job_id):
        raise Duplicate(f"job {job_id} was queued before; a name is one job")
    return job_id


def _id(uid: int, name: str, found: os.stat_result) -> str:
    return f"{uid}-{name}" if job.name_time(name) is not None else f"{uid}-{found.st_ctime_ns // 1000:013x}-{name}"


def arrived(now: Now, name: str, found: os.stat_result) -> float:
    """When the job was submitted: what its name says, else when its file came; never in the future."""
    return min(job.name_time(name) or found.st_ctime, now.wall)


def entry_of(house: House, job_id: str, wanted: Job, hashed: str, submitted: float) -> Entry:
    """The entry of a job. Raises `BadJob`."""
    if wanted.batch is not None and "+" in job_id:
        raise BadJob("batch is no key of a batch's own job, which belongs to that one")
    plan = house.plan(wanted)
    due = due_of(wanted, submitted)
    uid = int(job_id.partition("-")[0])
    entry = Entry(
        key=_key(house, wanted, uid),
        group=_group(house, wanted, uid, plan.queue),
        unique=_unique(house, wanted, uid, plan.queue),
        priority=plan.priority,
        due=int(due * 1e6),
        id=job_id,
        flags=AT_MOST_ONCE if plan.delivery == "at-most-once" else "",
        task=wanted.task or "",
        queue=plan.queue,
        weight=plan.weight,
        expires=int(expires(house, wanted, due) * 1e6),
        into=(wanted.batch or "").partition("-")[2],
        hash=hashed,
    )
    for flag, is_so in (
        (UNTIL_START, wanted.unique_until == uniquekeys.START),
        (UNTIL_SUCCESS, wanted.unique_until == uniquekeys.SUCCESS),
        (WINDOW, unique.window(wanted) is not None),
    ):
        if is_so:
            entry = entry.flagged(flag)
    if any(Needs.of(wanted)):
        entry = entry.flagged(WAITS)
    must_fit(entry)
    return entry


def must_fit(entry: Entry) -> None:
    """Make sure that its name has room for all that may yet stand there. Raises `BadJob`."""
    again = {"snoozes": taskkeys.MAX_AGAIN, "interruptions": taskkeys.MAX_AGAIN}
    try:
        assert len(entry.but(flags="cdemnrsvwy", attempt=999_999, crashes=999_999, **again).name) > 0  # noqa: S101
    except ValueError as error:
        raise BadJob(str(error)) from None


def due_of(wanted: Job, submitted: float) -> float:
    """When a job that was submitted then is due."""
    if wanted.at is not None:
        return max(wanted.at, submitted)
    if wanted.delay is not None:
        return min(submitted + wanted.delay, job.LAST_INSTANT)
    return submitted


def expires(house: House, wanted: Job, due: float) -> float:
    """When it is too late to start a job: what it says itself goes before what its task says; 0: never."""
    if wanted.expires is not None:
        return wanted.expires
    task = house.config.tasks.get(wanted.task or "")
    within = wanted.start_within if wanted.start_within is not None or task is None else task.start_within
    return 0.0 if within is None else min(due + within, job.LAST_INSTANT)


def scheduled(entry: Entry, wanted: Job) -> float:
    """When a job's first attempt was due; it is the same time for all further ones, as far as id and file tell."""
    now_due = entry.due / 1e6
    if entry.event or not (entry.attempt or entry.crashes or entry.snoozes or entry.interruptions):
        return now_due  # the id of a batch's callback tells of the batch's time
    name = entry.id.partition("-")[2]
    if name.startswith(TICK):
        return min(now_due, int(name[-13:], 16) / 1e6)
    return min(now_due, due_of(wanted, submitted(entry.id, entry.due)))


def _key(house: House, wanted: Job, submitter: int) -> str:
    """What a job must not run beside: its own word is its submitter's, its task's is root's."""
    if wanted.mutex is not None:
        return keys.mutex(submitter, wanted.mutex)
    task = house.config.tasks.get(wanted.task or "")
    if task is None or task.mutex is None:
        return ""
    return keys.mutex(house.master, task.mutex)


def _group(house: House, wanted: Job, submitter: int, queue: str) -> str:
    """With what a job may run a limited number of times."""
    task = house.config.tasks.get(wanted.task or "")
    if task is None or task.concurrency is None:
        return ""
    said = task.concurrency
    return keys.group(said.group, task.name, limitkeys.render(said.key, wanted, submitter, queue))


def _unique(house: House, wanted: Job, submitter: int, queue: str) -> str:
    """Of what there is one at a time: among its submitter's jobs, or where its task says so, among everybody's."""
    made = unique.text(wanted, queue)
    task = house.config.tasks.get(wanted.task or "")
    if not made:
        return ""
    if task is not None and task.unique_scope == "global":
        return keys.unique(house.master, f"{task.name}\0{made}")
    return keys.unique(submitter, made)


def place(house: House, now: Now, captured: str, entry: Entry) -> None:
    """Give a judged job its state."""
    if _has_waiter(house, *inboxes.owner(captured)):
        entry = entry.flagged(ATTACHED)
        house.attached.append(entry.id)
    reason = house.strangers.get(entry.uid)
    move = "detain" if reason else arrival(now, entry)
    state = states.target(move, states.QUEUED)
    house.shelves.admit(captured, state, entry)
    house.backlog.put(state, entry)
    house.step("placed")
    if reason:
        house.reasons[entry.id] = reason
    facts: dict[str, Any] = {"move": move, "cause": reason, "task": entry.task or None}
    if (window := house.backlog.taken.window(entry)) is not None:
        facts |= {"unique": entry.unique, "window": window}
    house.history.note(now.wall, entry.id, states.QUEUED, state, **facts)


def _has_waiter(house: House, uid: int, filename: str) -> bool:
    name = inboxes.split(filename)
    return name is not None and house.shelves.inboxes.has_waiter(uid, name[0])


def arrival(now: Now, entry: Entry) -> str:
    """The move by which a new job takes its place: `depends` lets it go on from where it waits for others."""
    return "await" if WAITS in entry.flags else "postpone" if entry.due > now.micros else "admit"


def refuse(house: House, now: Now, captured: str, error: CronqError) -> None:
    """Set a captured file aside; its owner finds it, and the reason, below `rejected/`."""
    uid, filename = inboxes.owner(captured)
    log("refused", uid=uid, file=filename, reason=error.sentence)
    name = inboxes.split(filename)
    if name and house.shelves.inboxes.has_waiter(uid, name[0]):
        house.attached.append(f"{uid}-{name[0]}")  # for its NAME.wait to be removed when that is over
    house.history.note(
        now.wall, f"{uid}-{name[0] if name else ''}", states.QUEUED, states.REJECTED, cause=error.sentence
    )
    place = f"{inboxes.CAPTURE}/{captured}"
    if name and name[1] == ".job":
        job_id = _id(uid, name[0], os.stat(place, dir_fd=house.shelves.fd, follow_symlinks=False))
        aside = uid, name[0], reason_text(error)
        try:
            if job_id in house.backlog or not house.shelves.set_taken_data_aside(job_id, *aside):
                house.shelves.set_data_aside(*aside)
        except BadJob:
            pass  # it cannot be taken out of the inbox
    house.shelves.set_aside(place, uid, filename, reason_text(error))
