"""Shares: whose turn it is, among submitters of whom as many jobs run.

Does:    `Shares` remembers how much each was served, by the weight of his share, and says whose turn comes first.
Reads:   its arguments.
Trusts:  the caller to tell of each start.
Fails:   never. It is in memory only: after a restart all have been served alike.

Start-time fair queueing: serving somebody moves his turn on by one part of his share, from now or from where it stood.
Whoever asked for nothing for a while has saved up nothing, so the flood of one user costs another one turn at most.
"""

from __future__ import annotations

import heapq


class Shares:
    """What each submitter was served."""

    def __init__(self) -> None:
        self._now = 0.0  # the turn of whoever was served last
        self._next: dict[int, float] = {}  # of those whose next turn comes later: when
        self._order: list[tuple[float, int]] = []  # the same, a heap
        self._moved: set[int] = set()

    def __len__(self) -> int:
        return len(self._next)

    def turn(self, uid: int) -> float:
        """When his turn comes: the lowest is next."""
        return max(self._now, self._next.get(uid, 0.0))

    def ahead(self, uid: int) -> float:
        """The same, but 0 for all whose turn could be now: so it stays the same until `moved` says otherwise."""
        return self._next.get(uid, 0.0)

    def serve(self, uid: int, share: float = 1.0) -> None:
        """A job of his starts."""
        self._now = self.turn(uid)
        self._next[uid] = self._now + 1 / share
        heapq.heappush(self._order, (self._next[uid], uid))
        self._moved.add(uid)
        while self._order[0][0] <= self._now:
            turn, each = heapq.heappop(self._order)
            if self._next.get(each) == turn:
                del self._next[each]
                self._moved.add(each)

    def moved(self) -> set[int]:
        """The submitters who are ahead by another turn than when this was asked last."""
        found, self._moved = self._moved, set()
        return found
