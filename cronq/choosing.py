"""Choosing: what of the ready jobs may start now, beside what runs.

Does:    `Choice` is one launch's view of it: which lanes are open, which entries fit, how many of whom run.
Reads:   what runs, the configuration, the crew: all of it anew each turn.
Trusts:  entries.
Fails:   never: a job about which something else must be decided now (it may not run at all) counts as one that may
         start, and `turn.start` decides it.
"""

from __future__ import annotations

from cronq import blocked, pace
from cronq.entry import Entry
from cronq.errors import CronqError
from cronq.gates import Gates, per_user_default
from cronq.heads import FITS, NOT_NOW
from cronq.house import House, Now


class Choice:
    """What may start now of the jobs that are no ticks of crontabs."""

    def __init__(self, house: House, now: Now) -> None:
        said = house.config
        per_user = said.max_jobs_per_user
        if per_user is None and house.authority is not None:
            per_user = per_user_default(said.max_jobs)
        jobs, ticks = running(house)
        self.gates = Gates(
            said.max_jobs,
            said.slots,
            said.limits,
            jobs,
            per_user,
            ticks,
            said.key_limits,
            self._shares(house),
            house.served.ahead,
        )
        self.deaf: set[tuple[str, int]] = set()  # whose worker could not take a job: they wait for the next turn
        self.pressed = house.pressure.reason(now.mono, said.max_load, said.min_free_memory)
        self._house = house
        self._now = now
        self._resting: set[int] = set()
        self._weigh(house.backlog.ready.watched | self.gates.by_user.keys())

    @staticmethod
    def _shares(house: House) -> dict[int, float]:
        """The shares of those whom the configuration gives another one than 1."""
        if house.authority is None or not house.config.shares:
            return {}
        found = {house.authority.accounts.uid(name): share for name, share in house.config.shares.items()}
        return {uid: share for uid, share in found.items() if uid is not None}

    def started(self, entry: Entry) -> None:
        """One runs."""
        self.gates.count(entry)
        self._house.served.serve(entry.uid, self.gates.share(entry.uid))
        self._weigh({entry.uid})

    def rest(self, uid: int) -> None:
        """Nothing more of this submitter's starts as long as this view is gone by."""
        self._resting.add(uid)
        self._weigh({uid})

    def _weigh(self, uids: set[int]) -> None:
        """These may have more or less now: let their jobs stand where they belong."""
        for uid in uids | self._house.served.moved():
            self._house.backlog.ready.weigh(uid, None if uid in self._resting else self.gates.has(uid))

    def lane(self, queue: str, task: str, submitter: int, weight: int) -> bool:
        """Whether a lane is open."""
        if not queue:  # of batches, whose jobs pass gates of their own
            return self.gates.load(submitter) is not None
        if not self.gates.open(queue, task, submitter, weight) or (task, submitter) in self.deaf:
            return False
        if self._house.pauses.closed(queue, task):
            return False
        opens = pace.lane_opens(self._house, self._now, queue, task)
        if opens > self._now.mono:
            self._house.opens = min(self._house.opens, opens)
            return False
        return self.reachable(task, submitter)

    def fits(self, entry: Entry) -> float:
        """Whether the first of a row may start, or something else must be decided about it."""
        found = self._fits(entry)
        if found == NOT_NOW and not self.gates.free(entry) and blocked.undecided(self._house, self.gates, entry):
            return FITS
        return found

    def _fits(self, entry: Entry) -> float:
        if entry.batch is not None:
            return FITS
        found = self.gates.fits(entry)
        opens = pace.key_opens(self._house, self._now, entry) if found == FITS else 0.0
        return opens if opens > self._now.mono else found

    def next(self) -> Entry | None:
        """What may start next."""
        self.gates.claims.clear()
        if self.pressed or self.gates.full:
            return None
        return self._house.backlog.ready.peek(self.lane, None, self.fits, self._now.micros)

    def may(self, entry: Entry) -> bool:
        """Whether an entry could start now."""
        return not self.pressed and self.lane(*entry.lane[:2], entry.uid, entry.lane[2]) and self._fits(entry) == FITS

    def reachable(self, task_name: str, submitter: int) -> bool:
        """Whether a job of this task and submitter gets a worker now, or something else must be decided about it."""
        house, now = self._house, self._now
        if house.shut(now, task_name, submitter):
            return False
        try:
            runner = house.runner(task_name, submitter)
        except CronqError:
            return True  # `start` says why it cannot run
        if why_held(house, now, submitter, runner) is not None:
            return True  # `start` holds it
        return house.crew.ready(runner, now.mono) is not None


def running(house: House) -> tuple[list[Entry], list[Entry]]:
    """What runs: jobs, and ticks of crontabs with what is told about them, which pass other gates."""
    entries = [each.entry for each in house.running.values()]
    return [entry for entry in entries if not entry.tabled], [entry for entry in entries if entry.tabled]


def why_held(house: House, now: Now, submitter: int, runner: int) -> str | None:
    """Why a job of this submitter, to be run as that user, waits for an administrator; None where it does not."""
    bar = house.crew.barred(runner, now.mono)
    return house.stranger(submitter, runner) or (bar.reason if bar is not None and bar.hold else None)
