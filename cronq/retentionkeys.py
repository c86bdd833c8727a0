"""The keys that say for how long something is kept: `[retention]`, and `retention` of a queue.

Does:    `READERS` of the one, `queue` of the other; `Keep`, what they come to together.
Reads:   nothing but its arguments.
Trusts:  nothing.
Fails:   `BadJob` with a sentence that names the key and says what would be right.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from cronq import job as jobs
from cronq import taskkeys
from cronq.errors import BadJob

NEVER = "never"
DAY = 86400.0
MOST_COUNT = 100_000_000


class Keep(NamedTuple):
    """For how long what is kept; ages in seconds, infinity for ever, and numbers None for any."""

    results: float = 7 * DAY  # since the job ended
    logs: float = math.inf  # its output alone; never longer than its result
    max_results: int | None = None  # of one user in one queue
    max_size: int | None = None  # bytes of those
    dead: float = 90 * DAY  # dead letters and skipped jobs
    max_dead: int | None = 10_000  # of one user in one queue
    rejected: float = 30 * DAY
    history: float = 90 * DAY
    max_history: int | None = None  # bytes

    @property
    def counts(self) -> bool:
        """Whether it matters how many results there are, or how large."""
        return self.max_results is not None or self.max_size is not None

    @property
    def soonest(self) -> float:
        """The age at which the first part of a result may go."""
        return min(self.results, self.logs)


def age(key: str, value: object) -> float:
    """Seconds, or infinity for `never`. Raises `BadJob`."""
    if value == NEVER:
        return math.inf
    try:
        return float(jobs.READERS["timeout"](key, value))
    except BadJob:
        raise BadJob(f'{key} must be a duration like 7d, above 0, or "{NEVER}", not {jobs.show(value)}') from None


def count(key: str, value: object) -> int:
    """How many are kept. Raises `BadJob`."""
    return jobs.whole(key, value, 1, MOST_COUNT)


def queue(key: str, value: object) -> dict[str, Any]:
    """The table `retention` of a queue. Raises `BadJob`."""
    if not isinstance(value, dict):
        raise BadJob(f'{key} must be a table, like {{ results = "1d", max_results = 1000 }}, not {jobs.show(value)}')
    for name in value:
        if name not in OF_QUEUE:
            raise BadJob(f"{key} has the unknown key {jobs.show(name)}; known are {', '.join(OF_QUEUE)}")
    return {name: OF_QUEUE[name](f"{key}.{name}", item) for name, item in value.items()}


OF_QUEUE: dict[str, Any] = {
    "results": age,
    "logs": age,
    "max_results": count,
    "max_size": taskkeys.size,
    "dead": age,
    "max_dead": count,
}
READERS: dict[str, Any] = {**OF_QUEUE, "rejected": age, "history": age, "max_history": taskkeys.size}
