"""The client's end of the control socket: one request, and the answer line by line.

Does:    asks the dispatcher of a spool (what it can be asked: control.py), through `<spool>/control`.
Trusts:  the dispatcher's answer, as far as it is JSON objects, a line each.
Fails:   `NotRunning` where nobody answers, with the way to mend it; the dispatcher's own sentence and exit code where
         it refuses.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

from cronq import errors
from cronq.errors import CronqError, NotPermitted, NotRunning

PATIENCE = 10.0  # seconds without a line of the answer


def ask(spool: str, request: dict[str, Any], patience: float = PATIENCE) -> Iterator[dict[str, Any]]:
    """The objects that the dispatcher answers with, as they come. Raises `CronqError` (`NotRunning` above all)."""
    line = connect(spool, patience)
    try:
        with line.makefile("rb") as answer:
            line.sendall(json.dumps(request).encode() + b"\n")
            yield from _objects(spool, answer)
    except TimeoutError:
        raise NotRunning(
            f"the dispatcher of {spool} has not answered for {patience:g} seconds: it hangs, or the disk does"
        ) from None
    except (BrokenPipeError, ConnectionResetError):
        raise _gone(spool) from None
    finally:
        line.close()


def connect(spool: str, patience: float = PATIENCE) -> socket.socket:
    """A connection to the dispatcher. Raises `NotRunning`, `NotPermitted`.

    Through a descriptor of the directory: a socket's address has 108 bytes, a spool's path may have more.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(patience)
    try:
        directory = os.open(spool, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            line.connect(f"/proc/self/fd/{directory}/control")
        finally:
            os.close(directory)
    except PermissionError:
        line.close()
        raise NotPermitted(f"you may not speak to the dispatcher of {spool}: it is another user's") from None
    except TimeoutError:
        line.close()
        raise NotRunning(f"the dispatcher of {spool} does not accept a connection: it hangs") from None
    except OSError as error:
        line.close()
        if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            raise NotRunning(
                f"no dispatcher is running for {spool}; start it with `cronq dispatcher` (or set CRONQ_SPOOL)"
            ) from None
        raise NotRunning(f"the dispatcher of {spool} cannot be reached: {error.strerror or error}") from None
    return line


def _objects(spool: str, answer: BinaryIO) -> Iterator[dict[str, Any]]:
    for text in answer:
        try:
            found = json.loads(text)
        except ValueError:
            raise _gone(spool) from None
        if "error" in found and "id" not in found:
            raise refusal(found)
        if found.get("ok") is True and "id" not in found:
            return
        yield found
    raise _gone(spool)


def _gone(spool: str) -> NotRunning:
    return NotRunning(f"the dispatcher of {spool} went away in the middle of its answer; ask again")


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
