"""A real dispatcher and a model of the queue live through the same things at random, and agree after every turn.

Both are told alike what producers, people, workers and the clock do. The dispatcher does it in files, with real locks
and real messages (theatre.py); the model (reference.py) knows none of that. After every turn: each job's state,
attempts, due time and order, what runs, each result, one line of the history a transition, and nothing in the spool
that no job accounts for. `Cuts` kills the dispatcher at random steps besides. CRONQ_LONG=1 takes many more steps.
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import needs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from players import DEAF, HEARS, STARTS
from reference import UNFINISHED, UNSTARTED, Job, Queue
from theatre import MORE, UID, Cut, Theatre

from cronq import barriers
from cronq.dispatcher import take_up
from cronq.job import CALLBACKS

LONG = bool(os.environ.get("CRONQ_LONG"))
CHANCE = 0.5
TOML = """
[limits]
max_jobs = 4
[queues.narrow]
slots = 2
aging = "1s"
[queues.other]
aging = 0
pause_on_failure = true
[tasks.once]
command = ["true"]
delivery = "at-most-once"
retries = 1
[tasks.hold]
command = ["true"]
on_crash = "hold"
retries = 1
[tasks.oncehold]
command = ["true"]
delivery = "at-most-once"
on_crash = "hold"
[tasks.bury]
command = ["true"]
on_crash = "dead"
pause_on_failure = true
[tasks.poison]
command = ["true"]
max_crashes = 2
[tasks.few]
command = ["true"]
limit = 2
[tasks.alone]
command = ["true"]
mutex = "m"
"""
TASKS = {
    "": {},
    "once": {"once": True, "on_crash": "dead", "retries": 1},
    "hold": {"on_crash": "hold", "retries": 1},
    "oncehold": {"once": True, "on_crash": "hold"},
    "bury": {"on_crash": "dead"},
    "poison": {"max_crashes": 2},
    "few": {},
    "alone": {"mutex": "m"},
}
QUEUES = ("default", "narrow", "other")
PAUSING = ("queue:other", "task:bury")
GATES = ("drain", *(f"queue:{name}" for name in QUEUES), *(f"task:{name}" for name in TASKS if name))
ENDED = ("done", "cancelled", "expired", "dead", "skipped")

specs = st.fixed_dictionaries(
    {"task": st.sampled_from(("", "", *TASKS))},
    optional={
        "priority": st.sampled_from(("low", "high", 20, 3)),
        "delay": st.sampled_from((0, 1, 7, 60)),
        "at": st.sampled_from((-5, 2, 90)),
        "expires": st.sampled_from((0, 3, 40)),
        "retries": st.sampled_from((0, 1, 3)),
        "backoff": st.sampled_from(((0.0, 2.0, 9.0, 0.0), (1.0, 3.0, 20.0, 0.2))),
        "queue": st.sampled_from(("narrow", "other")),
        "weight": st.sampled_from((0, 2, 3)),
        "mutex": st.sampled_from(("m", "n")),
        "data": st.just(True),
    },
)
picks = st.integers(0, 99)
wants = st.lists(st.tuples(st.sampled_from((*needs.KEYS, "after")), picks), min_size=1, max_size=2)
ends = st.sampled_from((0, 0, 1, 3, 75, 64, 65, 77, 78, "signal", "timeout"))


class Calm(RuleBasedStateMachine):
    """Everything happens between turns; a dispatcher that ends has said and done what it began."""

    least_backoff = 0.0
    window = 3

    def __init__(self) -> None:
        super().__init__()
        self.theatre = Theatre(TOML, self.window, CHANCE)
        agings = {"narrow": 1, "other": 0}
        self.model = Queue(4, {"narrow": 2}, {"few": 2}, self.window, self.window + MORE, CHANCE, agings, PAUSING)
        self.cast = self.theatre.cast
        self.compared = 0  # how much of the model's log
        self.names = 0
        self.begun: set[str] = set()
        self.with_data: set[str] = set()
        self.refused: Counter[str] = Counter()  # files set aside
        self.later: list[Job] = []
        self.nameless: tuple[Job, bool] | None = None
        self.was_cut = False
        self.settle()

    def teardown(self) -> None:
        self.theatre.close()

    # ---------------------------------------------------------------- producers

    def spec(self, said: dict, job_id: str) -> tuple[dict, Job]:
        """What is written into a job's file, and the job that it is."""
        now, get = self.theatre.wall, said.get
        keys = {key: said[key] for key in ("priority", "retries", "queue", "weight", "mutex") if key in said}
        keys |= {"task": said["task"]} if said["task"] else {"command": ["true"]}
        job = Job(job_id, task=said["task"], due=int(now * 1e6), **TASKS[said["task"]])
        if "delay" in said:
            keys["delay"] = said["delay"]
            job.due = int((now + said["delay"]) * 1e6)
        elif "at" in said:
            keys["at"] = instant(now + said["at"])
            job.due = int((now + max(0, said["at"])) * 1e6)
        if "expires" in said:
            keys["expires"] = instant(now + said["expires"])
            job.expires = int((now + said["expires"]) * 1e6)
        if "backoff" in said:
            job.backoff = max(said["backoff"][0], self.least_backoff), *said["backoff"][1:]
            keys["backoff"] = dict(zip(("base", "factor", "max", "jitter"), job.backoff, strict=True))
        job.priority = {"low": -10, "high": 10}.get(get("priority"), get("priority", 0))
        job.retries = get("retries", job.retries)
        job.queue = get("queue", job.queue)
        job.weight = get("weight", job.weight)
        job.mutex = get("mutex", job.mutex)
        job.first = job.due
        for key, parent in get("needs", ()):
            job.needs.setdefault(key, []).append(parent)
            keys.setdefault(key, []).append(parent.id)
        job.waits = bool(job.needs)
        return keys, job

    def name(self) -> str:
        """As our own clients choose them."""
        self.names += 1
        letters = "abcdefghijkmnpqrstuvwxyz23456789"
        return f"{self.theatre.micros:013x}-" + "".join(
            letters[(self.names >> 5 * place) & 31] for place in range(7, -1, -1)
        )

    @rule(said=specs)
    def submit(self, said: dict) -> None:
        name = self.name()
        keys, job = self.spec(said, f"{UID}-{name}")
        if "data" in said:
            self.with_data.add(job.id)
        self.theatre.drop(f"{name}.job", json.dumps(keys).encode(), b"input" if "data" in said else None)
        self.model.arrived.append(job)
        self.settle()

    @rule(said=specs, wanted=wants)
    @precondition(lambda self: self.nameable())
    def submit_after(self, said: dict, wanted: list[tuple[str, int]]) -> None:
        """A job that waits for others, mostly for such as may come to another end still."""
        known, failed, live = self.nameable(), self.nameable("dead", "skipped"), self.nameable(*UNFINISHED)
        pools = [some for some in (failed, live, failed, live, known) if some]
        parents = [(key, chosen(chosen(pools, pick), pick // 5)) for key, pick in wanted]
        own = {key: value for key, value in said.items() if key not in ("expires", "delay", "at")}
        self.submit({**own, "needs": list(dict.fromkeys(parents))})

    def nameable(self, *states: str) -> list[Job]:
        """Jobs that another one may wait for, also members of batches that are to come."""
        jobs = [each for job in self.model.jobs.values() for each in (job, *job.members[job.made :])]
        known = [job for job in jobs if not job.event and needs.end(job) != "gone"]
        return [job for job in known if not states or job.state in states]

    @rule(
        members=st.lists(specs, min_size=1, max_size=6),
        header=st.booleans(),
        calls=st.sets(st.sampled_from(CALLBACKS)),
    )
    def submit_many(self, members: list[dict], header: bool, calls: frozenset[str] = frozenset()) -> None:
        name = self.name()
        batch = Job(f"{UID}-{name}", due=self.theatre.micros, calls=tuple(calls) if header else ())
        told = {f"on_{event}": {"command": ["true"]} for event in batch.calls}
        self.with_data |= {f"{batch.id}+{event}" for event in batch.calls}
        lines = [json.dumps({"jobs": len(members)} | told)] if header else []
        for number, said in enumerate(members, 1):
            keys, job = self.spec(said, f"{batch.id}+{number}")
            job.parent = batch
            batch.members.append(job)
            lines.append(json.dumps(keys))
        batch.priority = max(job.priority for job in batch.members)
        self.theatre.drop(f"{name}.jobs", "".join(f"{line}\n" for line in lines).encode())
        self.later = [batch] if header else []  # what says its size is read a turn later
        self.model.arrived += [] if header else [batch]
        self.settle()

    @rule(said=specs, which=st.sampled_from("ab"))
    def submit_by_a_name_of_ones_own(self, said: dict, which: str) -> None:
        earlier = [job for job in self.model.of(*UNFINISHED) if given(job) == which]
        keys, job = self.spec(said, f"{UID}-{which}")
        self.theatre.drop(f"{which}.job", json.dumps(keys).encode(), b"input" if "data" in said else None)
        if earlier:
            self.refuse(which, "data" in said)
        else:
            job.due = job.due if "delay" in said or "at" in said else self.theatre.micros
            job.first = sys.maxsize  # its id tells of the time that the file was made, by the real clock
            self.model.arrived.append(job)
            self.nameless = job, "data" in said
        self.settle()

    @rule(pick=picks)
    @precondition(lambda self: self.of_ours())
    def submit_again(self, pick: int) -> None:
        """A producer that did not hear that it is queued."""
        name = chosen(self.of_ours(), pick).id.partition("-")[2]
        self.theatre.drop(f"{name}.job", b'{"command": ["true"]}')
        self.refuse(name, False)
        self.settle()

    @rule(
        bad=st.sampled_from((b"{}", b'{"command": ["true"], "retries": -1}', b"rubbish")),
        many=st.booleans(),
        data=st.booleans(),
    )
    def submit_what_is_wrong(self, bad: bytes, many: bool, data: bool) -> None:
        name = self.name()
        if many:
            self.theatre.drop(f"{name}.jobs", b'{"command": ["true"]}\n' + bad + b"\n")
        else:
            self.theatre.drop(f"{name}.job", bad, b"input" if data else None)
        self.refuse(name, data and not many, ".jobs" if many else ".job")
        self.settle()

    def refuse(self, name: str, data: bool, ending: str = ".job") -> None:
        self.model.log.append((f"{UID}-{name}", "queued", "rejected"))
        self.refused[name + ending] += 1
        if data:
            self.refused[f"{name}.data"] += 1

    def of_ours(self) -> list[Job]:
        """Jobs that clients of ours named, and that nobody removed."""
        return [
            job
            for job in self.model.jobs.values()
            if "+" not in job.id and not job.members and len(given(job)) > 1 and job.state != "removed"
        ]

    # ---------------------------------------------------------------- workers

    @rule(pick=picks, how=ends, tell=st.sampled_from((True, True, True, False)))
    @precondition(lambda self: self.started())
    def end(self, pick: int, how: object, tell: bool) -> None:
        """A job ends; where its worker does not tell, it dies with the outcome written."""
        worker, job_id = chosen(self.started(), pick)
        worker.end(job_id, how, tell)
        if not tell:
            worker.die()
        self.settle()

    @rule(pick=picks, known=st.booleans())
    @precondition(lambda self: self.cast.workers)
    def crash(self, pick: int, known: bool) -> None:
        self.cast.known = known
        chosen(self.cast.workers, pick).die()
        self.settle()

    @rule(pick=picks, pace=st.sampled_from((DEAF, HEARS, STARTS, STARTS)))
    @precondition(lambda self: self.cast.workers)
    def pace(self, pick: int, pace: int) -> None:
        """A worker does not hear for a while, or does not come to start what it heard of."""
        chosen(self.cast.workers, pick).pace = pace
        self.settle()

    def started(self) -> list[tuple]:
        return [(each, part.id) for each in self.cast.workers for part in each.parts.values() if part.step == "started"]

    # ---------------------------------------------------------------- people

    @rule(pick=picks, now=st.booleans())
    @precondition(lambda self: self.model.jobs)
    def cancel(self, pick: int, now: bool) -> None:
        self.do("cancel", self.likely(pick, *UNFINISHED), self.model.cancelled, now=now)

    @rule(pick=picks)
    @precondition(lambda self: self.model.jobs)
    def hold(self, pick: int) -> None:
        self.do("hold", self.likely(pick, *UNSTARTED), self.model.held)

    @rule(pick=picks)
    @precondition(lambda self: self.model.of("held"))
    def release(self, pick: int) -> None:
        self.do("release", self.likely(pick, "held"), lambda job: self.model.released(job, self.theatre.micros))

    @rule(pick=picks)
    @precondition(lambda self: self.model.of("dead"))
    def retry(self, pick: int) -> None:
        wanted = [parent for job in self.model.of("skipped") for parent in job.parents if parent.state == "dead"]
        job = chosen(wanted, pick) if wanted and pick % 2 else self.likely(pick, "dead")
        self.do("retry", job, lambda job: self.model.retried(job, self.theatre.micros))

    @rule(pick=picks)
    @precondition(lambda self: self.model.of(*ENDED))
    def remove(self, pick: int) -> None:
        job = self.likely(pick, *ENDED)
        if not job.members and not job.event and (job.parent is None or job.parent.state not in UNFINISHED):
            self.do("rm", job, self.model.removed)

    @rule(gate=st.sampled_from(GATES), seconds=st.sampled_from((None, 2, 40)))
    def pause(self, gate: str, seconds: int | None) -> None:
        """A queue, a task, or with `drain` all of them: nothing of it starts, until a time or until it is resumed."""
        if gate == "drain":
            self.told({"gate": gate, "paused": True}, do="drain")
            self.model.pause(gate)
        else:
            until = None if seconds is None else self.theatre.wall + seconds
            self.told({"gate": gate, "paused": until or True}, do="pause", gate=gate, until=until)
            self.model.pause(gate, until or math.inf)
        self.settle()

    @rule(pick=picks)
    @precondition(lambda self: self.model.paused)
    def resume(self, pick: int) -> None:
        gate = chosen(sorted(self.model.paused), pick)
        request = {"do": "drain", "end": True} if gate == "drain" else {"do": "resume", "gate": gate}
        self.told({"gate": gate, "paused": False}, **request)
        self.model.resume(gate)
        self.settle()

    def told(self, want: dict, **request: object) -> None:
        """Ask for something about a gate; this is the first that is answered, perhaps among more."""
        self.hear()
        answers = self.asked(**request)
        if answers is not None:
            assert want.items() <= answers[0].items(), (request, answers)

    def likely(self, pick: int, *states: str) -> Job:
        """Mostly one in these states, else any."""
        some = self.model.of(*states)
        return chosen(some if some and pick % 8 else list(self.model.jobs.values()), pick)

    def do(self, verb: str, job: Job, act, **more: object) -> None:
        self.hear()
        if job.state == "removed":
            return
        want = act(job)
        answers = self.asked(do=verb, ids=[job.id], **more)
        if answers is not None:
            assert [each.get("state") for each in answers] == [want], (verb, job, answers)
        self.settle()

    def asked(self, **request: object) -> list[dict] | None:
        return self.theatre.ask(**request)

    # ---------------------------------------------------------------- time

    @rule(seconds=st.sampled_from((0.25, 1.0, 2.0, 6.0, 11.0, 30.0, 61.0, 600.0)))
    def pass_time(self, seconds: float) -> None:
        self.theatre.wall += seconds
        self.theatre.mono += seconds
        self.settle()

    @rule()
    def pass_time_to_what_is_due(self) -> None:
        dues = [job.due for job in self.model.of("delayed")] + [
            job.expires for job in self.model.of(*UNSTARTED) if job.expires
        ]
        dues += [until * 1e6 for until in self.model.paused.values() if until < math.inf]
        if dues:
            step = max(0.0, math.ceil(min(dues) / 250_000) / 4 - self.theatre.wall)
            self.theatre.wall += step
            self.theatre.mono += step
            self.settle()

    @rule(seconds=st.sampled_from((-30.0, -3600.0, 3600.0)))
    def set_the_clock(self, seconds: float) -> None:
        self.theatre.wall += seconds
        self.settle()

    @rule()
    def restart(self) -> None:
        self.theatre.end()
        assert not self.theatre.sweep()
        self.theatre.begin()
        take_up(self.theatre.house, self.theatre.now)

    # ---------------------------------------------------------------- and what comes of it

    def hear(self) -> int:
        count = self.theatre.hear()
        for job_id, how in self.cast.over:
            job = self.model.jobs[job_id]
            if job in self.model.running and not any(job is each for each, _ in self.model.news):
                self.model.news.append((job, how))
            else:
                assert self.was_cut, (job, how)
        self.cast.over.clear()
        for part in self.cast.taken:
            job = self.model.jobs[part.id]
            told = part.message
            if self.was_cut:
                continue  # it may be a turn ahead
            assert (told["attempt"], told["redelivered"]) == (job.attempt, job.attempt > 1 or job.crashes > 0), job
            assert told["data"] == (job.id in self.with_data)
            first = job.attempt == 1 and not job.crashes  # further ones are told when that was due
            assert int(told["scheduled"] * 1e6) == (job.due if first else min(job.first, job.due)) or self.was_cut
        self.cast.taken.clear()
        return count

    def settle(self) -> None:
        """Turn after turn until nothing happens any more, and compare after each."""
        self.hear()
        for _ in range(60):
            done = len(self.model.log)
            patience = self.turn()
            self.model.turn(self.theatre.micros)
            self.model.arrived, self.later = self.later, []
            if self.nameless is not None and self.nameless[0].state != "queued":
                self.learn_id(*self.nameless)
            quiet = patience > 0 and len(self.model.log) == done and not self.hear()
            if quiet or not self.was_cut:
                self.compare()
            if quiet:
                self.compare_cancelling()
                self.compare_whys()
                return
        raise AssertionError("it never comes to rest")

    def turn(self) -> float:
        return self.theatre.turn()

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
                assert ("c" in entry.flags, "w" in entry.flags) == (job.cancel, job.waits), job
        assert sum(house.backlog.counts.values()) == len(lying)
        assert [each.id for each in house.backlog.of("ready")] == [job.id for job in model.of("ready")]
        running = {job.id for job in model.running}
        assert set(house.running) == running
        assert {job_id for worker in self.cast.workers for job_id in worker.parts} <= running
        self.compare_files(running)

    def compare_cancelling(self) -> None:
        """What runs and is to be cancelled was told so, as long as all workers hear."""
        if all(worker.pace == STARTS for worker in self.cast.workers):
            for worker in self.cast.workers:
                for part in worker.parts.values():
                    assert part.stop is not None or not self.model.jobs[part.id].cancel, part.id

    def compare_whys(self) -> None:
        """Of what has not started, and will not by itself at once, `cronq why` knows a gate that is closed."""
        house, now = self.theatre.house, self.theatre.now
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
            if "stood" in line:  # the clock was put forward: that is no job's
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
            ended = Counter(member.state for member in job.members[: job.made])
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
        known |= {job.id for job in jobs.values() if job.reopened}
        left = names(f"out/{UID}") ^ {each for each in known if jobs[each].state != "removed"}
        assert not left or (self.was_cut and not any(names(f"out/{UID}/{each}") for each in left)), left
        aside = Counter(base(name) for name in names(f"rejected/{UID}") if not name.endswith(".reason"))
        assert aside == self.refused


def chosen(some: list, pick: int):
    return some[pick % len(some)]


def instant(seconds: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def given(job: Job) -> str:
    """The name that a producer chose, where it is none of our clients'."""
    name = job.id.partition("-")[2].partition("+")[0]
    return name[14:] if len(name) == 15 else name


def base(name: str) -> str:
    head, _, tail = name.rpartition(".")
    return name if tail in ("job", "jobs", "data") else head


class Cuts(Calm):
    """The dispatcher is killed before a change of the disk, or a message, and another one takes up what lies there."""

    least_backoff = 1.0  # what is due in the same instant comes in the same turn, or in the next
    window = 100  # a batch whose members were being made has as many as before, or all

    def __init__(self) -> None:
        self.cuts: list[int] = []
        super().__init__()

    @rule(changes=st.integers(0, 40), more=st.lists(st.integers(0, 30), max_size=2))
    def be_cut_soon(self, changes: int, more: list[int]) -> None:
        """After so many changes, and its successors after so many."""
        self.cuts = [changes, *more]

    def through(self, act: Callable[[], Any]) -> Any:
        """Do this; None where that was cut, and another dispatcher has taken up what lies there."""
        if not self.cuts:
            return act()
        knife, theatre = self.theatre.knife, self.theatre
        try:
            with knife.after(self.cuts.pop(0)):
                return act()
        except Cut:
            self.was_cut = True
        while True:
            theatre.end()
            theatre.sweep()
            theatre.begin()
            try:
                with knife.after(self.cuts.pop(0) if self.cuts else None):
                    take_up(theatre.house, theatre.now)
                return None
            except Cut:
                continue

    def turn(self) -> float:
        """Where two end for which others wait, who goes on first depends on when it was cut: then it is not."""
        ended = {job for job, _ in self.model.news}
        wanted = {parent for job in self.model.of("waiting") for parent in job.parents}
        return super().turn() if len(ended & wanted) > 1 else self.through(super().turn) or 0.0

    def asked(self, **request: object) -> list[dict] | None:
        """Who got no answer asks again, and is told something else perhaps."""
        answers = self.through(lambda: super(Cuts, self).asked(**request))
        if answers is None:
            super().asked(**request)
        return answers


FIXED = settings(
    derandomize=not LONG,
    database=None,
    deadline=None,
    max_examples=2000 if LONG else 100,
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(6000 if LONG else 600)
def test_the_dispatcher_does_what_the_model_does() -> None:
    run_state_machine_as_test(Calm, settings=FIXED)


@pytest.mark.timeout(6000 if LONG else 600)
def test_a_dispatcher_that_is_killed_at_any_step_leaves_what_the_next_one_takes_up() -> None:
    run_state_machine_as_test(Cuts, settings=FIXED)
