"""The queue as its rules have it: jobs in memory, and one method for each thing that can happen to them.

It knows of no file, lock, worker or restart, and shares nothing with cronq but the words. `test_model` does the same to
it and to a real dispatcher, and wants both to agree. Instants are microseconds, as in the names of jobs.
"""

import math
import sys
from dataclasses import dataclass, field

import needs

UNSTARTED = ("ready", "delayed", "waiting", "held")
UNFINISHED = ("queued", *UNSTARTED, "running")
NEVER_AGAIN = (64, 65, 77, 78)


@dataclass(eq=False)
class Job:
    """What its submitter and its task want, and where it stands."""

    id: str
    due: int = 0
    first: int = 0  # when its first attempt was due
    priority: int = 0
    queue: str = "default"
    task: str = ""
    weight: int = 1
    mutex: str = ""
    expires: int = 0
    retries: int = 0
    backoff: tuple[float, float, float, float] = (15.0, 2.0, 3600.0, 0.2)  # base, factor, most, jitter
    once: bool = False
    on_crash: str = "retry"
    max_crashes: int = 3
    parent: "Job | None" = None
    members: "list[Job]" = field(default_factory=list)  # of a batch: all of them
    calls: tuple[str, ...] = ()  # the events of it at which a job runs
    needs: "dict[str, list[Job]]" = field(default_factory=dict)  # which jobs it waits for (needs.py)
    waits: bool = False  # for them, still
    event: str = ""  # of such a job
    made: int = 0  # how many of those are jobs of their own by now
    state: str = "queued"
    reason: str = ""
    attempt: int = 0
    crashes: int = 0
    cancel: bool = False
    reopened: bool = False  # a batch that had ended, and of which a dead member was retried

    @property
    def order(self) -> tuple[int, int, str]:
        return -self.priority, self.due, f"{self.id},"  # a batch comes after its members

    @property
    def gates(self) -> tuple[str, ...]:
        """Those whose pause keeps it from starting; a batch starts nothing by itself, its members do."""
        return () if self.members else ("drain", f"queue:{self.queue}", f"task:{self.task}")

    @property
    def parents(self) -> "list[Job]":
        return [parent for parents in self.needs.values() for parent in parents]

    @property
    def waiting(self) -> int:
        """Of a batch: how many of its members are jobs of their own, and have not ended."""
        return sum(member.state in UNFINISHED for member in self.members[: self.made])


class Queue:
    """Every job, and what may run beside what."""

    def __init__(
        self,
        max_jobs: int,
        slots: dict[str, int],
        limits: dict[str, int],
        window: int,
        most: int,
        chance: float,
        agings: dict[str, int],
        pausing: tuple[str, ...],
    ) -> None:
        self.pausing = pausing  # gates that are paused when a job of theirs is dead
        self.paused: dict[str, float] = {}  # gates of which nothing starts, each until that second
        self.agings = agings  # seconds in which a job gains a priority, of queues that do not have the usual ones
        self.window, self.most = window, most  # members of one batch that are made at a time, and that may wait
        self.max_jobs, self.slots, self.limits, self.chance = max_jobs, slots, limits, chance
        self.jobs: dict[str, Job] = {}
        self.running: list[Job] = []
        self.arrived: list[Job] = []
        self.news: list[tuple[Job, object]] = []  # how attempts ended
        self.log: list[tuple[str, str, str]] = []  # every transition: whose, from where, to where

    def move(self, job: Job, state: str, reason: str = "") -> None:
        self.log.append((job.id, job.state, state))
        job.state, job.reason = state, reason

    def of(self, *states: str) -> list[Job]:
        return sorted((job for job in self.jobs.values() if job.state in states), key=lambda job: job.order)

    # ---------------------------------------------------------------- what people do: the state then, None if refused

    def cancelled(self, job: Job) -> str | None:
        """What waits ends; what runs is to end, and is not tried again; a batch is all of its members."""
        if job.members and job.state in UNFINISHED and (job.made or job.calls or job.state == "running"):
            job.cancel = True
            if job.state in ("held", "delayed"):
                self.move(job, "ready")
            if job.state == "ready":
                self.move(job, "running")
            for member in job.members[: job.made]:
                self.cancelled(member)
        elif job.state in UNSTARTED:
            self.move(job, "cancelled", "cancelled")
        elif job.state == "running":
            job.cancel = True
        return "cancelling" if job.state == "running" else job.state

    def held(self, job: Job) -> str | None:
        if job.state not in UNSTARTED:
            return None
        if job.state != "held":
            self.move(job, "held", "held by hand")
        return "held"

    def released(self, job: Job, now: int) -> str | None:
        """Back to its place."""
        if job.state != "held":
            return None
        self.move(job, self.place(job, now))
        return job.state

    def place(self, job: Job, now: int) -> str:
        """Where a job waits."""
        return "waiting" if job.waits else "delayed" if job.due > now else "ready"

    def retried(self, job: Job, now: int) -> str | None:
        """Due now, as if it had never run; its batch has not ended then, however it had."""
        if job.state != "dead" or (job.parent is not None and job.parent.cancel and job.parent.state in UNFINISHED):
            return None
        if job.parent is not None and job.parent.state == "done":
            self.move(job.parent, "running")
            job.parent.reopened = True
        job.attempt = job.crashes = 0
        job.due, job.cancel = now, False
        job.expires = job.expires if job.expires > now else 0
        self.move(job, "ready")
        return "ready"

    def removed(self, job: Job) -> str | None:
        if job.state in UNFINISHED or any(each.waits and job in each.parents for each in self.of("waiting", "held")):
            return None
        self.move(job, "removed")
        return "removed"

    def pause(self, gate: str, until: float = math.inf) -> None:
        self.paused[gate] = until

    def resume(self, gate: str) -> None:
        self.paused.pop(gate, None)

    # ---------------------------------------------------------------- what an attempt comes to

    def judged(self, job: Job, how: object, now: int) -> tuple[str, str]:
        """The state that a job is in after an attempt that ended so, and why. A crash uses no attempt."""
        if how == "never started":
            job.attempt -= 1
            return "ready", ""
        if how in ("crashed", "unknown"):
            job.crashes += 1
            job.attempt -= 1
            if job.cancel and (how == "crashed" or not job.once):
                return "cancelled", "worker died"
            if job.on_crash == "hold" and not job.cancel:
                return "held", "worker died"
            if job.once:
                return "dead", "unknown"
            if job.on_crash == "dead":
                return "dead", "crashed"
            if job.crashes >= job.max_crashes:
                return "dead", "poison"
            job.due = self.later(job, now, job.crashes, 1.0)
            return "delayed", "worker died"
        if how == 0:
            return "done", ""
        if job.cancel or how == "cancelled":
            return "cancelled", "cancelled" if how == "cancelled" else f"{how}"
        if how in NEVER_AGAIN or job.attempt > job.retries:
            return "dead", f"{how}"
        job.due = self.later(job, now, job.attempt, 0.0)
        return "delayed", f"{how}"

    def later(self, job: Job, now: int, number: int, least: float) -> int:
        base, factor, most, jitter = job.backoff
        wait = min(most, base * factor ** (number - 1)) * (1 + jitter * self.chance)
        return int((now / 1e6 + max(least, wait)) * 1e6)

    # ---------------------------------------------------------------- one turn

    def turn(self, now: int) -> None:
        """What is over, what came, what is due, what may start."""
        over = [(job, *self.judged(job, how, now)) for job, how in self.news]
        self.news = []
        for job, state, _ in over:
            self.running.remove(job)
            if state == "ready":
                self.move(job, state)
                if job.cancel:
                    self.cancelled(job)
            for gate in job.gates if state == "dead" else ():
                if gate in self.pausing:
                    self.pause(gate)
        for job in sorted(self.arrived, key=lambda job: job.id):
            self.jobs[job.id] = job
            self.move(job, self.place(job, now))
        self.arrived = []
        for job in self.of(*UNSTARTED):
            if 0 < job.expires <= now:
                self.move(job, "expired", "expired")
        for job in self.of("delayed"):
            if job.due <= now:
                self.move(job, "ready")
        while any(self.look(job, now) for job in self.of("waiting", "skipped")):
            continue
        self.paused = {gate: until for gate, until in self.paused.items() if until > now / 1e6}
        while (found := self.next(now)) is not None:
            self.start(found, now)
        for job, state, reason in over:
            if state != "ready":
                self.move(job, state, reason)
                if job.cancel and job.state == "delayed":
                    self.cancelled(job)
        for job, *_ in over:
            if job.state == "dead" and job.parent is not None and job.parent.state in UNFINISHED:
                self.call(job.parent, "first_death", now)
        for batch in [job for job in self.of("running") if job.members]:
            if not batch.waiting and not self.called(batch, now):
                done = all(member.state == "done" for member in batch.members)
                self.move(batch, "cancelled" if batch.cancel else "done", "" if done else "in part")

    def look(self, job: Job, now: int) -> bool:
        """Whether it goes on, is skipped, or waits again since that by which it was skipped is to be tried again."""
        parent = needs.hopeless(job)
        if (job.state == "skipped") == (parent is not None):
            if parent is not None or not needs.is_met(job):
                return False
            job.waits = False
            self.move(job, self.place(job, now))
        else:
            self.move(job, "waiting" if parent is None else "skipped", "" if parent is None else parent.id)
        return True

    def called(self, batch: Job, now: int) -> bool:
        """Whether a batch that is over has a job to make first: it ends when that is safe."""
        ends = {member.state for member in batch.members}
        events = ["first_death"] * ("dead" in ends) + ["complete"] + ["success"] * (ends == {"done"})
        return sum(self.call(batch, event, now) for event in events) > 0

    def call(self, batch: Job, event: str, now: int) -> bool:
        """Make the job of this event, once."""
        job = Job(f"{batch.id}+{event}", due=now, first=sys.maxsize, event=event)  # its id has its batch's time
        if event not in batch.calls or job.id in self.jobs:
            return False
        self.jobs[job.id] = job
        self.move(job, "ready")
        return True

    def next(self, now: int) -> Job | None:
        """The first that fits beside what runs, or what came earlier and has waited for long enough to count as much;
        room that is too small for one that is looked at before is kept for that one.
        """
        kept: set[tuple[str, str]] = set()
        waiting = self.of("ready") if len(self.running) < self.max_jobs else []
        while (urgent := next((job for job in waiting if self.fits(job, kept)), None)) is not None:
            aged = [job for job in waiting if self.has_aged(job, urgent, now)]
            for priority in dict.fromkeys(job.priority for job in sorted(aged, key=lambda job: job.order[1:])):
                level = [job for job in aged if job.priority == priority]
                found = next((job for job in level if self.fits(job, kept)), None)
                if found is not None:
                    aged = [job for job in aged if job.order[1:] < found.order[1:]]
                    urgent = found
            if self.fits(urgent, kept):
                return urgent
        return None

    def has_aged(self, job: Job, urgent: Job, now: int) -> bool:
        """Whether it comes before what is more urgent."""
        aging = self.agings.get(job.queue, 300) * 1_000_000
        less = urgent.priority - job.priority
        return less > 0 < aging and now - job.due >= less * aging and job.order[1:] < urgent.order[1:]

    def fits(self, job: Job, kept: set[tuple[str, str]]) -> bool:
        if any(gate in self.paused for gate in job.gates):
            return False
        if job.mutex and any(other.mutex == job.mutex for other in self.running):
            return False
        if job.members:
            return job.waiting < self.most
        rooms = [("queue", job.queue, self.slots.get(job.queue)), ("task", job.task, self.limits.get(job.task))]
        narrow = set()
        full = False
        for kind, name, most in rooms if job.weight else []:
            used = sum(other.weight for other in self.running if getattr(other, kind) == name)
            full = full or (most is not None and used >= most) or (kind, name) in kept
            if most is not None and 0 < used < most < used + job.weight:
                narrow.add((kind, name))
        if not full:
            kept |= narrow
        return not full and not narrow

    def start(self, job: Job, now: int) -> None:
        if 0 < job.expires <= now:
            self.move(job, "expired", "expired")
            return
        if not job.members:
            job.attempt += 1
            self.running.append(job)
            self.move(job, "running")
            return
        most = min(job.waiting + self.window, self.most)
        while job.made < len(job.members) and job.waiting < most:
            member = job.members[job.made]
            job.made += 1
            self.jobs[member.id] = member
            member.state = "delayed" if member.due > now else "ready"
        if job.made == len(job.members):
            self.move(job, "running")
