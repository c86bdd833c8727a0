"""The machine of the other tests here: its users are real, and the real machine is untouched."""

import fcntl
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import machine as machines
import private
import pytest
from conftest import eventually

pytestmark = pytest.mark.root
TESTS = Path(machines.__file__).parent


@pytest.mark.parametrize(("user", "groups"), [("ann", "2001 {crew}"), ("bob", "2002"), ("carl", "2003 {ops}")])
def test_a_user_is_himself_with_exactly_his_groups(machine, user, groups):
    numbers = {row.split(":")[0]: row.split(":")[2] for row in Path("/etc/group").read_text().splitlines()}
    uid = machine.uids[user]
    shown = machine.as_user(user, "sh", "-c", "id -u; id -ru; id -g; id -rg; id -G; pwd; stat -c %a:%U .").stdout
    assert shown.splitlines() == [*[str(uid)] * 4, groups.format(**numbers), f"/home/{user}", f"700:{user}"]


def test_a_user_has_an_environment_from_scratch_and_cannot_read_anothers_home(machine, monkeypatch):
    monkeypatch.setenv("LEAKED", "yes")
    shown = machine.as_user("ann", "env").stdout
    assert {row.partition("=")[0] for row in shown.splitlines()} == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}
    machine.as_user("ann", "ls", "/home/bob", code=2)


def test_the_installed_cronq_is_the_working_trees_and_anybodys_to_run(machine):
    assert machine.cronq("ann", "--version").stdout.startswith("cronq ")
    assert "cronq exec" in machine.cronq("ann", "exec", "--help").stdout
    script = "import cronq, cronq.submit; print(cronq.__file__, cronq.submit.__cached__)"
    source, compiled = machine.as_user("ann", machines.OPT / "bin" / "python", "-c", script).stdout.split()
    assert source.startswith("/opt/cronq/lib/") and Path(compiled).exists()
    installed = {path.name: path.read_bytes() for path in Path(source).parent.glob("*.py")}
    assert installed == {path.name: path.read_bytes() for path in (TESTS.parent / "cronq").glob("*.py")}


def test_a_user_cannot_write_what_is_roots(machine):
    machine.tasks("")
    for path in ("/opt/cronq", "/etc/cronq", "/var/spool", "/run", "/home"):
        machine.as_user("ann", "touch", f"{path}/x", code=1)


def test_what_is_made_here_is_not_on_the_real_machine(machine):
    machine.tasks("")
    machine.as_user("root", "mkdir", "/var/spool/cronq", "/run/cronq")
    real = Path(f"/proc/{os.getppid()}/root")  # whoever started pytest is outside
    for place in ("/etc/passwd", "/etc/shadow", "/etc/group", "/home", "/opt", "/run", "/var/spool"):
        assert not os.path.samestat(Path(place).stat(), (real / place[1:]).stat()), place
    if real_is := [
        name for name in ("etc/cronq", "var/spool/cronq", "run/cronq", "opt/cronq") if (real / name).exists()
    ]:
        assert not [name for name in real_is if os.path.samestat((real / name).stat(), Path("/", name).stat())]


def test_accounts_and_homes_are_again_what_they_were_after_a_reset(machine):
    machine.as_user("root", "usermod", "--password=x", "ann")
    machine.as_user("root", "usermod", "-L", "ann")
    machine.as_user("root", "userdel", "bob")
    machine.as_user("carl", "touch", "file")
    machine.tasks('[tasks.x]\ncommand = ["true"]\n')
    machine.reset()
    assert pwd.getpwnam("bob").pw_uid == 2002
    assert "ann:!" in Path("/etc/shadow").read_text()
    assert [*Path("/home/carl").iterdir(), *Path("/etc").glob("cronq")] == []


def test_a_reset_ends_every_process_of_a_user_also_one_that_hides(machine):
    script = "for i in 1 2 3; do setsid setsid env -i sleep 1000 & done; sleep 1000 & echo $!"
    shell = subprocess.Popen(["sh", "-c", f"{script}; wait"], stdout=subprocess.PIPE, **machine.identity("ann"))
    with shell:
        shell.stdout.readline()
        machine.reset()
        assert _of(2001) == []


# A session of its own, whose process is killed while its machine is up.
SESSION = """
import json, os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import machine, private
made = machine.Machine()
sleeper = subprocess.Popen(["sleep", "1000"], **made.identity("ann"))
print(json.dumps([str(made.base), sleeper.pid, private.namespace()]), flush=True)
time.sleep(1000)
"""


def test_what_a_session_left_whose_keeper_was_killed_too_is_swept_by_the_next():
    if os.geteuid() != 0:
        pytest.skip("users and their jobs need root")
    names = ("left", "locked", "file", "link")
    left, locked, file, link = (Path(f"/var/tmp/{private.PREFIX}{os.getpid()}-{name}") for name in names)
    (left / "etc").mkdir(parents=True)
    locked.mkdir()
    file.touch()  # neither stops a session: anybody can make one
    link.symlink_to("/nowhere")
    descriptor = os.open(locked, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        script = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import private; private._sweep()"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert [left.exists(), locked.exists(), file.exists(), link.is_symlink()] == [False, True, True, True]
    finally:
        os.close(descriptor)
        locked.rmdir()
        file.unlink()
        link.unlink()


def test_everything_vanishes_with_a_session_that_is_killed():
    if os.geteuid() != 0:
        pytest.skip("users and their jobs need root")
    session = subprocess.Popen([sys.executable, "-c", SESSION, TESTS], stdout=subprocess.PIPE, text=True)
    with session:
        try:
            base, sleeper, namespace = json.loads(session.stdout.readline())
            assert Path(base).exists() and private.namespace(sleeper) == namespace != private.namespace()
        finally:
            session.kill()
    eventually(lambda: not Path(base).exists() and private.namespace(sleeper) == "")


def _of(uid: int) -> list[str]:
    """The processes of a user in our world: another session's machine may have a user of this number, too."""
    shown = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-U", str(uid)], capture_output=True, text=True)
    return [row for row in shown.stdout.splitlines() if private.namespace(row.split()[0]) == private.namespace()]
