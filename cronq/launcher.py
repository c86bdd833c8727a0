"""The launcher: starts the dispatcher and the workers, and serves a closed list of verbs. Nothing else.

Does:    forks and execs the dispatcher, and starts it again when it dies; forks a worker for WORKER, makes an inbox for
         INBOX, kills a worker of its own for END, puts a job into a cgroup of its own for PLACE and ends all in it for
         KILL, opens a crontab of root's for CRONTAB; passes TERM (also for INT) and HUP on; reaps what it forked;
         speaks to systemd.
Reads:   messages of the dispatcher: a verb, numbers and a job's id. No byte of a user's, no path that came over the
         socket.
Writes:  `in/<uid>/`, `users/`, cgroups. Logs to standard error.
Trusts:  the dispatcher to be alive, no more: every other message is answered with a sentence. For whom it works, and
         how it becomes them, is `realm`.
Fails:   with the dispatcher's exit code, where a restart would not help. It never waits for a stopped dispatcher.

    python -I -m cronq.launcher --spool DIR --config DIR [--no-inotify] [--system]

Standard library only. Workers are forked from here and never exec'd, so `worker` is imported up here.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time

from cronq import linux, process, wire, worker
from cronq.become import Barred
from cronq.errors import CronqError
from cronq.log import line as log
from cronq.loop import Loop
from cronq.notify import Notify
from cronq.realm import Everybody, Own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from cronq.cgroup import Leaves
    from cronq.safeopen import System

    Work = Callable[[socket.socket, str, str, int, System | None], int]

FINAL = (0, 2, 69, 73, 75, 78)  # exit codes of the dispatcher that a restart would only repeat
YOUNG = 10.0  # seconds; who dies younger is started again later and later
LONGEST_DELAY = 5.0
MOST_DESCRIPTORS = 1 << 20
MOST_WORKERS = 900  # each holds a descriptor here, of 1024 that are usual
PASSED_ON = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGTERM, signal.SIGHUP: signal.SIGHUP}
VERBS: dict[str, dict[str, type]] = {  # and what each names, besides itself
    "WORKER": {"uid": int, "tables": list},  # numbers of tables that it is to have open
    "INBOX": {"uid": int},
    "END": {"worker": int},
    "PLACE": {"job": str, "worker": int, "limits": dict},  # with the pidfd of the job's first process
    "KILL": {"job": str},
    "CRONTAB": {"number": int},  # in the listing of root's tables, which 0 makes anew
}
NEWS = {"ready": "READY=1", "turning": "WATCHDOG=1"}  # of the dispatcher's, for systemd
TOLD = (("uid", int), ("job", str), ("number", int))  # what a refusal repeats of its message
NOT_BECOME = 126  # the exit code of a process that could not become who it should
FLAGS = {"--no-inotify": ("--inotify", "no"), "--system": ("--system", "yes")}
USAGE = "usage: python -I -m cronq.launcher --spool DIR --config DIR [--no-inotify] [--system]\n"


def main(argv: list[str] | None = None) -> int:
    """Serve until the dispatcher is done; its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    options = _options(argv)
    if options is None:
        sys.stderr.write(USAGE)
        return 2
    # Started by a job, it is none of that job: whoever ends the job looks into /proc/*/environ for its id.
    if "CRONQ_JOB_ID" in os.environ:
        env = {key: value for key, value in os.environ.items() if key != "CRONQ_JOB_ID"}
        os.execve(sys.executable, [sys.executable, "-I", "-m", "cronq.launcher", *argv], env)  # noqa: S606 - no shell
    system = options.pop("--system", None)
    root, config = options["--spool"], options["--config"]
    try:
        realm = Own(root) if system is None else Everybody(root, config)
    except CronqError as error:
        log("cannot-start", reason=error.sentence)
        return error.exit_code
    except OSError as error:
        log("cannot-start", reason=f"{error.filename or root}: {error.strerror}")
        return CronqError.exit_code
    command = [sys.executable, "-I", "-m", "cronq.dispatcher", *(word for pair in options.items() for word in pair)]
    return Launcher(root, config, [*command, *realm.options], realm).serve()


def _options(argv: list[str]) -> dict[str, str] | None:
    words = [word for word in argv if word not in FLAGS]
    found = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 4 or set(found) != {"--spool", "--config"}:
        return None
    return found | dict(FLAGS[word] for word in argv if word in FLAGS)


class Launcher:
    """One dispatcher, and the workers that it asked for."""

    def __init__(
        self, root: str, config: str, command: list[str], realm: Own | Everybody, work: Work = worker.main
    ) -> None:
        _occupy()
        self.root = root
        self.config = config
        self.command = command
        self.realm = realm
        self.work = work
        self.notify = Notify()
        self.pid = os.getpid()
        self.loop = Loop()
        self.workers: dict[int, int] = {}  # pid -> pidfd
        self.line: socket.socket | None = None
        self.dispatcher = 0
        self.born = 0.0
        self.deaths = 0  # in a row, each young
        self.stopping = False
        self.exit_code: int | None = None

    def serve(self) -> int:
        """The main loop."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)  # it only rings: `_rung` decides
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started it may have blocked any
        self.loop.listen(reading, lambda: self._rung(set(os.read(reading, 4096))))
        self._start_dispatcher()
        while self.exit_code is None:
            self.loop.turn()
        return self.exit_code

    # ---------------------------------------------------------------- signals

    def _rung(self, numbers: set[int]) -> None:
        for number, passed in PASSED_ON.items():
            if number in numbers:
                self._pass_on(passed)
        if signal.SIGCHLD in numbers:
            self._reap()

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGTERM and not self.stopping:
            self.stopping = True
            self.notify.tell("STOPPING=1")
        if self.dispatcher:
            os.kill(self.dispatcher, number)  # not waited for yet, so the pid is its own
        elif self.stopping:
            self.exit_code = 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.dispatcher:
                self._dispatcher_died(code)
            elif pid in self.workers:
                os.close(self.workers.pop(pid))
                log("worker-ended", pid=pid, code=code)
                if self.realm.leaves is not None:
                    self.realm.leaves.sweep()

    # ---------------------------------------------------------------- the dispatcher

    def _start_dispatcher(self) -> None:
        try:
            ours, theirs = wire.pair()
            with theirs:
                pid = _fork()
                if pid == 0:
                    _run_in_child(self._exec_dispatcher, theirs)
        except OSError as error:  # no process or descriptor is to be had: the workers may leave some
            log("dispatcher-not-started", reason=error.strerror)
            self.loop.after(LONGEST_DELAY, self._start_dispatcher)
            return
        ours.setblocking(False)
        self.line, self.dispatcher, self.born = ours, pid, time.monotonic()
        self.loop.listen(ours.fileno(), self._hear)
        log("dispatcher-started", pid=pid)

    def _exec_dispatcher(self, line: socket.socket) -> NoReturn:
        _detach(line)
        env = self.realm.become_dispatcher()
        # A dispatcher that is stopped would not see that its line ends, and would keep the spool's lock for ever.
        linux.die_with_parent(self.pid)
        line.set_inheritable(True)
        argv = [*self.command, "--launcher-fd", str(line.fileno())]
        os.execve(argv[0], argv, env)  # noqa: S606 - no shell is wanted

    def _dispatcher_died(self, code: int) -> None:
        log("dispatcher-ended", pid=self.dispatcher, code=code)
        self.dispatcher = 0
        self._hang_up()
        if self.stopping or code in FINAL:
            self.exit_code = code if code >= 0 else 128 - code
            return
        self.deaths = self.deaths + 1 if time.monotonic() - self.born < YOUNG else 1
        delay = 0.0 if self.deaths == 1 else min(LONGEST_DELAY, 0.05 * 2.0 ** min(self.deaths, 10))
        self.loop.after(delay, self._start_dispatcher)

    def _hang_up(self) -> None:
        if self.line is not None:
            self.loop.ignore(self.line.fileno())
            self.line.close()
            self.line = None

    # ---------------------------------------------------------------- the verbs

    def _hear(self) -> None:
        assert self.line is not None  # noqa: S101 - it is listened to
        try:
            received = wire.receive(self.line)
        except wire.WireError as error:
            self._fail(f"not a message: {error}", {})
            return
        except OSError:
            received = None
        if received is None:
            self._hang_up()  # it is dying: SIGCHLD will say so
            return
        message, descriptors = received
        try:
            self._obey(message, descriptors)
        except CronqError as error:
            self._fail(error.sentence, message)
        except OSError as error:
            self._fail(f"the launcher cannot do that now: {error.strerror or error}", message)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if isinstance(news := message.get("is"), str) and news in NEWS and set(message) == {"is"}:
            self.notify.tell(NEWS[news])
            return
        verb = message.get("verb")
        named = VERBS.get(verb) if isinstance(verb, str) else None
        if named is None or {key: type(value) for key, value in message.items()} != {"verb": str, **named}:
            self._fail("not a verb of the launcher's", message)
        elif verb == "END":
            self._end(message["worker"])
        elif verb == "PLACE":
            self._place(message, descriptors)
        elif verb == "KILL":
            self._kill(message["job"])
        elif verb == "INBOX":
            self.realm.inbox(message["uid"])
            self._reply({"inbox": message["uid"]})
        elif verb == "CRONTAB":
            self._crontab(message["number"])
        else:
            self.realm.must_serve(message["uid"])
            self._worker(message["uid"], message["tables"])

    def _crontab(self, number: int) -> None:
        answer, opened = self.realm.crontab(number)
        self._reply(answer, *opened)
        for descriptor in opened:
            os.close(descriptor)

    def _worker(self, uid: int, tables: list[Any]) -> None:
        if len(self.workers) >= MOST_WORKERS:
            raise CronqError(f"there are {len(self.workers)} workers, and no more are made")
        ours, theirs = wire.pair()
        with ours:
            with theirs:
                pid = _fork()
                if pid == 0:
                    _run_in_child(self._work, theirs, uid, tables)
            self.workers[pid] = os.pidfd_open(pid)
            log("worker-started", pid=pid, uid=uid)
            self._reply({"worker": pid, "uid": uid}, ours.fileno(), self.workers[pid])
            # Whatever failed, a worker whose line nobody else has sees its end now, and leaves.

    def _end(self, pid: int) -> None:
        if pid not in self.workers:
            self._fail(f"{pid} is no worker of this launcher's", {})
            return
        signal.pidfd_send_signal(self.workers[pid], signal.SIGKILL)

    def _leaves(self) -> Leaves:
        if self.realm.leaves is None:
            raise CronqError("there are no cgroups here")
        return self.realm.leaves

    def _place(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Put a process of that worker's, which waits for it, into the job's cgroup; no other process."""
        pid = process.pid_of(descriptors[0]) if len(descriptors) == 1 else None
        found = process.look(pid) if pid else None
        if found is None or message["worker"] not in self.workers or found.parent != message["worker"]:
            raise CronqError(f"that is no process of the worker {message['worker']}")
        missing = self._leaves().place(message["job"], found.pid, message["limits"])
        self._reply({"placed": message["job"], "missing": missing})

    def _kill(self, job: str) -> None:
        self._reply({"killed": job, "left": self._leaves().kill(job)})

    def _fail(self, sentence: str, message: dict[str, Any]) -> None:
        log("refused", reason=sentence)
        told = {key: message[key] for key, kind in TOLD if type(message.get(key)) is kind}
        self._reply({"failed": sentence, "uid": None, **told})

    def _reply(self, message: dict[str, Any], *descriptors: int) -> bool:
        try:
            sent = self.line is not None and wire.send(self.line, message, descriptors)
        except OSError:
            sent = False
        if not sent:
            log("unanswered", message=message)  # the dispatcher does not read: it will ask again
        return sent

    # ---------------------------------------------------------------- in a worker's process

    def _work(self, line: socket.socket, uid: int, tables: list[Any]) -> int:
        _detach(line)
        try:
            opened = self.realm.open_crontabs(uid, tables)
            self.realm.become_worker(uid)
            linux.set_undumpable()
            _close_but(0, 1, 2, line.fileno(), *opened)  # what NSS opened as root
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is done as nobody knows whom
            barred = error if isinstance(error, Barred) else Barred(f"start failed: {error}", hold=False)
            log("not-become", uid=uid, reason=barred.sentence)
            wire.send(line, {"is": "barred", "reason": barred.sentence, "hold": barred.hold})
            return NOT_BECOME
        os.chdir("/")
        return self.work(line, self.root, self.config, uid, self.realm.system)


def _occupy() -> None:
    """Make sure that 0, 1 and 2 are open, so that nothing else gets their numbers."""
    while (null := os.open("/dev/null", os.O_RDWR)) < 3:
        os.set_inheritable(null, True)
    os.close(null)


def _fork() -> int:
    """Fork with every signal blocked: none may reach a child that still has its parent's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run_in_child(call: Callable[..., int], *arguments: Any) -> NoReturn:
    """Run it, and end this process whatever happens: a child must never run on as a second launcher."""
    code = 70
    try:
        code = call(*arguments)
    except BaseException as error:  # noqa: BLE001 - nothing may leave this frame
        log("child-failed", pid=os.getpid(), error=repr(error))
    finally:
        os._exit(code)


def _detach(line: socket.socket) -> None:
    """Keep the line and the log of the launcher's, and nothing else: no terminal, no handlers."""
    os.setsid()  # whoever shares root's terminal can type for root (TIOCSTI)
    _close_but(0, 1, 2, line.fileno())
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _reset_signals()


def _close_but(*kept: int) -> None:
    """Close every other descriptor: close-on-exec does not help a process that never execs."""
    edges = [-1, *sorted(kept), MOST_DESCRIPTORS]
    for low, high in itertools.pairwise(edges):
        if low + 1 < high:  # an empty range closes everything where it begins at 0 (CPython 3.11: its end is -1)
            os.closerange(low + 1, high)


def _reset_signals() -> None:
    """Default dispositions (but those that Python needs ignored), an empty mask."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    sys.exit(main())
