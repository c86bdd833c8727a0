"""What is known of an attempt that is under way: since when its job runs, and until when at the latest.

Reads:   its outcome file, which its worker holds locked and writes on; after a restart its job's file too.
Trusts:  nothing of what a worker wrote: a time that is none is not known.
Fails:   never: what cannot be read is not known.
"""

from __future__ import annotations

import os
from typing import Any

from cronq import safeopen, settle, statement
from cronq.deadline import LONGEST
from cronq.entry import Entry
from cronq.house import House, Running
from cronq.shelves import STATUS

_OUTCOME_BYTES = 1 << 20


def started(house: House, entry: Entry) -> dict[str, Any] | None:
    """What its worker wrote down when its process was there: `t`, `pid` and what tells that process from others."""
    try:
        descriptor = os.open(house.shelves.outcome_path(entry), os.O_RDONLY | os.O_CLOEXEC, dir_fd=house.shelves.fd)
    except OSError:
        return None
    try:
        steps = settle.read_outcome(safeopen.read(descriptor, _OUTCOME_BYTES))
    finally:
        os.close(descriptor)
    return next((step for step in steps if step.get("pid")), None)


def since(house: House, entry: Entry) -> float | None:
    """When its job began to run, by the wall clock; None where it does not yet, or that is not known."""
    moment = (started(house, entry) or {}).get("t")
    return float(moment) if isinstance(moment, int | float) and moment > 0 else None


def until(house: House, running: Running) -> float | None:
    """When it is ended at the latest, by the wall clock: its timeout, which it may put off, and its grace.

    None where it has no timeout, or has not begun.
    """
    _, plan = settle.details(house, running)
    began = since(house, running.entry) if plan.timeout is not None else None
    if began is None or plan.timeout is None:
        return None
    longest = plan.timeout
    if statement.read(house.shelves.small(running.entry, STATUS)).get("touched"):
        longest = max(longest, LONGEST if plan.timeout_max is None else plan.timeout_max)
    return began + longest + plan.grace
