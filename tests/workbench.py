"""A dispatcher's hand without a dispatcher: makes the files of attempts, and hands them to workers in processes of
their own. Everything is real: the fork, the socket, the descriptors, the locks."""

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import pytest
from conftest import eventually

from cronq import cgroup, launcher, process, spool, statement, wire, worker
from cronq.entry import digest

UID = os.getuid()
FILES = 256  # the soft limit that a worker is started with; fewer than many jobs need


class Hand:
    """One spool, its configuration, and the workers that were forked for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config"
        self.config.mkdir()
        self.spool = path / "spool"
        spool.make(str(self.spool), UID)
        self.workers: list[Worker] = []

    def tasks(self, text: str, age: float = 0.0) -> None:
        """Write the configuration, as if it had been there for so many seconds."""
        draft = self.config / ".draft"
        draft.write_text(text)
        os.utime(draft, (time.time() - age, time.time() - age))
        draft.rename(self.config / "cronq.toml")

    def worker(self, step=lambda _name: None, placing: bool = False) -> "Worker":
        self.workers.append(Worker(self, step, placing))
        return self.workers[-1]

    def outcome(self, name: str) -> list[dict]:
        """The steps that an outcome file tells."""
        return [json.loads(line) for line in self.outcome_path(name).read_text().splitlines()]

    def outcome_path(self, name: str) -> Path:
        return self.spool / "queue" / "outcome" / name

    def steps(self, name: str) -> list[str]:
        return [step["step"] for step in self.outcome(name)]

    def locked(self, name: str) -> bool:
        """Whether a worker holds the attempt, as a restarted dispatcher finds out."""
        with self.outcome_path(name).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def status(self, name: str) -> dict:
        """What the status file of a running attempt says."""
        return statement.read(self.output(name, "status"))

    def output(self, name: str, stream: str = "stdout") -> bytes:
        return (self.spool / "out" / f"{name}.{stream}").read_bytes()

    def close(self) -> None:
        for each in self.workers:
            each.end()
        for path in self.outcome_path("").iterdir():  # jobs outlive their workers, but not this test
            for step in self.outcome(path.name):
                if step["step"] == "started" and process.start_time(step["pid"]) in (step["start"], None):
                    _end_group(step["pid"])


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Placing(worker.Worker):
    """A worker whose jobs get places, as on a system whose launcher has cgroups to give."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.placing = True
        self.leaves = cgroup.Leaves(f"{parts[1]}/../leaves")  # where a test may put what the kernel would tell there


class Worker:
    """One worker, and the dispatcher's end of its line."""

    def __init__(self, hand: Hand, step, placing: bool) -> None:
        self.hand = hand
        self.line, theirs = wire.pair()
        self.line.settimeout(60)
        self.heard: list[dict] = []
        self.dead = False
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(theirs, step, Placing if placing else worker.Worker)
        theirs.close()

    def _become(self, line: socket.socket, step, kind: type[worker.Worker]) -> None:
        code = 70
        try:
            worker.Worker = kind
            os.setsid()
            os.umask(0o077)
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            launcher._close_but(0, 1, 2, line.fileno())
            launcher._reset_signals()
            code = worker.main(line, str(self.hand.spool), str(self.hand.config), UID, None, step)
        except BaseException:  # noqa: BLE001 - a fork of the test must never run on as a second test run
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def run(self, name: str, job: dict | bytes, **how) -> None:
        """Hand over an attempt: `job` is the file's content, `how` what differs from an honest message."""
        content = job if isinstance(job, bytes) else json.dumps(job).encode()
        path = self.hand.spool / "queue" / "running" / name
        path.write_bytes(content)
        files = {each: how.pop(each, None) for each in ("file", "outcome", "stdout", "stderr")}
        data = how.pop("data", None)
        descriptors = [
            self._open(files["file"] or path, os.O_RDONLY),
            self._open(files["outcome"] or self.hand.outcome_path(name), os.O_RDWR | os.O_CREAT | os.O_APPEND),
            self._open(files["stdout"] or self.hand.spool / "out" / f"{name}.stdout", os.O_WRONLY | os.O_CREAT),
            self._open(files["stderr"] or self.hand.spool / "out" / f"{name}.stderr", os.O_WRONLY | os.O_CREAT),
        ]
        if files["outcome"] is None:
            fcntl.flock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        if how.get("status"):
            descriptors.append(self._open(self.hand.spool / "out" / f"{name}.status", os.O_WRONLY | os.O_CREAT))
        if data is not None:
            descriptors.append(self._open(data, os.O_RDONLY))
        self.send(
            {
                "do": "run",
                "id": f"{UID}-{name}",
                "attempt": 1,
                "redelivered": False,
                "scheduled": 1e9,
                "hash": digest(content),
                "data": data is not None,
                "offset": -1,
                **how,
            },
            descriptors,
        )
        for descriptor in descriptors:
            os.close(descriptor)

    def _open(self, path: Path | str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def send(self, message: dict, descriptors=()) -> None:
        while not wire.send(self.line, message, descriptors):
            time.sleep(0.001)  # the worker's turn: its end of the line is full

    def hear(self, what: str, name: str) -> dict:
        """The next message of this kind about this job, whatever else is said before it."""
        while True:
            for message in self.heard:
                if message["is"] == what and message["id"] == f"{UID}-{name}":
                    self.heard.remove(message)
                    return message
            received = wire.receive(self.line)
            assert received is not None, f"the worker is gone: {what} {name}"
            self.heard.append({**received[0], "descriptors": received[1]})

    def ended(self, name: str) -> dict:
        """The last step of the attempt, once the worker has said that it ended."""
        self.hear("ended", name)
        return self.hand.outcome(name)[-1]

    def do(self, name: str, job: dict | bytes, **how) -> dict:
        """Hand over an attempt and wait for its end."""
        self.run(name, job, **how)
        return self.ended(name)

    def sh(self, name: str, script: str, **keys) -> None:
        """Hand over a free command for the shell."""
        self.run(name, {"command": ["sh", "-c", script], **keys})

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.wait()

    def wait(self) -> int:
        """How the worker ended."""
        self.dead = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def end(self) -> None:
        self.line.close()
        if not self.dead:
            self.kill()


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def idle(pid: int, line: socket.socket) -> bool:
    """Whether a process sleeps for a while and is not woken once; nor says it anything on its line."""
    before = _switches(pid)
    assert not select.select([line], [], [], 0.5)[0]
    return (_switches(pid), process.look(pid).state) == (before, b"S")


def _switches(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary"))
    return int(line.split()[1])


def numbers(path: Path) -> list[int]:
    """The pids that a job wrote, each line whole."""
    try:
        text = path.read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()] if text.endswith("\n") else []


def cgroup_tree() -> Path | None:
    """Where cgroup v2 is mounted and a tree can be made for the tests."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 ") and UID == 0 and os.access(place.split()[4], os.W_OK):
            return Path(place.split()[4])
    return None


TREE = cgroup_tree()
real = pytest.mark.skipif(TREE is None, reason="needs root, and a cgroup v2 tree that can be written")


def empty(tree: Path) -> None:
    (tree / "cgroup.kill").write_text("1")
    eventually(lambda: "populated 0" in (tree / "cgroup.events").read_text())
    for folder, _, _ in os.walk(tree, topdown=False):
        os.rmdir(folder)
