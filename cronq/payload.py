"""Payloads: input of any size, which a job gets as its stdin.

Does:    copies the NAME.data of a job that runs as somebody else than its submitter, so that nobody can change it under
         the job; where the file system can, in one step (FICLONE), else beside the dispatcher's turns, in slices of all
         users in turn. Holes stay holes.
Reads:   the submitter's file below `queue/data`, which has left his inbox; he may still hold it open.
Writes:  the copy beside it, which then takes its place: it belongs to `cronq`.
Trusts:  the kernel about whose file it is.
Fails:   `BadJob` where it is not the submitter's, or changed while it was copied. Where the disk refuses, nothing of
         the copy is left, and it is tried again: that job waits for room, and no other does.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections import deque

from cronq import linux, spool
from cronq.after import Needs
from cronq.doorbell import Doorbell
from cronq.entry import Entry
from cronq.errors import BadJob
from cronq.inboxes import DATA
from cronq.log import line as log
from cronq.shelves import Shelves

LOOK_FOR_ROOM = 5.0  # seconds until a copy that the disk did not take is tried again


class Payload:
    """One copy that is under way, in the hands of `copier`. `bell` rings when there is something to see to."""

    def __init__(self, shelves: Shelves, entry: Entry, copier: Copier, bell: Doorbell) -> None:
        self.job = entry
        self.needs = Needs()  # what it waits for
        self._shelves = shelves
        self._copier = copier
        self._bell = bell
        self._path = f"{DATA}/{entry.id}"
        self._copy = f"{DATA}/.{entry.id}.copy"  # no job has a name like this
        self._copied = 0
        self._source = self._target = self._rung = -1
        self._error: OSError | None = None
        self._over = False  # nothing is being copied any more
        self._ringing = threading.Lock()
        self._again = 0.0  # before this instant (monotonic) nothing is tried
        try:
            self._source, self._found = shelves.open_file(self._path, entry.uid)
        except BadJob:
            os.close(shelves.open_file(self._path, shelves.uid)[0])  # a copy of ours already: a crash came after it

    def step(self, _house: object) -> bool:
        """Whether it is all there, durably. Raises `BadJob`."""
        if self._source < 0:
            return True
        if self._target < 0 and time.monotonic() >= self._again:
            self._begin()
        if not self._over:
            return False
        if self._error is not None:
            self._put_off(self._error)
            return False
        now = os.fstat(self._source)
        if (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns):
            sizes = f"it had {self._found.st_size} bytes, and then {now.st_size}"
            raise BadJob(f"its input changed while it was copied ({sizes}); write NAME.data whole before NAME.job")
        return True

    def _begin(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._over, self._error, self._copied = False, None, 0
        self._found = os.fstat(self._source)
        try:
            self._target = os.open(self._copy, flags, 0o640, dir_fd=self._shelves.fd)
            if spool.clone(self._source, self._target):
                os.fsync(self._target)
                self._over = True
                return
            room = os.fstatvfs(self._target)
            if room.f_bavail * room.f_frsize < self._found.st_blocks * 512:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._rung = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._bell.listen(self._rung, "copied", select.EPOLLIN | select.EPOLLET)  # once: who stops does not look
            self._copier.add(self)
        except OSError as error:
            self._put_off(error)

    def _put_off(self, error: OSError) -> None:
        """Leave nothing of the copy, and try again later: whoever sent this was told yes."""
        if not self._again:
            log("no-copy", id=self.job.id, reason=f"its input cannot be copied: {error.strerror}; it waits for room")
        self._drop()
        self._over, self._again = False, time.monotonic() + LOOK_FOR_ROOM

    def work(self) -> bool:
        """Copy a slice, in the copier's thread, and the last time have it all durable; whether there is more to do."""
        try:
            part = spool.next_data(self._source, self._copied, self._found.st_size)
            if part is not None:
                at, end = part
                if count := spool.copy_slice(self._source, self._target, at, end, at):
                    linux.begin_writing(self._target, at, count)
                    self._copied = at + count
                    return True
            os.ftruncate(self._target, self._found.st_size)
            os.fsync(self._target)
        except OSError as error:
            self._error = error
        with self._ringing:  # as soon as it is over, the dispatcher may close the bell
            self._over = True
            os.eventfd_write(self._rung, 1)
        return False

    def entry(self, _now: object) -> Entry:
        """The job's entry, now that the copy is in its place."""
        if self._target >= 0:
            os.rename(self._copy, self._path, src_dir_fd=self._shelves.fd, dst_dir_fd=self._shelves.fd)
            self._shelves.touch(DATA)
        return self.job

    def close(self) -> None:
        """Let go of the files; what was copied and has not come to its place is gone."""
        self._drop()
        if self._source >= 0:
            os.close(self._source)
            self._source = -1

    def _drop(self) -> None:
        if self._rung >= 0:
            with self._ringing:
                self._bell.ignore(self._rung)
                os.close(self._rung)
        if self._target >= 0:
            os.close(self._target)
            try:
                os.unlink(self._copy, dir_fd=self._shelves.fd)
            except FileNotFoundError:
                pass  # it has its place
        self._rung = self._target = -1


class Copier:
    """The thread that copies, as long as there is something to copy: a slice of each user's, and of each of his."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[int, deque[Payload]] = {}  # by submitter, who is next first
        self._thread: threading.Thread | None = None

    def add(self, payload: Payload) -> None:
        """Have this one copied, too. Raises `OSError` where there can be no thread."""
        with self._lock:
            self._queues.setdefault(payload.job.uid, deque()).append(payload)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, daemon=True)  # a dispatcher that ends waits for no copy
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                self._queues.clear()
                raise OSError(errno.EAGAIN, "there can be no further thread") from None

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the loop, and interrupt nothing
        while (payload := self._next()) is not None:
            if payload.work():
                with self._lock:
                    self._queues.setdefault(payload.job.uid, deque()).append(payload)

    def _next(self) -> Payload | None:
        with self._lock:
            if not self._queues:
                self._thread = None
                return None
            uid = next(iter(self._queues))
            queue = self._queues.pop(uid)
            payload = queue.popleft()
            if queue:
                self._queues[uid] = queue  # behind all others
            return payload
