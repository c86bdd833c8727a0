"""Floods: what one user has too much of takes a slice of each turn, and others have theirs in the same turn."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from cronq import cancel, job, shelves, spool, states, turn
from cronq.config import Config
from cronq.crew import Crew
from cronq.doorbell import Doorbell
from cronq.entry import Entry, digest
from cronq.history import History
from cronq.house import House, Now

FLOODER, OTHER = 4001, 4002
DATA = job.encode({"command": ["true"]})


class Flooded:
    """A house with many jobs of one user and one of another, and turns that have no time but for one act of each."""

    def __init__(self, root: Path) -> None:
        spool.make(str(root), os.getuid())
        launcher, self.kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher.setblocking(False)
        self.bell = Doorbell(inotify=False)
        self.launcher = launcher
        files = shelves.Shelves(str(root), os.getuid())
        self.house = House(files, History(str(root)), Crew(launcher, self.bell), Config(), "")

    def fill(self, state: str, **fields: int) -> None:
        for number in range(12):
            self.put(state, Entry(id=f"{FLOODER}-{number:02}", hash=digest(DATA), **{"due": 1, **fields}))
        self.put(state, Entry(id=f"{OTHER}-a", hash=digest(DATA), **{"due": 2, **fields}))

    def put(self, state: str, entry: Entry) -> None:
        assert self.house.shelves.create(state, entry, DATA)
        self.house.backlog.put(state, entry)

    def turn(self) -> float:
        return turn.turn(self.house, Now(time.time(), time.monotonic()), set())

    def left(self, state: str) -> tuple[int, int]:
        """How many entries of flooder and other are in this state."""
        backlog = self.house.backlog
        return len(backlog.entries(state, FLOODER)), len(backlog.entries(state, OTHER))

    def close(self) -> None:
        for each in (self.kept, self.launcher, self.bell, self.house.shelves, self.house.history):
            each.close()


@pytest.fixture
def flooded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turn, "SLICE_SECONDS", 0.0)
    made = Flooded(tmp_path / "spool")
    yield made
    made.close()


def test_what_expires_at_once_ends_in_slices_and_each_users_in_turn(flooded: Flooded) -> None:
    flooded.fill(states.READY, expires=1)
    assert [flooded.turn() for _ in range(2)] == [0.0, 0.0]
    assert flooded.left(states.READY) == (11, 0)
    for _ in range(11):
        flooded.turn()
    assert flooded.left(states.READY) == (0, 0)
    assert flooded.turn() > 0


def test_what_ripens_at_once_ripens_in_slices_and_each_users_in_turn(flooded: Flooded) -> None:
    flooded.fill(states.DELAYED)
    assert [flooded.turn() for _ in range(2)] == [0.0, 0.0]
    assert flooded.left(states.DELAYED) == (11, 0)
    for _ in range(11):
        flooded.turn()
    assert flooded.left(states.DELAYED) == (0, 0)


def test_what_waits_and_is_to_be_cancelled_ends_in_slices_and_each_users_in_turn_and_none_of_it_starts(
    flooded: Flooded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "SLICE_SECONDS", 0.0)
    flooded.house.strangers = {FLOODER: "gone", OTHER: "gone"}  # what is chosen to start would be refused
    monkeypatch.setattr(turn, "start", lambda _house, _now, entry: pytest.fail(f"{entry.id} starts"))
    batch = Entry(id=f"{FLOODER}-batch", hash=digest(DATA), due=1, batch=(12, 0, 12))
    flooded.put(states.RUNNING, batch)
    for number in range(12):
        member = Entry(id=f"{batch.id}+{number}", due=1)
        assert flooded.house.shelves.create(states.READY, member, b"")
        flooded.house.backlog.put(states.READY, member)
    flooded.put(states.READY, Entry(id=f"{OTHER}-a", hash=digest(DATA), due=2))
    now = Now(time.time(), time.monotonic())
    assert cancel.cancel(flooded.house, now, states.RUNNING, batch, at_once=False) == cancel.CANCELLING
    flooded.house.stops[f"{OTHER}-a"] = False
    assert flooded.left(states.READY) == (12, 1)
    assert [flooded.turn() for _ in range(2)] == [0.0, 0.0]
    assert flooded.left(states.READY) == (8, 0)  # a turn ends the next of each, and what it would have started


def test_a_flood_that_expires_keeps_nothing_from_ripening(flooded: Flooded) -> None:
    flooded.fill(states.READY, expires=1)
    flooded.put(states.DELAYED, Entry(id=f"{OTHER}-b", due=1))
    flooded.turn()
    assert flooded.left(states.DELAYED) == (0, 0)


def test_what_must_be_refused_at_its_start_is_refused_in_slices_and_each_users_in_the_same_turn(
    flooded: Flooded,
) -> None:
    flooded.house.strangers = {FLOODER: "gone", OTHER: "gone"}  # something is to be decided though no worker is there
    flooded.fill(states.READY)
    assert flooded.turn() == 0.0
    assert flooded.left(states.READY) == (11, 0)
    for _ in range(11):
        flooded.turn()
    assert flooded.left(states.READY) == (0, 0)
    assert flooded.turn() > 0


def test_what_a_full_disk_kept_from_ripening_ripens_when_there_is_room(
    flooded: Flooded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    flooded.fill(states.DELAYED)
    with monkeypatch.context() as patched:
        patched.setattr(flooded.house.shelves, "move", full)
        flooded.turn()
    for _ in range(13):
        flooded.turn()
    assert flooded.left(states.DELAYED) == (0, 0)
