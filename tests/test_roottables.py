"""Root's crontabs: which there are, and what is opened of them for whom.

Each test is a process of its own on a machine aside, which has no crontabs but the test's.
"""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from aside import ANN, CONFIG, aside, fresh_machine, write

from cronq import check, roottables
from cronq.errors import BadJob
from cronq.roottables import Listing, open_table

pytestmark = pytest.mark.root

MACHINES, FOLDER, USERS = Path("/etc/crontab"), Path("/etc/cron.d"), Path("/var/spool/cron/crontabs")
SECRET = "/etc/shadow"


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or path.name)
    return path


def listing(machine: bool = True) -> list[str]:
    return roottables.listing(str(CONFIG), machine)


def read(path: Path | str) -> str:
    """What a table that is opened holds."""
    with open(open_table(str(path)), encoding="utf-8") as file:
        return file.read()


def held() -> list[str]:
    return os.listdir("/proc/self/fd")


@aside
def test_the_tables_are_those_of_the_configuration_and_where_it_is_asked_for_the_machines():
    fresh_machine()
    assert listing() == []
    ours = [write("crontab", ""), write("cron.d/a", ""), write("cron.d/b", "")]
    machines = [put(MACHINES), put(FOLDER / "daily"), put(USERS / "ann")]
    write("cron.d/a.dpkg-old", "")
    put(FOLDER / ".placeholder")
    write("crontab.bak", "")
    assert listing(machine=False) == list(map(str, ours))
    assert listing() == list(map(str, ours + machines))


@aside
def test_what_is_no_directory_has_no_tables():
    fresh_machine()
    write("cron.d", "in the way")
    put(FOLDER, "in the way")
    assert listing() == []


@aside
def test_a_table_is_opened_whoever_may_read_it():
    fresh_machine()
    for path in (write("crontab", "crontab", mode=0o600), put(MACHINES), put(USERS / "ann")):
        path.chmod(0o600)
        assert read(path) == path.name


@aside
def test_a_link_is_followed_where_root_made_it_and_never_among_the_users_tables():
    fresh_machine()
    target = put(Path("/mnt/target"))
    write("crontab", "").unlink()
    (CONFIG / "crontab").symlink_to(target)
    assert read(CONFIG / "crontab") == "target"
    os.chown(CONFIG / "crontab", ANN, ANN, follow_symlinks=False)
    with pytest.raises(BadJob, match="WRONG SYMLINK OWNER"):
        open_table(str(CONFIG / "crontab"))
    USERS.mkdir(parents=True)
    (USERS / "ann").symlink_to(SECRET)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_table(str(USERS / "ann"))


@aside
@pytest.mark.parametrize("folder", [CONFIG / "cron.d", FOLDER, USERS], ids=str)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_regular_file_is_no_table_and_is_not_waited_for(make: Callable[[Path], None], folder: Path):
    fresh_machine()
    folder.mkdir(parents=True)
    make(folder / "ann")
    before = held()
    with pytest.raises(BadJob, match="NOT A REGULAR FILE"):
        open_table(str(folder / "ann"))
    assert held() == before


@aside
def test_a_number_says_which_table_of_the_listing_and_what_cannot_be_had_says_why():
    fresh_machine()
    found = Listing()
    assert found.answer(0) == ({"table": "", "number": 0, "of": 0}, [])
    gone, pipe, table = put(FOLDER / "a"), FOLDER / "b", put(FOLDER / "c")
    os.mkfifo(pipe)
    found.paths = listing()
    gone.unlink()
    answer, (descriptor,) = found.answer(2)
    assert (answer, os.read(descriptor, 10)) == ({"table": str(table), "number": 2, "of": 3}, b"c")
    before = held()
    why = {0: f"No such file or directory ({gone})", 1: f"NOT A REGULAR FILE ({pipe})"}
    for number, path in enumerate((gone, pipe)):
        assert found.answer(number) == ({"table": str(path), "number": number, "of": 3, "why": why[number]}, [])
    for number in (3, -1, 2**70):
        with pytest.raises(BadJob, match="no table of that number"):
            found.answer(number)
    assert held() == before


@aside
def test_a_worker_gets_the_tables_of_its_user_and_of_root_and_of_nobody_else():
    fresh_machine()
    paths = [put(MACHINES), put(FOLDER / "a"), put(FOLDER / "gone"), put(USERS / "ann"), put(USERS / "bob")]
    (FOLDER / "gone").unlink()
    found = Listing()
    found.paths = list(map(str, paths))
    everything = [0, 1, 2, 3, 4, 5, -1, True, "1", None, 1.0, [1], 2**70]
    assert set(found.open_for("ann", everything)) == {str(MACHINES), str(FOLDER / "a"), str(USERS / "ann")}
    assert set(found.open_for("bob", everything)) == {str(MACHINES), str(FOLDER / "a"), str(USERS / "bob")}
    assert found.open_for("bob", [-1, True, "4", 4.0, 5]) == {}
    assert set(found.open_for("ann", [3, 4])) == {str(USERS / "ann")}


@aside
def test_a_link_that_leads_where_others_choose_is_not_followed():
    fresh_machine()
    theirs = Path("/mnt/theirs")
    theirs.mkdir()
    secret = put(theirs / "secret")
    os.chown(theirs, ANN, ANN)
    (FOLDER).mkdir(parents=True)
    (FOLDER / "app").symlink_to(secret)
    with pytest.raises(BadJob, match=r"/mnt/theirs belongs to uid"):
        open_table(str(FOLDER / "app"))


@aside
def test_a_number_that_comes_often_is_opened_once_and_what_there_is_no_descriptor_for_is_no_missing_table():
    fresh_machine()
    found = Listing()
    found.paths = [str(put(MACHINES)), str(put(FOLDER / "a"))]
    before = len(held())
    assert len(found.open_for("ann", [0] * 100)) == 1
    assert len(held()) == before + 1
    lowest = os.dup(0)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    with pytest.raises(OSError, match="Too many open files"):
        found.open_for("ann", [0, 1])
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@aside
def test_of_too_many_the_last_are_left_out_which_the_log_and_check_say_once(monkeypatch, capfd):
    fresh_machine()
    write("cronq.toml", "[cron]\nsystem = true\n")
    monkeypatch.setattr(roottables, "MOST_TABLES", 2)
    paths = [put(MACHINES), put(FOLDER / "a"), put(FOLDER / "b"), put(USERS / "ann")]
    found = Listing()
    for _ in range(2):
        found.take(listing())
    assert found.paths == list(map(str, paths[:2]))
    found.take(found.paths)
    found.take(listing())
    sentence = f"there are 4 crontabs, and 2 are read: nothing of {FOLDER}/b runs, nor of what comes after it"
    assert capfd.readouterr().err.count(sentence) == 2
    assert [text.partition(";")[0] for level, text in check.findings(str(CONFIG), True) if "crontabs" in text] == [
        sentence
    ]
    (FOLDER / "b").unlink()
    (FOLDER / "a").unlink()
    assert not [text for _, text in check.findings(str(CONFIG), True) if "crontabs" in text]
