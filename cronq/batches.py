"""Batches: many jobs in one file, of which each becomes an entry only when it is needed.

Does:    `Batch` judges a file, a slice a turn: all of its lines and callbacks are good, or it is refused; `expand`
         makes its next members entries. How it ends is `completion`'s.
Reads:   the batch's file, by `shelves`.
Writes:  members' files, by `shelves`.
Trusts:  nothing in the lines. Who submitted them is whose file it is.
Fails:   a member that may not run is counted as rejected; the others go on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from cronq import callbacks, states
from cronq.admission import NotWhole, arrival, arrived, entry_of, identify, judged, know_parents, permit
from cronq.backlog import MOST_MEMBERS
from cronq.callbacks import Header
from cronq.entry import CALLS, JOBS_WAIT, WAITS, Entry, digest
from cronq.errors import BadJob, CronqError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log

SLICE_SECONDS = 0.010
WINDOW = 64  # members that are made at a time, when none of those that wait can start
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
        self.header: Header | None = None
        self.has_waiting = False  # some of its jobs wait for others
        self.start = 0
        self.lines = read_lines(descriptor, 0)

    def step(self, house: House) -> bool:
        """Read on for a slice; whether all has been read. Raises `BadJob`, `NotWhole`."""
        deadline = time.monotonic() + SLICE_SECONDS
        for number, (offset, line) in enumerate(self.lines, self.count):
            if number == 0 and self.header is None and self._is_header(house, offset, line):
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
            self.has_waiting = self.has_waiting or WAITS in entry.flags
            self.count = number + 1
            if time.monotonic() > deadline:
                return False
        return True

    def _is_header(self, house: House, offset: int, line: bytes) -> bool:
        """Whether this is the batch's first line, and no job; then its callbacks are judged. Raises `CronqError`."""
        self.header = callbacks.header(line)
        if self.header is None:
            return False
        self.start = offset + len(line)
        if self.header.callbacks and self.start > MAX_JOB_BYTES:
            raise BadJob(f"the first line, with its callbacks, must end within {MAX_JOB_BYTES // 1024} KiB")
        for event, data in self.header.callbacks.items():
            try:
                wanted = judged(data, young=False)
                permit(house, wanted, self.uid)
                entry_of(house, f"{self.id}+{event}", wanted, digest(data), self.submitted)
            except CronqError as error:
                refused = BadJob(f"on_{event}: {error.sentence}")
                refused.exit_code = error.exit_code
                raise refused from None
        return True

    def entry(self, now: Now) -> Entry:
        """The entry of a batch that is whole. Raises `NotWhole`, `BadJob`."""
        expected = None if self.header is None else self.header.jobs
        if expected is None and abs(now.wall - self.found.st_mtime) < UNSETTLED:
            raise NotWhole
        if expected is not None and self.count < expected and self.young:
            raise NotWhole
        if expected is not None and self.count != expected:
            raise BadJob(f"the batch says it has {expected} jobs, but has {self.count}; write it anew")
        if not self.count:
            raise BadJob("the batch is empty; write one job object a line")
        batch = (0, self.start, self.count)
        flags = CALLS if self.header is not None and self.header.callbacks else ""
        flags += JOBS_WAIT if self.has_waiting else ""
        return Entry(priority=self.priority or 0, due=int(self.submitted * 1e6), id=self.id, flags=flags, batch=batch)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


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
        most = min(house.backlog.members[entry.id] + WINDOW, MOST_MEMBERS)
        while number < total and house.backlog.members[entry.id] < most:
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
    """A descriptor of a batch's file, which proves whose its members and callbacks are. Raises `BadJob`.

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
