"""What jobs say of themselves while somebody waits for them: read from their status files, shown on a terminal.

Does:    `said` reads what a running job says; `Line` keeps one line of it at the bottom of a terminal, below what the
         job prints.
Reads:   `out/<uid>/<id>/status`, through `safeopen`: root waits for jobs, too.
Trusts:  nothing that is read: `statement.clean` leaves no control character in what is drawn.
Fails:   never: what cannot be read says nothing; a terminal that cannot be written to shows nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cronq import safeopen, show, statement
from cronq import spool as spools

MOST_BYTES = 1 << 18
_ERASE = b"\r\x1b[K"
Write = Callable[[int, bytes], object]


def said(root: str, job_id: str) -> dict[str, Any]:
    """What a running job has said of itself; empty where it said nothing, or does not run."""
    try:
        descriptor = safeopen.open_below(root, os.path.join(spools.results("", job_id), "status"))
    except OSError:
        return {}
    try:
        return statement.read(safeopen.read(descriptor, MOST_BYTES))
    finally:
        os.close(descriptor)


class Line:
    """The last line of a terminal. It is there while the output above it stands at the beginning of a line."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._text = b""
        self._drawn = False
        self._free = True  # the cursor is at the beginning of a line

    def show(self, told: dict[str, Any]) -> None:
        """Show how far the job is."""
        text = show.escape(statement.words(told))[: self._width() - 1].encode("utf-8", "replace")
        if text != self._text:
            self.erase()
            self._text = text
            self._draw()

    def below(self, write: Write) -> Write:
        """A writer like this one, whose output stays above the line."""

        def above(descriptor: int, part: bytes) -> None:
            if not os.isatty(descriptor):
                write(descriptor, part)
                return
            self.erase()
            write(descriptor, part)
            self._free = part.endswith(b"\n")
            self._draw()

        return above

    def erase(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._drawn = False
            self._put(_ERASE)

    def _draw(self) -> None:
        if self._text and self._free and not self._drawn:
            self._drawn = True
            self._put(self._text)

    def _put(self, data: bytes) -> None:
        try:
            os.write(self._descriptor, data)
        except OSError:
            pass  # it is gone

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            return 80
