"""Messages between dispatcher, worker and launcher: small JSON objects, descriptors attached.

Does:    sends and receives one object per packet (SOCK_SEQPACKET keeps packets whole), with up to eight descriptors.
Trusts:  nobody to be quick: a send that would block says so and sends nothing. Received descriptors are close-on-exec
         from the first instant (MSG_CMSG_CLOEXEC; `socket.recv_fds` would let a job inherit them).
Fails:   `WireError` on a packet that is cut, not JSON, or not an object; its descriptors are closed.

Dispatcher to launcher   {"verb": "WORKER", "uid": N, "tables": [NUMBER…]}   a worker for that user, with these open
                         {"verb": "CRONTAB", "number": N}        a crontab of root's by its number; 0 lists them anew
                         {"verb": "INBOX", "uid": N}             that user's inbox
                         {"verb": "END", "worker": PID}          kill that worker
                         {"verb": "PLACE", "job": "<id>.<attempt>", "worker": PID, "limits": {…}}, a pidfd
                         {"verb": "KILL", "job": "<id>.<attempt>"}   end all that lives in that job's cgroup
                         {"is": "ready"}, {"is": "turning"}      for systemd: once, and about once a second
Launcher to dispatcher   {"worker": PID, "uid": N}               with its socket and its pidfd
                         {"table": PATH, "number": N, "of": how many there are}   with its descriptor, or "why" not
                         {"inbox": N}                            made, or there already
                         {"placed": JOB, "missing": [LIMIT…]}, {"killed": JOB, "left": bool}
                         {"failed": SENTENCE, "uid": N}          with "job" or "number" where one was named
Dispatcher to worker     {"do": "run", "id", "attempt", "redelivered", "scheduled", "hash", "data": bool,
                         "offset": where its line begins, of a batch's member, else -1,
                         "table": the crontab of whose line it is a tick, or "",
                         "status": bool, "cursor": what the attempt before gave, or ""}
                         with the job file (or its batch's, or the installed crontab), the outcome file (locked),
                         stdout, stderr, the status file if so, the data if any
                         {"do": "stop", "id", "now": bool}       end that job: TERM and grace, or KILL at once;
                                                                 with "why": "interrupted" it is to come again
                         {"do": "go", "id", "attempt", "placed": bool}   its process has its place, or gets none
                         {"do": "reap", "id", "attempt", "pid", "start", "boot"}   end a job whose worker died
                         {"do": "warm", "tasks": [NAME…]}        start what these keep warm, before there is a job
Worker to dispatcher     {"is": "barred", "reason", "hold": bool}   its user gets no worker; it leaves
                         {"is": "starting", "id", "attempt"}     received; the outcome file says so too
                         {"is": "place", "id", "attempt", "limits"}   with a pidfd: it waits for its cgroup, and for go
                         {"is": "ended", "id", "attempt"}        the outcome file says how; with "warm": TASK where
                                                                 something of it is kept warm
                         {"is": "warm"}                          what was to be started is
                         {"is": "reaped", "id", "attempt", "known": bool}   it is dead; False: nobody can know
"""

from __future__ import annotations

import array
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_MESSAGE = 64 * 1024
MAX_DESCRIPTORS = 8
OUT_OF_MEMORY = "out of memory"
INTERRUPTED = "interrupted"
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` makes one a message


class WireError(Exception):
    """A packet that is no message of ours."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(line: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
    """Send one message; False, and nothing sent, if the peer's buffer is full. Raises `OSError` if it is gone."""
    data = _encode(message).encode()
    ancillary = []
    if descriptors:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors)))
    try:
        line.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    return True


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors; None at the end. Raises `BlockingIOError`, `WireError`."""
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = line.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise WireError("a packet was cut")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise WireError("a packet is not an object")
    except (ValueError, RecursionError, WireError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise WireError(str(error)) from None
    return message, list(descriptors)
