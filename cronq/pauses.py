"""Pauses: what starts nothing, or makes no ticks, until somebody resumes it, or until a time.

Does:    knows what is paused, until when, and why; begins a pause and ends it. Paused are entries (lines of crontabs,
         schedules), whose ticks are passed over, and gates: a queue, a task, or all (`DRAIN`), of which nothing starts;
         `REFUSE` is the gate of the inboxes, out of which nothing is taken.
Reads:   `schedule/paused/`, once, when a dispatcher starts.
Writes:  a file there for each: an entry's is named as its ticks without their instant, a gate's `queue:NAME`,
         `task:NAME`, `drain` or `refuse` (no entry's name is like that). In it stands until when, and the job whose
         failure it was, as far as there is one.
         `refuse` beside the control socket, as long as nothing is accepted.
Trusts:  `schedule/` is ours alone.
Fails:   `Full` for a user who has too many; `OSError` of the disk.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq.errors import Full
from cronq.job import is_name
from cronq.shelves import Shelves
from cronq.spool import refusal_sign

FOLDER = "schedule/paused"
MOST = 1000  # of one user: a line that is gone keeps its pause, for it may come again
FOR_EVER = math.inf
QUEUE, TASK = "queue", "task"
DRAIN, REFUSE = "drain", "refuse"


class Pause(NamedTuple):
    """Until when something is paused, in seconds since the epoch; which job's failure it was; whether what runs is
    stopped, too.
    """

    until: float = FOR_EVER
    job: str = ""
    frozen: bool = False


def gate(kind: str, name: str) -> str:
    """What the gate of a queue or a task is called. No name has a colon, so no entry is called like that."""
    return f"{kind}:{name}"


def is_gate(name: str) -> bool:
    """Whether a gate can be called so."""
    kind, colon, of = name.partition(":")
    return name in (DRAIN, REFUSE) or (bool(colon) and kind in (QUEUE, TASK) and is_name(of, 48))


class Pauses:
    """What is paused: entries, by the name of their ticks without the instant, and gates."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._entries: dict[str, Pause] = {}
        self.gates: dict[str, Pause] = {}
        self._unsaved: dict[str, Pause] = {}  # gates whose file is still to be written
        for name, pause in self._load():
            self._of(name)[name] = pause

    def _load(self) -> Iterator[tuple[str, Pause]]:
        try:
            names = os.listdir(f"{self._shelves.root}/{FOLDER}")
        except FileNotFoundError:
            return
        for name in names:
            if not name.startswith("."):
                said = self._shelves.load(f"{FOLDER}/{name}") or {}
                until, job = said.get("until"), said.get("job")
                yield (
                    name,
                    Pause(
                        float(until) if isinstance(until, int | float) else FOR_EVER,
                        job if isinstance(job, str) else "",
                        said.get("frozen") is True,
                    ),
                )

    def _of(self, name: str) -> dict[str, Pause]:
        return self.gates if is_gate(name) else self._entries

    def until(self, name: str) -> float:
        """Until when something is paused: 0 for what is not, infinity where nobody said when."""
        found = self._of(name).get(name)
        return 0.0 if found is None else found.until

    # ---------------------------------------------------------------- entries

    def passes_over(self, name: str, instant: float) -> bool:
        """Whether a tick of this instant is passed over; a pause ends by the first one that is not."""
        pause = self._entries.get(name)
        if pause is None or instant < pause.until:
            return pause is not None
        self.end(name)
        return False

    # ---------------------------------------------------------------- gates

    def closed(self, queue: str, task: str) -> list[str]:
        """The gates by whose pause nothing of this queue and task (empty: a free command) starts."""
        if not self.gates:
            return []
        return [name for name in (DRAIN, gate(QUEUE, queue), gate(TASK, task)) if name in self.gates]

    def freezes(self, queue: str, task: str) -> bool:
        """Whether what runs of this queue and task is to be stopped."""
        return any(self.gates[name].frozen for name in self.closed(queue, task))

    def ends(self) -> float:
        """When the first of them ends by itself."""
        return min((pause.until for pause in self.gates.values()), default=FOR_EVER)

    def lapse(self, now: float) -> list[str]:
        """End those of them whose time has come, and say which."""
        over = [name for name, pause in self.gates.items() if pause.until <= now]
        for name in over:
            self.end(name)
        return over

    def fail(self, name: str, job_id: str) -> bool:
        """A job's failure pauses a gate until somebody resumes it; False where it is paused so. `save` writes it."""
        earlier = self.gates.get(name)
        if earlier is not None and earlier.until == FOR_EVER:
            return False
        self.gates[name] = self._unsaved[name] = Pause(job=job_id, frozen=earlier is not None and earlier.frozen)
        return True

    def save(self) -> None:
        """Write what is not on disk yet. Raises `OSError`: then it is still to be written."""
        for name in list(self._unsaved):
            self._write(name, self._unsaved[name])
            del self._unsaved[name]

    def sign(self) -> None:
        """Let whoever submits see whether anything is accepted (`spool.must_be_accepted`).

        A hint: it may be missing, for files wait in their inboxes all the same.
        """
        path = refusal_sign(self._shelves.root)
        with contextlib.suppress(OSError):
            if REFUSE in self.gates:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
            else:
                os.unlink(path)

    # ---------------------------------------------------------------- beginning and ending

    def begin(self, name: str, pause: Pause) -> None:
        """Pause an entry or a gate, or pause it until another time. Raises `Full`, `OSError`."""
        known = self._of(name)
        owner = name.partition("-")[0] + "-"
        if known is self._entries and name not in known and sum(each.startswith(owner) for each in known) >= MOST:
            raise Full(f"{MOST} entries are paused already; resume some")
        self._write(name, pause)
        self._unsaved.pop(name, None)
        known[name] = pause

    def _write(self, name: str, pause: Pause) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=self._shelves.fd)
            self._shelves.touch(os.path.dirname(FOLDER))
        said: dict[str, Any] = {"until": pause.until} if pause.until != FOR_EVER else {}
        said |= {"job": pause.job} if pause.job else {}
        self._shelves.save(f"{FOLDER}/{name}", said | ({"frozen": True} if pause.frozen else {}))
        self._shelves.touch(FOLDER)

    def end(self, name: str) -> bool:
        """Resume an entry or a gate; whether it was paused. Raises `OSError`."""
        known = self._of(name)
        if name not in known:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{FOLDER}/{name}", dir_fd=self._shelves.fd)
            self._shelves.touch(FOLDER)
        self._unsaved.pop(name, None)
        del known[name]
        return True


def sentence(name: str, pause: Pause) -> str:
    """What a paused gate keeps from going on, in words that anybody may read."""
    if name == DRAIN:
        return "cronq is drained: nothing starts"
    if name == REFUSE:
        return "cronq accepts nothing: what is submitted waits in its inbox"
    why = ", and what runs of it is frozen" if pause.frozen else ""
    why += ", because a job of it ended dead" if pause.job else ""
    return f"{name.replace(':', ' ')} is paused{why}"
