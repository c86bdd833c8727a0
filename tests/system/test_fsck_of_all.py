"""`cronq fsck` as root, on a system spool and on a user's own: it becomes the owner, and nobody leads root anywhere."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root

TRAP = Path("/var/spool/trap")  # of root's alone


@pytest.fixture
def served(machine):
    """A spool of ann's and bob's jobs, whose dispatcher has been stopped."""
    machine.tasks('[tasks.late]\ncommand = ["true"]\nuser = "bob"\nsubmit = ["ann"]\n[cron]\nsystem = false\n')
    machine.start()
    machine.done = machine.submit("ann", "exec", "--", "echo", "hello")
    machine.result(machine.done)
    machine.dead = machine.submit("bob", "exec", "--", "false")
    machine.result(machine.dead)
    machine.held = machine.submit("ann", "exec", "--delay", "1h", "--", "true")
    machine.late = machine.submit("ann", "submit", "--delay", "1h", "--stdin", "/bin/true", "late")
    machine.drop("ann", "refused", {"nonsense": 1})
    machine.rejected("ann", "refused")
    machine.as_user("ann", "cronq", "crontab", "-", input="0 3 * * * true\n")
    eventually(lambda: list((SPOOL / "schedule/tables").iterdir()))
    machine.stop()
    yield machine
    shutil.rmtree(TRAP, ignore_errors=True)


def fsck(machine, *options, code):
    done = machine.cronq("root", "fsck", "--json", *options, code=code, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def queued(job_id):
    return next(path for path in (SPOOL / "queue").rglob(f"*,{job_id},*"))


def test_a_sound_spool_of_several_users_has_no_finding_stopped_or_running(served):
    assert fsck(served, code=0) == []
    served.start()
    assert fsck(served, code=0) == []
    assert "only root can look at all of it" in served.cronq("ann", "fsck", code=77).stderr.replace(str(SPOOL), "it")


def test_a_job_whose_owner_is_another_is_refused_by_a_repair(served):
    """Its own user's file, and its own mode, are all that proves it."""
    os.chown(queued(served.held), 2002, -1)
    queued(served.late).chmod(0o660)
    found = fsck(served, code=65)
    assert sorted((each["kind"], each["id"]) for each in found) == [("owner", served.held), ("owner", served.late)]
    assert fsck(served, "--repair", code=0)
    assert fsck(served, code=0) == []
    name = served.held.partition("-")[2]
    assert (SPOOL / "rejected/2001" / f"{name}.job").stat().st_uid == 2002  # as it was
    assert "belongs to uid 2002" in served.as_user("ann", "cat", SPOOL / f"rejected/2001/{name}.job.reason").stdout
    served.start()
    assert served.submit("ann", "exec", "--wait", "--", "echo", "runs") == "runs"


def test_what_is_roots_to_mend_is_told_with_the_way_to_mend_it(served):
    (SPOOL / "out").chmod(0o755)
    found = fsck(served, "--repair", code=65)
    assert [each["sentence"] for each in found] == [f"spool: {SPOOL}/out has the mode 0755; chmod 0711 {SPOOL}/out"]


def _put(machine, path, made):
    """A link to what is root's, or a pipe, in a place of cronq's, as a dispatcher that was broken into would."""
    subprocess.run(["rm", "-rf", path], check=True)
    os.mkfifo(path) if made == "fifo" else path.symlink_to(TRAP)
    os.lchown(path, machine.uids["cronq"], machine.uids["cronq"])


PLACES = {
    "files": (
        "queue/data/{late}",
        "queue/outcome/{held}.1",
        "queue/.capture/2001,x.job",
        "out/2001/{done}/job.json",
        "out/2001/{done}/result.json",
        "out/2002/{dead}/result.json",
        "rejected/2001/refused.job",
        "schedule/clock.json",
        "schedule/tables/2001",
        "history/2020-01-01.jsonl",
    ),
    "reasons and directories": ("rejected/2001/refused.job.reason", "out/2001/{done}", "schedule/paused"),
    "directories of users": ("rejected/2001", "out/2001", "queue/lost+found"),
}


@pytest.mark.parametrize("made", ["link", "fifo"])
@pytest.mark.parametrize("places", PLACES)
def test_links_and_pipes_in_the_places_of_what_is_cronqs_do_nothing(served, places, made):
    TRAP.mkdir(mode=0o700)
    (TRAP / "secret").write_text("of root's alone")
    for place in PLACES[places]:
        _put(served, SPOOL / place.format(**vars(served)), made)
    (SPOOL / "queue/what").write_text("something to put aside")
    for options in ([], ["--repair"]):
        done = served.cronq("root", "fsck", *options, code=65 if not options else None, timeout=60)
        assert "of root's alone" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 65), done
    assert [path.name for path in TRAP.iterdir()] == ["secret"]
    assert (TRAP.stat().st_uid, TRAP.stat().st_mode & 0o7777) == (0, 0o700)


def test_no_system_call_below_the_spool_is_roots(served):
    """Root has become cronq before anything but directories is opened."""
    trace = served.base / "trace"
    strace = ["strace", "-f", "-o", str(trace), "-e", "trace=openat,openat2,open,rename,renameat2,setresuid,unlink"]
    (SPOOL / "queue/what").touch()
    done = served.as_user("root", *strace, "cronq", "fsck", "--repair", code=None, stdin=subprocess.DEVNULL)
    assert "moved to queue/lost+found" in done.stdout, done.stderr
    before, dropped, after = trace.read_text().partition("setresuid(")
    assert dropped
    assert "lost+found" in after
    opened = [line for line in before.splitlines() if "/var/spool" in line or "AT_FDCWD" not in line]
    mine = [line for line in opened if "O_PATH" not in line and "open" in line]
    names = {line.split('"')[1] for line in mine if str(SPOOL) in line or '"/' not in line}
    assert names <= {"in", "users", "2001", "2002"}, names


@pytest.mark.parametrize("whose", ["spool", "its parent"])
def test_root_becomes_the_user_whose_own_spool_it_is(machine, whose):
    """A link of his in there leads where he could go himself."""
    home = machine.home("ann")
    spool = home / "spool"
    served = machine.identity("ann") | {"env": machine.identity("ann")["env"] | {"CRONQ_SPOOL": str(spool)}}
    subprocess.run(["sh", "-c", "cronq exec -- true > id"], check=True, **served)
    TRAP.mkdir(mode=0o700, exist_ok=True)
    try:
        (spool / "queue/what").symlink_to(TRAP)
        (spool / "queue/lost+found").symlink_to(TRAP)
        if whose == "its parent":
            os.chown(spool, 0, 0)
        env = machine.identity("root")["env"] | {"CRONQ_SPOOL": str(spool)}
        done = machine.cronq("root", "fsck", "--repair", code=None, env=env)
        assert os.listdir(TRAP) == []
        assert done.returncode == {"spool": 65, "its parent": 2}[whose], (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    finally:
        shutil.rmtree(TRAP)


def test_a_worker_that_outlives_its_dispatcher_is_left_alone(machine):
    machine.start()
    running = machine.submit("ann", "exec", "--", "sleep", "30")
    eventually(lambda: list((SPOOL / "queue/running").iterdir()))
    eventually(lambda: b"started" in next((SPOOL / "queue/outcome").iterdir()).read_bytes())
    machine.launcher.kill()  # its dispatcher goes, too
    eventually(lambda: machine.cronq("root", "fsck", "--repair", code=None).stdout == f"{SPOOL}: clean\n")
    assert [path.name for path in (SPOOL / "queue/running").iterdir() if running in path.name]
