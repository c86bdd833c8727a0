"""The launcher, with a stand-in for the dispatcher whose end of the line is in the test's hand."""

import itertools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from aside import CONFIG, aside
from conftest import eventually
from workbench import UID, alive, idle, real

from cronq import launcher, realm, spool, wire

OTHER = 54321  # a user who has no process

# It hands its end of the launcher's line over to the test, tells what it was started with and which signals come, and
# exits as it is told.
STANDIN = """
import json, os, signal, socket, sys
line = int(sys.argv[sys.argv.index("--launcher-fd") + 1])
talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
fds = [fd for fd in range(64) if os.path.exists(f"/proc/self/fd/{fd}") and fd != talk.fileno()]
talk.connect(sys.argv[1])
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, lambda number, _: talk.send(signal.Signals(number).name.encode()))
status = dict(row.split(":\\t") for row in open("/proc/self/status"))
told = {"pid": os.getpid(), "argv": sys.argv[2:], "fds": fds, "line": line, "mask": status["SigBlk"].strip()}
socket.send_fds(talk, [json.dumps(told).encode()], [line])
os.close(line)
os._exit(int(talk.recv(100) or b"0"))
"""

# A launcher as `main` runs it, but for its dispatcher; WORK is what its workers do.
LAUNCHER = """
import os, resource, signal, socket, sys, time
from cronq.launcher import Launcher
from cronq import linux, realm, wire, worker
work = worker.main
{work}
sys.exit(Launcher(sys.argv[1], sys.argv[2], sys.argv[3:], realm.Own(sys.argv[1]), work).serve())
"""


class Dispatcher:
    """One stand-in: its process, its end of the launcher's line, and the order how to exit."""

    def __init__(self, talk: socket.socket) -> None:
        self.talk = talk
        self.workers: list[Worker] = []
        told, (descriptor,), _, _ = socket.recv_fds(talk, 10000, 1)
        self.told = json.loads(told)
        self.pid: int = self.told["pid"]
        self.line = socket.socket(fileno=descriptor)
        self.line.settimeout(60)

    def signal(self) -> str:
        """The next signal that it got."""
        return self.talk.recv(100).decode()

    def exit(self, code: int) -> None:
        self.line.close()
        self.talk.send(str(code).encode())

    def ask(self, message: dict) -> tuple[dict, list[int]]:
        assert wire.send(self.line, message)
        return self.answer()

    def answer(self) -> tuple[dict, list[int]]:
        received = wire.receive(self.line)
        assert received is not None
        return received

    def worker(self) -> "Worker":
        message, descriptors = self.ask({"verb": "WORKER", "uid": UID, "tables": []})
        assert (message["uid"], len(descriptors)) == (UID, 2)
        self.workers.append(Worker(message["worker"], descriptors))
        return self.workers[-1]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.line.close()
        self.talk.close()

    def refused(self, message: dict) -> str:
        answer, descriptors = self.ask(message)
        assert set(answer) - {"number"} == {"failed", "uid"}
        assert descriptors == []
        return answer["failed"]


class Worker:
    """A worker as its dispatcher has it."""

    def __init__(self, pid: int, descriptors: list[int]) -> None:
        self.pid = pid
        self.line = socket.socket(fileno=descriptors[0])
        self.line.settimeout(60)
        self.pidfd = descriptors[1]

    def gone(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 60)[0])

    def close(self) -> None:
        self.line.close()
        os.close(self.pidfd)


class Stage:
    """A launcher in a process of its own, and the stand-ins that it starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.log_path = path / "log"
        (path / "standin.py").write_text(STANDIN)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path / "talk"))
        self.listener.listen()
        self.listener.settimeout(60)
        self.process: subprocess.Popen | None = None
        self.dispatchers: list[Dispatcher] = []

    def start(self, work: str = "", command: list[str] | None = None, before: str = "", **options) -> None:
        spool.make(str(self.spool), UID)
        command = command or [
            sys.executable,
            "-ISs",
            str(self.path / "standin.py"),
            str(self.path / "talk"),
            "--an",
            "option",
        ]
        with self.log_path.open("w") as log:
            argv = [sys.executable, "-I", "-c", LAUNCHER.format(work=work), str(self.spool), str(self.path), *command]
            argv = ["sh", "-c", f'{before}; exec "$@"', "sh", *argv] if before else argv
            self.process = subprocess.Popen(argv, stderr=log, **options)

    def dispatcher(self) -> Dispatcher:
        self.dispatchers.append(Dispatcher(self.listener.accept()[0]))
        return self.dispatchers[-1]

    def log(self) -> str:
        return self.log_path.read_text()

    def exits(self) -> int:
        return self.process.wait(60)

    def close(self) -> None:
        self.listener.close()
        self.process.terminate()
        for each in self.dispatchers:
            each.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def stage(tmp_path):
    found = Stage(tmp_path)
    yield found
    found.close()


@pytest.fixture
def dispatcher(stage):
    stage.start()
    return stage.dispatcher()


# -------------------------------------------------------------------- the dispatcher


def test_the_dispatcher_gets_its_line_and_nothing_else(stage):
    reading, writing = os.pipe()
    stage.start(pass_fds=(reading, writing))
    told = stage.dispatcher().told
    assert told["argv"] == ["--an", "option", "--launcher-fd", str(told["line"])]
    assert told["fds"] == [0, 1, 2, told["line"]]
    assert int(told["mask"], 16) == 0
    os.close(reading)
    os.close(writing)


def test_a_dispatcher_that_dies_is_started_again_on_a_fresh_line(stage, dispatcher):
    os.kill(dispatcher.pid, signal.SIGKILL)
    second = stage.dispatcher()
    assert second.pid != dispatcher.pid
    assert wire.receive(dispatcher.line) is None
    assert alive(second.worker().pid)


def test_one_that_keeps_dying_young_is_started_later_and_later(stage):
    stage.start()
    instants = []
    for _ in range(5):
        found = stage.dispatcher()
        instants.append(time.monotonic())
        found.exit(1)
    delays = [later - earlier for earlier, later in itertools.pairwise(instants)]
    assert delays[1] >= 0.2
    assert delays[2] >= 0.4
    assert delays[3] >= 0.8
    assert delays[0] < delays[3]


@pytest.mark.parametrize("code", [0, 2, 69, 73, 75, 78])
def test_an_exit_that_a_restart_would_only_repeat_is_passed_on(stage, dispatcher, code):
    dispatcher.exit(code)
    assert stage.exits() == code


SOON = "import cronq.launcher; cronq.launcher.LONGEST_DELAY = 0.05\n"  # until a dispatcher is started again
NOT_STARTED = "event=dispatcher-not-started"


@pytest.mark.root
@pytest.mark.skipif(UID != 0, reason="needs root, to be a user whose processes are counted")
def test_a_dispatcher_for_which_there_is_no_process_is_started_as_soon_as_there_is_one(stage):
    limited = f"os.setgroups([]); os.setresgid(*[{OTHER}] * 3); os.setresuid(*[{OTHER}] * 3)\n"
    limited += "resource.setrlimit(resource.RLIMIT_NPROC, (0, 9))"
    stage.start(SOON + limited, command=["/bin/sh", "-c", "exec sleep 100"])
    eventually(lambda: stage.log().count(f'{NOT_STARTED} reason="Resource temporarily unavailable"') > 2)
    assert "dispatcher-started" not in stage.log()
    himself = {"user": OTHER, "group": OTHER, "extra_groups": []}
    subprocess.run(["prlimit", f"--pid={stage.process.pid}", "--nproc=9:9"], check=True, **himself)
    eventually(lambda: "event=dispatcher-started" in stage.log())
    stage.process.terminate()  # no signal stays blocked
    assert stage.exits() == 128 + signal.SIGTERM


def test_a_dispatcher_for_which_there_is_no_descriptor_is_started_as_soon_as_there_is_one(stage):
    stage.start(SOON)
    first = stage.dispatcher()
    worker = first.worker()
    resource.prlimit(stage.process.pid, resource.RLIMIT_NOFILE, (3, 1000))
    first.exit(1)
    eventually(lambda: stage.log().count(f'{NOT_STARTED} reason="Too many open files"') > 2)
    assert alive(worker.pid)
    resource.prlimit(stage.process.pid, resource.RLIMIT_NOFILE, (1000, 1000))
    assert alive(stage.dispatcher().worker().pid)


def test_a_stop_while_no_dispatcher_can_be_started_is_the_end(stage):
    stage.start("import cronq.launcher; cronq.launcher.LONGEST_DELAY = 100.0")
    dispatcher = stage.dispatcher()
    resource.prlimit(stage.process.pid, resource.RLIMIT_NOFILE, (3, 1000))
    dispatcher.exit(1)
    eventually(lambda: NOT_STARTED in stage.log())
    stage.process.terminate()
    assert stage.exits() == 0


def test_a_dispatcher_that_cannot_be_executed_is_tried_again(stage):
    stage.start(command=["/no/such/dispatcher"])
    eventually(lambda: stage.log().count("dispatcher-ended") == 3)
    assert "No such file" in stage.log()
    stage.process.terminate()  # while there is none
    assert stage.exits() == 0


@pytest.mark.parametrize(("sent", "arrives"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGHUP", "SIGHUP")])
def test_signals_are_passed_on(stage, dispatcher, sent, arrives):
    stage.process.send_signal(signal.Signals[sent])
    assert dispatcher.signal() == arrives
    dispatcher.exit(0)
    assert stage.exits() == 0


def test_a_dispatcher_that_was_told_to_stop_is_not_started_again(stage, dispatcher):
    stage.process.send_signal(signal.SIGTERM)
    dispatcher.signal()
    os.kill(dispatcher.pid, signal.SIGKILL)
    assert stage.exits() == 128 + signal.SIGKILL


def test_a_hup_while_no_dispatcher_runs_is_nobodys(stage):
    stage.start(command=["/no/such/dispatcher"])
    eventually(lambda: stage.log().count("dispatcher-ended") == 2)
    stage.process.send_signal(signal.SIGHUP)
    eventually(lambda: stage.log().count("dispatcher-ended") == 3)


# -------------------------------------------------------------------- the verbs


def test_worker_makes_a_worker_that_runs_jobs_and_leaves_with_its_line(stage, dispatcher):
    worker = dispatcher.worker()
    assert alive(worker.pid)
    worker.line.close()
    assert worker.gone()
    eventually(lambda: f"event=worker-ended pid={worker.pid} code=0" in stage.log())
    assert not os.path.exists(f"/proc/{worker.pid}")  # reaped


def test_inbox_makes_the_inbox(stage, dispatcher):
    inbox = Path(spool.inbox(str(stage.spool), UID))
    inbox.rmdir()
    assert dispatcher.ask({"verb": "INBOX", "uid": UID}) == ({"inbox": UID}, [])
    assert inbox.stat().st_mode & 0o7777 == 0o700
    assert dispatcher.ask({"verb": "INBOX", "uid": UID}) == ({"inbox": UID}, [])


def test_an_inbox_that_cannot_be_made_is_told(stage, dispatcher):
    inbox = Path(spool.inbox(str(stage.spool), UID))
    inbox.rmdir()
    inbox.parent.rmdir()
    inbox.parent.write_text("in the way")
    assert "cannot be made" in dispatcher.refused({"verb": "INBOX", "uid": UID})


def test_end_kills_a_worker_of_ours(stage, dispatcher):
    first, second = dispatcher.worker(), dispatcher.worker()
    assert wire.send(dispatcher.line, {"verb": "END", "worker": first.pid})
    assert first.gone()
    eventually(lambda: f"event=worker-ended pid={first.pid} code=-9" in stage.log())
    assert alive(second.pid)
    assert "no worker" in dispatcher.refused({"verb": "END", "worker": first.pid})


def test_end_kills_nobody_else(stage, dispatcher):
    stranger = subprocess.Popen(["sleep", "100"])
    for pid in (stranger.pid, dispatcher.pid, stage.process.pid, os.getpid(), 0, -1, 1):
        assert "no worker" in dispatcher.refused({"verb": "END", "worker": pid})
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"verb": "RUN", "uid": UID},
        {"verb": "WORKER"},
        {"verb": "WORKER", "uid": str(UID)},
        {"verb": "WORKER", "uid": UID == 1},
        {"verb": "WORKER", "uid": UID},
        {"verb": "WORKER", "uid": UID, "tables": [], "path": "/etc"},
        {"verb": "CRONTAB", "number": 0},
        {"verb": "WORKER", "uid": UID + 1, "tables": []},
        {"verb": "INBOX", "uid": UID + 1},
        {"verb": "INBOX", "uid": -1},
        {"verb": ["WORKER"], "uid": UID},
        {"verb": "END", "uid": 1},
        {"verb": "END", "worker": "1"},
        {"verb": "END", "worker": True},
    ],
)
def test_anything_else_is_refused_with_a_sentence(stage, dispatcher, message):
    assert dispatcher.refused(message)
    assert "worker-started" not in stage.log()


def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(stage, dispatcher):
    reading, writing = os.pipe()
    socket.send_fds(dispatcher.line, [b"not json"], [writing])
    assert "not a message" in dispatcher.answer()[0]["failed"]
    assert wire.send(dispatcher.line, {"verb": "DANCE", "uid": 1}, [writing])
    assert "not a verb" in dispatcher.answer()[0]["failed"]
    os.close(writing)
    assert os.read(reading, 1) == b""  # nobody else has the writing end
    os.close(reading)


def test_a_launcher_without_descriptors_says_so_and_goes_on(stage, dispatcher):
    resource.prlimit(stage.process.pid, resource.RLIMIT_NOFILE, (3, 1000))
    assert "cannot do that now" in dispatcher.refused({"verb": "WORKER", "uid": UID, "tables": []})
    resource.prlimit(stage.process.pid, resource.RLIMIT_NOFILE, (1000, 1000))
    assert alive(dispatcher.worker().pid)


def test_a_launcher_that_cannot_fork_says_so_and_goes_on(stage):
    stage.start(FAILS.format(call="fork", after=1))
    dispatcher = stage.dispatcher()
    assert "cannot do that now" in dispatcher.refused({"verb": "WORKER", "uid": UID, "tables": []})
    stage.process.send_signal(signal.SIGHUP)  # no signal stays blocked
    assert dispatcher.signal() == "SIGHUP"
    assert alive(dispatcher.worker().pid)


def test_a_worker_that_it_has_no_hold_of_is_ended(stage):
    stage.start(FAILS.format(call="pidfd_open", after=0))
    dispatcher = stage.dispatcher()
    assert "cannot do that now" in dispatcher.refused({"verb": "WORKER", "uid": UID, "tables": []})
    eventually(lambda: not _children(stage.process.pid) - {dispatcher.pid})
    assert alive(dispatcher.worker().pid)


def test_there_are_so_many_workers_and_no_more(stage):
    stage.start("import cronq.launcher; cronq.launcher.MOST_WORKERS = 2")
    dispatcher = stage.dispatcher()
    first, second = dispatcher.worker(), dispatcher.worker()
    refusal = dispatcher.refused({"verb": "WORKER", "uid": UID, "tables": []})
    assert refusal == "there are 2 workers, and no more are made"
    assert alive(first.pid) and alive(second.pid)
    first.line.close()
    eventually(lambda: f"event=worker-ended pid={first.pid}" in stage.log())
    assert alive(dispatcher.worker().pid)


# One call of the system's fails, after some that did not.
FAILS = """
real, left = os.{call}, [{after}]
def once(*arguments):
    left[0] -= 1
    if left[0] == -1:
        raise OSError(11, "not now")
    return real(*arguments)
os.{call} = once
"""


def _children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_dispatcher_that_does_not_read_is_not_waited_for(stage, dispatcher):
    sent = 0
    while "unanswered" not in stage.log():
        sent += wire.send(dispatcher.line, {"verb": "DANCE", "uid": 1})
    wire.send(dispatcher.line, {"verb": "WORKER", "uid": UID, "tables": []})
    eventually(
        lambda: (
            "worker-started" in stage.log() or wire.send(dispatcher.line, {"verb": "WORKER", "uid": UID, "tables": []})
        )
    )
    eventually(lambda: "event=worker-ended" in stage.log())  # nobody could have used it
    while "failed" in (answer := dispatcher.answer())[0]:
        wire.send(dispatcher.line, {"verb": "WORKER", "uid": UID, "tables": []})
    message, descriptors = answer
    dispatcher.workers.append(Worker(message["worker"], descriptors))
    assert alive(message["worker"])


def stopped(pid: int) -> None:
    """Stop a process, and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: " T " in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.parametrize("answered", [False, True])
def test_a_dispatcher_that_hangs_up_is_awaited_and_started_again(stage, dispatcher, answered):
    if not answered:
        stopped(stage.process.pid)
    assert wire.send(dispatcher.line, {"verb": "DANCE", "uid": 1})
    if answered:
        eventually(lambda: "event=refused" in stage.log())
    dispatcher.line.close()
    os.kill(stage.process.pid, signal.SIGCONT)
    eventually(lambda: ("unanswered" in stage.log()) is not answered)
    dispatcher.exit(1)
    assert alive(stage.dispatcher().worker().pid)
    assert ("unanswered" in stage.log()) is not answered


def test_many_workers_that_die_at_once_are_all_reaped(stage, dispatcher):
    workers = [dispatcher.worker() for _ in range(20)]
    os.kill(stage.process.pid, signal.SIGSTOP)
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    os.kill(stage.process.pid, signal.SIGCONT)
    eventually(lambda: stage.log().count("event=worker-ended") == 20)
    assert not any(os.path.exists(f"/proc/{worker.pid}") for worker in workers)


def test_an_idle_launcher_sleeps(stage, dispatcher):
    dispatcher.worker()
    eventually(lambda: idle(stage.process.pid, dispatcher.line))


# -------------------------------------------------------------------- cgroups

# A worker with a process of its own, which it hands over.
PARENT = """
def work(line, *_):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    wire.send(line, {"pid": pid}, [os.pidfd_open(pid)])
    line.recv(1)
    return 0
"""
JOB = f"{UID}-a.1"


@pytest.fixture
def placing(stage, base):
    """The dispatcher of a launcher that has cgroups for jobs."""
    stage.start(f"{PARENT}\nfrom cronq import cgroup\nrealm.Own.leaves = cgroup.Leaves({str(base)!r})")
    return stage.dispatcher()


def _place(dispatcher: Dispatcher, worker: Worker, limits: dict, job: str = JOB) -> tuple[int, dict]:
    """Have a worker's process put into the job's cgroup: its pid, and what the launcher answers."""
    told, (pidfd,) = wire.receive(worker.line)
    try:
        assert wire.send(
            dispatcher.line, {"verb": "PLACE", "job": job, "worker": worker.pid, "limits": limits}, [pidfd]
        )
        return told["pid"], dispatcher.answer()[0]
    finally:
        os.close(pidfd)


@pytest.mark.root
@real
def test_place_puts_a_workers_process_into_its_jobs_cgroup_and_kill_ends_all_in_it(placing, base):
    pid, answer = _place(placing, placing.worker(), {"pids_max": 5})
    missing = [] if "pids" in (base / "cgroup.controllers").read_text().split() else ["pids_max"]
    assert answer == {"placed": JOB, "missing": missing}
    assert (base / f"job-{JOB}/cgroup.procs").read_text().split() == [str(pid)]
    assert placing.ask({"verb": "KILL", "job": JOB})[0] == {"killed": JOB, "left": False}
    assert not alive(pid)
    assert not (base / f"job-{JOB}").exists()
    assert placing.ask({"verb": "KILL", "job": JOB})[0] == {"killed": JOB, "left": False}


@pytest.mark.root
@real
def test_what_is_no_limit_is_refused_and_nothing_is_placed(stage, placing, base):
    pid, answer = _place(placing, placing.worker(), {"cpu_weight": 0})
    assert set(answer) == {"failed", "uid", "job"}
    assert answer["job"] == JOB
    assert "cpu_weight must be" in answer["failed"]
    assert alive(pid)
    assert not list(base.glob("job-*"))
    os.kill(pid, signal.SIGKILL)


@pytest.mark.root
@real
def test_with_a_worker_the_cgroups_go_in_which_nothing_lives_any_more(stage, placing, base):
    first, second = placing.worker(), placing.worker()
    ended, _ = _place(placing, first, {})
    lives, _ = _place(placing, second, {}, f"{UID}-b.1")
    os.kill(ended, signal.SIGKILL)
    eventually(lambda: "populated 0" in (base / f"job-{JOB}/cgroup.events").read_text())
    first.line.close()
    eventually(lambda: not (base / f"job-{JOB}").exists())
    assert f"event=worker-ended pid={first.pid}" in stage.log()
    assert (base / f"job-{UID}-b.1").exists()
    assert alive(lives)


def test_without_cgroups_nothing_is_placed_or_killed(stage):
    stage.start(PARENT)
    dispatcher = stage.dispatcher()
    pid, answer = _place(dispatcher, dispatcher.worker(), {})
    assert answer == {"failed": "there are no cgroups here", "uid": None, "job": JOB}
    answer = dispatcher.ask({"verb": "KILL", "job": JOB})[0]
    assert answer == {"failed": "there are no cgroups here", "uid": None, "job": JOB}
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


# A network interface with a name that is no text, in a network of its own: its descriptor names it in fdinfo.
INTERFACE = """
import fcntl, os, socket, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"\\xff\\xfe\\xf6", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [tun])
"""


@pytest.mark.root
def test_a_descriptor_that_describes_itself_in_other_bytes_than_ascii_is_no_process(stage, dispatcher):
    ours, theirs = socket.socketpair()
    argv = ["unshare", "--net", sys.executable, "-c", INTERFACE, str(theirs.fileno())]
    made = subprocess.run(argv, pass_fds=[theirs.fileno()], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no interface can be made here: {made.stderr.splitlines()[-1:]}")
    _, (tun,), _, _ = socket.recv_fds(ours, 1, 1)
    assert b"\xff\xfe\xf6" in Path(f"/proc/self/fdinfo/{tun}").read_bytes()
    worker = dispatcher.worker()
    message = {"verb": "PLACE", "job": JOB, "worker": worker.pid, "limits": {}}
    assert wire.send(dispatcher.line, message, [tun])
    assert "is no process of the worker" in dispatcher.answer()[0]["failed"]
    assert alive(dispatcher.worker().pid)
    for each in (ours, theirs):
        each.close()
    os.close(tun)


# -------------------------------------------------------------------- systemd


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """A socket as systemd has it, and what names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@cronq-notify-{os.getpid()}"
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
    line.settimeout(60)
    yield line, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    line.close()


def test_systemd_is_told_by_the_launcher_alone(stage, systemd):
    line, variables = systemd
    stage.start(env=os.environ | variables | {"KEPT": "yes"})
    dispatcher = stage.dispatcher()
    for news, word in (("ready", b"READY=1"), ("turning", b"WATCHDOG=1"), ("turning", b"WATCHDOG=1")):
        assert wire.send(dispatcher.line, {"is": news})
        assert line.recv(100) == word
    environment = Path(f"/proc/{dispatcher.pid}/environ").read_bytes()
    assert b"KEPT=yes" in environment
    assert not any(name.encode() in environment for name in variables)  # nobody else speaks for it
    for _ in range(2):
        stage.process.terminate()
        assert dispatcher.signal() == "SIGTERM"
    assert line.recv(100) == b"STOPPING=1"
    dispatcher.exit(0)
    assert stage.exits() == 0
    line.settimeout(0.1)
    with pytest.raises(TimeoutError):
        line.recv(100)  # once


def test_a_systemd_that_does_not_listen_is_not_waited_for(stage, systemd):
    line, variables = systemd
    line.close()
    stage.start(env=os.environ | variables)
    dispatcher = stage.dispatcher()
    for _ in range(100):
        assert wire.send(dispatcher.line, {"is": "turning"})
    assert alive(dispatcher.worker().pid)


# -------------------------------------------------------------------- in a worker's process

SHOWN = """
def work(line, root, config, uid, system):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handled = [n for n in signal.valid_signals() if signal.getsignal(n) not in (signal.SIG_DFL, signal.SIG_IGN)]
    open_ = []
    for fd in range(200):
        try:
            os.fstat(fd)
            open_.append(fd)
        except OSError:
            pass
    wire.send(line, {"fds": open_, "line": line.fileno(), "blocked": len(blocked), "handled": handled,
        "null": [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1)], "log": os.fstat(2).st_ino,
        "cwd": os.getcwd(), "session": os.getsid(0) == os.getpid(), "given": [root, config, uid, system],
        "dumpable": linux._libc.prctl(3, 0, 0, 0, 0)})
    return 7
"""


def test_a_worker_has_the_named_descriptors_fresh_signals_and_a_session_of_its_own(stage):
    with (stage.path / "standin.py").open() as stdin:
        stage.start(SHOWN, stdin=stdin)
    worker = stage.dispatcher().worker()
    found = wire.receive(worker.line)[0]
    assert found["fds"] == [0, 1, 2, found["line"]]
    assert found["null"] == ["/dev/null", "/dev/null"]
    assert found["log"] == stage.log_path.stat().st_ino
    assert (found["blocked"], found["handled"], found["session"]) == (0, [], True)
    assert found["cwd"] == "/"
    assert found["dumpable"] == 0
    assert found["given"] == [str(stage.spool), str(stage.path), UID, None]
    eventually(lambda: f"event=worker-ended pid={worker.pid} code=7" in stage.log())


def test_without_standard_descriptors_nothing_else_takes_their_place(stage):
    stage.start(SHOWN, before="exec 0<&- 1<&- 2<&-")
    dispatcher = stage.dispatcher()
    found = wire.receive(dispatcher.worker().line)[0]
    assert dispatcher.told["fds"] == [0, 1, 2, dispatcher.told["line"]]
    assert dispatcher.told["line"] > 2
    assert found["fds"] == [0, 1, 2, found["line"]]
    assert found["line"] > 2


def test_what_a_child_raises_ends_the_child_only(stage):
    stage.start("def work(*_): raise SystemExit(0)")
    dispatcher = stage.dispatcher()
    worker = dispatcher.worker()
    assert worker.gone()
    eventually(lambda: f"event=worker-ended pid={worker.pid} code=70" in stage.log())
    assert "child-failed" in stage.log()
    assert dispatcher.worker().gone()  # the launcher is one, and serves


def test_a_worker_that_did_not_become_who_it_should_be_does_nothing(stage):
    stage.start("def refuse(self, uid): raise PermissionError('no way')\nrealm.Own.become_worker = refuse")
    worker = stage.dispatcher().worker()
    told = wire.receive(worker.line)[0]
    assert (told["is"], told["hold"]) == ("barred", False)
    eventually(lambda: f"event=worker-ended pid={worker.pid} code=126" in stage.log())
    assert "start failed: no way" in stage.log()


def test_a_worker_survives_its_launcher(stage, dispatcher):
    worker = dispatcher.worker()
    stage.process.kill()
    stage.process.wait()
    assert alive(worker.pid)
    worker.line.close()
    assert worker.gone()


def test_a_launcher_that_a_job_started_is_none_of_the_jobs(stage, monkeypatch):
    monkeypatch.setenv("CRONQ_JOB_ID", f"{UID}-a")
    spool.make(str(stage.spool), UID)
    argv = [sys.executable, "-I", "-m", "cronq.launcher", "--spool", str(stage.spool), "--config", str(stage.path)]
    with stage.log_path.open("w") as log:
        stage.process = subprocess.Popen(argv, stderr=log)
    eventually(lambda: "event=ready" in stage.log())
    family = {stage.process.pid, *_children(stage.process.pid)}
    assert not any(b"CRONQ_JOB_ID" in Path(f"/proc/{pid}/environ").read_bytes() for pid in family)
    stage.process.terminate()
    assert stage.exits() == 0


def test_become_makes_sure_who_it_is():
    realm.become_oneself(UID)
    with pytest.raises(PermissionError):
        realm.become_oneself(UID + 1)


# -------------------------------------------------------------------- the program


@pytest.mark.parametrize("argv", [[], ["--spool"], ["--spool", "a"], ["--spool", "a", "--spool", "b"], ["a"] * 5])
def test_a_wrong_command_line_is_told(argv, capsys):
    assert launcher.main(argv) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "inotify"), [([], []), (["--no-inotify"], ["--inotify", "no"])])
def test_the_dispatcher_is_told_where_spool_and_config_are(monkeypatch, more, inotify):
    made = []
    monkeypatch.setattr(launcher.Launcher, "serve", lambda self: made.append(self.command) or 0)
    assert launcher.main(["--spool", "s", "--config", "c", *more]) == 0
    assert made == [[sys.executable, "-I", "-m", "cronq.dispatcher", "--spool", "s", "--config", "c", *inotify]]


def _main(*options: str) -> tuple[int, str]:
    """How the program ends that does not begin, and what it says."""
    argv = [sys.executable, "-I", "-m", "cronq.launcher", "--config", str(CONFIG), "--system", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.root
@aside
def test_what_keeps_root_from_serving_everybody_is_told():
    code, said = _main("--spool", "/mnt/spool")
    assert code == 78
    assert said.startswith('event=cannot-start reason="the group cronq must have no members, and has eve;')
    Path("/etc/group").write_text(Path("/etc/group").read_text().replace("eve", ""))
    Path("/mnt/disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", "/mnt/disk"], check=True)
    code, said = _main("--spool", "/mnt/disk/spool")
    assert (code, said) == (70, 'event=cannot-start reason="/mnt/disk/spool: Read-only file system"\n')
    assert not Path("/mnt/spool").exists()


def test_nothing_but_the_standard_library_comes_along():
    code = "import sys, cronq.launcher; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-ISs", "-c", f"import sys; sys.path.insert(0, {str(_root())!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    loaded = {name for name in loaded if not name.startswith("_sysconfigdata")}  # how Python was built
    rooms = (
        "accounts acl attempt authority backoffs become callbacks cgroup channel cronfiles cronjobs cronmail "
        "cronrules crontab crontext cronworld deadline doubts entry envfile errors evidence fields forked gate ground "
        "hooks hosts job launcher limitkeys lineproof linux log loop notify options outcome output pooled pools "
        "process realm roottables "
        "safeopen schedule spool start status task taskbook taskkeys tick trusted uniquekeys wire worker"
    )
    assert loaded == {"cronq", *(f"cronq.{room}" for room in rooms.split())} | ({"__main__"} & loaded)
    assert not {"croniter", "subprocess", "argparse", "asyncio"} & set(done.stdout.split())


def _root() -> Path:
    return Path(launcher.__file__).parent.parent


def test_the_launcher_stays_small():
    assert len(Path(launcher.__file__).read_text().splitlines()) < 400


def test_what_is_measured_is_there_and_runs_in_the_launcher():
    """A module that is renamed would be missing in the report of `make cover-launcher`, and not missed."""
    settings = tomllib.loads((_root() / "pyproject.toml").read_text())["tool"]["coverage"]["run"]
    names = [Path(pattern).stem for pattern in settings["include"]]
    assert "launcher" in names
    assert [f"*/cronq/{name}.py" for name in names] == settings["include"]
    assert all(f"cronq.{name}" in sys.modules for name in names)
