"""Leaving: what a dispatcher that was told to stop does about the jobs that run.

Does:    `drained` says when it may go: it waits as long as `drain_timeout` says; then, with `mode = "interrupt"`, has
         the jobs ended tidily and waits for that, too. An interrupted job comes again under the next dispatcher, with
         its cursor, and no attempt used (`policy`).
Trusts:  the crew. A job whose worker is not of it runs on, as does one that runs at most once: it could not come again.
Fails:   never: what does not end within its grace runs on, or is killed by its worker a moment later.
"""

from __future__ import annotations

from cronq.entry import AT_MOST_ONCE
from cronq.house import House, Now
from cronq.log import line as log
from cronq.wire import INTERRUPTED

AFTER_GRACE = 5.0


def drained(house: House, now: Now) -> bool:
    """Whether a dispatcher that was told to stop has waited for running jobs as long as it is to."""
    if house.leave_at is None:
        house.leave_at = now.mono + house.config.drain_timeout
        if house.running and house.config.drain_timeout:
            log("draining", running=len(house.running), seconds=house.config.drain_timeout)
    if not house.running:
        return True
    if house.interrupted:
        return now.mono >= house.leave_at or house.interrupted.isdisjoint(house.running)
    if now.mono < house.leave_at:
        return False
    if house.config.stop_mode == "interrupt" and not house.crew.launcher_gone:
        _interrupt(house, now)
    return not house.interrupted


def _interrupt(house: House, now: Now) -> None:
    """Have them ended, those that can come again."""
    grace = 0.0
    for running in list(house.running.values()):
        entry = running.entry
        worker = house.crew.of(entry.id)
        if worker is None or AT_MOST_ONCE in entry.flags:
            continue
        stop = {"do": "stop", "id": entry.id, "now": False, "why": INTERRUPTED}
        if house.crew.tell(entry.runner, stop, now.mono, worker):
            house.interrupted.add(entry.id)
            grace = max(grace, running.plan.grace if running.plan is not None else 0.0)
    if house.interrupted:
        house.leave_at = now.mono + grace + AFTER_GRACE
        log("interrupting", jobs=len(house.interrupted))
