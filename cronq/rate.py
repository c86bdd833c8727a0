"""Rates: how often something may start, by the generic cell rate algorithm (GCRA).

Does:    `Rates` says from when on the next one of each limiter may start, counts what starts, takes back what did not.
Reads:   its arguments. No clock, no disk: instants are the caller's monotonic seconds.
Trusts:  the caller to say of one limiter the same rate each time; another one counts from then on.
Fails:   never, and blocks for no longer than one burst takes: what says more (a clock that was wrong) is not believed.

Of each limiter there is one instant: when all that has started will be paid for. It is in memory, and each start's line
in the history has it, so that a restart goes on where it was; without it, the rate begins anew.
"""

from __future__ import annotations


class Rate:
    """So many in so many seconds, evenly spread; of them `burst` at once where there were fewer for a while."""

    __slots__ = ("burst", "interval")

    def __init__(self, number: int, seconds: float, burst: int = 1) -> None:
        self.interval = seconds / number
        self.burst = burst

    @property
    def ahead(self) -> float:
        """How far ahead what has started can be."""
        return self.interval * self.burst


class Rates:
    """What has started of each limiter, by its name."""

    def __init__(self) -> None:
        self._paid: dict[str, float] = {}  # when all that has started will be paid for
        self._swept = 0

    def __len__(self) -> int:
        return len(self._paid)

    def opens(self, name: str, rate: Rate, now: float) -> float:
        """When the next one may start; what is past is now."""
        paid = self._paid.get(name)
        if paid is None:
            return now
        if paid > now + rate.ahead:
            paid = self._paid[name] = now + rate.ahead
        return paid - rate.ahead + rate.interval

    def spend(self, name: str, rate: Rate, now: float) -> float:
        """One starts; when all that has will be paid for."""
        self._sweep(now)
        paid = self._paid[name] = max(self._paid.get(name, now), now) + rate.interval
        return paid

    def give_back(self, name: str, rate: Rate, now: float) -> float:
        """One did not start after all; when all that has will be paid for."""
        paid = self._paid[name] = self._paid.get(name, now) - rate.interval
        return paid

    def restore(self, name: str, paid: float) -> None:
        """What was known before a restart."""
        self._paid[name] = paid

    def _sweep(self, now: float) -> None:
        """Forget what is paid for, each time when there may be twice as much as was left the last time."""
        if len(self._paid) > 2 * self._swept + 64:
            self._paid = {name: paid for name, paid in self._paid.items() if paid > now}
            self._swept = len(self._paid)
