"""Pauses: lines of crontabs, and schedules, whose ticks are passed over until somebody resumes them, or until a time.

Does:    knows what is paused, and until when; begins a pause and ends it.
Reads:   `schedule/paused/`, once, when a dispatcher starts.
Writes:  a file there for each: its name is that of the entry's ticks without their instant, and in it stands until
         when, in seconds since the epoch, or nothing.
Trusts:  `schedule/` is ours alone.
Fails:   `Full` for a user who has too many; `OSError` of the disk.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

from cronq.errors import Full
from cronq.shelves import Shelves

FOLDER = "schedule/paused"
MOST = 1000  # of one user: a line that is gone keeps its pause, for it may come again
FOR_EVER = math.inf


class Pauses:
    """What is paused, by the name of its ticks without their instant."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._until = dict(self._load())

    def _load(self) -> Iterator[tuple[str, float]]:
        try:
            names = os.listdir(f"{self._shelves.root}/{FOLDER}")
        except FileNotFoundError:
            return
        for name in names:
            if not name.startswith("."):
                with open(f"{self._shelves.root}/{FOLDER}/{name}", encoding="ascii", errors="replace") as file:
                    said = file.read(32).strip()
                yield name, float(said) if said.isdecimal() else FOR_EVER

    def until(self, name: str) -> float:
        """Until when an entry is paused: 0 for one that is not, infinity where nobody said when."""
        return self._until.get(name, 0.0)

    def passes_over(self, name: str, instant: float) -> bool:
        """Whether a tick of this instant is passed over; a pause ends by the first one that is not."""
        until = self._until.get(name)
        if until is None or instant < until:
            return until is not None
        self.end(name)
        return False

    def begin(self, name: str, until: float) -> None:
        """Pause an entry, or pause it until another time. Raises `Full`, `OSError`."""
        owner = name.partition("-")[0] + "-"
        if name not in self._until and sum(each.startswith(owner) for each in self._until) >= MOST:
            raise Full(f"{MOST} entries are paused already; resume some")
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=self._shelves.fd)
            self._shelves.touch(os.path.dirname(FOLDER))
        self._shelves.replace(f"{FOLDER}/{name}", [b"" if until == FOR_EVER else b"%d\n" % until], 0o600)
        self._shelves.touch(FOLDER)
        self._until[name] = until

    def end(self, name: str) -> bool:
        """Resume an entry; whether it was paused. Raises `OSError`."""
        if name not in self._until:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{FOLDER}/{name}", dir_fd=self._shelves.fd)
            self._shelves.touch(FOLDER)
        del self._until[name]
        return True
