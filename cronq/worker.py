"""The worker: runs jobs as one user. Forked by the launcher, never exec'd; everything it needs is imported before.

Does:    takes jobs from the dispatcher, makes sure by itself that each may run, runs them side by side (`attempt`),
         ends the jobs of workers that died (`process`).
Reads:   the job's bytes, once, from the descriptor that came with it; tasks from the config directory, by itself.
Writes:  outcome and result files that the dispatcher opened.
Trusts:  the kernel: device, owner and links of the job's descriptor, on a system spool its group and mode too. Of the
         dispatcher only ids, the hash of the bytes that were admitted, and descriptors (`evidence`, docs/house.md).
Fails:   a job that may not run is `refused`, with a sentence. A dispatcher that is gone changes nothing: the jobs are
         finished, their outcomes written, then the worker leaves. It never waits for the dispatcher to read. A job may
         limit its worker (prlimit(2): they are of one user): one that can start no job any more takes no more of them,
         one that can tell no end any more dies; another is made in its place.
"""

from __future__ import annotations

import base64  # noqa: F401 - imported before the fork: `entry.digest`
import hashlib  # noqa: F401 - the same
import os
import resource
import select
import signal
import time
import tomllib  # noqa: F401 - the same: `task.load`
from collections import deque

from cronq import cgroup, wire
from cronq.attempt import Attempt
from cronq.errors import CronqError
from cronq.evidence import Judge, Refused
from cronq.forked import Forked
from cronq.hosts import Hosts
from cronq.job import LAST_INSTANT, is_id
from cronq.log import line as log
from cronq.loop import Loop
from cronq.outcome import Outcome
from cronq.pooled import Pooled
from cronq.pools import Pools
from cronq.process import Hunts
from cronq.start import IGNORED, CannotStart, Starter
from cronq.status import is_cursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from cronq.safeopen import System

MESSAGES_A_TURN = 8
OLDEST = 180.0  # seconds after which no job is begun: what is known of the account is from then
LIMITED = 70  # the exit code of a worker that could tell no end of a job any more
_LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_DATA)
_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "run": {
        "id": (str,),
        "attempt": (int,),
        "redelivered": (bool, int),
        "scheduled": (int, float),
        "hash": (str,),
        "data": (bool,),
        "offset": (int,),
        "table": (str,),
        "status": (bool,),
        "cursor": (str,),
    },
    "stop": {"id": (str,), "now": (bool,)},
    "freeze": {"id": (str,), "on": (bool,)},
    "go": {"id": (str,), "attempt": (int,)},
    "reap": {
        "id": (str,),
        "attempt": (int,),
        "pid": (int, type(None)),
        "start": (int, type(None)),
        "boot": (str, type(None)),
    },
}


def main(
    line: socket.socket,
    spool: str,
    config: str,
    uid: int,
    system: System | None = None,
    step: Callable[[str], None] = lambda _name: None,
) -> int:
    """Work for the dispatcher at the other end of `line` until it is gone and every job has ended.

    `step` is told where each attempt stands: received, starting, spawned, started, ended, told.
    """
    for number in IGNORED:  # a TERM for everybody (shutdown) is for the jobs: the worker tells how they ended
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    Worker(line, spool, config, uid, system, step).run()
    return 0


class Worker:
    """One user's worker."""

    def __init__(
        self,
        line: socket.socket,
        spool: str,
        config: str,
        uid: int,
        system: System | None,
        step: Callable[[str], None],
    ) -> None:
        self.line = line
        self.step = step
        self.loop = Loop()
        self.judge = Judge(spool, config, uid, system)
        self.starter = Starter(spool, uid)
        self.attempts: dict[str, Attempt] = {}
        self.pools = Pools(self.loop, self.starter)
        self.hosts = Hosts(self.loop, self.starter, self._is_known)
        self.placing = system is not None and system.placing
        self.leaves: cgroup.Leaves | None = None  # in which jobs are that were placed
        self.unsent: deque[tuple[dict[str, Any], tuple[int, ...]]] = deque()  # with descriptors that go with them
        self.hunts = Hunts(self.loop, spool, self._reaped, sure=system is None)
        self.gone = False
        self.full = False  # the dispatcher does not read
        self.born = time.monotonic()
        self.limits = {which: resource.getrlimit(which) for which in _LIMITS}

    def run(self) -> None:
        """Serve until there is nothing left to wait for."""
        self.line.setblocking(False)
        self.loop.listen(self.line.fileno(), self._hear)
        while self.loop.busy:
            self.loop.turn()

    # ---------------------------------------------------------------- the dispatcher

    def _hear(self) -> None:
        if self.full:
            self._send()
        for _ in range(MESSAGES_A_TURN):
            if self.gone:
                return
            try:
                received = wire.receive(self.line)
            except BlockingIOError:
                return
            except (OSError, wire.WireError) as error:
                log("line-broken", error=error)
                received = None
            if received is None:
                self._part()
            else:
                self._obey(*received)

    def _part(self) -> None:
        self.gone = True
        for _, descriptors in self.unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self.unsent.clear()
        self.loop.ignore(self.line.fileno())
        self.line.close()
        for attempt in list(self.attempts.values()):
            attempt.go(placed=False)  # nobody is left who could say where
            attempt.freeze(False)  # nor who could let it go on
        self._leave()

    def _say(self, message: dict[str, Any], *descriptors: int) -> None:
        """Tell the dispatcher, now or when it reads; the descriptors become the message's."""
        if self.gone:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self.unsent.append((message, descriptors))
        if len(self.unsent) == 1:
            self._send()

    def _send(self) -> None:
        try:
            while self.unsent and wire.send(self.line, *self.unsent[0]):
                for descriptor in self.unsent.popleft()[1]:
                    os.close(descriptor)
        except OSError:
            self._part()
            return
        if self.full != bool(self.unsent):
            self.full = bool(self.unsent)
            self.loop.expect(self.line.fileno(), select.EPOLLIN | (select.EPOLLOUT if self.full else 0))

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        verb = message.get("do")
        for key, nothing in (("table", ""), ("status", False), ("cursor", "")):
            message.setdefault(key, nothing)
        if verb == "warm" and isinstance(message.get("tasks"), list):
            self._warm(message["tasks"])
        elif not _well_formed(message):
            log("message-unknown", message=str(message)[:200])
        elif verb == "run" and len(descriptors) == 4 + message["data"] + message["status"]:
            self._run(message, descriptors)
            return
        elif verb == "stop" and message["id"] in self.attempts:
            why = wire.INTERRUPTED if message.get("why") == wire.INTERRUPTED else "cancelled"
            self.attempts[message["id"]].stop(why, message["now"])
        elif verb == "freeze" and message["id"] in self.attempts:
            self.attempts[message["id"]].freeze(message["on"])
        elif verb == "go" and message["id"] in self.attempts:
            if self.attempts[message["id"]].number == message["attempt"]:
                self.attempts[message["id"]].go(message.get("placed") is not False)
        elif verb == "reap":
            self.hunts.add(message)
        for descriptor in descriptors:
            os.close(descriptor)

    def _warm(self, names: list[Any]) -> None:
        """Start what these tasks keep warm, and tell when it is: a worker is to be so before it takes jobs."""
        for name in names:
            try:
                plan = self.judge.plan_of(name)
                if plan.mode == "fork":
                    self.hosts.warm(name, plan)
                elif plan.mode == "pool":
                    self.pools.warm(name, plan)
            except (CronqError, CannotStart, OSError) as error:  # its job will say
                log("not-warm", task=name, reason=error)
        self.hosts.when_warm(lambda: self._say({"is": "warm"}))

    # ---------------------------------------------------------------- a job

    def _run(self, message: dict[str, Any], descriptors: list[int]) -> None:
        job_file, outcome_file, *results = descriptors
        data = results.pop() if message["data"] else None
        self.step("received")
        self._say({"is": "starting", "id": message["id"], "attempt": message["attempt"]})
        outcome = Outcome(outcome_file, self._too_large)
        try:
            if message["id"] in self.attempts:
                raise Refused("it runs already", 65)
            if time.monotonic() - self.born > OLDEST:  # a broken dispatcher might keep it, and the rights that it has
                raise Refused("this worker has served its time", 75, again=True)
            job, plan = self.judge.judge(message, job_file, [] if data is None else [data])
        except Refused as error:
            outcome.write("refused", reason=error.sentence, code=error.code, again=error.again)
            log("refused", id=message["id"], reason=error.sentence)
            outcome.close()
            for descriptor in results if data is None else [*results, data]:
                os.close(descriptor)
            self._over(message["id"], message["attempt"])
            return
        finally:
            os.close(job_file)
        place = self._place if self.placing else None
        seen = place, self.hunts, self._no_room, self._oom_kills
        parts = message, plan, outcome, self.loop, self._finished, self.step, *seen
        name = message["task"] = job.task or ""
        if plan.mode == "fork":
            attempt: Attempt = Forked(self.hosts, name, *parts)
        else:
            attempt = Attempt(*parts) if plan.mode == "exec" else Pooled(self.pools, name, *parts)
        self.attempts[attempt.id] = attempt
        if plan.cron is not None:  # it gets what cron gives it, and nothing more
            for descriptor in results[2:]:
                os.close(descriptor)
        attempt.start(self.starter, job.task, results[:2] if plan.cron is not None else results, data)

    def _place(self, attempt: Attempt, pidfd: int) -> bool:
        if self.gone:
            return False
        plan = attempt.plan
        wanted = {"memory_max": plan.memory_max, "pids_max": plan.pids_max, "cpu_weight": plan.cpu_weight}
        limits = {key: value for key, value in wanted.items() if value is not None}
        self._say({"is": "place", "id": attempt.id, "attempt": attempt.number, "limits": limits}, os.dup(pidfd))
        return not self.gone

    def _oom_kills(self, attempt: Attempt) -> int:
        if self.leaves is None:
            self.leaves = cgroup.beside()  # found where it is needed: few jobs fail
        return 0 if self.leaves is None else self.leaves.oom_kills(f"{attempt.id}.{attempt.number}")

    def _no_room(self) -> None:
        """Take no more jobs where it is a job that took the room: another worker has it."""
        if not self.gone and self._is_limited():
            self._part()

    def _too_large(self) -> None:
        """End where a job has limited this process: else no end of a job would ever be told, of whichever."""
        if self._is_limited():
            os._exit(LIMITED)

    def _is_limited(self) -> bool:
        """Whether this process has less than it began with, and cannot take it back."""
        try:
            for which, limit in self.limits.items():
                resource.setrlimit(which, limit)
        except (OSError, ValueError):
            log("limited")
            return True
        return False

    def _finished(self, attempt: Attempt) -> None:
        del self.attempts[attempt.id]
        self.hosts.reap()
        self._over(attempt.id, attempt.number, attempt.message["task"] if attempt.plan.mode != "exec" else None)
        self._leave()

    def _leave(self) -> None:
        """No job comes any more, and none is under way: nothing is kept warm."""
        if self.gone and not self.attempts:
            self.hosts.close()
            self.pools.close()

    def _is_known(self, pid: int) -> bool:
        return pid in self.pools or any(attempt.alive and attempt.pid == pid for attempt in self.attempts.values())

    def _over(self, job_id: str, attempt: int, warm: str | None = None) -> None:
        kept = {} if warm is None else {"warm": warm}
        self._say({"is": "ended", "id": job_id, "attempt": attempt, **kept})
        self.step("told")

    def _reaped(self, job_id: str, attempt: int, known: bool) -> None:
        log("reaped", id=job_id, attempt=attempt, known=known)
        self._say({"is": "reaped", "id": job_id, "attempt": attempt, "known": known})


def _well_formed(message: dict[str, Any]) -> bool:
    verb = message.get("do")
    kinds = _KEYS.get(verb) if isinstance(verb, str) else None
    if kinds is None:
        return False
    typed = all(isinstance(message.get(key), kind) for key, kind in kinds.items()) and is_id(message["id"])
    if verb != "run" or not typed:
        return typed
    known = message["cursor"] == "" or is_cursor(message["cursor"])
    return known and 0 <= message["scheduled"] < LAST_INSTANT  # what a clock can show; no NaN
