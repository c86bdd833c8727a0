"""A job's process that is not the job yet: forked, waiting at a gate, and then what its task makes of it.

Does:    `hold` forks a child with a session, signals and descriptors of its own, which waits for one byte; `go` lets it
         through: it takes on the task's settings (nice, limits …) and becomes the program. Nothing of the job runs
         before. A child whose gate closes without the byte, because its worker died, ends.
Trusts:  nothing. The child is an image of its worker, so it stays non-dumpable as that is, keeps no descriptor of the
         worker's beyond its own, and is closed to the worker's other jobs until it is their equal.
Fails:   `tell` gives what the child could not do, and why: it comes back through a pipe that the program never has.

Why not prlimit(1), nice(1) and setpriv(1) in front of the command: what they cannot do, they tell by an exit code that
the program may have too, and limits of memory would be theirs first. This way each failure has its own sentence, and a
start costs one fork instead of three programs. Jobs that ask for nothing are started as ever (`start`: posix_spawn).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable
from functools import partial

from cronq import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from cronq.task import Plan

Setting = tuple[str, Callable[[], object]]  # what the task calls it, and how it is done
RLIMITS = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    # Of memory: the last ones, for what is done after them must do with what there is.
    "stack": resource.RLIMIT_STACK,
    "data": resource.RLIMIT_DATA,
    "as": resource.RLIMIT_AS,
}
# What a worker ignores, each for a reason told there; a job has all signals as the kernel gives them.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SESSION, PROGRAM, INTERPRETER = "the session", "the program", "its interpreter"  # steps that are no settings
OPEN = b"g"
MOST_DESCRIPTORS = 1 << 20


def settings(plan: Plan) -> list[Setting]:
    """What the task of this plan changes about its process, in the order in which it can be done."""
    found: list[Setting] = []
    if plan.oom_score_adj is not None:
        found.append((f"oom_score_adj = {plan.oom_score_adj}", partial(_set_oom_score, plan.oom_score_adj)))
    if plan.nice is not None:
        found.append((f"nice = {plan.nice}", partial(os.setpriority, os.PRIO_PROCESS, 0, plan.nice)))
    if plan.no_new_privs:
        found.append(("no_new_privs", linux.set_no_new_privs))
    for name, which in RLIMITS.items():
        if name in plan.rlimits:
            asked = plan.rlimits[name]
            value = resource.RLIM_INFINITY if asked == "unlimited" else int(asked)
            found.append((f"rlimits.{name} = {asked}", partial(resource.setrlimit, which, (value, value))))
    return found


class Held:
    """A child at its gate."""

    def __init__(self, pid: int, program: bytes, gate: int, report: int, steps: list[str]) -> None:
        self.pid = pid
        self.program = program
        self.report = report  # readable when it has become the program, or said why not, or died
        self._gate: int | None = gate
        self._steps = steps

    @property
    def waiting(self) -> bool:
        """Whether it has not been let through."""
        return self._gate is not None

    def go(self) -> None:
        """Let it through."""
        if self._gate is not None:
            try:
                os.write(self._gate, OPEN)
            except BrokenPipeError:
                pass  # it was killed where it stood
            self.shut()

    def shut(self) -> None:
        """Take the gate away: who waits at it ends."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def tell(self) -> tuple[str, int] | None:
        """At which step it failed, and the errno; None if it did not. To be asked once it is the program, or dead."""
        try:
            told = os.read(self.report, 2)
        except BlockingIOError:  # the writing end goes with the process, so this cannot be; it is not worth a job
            return None
        return (self._steps[told[0]], told[1]) if len(told) == 2 else None

    def close(self) -> None:
        """Forget it."""
        self.shut()
        os.close(self.report)


def hold(
    program: bytes,
    argv: list[bytes],
    env: dict[bytes, bytes],
    descriptors: Sequence[int],
    wanted: list[Setting],
) -> Held:
    """Fork a child that waits to become `program`; `descriptors` become its 0, 1, 2 … Raises `OSError`."""
    image = linux.Image(program, argv, env)
    gate, opener, report, teller = ends = pipes(len(descriptors))
    try:
        # Blocked, a signal that comes before the child has a session and dispositions of its own is not lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = -1
        try:
            pid = os.fork()
            if pid == 0:
                _wait_and_become(image, descriptors, wanted, gate, teller)
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except OSError:
        for end in ends:
            os.close(end)
        raise
    os.close(gate)
    os.close(teller)
    return Held(pid, program, opener, report, [*(name for name, _ in wanted), SESSION, PROGRAM, INTERPRETER])


def pipes(above: int) -> list[int]:
    """The gate and who opens it, the report and who tells it: descriptors from the number `above` on."""
    ends: list[int] = []
    try:
        ends += os.pipe2(os.O_CLOEXEC)
        ends += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number, end in enumerate(ends):
            if end < above:  # where the job will have one of its own
                ends[number] = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, above)
                os.close(end)
    except OSError:
        for end in ends:
            os.close(end)
        raise
    return ends


def _wait_and_become(
    image: linux.Image, descriptors: Sequence[int], wanted: list[Setting], gate: int, teller: int
) -> NoReturn:
    """The child. It never leaves this frame, whatever happens."""
    session, program, interpreter = range(len(wanted), len(wanted) + 3)
    step = session
    try:
        os.setsid()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.set_inheritable(place, True)  # also where it was there already
        low, high = sorted((gate, teller))
        for first, end in ((len(descriptors), low), (low + 1, high), (high + 1, MOST_DESCRIPTORS)):
            if first < end:
                os.closerange(first, end)
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came before has its effect now
        if os.read(gate, 1) == OPEN:
            for step, (_, act) in enumerate(wanted):  # noqa: B007 - it is told where it fails
                act()
            step = program
            image.become()
    except BaseException as error:  # noqa: BLE001 - nothing may leave this frame
        if step == program and os.path.exists(image.program):
            step = interpreter
        os.write(teller, bytes((step, _errno(error))))
    finally:
        os._exit(126)


def _errno(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    # `setrlimit` says by ValueError what the kernel said by EPERM (above the hard limit).
    return errno.ENOMEM if isinstance(error, MemoryError) else errno.EPERM


def _set_oom_score(value: int) -> None:
    """Let the kernel take this process earlier (raising needs no right).

    The file is root's as long as the process is non-dumpable. By now it has the descriptors of its own job only, and
    its memory is the user's own jobs'.
    """
    linux.set_dumpable(True)
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d" % value)
        finally:
            os.close(descriptor)
    finally:
        linux.set_dumpable(False)
