"""Opening what a stranger owns: whatever he put there, we neither follow it, nor wait for it, nor believe its name.

Does:    opens a regular file below a directory descriptor and proves whose it is by what the kernel says of it. For
         whoever waits for jobs, root among them: opens, looks at and lists what lies below a spool, and is led nowhere.
Reads:   at most the bytes asked for, never by the size that the file claims.
Trusts:  the kernel. Path and content are the stranger's; identity is what name *and* fstat say (docs/spool.md rule 4).
Fails:   `BadJob` with the sentence that mends it; `FileNotFoundError` where there is nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from cronq import linux
from cronq.errors import BadJob

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class System:
    """That a spool is a system's: the ids of `cronq`, and whether jobs are put into cgroups of their own.

    In a worker also the crontabs of root's that the launcher opened for it, by path.
    """

    __slots__ = ("gid", "placing", "tables", "uid")

    def __init__(self, uid: int, gid: int, placing: bool = False) -> None:
        self.uid = uid
        self.gid = gid
        self.placing = placing
        self.tables: dict[str, int] = {}


class Proof:
    """What a file must be to be taken as `uid`'s.

    `gid` and mode are asked for in system mode only: there, only the kernel gives a file the pair (user, group cronq),
    and only in that user's inbox. Rootless, whoever can write the spool is the user himself.
    """

    __slots__ = ("device", "gid", "uid")

    def __init__(self, uid: int, device: int, gid: int | None = None) -> None:
        self.uid = uid
        self.device = device
        self.gid = gid

    def check(self, descriptor: int) -> os.stat_result:
        """What fstat says of the open file. Raises `BadJob` where it is not what it must be."""
        found = os.fstat(descriptor)
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFREG:
            raise BadJob(f"it is {_KINDS.get(kind, 'not a file')}, not a regular file; write a plain file")
        if found.st_dev != self.device:
            raise BadJob("it lies on another file system than the spool; write it into the inbox itself")
        if found.st_uid != self.uid:
            raise BadJob(f"it belongs to uid {found.st_uid}, the inbox to uid {self.uid}; each user has his own inbox")
        if found.st_nlink != 1:
            raise BadJob(f"it has {found.st_nlink} links; use cp, not ln")
        if self.gid is not None:
            if found.st_gid != self.gid:
                raise BadJob(f"its group is {found.st_gid}, not {self.gid}; use cp, not mv, so that the inbox gives it")
            if found.st_mode & 0o027:
                raise BadJob(f"its mode is {stat.S_IMODE(found.st_mode):04o}; chmod 640 it")
        return found


def look(directory: int, path: str) -> os.stat_result:
    """What bears this name, neither followed nor entered. Raises `OSError`: EXDEV where something is mounted on it.

    A stat would go into what is mounted there, and wait for it as long as its owner likes.
    """
    resolve = linux.INSIDE & ~linux.RESOLVE_NO_SYMLINKS  # O_NOFOLLOW is enough, and tells what a link is
    descriptor = linux.open_inside(directory, path, os.O_PATH | os.O_NOFOLLOW, resolve)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def open_file(directory: int, path: str, proof: Proof) -> tuple[int, os.stat_result]:
    """A descriptor of the file and what fstat says of it. Raises `BadJob`, `FileNotFoundError`; `OSError` in need."""
    try:
        descriptor = linux.open_inside(directory, path, _FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in IN_NEED:
            raise
        raise BadJob(_refusal(directory, path, error)) from None
    try:
        return descriptor, proof.check(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


# Not the file's fault, and over in a while. Any other error of the disk is: one damaged file must not hold up the rest.
IN_NEED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.ESTALE)


def _refusal(directory: int, path: str, error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return "it lies on another file system than the spool; write it into the inbox itself"
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
        kind = stat.S_IFMT(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode)
        return f"it is {_KINDS.get(kind, 'not a file')}, not a regular file; write a plain file"
    if error.errno == errno.EACCES:
        return "cronq may not read it; chmod 640 it, and use cp, not mv, so that the inbox gives its group"
    return f"it cannot be opened: {error.strerror}"


def read(descriptor: int, most: int, offset: int = 0) -> bytes:
    """At most `most + 1` bytes from `offset`, so that the caller sees a file that is too large."""
    parts = []
    wanted = most + 1
    while wanted:
        part = os.pread(descriptor, wanted, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        wanted -= len(part)
    return b"".join(parts)


def read_job(descriptor: int, most: int, offset: int = 0) -> bytes:
    """The same of a job's file. Raises `BadJob` where the disk does not give it; `OSError` in need."""
    try:
        return read(descriptor, most, offset)
    except OSError as error:
        if error.errno in IN_NEED:
            raise
        raise BadJob(f"it cannot be read: {error.strerror}") from None


# -------------------------------------------------------------------- by the path of a spool


def below(root: str, path: str, flags: int = os.O_PATH | os.O_NOFOLLOW) -> int:
    """A descriptor of what is at `path` below `root`: the way there is one of directories, on one file system.

    Raises `OSError`.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.open_inside(top, path, flags)
    finally:
        os.close(top)


def open_below(root: str, path: str) -> int:
    """A descriptor to read the regular file there; nothing is waited for. Raises `OSError`."""
    descriptor = below(root, path, _FLAGS)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", path)


def look_below(root: str, path: str) -> os.stat_result:
    """What is there. Raises `OSError`."""
    descriptor = below(root, path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def is_below(root: str, path: str) -> bool:
    """Whether something is there."""
    try:
        os.close(below(root, path))
    except OSError:
        return False
    return True


def names_below(root: str, path: str) -> list[str]:
    """What the directory there holds; nothing where there is none."""
    try:
        folder = below(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return os.listdir(folder)
    finally:
        os.close(folder)
