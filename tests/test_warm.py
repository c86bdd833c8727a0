"""Warm workers: a task's Python function, imported once, a fork for each job; with real workers, hosts and jobs."""

import itertools
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually
from test_worker import _reap as reap
from test_worker import who
from workbench import UID, alive, idle, numbers

from cronq import process, wire
from cronq.task import DEFAULT_PATH

MODULE = """
import json, os, sys, threading, time
if "TAKEN" in os.environ:
    os.environ["OF_MODULE"] = os.environ.pop("TAKEN")
HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "imports"), "a") as file:
    file.write(f"{os.getpid()}\\n")
count = 0

def say(*args):
    global count
    count += 1
    print(*args, count)

def look(*args):
    print(json.dumps({
        "fds": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": os.umask(0o777),
        "stdin": sys.stdin.read(),
        "session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "argv": sys.argv[1:],
    }))
    os.environ["LEAK"] = "leak"

def end(how):
    if how == "raise":
        raise ValueError("of the job")
    if how == "thread":
        threading.Thread(target=lambda: (time.sleep(0.05), print("later"))).start()
        return None
    if how.isdigit():
        return int(how)
    if how == "exit":
        sys.exit("no good")
    os.kill(os.getpid(), int(how[4:]))

def wait(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(100)

def status():
    os.write(3, b"progress 1/2\\nresult " + str(os.getpid()).encode() + b"\\n")
"""


@pytest.fixture
def warm(hand, tmp_path):
    """Where the module is; `warm(function)` writes a task of each mode."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "warmed.py").write_text(MODULE)

    def write(function: str, more: str = "", mode: str = "fork", age: float = 10.0) -> None:
        text = f"[tasks.t]\npython = '{write.module}:{function}'\nmode = '{mode}'\ncwd = '{folder}'\n"
        hand.tasks(f"{text}{write.more}\n{more}\n", age=age)

    write.folder, write.module, write.more = folder, "warmed", ""
    return write


def hosts(warm) -> list[int]:
    """The pids of all processes that have imported the module."""
    return numbers(warm.folder / "imports")


def test_the_function_is_imported_once_and_each_job_is_a_process_of_its_own_that_starts_from_there(hand, worker, warm):
    warm("say")
    for name in ("a", "b", "c"):
        ended = worker.do(name, {"task": "t", "args": ["hello", name]})
        assert (ended["exit_code"], ended["signal"], ended["reason"]) == (0, None, None)
        assert hand.output(name) == f"hello {name} 1\n".encode()
        assert ended["stdout"] == {"bytes": len(hand.output(name)), "cut": False}
        assert hand.steps(name) == ["starting", "started", "ended"]
    assert len(hosts(warm)) == 1
    pids = {hand.outcome(name)[1]["pid"] for name in ("a", "b", "c")}
    assert len(pids) == 3
    assert not pids & set(hosts(warm))


def test_without_a_mode_the_same_function_is_called_in_a_new_process_each_time(hand, worker, warm):
    warm("say", mode="exec")
    for name in ("a", "b"):
        assert worker.do(name, {"task": "t", "args": [name]})["exit_code"] == 0
        assert hand.output(name) == f"{name} 1\n".encode()
    assert hosts(warm) == [hand.outcome(name)[1]["pid"] for name in ("a", "b")]


@pytest.mark.parametrize("mode", ["exec", "fork"])
@pytest.mark.parametrize(
    ("how", "code", "number", "stderr"),
    [
        ("0", 0, None, ""),
        ("7", 7, None, ""),
        ("exit", 1, None, "no good"),
        ("raise", 1, None, "ValueError: of the job"),
        ("kill9", None, 9, ""),
        ("kill6", None, 6, ""),
        ("thread", 0, None, ""),
    ],
)
def test_a_function_ends_as_a_program_would(hand, worker, warm, mode, how, code, number, stderr):
    warm("end", mode=mode)
    ended = worker.do("a", {"task": "t", "args": [how]})
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (code, number, None)
    assert stderr in hand.output("a", "stderr").decode()
    assert hand.output("a") == (b"later\n" if how == "thread" else b"")


def test_a_job_has_its_own_descriptors_environment_directory_umask_and_input_and_nothing_of_the_one_before(
    hand, worker, warm, tmp_path
):
    warm("look", "umask = '027'\nenv = {A = 'task', TAKEN = 't'}")
    data = tmp_path / "data"
    data.write_text("from a file")
    worker.do("a", {"task": "t", "args": ["1"], "stdin": "first", "env": {"B": "b"}}, status=True)
    worker.do("b", {"task": "t"}, data=str(data))
    worker.do("c", {"task": "t"})
    found = {name: json.loads(hand.output(name)) for name in ("a", "b", "c")}
    name, home, shell = who()
    common = {"PATH": DEFAULT_PATH, "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell}
    common |= {"LANG": os.environ.get("LANG", "C.UTF-8"), "A": "task", "OF_MODULE": "t", "CRONQ_SPOOL": str(hand.spool)}
    common |= {"CRONQ_TASK": "t", "CRONQ_ATTEMPT": "1", "CRONQ_MAX_ATTEMPTS": "1", "CRONQ_REDELIVERED": "0"}
    common |= {"CRONQ_SCHEDULED_AT": "2001-09-09T01:46:40Z"}
    for each in ("a", "b", "c"):
        expected = common | {"CRONQ_JOB_ID": f"{UID}-{each}"}
        expected |= {"B": "b", "CRONQ_STATUS_FD": "3"} if each == "a" else {}
        assert found[each]["env"] == expected
        assert found[each]["fds"] == ["0", "1", "2"] + ["3"] * (each == "a")
        assert (found[each]["cwd"], found[each]["umask"]) == (str(warm.folder), 0o027)
        assert found[each]["session"]
    assert [found[each]["stdin"] for each in ("a", "b", "c")] == ["first", "from a file", ""]
    assert [found[each]["argv"] for each in ("a", "b", "c")] == [["1"], [], []]
    assert len(hosts(warm)) == 1


EXITS = """
import atexit, multiprocessing.util, os, random, time
def later():
    time.sleep(0.2)
    print("of a child", flush=True)
atexit.register(lambda: print("of the host", flush=True))
random.seed(1)
def host(folder):
    atexit.register(lambda: print("of the job", flush=True))
    print(random.random(), os.getcwd(), flush=True)
    multiprocessing.get_context("fork").Process(target=later).start()
"""


def test_a_job_runs_what_it_has_registered_for_its_end_and_nothing_of_the_hosts_and_draws_its_own_numbers(
    hand, worker, warm
):
    (warm.folder / "warmed.py").write_text(EXITS)
    text = f"[tasks.t]\npython = 'warmed:host'\nmode = 'fork'\nenv = {{PYTHONPATH = '{warm.folder}'}}\n"
    hand.tasks(text, age=10.0)
    (hand.path / "there").mkdir()
    drawn = set()
    for name in ("a", "b"):
        assert worker.do(name, {"task": "t", "args": ["x"], "cwd": f"{hand.path}/there"})["exit_code"] == 0
        words = hand.output(name).decode().split("\n")
        assert sorted(words[1:]) == ["", "of a child", "of the job"]
        assert words[0].endswith("/there")
        drawn.add(words[0])
    assert len(drawn) == 2
    gone = worker.do("c", {"task": "t", "cwd": "/nowhere"})
    assert gone["reason"] == "cannot start: the directory /nowhere: there is no such directory"


def test_what_a_job_says_by_its_status_descriptor_arrives(hand, worker, warm):
    warm("status")
    said = worker.do("a", {"task": "t"}, status=True)["said"]
    assert said == {"progress": [1, 2], "result": str(hand.outcome("a")[1]["pid"])}


# -------------------------------------------------------------------- a host is made anew


def served(hand, worker, name: str) -> int:
    """Run a job of the function `host`, and give the pid of the host that it came from: the job prints it."""
    assert worker.do(name, {"task": "t"})["exit_code"] == 0
    return int(hand.output(name))


def rewrite(path: Path, text: str, age: float = 100.0) -> None:
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))


CHANGES = {
    "the function's module": lambda warm: rewrite(warm.folder / "parcel" / "work.py", WORK + "\n", 50.0),
    "another of its package": lambda warm: rewrite(warm.folder / "parcel" / "more.py", "\n", 50.0),
    "the task": lambda warm: warm("host", f"env_file = '{warm.folder}/env'\nenv = {{B = 'b'}}", age=5.0),
    "the env_file": lambda warm: rewrite(warm.folder / "env", "A=2\n"),
    "what its interpreter is": lambda warm: (warm.folder / "python").touch(),
}
WORK = "import os\nfrom parcel import more\nPID = os.getpid()\ndef host():\n    print(PID)\n"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_anything_that_a_host_was_made_of_has_it_made_anew(hand, worker, warm, change):
    (warm.folder / "parcel").mkdir()
    for name, text in (("__init__.py", ""), ("work.py", WORK), ("more.py", "")):
        rewrite(warm.folder / "parcel" / name, text)
    rewrite(warm.folder / "env", "A=1\n")
    rewrite(warm.folder / "python", f"#!/bin/sh\nexec {sys.executable} \"$@\"\n")
    (warm.folder / "python").chmod(0o755)
    warm.module, warm.more = "parcel.work", f"interpreter = '{warm.folder}/python'"
    warm("host", f"env_file = '{warm.folder}/env'")
    first = served(hand, worker, "a")
    assert served(hand, worker, "b") == first
    change(warm)
    names = (f"c{number}" for number in itertools.count())  # the configuration is looked at now and then
    eventually(lambda: served(hand, worker, next(names)) != first)
    eventually(lambda: not alive(first))


def test_a_file_that_was_written_while_it_was_imported_is_imported_again(hand, worker, warm):
    late = "import os\nos.utime(__file__)\nPID = os.getpid()\ndef host():\n    print(PID)\n"
    (warm.folder / "late.py").write_text(late)
    warm.module = "late"
    warm("host")
    assert served(hand, worker, "a") != served(hand, worker, "b")


def test_max_jobs_max_age_and_max_rss_have_a_host_made_anew(hand, worker, warm):
    (warm.folder / "warmed.py").write_text(WORK.replace("from parcel import more", ""))
    rewrite(warm.folder / "warmed.py", (warm.folder / "warmed.py").read_text())
    warm("host", "max_jobs = 2")
    first, second, third = (served(hand, worker, name) for name in ("a", "b", "c"))
    assert first == second != third
    for number, limit in enumerate(("max_age = '1ms'", "max_rss = '1M'", "max_rss = '100G'", "max_age = '1d'")):
        other = hand.worker()
        warm("host", limit)
        same = served(hand, other, f"d{number}") == served(hand, other, f"e{number}")
        assert same == (number > 1), limit


# -------------------------------------------------------------------- what each death leaves


def running(hand, worker, warm, name: str = "a", more: str = "") -> int:
    """The pid of a job of the function `wait`, which has begun."""
    warm("wait", more)
    path = hand.path / f"pids.{name}"
    worker.run(name, {"task": "t", "args": [str(path)]})
    return eventually(lambda: numbers(path))[0]


def test_a_job_outlives_its_host_and_is_told_of_as_ever(hand, worker, warm):
    pid = running(hand, worker, warm)
    (host,) = hosts(warm)
    os.kill(host, signal.SIGKILL)
    eventually(lambda: not alive(host))
    running(hand, worker, warm, "b")
    assert len(hosts(warm)) == 2
    assert alive(pid)
    os.kill(pid, signal.SIGUSR1)
    ended = worker.ended("a")
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (None, signal.SIGUSR1, None)


def test_a_module_that_cannot_be_imported_fails_the_job_that_waits_says_why_and_is_looked_at_again(hand, worker, warm):
    warm.module = "absent"
    warm("host")
    ended = worker.do("a", {"task": "t"})
    assert (ended["exit_code"], ended["signal"]) == (126, None)
    assert ended["reason"] == (
        "cannot start: its host ended (exit code 1) before it had begun a job; stderr may say why"
    )
    assert "No module named 'absent'" in hand.output("a", "stderr").decode()
    (warm.folder / "absent.py").write_text("def host():\n    print(7)\n")
    assert served(hand, worker, "b") == 7


def test_an_interpreter_that_is_not_there_is_told(worker, warm):
    warm.more = "interpreter = '/nowhere/python'"
    warm("say")
    ended = worker.do("a", {"task": "t"})
    assert (ended["exit_code"], ended["reason"]) == (127, "cannot start: /nowhere/python: not found")


SLOW = """
import os, time
with open(os.path.join(os.path.dirname(__file__), "imports"), "a") as file:
    file.write(f"{os.getpid()}\\n")
while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
    time.sleep(0.01)
def host():
    print(os.getpid())
"""


def importing(hand, worker, warm, more: str = "") -> int:
    """The pid of a host that imports for as long as there is no file `go`, and for which job "a" waits."""
    (warm.folder / "warmed.py").write_text(SLOW)
    warm("host", more)
    worker.run("a", {"task": "t"})
    return eventually(lambda: hosts(warm))[0]


def test_a_job_whose_host_is_killed_before_it_began_any_cannot_start(hand, worker, warm):
    os.kill(importing(hand, worker, warm), signal.SIGKILL)
    ended = worker.ended("a")
    assert ended["exit_code"] == 126
    assert "its host ended (signal 9) before it had begun a job" in ended["reason"]
    assert hand.steps("a") == ["starting", "ended"]


def test_a_job_that_its_host_had_not_begun_goes_back_where_that_has_begun_others(hand, worker, warm):
    running(hand, worker, warm, "before")
    (host,) = hosts(warm)
    os.kill(host, signal.SIGSTOP)
    worker.run("a", {"task": "t", "args": [str(hand.path / "never")]})
    worker.hear("starting", "a")
    eventually(lambda: hand.steps("a") == ["starting"])
    os.kill(host, signal.SIGKILL)
    told = worker.ended("a")
    assert (told["step"], told["again"]) == ("refused", True)  # whether it was asked already, or could not be
    assert not (hand.path / "never").exists()


@pytest.mark.parametrize("now", [False, True])
def test_a_job_that_is_cancelled_while_its_host_imports_never_runs_and_others_that_wait_go_back(
    hand, worker, warm, now
):
    host = importing(hand, worker, warm)
    worker.run("b", {"task": "t"})
    worker.hear("starting", "b")
    worker.send({"do": "stop", "id": f"{UID}-a", "now": now})
    ended = worker.ended("a")
    assert (ended["step"], ended["exit_code"], ended["signal"], ended["reason"]) == ("ended", None, 9, "cancelled")
    assert worker.ended("b")["again"] is True
    eventually(lambda: not alive(host))
    (warm.folder / "go").touch()
    assert worker.do("c", {"task": "t"})["exit_code"] == 0
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    eventually(lambda: children.read_text().split() == [str(hosts(warm)[-1])])  # and no zombie
    assert (hand.output("a"), hand.output("b")) == (b"", b"")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_timeout_ends_a_host_that_does_not_answer(hand, worker, warm, stopped):
    host = importing(hand, worker, warm, "timeout = '3s'")
    if stopped:
        os.kill(host, signal.SIGSTOP)
    assert worker.ended("a")["reason"] == "timeout"
    eventually(lambda: not alive(host))


def test_a_timeout_and_a_cancel_end_all_that_a_job_started_and_its_host_serves_on(hand, worker, warm):
    forks = "import os, time\ndef host(path):\n    for _ in range(200):\n        if os.fork() == 0:\n"
    forks += "            if _ % 2: os.setsid()\n            open(path, 'a').write(f'{os.getpid()}\\n')\n"
    forks += "            time.sleep(100)\n    time.sleep(100)\n"
    (warm.folder / "warmed.py").write_text(f"{forks}\n{MODULE}")
    warm("host")
    for number, now in enumerate((True, False)):
        path = hand.path / f"pids{number}"
        worker.run(f"a{number}", {"task": "t", "args": [str(path)]})
        eventually(lambda path=path: len(numbers(path)) == 200)
        worker.send({"do": "stop", "id": f"{UID}-a{number}", "now": now})
        assert worker.ended(f"a{number}")["reason"] == "cancelled"
        assert not any(map(alive, numbers(path)))
    assert len(hosts(warm)) == 1
    assert alive(hosts(warm)[0])


def test_a_worker_that_dies_takes_its_hosts_with_it_and_its_jobs_are_found_wherever_they_hid(hand, worker, warm):
    hides = "import os, time\ndef host(path):\n    for _ in range(2):\n        if os.fork() == 0:\n"
    hides += "            os.setsid()\n        open(path, 'a').write(f'{os.getpid()}\\n')\n    time.sleep(100)\n"
    (warm.folder / "warmed.py").write_text(f"{hides}\n{MODULE}")
    warm("host")
    path = hand.path / "pids"
    worker.run("a", {"task": "t", "args": [str(path)]})
    eventually(lambda: len(set(numbers(path))) == 4)
    (host,) = hosts(warm)
    os.kill(host, signal.SIGSTOP)
    worker.kill()
    eventually(lambda: not alive(host))
    assert any(map(alive, numbers(path)))
    assert not hand.locked("a")
    for pid in numbers(path):  # as a worker of the system's sees them: it believes no pid
        seen = process.look(pid)
        assert process._job_of(seen.pid, f"CRONQ_SPOOL={hand.spool}".encode()) == f"{UID}-a".encode()
    reap(hand, "a", hand.outcome("a")[-1])
    assert not any(map(alive, numbers(path)))


def test_a_worker_whose_dispatcher_is_gone_finishes_its_jobs_and_leaves_with_its_hosts(hand, worker, warm):
    pid = running(hand, worker, warm)
    (host,) = hosts(warm)
    worker.line.close()
    eventually(lambda: not select.select([], [], [], 0)[0] and alive(pid) and alive(host))
    os.kill(pid, signal.SIGUSR1)
    assert worker.wait() == 0
    assert hand.steps("a")[-1] == "ended"
    assert not alive(host)


def test_an_idle_worker_with_a_host_is_idle_and_leaves_no_zombie(hand, worker, warm):
    warm("say")
    for name in ("a", "b"):
        worker.do(name, {"task": "t"})
    eventually(lambda: idle(worker.pid, worker.line))
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    assert [int(child) for child in children] == hosts(warm)


def test_who_was_adopted_while_a_host_was_awaited_is_waited_for(hand, worker, warm):
    importing(hand, worker, warm)
    path = hand.path / "left"
    assert worker.do("left", {"command": ["sh", "-c", f"sleep 0.1 & echo $! > {path}"]})["exit_code"] == 0
    (pid,) = numbers(path)
    eventually(lambda: process.look(pid).state == b"Z")
    assert process.look(pid).parent == worker.pid
    (warm.folder / "go").touch()
    assert worker.ended("a")["exit_code"] == 0
    assert process.look(pid) is None


def test_who_was_adopted_and_dies_later_is_waited_for_when_the_next_job_ends(hand, worker, warm):
    importing(hand, worker, warm)
    path = hand.path / "left"
    assert worker.do("left", {"command": ["sh", "-c", f"sleep 100 & echo $! > {path}"]})["exit_code"] == 0
    (pid,) = numbers(path)
    (warm.folder / "go").touch()
    assert worker.ended("a")["exit_code"] == 0
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: process.look(pid).state == b"Z")
    assert worker.do("b", {"command": ["true"]})["exit_code"] == 0
    assert process.look(pid) is None


def test_a_forked_job_waits_for_its_place_as_any_other(hand, warm):
    worker = hand.worker(placing=True)
    warm("say", "memory_max = '64M'")
    worker.run("a", {"task": "t"})
    asked = worker.hear("place", "a")
    (pidfd,) = asked["descriptors"]
    assert asked["limits"] == {"memory_max": 64 << 20}
    pid = process.pid_of(pidfd)
    assert pid == hand.outcome("a")[-1]["pid"]
    assert process.look(pid).parent == worker.pid
    os.close(pidfd)
    assert hand.output("a") == b""
    worker.send({"do": "go", "id": f"{UID}-a", "attempt": 1, "placed": True})
    assert worker.ended("a")["exit_code"] == 0
    assert hand.output("a") == b"1\n"


LIAR = """#!/usr/bin/python3
import json, os, socket, sys
line = socket.socket(fileno=3)
line.send(json.dumps({"ready": True, "files": {}}).encode())
while data := line.recv(65536):
    number = json.loads(data)["job"]
    pid = {"other": int(open(os.environ["OTHER"]).read()), "own": os.getpid(), "none": 0, "text": "x",
           "alien": int(open(os.environ["ALIEN"]).read())}
    line.send(json.dumps({"job": number, "pid": pid[os.environ["LIE"]]}).encode())
"""


@pytest.mark.parametrize("lie", ["other", "own", "alien", "none", "text"])
def test_a_host_that_names_what_is_no_process_of_its_job_is_not_believed(hand, worker, warm, lie):
    for each, whose in (("other", worker), ("alien", hand.worker())):
        whose.sh(each, f"echo $$ > {hand.path}/{each}; exec sleep 100")
        eventually(lambda each=each: numbers(hand.path / each))
    liar = warm.folder / "liar"
    liar.write_text(LIAR)
    liar.chmod(0o755)
    env = f"LIE = '{lie}', OTHER = '{hand.path}/other', ALIEN = '{hand.path}/alien'"
    warm.more = f"interpreter = '{liar}'\nenv = {{{env}}}"
    warm("say")
    told = worker.do("a", {"task": "t"})
    assert (told["step"], told["again"]) == ("refused", True)
    assert hand.steps("a") == ["starting", "refused"]
    assert alive(numbers(hand.path / "other")[0])
    assert worker.do("b", {"command": ["true"]})["exit_code"] == 0


def test_a_worker_warms_up_before_it_has_a_job_and_says_when_it_is(hand, worker, warm):
    (warm.folder / "warmed.py").write_text(SLOW)
    warm("host")
    worker.send({"do": "warm", "tasks": ["t", "absent", 7]})
    eventually(lambda: hosts(warm))
    assert idle(worker.pid, worker.line)
    (warm.folder / "go").touch()
    assert wire.receive(worker.line) == ({"is": "warm"}, [])
    assert worker.do("a", {"task": "t"})["exit_code"] == 0
    assert len(hosts(warm)) == 1
    worker.send({"do": "warm", "tasks": []})
    assert wire.receive(worker.line)[0] == {"is": "warm"}


def test_what_cannot_be_imported_holds_up_no_worker_that_warms_up(hand, worker, warm):
    warm.module = "absent"
    warm("host")
    worker.send({"do": "warm", "tasks": ["t"]})
    assert wire.receive(worker.line)[0] == {"is": "warm"}
    warm.module = "warmed"
    warm("say", mode="pool", age=5.0)
    other = hand.worker()
    other.send({"do": "warm", "tasks": ["t"]})
    assert wire.receive(other.line)[0] == {"is": "warm"}
    (pid,) = eventually(lambda: hosts(warm))
    assert other.do("a", {"task": "t"})["exit_code"] == 0
    assert hand.outcome("a")[1]["pid"] == pid
