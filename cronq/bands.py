"""Bands: whose turn it is. Levels of one priority whose submitters have equally much stand together, so that choosing
asks the first of each band, and not each submitter.

Does:    `Bands` keeps every level where it belongs, says what is first of all that fits, and what goes before it by its
         age.
Reads:   its arguments. No clock, no disk.
Trusts:  `lanes`, who tells of every level, and `choosing`, who tells what a submitter has whenever that is another now.
Fails:   never.

A choice costs a look at the first of each band that comes before what is chosen, and O(log n) for what moves; there
are as many bands as priorities and different loads, and only who was served just now has another load than others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any

from cronq.entry import Entry
from cronq.heads import LAST, Fits, Gate, Heads, Item, Level, Sleep

Has = tuple[float, float]  # what a submitter has: how many jobs run, by his share, then what he was served
NOTHING: Has = (0.0, 0.0)
Key = tuple[int, Has, int]  # urgency (the less, the more urgent), what the submitters have, aging
Found = tuple[int, Has, Item]


class Band(Heads[Level]):
    """Levels of one priority, that age alike, of submitters who have equally much."""

    __slots__ = ("aging", "key", "priority")

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key
        self.priority = -key[0]
        self.aging = key[2]  # in how many microseconds what waits here comes to count as one priority more; 0: never

    @property
    def head(self) -> Item | None:
        """The first of the levels' heads; where one that has left stood, it may have the same head elsewhere."""
        while self.heap and (self.heap[0][1].posted is not self.heap[0][0] or self.heap[0][1].band is not self):
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    def first(self, gate: Gate, fits: Fits, put_to_sleep: Sleep, before: tuple[Any, ...] = LAST) -> Item | None:
        """The first of all of its levels, of those that fit and come before that."""
        passed: list[Level] = []
        best: Item | None = None
        while (head := self.head) is not None and head < before:
            level = heapq.heappop(self.heap)[1]
            level.posted = None
            passed.append(level)
            found = level.first(gate, fits, put_to_sleep, before)
            if found is not None:
                best = before = found
        for level in passed:
            self.post(level)
        return best

    def has_aged(self, due: int, priority: int, now: int) -> bool:
        """Whether what was due then has waited for so long, now, that it counts as of that higher priority."""
        return self.aging > 0 and now - due >= (priority - self.priority) * self.aging

    def aged(self, priority: int, now: int) -> tuple[Any, ...]:
        """What comes before this has."""
        return -self.priority, now - (priority - self.priority) * self.aging + 1


class Bands:
    """All levels, of all submitters."""

    def __init__(self) -> None:
        self._bands: dict[Key, Band] = {}
        self._keys: list[Key] = []  # sorted
        self._loads: dict[int, Has | None] = {}  # of submitters who do not have `NOTHING`
        self.watched: set[int] = set()  # of whom something runs, or none of whose jobs may start

    def weigh(self, uid: int, has: Has | None, levels: Iterable[Level]) -> None:
        """A submitter, whose levels these are, has so much now; with None none of his jobs may start."""
        if has == self._loads.get(uid, NOTHING):
            return
        if has == NOTHING:
            del self._loads[uid]
        else:
            self._loads[uid] = has
        (self.watched.add if has is None or has[0] else self.watched.discard)(uid)
        for level in levels:
            self.leave(level)
            self.enter(level)

    def enter(self, level: Level) -> None:
        """Have a level where it belongs."""
        has = self._loads.get(level.uid, NOTHING)
        if has is None:
            return
        key = -level.priority, has, level.aging
        band = self._bands.get(key)
        if band is None:
            band = self._bands[key] = Band(key)
            insort(self._keys, key)
        band.parts[level.uid,] = level
        level.band = band
        band.post(level)

    def leave(self, level: Level) -> None:
        """Have a level nowhere."""
        band, level.band = level.band, None
        if band is None:
            return
        band.drop(level, (level.uid,))
        if not band.parts:
            del self._bands[band.key]
            del self._keys[bisect_left(self._keys, band.key)]

    def urgent(self, gate: Gate, fits: Fits, put_to_sleep: Sleep) -> Found | None:
        """What runs next, whatever the time: of the most urgent, of whoever has the least, the first."""
        best: Found | None = None
        for key in self._keys:
            if best is not None and key[:2] > best[:2]:
                break
            item = self._bands[key].first(gate, fits, put_to_sleep, LAST if best is None else best[-1])
            if item is not None:
                best = key[0], key[1], item
        return best

    def aged(
        self, best: Found, gate: Gate, fits: Fits, put_to_sleep: Sleep, now: int
    ) -> tuple[Entry | None, bool]:
        """What goes before the most urgent by its age; whether anything was looked at."""
        urgent, least, item = best
        bound = least, item[1:]
        left = [
            (band.key[1], head[1:], band)
            for band in self._below(urgent, least)
            if (head := band.head) is not None and band.has_aged(head[1], -urgent, now)
        ]
        heapq.heapify(left)
        found: Entry | None = None
        looked = False
        while left and left[0][:2] < bound:
            has, _, band = heapq.heappop(left)
            before = band.aged(-urgent, now)
            if has == bound[0]:
                before = min(before, (-band.priority, *bound[1]))
            first = band.first(gate, fits, put_to_sleep, before)
            looked = True
            if first is not None:
                found, bound = first[-1], (has, first[1:])
        return found, looked

    def _below(self, urgent: int, least: Has) -> Iterator[Band]:
        """The bands that are less urgent, of submitters who have no more than that."""
        place = bisect_left(self._keys, (urgent + 1,))
        while place < len(self._keys):
            key = self._keys[place]
            if key[1] <= least:
                yield self._bands[key]
                place += 1
            else:
                place = bisect_left(self._keys, (key[0] + 1,))
