"""The ground that root lays: a spool's tree, inboxes, and the names that go with them; and what is in the way of it.

Each test is a process of its own on a machine aside, as root there, or as those whom it forks.
"""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from aside import ANN, BOB, CRONQ, aside

from cronq import acl, ground
from cronq.become import Account
from cronq.errors import BadConfig

pytestmark = pytest.mark.root

OURS = Account("cronq", CRONQ, CRONQ, [])
SPOOL = Path("/mnt/spool")
RUN = Path("/mnt/run")


def lay(root: Path = SPOOL, control: Path = RUN) -> int:
    return ground.lay(str(root), str(control), OURS)


def looks(path: Path) -> tuple[int, int, int]:
    """Its owner, its group, its mode."""
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def tree() -> dict[str, tuple[int, int, int]]:
    """What of the spool there is, and whose."""
    return {str(path.relative_to(SPOOL)): looks(path) for path in SPOOL.rglob("*")}


def attempt(uid: int, call) -> bool:
    """Whether this user may do it, alone, in the group of his own number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


LAID = {
    "hello": (CRONQ, CRONQ, 0o1733),
    "in": (0, 0, 0o711),
    "out": (CRONQ, CRONQ, 0o711),
    "rejected": (CRONQ, CRONQ, 0o711),
    "queue": (CRONQ, CRONQ, 0o700),
    "schedule": (CRONQ, CRONQ, 0o700),
    "history": (CRONQ, CRONQ, 0o750),
    "users": (0, 0, 0o755),
}


# -------------------------------------------------------------------- the tree


@aside
def test_the_tree_is_laid_whole_whatever_the_umask():
    os.umask(0o077)
    spool = lay(Path("/mnt/not/yet/spool"))
    os.umask(0)
    second = lay()
    assert looks(Path("/mnt/not/yet/spool")) == looks(SPOOL) == (0, 0, 0o711)
    assert tree() == LAID
    assert looks(RUN) == (CRONQ, CRONQ, 0o755)
    for descriptor, path in ((spool, Path("/mnt/not/yet/spool")), (second, SPOOL)):
        assert os.path.samestat(os.fstat(descriptor), path.stat())


@aside
def test_what_is_there_is_left_as_it_is():
    lay()
    os.mkdir(SPOOL / "queue/ready", 0o700)
    before = tree(), [os.stat(SPOOL / name).st_ctime_ns for name in LAID]
    lay()
    assert (tree(), [os.stat(SPOOL / name).st_ctime_ns for name in LAID]) == before


@aside
@pytest.mark.parametrize("mode", [0o700, 0o711, 0o1733])
@pytest.mark.parametrize("name", [name for name, (owner, *_) in LAID.items() if owner == CRONQ])
def test_a_directory_that_a_crash_left_to_root_is_finished(name, mode):
    """It is made 0700 by root, gets its mode, and its owner last."""
    lay()
    os.chown(SPOOL / name, 0, 0)
    os.chmod(SPOOL / name, mode)
    lay()
    assert tree() == LAID


@aside
@pytest.mark.parametrize("name", ["in", "users", "."])
def test_a_directory_of_roots_that_a_crash_left_without_its_mode_is_finished(name):
    lay()
    os.chmod(SPOOL / name, 0o700)
    lay()
    assert tree() == LAID
    assert looks(SPOOL) == (0, 0, 0o711)


@aside
@pytest.mark.parametrize("path", [SPOOL, RUN, *(SPOOL / name for name in LAID)], ids=str)
def test_a_directory_that_is_anothers_is_told_with_its_mend_and_left(path):
    lay()
    os.chown(path, ANN, 0)
    owner = CRONQ if LAID.get(path.name, (CRONQ,))[0] == CRONQ and path != SPOOL else 0
    with pytest.raises(BadConfig) as caught:
        lay()
    assert caught.value.sentence == f"{path} belongs to {ANN}:0; chown {owner}:{owner} {path}"
    assert looks(path)[:2] == (ANN, 0)


@aside
@pytest.mark.parametrize("path", [SPOOL, RUN, *(SPOOL / name for name in LAID)], ids=str)
def test_a_directory_with_another_mode_is_told_with_its_mend_and_left(path):
    lay()
    mode = looks(path)[2]
    path.chmod(0o777)
    with pytest.raises(BadConfig) as caught:
        lay()
    assert caught.value.sentence == f"{path} has the mode 0777; chmod {mode:04o} {path}"
    assert looks(path)[2] == 0o777


@aside
@pytest.mark.parametrize("path", [SPOOL, RUN, *(SPOOL / name for name in LAID)], ids=str)
@pytest.mark.parametrize("shape", ["link", "file"])
def test_what_is_no_directory_is_told_and_nothing_is_made_behind_it(path, shape):
    lay()
    behind = Path("/mnt/behind")
    behind.mkdir(mode=0o700)
    path.rename("/mnt/aside")
    path.symlink_to(behind) if shape == "link" else path.touch()
    with pytest.raises(BadConfig, match="it must be a directory"):
        lay()
    assert looks(behind) == (0, 0, 0o700)
    assert not list(behind.iterdir())


@aside
@pytest.mark.parametrize("missing", ["", "a/b/c/"])
@pytest.mark.parametrize("spoil", [lambda place: os.chown(place, ANN, 0), lambda place: place.chmod(0o1777)])
def test_root_looks_before_it_makes_directories(spoil, missing):
    """Where others could have put a link, what root makes would be made where they like."""
    place = Path("/mnt/place")
    place.mkdir()
    spoil(place)
    with pytest.raises(BadConfig, match="must be"):
        lay(place / missing / "spool")
    assert not list(place.iterdir())


@aside
def test_what_root_makes_above_the_spool_under_a_loose_umask_is_no_place_for_it():
    os.umask(0)
    with pytest.raises(BadConfig, match="can be written by its group and others"):
        lay(Path("/mnt/not/yet/spool"))
    assert not Path("/mnt/not/yet/spool").exists()


@aside
def test_a_link_on_the_way_is_looked_at_before_it_is_followed():
    place, theirs = Path("/mnt/place"), Path("/mnt/theirs")
    place.mkdir()
    theirs.mkdir()
    os.chown(theirs, ANN, 0)
    (place / "link").symlink_to(theirs)
    with pytest.raises(BadConfig, match="belongs to uid"):
        lay(place / "link/a/spool")
    assert not list(theirs.iterdir())


@aside
def test_a_path_that_depends_on_where_one_is_is_no_spool():
    os.chdir("/mnt")
    with pytest.raises(BadConfig, match="absolute"):
        lay(Path("a/spool"))
    assert not Path("/mnt/a").exists()


@aside
def test_an_error_of_the_disk_is_not_taken_for_the_administrators():
    Path("/mnt/disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", "/mnt/disk"], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        lay(Path("/mnt/disk/spool"))


# -------------------------------------------------------------------- inboxes


def make(name: str = "ann", uid: int = ANN) -> None:
    """That user's inbox, as the launcher makes it."""
    ground.inbox(os.open(SPOOL, os.O_RDONLY), Account(name, uid, uid, []), OURS)


INBOXED = {f"in/{ANN}": (ANN, CRONQ, 0o2770), f"users/{ANN}": (0, 0, 0o644)}


@aside
def test_an_inbox_is_its_users_and_its_files_are_cronqs_to_read_whatever_the_umask():
    lay()
    os.umask(0o077)
    make()
    assert tree() == LAID | INBOXED
    file = SPOOL / f"in/{ANN}/a.job"
    for umask in (0, 0o077, 0o777):
        os.umask(umask)
        assert attempt(ANN, lambda: os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)))
        assert looks(file) == (ANN, CRONQ, 0o640)
        assert attempt(CRONQ, file.read_bytes)
        assert not attempt(BOB, file.read_bytes)
        file.unlink()


@aside
def test_an_inbox_that_is_there_stays_as_it_is():
    lay()
    make()
    (SPOOL / f"in/{ANN}/a.job").touch()
    os.chmod(SPOOL / f"in/{ANN}", 0o700)  # he may
    make()
    assert looks(SPOOL / f"in/{ANN}") == (ANN, CRONQ, 0o700)
    assert (SPOOL / f"in/{ANN}/a.job").exists()


@aside
@pytest.mark.parametrize(
    "half",
    [
        lambda draft: None,
        lambda draft: acl.inherit(str(draft)),
        lambda draft: draft.chmod(0o2770),
        lambda draft: (os.chown(draft, ANN, CRONQ), draft.chmod(0o2770)),
    ],
    ids=["made", "with its list", "with its mode", "his"],
)
@pytest.mark.parametrize("named", [False, True])
def test_an_inbox_that_a_crash_left_half_made_is_finished(half, named):
    lay()
    draft = SPOOL / f"in/.{ANN}.tmp"
    draft.mkdir(mode=0o700)
    half(draft)
    (SPOOL / f"users/.{ANN}.tmp").write_text("longer than the name")
    if named:
        (SPOOL / f"users/.{ANN}.tmp").unlink()
        (SPOOL / f"users/{ANN}").write_text("ann\n")
    make()
    assert tree() == LAID | INBOXED
    assert acl.inherits(str(SPOOL / f"in/{ANN}"))
    assert (SPOOL / f"users/{ANN}").read_text() == "ann\n"


@aside
@pytest.mark.parametrize("bytes_", ["jörg".encode(), "jörg".encode("latin-1"), b"j\xff\xfe"])
def test_a_name_is_kept_byte_by_byte(bytes_):
    lay()
    name = os.fsdecode(bytes_)  # as getpwuid gives it
    make(name)
    make(name)
    assert (SPOOL / f"users/{ANN}").read_bytes() == bytes_ + b"\n"
    ground.must_be_the_same(str(SPOOL), Account(name, ANN, ANN, []))


@aside
def test_who_has_anothers_uid_by_now_gets_nothing_of_his():
    lay()
    make()
    before = tree()
    other = Account("eva", ANN, ANN, [])
    for call in (lambda: make("eva"), lambda: ground.must_be_the_same(str(SPOOL), other)):
        with pytest.raises(ground.Reused, match=f"uid {ANN} was ann when its inbox was made, and is eva now"):
            call()
    assert tree() == before
    assert (SPOOL / f"users/{ANN}").read_text() == "ann\n"
    (SPOOL / f"in/{ANN}").rmdir()  # the name outlives the inbox
    with pytest.raises(ground.Reused):
        make("eva")
    assert not (SPOOL / f"in/{ANN}").exists()


@aside
def test_who_has_no_inbox_yet_is_who_he_is():
    lay()
    ground.must_be_the_same(str(SPOOL), Account("ann", ANN, ANN, []))
    assert tree() == LAID


@aside
def test_nothing_is_held_open_whether_it_goes_well_or_not():
    spool = lay()
    before = os.listdir("/proc/self/fd")
    for name in ("ann", "ann", "eva"):
        try:
            ground.inbox(spool, Account(name, ANN, ANN, []), OURS)
        except ground.Reused:
            pass
    ground.must_be_the_same(str(SPOOL), Account("ann", ANN, ANN, []))
    assert os.listdir("/proc/self/fd") == before


# -------------------------------------------------------------------- the lists of who may read what


@aside
def test_a_directory_that_is_lent_is_his_to_read_until_it_is_taken_back():
    folder = Path("/mnt/lent")
    folder.mkdir(mode=0o700)
    (folder / "file").touch()
    os.chown(folder, CRONQ, CRONQ)
    read, write = lambda: os.stat(folder / "file") and os.listdir(folder), (folder / "x").touch
    assert not attempt(ANN, read)
    acl.lend(str(folder), ANN)
    assert attempt(ANN, read)
    assert not attempt(ANN, write)
    assert not attempt(BOB, read)
    assert attempt(CRONQ, write)
    acl.take_back(str(folder))
    assert not attempt(ANN, read)
    assert attempt(CRONQ, read)


@aside
def test_whether_files_of_a_directory_are_cronqs_to_read_can_be_seen():
    folder = Path("/mnt/folder")
    folder.mkdir()
    assert not acl.inherits(str(folder))
    acl.inherit(str(folder))
    assert acl.inherits(str(folder))
    with pytest.raises(FileNotFoundError):
        acl.inherits("/mnt/nowhere")


@aside
def test_a_file_system_without_lists_says_so():
    subprocess.run(["mount", "-t", "ramfs", "none", "/mnt/cronq"], check=True)
    for call in (acl.inherit, acl.inherits, acl.take_back):
        with pytest.raises(OSError, match="not supported"):
            call("/mnt/cronq")
