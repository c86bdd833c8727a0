"""Additions: jobs that join a batch which has not ended, mostly by one of its own jobs (`--into "$CRONQ_BATCH_ID"`).

Does:    `must_be_open` says whether a batch takes one more job, `must_end` whether the two would wait for each other;
         `note` writes down that it has taken it; `of` says which it has taken; `may_end` whether every job file that
         could still bring one has been judged.
Reads:   the backlog, results; which files of the submitter are being judged.
Writes:  `out/<uid>/<batch>/added`: an id a line, on disk before the job is an entry. An entry's name says whose it is,
         but what has ended has no such name any more, and a tally after a restart must find it.
Trusts:  nothing in the job: a batch that is another user's is unknown to it.
Fails:   `BadJob`; `Behind` where the batch is still to be judged itself.

A job of the batch that adds another one has put its file into the inbox before it ends. So a batch may end when the
inbox has been read from its beginning since the last of its jobs ended, and what was taken then has been judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from cronq import job, parents, settle
from cronq.admission import Behind
from cronq.after import Needs
from cronq.entry import CANCEL_WANTED, JOBS_WAIT, WAITS, Entry
from cronq.errors import BadJob
from cronq.house import House
from cronq.shelves import Shelves
from cronq.states import DEAD

NAME = "added"
MOST_LOOKED = 10_000  # jobs that are looked at for what they wait for
_LONGEST = 256  # bytes, longer than any id


def must_be_open(house: House, batch_id: str, uid: int, name: str) -> None:
    """Make sure that this user's batch takes a job whose file came by this name. Raises `BadJob`, `Behind`."""
    shown = job.show(batch_id, 120)
    if int(batch_id.partition("-")[0]) != uid or "+" in batch_id:
        raise BadJob(f"batch names the unknown batch {shown}")
    kept = house.backlog.find(batch_id)
    if kept is None:
        ended = _ended(house, batch_id)
        if ended is None and parents.is_before(house, batch_id, name):
            raise Behind
        if ended is None or "jobs" not in ended:
            raise BadJob(f"batch names the unknown batch {shown}")
        raise BadJob(f"batch {batch_id} has ended; nothing can be added to it any more")
    if kept[1].batch is None:
        raise BadJob(f"batch names the unknown batch {shown}")
    if CANCEL_WANTED in kept[1].flags:
        raise BadJob(f"batch {batch_id} is cancelled; nothing can be added to it any more")
    for event in ("success", "complete"):
        call = f"{batch_id}+{event}"
        if call in house.backlog or house.shelves.result(call):
            raise BadJob(f"batch {batch_id} has come to its end, and its on_{event} is told so; nothing can be added")


def must_end(house: House, batch_id: str, needs: Needs) -> None:
    """Make sure that nothing which a new job of this batch waits for waits for the batch itself. Raises `BadJob`.

    A job waits only for what was known when it was accepted, so there is no way to a circle but by a batch that takes
    one more.
    """
    left = [(parent, parent) for parent in needs.parents]
    seen: set[str] = set()
    while left:
        job_id, named = left.pop()
        if job_id == batch_id:
            raise BadJob(
                f"{named} is its own batch, and that waits for it: both would wait for ever"
                if named == job_id
                else f"{named} waits for batch {batch_id}, and that would wait for this job: both would wait for ever"
            )
        if job_id in seen:
            continue
        seen.add(job_id)
        if len(seen) > MOST_LOOKED:
            raise BadJob(f"what {named} waits for waits for more than {MOST_LOOKED} others; name fewer")
        left += [(further, named) for further in _waited_for(house, job_id, batch_id, named)]


def _waited_for(house: House, job_id: str, batch_id: str, named: str) -> Iterable[str]:
    """What a job waits for that has not ended. Other jobs of this batch lead to no circle: they were looked at before.

    Raises `BadJob` where it stands in a file of which not all jobs are entries yet: that is not read for this.
    """
    base = job_id.partition("+")[0]
    kept = house.backlog.find(job_id)
    if base == batch_id or (kept is not None and kept[1].parent == batch_id):
        return ()
    if kept is None and base != job_id and parents.end(house, job_id) is None:
        kept = house.backlog.find(base)
    if kept is None or kept[0] == DEAD:
        return ()
    state, entry = kept
    if entry.batch is None:
        if WAITS not in entry.flags:
            return ()
        found = house.backlog.waits.needs.get(entry.id)
        return (found or Needs.of(settle.read(house, state, entry) or job.Job())).parents
    if JOBS_WAIT in entry.flags and entry.batch[0] < entry.batch[2]:
        raise BadJob(
            f"{named} has to do with batch {entry.id}, whose jobs wait for others, and are not all made yet; "
            "add this one when they are"
        )
    return house.backlog.unfinished(entry.id) if job_id == entry.id else ()


def _ended(house: House, batch_id: str) -> dict[str, object] | None:
    try:
        found = json.loads(house.shelves.result(batch_id) or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def note(house: House, entry: Entry) -> None:
    """Write down that a job belongs to its batch, before it is an entry. One line more, and nothing is rewritten.

    What a crash left of a line is cut off: that job was not taken then, and is judged again.
    """
    shelves = house.shelves
    folder = shelves.result_folder(Entry(id=entry.parent, due=0))
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{folder}/{NAME}", flags, 0o644, dir_fd=shelves.fd)
    try:
        size = os.fstat(descriptor).st_size
        start = max(0, size - _LONGEST)
        rest = os.pread(descriptor, _LONGEST, start)
        whole = start + rest.rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        os.pwrite(descriptor, f"{entry.id}\n".encode(), whole)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shelves.touch(folder)
    house.step("noted")
    shelves.touch(folder)


def of(shelves: Shelves, batch_id: str) -> list[str]:
    """The ids of the jobs that were added to a batch, each once, though a crash may have had one noted twice."""
    path = f"{shelves.root}/out/{batch_id.partition('-')[0]}/{batch_id}/{NAME}"
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read().split("\n")[:-1]
    except OSError:
        return []
    return list(dict.fromkeys(line for line in lines if job.is_id(line)))


def number(shelves: Shelves, entry: Entry) -> int:
    """How many jobs a batch has: its lines, and what was added."""
    return 0 if entry.batch is None else entry.batch[2] + len(of(shelves, entry.id))


# -------------------------------------------------------------------- when it may end


def may_end(house: House, batch: Entry) -> bool:
    """Whether no job file is left to judge that one of the batch's jobs may have written.

    Asked each turn while all of its jobs have ended; forgotten when one has not.
    """
    uid = batch.uid
    waiting = house.closing.setdefault(batch.id, Closing(house.turns))
    if waiting.files is None:
        if house.read.get(uid, 0) < waiting.since and _has_unread(house, uid):
            return False
        waiting.files = _being_judged(house, uid)
    waiting.files &= _being_judged(house, uid)
    return not waiting.files


class Closing:
    """What a batch waits for, all of whose jobs have ended."""

    def __init__(self, turn: int) -> None:
        self.since = turn  # the first one in which all of them had
        self.files: set[str] | None = None  # captured then, and still to be judged; None: the inbox is not read yet


def _has_unread(house: House, uid: int) -> bool:
    """Whether something may lie in an inbox that was not read to its end (nothing is taken now, or not all at once)."""
    inbox = house.shelves.inboxes
    try:
        return house.seen.get(uid) != inbox.mtime(uid) and not inbox.is_empty(uid)
    except OSError:
        return False  # nothing can be taken out of it


def _being_judged(house: House, uid: int) -> set[str]:
    """The jobs of this user that were taken out of his inbox and are no entries yet."""
    mine = f"{uid},"
    return {each for each in (*house.looks, *house.judging) if each.startswith(mine) and each.endswith(".job")}


def forget(house: House, over: list[Entry]) -> None:
    """Only of what is over it is remembered since when."""
    for batch_id in house.closing.keys() - {entry.id for entry in over}:
        del house.closing[batch_id]
