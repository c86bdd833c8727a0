"""An attempt that a pool runs: a process which was there before it, and is there after it (`mode = "pool"`).

Does:    hands the job over as one line of JSON, once it is placed and written down as started; copies what the process
         prints from then on; ends with the line that answers it. Other lines are what the job says of itself
         (`status`).
Writes:  as `attempt`.
Trusts:  the process as little as a job: whatever it prints, says or leaves out is this attempt's own harm.
Fails:   a process that dies before it has answered is this job's end, by that signal, or with a reason: an exit code
         of 0 is no answer. A stop or a timeout ends the process, and what it started.
"""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial

from cronq import process
from cronq.attempt import DRAIN_SLICES, Attempt
from cronq.channel import Channel, Lines
from cronq.gate import Held
from cronq.hosts import size_of, whole
from cronq.start import CannotStart, Starter
from cronq.status import MOST_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cronq.hosts import Host
    from cronq.pools import Pools
    from cronq.start import Given
    from cronq.task import Plan

MOST_ANSWER = 1 << 16
DYING = 1.0  # seconds from the end of its line to its own: how it died is then told
_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Handing(Held):
    """A job that is not handed over yet: what a child at its gate is for other attempts."""

    def __init__(self, host: Host, line: bytes, fail: Callable[[str, bool], object]) -> None:
        report, gate = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        super().__init__(host.pid, host.task.encode(), gate, report, [])
        self._host = host
        self._line = line
        self._fail = fail

    def go(self) -> None:
        """Hand it over."""
        try:
            whole = self._host.line.send(self._line) == len(self._line)
        except OSError:
            whole = False
        super().go()
        if not whole:
            self._fail("its pool does not take the line with the job", True)


class Answers(Channel):
    """What a pool says while it has this job: lines of status, and then the answer."""

    __slots__ = ("_answered", "_lost", "_over")

    def __init__(self, answered: Callable[[dict[str, Any]], object], *parts: Any) -> None:
        super().__init__(*parts)
        self._lines = Lines(MOST_ANSWER)
        self._answered = answered
        self._lost = False  # a line was longer than any answer
        self._over = False

    def pump(self) -> int | None:
        """Take the lines that are there."""
        try:
            return super().pump()
        except ConnectionResetError:  # it has ended, and not read all
            return 0

    def _take(self, lines: list[bytes]) -> None:
        if self._over:
            return
        self._lost = self._lines.too_long > 0
        for number, line in enumerate(lines):
            found = _answer_of(line)
            if found is not None:
                self._over = True
                rest = json.dumps({"result": found["result"]}).encode() if "result" in found else b""
                self._say([*lines[:number], rest])
                self._answered(found)
                return
        self._say(lines)
        if self._lost:  # that may have been the answer: there will be no other
            self._over = True
            self._answered({})

    def _say(self, lines: list[bytes]) -> None:
        short = [line for line in lines if line and len(line) <= MOST_LINE]
        self._lines.too_long += sum(len(line) > MOST_LINE for line in lines)
        super()._take(short)


class Pooled(Attempt):
    """One attempt that is under way."""

    def __init__(self, pools: Pools, task: str, *parts: Any) -> None:
        super().__init__(*parts)
        self._pools = pools
        self._task = task
        self._host: Host | None = None
        self._code: int | None = None  # that it answered
        self._used = 0.0

    def _spawn(self, starter: Starter, env: dict[bytes, bytes], outputs: Given, data: int | None) -> None:
        del outputs  # the process has its own, which are read in place of these pipes
        if data is not None and self.plan.stdin is None:
            raise CannotStart("a pool's job has its input as text (stdin), not as a file beside it")
        os.close(starter.folder(self.plan))  # whether it is there, and may be entered
        line = _line(self.plan, env, self.plan.cwd or (starter.home if os.path.isdir(starter.home) else "/"))
        host = self._pools.take(self._task, self.plan)
        try:
            self._attach(host, line)
        except OSError:
            self._pools.release(host)
            raise
        host.jobs += 1
        self._host, self.pid, self._used = host, host.pid, _cpu(host.pid)

    def _attach(self, host: Host, line: bytes) -> None:
        for stream, output in zip(self.streams, host.outputs, strict=True):
            os.dup2(output, stream.source, inheritable=False)
        said = os.dup(host.line.fileno())
        target = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if self.channel is None else self.channel.part()
        self.channel = Answers(self._answer, said, target, self.outcome, self.deadline, self.loop)
        self._held = Handing(host, line, self.stop)

    def _said(self) -> None:
        super()._said()
        if self.alive and self.channel is not None and self.channel.source < 0:
            mute = "its pool closed its line before it had answered"
            self.loop.after(DYING, partial(self.stop, mute, True))

    def _answer(self, found: dict[str, Any]) -> None:
        """It has answered, however the job went; the process stays, unless it is to be ended."""
        code = found.get("exit")
        if found.get("id") != self.id or type(code) is not int or not 0 <= code <= 255:
            self.reason = self.reason or "its pool gave an answer that cannot be understood"
        elif self.reason is None:
            self._code = code
        if self.alive and self._host is not None:
            if self._code is None:
                process.signal_group(self.pid, signal.SIGKILL)
                return
            if self._host.files is None and isinstance(found.get("files"), dict):
                self._host.files = {str(path): whole(changed) for path, changed in found["files"].items()}
            self._done(self._host)

    def _done(self, host: Host) -> None:
        self.freeze(False)  # it answered as it was stopped: the next job is another's
        self.alive = False
        self.loop.ignore(self._pidfd)
        os.close(self._pidfd)
        self.loop.cancel(self._timer)
        self.deadline.over()
        self._told()
        self._ended = {"exit_code": self._code, "signal": None, "reason": None}
        self._ended |= {"wall": round(time.monotonic() - self._began, 6)}
        self._ended |= {"cpu": round(_cpu(self.pid) - self._used, 6), "max_rss": size_of(self.pid)}
        for stream in self._open():
            stream.drain(DRAIN_SLICES)
            self._close(stream)
        self._hang_up()
        self._pools.release(host)
        self._conclude()

    def _gone(self, code: int) -> int:
        if self._host is None:
            return code
        if self.channel is not None and self.channel.source >= 0:
            self.channel.drain(DRAIN_SLICES)  # an answer may have been its last word
        self._lost = Starter.why_not(self._host.held)
        if code >= 0 and self.reason is None and self._lost is None and self._code is None:
            self.reason = f"its pool ended (exit code {code}) before it had answered"
        self._pools.forget(self._host)
        return code if self._code is None else self._code


def _answer_of(line: bytes) -> dict[str, Any] | None:
    """What a line says, if it is an object with `exit`."""
    if b'"exit"' not in line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "exit" in found else None


def _line(plan: Plan, env: dict[bytes, bytes], cwd: str) -> bytes:
    variables = {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}
    told = {"id": variables["CRONQ_JOB_ID"], "args": plan.args, "stdin": plan.stdin or "", "cwd": cwd, "env": variables}
    return json.dumps(told).encode() + b"\n"


def _cpu(pid: int) -> float:
    """The seconds of a processor that a process has used, its children's with them that it waited for."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _PER_SECOND
