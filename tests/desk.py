"""A control socket as a system spool has it, served in a process of the user that it is handed, without a launcher:
jobs are taken, listed and cancelled there, and none ever starts. Asked by real peers of other uids."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

from cronq import control, doorbell, intake, shelves, spool
from cronq.config import Config
from cronq.crew import Crew
from cronq.entry import Entry, digest
from cronq.history import History
from cronq.house import House, Now
from cronq.turn import turn

digest(b"")  # what is imported late must be there before the fork: the interpreter may be root's alone to read
intake.judge(b'{"comand": []}')
OURS, ANN, BOB, CAROL = 2900, 2001, 2002, 2003


class Desk:
    """One spool and the process that answers for it."""

    def __init__(self, system: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cronq-desk-"))
        self.folder.chmod(0o711)
        self.root = self.folder / "spool"
        self.system = system
        self.uid = OURS if system else os.getuid()
        spool.make(str(self.root), self.uid)
        if system:
            self._lay()
        self.pid = 0
        self.without = 0  # the sockets of the process while nobody is connected: its own, and what it has from the test
        self.children: list[int] = []
        self.lines: list[socket.socket] = []

    def _lay(self) -> None:
        (self.root / "hello").mkdir()
        (self.root / "run").mkdir()
        for uid in (ANN, BOB):
            (self.root / "users" / str(uid)).touch()
        for uid in (ANN, BOB):
            spool.make(str(self.root), uid)
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, OURS, OURS)
            path.chmod(0o700)
        for uid in (ANN, BOB):
            os.chown(self.root / "in" / str(uid), uid, OURS)
            (self.root / "in" / str(uid)).chmod(0o2770)
        for name in ("", "in", "out", "run"):
            (self.root / name).chmod(0o711 if name != "run" else 0o755)

    @property
    def door(self) -> Path:
        return Path(spool.control_folder(str(self.root))) / "control"

    def start(self, prepare=lambda house: None, operators: str | None = None) -> None:
        """Serve, from a fork; `prepare` is handed the house first."""
        reading, writing = os.pipe()
        self.pid = self.fork(lambda: self._serve(prepare, operators, writing), OURS, own=self.system)
        os.close(writing)
        assert os.read(reading, 1) == b"+", "it did not start"
        os.close(reading)
        self.without = self._sockets()

    def _serve(self, prepare, operators: str | None, writing: int) -> None:
        bell = doorbell.Doorbell()
        launcher, _kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher.setblocking(False)
        config = Config(operators=operators) if operators else Config()
        gid = OURS if self.system else None
        house = House(
            shelves.Shelves(str(self.root), self.uid, gid), History(str(self.root)), Crew(launcher, bell), config, ""
        )
        prepare(house)
        desk = control.Control(house, bell)
        os.write(writing, b"+")
        patience = 0.0
        while True:
            rung = bell.wait(patience)
            now = Now(time.time(), time.monotonic())
            desk.hear(rung, now)
            patience = min(turn(house, now, rung), desk.say(now))

    def fork(self, act, uid: int, groups=(), own: bool = True) -> int:
        """Run `act` in a fork, as this user and with these groups beside his own; ended with the desk."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                if own:
                    os.setgroups(list(groups))
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                act()
                code = 0
            except BaseException:  # noqa: BLE001 - a fork of the test must never run on as a second test run
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        self.children.append(pid)
        return pid

    def of(self, uid: int, act, groups=(), within: float = 60.0):
        """What `act` gives in a process of this user: as it comes back as JSON."""
        reading, writing = os.pipe()
        pid = self.fork(lambda: os.write(writing, json.dumps(act()).encode()), uid, groups)
        os.close(writing)
        found = b""
        while select.select([reading], [], [], within)[0] and (part := os.read(reading, 65536)):
            found += part
        os.close(reading)
        self.end(pid)
        return json.loads(found)

    def connect(self) -> socket.socket:
        """A connection, closed with the desk."""
        self.lines.append(socket.socket(socket.AF_UNIX))
        self.lines[-1].settimeout(60)
        self.lines[-1].connect(str(self.door))
        return self.lines[-1]

    def connections(self) -> int:
        """How many peers the process has now."""
        return self._sockets() - self.without

    def _sockets(self) -> int:
        links = []
        for each in self._descriptors():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                links.append(os.readlink(each))
        return sum(link.startswith("socket:") for link in links)

    def _descriptors(self) -> list[Path]:
        return list(Path(f"/proc/{self.pid}/fd").iterdir())

    def ask(self, uid: int, groups=(), **request):
        """The answer to a request of this user, object by object."""
        return self.of(uid, lambda: talk(self.connect(), request), groups)

    def drop(self, uid: int, name: str, job: object) -> str:
        """Put a job file into the inbox of `uid`, as he would."""
        draft = self.root / "in" / str(uid) / f".{name}.tmp"
        draft.write_text(json.dumps(job))
        if self.system:
            os.chown(draft, uid, OURS)
            draft.chmod(0o640)
        draft.rename(self.root / "in" / str(uid) / f"{name}.job")
        return f"{uid}-{name}"

    def end(self, pid: int) -> None:
        self.children.remove(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def close(self) -> None:
        for line in self.lines:
            line.close()
        for pid in list(self.children):
            self.end(pid)
        shutil.rmtree(self.folder)


def talk(line: socket.socket, request: dict | bytes) -> list:
    """Ask, and read the answer to its end."""
    with line:
        line.sendall(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        answer = b""
        while part := line.recv(65536):
            answer += part
    return [json.loads(each) for each in answer.splitlines()]


def entry(uid: int, number: int) -> Entry:
    """A job of the backlog that has no file."""
    return Entry(id=f"{uid}-{0x0660000000000 + number:013x}-k{number:07d}", due=1_700_000_000_000_000 + number)
