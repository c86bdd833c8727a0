"""Accounts change while their jobs wait: what is locked, expired, gone or somebody else's does not run."""

import json
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root

LOCK = [["usermod", "--password=$y$j9T$x$x", "ann"], ["usermod", "--lock", "ann"]]
CANNOT_LOG_IN = [["usermod", "--shell=/usr/sbin/nologin", "ann"]]


def _root(machine, *argv):
    machine.as_user("root", *argv)


def _show(machine, job_id):
    return json.loads(machine.cronq("root", "show", job_id, "--json").stdout)


def _held(machine, job_id) -> str:
    """Why a job is held, once it is."""
    eventually(lambda: _show(machine, job_id)["state"] == "held")
    return _show(machine, job_id)["reason"]


@pytest.mark.parametrize(
    ("bar", "unbar", "words"),
    [
        (LOCK, [["usermod", "--unlock", "ann"]], ("locked", "usermod -U ann")),
        ([["chage", "--expiredate=1", "ann"]], [["chage", "--expiredate=-1", "ann"]], ("expired", "chage -E -1 ann")),
    ],
    ids=["locked", "expired"],
)
def test_a_locked_or_expired_account_runs_nothing_until_it_is_released(machine, bar, unbar, words):
    machine.start()
    for command in bar:
        _root(machine, *command)
    job_id = machine.submit("ann", "exec", "--", "touch", "ran")
    reason = _held(machine, job_id)
    assert all(word in reason for word in words)
    assert machine.submit("bob", "exec", "--wait", "--", "id", "-un") == "bob"  # in nobody's way
    assert not (machine.home("ann") / "ran").exists()
    for command in unbar:
        _root(machine, *command)
    machine.cronq("root", "release", job_id)
    assert machine.result(job_id)["state"] == "done"
    assert (machine.home("ann") / "ran").exists()


def test_a_user_whose_inbox_a_crash_left_unmade_gets_it_at_first_contact(machine):
    names = SPOOL / "users"
    machine.start()
    machine.stop()
    (names / "2001").write_text("ann\n")  # written first, so that no inbox is ever without a name
    machine.start()
    assert machine.submit("ann", "exec", "--wait", "--", "id", "-un") == "ann"
    assert "inbox-unreadable" not in machine.log


@pytest.mark.parametrize("change", [[], CANNOT_LOG_IN], ids=["no password", "no login shell"])
def test_an_account_that_nobody_can_log_in_to_runs_its_jobs_all_the_same(machine, change):
    machine.start()
    for command in change:
        _root(machine, *command)
    assert Path("/etc/shadow").read_text().count("\nann:!:") == 1
    assert machine.submit("ann", "exec", "--wait", "--", "id", "-un") == "ann"


def test_a_lock_takes_hold_of_new_jobs_and_leaves_running_ones(machine):
    machine.start()
    running = machine.submit("ann", "exec", "--", "sh", "-c", "until [ -e go ]; do sleep 0.05; done")
    eventually(lambda: _show(machine, running)["state"] == "running")
    machine.stop()  # a new launcher has no worker of ann's yet
    for command in LOCK:
        _root(machine, *command)
    machine.start()
    assert "locked" in _held(machine, machine.submit("ann", "exec", "--", "true"))
    machine.as_user("ann", "touch", "go")
    assert machine.result(running)["state"] == "done"


@pytest.fixture
def gone(machine):
    """Bob's jobs, one that ended and one that waits; then his account is deleted."""
    machine.start()
    ended = machine.submit("bob", "exec", "--", "echo", "of bob's life")
    machine.result(ended)
    waiting = machine.submit("bob", "exec", "--delay", "2s", "--", "touch", "/home/bob/ran")
    eventually(lambda: _show(machine, waiting)["state"] == "delayed")
    _root(machine, "userdel", "--force", "bob")  # though a worker of his may still be there
    return ended, waiting


def test_the_jobs_of_a_deleted_user_are_held_with_the_reason(machine, gone):
    ended, waiting = gone
    reason = _held(machine, waiting)
    assert "2002" in reason and "bob" in reason and "no account" in reason
    assert machine.submit("ann", "exec", "--wait", "--", "id", "-un") == "ann"
    assert not Path("/home/bob/ran").exists()
    assert _show(machine, ended)["state"] == "done"  # root still sees what was


def test_a_deleted_user_who_comes_back_has_all_of_it_again(machine, gone):
    ended, waiting = gone
    _held(machine, waiting)
    _root(machine, "useradd", "--no-log-init", "--uid=2002", "--user-group", "--home-dir=/home/bob", "bob")
    eventually(lambda: machine.as_user("bob", "cat", machine.results(ended) / "stdout", code=None).returncode == 0)
    machine.cronq("root", "release", waiting)
    assert machine.result(waiting)["state"] == "done"


def test_who_gets_a_used_uid_gets_nothing_of_the_one_before_him(machine, gone):
    ended, waiting = gone
    _held(machine, waiting)
    _root(machine, "useradd", "--no-log-init", "--uid=2002", "--user-group", "--create-home", "dave")
    for path in (machine.results(ended) / "stdout", machine.results(ended)):
        machine.as_user("dave", "ls", path, code=2)
    assert "echo" not in machine.cronq("dave", "list", "--all", code=None).stdout
    for verb in ("show", "logs", "result"):
        done = machine.cronq("dave", verb, ended, code=None)
        assert done.returncode and "of bob's life" not in done.stdout + done.stderr, (verb, done)
    for verb in ("cancel", "rm", "release"):
        machine.cronq("dave", verb, waiting, code=None)
    assert _show(machine, waiting)["state"] == "held"
    machine.drop("dave", "new", {"command": ["touch", "/home/dave/ran"]})
    held = eventually(lambda: [each for each in _listed(machine) if each["id"].endswith("new")])
    assert held[0]["state"] == "held" and "dave" in held[0]["reason"] and "bob" in held[0]["reason"]
    assert not Path("/home/dave/ran").exists()
    assert (SPOOL / "users/2002").read_text() == "bob\n"


def _listed(machine):
    return [json.loads(line) for line in machine.cronq("root", "list", "--all", "--json").stdout.splitlines()]
