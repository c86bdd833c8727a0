"""The system calls that Python does not have: openat2, renameat2, prctl; and libc's reader of shadow.

Each raises `OSError` as Python's own wrappers do. Numbers and flags are from the kernel's headers and the same on every
architecture since 2019's unified table (openat2 is 437 everywhere, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
RENAME_NOREPLACE = 1
_SYS_OPENAT2 = 437
_PR_SET_PDEATHSIG = 1
_SO_PEERGROUPS = 59
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_WAIT_BEFORE, _WRITE = 1, 2  # linux/fs.h: SYNC_FILE_RANGE_…
_UNWRITTEN = 64 << 20  # bytes that are on their way to the disk at once: with fewer it idles, behind more others wait

_KEYCTL = {  # older than the unified table, so each architecture has a number of its own; here those of 64 bits
    "x86_64": 250,
    "aarch64": 219,
    "riscv64": 219,
    "loongarch64": 219,
    "ppc64": 271,
    "ppc64le": 271,
    "s390x": 280,
}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open `path` below the descriptor `directory`, resolved only as `resolve` allows (openat2(2), Linux 5.6)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    arguments = (_SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    return _persist(lambda: _libc.syscall(*arguments), path)


def open_inside(directory: int, path: str, flags: int, resolve: int = INSIDE) -> int:
    """The same, below `directory` and nowhere else: EXDEV for what is mounted there; as well as it goes before 5.6."""
    try:
        return openat2(directory, path, flags, resolve)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=directory)


def rename_new(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename, and fail with EEXIST rather than replace a file that is there (renameat2(2), RENAME_NOREPLACE)."""
    arguments = (source_dir, os.fsencode(source), target_dir, os.fsencode(target), RENAME_NOREPLACE)
    _persist(lambda: _libc.renameat2(*arguments), source)


def begin_writing(descriptor: int, begin: int, size: int) -> None:
    """Have the disk write these bytes of a file, once few of those before them are unwritten (sync_file_range(2)).

    Nothing is durable by that, but a flush soon has little left to do, and one of another file little to wait for.
    Where it cannot be done, nothing.
    """
    done = begin - _UNWRITTEN
    if done > 0:
        before = max(0, done - size)
        _libc.sync_file_range(descriptor, ctypes.c_int64(before), ctypes.c_int64(done - before), _WAIT_BEFORE)
    if size:  # 0 means all of it
        _libc.sync_file_range(descriptor, ctypes.c_int64(begin), ctypes.c_int64(size), _WRITE)


def set_undumpable() -> None:
    """No process of the same user may trace this one or open its descriptors under /proc (prctl(2))."""
    set_dumpable(False)


def set_dumpable(dumpable: bool) -> None:
    """Whether this process is one like others of its user, or closed to them (prctl(2))."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl")


def set_no_new_privs() -> None:
    """Nothing that this process executes gains privileges by a set-id bit or file capabilities any more (prctl(2))."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def adopt_orphans(adopt: bool) -> None:
    """Whether this process becomes the parent of what its descendants leave behind (prctl(2)); else it is init."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0), "prctl")


class Image:
    """A program, its arguments and environment, laid out for execve(2): to become it takes next to no memory."""

    def __init__(self, program: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> None:
        self.program = program
        self._argv = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
        variables = [b"%s=%s" % variable for variable in env.items()]
        self._env = (ctypes.c_char_p * (len(variables) + 1))(*variables, None)

    def become(self) -> NoReturn:
        """Be the program. Raises `OSError`."""
        _checked(_libc.execve(self.program, self._argv, self._env), "execve")
        raise AssertionError("execve came back without an error")


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies (prctl(2)); at once where it is dead already."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def drop_capabilities() -> None:
    """Empty every capability set of this process (capset(2), version 3); a change of uid leaves the inheritable one."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def join_new_keyring() -> None:
    """Have a session keyring of one's own (keyctl(2)); where there are none, or a container forbids them, nothing."""
    number = _KEYCTL.get(os.uname().machine) if ctypes.sizeof(ctypes.c_void_p) == 8 else None
    if number is None or _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None) >= 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        _checked(-1, "keyctl")


class _Shadow(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        *((name, ctypes.c_long) for name in ("changed", "least", "most", "warning", "inactive", "expires")),
        ("flag", ctypes.c_ulong),
    ]


_SHADOW_UNREADABLE = (errno.EACCES, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ERANGE)
_libc.getspnam.restype = ctypes.POINTER(_Shadow)


def shadow(name: str) -> tuple[str, int] | None:
    """The password field and the day of expiry (-1: never) of an account, by NSS; None where shadow has none of it."""
    ctypes.set_errno(0)
    found = _libc.getspnam(os.fsencode(name))
    if not found:
        if ctypes.get_errno() in _SHADOW_UNREADABLE:  # others mean that there is no such entry (getpwnam(3))
            _checked(-1, "shadow")
        return None
    return (found[0].password or b"").decode("ascii", "replace"), int(found[0].expires)


def peer_groups(descriptor: int) -> list[int]:
    """The supplementary groups that the peer of a Unix socket had when it connected (unix(7), Linux 4.13)."""
    size = ctypes.c_uint32(4 * 32)
    while True:
        room = size.value
        groups = (ctypes.c_uint32 * (room // 4))()
        found = _libc.getsockopt(descriptor, socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size))
        if found == 0:
            return list(groups[: size.value // 4])
        if ctypes.get_errno() != errno.ERANGE or size.value <= room:  # ERANGE: it said how much room they need
            _checked(found, "SO_PEERGROUPS")


def _persist(call: Callable[[], int], what: str) -> int:
    """The same of a call that is made again where a signal came in between, as Python's own are (PEP 475)."""
    while True:
        try:
            return _checked(call(), what)
        except InterruptedError:
            continue


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result
