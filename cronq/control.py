"""The control socket: what people ask of a running dispatcher, answered for the peer that the kernel names.

Does:    list, show, cancel, retry, rm, stats: one JSON line asks, JSON lines answer, the last one says ok or why not.
Trusts:  SO_PEERCRED. Peers may be slow, silent or flooding: requests, answers and connections are bounded.
Fails:   a bad request gets one sentence and an exit code; a peer that does not read is dropped.

An answer to what changes something is sent only after the turn's flush (docs/spool.md rule 5).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from cronq import job, settle, states, task
from cronq.doorbell import Doorbell
from cronq.entry import CANCEL_WANTED, Entry, is_id
from cronq.errors import BadJob, CronqError, NotPermitted, UnknownJob, UsageError
from cronq.house import House, Now
from cronq.job import MAX_JOB_BYTES

MAX_REQUEST = 256 * 1024
MAX_PEERS_PER_UID = 32
PATIENCE = 10.0


class Peer:
    """One connection."""

    def __init__(self, line: socket.socket, uid: int, now: float) -> None:
        self.line = line
        self.uid = uid
        self.since = now
        self.request = b""
        self.answer: memoryview | None = None


class Control:
    """The socket of one spool, `<spool>/control`."""

    def __init__(self, house: House, bell: Doorbell) -> None:
        self.house = house
        self.bell = bell
        self.peers: dict[int, Peer] = {}
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("control", dir_fd=house.shelves.fd)
        self.line.bind(f"/proc/self/fd/{house.shelves.fd}/control")  # a path of any length
        self.line.listen(64)
        bell.listen(self.line.fileno(), "control")

    def hear(self, rung: set[Any], now: Now) -> list[Peer]:
        """Take connections, read requests, write answers; the peers whose request is whole."""
        if "control" in rung:
            self._accept(now)
        whole = []
        for peer in list(self.peers.values()):
            if ("peer", peer.line.fileno()) in rung and self._progress(peer):
                whole.append(peer)
            elif now.mono - peer.since > PATIENCE:
                self._drop(peer)
        return whole

    def _accept(self, now: Now) -> None:
        while True:
            try:
                line, _ = self.line.accept()
            except OSError:
                return
            line.setblocking(False)
            size = struct.calcsize("3i")
            uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
            if sum(peer.uid == uid for peer in self.peers.values()) >= MAX_PEERS_PER_UID:
                line.close()
                continue
            self.peers[line.fileno()] = Peer(line, uid, now.mono)
            self.bell.listen(line.fileno(), ("peer", line.fileno()))

    def _progress(self, peer: Peer) -> bool:
        try:
            if peer.answer is not None:
                self._write(peer)
                return False
            part = peer.line.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        peer.request += part
        if not part or len(peer.request) > MAX_REQUEST:
            self._drop(peer)
            return False
        return peer.request.endswith(b"\n")

    def answer(self, peer: Peer, lines: list[dict[str, Any]]) -> None:
        """Send a peer its answer."""
        peer.answer = memoryview(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._write(peer)

    def _write(self, peer: Peer) -> None:
        assert peer.answer is not None  # noqa: S101 - the caller looked
        try:
            while peer.answer:
                peer.answer = peer.answer[peer.line.send(peer.answer) :]
        except BlockingIOError:
            self.bell.ignore(peer.line.fileno())
            self.bell.listen(peer.line.fileno(), ("peer", peer.line.fileno()), select.EPOLLOUT)
            return
        except OSError:
            pass
        self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        self.bell.ignore(peer.line.fileno())
        del self.peers[peer.line.fileno()]
        peer.line.close()

    def handle(self, peer: Peer, now: Now) -> list[dict[str, Any]]:
        """Do what a request asks; the lines of its answer."""
        try:
            if peer.uid not in (self.house.shelves.uid, 0):
                raise NotPermitted("this spool belongs to another user")
            request = job.parse_object(peer.request.rstrip(b"\n"), "the request")
            verb = VERBS.get(str(request.get("do")))
            if verb is None:
                raise UsageError(f"unknown request {job.show(request.get('do'))}")
            return [*verb(self.house, request, now), {"ok": True}]
        except CronqError as error:
            return [{"error": error.sentence, "code": error.exit_code}]
        except OSError as error:
            return [{"error": f"the disk refuses: {error}", "code": 75}]


def _list(house: House, request: dict[str, Any], _now: Now) -> Iterator[dict[str, Any]]:
    wanted = request.get("states") or states.KEPT
    limit = request.get("limit")
    left = limit if isinstance(limit, int) else 1 << 60
    for state in wanted:
        if state in states.KEPT:
            for entry in house.backlog.of(state)[:left]:
                yield view(house, state, entry)
                left -= 1
        elif state in states.ENDED_IN_OUT:
            for found in _ended(house, state):
                if left <= 0:
                    return
                yield found
                left -= 1


def _ended(house: House, state: str) -> Iterator[dict[str, Any]]:
    for uid in sorted(os.listdir(f"{house.shelves.root}/out")):
        for job_id in sorted(os.listdir(f"{house.shelves.root}/out/{uid}"), reverse=True):
            found = _result(house, job_id)
            if found.get("state") == state and job_id not in house.backlog:
                yield found


def _show(house: House, request: dict[str, Any], _now: Now) -> Iterator[dict[str, Any]]:
    job_id = str(request.get("id"))
    kept = house.backlog.find(job_id)
    if kept is not None:
        yield view(house, *kept)
        return
    yield _known(house, job_id)


def _known(house: House, job_id: str) -> dict[str, Any]:
    found = _result(house, job_id) if is_id(job_id) else {}
    if not found:
        raise UnknownJob(f"unknown job {job.show(job_id)}")
    return found


def _result(house: House, job_id: str) -> dict[str, Any]:
    try:
        found = json.loads(house.shelves.result(job_id) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def view(house: House, state: str, entry: Entry) -> dict[str, Any]:
    """What `show` and `list` say of a job that is below `queue/`."""
    found = _result(house, entry.id) if state in (states.DEAD, states.SKIPPED) else {}
    wanted = job.Job(task=entry.task or None)
    plan = None
    if entry.batch is None:
        try:
            wanted = job.decode(house.shelves.read(state, entry, MAX_JOB_BYTES))
            plan = task.plan(wanted, house.config.tasks)
        except (CronqError, OSError):
            pass
    basic = {
        **settle.describe(entry, wanted),
        "state": state,
        "attempt": entry.attempt,
        "max_attempts": 1 + plan.retries if plan is not None else None,
        "started": None,
        "ended": None,
        "exit_code": None,
        "signal": None,
        "reason": None,
        "cwd": wanted.cwd,
    }
    if entry.batch is not None:
        basic["jobs"] = entry.batch[2]
    return basic | found | {"state": state}


def _each(house: House, request: dict[str, Any], act: Callable[[str, Entry], str]) -> Iterator[dict[str, Any]]:
    ids = request.get("ids")
    if not isinstance(ids, list):
        raise UsageError("ids must be a list")
    for job_id in map(str, ids):
        try:
            kept = house.backlog.find(job_id)
            if kept is None:
                found = _known(house, job_id)
                yield {"id": job_id, "state": act(str(found["state"]), Entry(id=job_id, due=0))}
            else:
                yield {"id": job_id, "state": act(*kept)}
        except CronqError as error:
            yield {"id": job_id, "error": error.sentence, "code": error.exit_code}


def _cancel(house: House, request: dict[str, Any], now: Now) -> Iterator[dict[str, Any]]:
    def act(state: str, entry: Entry) -> str:
        if state == states.RUNNING and entry.id in house.running:
            running = house.running[entry.id]
            if CANCEL_WANTED not in entry.flags:
                changed = entry.flagged(CANCEL_WANTED)
                house.shelves.rename(state, entry, changed)
                house.backlog.put(state, changed)
                running.entry = changed
            stop = {"do": "stop", "id": entry.id, "now": bool(request.get("now"))}
            house.crew.tell(entry.uid, stop, now.mono, house.crew.of(entry.id))
            return states.RUNNING
        if state in (states.READY, states.DELAYED, states.WAITING, states.HELD):
            settle.end_unstarted(house, now, "cancel", state, entry, "cancelled before it started")
            return states.CANCELLED
        return state  # it has ended: cancelling is idempotent

    return _each(house, request, act)


def _retry(house: House, request: dict[str, Any], now: Now) -> Iterator[dict[str, Any]]:
    def act(state: str, entry: Entry) -> str:
        if state != states.DEAD:
            raise BadJob(f"job {entry.id} is {state}; only a dead job is tried again")
        house.shelves.revive(entry)
        changed = entry.but(attempt=0, crashes=0, due=now.micros).unflagged(CANCEL_WANTED)
        return house.move(now, "revive", state, entry, changed, cause="retry")

    return _each(house, request, act)


def _rm(house: House, request: dict[str, Any], now: Now) -> Iterator[dict[str, Any]]:
    def act(state: str, entry: Entry) -> str:
        if state in (states.READY, states.DELAYED, states.WAITING, states.HELD, states.RUNNING):
            raise BadJob(f"job {entry.id} is {state}; cancel it first")
        if state in (states.DEAD, states.SKIPPED):
            house.shelves.drop(state, entry)
            house.shelves.drop_data(entry.id)
            house.backlog.forget(entry.id)
        house.shelves.remove_results(entry.id)
        house.history.note(now.wall, entry.id, state, "removed", move="remove")
        return "removed"

    return _each(house, request, act)


def _stats(house: House, _request: dict[str, Any], _now: Now) -> Iterator[dict[str, Any]]:
    arrived = sum(house.shelves.inboxes.count(uid) for uid in house.shelves.inboxes.uids()) + len(
        house.shelves.captured()
    )
    yield {"in": arrived, **{state: house.backlog.counts[state] for state in states.KEPT}, **house.history.counts}


VERBS: dict[str, Any] = {
    "list": _list,
    "show": _show,
    "cancel": _cancel,
    "retry": _retry,
    "rm": _rm,
    "stats": _stats,
}
