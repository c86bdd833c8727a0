"""A throw-away world for one point: processes, mounts and a spool of its own; one process is stopped at its calls.

Does:    `confine` runs a story in a namespace of processes and mounts whose spool is on a tmpfs, while this process
         decides about the calls of the one that is armed; what the story gives comes back. With the world's first
         process everything in it ends, and nothing of it stays.
Trusts:  that this process has imported all of cronq: daemons and commands are forks of it, so that a point does not
         pay for their start. What they run is what they always run, but for the exec.
Fails:   `Unable` where there can be no such world; a story that takes too long ends, and says so.
"""

import contextlib
import ctypes
import io
import json
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import stops

from cronq import __main__, dispatcher, launcher, linux, realm, retention, spool, submit

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PATIENCE = 20.0
UID = os.getuid()
_libc = ctypes.CDLL(None, use_errno=True)


class Late(Exception):
    """Something did not come in its time."""


def confine(place: str, story, decide, calls: dict[str, int]):
    """What `story(cell)` gives, in a world of its own whose files are on a tmpfs at `place`; `None` if it never ended.

    Whichever process of it is armed is asked about at `calls`: see `stops.Stops` for `decide`.
    """
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    if _libc.unshare(CLONE_NEWPID) != 0:
        raise stops.Unable(f"no namespace of processes: {os.strerror(ctypes.get_errno())}")
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        ours.close()
        _be_first(place, story, Armour(theirs, calls), writing)
    os.close(writing)
    theirs.close()
    told = _attend(stops.Stops(ours, decide), reading, time.monotonic() + 2 * PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return json.loads(told) if told else None


def _attend(watched: stops.Stops, reading: int, end: float) -> bytes:
    told = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    poll.register(watched.fileno(), select.POLLIN)
    while True:
        for descriptor, event in poll.poll(max(0, int(1000 * (end - time.monotonic())))) or [(-1, 0)]:
            if descriptor == -1:
                return told
            if descriptor == reading:
                part = os.read(reading, 1 << 16)
                told += part
                if not part:
                    return told
            elif not event & select.POLLIN:
                poll.unregister(descriptor)  # the process and all that it forked are gone
            elif descriptor != watched.fileno():
                poll.unregister(descriptor)
            else:
                watched.take()
                if watched.fileno() != descriptor:  # it is armed now
                    poll.unregister(descriptor)
                    poll.register(watched.fileno(), select.POLLIN)


def _be_first(place: str, story, armour: "Armour", writing: int) -> None:
    code = 70
    try:
        os.setsid()
        if _libc.unshare(CLONE_NEWNS) != 0:
            raise stops.Unable(f"no namespace of mounts: {os.strerror(ctypes.get_errno())}")
        for source, target, kind, flags in (
            ("none", "/", "none", MS_REC | MS_PRIVATE),
            ("proc", "/proc", "proc", 0),
            ("tmpfs", place, "tmpfs", 0),
        ):
            if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), b"") != 0:
                raise stops.Unable(f"mount {target}: {os.strerror(ctypes.get_errno())}")
        with open(f"{place}/stderr", "wb", buffering=0) as log:
            os.dup2(log.fileno(), 2)
        cell = Cell(Path(place), armour)
        try:
            found = {"found": story(cell)}
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the point's finding
            found = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        found |= {"log": cell.log.read_text(errors="replace") if cell.log.exists() else ""}
        found["tree"] = sorted(str(path.relative_to(place)) for path in Path(place).rglob("*") if path.is_file())
        with open(writing, "wb", closefd=False) as file:
            file.write(json.dumps(found).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - it ends here, and never goes on as another runner
        os.write(writing, json.dumps({"failed": traceback.format_exc()}).encode())
    finally:
        os._exit(code)


class Armour:
    """Which process is to be stopped at its calls: the first one of its program that starts when it may."""

    def __init__(self, line: socket.socket, calls: dict[str, int]) -> None:
        self.line = line
        self.calls = calls
        self.program = ""
        self.flag = ""

    def put_on(self, program: str) -> None:
        """In a process that begins to be `program`: be the one, if none was."""
        if program == self.program:
            try:
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            except FileExistsError:
                return
            stops.install(self.calls, self.line.fileno())


class Launcher(launcher.Launcher):
    """The launcher, whose dispatcher is a fork that does not pay for its start, and whose children may be armed."""

    armour: Armour

    def _exec_dispatcher(self, line: socket.socket):
        self.armour.put_on("dispatcher")
        launcher._detach(line)
        self.realm.become_dispatcher()
        linux.die_with_parent(self.pid)
        return dispatcher.main([*self.command, "--launcher-fd", str(line.fileno())])

    def _work(self, line: socket.socket, uid: int, tables: list) -> int:
        self.armour.put_on("worker")
        return super()._work(line, uid, tables)


class Cell:
    """The world, as a story sees it: its spool, its daemons, its commands."""

    def __init__(self, base: Path, armour: Armour) -> None:
        self.base = base
        self.spool = base / "spool"
        self.config = base / "config"
        self.ledger = base / "ledger"
        self.log = base / "log"
        self.armour = armour
        self.config.mkdir()
        self.armour.flag = str(base / "armed")
        self.launcher = 0
        self.watch: Callable[[], None] = lambda: None  # what is looked at, too
        self.readies = 0  # how often one was ready before this one
        self.ended: dict[int, int] = {}
        for name in ("CRONQ_JOB_ID", "CRONQ_TASK"):
            os.environ.pop(name, None)
        os.environ |= {"CRONQ_SPOOL": str(self.spool), "CRONQ_CONFIG": str(self.config), "HOME": str(base), "TZ": "UTC"}
        os.chdir(base)

    # ---------------------------------------------------------------- processes

    def fork(self, act, program: str = "", out: int = -1) -> int:
        """A process that does `act`, perhaps as the program that is armed."""
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            if out >= 0:
                os.dup2(out, 1)
            self.armour.put_on(program)
            code = act() or 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - it ends here
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def reap(self) -> None:
        """Take note of what has ended: this is the first process, so all orphans are its own."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self.ended[found[0]] = os.waitstatus_to_exitcode(found[1])

    def until(self, probe, what: str, within: float = PATIENCE):
        """What `probe` gives as soon as it is true. Raises `Late`."""
        end = time.monotonic() + within
        while True:
            self.reap()
            found = probe()
            if found:
                return found
            if time.monotonic() > end:
                raise Late(what)
            time.sleep(0.004)  # between looks at a condition

    def serve(self) -> None:
        """Start launcher and dispatcher, and wait until jobs are taken; again where the first one died of a fault."""
        for _ in range(6):
            self.readies = self.said("event=ready")
            self.launcher = self.fork(self._launch, "launcher")
            self.until(self._is_ready, "it is ready")
            if self.launcher not in self.ended:
                return
        raise Late("it never starts")

    def _is_ready(self) -> bool:
        return self.said("event=ready") > self.readies or self.launcher in self.ended

    def _launch(self) -> int:
        os.setsid()
        os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        retention.FIRST = 0.0  # the first round at once, not a minute after the start
        command = ["--spool", str(self.spool), "--config", str(self.config)]
        made = Launcher(str(self.spool), str(self.config), command, realm.Own(str(self.spool)))
        made.armour = self.armour
        return made.serve()

    def keep_served(self) -> None:
        """As whoever minds the service: start it when it is gone, and anew when it says that its disk is broken."""
        self.watch()
        if self.said("event=broken") > self.said("minded"):
            with self.log.open("a") as log:
                log.write("minded\n" * (self.said("event=broken") - self.said("minded")))
            self.end(self.launcher)
        if self.launcher in self.ended:
            self.serve()

    def end(self, pid: int) -> None:
        """Kill a process of ours, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: pid in self.ended, "it ends")

    def said(self, word: str) -> int:
        """How often the daemons' log says it."""
        return self.log.read_text(errors="replace").count(word) if self.log.exists() else 0

    # ---------------------------------------------------------------- commands

    def command(self, *argv: str, program: str = "", main=None) -> tuple[int, str, str]:
        """Run `cronq` as a process of its own: exit code, what it printed, what it said."""
        with open(self.base / "out", "w+b") as out, open(self.base / "err", "w+b") as err:
            pid = self.fork(lambda: _command(argv, err.fileno(), main), program, out.fileno())
            self.until(lambda: pid in self.ended, f"{argv} ends")
            return self.ended[pid], _all(out), _all(err)

    def submit(self, *argv: str, program: str = "submit") -> tuple[int, str, str]:
        """`cronq submit` or `cronq exec`, as it starts without the rest."""
        return self.command(*argv, program=program, main=lambda: submit.main(list(argv)))

    def ask(self, *argv: str, good: tuple[int, ...] = (0,)) -> str:
        """A command to the dispatcher, until it says yes; what it printed."""
        end = time.monotonic() + PATIENCE
        while True:
            code, out, err = self.command(*argv)
            if code in good:
                return out
            self.keep_served()
            if time.monotonic() > end:
                raise Late(f"{argv}: {code} {err}")
            time.sleep(0.01)  # until it answers

    # ---------------------------------------------------------------- what is there

    def make(self) -> None:
        """The spool, empty."""
        spool.make(str(self.spool), UID)

    def files(self, folder: str) -> list[str]:
        """The names of the files below a directory of the spool."""
        return [name for _, _, names in os.walk(self.spool / folder) for name in names]

    def folder(self, job_id: str) -> Path:
        """The result directory of a job; the name of one that was chosen has the time of its arrival before it."""
        folder = self.spool / "out" / str(UID)
        exact, name = folder / job_id, job_id.partition("-")[2]
        return exact if exact.exists() else next(folder.glob(f"{UID}-?????????????-{name}"), exact)

    def result(self, job_id: str) -> dict:
        """What the result of a job says; empty where there is none."""
        try:
            return json.loads((self.folder(job_id) / "result.json").read_text())
        except (OSError, ValueError):
            return {}

    def runs(self) -> dict[str, list[str]]:
        """The attempts that ran, by job, as they said themselves."""
        found: dict[str, list[str]] = {}
        for line in self.ledger.read_text().splitlines() if self.ledger.exists() else ():
            job_id, attempt = line.split()
            found.setdefault(job_id, []).append(attempt)
        return found


def _command(argv: tuple[str, ...], err: int, main) -> int:
    os.dup2(err, 2)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "replace", line_buffering=True)
    sys.argv = ["cronq", *argv]
    try:
        return (main or __main__.main)() or 0
    finally:
        sys.stdout.flush()


def _all(file) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace").strip()


def ids(text: str) -> list[str]:
    """The ids among what a command printed."""
    return re.findall(r"\b\d+-[A-Za-z0-9._-]+", text)
