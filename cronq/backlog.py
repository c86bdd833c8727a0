"""The backlog: which entry is in which state, in memory, so that a turn reads no directory but the inboxes.

Does:    finds an entry by id, keeps the due ones in the order of dispatch, knows what ripens and what expires next, and
         which jobs are members of which batch.
Trusts:  `shelves.scan`, from which it is filled at the start; afterwards it is told of every move.
Fails:   never; nothing here is kept on disk, so nothing here can leak over a restart.
"""

from __future__ import annotations

import heapq
from collections import Counter

from cronq.entry import Entry
from cronq.lanes import Ready
from cronq.states import DEAD, DELAYED, KEPT, READY, SKIPPED


class Backlog:
    """Every entry below `queue/`, by id."""

    def __init__(self) -> None:
        self.ready = Ready()
        self.members: Counter[str] = Counter()  # how many unfinished members each batch has
        self._entries: dict[str, tuple[str, Entry]] = {}
        self._states: dict[str, dict[int, dict[str, Entry]]] = {state: {} for state in KEPT}  # by uid, by id
        self._members: dict[str, set[str]] = {}  # the unfinished members of each batch
        self._names: dict[tuple[int, str], str] = {}  # unfinished jobs by (uid, the name their producer gave them)
        self._due: list[tuple[int, str]] = []
        self._expiring: list[tuple[int, str]] = []

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

    def put(self, state: str, entry: Entry) -> None:
        """This entry is in this state now, wherever it was before."""
        self.forget(entry.id)
        self._entries[entry.id] = (state, entry)
        self._states[state].setdefault(entry.uid, {})[entry.id] = entry
        if state == READY:
            self.ready.add(entry)
        elif state == DELAYED:
            heapq.heappush(self._due, (entry.due, entry.id))
        if state not in (DEAD, SKIPPED):
            self._names[entry.uid, given_name(entry)] = entry.id
            if entry.parent:
                self.members[entry.parent] += 1
                self._members.setdefault(entry.parent, set()).add(entry.id)
            if entry.expires:
                heapq.heappush(self._expiring, (entry.expires, entry.id))

    def forget(self, job_id: str) -> None:
        """No entry of this id is below `queue/` any more."""
        found = self._entries.pop(job_id, None)
        if found is None:
            return
        state, entry = found
        own = self._states[state][entry.uid]
        del own[job_id]
        if not own:
            del self._states[state][entry.uid]
        if state == READY:
            self.ready.discard(job_id)
        if state not in (DEAD, SKIPPED):
            self._names.pop((entry.uid, given_name(entry)), None)
            if entry.parent:
                self.members[entry.parent] -= 1
                self._members[entry.parent].discard(job_id)
                if not self.members[entry.parent]:
                    del self.members[entry.parent], self._members[entry.parent]

    def ripe(self, now: int) -> list[Entry]:
        """The delayed entries whose time has come, all of them before any is chosen."""
        found = []
        while self._due and self._due[0][0] <= now:
            due, job_id = heapq.heappop(self._due)
            state, entry = self._entries.get(job_id, ("", None))
            if entry is not None and state == DELAYED and entry.due == due:
                found.append(entry)
        return found

    def expired(self, now: int) -> list[tuple[str, Entry]]:
        """The entries that expire now, if they have not started."""
        found = []
        while self._expiring and self._expiring[0][0] <= now:
            expires, job_id = heapq.heappop(self._expiring)
            kept = self._entries.get(job_id)
            if kept is not None and kept[1].expires == expires:
                found.append(kept)
        return found

    def next_due(self) -> int | None:
        """When something ripens or expires next, in microseconds since the epoch."""
        return min((heap[0][0] for heap in (self._due, self._expiring) if heap), default=None)


def given_name(entry: Entry) -> str:
    """The name that the producer gave the job's file: the id's, without the time that admission put before it."""
    name = entry.id.partition("-")[2]
    base, plus, line = name.partition("+")
    own = base[14:] if len(base) > 14 and base[13] == "-" else base
    return own + plus + line
