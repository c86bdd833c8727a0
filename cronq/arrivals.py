"""Arrivals: what producers dropped becomes entries, or is set aside with a reason.

Does:    captures the files of the inboxes, in slices, so that no inbox delays another, and has each judged by
         `admission`, `batches` or `installed`.
Reads:   captured files through `safeopen`: at most 64 KiB of a job.
Trusts:  nothing in them. Whose they are is what inbox and fstat say together.
Fails:   never on a bad file: that one is refused; a file that is not whole yet is looked at again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cronq import additions, batches, claim, inboxes, installed, pauses, safeopen, states, unique
from cronq.admission import Behind, NotWhole, arrived, entry_of, identify, judged, know_parents, permit, place, refuse
from cronq.after import Needs
from cronq.entry import HAS_DATA, LINE, Entry, digest
from cronq.errors import BadJob, CronqError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log
from cronq.payload import Payload
from cronq.spool import DATA_ENDING, reason_text

YOUNG = 10.0  # seconds in which a file that does not parse may still be being written
UNREADABLE = -1
UNSETTLED = 2.0  # seconds in which a directory's mtime may not tell of a change (kernels stamp in ticks)
LOOK_AGAIN = 0.2
SLICE_NANOSECONDS = 10_000_000
SLICE_NAMES = 256
MOST_OPEN = 16  # files of one user that are open while they are read or copied


def admit(house: House, now: Now, rung: set[Any]) -> None:
    """Take what lies in the inboxes that changed, and judge it.

    Each stage has a slice of time for each user, so that nobody waits for what another one sent. While nothing is
    accepted, what lies in the inboxes stays there.
    """
    uids = [] if pauses.REFUSE in house.pauses.gates else house.shelves.inboxes.uids()
    being_judged = (captured for captured in (*house.looks, *house.judging) if captured not in house.behind)
    pending = Counter(inboxes.owner(captured)[0] for captured in being_judged)
    for uid in uids:
        if ("inbox", uid) in rung or _changed(house, uid):
            _collect(house, now, uid, SLICE_NAMES - pending[uid])
        else:
            house.read[uid] = house.turns
    for captured in _slices(house, [name for name, due in house.looks.items() if due <= now.mono]):
        del house.looks[captured]
        judge(house, now, captured)
    for captured in _slices(house, list(house.judging)):
        _read_on(house, now, captured)


def recover(house: House, now: Now) -> None:
    """Have what a dispatcher before this one had captured and not placed judged again."""
    house.looks |= dict.fromkeys(house.shelves.captured(), now.mono)


def _slices(house: House, names: list[str]) -> Iterator[str]:
    """The captured files of these, as far as the time lasts that each user has."""
    spent: Counter[int] = Counter()
    for captured in names:
        uid = inboxes.owner(captured)[0]
        if spent[uid] >= SLICE_NANOSECONDS:
            house.urgent = True
            continue
        begun = time.monotonic_ns()
        yield captured
        spent[uid] += time.monotonic_ns() - begun


def _changed(house: House, uid: int) -> bool:
    try:
        mtime = house.shelves.inboxes.mtime(uid)
    except OSError:
        mtime = UNREADABLE
    return house.seen.get(uid) != mtime


def _collect(house: House, now: Now, uid: int, most: int) -> None:
    """Take a slice of what lies in an inbox: as much as time allows, so that no inbox delays another."""
    if most <= 0:
        return  # enough of his is being judged; then the rest
    inbox = house.shelves.inboxes
    deadline = time.monotonic_ns() + SLICE_NANOSECONDS
    if not inbox.is_listing(uid):
        house.listed[uid] = house.turns
    try:
        names, mtime = inbox.names(uid, most)
    except OSError as error:
        if house.seen.get(uid) != UNREADABLE:
            log("inbox-unreadable", uid=uid, reason=error.strerror)
        house.read[uid] = house.turns  # nothing of it can be taken
        house.seen[uid] = UNREADABLE
        return
    left = False
    for count, filename in enumerate(names):
        if count and time.monotonic_ns() > deadline:
            inbox.put_back(uid, names[count:])
            mtime = None
            break
        try:
            captured = inbox.capture(uid, filename)
        except BadJob as error:
            _leave(house, uid, filename, error)
            continue
        except OSError:
            inbox.put_back(uid, names[count:])
            house.looks[f"{uid},{filename}"] = now.mono + 1.0  # perhaps it was taken before the disk refused
            raise
        if captured is None:
            left = True  # one of its name is being judged: it is taken when that has been
        else:
            house.step("captured")
            judge(house, now, captured)
    if mtime is None:
        house.urgent = True
    elif not left:
        house.read[uid] = house.listed[uid]
        if now.wall - mtime / 1e9 > UNSETTLED:
            house.seen[uid] = mtime
            _name_foreign(house, uid)


def _name_foreign(house: House, uid: int) -> None:
    """Say once of names that no job may have."""
    for name in house.shelves.inboxes.foreign(uid):
        if _is_new(house, uid, name):
            reason = "letters, digits, '.', '_', '-' only, at most 81"
            log("name-refused", uid=uid, file=ascii(name), reason=reason)


def _leave(house: House, uid: int, filename: str, error: CronqError) -> None:
    """Say once why something stays in its inbox."""
    if _is_new(house, uid, filename):
        log("refused", uid=uid, file=filename, reason=error.sentence)
        house.shelves.give_reason(uid, filename, reason_text(error))


def _is_new(house: House, uid: int, filename: str) -> bool:
    """Whether nothing has been said yet of what stays in an inbox under this name."""
    if len(house.left) > SLICE_NAMES:
        house.left.clear()
    known = (uid, filename) in house.left
    house.left.add((uid, filename))
    return not known


def judge(house: House, now: Now, captured: str) -> None:
    """One captured file: an entry, a refusal with its reason, or another look later. Raises `OSError`."""
    try:
        _judge(house, now, captured)
    except OSError:
        house.looks[captured] = now.mono + 1.0  # no room for it now: it lies captured, and is judged again
        raise


def _judge(house: House, now: Now, captured: str) -> None:
    uid, filename = inboxes.owner(captured)
    name, ending = inboxes.split(filename) or ("", "")
    house.behind.discard(captured)
    try:
        descriptor, found = house.shelves.open_file(f"{inboxes.CAPTURE}/{captured}", uid)
    except FileNotFoundError:
        return
    except BadJob as error:
        refuse(house, now, captured, error)
        return
    young = abs(now.wall - found.st_mtime) < YOUNG  # what says that it comes from the future does not stay young
    try:
        if name.startswith(("cron-", LINE)):
            raise BadJob("names that begin with cron- or tab- are cronq's own; name the file otherwise")
        is_put_off = installed.is_waiting(house, captured) if ending == ".tab" else _has_many(house, uid)
        if ending != ".job" and is_put_off:
            house.looks[captured] = now.mono + LOOK_AGAIN
        elif ending == ".tab":
            installed.must_be_allowed(house, uid)
            house.judging[captured] = installed.Table(name, descriptor, young)
            descriptor = -1
        elif ending == ".jobs":
            house.judging[captured] = batches.Batch(house, now, uid, name, descriptor, found, young)
            descriptor = -1
        else:
            _admit_job(house, now, captured, uid, name, descriptor, found, young)
    except NotWhole as error:
        _look_again(house, now, captured, error)
    except CronqError as error:
        refuse(house, now, captured, error)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _admit_job(
    house: House, now: Now, captured: str, uid: int, name: str, descriptor: int, found: os.stat_result, young: bool
) -> None:
    data = safeopen.read_job(descriptor, MAX_JOB_BYTES)
    wanted = judged(data, young)
    permit(house, wanted, uid)
    wanted = unique.adopt(wanted, house.config.tasks.get(wanted.task or ""))
    know_parents(house, uid, name, wanted)
    if wanted.batch is not None:
        additions.must_be_open(house, wanted.batch, uid, name)
        additions.must_end(house, wanted.batch, Needs.of(wanted))
    entry = entry_of(house, identify(house, uid, name, found), wanted, digest(data), arrived(now, name, found))
    entry = claim.claim(house, now, entry, wanted)
    is_copied = house.authority is not None and _runner(house, entry) != uid
    if is_copied and _has_many(house, uid):
        raise NotWhole
    if house.shelves.inboxes.take_data(uid, name, entry.id):
        entry = entry.flagged(HAS_DATA)
        try:
            if is_copied:
                payload = Payload(house.shelves, entry, house.copier, house.crew.bell)
                payload.needs = Needs.of(wanted)
                house.judging[captured] = payload
                house.backlog.taken.moved(entry, states.WAITING)  # its key is its own while its input is copied
                return
            os.close(house.shelves.open_file(f"{inboxes.DATA}/{entry.id}", uid)[0])
        except BadJob as error:
            raise BadJob(f"its {name}{DATA_ENDING}: {error.sentence}") from None
    if entry.into:
        additions.note(house, entry)
    place(house, now, captured, entry)


def _look_again(house: House, now: Now, captured: str, why: NotWhole) -> None:
    house.looks[captured] = now.mono + LOOK_AGAIN
    if isinstance(why, Behind):
        house.behind.add(captured)  # it keeps nothing of its user's from being taken: the job it waits for may be that


def _has_many(house: House, uid: int) -> bool:
    """Whether as many files of this user are being read or copied as may be open at once."""
    return sum(inboxes.owner(captured)[0] == uid for captured in house.judging) >= MOST_OPEN


def _runner(house: House, entry: Entry) -> int:
    try:
        return house.runner(entry.task, entry.uid)
    except CronqError:
        return entry.uid


def _read_on(house: House, now: Now, captured: str) -> None:
    """One slice more of what takes longer than a turn: reading a batch or a table, copying a payload."""
    long = house.judging[captured]
    try:
        if not long.step(house):
            house.urgent = house.urgent or not isinstance(long, Payload)  # that rings when it is copied
            return
        entry = long.entry(now)
        if isinstance(long, Payload) and entry.into:
            additions.must_be_open(house, entry.parent, entry.uid, entry.id)
            additions.must_end(house, entry.parent, long.needs)
            additions.note(house, entry)
    except NotWhole as error:
        _look_again(house, now, captured, error)
    except CronqError as error:
        if isinstance(long, Payload):
            house.backlog.taken.moved(long.job, "")
        refuse(house, now, captured, error)
    else:
        if isinstance(long, installed.Table):
            installed.install(house, now, captured, long)
        else:
            place(house, now, captured, entry)
    del house.judging[captured]
    long.close()
