"""The hand-over of a job, with a process killed at each of its steps (docs/spool.md, What each crash leaves)."""

import pytest
from conftest import eventually

DISPATCHER = ["captured", "placed", "locked", "sent", "settled"]
WORKER = ["received", "starting", "spawned", "started", "ended", "told"]
EVIDENCE = ["received", "ended", "told"]  # steps at which what happened is known, so nothing runs twice


def run_one(world, delivery):
    ledger = world.path / "ledger"
    job = {"command": ["sh", "-c", f"echo $CRONQ_JOB_ID >> {ledger}"], "backoff": {"base": 0}, "delivery": delivery}
    world.drop("one", job)
    folder = world.spool / "out" / str(world.uid)
    result = eventually(lambda: list(folder.glob("*-one/result.json")))[0]
    state = world.result(result.parent.name)["state"]
    return state, len(ledger.read_text().split()) if ledger.exists() else 0


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
@pytest.mark.parametrize("step", DISPATCHER)
def test_a_dispatcher_killed_at_a_step_neither_loses_nor_doubles(world, serve, step, delivery):
    flag = serve("dispatcher", step)
    assert run_one(world, delivery) == ("done", 1)
    assert flag.exists()


@pytest.mark.parametrize("step", WORKER)
def test_a_job_whose_worker_is_killed_at_a_step_is_done_in_the_end(world, serve, step):
    flag = serve("worker", step)
    state, runs = run_one(world, "at-least-once")
    assert flag.exists()
    assert (state, runs if step in EVIDENCE else min(runs, 1)) == ("done", 1)


@pytest.mark.parametrize("step", WORKER)
def test_an_at_most_once_job_whose_worker_is_killed_runs_at_most_once(world, serve, step):
    flag = serve("worker", step)
    state, runs = run_one(world, "at-most-once")
    assert flag.exists()
    assert runs <= 1
    assert state == ("done" if step in EVIDENCE else "dead")
