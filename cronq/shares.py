"""Shares: whose turn it is, among submitters of whom as many jobs run.

Does:    `Shares` remembers how much each was served, by the weight of his share, and says whose turn comes first.
Reads:   its arguments.
Trusts:  the caller to tell of each start.
Fails:   never. It is in memory only: after a restart all have been served alike.

Start-time fair queueing: serving somebody moves his turn on by one part of his share, from now or from where it stood.
Whoever asked for nothing for a while has saved up nothing, so the flood of one user costs another one turn at most.
"""

from __future__ import annotations


class Shares:
    """What each submitter was served."""

    def __init__(self) -> None:
        self._now = 0.0  # the turn of whoever was served last
        self._next: dict[int, float] = {}  # of those who were served since: when their next turn comes
        self._swept = 0

    def __len__(self) -> int:
        return len(self._next)

    def turn(self, uid: int) -> float:
        """When his turn comes: the lowest is next."""
        return max(self._now, self._next.get(uid, 0.0))

    def serve(self, uid: int, share: float = 1.0) -> None:
        """A job of his starts."""
        self._now = self.turn(uid)
        self._next[uid] = self._now + 1 / share
        if len(self._next) > 2 * self._swept + 64:
            self._next = {each: turn for each, turn in self._next.items() if turn > self._now}
            self._swept = len(self._next)
