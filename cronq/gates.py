"""Gates: what may start beside what runs already.

Does:    `Gates` counts what runs, and says of a lane whether it is open, of an entry whether it fits, and of what is
         closed, who holds it so.
Reads:   its arguments. No clock, no disk.
Trusts:  entries.
Fails:   never.

All of it is counted from what runs, each turn anew: a stored semaphore would leak with the first crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cronq.entry import Entry
from cronq.heads import FITS, LANE_CLOSED, NOT_NOW


class Closed(NamedTuple):
    """A gate that is closed for an entry: which, in words why, who holds it so, and for how many of them it waits."""

    gate: str
    why: str
    holders: list[str]
    over: int = 1  # how much weight of them must go


def per_user_default(max_jobs: int) -> int:
    """How many jobs of one submitter may run at once where many share a spool and nobody said: the rest is others'."""
    return max(1, max_jobs - max(1, max_jobs // 4))


class Gates:
    """What may start beside what runs.

    `max_jobs` in all and `per_user` count jobs, for they are for the machine; `slots` of a queue, `limits` of a task
    and `key_limits` of a task's keys count weights. What weighs nothing passes these; what weighs more than there ever
    is room for runs when nothing else of the kind does. What only weighs too much for the room that there is claims it:
    nothing that comes after takes it, else small jobs might hold up a large one for ever.
    """

    __slots__ = (
        "by_group",
        "by_key",
        "by_queue",
        "by_task",
        "by_user",
        "claims",
        "key_limits",
        "limits",
        "max_jobs",
        "per_user",
        "running",
        "served",
        "shares",
        "slots",
    )

    def __init__(
        self,
        max_jobs: int,
        slots: dict[str, int],
        limits: dict[str, int],
        running: Iterable[Entry] = (),
        per_user: int | None = None,
        others: Iterable[Entry] = (),
        key_limits: dict[str, int] | None = None,
        shares: dict[int, float] | None = None,
        served: Callable[[int], float] = lambda _uid: 0.0,
    ) -> None:
        """`others` run too and pass other gates; only nothing of their keys may run beside them. `served` says how much
        each submitter was served, as far as it matters (`shares`).
        """
        self.max_jobs = max_jobs
        self.slots = slots
        self.limits = limits
        self.key_limits = key_limits or {}
        self.shares = shares or {}
        self.served = served
        self.per_user = per_user  # most jobs that one user submitted; None: as many as there are
        self.running: list[Entry] = []
        self.by_queue: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        self.by_user: Counter[int] = Counter()
        self.by_group: Counter[str] = Counter()
        self.by_key: dict[str, str] = {}  # by what must not run beside it, the id of what runs
        self.claims: dict[tuple[str, str], str] = {}  # of what was looked at in this choice: gates kept for it
        for entry in running:
            self.count(entry)
        for entry in others:
            self.hold(entry)

    def count(self, entry: Entry) -> None:
        """One more runs."""
        self.running.append(entry)
        self.by_queue[entry.queue] += entry.weight
        self.by_task[entry.task] += entry.weight
        self.by_user[entry.uid] += 1
        if entry.group:
            self.by_group[entry.group] += entry.weight
        self.hold(entry)

    def hold(self, entry: Entry) -> None:
        """Nothing with the same key runs beside it."""
        if entry.key:
            self.by_key[entry.key] = entry.id

    @property
    def full(self) -> bool:
        """Whether nothing at all may start."""
        return len(self.running) >= self.max_jobs

    def load(self, uid: int) -> tuple[float, float] | None:
        """What this submitter has, as `lanes` compares it; None where no more of his may start."""
        return None if self.full else self.has(uid)

    def has(self, uid: int) -> tuple[float, float] | None:
        """The same, as if there were room for somebody's."""
        count = self.by_user[uid]
        if self.per_user is not None and count >= self.per_user:
            return None
        return count / self.share(uid), self.served(uid)

    def share(self, uid: int) -> float:
        """How much of the whole is his, beside others' 1."""
        return self.shares.get(uid, 1.0)

    def open(self, queue: str, task: str, uid: int, weight: int = 1) -> bool:
        """Whether a job of this task (empty: a free command) and submitter may start in this queue, if it fits."""
        if self.load(uid) is None:
            return False
        slots, limit = self.slots.get(queue), self.limits.get(task)
        if not weight or (slots is None and limit is None):
            return True
        full = (slots is not None and self.by_queue[queue] >= slots) or (
            limit is not None and self.by_task[task] >= limit
        )
        return not full and ("queue", queue) not in self.claims and ("task", task) not in self.claims

    def fits(self, entry: Entry) -> float:
        """Whether an entry of an open lane may start, as `lanes` asks it."""
        if entry.key in self.by_key or not self.free(entry):
            return NOT_NOW
        narrow = [gate for gate, used, most in self._rooms(entry) if not _room(used, most, entry.weight)]
        self.claims = dict.fromkeys(narrow, entry.id) | self.claims
        return LANE_CLOSED if narrow else FITS

    def free(self, entry: Entry) -> bool:
        """Whether there is room for one more of its concurrency key."""
        limit, used = self.key_limits.get(entry.task), self.by_group[entry.group] if entry.group else 0
        if not entry.group or limit is None or not entry.weight:
            return True
        if ("group", entry.group) in self.claims or used >= limit:
            return False
        if not _room(used, limit, entry.weight):
            self.claims.setdefault(("group", entry.group), entry.id)
            return False
        return True

    def _rooms(self, entry: Entry) -> list[tuple[tuple[str, str], int, int | None]]:
        return [
            (("queue", entry.queue), self.by_queue[entry.queue], self.slots.get(entry.queue)),
            (("task", entry.task), self.by_task[entry.task], self.limits.get(entry.task)),
        ]

    def holders(self, group: str) -> list[Entry]:
        """What runs of a concurrency key, in the order in which it was counted."""
        return [each for each in self.running if each.group == group and each.weight]

    def closed(self, entry: Entry) -> list[Closed]:
        """Every gate that is closed for an entry, after a choice also those that are kept for another one."""
        found = []
        if self.full:
            why = f"max_jobs = {self.max_jobs} jobs are running"
            found.append(Closed("max_jobs", why, [e.id for e in self.running]))
        if self.per_user is not None and self.by_user[entry.uid] >= self.per_user:
            why = f"max_jobs_per_user = {self.per_user} jobs of the same user are running"
            found.append(Closed("max_jobs_per_user", why, [e.id for e in self.running if e.uid == entry.uid]))
        for (kind, name), used, most in [*self._rooms(entry), *self._group(entry)]:
            gate, why = _SAID[kind]
            if not _room(used, most, entry.weight):
                holders = [e.id for e in self.running if getattr(e, kind) == name and e.weight]
                over = used + entry.weight - (most or 0)
                found.append(Closed(gate, why.format(name=name, most=most), holders, min(over, used)))
            elif entry.weight and self.claims.get((kind, name), entry.id) != entry.id:
                why = "what room there is" + (f" in {kind} {name}" if kind != "group" else " for its concurrency key")
                claimed = [self.claims[kind, name]]
                found.append(Closed(gate, f"{why} is kept for a job that comes before it and weighs more", claimed))
        if entry.key in self.by_key:
            found.append(Closed("mutex", "another one of its mutex is running", [self.by_key[entry.key]]))
        return found

    def _group(self, entry: Entry) -> list[tuple[tuple[str, str], int, int | None]]:
        if not entry.group:
            return []
        return [(("group", entry.group), self.by_group[entry.group], self.key_limits.get(entry.task))]


_SAID = {
    "queue": ("slots", "all slots of queue {name} are taken ({most})"),
    "task": ("limit", "task {name} is at its limit ({most})"),
    "group": ("concurrency", "its concurrency key is taken (limit {most})"),
}


def _room(used: int, most: int | None, weight: int) -> bool:
    """Whether so much fits beside what is used."""
    return most is None or not weight or not used or used + weight <= most
