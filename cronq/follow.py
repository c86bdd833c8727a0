"""Waiting for jobs, from files alone: their results, their refusals, and their output as it grows.

Does:    `wait` for any number of jobs, `members` of a batch as they end, `stream` one job's output until it ends;
         `exit_code`, what a result makes the waiting command exit with.
Reads:   `out/<uid>/<id>/` (result.json, stdout, stderr) and `rejected/<uid>/NAME.*.reason`. The dispatcher is not
         asked: one may wait while it restarts.
Trusts:  those directories to be the dispatcher's, but not what leads to them or lies in them: root waits, too, and is
         led nowhere (`safeopen`). A result.json that is not whole yet is not there yet.
Fails:   `NotEnded` when a bound passes. inotify is the doorbell, a look every 200 ms is the truth.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cronq import safeopen
from cronq import spool as spools
from cronq.doorbell import Doorbell
from cronq.errors import NotEnded
from cronq.tail import Tail

POLL = 0.2
_WINDOW = 256  # how many jobs of a batch are looked at each time: they end about in the order of its lines
_WATCHED = 64


def result(root: str, job_id: str) -> dict[str, Any] | None:
    """The result of a job that has ended; None as long as it has not.

    It is the file's first line: what a crash may have left behind it is an older text, not yet cut off.
    """
    try:
        with open(safeopen.open_below(root, os.path.join(spools.results("", job_id), "result.json")), "rb") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "state" in found else None


def refusal(root: str, job_id: str, since: float = 0.0) -> dict[str, Any] | None:
    """Why a job was refused, in the form of a result; None if it was not, or before the instant `since`."""
    owner, _, name = job_id.partition("-")
    if not owner.isdigit():
        return None
    found = spools.reason(root, int(owner), name)
    if found is None or not _is_recent(root, int(owner), name, since):
        return None
    return {"id": job_id, "state": "rejected", "reason": found[0], "code": found[1], "exit_code": None, "signal": None}


def _is_recent(root: str, owner: int, name: str, since: float) -> bool:
    """Whether a reason is of this file of that name, not of an earlier one."""
    stamps = []
    for ending in spools.ENDINGS:
        try:
            path = os.path.join(spools.refusals("", owner), f"{name}{ending}.reason")
            stamps.append(safeopen.look_below(root, path).st_mtime)
        except OSError:
            continue
    return max(stamps, default=0.0) >= since - 0.01  # file times come in ticks of up to 10 ms


def ended(root: str, job_id: str, since: float = 0.0) -> dict[str, Any] | None:
    """The result or the refusal of a job; None as long as it has neither."""
    known = actual(root, job_id, since)
    found = result(root, known) or refusal(root, known, since)
    return found if found or known == job_id else refusal(root, job_id, since)


def actual(root: str, job_id: str, since: float = 0.0) -> str:
    """The id that a job got: the dispatcher puts the time before a name that is not one of `job.new_name`.

    Of several it is the first one from the instant `since` on, or without that the latest; `job_id` if there is none.
    """
    if (same := spools.twin(root, job_id)) is not None and same[1] and refusal(root, job_id, since) is not None:
        return same[0]
    if spools.time_of(job_id) is not None:
        return job_id
    owner, _, name = job_id.partition("-")
    if any(safeopen.is_below(root, os.path.join("in", owner, name + ending)) for ending in spools.ENDINGS):
        return job_id
    refused = safeopen.names_below(root, spools.refusals("", int(owner)))
    known = [f"{owner}-{other.rpartition('.job')[0]}" for other in refused]
    known += safeopen.names_below(root, os.path.join("out", owner))
    times = {other: spools.time_of(other) or 0.0 for other in known if other[len(owner) + 15 :] == name}
    meant = sorted(other for other, when in times.items() if when >= since - 0.01)
    return (meant[0] if since else meant[-1]) if meant else job_id


def exit_code(found: dict[str, Any]) -> int:
    """What waiting for a job of this result exits with: as the job did, as far as it can be said.

    0 done · the job's own exit code · 128 + signal · 124 ran too long · 125 never ran, or nobody knows how it ended ·
    the refusal's code · a batch that has ended: 1 unless all of it is done.
    """
    state, code, signal = found.get("state"), found.get("exit_code"), found.get("signal")
    if state == "done":
        return int(code or 0)
    if state == "rejected":
        return int(found.get("code", 65))
    if found.get("timeout"):
        return 124
    if isinstance(signal, int):
        return 128 + signal
    if state == "cancelled" and code == 0:
        return 128 + 15  # it was told to end, and did so tidily: not a success all the same
    return code if isinstance(code, int) and code else 125


class Bell:
    """What rings when something may have happened to these jobs; after `POLL` seconds at the latest."""

    def __init__(self, root: str, job_ids: Sequence[str]) -> None:
        self._root = root
        self._door = Doorbell()
        self._watched: set[str] = set()
        owners = {job_id.partition("-")[0] for job_id in job_ids}
        self._always = [os.path.join(place, owner) for owner in owners for place in ("out", "rejected")]

    def arm(self, job_ids: Sequence[str], growth: bool = False) -> None:
        """Ring for these jobs, from before the next look on. Directories that are not there yet are tried again."""
        wanted = self._always + [spools.results("", job_id) for job_id in job_ids[:_WATCHED]]
        for folder in self._watched.difference(wanted):
            self._door.unwatch(folder)
        self._watched.intersection_update(wanted)
        for folder in wanted:
            if folder not in self._watched and self._watch(folder, growth):
                self._watched.add(folder)

    def _watch(self, folder: str, growth: bool) -> bool:
        try:
            descriptor = safeopen.below(self._root, folder, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            return self._door.watch(f"/proc/self/fd/{descriptor}", folder, growth=growth)
        finally:
            os.close(descriptor)

    def wait(self, deadline: float | None) -> None:
        """Return when it rings, or it is time to look. Raises `NotEnded` at the deadline (monotonic)."""
        left = POLL if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise NotEnded("not ended in that time; it goes on")
        self._watched.difference_update(
            str(key) for key in self._door.wait(min(POLL, left)) if not safeopen.is_below(self._root, str(key))
        )

    def close(self) -> None:
        """Close what this opened."""
        self._door.close()


def wait(
    root: str, job_ids: Sequence[str], timeout: float | None = None, since: float = 0.0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each job with its result, as they end; a batch's id counts as a job that ends when all of it has.

    Raises `NotEnded` when `timeout` seconds have passed.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = list(dict.fromkeys(job_ids))
    bell = Bell(root, pending)
    try:
        while pending:
            bell.arm(pending)
            found = [(job_id, ended(root, job_id, since)) for job_id in pending]
            news = [(job_id, of_it) for job_id, of_it in found if of_it is not None]
            yield from news
            if news:
                over = {job_id for job_id, _ in news}
                pending = [job_id for job_id in pending if job_id not in over]
            else:
                bell.wait(deadline)
    finally:
        bell.close()


def member_ids(batch_id: str, count: int) -> Iterator[str]:
    """The ids of a batch's jobs: `<id>+1` …, as wide as the last one."""
    width = len(str(count))
    return (f"{batch_id}+{line:0{width}d}" for line in range(1, count + 1))


def members(
    root: str,
    batch_id: str,
    count: int,
    since: float = 0.0,
    look: Callable[[list[str]], object] = lambda _job_ids: None,
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Each job of a batch with its result, as they end (None: it has none), and the batch with its own at last.

    Memory does not grow with their number: those that come next are looked at, a window of them.

    `look` is called with those that come next, and may run already, before it waits for them.
    """
    bell = Bell(root, [batch_id])
    try:
        batch_id = _begun(root, batch_id, bell, since)
        behind = member_ids(batch_id, count)
        pending: list[str] = []
        while True:
            pending += itertools.islice(behind, _WINDOW - len(pending))
            bell.arm([batch_id, *pending[: _WATCHED - 1]])
            whole = ended(root, batch_id, since)
            if whole is not None:
                yield from _rest(root, itertools.chain(pending, behind), whole)
                yield batch_id, whole
                return
            found = {job_id: result(root, job_id) for job_id in pending}
            yield from ((job_id, of_it) for job_id, of_it in found.items() if of_it is not None)
            left = [job_id for job_id in pending if found[job_id] is None]
            if len(left) == len(pending):
                look(left[:_WATCHED])
                bell.wait(None)
            pending = left
    finally:
        bell.close()


def _rest(root: str, job_ids: Iterable[str], whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The jobs of a batch that has ended; of one that was cancelled, not all had begun to be."""
    if whole["state"] == "rejected":
        return  # all or nothing: none of them was taken
    missing = {"state": "cancelled"} if whole["state"] == "cancelled" else None
    for job_id in job_ids:
        yield job_id, ended(root, job_id) or missing


def stream(
    root: str,
    job_id: str,
    outputs: dict[str, Callable[[bytes], object]],
    *,
    earlier: bool = True,
    since: float = 0.0,
    look: Callable[[str], object] = lambda _job_id: None,
) -> dict[str, Any]:
    """Hand on what a job writes, as it writes it, until it ends; returns its result.

    `outputs` takes the parts of `stdout` and `stderr`. With `earlier=False`, attempts that are over are left out.
    `look` is called with the job's id whenever something may have changed.
    """
    tails: list[tuple[Tail, Callable[[bytes], object]]] = []
    bell = Bell(root, [job_id])
    try:
        job_id = _begun(root, job_id, bell, since)
        tails.extend((Tail(root, job_id, name, earlier), take) for name, take in outputs.items())
        while True:
            bell.arm([job_id], growth=True)
            if (known := actual(root, job_id, since)) != job_id:  # another job stands for it
                return stream(root, known, outputs, earlier=earlier, look=look)
            over = ended(root, job_id, since)  # looked at first: what it wrote before its end is then all there
            for tail, take in tails:
                for part in tail.read():
                    take(part)
            if over is not None:
                return over
            look(job_id)
            bell.wait(None)
    finally:
        bell.close()
        for tail, _ in tails:
            tail.close()


def _begun(root: str, job_id: str, bell: Bell, since: float) -> str:
    """The id that the job got; of a name that somebody chose it is known only once there is a result directory."""
    while (found := actual(root, job_id, since)) == job_id and spools.time_of(job_id) is None:
        bell.arm([])
        if safeopen.is_below(root, spools.results("", job_id)) or ended(root, job_id, since):
            break
        bell.wait(None)
    return found
