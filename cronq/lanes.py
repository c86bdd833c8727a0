"""What runs next: entries that are due, in lanes, behind the gates that are before them.

Does:    `Ready` keeps entries in the order of dispatch; the next is the first whose gates (`gates`) are open, and of
         equal ones that of whoever has the fewest jobs running, or was served the least.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

A lane is (queue, task, submitter, weight). All in it pass the same gates, so a closed lane costs one look and blocks no
other: neither one user's flood nor one whose worker is not there holds up anybody else. In a lane those with the same
keys (`mutex`, `concurrency`) stand in a row, of which only the first can be next; a row that must wait for one of its
keys holds up no other row.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from cronq.entry import Entry

# What `fits` says of an entry: it may start; it may not as long as what runs is what it is; nor may any of its lane.
FITS, NOT_NOW, LANE_CLOSED = 0.0, float("inf"), -1.0

_Item = tuple[int, int, str, int, Entry]  # an entry's order, a serial number (so that entries are never compared), it
Gate = Callable[[str, str, int, int], bool]
Load = Callable[[int], tuple[float, float] | None]
Fits = Callable[[Entry], float]


class _Row:
    """Entries of one lane that have the same keys: only the first of them can be next."""

    __slots__ = ("asleep", "heap", "key", "lane", "posted", "stale")

    def __init__(self, lane: _Lane, key: tuple[str, str]) -> None:
        self.lane = lane
        self.key = key
        self.heap: list[_Item] = []
        self.stale = 0  # entries in the heap that were discarded
        self.asleep = False  # it is not looked at until a time has come
        self.posted: _Item | None = None  # the head under which it stands in its lane's heap

    @property
    def head(self) -> _Item | None:
        """What stands first, unless it is asleep."""
        return self.heap[0] if self.heap and not self.asleep else None


_Part = TypeVar("_Part", "_Row", "_Lane")


class _Heads(Generic[_Part]):
    """Parts by key, and a heap of their heads; where a part stood before is found out of date when it comes up."""

    __slots__ = ("heap", "parts", "posted")

    def __init__(self) -> None:
        self.parts: dict[tuple[object, ...], _Part] = {}
        self.heap: list[tuple[_Item, _Part]] = []
        self.posted: _Item | None = None

    @property
    def head(self) -> _Item | None:
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
            self.heap = [(each.posted, each) for each in self.parts.values() if each.posted is not None]
            heapq.heapify(self.heap)

    def drop(self, part: _Part, key: tuple[object, ...]) -> None:
        """Forget a part in which nothing is left."""
        part.posted = None
        del self.parts[key]


class _Lane(_Heads[_Row]):
    """Rows that pass the same gates."""

    __slots__ = ("key", "submitter")

    def __init__(self, submitter: _Submitter, key: tuple[str, str, int, int]) -> None:
        super().__init__()
        self.submitter = submitter
        self.key = key  # queue, task, submitter, weight

    def first(self, fits: Fits, put_to_sleep: Callable[[float, _Row], None]) -> _Item | None:
        """The first that fits."""
        passed: list[_Row] = []
        found = None
        while (head := self.head) is not None:
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


class _Submitter(_Heads[_Lane]):
    """The lanes of one user."""

    __slots__ = ()

    def first(self, gate: Gate, fits: Fits, put_to_sleep: Callable[[float, _Row], None]) -> _Item | None:
        """The first in a lane that is open, of those that fit."""
        passed: list[_Lane] = []
        best: _Item | None = None
        while (head := self.head) is not None and (best is None or head < best):
            lane = heapq.heappop(self.heap)[1]
            lane.posted = None
            passed.append(lane)
            found = lane.first(fits, put_to_sleep) if gate(*lane.key) else None
            if found is not None:
                best = found if best is None else min(best, found)
        for lane in passed:
            self.post(lane)
        return best


def _alike(_uid: int) -> tuple[float, float]:
    return 0, 0


def _always(_entry: Entry) -> float:
    return FITS


class Ready:
    """Entries that are due, in the order of dispatch: of each submitter a heap of lanes, of rows, of entries.

    Adding, discarding and taking cost O(log n); choosing costs a look for each submitter, and one for each closed lane
    and each row that does not fit that would come before what is chosen, however many entries wait. Discarded entries
    stay in their heap until they come up, or are the half of it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._live: dict[str, _Item] = {}
        self._submitters: dict[int, _Submitter] = {}
        self._keyed: dict[str, set[_Row]] = {}  # the rows that have this mutex
        self._asleep: list[tuple[float, int, _Row]] = []
        self._serial = 0
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._live

    def __iter__(self) -> Iterator[Entry]:
        """The entries, in no order."""
        return (item[-1] for item in self._live.values())

    def row(self, entry: Entry) -> list[Entry]:
        """The entries that stand in one row with this one: the first of them, and the others in no order."""
        row = self._submitters[entry.uid].parts[entry.lane].parts[entry.keys]
        return [item[-1] for item in row.heap if self._live.get(item[-1].id) is item]

    def alone(self, entry: Entry) -> bool:
        """Whether an entry that waits is all there is in its row."""
        row = self._submitters[entry.uid].parts[entry.lane].parts[entry.keys]
        return len(row.heap) - row.stale == 1

    def keyed(self, key: str) -> list[Entry]:
        """The first of each row that has this mutex."""
        return [row.heap[0][-1] for row in self._keyed.get(key, ())]

    def get(self, job_id: str) -> Entry | None:
        """The entry of this id."""
        item = self._live.get(job_id)
        return item[-1] if item is not None else None

    def add(self, entry: Entry) -> None:
        """Let `entry` wait; it takes the place of an entry of the same id."""
        self.discard(entry.id)
        item: _Item = (*entry.order, self._number(), entry)
        self._live[entry.id] = item
        uid, keys = entry.uid, entry.keys
        submitter = self._submitters.get(uid)
        if submitter is None:
            submitter = self._submitters[uid] = _Submitter()
        lane = submitter.parts.get(entry.lane)
        if lane is None:
            queue, task, weight = entry.lane
            lane = submitter.parts[entry.lane] = _Lane(submitter, (queue, task, uid, weight))
        row = lane.parts.get(keys)
        if row is None:
            row = lane.parts[keys] = _Row(lane, keys)
            if keys[0]:
                self._keyed.setdefault(keys[0], set()).add(row)
        heapq.heappush(row.heap, item)
        if row.heap[0] is item:
            _post(row)

    def discard(self, job_id: str) -> Entry | None:
        """Forget the entry of this id, and return it; None where there is none."""
        item = self._live.pop(job_id, None)
        if item is None:
            return None
        entry = item[-1]
        row = self._submitters[entry.uid].parts[entry.lane].parts[entry.keys]
        row.stale += 1
        if row.heap[0] is item or 2 * row.stale > len(row.heap):
            self._tidy(row)
        return entry

    def peek(self, gate: Gate, load: Load = _alike, fits: Fits = _always) -> Entry | None:
        """What runs next: of the highest priority that may start, then of whoever has the least, then what was due
        first.

        `gate(queue, task, uid, weight)` says whether a lane is open; `load(uid)` what a submitter has (jobs that run,
        then what he was served), or None where none of his may start: then his lanes are not looked at. `fits(entry)`
        is asked of the first of a row; a time that it gives is that until which the row is not asked of again (`wake`).
        """
        best: tuple[int, tuple[float, float], _Item] | None = None
        for bound in sorted(self._candidates(load)):
            if best is not None and best < bound:
                break  # whoever comes now has nothing better
            _, has, head = bound
            item = self._submitters[head[-1].uid].first(gate, fits, self._put_to_sleep)
            if item is not None:
                found = item[0], has, item
                best = found if best is None else min(best, found)
        return best[-1][-1] if best is not None else None

    def _candidates(self, load: Load) -> Iterator[tuple[int, tuple[float, float], _Item]]:
        """Of each submitter who may start something: the best that he may have (priority, what he has, item)."""
        for uid, submitter in self._submitters.items():
            has = load(uid)
            head = submitter.head if has is not None else None
            if has is not None and head is not None:
                yield head[0], has, head  # perhaps it is closed: then what he has comes later

    def take(self, gate: Gate, load: Load = _alike, fits: Fits = _always) -> Entry | None:
        """The same, and it waits no longer."""
        entry = self.peek(gate, load, fits)
        return self.discard(entry.id) if entry is not None else None

    # ---------------------------------------------------------------- rows that sleep

    def _put_to_sleep(self, until: float, row: _Row) -> None:
        row.asleep = True
        heapq.heappush(self._asleep, (until, self._number(), row))

    def wake(self, now: float) -> None:
        """Look again at the rows whose time has come."""
        while self._asleep and self._asleep[0][0] <= now:
            row = heapq.heappop(self._asleep)[-1]
            row.asleep = False
            if row.heap:
                _post(row)

    def next_wake(self) -> float | None:
        """When there will be such rows."""
        return self._asleep[0][0] if self._asleep else None

    def _number(self) -> int:
        self._serial += 1
        return self._serial

    def _tidy(self, row: _Row) -> None:
        """Drop the row's discarded entries where they are in the way, and the row where it is empty."""
        if 2 * row.stale > len(row.heap):
            row.heap = [item for item in row.heap if self._live.get(item[-1].id) is item]
            heapq.heapify(row.heap)
            row.stale = 0
        while row.heap and self._live.get(row.heap[0][-1].id) is not row.heap[0]:
            heapq.heappop(row.heap)
            row.stale -= 1
        if row.heap:
            _post(row)
            return
        lane, submitter = row.lane, row.lane.submitter
        lane.drop(row, row.key)
        if row.key[0]:
            self._keyed[row.key[0]].discard(row)
            if not self._keyed[row.key[0]]:
                del self._keyed[row.key[0]]
        queue, task, uid, weight = lane.key
        if lane.parts:
            submitter.post(lane)
            return
        submitter.drop(lane, (queue, task, weight))
        if not submitter.parts:
            del self._submitters[uid]


def _post(row: _Row) -> None:
    row.lane.post(row)
    row.lane.submitter.post(row.lane)
