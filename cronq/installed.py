"""The installed tables: each user's crontab, those that it replaced, and the copy that its user may read.

Does:    judges what came through an inbox as NAME.tab, a slice a turn, and installs it; removes a table; puts an
         earlier one back.
Reads:   captured tables and `schedule/tables`, through `safeopen`; who may (`tabrules`).
Writes:  `schedule/tables/<uid>`, `<uid>.1` (the newest of those before it) to `<uid>.10`, and `<uid>.0`, which is about
         to become `<uid>`; `out/<uid>/crontab`, a copy for `cronq crontab -l`.
Trusts:  nothing in a table. Whose it is say its inbox and fstat together, and they go on saying it: the file is never
         copied nor written to.
Fails:   `BadJob`, `NotPermitted` for a table that is not taken. Whatever crash comes between two renames, `recover`
         goes on behind it (docs/spool.md, Crontabs).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import time
from typing import Any

from cronq import inboxes, job, safeopen, states, tabrules
from cronq.admission import NotWhole
from cronq.entry import digest
from cronq.errors import BadJob, CronqError, NotPermitted
from cronq.house import House, Now
from cronq.log import line as log
from cronq.shelves import TABLES
from cronq.spool import write_all

KEPT = 10  # tables of a user that were replaced
COMING = 0
COPY, DRAFT = "crontab", ".crontab.tmp"
SLICE_SECONDS = 0.010
MOST_SAID = 20  # complaints in a refusal
INSTALLED = "installed"


class Table:
    """One captured table that is being judged."""

    def __init__(self, name: str, descriptor: int, young: bool) -> None:
        self.descriptor = descriptor
        self.data = safeopen.read(descriptor, tabrules.MAX_BYTES)
        # Our own clients rename what is whole. Who writes under another name may be in the midst of it.
        outgrown = len(self.data) > tabrules.MAX_BYTES
        self.growing = young and job.name_time(name) is None and not outgrown and not self.data.endswith(b"\n")
        self.complaints: list[str] = []
        self._steps = tabrules.judging(self.data, name + ".tab")

    def step(self, _house: object) -> bool:
        """Read on for a slice; whether all has been judged."""
        deadline = time.monotonic() + SLICE_SECONDS
        for found in self._steps:
            if found is not None:
                self.complaints = found[1]
                return True
            if time.monotonic() > deadline:
                return False
        return True

    def entry(self, _now: object) -> None:
        """There is none: a table is no job. Raises `NotWhole`, `BadJob` where it is not to be installed."""
        if self.growing:
            raise NotWhole
        if self.complaints:
            more = len(self.complaints) - MOST_SAID
            raise BadJob("\n".join(self.complaints[:MOST_SAID] + [f"… and {more} more"] * (more > 0)))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


def must_be_allowed(house: House, uid: int) -> None:
    """Raises `NotPermitted` for a user who may have no crontab, or whose uid was another's."""
    if reason := house.stranger(uid):
        raise NotPermitted(reason)
    if house.authority is None:
        return  # a spool of his own, where he could do as he likes
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise NotPermitted(f"uid {uid} has no account") from None
    why = tabrules.forbidden(name, uid)
    if why is not None:
        raise NotPermitted(f"{name} is not allowed to use crontab" + (f": {why}" if why else ""))


def is_waiting(house: House, captured: str) -> bool:
    """Whether an earlier table of the same user is being judged: one at a time is in memory, in the order of names."""
    uid = inboxes.owner(captured)[0]
    return any(
        other < captured and other.endswith(".tab") and inboxes.owner(other)[0] == uid
        for other in (*house.looks, *house.judging)
    )


def install(house: House, now: Now, captured: str, table: Table) -> None:
    """Make a good table its user's; the one before it is kept. The same table once more changes nothing."""
    uid, filename = inboxes.owner(captured)
    finish(house, uid)
    same = _content(house, uid) == table.data
    if same:
        with contextlib.suppress(FileNotFoundError):  # the disk refused behind its installing
            os.unlink(f"{inboxes.CAPTURE}/{captured}", dir_fd=house.shelves.fd)
        house.shelves.touch(inboxes.CAPTURE)
    else:
        _draft(house, uid, table.data, os.fstat(table.descriptor).st_mtime_ns)  # what needs room comes first
        _rename(house, f"{inboxes.CAPTURE}/{captured}", _path(uid, COMING))
    what = "unchanged" if same else INSTALLED
    _note(house, now, uid, states.QUEUED, what, file=filename, hash=digest(table.data), bytes=len(table.data))
    if not same:
        _settle(house, uid)


def remove(house: House, now: Now, uid: int) -> bool:
    """Take a user's table out of use, and keep it as his newest earlier one; whether there was one."""
    finish(house, uid)
    if not _is_there(house, _path(uid)):
        return False
    _keep(house, uid)
    _note(house, now, uid, INSTALLED, "removed")
    _publish(house, uid)
    return True


def undo(house: House, now: Now, uid: int, number: int) -> bool:
    """Put the earlier table of this number back in use, and keep the present one; whether there was such a one."""
    finish(house, uid)
    if not 0 < number <= KEPT or not _is_there(house, _path(uid, number)):
        return False
    _rename(house, _path(uid, number), _path(uid, COMING))
    _note(house, now, uid, INSTALLED, INSTALLED, cause=f"undo {number}")
    _settle(house, uid)
    return True


def recover(house: House) -> None:
    """Go on where a crash came in between: tables about to come, and copies that are not of the present ones."""
    names = os.listdir(f"{house.shelves.root}/{TABLES}")
    for name in names:
        if name.endswith(f".{COMING}") and name[: -len(f".{COMING}")].isdigit():
            finish(house, int(name.partition(".")[0]))
    uids = {int(name) for name in names if name.isdigit()}
    uids |= {int(name) for name in os.listdir(f"{house.shelves.root}/out") if name.isdigit()}
    for uid in sorted(uids):
        _publish(house, uid)


def finish(house: House, uid: int) -> None:
    """Bring a table that is about to come to its place, if there is one."""
    if _is_there(house, _path(uid, COMING)):
        _settle(house, uid)


def _settle(house: House, uid: int) -> None:
    if _is_there(house, _path(uid)):
        _keep(house, uid)
    _rename(house, _path(uid, COMING), _path(uid))
    _publish(house, uid)


def _keep(house: House, uid: int) -> None:
    """Make the present table the newest of the earlier ones; of those, the one that is too many goes."""
    free = next((number for number in range(1, KEPT) if not _is_there(house, _path(uid, number))), KEPT)
    for number in range(free, 1, -1):
        _rename(house, _path(uid, number - 1), _path(uid, number))
    _rename(house, _path(uid), _path(uid, 1))


# ---------------------------------------------------------------- the copy that its user reads


def _publish(house: House, uid: int) -> None:
    """Have the copy say what the table says; it bears the table's own time, by which it is known to be of it."""
    shelves = house.shelves
    place = f"out/{uid}/{COPY}"
    try:
        descriptor, found = shelves.open_file(_path(uid), uid)
    except (FileNotFoundError, BadJob) as error:
        if isinstance(error, BadJob):
            log("table-unreadable", uid=uid, reason=error.sentence)
        if _is_there(house, place):
            os.unlink(place, dir_fd=shelves.fd)
            shelves.touch(f"out/{uid}")
        return
    try:
        stamp = found.st_mtime_ns, found.st_size
        if _stamp(house, place) != stamp:
            if _stamp(house, f"out/{uid}/{DRAFT}") != stamp:
                _draft(house, uid, safeopen.read(descriptor, tabrules.MAX_BYTES), found.st_mtime_ns)
            _rename(house, f"out/{uid}/{DRAFT}", place)
    finally:
        os.close(descriptor)


def _draft(house: House, uid: int, data: bytes, mtime: int) -> None:
    """Write what the copy is to say, beside it."""
    house.shelves.user_folder(uid)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"out/{uid}/{DRAFT}", flags, 0o644, dir_fd=house.shelves.fd)
    try:
        write_all(descriptor, data)
        os.utime(descriptor, ns=(mtime, mtime))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(house: House, path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path, dir_fd=house.shelves.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return (found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


# ---------------------------------------------------------------- small pieces


def _path(uid: int, number: int | None = None) -> str:
    return f"{TABLES}/{uid}" if number is None else f"{TABLES}/{uid}.{number}"


def _is_there(house: House, path: str) -> bool:
    try:
        os.stat(path, dir_fd=house.shelves.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _content(house: House, uid: int) -> bytes | None:
    """What the present table says; None where there is none that can be read."""
    try:
        descriptor, _ = house.shelves.open_file(_path(uid), uid)
    except (FileNotFoundError, CronqError):
        return None
    try:
        return safeopen.read(descriptor, tabrules.MAX_BYTES)
    finally:
        os.close(descriptor)


def _rename(house: House, source: str, target: str) -> None:
    os.rename(source, target, src_dir_fd=house.shelves.fd, dst_dir_fd=house.shelves.fd)
    house.shelves.touch(os.path.dirname(target), os.path.dirname(source))


def _note(house: House, now: Now, uid: int, source: str, to: str, **facts: Any) -> None:
    log("crontab", uid=uid, what=to)
    house.history.note(now.wall, f"{uid}-crontab", source, to, **facts)
