"""Counting: what became of jobs since this dispatcher started, by user, queue and task; how long its own work took.

Does:    `Counts.take` is handed each line of the history as it is noted, which is the one place where anything is
         counted; a `Histogram` keeps how many durations were below which bound.
Reads:   its arguments. Nothing is stored: a restart begins at nothing, which whoever reads counters expects of them.
Trusts:  the lines, which are ours; of outcomes in them, which a worker wrote, only what has the right form.
Fails:   never. The memory is bounded: queues that nobody configured are told apart up to `MOST_QUEUES`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any

from cronq import annals, policy
from cronq.entry import Entry
from cronq.states import TERMINAL

MOST_QUEUES = 100  # without a place in the configuration: any user can make up names
MOST_GROUPS = 5000
OTHER = "(other)"
BOUNDS = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)  # of jobs, in seconds
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # of what a dispatcher does
Key = tuple[int, str, str]  # the submitter, the queue, the task (empty: a free command, or a line of a crontab)


class Histogram:
    """Many durations: how many were at most as long as each bound, how many there were, and their sum."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)  # each for itself; the last one is of those beyond all bounds
        self.sum = 0.0

    def add(self, value: float | None) -> None:
        """One more, if it is known."""
        if value is not None:
            self.buckets[bisect_left(self.bounds, value)] += 1
            self.sum += value

    def join(self, other: Histogram) -> None:
        """Add all that another one has, of the same bounds."""
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.sum += other.sum


class Group:
    """What became of the jobs of one user, queue and task; or of several such groups together."""

    __slots__ = ("ended", "failed", "retried", "returned", "run", "started", "wait")

    def __init__(self) -> None:
        self.started = 0  # attempts
        self.returned = 0  # of those, handed back since they could not begin
        self.retried = 0
        self.failed: Counter[str] = Counter()  # attempts, by the kind of their end (`policy.kind`)
        self.ended: Counter[str] = Counter()  # jobs, by state
        self.wait = Histogram()
        self.run = Histogram()

    def join(self, other: Group) -> None:
        """Add all that another one has."""
        self.started += other.started
        self.returned += other.returned
        self.retried += other.retried
        self.failed.update(other.failed)
        self.ended.update(other.ended)
        self.wait.join(other.wait)
        self.run.join(other.run)


class Counts:
    """All of it, of one dispatcher."""

    def __init__(self) -> None:
        self.since = time.time()
        self.groups: dict[Key, Group] = {}
        self.turns = Histogram(SHORT)  # of the dispatcher: one round of its loop, without the wait
        self.flushes = Histogram(SHORT)  # and the group sync of one turn that had something to flush
        self.configured: Callable[[str], bool] = lambda _queue: False
        self._others: set[str] = set()  # queues that are named, though nobody configured them

    def queue(self, name: str) -> str:
        """Under which name a queue is told: its own, as long as there are not too many of them."""
        if name in self._others or self.configured(name):
            return name
        if len(self._others) >= MOST_QUEUES:
            return OTHER
        self._others.add(name)
        return name

    def take(self, line: dict[str, Any], entry: Entry | None = None) -> None:
        """Count what a line of the history says; `entry`: whose it is, as far as the line does not say it itself."""
        move, to = line.get("move"), line["to"]
        ended = to in TERMINAL and line["from"] != to
        if not (ended or move in ("start", "return") or "outcome" in line):
            return
        if entry is not None and entry.batch is not None:
            return  # a batch is no job: its members are
        group = self._group(line, entry)
        group.started += move == "start"
        group.returned += move == "return"
        if ended:
            group.ended[to] += 1
        if "outcome" in line:
            outcome = annals.outcome(line)
            failed, retried = annals.fate(line)
            group.retried += retried
            if failed:
                group.failed[policy.kind(outcome)] += 1
            group.wait.add(annals.seconds(line.get("wait")))
            group.run.add(annals.seconds(outcome.get("wall")))

    def _group(self, line: dict[str, Any], entry: Entry | None) -> Group:
        uid = int(line["id"].partition("-")[0])
        if entry is not None:
            key = uid, self.queue(entry.queue), entry.task
        else:
            queue = line.get("queue")
            key = uid, self.queue(queue) if queue else "", str(line.get("task") or "")
        if key not in self.groups and len(self.groups) >= MOST_GROUPS:
            key = uid, OTHER, ""
        found = self.groups.get(key)
        if found is None:
            found = self.groups[key] = Group()
        return found
