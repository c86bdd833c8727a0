"""A job against its own worker: killed, stopped, limited (trust.md row 23).

They are of one user, so the kernel lets it. What must hold all the same: no job runs twice at once, the others of that
user recover, and other users notice nothing.
"""

import contextlib
from pathlib import Path

import pytest
from conftest import eventually
from liar import LONG

pytestmark = pytest.mark.root

GATE = Path("/run/gate")  # until it is there, the jobs go on
# Its ledger has a line for each start and each end, and one if it ever runs twice at once.
STORY = """
exec 9> "$1.lock"; flock -n 9 || echo twice >> "$1"
echo start >> "$1"; until [ -e /run/gate ]; do sleep 0.02; done; echo end >> "$1"
"""
NUMBER = 3
AGAIN_SOON = {"backoff": {"base": 0}}  # a second after a crash


class Crowd:
    """Jobs of ann's that run in one worker, and know nothing of what another does to it."""

    def __init__(self, siege) -> None:
        self.siege = siege
        self.machine = siege.machine
        self.home = self.machine.home("ann")
        self.jobs = [self.begin(str(number)) for number in range(NUMBER)]
        self.once = self.begin("once", delivery="at-most-once")
        (self.worker,) = eventually(lambda: len(found := self.machine.workers().get(2001, [])) == 1 and found)

    def begin(self, name: str, **keys) -> str:
        self.machine.drop("ann", name, AGAIN_SOON | {"command": ["sh", "-c", STORY, "sh", name], **keys})
        eventually(lambda: self.ledger(name) == "start\n")
        return self.machine.named("ann", name)

    def ledger(self, name: str) -> str:
        path = self.home / name
        return path.read_text() if path.exists() else ""

    def attack(self, *command: str) -> None:
        """Let a job of ann's do this once, however often it is run; return when it has begun to."""
        script = '[ -e attacked ] || { touch attacked; "$@"; touch done; sleep 1000; }'
        self.machine.drop("ann", "evil", AGAIN_SOON | {"command": ["sh", "-c", script, "sh", *command]})
        eventually((self.home / "attacked").exists)

    def limit(self, which: str, soft: str = "0", hard: str = "0") -> None:
        """Let a job of ann's limit its worker."""
        pid = "int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])"  # of the shell's parent
        code = f"import os, resource; resource.prlimit({pid}, resource.RLIMIT_{which}, ({soft}, {hard}))"
        self.attack("/usr/bin/python3", "-c", code)
        eventually((self.home / "done").exists)

    def settles(self, name: str, wanted: list[str]) -> None:
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.ledger(name).split() == wanted)
        assert self.ledger(name).split() == wanted

    def is_let_go(self, starts: int) -> None:
        """Open the gate: all end well, after so many starts, never two at once; the one that may run once did."""
        for number in range(NUMBER):
            self.settles(str(number), ["start"] * starts)
        GATE.touch()
        try:
            for number, job in enumerate(self.jobs):
                assert self.machine.result(job)["state"] == "done"
                assert self.ledger(str(number)).split() == ["start"] * starts + ["end"]
            assert self.machine.result(self.once)["state"] == ("done" if starts == 1 else "dead")
            assert self.ledger("once").split() == (["start", "end"] if starts == 1 else ["start"])
        finally:
            GATE.unlink()
        self.machine.submit("ann", "exec", "--wait", "--", "true")
        self.siege.unharmed(times=1)


@pytest.fixture
def crowd(siege):
    return Crowd(siege)


def test_a_worker_that_its_job_kills_is_replaced_and_its_jobs_are_ended_before_they_run_again(crowd):
    crowd.attack("kill", "-KILL", str(crowd.worker))
    crowd.siege.unharmed(times=1)
    crowd.is_let_go(starts=2)


def test_a_job_that_kills_its_worker_each_time_is_given_up(siege):
    siege.machine.drop("ann", "evil", AGAIN_SOON | {"command": ["sh", "-c", "kill -KILL $PPID; sleep 1000"]})
    found = siege.machine.result(siege.machine.named("ann", "evil"))
    assert found["state"] == "dead"
    assert "poison: its worker died in mid-job 3 times" in found["reason"]
    siege.unharmed(times=1)
    siege.machine.submit("ann", "exec", "--wait", "--", "true")


@pytest.mark.parametrize("which", ["NPROC", "AS", "DATA"])
def test_a_worker_that_can_start_nothing_any_more_leaves_that_to_another(crowd, which):
    crowd.limit(which)
    crowd.siege.unharmed(times=1)
    crowd.machine.submit("ann", "exec", "--wait", "--", "true", timeout=60)
    crowd.is_let_go(starts=1)


def test_a_worker_that_can_write_no_outcome_any_more_dies_and_its_jobs_run_again(crowd):
    crowd.limit("FSIZE")
    crowd.siege.unharmed(times=1)
    crowd.machine.submit("ann", "exec", "--wait", "--", "true", timeout=60)  # the first that needs one
    crowd.is_let_go(starts=2)


def test_a_limit_that_can_be_taken_back_is(crowd):
    crowd.limit("FSIZE", "0", "resource.RLIM_INFINITY")
    crowd.is_let_go(starts=1)


def test_a_worker_without_descriptors_leaves_its_jobs_to_end_well(crowd):
    crowd.limit("NOFILE")
    crowd.machine.submit("ann", "exec", "--wait", "--", "true", timeout=60)
    crowd.is_let_go(starts=1)


@pytest.mark.skipif(not LONG, reason="a worker has ten seconds to go on: CRONQ_LONG=1")
@pytest.mark.parametrize("more", [True, False], ids=["with a job that it is sent", "with none"])
def test_a_worker_that_its_job_stops_is_ended_and_its_jobs_run_again(crowd, more):
    crowd.attack("kill", "-STOP", str(crowd.worker))
    sent = crowd.machine.submit("ann", "exec", "--", "true") if more else None
    crowd.siege.unharmed(times=1)
    crowd.is_let_go(starts=2)
    assert sent is None or crowd.machine.result(sent)["state"] == "done"
