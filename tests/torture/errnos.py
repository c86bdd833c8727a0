"""Which errno a call may have, and why: what a disk, a limit or the kernel can really say there.

A call that is not in the table can fail in no way that is not a mistake in the program (lseek, fcntl, prlimit64), or is
made by a job's process before it is the job's program (execve), whose failure is the job's.
"""

import errno
import os
import time

_DISK_FULL = ("ENOSPC", "EDQUOT")  # a new name, a longer file; on btrfs also what makes room, as it copies
_DISK_ILL = ("EIO", "ESTALE")  # a bad sector; a file system that is served from elsewhere
_NO_DESCRIPTOR = ("EMFILE", "ENFILE")  # of this process, of the machine
_WRITING = (*_DISK_FULL, *_DISK_ILL, "EROFS")  # EROFS: what ext4 becomes after an error
_BY_CALL = {
    "openat": (*_DISK_ILL, *_NO_DESCRIPTOR, "ENOMEM"),
    "openat2": (*_DISK_ILL, *_NO_DESCRIPTOR, "ENOMEM"),  # no EAGAIN: that is for paths with ".."
    **dict.fromkeys(("rename", "renameat", "renameat2"), (*_WRITING, "ENOMEM")),
    **dict.fromkeys(("mkdir", "mkdirat", "link", "linkat"), (*_WRITING, "ENOMEM")),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), (*_WRITING, "ENOMEM")),
    **dict.fromkeys(("chmod", "fchmod", "fchmodat"), (*_WRITING, "ENOMEM")),
    **dict.fromkeys(("write", "pwrite64", "copy_file_range"), (*_WRITING, "ENOMEM", "EINTR")),
    **dict.fromkeys(("fsync", "fdatasync"), (*_WRITING, "EINTR")),
    "ftruncate": (*_WRITING, "EINTR"),
    **dict.fromkeys(("read", "pread64"), (*_DISK_ILL, "ENOMEM", "EINTR")),
    **dict.fromkeys(("getdents64", "fstat", "newfstatat", "access", "faccessat", "chdir"), (*_DISK_ILL, "ENOMEM")),
    "flock": ("ENOLCK", "EINTR"),
    **dict.fromkeys(("socket", "accept4", "pipe2", "memfd_create", "pidfd_open"), (*_NO_DESCRIPTOR, "ENOMEM")),
    **dict.fromkeys(("epoll_create1", "inotify_init1"), (*_NO_DESCRIPTOR, "ENOMEM")),
    **dict.fromkeys(("epoll_ctl", "inotify_add_watch"), ("ENOSPC", "ENOMEM")),  # fs.epoll.max_user_watches and the like
    "epoll_wait": ("EINTR",),
    "bind": (*_WRITING, "ENOMEM"),
    "sendmsg": ("EAGAIN", "ENOMEM", "EINTR"),
    "recvmsg": ("EAGAIN", "ENOMEM", "EINTR"),
    **dict.fromkeys(("clone", "clone3", "fork", "vfork"), ("EAGAIN", "ENOMEM")),
    "wait4": ("EINTR",),
}
_CREATING = (*_DISK_FULL, "EROFS")  # of an open that may make a file, besides
_OF_FILES = ("read", "write", "pread64", "pwrite64", "fstat", "newfstatat")
_LOGS = ("/log", "/err")  # by which the suite sees what happens
_FOR_A_WHILE = {"ENOSPC", "EMFILE", "EIO", "ENOMEM", "EAGAIN"}  # what lasts, usually
SECONDS = 1.5


def faults(name: str, number: int, paths: list[str], flags: int) -> list[str]:
    """What may be answered to this call; of every fourth one also for a while, from this call on.

    What is no file of a disk (a pipe, a socket, /proc, /dev) has none of a disk's troubles. What is said is how the
    suite sees what happens: it is let alone.
    """
    where = paths[0] if paths else ""
    if where.endswith(_LOGS) or (name in _OF_FILES and not where.startswith("/") and ":" in where):
        return ["EINTR"] if "EINTR" in _BY_CALL[name] and not where.endswith(_LOGS) else []
    if where.endswith((".py", ".pyc", ".so")):
        return []  # the program itself: what cannot be imported cannot say so
    if where.startswith(("/proc/", "/dev/")):
        return [fault for fault in _BY_CALL.get(name, ()) if fault in (*_NO_DESCRIPTOR, "ENOMEM")]
    found = [*_BY_CALL.get(name, ())]
    if name == "openat" and flags & os.O_CREAT:
        found += _CREATING
    lasting = [f"{fault}@{SECONDS}" for fault in found if fault in _FOR_A_WHILE] if number % 4 == 1 else []
    return found + lasting


class Fault:
    """An errno, once or for a while: `EIO`, `EIO@1.5`."""

    def __init__(self, text: str) -> None:
        name, _, seconds = text.partition("@")
        self.code = getattr(errno, name)
        self.seconds = float(seconds or 0)
        self.since = 0.0

    def holds(self) -> bool:
        """Whether the next call fails, too."""
        now = time.monotonic()
        if not self.since:
            self.since = now
            return True
        return now - self.since < self.seconds
