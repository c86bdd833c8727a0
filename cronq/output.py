"""What a job prints: from a pipe into a result file, as far as the task's cap.

Does:    `pump` copies one slice, so that a job that prints without end takes its turn with the others. Beyond the cap
         it reads and throws away, so that the job is not held up, and one line at the end of the file says so.
Writes:  the result file that the dispatcher opened.
Trusts:  nothing: the job may print anything, or hold the pipe for ever.
Fails:   never: a file that cannot be written (no room) counts as cut, and the job goes on.
"""

from __future__ import annotations

import os

SLICE = 1 << 16  # what a pipe holds
_buffer = memoryview(bytearray(SLICE))  # one for all: a worker has one thread


class Pumped:
    """What is read from a job's pipe, a slice at a time."""

    __slots__ = ()

    def pump(self) -> int | None:
        """Take what is there, a slice at most: how many bytes it was, 0 at the end, None if nothing is there now."""
        raise NotImplementedError

    def drain(self, slices: int) -> bool:
        """Take until there is nothing more now, at most so many slices; whether the end was reached."""
        for _ in range(slices):
            count = self.pump()
            if not count:
                return count == 0
        return False


class Stream(Pumped):
    """One of a job's two outputs."""

    __slots__ = ("bytes", "closed", "cut", "room", "source", "target")

    def __init__(self, source: int, target: int, most: int) -> None:
        self.source = source
        self.target = target
        self.room = most
        self.bytes = 0  # of the job's, in the file
        self.cut = False
        self.closed = False

    def pump(self) -> int | None:
        """Copy what is there, as far as the cap."""
        try:
            count = os.readv(self.source, [_buffer])
        except BlockingIOError:
            return None
        kept = min(count, self.room)
        if kept and not self.cut:
            self._keep(_buffer[:kept])
        if count > kept:
            self._mark()
        return count

    def _keep(self, part: memoryview) -> None:
        try:
            while part:
                count = os.write(self.target, part)
                self.bytes += count
                self.room -= count
                part = part[count:]
        except OSError:  # full, over quota, broken: what is there stays
            self._mark()

    def _mark(self) -> None:
        if self.cut:
            return
        self.cut = True
        try:
            os.write(self.target, f"\n[cronq: output cut at {self.bytes} bytes]\n".encode())
        except OSError:
            pass

    def told(self) -> dict[str, int | bool]:
        """What the outcome says of it: `bytes` of the job's that are in the file, and whether there were more."""
        return {"bytes": self.bytes, "cut": self.cut}

    def close(self) -> None:
        """Let go of both ends; whoever still writes into the pipe gets SIGPIPE."""
        self.closed = True
        os.close(self.source)
        os.close(self.target)
