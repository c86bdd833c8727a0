"""Who asks: what the kernel says of the peer of a socket, and whose jobs he may therefore see and control.

Does:    root and operators see all; anybody else his own jobs, and to him every other id is unknown.
Reads:   SO_PEERCRED and SO_PEERGROUPS: ids and groups as they were when he connected; the group database, for the
         operators' group.
Trusts:  the kernel. Of NSS only which number the operators' group has; it is asked once a minute.
Fails:   `NotPermitted` for a peer that may not ask at all. A group that is not known has no members.
"""

from __future__ import annotations

import grp
import os
import socket
import struct

from cronq import linux
from cronq.become import OURS
from cronq.errors import NotPermitted

REMEMBERED = 60.0  # seconds
_CREDENTIALS = struct.Struct("3i")


class Caller:
    """One peer, and what he may."""

    __slots__ = ("everything", "uid")

    def __init__(self, uid: int, everything: bool = False) -> None:
        self.uid = uid
        self.everything = everything

    def may(self, uid: int) -> bool:
        """Whether he sees and controls the jobs of `uid`."""
        return self.everything or uid == self.uid


def credentials(line: socket.socket) -> tuple[int, frozenset[int]]:
    """The uid of a socket's peer, and all his groups."""
    found = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(found)
    return uid, frozenset([gid, *linux.peer_groups(line.fileno())])


class Doorman:
    """Says of each peer of one spool who he is here."""

    def __init__(self, uid: int, system: bool) -> None:
        """`uid` is the dispatcher's own."""
        self._uid = uid
        self._system = system
        self._operators: tuple[str, int | None, float] = ("", None, 0.0)  # a group's name, its number, until when

    def admit(
        self, uid: int, groups: frozenset[int], operators: str | None, stranger: str | None, now: float
    ) -> Caller:
        """Who a peer with these ids is; `stranger`: why nothing of this uid's is shown. Raises `NotPermitted`."""
        if not self._system:
            if uid not in (self._uid, 0):
                raise NotPermitted("this spool belongs to another user")
            return Caller(uid, everything=True)
        if uid == 0 or (operators is not None and self._number(operators, now) in groups):
            return Caller(uid, everything=True)
        if stranger is not None:
            raise NotPermitted(f"{stranger}; until an administrator mends it, nothing of this uid's is shown")
        return Caller(uid)

    def _number(self, name: str, now: float) -> int | None:
        known, number, until = self._operators
        if known != name or now >= until:
            number = _group(name)
            self._operators = (name, number, now + REMEMBERED)
        return number


def _group(name: str) -> int | None:
    """The number of the operators' group; None for no group, and never the one that inboxes belong to."""
    try:
        gid = grp.getgrnam(name).gr_gid
        return None if name == OURS or gid == os.getegid() else gid
    except (KeyError, OSError):
        return None
