"""A block device that remembers, in order, what was written to it, when it was flushed, and what was said meanwhile.

Does:    `python device.py serve PLACE IMAGE LOG` shows two files in PLACE, by FUSE: `disk`, which is what IMAGE is,
         and `mark`, which takes lines. Each write, each flush and each line becomes one record of LOG. One thread
         serves both files, so a line that somebody wrote after he was told something stands after all writes and
         flushes that came before.
         `Loop` is a block device over a file; `mount` and `unmount` are mount(2) and umount(2), waited for.
         `read_log` gives the records again.
Trusts:  the loop driver to pass a flush of the file system on as fsync, and to wait for it: that is what is recorded.
Fails:   with `OSError` where there is no FUSE, no loop device or no right to mount.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WRITE, FLUSH, MARK = range(3)
_HEAD = struct.Struct("<BQI")
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR, _BLKFLSBUF = 0x4C82, 0x4C0A, 4, 0x1261
_libc = ctypes.CDLL(None, use_errno=True)


class Record(NamedTuple):
    """One thing that happened to the device."""

    kind: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Record]:
    """All records, in order."""
    return list(_records(path.read_bytes()))


def _records(data: bytes) -> Iterator[Record]:
    at = 0
    while at < len(data):
        kind, offset, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Record(kind, offset, data[at : at + length])
        at += length


class Loop:
    """A block device over this file, gone with this process at the latest."""

    def __init__(self, path: Path) -> None:
        for _ in range(50):  # somebody else may take the free one first
            with open("/dev/loop-control", "rb+", buffering=0) as control:
                number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            self.path = f"/dev/loop{number}"
            self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            info = struct.pack("<5Q4I176s", 0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"")
            try:
                fcntl.ioctl(self._file, _LOOP_CONFIGURE, struct.pack("<II", backing, 512) + info[:232] + bytes(64))
                return
            except OSError as error:
                os.close(self._file)
                if error.errno != errno.EBUSY:
                    raise
            finally:
                os.close(backing)
        raise OSError(errno.EBUSY, "no loop device is free")

    def forget(self) -> None:
        """Have the kernel keep nothing of what it read: the file is another one now."""
        fcntl.ioctl(self._file, _BLKFLSBUF)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


def mount(device: str, place: Path, kind: str, options: str = "") -> None:
    """As mount(2). Raises `OSError`."""
    words = [os.fsencode(word) for word in (device, place, kind)]
    if _libc.mount(*words, ctypes.c_ulong(0), options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {device}: {os.strerror(code)}")


def unmount(place: Path, within: float = 20.0) -> None:
    """As umount(2), as soon as nobody is in there any more. Raises `OSError`."""
    end = time.monotonic() + within
    while _libc.umount2(os.fsencode(place), 0) != 0:
        code = ctypes.get_errno()
        if code != errno.EBUSY or time.monotonic() > end:
            raise OSError(code, f"umount {place}: {os.strerror(code)}")
        time.sleep(0.002)


def serve(place: str, image: str, log: str) -> None:
    """Be the device until it is unmounted."""
    import mfusepy

    disk = os.open(image, os.O_RDWR)
    book = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sizes = {"/disk": os.fstat(disk).st_size, "/mark": 0}

    def note(kind: int, offset: int, data: bytes) -> None:
        os.writev(book, [_HEAD.pack(kind, offset, len(data)), data])

    class Disk(mfusepy.Operations):
        use_ns = True

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path not in sizes:
                raise mfusepy.FuseOSError(errno.ENOENT)
            return {"st_mode": stat.S_IFREG | 0o666, "st_nlink": 1, "st_size": sizes[path]}

        def read(self, path, size, offset, fh):
            return os.pread(disk, size, offset) if path == "/disk" else b""

        def write(self, path, data, offset, fh):
            if path == "/disk":
                os.pwrite(disk, data, offset)
                note(WRITE, offset, data)
            else:
                note(MARK, 0, data)
                sizes[path] += len(data)
            return len(data)

        def fsync(self, path, datasync, fh):
            if path == "/disk":
                note(FLUSH, 0, b"")
            return 0

        def flush(self, path, fh):
            return 0

        def release(self, path, fh):
            return 0

        def open(self, path, flags):
            return 0

        def truncate(self, path, length, fh=None):
            return 0

    mfusepy.FUSE(Disk(), place, foreground=True, nothreads=True, allow_other=True, fsname="remembers")


if __name__ == "__main__" and sys.argv[1] == "serve":
    serve(*sys.argv[2:])
