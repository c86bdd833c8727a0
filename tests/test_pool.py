"""Pools: one process for one job after another, in Python and in any other language; with real workers and pools."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import eventually
from test_warm import MODULE, hosts, rewrite
from test_warm import warm as _warm
from test_worker import _reap as reap
from test_worker import who
from workbench import UID, alive, idle, numbers

from cronq import process
from cronq.task import DEFAULT_PATH

warm = _warm
SH = """#!/bin/sh
while read -r line <&3; do
    id=${line#*'"id": "'}; id=${id%%'"'*}
    case $line in
    *'"slow"'*) echo $$ >> "$PIDS"; sleep 100;;
    *'"die"'*) exit 0;;
    *'"kill"'*) kill -9 $$;;
    *'"late"'*) (sleep 0.05; echo after; echo 1 >> "$PIDS") & ;;
    *'"garbage"'*) echo '{"exit": "x", "id": "'$id'"}' >&3; continue;;
    *'"other"'*) echo '{"exit": 0, "id": "1-other"}' >&3; continue;;
    *'"flood"'*) echo x >> "$PIDS"; read -r go < "$PIDS.go"; head -c 100000 /dev/zero | tr '\\0' '\\n' >&3
        echo '{"exit": 6, "id": "'$id'"}' >&3; exit 9;;
    *'"last"'*) echo '{"exit": 5, "id": "'$id'"}' >&3; exit 9;;
    esac
    echo "$$ has $id"; echo "err" >&2
    echo "progress 1/1" >&3
    echo '{"id": "'$id'", "exit": 0, "result": "of '$id'"}' >&3
done
"""


@pytest.fixture
def shell(hand, tmp_path):
    """A pool that is a shell script; `shell(more)` writes its task."""
    program = tmp_path / "pool.sh"
    rewrite(program, SH)
    program.chmod(0o755)

    def write(more: str = "") -> None:
        text = f"[tasks.t]\ncommand = ['{program}']\nmode = 'pool'\nenv = {{PIDS = '{tmp_path}/pids'}}\n{more}\n"
        hand.tasks(text, age=10.0)

    write.program, write.pids = program, tmp_path / "pids"
    write()
    return write


def pool_of(hand, name: str) -> int:
    return int(hand.output(name).split()[0])


def test_one_process_has_one_job_after_another_and_each_its_own_output_status_and_result(hand, worker, shell):
    for name in ("a", "b", "c"):
        ended = worker.do(name, {"task": "t", "args": [name]}, status=True)
        assert (ended["exit_code"], ended["signal"], ended["reason"]) == (0, None, None)
        assert hand.output(name) == f"{pool_of(hand, 'a')} has {UID}-{name}\n".encode()
        assert hand.output(name, "stderr") == b"err\n"
        assert ended["said"] == {"progress": [1, 1], "result": f"of {UID}-{name}"}
        assert hand.steps(name) == ["starting", "started", "ended"]
        assert hand.outcome(name)[1]["pid"] == pool_of(hand, "a")
        assert ended["max_rss"] > 100_000
        assert ended["cpu"] >= 0


def test_jobs_at_once_have_a_process_each(hand, worker, shell):
    for name in ("a", "b"):
        worker.run(name, {"task": "t", "args": ["slow"]})
    pids = eventually(lambda: len(found := set(numbers(shell.pids))) == 2 and found)
    worker.do("c", {"task": "t"})
    assert pool_of(hand, "c") not in pids


@pytest.mark.parametrize(
    ("how", "code", "number", "reason"),
    [
        ("die", 0, None, "its pool ended (exit code 0) before it had answered"),
        ("kill", None, 9, None),
        ("garbage", None, 9, "its pool gave an answer that cannot be understood"),
        ("other", None, 9, "its pool gave an answer that cannot be understood"),
        ("last", 5, None, None),
    ],
)
def test_a_pool_that_does_not_answer_as_it_should_fails_its_job_and_the_next_has_another(
    hand, worker, shell, how, code, number, reason
):
    worker.do("before", {"task": "t"})
    ended = worker.do("a", {"task": "t", "args": [how]})
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (code, number, reason)
    eventually(lambda: not alive(pool_of(hand, "before")))
    assert worker.do("b", {"task": "t"})["exit_code"] == 0
    assert pool_of(hand, "b") != pool_of(hand, "before")


def test_a_pools_last_word_is_heard_behind_all_that_it_said_before(worker, shell):
    go = shell.pids.with_name("pids.go")
    os.mkfifo(go)
    worker.run("a", {"task": "t", "args": ["flood"]})
    eventually(shell.pids.exists)
    os.kill(worker.pid, signal.SIGSTOP)
    go.write_text("go\n")
    (pid,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    eventually(lambda: not alive(int(pid)))
    os.kill(worker.pid, signal.SIGCONT)
    ended = worker.ended("a")
    assert (ended["exit_code"], ended["reason"]) == (6, None)


@pytest.mark.parametrize("now", [False, True])
def test_a_cancel_ends_the_pool_and_what_it_started_and_the_next_job_has_another(hand, worker, shell, now):
    worker.run("a", {"task": "t", "args": ["slow"]})
    (pid,) = eventually(lambda: numbers(shell.pids))
    worker.send({"do": "stop", "id": f"{UID}-a", "now": now})
    assert worker.ended("a")["reason"] == "cancelled"
    assert not alive(pid)
    assert not [each for each in process.snapshot(b"").values() if each.session == pid and each.state != b"Z"]
    assert worker.do("b", {"task": "t"})["exit_code"] == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_a_timeout_ends_a_pool_that_hangs_or_is_stopped(worker, shell, stopped):
    shell("timeout = '300ms'\ngrace = '100ms'")
    worker.run("a", {"task": "t", "args": ["slow"]})
    (pid,) = eventually(lambda: numbers(shell.pids))
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    assert worker.ended("a")["reason"] == "timeout"
    assert not alive(pid)


def test_what_is_printed_when_there_is_no_job_is_in_no_jobs_output(hand, worker, shell):
    worker.do("a", {"task": "t", "args": ["late"]})
    eventually(lambda: numbers(shell.pids))
    eventually(lambda: idle(worker.pid, worker.line))
    worker.do("b", {"task": "t"})
    assert b"after" not in hand.output("a") + hand.output("b")


def test_a_pool_that_died_while_it_was_idle_costs_no_job(hand, worker, shell):
    worker.do("a", {"task": "t"})
    eventually(lambda: idle(worker.pid, worker.line))
    os.kill(worker.pid, signal.SIGSTOP)
    worker.run("b", {"task": "t"})
    os.kill(pool_of(hand, "a"), signal.SIGKILL)
    eventually(lambda: not alive(pool_of(hand, "a")))
    os.kill(worker.pid, signal.SIGCONT)  # the job is the first thing that it sees
    assert worker.ended("b")["exit_code"] == 0
    assert pool_of(hand, "b") != pool_of(hand, "a")


def test_a_change_of_the_program_or_its_task_and_the_tasks_limits_have_a_pool_made_anew(hand, worker, shell):
    worker.do("a", {"task": "t"})
    rewrite(shell.program, SH + "\n", 50.0)
    worker.do("b", {"task": "t"})
    other = hand.worker()
    shell("max_jobs = 2")
    for name in ("c", "d", "e"):
        other.do(name, {"task": "t"})
    assert len({pool_of(hand, name) for name in "abce"}) == 4
    assert pool_of(hand, "c") == pool_of(hand, "d")
    eventually(lambda: not any(alive(pool_of(hand, name)) for name in "ac"))


def test_a_pool_has_no_file_as_input_and_says_so(worker, shell, tmp_path):
    data = tmp_path / "data"
    data.write_text("x")
    ended = worker.do("a", {"task": "t"}, data=str(data))
    assert (ended["exit_code"], ended["reason"]) == (
        126,
        "cannot start: a pool's job has its input as text (stdin), not as a file beside it",
    )


def test_a_program_that_is_not_there_is_told(hand, worker):
    hand.tasks("[tasks.t]\ncommand = ['nowhere']\nmode = 'pool'\n")
    assert "nowhere: not found in PATH" in worker.do("a", {"task": "t"})["reason"]
    hand.tasks("[tasks.t]\ncommand = ['/nowhere']\nmode = 'pool'\n", age=5.0)
    reasons = (worker.do(f"b{number}", {"task": "t"})["reason"] for number in range(10_000))
    assert eventually(lambda: "/nowhere: not found" in next(reasons))


# -------------------------------------------------------------------- Python


def test_a_python_pool_calls_the_function_in_one_process_with_each_jobs_world(hand, worker, warm):
    warm("look", "umask = '027'\nenv = {A = 'task', TAKEN = 't'}", mode="pool")
    worker.do("a", {"task": "t", "args": ["1"], "stdin": "first", "env": {"B": "b"}}, status=True)
    worker.do("b", {"task": "t"})
    found = {name: json.loads(hand.output(name)) for name in ("a", "b")}
    name, home, shell = who()
    common = {"PATH": DEFAULT_PATH, "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell}
    common |= {"LANG": os.environ.get("LANG", "C.UTF-8"), "A": "task", "OF_MODULE": "t", "CRONQ_SPOOL": str(hand.spool)}
    common |= {"CRONQ_TASK": "t", "CRONQ_ATTEMPT": "1", "CRONQ_MAX_ATTEMPTS": "1", "CRONQ_REDELIVERED": "0"}
    common |= {"CRONQ_SCHEDULED_AT": "2001-09-09T01:46:40Z"}
    for each in ("a", "b"):
        expected = common | {"CRONQ_JOB_ID": f"{UID}-{each}"}
        expected |= {"B": "b", "CRONQ_STATUS_FD": "3"} if each == "a" else {}
        assert found[each]["env"] == expected
        assert found[each]["fds"] == ["0", "1", "2", "3"]
        assert (found[each]["cwd"], found[each]["umask"]) == (str(warm.folder), 0o027)
        assert found[each]["session"]
    assert [found[each]["stdin"] for each in ("a", "b")] == ["first", ""]
    assert [found[each]["argv"] for each in ("a", "b")] == [["1"], []]
    assert hand.outcome("a")[1]["pid"] == hand.outcome("b")[1]["pid"] == hosts(warm)[0]


def test_a_python_pool_keeps_what_a_job_leaves_in_its_modules_and_is_made_anew_when_they_change(hand, worker, warm):
    warm("say", mode="pool")
    worker.do("a", {"task": "t"})
    worker.do("b", {"task": "t"})
    assert (hand.output("a"), hand.output("b")) == (b"1\n", b"2\n")
    rewrite(warm.folder / "warmed.py", MODULE + "\n", 50.0)
    worker.do("c", {"task": "t"})
    assert hand.output("c") == b"1\n"


@pytest.mark.parametrize(
    ("how", "code", "number", "stderr"),
    [("7", 7, None, ""), ("exit", 1, None, "no good"), ("raise", 1, None, "ValueError"), ("kill9", None, 9, "")],
)
def test_a_function_in_a_pool_ends_as_in_a_process_of_its_own(hand, worker, warm, how, code, number, stderr):
    warm("end", mode="pool")
    ended = worker.do("a", {"task": "t", "args": [how]})
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (code, number, None)
    assert stderr in hand.output("a", "stderr").decode()
    assert worker.do("b", {"task": "t", "args": ["0"]})["exit_code"] == 0
    assert (len(hosts(warm)) == 1) == (number is None)


def test_a_module_that_cannot_be_imported_fails_the_job_of_the_pool(hand, worker, warm):
    warm.module = "absent"
    warm("x", mode="pool")
    assert "its pool ended (exit code 1)" in worker.do("a", {"task": "t"})["reason"]
    assert "No module named 'absent'" in hand.output("a", "stderr").decode()


def test_a_worker_that_dies_takes_its_pools_with_it_and_what_their_jobs_started_is_found(hand, worker, warm):
    hides = "import os, time\ndef host(path):\n    if os.fork() == 0:\n        os.setsid()\n"
    hides += "    open(path, 'a').write(f'{os.getpid()}\\n')\n    time.sleep(100)\n"
    (warm.folder / "warmed.py").write_text(f"{hides}\n{MODULE}")
    warm("host", mode="pool")
    path = hand.path / "pids"
    worker.run("a", {"task": "t", "args": [str(path)]})
    eventually(lambda: len(set(numbers(path))) == 2)
    os.kill(hand.outcome("a")[1]["pid"], signal.SIGSTOP)
    worker.kill()
    eventually(lambda: not alive(hand.outcome("a")[1]["pid"]))
    assert any(map(alive, numbers(path)))
    reap(hand, "a", hand.outcome("a")[-1])
    assert not any(map(alive, numbers(path)))


def test_a_worker_whose_dispatcher_is_gone_finishes_its_pools_job_and_leaves_with_them(hand, worker, warm):
    pid = running_in_pool(hand, worker, warm)
    worker.line.close()
    os.kill(pid, signal.SIGUSR1)
    assert worker.wait() == 0
    assert hand.outcome("a")[-1]["signal"] == signal.SIGUSR1
    other = hand.worker()
    warm("say", mode="pool", age=5.0)
    other.do("b", {"task": "t"})
    last = hosts(warm)[-1]
    assert alive(last)
    other.line.close()
    assert other.wait() == 0
    assert not alive(last)


def running_in_pool(hand, worker, warm) -> int:
    warm("wait", mode="pool")
    path = hand.path / "pids"
    worker.run("a", {"task": "t", "args": [str(path)]})
    return eventually(lambda: numbers(path))[0]


def test_a_pools_job_waits_for_its_place_as_any_other(hand, shell):
    worker = hand.worker(placing=True)
    for name in ("a", "b"):
        worker.run(name, {"task": "t"})
        asked = worker.hear("place", name)
        (pidfd,) = asked["descriptors"]
        assert process.pid_of(pidfd) == hand.outcome(name)[-1]["pid"]
        os.close(pidfd)
        assert hand.output(name) == b""
        worker.send({"do": "go", "id": f"{UID}-{name}", "attempt": 1, "placed": True})
        assert worker.ended(name)["exit_code"] == 0
    assert pool_of(hand, "a") == pool_of(hand, "b")


def test_a_large_job_reaches_its_pool_whole(hand, worker, warm):
    warm("look", mode="pool")
    worker.do("a", {"task": "t", "stdin": "\\\"\n" * 9_000})
    assert json.loads(hand.output("a"))["stdin"] == "\\\"\n" * 9_000
