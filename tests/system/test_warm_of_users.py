"""Warm workers on a system's spool: whose processes they are, what their jobs get, and where those are ended."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL
from test_kill import delegated as _delegated

delegated = _delegated
pytestmark = pytest.mark.root
MODULE = """
import json, os, resource, signal, sys, time
HOST = os.getpid()

def look():
    status = dict(row.split(":", 1) for row in open("/proc/self/status").read().splitlines())
    keys = "Uid Gid Groups CapEff SigBlk SigIgn NoNewPrivs".split()
    print(json.dumps({
        "status": {key: status[key].split() for key in keys},
        "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "session": os.getsid(0) == os.getpid(),
        "tty": sys.stdin.isatty(),
        "nice": os.nice(0),
        "cgroup": open("/proc/self/cgroup").read(),
        "host": HOST,
    }))

def swarm():
    for number in range(200):
        if os.fork() == 0:
            if number % 2:
                os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def code(machine):
    """The module, where carl can read it and nobody but root can write it."""
    folder = SPOOL.parent / "warm-code"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "warmed.py").write_text(MODULE)
    (folder / "warmed.py").chmod(0o644)
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def task(function: str, code: Path, mode: str = "fork") -> str:
    text = f"[tasks.{function}{mode}]\npython = 'warmed:{function}'\nmode = '{mode}'\ncwd = '{code}'\n"
    return text + 'user = "carl"\nsubmit = ["ann"]\nrlimits = { core = 0 }\nnice = 3\n'


def test_a_forked_job_of_a_tasks_user_is_given_what_a_new_process_is_given(machine, code):
    machine.tasks(task("look", code) + task("look", code, "exec"))
    machine.start()
    found = {}
    for name in ("lookexec", "lookfork"):
        found[name] = json.loads(machine.output(machine.submit("ann", "submit", name)))
        for key in ("CRONQ_JOB_ID", "CRONQ_SCHEDULED_AT", "CRONQ_TASK"):
            assert found[name]["env"].pop(key)
        found[name].pop("cgroup")
    host = found["lookfork"].pop("host")
    found["lookexec"].pop("host")
    assert found["lookfork"] == found["lookexec"]
    assert set(found["lookfork"]["status"]["Uid"]) == {"2003"}
    assert found["lookfork"]["fds"] == [0, 1, 2, 3]
    assert Path(f"/proc/{host}").stat().st_uid == 2003


def test_everything_of_a_forked_escape_artist_is_gone_after_cancel_now_and_its_host_is_not(machine, code):
    machine.tasks(task("swarm", code) + task("look", code))
    machine.start()
    host = json.loads(machine.output(machine.submit("ann", "submit", "lookfork")))["host"]
    job = machine.submit("ann", "submit", "swarmfork")
    output = machine.results(job) / "stdout"
    eventually(lambda: output.exists() and "ready" in output.read_text())
    eventually(lambda: len(swarm(host)) == 201)
    machine.cronq("ann", "cancel", "--now", job)
    assert machine.result(job)["state"] == "cancelled"
    eventually(lambda: not swarm(host))
    assert json.loads(machine.output(machine.submit("ann", "submit", "lookfork")))["host"] == host


def swarm(host: int) -> list[int]:
    """The processes that have the command line of a host of `swarm`, but for the hosts themselves."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1])
            line = os.readlink(f"/proc/{each}/fd/3") if b"warmed:swarm" in words else ""
        except OSError:
            continue
        if b"warmed:swarm" in words and int(each) != host and parent and "socket" not in line:
            found.append(int(each))
    return found


def test_a_host_whose_worker_is_killed_dies_and_the_job_is_ended_before_it_runs_again(machine, code):
    machine.tasks(task("swarm", code) + "on_crash = 'dead'\n")
    machine.start()
    job = machine.submit("ann", "submit", "swarmfork")
    output = machine.results(job) / "stdout"
    eventually(lambda: output.exists() and "ready" in output.read_text())
    (worker,) = machine.workers()[2003]
    os.kill(worker, signal.SIGKILL)
    assert machine.result(job)["state"] == "dead"
    eventually(lambda: not swarm(0))


def test_a_pool_of_a_tasks_user_is_where_its_job_was_put_serves_the_next_and_is_gone_after_cancel_now(machine, code):
    machine.tasks(task("look", code, "pool") + "memory_max = '500M'\n" + task("swarm", code, "pool"))
    machine.start()
    found = [json.loads(machine.output(machine.submit("ann", "submit", "lookpool"))) for _ in range(3)]
    assert len({each["host"] for each in found}) == 1
    assert {uid for each in found for uid in each["status"]["Uid"]} == {"2003"}
    job = machine.submit("ann", "submit", "swarmpool")
    output = machine.results(job) / "stdout"
    eventually(lambda: output.exists() and "ready" in output.read_text())
    pids = having("warmed:swarm")
    assert len(pids) == 201
    machine.cronq("ann", "cancel", "--now", job)
    assert machine.result(job)["state"] == "cancelled"
    eventually(lambda: not having("warmed:swarm"))


def test_warm_jobs_are_each_put_into_a_cgroup_of_their_own_and_ended_there(machine, code, delegated):
    modes = ("fork", "pool")
    limit = "memory_max = '500M'\n"
    machine.tasks("".join(task("look", code, mode) + task("swarm", code, mode) + limit for mode in modes))
    machine.start(cgroup=delegated)
    for mode in modes:
        jobs, found = [], []
        for _ in range(3):
            jobs.append(machine.submit("ann", "submit", f"look{mode}"))
            found.append(json.loads(machine.output(jobs[-1])))
        assert len({each["host"] for each in found}) == 1
        assert [each["cgroup"].split("/")[-1].strip() for each in found] == [f"job-{job}.1" for job in jobs]
        job = machine.submit("ann", "submit", f"swarm{mode}")
        leaf = delegated.with_name("cronq-jobs.service") / f"job-{job}.1"
        output = machine.results(job) / "stdout"
        eventually(lambda output=output: output.exists() and "ready" in output.read_text())
        assert len((leaf / "cgroup.procs").read_text().split()) == 201
        machine.cronq("ann", "cancel", "--now", job)
        assert machine.result(job)["state"] == "cancelled"
        eventually(lambda leaf=leaf: not leaf.exists())


def having(word: str) -> list[int]:
    """The processes whose command line has this word."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            found.append(int(each))
    return found


def test_an_interpreter_that_the_tasks_user_may_not_run_is_told(machine, code):
    private = code / "private"
    private.write_text("#!/bin/sh\n")
    private.chmod(0o700)
    machine.tasks("".join(f"{task('look', code, mode)}interpreter = '{private}'\n" for mode in ("fork", "pool")))
    machine.start()
    for mode in ("fork", "pool"):
        found = machine.result(machine.submit("ann", "submit", f"look{mode}"))
        assert (found["exit_code"], found["reason"]) == (
            126,
            f"cannot start: {private}: uid 2003 may not read it; name another Python in interpreter",
        )


def test_a_module_that_the_tasks_user_cannot_read_fails_his_job_and_says_so(machine, code):
    (code / "warmed.py").chmod(0o600)
    machine.tasks(task("look", code))
    machine.start()
    job = machine.submit("ann", "submit", "lookfork")
    assert machine.result(job)["exit_code"] == 126
    assert "Permission denied" in machine.output(job, "stderr")
