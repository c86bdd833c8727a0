"""Cancelling: what waits never runs, what runs is ended, a batch is all of its members, and a crash changes nothing."""

import json
import os
import signal

import pytest
from conftest import eventually

from cronq import spool
from cronq.entry import CANCEL_WANTED, Entry, digest, parse


def cancel(world, *ids, code=0):
    done = world.run("cancel", "--json", *ids, code=code)
    return [json.loads(line) for line in done.stdout.splitlines()]


def queued(world, state):
    """The ids in one state, as they lie there."""
    return {parse(path.name).id for path in (world.spool / "queue" / state).rglob("*,*")}


def lines(path):
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def batch(world):
    """Two hundred jobs that write their number and stay, four at a time."""
    ledger = world.path / "ledger"
    world.tasks("[limits]\nmax_jobs = 4\n")
    world.start()
    world.ledger = ledger
    text = f"echo $CRONQ_JOB_ID >> {ledger}; exec sleep 300\n"

    def start(number):
        job_id = world.run("exec", "--batch", "-", input=text * number).stdout.strip()
        eventually(lambda: len(lines(ledger)) == min(4, number))
        return job_id

    return start


@pytest.mark.parametrize("number", [200, 20, 4])
def test_a_batch_that_runs_is_cancelled_all_of_it(world, batch, number):
    """Its members that run, those that wait, and of a long one those that are not entries yet; of a short one all are
    entries, and it is itself counted among what runs.
    """
    job_id = batch(number)
    assert cancel(world, job_id) == [{"id": job_id, "state": "cancelling"}]
    found = world.result(job_id)
    assert found["state"] == "cancelled"
    assert found["counts"] == {"cancelled": number}
    assert found["reason"] == f"cancelled; {number} jobs of the batch are not done"
    assert len(lines(world.ledger)) == min(4, number)
    assert not queued(world, "ready") | queued(world, "running") | queued(world, "delayed")
    world.run("wait", job_id, code=125)
    assert cancel(world, job_id) == [{"id": job_id, "state": "cancelled"}]  # again: nothing more


def test_a_batch_is_cancelled_with_those_of_its_members_that_are_held_or_to_be_tried_again(world):
    world.tasks("[queues.one]\nslots = 1\n")
    world.start()
    again = {"command": ["sh", "-c", "exit 75"], "retries": 1, "backoff": {"base": "1h"}, "queue": "one"}
    stays = {"command": ["sleep", "300"], "queue": "one"}
    draft = world.inbox / ".b.tmp"
    draft.write_text("".join(json.dumps(each) + "\n" for each in ({"jobs": 3}, again, stays, stays)))
    draft.rename(world.inbox / "b.jobs")
    job_id = eventually(lambda: next((each for each in queued(world, "running") if "+" not in each), None))
    eventually(lambda: queued(world, "delayed") == {f"{job_id}+1"} and f"{job_id}+2" in queued(world, "running"))
    world.run("hold", f"{job_id}+3")
    assert queued(world, "running") == {job_id, f"{job_id}+2"}
    cancel(world, job_id)
    assert world.result(job_id)["counts"] == {"cancelled": 3}
    assert not any(queued(world, state) for state in ("delayed", "held", "running", "ready"))


def test_a_cancelled_batch_keeps_what_was_done(world, batch):
    world.start(wait="event=standby")
    job_id = world.run("exec", "--batch", "-", input="true\ntrue\nsleep 300\n" + "sleep 300\n" * 97).stdout.strip()
    first = [f"{job_id}+{number:03d}" for number in (1, 2)]
    for each in first:
        world.result(each)
    cancel(world, job_id)
    assert world.result(job_id)["counts"] == {"done": 2, "cancelled": 98}
    assert [world.result(each)["state"] for each in first] == ["done", "done"]


def test_a_batch_of_which_nothing_was_taken_yet_ends_at_once(world):
    world.tasks("[limits]\nmax_jobs = 1\n")
    world.start()
    world.submit("exec", "--", "sleep", "300")
    eventually(lambda: queued(world, "running"))
    job_id = world.run("exec", "--batch", "-", input="true\n" * 100).stdout.strip()
    eventually(lambda: queued(world, "ready"))
    assert cancel(world, job_id) == [{"id": job_id, "state": "cancelled"}]
    assert world.result(job_id)["state"] == "cancelled"


def test_a_batch_whose_cancelling_was_cut_short_is_cancelled_after_the_restart(world, batch):
    """The flag in its name is all that a crash leaves; its members still wait and run."""
    job_id = batch(200)
    daemon = world.daemons[-1]
    dispatcher = world.dispatcher(daemon)
    os.kill(dispatcher, signal.SIGSTOP)
    (path,) = (each for each in (world.spool / "queue").rglob(f"*,{job_id},*") if "ready" in each.parts)
    path.rename(path.with_name(parse(path.name).flagged(CANCEL_WANTED).name))
    os.kill(dispatcher, signal.SIGKILL)
    found = world.result(job_id)
    assert (found["state"], found["counts"]) == ("cancelled", {"cancelled": 200})
    assert len(lines(world.ledger)) == 4


@pytest.mark.parametrize("flagged", [True, False])
def test_a_cancelled_job_that_was_given_back_never_runs(world, flagged):
    """Its attempt never started, so it is ready again: but somebody wanted it to end."""
    spool.make(str(world.spool), world.uid)
    made = world.path / "made"
    data = json.dumps({"command": ["touch", str(made)]}).encode()
    entry = Entry(id=f"{world.uid}-0661017c581d9-aaaaaaaa", due=1, attempt=1, hash=digest(data))
    if flagged:
        entry = entry.flagged(CANCEL_WANTED)
    (world.spool / "queue" / "running" / entry.name).write_bytes(data)
    world.start()
    assert world.result(entry.id)["state"] == ("cancelled" if flagged else "done")
    assert made.exists() is not flagged


def test_a_job_whose_worker_outlived_its_dispatcher_can_be_cancelled(world):
    daemon = world.start()
    started = world.path / "started"
    job_id = world.submit("exec", "--", "sh", "-c", f"echo $$ > {started}; exec sleep 300")
    eventually(lambda: lines(started))
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert cancel(world, job_id) == [{"id": job_id, "state": "cancelling"}]
    found = world.result(job_id)
    assert (found["state"], found["signal"]) == ("cancelled", 9)
    assert len(list(world.results(job_id).glob("result.json*"))) == 1
    assert "worker-died" not in daemon.log.read_text()


def test_a_job_that_was_to_be_cancelled_when_the_dispatcher_died_still_is(world):
    started = world.path / "started"
    script = f"trap '' TERM; echo $$ > {started}; while :; do sleep 0.1; done"
    world.tasks(f'[tasks.stubborn]\nshell = "{script}"\ngrace = "1h"\n')
    daemon = world.start()
    job_id = world.submit("submit", "stubborn")
    eventually(lambda: lines(started))
    assert cancel(world, job_id) == [{"id": job_id, "state": "cancelling"}]
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    assert world.result(job_id)["state"] == "cancelled"  # before its grace is over


def test_what_runs_says_cancelling_and_now_means_now(world):
    world.tasks('[tasks.stubborn]\nshell = "trap \'\' TERM; while :; do sleep 0.1; done"\ngrace = "1h"\n')
    world.start()
    job_id = world.submit("submit", "stubborn")
    eventually(lambda: queued(world, "running"))
    assert world.run("cancel", job_id).stdout == f"{job_id}\tcancelling\n"
    assert world.run("cancel", "--now", job_id).stdout == f"{job_id}\tcancelling\n"
    assert world.result(job_id)["signal"] == 9


def test_a_member_that_waits_in_its_batch_is_no_job_of_its_own_yet(world, batch):
    job_id = batch(200)
    (answer,) = cancel(world, f"{job_id}+199", code=75)
    assert answer["error"] == f"job {job_id}+199 waits in its batch still; ask for {job_id}"
    (answer,) = cancel(world, f"{job_id}+201", code=65)
    assert "unknown job" in answer["error"]
    world.run("wait", "--timeout", "50ms", f"{job_id}+199", code=75)
    cancel(world, job_id)


def test_a_name_that_somebody_chose_is_an_id_for_every_command(world):
    """`submit --name` prints <uid>-NAME; the job's id gets the time of its arrival before the name."""
    world.start()
    alias = world.submit("exec", "--name", "nightly", "--", "echo", "one")
    assert alias == f"{world.uid}-nightly"
    world.run("wait", alias)
    first = json.loads(world.run("show", "--json", alias).stdout)["id"]
    assert first.endswith("-nightly")
    assert first != alias
    assert json.loads(world.run("result", "--json", alias).stdout)["state"] == "done"
    assert world.run("logs", alias).stdout == "one\n"
    second = world.submit("exec", "--name", "nightly", "--", "sleep", "300")
    assert second == alias
    eventually(lambda: queued(world, "running"))
    found = json.loads(world.run("show", "--json", alias).stdout)
    assert (found["state"], found["id"] > first) == ("running", True)
    assert cancel(world, alias) == [{"id": found["id"], "state": "cancelling"}]
    world.run("wait", found["id"], code=143)
    assert world.run("rm", alias).stdout == f"{found['id']}\tremoved\n"
    assert json.loads(world.run("show", "--json", alias).stdout)["id"] == first
