"""The hosts of a worker: processes that have imported a task's function beforehand, and fork for each job (`host`).

Does:    starts a host where a job needs one that is not there, as the task's user, in a session of its own, with what
         the task makes of its processes; asks it for a process for a job; has it replaced when it is too old, too
         large, has had its jobs, or when anything it was made of is another now: the task, its env_file, the
         interpreter, the files of the function's package.
Reads:   those files' stamps, and a host's size in /proc.
Trusts:  of a host only the pid that it names, if the kernel says that it is this worker's child and no other job's.
Fails:   a host that dies has had no job whose process is not known here: the gates of the others close, and none of
         them runs. Those are told `None` (not now), or why not where it could import nothing.

A job's process is this worker's child (the host's own child, which was its parent, ends at once, and this worker adopts
what is left behind meanwhile): so it is waited for, placed, and told of as any other, whatever becomes of its host.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial

from cronq import linux, process, wire
from cronq.gate import Held, pipes
from cronq.log import line as log
from cronq.start import DEFAULT_UMASK, CannotStart, Starter, memory
from cronq.task import HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from cronq.loop import Loop, Timer
    from cronq.start import Given
    from cronq.task import Plan

    Born = Callable[["Held | CannotStart | None"], object]

LEAVE = 5.0  # seconds for a host that is not needed any more
TRACED = 0.02
ROOM = {b"CRONQ_JOB_ID": b"-" * 128}  # for any job's id, which `host` writes there
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SETTINGS = ("cwd", "umask", "nice", "oom_score_adj", "rlimits", "no_new_privs")


class Asked:
    """A process for a job that a host was asked for; `born` is called with it, or why there is none, or `None`."""

    def __init__(self, host: Host, number: int, gate: int, report: int, born: Born) -> None:
        self.host = host
        self.number = number
        self.gate = gate
        self.report = report
        self.born = born

    def shut(self) -> None:
        """It is not wanted any more: what comes will find its gate closed."""
        del self.host.asked[self.number]
        os.close(self.gate)
        os.close(self.report)


class Host:
    """One host."""

    def __init__(
        self, task: str, made_of: object, held: Held, line: socket.socket, outputs: tuple[int, ...] = ()
    ) -> None:
        self.task = task
        self.made_of = made_of
        self.held = held
        self.pid = held.pid
        self.line = line
        self.outputs = outputs  # where it prints, if not into a job's own pipes
        self.pidfd = os.pidfd_open(held.pid)
        self.born = time.monotonic()
        self.asked: dict[int, Asked] = {}
        self.jobs = 0  # that it was asked to begin
        self.gave = 0  # that it began
        self.leaving: Timer | None = None
        self.files: dict[str, int] | None = None  # that its function is in; None: it is not imported yet
        self.ended = False  # by this worker

    def too_much(self, plan: Plan) -> bool:
        """Whether it has had its jobs, its time, or its memory."""
        return (
            (plan.max_jobs is not None and self.jobs >= plan.max_jobs)
            or (plan.max_age is not None and time.monotonic() - self.born >= plan.max_age)
            or (plan.max_rss is not None and size_of(self.pid) >= plan.max_rss)
        )


class Hosts:
    """All hosts of one worker. `is_known` says of a pid whether a job of this worker's has it."""

    def __init__(self, loop: Loop, starter: Starter, is_known: Callable[[int], bool]) -> None:
        self._loop = loop
        self._starter = starter
        self._is_known = is_known
        self._current: dict[str, Host] = {}  # by task
        self._all: dict[int, Host] = {}  # by pid, until it has been waited for
        self._number = 0
        self._awaited: set[Host] = set()  # that are warming up
        self._when_warm: Callable[[], object] = lambda: None

    def ask(self, task: str, plan: Plan, env: dict[bytes, bytes], given: Given, born: Born) -> Asked:
        """Ask for a process with these descriptors. Raises `CannotStart`, or `OSError` where there is no room."""
        host = self._host(task, plan, given[2])
        self._number += 1
        own: list[int] = []
        try:
            own.append(self._starter.folder(plan))
            own.append(memory(_spec(plan, env), b"spec"))
            gate, opener, report, teller = pipes(0)
            own += gate, teller
            asked = Asked(host, self._number, opener, report, born)
            host.asked[self._number] = asked
            linux.adopt_orphans(True)
            try:
                if not wire.send(host.line, {"job": self._number}, [*given, *own]):
                    raise OSError(0, "its host does not read")
            except OSError:
                asked.shut()
                self._let_go()
                raise
        finally:
            for descriptor in own:
                os.close(descriptor)
        host.jobs += 1
        return asked

    def warm(self, task: str, plan: Plan) -> None:
        """Have a host for this task before there is a job. Raises `CannotStart`, or `OSError`."""
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            host = self._host(task, plan, null)
        finally:
            os.close(null)
        if host.files is None:
            self._awaited.add(host)

    def when_warm(self, call: Callable[[], object]) -> None:
        """Call once no host is warming up: each has imported its function, or has ended."""
        self._when_warm = call
        self._settled(None)

    def _settled(self, host: Host | None) -> None:
        if host is not None:
            self._awaited.discard(host)
        if not self._awaited:
            call, self._when_warm = self._when_warm, lambda: None
            call()

    def give_up(self, asked: Asked) -> None:
        """The job is not to be run any more. Its host may be why it did not begin, so that one ends too."""
        asked.shut()
        self._end(asked.host)
        self._let_go()

    def close(self) -> None:
        """No job will come any more."""
        for host in list(self._all.values()):
            self._retire(host)

    # ---------------------------------------------------------------- making, replacing

    def _host(self, task: str, plan: Plan, output: int) -> Host:
        assert plan.host is not None  # noqa: S101 - the mode of its task says so
        env = self._starter.lasting(plan.host, task) | ROOM
        made = made_of(plan.host, env)
        host = self._current.get(task)
        if host is not None and (host.made_of != made or host.too_much(plan) or is_changed(host.files)):
            log("host-replaced", task=task, pid=host.pid, jobs=host.jobs)
            self._retire(host)
            host = None
        return host or self._make(task, plan.host, env, made, output)

    def _make(self, task: str, plan: Plan, env: dict[bytes, bytes], made: object, output: int) -> Host:
        """Start one; until it has imported the function, what it prints goes where the job's own complaints go."""
        must_be_readable(plan.argv)
        ours, theirs = wire.pair()
        try:
            with theirs:
                dies = ("its worker", partial(linux.die_with_parent, os.getpid()))
                held = self._starter.hold(plan, env, (output, output, theirs.fileno()), None, dies)
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        held.go()
        host = Host(task, made, held, ours)
        self._current[task] = self._all[host.pid] = host
        self._loop.listen(host.line.fileno(), partial(self._hear, host))
        self._loop.listen(host.pidfd, partial(self._dead, host))
        log("host-started", task=task, pid=host.pid)
        return host

    def _retire(self, host: Host) -> None:
        """Ask no more of it; it ends by itself when it has answered."""
        if self._current.get(host.task) is host:
            del self._current[host.task]
        if not host.asked:
            self._part(host)

    def _part(self, host: Host) -> None:
        """Hear no more of it; it has a moment to end by itself."""
        if self._current.get(host.task) is host:
            del self._current[host.task]
        if host.line.fileno() >= 0:
            self._loop.ignore(host.line.fileno())
            host.line.close()
            host.leaving = self._loop.after(LEAVE, partial(process.signal_group, host.pid, signal.SIGKILL))

    def _end(self, host: Host) -> None:
        host.ended = True
        process.signal_group(host.pid, signal.SIGKILL)

    # ---------------------------------------------------------------- what it says

    def _hear(self, host: Host) -> bool:
        """Take one message; whether there may be more."""
        try:
            received = wire.receive(host.line)
        except BlockingIOError:
            return False
        except (OSError, wire.WireError):
            received = None
        if received is None:
            self._part(host)
            return False
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        files, number, pid = (message.get(key) for key in ("files", "job", "pid"))
        if isinstance(files, dict) and host.files is None:
            host.files = {str(path): whole(changed) for path, changed in files.items()}
            self._settled(host)
        elif whole(number) in host.asked:
            self._came(host.asked[whole(number)], whole(pid))
        return host.line.fileno() >= 0

    def _came(self, asked: Asked, pid: int) -> None:
        """A job has its process: this worker's child, that waits at its gate."""
        host, found = asked.host, process.look(pid) if pid > 1 else None
        if found is not None and found.parent == os.getpid() and not self._is_known(pid) and pid not in self._all:
            del host.asked[asked.number]
            host.gave += 1
            asked.born(Held(pid, host.task.encode(), asked.gate, asked.report, []))
        else:
            asked.shut()
            asked.born(None)
        self._let_go()
        if self._current.get(host.task) is not host:
            self._retire(host)

    def _let_go(self) -> None:
        """Adopt nobody any more where nobody is awaited."""
        if any(host.asked for host in self._all.values()):
            return
        linux.adopt_orphans(False)
        self.reap()

    def reap(self) -> None:
        """Wait for whoever has died that was adopted, and is nobody's: perhaps long after he was."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or self._is_known(found.si_pid) or found.si_pid in self._all:
                return
            os.waitpid(found.si_pid, 0)

    # ---------------------------------------------------------------- its end

    def _dead(self, host: Host) -> None:
        while host.line.fileno() >= 0 and self._hear(host):  # it may have told of a process with its last breath
            pass
        self._part(host)
        self._loop.ignore(host.pidfd)
        self._bury(host)

    def _bury(self, host: Host) -> None:
        pid, status = os.waitpid(host.pid, os.WNOHANG)
        if pid == 0:  # who traces it must let go of it first
            self._loop.after(TRACED, partial(self._bury, host))
            return
        process.signal_group(host.pid, signal.SIGKILL)
        os.close(host.pidfd)
        del self._all[host.pid]
        self._loop.cancel(host.leaving)
        why = Starter.why_not(host.held) or _why(status)
        host.held.close()
        log("host-ended", task=host.task, pid=host.pid, jobs=host.jobs, status=status)
        answer = None if host.gave or host.ended else why  # one that never began a job would never begin the next
        for asked in list(host.asked.values()):
            asked.shut()
            asked.born(answer)
        self._settled(host)
        self._let_go()


def _spec(plan: Plan, env: dict[bytes, bytes]) -> bytes:
    """What a job's process takes on that is no descriptor."""
    umask = DEFAULT_UMASK if plan.umask is None else plan.umask
    variables = {key.decode("latin-1"): value.decode("latin-1") for key, value in env.items()}
    return json.dumps({"args": plan.args, "umask": umask, "env": variables}).encode()


def made_of(plan: Plan, env: dict[bytes, bytes]) -> object:
    """All that a host is started with, and the stamps of the files that its command names."""
    program = shutil.which(plan.argv[0], path=env[b"PATH"].decode()) or plan.argv[0]
    files = [program, *(word for word in plan.argv[1:] if word.startswith("/") and os.path.isfile(word))]
    return plan.argv, env, [getattr(plan, key) for key in _SETTINGS], [_stamp(path) for path in files]


def must_be_readable(argv: list[str]) -> None:
    """The interpreter that is to call a function, and `host.py`. Raises `CannotStart`."""
    if argv[1:2] == [HOST]:
        for path, how in zip(argv[:2], (os.X_OK, os.R_OK), strict=True):
            if os.path.exists(path) and not os.access(path, how):
                raise CannotStart(f"{path}: uid {os.getuid()} may not read it; name another Python in interpreter")


def _why(status: int) -> CannotStart:
    code = os.waitstatus_to_exitcode(status)
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return CannotStart(f"its host ended ({how}) before it had begun a job; stderr may say why")


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a pool may name what is no path
        return None
    return found.st_mtime_ns, found.st_ino


def is_changed(files: dict[str, int] | None) -> bool:
    for path, changed in (files or {}).items():
        stamp = _stamp(path)
        if stamp is None or stamp[0] != changed:
            return True
    return False


def size_of(pid: int) -> int:
    """The memory that a process has in use."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
