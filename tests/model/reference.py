"""The queue as its rules have it: jobs in memory, and one method for each thing that can happen to them.

It knows of no file, lock, worker or restart, and shares nothing with cronq but the words. `test_model` does the same to
it and to a real dispatcher, and wants both to agree. Here are a job's states, its attempts, and what people do to it;
every other family of rules has a room of its own: needs.py, batch.py, unique.py, gates.py, rates.py.
"""

import math

import batch
import gates
import needs
import unique
from facts import UNFINISHED, UNSTARTED, Job, Says

NEVER_AGAIN = (64, 65, 77, 78)


class Queue:
    """Every job, and what may run beside what."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.now = 0  # the clock, in microseconds
        self.mono = 0.0  # the seconds that have passed, whatever the clock was set to
        self.jobs: dict[str, Job] = {}
        self.running: list[Job] = []
        self.arrived: list[Job] = []
        self.news: list[tuple[Job, object]] = []  # how attempts ended
        self.lapsed: list[Job] = []  # those that expired in this turn before a further attempt
        self.log: list[tuple[str, str, str]] = []  # every transition: whose, from where, to where
        self.paused: dict[str, float] = {}  # gates of which nothing starts, each until that second
        self.paid: dict[str, float] = {}  # rates.py
        self.windows: dict[str, tuple[int, Job]] = {}  # unique.py
        self.begun: dict[str, int] = {}  # unique.py

    def move(self, job: Job, state: str, reason: str = "") -> None:
        self.log.append((job.id, job.state, state))
        job.state, job.reason = state, reason
        unique.moved(self, job)

    def of(self, *states: str) -> list[Job]:
        return sorted((job for job in self.jobs.values() if job.state in states), key=lambda job: job.order)

    # ---------------------------------------------------------------- what people do: the state then, None if refused

    def cancelled(self, job: Job) -> str | None:
        """What waits ends; what runs is to end, and is not tried again; a batch is all of its members."""
        if job.members and job.state in UNFINISHED and batch.has_begun(job):
            batch.cancel(self, job)
        elif job.state in UNSTARTED:
            self.move(job, "cancelled", "cancelled")
        elif job.state == "running":
            job.cancel = True
        return "cancelling" if job.state == "running" else job.state

    def held(self, job: Job) -> str | None:
        if job.state not in UNSTARTED:
            return None
        if job.state != "held":
            job.at_once = False
            self.move(job, "held", "held by hand")
        return "held"

    def released(self, job: Job) -> str | None:
        """Back to its place."""
        if job.state != "held":
            return None
        self.move(job, self.place(job))
        return job.state

    def place(self, job: Job) -> str:
        """Where a job waits."""
        return "waiting" if job.waits else "delayed" if job.due > self.now else "ready"

    def retried(self, job: Job) -> str | None:
        """Due now, as if it had never run; its batch has not ended then, however it had."""
        if job.state != "dead" or (job.parent is not None and job.parent.cancel and job.parent.state in UNFINISHED):
            return None
        batch.reopen(self, job.parent)
        job.attempt = job.crashes = 0
        job.due, job.cancel = self.now, False
        job.expires = job.expires if job.expires > self.now else 0
        self.move(job, "ready")
        return "ready"

    def started_now(self, job: Job, ignore_after: bool) -> str | None:
        """It passes all gates but those that keep jobs apart."""
        if job.members or job.state not in UNSTARTED or (job.waits and not ignore_after):
            return None
        if job.state != "ready" or not job.at_once:
            self.move(job, "ready")
        job.at_once, job.waits = True, False
        return "starting"

    def edited(self, job: Job, **fields: object) -> str | None:
        """It has another priority, due time, queue or end; what is to start so long after it is due, expires anew."""
        if job.members or job.state not in UNSTARTED:
            return None
        if "due" in fields and job.within and "expires" not in fields:
            fields["expires"] = fields["due"] + job.within
        self.change(job, **fields, **({"at_once": False} if "due" in fields else {}))
        return job.state

    def change(self, job: Job, **fields: object) -> None:
        """Give a job that has not started another place."""
        fields = {name: value for name, value in fields.items() if getattr(job, name) != value}
        for name, value in fields.items():
            setattr(job, name, value)
        if "due" in fields and job.state in ("ready", "delayed"):
            self.move(job, "delayed" if job.due > self.now else "ready")
        elif fields:
            self.move(job, job.state, job.reason)

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

    def judged(self, job: Job, how: object) -> tuple[str, str]:
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
            job.due = self.later(job, job.crashes, 1.0)
            return "delayed", "worker died"
        if how == 0:
            return "done", ""
        if job.cancel or how == "cancelled":
            return "cancelled", "cancelled" if how == "cancelled" else f"{how}"
        if how in NEVER_AGAIN or job.attempt > job.retries:
            return "dead", f"{how}"
        job.due = self.later(job, job.attempt, 0.0)
        return "delayed", f"{how}"

    def later(self, job: Job, number: int, least: float) -> int:
        base, factor, most, jitter = job.backoff
        wait = min(most, base * factor ** (number - 1)) * (1 + jitter * self.says.chance)
        return int((self.now / 1e6 + max(least, wait)) * 1e6)

    # ---------------------------------------------------------------- one turn

    def turn(self) -> None:
        """What is over, what came, what is due, what may start; then it is known how what is over has ended."""
        over = [(job, *self.judged(job, how)) for job, how in self.news]
        self.news, self.lapsed = [], []
        for job, state, _ in over:
            self.running.remove(job)
            if state == "ready":
                gates.give_back(self, job)
                self.move(job, state)
                if job.cancel:
                    self.cancelled(job)
            for gate in gates.of(job) if state == "dead" else ():
                if gate in self.says.pausing:
                    self.pause(gate)
        for job in sorted(self.arrived, key=lambda job: job.id):
            self.arrive(job)
        self.arrived = []
        for job in self.of(*UNSTARTED):
            self.expire(job)
        for job in self.of("delayed"):
            if job.due <= self.now:
                self.move(job, "ready")
        while any(needs.look(self, job) for job in self.of("waiting", "skipped")):
            continue
        self.paused = {gate: until for gate, until in self.paused.items() if until > self.now / 1e6}
        gates.launch(self)
        for job, state, reason in over:
            if state != "ready":
                job.at_once = False
                self.move(job, state, reason)
                if job.cancel and job.state == "delayed":
                    self.cancelled(job)
        batch.look(self, [*self.lapsed, *(job for job, *_ in over)])

    def arrive(self, job: Job) -> None:
        """A job is taken, if its batch and its unique key let it."""
        if (job.parent is None or batch.takes(self, job)) and unique.claim(self, job):
            self.jobs[job.id] = job
            self.move(job, self.place(job))
            if job.parent is not None:
                job.parent.added.append(job)
        else:
            self.move(job, "rejected")

    def expire(self, job: Job) -> bool:
        """It never starts any more; where an attempt of it failed, that was its last."""
        if not 0 < job.expires <= self.now:
            return False
        if not job.attempt and not job.crashes:
            self.move(job, "expired", "expired")
            return True
        for gate in gates.of(job):
            if gate in self.says.pausing:
                self.pause(gate)
        job.at_once = False
        self.move(job, "dead", "expired before its next attempt")
        self.lapsed.append(job)
        return True

    def start(self, job: Job) -> None:
        job.attempt += 1
        self.running.append(job)
        self.move(job, "running")
