"""What a user can reach: a task's home, directory, env_file and command, looked at by whoever will run it.

Does:    `View.findings` (as this process) or `seen_by` (in a fork that has become the user): findings about one task.
Reads:   the passwd entry; owners and modes of what the task names; the env_file, as a job would.
Trusts:  nothing of the user's: root would follow his links and wait at his mounts, so root becomes him first, and looks
         no longer than `PATIENCE` seconds.
Fails:   never: what it trips over is a finding.
"""

from __future__ import annotations

import codecs
import json
import os
import pwd
import signal
import sys
from collections.abc import Iterator

from cronq import become, envfile
from cronq.errors import BadConfig
from cronq.task import DEFAULT_PATH, Task
from cronq.trusted import trusted

WARN, FAIL = "warn", "fail"
Finding = tuple[str, str]  # a level, and a sentence
PATIENCE = 10


def seen_by(who: become.Account, task: Task) -> list[Finding]:
    """The findings about `task` as the user `who` has them. For root only."""
    codecs.lookup("ascii")  # by which the drop is verified: the user may be unable to read the standard library
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            become.drop(who)
            seen = list(View(task, system=True).findings())
        except Exception as error:  # noqa: BLE001 - this process is a fork of somebody's, and ends here
            seen = [(FAIL, f"what it names cannot be looked at as {who.name}: {error}")]
        try:
            os.write(writing, json.dumps(seen).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read()
    os.waitpid(child, 0)
    try:
        return [(level, sentence) for level, sentence in json.loads(told)]
    except ValueError:
        return [(FAIL, f"what it names cannot be looked at as {who.name}: something there does not answer")]


class View:
    """A task as this process's user sees it. Of a system's task without a user he is only one of many."""

    def __init__(self, task: Task, system: bool) -> None:
        self.task = task
        self.system = system
        self.uid = os.getuid()
        self.missing = WARN if system and task.user is None else FAIL  # others may reach what he cannot
        self.by = "you" if not system else task.user or "everybody"
        try:
            self.entry = pwd.getpwuid(self.uid)
        except KeyError:
            self.entry = pwd.struct_passwd((str(self.uid), "x", self.uid, os.getgid(), "", "/", "/bin/sh"))
        self.env = task.env
        self.cwd = task.cwd or (self.entry.pw_dir if task.user is not None or not system else "") or "/"

    def findings(self) -> Iterator[Finding]:
        """What is wrong, or will be."""
        if self.system and self.task.user is not None:
            yield from self._home()
        if self.task.cwd is not None:
            yield from self._directory(self.task.cwd)
        if self.task.env_file is not None:
            yield from self._env_file(self.task.env_file)
        yield from self._command()

    def _home(self) -> Iterator[Finding]:
        name, home, shell = self.entry.pw_name, self.entry.pw_dir, self.entry.pw_shell or "/bin/sh"
        if not os.path.isdir(home):
            where = "" if self.task.cwd else ", so its jobs run in /"
            yield WARN, f"{name} has no home ({home or 'none'} is no directory){where}; make it, or usermod --home"
        if not os.access(shell, os.X_OK):
            yield WARN, f"the shell of {name}, {shell}, is not there; usermod --shell /bin/sh {name}"

    def _directory(self, path: str) -> Iterator[Finding]:
        try:
            os.chdir(path)
        except OSError as error:
            yield self.missing, f"its cwd {path}: {error.strerror}; make it, or correct cwd"
        else:
            os.chdir("/")

    def _env_file(self, path: str) -> Iterator[Finding]:
        try:
            self.env = envfile.read(path) | self.env
            open_to_all = os.stat(path).st_mode & 0o004
        except ValueError as error:
            yield self.missing, f"its env_file {error}"
        except OSError as error:
            yield self.missing, f"its env_file {path}: {error.strerror}"
        else:
            if open_to_all:
                owner = self.entry.pw_name if self.task.user is not None or not self.system else "root"
                yield WARN, f"its env_file {path} can be read by everybody; chown {owner} {path}, chmod 600 {path}"

    def _command(self) -> Iterator[Finding]:
        task = self.task
        program, key = _what(task)
        found = self._program(program, self.env.get("PATH", DEFAULT_PATH))
        if found is None:
            yield self.missing, f"its command {program} is not found by {self.by}; install it, or correct {key}"
        elif not _runs(found):
            yield self.missing, f"its command {found} cannot be run by {self.by}; chmod a+x {found}"
        elif self.system:
            try:
                trusted(found, owner=self.uid if task.user is not None else 0)
            except BadConfig as error:
                yield FAIL, f"its command {error.sentence}"

    def _program(self, word: str, path: str) -> str | None:
        """The path of a program as a job will find it; one that cannot be run only where there is no other."""
        candidates = [word] if "/" in word else [os.path.join(folder, word) for folder in path.split(":")]
        there = [found for found in (os.path.join(self.cwd, each) for each in candidates) if os.path.lexists(found)]
        return next((found for found in there if _runs(found)), there[0] if there else None)


def _what(task: Task) -> tuple[str, str]:
    """The program of its jobs, and the key that says so."""
    if task.python is not None:
        return task.interpreter or sys.executable, "interpreter"
    return ("/bin/sh", "shell") if task.command is None else (task.command[0], "command")


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
