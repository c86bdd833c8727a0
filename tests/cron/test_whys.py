"""Why a job does not start: each closed gate says so, who holds it, and when it opens; and what became of a job."""

import json
import os
import socket
import time

import pytest

from cronq import backlog, batches, pace, settle, states, verbs, whys
from cronq.batches import WINDOW
from cronq.caller import Caller
from cronq.crew import Bar, Worker
from cronq.entry import Entry
from cronq.errors import UnknownJob
from cronq.house import Now, Running, Shut
from cronq.pauses import Pause
from cronq.payload import Payload
from cronq.pressure import Pressure

NOW = float(int(time.time()))
OTHER = 4711


class Room:
    """A dispatcher that starts nothing by itself, so that what runs is what a test wants."""

    def __init__(self, bench) -> None:
        self.bench = bench
        self.house = bench.house
        self.now = Now(NOW, NOW)
        self.inbox = bench.root / "in" / str(bench.uid)
        self.lines: list[socket.socket] = []
        self.turn()

    def turn(self) -> None:
        """One turn, in which nothing starts."""
        self.house.paused_until = float("inf")
        while self.bench.turn(self.now.wall) == 0.0:
            pass
        self.house.paused_until = 0.0

    def later(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.mono + seconds)
        self.turn()

    def submit(self, name: str, **fields) -> str:
        """A job; of a command, where `fields` name no task."""
        self.drop(name, json.dumps(fields if "task" in fields else {"command": ["true"]} | fields))
        return self.house.backlog.named(self.bench.uid, name)

    def drop(self, name: str, text: str, ending: str = "job") -> None:
        draft = self.inbox / f".{name}.tmp"
        draft.write_text(text)
        draft.rename(self.inbox / f"{name}.{ending}")
        self.turn()

    def run(self, name: str, **fields) -> str:
        """A job that runs since now."""
        job_id = self.submit(name, **fields)
        self.begin(job_id)
        return job_id

    def begin(self, job_id: str) -> Running:
        state, entry = self.house.backlog.find(job_id)
        changed = entry.but(attempt=entry.attempt + 1)
        self.house.move(self.now, "start", state, entry, changed, attempt=changed.attempt)
        os.close(self.house.shelves.lock_outcome(changed))
        step = {"step": "started", "t": self.now.wall, "pid": 2**22, "start": 1, "boot": "x"}
        (self.bench.root / self.house.shelves.outcome_path(changed)).write_text(json.dumps(step) + "\n")
        found = self.house.running[job_id] = Running(changed)
        return found

    def ends(self, job_id: str, **outcome) -> None:
        """An attempt ends, as its worker would tell."""
        running = self.house.running[job_id]
        path = self.bench.root / self.house.shelves.outcome_path(running.entry)
        with path.open("a") as file:
            file.write(json.dumps({"step": "ended", "t": self.now.wall, "started": self.now.wall, **outcome}) + "\n")
        settle.examine(self.house, self.now, running)
        self.turn()

    def stranger(self, name: str, **fields) -> None:
        """A job of another user's that runs."""
        entry = Entry(id=f"{OTHER}-{name}", due=1, attempt=1, **fields)
        self.house.backlog.put(states.RUNNING, entry)
        self.house.running[entry.id] = Running(entry)

    def worker(self) -> None:
        """This user has a worker that takes jobs."""
        self.lines += socket.socketpair()
        made = Worker(2**22, self.bench.uid, self.lines[-2], -1, self.now.mono)
        self.house.crew.current[self.bench.uid] = made

    def why(self, job_id: str, everything: bool = True) -> dict:
        (found,) = self.ask(Caller(self.bench.uid, everything), do="why", id=job_id)
        return found

    def ask(self, caller: Caller | None = None, **request) -> list[dict]:
        ask = verbs.Ask(self.house, caller or Caller(self.bench.uid, True), request, self.now)
        return [each for each in verbs.answer(ask) if each is not None]

    def gates(self, job_id: str, **how) -> dict[str, dict]:
        return {each["gate"]: each for each in self.why(job_id, **how)["gates"]}

    def events(self, job_id: str) -> list[str]:
        return [each["what"] for each in self.why(job_id)["events"]]


@pytest.fixture
def room(bench):
    made = Room(bench)
    yield made
    for line in made.lines:
        line.close()


def held_by(gate: dict) -> list[str]:
    return [each["id"] for each in gate["holders"]]


# ---------------------------------------------------------------- gates


def test_nothing_stands_in_the_way_of_a_job_whose_gates_are_all_open(room):
    job = room.submit("a")
    assert room.gates(job)["worker"]["why"].startswith("its user's worker is being started")
    room.worker()
    assert room.why(job)["why"] == whys.FREE
    assert room.why(job)["gates"] == []
    room.house.crew.current.clear()
    room.house.pauses.begin("drain", Pause())
    assert list(room.gates(job)) == ["paused"]  # nobody asks for a worker then


def test_every_closed_gate_is_told_and_not_only_the_first(room):
    room.bench.toml(
        "[limits]\nmax_jobs = 2\nmax_jobs_per_user = 2\n[queues.mail]\nslots = 2\n[tasks.t]\ncommand = ['true']\n"
        "queue = 'mail'\nlimit = 1\nrate = '1/1h'\nmutex = 'disk'\nconcurrency = {key = '{args.0}', limit = 1}\n"
    )
    room.worker()
    first, second = room.run("first", task="t", args=["x"]), room.run("second", queue="mail")
    pace.spend(room.house, room.now, room.house.running[first].entry)
    third = room.submit("third", task="t", args=["x"])
    gates = room.gates(third)
    assert {name: each["why"] for name, each in gates.items()} == {
        "max_jobs": "max_jobs = 2 jobs are running",
        "max_jobs_per_user": "max_jobs_per_user = 2 jobs of the same user are running",
        "slots": "all slots of queue mail are taken (2)",
        "limit": "task t is at its limit (1)",
        "concurrency": "its concurrency key is taken (limit 1)",
        "mutex": "another one of its mutex is running",
        "rate": "the rate of task t lets the next one start later",
    }
    assert sorted(held_by(gates["max_jobs"])) == sorted(held_by(gates["slots"])) == sorted([first, second])
    assert held_by(gates["limit"]) == held_by(gates["concurrency"]) == held_by(gates["mutex"]) == [first]
    assert gates["rate"]["opens"] == NOW + 3600
    assert room.why(third)["why"].startswith("max_jobs = 2 jobs are running; ")


def test_a_gate_opens_at_the_latest_when_enough_of_those_who_hold_it_have_had_their_time(room):
    room.bench.toml("[queues.mail]\nslots = 3\n")
    room.worker()
    for name, timeout in (("a", "30m"), ("b", "10m"), ("c", "1h")):
        room.run(name, queue="mail", timeout=timeout)
    (gate,) = room.why(room.submit("next", queue="mail"))["gates"]
    assert {each["until"] - NOW - 10 for each in gate["holders"]} == {600, 1800, 3600}  # and the grace
    assert gate["latest"] == NOW + 610
    assert room.gates(room.submit("large", queue="mail", weight=2))["slots"]["latest"] == NOW + 1810


def test_a_gate_whose_holder_has_no_deadline_or_puts_it_off_says_so(room):
    room.bench.toml("[queues.mail]\nslots = 1\n[tasks.t]\ncommand = ['true']\ntimeout = '1m'\ntimeout_max = '3m'\n")
    job = room.run("a", queue="mail")
    gate = room.gates(room.submit("b", queue="mail"))["slots"]
    assert (gate["holders"][0]["until"], gate["latest"]) == (None, None)
    assert room.why(job)["deadline"] is None
    touched = room.run("c", task="t")
    assert room.why(touched)["deadline"] == NOW + 70
    room.house.shelves.put_small(room.house.running[touched].entry, "status", b'{"touched": 1}\n')
    assert room.why(touched)["deadline"] == NOW + 190


def test_room_that_is_kept_for_a_job_that_weighs_more_is_held_by_that_job(room):
    room.bench.toml("[queues.mail]\nslots = 3\n[tasks.t]\ncommand = ['true']\nlimit = 2\n")
    room.worker()
    room.run("a", queue="mail", weight=2)
    room.run("b", task="t")
    large = room.submit("large", queue="mail", weight=2)
    large_of_task = room.submit("heavy", task="t", weight=2)
    for name, fields, holder, where in (
        ("c", {"queue": "mail"}, large, "slots"),
        ("d", {"task": "t"}, large_of_task, "limit"),
    ):
        gate = room.gates(room.submit(name, **fields))[where]
        assert gate["why"].endswith("is kept for a job that comes before it and weighs more")
        assert held_by(gate) == [holder]
        assert gate["holders"][0]["state"] == "ready"


def test_a_pause_and_a_drain_say_until_when_and_because_of_which_job(room):
    room.bench.toml("[tasks.t]\ncommand = ['true']\nqueue = 'mail'\n")
    room.worker()
    job = room.submit("a", task="t")
    room.house.pauses.begin("queue:mail", Pause(NOW + 60))
    room.house.pauses.begin("task:t", Pause(job=f"{OTHER}-x"))
    room.house.pauses.begin("drain", Pause())
    assert [(each["why"], held_by(each), each["others"], each["opens"]) for each in room.why(job, False)["gates"]] == [
        ("cronq is drained: nothing starts", [], 0, None),
        ("queue mail is paused", [], 0, NOW + 60),
        ("task t is paused, because a job of it ended dead", [], 1, None),
    ]
    assert held_by(room.why(job)["gates"][2]) == [f"{OTHER}-x"]


def test_pressure_is_told_with_what_was_found(room, tmp_path):
    (tmp_path / "loadavg").write_text("9.50 1 1 1/1 1\n")
    (tmp_path / "meminfo").write_text("MemAvailable: 1024 kB\n")
    room.house.pressure = Pressure(str(tmp_path / "loadavg"), str(tmp_path / "meminfo"))
    room.bench.toml("[pressure]\nmax_load = 8\n")
    assert room.gates(room.submit("a"))["pressure"]["why"].endswith("the load is 9.5 (max_load = 8)")
    room.bench.toml("[pressure]\nmin_free_memory = '500M'\n")
    assert "1 MiB of memory are free" in room.gates(room.submit("b"))["pressure"]["why"]


def test_a_job_that_is_not_due_says_when_it_is_and_what_it_waits_for(room):
    delay = room.gates(room.submit("a", delay="10m"))["delay"]
    assert (delay["why"], round(delay["opens"])) == ("it is not due yet", NOW + 600)
    failed = room.run("b", retries=1, backoff={"base": "5m", "jitter": 0})
    room.ends(failed, exit_code=3)
    assert room.gates(failed)["delay"]["why"] == "its next attempt is not due yet"
    assert room.gates(failed)["delay"]["opens"] == NOW + 300
    assert room.events(failed)[-1] == "attempt 1 failed: exit code 3"
    off = room.run("c")
    room.ends(off, exit_code=0, snooze=60)
    assert room.gates(off)["delay"]["why"] == "it put itself off"


def test_a_job_that_waits_for_others_names_each_that_is_still_open_and_its_state(room):
    runs, waits = room.run("runs", timeout="1m"), room.submit("waits", delay="1h")
    over = room.run("over")
    room.ends(over, exit_code=0)
    for key, to in (("after", "be done"), ("after_any", "end"), ("after_fail", "fail")):
        job = room.submit(key.replace("_", "-"), **{key: [runs, waits] + [over] * (key == "after")})
        said = [each for each in room.why(job)["gates"] if each["gate"] == key]
        assert [each["why"] for each in said] == [
            f"it waits for {runs} to {to}, which is running",
            f"it waits for {waits} to {to}, which is delayed",
        ]
        assert [held_by(each) for each in said] == [[runs], [waits]]
        assert [each["opens"] and round(each["opens"]) for each in said] == [None, NOW + 3600]
        assert [each["latest"] for each in said] == [None, None]  # it may be tried again


def test_a_held_job_says_by_whom_and_why(room):
    job = room.submit("a", delay="1h")
    room.ask(Caller(1234, True), do="hold", ids=[job])
    gates = room.gates(job)
    assert gates["held"]["why"] == "held by hand; cronq release lets it go on"
    assert round(gates["delay"]["opens"]) == NOW + 3600
    assert room.why(job)["events"][-1]["by"] == 1234
    room.ask(do="edit", ids=[job], priority=5)
    room.ask(Caller(1235, True), do="release", ids=[job])
    assert [each["what"] for each in room.why(job)["events"]][-2:] == [
        "edited: priority = 5",
        "goes on later: released",
    ]
    assert room.why(job)["events"][-1]["by"] == 1235
    room.house.strangers[room.bench.uid] = "uid 7 was ann and has no account any more"
    assert room.gates(room.submit("b"))["held"]["why"] == "uid 7 was ann and has no account any more"


def test_a_bad_configuration_a_locked_account_and_a_worker_that_does_not_come_are_told(room):
    job = room.submit("a")
    room.house.lanes_closed["", room.bench.uid] = Shut(NOW + 1, "cronq.toml: it is not TOML")
    said = room.gates(job)["configuration"]["why"]
    assert said == "cronq.toml: it is not TOML; it is tried again until that is mended"
    room.later(10)
    room.house.crew.bars[room.bench.uid] = Bar("the account is locked", True, room.now.mono + 30)
    assert room.gates(job)["account"]["why"] == "the account is locked"
    room.house.crew.bars[room.bench.uid] = Bar("too many processes", False, room.now.mono + 1)
    assert room.gates(job)["worker"]["why"] == "its user has no worker: too many processes"
    assert room.gates(job)["worker"]["opens"] == room.now.wall + 1


def test_a_dispatcher_that_starts_nothing_says_why(room):
    job = room.submit("a")
    room.house.stopping = True
    room.house.pause(NOW + 1, "No space left on device")
    room.house.broken = "a flush failed"
    said = [(each["gate"], each["why"], each["opens"]) for each in room.why(job)["gates"]][:3]
    assert said == [
        ("dispatcher", "a flush failed", None),
        ("dispatcher", "the dispatcher is stopping; the next one goes on", None),
        ("disk", "the disk refuses: No space left on device", NOW + 1),
    ]


def test_a_job_of_a_batch_that_is_not_made_yet_says_how_many_come_before_it(room, monkeypatch):
    room.worker()
    total = WINDOW + 10
    room.drop("many", json.dumps({"jobs": total}) + '\n{"command": ["true"]}' * total + "\n", "jobs")
    batch = room.house.backlog.named(room.bench.uid, "many")
    found = room.why(f"{batch}+{total}")
    assert found["state"] == "queued"
    assert found["why"].endswith(f"and has made 0 so far; {total - 1} come before it")
    batches.expand(room.house, room.now, room.house.backlog.find(batch)[1])
    made = room.house.backlog.find(batch)[1].batch[0]
    assert 0 < made < total
    said = f"and has made {made} so far; {total - 1 - made} come before it"
    assert room.why(f"{batch}+{total}")["why"].endswith(said)
    assert room.why(f"{batch}+01")["before"] == []
    assert room.why(batch)["why"] == whys.FREE  # it makes more of them as soon as it is its turn
    room.house.crew.current.clear()
    room.house.lanes_closed["", room.bench.uid] = Shut(NOW + 1, "cronq.toml: it is not TOML")
    assert room.why(batch)["gates"] == []  # for that it needs no worker, and no configuration
    monkeypatch.setattr(backlog, "MOST_MEMBERS", made)
    room.house.backlog.put("ready", room.house.backlog.find(batch)[1])
    room.bench.toml("[queues.default]\nslots = 1\nrate = '1/1h'\n")
    room.run("other")
    (gate,) = room.why(batch)["gates"]
    assert gate["why"] == f"{made} of its jobs wait already; the next are made when some of them have ended"
    with pytest.raises(UnknownJob):
        room.why(f"{batch}+{total + 1}")


def test_jobs_of_its_own_lane_that_come_before_it_are_counted_by_priority(room):
    room.worker()
    for number, priority in enumerate([5, 5, 0, -5]):
        room.submit(f"n{number}", priority=priority)
    room.submit("other", queue="mail", priority=9)
    job = room.submit("last", priority=0)
    found = room.why(job)
    assert found["before"] == [{"priority": 5, "jobs": 2}, {"priority": 0, "jobs": 1}]
    assert found["why"] == "nothing stands in its way but 3 jobs of its own lane that come before it"


def test_what_has_aged_comes_before_what_is_more_urgent(room):
    room.bench.toml("[queues.default]\naging = '1m'\n")
    room.worker()
    old = room.submit("old", priority=-2)
    room.later(119)
    job = room.submit("urgent")
    assert room.why(job)["before"] == []
    assert room.why(old)["before"] == [{"priority": 0, "jobs": 1}]
    room.later(2)
    assert room.why(job)["before"] == [{"priority": -2, "jobs": 1}]
    assert room.why(old)["before"] == []


def test_a_tick_of_a_crontab_passes_gates_of_its_own(room):
    room.bench.toml("[limits]\nmax_jobs = 1\n[queues.cron]\nslots = 1\n")
    room.bench.install("# cronq: name=a mutex=disk\n* * * * * true\n# cronq: name=b mutex=disk\n* * * * * true\n")
    room.worker()
    room.run("job")
    room.later(60)
    first, second = (entry.id for entry in room.house.backlog.of("ready"))
    assert room.why(first)["why"] == whys.FREE
    room.begin(first)
    gates = room.gates(second)
    assert list(gates) == ["slots", "mutex"]
    assert held_by(gates["slots"]) == held_by(gates["mutex"]) == [first]


def test_what_was_dropped_and_is_no_job_yet_says_where_it_is(room):
    room.house.stopping = True  # it takes nothing
    name = f"{int(NOW * 1e6):013x}-aaaaaaaa"
    (room.inbox / f"{name}.job").write_text('{"command": ["true"]}')
    job = f"{room.bench.uid}-{name}"
    assert room.why(job)["why"] == "it lies in the inbox and has not been looked at; the next turn takes it"
    room.house.stopping = False
    (room.inbox / f"{name}.job").write_text('{"command": ["tr')
    os.utime(room.inbox / f"{name}.job", (NOW, NOW))
    room.turn()
    room.house.looks = dict.fromkeys(room.house.looks, NOW + 60)
    assert "not whole yet" in room.why(job)["why"]
    room.house.pauses.begin("refuse", Pause())
    other = f"{int(NOW * 1e6):013x}-bbbbbbbb"
    (room.inbox / f"{other}.job").write_text('{"command": ["true"]}')
    said = room.why(f"{room.bench.uid}-{other}")["why"]
    assert said == "cronq accepts nothing: what is submitted waits in its inbox"
    room.house.pauses.end("refuse")
    (captured,) = room.house.looks
    room.house.behind.add(captured)
    assert room.why(job)["why"] == "a job that it names is still to be judged"
    room.drop("bad", '{"comand": 1}')
    refused = room.why(f"{room.bench.uid}-bad")
    assert refused["state"] == "rejected"
    assert "unknown key 'comand'" in refused["why"]


def test_a_job_whose_input_is_being_copied_says_so(room):
    entry = Entry(id=f"{room.bench.uid}-0660000000000-copied", due=1)
    (room.bench.root / "queue" / "data" / entry.id).write_text("input")
    copied = room.house.judging[f"{room.bench.uid},copied.job"] = Payload(
        room.house.shelves, entry, room.house.copier, room.bench.bell
    )
    room.house.stopping = True  # it goes on with nothing
    assert room.why(entry.id)["why"] == "its input is being copied"
    copied.close()


# ---------------------------------------------------------------- whose


def test_who_is_no_operator_learns_of_anothers_job_only_that_it_is_anothers(room):
    room.bench.toml("[limits]\nmax_jobs = 3\n[queues.mail]\nslots = 1\n")
    room.stranger("x", queue="mail")
    room.stranger("y")
    own = room.run("own")
    job = room.submit("a", queue="mail")
    gates = room.gates(job, everything=False)
    assert (held_by(gates["max_jobs"]), gates["max_jobs"]["others"]) == ([own], 2)
    assert (gates["slots"]["holders"], gates["slots"]["others"]) == ([], 1)
    assert str(OTHER) not in json.dumps(room.why(job, everything=False))
    assert held_by(room.gates(job)["slots"]) == [f"{OTHER}-x"]
    with pytest.raises(UnknownJob):
        room.why(f"{OTHER}-x", everything=False)


# ---------------------------------------------------------------- what runs, and what has ended


def test_a_job_that_runs_says_since_when_and_until_when(room):
    job = room.run("a", timeout="1h", retries=2)
    found = room.why(job)
    assert found["why"] == "attempt 1 of 3 runs"
    assert (found["since"], found["deadline"], found["runs_as"]) == (NOW, NOW + 3610, room.bench.uid)
    assert room.events(job) == ["queued", "attempt 1 started"]
    said = {"said": {"data": [{"id": job}]}}  # by another job
    room.house.history.note(NOW, f"{OTHER}-x", "running", "done", move="finish", attempt=1, outcome=said)
    assert room.events(job) == ["queued", "attempt 1 started"]


def test_a_dead_job_says_of_each_attempt_how_it_ended_and_what_it_printed_last(room):
    job = room.run("a", retries=1, backoff={"base": "1m", "jitter": 0})
    room.ends(job, exit_code=3)
    room.later(60)
    running = room.begin(job)
    folder = room.bench.root / "out" / str(room.bench.uid) / job
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stderr").write_text("".join(f"line {number}\n" for number in range(20)))
    assert running.entry.attempt == 2
    room.ends(job, signal=9)
    found = room.why(job)
    assert found["why"] == "it is dead: killed by signal 9 (SIGKILL) (attempt 2 of 2)"
    assert found["last_lines"] == [f"line {number}" for number in range(10, 20)]
    assert [each["what"] for each in found["events"]] == [
        "queued",
        "attempt 1 started",
        "attempt 1 failed: exit code 3",
        "due",
        "attempt 2 started",
        "attempt 2 failed for good: killed by signal 9 (SIGKILL) (attempt 2 of 2)",
    ]
    assert found["events"][2]["at"] == NOW + 60
    room.ask(Caller(1234, True), do="retry", ids=[job])
    assert [(each["what"], each["by"]) for each in room.why(job)["events"][-1:]] == [("retried", 1234)]


def test_a_skipped_job_leads_to_the_one_that_failed(room):
    first = room.submit("first")
    second = room.submit("second", after=[first])
    third = room.submit("third", after=[second])
    room.begin(first)
    room.ends(first, exit_code=65)
    found = room.why(third)
    assert found["state"] == "skipped"
    assert [(each["id"], each["state"]) for each in found["because"]] == [(second, "skipped"), (first, "dead")]
    assert "its input is bad" in found["because"][1]["reason"]


def test_a_job_that_ended_without_having_run_says_why(room):
    late = room.submit("a", expires=time.strftime("%FT%TZ", time.gmtime(NOW + 5)), delay="1h")
    assert room.why(late)["expires"] == NOW + 5
    room.later(10)
    assert room.why(late)["why"] == "it is expired: it had not started when it expired"
    assert room.events(late)[-1] == "expired: it had not started when it expired"
    cancelled = room.submit("b")
    room.ask(do="cancel", ids=[cancelled])
    assert room.why(cancelled)["why"] == "it is cancelled: cancelled before it started"
    done = room.run("c")
    room.ends(done, exit_code=0)
    assert room.why(done)["why"] == "it is done: exit code 0"
    assert room.events(done) == ["queued", "attempt 1 started", "attempt 1 done"]
