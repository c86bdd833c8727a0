"""Unique jobs (docs/job-file.md), with a real dispatcher: a story a rule; and which keys are taken, by itself."""

import json
import os
import signal
import subprocess

import pytest
from conftest import CRONQ, eventually

from cronq import job as jobs
from cronq import unique
from cronq.entry import UNTIL_START, UNTIL_SUCCESS, Entry, parse
from cronq.states import DEAD, DELAYED, HELD, READY, RUNNING, SKIPPED, WAITING
from cronq.uniquekeys import DEBOUNCE, IGNORE, ONCE, THROTTLE

UNSTARTED = (READY, DELAYED, WAITING, HELD)


def text(**fields):
    return unique.text(jobs.decode(json.dumps(fields).encode()), "q")


def test_a_key_is_a_word_or_the_values_of_fields():
    word = text(command=["a"], unique="a")
    assert word == text(command=["b"], unique="a") != text(command=["b"], unique="b")
    both = ["task", "args"]
    assert text(task="t", args=["1"], unique=both) == text(task="t", args=["1"], unique=both[::-1], note="x")
    assert text(task="t", args=["1"], unique=both) != text(task="t", args=["2"], unique=both)
    assert text(task="t", args=["1"], unique=["task"]) == text(task="t", args=["2"], unique=["task"])
    some = {"task": "t", "unique": both, "unique_keys": [0, 2]}
    assert (
        text(**some, args=["1", "x", "3"]) == text(**some, args=["1", "y", "3"]) != text(**some, args=["2", "x", "3"])
    )
    assert text(command=["a"]) == ""


@pytest.mark.parametrize(
    ("flags", "attempt", "states"),
    [
        ("", 0, {*UNSTARTED, RUNNING}),
        ("", 2, {*UNSTARTED, RUNNING}),
        (UNTIL_START, 0, {*UNSTARTED}),
        (UNTIL_START, 1, set()),
        (UNTIL_SUCCESS, 3, {*UNSTARTED, RUNNING, DEAD, SKIPPED}),
    ],
)
def test_a_job_keeps_its_key_until_it_starts_ends_or_succeeds(flags, attempt, states):
    entry = Entry(id="1-a", due=1, flags=flags, attempt=attempt, unique="k" * 16)
    every = (*UNSTARTED, RUNNING, DEAD, SKIPPED, "")
    assert {state for state in every if unique.holds(entry, state)} == states


def test_a_key_is_free_when_nobody_keeps_it_and_nothing_of_it_is_left():
    taken = unique.Taken()
    entry = Entry(id="1-a", due=1, unique="k" * 16)
    assert taken.holder(entry.unique, 5, IGNORE, 1) is None
    for state in (READY, RUNNING):
        taken.moved(entry, state)
        assert taken.holder(entry.unique, 5, IGNORE, 1) == ("1-a", state)
    assert [taken.holder(entry.unique, 5, action, 1) for action in (ONCE, DEBOUNCE, THROTTLE)] == [None, None, None]
    for action in (ONCE, DEBOUNCE, THROTTLE):  # of another user's
        assert taken.holder(entry.unique, 5, action, 2) == ("1-a", RUNNING)
    taken.moved(entry, "")
    assert (taken.holder(entry.unique, 5, IGNORE, 1), taken.holders) == (None, {})


def test_a_key_that_is_taken_for_a_while_is_taken_whatever_became_of_the_job():
    taken = unique.Taken()
    taken.open("k", 10, "1-a", 5)
    assert [taken.holder("k", 9, action, 1) for action in (IGNORE, THROTTLE, ONCE)] == [("1-a", ""), ("1-a", ""), None]
    assert [taken.holder("k", 9, action, 2) for action in (THROTTLE, ONCE)] == [("1-a", ""), ("1-a", "")]
    assert taken.holder("k", 10, THROTTLE, 1) is None
    for number in range(1000):
        taken.open(f"k{number}", number, "1-a", number)
    assert len(taken.windows) < 200


# ---------------------------------------------------------------- with a real dispatcher


def gated(world, *options, name="gate", code=0, say="ran"):
    """The arguments of a job that says something and ends as soon as its gate is there; the gate."""
    gate = world.path / name
    script = f"echo {say}; until [ -e {gate} ]; do sleep 0.01; done; exit {code}"
    return ["exec", *options, "--", "sh", "-c", script], gate


def ask(world, *argv, code=0):
    """What a submission with --json is answered."""
    done = world.run(argv[0], "--json", *argv[1:], code=code)
    return json.loads(done.stdout) if code == 0 else done.stderr


def running(world, job_id):
    eventually(lambda: list((world.spool / "queue" / "running").glob(f"*,{job_id},*")))


def test_ignore_leaves_the_second_out_and_tells_the_firsts_id(world):
    world.start()
    argv, gate = gated(world, "--unique", "nightly")
    first = ask(world, *argv)
    assert "conflict" not in first
    second = ask(world, *argv)
    assert second == {"id": first["id"], "conflict": True}
    done = world.run(argv[0], "--wait", *argv[1:])
    assert "it stands for this one" in done.stderr
    assert ask(world, "exec", "--unique", "other", "--", "true")["id"] != first["id"]
    gate.touch()
    world.result(first["id"])
    assert "conflict" not in ask(world, *argv)  # it has ended, so the key is free
    assert json.loads(world.run("stats", "--json").stdout)["rejected"] == 2


def test_reject_refuses_the_second(world):
    world.start()
    argv, gate = gated(world, "--unique", "a", "--on-conflict", "reject")
    first = ask(world, *argv)["id"]
    assert f"job {first} has this unique key, and is " in ask(world, *argv, code=73)
    gate.touch()


def test_attach_gives_every_waiter_the_one_result(world):
    world.start()
    argv, gate = gated(world, "--unique", "a", "--on-conflict", "attach", code=3, say="once")
    first = ask(world, *argv)["id"]
    running(world, first)
    waiters = [
        subprocess.Popen([*CRONQ, argv[0], "--wait", *argv[1:]], env=world.env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    eventually(lambda: len(list((world.spool / "rejected" / str(world.uid)).glob("*.reason"))) == 3)
    gate.touch()
    assert [(each.communicate()[0], each.returncode) for each in waiters] == [("once\n", 3)] * 3
    assert len(list((world.spool / "out" / str(world.uid)).iterdir())) == 1


def test_who_waits_for_an_id_that_was_attached_later_gets_the_result_too(world):
    """It was submitted while no dispatcher ran."""
    argv, gate = gated(world, "--unique", "a", "--on-conflict", "attach", say="once")
    gate.touch()
    first, second = world.submit(*argv), world.submit(*argv)
    assert first != second
    world.start()
    world.run("wait", second)
    assert world.run("result", "--json", second).stdout == world.run("result", "--json", first).stdout
    assert len(list((world.spool / "out" / str(world.uid)).iterdir())) == 1


def test_until_start_and_until_success(world):
    world.start()
    argv, gate = gated(world, "--unique", "s", "--unique-until", "start")
    first = ask(world, *argv)["id"]
    running(world, first)
    assert "conflict" not in ask(world, *argv)
    gate.touch()
    good = world.path / "good"
    argv = ["exec", "--unique", "y", "--unique-until", "success", "--", "test", "-e", str(good)]
    dead = ask(world, *argv)["id"]
    assert world.result(dead)["state"] == "dead"
    assert ask(world, *argv)["conflict"]
    good.touch()
    world.run("retry", dead)
    eventually(lambda: world.result(dead)["state"] == "done")
    assert "conflict" not in ask(world, *argv)


def test_a_throttle_leaves_out_what_comes_too_soon_whatever_became_of_the_first(world):
    world.start()
    argv = ["exec", "--unique", "t", "--on-conflict", "throttle=1h", "--", "true"]
    first = ask(world, *argv)["id"]
    world.result(first)
    assert ask(world, *argv) == {"id": first, "conflict": True}
    quick = ["exec", "--unique", "q", "--on-conflict", "throttle=10ms", "--", "sleep", "300"]
    one = ask(world, *quick)["id"]
    two = eventually(lambda: None if "conflict" in (found := ask(world, *quick)) else found["id"])
    assert one != two
    world.run("cancel", "--now", one, two)


def test_a_key_stays_taken_for_its_time_over_a_restart(world):
    daemon = world.start()
    argv = ["exec", "--unique", "w", "--unique-for", "1h", "--on-conflict", "attach", "--", "echo", "once"]
    first = ask(world, *argv)["id"]
    world.result(first)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert ask(world, *argv) == {"id": first, "conflict": True}
    assert world.run(argv[0], "--wait", *argv[1:]).stdout == "once\n"


def test_a_crash_before_the_history_tells_of_it_leaves_a_key_taken_for_its_time(world, serve):
    """Killed as soon as the job has its place, and again when it has ended: then the history is all that tells."""
    flag = serve("dispatcher", "placed")
    job = {"command": ["true"], "unique": "w", "unique_for": "1h"}
    first, second = jobs.new_name(), jobs.new_name()
    world.drop(first, job)
    world.result(f"{world.uid}-{first}")
    assert flag.exists()
    daemon, log = world.daemons[0], world.path / "log"
    os.kill(world.dispatcher(daemon, b"handover.py"), signal.SIGKILL)
    eventually(lambda: log.read_text().count("event=ready") == 3)
    world.drop(second, job)
    assert f"job {world.uid}-{first} has this unique key, and was submitted not long ago" in world.rejected(second)


def test_keys_are_taken_after_a_restart_by_those_that_had_them(world):
    daemon = world.start()
    argv, gate = gated(world, "--unique", "a")
    later = ["exec", "--unique", "b", "--delay", "1h", "--", "true"]
    found = [ask(world, *each)["id"] for each in (argv, later)]
    running(world, found[0])
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert [ask(world, *each)["id"] for each in (argv, later)] == found
    gate.touch()


def test_requeue_once_lets_one_wait_while_one_runs_and_holds_over_a_retry(world):
    world.start()
    gate = world.path / "gate"
    script = f"until [ -e {gate} ]; do sleep 0.01; done; exit 1"
    argv = ["exec", "--unique", "o", "--on-conflict", "requeue-once", "--retries", "1", "--", "sh", "-c", script]
    first = ask(world, *argv)["id"]
    running(world, first)
    gate.touch()
    eventually(lambda: list((world.spool / "queue" / "delayed").rglob(f"*,{first},*")))
    assert ask(world, *argv) == {"id": first, "conflict": True}  # it waits for its retry
    world.run("cancel", first)
    gate.unlink()
    first = ask(world, *argv)["id"]
    running(world, first)
    waiting = ["exec", "--delay", "1h", *argv[1:]]
    second = ask(world, *waiting)
    assert "conflict" not in second
    assert ask(world, *waiting) == {"id": second["id"], "conflict": True}
    world.run("cancel", "--now", first, second["id"])


def test_replace_puts_the_newer_in_the_olders_place_as_long_as_that_has_not_started(world):
    world.start()
    argv = ["exec", "--unique", "r", "--on-conflict", "replace", "--delay"]
    first = ask(world, *argv, "2h", "--", "echo", "old")["id"]
    second = ask(world, *argv, "1h", "--", "echo", "new")
    assert "conflict" not in second
    assert world.result(first)["reason"] == f"replaced by {second['id']}"
    found = ask(
        world, "exec", "--unique", "r", "--on-conflict", "replace=at,priority", "--priority", "7", "--", "false"
    )
    assert found == {"id": second["id"], "conflict": True}
    done = world.result(second["id"])
    assert (done["state"], done["priority"], (world.results(done["id"]) / "stdout").read_text()) == ("done", 7, "new\n")
    argv, gate = gated(world, "--unique", "x", "--on-conflict", "replace")
    running(world, ask(world, *argv)["id"])
    assert "too late to replace it" in ask(world, *argv, code=73)
    gate.touch()


def test_a_debounce_runs_the_last_one_when_nothing_more_has_come(world):
    world.start()
    argv = ["exec", "--unique", "d", "--on-conflict", "debounce=1h/2h", "--", "echo"]
    found = [ask(world, *argv, word)["id"] for word in ("one", "two", "three")]
    assert len(set(found)) == 3
    shown = [json.loads(world.run("show", "--json", job_id).stdout) for job_id in found]
    assert [each["state"] for each in shown] == ["cancelled", "cancelled", "delayed"]
    assert 3590 < shown[2]["due"] - shown[2]["submitted"] < 3610
    last = ask(world, "exec", "--unique", "d", "--on-conflict", "debounce=5m/1ms", "--", "echo", "four")["id"]
    assert world.result(last)["state"] == "done"  # it has been put off long enough


def test_the_same_key_of_another_user_is_another_key_unless_a_task_says_so(world):
    """Users of their own: tests/system/. Here: what a global key is made of, and that it is compared."""
    world.tasks('[tasks.one]\ncommand = ["sleep", "300"]\nunique_scope = "global"\n[tasks.two]\ncommand = ["true"]\n')
    world.start()
    first = ask(world, "submit", "--unique", "k", "one")["id"]
    assert ask(world, "submit", "--unique", "k", "one") == {"id": first, "conflict": True}
    assert "conflict" not in ask(world, "submit", "--unique", "k", "two")
    world.run("cancel", "--now", first)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"unique": "a", "unique_until": "never"}, "unique_until must be start, end or success"),
        ({"unique_for": "5m"}, "unique_for needs unique beside it"),
        ({"unique": ["env"]}, "unique[0] must be one of task, command, args, queue, cwd"),
        ({"unique": "a", "unique_keys": [0]}, "unique_keys are positions in args or command"),
        ({"unique": "a", "on_conflict": {"throttle": 0}}, "on_conflict.throttle must be longer than nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(fields, words):
    with pytest.raises(jobs.BadJob, match=words.replace("[", "\\[")):
        jobs.decode(json.dumps({"command": ["true"]} | fields).encode())


def test_a_task_may_say_what_its_jobs_are_unique_by(world):
    gate = world.path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.01; done"
    said = 'unique = ["task", "args"]\nunique_keys = [0]\non_conflict = "reject"'
    world.tasks(f"[tasks.t]\nshell = '{wait}'\n{said}\n[tasks.u]\nshell = 'true'\nunique = 'u'\nunique_for = '1h'\n")
    daemon = world.start()
    first = ask(world, "submit", "t", "a", "1")["id"]
    assert f"{first} has this unique key" in ask(world, "submit", "--wait", "t", "a", "2", code=73)
    other = ask(world, "submit", "t", "b")["id"]
    mine = ask(world, "submit", "--unique", "mine", "t", "a")["id"]
    for job_id in (first, other, mine):
        running(world, job_id)
    gate.touch()
    assert {world.result(job_id)["state"] for job_id in (first, other, mine)} == {"done"}
    (world.inbox / ".b.tmp").write_text('{"jobs": 1}\n{"task": "t"}\n')
    (world.inbox / ".b.tmp").rename(world.inbox / "b.jobs")
    assert "line 1: unique of the task t is no key of a batch's job" in world.rejected("b", "jobs")
    once = ask(world, "submit", "u")["id"]
    world.result(once)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert once in world.rejected(ask(world, "submit", "u")["id"].partition("-")[2])


def test_a_batchs_jobs_have_no_keys(world):
    world.start()
    assert (
        "--unique is for one job" in world.run("exec", "--unique", "a", "--batch", "-", code=2, input="true\n").stderr
    )
    (world.inbox / ".b.tmp").write_text('{"jobs": 1}\n{"command": ["true"], "unique": "a"}\n')
    (world.inbox / ".b.tmp").rename(world.inbox / "b.jobs")
    assert "line 1: unique is no key of a batch's job" in world.rejected("b", "jobs")


@pytest.mark.parametrize("step", ["captured", "replaced", "placed", "settled"])
def test_a_dispatcher_killed_at_a_step_neither_loses_nor_doubles_a_unique_job(world, serve, step):
    flag = serve("dispatcher", step)
    ledger = world.path / "ledger"
    job = {"command": ["sh", "-c", f"echo $CRONQ_JOB_ID >> {ledger}"], "unique": "k", "on_conflict": "replace"}
    names = [jobs.new_name() for _ in range(2)]
    world.drop(names[0], job | {"delay": "1h"})
    eventually(lambda: list((world.spool / "queue" / "delayed").rglob("*,*")))
    world.drop(names[1], job)
    first, second = (f"{world.uid}-{name}" for name in names)
    assert world.result(second)["state"] == "done"
    assert world.result(first)["reason"] == f"replaced by {second}"
    assert flag.exists()
    assert ledger.read_text().split() == [second]


@pytest.mark.parametrize("step", ["captured", "replaced", "placed"])
def test_a_job_in_an_older_ones_place_has_its_time_and_priority_though_the_dispatcher_is_killed_at_a_step(
    world, serve, step
):
    flag = serve("dispatcher", step)
    job = {"command": ["true"], "unique": "k", "on_conflict": {"replace": ["args"]}}
    names = [jobs.new_name() for _ in range(2)]
    world.drop(names[0], job | {"delay": "1h", "priority": 7})
    (older,) = eventually(lambda: list((world.spool / "queue" / "delayed").rglob("*,*")))
    world.drop(names[1], job)
    assert world.result(f"{world.uid}-{names[0]}")["state"] == "cancelled"
    (newer,) = eventually(
        lambda: [each for each in (world.spool / "queue" / "delayed").rglob("*,*") if names[1] in each.name]
    )
    assert flag.exists()
    was, found = parse(older.name), parse(newer.name)
    assert (found.due, found.priority) == (was.due, 7)
