"""What runs next: entries that are due, in lanes, and the gates before them.

Does:    `Ready` keeps entries in the order of dispatch, `Gates` says what may run beside what runs already;
         the next is the first whose gate is open.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

A lane is (queue, task). All in it pass the same gates, so a closed lane costs one look and blocks no other. Limits are
counted from what runs, each turn anew: a stored semaphore would leak with the first crash.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from cronq.entry import Entry


class Gates:
    """What may start beside what runs: `max_jobs` in all, `slots` of a queue, `limits` of a task."""

    __slots__ = ("by_queue", "by_task", "limits", "max_jobs", "running", "slots")

    def __init__(
        self, max_jobs: int, slots: dict[str, int], limits: dict[str, int], running: Iterable[Entry] = ()
    ) -> None:
        self.max_jobs = max_jobs
        self.slots = slots
        self.limits = limits
        self.running: list[Entry] = []
        self.by_queue: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        for entry in running:
            self.count(entry)

    def count(self, entry: Entry) -> None:
        """One more runs."""
        self.running.append(entry)
        self.by_queue[entry.queue] += 1
        self.by_task[entry.task] += 1

    @property
    def full(self) -> bool:
        """Whether nothing at all may start."""
        return len(self.running) >= self.max_jobs

    def open(self, queue: str, task: str) -> bool:
        """Whether a job of this task (empty: a free command) may start in this queue."""
        if self.full or (queue in self.slots and self.by_queue[queue] >= self.slots[queue]):
            return False
        return task not in self.limits or self.by_task[task] < self.limits[task]

    def closed(self, queue: str, task: str) -> list[tuple[str, list[str]]]:
        """Every gate that is closed for such a job: a sentence, and the ids of those who hold it closed."""
        found = []
        if self.full:
            found.append((f"max_jobs = {self.max_jobs} jobs are running", [e.id for e in self.running]))
        if queue in self.slots and self.by_queue[queue] >= self.slots[queue]:
            holders = [e.id for e in self.running if e.queue == queue]
            found.append((f"all slots of queue {queue} are taken ({self.slots[queue]})", holders))
        if task in self.limits and self.by_task[task] >= self.limits[task]:
            holders = [e.id for e in self.running if e.task == task]
            found.append((f"task {task} is at its limit ({self.limits[task]})", holders))
        return found


_Item = tuple[int, int, str, int, Entry]  # an entry's order, a serial number (so that entries are never compared), it


class _Lane:
    """Entries of one queue and task: they pass the same gates, so only the first of them can be next."""

    __slots__ = ("heap", "key", "posted", "stale")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.heap: list[_Item] = []
        self.stale = 0  # entries in the heap that were discarded
        self.posted: _Item | None = None  # the head under which the lane stands in the heap of lanes


class Ready:
    """Entries that are due, in the order of dispatch: a heap of lanes, each of them a heap of entries.

    Adding, discarding and taking cost O(log n); a closed lane costs one look, however many entries wait in it.
    Discarded entries stay in their heap until they come up, or are the half of it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._live: dict[str, _Item] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._heads: list[tuple[_Item, _Lane]] = []
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

    def get(self, job_id: str) -> Entry | None:
        """The entry of this id."""
        item = self._live.get(job_id)
        return item[-1] if item is not None else None

    def add(self, entry: Entry) -> None:
        """Let `entry` wait; it takes the place of an entry of the same id."""
        self.discard(entry.id)
        self._serial += 1
        item: _Item = (*entry.order, self._serial, entry)
        self._live[entry.id] = item
        key = (entry.queue, entry.task)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        heapq.heappush(lane.heap, item)
        if lane.heap[0] is item:
            self._post(lane)

    def discard(self, job_id: str) -> Entry | None:
        """Forget the entry of this id, and return it; None where there is none."""
        item = self._live.pop(job_id, None)
        if item is None:
            return None
        entry = item[-1]
        lane = self._lanes[entry.queue, entry.task]
        lane.stale += 1
        if lane.heap[0] is item or 2 * lane.stale > len(lane.heap):
            self._tidy(lane)
        return entry

    def peek(self, gate: Callable[[str, str], bool]) -> Entry | None:
        """The first entry whose `gate(queue, task)` is open."""
        lane = self._first(gate)
        return lane.heap[0][-1] if lane is not None else None

    def take(self, gate: Callable[[str, str], bool]) -> Entry | None:
        """The same, and it waits no longer."""
        entry = self.peek(gate)
        return self.discard(entry.id) if entry is not None else None

    def _first(self, gate: Callable[[str, str], bool]) -> _Lane | None:
        closed = []
        found = None
        while self._heads and found is None:
            item, lane = self._heads[0]
            if lane.posted is not item:
                heapq.heappop(self._heads)
            elif gate(*lane.key):
                found = lane
            else:
                closed.append(heapq.heappop(self._heads))
        for head in closed:
            heapq.heappush(self._heads, head)
        return found

    def _tidy(self, lane: _Lane) -> None:
        """Drop the lane's discarded entries where they are in the way, and the lane where it is empty."""
        if 2 * lane.stale > len(lane.heap):
            lane.heap = [item for item in lane.heap if self._live.get(item[-1].id) is item]
            heapq.heapify(lane.heap)
            lane.stale = 0
        while lane.heap and self._live.get(lane.heap[0][-1].id) is not lane.heap[0]:
            heapq.heappop(lane.heap)
            lane.stale -= 1
        if lane.heap:
            self._post(lane)
        else:
            lane.posted = None
            del self._lanes[lane.key]

    def _post(self, lane: _Lane) -> None:
        """Let the lane stand under its present head; where it stood before is found out of date when it comes up."""
        if lane.posted is lane.heap[0]:
            return
        lane.posted = lane.heap[0]
        heapq.heappush(self._heads, (lane.posted, lane))
        if len(self._heads) > 2 * len(self._lanes) + 64:
            self._heads = [(each.posted, each) for each in self._lanes.values() if each.posted is not None]
            heapq.heapify(self._heads)
