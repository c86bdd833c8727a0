"""Dependencies (docs/job-file.md, Jobs that wait for others), with a real dispatcher: each story a rule."""

import json
import os
import signal

import pytest
from conftest import eventually

from cronq import job as jobs
from cronq.backlog import MOST_MEMBERS


def gated(world, name="gate", code=0):
    """A job that ends with this code as soon as its gate is there; the gate."""
    gate = world.path / name
    script = f"until [ -e {gate} ]; do sleep 0.01; done; exit {code}"
    return world.submit("exec", "--", "sh", "-c", script), gate


def ran(world, word, *options):
    """A job that says in the ledger that it ran."""
    return world.submit("exec", *options, "--", "sh", "-c", f"echo {word} >> {world.path}/ledger")


def ledger(world):
    file = world.path / "ledger"
    return file.read_text().split() if file.exists() else []


def shown(world, job_id):
    return json.loads(world.run("show", "--json", job_id).stdout)


def state(world, job_id):
    return shown(world, job_id)["state"]


def waits(world, job_id):
    eventually(lambda: list((world.spool / "queue" / "waiting").glob(f"*,{job_id},*")))


def refused(world, job):
    name = jobs.new_name()
    world.drop(name, {"command": ["true"]} | job)
    return world.rejected(name).split("\n")[0]


def test_a_job_runs_after_all_that_it_names_are_done_and_says_what_it_waits_for(world):
    world.start()
    first, one = gated(world, "one")
    second, two = gated(world, "two")
    last = ran(world, "last", "--after", first, "--after", second)
    found = shown(world, last)
    assert (found["state"], found["reason"]) == ("waiting", f"waits for {first}, {second}")
    assert found["after"] == [first, second]
    one.touch()
    world.result(first)
    assert eventually(lambda: shown(world, last)["reason"] == f"waits for {second}")
    assert last in world.run("list", "--state", "waiting").stdout
    two.touch()
    assert world.result(last)["state"] == "done"
    assert ledger(world) == ["last"]


def test_what_waits_for_a_job_that_failed_is_skipped_at_once_all_the_way_down(world):
    world.start()
    first, gate = gated(world, code=3)
    second = ran(world, "second", "--after", first)
    third = ran(world, "third", "--after", second)
    waits(world, third)
    gate.touch()
    assert world.result(third)["state"] == "skipped"
    assert world.result(second)["reason"] == f"it was to run after {first} is done, which is dead"
    assert world.result(third)["reason"] == f"it was to run after {second} is done, which is skipped"
    assert state(world, third) == "skipped"
    world.run("wait", third, code=125)
    assert world.result(ran(world, "late", "--after", third))["state"] == "skipped"
    assert "retry what it waits for" in world.run("retry", second, code=65).stderr
    assert ledger(world) == []


def test_retrying_a_dead_job_revives_those_that_were_skipped_because_of_it(world):
    world.start()
    flag = world.path / "flag"
    first = world.submit("exec", "--", "test", "-e", str(flag))
    second = ran(world, "second", "--after", first)
    third = ran(world, "third", "--after", second)
    assert world.result(third)["state"] == "skipped"
    world.run("retry", first)
    eventually(lambda: (world.results(third) / "result.json.2").exists() or world.run("retry", first, code=None))
    assert world.result(third)["state"] == "skipped"  # it failed again, and so they are skipped again
    flag.touch()
    world.run("retry", first)
    eventually(lambda: world.result(third)["state"] == "done")
    assert ledger(world) == ["second", "third"]


def test_after_any_runs_however_the_others_ended_and_after_fail_only_if_one_failed(world):
    world.start()
    bad, gate = gated(world, code=1)
    good, open_it = gated(world, "good")
    either = ran(world, "either", "--after-any", bad, "--after-any", good)
    alarm = ran(world, "alarm", "--after-fail", bad, "--after-fail", good)
    quiet = ran(world, "quiet", "--after-fail", good)
    gate.touch()
    assert world.result(alarm)["state"] == "done"  # one is enough
    assert state(world, either) == "waiting"
    open_it.touch()
    assert world.result(either)["state"] == "done"
    assert world.result(quiet)["reason"] == f"it was to run if {good} failed, and none has"
    assert ledger(world) == ["alarm", "either"]


def test_a_cancelled_and_an_expired_job_are_not_done(world):
    world.start()
    first, _ = gated(world)
    late = world.submit("exec", "--delay", "1h", "--expires", "1s", "--", "true")
    after_first, after_late = ran(world, "x", "--after", first), ran(world, "x", "--after", late)
    waits(world, after_late)
    world.run("cancel", "--now", first)
    assert "is cancelled" in world.result(after_first)["reason"]
    assert "is expired" in world.result(after_late)["reason"]


def test_a_job_that_may_run_later_only_is_delayed_when_what_it_waits_for_is_done(world):
    world.start()
    first, gate = gated(world)
    second = world.submit("exec", "--after", first, "--delay", "1h", "--", "true")
    waits(world, second)
    gate.touch()
    eventually(lambda: state(world, second) == "delayed")


def test_an_id_that_is_unknown_or_another_users_is_refused_by_the_same_sentence(world):
    world.start()
    own, other = f"{world.uid}-{jobs.new_name()}", f"{world.uid + 1}-{jobs.new_name()}"
    assert refused(world, {"after": [own]}) == f"after names the unknown job '{own}'"
    assert refused(world, {"after_any": [other]}) == f"after_any names the unknown job '{other}'"
    assert "must be a job's id" in refused(world, {"after_fail": ["nightly"]})


def test_a_circle_cannot_come_to_be(world):
    """Both lie in the inbox before either is looked at; and nobody names himself, or his own batch."""
    world.start()
    alone = jobs.new_name()
    world.drop(alone, {"command": ["true"], "after": [f"{world.uid}-{alone}"]})
    assert "unknown job" in world.rejected(alone)
    dispatcher = world.dispatcher(world.daemons[0])
    os.kill(dispatcher, signal.SIGSTOP)
    names = [jobs.new_name() for _ in range(3)]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        world.drop(name, {"command": ["true"], "after": [f"{world.uid}-{other}"]})
    batch = jobs.new_name()
    line = json.dumps({"command": ["true"], "after": [f"{world.uid}-{batch}+1"]})
    (world.inbox / ".b.tmp").write_text(f'{{"jobs": 1}}\n{line}\n')
    (world.inbox / ".b.tmp").rename(world.inbox / f"{batch}.jobs")
    os.kill(dispatcher, signal.SIGCONT)
    for name in names:
        assert "unknown job" in world.rejected(name)
    assert "line 1: after names the unknown job" in world.rejected(batch, "jobs")


def test_a_name_is_no_id_but_the_command_line_finds_the_job_that_is_meant(world):
    world.start()
    gate = world.path / "gate"
    world.submit("exec", "--name", "nightly", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.01; done")
    eventually(lambda: "nightly" in world.run("list").stdout)
    assert "that is a name, which may come again: write" in refused(world, {"after": [f"{world.uid}-nightly"]})
    last = ran(world, "last", "--after", "nightly")
    waits(world, last)
    gate.touch()
    assert world.result(last)["state"] == "done"
    assert "no job of yours has the id" in world.run("exec", "--after", "never", "--", "true", code=65).stderr


def test_what_was_queued_while_nobody_looked_is_taken_in_an_order_that_knows_all(world):
    parents = [world.submit("exec", "--", "true") for _ in range(3)]
    words = [f"--after={parent}" for parent in parents]
    child = ran(world, "child", *words)
    world.drop("chosen", {"command": ["sh", "-c", f"echo chosen >> {world.path}/ledger"], "after": [child]})
    world.start()
    eventually(lambda: ledger(world) == ["child", "chosen"])


def test_a_whole_batch_is_done_when_all_of_its_jobs_are(world):
    world.start()
    good = world.run("exec", "--batch", "-", input="true\n" * 5).stdout.strip()
    bad = world.run("exec", "--batch", "-", input="true\nfalse\n").stdout.strip()
    last, never, alarm = ran(world, "last", "--after", good), ran(world, "x", "--after", bad), None
    alarm = ran(world, "alarm", "--after-fail", bad)
    assert world.result(last)["state"] == "done"
    assert world.result(never)["reason"] == f"it was to run after {bad} is done, which is done in part"
    assert world.result(alarm)["state"] == "done"


def test_jobs_of_a_batch_wait_and_are_waited_for(world):
    world.start()
    first, gate = gated(world)
    script = f"echo member >> {world.path}/ledger\n" * 100
    batch = world.run("exec", "--after", first, "--batch", "-", input=script).stdout.strip()
    last = ran(world, "last", "--after", f"{batch}+100")  # which is no entry of its own yet
    none = f"{batch}+101"
    waits(world, last)
    assert refused(world, {"after": [none]}) == f"after names the unknown job '{none}'"
    assert ledger(world) == []
    gate.touch()
    assert world.result(last)["state"] == "done"
    assert world.result(batch)["counts"] == {"done": 100}
    assert len(ledger(world)) == 101


def test_jobs_of_a_batch_that_never_come_to_be_end_with_it(world):
    world.start()
    first, gate = gated(world, code=1)
    number = MOST_MEMBERS + 1
    batch = world.run("exec", "--after", first, "--batch", "-", input="true\n" * number).stdout.strip()
    last = ran(world, "last", "--after-any", f"{batch}+{number}")
    gone = ran(world, "gone", "--after", f"{batch}+{number}")
    waits(world, gone)
    world.run("cancel", batch)
    assert "which is gone" in world.result(gone)["reason"]
    assert world.result(last)["state"] == "done"
    gate.touch()
    world.result(first)


def test_what_waits_is_computed_from_what_is_where_after_a_restart(world):
    """The jobs that they wait for end while no dispatcher is there to see it."""
    daemon = world.start()
    good, open_good = gated(world, "one")
    bad, open_bad = gated(world, "two", code=1)
    runs, never = ran(world, "runs", "--after", good), ran(world, "never", "--after", bad)
    waits(world, runs)
    waits(world, never)
    eventually(lambda: len(list((world.spool / "queue" / "running").iterdir())) == 2)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(10)
    open_good.touch()
    open_bad.touch()
    world.start()
    assert world.result(runs)["state"] == "done"
    assert world.result(never)["state"] == "skipped"


def test_a_job_that_is_held_while_it_waits_waits_again_when_it_is_released(world):
    world.start()
    first, gate = gated(world)
    second = ran(world, "second", "--after", first)
    waits(world, second)
    world.run("hold", second)
    assert world.run("release", second).stdout == f"{second}\twaiting\n"
    world.run("hold", second)
    gate.touch()
    world.result(first)
    assert "waits for it still" in world.run("rm", first, code=65).stderr
    assert state(world, second) == "held"
    world.run("release", second)
    assert world.result(second)["state"] == "done"
    world.run("rm", first)


def test_of_a_job_that_somebody_removed_nobody_knows_how_it_ended(world):
    """By hand, while two others are waited for: the dispatcher does not remove it (see above)."""
    daemon = world.start()
    gone = world.submit("exec", "--", "true")
    world.result(gone)
    first, gate = gated(world)
    both, any_of_them = ran(world, "x", "--after", gone, "--after", first), ran(world, "y", "--after-any", gone)
    assert world.result(any_of_them)["state"] == "done"
    waits(world, both)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(10)
    for path in world.results(gone).iterdir():
        path.unlink()
    world.start()
    assert world.result(both)["reason"] == f"it was to run after {gone} is done, which is gone"
    gate.touch()


@pytest.mark.parametrize("step", ["captured", "placed", "settled", "skipped"])
def test_a_dispatcher_killed_at_a_step_neither_loses_nor_doubles_what_waits(world, serve, step):
    flag = serve("dispatcher", step)
    bad, good = jobs.new_name(), jobs.new_name()
    world.drop(bad, {"command": ["false"]})
    world.drop(good, {"command": ["true"]})
    never, runs = (
        ran(world, "never", "--after", f"{world.uid}-{bad}"),
        ran(world, "runs", f"--after={world.uid}-{good}"),
    )
    last = ran(world, "last", "--after-any", never, "--after", runs)
    assert world.result(last)["state"] == "done"
    assert flag.exists()
    assert world.result(never)["state"] == "skipped"
    assert ledger(world) == ["runs", "last"]


def test_a_dispatcher_killed_while_it_revives_revives_them_all_the_same(world, serve):
    flag, good = serve("dispatcher", "revived"), world.path / "good"
    first = world.submit("exec", "--", "test", "-e", str(good))
    second = ran(world, "second", "--after", first)
    third = ran(world, "third", "--after", second)
    assert world.result(third)["state"] == "skipped"
    good.touch()
    world.run("retry", first, code=None)  # it may have no time to answer
    eventually(lambda: (world.results(third) / "result.json").exists() and world.result(third)["state"] == "done")
    assert flag.exists()
    assert ledger(world) == ["second", "third"]


def test_many_that_wait_for_one_job_hold_up_no_other_and_a_restart_reads_each_once(world):
    daemon = world.start()
    first, gate = gated(world, code=1)
    text = json.dumps({"command": ["true"], "after": [first]})
    for number in range(500):
        world.drop(f"n{number:04}", text)
    queue = world.spool / "queue"
    eventually(lambda: len(os.listdir(queue / "waiting")) == 500)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    gate.touch()
    assert world.result(world.submit("exec", "--", "true"))["state"] == "done"
    eventually(lambda: len(os.listdir(queue / "skipped")) == 500)
