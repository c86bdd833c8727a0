"""Payloads of any size: who reads them, who copies them, and what becomes of those that are not what they must be."""

import json
import os
import resource
import time
from collections import deque
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import eventually

from cronq import payload, spool, submit
from cronq.doorbell import Doorbell
from cronq.entry import Entry
from cronq.errors import BadJob
from cronq.job import new_name
from cronq.shelves import LARGE, Shelves

UID = os.getuid()
MUCH = 64 << 20
LITTLE = 8 << 20  # what the processes of a dispatcher read anyhow is far below


@pytest.fixture
def root(tmp_path):
    spool.make(str(tmp_path / "spool"), UID)
    return tmp_path / "spool"


@pytest.fixture
def shelves(root):
    found = Shelves(str(root), UID)
    yield found
    found.close()


@pytest.fixture
def bell():
    found = Doorbell(inotify=False)
    yield found
    found.close()


@pytest.fixture
def slow(monkeypatch):
    """Copies slice by slice, and does something else before the second one."""

    def prepare(act):
        copy_slice, done = spool.copy_slice, []

        def copy(*arguments):
            if len(done) == 1:
                act()
            done.append(arguments)
            return copy_slice(*arguments)

        monkeypatch.setattr(spool, "SLICE", 1 << 16)
        monkeypatch.setattr(spool, "MOST", 1 << 16)
        monkeypatch.setattr(spool, "clone", lambda *_: False)
        monkeypatch.setattr(spool, "copy_slice", copy)

    return prepare


# -------------------------------------------------------------------- who reads it


def processes(launcher: int) -> list[int]:
    """A launcher, its dispatcher and its workers."""
    return [launcher, *map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())]


def read_and_written(pid: int) -> int:
    """What a process has moved by system calls, in bytes (proc(5), io)."""
    rows = dict(row.split(": ") for row in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(rows["rchar"]) + int(rows["wchar"])


@pytest.mark.root
@pytest.mark.skipif(UID != 0, reason="a worker's /proc/PID/io is root's to read")
def test_what_lies_in_the_inbox_is_the_jobs_own_stdin_and_no_process_of_cronqs_reads_it(world):
    daemon = world.start()
    data = world.inbox / "large.data"
    data.write_bytes(bytes(MUCH))
    inode = data.stat().st_ino
    world.drop("large", {"command": ["sh", "-c", "stat -L -c %i /dev/stdin; wc -c"]})
    (folder,) = eventually(lambda: list((world.spool / "out" / str(UID)).glob("*-large")))
    assert world.result(folder.name)["state"] == "done"
    assert (folder / "stdout").read_text().split() == [str(inode), str(MUCH)]
    assert {read_and_written(pid) < LITTLE for pid in processes(daemon.pid)} == {True}
    assert list((world.spool / "queue/data").iterdir()) == []


def test_a_large_file_that_is_removed_gives_its_space_back_and_holds_nobody_up(shelves, root):
    path = root / "queue/data/one"
    with path.open("wb") as file:
        file.truncate(LARGE)
        os.posix_fallocate(file.fileno(), 0, LARGE)
    kept = os.open(path, os.O_PATH)
    shelves.drop_data("one")
    assert not path.exists()
    assert os.fstat(kept).st_nlink == 0
    eventually(lambda: not _is_held(os.fstat(kept).st_ino, kept))
    os.close(kept)


def _is_held(inode: int, but: int) -> bool:
    """Whether this process has the file open once more."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) != but and os.fstat(int(name)).st_ino == inode:
                return True
        except OSError:
            continue
    return False


# -------------------------------------------------------------------- submit reads it


def large(path: Path, size: int = 1 << 20) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def test_a_file_that_shrinks_while_submit_reads_it_is_refused_and_nothing_is_queued(root, tmp_path, slow):
    source = large(tmp_path / "source")
    slow(lambda: os.truncate(source, 1000))
    with source.open("rb") as file, pytest.raises(BadJob, match="shrank from 1048576 to 1000 bytes while it was read"):
        submit.execute(["cat"], spool=str(root), stdin=file)
    assert list((root / "in" / str(UID)).iterdir()) == []


def test_of_a_file_that_grows_meanwhile_it_is_what_was_there_at_first(root, tmp_path, slow):
    source = large(tmp_path / "source")
    first = source.read_bytes()

    def grow():
        with source.open("ab") as file:
            file.write(b"more")

    slow(grow)
    with source.open("rb") as file:
        submit.execute(["cat"], spool=str(root), stdin=file)
    (data,) = (root / "in" / str(UID)).glob("*.data")
    assert data.read_bytes() == first


def test_of_a_file_that_was_read_in_part_it_is_the_rest(root, tmp_path):
    source = large(tmp_path / "source")
    with source.open("rb", buffering=0) as file:
        file.seek(777)
        submit.execute(["cat"], spool=str(root), stdin=file)
        assert file.read() == b""  # who reads on from the same descriptor finds nothing twice
    (data,) = (root / "in" / str(UID)).glob("*.data")
    assert data.read_bytes() == source.read_bytes()[777:]


def test_holes_stay_holes(root, tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"a" * 70_000)
        file.seek(1 << 30)
        file.write(b"b" * 70_000)
        file.truncate(2 << 30)
    with source.open("rb") as file:
        submit.execute(["cat"], spool=str(root), stdin=file, sync=False)
    (data,) = (root / "in" / str(UID)).glob("*.data")
    found = data.stat()
    assert (found.st_size, found.st_blocks) == (2 << 30, source.stat().st_blocks)
    with data.open("rb") as file:
        file.seek((1 << 30) - 1)
        assert file.read(3) == b"\0bb"


def test_what_the_kernel_makes_up_is_read_all_the_same(tmp_path):
    """Files of /proc say that they are empty."""
    with open("/proc/self/maps", "rb") as source, (tmp_path / "copy").open("wb") as target:
        spool.copy(source.fileno(), target.fileno())
    assert (tmp_path / "copy").read_bytes().count(b"\n") > 10


def test_where_the_kernel_does_not_copy_between_two_files_a_buffer_does(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source = large(tmp_path / "source", 3 << 20)
    with source.open("rb") as file, (tmp_path / "copy").open("wb") as target:
        spool.copy(file.fileno(), target.fileno())
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


# -------------------------------------------------------------------- the dispatcher copies it


@pytest.fixture
def copying(shelves, root, bell):
    """Begins to copy a payload as for another user's task."""
    begun = []

    def begin(content: bytes = b"x" * (1 << 20), uid: int = UID) -> payload.Payload:
        entry = Entry(due=1, id=f"{uid}-{new_name()}", hash="h" * 22)
        (root / "queue/data" / entry.id).write_bytes(content)
        begun.append(payload.Payload(shelves, entry, payload.Copier(), bell))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def copied(found: payload.Payload, bell: Doorbell, within: float = 45.0) -> None:
    """Let it be copied: until it rings that it is over, and is."""
    end = time.monotonic() + within
    while not found.step(None):
        assert time.monotonic() < end
        bell.wait(0.05)


def test_a_copy_takes_the_place_of_what_was_sent(copying, bell, root):
    found = copying(content := os.urandom(20 << 20))
    copied(found, bell)
    place = root / "queue/data" / found.job.id
    before = place.stat().st_ino
    assert found.entry(None) is found.job
    assert place.stat().st_ino != before
    assert place.read_bytes() == content
    found.close()
    assert [path.name for path in (root / "queue/data").iterdir()] == [found.job.id]


def test_the_bell_rings_when_a_copy_is_over(copying, bell):
    found = copying()
    if not found.step(None):  # no reflink: the thread copies
        assert bell.wait(45) == {"copied"}
        copied(found, bell)
    assert bell.wait(0) == set()


@pytest.mark.parametrize("size", [0, 1000, 2 << 20])
def test_what_changes_its_size_while_it_is_copied_is_refused_and_leaves_nothing(size, copying, bell, root, slow):
    found = copying()
    slow(lambda: os.truncate(root / "queue/data" / found.job.id, size))
    with pytest.raises(BadJob, match=f"changed while it was copied .it had 1048576 bytes, and then {size}"):
        copied(found, bell)
    found.close()
    assert [path.name for path in (root / "queue/data").iterdir()] == [found.job.id]


def test_what_is_written_over_while_it_is_copied_is_refused(copying, bell, root, slow):
    found = copying()
    place = root / "queue/data" / found.job.id
    os.utime(place, (1, 1))  # the clock of a file system may stand still for some milliseconds

    def write():
        with place.open("r+b") as file:
            file.write(b"other")

    slow(write)
    with pytest.raises(BadJob, match="changed while it was copied"):
        copied(found, bell)


def test_a_copy_that_the_disk_does_not_take_leaves_nothing_and_is_tried_again(copying, bell, root, slow, monkeypatch):
    monkeypatch.setattr(payload, "LOOK_FOR_ROOM", 0.05)
    monkeypatch.setattr(spool, "clone", lambda *_: False)
    found = copying()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
    try:
        eventually(lambda: not found.step(None) and found._again)
        assert [path.name for path in (root / "queue/data").iterdir()] == [found.job.id]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    copied(found, bell)


def test_each_user_and_each_of_his_inputs_has_a_slice_in_turn():
    copier = payload.Copier()
    one, other, alone = (_Piece(uid, name) for uid, name in ((1, "one"), (1, "other"), (2, "alone")))
    copier._queues = {1: deque([one, other]), 2: deque([alone])}
    copier._run()
    assert _Piece.said == ["one", "alone", "other", "alone", "one", "alone", "other", "one", "other"]


class _Piece:
    """Stands for a payload of three slices."""

    said: ClassVar[list[str]] = []

    def __init__(self, uid: int, name: str) -> None:
        self.job = Entry(due=1, id=f"{uid}-{name}", hash="h" * 22)
        self.name, self.left = name, 3

    def work(self) -> bool:
        self.said.append(self.name)
        self.left -= 1
        return self.left > 0


# -------------------------------------------------------------------- what is not as it must be


def test_what_is_no_plain_file_is_refused_with_its_job_and_goes_with_it(world):
    world.start()
    shapes = {"fifo": "a FIFO", "link": "a symbolic link", "linked": "2 links", "folder": "a directory"}
    os.mkfifo(world.inbox / "fifo.data")
    (world.inbox / "link.data").symlink_to("/etc/passwd")
    (world.path / "other").write_text("x")
    (world.inbox / "linked.data").hardlink_to(world.path / "other")
    (world.inbox / "folder.data").mkdir()
    for name, words in shapes.items():
        world.drop(name, {"command": ["cat"]})
        reason = world.rejected(name)
        assert f"its {name}.data: " in reason
        assert words in reason
    assert list((world.spool / "queue/data").iterdir()) == []
    aside = {path.name for path in (world.spool / "rejected" / str(UID)).iterdir()}
    assert {"fifo.data", "link.data", "linked.data"} <= aside


def test_the_input_of_a_job_that_is_refused_after_a_crash_goes_with_it(world):
    """The crash came when job and input had been taken and the job had no place yet; then it was judged otherwise."""
    spool.make(str(world.spool), UID)
    name = new_name()
    (world.spool / "queue/.capture" / f"{UID},{name}.job").write_text(json.dumps({"task": "gone"}))
    (world.spool / "queue/data" / f"{UID}-{name}").write_text("input")
    (world.spool / "queue/data" / f".{UID}-{name}.copy").write_text("inp")
    world.start()
    assert "unknown task" in world.rejected(name)
    assert list((world.spool / "queue/data").iterdir()) == []
    assert (world.spool / "rejected" / str(UID) / f"{name}.data").read_text() == "input"
    world.tasks("[tasks.gone]\ncommand = ['cat']\n")
    world.stop()
    world.start()
    (world.inbox / f"{name}.data").write_text("mended")
    world.drop(name, {"task": "gone"})
    assert world.result(f"{UID}-{name}")["state"] == "done"
    assert (world.results(f"{UID}-{name}") / "stdout").read_text() == "mended"


def test_the_input_of_another_job_stays_where_a_job_of_its_name_is_refused(world):
    world.start()
    name = new_name()
    (world.inbox / f"{name}.data").write_text("first")
    world.drop(name, {"command": ["cat"], "delay": 3600})
    taken = eventually(lambda: next((world.spool / "queue/data").iterdir(), None))
    eventually(lambda: name in world.run("list").stdout)
    (world.inbox / f"{name}.data").write_text("second")
    world.drop(name, {"command": ["cat"]})
    assert "was queued before" in world.rejected(name)
    assert taken.read_text() == "first"
    assert (world.spool / "rejected" / str(UID) / f"{name}.data").read_text() == "second"


def test_a_job_whose_input_is_gone_when_it_starts_is_refused_and_holds_nobody_up(world):
    world.tasks("[queues.narrow]\nslots = 1\n")
    world.start()
    gate = world.path / "gate"
    world.submit("exec", "--queue", "narrow", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.01; done")
    job_id = world.submit("exec", "--queue", "narrow", "--stdin", str(large(world.path / "input")), "--", "cat")
    (data,) = eventually(lambda: list((world.spool / "queue/data").iterdir()))
    eventually(lambda: job_id in world.run("list").stdout)
    data.unlink()
    gate.touch()
    assert "its input is gone" in world.rejected(job_id.partition("-")[2])
    assert world.run("exec", "--wait", "--queue", "narrow", "--", "echo", "others").stdout == "others\n"
