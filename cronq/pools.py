"""The pools of a worker: processes of a task that are kept, each of which has one job after another (`mode = "pool"`).

Does:    gives a process that is idle, or starts one, as hosts are started; takes it back when it has answered, or has
         it end: when it is too old, too large, has had its jobs, or when what it was made of is another now.
Reads:   what an idle process prints or says, and throws it away; stamps and sizes, as `hosts`.
Trusts:  nothing that a process says: whether it lives, the kernel tells.
Fails:   `CannotStart`, or `OSError` where there is no room. A process that dies while it is idle is forgotten.
"""

from __future__ import annotations

import os
import signal
import socket
from functools import partial

from cronq import linux, process
from cronq.hosts import LEAVE, ROOM, TRACED, Host, is_changed, made_of, must_be_readable
from cronq.log import line as log
from cronq.task import HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.loop import Loop
    from cronq.start import Starter
    from cronq.task import Plan

LINE = b"3"  # the descriptor by which a pool gets its jobs and answers
_SLICES, _SLICE = 64, 1 << 16
_BUFFER = 1 << 20  # for a job's line


class Pools:
    """All pools of one worker."""

    def __init__(self, loop: Loop, starter: Starter) -> None:
        self._loop = loop
        self._starter = starter
        self._idle: dict[int, Host] = {}  # by pid
        self._leaving: dict[int, Host] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in self._idle or pid in self._leaving

    def take(self, task: str, plan: Plan) -> Host:
        """A process for one job. Raises `CannotStart`, or `OSError`."""
        assert plan.host is not None  # noqa: S101 - the mode of its task says so
        env = self._starter.lasting(plan.host, task) | {b"CRONQ_POOL_FD": LINE}
        if plan.host.argv[1:2] == [HOST]:
            env |= ROOM
        made = made_of(plan.host, env)
        for host in [each for each in self._idle.values() if each.task == task]:
            if _is_dead(host):
                continue  # it is buried in this turn
            self._loop.ignore(host.pidfd)
            del self._idle[host.pid]
            if host.made_of == made and not host.too_much(plan) and not is_changed(host.files):
                for descriptor in (*host.outputs, host.line.fileno()):
                    _empty(descriptor)
                return host
            log("pool-replaced", task=task, pid=host.pid, jobs=host.jobs)
            self._retire(host)
        return self._make(task, plan.host, env, made)

    def warm(self, task: str, plan: Plan) -> None:
        """Have a process for this task before there is a job. Raises `CannotStart`, or `OSError`."""
        self.release(self.take(task, plan))

    def release(self, host: Host) -> None:
        """It has answered."""
        self._idle[host.pid] = host
        self._loop.listen(host.pidfd, partial(self._dead, host))

    def forget(self, host: Host) -> None:
        """It was waited for."""
        for descriptor in (*host.outputs, host.pidfd):
            os.close(descriptor)
        host.line.close()
        host.held.close()
        log("pool-ended", task=host.task, pid=host.pid, jobs=host.jobs)

    def close(self) -> None:
        """No job will come any more."""
        for host in list(self._idle.values()):
            self._loop.ignore(host.pidfd)
            del self._idle[host.pid]
            self._retire(host)

    def _make(self, task: str, plan: Plan, env: dict[bytes, bytes], made: object) -> Host:
        must_be_readable(plan.argv)
        ours, theirs = socket.socketpair()
        ends: list[int] = []
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            ours.setblocking(False)
            ends += os.pipe2(os.O_CLOEXEC)
            ends += os.pipe2(os.O_CLOEXEC)
            dies = ("its worker", partial(linux.die_with_parent, os.getpid()))
            held = self._starter.hold(plan, env, (ends[1], ends[3], theirs.fileno()), None, dies)
        except BaseException:
            ours.close()
            for end in ends[::2]:
                os.close(end)
            raise
        finally:
            theirs.close()
            for end in ends[1::2]:
                os.close(end)
        for end in ends[::2]:
            os.set_blocking(end, False)
        held.go()
        log("pool-started", task=task, pid=held.pid)
        return Host(task, made, held, ours, (ends[0], ends[2]))

    def _retire(self, host: Host) -> None:
        """Have it end by itself, for a moment: its line is closed."""
        self._leaving[host.pid] = host
        host.line.shutdown(socket.SHUT_RDWR)
        self._loop.listen(host.pidfd, partial(self._dead, host))
        host.leaving = self._loop.after(LEAVE, partial(process.signal_group, host.pid, signal.SIGKILL))

    def _dead(self, host: Host) -> None:
        self._loop.ignore(host.pidfd)
        process.signal_group(host.pid, signal.SIGKILL)  # what its jobs left behind
        self._bury(host)

    def _bury(self, host: Host) -> None:
        if os.waitpid(host.pid, os.WNOHANG)[0] == 0:  # who traces it must let go of it first
            self._loop.after(TRACED, partial(self._bury, host))
            return
        self._loop.cancel(host.leaving)
        self._idle.pop(host.pid, None)
        self._leaving.pop(host.pid, None)
        self.forget(host)


def _is_dead(host: Host) -> bool:
    return os.waitid(os.P_PIDFD, host.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _empty(descriptor: int) -> None:
    """Throw away what was printed or said while there was no job."""
    for _ in range(_SLICES):
        try:
            if not os.read(descriptor, _SLICE):
                return
        except OSError:
            return
