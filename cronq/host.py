"""What runs a task's Python function, in the interpreter of that task: once, or warm, with a fork for each job.

Does:    `once` imports the function and calls it with the job's arguments. `fork` imports it once; then, for each
         message of its worker, makes a process that is the worker's child, not this one's, which takes on what came
         with the message (descriptors, directory, umask, environment), waits at its gate, and calls the function.
         `pool` imports it once and calls it in this process, for one job after another.
Reads:   descriptor 3 of a warm host: packets of its worker, with descriptors; of a pool: a line of JSON for each job,
         and a line is the answer. Of the disk only what the task imports.
Trusts:  its worker, which is its parent and whose user it runs as. Nobody else has the other end of 3.
Fails:   where the import fails, with a traceback and exit code 1, as Python does. When its worker is gone, it ends. A
         job whose gate closes has not run, and ends.

    python host.py once|fork|pool MODULE:FUNCTION FOLDER [ARG…]      FOLDER goes first in sys.path; "" means none

By itself, without the rest of cronq: a task's interpreter needs no cronq. Python 3.8 is new enough.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Function = Callable[..., object]
    Changes = dict[bytes, "bytes | None"]  # None: taken away

LINE = 3  # the worker; a job that has a status descriptor has that in its place
ID = b"CRONQ_JOB_ID="
OPEN = b"g"
MOST_FILES = 200  # whose changes are looked for
MOST_MESSAGE = 1 << 16
STDIN, STDOUT, STDERR = range(3)


def main() -> int:
    """Be what the command line says; the exit code."""
    how, name, folder, *args = sys.argv[1:]
    del sys.path[0]  # where this file is: its neighbours are no modules of the task's
    if folder:
        sys.path.insert(0, folder)
    if how == "once":
        return call(name, load(name), args)
    return Host(name).serve() if how == "fork" else pool(name)


def load(name: str) -> Function:
    """The function that `package.module:function` means."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not a function")
    function: Function = found
    return function


def warm(name: str) -> tuple[Function, Changes]:
    """The function, and what its import changed about the environment: as it would in each job's own process."""
    before = dict(os.environb)
    function = load(name)
    changes: Changes = {key: value for key, value in os.environb.items() if before.get(key) != value}
    changes.update({key: None for key in before if key not in os.environb})
    return function, changes


def call(name: str, function: Function, args: list[str]) -> int:
    """Call it as a console script is called, and give the exit code: None is 0, a number itself, a text 1."""
    sys.argv = [name, *args]
    try:
        code = function(*args)
    except SystemExit as left:
        code = left.code
    except BaseException:  # noqa: BLE001 - whatever a job raises ends that job, and nothing else
        _complain()
        return 1
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


class Host:
    """A process that has imported a function, and forks for each job."""

    def __init__(self, name: str) -> None:
        self.name = name
        os.environ.pop(ID.decode()[:-1], None)  # no job's: the room for one, see `_carry`
        began = time.time_ns()
        os.set_inheritable(LINE, False)
        self.line = socket.socket(fileno=LINE)
        self.function, self.changes = warm(name)
        null = os.open(os.devnull, os.O_WRONLY)
        for place in (STDOUT, STDERR):  # so far whoever has to wait for the import could see what it prints
            _flush()
            os.dup2(null, place)
        os.close(null)
        self._tell({"ready": True, "files": _files(name, began)})
        gc.collect()
        gc.freeze()  # so that a job's collector does not write on, and so copy, what all share

    def serve(self) -> int:
        """Fork until there is no worker any more."""
        while True:
            found = self._receive()
            if found is None:
                return 0
            message, given = found
            try:
                self._tell({"job": message["job"], "pid": self._fork(given)})
            finally:
                for descriptor in given:
                    os.close(descriptor)

    def _tell(self, message: dict[str, Any]) -> None:
        self.line.send(json.dumps(message).encode())

    def _receive(self) -> tuple[dict[str, Any], list[int]] | None:
        given = array.array("i")
        data, ancillary, _, _ = self.line.recvmsg(MOST_MESSAGE, socket.CMSG_SPACE(16 * given.itemsize))
        for _, _, content in ancillary:
            given.frombytes(content[: len(content) - len(content) % given.itemsize])
        return (json.loads(data), list(given)) if data else None

    def _fork(self, given: list[int]) -> int:
        """The pid of a process for one job; 0 where there is none to be had.

        Its parent is a process that ends at once: then the next one above that adopts orphans is, which is the worker.
        """
        _flush()
        reading, writing = os.pipe()
        try:
            middle = os.fork()
        except OSError:
            middle = -1
        if middle == 0:
            try:
                pid = os.fork()
                if pid == 0:
                    os.close(reading)
                    os.close(writing)
                    self._be_job(given)
                os.write(writing, b"%d" % pid)
            finally:
                os._exit(0)
        os.close(writing)
        if middle > 0:
            os.waitpid(middle, 0)
        told = os.read(reading, 32)
        os.close(reading)
        return int(told or b"0")

    def _be_job(self, given: list[int]) -> NoReturn:
        """Be the job. It never leaves this frame, whatever happens."""
        code = 126
        try:
            *own, folder, spec, gate, teller = given
            with open(spec, "rb") as file:
                told = json.loads(file.read())
            os.setsid()
            for place, descriptor in enumerate(own):
                os.dup2(descriptor, place)
                os.close(descriptor)
            self.line.detach()
            if len(own) == LINE:
                os.close(LINE)
            os.fchdir(folder)
            os.close(folder)
            os.umask(told["umask"])
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            env = {key.encode("latin-1"): value.encode("latin-1") for key, value in told["env"].items()}
            _take_on(env, self.changes)
            _forget_exits()
            if os.read(gate, 1) == OPEN:
                os.close(gate)
                os.close(teller)
                code = call(self.name, self.function, told["args"])
                _leave()
        except BaseException:  # noqa: BLE001 - nothing may leave this frame
            _complain()
        finally:
            os._exit(code)


def pool(name: str) -> int:
    """Call the function for each line of the worker's, in this process, until there are no more."""
    os.environ.pop(ID.decode()[:-1], None)
    os.set_inheritable(LINE, False)
    umask, me = os.umask(0o022), os.getpid()
    began = time.time_ns()
    line = socket.socket(fileno=LINE)
    function, changes = warm(name)
    files = _files(name, began)
    for text in line.makefile("rb"):
        told = json.loads(text)
        os.umask(umask)
        os.chdir(told["cwd"])
        _take_on({os.fsencode(key): os.fsencode(value) for key, value in told["env"].items()}, changes)
        sys.stdin = _input(told["stdin"])
        code = call(name, function, told["args"])
        if os.getpid() != me:  # a child of the job's, that came back from where it was forked
            _leave()
            os._exit(code)
        _flush()
        os.chdir("/")
        line.sendall(json.dumps({"id": told["id"], "exit": code, "files": files}).encode() + b"\n")
    return 0


def _input(text: str) -> Any:
    """A standard input with this text."""
    descriptor = os.memfd_create("stdin")
    os.write(descriptor, text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, STDIN)
    os.close(descriptor)
    return open(STDIN, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)


def _files(name: str, began: int) -> dict[str, int]:
    """The files of the function's own package, with when each was changed; 0 where that was since `began`."""
    top = name.partition(":")[0].partition(".")[0]
    found: dict[str, int] = {}
    for module, loaded in sorted(sys.modules.items()):
        path = getattr(loaded, "__file__", None)
        if path and module.partition(".")[0] == top and len(found) < MOST_FILES:
            try:
                changed = os.stat(path).st_mtime_ns
            except OSError:  # it lies in an archive
                continue
            found[os.path.abspath(path)] = changed if changed < began else 0
    return found if len(json.dumps(found)) < MOST_MESSAGE - 4096 else {}


def _complain() -> None:
    """Say on standard error what was raised, as Python does where nothing catches it."""
    kind, error, trace = sys.exc_info()
    if kind is not None and error is not None:
        sys.excepthook(kind, error, trace)


def _take_on(env: dict[bytes, bytes], changes: Changes) -> None:
    """Have a job's environment, with what the import of its function changes about each."""
    os.environ.clear()
    os.environb.update(env)
    for key, value in changes.items():
        if value is None:
            os.environb.pop(key, None)
        else:
            os.environb[key] = value
    _carry(env.get(ID[:-1], b""))


def _carry(job_id: bytes) -> None:
    """Write the job's id over the room for one in the environment that this process was started with.

    Whoever must end the job when its worker has died looks for it there (/proc/PID/environ), which setenv(3) does not
    change.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            start = int(file.read().rpartition(b")")[2].split()[47])  # field 50: env_start
        with open("/proc/self/environ", "rb") as file:
            there = (b"\0" + file.read()).find(b"\0" + ID)
        if there >= 0:
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(start + there + len(ID))
                memory.write(job_id + b"\0")
    except OSError:
        pass  # no /proc: its session is looked for in any case


def _forget_exits() -> None:
    """What was registered for the end of the host is not for the end of a job."""
    atexit._clear()
    pool = sys.modules.get("multiprocessing.util")
    if pool is not None:  # it ends its children, of this process and no other
        atexit.register(pool._exit_function)


def _leave() -> None:
    """What Python does at its end, but for taking everything apart that the host has built."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed by the job, or nobody reads
    ctypes.CDLL(None).fflush(None)


if __name__ == "__main__":
    sys.exit(main())
