"""What a dispatcher left on its spool, told and sent, beside what the reference says: both are to agree."""

from collections import Counter

import rates
import unique
from facts import UNFINISHED, UNSTARTED, Job
from players import STARTS
from reference import Queue
from theatre import UID, Theatre

from cronq import barriers

ENDED = ("done", "cancelled", "expired", "dead", "skipped")


class Comparison:
    """Of one theatre and one reference."""

    def __init__(self, theatre: Theatre, model: Queue) -> None:
        self.theatre, self.model, self.cast = theatre, model, theatre.cast
        self.compared = 0  # how much of the model's log
        self.begun: set[str] = set()
        self.with_data: set[str] = set()
        self.refused: Counter[str] = Counter()  # files set aside
        self.nameless: tuple[Job, bool] | None = None
        self.was_cut = False

    def compare(self) -> None:
        self.compare_history()
        house, model, lying = self.theatre.house, self.model, self.theatre.lying()
        paused = {gate: pause.until for gate, pause in house.pauses.gates.items()}
        assert paused == model.paused, (paused, model.paused)
        assert self.theatre.names("schedule/paused") == set(paused)
        kept = {job.id: job for job in model.of(*UNFINISHED, "dead", "skipped")}
        differ = {(each, state) for each, (state, _) in lying.items()} ^ {
            (each, job.state) for each, job in kept.items()
        }
        assert not differ, differ
        for job_id, (state, entry) in lying.items():
            job = kept[job_id]
            found = house.backlog.find(job_id)
            assert found == (state, entry), (found, state, entry)
            assert entry.priority == job.priority
            assert entry.expires == job.expires
            if job.members:
                assert entry.batch is not None
                made, _, total = entry.batch
                assert total == len(job.members)
                assert made == job.made or (self.was_cut and made < job.made)  # it finds them there, and goes on
            elif state != "dead":
                real = entry.attempt, entry.crashes, entry.due
                assert real == (job.attempt, job.crashes, job.due), (job, entry)
                flags = "c" in entry.flags, "w" in entry.flags, "n" in entry.flags
                assert flags == (job.cancel, job.waits, job.at_once), (job, entry)
        assert sum(house.backlog.counts.values()) == len(lying)
        assert [each.id for each in house.backlog.of("ready")] == [job.id for job in model.of("ready")]
        running = {job.id for job in model.running}
        assert set(house.running) == running
        assert {job_id for worker in self.cast.workers for job_id in worker.parts} <= running
        self.compare_keys()
        self.compare_files(running)

    def compare_keys(self) -> None:
        """Which unique keys are taken, by whom and until when."""
        taken, model = self.theatre.house.backlog.taken, self.model
        found = sorted(sorted(own) for own in taken.holders.values())
        keys = {job.unique for job in model.jobs.values()} - {""}
        want = sorted(ids for key in keys if (ids := sorted(job.id for job in unique.keepers(model, key))))
        assert found == want, (found, want)
        windows = sorted(each for each in taken.windows.values() if each[0] > model.now)
        open_ones = sorted((until, job.id) for until, job in model.windows.values() if until > model.now)
        assert windows == open_ones, (windows, open_ones)

    def compare_cancelling(self) -> None:
        """What runs and is to be cancelled was told so, as long as all workers hear."""
        if all(worker.pace == STARTS for worker in self.cast.workers):
            for worker in self.cast.workers:
                for part in worker.parts.values():
                    assert part.stop is not None or not self.model.jobs[part.id].cancel, part.id

    def compare_whys(self) -> None:
        """Of what has not started, and will not by itself at once, `cronq why` knows a gate that is closed."""
        house, now = self.theatre.house, self.theatre.now
        for job in self.model.of(*UNSTARTED):
            rates.opens(self.model, job)  # who asks when it may start does so of both
        for state in UNSTARTED:
            for entry in house.backlog.entries(state):
                assert barriers.closed(house, now, state, entry), (state, entry)

    def compare_history(self) -> None:
        told = self.theatre.told()
        new = self.model.log[self.compared :]
        self.compared = len(self.model.log)
        want: dict[str, list] = {}
        for job_id, source, state in new:
            want.setdefault(job_id, []).append((source, state))
            if state in ("running", "skipped"):
                self.begun.add(job_id)
        found: dict[str, list] = {}
        for line in told:
            if "id" not in line or "stood" in line:  # how far a key's line reaches; the clock was put forward
                continue
            found.setdefault(line["id"], []).append((line["from"], line["to"]))
        if not self.was_cut:
            assert found == want, (found, want)
        for job_id, moves in want.items():
            job = self.model.jobs.get(job_id)
            if job is not None and moves[-1][1] == job.state:
                self.compare_result(job)

    def learn_id(self, job: Job, data: bool) -> None:
        """A name that somebody chose comes again: the id has the time before it, which only the kernel knows."""
        old = job.id
        ids = {each for each in self.everything() if each.endswith(f"-{given(job)}") and each not in self.model.jobs}
        if not ids and self.was_cut:
            return  # it comes a turn later
        assert len(ids) == 1, ids
        self.nameless = None
        del self.model.jobs[old]
        job.id = ids.pop()
        self.model.jobs[job.id] = job
        for place, (job_id, source, state) in enumerate(self.model.log[self.compared :], self.compared):
            if job_id == old and state != "rejected":
                self.model.log[place] = job.id, source, state
        if data:
            self.with_data.add(job.id)

    def everything(self) -> set[str]:
        return set(self.theatre.lying()) | self.theatre.names(f"out/{UID}")

    def compare_result(self, job: Job) -> None:
        found = self.theatre.result(job.id)
        if job.state not in ENDED:
            assert found is None, (job, found)
            return
        assert found is not None, job
        assert found["state"] == job.state
        if job.members:
            ended = Counter(member.state for member in (*job.members[: job.made], *job.added))
            ended["cancelled"] += len(job.members) - job.made
            # Of one that was removed, nobody knows how it ended any more.
            if (job.made or job.state == "done") and not ended["removed"]:
                assert Counter(found.get("counts", {})) == ended, (job.state, found, ended)
            return
        if self.was_cut and job.state == "skipped":  # of two by whose end it was, either may be told
            assert any(parent.id in found["reason"] for parent in job.parents), (job, found)
            return
        words = f"exit code {job.reason}" if job.reason.isdigit() else job.reason
        assert words in (found["reason"] or ""), (job, found)

    def compare_files(self, running: set[str]) -> None:
        names, jobs = self.theatre.names, self.model.jobs
        assert not names(f"in/{UID}")
        assert self.model.arrived or not names("queue/.capture")
        attempts = {f"{job_id}.{jobs[job_id].attempt}" for job_id in running}
        assert names("queue/outcome") == attempts
        data = {
            each for each in self.with_data if each in jobs and jobs[each].state in (*UNFINISHED, "dead", "skipped")
        }
        assert names("queue/data") == data, names("queue/data") ^ data
        known = {job.id for job in jobs.values() if job.state in ENDED or (job.id in self.begun and not job.members)}
        known |= {job.id for job in jobs.values() if job.reopened or job.added or job.inherits}
        left = names(f"out/{UID}") ^ {each for each in known if jobs[each].state != "removed"}
        assert not left or (self.was_cut and not any(names(f"out/{UID}/{each}") for each in left)), left
        aside = Counter(base(name) for name in names(f"rejected/{UID}") if not name.endswith(".reason"))
        assert aside == self.refused


def given(job: Job) -> str:
    """The name that a producer chose, where it is none of our clients'."""
    name = job.id.partition("-")[2].partition("+")[0]
    return name[14:] if len(name) == 15 else name


def base(name: str) -> str:
    head, _, tail = name.rpartition(".")
    return name if tail in ("job", "jobs", "data") else head
