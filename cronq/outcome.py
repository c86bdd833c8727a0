"""An attempt's outcome file, as its worker writes it: one line of JSON a step (docs/spool.md has what a crash leaves).

Does:    appends a line by one write, whole or not at all; keeps the file small, however many cursors a job gives.
Writes:  the file that the dispatcher opened and locked. The lock goes when it is closed here.
Trusts:  the descriptor.
Fails:   False where the disk does not take a line: nothing of it stays.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time

from cronq.log import line as log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_MARKS = 64 * 1024  # bytes of cursors, of which only the last one counts
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` makes one a line


class Outcome:
    """An attempt's outcome file: one line of JSON for each step."""

    __slots__ = ("_marks", "descriptor", "size", "too_large")

    def __init__(self, descriptor: int, too_large: Callable[[], object] = lambda: None) -> None:
        """`too_large` is called where not the disk refuses a line, but this process's limit of a file's size."""
        self.descriptor = descriptor
        self.size = 0
        self._marks = -1  # where the first cursor stands
        self.too_large = too_large

    def write(self, step: str, **facts: Any) -> bool:
        """Append a line by one write, whole or not at all; False if the disk does not take it."""
        data = _line(step, facts)
        try:
            if os.write(self.descriptor, data) == len(data):
                self.size += len(data)
                return True
            os.ftruncate(self.descriptor, self.size)
        except OSError as error:
            self._unwritten(step, error)
        return False

    def mark(self, cursor: str) -> None:
        """Say how far the job is, for whoever runs it next; of many cursors the earlier ones are written over."""
        if self._marks < 0:
            self._marks = self.size
        if self.size - self._marks <= MOST_MARKS:
            self.write("cursor", cursor=cursor)
            return
        data = _line("cursor", {"cursor": cursor})
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~os.O_APPEND)  # else it would go to the end
            if os.pwrite(self.descriptor, data, self._marks) == len(data):
                self.size = self._marks + len(data)
                os.ftruncate(self.descriptor, self.size)  # to die just here costs the way since the cursor before
        except OSError as error:
            self._unwritten("cursor", error)  # a cursor before this one stays, and is the last
        finally:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags)

    def _unwritten(self, step: str, error: OSError) -> None:
        log("outcome-unwritten", step=step, error=error)
        if error.errno == errno.EFBIG:
            self.too_large()

    def close(self) -> None:
        """The attempt is over: its lock goes."""
        os.close(self.descriptor)


def _line(step: str, facts: dict[str, Any]) -> bytes:
    return _encode({"step": step, "t": round(time.time(), 6), **facts}).encode() + b"\n"
