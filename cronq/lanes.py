"""What runs next: entries that are due, in lanes, and the gates before them.

Does:    `Ready` keeps entries in the order of dispatch, `Gates` says what may run beside what runs already;
         the next is the first whose gate is open, of whoever has the fewest jobs running.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

A lane is (queue, task, submitter). All in it pass the same gates, so a closed lane costs one look and blocks no other:
neither one user's flood nor one whose worker is not there holds up anybody else. Limits are counted from what runs,
each turn anew: a stored semaphore would leak with the first crash.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from cronq.entry import Entry


def per_user_default(max_jobs: int) -> int:
    """How many jobs of one submitter may run at once where many share a spool and nobody said: the rest is others'."""
    return max(1, max_jobs - max(1, max_jobs // 4))


class Gates:
    """What may start beside what runs: `max_jobs` in all, `slots` of a queue, `limits` of a task, `per_user`."""

    __slots__ = ("by_queue", "by_task", "by_user", "limits", "max_jobs", "per_user", "running", "slots")

    def __init__(
        self,
        max_jobs: int,
        slots: dict[str, int],
        limits: dict[str, int],
        running: Iterable[Entry] = (),
        per_user: int | None = None,
    ) -> None:
        self.max_jobs = max_jobs
        self.slots = slots
        self.limits = limits
        self.per_user = per_user  # most jobs that one user submitted; None: as many as there are
        self.running: list[Entry] = []
        self.by_queue: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        self.by_user: Counter[int] = Counter()
        for entry in running:
            self.count(entry)

    def count(self, entry: Entry) -> None:
        """One more runs."""
        self.running.append(entry)
        self.by_queue[entry.queue] += 1
        self.by_task[entry.task] += 1
        self.by_user[entry.uid] += 1

    @property
    def full(self) -> bool:
        """Whether nothing at all may start."""
        return len(self.running) >= self.max_jobs

    def load(self, uid: int) -> int | None:
        """How many jobs of this submitter run; None where no more of them may."""
        count = self.by_user[uid]
        return None if self.full or (self.per_user is not None and count >= self.per_user) else count

    def open(self, queue: str, task: str, uid: int) -> bool:
        """Whether a job of this task (empty: a free command) and submitter may start in this queue."""
        if self.load(uid) is None or (queue in self.slots and self.by_queue[queue] >= self.slots[queue]):
            return False
        return task not in self.limits or self.by_task[task] < self.limits[task]

    def closed(self, queue: str, task: str, uid: int) -> list[tuple[str, list[str]]]:
        """Every gate that is closed for such a job: a sentence, and the ids of those who hold it closed."""
        found = []
        if self.full:
            found.append((f"max_jobs = {self.max_jobs} jobs are running", [e.id for e in self.running]))
        if self.per_user is not None and self.by_user[uid] >= self.per_user:
            holders = [e.id for e in self.running if e.uid == uid]
            found.append((f"max_jobs_per_user = {self.per_user} jobs of the same user are running", holders))
        if queue in self.slots and self.by_queue[queue] >= self.slots[queue]:
            holders = [e.id for e in self.running if e.queue == queue]
            found.append((f"all slots of queue {queue} are taken ({self.slots[queue]})", holders))
        if task in self.limits and self.by_task[task] >= self.limits[task]:
            holders = [e.id for e in self.running if e.task == task]
            found.append((f"task {task} is at its limit ({self.limits[task]})", holders))
        return found


_Item = tuple[int, int, str, int, Entry]  # an entry's order, a serial number (so that entries are never compared), it
_Key = tuple[str, str, int]  # queue, task, submitter
Gate = Callable[[str, str, int], bool]
Load = Callable[[int], int | None]


class _Lane:
    """Entries of one queue, task and submitter: they pass the same gates, so only the first of them can be next."""

    __slots__ = ("heap", "key", "posted", "stale")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.heap: list[_Item] = []
        self.stale = 0  # entries in the heap that were discarded
        self.posted: _Item | None = None  # the head under which the lane stands in its submitter's heap


class _Submitter:
    """The lanes of one user, as a heap of their heads."""

    __slots__ = ("heads", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, str], _Lane] = {}
        self.heads: list[tuple[_Item, _Lane]] = []

    def post(self, lane: _Lane) -> None:
        """Let the lane stand under its present head; where it stood before is found out of date when it comes up."""
        if lane.posted is lane.heap[0]:
            return
        lane.posted = lane.heap[0]
        heapq.heappush(self.heads, (lane.posted, lane))
        if len(self.heads) > 2 * len(self.lanes) + 64:
            self.heads = [(each.posted, each) for each in self.lanes.values() if each.posted is not None]
            heapq.heapify(self.heads)

    def first(self, gate: Gate) -> _Lane | None:
        """The lane whose head is the first of those that are open."""
        closed = []
        found = None
        while self.heads and found is None:
            item, lane = self.heads[0]
            if lane.posted is not item:
                heapq.heappop(self.heads)
            elif gate(*lane.key):
                found = lane
            else:
                closed.append(heapq.heappop(self.heads))
        for head in closed:
            heapq.heappush(self.heads, head)
        return found


def _alike(_uid: int) -> int:
    return 0


class Ready:
    """Entries that are due, in the order of dispatch: for each submitter a heap of lanes, each a heap of entries.

    Adding, discarding and taking cost O(log n); choosing costs a look for each submitter, and one for each closed lane
    that would come before what is chosen, however many entries wait. Discarded entries stay in their heap until they
    come up, or are the half of it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._live: dict[str, _Item] = {}
        self._submitters: dict[int, _Submitter] = {}
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

    def waiting(self, uid: int, lane: tuple[str, str]) -> int:
        """How many entries of this submitter's wait in a lane."""
        submitter = self._submitters.get(uid)
        found = submitter.lanes.get(lane) if submitter is not None else None
        return len(found.heap) - found.stale if found is not None else 0

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
        uid = entry.uid
        submitter = self._submitters.get(uid)
        if submitter is None:
            submitter = self._submitters[uid] = _Submitter()
        lane = submitter.lanes.get(entry.lane)
        if lane is None:
            lane = submitter.lanes[entry.lane] = _Lane((*entry.lane, uid))
        heapq.heappush(lane.heap, item)
        if lane.heap[0] is item:
            submitter.post(lane)

    def discard(self, job_id: str) -> Entry | None:
        """Forget the entry of this id, and return it; None where there is none."""
        item = self._live.pop(job_id, None)
        if item is None:
            return None
        entry = item[-1]
        submitter = self._submitters[entry.uid]
        lane = submitter.lanes[entry.lane]
        lane.stale += 1
        if lane.heap[0] is item or 2 * lane.stale > len(lane.heap):
            self._tidy(submitter, lane)
        return entry

    def peek(self, gate: Gate, load: Load = _alike) -> Entry | None:
        """What runs next: of the highest priority that has an open lane, then of whoever has the fewest jobs running,
        then what was due first.

        `gate(queue, task, uid)` says whether a lane is open; `load(uid)` how many jobs of a submitter run, or None
        where none of his may start: then his lanes, as many as there may be, are not looked at.
        """
        best: tuple[int, int, _Item] | None = None
        for bound in sorted(self._candidates(load)):
            if best is not None and best < bound:
                break  # whoever comes now has nothing better
            _, running, head = bound
            lane = self._submitters[head[-1].uid].first(gate)
            if lane is not None:
                found = lane.heap[0][0], running, lane.heap[0]
                best = found if best is None else min(best, found)
        return best[-1][-1] if best is not None else None

    def _candidates(self, load: Load) -> Iterator[tuple[int, int, _Item]]:
        """Of each submitter who may start something: the best that he may have (priority, jobs that run, item)."""
        for uid, submitter in self._submitters.items():
            running = load(uid)
            if running is not None and submitter.heads:
                head = submitter.heads[0][0]  # perhaps closed or out of date: then what he has comes later
                yield head[0], running, head

    def take(self, gate: Gate, load: Load = _alike) -> Entry | None:
        """The same, and it waits no longer."""
        entry = self.peek(gate, load)
        return self.discard(entry.id) if entry is not None else None

    def _tidy(self, submitter: _Submitter, lane: _Lane) -> None:
        """Drop the lane's discarded entries where they are in the way, and the lane where it is empty."""
        if 2 * lane.stale > len(lane.heap):
            lane.heap = [item for item in lane.heap if self._live.get(item[-1].id) is item]
            heapq.heapify(lane.heap)
            lane.stale = 0
        while lane.heap and self._live.get(lane.heap[0][-1].id) is not lane.heap[0]:
            heapq.heappop(lane.heap)
            lane.stale -= 1
        if lane.heap:
            submitter.post(lane)
            return
        lane.posted = None
        queue, task, uid = lane.key
        del submitter.lanes[queue, task]
        if not submitter.lanes:
            del self._submitters[uid]
