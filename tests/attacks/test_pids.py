"""A pid that somebody else has by now is not hit (trust.md row 17): each pid here is really given again.

Whom the pid means now is a session of the same user's, so that nothing but cronq itself could hold it back.
"""

import os
import select
import signal
import subprocess
import time

import pytest
from conftest import eventually
from recycled import end, recycled

from cronq import process

pytestmark = pytest.mark.root


TICKS = os.sysconf("SC_CLK_TCK")  # a second; by these processes are told apart
HIT = "the process that has the pid by now was killed"


@pytest.fixture
def bystander():
    """Start a process that has the pid of one that is gone; what it gives says whether it lives."""
    made, pidfds = [], []

    def start(pid: int):
        made.append(recycled(pid))
        pidfds.append(os.pidfd_open(pid))
        return lambda: not select.select(pidfds, [], [], 0.2)[0]  # a signal takes a moment

    yield start
    for each, pidfd in zip(made, pidfds, strict=True):
        end(each)
        os.close(pidfd)


def _started(hand, name: str) -> dict:
    return eventually(lambda: "started" in hand.steps(name) and hand.outcome(name)[-1])


def test_the_jobs_of_a_dead_worker_are_ended_and_not_who_has_their_pid(hand, bystander):
    first, second = hand.worker(), hand.worker()
    first.sh("a", "exec sleep 1000")
    job = _started(hand, "a")
    first.kill()
    os.kill(job["pid"], signal.SIGKILL)
    lives = bystander(job["pid"])
    identity = {key: job[key] for key in ("pid", "start", "boot")}
    second.send({"do": "reap", "id": f"{os.getuid()}-a", "attempt": 1, **identity})
    assert second.hear("reaped", "a")["known"] is True
    assert lives(), HIT


def test_a_job_that_has_ended_is_cancelled_and_not_who_has_its_pid(hand, worker, bystander):
    """Its output is still open, by what it left behind, so the attempt is not over."""
    up = hand.path / "up"
    script = f'setsid sh -c "touch {up}; exec sleep 1.5" & until [ -e {up} ]; do sleep 0.01; done'
    hand.tasks(f"[tasks.left]\nshell = '''{script}'''\n")
    worker.run("a", {"task": "left"})
    job = _started(hand, "a")
    lives = bystander(job["pid"])
    worker.send({"do": "stop", "id": f"{os.getuid()}-a", "now": True})
    assert worker.ended("a")["exit_code"] == 0
    assert lives(), HIT


def test_the_grace_of_a_job_that_is_gone_ends_nobody(hand, worker, bystander):
    hand.tasks('[tasks.tidy]\ncommand = ["sleep", "1000"]\ngrace = "0.8s"\n')
    worker.run("a", {"task": "tidy"})
    job = _started(hand, "a")
    worker.send({"do": "stop", "id": f"{os.getuid()}-a", "now": False})
    worker.ended("a")
    lives = bystander(job["pid"])
    worker.do("b", {"command": ["sleep", "0.9"]})  # until after it
    assert lives(), HIT


def test_what_was_seen_is_killed_and_not_who_has_its_pid(bystander):
    with subprocess.Popen(["sleep", "1000"]) as child:
        seen = process.look(child.pid)
        eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS > seen.start + 1)
        child.kill()
    lives = bystander(child.pid)
    process.kill(seen)
    assert lives(), HIT


def test_a_pidfd_means_nobody_once_its_process_is_gone(bystander):
    with subprocess.Popen(["true"]) as child:
        pidfd = os.pidfd_open(child.pid)
    lives = bystander(child.pid)
    assert lives()
    assert process.pid_of(pidfd) is None
    os.close(pidfd)
