"""Starting a job's process: its environment, its directory, its program, its descriptors.

Does:    `start` spawns by vfork (posix_spawn: a quarter of a millisecond however large this process is), in a session
         of its own, with default signals, an empty mask, and descriptors 0, 1, 2 only, and 3 for its status where it
         gets one: others are close-on-exec.
         `hold` forks a child that is all of that and waits (`gate`): where a job is placed into a cgroup before it
         runs, and where its task changes more about its process than its umask.
Reads:   the passwd entry of the user, once; LANG of the daemon; the task's `env_file`, at each start.
Trusts:  the plan, which was made from judged bytes. The environment is built from nothing.
Fails:   `CannotStart` with a sentence and the exit code that a shell would give: 127 not found, 126 anything else.

The worker has one thread, so its own directory and limits may be changed around the spawn: nobody else sees them.
"""

from __future__ import annotations

import errno
import os
import pwd
import resource
import time
from functools import partial

from cronq import callbacks, envfile, gate, process
from cronq.job import show
from cronq.task import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from cronq.task import Plan

    Child = TypeVar("Child")
    Given = tuple[int, ...]  # the descriptors that become 0, 1, 2 and perhaps 3

NOT_FOUND = 127
NOT_STARTED = 126
NO_ROOM = (errno.EAGAIN, errno.ENOMEM)  # of processes, or of memory
DEFAULT_UMASK = 0o022
IGNORED = gate.IGNORED
STATUS = 3  # the descriptor by which a job says how it goes (`status`)


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
        self._places = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(STATUS + 1)]
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._raised = (self._limits[1], self._limits[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)  # eight descriptors a job: the worker needs many

    def environment(self, plan: Plan, message: dict[str, Any], task: str | None) -> dict[bytes, bytes]:
        """The whole environment of a job. UTF-8, whatever the daemon's locale is. Raises `CannotStart`."""
        if plan.cron is not None:
            return plan.cron.env
        found = self.lasting(plan, task)
        found[b"CRONQ_JOB_ID"] = message["id"].encode()
        found[b"CRONQ_ATTEMPT"] = b"%d" % message["attempt"]
        found[b"CRONQ_MAX_ATTEMPTS"] = b"%d" % (1 + plan.retries)
        found[b"CRONQ_REDELIVERED"] = b"1" if message["redelivered"] else b"0"
        moment = time.gmtime(message["scheduled"])
        found[b"CRONQ_SCHEDULED_AT"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment).encode()
        found.pop(b"CRONQ_BATCH_ID", None)
        found.update(callbacks.variables(message["id"], self._spool))
        if plan.batch is not None:
            found[b"CRONQ_BATCH_ID"] = plan.batch.encode()
        found.pop(b"CRONQ_CURSOR", None)
        if message.get("cursor"):
            found[b"CRONQ_CURSOR"] = message["cursor"].encode()
        found.pop(b"CRONQ_STATUS_FD", None)
        if message.get("status"):
            found[b"CRONQ_STATUS_FD"] = b"%d" % STATUS
        return found

    def lasting(self, plan: Plan, task: str | None) -> dict[bytes, bytes]:
        """What no job changes of the environment of a plan. Raises `CannotStart`."""
        found = dict(self._common)
        if plan.env_file is not None:
            try:
                found.update({key.encode(): value.encode() for key, value in envfile.read(plan.env_file).items()})
            except ValueError as error:
                raise CannotStart(f"env_file {_printed(str(error))}") from None
        for key, value in plan.env.items():
            found[key.encode()] = value.encode()
        found[b"CRONQ_SPOOL"] = self._spool
        if task is not None:
            found[b"CRONQ_TASK"] = task.encode()
        return found

    def input(self, plan: Plan, job_id: str) -> int | None:
        """The input that a plan holds, open; None for none.

        A crontab's job has one in any case: its name is how whoever must end the job knows its processes, since
        nothing of cronq's stands in their environment (`process`).
        """
        if plan.cron is not None:
            return memory(plan.cron.stdin, process.input_name(self._spool, job_id.encode()))
        return None if plan.stdin is None else memory(plan.stdin.encode(), b"stdin")

    def start(self, plan: Plan, env: dict[bytes, bytes], outputs: Given, data: int | None) -> int:
        """The pid of the job's process, which leads its own session and group.

        Raises `CannotStart`, or `OSError` where there is no room for it now: that is no fault of the job's.
        """
        return self._begin(self._limited, plan, env, outputs, data)

    def hold(
        self, plan: Plan, env: dict[bytes, bytes], outputs: Given, data: int | None, *more: gate.Setting
    ) -> gate.Held:
        """The same, waiting at its gate, not the job's program yet. Raises `CannotStart`, or `OSError` for no room."""
        own: gate.Setting = ("its descriptors", partial(resource.setrlimit, resource.RLIMIT_NOFILE, self._limits))
        wanted = [own, *more, *gate.settings(plan)]

        def fork(program: bytes, argv: list[bytes], env: dict[bytes, bytes], given: Given) -> gate.Held:
            try:
                return gate.hold(program, argv, env, given, wanted)
            except OSError as error:
                raise OSError(error.errno, _why(error)) from None

        return self._begin(fork, plan, env, outputs, data)

    def folder(self, plan: Plan) -> int:
        """The directory in which the job of a plan is to run, open. Raises `CannotStart`."""
        try:
            self._enter(plan)
            return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.chdir("/")

    def null(self) -> int:
        """An input with nothing in it; not the caller's to close."""
        return self._null

    @staticmethod
    def why_not(held: gate.Held) -> CannotStart | None:
        """Why a child that was let through is not the program; None if it is, or died."""
        told = held.tell()
        if told is None:
            return None
        what, code = told
        if what in (gate.PROGRAM, gate.INTERPRETER):
            return not_run(held.program, code, what == gate.INTERPRETER)
        return not_set(what, code)

    def _begin(
        self,
        make: Callable[[bytes, list[bytes], dict[bytes, bytes], Given], Child],
        plan: Plan,
        env: dict[bytes, bytes],
        outputs: Given,
        data: int | None,
    ) -> Child:
        """Make the child in its directory, with its umask and its input."""
        try:
            self._enter(plan)
            os.umask(DEFAULT_UMASK if plan.umask is None else plan.umask)
            argv = [word.encode() for word in plan.argv] if plan.cron is None else plan.cron.argv
            return make(_program(argv[0], env[b"PATH"]), argv, env, (self._null if data is None else data, *outputs))
        finally:
            try:
                os.chdir("/")  # a worker keeps no directory busy
            except OSError:
                pass  # next time; whatever was made above runs by now, and must not be made again

    def _limited(self, program: bytes, argv: list[bytes], env: dict[bytes, bytes], given: Given) -> int:
        """Spawn under the limit of descriptors that the worker itself was started with."""
        if self._limits == self._raised:
            return _spawn(program, argv, env, given)
        low = max(given) < self._limits[0]
        if not low:  # glibc hands on no descriptor beyond the limit: these places are below it
            for descriptor, place in zip(given, self._places, strict=False):
                os.dup2(descriptor, place, inheritable=False)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        try:
            return _spawn(program, argv, env, given if low else tuple(self._places[: len(given)]))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
            for place in () if low else self._places:
                os.dup2(self._null, place, inheritable=False)

    def _enter(self, plan: Plan) -> None:
        cwd = plan.cwd
        try:
            home = self.home.encode("utf-8", "surrogateescape") if plan.cron is None else plan.cron.home
            os.chdir(home if cwd is None else cwd.encode("utf-8", "surrogateescape"))
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


def _spawn(program: bytes, argv: list[bytes], env: dict[bytes, bytes], given: Given) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, place) for place, descriptor in enumerate(given)]
    try:
        return os.posix_spawn(program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=IGNORED)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, _why(error)) from None
        raise not_run(program, error.errno or 0, os.path.exists(program)) from None


def not_run(program: bytes, code: int, there: bool) -> CannotStart:
    """Why a program could not be run; `there`: its file is there."""
    name = _printed(program.decode())
    if code in (errno.ENOENT, errno.ENOTDIR):
        if there:
            return CannotStart(f"{name}: the interpreter that its first line (#!) names is not found")
        return CannotStart(f"{name}: not found", NOT_FOUND)
    return CannotStart(f"{name}: {_why(OSError(code, os.strerror(code)))}")


def not_set(setting: str, code: int) -> CannotStart:
    """Why a setting of the task's could not be made."""
    name = setting.partition(" ")[0].removeprefix("rlimits.")
    if name in gate.RLIMITS and code == errno.EPERM:
        hard = resource.getrlimit(gate.RLIMITS[name])[1]
        return CannotStart(f"{setting} is above the daemon's hard limit of {hard}; raise that, or ask for less")
    return CannotStart(f"{setting}: {os.strerror(code).lower()}")


def _why(error: OSError) -> str:
    return _MENDED.get(error.errno or 0) or (error.strerror or str(error)).lower()


_MENDED = {
    errno.ENOENT: "there is no such directory",
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "not a program; a script needs a first line like #!/bin/sh",
    errno.E2BIG: "its arguments and environment are too long together",
    errno.EAGAIN: "too many processes (RLIMIT_NPROC, or the cgroup's pids.max)",
}


def _printed(text: str) -> str:
    return text if text.isprintable() and len(text) <= 200 else show(text, 200)


def memory(data: bytes, name: bytes) -> int:
    """A file in memory with these bytes, to be read from its beginning."""
    descriptor = os.memfd_create(os.fsdecode(name), os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
