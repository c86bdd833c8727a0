"""One attempt of a job, from its start to its outcome on disk.

Does:    writes `starting`, spawns, writes `started`, copies what the job prints, ends it at its timeout or when told
         to, ends what is left of its process group, writes `ended`. docs/spool.md rule 8 says what each crash leaves.
         Where jobs get a cgroup of their own, the job's process is forked instead, and waits until it has been placed;
         where they do not, what a stopped job left behind is looked for under /proc.
Writes:  the outcome file and the result files that the dispatcher opened. The outcome file is locked by its open file
         description: it is kept open here exactly as long as the attempt lives.
Trusts:  the plan. Not the job: it may ignore signals, leave children, hold its pipes, print without end.
Fails:   with `ended` and a reason, where the job cannot start; where the disk takes no outcome, it tries again each
         second and keeps the lock, so that nobody believes the job unfinished.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial

from cronq import process
from cronq.channel import Channel
from cronq.deadline import Deadline
from cronq.gate import settings
from cronq.output import Stream
from cronq.start import CannotStart, Starter
from cronq.wire import INTERRUPTED, OUT_OF_MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cronq.gate import Held
    from cronq.loop import Loop, Timer
    from cronq.outcome import Outcome
    from cronq.process import Hunts
    from cronq.start import Given
    from cronq.task import Plan

    Place = Callable[["Attempt", int], bool]  # asks for a place, by the pidfd; False: nobody can be asked

DRAIN = 1.0  # seconds for what escaped the group and still holds a pipe
DRAIN_STOPPED = 0.2  # the same, where nobody waits for what it still prints
PLACING = 2.0  # seconds for a job's place; then it runs without
DRAIN_SLICES = 64
AGAIN = 1.0
TRACED = 0.02


class Attempt:
    """One attempt that is under way. `over` is called once, when its outcome is on disk and its lock is gone.

    With `place`, its process waits until `go` is called. `hunts` finds what it leaves behind when it is stopped.
    """

    def __init__(
        self,
        message: dict[str, Any],
        plan: Plan,
        outcome: Outcome,
        loop: Loop,
        over: Callable[[Attempt], None],
        step: Callable[[str], None],
        place: Place | None = None,
        hunts: Hunts | None = None,
        no_room: Callable[[], object] = lambda: None,
        oom_kills: Callable[[Attempt], int] = lambda _attempt: 0,
    ) -> None:
        self.id: str = message["id"]
        self.number: int = message["attempt"]
        self.message = message
        self.plan = plan
        self.outcome = outcome
        self.loop = loop
        self.over = over
        self.step = step
        self.place = place
        self.hunts = hunts
        self.no_room = no_room  # called where it cannot be started for want of processes, memory or descriptors
        self.oom_kills = oom_kills  # how many of its processes the kernel killed for want of memory
        self.placed = False  # into a cgroup of its own
        self.streams: list[Stream] = []
        self.channel: Channel | None = None  # where the job says how it goes
        self.deadline = Deadline(loop, plan, self.stop)
        self.pid = 0
        self.alive = False
        self.reason: str | None = None
        self._pidfd = -1
        self._start: int | None = None  # of the process, in clock ticks since boot
        self._held: Held | None = None  # a child that is not known to be the job's program yet
        self._lost: CannotStart | None = None  # why it never became that
        self._started = self._began = 0.0  # by the wall clock, by the monotonic one
        self._asked = False  # SIGTERM was sent
        self._frozen = False
        self._timer: Timer | None = None
        self._ended: dict[str, Any] = {}
        self._draining = False

    # ---------------------------------------------------------------- start

    def start(self, starter: Starter, task: str | None, results: list[int], data: int | None) -> None:
        """Start the job; `results`, its output files and perhaps a status file, become this attempt's own.

        `data` is closed.
        """
        unowned = [*results] if data is None else [*results, data]
        try:
            if not self.outcome.write("starting"):
                self._never()  # without evidence it must not run
                return
            self.step("starting")
            for result in results:
                reading, writing = os.pipe2(os.O_CLOEXEC)
                unowned[unowned.index(result)] = writing
                os.set_blocking(reading, False)
                if len(self.streams) < 2:
                    self.streams.append(Stream(reading, result, self.plan.output_max))
                else:
                    self.channel = Channel(reading, result, self.outcome, self.deadline, self.loop)
            if data is None and (data := starter.input(self.plan, self.id)) is not None:
                unowned.append(data)
            env = starter.environment(self.plan, self.message, task)
            # A crontab's job has one stream, in order; the other one's pipe has nobody to write to it.
            outputs = unowned[0], unowned[1 if self.plan.cron is None else 0], *unowned[2 : len(results)]
            self._started = time.time()
            self._spawn(starter, env, outputs, data)
        except CannotStart as error:
            self._stillborn(error)
        except OSError as error:  # no descriptors, no memory: not the job's fault
            self._not_now(f"the worker has no room: {error.strerror}")
            self.no_room()
        finally:
            for descriptor in unowned:
                os.close(descriptor)
        if self.pid:
            self._watch()

    def _spawn(self, starter: Starter, env: dict[bytes, bytes], outputs: Given, data: int | None) -> None:
        if self.place is None and not settings(self.plan):
            self.pid = starter.start(self.plan, env, outputs, data)
        else:
            self._held = starter.hold(self.plan, env, outputs, data)
            self.pid = self._held.pid

    def _not_now(self, reason: str) -> None:
        """Give it back: nothing of it has run."""
        self.outcome.write("refused", reason=reason, code=75, again=True)
        self._never()

    def _never(self) -> None:
        self._forget()
        self.outcome.close()
        self.over(self)

    def _stillborn(self, error: CannotStart) -> None:
        self._ended = _never_ran(error)
        self._forget()
        self._conclude()

    def _forget(self) -> None:
        for stream in self.streams:
            stream.close()
        if self.channel is not None:
            self.channel.close()

    def _watch(self) -> None:
        self.step("spawned")
        self._began = time.monotonic()
        self.alive = True
        self._start = process.start_time(self.pid)  # it is there until it is waited for, dead or alive
        self.outcome.write("started", pid=self.pid, start=self._start, boot=process.boot_id())
        self.step("started")
        self._pidfd = os.pidfd_open(self.pid)
        self.loop.listen(self._pidfd, self._dead)
        for stream in self.streams:
            self.loop.listen(stream.source, partial(self._printed, stream))
        if self.channel is not None:
            self.loop.listen(self.channel.source, self._said)
        if self._held is None:
            self.deadline.begin()
        else:
            self.loop.listen(self._held.report, self._told)
            if self.place is not None and self.place(self, self._pidfd):
                self._timer = self.loop.after(PLACING, partial(self.go, False))
            else:
                self.go(False)

    def go(self, placed: bool = True) -> None:
        """Let the job run now, in the place that it was given, or without one."""
        if self._held is None or not self._held.waiting or not self.alive:
            return
        self.placed = placed
        self.loop.cancel(self._timer)
        self._began = time.monotonic()
        self._held.go()
        self.deadline.begin()
        if self._frozen:
            self._frozen = False
            self.freeze(True)

    def _told(self) -> None:
        """The child became the job's program, or could not, or died."""
        if self._held is not None:
            self.loop.ignore(self._held.report)
            self._lost = Starter.why_not(self._held)
            self._held.close()
            self._held = None

    # ---------------------------------------------------------------- while it runs

    def _printed(self, stream: Stream) -> None:
        self.deadline.heard()
        if stream.pump() == 0:
            self._close(stream)
            if self._draining and not self._open():
                self._conclude()

    def _said(self) -> None:
        if self.channel is not None and self.channel.pump() == 0:
            self._hang_up()

    def _hang_up(self) -> None:
        if self.channel is not None and self.channel.source >= 0:
            self.loop.ignore(self.channel.source)
            self.channel.close()

    def _open(self) -> list[Stream]:
        return [stream for stream in self.streams if not stream.closed]

    def _close(self, stream: Stream) -> None:
        # Not `closing`: a child that was forked a moment ago, or a message under way, may have the same open file.
        self.loop.ignore(stream.source)
        stream.close()

    def stop(self, reason: str, now: bool = False) -> None:
        """End the job: SIGTERM to its group, SIGKILL after its grace, or at once. The first reason is the one told."""
        if not self.alive:
            return
        self.reason = self.reason or reason
        self.deadline.over()
        if self._held is not None and self._held.waiting:
            self._held.shut()  # nothing of the job has run yet
            now = True
        if now:
            process.signal_group(self.pid, signal.SIGKILL)
        elif not self._asked:
            self._asked = True
            process.signal_group(self.pid, signal.SIGTERM)
            process.signal_group(self.pid, signal.SIGCONT)  # a stopped job could not hear it
            self.loop.cancel(self._timer)
            self._timer = self.loop.after(self.plan.grace, partial(process.signal_group, self.pid, signal.SIGKILL))

    def freeze(self, on: bool) -> None:
        """Stop the job's group, and its time-outs with it, or let both go on. One that is to end is not stopped."""
        if on != self._frozen:
            self._frozen = on
            if self.alive and self.reason is None and not (self._held is not None and self._held.waiting):
                process.signal_group(self.pid, signal.SIGSTOP if on else signal.SIGCONT)
                self.deadline.freeze(on)

    # ---------------------------------------------------------------- end

    def _dead(self) -> None:
        self.loop.ignore(self._pidfd)
        os.close(self._pidfd)
        # What was stopped leaves nothing behind, a task neither unless it says so; a free command may.
        if not self._leaves():
            process.signal_group(self.pid, signal.SIGKILL)
        self._wait()

    def _leaves(self) -> bool:
        return self.plan.leave_children and self.reason is None

    def _wait(self) -> None:
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:  # who traces it must let go of it first
            self.loop.after(TRACED, self._wait)
            return
        self.alive = False
        self.loop.cancel(self._timer)
        self.deadline.over()
        self._told()  # whatever comes first in a turn
        code = self._gone(os.waitstatus_to_exitcode(status))
        self._ended = {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "reason": self.reason,
            "wall": round(time.monotonic() - self._began, 6),
            "cpu": round(used.ru_utime + used.ru_stime, 6),
            "max_rss": used.ru_maxrss * 1024,  # never less than the worker's: the kernel counts what vfork shared
        }
        if self._lost is not None and self.reason is None:
            self._ended = _never_ran(self._lost)
        elif code and self.reason is None and self._may_come_again() and process.machine_ends():
            self._ended["reason"] = INTERRUPTED  # it did not fail: whoever shut the machine down ended it
        elif code and self.reason is None and self.placed and self.oom_kills(self):
            self._ended["reason"] = OUT_OF_MEMORY  # which it may have told by any exit code, or by the signal
        if self.reason is None or self.placed or self.hunts is None:
            self._drain()
        else:  # what called setsid is in no group of ours; `_drain` comes when it is gone, or in a moment
            job = {"id": self.id, "attempt": self.number, "pid": self.pid, "start": self._start}
            self.hunts.follow(job, lambda *_: self._drain())

    def _gone(self, code: int) -> int:
        """Its process has been waited for: what is told of how it ended."""
        return code

    def _may_come_again(self) -> bool:
        return self.plan.cron is None and self.plan.delivery != "at-most-once"

    def _drain(self) -> None:
        for stream in self._open():
            if stream.drain(DRAIN_SLICES):
                self._close(stream)
        if self.channel is not None and self.channel.source >= 0 and self.channel.drain(DRAIN_SLICES):
            self._hang_up()
        if self._leaves() or not self._open():
            self._conclude()
        else:
            self._draining = True
            self._timer = self.loop.after(DRAIN if self.reason is None else DRAIN_STOPPED, self._conclude)

    def _conclude(self) -> None:
        self._draining = False
        self.loop.cancel(self._timer)
        if not self._leaves():
            for stream in self._open():
                self._close(stream)
            self._hang_up()
        told = {name: stream.told() for name, stream in zip(("stdout", "stderr"), self.streams, strict=True)}
        if not self.outcome.write("ended", **self._ended, **told, **self._own_words(), started=round(self._started, 6)):
            self.loop.after(AGAIN, self._conclude)
            return
        self.step("ended")
        self.outcome.close()
        self.over(self)

    def _own_words(self) -> dict[str, Any]:
        """What the job said of itself; its children are heard no more."""
        if self.channel is None:
            return {}
        self.channel.finish()
        state = self.channel.state
        found = {"said": state.told(), "snooze": state.snooze, "cursor": state.cursor}
        return {key: value for key, value in found.items() if value not in (None, {})}


def _never_ran(error: CannotStart) -> dict[str, Any]:
    """How an attempt ended whose program was never run."""
    nothing = {"signal": None, "wall": 0.0, "cpu": 0.0, "max_rss": 0}
    return {"exit_code": error.exit_code, "reason": error.sentence, **nothing}
