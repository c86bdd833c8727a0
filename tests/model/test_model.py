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
from collections.abc import Callable
from typing import Any, ClassVar

import needs
import pytest
import rates
from comparison import ENDED, Comparison, given
from facts import UNFINISHED, UNSTARTED, Conflict, Job
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from players import DEAF, HEARS, STARTS
from reference import Queue
from said import (
    CHANCE,
    GATES,
    KEYED,
    RATES,
    RATES_TOML,
    TASKS,
    TOML,
    WINDOW,
    batches,
    edits,
    ends,
    keyed,
    of_conflict,
    paced,
    picks,
    says,
    specs,
    uniques,
)
from theatre import UID, Cut, Theatre

from cronq.dispatcher import take_up

LONG = bool(os.environ.get("CRONQ_LONG"))
wants = st.lists(st.tuples(st.sampled_from((*needs.KEYS, "after")), picks), min_size=1, max_size=2)


class Calm(Comparison, RuleBasedStateMachine):
    """Everything happens between turns; a dispatcher that ends has said and done what it began."""

    least_backoff = 0.0
    window = WINDOW
    toml = TOML + RATES_TOML
    rates = RATES

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Comparison.__init__(self, Theatre(self.toml, self.window, CHANCE), Queue(says(self.window, self.rates)))
        self.names = 0
        self.later: list[Job] = []
        self.pending: list[tuple[Job, str, bool]] = []  # jobs that may be refused, the names they came by, with data
        self.windows: dict[str, tuple[int, Job]] = {}  # the last one of each unique key
        self.settle()

    def teardown(self) -> None:
        self.theatre.close()

    # ---------------------------------------------------------------- producers

    def spec(self, said: dict, job_id: str) -> tuple[dict, Job]:
        """What is written into a job's file, and the job that it is."""
        now, get = self.theatre.wall, said.get
        keys = {key: said[key] for key in ("priority", "retries", "queue", "weight", "mutex") if key in said}
        keys |= {"task": said["task"]} if said["task"] else {"command": ["true"]}
        job = Job(job_id, task=said["task"], due=int(now * 1e6), **TASKS.get(said["task"], {}))
        if said["task"] in KEYED:
            keys["args"] = [said["argument"]]
            job.key = said["argument"]
        if "delay" in said:
            keys["delay"] = said["delay"]
            job.due = int((now + said["delay"]) * 1e6)
        elif "at" in said:
            keys["at"] = instant(now + said["at"])
            job.due = int((now + max(0, said["at"])) * 1e6)
        if "expires" in said:
            keys["expires"] = instant(now + said["expires"])
            job.expires = int((now + said["expires"]) * 1e6)
            job.within = 0
        elif "start_within" in said:
            keys["start_within"] = said["start_within"]
            job.within = said["start_within"] * 1_000_000
        if "backoff" in said:
            job.backoff = max(said["backoff"][0], self.least_backoff), *said["backoff"][1:]
            keys["backoff"] = dict(zip(("base", "factor", "max", "jitter"), job.backoff, strict=True))
        job.priority = {"low": -10, "high": 10}.get(get("priority"), get("priority", 0))
        job.retries = get("retries", job.retries)
        job.queue = get("queue", job.queue)
        job.weight = get("weight", job.weight)
        job.mutex = get("mutex", job.mutex)
        job.first = job.due
        job.expires = job.due + job.within if job.within else job.expires
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
    def submit(self, said: dict, **more: object) -> None:
        name = self.name()
        keys, job = self.spec(said, f"{UID}-{name}")
        keys |= self.spec_of_key(more, job)
        if "parent" in more:
            job.parent = more["parent"]
            keys["batch"] = job.parent.id
        if "data" in said:
            self.with_data.add(job.id)
        self.theatre.drop(f"{name}.job", json.dumps(keys).encode(), b"input" if "data" in said else None)
        self.model.arrived.append(job)
        self.pending.append((job, name, "data" in said))
        self.settle()

    def spec_of_key(self, said: dict, job: Job) -> dict:
        """What is written of its unique key."""
        if "unique" not in said:
            return {}
        conflict: Conflict = said.get("conflict", Conflict())
        job.unique, job.until, job.conflict = said["unique"], said.get("until", "end"), conflict
        job.lasts = conflict.wait if conflict.action == "throttle" else said.get("lasts", 0) * 1_000_000
        keys = {"unique": said["unique"], "unique_until": job.until, "on_conflict": of_conflict(conflict)}
        return keys | ({"unique_for": said["lasts"]} if "lasts" in said else {})

    @rule(said=specs, key=uniques)
    def submit_unique(self, said: dict, key: dict) -> None:
        self.submit(said, **key)

    @rule(said=keyed)
    def submit_with_a_key(self, said: dict) -> None:
        self.submit(said)

    @rule(said=paced)
    @precondition(lambda self: self.rates)
    def submit_with_a_rate(self, said: dict) -> None:
        self.submit(said)

    @rule(said=specs, pick=picks)
    @precondition(lambda self: any(job.members for job in self.model.jobs.values()))
    def submit_into(self, said: dict, pick: int) -> None:
        """A job is added to a batch, mostly one that has not ended."""
        known = [job for job in self.model.jobs.values() if job.members and job.state != "removed"]
        live = [job for job in known if job.state in UNFINISHED]
        if known:
            self.submit(said, parent=chosen(live if live and pick % 8 else known, pick))

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

    @rule(**batches)
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
        self.do("release", self.likely(pick, "held"), self.model.released)

    @rule(pick=picks)
    @precondition(lambda self: self.model.of("dead"))
    def retry(self, pick: int) -> None:
        wanted = [parent for job in self.model.of("skipped") for parent in job.parents if parent.state == "dead"]
        job = chosen(wanted, pick) if wanted and pick % 2 else self.likely(pick, "dead")
        if job.due == self.theatre.micros:
            self.pass_time(0.25)  # no two attempts of a job are due in the same microsecond
        self.do("retry", job, self.model.retried)

    @rule(pick=picks)
    @precondition(lambda self: self.model.of(*ENDED))
    def remove(self, pick: int) -> None:
        job = self.likely(pick, *ENDED)
        if not job.members and not job.event and (job.parent is None or job.parent.state not in UNFINISHED):
            self.do("rm", job, self.model.removed)

    @rule(pick=picks, said=edits)
    @precondition(lambda self: self.model.of(*UNSTARTED))
    def edit(self, pick: int, said: dict) -> None:
        fields, micros = dict(said), self.theatre.micros
        request = dict(said)
        if "priority" in said:
            fields["priority"] = {"low": -10}.get(said["priority"], said["priority"])
        if "delay" in said:
            fields["due"] = micros + fields.pop("delay") * 1_000_000
        if "expires" in said:
            request["expires"] = instant(self.theatre.wall + said["expires"])
            fields["expires"] = micros + said["expires"] * 1_000_000
        self.do("edit", self.likely(pick, *UNSTARTED), lambda job: self.model.edited(job, **fields), **request)

    @rule(pick=picks, ignore=st.booleans())
    @precondition(lambda self: self.model.of(*UNSTARTED))
    def start_now(self, pick: int, ignore: bool) -> None:
        job = self.likely(pick, *UNSTARTED)
        self.do("start", job, lambda job: self.model.started_now(job, ignore), ignore_after=ignore)

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
        self.model.now, self.model.mono = self.theatre.micros, self.theatre.mono
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
        dues += [until for until, _ in self.model.windows.values() if until > self.theatre.micros]
        opens = [when for job in self.model.of("ready") for when in rates.opens(self.model, job).values()]
        dues += [(self.theatre.wall + when - self.theatre.mono) * 1e6 for when in opens if when > self.theatre.mono]
        if dues:
            self.pass_time(max(0.0, math.ceil(min(dues) / 250_000) / 4 - self.theatre.wall))

    @rule(seconds=st.sampled_from((-30.0, -3600.0, 3600.0)))
    @precondition(lambda self: not self.model.paid)  # by it, a restart knows how far rates are spent
    def set_the_clock(self, seconds: float) -> None:
        self.theatre.wall += seconds
        self.settle()

    @rule()
    def restart(self) -> None:
        self.forget()
        self.theatre.end()
        assert not self.theatre.sweep()
        self.theatre.begin()
        take_up(self.theatre.house, self.theatre.now)

    def forget(self) -> None:
        """Another dispatcher knows nothing but what lies on the disk; there each key's last window stays written."""
        self.model.begun.clear()
        self.windows |= self.model.windows
        self.model.windows = {key: each for key, each in self.windows.items() if each[0] > self.theatre.micros}

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
            self.model.now, self.model.mono = self.theatre.micros, self.theatre.mono
            self.model.turn()
            self.refuse_some()
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

    def refuse_some(self) -> None:
        """Of jobs whose key is taken, or whose batch takes no more, the files are set aside."""
        for job, name, data in self.pending:
            if job.state == "rejected":
                self.refused[f"{name}.job"] += 1
                self.refused[f"{name}.data"] += data
        self.pending = [each for each in self.pending if each[0].state == "queued"]

    def turn(self) -> float:
        return self.theatre.turn()


def chosen(some: list, pick: int):
    return some[pick % len(some)]


def instant(seconds: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


class Cuts(Calm):
    """The dispatcher is killed before a change of the disk, or a message, and another one takes up what lies there."""

    least_backoff = 1.0  # what is due in the same instant comes in the same turn, or in the next
    window = 100  # a batch whose members were being made has as many as before, or all
    toml = TOML
    rates: ClassVar[dict] = {}

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
            self.forget()
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
