"""Batches: many jobs in one file, of which each becomes an entry only when it is needed.

Does:    `Batch` judges a file, a slice a turn: all of its lines are good, or it is refused; `expand` makes its next
         members entries; `finish` ends a batch whose members have all ended.
Reads:   the batch's file, by `shelves`; for a tally after a restart, its members' results.
Writes:  members' files, by `shelves`.
Trusts:  nothing in the lines. Who submitted them is whose file it is.
Fails:   a member that may not run is counted as rejected; the others go on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

from cronq import job, spool, states
from cronq.admission import NotWhole, arrival, arrived, entry_of, identify, judged, know_parents, permit
from cronq.backlog import WINDOW
from cronq.entry import CANCEL_WANTED, Entry, digest
from cronq.errors import BadJob, CronqError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log

SLICE_SECONDS = 0.010
UNSETTLED = 2.0  # seconds after its last write in which a batch that does not say its size may be growing
CHUNK = 1 << 16


class Batch:
    """A batch that is being judged, a slice a turn: all of its lines are good, or it is refused."""

    def __init__(
        self, house: House, now: Now, uid: int, name: str, descriptor: int, found: os.stat_result, young: bool
    ) -> None:
        self.descriptor = descriptor
        self.found = found
        self.young = young
        self.uid = uid
        self.name = name
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
                wanted = judged(line, young=False)
                permit(house, wanted, self.uid)
                of_task = house.config.tasks.get(wanted.task or "")
                if wanted.unique is not None or (of_task is not None and of_task.unique is not None):
                    what = "unique" if wanted.unique is not None else f"unique of the task {wanted.task}"
                    raise BadJob(f"{what} is no key of a batch's job; submit those one by one")
                know_parents(house, self.uid, self.name, wanted)
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
        if self.expected is None and abs(now.wall - self.found.st_mtime) < UNSETTLED:
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
    """The lines of a batch that are not blank, each with its offset.

    Raises `BadJob` for one that is too long, and for blank ones that are: nobody waits for where they end.
    """
    rest, start, blank = b"", offset, 0
    while part := os.pread(descriptor, CHUNK, start + len(rest)):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                blank = 0
                yield start, line + b"\n"
            else:
                blank += len(line) + 1
            start += len(line) + 1
        if len(rest) > MAX_JOB_BYTES:
            raise BadJob(f"a line of the batch is longer than {MAX_JOB_BYTES // 1024} KiB")
        if blank > MAX_JOB_BYTES:
            raise BadJob(f"the batch has more than {MAX_JOB_BYTES // 1024} KiB of blank lines in a row; leave them out")
    if rest.strip():
        yield start, rest


def expand(house: House, now: Now, entry: Entry) -> None:
    """Make a batch's next members entries of their own, for a slice; a batch that has no more of them is running.

    A member is a file of ours that holds its line. The batch's name says how far it has come; what a crash made without
    saying so is found there, and not made again.
    """
    assert entry.batch is not None  # noqa: S101 - the caller looked
    number, offset, total = entry.batch
    deadline = time.monotonic() + SLICE_SECONDS
    descriptor = -1
    try:
        descriptor = house.shelves.open_entry(states.READY, entry)
        lines = read_lines(descriptor, offset)
        while number < total and house.backlog.members[entry.id] < WINDOW:
            found, line = next(lines, (offset, b""))
            number += 1
            _member(house, now, entry, f"{entry.id}+{number:0{len(str(total))}d}", line, found)
            offset = found + len(line)
            if time.monotonic() > deadline:
                break
    except BadJob as error:  # its producer changed it after it was judged: nothing more of it can be had
        log("batch-unreadable", id=entry.id, reason=error.sentence)
        _reject(house, entry, total - number)
        number = total
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
        wanted = judged(line, young=False)
        entry = entry_of(house, member_id, wanted, digest(line), batch.due / 1e6).but(offset=offset)
    except CronqError as error:  # its producer changed it after it was judged, or its task has gone since
        log("member-refused", id=member_id, reason=error.sentence)
        house.history.note(now.wall, member_id, states.QUEUED, states.REJECTED, cause=error.sentence)
        _reject(house, batch, 1)
        return
    state = states.target(arrival(now, entry), states.QUEUED)
    if house.shelves.create(state, entry, line):
        house.backlog.put(state, entry)


def open_batch(house: House, batch_id: str) -> int:
    """A descriptor of a batch's file, which proves whose its members are. Raises `BadJob`.

    A member that is dead may be tried again when its batch has ended: then the file lies by the batch's results.
    """
    found = house.backlog.find(batch_id)
    try:
        return house.shelves.open_ended(batch_id) if found is None else house.shelves.open_entry(*found)
    except FileNotFoundError:
        raise BadJob("its batch is gone") from None


def _reject(house: House, batch: Entry, number: int) -> None:
    tally = house.tallies.setdefault(batch.id, {})
    tally[states.REJECTED] = tally.get(states.REJECTED, 0) + number


def finish(house: House, now: Now) -> None:
    """A batch has ended when all its members are entries no more: computed, never counted down."""
    for entry in house.backlog.over():
        assert entry.batch is not None  # noqa: S101 - none but batches have members
        tally = _tally(house, entry)
        cancelled = CANCEL_WANTED in entry.flags
        left = entry.batch[2] - tally.get(states.DONE, 0)
        reason = f"{left} jobs of the batch are not done" if left else None
        found = {
            "id": entry.id,
            "uid": entry.uid,
            "jobs": entry.batch[2],
            "counts": tally,
            "state": states.CANCELLED if cancelled else states.DONE,
            "submitted": spool.submitted(entry.id, entry.due),
            "ended": now.wall,
            "exit_code": None if cancelled else int(bool(left)),
            "signal": None,
            "reason": f"cancelled; {reason}" if cancelled and reason else reason,
        }
        facts = {"jobs": entry.batch[2], "queue": entry.queue}
        house.end(now, "stop" if cancelled else "finish", states.RUNNING, entry, found, **facts)
        house.tallies.pop(entry.id, None)
        log("ended", id=entry.id, state=found["state"], jobs=entry.batch[2])


def _tally(house: House, entry: Entry) -> dict[str, int]:
    assert entry.batch is not None  # noqa: S101 - the caller looked
    made, _, total = entry.batch
    tally = dict(house.tallies.get(entry.id, {}))
    if sum(tally.values()) != made:
        tally = _read_tally(house, entry, made, total)
    if made < total:  # it was cancelled before they were made
        tally[states.CANCELLED] = tally.get(states.CANCELLED, 0) + total - made
    return tally


def _read_tally(house: House, entry: Entry, made: int, total: int) -> dict[str, int]:
    """A restart in between: what the members' results say."""
    tally: dict[str, int] = {}
    for number in range(1, made + 1):
        found = house.shelves.result(f"{entry.id}+{number:0{len(str(total))}d}")
        try:
            state = json.loads(found)["state"] if found else states.REJECTED
        except (ValueError, KeyError, TypeError):
            state = states.REJECTED
        tally[state] = tally.get(state, 0) + 1
    return tally
