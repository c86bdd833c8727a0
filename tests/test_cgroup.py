"""Leaves of cgroup v2: below a real tree where there is one, and with a tree of plain files that stands for limits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually, soon
from workbench import TREE, real

from cronq import cgroup, process
from cronq.cgroup import Leaves
from cronq.errors import CronqError

SCRIPT = "import os\nfrom cronq import cgroup\nleaves, sentence = cgroup.find()\n"


@contextlib.contextmanager
def child(script: str = "exec sleep 100"):
    process = subprocess.Popen(["sh", "-c", script])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def inside(leaf: Path) -> list[int]:
    return [int(word) for word in (leaf / "cgroup.procs").read_text().split()]


def dead(pid: int) -> bool:
    found = process.look(pid)
    return found is None or found.state in (b"Z", b"X")


# -------------------------------------------------------------------- a real tree


@pytest.mark.root
@real
def test_a_process_and_all_its_children_live_in_the_leaf_of_their_attempt(base):
    leaves = Leaves(str(base))
    with child("read x; sleep 100 & setsid sleep 100 & env -i setsid sleep 100 & wait") as job:
        assert leaves.place("1000-a.1", job.pid, {}) == []
        assert inside(base / "job-1000-a.1") == [job.pid]


@pytest.mark.root
@real
def test_kill_ends_two_hundred_children_wherever_they_hid(base):
    leaves = Leaves(str(base))
    script = "read x; i=0; while [ $i -lt 100 ]; do sleep 100 & env -i setsid sleep 100 & i=$((i+1)); done; wait"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) as job:
        leaves.place("1000-a.1", job.pid, {})
        began = time.monotonic()
        job.stdin.write(b"\n")
        job.stdin.close()
        pids = eventually(lambda: len(found := inside(base / "job-1000-a.1")) == 201 and found)
        with soon(1.0, began):
            while leaves.kill("1000-a.1"):
                pass
        assert not (base / "job-1000-a.1").exists()
        assert all(map(dead, pids))


@pytest.mark.root
@real
def test_a_kernel_that_cannot_kill_a_leaf_at_once_has_each_process_killed(base, monkeypatch):
    monkeypatch.setattr(cgroup, "KILL", "no.such.file")
    leaves = Leaves(str(base))
    # It forks on and on: only what is frozen first stands still for a list of pids.
    with child("while :; do sleep 100 & n=$((n+1)); [ $n -lt 300 ] || wait; done") as job:
        leaves.place("1000-a.1", job.pid, {})
        eventually(lambda: len(inside(base / "job-1000-a.1")) > 5)
        eventually(lambda: not leaves.kill("1000-a.1"))
        assert job.wait(60) == -signal.SIGKILL


@pytest.mark.root
@real
def test_what_forks_away_from_each_kill_is_frozen_first(base, monkeypatch):
    monkeypatch.setattr(cgroup, "KILL", "no.such.file")
    leaves = Leaves(str(base))
    frozen, pids = [], cgroup._pids

    def look(folder: str) -> list[int]:
        frozen.append(Path(folder, "cgroup.freeze").read_text())
        return pids(folder)

    with child() as job:
        leaves.place("1000-a.1", job.pid, {})
        monkeypatch.setattr(cgroup, "_pids", look)
        while leaves.kill("1000-a.1"):
            pass
        assert job.wait(60) == -signal.SIGKILL
    assert set(frozen) == {"1\n"}


@pytest.mark.root
@real
def test_a_leaf_below_a_leaf_is_ended_and_removed_too(base, monkeypatch):
    for kill in ("cgroup.kill", "no.such.file"):
        monkeypatch.setattr(cgroup, "KILL", kill)
        leaves = Leaves(str(base))
        with child() as job, child() as deep:
            leaves.place("0-a.1", job.pid, {})
            (base / "job-0-a.1" / "of" / "its").mkdir(parents=True)
            (base / "job-0-a.1" / "of" / "its" / "cgroup.procs").write_text(str(deep.pid))
            while leaves.kill("0-a.1"):
                pass
            assert not (base / "job-0-a.1").exists()
            assert (job.wait(60), deep.wait(60)) == (-signal.SIGKILL, -signal.SIGKILL)


@pytest.mark.root
@real
def test_kill_touches_no_other_leaf_and_a_leaf_that_is_gone_is_no_error(base):
    leaves = Leaves(str(base))
    with child() as one, child() as other:
        leaves.place("1000-a.1", one.pid, {})
        leaves.place("1000-a.12", other.pid, {})
        eventually(lambda: not leaves.kill("1000-a.1"))
        assert not leaves.kill("1000-a.1")
        assert one.wait(60) == -signal.SIGKILL
        assert inside(base / "job-1000-a.12") == [other.pid]


@pytest.mark.root
@real
def test_what_cannot_be_ended_at_once_is_told_and_holds_nothing_up(base, monkeypatch):
    monkeypatch.setattr(cgroup, "KILL", "cgroup.freeze")  # writes "1" there, which ends nobody
    leaves = Leaves(str(base))
    with child() as job:
        leaves.place("1000-a.1", job.pid, {})
        began = time.monotonic()
        assert leaves.kill("1000-a.1") is True
        assert time.monotonic() - began < 10
        assert inside(base / "job-1000-a.1") == [job.pid]


@pytest.mark.root
@real
def test_sweep_removes_the_empty_leaves_and_no_other(base):
    leaves = Leaves(str(base))
    with child() as short, child() as long:
        leaves.place("1000-a.1", short.pid, {})
        leaves.place("1000-b.1", long.pid, {})
        (base / "other").mkdir()
        short.kill()
        short.wait()
        leaves.sweep()
        assert sorted(path.name for path in base.iterdir() if path.is_dir()) == ["job-1000-b.1", "other"]
        assert inside(base / "job-1000-b.1") == [long.pid]


@pytest.mark.root
@real
def test_a_leaf_in_which_something_lives_is_not_given_again(base):
    leaves = Leaves(str(base))
    with child() as old, child() as new:
        leaves.place("1000-a.1", old.pid, {})
        with pytest.raises(OSError, match="busy"):
            leaves.place("1000-a.1", new.pid, {})
        assert inside(base / "job-1000-a.1") == [old.pid]
        old.kill()
        old.wait()
        leaves.place("1000-a.1", new.pid, {})
        assert inside(base / "job-1000-a.1") == [new.pid]


@pytest.mark.root
@real
def test_a_process_that_is_gone_leaves_no_leaf(base):
    leaves = Leaves(str(base))
    with child("exit 0") as job:
        job.wait()
        with pytest.raises(OSError, match="No such process"):
            leaves.place("1000-a.1", job.pid, {})
    assert not (base / "job-1000-a.1").exists()


@pytest.mark.parametrize(
    "name",
    ["", "a.1", "1000-a", "1000-a.", "1000-a.x", "1000-a.-1", "1000-../x.1", "1000-a/b.1", "../1000-a.1", "1000-.1"],
)
def test_a_name_that_is_no_attempts_is_refused(tmp_path, name):
    refuses(tmp_path, name)


@pytest.mark.parametrize("attempt", ["\n.1", "\0.1", ".²", f"{'a' * 97}.1", ".1234567890", ".1/..", " .1"])
def test_an_id_with_an_attempt_that_is_none_is_refused(tmp_path, attempt):
    refuses(tmp_path, f"1000-a{attempt}")


def refuses(tmp_path: Path, name: str) -> None:
    leaves = Leaves(str(tmp_path))
    with pytest.raises(CronqError, match="no attempt"):
        leaves.place(name, os.getpid(), {})
    with pytest.raises(CronqError, match="no attempt"):
        leaves.kill(name)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- limits, on plain files


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A directory that stands for a delegated cgroup, and a mkdir that gives a leaf its files, as the kernel does."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tree / "cgroup.subtree_control").touch()
    make = os.mkdir

    def mkdir(path, mode):
        make(path, mode)
        for name in ("cgroup.procs", "memory.max", "memory.oom.group", "pids.max", "cpu.weight"):
            Path(path, name).touch()

    monkeypatch.setattr(os, "mkdir", mkdir)
    return tree


def enabling(monkeypatch) -> list[str]:
    """Writes to a plain file replace it; this collects what would be enabled, one write a controller."""
    asked, write = [], cgroup._write

    def collect(path, text):
        if path.endswith("subtree_control"):
            asked.append(text)
            text = " ".join(word[1:] for word in asked)
        write(path, text)

    monkeypatch.setattr(cgroup, "_write", collect)
    return asked


def test_limits_are_written_before_the_process_is_in(plain, monkeypatch):
    asked = enabling(monkeypatch)
    leaves = Leaves(str(plain))
    assert leaves.place("1000-a.1", 4711, {"memory_max": 64 << 20, "pids_max": 10, "cpu_weight": 50}) == []
    assert asked == ["+cpu", "+memory", "+pids"]
    assert set(leaves.limits()) == {"memory_max", "pids_max", "cpu_weight"}
    assert asked == ["+cpu", "+memory", "+pids"]  # once
    leaf = plain / "job-1000-a.1"
    found = {path.name: path.read_text() for path in leaf.iterdir()}
    assert found == {
        "memory.max": "67108864",
        "memory.oom.group": "1",
        "pids.max": "10",
        "cpu.weight": "50",
        "cgroup.procs": "4711",
    }
    assert (leaf / "cgroup.procs").stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in leaf.iterdir())


def test_a_job_that_asks_for_no_limit_has_none(plain, monkeypatch):
    enabling(monkeypatch)
    Leaves(str(plain)).place("1000-a.1", 4711, {})
    found = {path.name: path.read_text() for path in (plain / "job-1000-a.1").iterdir()}
    assert found.pop("cgroup.procs") == "4711"
    assert set(found.values()) == {""}


def test_a_controller_that_is_not_there_takes_its_limit_with_it_and_no_other(plain, monkeypatch):
    enabling(monkeypatch)
    (plain / "cgroup.controllers").write_text("pids\n")
    leaves = Leaves(str(plain))
    assert leaves.limits() == ("pids_max",)
    assert leaves.place("1000-a.1", 4711, {"pids_max": 5, "memory_max": 1}) == ["memory_max"]


@pytest.mark.parametrize(
    "limits",
    [
        {"memory_max": "max"},
        {"memory_max": -1},
        {"memory_max": 1.5},
        {"pids_max": 0},
        {"pids_max": True},
        {"pids_max": None},
        {"cpu_weight": 10_001},
        {"cpuset": 1},
    ],
)
def test_a_limit_that_is_none_is_refused(plain, monkeypatch, limits):
    enabling(monkeypatch)
    with pytest.raises(CronqError, match=next(iter(limits))):
        Leaves(str(plain)).place("1000-a.1", 4711, limits)
    assert not (plain / "job-1000-a.1").exists()


def test_a_limit_that_the_kernel_refuses_leaves_no_leaf(plain, monkeypatch):
    enabling(monkeypatch)
    leaves, write = Leaves(str(plain)), cgroup._write

    def refuse(path, text):
        if path.endswith("memory.max"):
            raise OSError(22, "Invalid argument")
        write(path, text)

    monkeypatch.setattr(cgroup, "_write", refuse)
    removed = []
    monkeypatch.setattr(cgroup, "_remove", removed.append)
    with pytest.raises(OSError, match="Invalid"):
        leaves.place("1000-a.1", 4711, {"memory_max": 1})
    assert removed == [str(plain / "job-1000-a.1")]
    assert (plain / "job-1000-a.1" / "cgroup.procs").read_text() == ""


# -------------------------------------------------------------------- whose cgroup it is


def told(inside: Path, script: str) -> list[str]:
    """What a process that lives in this cgroup prints."""
    enter = f"echo $$ > {inside}/cgroup.procs; exec {sys.executable} -I -c '{script}'"
    done = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FIND = SCRIPT + "print(leaves and leaves.base)\nprint(sentence)"


@pytest.fixture
def service(base):
    """The cgroup of a service, beside that of its jobs, as systemd makes them."""
    for name in ("cronq.service", "cronq-jobs.service"):
        (base / name).mkdir()
    os.setxattr(base / "cronq-jobs.service", "trusted.delegate", b"1")
    return base / "cronq.service"


@pytest.fixture
def jobs(service):
    return service.with_name("cronq-jobs.service")


@pytest.mark.root
@real
@pytest.mark.parametrize("mark", cgroup.MARKS)
def test_the_jobs_unit_is_found_beside_the_service_by_its_name_and_mark(service, jobs, mark):
    os.removexattr(jobs, "trusted.delegate")
    os.setxattr(jobs, mark, b"1")
    found, sentence = told(service, FIND)
    assert found == str(jobs)
    assert sentence.startswith(f"a cgroup per job below {jobs}, with ")


@pytest.mark.root
@real
def test_what_nobody_delegated_is_left_alone(service, jobs):
    os.setxattr(service, "trusted.delegate", b"1")
    for mark in (b"0", None):
        if mark is None:
            os.removexattr(jobs, "trusted.delegate")
        else:
            os.setxattr(jobs, "trusted.delegate", mark)
        not_ours = f"no cgroup per job: {jobs} is not delegated; let cronq-jobs.service say Delegate=yes"
        assert told(service, FIND) == ["None", not_ours]


@pytest.mark.root
@real
def test_a_service_whose_jobs_unit_does_not_run_is_told_of_it(service, jobs):
    jobs.rmdir()
    found, sentence = told(service, FIND)
    assert found == "None"
    assert f"{jobs} is not there; start cronq-jobs.service, in the slice of cronq.service, and" in sentence


@pytest.mark.root
@real
def test_what_is_no_service_has_no_jobs_unit(base, jobs):
    """Another cronq, started by hand, or by a job of this one."""
    (base / "session-1.scope").mkdir()
    for where in (base, base / "session-1.scope", jobs):
        found, sentence = told(where, FIND)
        assert found == "None"
        assert sentence == f"no cgroup per job: {where} is not that of a service of systemd's" or where == jobs
    assert os.listdir(jobs) == os.listdir(base / "cronq.service")


@pytest.mark.root
@real
def test_a_cgroup_that_others_own_or_may_write_is_not_taken(service, jobs):
    jobs.chmod(0o777)
    assert "must be root's" in told(service, FIND)[1]
    jobs.chmod(0o755)
    os.chown(jobs, 12345, 12345)
    assert "must be root's" in told(service, FIND)[1]
    os.chown(jobs, 0, 0)
    os.setxattr(jobs, "user.delegate", b"1")  # the other mark nobody but root can read
    drop = FIND.replace("leaves, sentence", "os.setresuid(12345, 12345, 12345)\nleaves, sentence")
    assert "must be root's" in told(service, drop)[1]


@pytest.mark.root
@real
def test_a_tree_that_is_mounted_read_only_is_not_taken(service, jobs):
    private = f"mount --bind {TREE} {TREE} && mount -o remount,bind,ro {TREE} && exec {sys.executable} -I -c '{FIND}'"
    enter = f'echo $$ > {service}/cgroup.procs; exec unshare -m --propagation private sh -c "$0"'
    done = subprocess.run(["sh", "-c", enter, private], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["None", f"no cgroup per job: {jobs} is mounted read-only"], done.stderr


@pytest.mark.root
@real
def test_the_process_that_keeps_the_unit_makes_way_for_the_controllers_whenever_it_was_started(jobs):
    leaves = Leaves(str(jobs))
    with child() as first, child() as second, child() as job:
        for keeper, name in ((first, "0-a.1"), (second, "0-b.1")):
            cgroup._write(f"{jobs}/cgroup.procs", str(keeper.pid))
            leaves.place(name, job.pid, {})
            assert inside(jobs) == []
            assert keeper.pid in inside(jobs / "keeper")
        leaves.sweep()
        assert sorted(path.name for path in jobs.iterdir() if path.is_dir()) == ["job-0-b.1", "keeper"]


@pytest.mark.root
@real
def test_without_the_unit_nothing_is_placed_and_nothing_breaks(jobs):
    leaves = Leaves(str(jobs))
    jobs.rmdir()
    with child() as job, pytest.raises(FileNotFoundError):
        leaves.place("0-a.1", job.pid, {})
    assert leaves.kill("0-a.1") is False
    leaves.sweep()
    assert leaves.limits() == ()
    assert not jobs.exists()


@pytest.mark.root
@real
def test_the_kernel_lets_no_process_into_a_cgroup_whose_controllers_are_enabled(base):
    """Why jobs have a unit of their own: a service whose jobs live below its cgroup could not be started again."""
    controllers = (base / "cgroup.controllers").read_text().split()
    if not controllers:
        pytest.skip("no controller of cgroup v2 is free for the test")
    (base / "job-0-a.1").mkdir()
    cgroup._write(f"{base}/cgroup.subtree_control", f"+{controllers[0]}")
    with child() as main:
        with pytest.raises(OSError, match="busy"):
            cgroup._write(f"{base}/cgroup.procs", str(main.pid))
        (base / "keeper").mkdir()
        cgroup._write(f"{base}/keeper/cgroup.procs", str(main.pid))


@real
def test_what_the_kernel_tells_of_a_leaf_can_be_read_by_everybody(base):
    leaves, sleeper = Leaves(str(base)), subprocess.Popen(["sleep", "100"])
    try:
        leaves.place("1000-a.1", sleeper.pid, {})
        assert leaves.oom_kills("1000-a.1") == 0
        leaf = base / "job-1000-a.1"
        assert all(path.stat().st_mode & 0o005 == 0o005 for path in (base, leaf))
        told = [path for path in leaf.iterdir() if path.name.endswith(".events")]  # memory's, where there is memory
        assert told
        assert all(path.stat().st_mode & 0o004 for path in told)
        (read,) = [str(path) for path in told if path.name == "cgroup.events"]
        done = subprocess.run(["setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "cat", read])
        assert done.returncode == 0
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_pid_of_a_pidfd_is_known_until_it_has_been_waited_for():
    with child("exit 0") as job:
        pidfd = os.pidfd_open(job.pid)
        try:
            assert process.pid_of(pidfd) == job.pid
            os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
            assert process.pid_of(pidfd) == job.pid
            job.wait()
            assert process.pid_of(pidfd) is None
        finally:
            os.close(pidfd)
    assert process.look(os.getpid()).parent == os.getppid()
