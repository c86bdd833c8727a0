"""For whom a launcher works: who gets an inbox and a worker, and what a fork is once it has become somebody.

Rootless it is this process's own user. For everybody each test is a process of its own on a machine aside, as root.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from aside import ANN, BOB, CONFIG, CRONQ, GROUP, NOBODY, PASSWD, add, aside, fresh_machine, write
from workbench import UID

from cronq import cgroup, linux, realm, spool
from cronq.become import Barred
from cronq.errors import BadConfig, BadJob, NotPermitted
from cronq.realm import Everybody, Own

SPOOL = Path("/mnt/spool")
MEMBER = ("cronq:x:989:eve", "cronq:x:989:")  # the machine aside has one, and must not here


def everybody() -> Everybody:
    """The realm of a spool of this machine's."""
    Path("/etc/group").write_text(Path("/etc/group").read_text().replace(*MEMBER))
    return Everybody(str(SPOOL), str(CONFIG))


def in_fork(call: Callable[[], object]) -> str:
    """What a fork says that has called this: "" where all was well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
        except Barred as error:
            os.write(writing, f"barred: {error.sentence}".encode())
        except BaseException as error:  # noqa: BLE001 - the test asserts which
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def status(key: str) -> str:
    rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return rows[key].strip()


# -------------------------------------------------------------------- one's own


def test_ones_own_launcher_serves_oneself_and_nobody_else(tmp_path):
    root = tmp_path / "spool"
    own = Own(str(root))
    own.inbox(UID)
    assert Path(spool.inbox(str(root), UID)).stat().st_mode & 0o7777 == 0o700
    own.must_serve(UID)
    for call in (own.inbox, own.must_serve):
        with pytest.raises(NotPermitted, match=f"serves uid {UID} only"):
            call(UID + 1)
    assert [path.name for path in (root / "in").iterdir()] == [str(UID)]
    assert own.open_crontabs(UID, [0, 1]) == []
    with pytest.raises(NotPermitted, match="opens no crontabs"):
        own.crontab(0)
    own.become_worker(UID)
    assert own.become_dispatcher() == dict(os.environ)


@pytest.mark.root
@aside
@pytest.mark.parametrize("ids", [(ANN, ANN, 0), (ANN, 0, ANN), (0, ANN, 0)])
def test_who_is_two_users_at_once_is_not_taken_for_one(ids, tmp_path):
    own = Own(str(tmp_path))
    os.setresuid(*ids)
    for uid in (0, ANN):
        with pytest.raises(PermissionError, match="becomes nobody"):
            own.become_worker(uid)
    with pytest.raises(PermissionError, match="becomes nobody"):
        own.become_dispatcher()


# -------------------------------------------------------------------- everybody's: before it begins


@pytest.mark.root
@aside
def test_only_root_begins_for_everybody():
    os.setresuid(ANN, ANN, ANN)
    with pytest.raises(NotPermitted, match="only root starts the system's dispatcher"):
        Everybody(str(SPOOL), str(CONFIG))


@pytest.mark.root
@aside
@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("passwd", "cronq:x:989:989", "other:x:989:989", "there must be a user and a group cronq; make it"),
        ("group", "cronq:x:989", "other:x:989", "there must be a user and a group cronq; make it"),
        ("passwd", "cronq:x:989:989", "cronq:x:0:989", "must not be root"),
        ("passwd", "cronq:x:989:989", "cronq:x:989:50", "its group must be cronq"),
        ("both", "cronq:x:989", "cronq:x:0", "must not be root"),
        ("group", "cronq:x:989:eve", "cronq:x:989:eve,ann", "must have no members, and has eve, ann; gpasswd -d eve"),
    ],
)
def test_an_account_of_ours_that_is_not_as_it_must_be_is_told_and_nothing_is_made(file, old, new, sentence):
    for name, text in (("passwd", PASSWD), ("group", GROUP if "eve" in old else GROUP.replace(*MEMBER))):
        changed = text.replace(old, new) if file in (name, "both") else text
        Path("/etc", name).write_text(
            changed.replace("cronq:x:989:989", "cronq:x:989:0") if file == "both" else changed
        )
    with pytest.raises(BadConfig, match=sentence):
        Everybody(str(SPOOL), str(CONFIG))
    assert not SPOOL.exists()


@pytest.mark.root
@aside
def test_a_group_of_ours_that_is_roots_by_another_name_is_told():
    Path("/etc/passwd").write_text(PASSWD.replace("cronq:x:989:989", "cronq:x:989:0"))
    Path("/etc/group").write_text(GROUP.replace("cronq:x:989:eve", "cronq:x:0:"))
    with pytest.raises(BadConfig, match="must not be root"):
        Everybody(str(SPOOL), str(CONFIG))


@pytest.mark.root
@aside
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda: os.chown(CONFIG, ANN, 0), "belongs to uid 52001"),
        (lambda: write("cronq.toml", "", mode=0o666), "can be written by"),
        (lambda: (CONFIG.rmdir(), CONFIG.symlink_to("/mnt/home")), "cannot be looked at: No such file"),
        (lambda: (CONFIG.rmdir(), CONFIG.touch(), CONFIG.chmod(0o602)), "can be written by others"),
    ],
)
def test_a_configuration_that_others_can_change_is_told_and_nothing_is_made(spoil, sentence):
    spoil()
    with pytest.raises(BadConfig, match=sentence):
        everybody()
    assert not SPOOL.exists()


@pytest.mark.root
@aside
def test_a_configuration_below_a_file_is_told():
    Path("/mnt/file").touch()
    Path("/etc/group").write_text(GROUP.replace(*MEMBER))
    with pytest.raises(BadConfig, match="/mnt/file/config: cannot be looked at: Not a directory"):
        Everybody(str(SPOOL), "/mnt/file/config")


@pytest.mark.root
@aside
def test_it_begins_with_the_ground_laid_and_tells_the_dispatcher_how_it_is():
    found = everybody()
    leaves, sentence = cgroup.find()
    assert (SPOOL / "queue").stat().st_uid == CRONQ
    assert (SPOOL / "run").stat().st_uid == CRONQ  # the folder of the control socket, where it is not /run/cronq
    assert (found.system.uid, found.system.gid, found.system.placing) == (CRONQ, CRONQ, leaves is not None)
    assert found.options[:4] == ("--system", "yes", "--cgroups", sentence)


# -------------------------------------------------------------------- everybody's: who gets what


@pytest.mark.root
@aside
def test_inboxes_are_for_users_with_an_account_and_never_for_cronq():
    found = everybody()
    for uid in (ANN, BOB, 0):
        found.inbox(uid)
    for uid in (CRONQ, -1, 2**32 - 1, 2**70):
        for call in (found.inbox, found.must_serve, found.become_worker):
            with pytest.raises(NotPermitted, match=f"nothing runs as uid {uid}"):
                call(uid)
    with pytest.raises(NotPermitted, match=f"uid {NOBODY} has no account"):
        found.inbox(NOBODY)
    assert sorted(path.name for path in (SPOOL / "in").iterdir()) == sorted(map(str, (ANN, BOB, 0)))
    assert sorted(path.name for path in (SPOOL / "users").iterdir()) == sorted(map(str, (ANN, BOB, 0)))


@pytest.mark.root
@aside
def test_a_worker_is_its_user_and_nothing_else():
    found = everybody()

    def become_ann() -> None:
        found.become_worker(ANN)
        assert os.getresuid() + os.getresgid() == (ANN,) * 6
        assert set(os.getgroups()) == {ANN, 50}
        assert int(status("CapEff"), 16) == 0

    assert in_fork(become_ann) == ""


@pytest.mark.root
@aside
def test_who_may_not_have_jobs_becomes_no_worker():
    found = everybody()
    found.inbox(ANN)
    add("/etc/passwd", f"new:x:{NOBODY}:{CRONQ}::/:/bin/sh\n")
    Path("/etc/passwd").write_text(Path("/etc/passwd").read_text().replace("ann:x", "eva:x").replace("twin:x", "two:x"))

    def become_them(uid: int) -> None:
        try:
            found.become_worker(uid)
        finally:
            assert os.getresuid() == (0, 0, 0)

    reused = in_fork(lambda: become_them(ANN))
    assert reused.startswith(f"barred: uid {ANN} was ann when its inbox was made, and is eva now")
    assert "must have no members" in in_fork(lambda: become_them(NOBODY))
    assert in_fork(lambda: become_them(NOBODY + 1)).startswith(f"barred: uid {NOBODY + 1} has no account")
    assert in_fork(lambda: found.become_worker(BOB)) == ""


ROOTS = [
    ("", False),
    ("[exec]\nallow_root = false\n", False),
    ('[tasks.a]\ncommand = ["true"]\nuser = "root"\n', False),
    ("exec = 1\ntasks = 2\n", False),
    ("[tasks]\na = 1\n", False),
    ('[exec]\nallow_root = "true"\n', False),
    ("[exec]\nallow_root = true\n", True),
    ('[tasks.a]\ncommand = ["true"]\nuser = "root"\nallow_root = true\n', True),
]


@pytest.mark.root
@aside
@pytest.mark.parametrize("name", ["cronq.toml", "tasks.d/a.toml"])
@pytest.mark.parametrize(("text", "allowed"), ROOTS)
def test_a_worker_is_root_only_where_the_configuration_allows_it(text, allowed, name):
    found = everybody()
    write(name, text)
    said = in_fork(lambda: found.become_worker(0))
    assert ("nothing runs as root" in said) is not allowed
    assert (said == "") is allowed
    (CONFIG / name).chmod(0o666)
    assert "can be written by" in in_fork(lambda: found.become_worker(0))
    assert in_fork(lambda: found.become_worker(BOB)) == ""  # the workers of others ask by themselves, each time


@pytest.mark.root
@aside
@pytest.mark.parametrize("name", ["crontab", "cron.d/daily"])
def test_a_crontab_of_the_configuration_is_a_reason_for_a_worker_of_roots(name):
    found = everybody()
    assert "nothing runs as root" in in_fork(lambda: found.become_worker(0))
    write(name, "@daily root true\n")
    assert in_fork(lambda: found.become_worker(0)) == ""


@pytest.mark.root
@aside
@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (None, False),
        ("", False),
        ("cron = 1\n", False),
        ("[cron]\nsystem = 1\n", False),
        ("[cron]\nsystem = false\n", False),
        ("[cron]\nsystem = true\n", True),
    ],
)
def test_the_machines_own_crontabs_are_ours_only_where_the_configuration_says_so(text, ours):
    fresh_machine()
    Path("/etc/crontab").write_text("@daily root true\n")
    found = everybody()
    if text is not None:
        write("cronq.toml", text)
    answer, descriptors = found.crontab(0)
    assert answer == {"table": "/etc/crontab" if ours else "", "number": 0, "of": int(ours)}
    assert [os.read(each, 100) for each in descriptors] == [b"@daily root true\n"] * ours
    assert ("nothing runs as root" in in_fork(lambda: found.become_worker(0))) is not ours


@pytest.mark.root
@aside
def test_crontabs_are_numbered_anew_when_the_first_is_asked_for_and_in_a_trusted_configuration_only():
    found = everybody()
    write("crontab", "1")
    assert found.crontab(0)[0] == {"table": str(CONFIG / "crontab"), "number": 0, "of": 1}
    write("cron.d/a", "2")
    with pytest.raises(BadJob, match="no table of that number"):
        found.crontab(1)
    assert found.crontab(0)[0]["of"] == 2
    answer, (descriptor,) = found.crontab(1)
    assert (answer["table"], os.read(descriptor, 10)) == (str(CONFIG / "cron.d/a"), b"2")
    (CONFIG / "cron.d").chmod(0o777)
    os.chown(CONFIG, ANN, 0)
    with pytest.raises(BadConfig, match="belongs to uid"):
        found.crontab(0)


@pytest.mark.root
@aside
def test_a_worker_is_handed_the_tables_that_were_named_open():
    found = everybody()
    write("crontab", "1")
    write("cron.d/a", "2", mode=0o600)
    found.crontab(0)
    opened = found.open_crontabs(ANN, [1])
    assert [os.read(each, 10) for each in opened] == [b"2"]
    assert found.system.tables == {str(CONFIG / "cron.d/a"): opened[0]}


@pytest.mark.root
@aside
def test_a_dispatcher_is_cronq_for_good_and_has_of_the_environment_what_a_daemon_needs():
    os.environ.clear()
    kept = {"PATH": "/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    os.environ.update(kept | {"HOME": "/root", "LD_PRELOAD": "/x.so", "SECRET": "x", "CRONQ_SPOOL": "/mnt"})
    found = everybody()

    def become_it() -> None:
        assert found.become_dispatcher() == kept
        assert os.getresuid() + os.getresgid() == (CRONQ,) * 6
        assert os.getgroups() == []
        assert (int(status("CapPrm"), 16), status("NoNewPrivs")) == (0, "1")

    assert in_fork(become_it) == ""
    del os.environ["TZ"], kept["TZ"]  # what is not there is not made up
    assert in_fork(become_it) == ""


# -------------------------------------------------------------------- what protects the daemon


OOM = Path("/proc/self/oom_score_adj")


def favours() -> tuple[int, int]:
    return os.getpriority(os.PRIO_PROCESS, 0), int(OOM.read_text())


def favour(nice: int, oom: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        OOM.write_text(str(oom))
    except PermissionError:
        pytest.skip("this is a container that may not lower them")


@pytest.mark.root
@aside
@pytest.mark.parametrize(("nice", "oom"), [(-5, 0), (-5, -500), (5, 500), (0, 0), (-5, 500), (5, -500)])
def test_what_protects_the_daemon_is_not_for_jobs(nice, oom):
    found = everybody()
    favour(nice, oom)

    def become_ann() -> None:
        found.become_worker(ANN)
        assert favours() == (0, 0)

    assert in_fork(become_ann) == ""
    assert favours() == (nice, oom)


@pytest.mark.root
@aside
@pytest.mark.parametrize(("nice", "oom"), [(-5, 500), (5, 0), (5, 500), (5, -500)])
def test_where_they_may_not_be_lowered_jobs_are_as_badly_off_as_the_daemon_and_never_better(nice, oom):
    favour(nice, oom)
    linux.drop_capabilities()
    realm._be_like_others()
    assert favours()[0] == max(0, nice)
    assert favours()[1] in {0, max(0, oom)}


@pytest.mark.root
@aside
def test_where_the_oom_score_is_not_to_be_written_the_worker_works_all_the_same():
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    Path("/mnt/masked").touch(mode=0o600)
    os.chown("/mnt/masked", ANN, ANN)
    subprocess.run(["mount", "--bind", "/mnt/masked", f"/proc/{os.getpid()}/oom_score_adj"], check=True)
    linux.drop_capabilities()
    realm._be_like_others()
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0
