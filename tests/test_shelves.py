"""The spool's contract: whole or absent, one rename a move, nothing replaced, targets flushed before sources."""

import os
import resource
import signal
from pathlib import Path

import pytest

from cronq import spool, states
from cronq.entry import Entry
from cronq.errors import BadJob
from cronq.inboxes import CAPTURE
from cronq.shelves import Shelves


@pytest.fixture
def shelves(tmp_path):
    root = str(tmp_path / "spool")
    spool.make(root, os.getuid())
    found = Shelves(root, os.getuid())
    yield found
    found.close()


def entry(**fields):
    return Entry(**{"due": 1_790_000_000_000_000, "id": f"{os.getuid()}-one", "hash": "h" * 22} | fields)


def arrivals(shelves):
    return shelves.inboxes.names(shelves.uid, 100)[0]


def test_a_file_of_ours_is_whole_or_not_there_when_its_maker_is_killed(shelves, monkeypatch):
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr("cronq.shelves.write_all", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        shelves.create(states.READY, entry(), b"{}")
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert list(shelves.scan(states.READY)) == []
    assert shelves.create(states.READY, entry(), b"{}")
    assert not shelves.create(states.READY, entry(), b"other")
    ((place, _),) = shelves.scan(states.READY)
    assert Path(shelves.root, place).read_bytes() == b"{}"
    assert not os.path.exists(f"{shelves.root}/queue/new")


def test_put_is_invisible_until_whole(shelves):
    seen = []

    def write(descriptor):
        seen.append(arrivals(shelves))
        os.write(descriptor, b"{}")

    spool.put(shelves.root, "one", write)
    assert seen == [[]]
    assert arrivals(shelves) == ["one.job"]


def test_a_captured_file_is_no_longer_its_producers_to_name(shelves):
    spool.put(shelves.root, "one", b"{}")
    assert shelves.inboxes.capture(shelves.uid, "one.job") == f"{shelves.uid},one.job"
    assert arrivals(shelves) == []
    assert shelves.captured() == [f"{shelves.uid},one.job"]


def test_nothing_captured_is_replaced_by_a_file_of_the_same_name(shelves):
    for _ in range(2):
        spool.put(shelves.root, "one", b"{}")
        shelves.inboxes.capture(shelves.uid, "one.job")
    assert arrivals(shelves) == ["one.job"]


def test_an_entry_moves_by_one_rename_and_is_found_by_scan(shelves):
    shelves.create(states.READY, entry(), b"{}")
    started = entry(attempt=1)
    assert shelves.move("start", states.READY, entry(), started) == states.RUNNING
    assert list(shelves.scan(states.READY)) == []
    assert [found for _, found in shelves.scan(states.RUNNING)] == [started]


def test_an_illegal_move_moves_nothing(shelves):
    shelves.create(states.DEAD, entry(), b"{}")
    with pytest.raises(states.IllegalMove):
        shelves.move("start", states.DEAD, entry(), entry(attempt=1))
    assert [found for _, found in shelves.scan(states.DEAD)] == [entry()]


def test_a_move_never_replaces_a_file_that_is_there(shelves):
    shelves.create(states.READY, entry(), b"one")
    shelves.create(states.RUNNING, entry(), b"two")
    with pytest.raises(FileExistsError):
        shelves.move("start", states.READY, entry(), entry())


def test_a_file_of_ours_is_made_once(shelves):
    assert shelves.create(states.READY, entry(), b"{}")
    assert not shelves.create(states.READY, entry(), b"{}")


def test_junk_is_told_apart_and_stays(shelves):
    junk = os.path.join(shelves.root, "queue", "dead", "junk")
    with open(junk, "w"):
        pass
    assert list(shelves.scan(states.DEAD)) == [("queue/dead/junk", None)]
    assert os.path.exists(junk)


@pytest.mark.parametrize("shape", ["link", "hard link", "fifo", "directory"])
def test_a_file_of_the_wrong_shape_is_not_opened(shelves, shape, tmp_path):
    path = os.path.join(shelves.root, CAPTURE, "odd")
    other = tmp_path / "other"
    other.write_text("{}")
    make = {"link": os.symlink, "hard link": os.link, "fifo": lambda _, p: os.mkfifo(p)}
    make.get(shape, lambda _, p: os.mkdir(p))(other, path)
    with pytest.raises(BadJob):
        os.close(shelves.open_file(f"{CAPTURE}/odd", shelves.uid)[0])


def test_a_refused_file_is_kept_with_its_reason(shelves):
    for text in ("first", "second"):
        spool.put(shelves.root, "one", text.encode())
        captured = shelves.inboxes.capture(shelves.uid, "one.job")
        shelves.set_aside(f"{CAPTURE}/{captured}", shelves.uid, "one.job", f"{text}\nexit 65\n")
    folder = os.path.join(shelves.root, "rejected", str(shelves.uid))
    assert sorted(os.listdir(folder)) == ["one.job", "one.job.1", "one.job.1.reason", "one.job.reason"]
    assert spool.reason(shelves.root, shelves.uid, "one") == ("second", 65)


def test_an_outcome_is_locked_as_long_as_its_descriptor_lives(shelves):
    descriptor = shelves.lock_outcome(entry())
    os.write(descriptor, b"x\n")
    assert shelves.try_outcome(entry()) is None
    os.close(descriptor)
    assert shelves.try_outcome(entry()) == b"x\n"


def test_every_target_is_flushed_before_its_source(shelves):
    shelves.dirty.clear()
    shelves.touch("b", "a")
    shelves.touch("c", "b")
    shelves.touch("c", "d")
    assert shelves.dirty == ["c", "b", "a", "d"]


def test_moves_that_want_opposite_orders_are_flushed_apart(shelves, monkeypatch):
    shelves.dirty.clear()
    flushed = []
    monkeypatch.setattr(shelves, "sync", lambda: (flushed.append(list(shelves.dirty)), shelves.dirty.clear()))
    shelves.touch("b", "a")
    shelves.touch("a", "b")
    assert (flushed, shelves.dirty) == ([["b", "a"]], ["a", "b"])


def test_what_no_descriptor_was_left_to_flush_is_flushed_next_time(shelves):
    os.makedirs(os.path.join(shelves.root, "out", "1"))
    shelves.dirty[:] = ["queue/data", "out/1"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            shelves.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert shelves.dirty == ["queue/data", "out/1"]
    shelves.sync()
    assert shelves.dirty == []


def test_empty_directories_of_times_gone_by_are_removed_and_no_others(shelves):
    early, late = entry(due=1_000_000_000_000_000), entry(due=1_000_000_500_000_000, id=f"{os.getuid()}-two")
    for each in (early, late):
        shelves.create(states.READY, each, b"{}")
    shelves.move("start", states.READY, early, early)
    folders = [os.path.join(shelves.root, shelves.place(states.READY, each)) for each in (early, late)]
    shelves.prune(states.READY, 1_790_000_000_000_000)
    assert [os.path.exists(folder) for folder in folders] == [False, True]
    shelves.move("return", states.RUNNING, early, early)  # and where one is wanted again, it is made again
    assert len(list(shelves.scan(states.READY))) == 2
