"""What a job is given, and what it can do to others (trust.md rows 7, 10, 11, 15, 18, 24)."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import eventually, soon
from liar import fds
from machine import CONFIG, DIED, SPOOL

pytestmark = pytest.mark.root
PEEK = "cat /proc/self/status; cat /proc/self/oom_score_adj; ulimit -c; umask; cut -d' ' -f5,6,7 /proc/self/stat"


def test_the_environment_is_the_expected_set_and_nothing_of_the_daemons(machine, monkeypatch):
    odd = {"LD_PRELOAD": "/nowhere/evil.so", "BASH_ENV": "/nowhere", "IFS": "/", "PYTHONPATH": "/nowhere"}
    real = machine.identity
    monkeypatch.setattr(machine, "identity", lambda user: real(user) | {"env": real(user)["env"] | odd})
    machine.tasks('[tasks.env]\ncommand = ["env", "-0"]\nuser = "carl"\nsubmit = ["ann"]\nenv = { OF_TASK = "1" }\n')
    machine.start()
    job = machine.submit("ann", "submit", "env")
    found = dict(row.split("=", 1) for row in machine.output(job).split("\0") if row)
    assert found.pop("CRONQ_SCHEDULED_AT").endswith("Z")
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/carl",
        "USER": "carl",
        "LOGNAME": "carl",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "OF_TASK": "1",
        "CRONQ_SPOOL": str(SPOOL),
        "CRONQ_JOB_ID": job,
        "CRONQ_TASK": "env",
        "CRONQ_ATTEMPT": "1",
        "CRONQ_MAX_ATTEMPTS": "1",
        "CRONQ_REDELIVERED": "0",
        "CRONQ_STATUS_FD": "3",
    }


def test_a_submitters_variables_reach_a_task_only_where_it_allows_them(machine):
    text = '[tasks.env]\ncommand = ["sh", "-c", "echo $LD_PRELOAD$BASH_ENV"]\nuser = "carl"\nsubmit = ["ann"]\n'
    machine.tasks(text)
    machine.start()
    machine.submit("ann", "exec", "--wait", "--", "true")  # she has an inbox then
    machine.drop("ann", "evil", {"task": "env", "env": {"LD_PRELOAD": "/nowhere/evil.so", "BASH_ENV": "/x"}})
    assert "env: the task env lets no submitter set that" in machine.rejected("ann", "evil")


def test_a_job_starts_with_nothing_inherited(machine):
    machine.start()
    found = machine.output(machine.submit("ann", "exec", "--", "sh", "-c", PEEK)).splitlines()
    status = dict(row.split(":\t", 1) for row in found if ":\t" in row)
    internal = 3 << 31  # glibc's own
    assert [int(status[key], 16) & ~internal for key in ("SigPnd", "SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0, 0]
    assert [int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == "0"  # sudo and ping are for jobs, too
    oom, _core, umask, ids = found[-4:]
    group, session, terminal = ids.split()
    assert (oom, umask, terminal) == ("0", "0022", "0")
    assert group == session


def test_a_job_that_prints_without_end_costs_its_cap_and_holds_up_nobody(siege):
    siege.machine.tasks('[tasks.yes]\ncommand = ["yes"]\ntimeout = "1s"\ngrace = "0s"\noutput_max = "1M"\n')
    siege.machine.launcher.send_signal(1)
    eventually(lambda: "event=reloaded" in siege.machine.log)
    jobs = [siege.machine.submit("ann", "submit", "yes") for _ in range(3)]
    siege.unharmed(times=3)
    for job in jobs:
        assert siege.machine.result(job)["stdout"] == {"bytes": 1 << 20, "cut": True}
        assert (siege.machine.results(job) / "stdout").stat().st_size < (1 << 20) + 100


def test_a_job_that_forks_two_hundred_children_is_gone_within_a_second_of_cancel_now(siege):
    machine = siege.machine
    script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"
    began = time.monotonic()
    job = machine.submit("ann", "exec", "--", "sh", "-c", script)
    output = machine.results(job) / "stdout"
    eventually(lambda: output.exists() and "ready" in output.read_text())
    eventually(lambda: _sleeping() == 200)
    machine.cronq("ann", "cancel", "--now", job)
    with soon(1.0, began):
        eventually(lambda: _sleeping() == 0)
    assert machine.result(job)["state"] == "cancelled"
    siege.unharmed()


HOG = "x = bytearray(600 << 20); print(len(x))"
# Each of its processes is smaller than the daemons.
SWARM = """
import os, time
for _ in range(100):
    if os.fork() == 0:
        x = bytearray(b"x") * (5 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def test_a_job_that_takes_all_the_memory_it_may_holds_up_nobody(siege):
    siege.machine.tasks(f"[tasks.hog]\ncommand = ['/usr/bin/python3', '-c', '{HOG}']\nrlimits = {{ as = '200M' }}\n")
    siege.machine.launcher.send_signal(1)
    eventually(lambda: "event=reloaded" in siege.machine.log)
    bounded = siege.machine.submit("ann", "submit", "hog")
    free = siege.machine.submit("ann", "exec", "--", "/usr/bin/python3", "-c", HOG)
    siege.unharmed(times=1)
    assert siege.machine.result(bounded)["exit_code"] == 1
    assert "MemoryError" in siege.machine.output(bounded, "stderr")
    assert siege.machine.output(free) == f"{600 << 20}\n"


@pytest.mark.parametrize("kind", ["one that is large", "many that are smaller than the daemons"])
def test_where_memory_runs_out_the_hog_dies_and_neither_the_daemons_nor_others(machine, kind, bounded_memory):
    """The daemons and all their jobs have 300 MB between them.

    By size the kernel would take the dispatcher before many small ones; OOMScoreAdjust of the unit, or oom_score_adj of
    the task as here, says that it is not they.
    """
    code = HOG if "large" in kind else SWARM
    machine.tasks(f"[tasks.hog]\ncommand = ['/usr/bin/python3', '-c', '''{code}''']\noom_score_adj = 500\n")
    machine.start(cgroup=bounded_memory)
    daemons = [machine.launcher.pid, machine.dispatcher()]
    others = machine.submit("bob", "exec", "--", "sh", "-c", "echo ready; sleep 1; echo done")
    output = machine.results(others) / "stdout"
    eventually(lambda: output.exists() and "ready" in output.read_text())
    hog = machine.submit("ann", "submit", "hog")
    eventually(lambda: _killed_for_memory(bounded_memory) > 0)
    eventually(lambda: "done" in output.read_text() or DIED in machine.log or machine.launcher.poll() is not None)
    assert DIED not in machine.log and machine.launcher.poll() is None, "a daemon was killed"
    assert machine.output(others) == "ready\ndone\n"
    machine.cronq("ann", "cancel", "--now", hog, code=None)  # if it has not ended
    assert machine.result(hog)["state"] in ("dead", "cancelled")
    assert machine.submit("bob", "exec", "--wait", "--", "echo", "still") == "still"
    assert [machine.launcher.pid, machine.dispatcher()] == daemons, "a daemon was killed"


@pytest.fixture
def bounded_memory():
    """A cgroup with 300 MB, of whichever version there is."""
    if not (folder := _memory_cgroup()):
        pytest.skip("there is no cgroup here that bounds memory")
    yield folder
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def _memory_cgroup() -> Path | None:
    for top, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup", top, f"cronq-hog-{os.getpid()}")
        if os.access(folder.parent / "cgroup.procs", os.W_OK):
            folder.mkdir()
            if (folder / limit).exists():
                (folder / limit).write_text(str(300 << 20))
                return folder
            folder.rmdir()
    return None


def _killed_for_memory(folder: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (folder / name).exists():
            return int(dict(row.split() for row in (folder / name).read_text().splitlines())["oom_kill"])
    return 0


# What it forks does not wait for its children, nor does it; those of the others are somebody else's from then on.
ZOMBIES = """
import os, time
for number in range(500):
    if os.fork() == 0:
        if number % 2:
            os.setsid()
            if os.fork() == 0: os._exit(0)
        os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_job_that_leaves_hundreds_of_zombies_leaves_none_to_its_worker(siege):
    machine = siege.machine
    (worker,) = eventually(lambda: len(found := machine.workers().get(2001, [])) == 1 and found)
    before = len(fds(worker))
    jobs = [machine.submit("ann", "exec", "--", "/usr/bin/python3", "-c", ZOMBIES) for _ in range(2)]
    for job in jobs:
        output = machine.results(job) / "stdout"
        eventually(lambda output=output: output.exists() and "ready" in output.read_text())
    siege.unharmed(times=1)
    assert len(_children(worker)) == len(jobs)
    machine.cronq("ann", "cancel", "--now", *jobs)
    for job in jobs:
        assert machine.result(job)["state"] == "cancelled"
    assert _children(worker) == []
    eventually(lambda: len(fds(worker)) == before)
    machine.submit("ann", "exec", "--wait", "--", "true")
    assert machine.workers()[2001] == [worker]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _sleeping() -> int:  # without those that only wait to be reaped
    return int(
        subprocess.run(
            ["pgrep", "-c", "-r", "D,R,S", "-u", "ann", "-x", "sleep"], capture_output=True, text=True
        ).stdout
    )


def _link():
    target = Path("/home/ann/cronq.toml")
    shutil.copy(CONFIG / "cronq.toml", target)
    os.chown(target, 2001, 2001)
    (CONFIG / "cronq.toml").unlink()
    (CONFIG / "cronq.toml").symlink_to(target)


def _plant():
    (CONFIG / "tasks.d").mkdir()
    (CONFIG / "tasks.d" / "x.toml").write_text("")
    os.chown(CONFIG / "tasks.d" / "x.toml", 2001, 2001)


BAD_TREES = {
    "the file is ann's": (lambda: os.chown(CONFIG / "cronq.toml", 2001, 0), "cronq.toml"),
    "the file can be written by all": (lambda: (CONFIG / "cronq.toml").chmod(0o666), "cronq.toml"),
    "the file can be written by a group": (lambda: (CONFIG / "cronq.toml").chmod(0o664), "cronq.toml"),
    "the directory is ann's": (lambda: os.chown(CONFIG, 2001, 0), "/etc/cronq"),
    "the directory can be written by all": (lambda: CONFIG.chmod(0o777), "/etc/cronq"),
    "the file is a link to ann's": (_link, "cronq.toml"),
    "another's file is in tasks.d": (_plant, "tasks.d"),
}


@pytest.mark.parametrize("tree", BAD_TREES)
def test_a_configuration_that_others_can_change_is_not_obeyed_and_check_names_the_part(machine, tree):
    change, part = BAD_TREES[tree]
    machine.tasks('[tasks.all]\ncommand = ["id", "-u"]\nuser = "root"\nallow_root = true\nsubmit = ["ann"]\n')
    machine.start()
    assert machine.output(machine.submit("ann", "submit", "all")) == "0\n"
    change()
    jobs = []

    def told():  # the worker looks at the files ten times a second
        jobs.append(machine.submit("ann", "submit", "all"))
        return "must be root's" in machine.log or "by root alone" in machine.log

    eventually(told)
    assert not (machine.results(machine.submit("ann", "submit", "all")) / "result.json").exists()
    assert len(jobs) < 50
    checked = machine.cronq("root", "check", "--system", code=78)
    assert part in checked.stdout + checked.stderr


def test_a_member_of_the_group_cronq_stops_the_daemon_from_starting(machine):
    machine.as_user("root", "usermod", "-aG", "cronq", "carl")
    machine.start(wait="event=cannot-start")
    assert "must have no members" in machine.log
    assert machine.launcher.wait(60) == 78


# Everything that another user may see of every process, again and again until he is told to stop.
SPY = """
import os, select, sys
wanted = os.read(0, 100).strip()  # in no command line of ours
seen, looks = b"", 0
while not select.select([0], [], [], 0)[0]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ", "stat", "comm", "status"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file: data = file.read()
            except OSError:
                continue
            if wanted in data or (name == "cmdline" and b"cat-and-wait" in data): seen += data
    looks += 1
    if looks == 1: print("begun", flush=True)
sys.stdout.buffer.write(seen)
"""


@pytest.mark.parametrize("how", ["stdin", "env_file"])
def test_a_secret_is_seen_by_no_other_user_and_kept_in_no_history(siege, how):
    machine = siege.machine
    secret = machine.home("carl") / "secret"
    secret.write_text("TOKEN=sesame\n")
    secret.chmod(0o600)
    os.chown(secret, 2003, 2003)
    text = "cat > /dev/null; echo ${TOKEN:-none} | wc -c; sleep 0.3 # cat-and-wait"
    machine.tasks(
        f"[tasks.stdin]\nuser = 'carl'\nsubmit = ['ann']\nshell = '{text}'\n"
        f"[tasks.env_file]\nuser = 'carl'\nsubmit = ['ann']\nshell = '{text}'\nenv_file = '{secret}'\n"
    )
    machine.launcher.send_signal(1)
    eventually(lambda: "event=reloaded" in machine.log)
    spy = siege.begin("bob", SPY)
    spy.stdin.write("sesame\n")
    spy.stdin.flush()
    assert spy.stdout.readline() == "begun\n"
    job = machine.submit("ann", "submit", "--stdin", "-", how, input="sesame" if how == "stdin" else "")
    assert machine.output(job) == ("5\n" if how == "stdin" else "7\n")  # what the job knew
    seen = spy.communicate("stop\n")[0]
    assert "cat-and-wait" in seen  # he has looked at the job
    assert "sesame" not in seen
    kept = [*(SPOOL / "history").iterdir(), *machine.results(job).iterdir(), *(SPOOL / "queue").rglob("*")]
    assert [path for path in kept if path.is_file() and "job.json" not in path.name and b"sesame" in _read(path)] == []
    assert "sesame" not in machine.log


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_a_job_says_is_its_submitters_and_nobody_elses(machine):
    """The job runs as carl, whose worker writes a file of cronq's; bob sees nothing of it, and carl cannot write it."""
    machine.tasks(
        '[tasks.t]\nshell = "echo progress 1/2 >&3; echo status $(id -un) >&3; exec sleep 100"\n'
        'user = "carl"\nsubmit = ["ann"]\n'
    )
    machine.start()
    job = machine.submit("ann", "submit", "t")
    file = machine.results(job) / "status"
    eventually(lambda: file.exists() and "carl" in file.read_text())
    assert json.loads(machine.cronq("ann", "show", "--json", job).stdout)["status"] == "carl"
    assert "unknown job" in machine.cronq("bob", "show", job, code=None).stderr
    for user in ("bob", "carl"):
        assert machine.as_user(user, "cat", file, code=None).returncode == 1
        assert machine.as_user(user, "sh", "-c", f"echo > {file}", code=None).returncode != 0
    assert machine.as_user("ann", "sh", "-c", f"echo > {file}", code=None).returncode != 0
    machine.cronq("ann", "cancel", "--now", job)
    assert machine.result(job)["progress"] == [1, 2]
