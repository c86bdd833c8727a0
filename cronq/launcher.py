"""The launcher: starts the dispatcher and the workers, and serves a closed list of verbs. Nothing else.

Does:    makes a socket pair, starts the dispatcher, starts it again when it dies, passes TERM and HUP on to it, forks
         workers when it asks. Rootless it becomes nobody else; in system mode `become` is where it will.
Reads:   its arguments, and messages of the dispatcher. It parses no user's bytes and reads no path from a message.
Trusts:  nobody: a message that is not a known verb for a uid it may serve is answered with a sentence.
Fails:   exits with the dispatcher's code where starting it again cannot help. Standard library only (`python -I`).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from typing import Any

from cronq import linux, spool, wire, worker

FINAL = (0, 2, 69, 73, 75, 78)  # exit codes of the dispatcher after which it is not started again
YOUNG = 5.0
SLOWEST = 5.0


class Launcher:
    """One launcher: a dispatcher, and the workers it asked for."""

    def __init__(self, root: str, config: str, dispatcher: list[str]) -> None:
        self.root = root
        self.config = config
        self.dispatcher = dispatcher
        self.line: socket.socket | None = None
        self.child = 0
        self.born = 0.0
        self.deaths = 0
        self.workers: dict[int, int] = {}  # pidfd by pid
        self.stopping = False
        self.bell, ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)

    def run(self) -> int:
        """Serve until the dispatcher has ended for good; its exit code."""
        again: float | None = 0.0
        while True:
            if again is not None and time.monotonic() >= again:
                self.start()
                again = None
            for number in self.wait(None if again is None else max(0.0, again - time.monotonic())):
                self.passed_on(number)
            code = self.reap()
            if code is None:
                continue
            if self.stopping or code in FINAL:
                return code
            young = time.monotonic() - self.born < YOUNG
            self.deaths = self.deaths + 1 if young else 1
            again = time.monotonic() + (0.0 if self.deaths == 1 else min(SLOWEST, 0.1 * 2**self.deaths))
            say("dispatcher-died", code=code, deaths=self.deaths)

    def start(self) -> None:
        """Start the dispatcher on a fresh line."""
        self.line, theirs = wire.pair()
        self.line.setblocking(False)
        os.set_inheritable(theirs.fileno(), True)
        argv = [*self.dispatcher, "--launcher-fd", str(theirs.fileno())]
        self.child = os.posix_spawn(argv[0], argv, os.environ)
        theirs.close()
        self.born = time.monotonic()

    def wait(self, seconds: float | None) -> set[int]:
        """Wait for a message or a signal, and answer messages; the signals."""
        poll = select.poll()
        poll.register(self.bell, select.POLLIN)
        if self.line is not None:
            poll.register(self.line.fileno(), select.POLLIN)
        rung: set[int] = set()
        for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self.bell:
                rung |= set(os.read(self.bell, 4096))
            else:
                self.answer()
        return rung

    def passed_on(self, number: int) -> None:
        """Pass a signal on to the dispatcher."""
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stopping = True
            number = signal.SIGTERM
        if number in (signal.SIGTERM, signal.SIGHUP) and self.child:
            os.kill(self.child, number)

    def reap(self) -> int | None:
        """Take in dead children; the dispatcher's exit code if it is one of them (128 + signal)."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                code = code if code >= 0 else 128 - code
                self.child = 0
                self.drop_line()
            elif pid in self.workers:
                os.close(self.workers.pop(pid))
        if self.stopping and not self.child and code is None:
            return 0
        return code

    def drop_line(self) -> None:
        """The dispatcher is gone, or does not speak our language."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def answer(self) -> None:
        """Read one message and do what it asks."""
        assert self.line is not None  # noqa: S101 - it was polled
        try:
            received = wire.receive(self.line)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            received = None
        if received is None:
            self.drop_line()
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        verb, uid = message.get("verb"), message.get("uid")
        if verb == "END":
            self.end(message.get("worker"))
        elif uid != os.getuid() or isinstance(uid, bool):
            self.reply({"failed": "a rootless launcher serves its own user only", "uid": os.getuid()})
        elif verb == "WORKER":
            self.fork_worker(os.getuid())
        elif verb == "INBOX":
            spool.make(self.root, os.getuid())
            self.reply({"inbox": os.getuid()})
        else:
            self.reply({"failed": "unknown verb", "uid": os.getuid()})

    def reply(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Answer the dispatcher; one that does not read is not waited for (it asks again)."""
        try:
            if self.line is not None:
                wire.send(self.line, message, descriptors)
        except OSError:
            self.drop_line()

    def end(self, pid: object) -> None:
        """Kill a worker of ours."""
        if isinstance(pid, int) and pid in self.workers:
            signal.pidfd_send_signal(self.workers[pid], signal.SIGKILL)

    def fork_worker(self, uid: int) -> None:
        """Fork a worker for `uid`; the dispatcher gets its line and its pidfd."""
        ours, theirs = wire.pair()
        pid = os.fork()
        if pid == 0:
            code = 126
            try:
                lines = bare(theirs.fileno())
                become(uid)
                code = worker.main(socket.socket(fileno=lines), self.root, self.config, uid)
            finally:
                os._exit(code)
        theirs.close()
        self.workers[pid] = os.pidfd_open(pid)
        self.reply({"worker": pid, "uid": uid}, (ours.fileno(), self.workers[pid]))
        ours.close()


def bare(line: int) -> int:
    """In the child: nothing of the launcher's but standard error and the line, which becomes descriptor 3.

    Close-on-exec does not help a process that never execs. The line is kept clear of 0 to 2, which jobs are given.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0, inheritable=False)
    os.dup2(null, 1, inheritable=False)
    os.dup2(line, 3, inheritable=False)
    os.set_inheritable(2, False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    os.umask(0o022)
    linux.set_undumpable()
    return 3


def become(uid: int) -> None:
    """Be that user, verified, or do not go on. Rootless, the launcher already is."""
    if os.getresuid() != (uid, uid, uid):
        raise PermissionError(f"this process is not uid {uid}")


def say(event: str, **facts: object) -> None:
    """A log line: event=… key=value …"""
    line = " ".join([f"event={event}", *(f"{key}={value}" for key, value in facts.items())])
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:
        pass


def main(argv: list[str]) -> int:
    """`--spool S --config C [--no-inotify]`."""
    options = dict(zip(argv[:4:2], argv[1:4:2], strict=True))
    root, config = options["--spool"], options["--config"]
    dispatcher = [sys.executable, "-I", "-m", "cronq.dispatcher", "--spool", root, "--config", config]
    if "--no-inotify" in argv:
        dispatcher += ["--inotify", "no"]
    return Launcher(root, config, dispatcher).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
