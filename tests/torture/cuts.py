"""The states in which a power cut may leave the device, and the images that show them.

Does:    `Cuts` divides a log into epochs: what one flush made certain, up to the next. In an epoch nothing that was
         written is certain yet, so any part of it may be there: none of it, its begin, any of its writes without the
         others, a single one torn between two sectors. `state` is one such state, by its number; the same number is the
         same state. `build` makes its image. No two states have the same image.
Reads:   a log and the image that it began with.
Trusts:  that a flush covers what was written before it, and a sector is written whole or not: so do the file systems.

What was promised counts up to the end of the epoch: until the next flush is answered, each of these states is possible.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from device import FLUSH, MARK, WRITE, Record

SECTOR = 512
WAYS = ("none", "begin", "some", "torn", "torn")


@dataclass(frozen=True)
class State:
    """One state: how many epochs are certain, and which sectors of which later writes are there."""

    number: int
    epoch: int
    way: str
    parts: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]  # (record, ((from, to) in bytes …))

    def __str__(self) -> str:
        return f"state {self.number} (epoch {self.epoch}, {self.way}, {len(self.parts)} writes after it)"


@dataclass(frozen=True)
class _Epoch:
    certain: int  # the records before this one are on the disk
    writes: tuple[int, ...]
    end: int


class Cuts:
    """All that may have become of one recording."""

    def __init__(self, log: list[Record], seed: int) -> None:
        self.log, self.seed = log, seed
        first = next((at for at, each in enumerate(log) if each.kind == MARK and each.data.startswith(b"yes")), 0)
        self.epochs = [each for each in _epochs(log) if each.end > first]
        self._order = list(range(len(self.epochs)))
        random.Random(f"{seed}/epochs").shuffle(self._order)

    def states(self, count: int, begin: int = 0) -> list[State]:
        """So many states with different images, in the order of the device's life."""
        found: dict[tuple[int, object], State] = {}
        number = begin
        while len(found) < count and number < begin + 20 * count:
            made = self.state(number)
            found.setdefault((made.epoch, made.parts), made)
            number += 1
        return sorted(found.values(), key=lambda each: (each.epoch, each.number))

    def state(self, number: int) -> State:
        """A state by its number: first each epoch with nothing after it, then whatever chance has."""
        if number < len(self._order):
            return State(number, self._order[number], "none", ())
        chance = random.Random(f"{self.seed}/{number}")
        epoch = chance.randrange(len(self.epochs))
        writes = self.epochs[epoch].writes
        way = chance.choice(WAYS[1:]) if writes else "none"
        if way == "none":
            return State(number, epoch, way, ())
        if way == "begin":
            chosen = writes[: chance.randrange(1, len(writes) + 1)]
        elif way == "some":
            chosen = tuple(each for each in writes if chance.random() < 0.5)
        else:
            chosen = tuple(each for each in writes if chance.random() < chance.choice([0.2, 0.8]))
        parts = [(each, ((0, len(self.log[each].data)),)) for each in chosen]
        if way == "torn":
            torn = chance.choice(writes)
            kept = _torn(len(self.log[torn].data), chance)
            parts = sorted([*(each for each in parts if each[0] != torn), (torn, kept)])
        return State(number, epoch, way, tuple(parts))

    def promised(self, state: State) -> list[str]:
        """The lines that had been said by then."""
        said = b"".join(each.data for each in self.log[: self.epochs[state.epoch].end] if each.kind == MARK)
        return said.decode().splitlines()


def _epochs(log: list[Record]) -> list[_Epoch]:
    found, certain, writes = [], 0, []
    for at, each in enumerate(log):
        if each.kind == WRITE:
            writes.append(at)
        elif each.kind == FLUSH and writes:
            found.append(_Epoch(certain, tuple(writes), at))
            certain, writes = at, []
    found.append(_Epoch(certain, tuple(writes), len(log)))
    return found


def _torn(size: int, chance: random.Random) -> tuple[tuple[int, int], ...]:
    """Which bytes of a write arrived: its begin, its end, or any of its sectors; by 512 or by 4096 bytes."""
    unit = chance.choice([SECTOR, 8 * SECTOR])
    count = -(-size // unit)
    if count < 2:
        unit, count = SECTOR, -(-size // SECTOR)
    middle = chance.randrange(1, count) if count > 1 else 0
    way = chance.randrange(3)
    if way == 0:
        return ((0, middle * unit),)
    if way == 1:
        return ((middle * unit, size),)
    kept = [at for at in range(count) if chance.random() < 0.5]
    return tuple((at * unit, min(size, (at + 1) * unit)) for at in kept)


class Images:
    """Makes the image of one state after another, in the order of the device's life."""

    def __init__(self, cuts: Cuts, first: Path, folder: Path) -> None:
        self.cuts, self.path = cuts, folder / "state"
        self._size = first.stat().st_size
        self._floor = os.open(folder / "floor", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._state = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._done = 0
        source = os.open(first, os.O_RDONLY)
        self._copy(source, self._floor)
        os.close(source)
        os.ftruncate(self._state, self._size)

    def build(self, state: State) -> None:
        """Have `path` hold this state; states come in order."""
        certain = self.cuts.epochs[state.epoch].certain
        for each in self.cuts.log[self._done : certain]:
            if each.kind == WRITE:
                os.pwrite(self._floor, each.data, each.offset)
        self._done = max(self._done, certain)
        self._copy(self._floor, self._state)
        for at, parts in state.parts:
            record = self.cuts.log[at]
            for begin, end in parts:
                os.pwrite(self._state, record.data[begin:end], record.offset + begin)

    def _copy(self, source: int, target: int) -> None:
        """What holds data, and holes for all else."""
        os.ftruncate(target, 0)
        os.ftruncate(target, self._size)
        at = 0
        while True:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(source, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(source, min(1 << 20, end - at), at)
                if data.count(0) != len(data):
                    os.pwrite(target, data, at)
                at += len(data)
