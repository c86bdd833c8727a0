"""A job's world: what its task says of it, what waits at the gate, what cannot be, and what a stopped job leaves."""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import time
import traceback
from pathlib import Path

import pytest
from conftest import eventually, soon
from workbench import UID, alive, numbers

from cronq import attempt, envfile, gate, job, linux, process, realm, task
from cronq.attempt import Attempt
from cronq.loop import Loop
from cronq.outcome import Outcome
from cronq.start import Starter

OTHER = 12345  # an ordinary user, without an account
GROUPS = [12345, 20001, 20002]
as_root = pytest.mark.skipif(UID != 0, reason="needs root, to become an ordinary user")


def plan_of(table: dict, **keys) -> task.Plan:
    return task.plan(job.Job(task="a", **keys), {"a": task.decode("a", table, "cronq.toml")})


# -------------------------------------------------------------------- what a task says of its process


SHOW = "umask; nice; ulimit -Sn; ulimit -Hn; ulimit -Sc; cat /proc/self/oom_score_adj; "
SHOW += "grep NoNewPrivs /proc/self/status"


def test_a_task_says_umask_nice_limits_oom_score_and_privileges(hand, worker):
    hand.tasks(
        f"[tasks.a]\nshell = '{SHOW}'\numask = '027'\nnice = 7\noom_score_adj = 321\nno_new_privs = true\n"
        "rlimits = {nofile = 123, core = 0}\n"
    )
    assert worker.do("a", {"task": "a"})["exit_code"] == 0
    assert hand.output("a").decode().split() == ["0027", "7", "123", "123", "0", "321", "NoNewPrivs:", "1"]


def test_what_one_task_says_is_no_other_jobs(hand, worker):
    worker.sh("before", SHOW)
    worker.ended("before")
    hand.tasks(
        "[tasks.a]\ncommand = ['true']\numask = '077'\nnice = 9\noom_score_adj = 500\nno_new_privs = true\n"
        "rlimits = {nofile = 20, core = 0}\n"
    )
    worker.do("a", {"task": "a"})
    worker.sh("after", SHOW)
    worker.ended("after")
    assert hand.output("after") == hand.output("before")
    assert hand.output("after").split()[0] == b"0022"
    assert hand.output("after").endswith(b"NoNewPrivs:\t0\n")


def test_a_umask_alone_needs_no_fork(hand, worker):
    hand.tasks("[tasks.a]\nshell = 'umask; touch made'\numask = '000'\n")
    worker.do("a", {"task": "a", "cwd": str(hand.path)})
    assert hand.output("a") == b"0000\n"
    assert (hand.path / "made").stat().st_mode & 0o777 == 0o666
    assert gate.settings(plan_of({"command": ["true"], "umask": "000"})) == []


@pytest.mark.parametrize("name", sorted(gate.RLIMITS))
def test_each_limit_is_the_one_it_says(name):
    """Set in a child, and read back from outside."""
    plan = plan_of({"command": ["true"], "rlimits": {name: 4711}})
    ((said, act),) = gate.settings(plan)
    assert said == f"rlimits.{name} = {4711}"
    pid = os.fork()
    if pid == 0:
        act()
        signal.pause()
    try:
        which = getattr(resource, f"RLIMIT_{name.upper()}")
        eventually(lambda: resource.prlimit(pid, which) == (4711, 4711))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_unlimited_is_no_limit(hand, worker):
    hand.tasks("[tasks.a]\nshell = 'ulimit -Sv; ulimit -Hv'\nrlimits = {as = 'unlimited'}\n")
    worker.do("a", {"task": "a"})
    assert hand.output("a") == b"unlimited\nunlimited\n"


def test_less_memory_than_the_worker_itself_has_is_enough_for_a_small_program(hand, worker):
    env = "".join(f"A{number} = '{'x' * 60000}'\n" for number in range(20))
    hand.tasks(
        f"[tasks.a]\ncommand = ['/bin/echo', 'ran']\nrlimits = {{as = '12M', data = '2M'}}\n[tasks.a.env]\n{env}"
    )
    assert worker.do("a", {"task": "a"})["exit_code"] == 0
    assert hand.output("a") == b"ran\n"


# A job that is forked and not spawned is like any other.


def test_a_forked_jobs_descriptors_signals_session_and_directory_are_its_own(hand, worker):
    hand.tasks(
        "[tasks.a]\nnice = 1\nshell = 'ls /proc/self/fd; pwd; ulimit -n; cut -d\" \" -f 1,5,6 /proc/$$/stat'\n"
        "[tasks.b]\nnice = 1\ncommand = ['cat', '/proc/self/status', '-']\n"
        "[tasks.c]\nnice = 1\nshell = 'ls /proc/self/fd; exec sleep 100'\n"
    )
    worker.sh("plain", "ulimit -n")
    worker.ended("plain")
    for number in range(20):  # as many beside it as it takes to have descriptors for every number
        worker.run(f"c{number}", {"task": "c"})
    worker.do("a", {"task": "a", "cwd": str(hand.path)})
    *descriptors, folder, files, ids = hand.output("a").decode().splitlines()
    assert descriptors == ["0", "1", "2", "3"]  # 3 is where ls reads
    assert folder == str(hand.path)
    assert files.encode() == hand.output("plain").strip()
    pid, group, session = ids.split()
    assert pid == group == session
    worker.do("b", {"task": "b", "stdin": "the end"})
    status = dict(line.split(":\t") for line in hand.output("b").decode().splitlines()[:-1])
    internal = 3 << 31  # 32 and 33 are glibc's own, and come from whoever started the test
    assert [int(status[key], 16) & ~internal for key in ("SigPnd", "SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0, 0]
    assert hand.output("b").endswith(b"the end")
    for number in range(20):
        assert eventually(lambda name=f"c{number}": hand.output(name)) == b"0\n1\n2\n3\n"


@pytest.mark.parametrize("keys", ["", "nice = 1\n"])
def test_what_cannot_start_says_the_same_whether_forked_or_spawned(hand, worker, keys):
    (hand.path / "plain").write_text("echo\n")
    (hand.path / "lost").write_text("#!/no/such\n")
    for name in ("plain", "lost"):
        (hand.path / name).chmod(0o755)
    commands = {"gone": "/no/such", "here": "./no-such", "lost": "./lost", "plain": "./plain", "folder": "/tmp"}
    hand.tasks("".join(f"[tasks.{name}]\ncommand = ['{word}']\n{keys}" for name, word in commands.items()))
    found = {name: worker.do(name, {"task": name, "cwd": str(hand.path)}) for name in commands}
    assert {name: (ended["exit_code"], ended["reason"]) for name, ended in found.items()} == {
        "gone": (127, "cannot start: /no/such: not found"),
        "here": (127, "cannot start: ./no-such: not found"),
        "lost": (126, "cannot start: ./lost: the interpreter that its first line (#!) names is not found"),
        "plain": (126, "cannot start: ./plain: not a program; a script needs a first line like #!/bin/sh"),
        "folder": (126, "cannot start: /tmp: permission denied"),
    }
    assert {(ended["signal"], ended["wall"], ended["max_rss"]) for ended in found.values()} == {(None, 0.0, 0)}
    assert worker.do("after", {"command": ["true"]})["exit_code"] == 0


def test_a_job_that_exits_as_a_start_that_failed_is_told_as_itself(hand, worker):
    hand.tasks("".join(f"[tasks.a{code}]\nshell = 'exit {code}'\nnice = 1\n" for code in (125, 126, 127)))
    for code in (125, 126, 127):
        ended = worker.do(f"a{code}", {"task": f"a{code}"})
        assert (ended["exit_code"], ended["reason"]) == (code, None)


@pytest.mark.root
@as_root
def test_more_than_the_kernel_allows_anybody_is_told(hand, worker):
    hand.tasks("[tasks.a]\ncommand = ['true']\nrlimits = {nofile = 2147483647}\n")
    ended = worker.do("a", {"task": "a"})
    assert ended["exit_code"] == 126
    assert ended["reason"].startswith("cannot start: rlimits.nofile = 2147483647 is above the daemon's hard limit of ")


# -------------------------------------------------------------------- as an ordinary user


def as_user(call, hard: dict[int, int] | None = None):
    """What `call` gives, in a process that has become an ordinary user as a worker does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            for which, value in (hard or {}).items():
                resource.setrlimit(which, (value, value))
            os.setgroups(GROUPS)
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            linux.set_undumpable()
            for number in gate.IGNORED:
                signal.signal(number, signal.SIG_IGN)
            os.chdir("/")
            os.write(writing, json.dumps(call()).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - a fork of the test must never run on as a second test run
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(told)


def held(starter: Starter, table: dict, output: int) -> gate.Held:
    plan = plan_of(table)
    message = {"id": f"{os.getuid()}-a", "attempt": 1, "redelivered": False, "scheduled": 1e9}
    return starter.hold(plan, starter.environment(plan, message, "a"), (output, output), None)


def outcome_of(table: dict) -> tuple[str | None, str]:
    """Why a job of this task could not start, or what it printed."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    starter = Starter("/spool", os.getuid())
    child = held(starter, table, writing)
    os.close(writing)
    child.go()
    select.select([child.report], [], [])
    why = starter.why_not(child)
    child.close()
    with os.fdopen(reading) as file:
        printed = file.read()
    os.waitpid(child.pid, 0)
    return why and why.sentence, printed


@pytest.mark.root
@as_root
def test_an_ordinary_user_can_have_all_of_it_and_keeps_every_group():
    script = (
        "id -u; id -G; umask; nice; ulimit -Hn; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status; pwd"
    )
    table = {"shell": script, "umask": "077", "nice": 3, "oom_score_adj": 700, "no_new_privs": True}
    why, printed = as_user(lambda: outcome_of({**table, "rlimits": {"nofile": 99}}))
    assert why is None
    uid, groups, *rest = printed.splitlines()
    assert int(uid) == OTHER
    assert sorted(map(int, groups.split())) == GROUPS
    assert rest == ["0077", "3", "99", "700", "NoNewPrivs:\t1", "/"]


@pytest.mark.root
@as_root
def test_a_limit_above_the_hard_one_is_no_silent_pass():
    hard = {resource.RLIMIT_CORE: 4096, resource.RLIMIT_AS: 1 << 30}
    for name, asked, most in (("core", 4097, 4096), ("as", "unlimited", 1 << 30)):
        why, printed = as_user(lambda: outcome_of({"shell": "echo ran", "rlimits": {name: asked}}), hard)  # noqa: B023
        sentence = f"cannot start: rlimits.{name} = {asked} is above the daemon's hard limit of {most}"
        assert why.startswith(sentence)
        assert printed == ""
    assert as_user(lambda: outcome_of({"shell": "echo ran", "rlimits": {"core": 4096}}), hard) == [None, "ran\n"]


@pytest.mark.root
@as_root
def test_a_nice_that_only_root_could_have_is_told():
    def try_it():
        os.nice(10)
        return outcome_of({"shell": "echo ran", "nice": 5})

    assert as_user(try_it) == ["cannot start: nice = 5: permission denied", ""]


@pytest.mark.root
@as_root
def test_no_more_processes_is_a_sentence():
    def try_it():
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        starter = Starter("/spool", OTHER)
        try:
            held(starter, {"shell": "echo ran"}, 2)
        except OSError as error:  # not a `CannotStart`: it is no fault of the job's
            return error.strerror
        return None

    assert as_user(try_it) == "too many processes (RLIMIT_NPROC, or the cgroup's pids.max)"


@pytest.mark.root
@as_root
def test_a_child_at_its_gate_is_closed_to_the_users_other_jobs_until_it_is_one():
    def try_it():
        secret = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # the worker's own: an outcome file, its line
        child = held(Starter("/spool", OTHER), {"command": ["/bin/sleep", "100"]}, os.open("/dev/null", os.O_WRONLY))
        eventually(lambda: process.look(child.pid).state == b"S")
        before = os.stat(f"/proc/{child.pid}/environ").st_uid, _open_to(child.pid)
        child.go()
        after = eventually(lambda: os.stat(f"/proc/{child.pid}/environ").st_uid)
        os.kill(child.pid, signal.SIGKILL)
        os.close(secret)
        return [*before, after]

    assert as_user(try_it) == [0, False, OTHER]


@pytest.mark.root
@as_root
def test_a_child_that_opens_itself_to_change_its_score_closes_itself_again():
    def try_it():
        before = os.stat("/proc/self/environ").st_uid
        gate._set_oom_score(400)
        return before, int(Path("/proc/self/oom_score_adj").read_text()), os.stat("/proc/self/environ").st_uid

    assert as_user(try_it) == [0, 400, 0]


def _open_to(pid: int) -> bool:
    """Whether another process of this user may look at this one's memory and descriptors."""
    try:
        os.listdir(f"/proc/{pid}/fd")
        with open(f"/proc/{pid}/mem", "rb"):
            return True
    except PermissionError:
        return False


@pytest.mark.root
@as_root
def test_a_child_at_its_gate_has_its_own_descriptors_only():
    """Not its worker's: a lock on an outcome must not outlive the worker for a moment."""
    kept = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(40)]
    output = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    child = held(Starter("/spool", UID), {"shell": "true"}, output)
    try:
        eventually(lambda: process.look(child.pid).state == b"S")
        found = sorted(os.listdir(f"/proc/{child.pid}/fd"), key=int)
        assert found[:3] == ["0", "1", "2"]
        assert [os.readlink(f"/proc/{child.pid}/fd/{name}")[:5] for name in found[3:]] == ["pipe:", "pipe:"]
    finally:
        child.close()
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        for descriptor in (*kept, output):
            os.close(descriptor)


@pytest.mark.root
@as_root
def test_what_favours_the_daemon_is_not_for_its_jobs():
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -5)
            Path("/proc/self/oom_score_adj").write_text("300")
            realm._be_like_others()
            code = os.getpriority(os.PRIO_PROCESS, 0) + int(Path("/proc/self/oom_score_adj").read_text())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -------------------------------------------------------------------- env_file


def test_an_env_file_gives_variables_that_task_and_job_may_replace(hand, worker):
    file = hand.path / "env"
    file.write_text(
        '# of the service\n\nPLAIN=a b # not a comment\nDOUBLE=" kept "\nSINGLE=\'$HOME "x"\'\n  SPACED = 1  \n'
        "EMPTY=\nTWICE=1\nTWICE=2\nOF_TASK=file\nOF_JOB=file\nHOME=/elsewhere\nCRONQ_JOB_ID=0-other\nEQUALS=a=b\r\n"
    )
    file.chmod(0o600)
    hand.tasks(
        f"[tasks.a]\ncommand = ['env', '-0']\nenv_file = '{file}'\nenv = {{OF_TASK = 'task', OF_JOB = 'task'}}\n"
    )
    worker.do("a", {"task": "a", "env": {"OF_JOB": "job"}})
    found = dict(item.split("=", 1) for item in hand.output("a").decode().split("\0") if item)
    expected = {
        "PLAIN": "a b # not a comment",
        "DOUBLE": " kept ",
        "SINGLE": '$HOME "x"',
        "SPACED": "1",
        "EMPTY": "",
        "TWICE": "2",
        "OF_TASK": "task",
        "OF_JOB": "job",
        "HOME": "/elsewhere",
        "CRONQ_JOB_ID": f"{UID}-a",
        "EQUALS": "a=b",
    }
    assert {key: found[key] for key in expected} == expected
    file.write_text("PLAIN=changed\n")
    worker.do("b", {"task": "a"})
    assert b"PLAIN=changed\0" in hand.output("b")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"A=1\nno equals\n", "line 2: not KEY=VALUE"),
        (b"export A=1\n", "line 1: not KEY=VALUE"),
        (b"1A=1\n", "line 1: not KEY=VALUE"),
        (b"=1\n", "line 1: not KEY=VALUE"),
        (b"A-B=1\n", "line 1: not KEY=VALUE"),
        (b'A="1\n', 'line 1: a value that begins with "'),
        (b"A='1' # x\n", "line 1: a value that begins with '"),
        (b"A='1'2'\n", "line 1: a value that begins with '"),
        (b"A='\n", "line 1: a value that begins with '"),
        (b"A=\xff\n", "line 1: not UTF-8"),
        (b"A=x\0y\n", "line 1: has a NUL byte"),
    ],
)
def test_a_line_of_an_env_file_that_says_nothing_is_told(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        envfile.parse(text, "/etc/x.env")


def test_an_env_file_that_cannot_be_used_means_no_start(hand, worker):
    hand.tasks(f"[tasks.a]\nshell = 'echo ran'\nenv_file = '{hand.path}/env'\n")
    file = hand.path / "env"

    def told() -> str:
        told.count += 1
        ended = worker.do(f"a{told.count}", {"task": "a"})
        assert (ended["exit_code"], hand.output(f"a{told.count}")) == (126, b"")
        return ended["reason"].removeprefix(f"cannot start: env_file {file}: ")

    told.count = 0
    assert told() == "no such file or directory"
    os.mkfifo(file)
    assert told() == "not a regular file"
    file.unlink()
    file.mkdir()
    assert told() == "not a regular file"
    file.rmdir()
    file.write_bytes(b"A=" + b"x" * envfile.MOST_BYTES)
    assert told() == "longer than 65536 bytes"
    file.write_text("A=1\n")
    for mode in (0o620, 0o602):
        file.chmod(mode)
        assert told() == f"its group or others may write it (mode {mode:o}); chmod go-w it"
    file.chmod(0o644)
    assert worker.do("good", {"task": "a"})["exit_code"] == 0


@pytest.mark.root
@as_root
def test_an_env_file_belongs_to_root_or_to_the_user(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    file = tmp_path / "env"
    file.write_text("A=1\n")
    file.chmod(0o644)
    read = lambda: envfile.read(str(file))  # noqa: E731
    assert as_user(read) == {"A": "1"}
    os.chown(file, OTHER, OTHER)
    assert as_user(read) == {"A": "1"}
    file.chmod(0o600)
    assert as_user(read) == {"A": "1"}
    os.chown(file, OTHER + 1, OTHER)
    file.chmod(0o644)
    assert as_user(lambda: _refused(file)).startswith(f"{file}: belongs to uid {OTHER + 1}; it must be root's")
    os.chown(file, 0, 0)
    file.chmod(0o600)
    assert as_user(lambda: _refused(file)) == f"{file}: permission denied"


def _refused(file: Path) -> str:
    try:
        envfile.read(str(file))
    except ValueError as error:
        return str(error)
    return ""


# -------------------------------------------------------------------- the gate


class Stage:
    """One user's attempts in this process, each with real files and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = str(path / "spool")
        self.loop = Loop()
        self.starter = Starter(self.spool, UID)
        self.hunts = process.Hunts(self.loop, self.spool, lambda *_: None)
        self.asked: list[tuple[Attempt, int | None]] = []
        self.over: list[Attempt] = []
        self.steps: list[str] = []

    def place(self, asking: Attempt, pidfd: int) -> bool:
        self.asked.append((asking, process.pid_of(pidfd)))
        return True

    def begin(self, table: dict, name: str = "a", number: int = 1, **parts) -> Attempt:
        files = [self.path / f"{name}{number}.{each}" for each in ("outcome", "stdout", "stderr")]
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        outcome, *results = (os.open(file, flags, 0o600) for file in files)
        message = {"id": f"{UID}-{name}", "attempt": number, "redelivered": False, "scheduled": 1e9}
        found = Attempt(
            message, plan_of(table), Outcome(outcome), self.loop, self.over.append, self.steps.append, **parts
        )
        found.start(self.starter, "a", results, None)
        return found

    def until(self, probe, within: float = 45.0):
        end = time.monotonic() + within
        while not (found := probe()):
            assert time.monotonic() < end
            timer = self.loop.after(0.005, lambda: None)
            self.loop.turn()
            self.loop.cancel(timer)
        return found

    def ended(self, of: Attempt) -> dict:
        self.until(lambda: of in self.over)
        return self.told(of)[-1]

    def told(self, of: Attempt) -> list[dict]:
        file = self.path / f"{of.id.partition('-')[2]}{of.number}.outcome"
        return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def stage(tmp_path):
    umask, limits = os.umask(0o022), resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = os.getcwd()
    found = Stage(tmp_path)
    yield found
    os.chdir(folder)
    os.umask(umask)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for descriptor in (found.starter._null, *found.starter._places):
        os.close(descriptor)


def test_nothing_of_a_job_runs_before_it_has_its_place(stage):
    ran = stage.path / "ran"
    waiting = stage.begin({"shell": f"echo ran > {ran}; exit 3"}, place=stage.place)
    assert stage.asked == [(waiting, waiting.pid)]
    assert [step["step"] for step in stage.told(waiting)] == ["starting", "started"]
    assert stage.told(waiting)[-1]["pid"] == waiting.pid
    stage.until(lambda: process.look(waiting.pid).state == b"S")  # at its gate
    assert os.readlink(f"/proc/{waiting.pid}/exe") == os.readlink("/proc/self/exe")
    assert not ran.exists()
    waiting.go()
    assert stage.ended(waiting)["exit_code"] == 3
    assert (ran.read_text(), waiting.placed) == ("ran\n", True)
    assert stage.steps == ["starting", "spawned", "started", "ended"]


def test_a_place_that_nobody_gives_is_not_waited_for_long(stage, monkeypatch):
    monkeypatch.setattr(attempt, "PLACING", 0.05)
    waiting = stage.begin({"command": ["true"]}, place=stage.place)
    assert stage.ended(waiting)["exit_code"] == 0
    assert not waiting.placed


def test_without_anybody_to_ask_a_job_runs_at_once(stage):
    waiting = stage.begin({"command": ["true"]}, place=lambda *_: False)
    assert stage.ended(waiting)["exit_code"] == 0
    assert not waiting.placed


def test_a_place_that_comes_too_late_or_twice_changes_nothing(stage):
    waiting = stage.begin({"shell": "exit 4"}, place=stage.place)
    waiting.go(False)
    waiting.go(True)
    assert stage.ended(waiting)["exit_code"] == 4
    waiting.go(True)
    assert not waiting.placed


def test_time_at_the_gate_is_not_the_jobs(stage):
    waiting = stage.begin({"shell": "exec sleep 100", "timeout": "100ms"}, place=stage.place)
    began = time.monotonic()
    stage.until(lambda: time.monotonic() - began > 0.3)
    assert waiting.alive
    waiting.go()
    ended = stage.ended(waiting)
    assert ended["reason"] == "timeout"
    assert ended["wall"] < time.monotonic() - began - 0.25


@pytest.mark.parametrize("now", [False, True])
def test_what_is_stopped_at_its_gate_never_runs(stage, now):
    ran = stage.path / "ran"
    waiting = stage.begin({"shell": f"echo ran > {ran}"}, place=stage.place)
    waiting.stop("cancelled", now)
    waiting.go()
    ended = stage.ended(waiting)
    assert ended["reason"] == "cancelled"
    assert ended["signal"] in (signal.SIGKILL, None)  # None: it saw that nobody waits for it any more, and left first
    assert not ran.exists()


def test_who_was_killed_at_its_gate_may_be_let_through(stage):
    waiting = stage.begin({"command": ["true"]}, place=stage.place)
    os.kill(waiting.pid, signal.SIGKILL)
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)
    waiting.go()
    ended = stage.ended(waiting)
    assert (ended["signal"], ended["reason"]) == (signal.SIGKILL, None)


def test_a_program_that_is_not_there_is_told_after_the_gate(stage):
    waiting = stage.begin({"command": ["/no/such"]}, place=stage.place)
    waiting.go()
    ended = stage.ended(waiting)
    assert (ended["exit_code"], ended["reason"]) == (127, "cannot start: /no/such: not found")
    assert [step["step"] for step in stage.told(waiting)] == ["starting", "started", "ended"]


def test_a_gate_leaves_nothing_open(stage):
    gc.collect()  # what other tests left
    before = sorted(os.listdir("/proc/self/fd"))
    for number, table in enumerate(({"command": ["true"]}, {"command": ["/no/such"]}, {"shell": "exit 1", "nice": 3})):
        for then in (Attempt.go, lambda of: of.stop("cancelled")):
            waiting = stage.begin(table, name=f"a{number}", place=stage.place)
            then(waiting)
            stage.ended(waiting)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_when_the_worker_dies_what_waits_at_its_gates_ends_without_having_run(tmp_path):
    ran, pids = tmp_path / "ran", tmp_path / "pids"
    worker = os.fork()
    if worker == 0:
        starter = Starter("/spool", UID)
        held_ones = [held(starter, {"shell": f"echo ran >> {ran}"}, 2) for _ in range(3)]
        pids.write_text("".join(f"{each.pid}\n" for each in held_ones))
        signal.pause()
    waiting = eventually(lambda: len(found := numbers(pids)) == 3 and found)
    eventually(lambda: all(process.look(pid).state == b"S" for pid in waiting))
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    eventually(lambda: not any(map(alive, waiting)))
    assert not ran.exists()


def test_no_signal_is_lost_between_the_fork_and_the_childs_own_dispositions():
    before, folder = signal.signal(signal.SIGTERM, signal.SIG_IGN), os.getcwd()  # as a worker does
    starter = Starter("/spool", UID)
    try:
        for _ in range(30):
            child = held(starter, {"shell": "exec sleep 100"}, 2)
            os.kill(child.pid, signal.SIGTERM)
            child.go()
            assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGTERM
            child.close()
    finally:
        signal.signal(signal.SIGTERM, before)
        os.chdir(folder)


def test_a_job_that_is_stopped_as_soon_as_it_may_run_hears_it_though_it_has_no_group_yet(stage):
    for number in range(20):
        waiting = stage.begin({"shell": "exec sleep 100", "grace": "1h"}, number=number, place=stage.place)
        waiting.go()
        waiting.stop("cancelled")
        assert stage.ended(waiting)["signal"] == signal.SIGTERM


# -------------------------------------------------------------------- what a stopped job leaves behind


CHILDREN = "i=0; while [ $i -lt 100 ]; do sleep 100 & setsid sleep 100 & i=$((i+1)); done; : > {path}/ready; wait"


def carriers(stage: Stage, name: str = "a") -> list[int]:
    spool = b"CRONQ_SPOOL=" + os.fsencode(stage.spool)
    own = f"{UID}-{name}".encode()
    found = process.snapshot(spool).values()
    return [each.pid for each in found if each.carries == own and each.state not in (b"Z", b"X")]


@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
def test_two_hundred_children_are_gone_within_a_second_also_those_that_called_setsid(stage, reason):
    began = time.monotonic()
    running = stage.begin({"shell": CHILDREN.format(path=stage.path)}, hunts=stage.hunts)
    stage.until((stage.path / "ready").exists)
    stage.until(lambda: len(carriers(stage)) == 201)
    with soon(1.0, began):
        running.stop(reason, now=True)
        ended = stage.ended(running)
        assert carriers(stage) == []
    assert (ended["reason"], ended["signal"]) == (reason, signal.SIGKILL)
    assert ended["wall"] < 60


def test_what_was_placed_is_left_to_who_placed_it(stage, monkeypatch):
    """The cgroup ends it, exactly; no look at every process there is."""
    monkeypatch.setattr(attempt, "DRAIN", 3600.0)  # it holds the pipes, and nobody waits for what it prints
    running = stage.begin({"shell": "setsid sleep 100 & exec sleep 100"}, place=stage.place, hunts=stage.hunts)
    running.go()
    stage.until(lambda: len(carriers(stage)) == 2)
    running.stop("cancelled", now=True)
    stage.ended(running)
    (escaped,) = carriers(stage)
    os.kill(escaped, signal.SIGKILL)


def test_only_what_belongs_to_the_stopped_attempt_is_ended(stage):
    leaves = {"shell": "setsid sleep 100 > /dev/null 2>&1 & exec true", "leave_children": True}
    stage.ended(stage.begin(leaves, number=1, hunts=stage.hunts))
    stage.ended(stage.begin(leaves, name="b", hunts=stage.hunts))
    (earlier,) = stage.until(lambda: carriers(stage))
    (other,) = stage.until(lambda: carriers(stage, "b"))
    tick = process.start_time(earlier)
    stage.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > tick + 2)
    running = stage.begin({"shell": "setsid sleep 100 & exec sleep 100"}, number=2, hunts=stage.hunts)
    stage.until(lambda: len(carriers(stage)) == 3)
    running.stop("cancelled", now=True)
    stage.ended(running)
    assert (carriers(stage), carriers(stage, "b")) == ([earlier], [other])
    for pid in (earlier, other):
        os.kill(pid, signal.SIGKILL)


def test_what_cannot_be_ended_does_not_hold_up_the_outcome_for_long(stage, monkeypatch):
    monkeypatch.setattr(process, "kill", lambda _process: None)  # as if it were another user's
    monkeypatch.setattr(process, "PATIENCE", 3600.0)  # of those for whom no outcome waits
    monkeypatch.setattr(process, "SHORT_PATIENCE", 1.5)
    running = stage.begin({"shell": "setsid sleep 100 & exec sleep 100"}, hunts=stage.hunts)
    stage.until(lambda: len(carriers(stage)) == 2)
    running.stop("cancelled", now=True)
    short = stage.begin({"command": ["true"]}, name="b")
    stage.ended(short)
    assert running not in stage.over
    stage.ended(running)
    with contextlib.suppress(ProcessLookupError):
        for pid in carriers(stage):
            os.kill(pid, signal.SIGKILL)
