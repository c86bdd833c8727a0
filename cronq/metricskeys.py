"""The keys of `[metrics]`: where figures are written, how often, and whether they tell users apart.

Does:    `READERS`; `Metrics`, what they come to.
Reads:   nothing but its arguments.
Trusts:  nothing.
Fails:   `BadJob` with a sentence that names the key and says what would be right.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from cronq import job as jobs
from cronq import taskkeys
from cronq.errors import BadJob

ENDING = ".prom"  # node_exporter reads no other file
LEAST_EVERY, MOST_EVERY = 1.0, 3600.0


class Metrics(NamedTuple):
    """What `[metrics]` says."""

    file: str | None = None
    every: float = 15.0  # seconds
    users: bool = False


def _file(key: str, value: object) -> str:
    path = str(jobs.READERS["cwd"](key, value))
    if not path.endswith(ENDING) or os.path.basename(path) == ENDING:
        raise BadJob(f"{key} must end in {ENDING}, as node_exporter wants it, not {jobs.show(value)}")
    return path


def _every(key: str, value: object) -> float:
    seconds = float(jobs.READERS["timeout"](key, value))
    if not LEAST_EVERY <= seconds <= MOST_EVERY:
        raise BadJob(f"{key} must be a duration from 1s to 1h, not {jobs.show(value)}")
    return seconds


READERS: dict[str, Any] = {"file": _file, "every": _every, "users": taskkeys.switch}
