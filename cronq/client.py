"""The client's end of the control socket: one request, and the answer line by line.

Does:    asks the dispatcher of a spool (what it can be asked: verbs.py), through `control` in `spool.control_folder`.
Trusts:  the dispatcher's answer, as far as it is JSON objects, a line each. Not the socket's directory: what lies there
         under that name is connected to only if it is a socket itself, and no link.
Fails:   `NotRunning` where nobody answers, with the way to mend it; the dispatcher's own sentence and exit code where
         it refuses.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Any

from cronq import errors
from cronq import spool as spools
from cronq.errors import CronqError, NotPermitted, NotRunning

PATIENCE = 10.0  # seconds without a line of the answer
_MOST_IDS = 500  # in one request


def ask(spool: str, request: dict[str, Any], patience: float = PATIENCE) -> Iterator[dict[str, Any]]:
    """The objects that the dispatcher answers with, as they come. Raises `CronqError` (`NotRunning` above all).

    They are read as fast as they come, whoever takes them: the dispatcher drops who does not read.
    """
    line = connect(spool, patience)
    parts: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()
    try:
        line.sendall(json.dumps(request).encode() + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up, perhaps with a sentence
    reader = threading.Thread(target=_read, args=(line, parts), daemon=True)
    reader.start()
    yield from _objects(spool, _lines(spool, parts, patience))


def of_ids(spool: str, request: dict[str, Any], ids: list[str]) -> Iterator[dict[str, Any]]:
    """The same for any number of ids."""
    for start in range(0, len(ids), _MOST_IDS):
        yield from ask(spool, {**request, "ids": ids[start : start + _MOST_IDS]})


def connect(spool: str, patience: float = PATIENCE) -> socket.socket:
    """A connection to the dispatcher. Raises `NotRunning`, `NotPermitted`.

    Through descriptors of the directory and of the socket: an address has 108 bytes, a path may have more; and whoever
    owns the directory cannot send us elsewhere by a link.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Blocking with a bound, not a timeout of Python's: that would fail at once where many are waiting.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(patience), int(patience % 1 * 1e6)))
    try:
        directory = os.open(spools.control_folder(spool), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            end = os.open("control", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            if not stat.S_ISSOCK(os.fstat(end).st_mode):
                raise FileNotFoundError
            line.connect(f"/proc/self/fd/{end}")
        finally:
            os.close(end)
    except OSError as error:
        line.close()
        raise _unreachable(spool, error) from None
    line.settimeout(patience)
    return line


def _unreachable(spool: str, error: OSError) -> CronqError:
    if isinstance(error, PermissionError):
        return NotPermitted(f"you may not speak to the dispatcher of {spool}: it is another user's")
    if isinstance(error, BlockingIOError | TimeoutError):
        return NotRunning(f"the dispatcher of {spool} does not accept a connection: it hangs")
    if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
        start = "`systemctl start cronq`" if spool == spools.SYSTEM_SPOOL else "`cronq dispatcher`"
        return NotRunning(f"no dispatcher is running for {spool}; start it with {start} (or set CRONQ_SPOOL)")
    return NotRunning(f"the dispatcher of {spool} cannot be reached: {error.strerror or error}")


def _read(line: socket.socket, parts: queue.SimpleQueue[bytes | OSError]) -> None:
    try:
        while part := line.recv(65536):
            parts.put(part)
        parts.put(b"")
    except OSError as error:
        parts.put(error)
    finally:
        line.close()


def _lines(spool: str, parts: queue.SimpleQueue[bytes | OSError], patience: float) -> Iterator[bytes]:
    rest = b""
    while part := parts.get():
        if isinstance(part, TimeoutError):
            raise NotRunning(
                f"the dispatcher of {spool} has not answered for {patience:g} seconds: it hangs, or the disk does"
            )
        if isinstance(part, OSError):
            break
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def _objects(spool: str, lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for text in filter(None, lines):  # an empty one says that the answer is under way
        try:
            found = json.loads(text)
        except ValueError:
            break
        if "error" in found and "id" not in found:
            raise refusal(found)
        if found.get("ok") is True and "id" not in found:
            return
        yield found
    raise NotRunning(f"the dispatcher of {spool} went away in the middle of its answer; ask again")


def refusal(answer: dict[str, Any]) -> CronqError:
    """The error that an answer {"error": sentence, "code": exit code} stands for."""
    code = answer.get("code", CronqError.exit_code)
    kinds = {
        kind.exit_code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, CronqError)
    }
    error = kinds.get(code, CronqError)(str(answer["error"]))
    error.exit_code = code
    return error
