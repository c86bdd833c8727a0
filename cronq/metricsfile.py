"""The metrics file: what `[metrics] file` names, for node_exporter's textfile collector.

Does:    every so many seconds works the text out, a slice a turn, and has it written beside the turns, by a thread: a
         disk that hangs costs figures, and holds nothing else up.
Writes:  a draft beside the file, then renames it: whoever reads sees a whole file or the one before. It is not flushed;
         after a power loss it is written anew.
Trusts:  the configuration about the place. Nothing that lies there under the draft's name is written into.
Fails:   never: what cannot be written is said once, until it can be or another reason is why.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator

from cronq import measures
from cronq.house import House, Now
from cronq.log import line as log

SLICE = 0.002
PAUSE = 0.010  # seconds from one slice to the next


def turn(house: House, now: Now) -> None:
    """Do a slice, if it is time."""
    if house.metrics is None and house.config.metrics.file is not None:
        house.metrics = MetricsFile()
    if house.metrics is not None:
        house.metrics.turn(house, now)


def patience(house: House, now: Now) -> float:
    """How long to wait at most until there is something to do."""
    return math.inf if house.metrics is None else house.metrics.patience(house, now)


class MetricsFile:
    """The one of one dispatcher."""

    def __init__(self) -> None:
        self._work: Iterator[str | None] | None = None
        self._pieces: list[str] = []
        self._next = 0.0
        self._now = Now(0.0, 0.0)
        self._thread: threading.Thread | None = None
        self._said = ""

    def turn(self, house: House, now: Now) -> None:
        """Do a slice, if it is time."""
        said = house.config.metrics
        self._now = now
        if said.file is None:
            self._work = None
            return
        if self._work is None:
            if now.mono < self._next or (self._thread is not None and self._thread.is_alive()):
                return
            self._work, self._pieces = measures.text(house, lambda: self._now, None), []
            self._next = now.mono + said.every
        end = time.monotonic() + SLICE
        for piece in self._work:
            if piece is not None:
                self._pieces.append(piece)
            if time.monotonic() >= end:
                return
        self._work = None
        self._write(said.file, "".join(self._pieces).encode())

    def patience(self, house: House, now: Now) -> float:
        """How long to wait at most until there is something to do."""
        if house.config.metrics.file is None:
            return math.inf
        return PAUSE if self._work is not None else max(PAUSE, self._next - now.mono)

    def _write(self, path: str, data: bytes) -> None:
        self._thread = threading.Thread(target=self._put, args=(path, data), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there can be no further thread
            self._thread = None

    def _put(self, path: str, data: bytes) -> None:
        complaint = ""
        try:
            put(path, data)
        except OSError as error:
            complaint = f"{error.filename or path}: {error.strerror or error}"
        if complaint and complaint != self._said:
            log("metrics-unwritten", reason=complaint)
        self._said = complaint


def put(path: str, data: bytes) -> None:
    """Put a file in its place, whole or not at all; it can be read by everybody. Raises `OSError`."""
    draft = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(data)
        os.rename(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
