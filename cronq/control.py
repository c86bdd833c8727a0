"""The control socket: what people ask of a running dispatcher, heard and answered so that nobody holds anybody up.

Does:    takes connections, reads one request of each (a line of JSON), has it answered a step at a time, each user in
         his turn, and writes the answer: lines of JSON, the last one says ok or why not.
Writes:  the socket `control` in `spool.control_folder`: for everybody on a system spool, else its owner's (0600).
Trusts:  the kernel about who asks (`caller`). Peers may be slow, silent or flooding: what they cost is bounded.
Fails:   who neither writes nor reads for a while is dropped. Without its socket a dispatcher goes on, and tries again
         each second.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections import Counter, deque
from typing import Any

from cronq import caller, spool
from cronq.answer import Answer
from cronq.doorbell import Doorbell
from cronq.errors import Full
from cronq.house import House, Now
from cronq.log import line as log

MAX_REQUEST = 64 * 1024
MAX_PEERS_PER_UID = 32
MAX_PEERS = 256
AT_ONCE = 4  # answers to one user that are being worked out; the others of his wait for them
BACKLOG = 512
ACCEPTED_A_TURN = 128
PATIENCE = 10.0  # seconds for a request, and for each 64 KiB of an answer
SLICE = 0.010  # seconds a turn, for all answers together
LOOK_AGAIN = 1.0


class Peer:
    """One connection."""

    def __init__(self, line: socket.socket, uid: int, groups: frozenset[int], now: float) -> None:
        self.line = line
        self.uid = uid
        self.groups = groups
        self.request = bytearray()
        self.answer: Answer | None = None
        self.awaited: float | None = now  # since when it is its turn to write or to read


class Control:
    """The socket of one spool, and everybody who is connected to it."""

    def __init__(self, house: House, bell: Doorbell) -> None:
        self.house = house
        self.bell = bell
        self.system = house.shelves.gid is not None
        self.doorman = caller.Doorman(os.geteuid(), self.system)
        self.peers: dict[int, Peer] = {}
        self.served = -1  # the uid that was served last
        self.line: socket.socket | None = None
        self.name: tuple[int, int] | None = None  # device and inode of the socket's name
        self.looked = -LOOK_AGAIN
        self.complaint = ""
        self._tend(time.monotonic())

    # ---------------------------------------------------------------- the socket

    def _tend(self, now: float) -> None:
        """Have a socket under its name: its directory may come later, or somebody clean it away."""
        if now - self.looked < LOOK_AGAIN:
            return
        self.looked = now
        folder = spool.control_folder(self.house.shelves.root)
        complaint = ""
        try:
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if self.name is None or self.name != _inode(directory):
                    self._bind(directory)
            finally:
                os.close(directory)
        except OSError as error:
            complaint = f"{folder}: {error.strerror or error}"
        if complaint and complaint != self.complaint:
            log("control-closed", reason=complaint)
        self.complaint = complaint

    def _bind(self, directory: int) -> None:
        found = os.fstat(directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise OSError("others could put a socket there; it must be the dispatcher's and nobody else's to write")
        with contextlib.suppress(FileNotFoundError):
            os.unlink("control", dir_fd=directory)  # of a dispatcher that is gone: this one holds the spool's lock
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o111 if self.system else 0o177)
        try:
            line.bind(f"/proc/self/fd/{directory}/control")  # a path of any length
            line.listen(BACKLOG)
            name = _inode(directory)
            self.bell.listen(line.fileno(), "control")
        except OSError:
            line.close()
            raise
        finally:
            os.umask(mask)
        if self.line is not None:
            self.bell.ignore(self.line.fileno())
            self.line.close()
        self.line, self.name = line, name

    # ---------------------------------------------------------------- before a turn

    def hear(self, rung: set[Any], now: Now) -> None:
        """Take connections, read requests, and do a slice of what they ask."""
        self._tend(now.mono)
        for descriptor in [key[1] for key in rung if isinstance(key, tuple) and key[0] == "peer"]:
            if descriptor in self.peers:
                self._progress(self.peers[descriptor], now.mono)
        if "control" in rung:
            self._accept(now.mono)
        for peer in list(self.peers.values()):
            if peer.awaited is not None and now.mono - peer.awaited > PATIENCE:
                self._drop(peer)
        self._work(now)

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                assert self.line is not None  # noqa: S101 - it rang
                line, _ = self.line.accept()
            except OSError:
                return
            line.setblocking(False)
            try:
                uid, groups = caller.credentials(line)
            except OSError:
                line.close()
                continue
            counts = Counter(peer.uid for peer in self.peers.values())
            if counts[uid] >= MAX_PEERS_PER_UID:
                _refuse(line, f"you have {MAX_PEERS_PER_UID} connections to the dispatcher already; close some")
            elif len(self.peers) >= MAX_PEERS and not self._make_room(counts, uid):
                _refuse(line, "too many people are asking the dispatcher; try again in a moment")
            else:
                self.peers[line.fileno()] = Peer(line, uid, groups, now)
                self.bell.listen(line.fileno(), ("peer", line.fileno()))

    def _make_room(self, counts: Counter[int], uid: int) -> bool:
        """Take a place from the user who has most of them, for one who has fewer; whether there is room now."""
        largest, most = counts.most_common(1)[0]
        if most <= counts[uid] + 1:
            return False
        self._drop(next(peer for peer in self.peers.values() if peer.uid == largest))
        return True

    def _progress(self, peer: Peer, now: float) -> None:
        """A peer rang: it wrote, it has read, or it is gone."""
        if peer.answer is not None:
            if peer.awaited is None:
                self._drop(peer)
            else:
                self._write(peer, now)
            return
        try:
            part = peer.line.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        peer.request += part
        if not part or len(peer.request) > MAX_REQUEST:
            self._drop(peer)
        elif peer.request.endswith(b"\n"):
            peer.answer = Answer(self.house, self.doorman, peer.uid, peer.groups, bytes(peer.request))
            self._await(peer, None)

    def _await(self, peer: Peer, since: float | None, events: int = 0) -> None:
        """Wait for these events of a peer, from now on; with none of them it rings only when it hangs up."""
        peer.awaited = since
        self.bell.ignore(peer.line.fileno())
        self.bell.listen(peer.line.fileno(), ("peer", peer.line.fileno()), events)

    def _work(self, now: Now) -> None:
        """Work on answers for a slice: a step for one user, then for the next."""
        end = time.monotonic() + SLICE
        lanes = self._lanes()
        turns = deque(sorted(lanes, key=lambda uid: (uid <= self.served, uid)))
        while turns:
            self.served = uid = turns.popleft()
            answer = lanes[uid].popleft()
            answer.step(now)
            if answer.ready:
                lanes[uid].append(answer)
            if lanes[uid]:
                turns.append(uid)
            if time.monotonic() >= end:
                return

    def _lanes(self) -> dict[int, deque[Answer]]:
        """What can be worked on, by user: the oldest of his first, or those that have waited longest."""
        begun: dict[int, list[Answer]] = {}
        for peer in self.peers.values():
            if peer.answer is not None and not peer.answer.over:
                begun.setdefault(peer.uid, []).append(peer.answer)
        lanes = {
            uid: deque(sorted((each for each in answers[:AT_ONCE] if each.ready), key=lambda each: each.stepped))
            for uid, answers in begun.items()
        }
        return {uid: answers for uid, answers in lanes.items() if answers}

    # ---------------------------------------------------------------- after a turn

    def say(self, now: Now) -> float:
        """Send what may be said by now; how long to wait at most until there is more to do."""
        for peer in list(self.peers.values()):
            if peer.answer is not None:
                peer.answer.release()
                if peer.answer.out and peer.awaited is None:
                    self._write(peer, now.mono)
        return 0.0 if self._lanes() else LOOK_AGAIN

    def _write(self, peer: Peer, now: float) -> None:
        assert peer.answer is not None  # noqa: S101 - the caller looked
        out = peer.answer.out
        try:
            while out:
                del out[: peer.line.send(out)]
        except BlockingIOError:
            if peer.awaited is None:
                self._await(peer, now, select.EPOLLOUT)
            return
        except OSError:
            self._drop(peer)
            return
        if peer.answer.over and not peer.answer.unsaid:
            self._drop(peer)
        elif peer.awaited is not None:
            self._await(peer, None)

    def _drop(self, peer: Peer) -> None:
        self.bell.ignore(peer.line.fileno())
        del self.peers[peer.line.fileno()]
        peer.line.close()


def _inode(directory: int) -> tuple[int, int] | None:
    """Which file has the socket's name."""
    try:
        found = os.stat("control", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _refuse(line: socket.socket, sentence: str) -> None:
    with contextlib.suppress(OSError):
        line.send(json.dumps({"error": sentence, "code": Full.exit_code}).encode() + b"\n")
    line.close()
