"""What a job's name carries can be changed until it starts; a held job is let go on in its place or anew; a job can be
started past its gates.
"""

import json
import os
import time

import pytest
from conftest import World, eventually

TOML = """[limits]
max_jobs = 8
[queues.one]
slots = 1
[queues.slow]
rate = "1/1h"
[tasks.say]
shell = 'echo "$1" >> LEDGER'
limit = 1
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One dispatcher for all of these stories; each has a queue of its own."""
    found = World(tmp_path_factory.mktemp("editing"))
    found.ledger = found.path / "ledger"
    found.tasks(TOML.replace("LEDGER", str(found.ledger)))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def ledger(served):
    served.ledger.write_text("")
    return lambda: served.ledger.read_text().split()


def shown(world, job: str) -> dict:
    return json.loads(world.run("show", "--json", job).stdout)


def say(world, word: str, *options: str) -> str:
    """A job that writes this word."""
    return world.submit("exec", *options, "--", "sh", "-c", f"echo {word} >> {world.ledger}")


def done(world, *jobs: str) -> None:
    assert [world.result(job)["state"] for job in jobs] == ["done"] * len(jobs)


@pytest.fixture
def paused(served):
    """The queue `one`, which goes on when it is called."""
    served.run("pause", "queue:one")
    yield lambda: served.run("resume", "queue:one")
    served.run("resume", "queue:one")


def kill(world) -> None:
    (daemon,) = world.daemons
    seen = daemon.log.read_text().count("event=ready")
    os.kill(world.dispatcher(daemon), 9)
    eventually(lambda: daemon.log.read_text().count("event=ready") > seen)


# ---------------------------------------------------------------- edit


def test_a_waiting_jobs_priority_queue_and_due_time_are_changed_by_its_name_alone_and_over_a_restart(
    served, paused, ledger
):
    first, second, third = (say(served, word, "--queue", "one") for word in "abc")
    assert shown(served, third)["state"] == "ready"
    file = next(path for path in (served.spool / "queue" / "ready").rglob(f"*,{third},*"))
    before = (file.stat().st_ino, file.read_bytes())
    assert served.run("edit", "--priority", "high", third).stdout == f"{third}\tready\n"
    file = next(path for path in (served.spool / "queue" / "ready").rglob(f"*,{third},*"))
    assert (file.stat().st_ino, file.read_bytes()) == before
    assert served.run("edit", "--delay", "1h", first).stdout == f"{first}\tdelayed\n"
    assert 3500 < shown(served, first)["due"] - time.time() <= 3600
    kill(served)
    assert shown(served, third)["priority"] == 10
    assert served.run("edit", "--queue", "elsewhere", "--priority", "3", second).stdout == f"{second}\tready\n"
    done(served, second)
    paused()
    done(served, third)
    assert served.run("edit", "--delay", "0s", first).stdout == f"{first}\tready\n"
    done(served, first)
    assert ledger() == ["b", "c", "a"]


def test_a_job_expires_when_it_is_edited_to(served, paused):
    job = say(served, "never", "--queue", "one")
    served.run("edit", "--expires", "100ms", job)
    assert served.result(job)["state"] == "expired"


def test_start_within_counts_from_the_time_to_which_a_job_is_put_off_and_expires_takes_its_place(served, paused):
    job = say(served, "late", "--queue", "one", "--start-within", "1h")
    served.run("edit", "--delay", "2h", job)
    found = shown(served, job)
    assert found["expires"] - found["due"] == pytest.approx(3600)
    served.run("edit", "--expires", "3h", "--delay", "1h", job)
    assert shown(served, job)["expires"] - time.time() == pytest.approx(3 * 3600, abs=60)
    served.run("cancel", job)


def test_what_has_started_or_ended_is_not_edited_nor_what_nobody_knows(served):
    runs = served.submit("exec", "--", "sleep", "300")
    eventually(lambda: shown(served, runs)["state"] == "running")
    said = served.run("edit", "--priority", "1", runs, code=65).stderr
    assert said == f"cronq: job {runs} is running; only a job that has not started is edited\n"
    served.run("cancel", "--now", runs)
    assert served.result(runs)["state"] == "cancelled"
    assert "is cancelled; only a job" in served.run("edit", "--priority", "1", runs, code=65).stderr
    assert "unknown job" in served.run("edit", "--priority", "1", f"{served.uid}-nothing", code=65).stderr
    assert "say what to change" in served.run("edit", runs, code=2).stderr
    assert "--delay and --at exclude" in served.run("edit", "--delay", "1s", "--at", "18:00", runs, code=2).stderr
    long = served.submit("exec", "--delay", "1h", "--name", "n" * 80, "--", "true")
    said = served.run("edit", "--queue", "q" * 48, long, code=65).stderr
    assert "the names of job, task and queue are" in said
    served.run("cancel", long)
    assert "--priority must be" in served.run("edit", "--priority", "99", runs, code=2).stderr


def test_a_held_job_that_is_edited_stays_held_and_keeps_its_reason_over_a_restart(served):
    job = say(served, "held", "--delay", "1h")
    served.run("hold", job)
    assert served.run("edit", "--delay", "0s", "--priority", "low", job).stdout == f"{job}\theld\n"
    kill(served)
    assert shown(served, job)["reason"] == "held by hand; cronq release lets it go on"
    served.run("release", job)
    done(served, job)


# ---------------------------------------------------------------- hold, release


def test_jobs_are_held_and_released_together_by_state_and_time_the_first_n(served):
    jobs = [served.submit("exec", "--delay", "1h", "true") for _ in range(3)]
    tell = lambda *argv: served.run(*argv).stdout.split()[::2]  # noqa: E731
    assert tell("hold", "--state", "delayed", "--since", "0s") == []
    assert tell("hold", "--state", "delayed", "--task", "none") == []
    assert tell("hold", "--state", "delayed", "-n", "2") == jobs[:2]
    assert tell("release", "--state", "held", "--since", "1h", "-n", "1") == jobs[:1]
    assert tell("release", "-r", "--state", "held") == jobs[1:2]
    assert {shown(served, job)["state"] for job in jobs} == {"delayed"}
    assert "only ready, delayed, waiting goes here" in served.run("hold", "--state", "held", code=2).stderr
    assert "only held goes here" in served.run("release", "--state", "ready", code=2).stderr
    served.run("cancel", *jobs)


@pytest.mark.parametrize("verb", ["cancel", "retry", "hold", "release", "rm"])
def test_each_verb_for_many_jobs_has_every_way_to_choose_them(served, verb):
    options = {line.split()[0] for line in served.run(verb, "--help").stdout.splitlines() if line.startswith("  -")}
    assert options >= {"--state", "--task", "--user", "--since", "-n,", "--json"}


def test_release_lets_a_job_go_on_in_its_original_place_and_anew_at_the_end_of_the_row(served, paused, ledger):
    first, second, third = (say(served, word, "--queue", "one") for word in "abc")
    served.run("hold", first, second)
    assert served.run("release", first).stdout == f"{first}\tready\n"
    assert served.run("release", "-r", second).stdout == f"{second}\tready\n"
    paused()
    done(served, first, second, third)
    assert ledger() == ["a", "c", "b"]


def test_a_job_that_is_not_due_yet_is_not_due_sooner_when_it_is_released_anew(served):
    job = say(served, "later", "--delay", "1h")
    due = shown(served, job)["due"]
    served.run("hold", job)
    assert served.run("release", "-r", job).stdout == f"{job}\tdelayed\n"
    assert shown(served, job)["due"] == due
    served.run("cancel", job)


# ---------------------------------------------------------------- start --now


def test_start_now_passes_limits_rates_pauses_and_says_which(served, paused, ledger):
    first = say(served, "a", "--queue", "one")
    assert served.run("start", "--now", first).stdout == f"{first}\tstarting\tbypassed: queue one is paused\n"
    done(served, first)
    done(served, say(served, "b", "--queue", "slow"))
    second = say(served, "c", "--queue", "slow")
    assert "\tbypassed: the rate of " in served.run("start", "--now", second).stdout
    done(served, second)
    gate = served.path / "gate"
    runs = served.submit("exec", "--queue", "two", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    third = say(served, "d", "--queue", "two", "--delay", "1h")
    served.run("hold", third)
    (told,) = map(json.loads, served.run("start", "--now", "--json", third).stdout.splitlines())
    assert (told["state"], len(told["bypassed"])) == ("starting", 2)
    assert told["bypassed"][0] == "held by hand; cronq release lets it go on"
    assert told["bypassed"][1] == "it is not due yet"
    done(served, third)
    gate.touch()
    done(served, runs)
    assert ledger() == ["a", "b", "c", "d"]


def test_start_now_passes_a_drain_and_is_for_one_attempt_only(served):
    served.run("drain")
    again = {"base": "1ms", "jitter": 0}
    served.drop("again", {"command": ["sh", "-c", "exit 75"], "retries": 1, "backoff": again})
    assert "bypassed: cronq is drained: nothing starts" in served.run("start", "--now", "again").stdout
    job = shown(served, "again")["id"]
    eventually(lambda: (shown(served, job)["state"], shown(served, job)["attempt"]) == ("ready", 1))
    other = served.submit("exec", "--", "true")
    served.run("start", "--now", other)
    done(served, other)
    assert (shown(served, job)["state"], shown(served, job)["attempt"]) == ("ready", 1)
    served.run("resume")
    assert served.result(job)["attempt"] == 2


def test_start_now_does_not_pass_a_mutex_but_goes_before_all_others_when_it_is_free(served, paused, ledger):
    gate = served.path / "gate2"
    runs = served.submit("exec", "--mutex", "m", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    eventually(lambda: shown(served, runs)["state"] == "running")
    job = say(served, "a", "--mutex", "m", "--queue", "one")
    (told,) = map(json.loads, served.run("start", "--now", "--json", job).stdout.splitlines())
    assert told["bypassed"] == ["queue one is paused"]
    assert told["waits"] == ["another one of its mutex is running"]
    kill(served)
    assert shown(served, job)["state"] == "ready"
    assert shown(served, job).get("reason") is None
    left = {each["gate"] for each in json.loads(served.run("why", "--json", job).stdout)["gates"]}
    assert left - {"worker"} == {"mutex"}
    assert ledger() == []
    gate.touch()
    done(served, runs, job)
    assert [each["attempt"] for each in (served.result(runs), served.result(job))] == [1, 1]


def test_start_now_of_what_waits_for_others_has_to_be_said(served, ledger):
    parent = say(served, "parent", "--delay", "1h")
    child = say(served, "child", "--after", parent)
    said = served.run("start", "--now", child, code=65).stderr
    assert said == f"cronq: job {child} waits for other jobs (cronq show); --ignore-after starts it all the same\n"
    served.run("hold", child)
    served.run("start", "--now", child, code=65)
    assert "bypassed: held by hand" in served.run("start", "--now", "--ignore-after", child).stdout
    done(served, child)
    served.run("cancel", parent)
    assert ledger() == ["child"]


def test_a_job_that_was_to_start_now_is_held_or_cancelled_or_put_off_like_any_other(served, paused):
    gate = served.path / "gate3"
    runs = served.submit("exec", "--mutex", "n", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    eventually(lambda: shown(served, runs)["state"] == "running")
    jobs = [say(served, word, "--mutex", "n", "--queue", "one") for word in "abc"]
    served.run("start", "--now", *jobs)
    served.run("hold", jobs[0])
    served.run("cancel", jobs[1])
    served.run("edit", "--delay", "1h", jobs[2])
    gate.touch()
    done(served, runs)
    served.run("release", jobs[0])
    served.run("edit", "--delay", "0s", jobs[2])
    assert served.result(jobs[1])["state"] == "cancelled"
    done(served, say(served, "d", "--mutex", "n"))
    assert [shown(served, job)["state"] for job in (jobs[0], jobs[2])] == ["ready", "ready"]
    paused()
    done(served, jobs[0], jobs[2])


def test_start_now_of_what_runs_or_is_a_batch_is_refused_and_without_now_it_is_a_mistake(served, paused):
    runs = served.submit("exec", "--", "sleep", "300")
    eventually(lambda: shown(served, runs)["state"] == "running")
    assert "is running; only a job that has not started" in served.run("start", "--now", runs, code=65).stderr
    served.run("cancel", "--now", runs)
    batch = served.run("exec", "--queue", "one", "--batch", "-", input="true\n" * 2).stdout.strip()
    assert "is a batch" in served.run("start", "--now", batch, code=65).stderr
    member = f"{batch}+1"
    assert eventually(lambda: served.run("start", "--now", member, code=None).stdout).startswith(f"{member}\tstarting")
    done(served, member)
    served.run("cancel", batch)
    assert "cronq start --now ID" in served.run("start", runs, code=2).stderr
