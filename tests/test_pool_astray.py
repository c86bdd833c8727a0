"""Pools that go astray in ways that must cost no other job: no answer, half of one, another's; with real workers."""

import pytest
from conftest import eventually
from test_pool import shell as _shell
from test_warm import warm as _warm
from workbench import UID, numbers

from cronq import process

shell, warm = _shell, _warm
ASTRAY = """#!/usr/bin/python3
import json, os, socket, sys, time
line = socket.socket(fileno=3)
for text in line.makefile("r"):
    told = json.loads(text)
    how = told["args"][0]
    answer = {"id": told["id"], "exit": 0}
    if how == "long":
        answer["result"] = "x" * 100_000
    elif how == "closes":
        line.shutdown(socket.SHUT_RDWR)
        time.sleep(100)
    elif how == "no path":
        answer["files"] = {"\\0": 1}
    elif how == "stopped" and os.fork() == 0:
        os.setsid()
        with open(os.environ["PIDS"], "a") as file:
            file.write(f"{os.getppid()}\\n")
        while open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
    elif how == "stopped":
        os.wait()
        continue
    line.sendall(json.dumps(answer).encode() + b"\\n")
    if how == "stopped":
        os._exit(0)
"""
FORKS = """
import os, sys
def forks(how):
    if how == "forks" and (pid := os.fork()) == 0:
        print("of the child", flush=True)
        sys.exit(3)
    if how == "forks":
        print("the child left with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print("of the job", how)
"""


@pytest.fixture
def astray(shell):
    """The task of a pool that does as it is told by its job's argument."""
    shell.program.write_text(ASTRAY)
    shell("timeout = '20s'\ngrace = '100ms'")
    return shell


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("long", "its pool gave an answer that cannot be understood"),
        ("closes", "its pool closed its line before it had answered"),
        ("no path", None),
    ],
)
def test_a_pool_that_can_give_no_answer_any_more_is_not_waited_for_and_the_next_job_runs(worker, astray, how, reason):
    assert worker.do("a", {"task": "t", "args": [how]})["reason"] == reason
    ended = worker.do("b", {"task": "t", "args": ["well"]})
    assert (ended["exit_code"], ended["reason"]) == (0, None)


def test_a_pool_that_answered_as_it_was_frozen_goes_on_for_the_next_job(worker, astray):
    worker.run("a", {"task": "t", "args": ["stopped"]})
    (pid,) = eventually(lambda: numbers(astray.pids))
    worker.send({"do": "freeze", "id": f"{UID}-a", "on": True})
    assert worker.ended("a")["exit_code"] == 0
    eventually(lambda: (found := process.look(pid)) is not None and found.state != b"T")
    assert worker.do("b", {"task": "t", "args": ["well"]})["exit_code"] == 0


def test_a_child_that_a_function_forked_answers_no_job_and_takes_none(hand, worker, warm):
    (warm.folder / "warmed.py").write_text(FORKS)
    warm("forks", "timeout = '20s'", mode="pool")
    assert worker.do("a", {"task": "t", "args": ["forks"]})["exit_code"] == 0
    assert hand.output("a") == b"of the child\nthe child left with 3\nof the job forks\n"
    assert worker.do("b", {"task": "t", "args": ["well"]})["exit_code"] == 0
    assert hand.output("b") == b"of the job well\n"
