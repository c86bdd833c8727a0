"""An attack on the system's dispatcher: one user attacks, another works beside him, and must not notice.

Does:    starts the dispatcher on the machine (machine.py) with an inbox for each user; runs programs of the attacker's
         as himself; measures how soon the other's jobs start, and says whether all is as it was.
Trusts:  the kernel: whoever attacks is a real process of that user, with his ids and nobody else's.

Ann attacks, bob works. `unharmed` is what every attack must leave behind: the same dispatcher and the same launcher,
and bob's jobs start as soon as ever, run as bob, and end well.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import eventually
from machine import DIED, OPT, SPOOL, Machine

PYTHON = OPT / "bin" / "python"
PROMPT = 1.0  # seconds; without an attack a job starts within 30 ms, and the slowest poll comes once a second
ID = {"command": ["/usr/bin/id", "-u"]}


class Siege:
    """The machine with a running dispatcher, its attacker and its bystander."""

    def __init__(self, machine: Machine, *options: str, tasks: str = "") -> None:
        self.machine = machine
        self.count = 0
        self.begun: list[subprocess.Popen[str]] = []
        machine.tasks(tasks)
        self.start(*options)
        for user in ("ann", "bob"):
            machine.submit(user, "exec", "--wait", "--", "true")

    def start(self, *options: str) -> None:
        """Start the daemons; from now on these are the ones that must stay."""
        self.machine.start(*options)
        self.launcher = self.machine.launcher.pid
        self.dispatcher = self.machine.dispatcher()
        self.ended = self.machine.log.count(DIED)

    def inbox(self, user: str = "ann") -> Path:
        return self.machine.inbox(user)

    def run(self, user: str, code: str, *arguments: object, **options) -> str:
        """Run Python as this user in his inbox; what it prints."""
        words = [str(each) for each in arguments]
        options = {"cwd": self.inbox(user), "umask": 0o027} | options
        return self.machine.as_user(user, PYTHON, "-I", "-c", code, *words, **options).stdout

    def begin(self, user: str, code: str, *arguments: object, **options) -> subprocess.Popen:
        """Start Python as this user in his inbox; it is ended with the siege."""
        words = [str(each) for each in arguments]
        options = self.machine.identity(user) | {"cwd": self.inbox(user), "umask": 0o027, "text": True} | options
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.begun.append(subprocess.Popen([PYTHON, "-I", "-c", code, *words], **pipes | options))
        return self.begun[-1]

    def close(self) -> None:
        """End what was begun."""
        for process in self.begun:
            if process.poll() is None:
                process.kill()
            for pipe in (process.stdin, process.stdout):
                pipe.close()
            process.wait()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Meanwhile the dispatcher sees nothing; then it sees everything at once."""
        os.kill(self.dispatcher, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.dispatcher, signal.SIGCONT)

    def put(self, user: str, name: str, text: str | bytes | dict, ending: str = "job", age: float = 0.0) -> None:
        """What a producer of this user's leaves in his inbox: his file, the group's to read, renamed to its name.

        `age` is how many seconds ago it says that it was written.
        """
        data = json.dumps(text).encode() if isinstance(text, dict) else text.encode() if isinstance(text, str) else text
        draft = self.inbox(user) / f".{name}.tmp"
        draft.write_bytes(data)
        draft.chmod(0o640)
        os.chown(draft, self.machine.uids[user], -1)  # the group is the inbox's
        os.utime(draft, (time.time() - age, time.time() - age))
        draft.rename(self.inbox(user) / f"{name}.{ending}")

    def job_id(self, user: str, name: str) -> str:
        """The id of the job to which this user gave that name, once it has ended."""
        folder = SPOOL / "out" / str(self.machine.uids[user])
        return eventually(lambda: next((each.name for each in folder.glob(f"*-{name}")), ""))

    def latency(self, user: str = "bob") -> float:
        """Seconds from a job's rename into the inbox until its process was started; it must end well, and be his."""
        self.count += 1
        name = f"work{self.count}"
        begun = time.time()
        self.put(user, name, ID)
        job_id = self.job_id(user, name)
        result = self.machine.result(job_id)
        assert result["state"] == "done", result
        assert self.machine.output(job_id) == f"{self.machine.uids[user]}\n"
        return result["started"] - begun

    def pace(self, user: str = "bob") -> float:
        """Seconds that a process of this user's takes without any queue: a busy machine is nobody's attack."""
        began = time.monotonic()
        self.machine.as_user(user, "true")
        return time.monotonic() - began

    def unharmed(self, within: float = PROMPT, times: int = 3, lasting: float = 0.0) -> None:
        """The same daemons, and the bystander's jobs start as ever, for so many seconds at least."""
        end = time.monotonic() + lasting
        waited: list[float] = []
        paces: list[float] = []
        while len(waited) < times or time.monotonic() < end:
            waited.append(self.latency())
            paces.append(self.pace())
        bound = within + 20 * max(paces)
        assert max(waited) < bound, f"the other user's jobs started after up to {max(waited)} s, and not {bound} s"
        assert self.machine.launcher.poll() is None
        assert self.machine.dispatcher() == self.dispatcher, self.machine.log[-2000:]
        assert self.machine.log.count(DIED) == self.ended
        assert "event=disk" not in self.machine.log, self.machine.log[-2000:]  # a turn that gave up
