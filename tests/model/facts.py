"""What the reference knows of a job, and of the configuration. Instants are microseconds, as in the names of jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

UNSTARTED = ("ready", "delayed", "waiting", "held")
UNFINISHED = ("queued", *UNSTARTED, "running")
ALL = ("args", "at", "priority")


@dataclass(frozen=True)
class Conflict:
    """What becomes of a job whose unique key is taken."""

    action: str = "ignore"
    wait: int = 0  # of a throttle and a debounce
    longest: int | None = None  # that a debounce may put off in all
    parts: tuple[str, ...] = ALL  # what a replacement replaces


@dataclass(eq=False)
class Job:
    """What its submitter and its task want, and where it stands."""

    id: str
    due: int = 0
    first: int = 0  # when its first attempt was due
    priority: int = 0
    queue: str = "default"
    task: str = ""
    expires: int = 0
    within: int = 0  # how long after it is due it may start, where it does not say when it expires
    retries: int = 0
    backoff: tuple[float, float, float, float] = (15.0, 2.0, 3600.0, 0.2)  # base, factor, most, jitter
    once: bool = False
    on_crash: str = "retry"
    max_crashes: int = 3
    # where it stands (reference.py)
    state: str = "queued"
    reason: str = ""
    attempt: int = 0
    crashes: int = 0
    cancel: bool = False
    at_once: bool = False  # it is to start now, whatever the gates say
    # beside what it may run (gates.py)
    weight: int = 1
    mutex: str = ""
    key: str = ""  # of its task's `concurrency`
    # what it waits for (needs.py)
    needs: dict[str, list[Job]] = field(default_factory=dict)
    waits: bool = False  # for them, still
    # of what there is one at a time (unique.py)
    unique: str = ""
    until: str = "end"
    inherits: bool = False  # it has an older one's place, which is written down beside its results
    lasts: int = 0  # how long its key is taken at least, from when it was due
    conflict: Conflict = field(default_factory=Conflict)
    # batches (batch.py)
    parent: Job | None = None
    members: list[Job] = field(default_factory=list)  # of a batch: its lines
    made: int = 0  # how many of those are jobs of their own by now
    added: list[Job] = field(default_factory=list)  # those that were added to it
    calls: tuple[str, ...] = ()  # the events of it at which a job runs
    event: str = ""  # of such a job
    reopened: bool = False  # a batch that had ended, and of which a dead member was retried

    @property
    def order(self) -> tuple[int, int, str]:
        return -self.priority, self.due, f"{self.id},"  # a batch comes after its members

    @property
    def parents(self) -> list[Job]:
        return [parent for parents in self.needs.values() for parent in parents]


@dataclass(frozen=True)
class Says:
    """The configuration."""

    max_jobs: int
    slots: dict[str, int]  # of queues
    limits: dict[str, int]  # of tasks
    keys: dict[str, tuple[int, str]]  # of tasks: how many of one key run at once, and what becomes of one more
    rates: dict[str, tuple[float, int]]  # of "queue x", "task x", "key x": seconds between two, and how many at once
    agings: dict[str, int]  # seconds in which a job gains a priority, of queues that do not have the usual ones
    pausing: tuple[str, ...]  # gates that are paused when a job of theirs is dead
    window: int  # how many members of one batch are made at a time
    most: int  # and may wait
    chance: float
