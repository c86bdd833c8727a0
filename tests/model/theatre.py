"""A real house on a real spool whose time is an argument; a cast (players.py) plays launcher and workers.

A turn may be cut: before a change of the disk, or a message, everything in memory is gone, as after a SIGKILL, and
another house takes up what lies there."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from players import Cast

from cronq import (
    arrivals,
    attached,
    backlog,
    batches,
    blocked,
    completion,
    config,
    depends,
    linux,
    shelves,
    spool,
    states,
    turn,
    verbs,
    wire,
)
from cronq.caller import Caller
from cronq.crew import Crew
from cronq.dispatcher import take_up
from cronq.doorbell import Doorbell
from cronq.entry import Entry, parse
from cronq.history import History
from cronq.house import House, Now

UID = os.getuid()
BEGAN = 1_700_000_000.0  # long before any file of the test was written: none is taken for one that is being written
MORE = 1  # beyond a window of them, members of one batch that may wait
CHANGES = ("rename", "unlink", "mkdir", "rmdir", "write", "ftruncate", "fsync", "fdatasync")


class Cut(BaseException):
    """Here the dispatcher was killed."""


class Knife:
    """Counts what changes anything outside of memory, and cuts before one of these."""

    def __init__(self) -> None:
        self.left: int | None = None

    def may(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Cut

    def before(self, call):
        def guarded(*arguments, **options):
            if arguments[0] != 2:  # not the log's lines
                self.may()
            return call(*arguments, **options)

        return guarded

    @contextlib.contextmanager
    def after(self, left: int | None):
        """Cut after so many changes."""
        self.left = left
        places = [(os, name) for name in CHANGES] + [(linux, "rename_new"), (wire, "send")]
        kept = [(module, name, getattr(module, name)) for module, name in places]
        try:
            if left is not None:
                for module, name, call in kept:
                    setattr(module, name, self.before(call))
            yield
        finally:
            self.left = None
            for module, name, call in kept:
                setattr(module, name, call)


class Theatre:
    """One spool, one cast, and one house after another."""

    def __init__(self, toml: str, window: int, chance: float) -> None:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = Path(tempfile.mkdtemp(prefix="cronq-model-", dir=memory))
        self.root = self.folder / "spool"
        self.config = self.folder / "config"
        self.config.mkdir()
        (self.config / "cronq.toml").write_text(toml)
        spool.make(str(self.root), UID)
        slow = (turn, batches, completion, depends, attached, blocked)  # a slow machine is no other one
        self.patches = [(module, "SLICE_SECONDS", 1e6) for module in slow]
        self.patches += [(arrivals, "SLICE_NANOSECONDS", 10**15)]
        self.patches += [(module, "MOST_MEMBERS", window + MORE) for module in (backlog, batches)]
        self.patches += [(batches, "WINDOW", window)]
        self.kept = [(module, name, getattr(module, name)) for module, name, _ in self.patches]
        for module, name, value in self.patches:
            setattr(module, name, value)
        self.chance = chance
        self.wall = self.mono = BEGAN
        self.read: dict[str, int] = {}  # how much of each day's history
        self.knife = Knife()
        self.cast = Cast()
        self.foreign = _descriptors()
        self.settings = config.load(str(self.config))
        self.begin()

    @property
    def now(self) -> Now:
        return Now(self.wall, self.mono)

    @property
    def micros(self) -> int:
        return self.now.micros

    def begin(self) -> None:
        self.bell = Doorbell(inotify=False)
        self.house = House(
            shelves.Shelves(str(self.root), UID),
            History(str(self.root)),
            Crew(self.cast.begin(), self.bell),
            self.settings,
            str(self.config),
            chance=lambda: self.chance,
        )
        self.hands = self.house, self.bell

    def restart(self) -> None:
        """Everything in memory is gone; another house takes up what lies there."""
        self.end()
        self.sweep()
        self.begin()
        take_up(self.house, self.now)

    def end(self) -> None:
        house = self.house
        for worker in house.crew.workers.values():
            worker.line.close()
            os.close(worker.pidfd)
        for each in (house.crew.launcher, self.bell, house.shelves, house.history):
            each.close()
        for descriptor in house.shelves.inboxes._entered.values():
            os.close(descriptor)

    def sweep(self) -> set[int]:
        """The descriptors that a house which is gone left open, closed now; only one that was cut may have left any."""
        found = _descriptors() - self.foreign - self.cast.descriptors()
        for descriptor in found:
            os.close(descriptor)
        return found

    def close(self) -> None:
        self.end()
        self.cast.close()
        for module, name, value in self.kept:
            setattr(module, name, value)
        shutil.rmtree(self.folder)

    # ---------------------------------------------------------------- what happens

    def drop(self, filename: str, content: bytes, data: bytes | None = None) -> None:
        """As a producer does; the data first."""
        inbox = self.root / "in" / str(UID)
        if data is not None:
            (inbox / f"{filename.rpartition('.')[0]}.data").write_bytes(data)
        (inbox / f".{filename}.tmp").write_bytes(content)
        os.rename(inbox / f".{filename}.tmp", inbox / filename)

    def ask(self, **request: object) -> list[dict]:
        ask = verbs.Ask(self.house, Caller(UID, everything=True), request, self.now)
        return [each for each in verbs.answer(ask) if each is not None]

    def hear(self) -> int:
        """All that anybody said is heard, and there is a worker that takes jobs, if one is to be had."""
        count = 0
        for _ in range(100):
            did = self.cast.turn()
            rung = self.bell.wait(0)
            self.house.crew.hear(rung, self.mono)
            self.house.crew.complaints.clear()
            count += did
            ready = self.house.crew.ready(UID, self.mono) is not None
            if not did and not rung and ready:
                return count
        raise AssertionError("no worker is to be had")

    def turn(self) -> float:
        patience = turn.turn(self.house, self.now, {("inbox", UID)})
        assert not self.house.broken
        return patience

    # ---------------------------------------------------------------- what there is

    def lying(self) -> dict[str, tuple[str, Entry]]:
        """What lies below queue/, by id: the state and what its name says."""
        found: dict[str, tuple[str, Entry]] = {}
        for state in states.KEPT:
            for folder, _, names in os.walk(self.root / "queue" / state):
                for name in names:
                    entry = parse(name)
                    assert entry.id not in found, f"{entry.id} is {state} and {found[entry.id][0]}"
                    assert os.path.relpath(folder, self.root) == self.house.shelves.place(state, entry)
                    found[entry.id] = state, entry
        return found

    def names(self, folder: str) -> set[str]:
        try:
            return set(os.listdir(self.root / folder))
        except FileNotFoundError:
            return set()

    def result(self, job_id: str) -> dict | None:
        try:
            return json.loads(Path(spool.results(str(self.root), job_id), "result.json").read_text())
        except FileNotFoundError:
            return None

    def reason(self, name: str) -> str:
        """Why a job's file was refused."""
        return (self.root / "rejected" / str(UID) / f"{name}.job.reason").read_text()

    def told(self) -> list[dict]:
        """The lines of the history that nobody looked at yet."""
        found = []
        for name in sorted(self.names("history")):
            with open(self.root / "history" / name, "rb") as file:
                file.seek(self.read.get(name, 0))
                data = file.read()
            self.read[name] = self.read.get(name, 0) + len(data)
            found += [json.loads(line) for line in data.splitlines()]
        return found


def _descriptors() -> set[int]:
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {int(name) for name in os.listdir(folder)} - {folder}
    finally:
        os.close(folder)
