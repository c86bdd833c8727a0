"""A job's status descriptor, at its worker's end: from the pipe into a small file that whoever waits may read.

Does:    `pump` reads one slice and takes its lines (`status`), so that a flood takes its turn with the other jobs.
         What the job has come to is written a few times a second at most, each time as a whole over what was there. A
         cursor goes into the outcome file at once: the dispatcher must have it, whatever becomes of this worker.
Writes:  the status file that the dispatcher opened; `cursor` lines of the outcome file.
Trusts:  nothing: the job may say anything, close its end at once, or leave it to its children.
Fails:   never: a file that cannot be written stays as it is.
"""

from __future__ import annotations

import json
import os
import time

from cronq.output import Pumped
from cronq.status import MOST_LINE, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.deadline import Deadline
    from cronq.loop import Loop, Timer
    from cronq.outcome import Outcome

SLICE = 1 << 16
EVERY = 0.2  # seconds between two writings
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Lines:
    """The lines of a stream that comes in parts; what is too long is passed over up to its end."""

    __slots__ = ("_most", "_over", "_rest", "too_long")

    def __init__(self, most: int = MOST_LINE) -> None:
        self._most = most
        self.too_long = 0
        self._rest = b""
        self._over = False  # in the middle of a line that is too long

    def cut(self, part: bytes) -> list[bytes]:
        """The lines that are whole with this part."""
        *found, self._rest = (self._rest + part).split(b"\n")
        if self._over and found:
            del found[0]
            self._over = False
        if len(self._rest) > self._most:
            self.too_long += not self._over
            self._over = True
        if self._over:
            self._rest = b""
        whole = [line for line in found if len(line) <= self._most]
        self.too_long += len(found) - len(whole)
        return whole

    def end(self) -> list[bytes]:
        """What came after the last line end: a line, too."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class Channel(Pumped):
    """What one attempt says of itself."""

    __slots__ = ("_deadline", "_dirty", "_lines", "_loop", "_outcome", "_target", "_timer", "_wrote", "source", "state")

    def __init__(self, source: int, target: int, outcome: Outcome, deadline: Deadline, loop: Loop) -> None:
        self.source = source  # -1: closed
        self.state = State()
        self._target = target  # -1: nothing is kept any more
        self._outcome = outcome
        self._deadline = deadline
        self._loop = loop
        self._lines = Lines()
        self._timer: Timer | None = None
        self._wrote = 0.0
        self._dirty = False

    def pump(self) -> int | None:
        """Take the lines that are there."""
        try:
            part = os.read(self.source, SLICE)
        except BlockingIOError:
            return None
        if self._target >= 0:
            self._deadline.heard()
            self._take(self._lines.cut(part) if part else self._lines.end())
        return len(part)

    def _take(self, lines: list[bytes]) -> None:
        state = self.state
        touched, cursor = state.touched, state.cursor
        state.take(lines)
        if self._lines.too_long:
            state.ignore(self._lines.too_long, f"a status line is longer than {MOST_LINE} bytes")
            self._lines.too_long = 0
        if state.touched != touched:
            self._deadline.touch(state.deadline)
        if state.cursor != cursor and state.cursor is not None:
            self._outcome.mark(state.cursor)
        if lines and not self._dirty:
            self._dirty = True
            wait = self._wrote + EVERY - time.monotonic()
            if wait > 0:
                self._timer = self._loop.after(wait, self._write)
            else:
                self._write()

    def _write(self) -> None:
        self._dirty = False
        self._wrote = time.monotonic()
        data = _encode(self.state.told()).encode("utf-8", "replace") + b"\n"
        try:
            os.pwrite(self._target, data, 0)
            os.ftruncate(self._target, len(data))
        except OSError:
            pass  # no room: the next one may have it

    def finish(self) -> None:
        """Keep nothing of what is said from now on."""
        if self._target >= 0:
            self._take(self._lines.end())
            self._loop.cancel(self._timer)
            os.close(self._target)
            self._target = -1

    def part(self) -> int:
        """Let go of the source; the target, to be handed on, is the caller's."""
        target, self._target = self._target, -1
        self.close()
        return target

    def close(self) -> None:
        """Let go of both ends."""
        self.finish()
        if self.source >= 0:
            os.close(self.source)
            self.source = -1
