"""Backoffs: how long to wait before a further attempt, and how many there are in a while.

Does:    `delay` after an attempt; `retries_within` a duration, for `retry_for`.
Reads:   its arguments. Standard library only: dispatcher and worker count alike.
Trusts:  backoffs, which were read strictly.
Fails:   never.
"""

from __future__ import annotations

from cronq.job import MAX_RETRIES, Backoff


def delay(backoff: Backoff, attempt: int, chance: float) -> float:
    """Seconds to wait after attempt number `attempt`: `min(max, base * factor**(attempt-1)) * (1 + jitter*chance)`."""
    try:
        grown = backoff.base * backoff.factor ** max(0, attempt - 1)
    except OverflowError:
        grown = backoff.max if backoff.base > 0 else 0.0
    return min(backoff.max, grown) * (1 + backoff.jitter * chance)


def retries_within(backoff: Backoff, seconds: float) -> int:
    """How many further attempts begin within that time, by the backoff alone: what the attempts take, and jitter, is
    not counted. So it is a number like any other that is known beforehand, and a job that is revived has as many again.
    """
    waited = 0.0
    for count in range(MAX_RETRIES):
        waited += delay(backoff, count + 1, 0.0)
        if waited > seconds:
            return count
    return MAX_RETRIES
