"""What is killed comes back, and no job is run twice, lost, or told a wrong end: with jobs of two users under way."""

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import eventually, soon
from machine import OPT, command
from workbench import cgroup_tree, empty

pytestmark = pytest.mark.root

USERS = ("ann", "bob")
EACH = 10
GATE = Path("/run/gate")  # who holds its lock lets nobody through
# One line when it starts, one when it ends; in between it waits at the gate.
STORY = 'echo start >> "$HOME/$0"; flock --shared /run/gate true; echo end >> "$HOME/$0"; exit "$0"'
CODES = [3, 5, *range(1, 9)]  # other than 64, 65, 75, 77 and 78, which mean more than "failed"


@pytest.fixture
def gate():
    """Closed; `gate()` opens it."""
    GATE.touch(mode=0o644)
    descriptor = os.open(GATE, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@pytest.fixture
def twenty(machine, gate):
    """Twenty jobs that run, ten of each user: id -> (ledger, exit code)."""
    machine.tasks("[limits]\nmax_jobs = 50\nmax_jobs_per_user = 25\n")
    machine.start()
    jobs = {}
    for user in USERS:
        machine.submit(user, "exec", "--wait", "--", "true")
        for number in range(EACH):
            command = ["sh", "-c", STORY, str(number)]
            machine.drop(user, f"job{number}", {"command": command, "backoff": {"base": 0}})
    for user in USERS:
        for number in range(EACH):
            jobs[machine.named(user, f"job{number}")] = (machine.home(user) / str(number), number)
    for ledger, _ in jobs.values():
        eventually(lambda ledger=ledger: ledger.exists() and ledger.read_text() == "start\n")
    return jobs


def _kill_dispatcher(machine):
    os.kill(machine.dispatcher(), signal.SIGKILL)


def _kill_launcher(machine):
    machine.launcher.kill()
    machine.launcher.wait()
    machine.start()


def _kill_both(machine):
    dispatcher = machine.dispatcher()
    machine.launcher.kill()
    os.kill(dispatcher, signal.SIGKILL)
    machine.launcher.wait()
    machine.start()


def _restart(machine):
    machine.stop()
    machine.start()


WAYS = [_kill_dispatcher, _kill_launcher, _kill_both, _restart]


@pytest.mark.parametrize("way", WAYS)
def test_twenty_jobs_of_two_users_end_once_each_with_its_own_code(machine, gate, twenty, way):
    before = _pids(machine.workers())
    since = time.time()
    way(machine)
    for new in [machine.submit(user, "exec", "--", "true") for user in USERS]:
        assert machine.result(new)["started"] - since < 20.0  # and not after those before the gate
    assert before < _pids(machine.workers())  # the old ones drain, beside the new ones
    gate()
    _each_has_ended_once(machine, twenty)
    eventually(lambda: not before & _pids(machine.workers()))


def _pids(workers):
    return {pid for pids in workers.values() for pid in pids}


def _each_has_ended_once(machine, jobs):
    for job_id, (ledger, code) in jobs.items():
        _has_ended(machine, job_id, code)
        assert ledger.read_text() == "start\nend\n"
    listed = machine.cronq("root", "list", "--all", "--json").stdout.splitlines()
    assert not [job for job in map(json.loads, listed) if job.get("state") in ("running", "ready", "delayed")]


def _has_ended(machine, job_id, code):
    result = machine.result(job_id)
    assert (result["exit_code"], result["attempt"], result["state"]) == (code, 1, "dead" if code else "done")


def test_jobs_that_end_while_no_daemon_is_there_are_told_afterwards(machine, gate, twenty):
    machine.launcher.kill()
    machine.launcher.wait()
    gate()
    for ledger, _ in twenty.values():
        eventually(lambda ledger=ledger: ledger.read_text() == "start\nend\n")
    eventually(lambda: not machine.workers())  # nobody left who could tell but the outcome files
    machine.start()
    _each_has_ended_once(machine, twenty)


def test_the_jobs_of_a_killed_worker_run_again_and_no_other_users(machine, gate, twenty):
    for pid in machine.workers()[machine.uids["ann"]]:
        os.kill(pid, signal.SIGKILL)
    for job_id, (ledger, _) in twenty.items():
        again = "start\nstart\n" if job_id.startswith("2001-") else "start\n"
        eventually(lambda ledger=ledger, again=again: ledger.read_text() == again)
    gate()
    for job_id, (ledger, code) in twenty.items():
        _has_ended(machine, job_id, code)
        assert ledger.read_text() == ("start\nstart\nend\n" if job_id.startswith("2001-") else "start\nend\n")


def test_a_worker_is_replaced_after_its_time_and_leaves_when_idle(machine):
    with _changed("crew.py", "LIFETIME = 60.0", "LIFETIME = 0.5"):
        machine.start()
        machine.submit("ann", "exec", "--wait", "--", "true")
        first = machine.workers()[2001]
        machine.as_user("root", "usermod", "--append", "--groups=ops", "ann")
        eventually(lambda: machine.workers().get(2001, []) != first)
        shown = machine.cronq("ann", "exec", "--wait", "--", "id", "-Gn").stdout
        assert "ops" in shown.split()
        eventually(lambda: not machine.workers())


@contextlib.contextmanager
def _changed(module, old, new):
    """One constant of the installed cronq has another value, for as long as this lasts."""
    path = next(OPT.glob(f"lib/python3*/site-packages/cronq/{module}"))
    text = path.read_text()
    assert text.count(old) == 1, (module, old)
    path.write_text(text.replace(old, new))
    yield
    path.write_text(text)


CHILDREN = "for i in $(seq 200); do sleep 1000 & done; wait"
HIDDEN = "for i in $(seq 100); do setsid sleep 1000 & setsid -f sleep 1000; done; wait"
# What neither a process group holds nor an environment betrays.
ESCAPED = "for i in $(seq 100); do setsid sleep 1000 & (env -i setsid -f sleep 1000); done; wait"


@pytest.mark.parametrize("script", [CHILDREN, HIDDEN], ids=["children", "in sessions of their own"])
def test_two_hundred_children_are_gone_within_a_second_of_cancel_now(machine, script):
    machine.start()
    _is_gone_when_cancelled(machine, _with_children(machine, script))


def _with_children(machine, script):
    machine.began = time.monotonic()
    job_id = machine.submit("ann", "exec", "--", "sh", "-c", script)
    eventually(lambda: len(_sleepers(machine)) == 200)
    return job_id


def _is_gone_when_cancelled(machine, job_id):
    machine.cronq("ann", "cancel", "--now", job_id)
    with soon(1.0, machine.began):
        eventually(lambda: not _sleepers(machine))
    assert machine.result(job_id)["state"] == "cancelled"


def _sleepers(machine):
    """The processes of the machine's users that sleep."""
    return [pid for pid in machine.processes() if command(pid) == b"sleep\0001000\0"]


@pytest.fixture
def delegated(machine):
    """The cgroup for a launcher, beside the one for its jobs, as systemd makes them for the two units."""
    tree = cgroup_tree()
    if tree is None:
        pytest.skip("needs a cgroup v2 tree that can be written")
    base = tree / machine.base.name
    for name in ("cronq.service", "cronq-jobs.service"):
        (base / name).mkdir(parents=True)
    os.setxattr(base / "cronq-jobs.service", "trusted.delegate", b"1")
    yield base / "cronq.service"
    machine.stop()
    empty(base)


def test_children_that_hide_in_sessions_of_their_own_are_gone_too_where_cgroups_are_delegated(machine, delegated):
    machine.start(cgroup=delegated)
    job_id = _with_children(machine, ESCAPED)
    leaf = delegated.with_name("cronq-jobs.service") / f"job-{job_id}.1"
    assert len((leaf / "cgroup.procs").read_text().split()) >= 200
    _is_gone_when_cancelled(machine, job_id)
    eventually(lambda: not leaf.exists())


def test_a_launcher_that_was_started_again_ends_what_hides_in_a_job_of_the_one_before(machine, delegated):
    machine.start(cgroup=delegated)
    job_id = _with_children(machine, ESCAPED)
    machine.launcher.kill()
    machine.launcher.wait()
    machine.start(cgroup=delegated)
    _is_gone_when_cancelled(machine, job_id)
    eventually(lambda: not (delegated.with_name("cronq-jobs.service") / f"job-{job_id}.1").exists())


def test_what_a_task_leaves_behind_is_ended_with_it_and_what_a_command_leaves_lives_on(machine, delegated):
    script = "setsid -f sleep 1000; exit 7"
    machine.tasks(f'[tasks.leaver]\ncommand = ["sh", "-c", "{script}"]\nsubmit = ["ann"]\n')
    machine.start(cgroup=delegated)
    for argv, left in ((["submit", "leaver"], 0), (["exec", "--", "sh", "-c", script], 1)):
        assert machine.result(machine.submit("ann", *argv))["exit_code"] == 7
        eventually(lambda left=left: len(_sleepers(machine)) == left)
