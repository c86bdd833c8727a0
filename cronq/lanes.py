"""What runs next: entries that are due, in lanes, behind the gates that are before them.

Does:    `Ready` keeps entries in the order of dispatch; the next is the first whose gates (`gates`) are open, and of
         equal ones that of whoever has the fewest jobs running, or was served the least.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

A lane is (queue, task, submitter, weight), of one priority. All in it pass the same gates, so a closed lane costs one
look and blocks no other: neither one user's flood nor one whose worker is not there holds up anybody else. In a lane
those with the same keys (`mutex`, `concurrency`) stand in a row, of which only the first can be next; a row that must
wait for one of its keys holds up no other row.

So that nothing waits for ever behind what is always more urgent, it ages: what has waited for its queue's `aging` for
each priority that it lacks counts as much as what would be next, and then comes first if it was due earlier, or is a
user's who has less. Nothing of that is kept: an entry's place tells since when it waits. Age never goes before a higher
priority of the same age, and between two users' jobs of one priority it is worth nothing: they take turns.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from cronq.bands import Bands, Has
from cronq.entry import Entry
from cronq.heads import FITS, Fits, Gate, Item, Lane, Level, Row, in_order

Load = Callable[[int], Has | None]
AGING = 300.0  # seconds, where a queue says nothing


def _always(_entry: Entry) -> float:
    return FITS


class Ready:
    """Entries that are due, in the order of dispatch: of each submitter levels, of lanes, of rows, of entries.

    Adding, discarding and taking cost O(log n); choosing costs a look for each closed lane and each row that does not
    fit that would come before what is chosen, however many entries of however many submitters wait.
    Discarded entries stay in their heap until they come up, or are the half of it.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._live: dict[str, Item] = {}
        self._levels: dict[int, dict[tuple[int, int], Level]] = {}  # by submitter, by priority and aging
        self._bands = Bands()  # the same levels
        self._agings: dict[str, float] = {}
        self._keyed: dict[str, set[Row]] = {}  # the rows that have this mutex
        self._asleep: list[tuple[float, int, Row]] = []
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

    def in_order(self, uids: list[int] | None = None) -> Iterator[Entry]:
        """The entries of these submitters, of all without them, in the order of dispatch, as far as they are asked for.

        Nothing may be added or discarded meanwhile.
        """
        asleep = (row for _, _, row in self._asleep if row.asleep and (uids is None or row.lane.level.uid in uids))
        for item in in_order([*self._of(uids), *dict.fromkeys(asleep)]):
            if self._live.get(item[-1].id) is item:
                yield item[-1]

    def oldest(self, uid: int | None = None) -> dict[str, int]:
        """Since when the first entry of each queue has been due, of this submitter or of all."""
        found: dict[str, int] = {}
        for lane in [lane for level in self._of(None if uid is None else [uid]) for lane in level.parts.values()]:
            heads = [lane.head]
            if not lane.key[0]:  # batches: their jobs' queues are many
                heads = [item for row in lane.parts.values() for item in row.heap]
            for item in heads:
                if item is None or self._live.get(item[-1].id) is not item:
                    continue
                queue, due = item[-1].queue, item[1]
                found[queue] = min(due, found.get(queue, due))
        for _, _, row in self._asleep:
            if row.asleep and row.heap and uid in (None, row.lane.level.uid):
                queue, due = row.lane.key[0], row.heap[0][1]
                found[queue] = min(due, found.get(queue, due))
        return found

    def _of(self, uids: list[int] | None) -> list[Level]:
        owners = self._levels if uids is None else [uid for uid in dict.fromkeys(uids) if uid in self._levels]
        return [level for uid in owners for level in self._levels[uid].values()]

    def row(self, entry: Entry) -> list[Entry]:
        """The entries that have queue, task, submitter, weight and keys of this one: the first of them, and the others
        in no order.
        """
        rows = self._rows(entry)
        return [item[-1] for row in rows for item in row.heap if self._live.get(item[-1].id) is item]

    def alone(self, entry: Entry) -> bool:
        """Whether an entry that waits is all there is of its kind."""
        return sum(len(row.heap) - row.stale for row in self._rows(entry)) == 1

    def _rows(self, entry: Entry) -> list[Row]:
        """The rows of each priority that have everything else of this entry, the highest first."""
        own = self._levels[entry.uid]
        lanes = [own[key].parts[entry.lane] for key in sorted(own, reverse=True) if entry.lane in own[key].parts]
        return [lane.parts[entry.keys] for lane in lanes if entry.keys in lane.parts]

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
        item: Item = (*entry.order, self._number(), entry)
        self._live[entry.id] = item
        queue, task, weight = entry.lane
        level = self._level(entry.uid, entry.priority, queue)
        lane = level.parts.get(entry.lane)
        if lane is None:
            lane = level.parts[entry.lane] = Lane(level, (queue, task, entry.uid, weight))
        row = lane.parts.get(entry.keys)
        if row is None:
            row = lane.parts[entry.keys] = Row(lane, entry.keys)
            if entry.key:
                self._keyed.setdefault(entry.key, set()).add(row)
        heapq.heappush(row.heap, item)
        if row.heap[0] is item:
            _post(row)

    def _level(self, uid: int, priority: int, queue: str) -> Level:
        aging = int(self._agings.get(queue, AGING) * 1e6)
        own = self._levels.setdefault(uid, {})
        level = own.get((priority, aging))
        if level is None:
            level = own[priority, aging] = Level(uid, priority, aging)
            self._bands.enter(level)
        return level

    def discard(self, job_id: str) -> Entry | None:
        """Forget the entry of this id, and return it; None where there is none."""
        item = self._live.pop(job_id, None)
        if item is None:
            return None
        entry = item[-1]
        row = self._level(entry.uid, entry.priority, entry.queue).parts[entry.lane].parts[entry.keys]
        row.stale += 1
        if row.heap[0] is item or 2 * row.stale > len(row.heap):
            self._tidy(row)
        return entry

    def age(self, agings: dict[str, float]) -> None:
        """In these queues an entry comes to count as one priority more in so many seconds (0: never), in others in
        `AGING`.
        """
        if agings == self._agings:
            return
        self._agings = agings
        for level in [level for own in self._levels.values() for level in own.values()]:
            for key, lane in list(level.parts.items()):
                other = self._level(level.uid, level.priority, lane.key[0])
                if other is not level:
                    self._drop(lane)
                    lane.level = other
                    other.parts[key] = lane
                    _post_lane(lane)
            level.sweep()  # where a lane that has left stood, it would be taken for one that is still there

    def peek(self, gate: Gate, load: Load | None = None, fits: Fits = _always, now: int = 0) -> Entry | None:
        """What runs next: of the highest priority that may start, then of whoever has the least, then what was due
        first; what has waited for long enough, by `now` (microseconds), counts as of that priority too.

        `gate(queue, task, uid, weight)` says whether a lane is open; `load(uid)` what a submitter has (jobs that run,
        then what he was served), or None where none of his may start: then his lanes are not looked at. Without it, he
        has what was said last (`weigh`). `fits(entry)` is asked of the first of a row; a time that it gives is that
        until which the row is not asked of again (`wake`).
        """
        if load is not None:
            for uid in self._levels:
                self.weigh(uid, load(uid))
        while (best := self._bands.urgent(gate, fits, self._put_to_sleep)) is not None:
            aged, looked = self._bands.aged(best, gate, fits, self._put_to_sleep, now)
            if aged is not None:
                return aged
            entry = best[-1][-1]
            if not looked or (gate(*entry.lane[:2], entry.uid, entry.weight) and fits(entry) == FITS):
                return entry
            # What has aged does not fit either, but keeps the room that there is: once more, without that room.
        return None

    def weigh(self, uid: int, has: Has | None) -> None:
        """A submitter has so much now; with None none of his jobs may start."""
        self._bands.weigh(uid, has, self._levels.get(uid, {}).values())

    @property
    def watched(self) -> set[int]:
        """The submitters of whom something runs, as far as was said, or none of whose jobs may start."""
        return self._bands.watched

    def take(self, gate: Gate, load: Load | None = None, fits: Fits = _always, now: int = 0) -> Entry | None:
        """The same, and it waits no longer."""
        entry = self.peek(gate, load, fits, now)
        return self.discard(entry.id) if entry is not None else None

    # ---------------------------------------------------------------- rows that sleep

    def _put_to_sleep(self, until: float, row: Row) -> None:
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

    def _tidy(self, row: Row) -> None:
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
        lane = row.lane
        lane.drop(row, row.key)
        if row.key[0]:
            self._keyed[row.key[0]].discard(row)
            if not self._keyed[row.key[0]]:
                del self._keyed[row.key[0]]
        if lane.parts:
            _post_lane(lane)
        else:
            self._drop(lane)

    def _drop(self, lane: Lane) -> None:
        """Take a lane out of its level, which goes with the last of them."""
        queue, task, uid, weight = lane.key
        level = lane.level
        level.drop(lane, (queue, task, weight))
        if level.parts:
            if level.band is not None:
                level.band.post(level)
        else:
            self._bands.leave(level)
            del self._levels[uid][level.priority, level.aging]
            if not self._levels[uid]:
                del self._levels[uid]


def _post(row: Row) -> None:
    row.lane.post(row)
    _post_lane(row.lane)


def _post_lane(lane: Lane) -> None:
    lane.level.post(lane)
    if lane.level.band is not None:
        lane.level.band.post(lane.level)
