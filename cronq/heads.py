"""Heads: heaps of what stands first, so that choosing looks at the first of many and at no other.

Does:    a `Level` has lanes, a `Lane` rows, a `Row` entries; each says what is first in it, and the first that fits.
Reads:   its arguments. No clock, no disk.
Trusts:  `lanes`, the one who fills them.
Fails:   never.

All in a lane pass the same gates, so a closed lane costs one look. All in a row have the same keys (`mutex`,
`concurrency`), so only the first of them can be next. All in a level are one user's, have one priority and gain
another one in the same time, so the first has waited the longest. Levels stand in `bands`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from cronq.entry import Entry

# What `fits` says of an entry: it may start; it may not as long as what runs is what it is; nor may any of its lane.
FITS, NOT_NOW, LANE_CLOSED = 0.0, float("inf"), -1.0

Item = tuple[int, int, str, int, Entry]  # an entry's order, a serial number (so that entries are never compared), it
LAST: tuple[Any, ...] = (21,)  # comes after every item
Gate = Callable[[str, str, int, int], bool]
Fits = Callable[[Entry], float]
Sleep = Callable[[float, "Row"], None]


class Row:
    """Entries of one lane that have the same keys: only the first of them can be next."""

    __slots__ = ("asleep", "heap", "key", "lane", "posted", "stale")

    def __init__(self, lane: Lane, key: tuple[str, str]) -> None:
        self.lane = lane
        self.key = key
        self.heap: list[Item] = []
        self.stale = 0  # entries in the heap that were discarded
        self.asleep = False  # it is not looked at until a time has come
        self.posted: Item | None = None  # the head under which it stands in its lane's heap

    @property
    def head(self) -> Item | None:
        """What stands first, unless it is asleep."""
        return self.heap[0] if self.heap and not self.asleep else None


_Part = TypeVar("_Part", "Row", "Lane", "Level")


class Heads(Generic[_Part]):
    """Parts by key, and a heap of their heads; where a part stood before is found out of date when it comes up."""

    __slots__ = ("heap", "parts", "posted")

    def __init__(self) -> None:
        self.parts: dict[tuple[object, ...], _Part] = {}
        self.heap: list[tuple[Item, _Part]] = []
        self.posted: Item | None = None

    def __lt__(self, other: Heads[Any]) -> bool:
        """Any order: a lane that went to another level leaves its head behind, and stands twice under the same one."""
        return id(self) < id(other)

    @property
    def head(self) -> Item | None:
        """The first of the parts' heads."""
        while self.heap and self.heap[0][1].posted is not self.heap[0][0]:
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    def post(self, part: _Part) -> None:
        """Let a part stand under its present head."""
        head = part.head
        if part.posted is head:
            return
        part.posted = head
        if head is not None:
            heapq.heappush(self.heap, (head, part))
        if len(self.heap) > 2 * len(self.parts) + 64:
            self.sweep()

    def sweep(self) -> None:
        """Have nothing in the heap but the parts that there are, where they stand."""
        self.heap = [(each.posted, each) for each in self.parts.values() if each.posted is not None]
        heapq.heapify(self.heap)

    def drop(self, part: _Part, key: tuple[object, ...]) -> None:
        """Forget a part in which nothing is left."""
        part.posted = None
        del self.parts[key]


class Lane(Heads[Row]):
    """Rows that pass the same gates."""

    __slots__ = ("key", "level")

    def __init__(self, level: Level, key: tuple[str, str, int, int]) -> None:
        super().__init__()
        self.level = level
        self.key = key  # queue, task, submitter, weight

    def first(self, fits: Fits, put_to_sleep: Sleep, before: tuple[Any, ...]) -> Item | None:
        """The first that fits, of those that come before that."""
        passed: list[Row] = []
        found = None
        while (head := self.head) is not None and head < before:
            row = self.heap[0][1]
            until = fits(head[-1])
            if until <= FITS:
                found = head if until == FITS else None
                break
            heapq.heappop(self.heap)
            row.posted = None
            if until < NOT_NOW:
                put_to_sleep(until, row)
            else:
                passed.append(row)
        for row in passed:
            self.post(row)
        return found


class Level(Heads[Lane]):
    """Lanes of one user, of one priority, that age alike."""

    __slots__ = ("aging", "band", "priority", "uid")

    def __init__(self, uid: int, priority: int, aging: int) -> None:
        super().__init__()
        self.uid = uid
        self.priority = priority
        self.aging = aging  # of its queues (`bands`)
        self.band: Any = None  # where it stands among other submitters'

    def first(self, gate: Gate, fits: Fits, put_to_sleep: Sleep, before: tuple[Any, ...]) -> Item | None:
        """The first in a lane that is open, of those that fit and come before that."""
        passed: list[Lane] = []
        best: Item | None = None
        while (head := self.head) is not None and head < (before if best is None else best):
            lane = heapq.heappop(self.heap)[1]
            lane.posted = None
            passed.append(lane)
            found = lane.first(fits, put_to_sleep, before) if gate(*lane.key) else None
            if found is not None:
                best = found if best is None else min(best, found)
        for lane in passed:
            self.post(lane)
        return best


def in_order(parts: Iterable[Level | Row]) -> Iterator[Item]:
    """All items of these levels, and of rows that sleep, in their order, discarded ones too: as many are looked at as
    are asked for. Nothing may change meanwhile.
    """
    front: list[tuple[Item, int, Level | Lane | Row, int]] = []  # an item, a serial number, in whose heap it is, where
    seen: set[int] = set()
    serial = itertools.count()

    def reach(part: Level | Lane | Row, place: int) -> None:
        if place < len(part.heap):
            item = part.heap[place] if isinstance(part, Row) else part.heap[place][0]
            heapq.heappush(front, (item, next(serial), part, place))

    for start in parts:
        reach(start, 0)
    while front:
        item, _, part, place = heapq.heappop(front)
        reach(part, 2 * place + 1)
        reach(part, 2 * place + 2)
        if isinstance(part, Row):
            yield item
            continue
        below: Lane | Row = part.heap[place][1]
        if below.posted is item and id(below) not in seen:
            seen.add(id(below))
            reach(below, 0)
