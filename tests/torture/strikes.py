"""One point: a story played once, in a world of its own, with something done to one program at one of its calls.

Does:    `play` tells a story with whoever decides about the calls; `calls_of` only looks; `strike` kills the program at
         a call, or has the call fail; `side_by_side` does many of them, each in a process of its own.
Fails:   as `cell.confine` does; `why_not` says so beforehand.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import shutil
import tempfile
import time
from typing import NamedTuple

import cell
import errnos
import paths
import pytest
import stops

from cronq import attend, cli, client, follow, ids  # noqa: F401 - what a command imports late is imported once, here

ALL = stops.CHANGING | stops.ASKING
CLONE_NEWPID = 0x20000000


class Way(NamedTuple):
    """A story, with a delivery, and the program that is stopped at its calls."""

    story: str
    delivery: str
    program: str


class Point(NamedTuple):
    """Where something happens: a way, and which of the program's calls; and what (empty: it is killed there)."""

    way: Way
    call: str
    number: int
    fault: str = ""

    @property
    def name(self) -> str:
        """By which it is played again."""
        kind = "errno" if self.fault else "kill"
        return ":".join((kind, *self.way, f"{self.call}/{self.number}", *([self.fault] if self.fault else [])))


def point(name: str) -> Point:
    """The point of this name. Raises `ValueError`."""
    _, story, delivery, program, call, *fault = name.split(":")
    call, _, number = call.partition("/")
    return Point(Way(story, delivery, program), call, int(number), ":".join(fault))


def why_not() -> str:
    """Why this machine does not let it be done; empty: it does."""
    if os.geteuid() != 0:
        return "a world of its own for each point needs root"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0 else 1)
    if os.waitpid(pid, 0)[1] != 0:
        return "this machine lets nobody make a namespace of processes"
    return stops.why_not()


needed = pytest.mark.skipif(why_not() != "", reason=why_not() or "it can be done")


@contextlib.contextmanager
def place():
    """A directory on which each point mounts a tmpfs of its own."""
    cli.typer.main.get_command(cli.app)  # what is imported late is imported now
    made = tempfile.mkdtemp(prefix="cronq-sites-", dir="/var/tmp")
    gc.collect()
    gc.freeze()  # forks share what is there
    try:
        yield made
    finally:
        gc.unfreeze()
        shutil.rmtree(made, ignore_errors=True)


def play(where: str, way: Way, decide, calls: dict[str, int], failing: bool = False) -> dict:
    """Tell a story; what was wrong, and what was there."""
    found = cell.confine(where, lambda world: paths.play(*way, world, failing), decide, calls)
    return found or {"failed": "it never ended"}


def calls_of(where: str, way: Way, calls: dict[str, int]) -> tuple[list[tuple[str, int, list[str], int]], dict]:
    """The calls of a way that nobody interrupts, in their order, and what was wrong with it."""
    seen: list[tuple[str, int, list[str], int]] = []

    def look(name: str, number: int, call: stops.Call) -> int:
        seen.append((name, number, call.paths(), call.arguments[2]))
        return 0

    found = play(where, way, look, calls)
    return seen, found


def strike(where: str, what: Point, calls: dict[str, int] = ALL, path: str = "") -> dict:
    """Play a point; what came of it. With `path`, only calls that name one with this in it are counted."""
    struck: list[str] = []
    fault = errnos.Fault(what.fault) if what.fault else None
    count = 0

    def decide(name: str, number: int, call: stops.Call) -> int:
        nonlocal count
        if name != what.call or (path and not any(path in each for each in call.paths())):
            return 0
        count = count + 1 if path else number
        if count < what.number or (struck and fault is None) or (fault is not None and not fault.holds()):
            return 0
        struck.append(f"{name} {' '.join(call.paths())}")
        return stops.Stops.KILL if fault is None else fault.code

    return play(where, what.way, decide, calls, failing=fault is not None) | {"struck": struck[:3]}


def side_by_side(tasks: list, act, beside: int, end: float):
    """Yield (task, what `act` gave) as they come, each in a process of its own, so many at a time, until a time."""
    waiting = list(reversed(tasks))
    under_way: dict[int, tuple[int, object, bytes]] = {}  # by descriptor
    while under_way or (waiting and time.monotonic() < end):
        while waiting and len(under_way) < beside and time.monotonic() < end:
            task = waiting.pop()
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                _answer(act, task, writing)
            os.close(writing)
            under_way[reading] = pid, task, b""
        for reading in select.select(list(under_way), [], [])[0]:
            pid, task, told = under_way[reading]
            part = os.read(reading, 1 << 20)
            if part:
                under_way[reading] = pid, task, told + part
                continue
            os.close(reading)
            del under_way[reading]
            os.waitpid(pid, 0)
            yield task, json.loads(told) if told else {"failed": "its process died"}


def _answer(act, task, writing: int) -> None:
    try:
        found = act(task)
    except BaseException as error:  # noqa: BLE001 - told, and nothing runs on
        found = {"failed": repr(error)}
    try:
        with open(writing, "wb", closefd=False) as file:
            file.write(json.dumps(found).encode())
    finally:
        os._exit(0)
