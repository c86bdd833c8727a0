"""`cronq doctor` on a spool of one's own, and its checks by themselves. On a system spool: system/test_doctor.py."""

import os
import subprocess

import pytest
from conftest import eventually
from standin import Control, Runner, cronq

from cronq import checkup, doctor, strain
from cronq.checkup import FAIL, OK, WARN

ABOUT = {"pid": os.getpid(), "uid": os.getuid(), "cgroups": "", "placing": False, "broken": ""}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def answers(root):
    Runner(root)
    served = []

    def serve(**facts):
        served.append(Control(root, {"about": [ABOUT | facts, {"ok": True}]}))

    yield serve
    for control in served:
        control.close()


def fails(done):
    return [line for line in done.stdout.splitlines() if line.startswith("fail")]


def levels(findings):
    return [level for level, _ in findings]


def test_a_sound_spool_has_no_failure(root, answers):
    answers()
    done = cronq(root, "doctor")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {OK, WARN}


def test_it_names_what_is_broken_and_how_to_mend_it(root, answers):
    answers(broken="a flush failed", cgroups="no cgroup per job: none is delegated")
    root.chmod(0o755)
    (root / "queue" / "held").rmdir()
    (root / "config").mkdir()
    (root / "config" / "cronq.toml").write_text("[tasks.x]\n")
    done = cronq(root, "doctor")
    assert done.returncode == 1
    found = "\n".join(fails(done))
    for words in ("lacks queue/held", f"chmod 0700 {root}", "[tasks.x]", "a flush failed"):
        assert words in found
    assert "warn  cgroups: no cgroup per job" in done.stdout


def test_it_misses_the_dispatcher(root):
    Runner(root)
    done = cronq(root, "doctor")
    assert done.returncode == 1
    assert "fail  dispatcher: no dispatcher is running" in done.stdout


def test_before_anything_was_made_it_says_who_makes_it(root):
    done = cronq(root, "doctor")
    assert "the first submit) makes it" in done.stdout
    assert not root.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="another's spool needs another user")
@pytest.mark.parametrize("part", ["spool", ""])
def test_root_does_not_look_into_what_is_another_users(root, answers, part):
    """Whatever lies there: a FIFO in the place of a directory's file would hang who opens it."""
    answers()
    (root / "config").mkdir()
    os.mkfifo(root / "config" / "cronq.toml")
    os.chown(root.parent / part, 2001, 2001)
    done = cronq(root, "doctor")
    assert "belongs to uid 2001; name your own in CRONQ_SPOOL" in fails(done)[0]
    assert "config" not in done.stdout
    assert "dispatcher" not in done.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="another's directory needs another user")
def test_root_does_not_read_another_users_configuration(root, answers):
    answers()
    (root / "config").mkdir()
    os.mkfifo(root / "config" / "cronq.toml")
    os.chown(root / "config", 2001, 2001)
    assert "config belongs to uid 2001; name your own in CRONQ_CONFIG" in fails(cronq(root, "doctor"))[0]


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("ext4", OK),
        ("xfs", OK),
        ("fusectl", OK),
        ("tmpfs", WARN),
        ("nfs4", FAIL),
        ("cifs", FAIL),
        ("fuse", FAIL),
        ("fuseblk", FAIL),
        ("fuse.sshfs", FAIL),
    ],
)
def test_a_spool_needs_a_local_file_system(tmp_path, kind, level):
    mounts = [("/", "ext4"), (str(tmp_path.parent), "nfs" if level == OK else "ext4"), (str(tmp_path), kind)]
    assert levels(checkup.file_system(str(tmp_path / "spool"), mounts)) == [level]


def test_the_last_one_mounted_at_a_place_counts(tmp_path):
    mounts = [("/", "nfs"), (str(tmp_path), "ext4"), (str(tmp_path), "nfs")]
    assert levels(checkup.file_system(str(tmp_path), mounts)) == [FAIL]
    assert levels(checkup.file_system(str(tmp_path), [*mounts, (str(tmp_path), "ext4")])) == [OK]


def test_what_is_mounted_inside_a_spool_is_told(tmp_path):
    inside = str(tmp_path / "in")
    found = list(checkup.file_system(str(tmp_path), [("/", "ext4"), (inside, "fuse.evil")]))
    assert levels(found) == [OK, FAIL]
    assert f"{inside} (fuse.evil) is mounted inside the spool" in found[1][1]


def test_the_mounts_of_this_machine_are_understood():
    assert ("/proc", "proc") in list(checkup.mounts())
    assert checkup.unescaped("a\\040b\\011c") == "a b\tc"


# ---------------------------------------------------------------- processes


@pytest.fixture
def three():
    """Three processes of a user who has no others; the first may have so many as the test says."""
    if os.getuid() != 0:
        pytest.skip("processes of another user need root")
    uid, made = 54321, []

    def start(limit):
        argv = ["prlimit", f"--nproc={limit}", "sleep", "60"]
        made.extend(subprocess.Popen(argv, user=uid) for _ in range(3))
        eventually(lambda: strain.process_limit(made[0].pid) == limit)
        return uid, made[0].pid

    yield start
    for each in made:
        each.kill()
        each.wait()


@pytest.mark.parametrize(("limit", "level"), [(4, OK), (3, FAIL), (1000, OK)])
def test_a_user_near_his_number_of_processes_is_named(three, limit, level):
    uid, pid = three(limit)
    found = list(strain.check([uid], pid, cgroups="/nowhere"))
    assert levels(found) == [level]
    if level == FAIL:
        assert "54321 has 3 of the 3" in found[0][1]


@pytest.mark.parametrize("group", ["system.slice", "system.slice/cronq.service", "system.slice/cronq-jobs.service"])
@pytest.mark.parametrize(("most", "level"), [("max", OK), ("100", OK), ("60", WARN), ("50", FAIL)])
def test_a_cgroup_near_its_number_of_processes_is_named(tmp_path, most, level, group, monkeypatch):
    monkeypatch.setattr(strain, "_path", lambda _pid: "/system.slice/cronq.service")
    folder = tmp_path / group
    folder.mkdir(parents=True)
    (folder / "pids.max").write_text(f"{most}\n")
    (folder / "pids.current").write_text("50\n")
    found = list(strain.check([], os.getpid(), cgroups=str(tmp_path)))
    assert levels(found) == [level]
    if level != OK:
        assert f"50 of the {most} that {folder}/pids.max allows; raise TasksMax=" in found[0][1]


def test_what_a_check_trips_over_is_a_finding(monkeypatch, capsys):
    def trips():
        raise PermissionError(13, "Permission denied", "/somewhere\x1b[31m")
        yield

    monkeypatch.setattr(doctor, "checks", lambda _root, _config: [trips])
    assert doctor.main("/x", "/y") == 1
    assert capsys.readouterr().out == "fail  /somewhere\\x1b[31m: Permission denied\n"
