"""Pausing queues and tasks, and draining: nothing starts, nothing is lost, nobody's place or attempt is used up."""

import json
import os
import time

import pytest
from conftest import World, eventually

from cronq import client, process

TOML = """[limits]
max_jobs = 8
[queues.default]
slots = 1
[queues.one]
slots = 1
[queues.careful]
slots = 1
pause_on_failure = true
[tasks.poll]
shell = 'echo "$1" >> LEDGER'
[tasks.other]
command = ["true"]
[tasks.fragile]
shell = 'exit "$1"'
pause_on_failure = true
[schedules.poll]
every = "24h"
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One dispatcher for all of these stories; each has queues and tasks of its own to pause."""
    found = World(tmp_path_factory.mktemp("pausing"))
    found.ledger = found.path / "ledger"
    found.tasks(TOML.replace("LEDGER", str(found.ledger)))
    (found.config / "crontab").write_text("# cronq: name=line\n5 5 5 5 * true\n")
    (found.config / "crontab").chmod(0o644)
    found.start()
    yield found
    found.stop()


def kill(world):
    """The dispatcher goes as by a SIGKILL, and its launcher starts another."""
    (daemon,) = world.daemons
    seen = daemon.log.read_text().count("event=ready")
    os.kill(world.dispatcher(daemon), 9)
    eventually(lambda: daemon.log.read_text().count("event=ready") > seen)


def passes(world) -> None:
    """A job that nothing keeps from starting, and that came after all others: two turns later they would have begun."""
    for _ in range(2):
        assert world.result(world.submit("exec", "--", "true"))["state"] == "done"


def shown(world, job: str) -> dict:
    return json.loads(world.run("show", "--json", job).stdout)


def stats(world) -> dict:
    return json.loads(world.run("stats", "--json").stdout)


def words(path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def echo(world, word: str, *options: str) -> str:
    return world.submit("exec", *options, "--", "sh", "-c", f"echo {word} >> {world.ledger}")


def test_a_paused_queue_starts_nothing_over_restarts_and_its_jobs_keep_their_place_and_their_attempts(served):
    assert served.run("pause", "one").stdout == "queue:one\tpaused\n"
    jobs = [echo(served, word, "--queue", "one") for word in ("a", "b")]
    jobs.append(echo(served, "urgent", "--queue", "one", "--priority", "high"))
    passes(served)
    kill(served)
    passes(served)
    assert [(shown(served, job)["state"], shown(served, job)["attempt"]) for job in jobs] == [("ready", 0)] * 3
    assert {shown(served, job)["reason"] for job in jobs} == {"queue one is paused"}
    assert "queue one is paused" in served.run("list", "--state", "ready").stdout
    assert {"gate": "queue:one", "paused": True, "why": "queue one is paused"} in stats(served)["paused"]
    assert "paused\tqueue:one\tqueue one is paused, until it is resumed\n" in served.run("stats").stdout
    assert "queue one is paused, until it is resumed; cronq resume queue:one" in served.run("doctor", code=None).stdout
    assert served.run("resume", "one").stdout == "queue:one\tresumed\n"
    assert [served.result(job)["attempt"] for job in jobs] == [1, 1, 1]
    assert words(served.ledger) == ["urgent", "a", "b"]
    assert served.run("resume", "queue:one").stdout == "queue:one\twas not paused\n"


def test_a_paused_task_starts_nothing_whatever_its_queue_and_other_tasks_do(served):
    served.run("pause", "other")
    jobs = [served.submit("submit", "other"), served.submit("submit", "--queue", "two", "other")]
    assert served.result(served.submit("submit", "--queue", "two", "fragile", "0"))["state"] == "done"
    passes(served)
    assert {shown(served, job)["reason"] for job in jobs} == {"task other is paused"}
    served.run("resume", "other")
    assert [served.result(job)["state"] for job in jobs] == ["done", "done"]


def test_a_pause_until_a_time_ends_by_itself(served):
    until = time.time() + 0.3
    list(client.ask(str(served.spool), {"do": "pause", "gate": "queue:three", "until": until}))
    job = served.submit("exec", "--queue", "three", "--", "true")
    assert served.result(job)["started"] >= until
    assert "queue:three" not in os.listdir(served.spool / "schedule" / "paused")


def test_a_name_of_two_things_is_one_sentence_that_says_both_and_how_to_say_which(served):
    """The schedule has its task's name; the queue, one that it was given by a job."""
    hold = served.submit("exec", "--queue", "poll", "--delay", "1h", "--", "true")
    said = served.run("pause", "poll", code=65).stderr
    assert said.startswith("cronq: 'poll' may mean queue:poll, task:poll, schedules.poll (")
    assert said.endswith("; say which\n")
    assert served.run("pause", "entry:poll").stdout == "poll\tschedules.poll\tpaused\n"
    assert served.run("pause", "task:poll").stdout == "task:poll\tpaused\n"
    assert "may mean task:poll, schedules.poll (" in served.run("resume", "poll", code=65).stderr
    served.run("resume", "entry:poll")
    assert served.run("resume", "poll").stdout == "task:poll\tresumed\n", "of those the only one that was paused"
    served.run("cancel", hold)


def test_a_name_that_nothing_has_is_not_paused_but_a_queue_that_is_to_come_can_be(served):
    assert "no queue, task or entry is called 'pol'; did you mean 'poll'?" in served.run("pause", "pol", code=65).stderr
    assert "unknown task 'zzz'" in served.run("pause", "task:zzz", code=65).stderr
    assert "like queue:mail" in served.run("pause", "queue:a b", code=2).stderr
    served.run("pause", "queue:tocome")
    job = served.submit("exec", "--queue", "tocome", "--", "true")
    passes(served)
    assert shown(served, job)["state"] == "ready"
    served.run("resume", "tocome")
    assert served.result(job)["state"] == "done"


def test_a_batch_is_no_job_of_the_default_queue_so_its_members_start_where_they_stand(served):
    gate = served.path / "gate0"
    runs = served.submit("exec", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    eventually(lambda: shown(served, runs)["state"] == "running")
    served.run("pause", "default")  # which is full, beside
    batch = served.run("submit", "--queue", "two", "--batch", "-", "fragile", input="0\n0\n").stdout.strip()
    assert served.result(batch)["counts"] == {"done": 2}
    served.run("resume", "default")
    gate.touch()
    served.result(runs)


@pytest.mark.parametrize(("stop", "go"), [(("pause", "cron"), ("resume", "cron")), (("drain",), ("resume",))])
def test_ticks_of_crontabs_wait_too_and_are_not_passed_over(served, stop, go):
    served.run(*stop)
    tick = served.run("run", "line").stdout.strip()
    if stop == ("drain",):
        shown(served, tick)
    else:
        passes(served)
    assert shown(served, tick)["state"] == "ready"
    served.run(*go)
    assert served.result(tick)["state"] == "done"


def test_pause_on_failure_pauses_a_queue_before_the_next_job_of_it_starts_and_says_whose_failure_it_was(served):
    first = served.submit("exec", "--queue", "careful", "--", "sh", "-c", "exit 65")
    second = served.submit("exec", "--queue", "careful", "--", "true")
    assert served.result(first)["state"] == "dead"
    passes(served)
    assert shown(served, second)["reason"] == "queue careful is paused, because a job of it ended dead"
    (told,) = (each for each in stats(served)["paused"] if each["gate"] == "queue:careful")
    assert (told["job"], told["paused"]) == (first, True)
    kill(served)
    passes(served)
    assert shown(served, second)["attempt"] == 0
    served.run("resume", "careful")
    assert served.result(second)["state"] == "done"


def test_pause_on_failure_of_a_task_is_for_what_ends_dead_not_for_what_is_tried_again(served):
    first = served.submit("submit", "--retries", "1", "fragile", "75")
    eventually(lambda: shown(served, first)["state"] == "delayed")
    assert served.result(served.submit("submit", "fragile", "0"))["state"] == "done"
    assert served.result(served.submit("submit", "fragile", "65"))["state"] == "dead"
    waits = served.submit("submit", "fragile", "0")
    passes(served)
    assert shown(served, waits)["state"] == "ready"
    served.run("cancel", first, waits)
    served.run("resume", "fragile")


def test_drain_starts_nothing_and_exits_when_nothing_runs_and_what_was_accepted_meanwhile_runs_after_it(served):
    gate = served.path / "gate"
    runs = served.submit("exec", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    eventually(lambda: shown(served, runs)["state"] == "running")
    said = served.run("drain", "--timeout", "50ms", code=75).stderr
    assert "not idle within 50ms: 1 jobs run still; nothing more is started until `cronq resume`" in said
    waits = served.submit("exec", "--", "true")
    assert eventually(lambda: shown(served, waits)["reason"]) == "cronq is drained: nothing starts"
    kill(served)
    assert "paused\tdrain\tcronq is drained: nothing starts, until it is resumed\n" in served.run("stats").stdout
    assert "cronq is drained: nothing starts" in served.run("doctor", code=None).stdout
    gate.touch()
    assert served.run("drain").stdout == "drain\tnothing runs, 1 wait\n"
    assert served.result(runs)["state"] == "done"
    assert shown(served, waits)["attempt"] == 0
    assert served.run("resume").stdout == "drain\tended\n"
    assert served.result(waits)["state"] == "done"
    assert served.run("drain", "--end").stdout == "drain\tthere was none\n"


def test_drain_refuse_runs_to_its_end_what_is_there_and_takes_nothing_more_until_it_is_over(served):
    gate = served.path / "gate2"
    script = f"until [ -e {gate} ]; do sleep 0.02; done"
    queued = [served.submit("exec", "--queue", "one", "--", "sh", "-c", script) for _ in range(2)]
    eventually(lambda: shown(served, queued[0])["state"] == "running")
    served.run("drain", "--refuse", "--timeout", "0s", code=75)
    kill(served)
    for submits in (("exec", "--", "true"), ("submit", "other"), ("exec", "--batch", "-")):
        done = served.run(*submits, code=75, input="true\n")
        assert done.stderr.startswith("cronq: cronq accepts nothing just now (cronq drain --refuse); submit it again")
    served.drop("dropped", {"command": ["true"]})
    assert "has not been looked at yet" in served.run("show", f"{served.uid}-dropped", code=75).stderr
    gate.touch()
    assert served.run("drain", "--refuse").stdout == "refuse\tnothing runs, 0 wait\n"
    assert [served.result(job)["state"] for job in queued] == ["done", "done"]
    assert (served.inbox / "dropped.job").exists()
    assert served.run("resume").stdout == "refuse\tended\n"
    served.run("wait", "dropped")
    assert served.result(served.submit("submit", "other"))["state"] == "done"


# ---------------------------------------------------------------- freeze


@pytest.fixture
def stays(served):
    """A job of the queue `cold`, its pid, and the file that lets it end."""
    gate, file = served.path / "gate-cold", served.path / "pid"
    script = f"echo $$ > {file}; until [ -e {gate} ]; do sleep 0.02; done"
    job = served.submit("exec", "--queue", "cold", "--", "sh", "-c", script)
    (pid,) = eventually(lambda: words(file))
    yield job, int(pid), gate
    served.run("resume", "queue:cold")
    served.run("cancel", "--now", job)
    served.result(job)
    gate.unlink(missing_ok=True)
    file.unlink()


def stands(pid: int) -> bool:
    return process.look(pid).state == b"T"


def test_freeze_stops_what_runs_of_a_queue_and_nothing_else_until_it_is_resumed(served, stays):
    job, pid, gate = stays
    assert served.run("pause", "--freeze", "cold").stdout == "queue:cold\tpaused\n"
    eventually(lambda: stands(pid))
    passes(served)
    gate.touch()
    passes(served)
    assert stands(pid)
    assert "queue cold is paused, and what runs of it is frozen" in served.run("stats").stdout
    served.run("resume", "cold")
    assert served.result(job)["exit_code"] == 0


def test_what_is_frozen_is_cancelled_all_the_same(served, stays):
    job, pid, _ = stays
    served.run("pause", "--freeze", "cold")
    eventually(lambda: stands(pid))
    served.run("cancel", job)
    found = served.result(job)
    assert (found["state"], found["signal"]) == ("cancelled", 15)


def test_a_dispatcher_that_goes_leaves_nothing_frozen_though_the_pause_stays(served, stays):
    job, pid, gate = stays
    served.run("pause", "--freeze", "cold")
    eventually(lambda: stands(pid))
    kill(served)
    eventually(lambda: not stands(pid))
    waits = served.submit("exec", "--queue", "cold", "--", "true")
    passes(served)
    assert shown(served, waits)["state"] == "ready"
    gate.touch()
    assert served.result(job)["exit_code"] == 0
    served.run("cancel", waits)


def test_only_a_queue_or_a_task_is_frozen(served):
    assert "--freeze is for queues and tasks" in served.run("pause", "--freeze", "line", code=2).stderr
