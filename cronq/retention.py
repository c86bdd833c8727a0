"""Retention: what is too old or too much goes, a little at a time, in turns that have nothing else to do.

Does:    goes round, every ten minutes: results and output, dead letters, refused files, drafts in inboxes, days of the
         history. Nothing of it is written down: what is to go is worked out anew each time. It is slow and steady, for
         after thousands of removals at once a disk is slow for minutes; but a round that takes longer than the time to
         the next one is in arrears: it waits for quiet turns no more, its slices grow, and the next follows at once.
Reads:   the names in `out/`, `rejected/` and inboxes; results that are old enough; all of them, where their
         number matters.
Writes:  removes: of a result directory `result.json` last, so that what a crash left of it goes the next time. Of a
         dead letter the history has a line.
Trusts:  nothing in an inbox: a draft is removed there by its name, through the inbox's descriptor, and nothing else.
Fails:   never: what cannot be removed stays, and is said once a round.

What must stay: what has not ended; what such a job waits for, or would wait for again when it is revived; the results
of a batch that has not ended, or whose jobs may be retried; who holds a unique key for a while.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

from cronq import additions, glance, spool, states
from cronq.entry import DEFAULT_QUEUE
from cronq.house import House, Now
from cronq.job import is_id
from cronq.log import line as log

FIRST = 60.0  # seconds after the start
EVERY = 600.0
PAUSE = 0.020  # seconds from one slice to the next
SLICE = 0.002
FEW = 16  # lines of the history that a turn writes which is not at work
STARVED = 60.0  # after so long a slice is due, however busy the dispatcher is
MOST_SLICES = 10  # as many times as long as ever is a slice at most, in arrears
DRAFT_AGE = 36 * 3600.0
AT_ONCE = 16  # results that are looked at, or small files that are removed, at a time


def turn(house: House, now: Now, written: int) -> None:
    """Do a slice, if it is time; `written`: how many moves the turn has made."""
    if house.rounds is None:
        house.rounds = Rounds(now.mono + FIRST)
    house.rounds.turn(house, now, written)


def patience(house: House) -> float:
    """How long to wait at most until there is something to do."""
    return PAUSE if house.rounds is not None and house.rounds.busy and not house.stopping else EVERY


class Rounds:
    """Those of one dispatcher."""

    def __init__(self, first: float) -> None:
        self._round: Iterator[None] | None = None
        self._next = first  # when the next round begins
        self._last = 0.0  # when a slice was done last
        self._now = Now(0.0, 0.0)
        self._began = self._now  # when this round did: of what ended later it is not known what still needs it
        self._is_late = False  # the round before it took longer than the time to the next one
        self._since = 0.0  # when the first of the rounds began that have followed each other at once
        self._complained = False
        self._needed: set[str] = set()  # batches whose jobs may be retried, and who holds a unique key

    @property
    def busy(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    def turn(self, house: House, now: Now, written: int) -> None:
        """Do a slice, if it is time."""
        self._now = now
        if self._round is None:
            if now.mono < self._next or house.stopping:
                return
            self._round, self._last, self._complained = self._go_round(house), now.mono, False
            self._began, self._since = now, self._since if self._is_late else now.mono
        arrears = (now.mono - self._since) / EVERY  # more than 1: it is behind
        busy = written > FEW or house.urgent
        if house.stopping or (busy and now.mono - self._last < (STARVED if arrears <= 1 else PAUSE)):
            return
        self._last = now.mono
        end = time.monotonic() + SLICE * min(max(arrears, 1), MOST_SLICES)
        try:
            for _ in self._round:
                if time.monotonic() >= end:
                    return
        except OSError as error:
            log("retention", reason=str(error), next=f"in {EVERY:g}s")
        self._round, self._is_late = None, now.mono - self._began.mono > EVERY
        self._next = now.mono if self._is_late else now.mono + EVERY

    def _go_round(self, house: House) -> Iterator[None]:
        yield from self._find_needed(house)
        for uid in _uids(house, "out"):
            yield from self._results(house, uid)
        for state in (states.SKIPPED, states.DEAD):
            for uid in {entry.uid for entry in house.backlog.entries(state)}:
                yield from self._dead(house, state, uid)
        for uid in _uids(house, "rejected"):
            yield from self._rejected(house, uid)
        for uid in house.shelves.inboxes.uids():
            yield from self._drafts(house, uid)
        keep = house.config.keep
        for path in house.history.unneeded(self._now.wall, self._now.wall - keep.history, keep.max_history):
            self._remove(path, os.unlink, path)
            yield

    def _find_needed(self, house: House) -> Iterator[None]:
        self._needed = set()
        for state in states.KEPT:
            for number, entry in enumerate(house.backlog.entries(state)):
                batch = entry.id if entry.batch is not None else entry.proof or entry.parent
                if batch and batch not in self._needed:
                    self._needed.update((batch, *additions.of(house.shelves, batch)))
                if number % glance.RUN == glance.RUN - 1:
                    yield
        for number, (until, job_id) in enumerate(list(house.backlog.taken.windows.values())):
            if until > self._now.micros:
                self._needed.add(job_id)
            if number % glance.RUN == glance.RUN - 1:
                yield

    def _must_stay(self, house: House, job_id: str) -> bool:
        kept, batch = house.backlog, job_id.partition("+")[0]
        needed = not self._needed.isdisjoint((job_id, batch))
        return needed or job_id in kept or batch in kept or bool(kept.waits.children(job_id))

    def _remove(self, what: str, act: Callable[..., object], *given: object, **more: object) -> None:
        try:
            act(*given, **more)
        except FileNotFoundError:
            return
        except OSError as error:
            if not self._complained:
                log("not-removed", file=what, reason=error.strerror)
            self._complained = True

    # ---------------------------------------------------------------- results

    def _results(self, house: House, uid: int) -> Iterator[None]:
        """Those of one user: what is too old at once; of those that are too many, the first that ended."""
        keeps = [house.config.keep, *(house.config.kept(queue) for queue in house.config.queues)]
        counts, soonest, now = any(keep.counts for keep in keeps), min(keep.soonest for keep in keeps), self._now.wall
        piles: dict[str, _Pile] = {}
        looked = 0
        for number, job_id in enumerate(_names(house, f"out/{uid}")):
            if number % glance.RUN == glance.RUN - 1:
                yield
            if not is_id(job_id) or (not counts and (spool.time_of(job_id) or 0.0) + soonest > now):
                continue  # it cannot be old enough: it was not even submitted then
            looked += 1
            if looked % AT_ONCE == 0:
                yield
            if self._must_stay(house, job_id):
                continue
            folder = f"out/{uid}/{job_id}"
            queue, ended = _facts(house, folder)
            keep = house.config.kept(queue)
            if ended + keep.results <= now:
                self._remove(job_id, house.shelves.remove_results, job_id)
                yield
                continue
            if keep.logs < keep.results and ended + keep.logs <= now:
                self._drop_logs(house, folder)
                yield
            if keep.counts and ended <= self._began.wall:
                size = _size(house, folder) if keep.max_size is not None else 0
                for gone in piles.setdefault(queue, _Pile(keep.max_results, keep.max_size)).add(ended, size, job_id):
                    self._remove(gone, house.shelves.remove_results, gone)
                    yield

    def _drop_logs(self, house: House, folder: str) -> None:
        for name in _names(house, folder):
            if name.startswith(("stdout", "stderr")):
                path = f"{folder}/{name}"
                self._remove(path, os.unlink, path, dir_fd=house.shelves.fd)

    # ---------------------------------------------------------------- dead letters

    def _dead(self, house: House, state: str, uid: int) -> Iterator[None]:
        """The dead letters of one user, or what was skipped because of them."""
        entries = house.backlog.entries(state, uid)
        numbers: dict[str, int] = {}
        for entry in entries:
            numbers[entry.queue] = numbers.get(entry.queue, 0) + 1
        piles: dict[str, _Pile] = {}
        for number, entry in enumerate(entries):
            if number % AT_ONCE == AT_ONCE - 1:
                yield
            keep = house.config.kept(entry.queue)
            many = keep.max_dead is not None and numbers[entry.queue] > keep.max_dead
            submitted = spool.time_of(entry.id) or 0.0
            if not many and submitted + keep.dead > self._now.wall:
                continue
            ended = _facts(house, f"out/{uid}/{entry.id}")[1]
            gone = [entry.id] if ended + keep.dead <= self._now.wall else []
            if not gone and many and not self._stays(house, entry.id):
                pile = piles.setdefault(entry.queue, _Pile(keep.max_dead, None))
                gone = list(pile.add(ended, 0, entry.id))
            for job_id in gone:
                self._bury(house, state, job_id)
                yield

    def _stays(self, house: House, job_id: str) -> bool:
        return job_id in self._needed or bool(house.backlog.waits.children(job_id))

    def _bury(self, house: House, state: str, job_id: str) -> None:
        found = house.backlog.find(job_id)
        if found is not None and found[0] == state and not self._stays(house, job_id):
            self._remove(job_id, house.remove, self._now, state, found[1], cause="retention")

    # ---------------------------------------------------------------- what was refused, and drafts

    def _rejected(self, house: House, uid: int) -> Iterator[None]:
        folder, before = f"rejected/{uid}", self._now.wall - house.config.keep.rejected
        for number, name in enumerate(_names(house, folder)):
            if number % AT_ONCE == AT_ONCE - 1:
                yield
            path = f"{folder}/{name}"
            found = _look(house.shelves.fd, path)
            if found is not None and not stat.S_ISDIR(found.st_mode) and found.st_ctime <= before:
                self._remove(path, os.unlink, path, dir_fd=house.shelves.fd)

    def _drafts(self, house: House, uid: int) -> Iterator[None]:
        """What a producer began to write in his inbox, and never finished."""
        try:
            inbox = house.shelves.inboxes.enter(uid)
            names = os.scandir(inbox)
        except OSError:
            return  # it cannot be read: whose it is must mend it
        before = self._now.wall - DRAFT_AGE
        with names:
            for number, each in enumerate(names):
                if number % AT_ONCE == AT_ONCE - 1:
                    yield
                if not (each.name.startswith(".") and each.name.endswith(".tmp")):
                    continue
                found = _look(inbox, each.name)
                if found is not None and stat.S_ISREG(found.st_mode) and max(found.st_mtime, found.st_ctime) <= before:
                    self._remove(each.name, os.unlink, each.name, dir_fd=inbox)


class _Pile:
    """The results of a queue, of which the first that ended are too many: those are given back."""

    def __init__(self, most: int | None, most_size: int | None) -> None:
        self._most, self._most_size = most, most_size
        self._heap: list[tuple[float, str, int]] = []
        self._size = 0

    def add(self, ended: float, size: int, job_id: str) -> Iterator[str]:
        """One more; the ids of those that are too many now."""
        heapq.heappush(self._heap, (ended, job_id, size))
        self._size += size
        most, most_size = self._most, self._most_size
        while (most is not None and len(self._heap) > most) or (most_size is not None and self._size > most_size):
            _, gone, freed = heapq.heappop(self._heap)
            self._size -= freed
            yield gone


def _facts(house: House, folder: str) -> tuple[str, float]:
    """The queue of an ended job, and when it ended; of what has no result that can be read, when it last changed."""
    found: dict[str, Any] = glance.result(house, os.path.basename(folder))
    queue, ended = found.get("queue"), found.get("ended")
    if not isinstance(ended, int | float):
        changed = _look(house.shelves.fd, folder)
        with contextlib.suppress(OSError):
            os.rmdir(folder, dir_fd=house.shelves.fd)  # empty: a crash came before it was gone
        ended = changed.st_mtime if changed is not None else 0.0
    return queue if isinstance(queue, str) else DEFAULT_QUEUE, ended


def _size(house: House, folder: str) -> int:
    """The bytes of the files in a directory."""
    looks = (_look(house.shelves.fd, f"{folder}/{name}") for name in _names(house, folder))
    return sum(found.st_size for found in looks if found is not None)


def _names(house: House, folder: str) -> Iterator[str]:
    """The names in a directory of ours; none where it is gone."""
    try:
        with os.scandir(f"{house.shelves.root}/{folder}") as names:
            for each in names:
                yield each.name
    except (FileNotFoundError, NotADirectoryError):
        return


def _uids(house: House, top: str) -> list[int]:
    return sorted(int(name) for name in _names(house, top) if name.isdigit())


def _look(folder: int, path: str) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
