"""Depths: how many jobs stand in which state, for how long the oldest is due, and which gates keep how many.

Does:    walks the backlog in slices, with None in between; `Depths` is what it found, by user, queue and task. What it
         found holds as long as nothing was moved since (`backlog.changes`), so an idle dispatcher walks once.
Reads:   the backlog, the gates of this instant.
Trusts:  its caller to ask only for users whose jobs may be seen.
Fails:   never: what moves while it is walked is counted where it was met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any

from cronq import barriers, spool, states
from cronq.counting import Key
from cronq.entry import START_NOW, Entry
from cronq.gates import Gates
from cronq.house import House, Now

RUN = 2048  # entries that are looked at at a time: about a millisecond
ROWS = 16  # rows whose gates are asked for at a time
AGES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800)  # seconds: qshape's columns, 5 minutes and doubled
Row = tuple[object, ...]  # what gates go by: queue, task, submitter, weight, keys, of a crontab, at once
Clock = Callable[[], Now]


class Depths:
    """What one walk found; times are of the wall clock."""

    def __init__(self, changes: int) -> None:
        self.changes = changes
        self.jobs: Counter[tuple[Key, str]] = Counter()  # by group and state
        self.oldest: dict[Key, float] = {}  # since when the oldest ready one is due
        self.rows: dict[Row, tuple[Entry, int]] = {}  # of the ready ones: one that stands for all, and how many
        self.batches = 0
        self.unmade = 0  # jobs of batches that are no entries yet


def walk(house: House, uid: int | None) -> Generator[None, None, Depths]:
    """Count what there is, of one user or of all."""
    found = Depths(house.backlog.changes)
    label = house.history.counts.queue
    for state in states.KEPT:
        for number, entry in enumerate(house.backlog.entries(state, uid)):
            if number % RUN == RUN - 1:
                yield
            if entry.batch is not None:
                found.batches += 1
                found.unmade += max(0, entry.batch[2] - entry.batch[0])
                continue
            key = entry.uid, label(entry.queue), entry.task
            found.jobs[key, state] += 1
            if state == states.READY:
                due = entry.due / 1e6
                found.oldest[key] = min(due, found.oldest.get(key, due))
                row = (*entry.lane, entry.uid, *entry.keys, bool(entry.tabled), START_NOW in entry.flags)
                first, jobs = found.rows.get(row, (entry, 0))
                found.rows[row] = first, jobs + 1
    return found


def blocked(house: House, clock: Clock, found: Depths) -> Generator[None, None, Counter[tuple[int, str, str]]]:
    """How many ready jobs each closed gate keeps, by user, queue and gate; one may be kept by several."""
    counts: Counter[tuple[int, str, str]] = Counter()
    gates: dict[bool, Gates] = {}
    for number, (entry, jobs) in enumerate(found.rows.values()):
        if number % ROWS == ROWS - 1:
            yield
            gates.clear()  # a turn later others run
        if house.backlog.find(entry.id) is None:
            continue
        tabled = bool(entry.tabled)
        if tabled not in gates:
            gates[tabled] = barriers.gates_of(house, clock(), entry)
        for gate in barriers.beside(house, clock(), entry, gates[tabled]):
            counts[entry.uid, house.history.counts.queue(entry.queue), gate] += jobs
    return counts


def ages(house: House, now: Now, by: str, state: str, uid: int | None) -> Iterator[dict[str, Any] | None]:
    """How long the jobs of one state have waited, by queue, task or user: how many up to each of `AGES`, and beyond.

    A ready one waits since it was due; others since they were submitted.
    """
    rows: dict[str, list[int]] = {}
    for number, entry in enumerate(house.backlog.entries(state, uid)):
        if number % RUN == RUN - 1:
            yield None
        since = entry.due / 1e6 if state == states.READY else spool.submitted(entry.id, entry.due)
        age = now.wall - since
        name = {"queue": entry.queue, "task": entry.task, "user": str(entry.uid)}[by]
        row = rows.setdefault(name, [0] * (len(AGES) + 1))
        row[next((place for place, bound in enumerate(AGES) if age <= bound), len(AGES))] += 1
    for name, row in sorted(rows.items(), key=lambda each: (-sum(each[1]), each[0])):
        yield {by: int(name) if by == "user" else name, "total": sum(row), "ages": row}
