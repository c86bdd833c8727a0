"""A job says how it goes: its status descriptor at a real worker, and what no job gains or loses by it."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import eventually
from workbench import alive

from cronq import job, statement, task
from cronq.channel import EVERY, Channel
from cronq.deadline import Deadline
from cronq.loop import Loop
from cronq.outcome import MOST_MARKS, Outcome

LINES = 1_000_000
MOST_FILE = 64 * 1024


def run(worker, name: str, script: str, **keys) -> None:
    """Hand over a command for the shell that has a status descriptor."""
    message = keys.pop("message", {})
    worker.run(name, {"command": ["sh", "-c", script], **keys}, status=True, **message)


def said(worker, name: str, script: str, **keys) -> dict:
    """How it ended, with what it said."""
    run(worker, name, script, **keys)
    return worker.ended(name)


def of_task(worker, name: str, text: str, **keys) -> None:
    """The same for a job of a task."""
    worker.hand.tasks(text, age=60)
    worker.run(name, {"task": "t", **keys}, status=True)


# -------------------------------------------------------------------- what it gets


@pytest.mark.parametrize("way", ["spawned", "forked"])
def test_a_job_has_four_descriptors_and_is_told_the_number_of_the_last(worker, way):
    nice = "nice = 1\n" if way == "forked" else ""
    of_task(
        worker,
        "a",
        f"[tasks.t]\n{nice}shell = 'ls /proc/$$/fd; echo $CRONQ_STATUS_FD; echo status $CRONQ_ATTEMPT >&3'\n",
    )
    assert worker.ended("a")["said"] == {"status": "1"}
    assert worker.hand.output("a") == b"0\n1\n2\n3\n3\n"


def test_a_child_at_its_gate_gets_them_whatever_numbers_its_worker_has_free(worker):
    """The worker's own pipes to that child may have the job's numbers."""
    worker.hand.tasks("[tasks.t]\nnice = 1\nshell = 'echo status here >&3; ls /proc/$$/fd'\n", age=60)
    for number in range(3):
        worker.run(f"n{number}", {"task": "t"}, status=True)
    for number in range(3):
        assert worker.ended(f"n{number}")["said"] == {"status": "here"}
        assert worker.hand.output(f"n{number}") == b"0\n1\n2\n3\n"


def test_without_a_status_file_there_is_no_descriptor_and_no_word_of_it(worker):
    worker.do("a", {"command": ["sh", "-c", "ls /proc/$$/fd; env | grep -c CRONQ_STATUS_FD"]})
    assert worker.hand.output("a") == b"0\n1\n2\n0\n"


def test_the_cursor_of_the_attempt_before_is_in_the_environment_and_a_submitters_is_not(worker):
    run(worker, "a", 'echo "$CRONQ_CURSOR"', env={"CRONQ_CURSOR": "forged"}, message={"cursor": "page 17 ä"})
    run(worker, "b", 'echo "${CRONQ_CURSOR-none}"', env={"CRONQ_CURSOR": "forged"})
    worker.ended("a"), worker.ended("b")
    assert (worker.hand.output("a"), worker.hand.output("b")) == ("page 17 ä\n".encode(), b"none\n")


@pytest.mark.parametrize("cursor", ["a\nb", "x" * 1025, "a\0b"])
def test_a_cursor_that_no_job_can_have_given_is_no_message(worker, cursor):
    run(worker, "a", "echo ran", message={"cursor": cursor})
    worker.do("b", {"command": ["true"]})
    assert not worker.hand.output("a")


# -------------------------------------------------------------------- what comes of it


def test_what_a_running_job_says_is_in_a_file_and_in_its_outcome(hand, worker, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = (
        f"echo progress 3/10 >&3; echo status copying >&3; cat {gate}; echo progress 10/10 >&3; echo result done >&3"
    )
    run(worker, "a", script)
    eventually(lambda: hand.output("a", "status") and hand.status("a") == {"progress": [3, 10], "status": "copying"})
    gate.write_text("")
    assert worker.ended("a")["said"] == {"progress": [10, 10], "status": "copying", "result": "done"}


def test_a_last_line_needs_no_end(worker):
    assert said(worker, "a", "printf 'result 42' >&3")["said"] == {"result": "42"}


def test_a_job_that_says_nothing_has_nothing_of_it_in_its_outcome(worker):
    assert not {"said", "snooze", "cursor"} & said(worker, "a", "true").keys()


def test_a_cursor_is_in_the_outcome_file_before_the_job_has_ended(hand, worker, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run(worker, "a", f"echo cursor 1 >&3; echo cursor 2 >&3; cat {gate}; echo snooze 60 >&3")
    eventually(lambda: "cursor" in hand.steps("a") and hand.outcome("a")[-1]["cursor"] == "2")
    gate.write_text("")
    ended = worker.ended("a")
    assert (ended["cursor"], ended["snooze"]) == ("2", 60)


def test_a_program_in_any_language_can_say_it(worker):
    lines = ["progress 1/2", "status from python", '{"metric": {"rows": 5}, "result": [1, 2]}']
    program = "import os, sys\nwith os.fdopen(int(os.environ['CRONQ_STATUS_FD']), 'w') as f:\n  f.write(sys.argv[1])"
    worker.run("a", {"command": ["python3", "-c", program, "\n".join(lines)]}, status=True)
    wanted = {"progress": [1, 2], "status": "from python", "metrics": {"rows": 5}, "result": [1, 2]}
    assert worker.ended("a")["said"] == wanted


# -------------------------------------------------------------------- whatever it says


def peak(pid: int) -> int:
    """The most memory that a process has had, in kilobytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))


@pytest.mark.parametrize("line", ["progress 1/2", "cursor 12345678", "warning again", "rubbish", '{"data": "x"}'])
def test_a_flood_of_a_million_lines_costs_next_to_nothing_and_what_comes_last_is_known(hand, worker, line):
    said(worker, "warm", "echo progress 1/2 >&3")
    before = peak(worker.pid)
    ended = said(worker, "a", f"yes '{line}' | head -n {LINES} >&3; echo result the end >&3; echo ran")
    assert (ended["exit_code"], ended["said"]["result"], hand.output("a")) == (0, "the end", b"ran\n")
    assert peak(worker.pid) - before < 8 * 1024
    assert len(hand.output("a", "status")) < MOST_FILE
    assert hand.outcome_path("a").stat().st_size < MOST_MARKS + MOST_FILE
    if line.startswith(("warning", "rubbish", "{")):
        assert ended["said"]["ignored"] > LINES * 0.99
        assert len(ended["said"]["why_ignored"]) <= 200


@pytest.mark.parametrize("what", ["tr '\\0' x", "cat"])
def test_a_line_of_megabytes_is_passed_over_and_told_once(worker, what):
    said(worker, "warm", "true")
    before = peak(worker.pid)
    ended = said(worker, "a", f"head -c 20000000 /dev/zero | {what} >&3; echo >&3; echo status after >&3")
    assert ended["said"] == {"status": "after", "ignored": 1, "why_ignored": "a status line is longer than 4096 bytes"}
    assert peak(worker.pid) - before < 8 * 1024


def test_binary_rubbish_is_counted_and_the_job_goes_on(worker):
    ended = said(worker, "a", "head -c 1000000 /dev/urandom >&3; printf '\\nstatus after\\n' >&3")
    assert (ended["exit_code"], ended["said"]["status"]) == (0, "after")
    assert ended["said"]["ignored"] > 100


def test_a_job_may_close_it_at_once(worker):
    ended = said(worker, "a", "exec 3>&-; echo ran")
    assert (ended["exit_code"], worker.hand.output("a")) == (0, b"ran\n")


def test_grandchildren_that_keep_it_do_not_keep_their_job_from_ending(hand, worker, tmp_path):
    """A free command's children may live on, and say what they like: nobody hears it, and nothing happens to them."""
    gate, pid = tmp_path / "gate", tmp_path / "pid"
    os.mkfifo(gate)
    child = f"cat {gate}; echo status late >&3; yes x | head -n 100000 >&3; echo lived > {tmp_path}/lived"
    ended = said(
        worker, "a", f"(trap '' HUP; echo status early >&3; {child}) >/dev/null 2>&1 & echo $! > {pid}; sleep 0.2"
    )
    assert ended["said"] == {"status": "early"}
    assert alive(int(pid.read_text()))
    gate.write_text("")
    eventually((tmp_path / "lived").exists)
    assert "late" not in hand.output("a", "status").decode()


def in_pipe(pid: int) -> int:
    """How many bytes lie in a job's status pipe."""
    with open(f"/proc/{pid}/fd/3", "wb", buffering=0) as pipe:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_job_waits_while_nobody_reads_and_loses_nothing(hand, worker, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run(worker, "a", f"cat {gate}; yes data x | head -n 50000 >&3; echo result whole >&3")
    pid = eventually(lambda: hand.steps("a") == ["starting", "started"] and hand.outcome("a")[-1]["pid"])
    os.kill(worker.pid, signal.SIGSTOP)
    gate.write_text("")
    eventually(lambda: in_pipe(pid) > 60_000)
    assert alive(pid)
    os.kill(worker.pid, signal.SIGCONT)
    ended = worker.ended("a")
    assert (ended["exit_code"], ended["said"]["result"]) == (0, "whole")


def test_nothing_stays_open_in_the_worker(worker):
    said(worker, "first", "true")
    before = sorted(os.listdir(f"/proc/{worker.pid}/fd"))
    for number, script in enumerate(("true", "exec 3>&-", "echo status x >&3", "echo x >&3; exit 3")):
        said(worker, f"n{number}", script)
    worker.do("gone", {"command": ["/nowhere"]}, status=True)
    eventually(lambda: sorted(os.listdir(f"/proc/{worker.pid}/fd")) == before)  # it tells first, and closes then


# -------------------------------------------------------------------- more time, and less


def test_a_touch_begins_the_timeout_again(worker):
    script = "for n in 1 2 3 4 5 6; do sleep 0.2; echo touch >&3; done"
    ended = said(worker, "a", script, timeout=0.6)
    assert (ended["exit_code"], ended["reason"], ended["said"]) == (0, None, {"touched": 6})
    assert ended["wall"] > 0.6


def test_a_touch_may_say_for_how_long(worker):
    assert said(worker, "a", "echo touch 20 >&3; sleep 0.8", timeout=0.4)["reason"] is None
    ended = said(worker, "b", "echo touch 0.1 >&3; sleep 20", timeout=30)
    assert ended["reason"] == "timeout"
    assert ended["wall"] < 20


def test_a_job_that_touches_for_ever_is_ended_at_its_longest(worker):
    text = "[tasks.t]\nshell = 'while :; do echo touch 1h >&3; sleep 0.02; done'\ntimeout = 0.3\ntimeout_max = 0.7\n"
    of_task(worker, "a", text)
    ended = worker.ended("a")
    assert ended["reason"] == "timeout"
    assert ended["wall"] >= 0.7


def test_where_there_is_no_timeout_a_touch_makes_none(worker):
    assert said(worker, "a", "echo touch 0.1 >&3; sleep 0.4")["reason"] is None


def test_a_watchdog_ends_a_silent_job(worker):
    ended = said(worker, "a", "echo once; sleep 20", watchdog=0.2)
    assert (ended["reason"], ended["signal"]) == ("watchdog", signal.SIGTERM)


@pytest.mark.parametrize("sound", ["echo x", "echo x >&2", "echo touch >&3", "echo rubbish >&3"])
def test_any_sound_calms_the_watchdog(worker, sound):
    ended = said(worker, "a", f"for n in 1 2 3 4 5; do sleep 0.2; {sound}; done", watchdog=0.6)
    assert (ended["reason"], ended["exit_code"]) == (None, 0)
    assert ended["wall"] > 0.6


HOLDS = """
import os, sys
from cronq import gate
os.closerange(3, 64)  # so that its pipes to the child get the numbers that the job is to have
null = os.open("/dev/null", os.O_RDWR)
said, saying = os.pipe()
os.dup2(saying, 40), os.dup2(null, 41), os.close(saying), os.close(null), os.dup2(said, 42), os.close(said)
held = gate.hold(b"/bin/sh", [b"sh", b"-c", b"echo through >&3"], {}, (41, 41, 41, 40), [])
os.close(40)
held.go()
print(os.read(42, 100), held.tell() if os.waitpid(held.pid, 0)[1] else None)
"""


def test_a_childs_gate_never_stands_where_the_job_has_its_status():
    done = subprocess.run([sys.executable, "-c", HOLDS], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("b'through\\n' None\n", "")


def test_however_many_cursors_come_the_outcome_file_stays_small_and_ends_with_the_last(tmp_path):
    path = tmp_path / "outcome"
    outcome = Outcome(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
    outcome.write("started", pid=7)
    largest = 0
    for number in range(5000):
        outcome.mark(f"{number} {'x' * 100}")
        largest = max(largest, path.stat().st_size)
    outcome.write("ended")
    outcome.close()
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    assert largest < 2 * MOST_MARKS
    assert (steps[0]["pid"], steps[-2]["cursor"][:5], steps[-1]["step"]) == (7, "4999 ", "ended")


def test_a_disk_that_takes_no_more_takes_no_cursor_that_there_is(tmp_path):
    path = tmp_path / "outcome"
    full: list[bool] = []
    outcome = Outcome(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), lambda: full.append(True))
    outcome.write("started")
    number = 0
    while path.stat().st_size <= MOST_MARKS + 100:
        number += 1
        outcome.mark(f"{number} {'x' * 100}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        outcome.mark("later")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full == [True]
    assert json.loads(path.read_text().splitlines()[-1])["cursor"].startswith(f"{number} ")
    outcome.mark("last")
    outcome.write("ended")
    outcome.close()
    assert [json.loads(line).get("cursor") for line in path.read_text().splitlines()] == [None, "last", None]


def test_however_often_a_job_speaks_its_file_is_written_a_few_times_a_second(tmp_path, monkeypatch):
    written = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *parts: written.append(parts) or real(*parts))
    loop = Loop()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    target = os.open(tmp_path / "status", os.O_WRONLY | os.O_CREAT)
    deadline = Deadline(loop, task.plan(job.Job(command=["true"]), {}), lambda _reason: None)
    channel = Channel(reading, target, Outcome(os.open("/dev/null", os.O_WRONLY)), deadline, loop)
    began = time.monotonic()
    for number in range(2000):
        os.write(writing, b"progress %d/2000\n" % number)
        channel.pump()
    assert len(written) <= 2 + (time.monotonic() - began) / EVERY
    while statement.read((tmp_path / "status").read_bytes())["progress"] != [1999, 2000]:
        loop.turn()  # the last one is written, too, a moment later
    assert statement.read((tmp_path / "status").read_bytes())["progress"] == [1999, 2000]
    os.close(writing)
    channel.close()
