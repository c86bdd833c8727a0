"""A dispatcher that lies: this process, at the line of a real launcher of root's and of real workers that it dropped.

Does:    starts the installed launcher on the system spool with a stand-in for the dispatcher, which has dropped to the
         user cronq as the dispatcher does, and hands its end of the line over to this process. Everything a lie is made
         of is made as that user (`cronq`), who owns what the dispatcher owns.
"""

import contextlib
import fcntl
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
from pathlib import Path

from conftest import eventually
from machine import CONFIG, OPT, SPOOL

from cronq import process, wire
from cronq.entry import digest

PYTHON = OPT / "bin" / "python"
LONG = bool(os.environ.get("CRONQ_LONG"))
PROOF = Path("/run/proof")  # where a job that runs says so, and as whom

# What the launcher starts in the place of the dispatcher: it hands its end of the line over, and waits.
STANDIN = """
import json, os, socket, sys
line = int(sys.argv[sys.argv.index("--launcher-fd") + 1])
talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
talk.connect("\\0" + sys.argv[1])
fds = [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}") and fd != talk.fileno()]
told = {"pid": os.getpid(), "fds": fds, "line": line, "env": dict(os.environ), "argv": sys.argv[2:]}
socket.send_fds(talk, [json.dumps(told).encode()], [line])
os.close(line)
talk.recv(1)
os._exit(1)
"""

# The launcher, as its `main` makes it, but for the dispatcher's command.
LAUNCHER = """
import sys
from cronq import linux, realm
from cronq.launcher import Launcher
{before}
spool, config, *command = sys.argv[1:]
everybody = realm.Everybody(spool, config)
sys.exit(Launcher(spool, config, [*command, *everybody.options], everybody).serve())
"""


class Liar:
    """The launcher, and its line in our hand."""

    def __init__(self, machine, before: str = "", prefix: list[str] | None = None, **options) -> None:
        self.machine = machine
        self.uid = machine.uids["cronq"]
        self.gid = machine.identity("cronq")["group"]
        self.workers: list[Worker] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = f"cronq-liar-{os.getpid()}-{self.listener.fileno()}"
        self.listener.bind(f"\0{name}")
        self.listener.listen()
        self.listener.settimeout(60)
        log = machine.base / f"log{len(machine.daemons)}"
        argv = [PYTHON, "-I", "-c", LAUNCHER.format(before=before), SPOOL, CONFIG, PYTHON, "-ISs", "-c", STANDIN, name]
        with log.open("w") as file:
            self.launcher = subprocess.Popen(
                [*(prefix or []), *argv], stderr=file, text=True, **(machine.identity("root") | options)
            )
        self.launcher.log = log
        machine.daemons.append(self.launcher)
        PROOF.mkdir(exist_ok=True)
        PROOF.chmod(0o1777)
        self.accept()
        with self.cronq():
            (SPOOL / "queue" / "outcome").mkdir(exist_ok=True)

    def accept(self) -> None:
        """Take over from the stand-in that the launcher has started."""
        self.talk = self.listener.accept()[0]
        told, (descriptor,), _, _ = socket.recv_fds(self.talk, 10000, 1)
        self.told = json.loads(told)
        self.line = socket.socket(fileno=descriptor)
        self.line.settimeout(60)

    @contextlib.contextmanager
    def cronq(self):
        """Whatever is done within is done by the user cronq, as far as files are concerned."""
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    # ---------------------------------------------------------------- to the launcher

    def ask(self, message: dict, descriptors=()) -> tuple[dict, list[int]]:
        assert wire.send(self.line, message, descriptors)
        return self.answer()

    def answer(self) -> tuple[dict, list[int]]:
        received = wire.receive(self.line)
        assert received is not None
        return received

    def refused(self, message: dict, descriptors=()) -> str:
        """The sentence that refuses it."""
        answer, given = self.ask(message, descriptors)
        assert "failed" in answer, answer
        assert given == []
        return answer["failed"]

    def worker(self, uid: int, tables: list | None = None) -> "Worker":
        answer, descriptors = self.ask({"verb": "WORKER", "uid": uid, "tables": tables or []})
        assert (answer.get("uid"), len(descriptors)) == (uid, 2), answer
        self.workers.append(Worker(self, answer["worker"], uid, descriptors))
        return self.workers[-1]

    def inboxes(self, *users: str) -> None:
        for user in users:
            uid = pwd.getpwnam(user).pw_uid
            assert self.ask({"verb": "INBOX", "uid": uid})[0] == {"inbox": uid}

    # ---------------------------------------------------------------- files

    def file_of(self, user: str, name: str, content: dict | bytes, ending: str = "job") -> Path:
        """A file that this user wrote into his inbox as he should, captured."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        script = f'umask 027; cat > "$0/.{name}.tmp" && mv "$0/.{name}.tmp" "$0/{name}.{ending}"'
        inbox = SPOOL / "in" / str(pwd.getpwnam(user).pw_uid)
        self.machine.as_user(user, "sh", "-c", script, inbox, input=data, text=False)
        captured = SPOOL / "queue" / f"{user}.{name}.{ending}"
        with self.cronq():
            (inbox / f"{name}.{ending}").rename(captured)
        return captured

    def own(self, name: str, content: dict | bytes, mode: int = 0o640) -> Path:
        """A file of cronq's own."""
        path = SPOOL / "queue" / name
        with self.cronq():
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
            path.chmod(mode)
        return path

    def open(self, path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        with self.cronq():
            return os.open(path, flags | os.O_CLOEXEC, mode)

    def job(self, name: str) -> dict:
        """A free command that leaves a proof that it ran, and as whom."""
        return {"command": ["sh", "-c", f"id -u > {PROOF}/{name}"]}

    def ran(self) -> dict[str, str]:
        """Which jobs have run, and as whom."""
        return {path.name: path.read_text().strip() for path in PROOF.iterdir()}

    def close(self) -> None:
        for each in self.workers:
            each.close()
        for each in (self.line, self.talk, self.listener):
            each.close()
        shutil.rmtree(PROOF)


class Worker:
    """One real worker, at whose line this process is."""

    def __init__(self, liar: Liar, pid: int, uid: int, descriptors: list[int]) -> None:
        self.liar = liar
        self.pid = pid
        self.uid = uid
        self.line = socket.socket(fileno=descriptors[0])
        self.line.settimeout(60)
        self.pidfd = descriptors[1]
        self.heard: list[dict] = []
        self.number = 0

    def run(self, job_id: str, file: Path | int, content: bytes | None = None, **lies) -> str:
        """Hand an attempt over; the name of its outcome file. `lies` is what differs from an honest message."""
        self.number += 1
        name = f"{self.uid}.{self.number}"
        data = lies.pop("payload", None)
        more = lies.pop("more", [])
        instead = {each: lies.pop(each, None) for each in ("outcome", "stdout", "stderr")}
        descriptors = [file if isinstance(file, int) else self.liar.open(file)]
        if content is None:
            content = os.pread(descriptors[0], 1 << 20, 0)
        write = os.O_RDWR | os.O_CREAT | os.O_APPEND
        for each in ("outcome", "stdout", "stderr"):
            path = SPOOL / "queue" / "outcome" / f"{name}.{each}"
            given = instead[each]
            descriptors.append(self.liar.open(path, write) if given is None else given)
        if instead["outcome"] is None:
            fcntl.flock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        if data is not None:
            descriptors.append(data if isinstance(data, int) else self.liar.open(data))
        message = {
            "do": "run",
            "id": job_id,
            "attempt": 1,
            "redelivered": False,
            "scheduled": 1e9,
            "hash": digest(content),
            "data": data is not None,
            "offset": -1,
            **lies,
        }
        try:
            assert wire.send(self.line, message, [*descriptors, *more])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return name

    def do(self, job_id: str, file: Path | int, content: bytes | None = None, **lies) -> dict:
        """Hand an attempt over, and wait for its end; the last step that its outcome tells."""
        name = self.run(job_id, file, content, **lies)
        self.hear("ended", job_id)
        return self.outcome(name)[-1]

    def outcome(self, name: str) -> list[dict]:
        text = (SPOOL / "queue" / "outcome" / f"{name}.outcome").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def output(self, name: str | None = None) -> str:
        name = name or f"{self.uid}.{self.number}"
        return (SPOOL / "queue" / "outcome" / f"{name}.stdout").read_text()

    def send(self, message: dict, descriptors=()) -> None:
        assert wire.send(self.line, message, descriptors)

    def hear(self, what: str, job_id: str | None = None) -> dict:
        """The next message of this kind."""
        while True:
            for message in self.heard:
                if message["is"] == what and job_id in (None, message.get("id")):
                    self.heard.remove(message)
                    return message
            try:
                received = wire.receive(self.line)
            except ConnectionResetError:  # it left without reading all; what it said comes after that
                continue
            assert received is not None, f"the worker is gone: {what} {job_id}"
            message, descriptors = received
            for descriptor in descriptors:
                os.close(descriptor)
            if message["is"] == "place":  # nobody has asked for a cgroup here
                self.send({"do": "go", "id": message["id"], "attempt": message["attempt"], "placed": False})
            self.heard.append(message)

    def gone(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 60)[0])

    def close(self) -> None:
        self.line.close()
        os.close(self.pidfd)


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    found = process.look(pid)
    return found is not None and found.state not in (b"Z", b"X")


def fds(pid: int) -> dict[int, str]:
    """The open descriptors of a process, and what each is."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = os.readlink(entry.path)
    return found


def settled(probe, wanted):
    """Wait until `probe` gives what is wanted; an assertion fails with both if it never does."""
    try:
        eventually(lambda: probe() == wanted)
    except AssertionError:
        assert probe() == wanted
