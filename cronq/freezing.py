"""Freezing: what runs of a queue or a task that is paused with `--freeze` is stopped until that is resumed.

Does:    `press` tells the workers of running jobs to stop them, or to let them go on, as the pauses have it now.
Reads:   the pauses, what runs.
Trusts:  the crew. A job whose worker is not of it goes on: that worker has let it, since nobody could tell it to.
Fails:   never: a worker that cannot hear now is told in the next turn.
"""

from __future__ import annotations

from cronq.house import House, Now


def press(house: House, now: Now) -> None:
    """Tell whoever has not been told."""
    if not house.frozen and not any(pause.frozen for pause in house.pauses.gates.values()):
        return
    attempts = {(job_id, running.entry.attempt): running.entry for job_id, running in house.running.items()}
    house.frozen &= attempts.keys()
    for attempt, entry in attempts.items():
        wanted = house.pauses.freezes(entry.queue, entry.task)
        worker = house.crew.of(entry.id) if wanted != (attempt in house.frozen) else None
        message = {"do": "freeze", "id": entry.id, "on": wanted}
        if worker is not None and house.crew.tell(entry.runner, message, now.mono, worker):
            (house.frozen.add if wanted else house.frozen.discard)(attempt)
