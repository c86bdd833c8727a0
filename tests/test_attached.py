"""queue.md, Foreground: `--attached` cancels the job if the waiter dies, however he dies."""

import os
import signal
import subprocess
from contextlib import contextmanager

from conftest import CRONQ, eventually


@contextmanager
def waiter(world, *argv):
    """A `cronq` that waits, and is gone afterwards."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([*CRONQ, *argv], env=world.env, start_new_session=True, **pipes)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def the_job(world, state, kind="job"):
    """The id of the one job in this state that has a file of its own."""
    folder = world.spool / "queue" / state
    names = eventually(lambda: [each.name for each in folder.rglob(f"*,{world.uid}-*") if each.is_file()])
    return next(name.split(",")[2] for name in names if (",b" in name) == (kind == "batch"))


def waiters(world):
    return list(world.inbox.glob("*.wait"))


def test_attached_a_job_that_runs_is_cancelled_when_its_waiter_is_killed(world):
    world.start()
    with waiter(world, "exec", "--attached", "--", "sleep", "600") as waiting:
        job_id = the_job(world, "running")
        waiting.send_signal(signal.SIGKILL)
        assert world.result(job_id)["state"] == "cancelled"
    eventually(lambda: not waiters(world))


def test_attached_a_job_is_cancelled_when_its_waiter_is_interrupted(world):
    world.start()
    with waiter(world, "exec", "--attached", "--", "sh", "-c", "echo here; exec sleep 600") as waiting:
        assert waiting.stdout.readline() == "here\n"
        job_id = the_job(world, "running")
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate()[1] == f"cronq: interrupted; {job_id} is cancelled\n"
        assert waiting.returncode == 130
    assert world.result(job_id)["state"] == "cancelled"


def test_attached_a_job_that_waits_never_runs(world):
    world.start()
    with waiter(world, "exec", "--attached", "--delay", "1h", "--", "true"):
        job_id = the_job(world, "delayed")
    assert world.result(job_id)["state"] == "cancelled"


def test_attached_it_goes_on_while_its_waiter_is_there_over_a_restart_too(world):
    daemon = world.start()
    go = world.path / "go"
    script = f"until [ -e {go} ]; do sleep 0.05; done; echo done"
    with waiter(world, "exec", "--attached", "--", "sh", "-c", script) as waiting:
        the_job(world, "running")
        os.kill(world.dispatcher(daemon), signal.SIGKILL)
        eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
        later = world.submit("exec", "--", "true")
        assert world.result(later)["state"] == "done"  # many turns have been
        go.touch()
        assert waiting.communicate(timeout=45)[0] == "done\n"
        assert waiting.returncode == 0
    eventually(lambda: not waiters(world))


def test_attached_its_waiter_dies_while_no_dispatcher_is_there(world):
    daemon = world.start()
    with waiter(world, "exec", "--attached", "--", "sleep", "600"):
        job_id = the_job(world, "running")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)
    world.start()
    assert world.result(job_id)["state"] == "cancelled"


def test_attached_a_batch_is_cancelled_with_all_of_its_jobs(world):
    world.start()
    lines = world.path / "lines"
    lines.write_text("sleep 600\nsleep 600\n")
    with waiter(world, "exec", "--attached", "--batch", str(lines)):
        batch_id = the_job(world, "running", "batch")
        eventually(lambda: len(list((world.spool / "queue" / "running").rglob("*+*"))) == 2)
    assert [world.result(f"{batch_id}+{n}")["state"] for n in (1, 2)] == ["cancelled"] * 2


def test_attached_what_was_retried_needs_no_waiter_any_more(world):
    daemon = world.start()
    go = world.path / "go"
    with waiter(world, "exec", "--attached", "--", "sh", "-c", f"[ -e {go} ] && exec sleep 600") as waiting:
        assert waiting.wait(45) == 1
        job_id = the_job(world, "dead")
    go.touch()
    world.run("retry", job_id)
    assert the_job(world, "running") == job_id

    def looks_go_by() -> None:
        later = world.submit("exec", "--", "sleep", "1")
        assert world.result(later)["state"] == "done"  # as long as two looks
        eventually(lambda: not list((world.spool / "queue" / "running").rglob(f"*,{later},*")))  # when it was published

    looks_go_by()
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    looks_go_by()
    assert the_job(world, "running") == job_id
    assert "event=unattended" not in daemon.log.read_text()  # nor when it was dead
    world.run("cancel", job_id)


def test_attached_a_refused_job_leaves_nothing(world):
    world.start()
    with waiter(world, "submit", "--attached", "no-such-task") as waiting:
        assert waiting.wait(45) == 65
    eventually(lambda: not waiters(world))
