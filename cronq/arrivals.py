"""Arrivals: what producers dropped becomes entries, or is set aside with a reason.

Does:    captures the files of the inboxes (in slices, so that no inbox delays another), judges them, and turns batches
         into members as they are needed.
Reads:   captured files through `safeopen`: at most 64 KiB of a job or of a batch's line.
Trusts:  nothing in them (`intake.judge`, `task.plan`). Whose they are is what inbox and fstat say together.
Fails:   never on a bad file: that one is refused; a file that is not whole yet is looked at again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from cronq import inboxes, intake, job, safeopen, spool, states
from cronq.entry import AT_MOST_ONCE, HAS_DATA, Entry, digest
from cronq.errors import BadConfig, BadJob, CronqError, Duplicate
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES, Job
from cronq.log import line as log
from cronq.payload import Payload
from cronq.spool import reason_text

YOUNG = 10.0  # seconds in which a file that does not parse may still be being written
UNREADABLE = -1
UNSETTLED = 2.0  # seconds in which a directory's mtime may not tell of a change (kernels stamp in ticks)
SLICE_SECONDS = 0.010
SLICE_NAMES = 256
WINDOW = 64  # members of one batch that wait as entries of their own
CHUNK = 1 << 16


class NotWhole(Exception):
    """A file that is still being written; look again."""


def admit(house: House, now: Now, rung: set[Any]) -> None:
    """Take what lies in the inboxes that changed, and judge it."""
    uids = house.shelves.inboxes.uids()
    for uid in uids:
        if ("inbox", uid) in rung or _changed(house, uid):
            _collect(house, now, uid)
    for captured in [name for name, due in house.looks.items() if due <= now.mono]:
        del house.looks[captured]
        judge(house, now, captured)
    for captured in list(house.judging):
        _read_on(house, now, captured)


def recover(house: House, now: Now) -> None:
    """Judge what a dispatcher before this one had captured and not placed."""
    for captured in house.shelves.captured():
        judge(house, now, captured)


def _changed(house: House, uid: int) -> bool:
    try:
        mtime = house.shelves.inboxes.mtime(uid)
    except OSError:
        mtime = UNREADABLE
    return house.seen.get(uid) != mtime


def _collect(house: House, now: Now, uid: int) -> None:
    """Take a slice of what lies in an inbox: as much as time allows, so that no inbox delays another."""
    inbox = house.shelves.inboxes
    deadline = time.monotonic() + SLICE_SECONDS
    try:
        mtime = inbox.mtime(uid)
        names, all_seen = inbox.names(uid, SLICE_NAMES)
    except OSError as error:
        if house.seen.get(uid) != UNREADABLE:
            log("inbox-unreadable", uid=uid, reason=error.strerror)
        house.seen[uid] = UNREADABLE
        return
    left = False
    for count, filename in enumerate(names):
        if count and time.monotonic() > deadline:
            inbox.put_back(uid, names[count:])
            all_seen = False
            break
        try:
            captured = inbox.capture(uid, filename)
        except BadJob as error:
            _leave(house, uid, filename, error)
            continue
        if captured is None:
            left = True  # one of its name is being judged: it is taken when that has been
        else:
            house.step("captured")
            judge(house, now, captured)
    if not all_seen:
        house.urgent = True
    elif not left and now.wall - mtime / 1e9 > UNSETTLED:
        house.seen[uid] = mtime
        for name in inbox.foreign(uid):
            log("name-refused", uid=uid, file=ascii(name), reason="letters, digits, '.', '_', '-' only, at most 81")


def _leave(house: House, uid: int, filename: str, error: CronqError) -> None:
    """Say once why something stays in its inbox."""
    if len(house.left) > SLICE_NAMES:
        house.left.clear()
    if (uid, filename) not in house.left:
        house.left.add((uid, filename))
        log("refused", uid=uid, file=filename, reason=error.sentence)
        house.shelves.give_reason(uid, filename, reason_text(error))


def judge(house: House, now: Now, captured: str) -> None:
    """One captured file: an entry, a refusal with its reason, or another look later."""
    uid, filename = inboxes.owner(captured)
    name, ending = inboxes.split(filename) or ("", "")
    try:
        descriptor, found = house.shelves.open_file(f"{inboxes.CAPTURE}/{captured}", uid)
    except FileNotFoundError:
        return
    except BadJob as error:
        refuse(house, now, captured, error)
        return
    young = now.wall - found.st_mtime < YOUNG
    try:
        if name.startswith("cron-"):
            raise BadJob("names that begin with cron- are cronq's own; name the file otherwise")
        if ending == ".tab":
            raise BadJob("crontabs are not taken yet")
        if ending == ".jobs":
            house.judging[captured] = _Batch(house, now, uid, name, descriptor, found, young)
            descriptor = -1
        else:
            _admit_job(house, now, captured, uid, name, descriptor, found, young)
    except NotWhole:
        house.looks[captured] = now.mono + 0.2
    except CronqError as error:
        refuse(house, now, captured, error)
    except OSError:
        house.looks[captured] = now.mono + 1.0  # no room for it now: it lies captured, and is judged again
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def refuse(house: House, now: Now, captured: str, error: CronqError) -> None:
    """Set a captured file aside; its owner finds it, and the reason, below `rejected/`."""
    uid, filename = inboxes.owner(captured)
    log("refused", uid=uid, file=filename, reason=error.sentence)
    name = inboxes.split(filename)
    house.history.note(
        now.wall, f"{uid}-{name[0] if name else ''}", states.QUEUED, states.REJECTED, cause=error.sentence
    )
    house.shelves.set_aside(f"{inboxes.CAPTURE}/{captured}", uid, filename, reason_text(error))


def _admit_job(
    house: House, now: Now, captured: str, uid: int, name: str, descriptor: int, found: os.stat_result, young: bool
) -> None:
    data = safeopen.read(descriptor, MAX_JOB_BYTES)
    wanted = _judged(data, young)
    _permit(house, wanted, uid)
    entry = entry_of(house, identify(house, uid, name, found), wanted, digest(data), arrived(now, name, found))
    if house.shelves.inboxes.take_data(uid, name, entry.id):
        entry = entry.flagged(HAS_DATA)
        if house.authority is not None and _runner(house, entry) != uid:
            house.judging[captured] = Payload(house.shelves, entry)
            return
    place(house, now, captured, entry)


def _permit(house: House, wanted: Job, submitter: int) -> None:
    try:
        house.permit(wanted, submitter)
    except BadConfig:
        pass  # an administrator's to mend; it is judged again when it is to start


def _runner(house: House, entry: Entry) -> int:
    try:
        return house.runner(entry.task, entry.uid)
    except CronqError:
        return entry.uid


def _judged(data: bytes, young: bool) -> Job:
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


def identify(house: House, uid: int, name: str, found: os.stat_result) -> str:
    """The id of the job that is named so. Raises `Duplicate`.

    A name made by `job.new_name` is one job for ever; any other gets the time put before it (the file's change time,
    which stays the same if it is judged again), and may come again when the earlier job has ended.
    """
    if job.name_time(name) is None:
        earlier = house.backlog.named(uid, name)
        if earlier is not None:
            raise Duplicate(f"job {earlier} has this name and has not ended; wait for it, or choose another name")
        name = f"{found.st_ctime_ns // 1000:013x}-{name}"
    job_id = f"{uid}-{name}"
    if job_id in house.backlog or house.shelves.result(job_id):
        raise Duplicate(f"job {job_id} was queued before; a name is one job")
    return job_id


def arrived(now: Now, name: str, found: os.stat_result) -> float:
    """When the job was submitted: what its name says, else when its file came; never in the future."""
    return min(job.name_time(name) or found.st_ctime, now.wall)


def entry_of(house: House, job_id: str, wanted: Job, hashed: str, submitted: float) -> Entry:
    """The entry of a job. Raises `BadJob`."""
    plan = house.plan(wanted)
    due = submitted
    if wanted.at is not None:
        due = max(wanted.at, submitted)
    elif wanted.delay is not None:
        due = min(submitted + wanted.delay, job.LAST_INSTANT)
    entry = Entry(
        priority=plan.priority,
        due=int(due * 1e6),
        id=job_id,
        flags=AT_MOST_ONCE if plan.delivery == "at-most-once" else "",
        task=wanted.task or "",
        queue=plan.queue,
        expires=int((wanted.expires or 0) * 1e6),
        hash=hashed,
    )
    try:
        assert len(entry.flagged(HAS_DATA).but(attempt=999_999, crashes=999_999).name) > 0  # noqa: S101
    except ValueError as error:
        raise BadJob(str(error)) from None
    return entry


def place(house: House, now: Now, captured: str, entry: Entry) -> None:
    """Give a judged job its state."""
    reason = house.strangers.get(entry.uid)
    move = "detain" if reason else "postpone" if entry.due > now.micros else "admit"
    state = states.target(move, states.QUEUED)
    house.shelves.admit(captured, state, entry)
    house.backlog.put(state, entry)
    if reason:
        house.reasons[entry.id] = reason
    house.history.note(now.wall, entry.id, states.QUEUED, state, move=move, cause=reason, task=entry.task or None)


# ---------------------------------------------------------------- batches


class _Batch:
    """A batch that is being judged, a slice a turn: all of its lines are good, or it is refused."""

    def __init__(
        self, house: House, now: Now, uid: int, name: str, descriptor: int, found: os.stat_result, young: bool
    ) -> None:
        self.descriptor = descriptor
        self.found = found
        self.young = young
        self.uid = uid
        self.id = identify(house, uid, name, found)
        self.submitted = arrived(now, name, found)
        self.priority: int | None = None
        self.count = 0
        self.expected: int | None = None
        self.start = 0
        self.lines = read_lines(descriptor, 0)

    def step(self, house: House) -> bool:
        """Read on for a slice; whether all has been read. Raises `BadJob`, `NotWhole`."""
        deadline = time.monotonic() + SLICE_SECONDS
        for number, (offset, line) in enumerate(self.lines, self.count):
            if number == 0 and self.expected is None and (expected := header(line)) is not None:
                self.expected = expected
                self.start = offset + len(line)
                return False
            try:
                wanted = _judged(line, young=False)
                _permit(house, wanted, self.uid)
                entry = entry_of(house, f"{self.id}+{number + 1:09d}", wanted, digest(line), self.submitted)
            except CronqError as error:
                refused = BadJob(f"line {number + 1}: {error.sentence}")
                refused.exit_code = error.exit_code
                raise refused from None
            self.priority = entry.priority if self.priority is None else max(self.priority, entry.priority)
            self.count = number + 1
            if time.monotonic() > deadline:
                return False
        return True

    def entry(self, now: Now) -> Entry:
        """The entry of a batch that is whole. Raises `NotWhole`, `BadJob`."""
        if self.expected is None and now.wall - self.found.st_mtime < UNSETTLED:
            raise NotWhole
        if self.expected is not None and self.count < self.expected and self.young:
            raise NotWhole
        if self.expected is not None and self.count != self.expected:
            raise BadJob(f"the batch says it has {self.expected} jobs, but has {self.count}; write it anew")
        if not self.count:
            raise BadJob("the batch is empty; write one job object a line")
        batch = (0, self.start, self.count)
        return Entry(priority=self.priority or 0, due=int(self.submitted * 1e6), id=self.id, batch=batch)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


def header(line: bytes) -> int | None:
    """How many jobs a batch's first line says there are: {"jobs": N}; None for a line that is a job."""
    try:
        fields = job.parse_object(line, "the batch's first line")
    except BadJob:
        return None
    number = fields.get("jobs")
    if set(fields) != {"jobs"} or isinstance(number, bool) or not isinstance(number, int):
        return None
    return number


def read_lines(descriptor: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a batch that are not blank, each with its offset. Raises `BadJob` for one that is too long."""
    rest, start = b"", offset
    while part := os.pread(descriptor, CHUNK, start + len(rest)):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield start, line + b"\n"
            start += len(line) + 1
        if len(rest) > MAX_JOB_BYTES:
            raise BadJob(f"a line of the batch is longer than {MAX_JOB_BYTES // 1024} KiB")
    if rest.strip():
        yield start, rest


def _read_on(house: House, now: Now, captured: str) -> None:
    """One slice more of what takes longer than a turn: reading a batch, copying a payload."""
    long = house.judging[captured]
    try:
        if not long.step(house):
            house.urgent = True
            return
        entry = long.entry(now)
    except NotWhole:
        house.looks[captured] = now.mono + 0.2
    except CronqError as error:
        refuse(house, now, captured, error)
    else:
        place(house, now, captured, entry)
    del house.judging[captured]
    long.close()


def expand(house: House, now: Now, entry: Entry) -> None:
    """Make a batch's next members entries of their own; a batch that has no more of them is running.

    A member is a file of ours that holds its line. The batch's name says how far it has come; what a crash made without
    saying so is found there, and not made again.
    """
    assert entry.batch is not None  # noqa: S101 - the caller looked
    number, offset, total = entry.batch
    try:
        descriptor = house.shelves.open_entry(states.READY, entry)
    except BadJob as error:
        log("batch-unreadable", id=entry.id, reason=error.sentence)
        descriptor = -1
        total = number
    try:
        lines = read_lines(descriptor, offset) if descriptor >= 0 else iter(())
        while number < total and house.backlog.members[entry.id] < WINDOW:
            found, line = next(lines, (offset, b""))
            number += 1
            _member(house, now, entry, f"{entry.id}+{number:0{len(str(total))}d}", line, found)
            offset = found + len(line)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    changed = entry.but(batch=(number, offset, total))
    if number < total:
        house.shelves.rename(states.READY, entry, changed)
        house.backlog.put(states.READY, changed)
    else:
        house.move(now, "start", states.READY, entry, changed)


def _member(house: House, now: Now, batch: Entry, member_id: str, line: bytes, offset: int) -> None:
    if member_id in house.backlog or house.shelves.result(member_id):
        return
    try:
        wanted = _judged(line, young=False)
        entry = entry_of(house, member_id, wanted, digest(line), batch.due / 1e6).but(offset=offset)
    except CronqError as error:  # its producer changed it after it was judged, or its task has gone since
        log("member-refused", id=member_id, reason=error.sentence)
        house.history.note(now.wall, member_id, states.QUEUED, states.REJECTED, cause=error.sentence)
        house.tallies.setdefault(batch.id, {}).setdefault(states.REJECTED, 0)
        house.tallies[batch.id][states.REJECTED] += 1
        return
    state = states.DELAYED if entry.due > now.micros else states.READY
    if house.shelves.create(state, entry, line):
        house.backlog.put(state, entry)


def spool_time(entry: Entry) -> float:
    """When the job of this entry was submitted, as far as its id tells."""
    return spool.time_of(entry.id) or entry.due / 1e6
