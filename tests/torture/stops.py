"""Stopping one process at its system calls, one by one: what happens at each is decided from outside.

Does:    `install`, in the process itself, has the kernel stop it at each call of a list (seccomp's user notification);
         `Stops`, in another one, is told of each, and lets it go on, answers it with an errno in the kernel's place, or
         kills the process while it stands there, the call not made.
Reads:   the paths among a call's arguments, from the process's memory, to name the call.
Trusts:  that the process is ours: this is for tests.
Fails:   `Unable` where the kernel or the machine does not have it.

strace injects the same faults (the suite compares some points with it); this counts calls of one process whatever it
forks, needs no exec, and costs 20 µs a stop.
"""

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct

CHANNEL = 900  # the descriptor by which a process hands its listener over: no program of ours has so many open

# Of x86-64 (asm/unistd_64.h); the calls that change what a crash leaves
CHANGING = {
    "write": 1,
    "pwrite64": 18,
    "sendto": 44,
    "sendmsg": 46,
    "bind": 49,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "kill": 62,
    "flock": 73,
    "fsync": 74,
    "fdatasync": 75,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "chmod": 90,
    "fchmod": 91,
    "openat": 257,
    "mkdirat": 258,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "fchmodat": 268,
    "renameat2": 316,
    "memfd_create": 319,
    "copy_file_range": 326,
    "pidfd_send_signal": 424,
    "clone3": 435,
}
ASKING = {
    "read": 0,
    "fstat": 5,
    "lseek": 8,
    "ioctl": 16,
    "pread64": 17,
    "access": 21,
    "dup": 32,
    "dup2": 33,
    "socket": 41,
    "connect": 42,
    "recvfrom": 45,
    "recvmsg": 47,
    "listen": 50,
    "wait4": 61,
    "fcntl": 72,
    "chdir": 80,
    "getdents64": 217,
    "epoll_wait": 232,
    "epoll_ctl": 233,
    "inotify_add_watch": 254,
    "newfstatat": 262,
    "faccessat": 269,
    "accept4": 288,
    "epoll_create1": 291,
    "dup3": 292,
    "pipe2": 293,
    "inotify_init1": 294,
    "prlimit64": 302,
    "pidfd_open": 434,
    "openat2": 437,
}
_NAMES = {number: name for name, number in (CHANGING | ASKING).items()}
_PATHS = {  # which arguments are paths
    **dict.fromkeys(("rename", "link"), (0, 1)),
    **dict.fromkeys(("mkdir", "rmdir", "unlink", "chmod", "access", "chdir", "execve"), (0,)),
    **dict.fromkeys(("openat", "openat2", "mkdirat", "unlinkat", "fchmodat", "newfstatat", "inotify_add_watch"), (1,)),
    **dict.fromkeys(("renameat", "renameat2", "linkat"), (1, 3)),
}
_OF_DESCRIPTOR = (
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fchmod",
    "flock",
    "read",
    "pread64",
    "getdents64",
)

_SECCOMP, _SET_MODE_FILTER, _ACTION_AVAILABLE, _NEW_LISTENER, _WAIT_KILLABLE = 317, 1, 2, 1 << 3, 1 << 5
_RET_ALLOW, _RET_NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _ANY, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1
_WRITING = os.O_CREAT | os.O_TRUNC

_libc = ctypes.CDLL(None, use_errno=True)


class Unable(Exception):
    """This machine cannot do it, and why."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def why_not() -> str:
    """Why this machine cannot do it; empty: it can."""
    if platform.machine() != "x86_64":
        return "the numbers of its system calls are known for x86-64 only"
    listener = struct.pack("=I", _RET_NOTIFY)
    kept = ctypes.create_string_buffer(listener)
    if _libc.syscall(_SECCOMP, _ACTION_AVAILABLE, 0, kept) != 0:
        return f"seccomp cannot ask about calls here: {os.strerror(ctypes.get_errno())}"
    return ""


def install(calls: dict[str, int], channel: int) -> None:
    """Be stopped at each of these calls from now on, and hand whoever reads `channel` the means to let us go on.

    Of opens only those that may make or empty a file, unless reading is among the calls too. Raises `Unable`.
    """
    os.dup2(channel, CHANNEL, inheritable=False)
    code = b"".join(struct.pack("=HBBI", *step) for step in _filter(calls))
    kept = ctypes.create_string_buffer(code)
    program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    for more in (_WAIT_KILLABLE, 0):  # since Linux 5.19 a signal does not have a call asked about twice
        listener = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER | more, ctypes.byref(program))
        if listener >= 0:
            break
    else:
        raise Unable(f"seccomp: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=CHANNEL) as line:
        socket.send_fds(line, [b"."], [listener])
    os.close(listener)
    _restart_calls()


def _restart_calls() -> None:
    """Have calls go on after a signal that comes while they are asked about: most can never be interrupted else."""
    plain = signal.signal

    def handle(number, handler):
        before = plain(number, handler)
        if callable(handler):
            signal.siginterrupt(number, False)
        return before

    signal.signal = handle


def _filter(calls: dict[str, int]) -> list[tuple[int, int, int, int]]:
    steps = [(_LOAD, 0, 0, _NUMBER)]
    for name, number in calls.items():
        if name == "openat" and "read" not in calls:
            steps += [(_EQUAL, 0, 3, number), (_LOAD, 0, 0, _FIRST_ARGUMENT + 16)]
            steps += [(_ANY, 0, 1, _WRITING), (_RETURN, 0, 0, _RET_NOTIFY), (_LOAD, 0, 0, _NUMBER)]
        elif name == "sendmsg":  # on the channel it goes on: nobody could answer yet
            steps += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
            steps += [(_EQUAL, 1, 0, CHANNEL), (_RETURN, 0, 0, _RET_NOTIFY), (_RETURN, 0, 0, _RET_ALLOW)]
        else:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_NOTIFY)]
    return [*steps, (_RETURN, 0, 0, _RET_ALLOW)]


class Stops:
    """The calls of one process, as whoever decides about them is told. `decide` is given the name of a call, which one
    of that name it is, and the call; it says 0 (go on), an errno, or KILL."""

    KILL = -1

    def __init__(self, line: socket.socket, decide) -> None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.line = line
        self.decide = decide
        self.listener = -1
        self.pid = 0
        self.counts: dict[str, int] = {}

    def fileno(self) -> int:
        """What to wait for until it can be read."""
        return self.line.fileno() if self.listener < 0 else self.listener

    def take(self) -> bool:
        """Take the listener, or answer one call; False when the process and all that it forked are gone."""
        if self.listener < 0:
            _, found, _, _ = self.line.recvmsg(1, 1024)
            for _, kind, data in found:
                if kind == socket.SCM_RIGHTS:
                    self.listener = struct.unpack("i", data[:4])[0]
                elif kind == socket.SCM_CREDENTIALS:
                    self.pid = struct.unpack("3i", data[:12])[0]
            return self.listener >= 0
        kept = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, kept)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed, or woken by a signal, meanwhile
                return True
            raise
        call = Call(*_NOTIFICATION.unpack(kept))
        code = 0
        if call.pid == self.pid:
            name = _NAMES[call.number]
            self.counts[name] = self.counts.get(name, 0) + 1
            code = self.decide(name, self.counts[name], call)
        if code == self.KILL:
            os.kill(call.pid, signal.SIGKILL)
            return True
        answer = _ANSWER.pack(call.id, 0, -code, 0 if code else _CONTINUE)
        try:
            fcntl.ioctl(self.listener, _SEND, answer)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        return True


class Call:
    """One call of a process that is stopped at it."""

    def __init__(
        self, identity: int, pid: int, _flags: int, number: int, _arch: int, _at: int, *arguments: int
    ) -> None:
        self.id = identity
        self.pid = pid
        self.number = number
        self.arguments = arguments

    def paths(self) -> list[str]:
        """The paths that it names, and of a descriptor what it is of."""
        name = _NAMES[self.number]
        found = [self._text(self.arguments[place]) for place in _PATHS.get(name, ())]
        if (not found and name in _OF_DESCRIPTOR) or found == [""]:  # an empty path: that of the descriptor
            try:
                found = [os.readlink(f"/proc/{self.pid}/fd/{self.arguments[0]}")]
            except OSError:
                pass
        return found

    def _text(self, address: int) -> str:
        try:
            with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
                memory.seek(address)
                return memory.read(256).partition(b"\0")[0].decode("utf-8", "backslashreplace")
        except OSError:
            return "?"
