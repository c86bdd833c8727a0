"""The house: everything one dispatcher has in hand, and the few acts that all verbs of a turn share.

Does:    holds spool, history, backlog, crew and configuration together; moves an entry in all of them at once.
Trusts:  nothing of its own: each part says in its own docstring what it trusts.
Fails:   as its parts do.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cronq import shelves, states, task
from cronq.almanac import Almanac
from cronq.authority import ROOT, Authority
from cronq.backlog import Backlog
from cronq.config import Config
from cronq.crew import Crew
from cronq.cronlog import Cronlog
from cronq.entry import Entry
from cronq.history import History
from cronq.job import Job
from cronq.listing import Listing
from cronq.pauses import Pauses
from cronq.payload import Copier
from cronq.policy import Verdict
from cronq.pressure import Pressure
from cronq.rate import Rates
from cronq.shares import Shares
from cronq.tables import Tables
from cronq.task import Plan


class Shut(NamedTuple):
    """Nothing of a lane starts until a time of the monotonic clock, and why."""

    until: float
    why: str


@dataclass(frozen=True, slots=True)
class Now:
    """One instant: seconds of the wall clock (what people say) and of the monotonic one (durations)."""

    wall: float
    mono: float

    @property
    def micros(self) -> int:
        """The wall clock in microseconds, as names carry it."""
        return int(self.wall * 1e6)


@dataclass(slots=True)
class Running:
    """An attempt that is under way, or whose worker is gone."""

    entry: Entry
    job: Job | None = None
    plan: Plan | None = None
    orphan: bool = False  # its worker is not one of this dispatcher's crew: its outcome file tells
    reaping: float | None = None  # since when a worker has been asked to make sure that it is dead
    reap: dict[str, Any] | None = None
    cursor: Any = None  # that it gave before its worker died
    doubtful: bool = False  # it may have started though its outcome file is empty: the power may have gone meanwhile


@dataclass(slots=True)
class Settled:
    """An attempt whose end has been judged, and is published as soon as the history is on disk."""

    running: Running
    verdict: Verdict
    outcome: dict[str, Any]


@dataclass(slots=True)
class House:
    """One dispatcher's whole state."""

    shelves: shelves.Shelves
    history: History
    crew: Crew
    config: Config
    config_dir: str
    authority: Authority | None = None  # who may do what, on a system spool
    backlog: Backlog = field(default_factory=Backlog)
    running: dict[str, Running] = field(default_factory=dict)
    settled: list[Settled] = field(default_factory=list)
    tallies: dict[str, dict[str, int]] = field(default_factory=dict)  # how the members of each batch ended
    deaths: dict[str, str] = field(default_factory=dict)  # batches with a dead member: its id (`batches`)
    counting: dict[str, tuple[Iterator[str], Counter[str]]] = field(default_factory=dict)  # tallies, as far as they are
    closing: dict[str, Any] = field(default_factory=dict)  # batches that are over, as soon as files are judged
    judging: dict[str, Any] = field(default_factory=dict)  # batches that are being read, by captured name
    copier: Copier = field(default_factory=Copier)  # of payloads
    looks: dict[str, float] = field(default_factory=dict)  # captured files that are not whole yet: when to look again
    behind: set[str] = field(default_factory=set)  # those of them whose jobs wait for one that is still to be judged
    seen: dict[int, int] = field(default_factory=dict)  # each inbox's mtime when it was last read to its end
    turns: int = 0  # that have begun
    listed: dict[int, int] = field(default_factory=dict)  # in which turn the last listing of each inbox began
    read: dict[int, int] = field(default_factory=dict)  # likewise, the last one that was read to its end
    stops: dict[str, bool] = field(default_factory=dict)  # jobs to be told that they are cancelled; whether at once
    almanac: Almanac = field(init=False)  # what is due, and since when
    loaded: Config | None = None  # whose schedules are in the almanac
    tables: Tables = field(init=False)  # the crontabs that are known
    pauses: Pauses = field(init=False)  # which lines and schedules are paused
    listing: Listing | None = None  # those of root's, on a system spool
    cronlog: Cronlog = field(default_factory=Cronlog)
    attached: deque[str] = field(default_factory=deque)  # jobs that end with who waits for them, next to look at first
    attached_at: float = 0.0  # when to look whether they still do
    rounds: Any = None  # of what is removed since it is too old (`retention`)
    prune_at: float = 0.0  # when empty directories of the queue are looked for again
    paused_until: float = 0.0  # no room on the disk: nothing starts until then
    paused_why: str = ""
    left: set[tuple[int, str]] = field(default_factory=set)  # what cannot be taken out of an inbox: uid, file name
    strangers: dict[int, str] = field(default_factory=dict)  # uids whose jobs are held, and why (`guests`)
    reasons: dict[str, str] = field(default_factory=dict)  # why a job is held, by id
    lanes_closed: dict[tuple[str, int], Shut] = field(default_factory=dict)  # (task, uid): a bad configuration
    served: Shares = field(default_factory=Shares)  # how much each submitter was, in turns
    pressure: Pressure = field(default_factory=Pressure)  # whether the machine has room for more
    rates: Rates = field(default_factory=Rates)  # what was started of what has a rate (`pace`)
    opens: float = float("inf")  # when a rate lets something start that is ready
    depths: Any = None  # what stood where when it was last counted (`depths`)
    metrics: Any = None  # the file of figures that is kept (`metricsfile`)
    flushes: int = 0  # turns whose every move is durable
    cgroups: str = ""  # how far jobs get a cgroup of their own, in words
    placing: bool = False  # whether they do
    frozen: set[tuple[str, int]] = field(default_factory=set)  # attempts that were told to stand still (`freezing`)
    broken: str = ""  # a flush failed: nothing is accepted or started any more
    stopping: bool = False
    leave_at: float | None = None  # until when a stopping dispatcher waits for running jobs
    interrupted: set[str] = field(default_factory=set)  # those that it has had ended, to go itself
    urgent: bool = False  # something is left to do at once
    chance: Callable[[], float] = random.random
    step: Callable[[str], None] = lambda _name: None

    def __post_init__(self) -> None:
        self.almanac = Almanac(self.shelves)
        self.pauses = Pauses(self.shelves)
        self.tables = Tables(self.shelves, self.config_dir, self._tell)
        if self.shelves.gid is not None:
            self.listing = Listing(self.tables, self.crew, self.config_dir)
        self.crew.wants = self._wanted_tables
        self.history.reach = self.backlog.taken.reach
        self.history.counts.configured = self._is_configured

    def _is_configured(self, queue: str) -> bool:
        return queue in self.config.named_queues

    @property
    def master(self) -> int:
        """Whose the configuration is: root's, on a system spool."""
        return self.shelves.uid if self.shelves.gid is None else ROOT

    def move(
        self, now: Now, move: str, source: str, entry: Entry, changed: Entry, cause: str = "", **facts: Any
    ) -> str:
        """Move an entry on disk, in the backlog and in the history."""
        state = self.shelves.move(move, source, entry, changed)
        self.backlog.put(state, changed)
        if source in (states.DEAD, states.SKIPPED):
            self.tally(entry, source, -1)
        if state == states.HELD:
            self.reasons[entry.id] = cause
        else:
            self.reasons.pop(entry.id, None)
        self.history.note(now.wall, entry.id, source, state, changed, move=move, cause=cause or None, **facts)
        return state

    def end(self, now: Now, move: str, source: str, entry: Entry, result: dict[str, Any], **facts: Any) -> None:
        """An entry ends with this result: its file goes to its results, waiters see `result.json`."""
        state = states.target(move, source)
        self.shelves.publish(entry, encode(result), flush=entry.batch is not None)  # from nowhere else to be had
        self.shelves.end(source, entry)
        self.backlog.forget(entry.id)
        if facts:
            self.history.note(now.wall, entry.id, source, state, entry, move=move, **facts)
        self.tally(entry, state)

    def remove(self, now: Now, state: str, entry: Entry, **facts: Any) -> None:
        """A job that has ended goes for good, with its results. Raises `OSError`."""
        if entry.id in self.backlog:  # dead or skipped: its file has not gone to its results
            self.shelves.drop(state, entry)
            self.shelves.drop_data(entry.id)
            self.backlog.forget(entry.id)
        self.shelves.remove_results(entry.id)
        self.backlog.waits.removed(entry.id)
        self.history.note(now.wall, entry.id, state, "removed", move="remove", **facts)

    def permit(self, wanted: Job, submitter: int) -> None:
        """Whether this user may have that run. Raises `NotPermitted`, `BadJob`."""
        if self.authority is not None and submitter != self.shelves.uid:  # a tick's evidence is its schedule
            self.authority.permit(wanted, self.config.tasks.get(wanted.task or ""), submitter)

    def plan(self, wanted: Job) -> Plan:
        """What a job comes to. Raises `BadJob`."""
        return task.plan(wanted, self.config.tasks, system=self.authority is not None)

    def _tell(self, user: str, event: str, detail: str) -> None:
        """Tell the system's log what became of a table."""
        self.cronlog.table(os.getpid(), user, event, detail, time.time())

    def _wanted_tables(self, uid: int) -> dict[str, int]:
        """The tables of root's that a new worker of this user's is to have; none while their numbers change."""
        return {} if self.listing is None or self.listing.busy else self.tables.needed(uid)[0]

    def runner(self, task_name: str, submitter: int) -> int:
        """The uid that a job of this task (empty: a free command) runs as. Raises `CronqError`."""
        if self.authority is None:
            return submitter
        return self.authority.runs_as(self.config.tasks.get(task_name), submitter)

    def shut(self, now: Now, task_name: str, submitter: int) -> bool:
        """Whether a bad configuration keeps this submitter's jobs of a task (empty: free commands) from starting."""
        shut = self.lanes_closed.get((task_name, submitter))
        return shut is not None and now.mono < shut.until

    def pause(self, until: float, why: str) -> None:
        """Let nothing start until a time of the monotonic clock."""
        self.paused_until, self.paused_why = until, why

    def stranger(self, *uids: int) -> str | None:
        """Why jobs of these users wait for an administrator; None where they do not."""
        return next((self.strangers[uid] for uid in uids if uid in self.strangers), None)

    def tally(self, entry: Entry, state: str, change: int = 1) -> None:
        """Count how a batch's member ended; one that comes back is taken off again, where it was counted."""
        if not entry.parent:
            return
        counts = self.tallies.setdefault(entry.parent, {})
        counts[state] = max(0, counts.get(state, 0) + change)
        self.counting.pop(entry.parent, None)
        if state == states.DEAD and change > 0:
            self.deaths.setdefault(entry.parent, entry.id)


def encode(result: dict[str, Any]) -> bytes:
    """A result as `result.json` holds it: one line."""
    return json.dumps(result).encode() + b"\n"
