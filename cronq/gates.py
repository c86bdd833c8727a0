"""Gates: what may start beside what runs already.

Does:    `Gates` counts what runs, and says of a lane whether it is open, of an entry whether it fits beside those that
         have its keys, and of what is closed, who holds it so.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

All of it is counted from what runs, each turn anew: a stored semaphore would leak with the first crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cronq.entry import Entry


def per_user_default(max_jobs: int) -> int:
    """How many jobs of one submitter may run at once where many share a spool and nobody said: the rest is others'."""
    return max(1, max_jobs - max(1, max_jobs // 4))


class Gates:
    """What may start beside what runs: `max_jobs` in all, `slots` of a queue, `limits` of a task, `per_user`."""

    __slots__ = ("by_key", "by_queue", "by_task", "by_user", "limits", "max_jobs", "per_user", "running", "slots")

    def __init__(
        self,
        max_jobs: int,
        slots: dict[str, int],
        limits: dict[str, int],
        running: Iterable[Entry] = (),
        per_user: int | None = None,
        others: Iterable[Entry] = (),
    ) -> None:
        """`others` run too and pass other gates; only nothing of their keys may run beside them."""
        self.max_jobs = max_jobs
        self.slots = slots
        self.limits = limits
        self.per_user = per_user  # most jobs that one user submitted; None: as many as there are
        self.running: list[Entry] = []
        self.by_queue: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        self.by_user: Counter[int] = Counter()
        self.by_key: dict[str, str] = {}  # by what must not run beside it, the id of what runs
        for entry in running:
            self.count(entry)
        for entry in others:
            self.hold(entry)

    def count(self, entry: Entry) -> None:
        """One more runs. `max_jobs` counts jobs, whatever they weigh: it is for the machine."""
        self.running.append(entry)
        self.by_queue[entry.queue] += entry.weight
        self.by_task[entry.task] += entry.weight
        self.by_user[entry.uid] += 1
        self.hold(entry)

    def hold(self, entry: Entry) -> None:
        """Nothing with the same key runs beside it."""
        if entry.key:
            self.by_key[entry.key] = entry.id

    @property
    def full(self) -> bool:
        """Whether nothing at all may start."""
        return len(self.running) >= self.max_jobs

    def load(self, uid: int) -> int | None:
        """How many jobs of this submitter run; None where no more of them may."""
        count = self.by_user[uid]
        return None if self.full or (self.per_user is not None and count >= self.per_user) else count

    def open(self, queue: str, task: str, uid: int, weight: int = 1) -> bool:
        """Whether a job of this task (empty: a free command) and submitter may start in this queue."""
        return (
            self.load(uid) is not None
            and self._room(self.by_queue[queue], self.slots.get(queue), weight)
            and self._room(self.by_task[task], self.limits.get(task), weight)
        )

    @staticmethod
    def _room(used: int, most: int | None, weight: int) -> bool:
        """Whether so much fits beside what is used. What weighs more than there ever is runs alone."""
        return most is None or not weight or not used or used + weight <= most

    def excluded(self, entry: Entry) -> bool:
        """Whether something runs that this must not run beside."""
        return entry.key in self.by_key

    def closed(self, entry: Entry) -> list[tuple[str, list[str]]]:
        """Every gate that is closed for an entry: a sentence, and the ids of those who hold it closed."""
        queue, task, uid = entry.queue, entry.task, entry.uid
        found = []
        if self.full:
            found.append((f"max_jobs = {self.max_jobs} jobs are running", [e.id for e in self.running]))
        if self.per_user is not None and self.by_user[uid] >= self.per_user:
            holders = [e.id for e in self.running if e.uid == uid]
            found.append((f"max_jobs_per_user = {self.per_user} jobs of the same user are running", holders))
        if not self._room(self.by_queue[queue], self.slots.get(queue), entry.weight):
            holders = [e.id for e in self.running if e.queue == queue and e.weight]
            found.append((f"all slots of queue {queue} are taken ({self.slots[queue]})", holders))
        if not self._room(self.by_task[task], self.limits.get(task), entry.weight):
            holders = [e.id for e in self.running if e.task == task and e.weight]
            found.append((f"task {task} is at its limit ({self.limits[task]})", holders))
        if self.excluded(entry):
            found.append(("another one of its mutex is running", [self.by_key[entry.key]]))
        return found
