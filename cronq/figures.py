"""Figures: what the jobs of each task came to, computed from the history whenever somebody asks; nothing is stored.

Does:    `figures` counts, of each task and of each free command in each queue, runs and how they ended, and tells how
         long its jobs waited and ran: the median, and what all but the longest twentieth stay below.
Reads:   the history, in slices (`annals`).
Trusts:  as `annals` does. Whoever has a thousand commands has no more memory here than a thousand need.
Fails:   never.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cronq import annals
from cronq.states import CANCELLED, DEAD, DELAYED, DONE, EXPIRED, HELD, REJECTED, SKIPPED, TERMINAL

MOST_GROUPS = 1000  # what is beyond them counts together
OTHERS = "(others)"
_STEP = 1.05  # from one bucket of a spread to the next: a quantile is right to 2.5 %
_LEAST = 0.001  # seconds


class Spread:
    """Many durations, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, value: float | None) -> None:
        """One more, if it is known."""
        if value is not None:
            self._buckets[0 if value < _LEAST else 1 + int(math.log(value / _LEAST, _STEP))] += 1

    def quantile(self, part: float) -> float | None:
        """Below which this part of them lies; None where there are none."""
        left = math.ceil(part * self._buckets.total())
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return 0.0 if bucket == 0 else round(_LEAST * _STEP ** (bucket - 0.5), 6)
        return None


class Figures:
    """What the jobs of one task, or of one command, came to in one queue."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("runs", DONE, "failed", "retried", DEAD, CANCELLED, EXPIRED, SKIPPED, REJECTED), 0)
        self.waits, self.runs = Spread(), Spread()
        self.since: float | None = None

    def take(self, record: dict[str, Any]) -> None:
        """Count one line."""
        self.since = record["t"] if self.since is None else self.since
        to = record["to"]
        if to in self.counts:
            self.counts[to] += 1
        if "outcome" not in record:
            return
        failed, again = annals.fate(record)
        self.counts["runs"] += 1
        self.counts["failed"] += failed
        self.counts["retried"] += again
        self.waits.add(annals.seconds(record.get("wait")))
        self.runs.add(annals.seconds(annals.outcome(record).get("wall")))

    def told(self) -> dict[str, Any]:
        """All of it."""
        spreads = {"wait": self.waits, "run": self.runs}
        parts = {f"{name}_p{part}": each.quantile(part / 100) for name, each in spreads.items() for part in (50, 95)}
        return {**self.counts, **parts, "since": self.since}


def figures(folder: str, wanted: annals.Wanted) -> Iterator[dict[str, Any] | None]:
    """What each task, and each command, came to: by its name, those of tasks first."""
    found: dict[tuple[bool, str, str], Figures] = {}
    wanted = wanted._replace(states=frozenset((*TERMINAL, DELAYED, HELD)))
    line = wanted.line()
    for path in wanted.paths(folder):
        for _, block in annals.blocks(path):
            for match in line.finditer(block):
                record = wanted.takes(match.group())
                if record is not None and (record["to"] in TERMINAL or "outcome" in record):
                    group = _group(record)
                    if group not in found and len(found) >= MOST_GROUPS:
                        group = False, OTHERS, ""
                    found.setdefault(group, Figures()).take(record)
            yield None
    for is_free, name, queue in sorted(found):
        yield {"command" if is_free else "task": name, "queue": queue, **found[is_free, name, queue].told()}


def _group(record: dict[str, Any]) -> tuple[bool, str, str]:
    task, queue = record.get("task"), str(record.get("queue") or "")
    return (False, str(task), queue) if task else (True, annals.program(record), queue)
