"""Payloads: input of any size, which a job gets as its stdin.

Does:    copies the NAME.data of a job that runs as somebody else than its submitter, a slice a turn, so that nobody can
         change it under the job; where the file system can, in one step (FICLONE). Holes stay holes.
Reads:   the submitter's file below `queue/data`, which has left his inbox; he may still hold it open.
Writes:  the copy beside it, which then takes its place: it belongs to `cronq`.
Trusts:  the kernel about whose file it is.
Fails:   `BadJob` where it is not the submitter's; `OSError` of the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os

from cronq.entry import Entry
from cronq.errors import BadJob
from cronq.inboxes import DATA
from cronq.shelves import Shelves

SLICE = 8 << 20  # bytes a turn
_FICLONE = 0x40049409  # linux/fs.h


class Payload:
    """One copy that is under way."""

    def __init__(self, shelves: Shelves, entry: Entry) -> None:
        self._shelves = shelves
        self.job = entry
        self._path = f"{DATA}/{entry.id}"
        self._copy = f"{DATA}/.{entry.id}.copy"  # no job has a name like this
        self._copied = 0
        self._source = self._target = -1
        try:
            self._source, _ = shelves.open_file(self._path, entry.uid)
        except BadJob:
            os.close(shelves.open_file(self._path, shelves.uid)[0])  # a copy of ours already: a crash came after it
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._target = os.open(self._copy, flags, 0o640, dir_fd=shelves.fd)

    def step(self, _house: object) -> bool:
        """Copy a slice; whether it is all there, durably."""
        if self._target < 0 or self._cloned():
            return True
        try:
            self._copied = os.lseek(self._source, self._copied, os.SEEK_DATA)
            hole = os.lseek(self._source, self._copied, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            os.ftruncate(self._target, os.fstat(self._source).st_size)  # nothing but a hole is left
            os.fsync(self._target)
            return True
        most = min(SLICE, hole - self._copied)
        self._copied += os.copy_file_range(self._source, self._target, most, self._copied, self._copied)
        os.fdatasync(self._target)
        return False

    def _cloned(self) -> bool:
        if self._copied:
            return False
        try:
            fcntl.ioctl(self._target, _FICLONE, self._source)
        except OSError:
            return False
        os.fsync(self._target)
        return True

    def entry(self, _now: object) -> Entry:
        """The job's entry, now that the copy is in its place."""
        if self._target >= 0:
            os.rename(self._copy, self._path, src_dir_fd=self._shelves.fd, dst_dir_fd=self._shelves.fd)
            self._shelves.touch(DATA)
        return self.job

    def close(self) -> None:
        """Let go of both files."""
        for descriptor in (self._source, self._target):
            if descriptor >= 0:
                os.close(descriptor)
