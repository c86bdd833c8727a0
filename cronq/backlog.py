"""The backlog: which entry is in which state, in memory, so that a turn reads no directory but the inboxes.

Does:    finds an entry by id, keeps the due ones in the order of dispatch, knows what ripens and what expires next, and
         which jobs are members of which batch. What is due is told user by user, one of each in turn, so that whoever
         hears of it may stop when his time is up: the flood of one holds up nobody else.
Trusts:  `shelves.scan`, from which it is filled at the start; afterwards it is told of every move.
Fails:   never; nothing here is kept on disk, so nothing here can leak over a restart.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from cronq.after import Waits
from cronq.entry import START_NOW, WAITS, Entry
from cronq.lanes import Ready
from cronq.states import DEAD, DELAYED, HELD, KEPT, READY, RUNNING, SKIPPED, WAITING
from cronq.unique import Taken

MOST_MEMBERS = 4096  # of one batch that wait as entries of their own, where none of them can start
_UNSTARTED = (READY, DELAYED, WAITING, HELD)


class Backlog:
    """Every entry below `queue/`, by id."""

    def __init__(self) -> None:
        self.changes = 0  # how often anything was put or forgotten: what was counted stays so while this does
        self.ready = Ready()
        self.forced: dict[str, Entry] = {}  # what is to start now, whatever the gates say, by id
        self.ticks = Ready()  # what crontabs made, likewise: it passes other gates
        self.lines: dict[tuple[int, str], set[str]] = {}  # the ticks of each line of a crontab that have not ended
        self.failed: dict[str, set[str]] = {}  # those that are dead, and mail about them, by their ids without instant
        self.errands: dict[tuple[int, str, str], set[str]] = {}  # mail and hooks that have not ended, by receiver
        self.members: Counter[str] = Counter()  # how many unfinished members each batch has, by its file
        self._entries: dict[str, tuple[str, Entry]] = {}
        self._states: dict[str, dict[int, dict[str, Entry]]] = {state: {} for state in KEPT}  # by uid, by id
        self._queues: dict[int | None, Counter[tuple[str, str]]] = {None: Counter()}  # by uid, None: all: queue, state
        self._withheld: dict[str, Entry] = {}  # batches that are ready, of which enough jobs wait
        self._members: dict[str, set[str]] = {}  # the unfinished members of each batch, added ones too
        self._names: dict[tuple[int, str], str] = {}  # unfinished jobs by (uid, the name their producer gave them)
        self._namesakes: dict[tuple[int, str], set[str]] = {}  # further ones: somebody revived an earlier one
        self.waits = Waits()  # which jobs wait for which others
        self.taken = Taken()  # the unique keys that jobs keep
        self._over: set[str] = set()  # batches that may have ended: none of their members is unfinished
        self._due = _Alarms()
        self._expiring = _Alarms()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._entries

    def find(self, job_id: str) -> tuple[str, Entry] | None:
        """The state and the entry of this id."""
        return self._entries.get(job_id)

    def named(self, uid: int, name: str) -> str | None:
        """The id of the unfinished job to which `uid` gave this name."""
        return self._names.get((uid, name))

    def of(self, state: str) -> list[Entry]:
        """The entries of one state, in the order of dispatch."""
        return sorted(self.entries(state), key=lambda entry: entry.order)

    def entries(self, state: str, uid: int | None = None) -> list[Entry]:
        """The entries of one state, of one user or of all, in no order."""
        users = self._states[state]
        if uid is not None:
            return list(users.get(uid, {}).values())
        return [entry for entries in users.values() for entry in entries.values()]

    def unfinished(self, batch_id: str) -> list[str]:
        """The ids of a batch's members that are entries of their own and have not ended."""
        return sorted(self._members.get(batch_id, ()))

    @property
    def counts(self) -> dict[str, int]:
        """How many entries are in each state."""
        return {state: sum(map(len, users.values())) for state, users in self._states.items()}

    def counts_of(self, uid: int) -> dict[str, int]:
        """How many entries of this user are in each state."""
        return {state: len(users.get(uid, ())) for state, users in self._states.items()}

    def queues(self, uid: int | None) -> list[tuple[tuple[str, str], int]]:
        """How many entries of this user (None: of all) are in each queue in each state, by queue."""
        return sorted(self._queues.get(uid, Counter()).items(), key=lambda each: (each[0][0], KEPT.index(each[0][1])))

    def oldest_ready(self, uid: int | None) -> dict[str, int]:
        """In each queue, since when the first of those that are ready has been due, in microseconds."""
        found = self.ready.oldest(uid)
        others = [*self.ticks.oldest(uid).items()]
        others += [(each.queue, each.due) for each in self._unranked([uid] if uid is not None else None)]
        for queue, due in others:
            found[queue] = min(due, found.get(queue, due))
        return found

    def first_ready(self, most: int, uids: list[int] | None) -> list[Entry]:
        """The first so many of those that are ready, in the order of dispatch."""
        ranked = (self.ready.in_order(uids), self.ticks.in_order(uids))
        unranked = sorted(self._unranked(uids), key=lambda entry: entry.order)
        return list(islice(heapq.merge(*ranked, unranked, key=lambda entry: entry.order), most))

    def _unranked(self, uids: list[int] | None) -> list[Entry]:
        """What is ready, and not to be chosen: what is to start anyway, and batches of which enough jobs wait."""
        return [e for e in (*self.forced.values(), *self._withheld.values()) if uids is None or e.uid in uids]

    def put(self, state: str, entry: Entry) -> None:
        """This entry is in this state now, wherever it was before."""
        self.changes += 1
        earlier = self._take_out(entry.id)
        self._entries[entry.id] = (state, entry)
        self._states[state].setdefault(entry.uid, {})[entry.id] = entry
        self._tally(entry, state, 1)
        if state == DELAYED:
            self._due.set(entry, entry.due)
        if entry.expires and state in _UNSTARTED:
            self._expiring.set(entry, entry.expires)
        if _unfinished(state):
            self._name(entry)
            if entry.line:
                self.lines.setdefault((entry.uid, entry.line), set()).add(entry.id)
            elif entry.tabled:
                self.errands.setdefault(entry.errand, set()).add(entry.id)
        elif entry.tabled:
            self.failed.setdefault(entry.id.rpartition("-")[0], set()).add(entry.id)
        if entry.parent:
            self._count(entry, _unfinished(state) - (earlier is not None and _unfinished(earlier)))
        self._offer(entry.id)
        if state == RUNNING and entry.batch is not None:
            self._over.add(entry.id)
        self.waits.moved(entry.id, state, WAITS in entry.flags)
        self.taken.moved(entry, state)

    def forget(self, job_id: str) -> None:
        """No entry of this id is below `queue/` any more."""
        self.changes += 1
        found = self._entries.get(job_id)
        state = self._take_out(job_id)
        if found is not None and state is not None and found[1].parent:
            self._count(found[1], -_unfinished(state))
        if found is not None:
            self.taken.moved(found[1], "")
        self.waits.moved(job_id, "", waits=False)

    def _take_out(self, job_id: str) -> str | None:
        """Forget where an entry is, and say where it was; of which batch it is a member is not touched."""
        found = self._entries.pop(job_id, None)
        if found is None:
            return None
        state, entry = found
        own = self._states[state][entry.uid]
        del own[job_id]
        if not own:
            del self._states[state][entry.uid]
        self._tally(entry, state, -1)
        self._withheld.pop(job_id, None)
        self.ready.discard(job_id)
        self.ticks.discard(job_id)
        self.forced.pop(job_id, None)
        if entry.tabled:
            _drop(self.lines, (entry.uid, entry.line), job_id)
            _drop(self.errands, entry.errand, job_id)
            _drop(self.failed, job_id.rpartition("-")[0], job_id)
        self._due.drop(entry.uid, job_id)
        self._expiring.drop(entry.uid, job_id)
        if _unfinished(state):
            self._unname(entry)
        return state

    def _tally(self, entry: Entry, state: str, change: int) -> None:
        for uid in (None, entry.uid):
            counts = self._queues.setdefault(uid, Counter())
            counts[entry.queue, state] += change
            if not counts[entry.queue, state]:
                del counts[entry.queue, state]
                if not counts and uid is not None:
                    del self._queues[uid]

    def _name(self, entry: Entry) -> None:
        name = entry.uid, given_name(entry)
        if self._names.setdefault(name, entry.id) != entry.id:
            self._namesakes.setdefault(name, set()).add(entry.id)

    def _unname(self, entry: Entry) -> None:
        name = entry.uid, given_name(entry)
        others = self._namesakes.get(name, set())
        others.discard(entry.id)
        if self._names.get(name) == entry.id:
            if others:
                self._names[name] = others.pop()
            else:
                del self._names[name]
        if not others:
            self._namesakes.pop(name, None)

    def _count(self, member: Entry, change: int) -> None:
        """One unfinished member of a batch more, or less."""
        batch = member.parent
        if not member.into:  # what was added stands in nobody's way
            self.members[batch] += change
            if not self.members[batch]:
                del self.members[batch]
        if change > 0:
            self._members.setdefault(batch, set()).add(member.id)
        elif change < 0:
            self._members[batch].discard(member.id)
            if not self._members[batch]:
                del self._members[batch]
                self._over.add(batch)
        if change:
            self._offer(batch)

    def _offer(self, job_id: str) -> None:
        """Let a ready entry be chosen; a batch, which comes after its members, while not too many of them wait."""
        state, entry = self._entries.get(job_id, ("", None))
        if entry is None or state != READY:
            return
        if entry.tabled:
            self.ticks.add(entry)
            return
        if START_NOW in entry.flags:
            self.forced[job_id] = entry
            return
        if entry.batch is not None and self.members[job_id] >= MOST_MEMBERS:
            self.ready.discard(job_id)
            self._withheld[job_id] = entry
        elif job_id not in self.ready:
            self._withheld.pop(job_id, None)
            self.ready.add(entry)

    def over(self) -> list[Entry]:
        """The batches all of whose members, added ones too, have been made and have ended, in the order of dispatch."""
        found = [self._entries[job_id] for job_id in self._over if job_id in self._entries]
        self._over = {entry.id for state, entry in found if state == RUNNING and entry.id not in self._members}
        return sorted((entry for _, entry in found if entry.id in self._over), key=lambda entry: entry.order)

    def ripe(self, now: int) -> Iterator[Entry]:
        """The delayed entries whose time has come. The caller moves each, and may stop at any."""
        for job_id in self._due.past(now):
            yield self._entries[job_id][1]

    def expired(self, now: int) -> Iterator[tuple[str, Entry]]:
        """The entries that have not started and expire now. The caller ends each, and may stop at any."""
        for job_id in self._expiring.past(now):
            yield self._entries[job_id]

    def next_due(self) -> int | None:
        """When something ripens or expires next, in microseconds since the epoch."""
        return min((when for when in (self._due.next(), self._expiring.next()) if when is not None), default=None)


_Alarm = tuple[int, int, str]  # an instant; of one instant the more urgent first; an id


class _Alarms:
    """An instant for each of many entries: a heap for each user, whose head is always in force."""

    def __init__(self) -> None:
        self._set: dict[int, dict[str, _Alarm]] = {}
        self._heaps: dict[int, list[_Alarm]] = {}

    def set(self, entry: Entry, when: int) -> None:
        """At this instant something is to be done about an entry that has no alarm."""
        alarm = when, -entry.priority, entry.id
        own = self._set.setdefault(entry.uid, {})
        own[entry.id] = alarm
        heap = self._heaps.setdefault(entry.uid, [])
        heapq.heappush(heap, alarm)
        if len(heap) > 2 * len(own) + 64:  # more than half of them were dropped
            heap[:] = own.values()
            heapq.heapify(heap)

    def drop(self, uid: int, job_id: str) -> None:
        """Nothing is to be done about this user's entry any more."""
        own = self._set.get(uid)
        if own is None or own.pop(job_id, None) is None:
            return
        heap = self._heaps[uid]
        while heap and own.get(heap[0][2]) != heap[0]:
            heapq.heappop(heap)
        if not own:
            del self._set[uid], self._heaps[uid]

    def past(self, now: int) -> Iterator[str]:
        """The ids whose instant has come, one of each user in turn, whoever was served last comes last, the next time
        too. One that is dealt with does not come again.
        """
        users = deque(uid for uid, heap in self._heaps.items() if heap[0][0] <= now)
        while users:
            uid = users.popleft()
            heap = self._heaps.get(uid)
            if heap is not None and heap[0][0] <= now:
                users.append(uid)
                self._heaps[uid] = self._heaps.pop(uid)
                alarm = heap[0]
                yield alarm[2]
                if self._set.get(uid, {}).get(alarm[2]) is alarm:
                    self.drop(uid, alarm[2])  # it was left as it is

    def next(self) -> int | None:
        """The first instant."""
        return min((heap[0][0] for heap in self._heaps.values()), default=None)


def _drop(groups: dict[Any, set[str]], key: object, job_id: str) -> None:
    """Take an id out of its group, and an empty group out of all."""
    ids = groups.get(key, set())
    ids.discard(job_id)
    if not ids:
        groups.pop(key, None)


def _unfinished(state: str) -> bool:
    return state not in (DEAD, SKIPPED)


def given_name(entry: Entry) -> str:
    """The name that the producer gave the job's file: the id's, without the time that admission put before it."""
    name = entry.id.partition("-")[2]
    if entry.tabled:
        return name
    base, plus, line = name.partition("+")
    own = base[14:] if len(base) > 14 and base[13] == "-" else base
    return own + plus + line
