"""Starting a job's process: its environment, its directory, its program, its three descriptors.

Does:    `start` spawns by vfork (posix_spawn: a quarter of a millisecond however large this process is), in a session
         of its own, with default signals, an empty mask, and descriptors 0, 1 and 2 only: others are close-on-exec.
Reads:   the passwd entry of the user, once; LANG of the daemon.
Trusts:  the plan, which was made from judged bytes. The environment is built from nothing.
Fails:   `CannotStart` with a sentence and the exit code that a shell would give: 127 not found, 126 anything else.

The worker has one thread, so its own directory and limits may be changed around the spawn: nobody else sees them.
"""

from __future__ import annotations

import errno
import os
import pwd
import resource
import signal
import time

from cronq.job import show
from cronq.task import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.task import Plan

NOT_FOUND = 127
NOT_STARTED = 126
# What a worker ignores, each for a reason told there; a job has all signals as the kernel gives them.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class CannotStart(Exception):
    """The job has no process, and why."""

    def __init__(self, sentence: str, exit_code: int = NOT_STARTED) -> None:
        super().__init__(sentence)
        self.sentence = f"cannot start: {sentence}"
        self.exit_code = exit_code


class Starter:
    """What every start of this user's jobs has in common."""

    def __init__(self, spool: str, uid: int) -> None:
        try:
            entry = pwd.getpwuid(uid)
            name, self.home, shell = entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh"
        except KeyError:
            name, self.home, shell = str(uid), "/", "/bin/sh"
        variables = {
            "PATH": DEFAULT_PATH,
            "HOME": self.home,
            "USER": name,
            "LOGNAME": name,
            "SHELL": shell,
            "LANG": os.environ.get("LANG") or "C.UTF-8",
        }
        self._common = {key.encode(): os.fsencode(value) for key, value in variables.items()}
        self._spool = os.fsencode(spool)
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._places = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._raised = (self._limits[1], self._limits[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)  # eight descriptors a job: the worker needs many

    def environment(self, plan: Plan, message: dict[str, Any], task: str | None) -> dict[bytes, bytes]:
        """The whole environment of a job. UTF-8, whatever the daemon's locale is."""
        found = dict(self._common)
        for key, value in plan.env.items():
            found[key.encode()] = value.encode()
        found[b"CRONQ_SPOOL"] = self._spool
        found[b"CRONQ_JOB_ID"] = message["id"].encode()
        if task is not None:
            found[b"CRONQ_TASK"] = task.encode()
        found[b"CRONQ_ATTEMPT"] = b"%d" % message["attempt"]
        found[b"CRONQ_MAX_ATTEMPTS"] = b"%d" % (1 + plan.retries)
        found[b"CRONQ_REDELIVERED"] = b"1" if message["redelivered"] else b"0"
        moment = time.gmtime(message["scheduled"])
        found[b"CRONQ_SCHEDULED_AT"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment).encode()
        return found

    def start(self, plan: Plan, env: dict[bytes, bytes], outputs: tuple[int, int], data: int | None) -> int:
        """The pid of the job's process, which leads its own session and group. Raises `CannotStart`."""
        text = None if data is not None or plan.stdin is None else _memory(plan.stdin.encode())
        stdin = data if data is not None else self._null if text is None else text
        try:
            self._enter(plan.cwd)
            argv = [word.encode() for word in plan.argv]
            return self._limited(_program(argv[0], env[b"PATH"]), argv, env, (stdin, *outputs))
        finally:
            os.chdir("/")  # a worker keeps no directory busy
            if text is not None:
                os.close(text)

    def _limited(self, program: bytes, argv: list[bytes], env: dict[bytes, bytes], given: tuple[int, int, int]) -> int:
        """Spawn under the limit of descriptors that the worker itself was started with."""
        if self._limits == self._raised:
            return _spawn(program, argv, env, given)
        low = max(given) < self._limits[0]
        if not low:  # glibc hands on no descriptor beyond the limit: these places are below it
            for descriptor, place in zip(given, self._places, strict=True):
                os.dup2(descriptor, place, inheritable=False)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        try:
            return _spawn(program, argv, env, given if low else tuple(self._places))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
            for place in () if low else self._places:
                os.dup2(self._null, place, inheritable=False)

    def _enter(self, cwd: str | None) -> None:
        try:
            os.chdir((cwd or self.home).encode("utf-8", "surrogateescape"))
        except OSError as error:
            if cwd is not None:
                raise CannotStart(f"the directory {_printed(cwd)}: {_why(error)}") from None
            os.chdir("/")


def _program(word: bytes, path: bytes) -> bytes:
    if b"/" in word:
        return word
    refused = None
    for folder in path.split(b":"):
        candidate = (folder or b".") + b"/" + word
        if os.access(candidate, os.X_OK):
            if not os.path.isdir(candidate):
                return candidate
        elif refused is None and os.path.isfile(candidate):
            refused = candidate
    if refused is not None:
        raise CannotStart(f"{_printed(refused.decode())}: not executable; chmod +x it")
    raise CannotStart(f"{_printed(word.decode())}: not found in PATH ({_printed(path.decode())})", NOT_FOUND)


def _spawn(program: bytes, argv: list[bytes], env: dict[bytes, bytes], descriptors: tuple[int, ...]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, place) for place, descriptor in enumerate(descriptors)]
    try:
        return os.posix_spawn(program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=IGNORED)
    except OSError as error:
        name = _printed(program.decode())
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if os.path.exists(program):
                raise CannotStart(f"{name}: the interpreter that its first line (#!) names is not found") from None
            raise CannotStart(f"{name}: not found", NOT_FOUND) from None
        raise CannotStart(f"{name}: {_why(error)}") from None


def _why(error: OSError) -> str:
    return _MENDED.get(error.errno or 0, error.strerror or str(error)).lower()


_MENDED = {
    errno.ENOENT: "there is no such directory",
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "not a program; a script needs a first line like #!/bin/sh",
    errno.E2BIG: "its arguments and environment are too long together",
    errno.EAGAIN: "too many processes (RLIMIT_NPROC, or the cgroup's pids.max)",
}


def _printed(text: str) -> str:
    return text if text.isprintable() and len(text) <= 200 else show(text, 200)


def _memory(data: bytes) -> int:
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
