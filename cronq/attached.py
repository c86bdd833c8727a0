"""Attached jobs: those that are cancelled when the command that waits for them goes away (`cronq submit --attached`).

Does:    looks twice a second whether the waiters of such jobs are still there, and cancels those without one.
Reads:   NAME.wait in the inboxes: whoever waits holds it locked, so the kernel tells that he is gone, however he went.
Writes:  removes a NAME.wait that nobody holds, whatever became of its job; else as `cancel` does.
Trusts:  nothing: a user who locks such a file for ever keeps his own job from being cancelled.
Fails:   never: a file that cannot be looked at is one that nobody holds.
"""

from __future__ import annotations

import time

from cronq import cancel, states
from cronq.entry import ATTACHED, Entry
from cronq.house import House, Now
from cronq.log import line as log

LOOK_EVERY = 0.5
SLICE_SECONDS = 0.005
_NAME_AT = 14  # where the name that its sender chose begins, after the time


def take_up(house: House) -> None:
    """After a restart: who was attached still is."""
    for state in (*cancel.UNSTARTED, states.RUNNING):
        house.attached += [entry.id for entry in house.backlog.entries(state) if ATTACHED in entry.flags]


def look(house: House, now: Now) -> None:
    """Cancel what nobody waits for any more: a slice of it, the rest in the next looks."""
    if not house.attached or now.mono < house.attached_at:
        return
    house.attached_at = now.mono + LOOK_EVERY
    deadline = time.monotonic() + SLICE_SECONDS
    for _ in range(len(house.attached)):
        job_id = house.attached.popleft()
        uid, _, name = job_id.partition("-")
        if any(house.shelves.inboxes.is_waited_for(int(uid), each) for each in (name, name[_NAME_AT:])):
            house.attached.append(job_id)
        elif (kept := house.backlog.find(job_id)) is not None and _is_attached(*kept):
            log("unattended", id=job_id)
            cancel.cancel(house, now, *kept, at_once=False)
        if time.monotonic() > deadline:
            break


def _is_attached(state: str, entry: Entry) -> bool:
    """Whether it ends with who waits for it: not what has ended, nor what was retried since."""
    return ATTACHED in entry.flags and state in (*cancel.UNSTARTED, states.RUNNING)
