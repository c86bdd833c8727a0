"""A drop that is done by half (trust.md row 8): the calls of a real launcher of root's fail, or say that they did what
they did not do; then nothing runs, neither a job nor a dispatcher.

The faults are the kernel's own answers, put there by strace.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import eventually
from liar import Liar

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")]

FAILED = [f"{call}:error=EPERM" for call in ("setgroups", "setresgid", "setresuid", "capset", "prctl")]
FAILED += ["keyctl:error=EDQUOT"]
# What is said to be done and is not, and by which words it is found out.
UNDONE = {
    "setgroups:retval=0": "left",
    "setresgid:retval=0": "left",
    "setresuid:retval=0": "left",
    "setresuid:retval=0:when=2": "can be undone",  # the way back
    "capset:retval=0": "left capabilities: CapInh:",
}

SOON = "import cronq.launcher; cronq.launcher.LONGEST_DELAY = 0.05"  # until a dispatcher is started again


class Fault:
    """While it is there, these calls of a process, and of what it forks, do what it says."""

    def __init__(self, pid: int, inject: str) -> None:
        call = inject.partition(":")[0]
        argv = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            str(pid),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={inject}",
        ]
        self.pid = pid
        self.strace = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        eventually(lambda: self._traced(pid) or self.strace.poll() is not None)
        if self.strace.poll() is not None:
            pytest.skip(f"nothing can be traced here: {self.strace.stderr.read()}")

    def _traced(self, pid: int) -> bool:
        return f"TracerPid:\t{self.strace.pid}\n" in Path(f"/proc/{pid}/status").read_text()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.strace.terminate()
        self.strace.communicate()
        os.kill(self.pid, signal.SIGCHLD)  # a tracer that goes may take along what was to be delivered


@pytest.fixture(scope="module")
def told(whole_machine):
    """A launcher that was started with capabilities that a change of uid leaves."""
    whole_machine.tasks("")
    made = Liar(whole_machine, before=SOON, prefix=["setpriv", "--inh-caps=+net_raw,+sys_admin"])
    made.inboxes("ann")
    yield made
    made.close()
    whole_machine.reset()


@pytest.mark.parametrize(
    ("inject", "why"),
    [*((failed, "start failed: ") for failed in FAILED), *UNDONE.items()],
)
def test_who_has_not_become_the_user_runs_nothing(told, inject, why):
    file = told.file_of("ann", "a", told.job("a"))
    with Fault(told.launcher.pid, inject):
        worker = told.worker(2001)
        with contextlib.suppress(BrokenPipeError):  # it may have left before
            worker.run("2001-a", file)
        barred = worker.hear("barred")
        assert barred["reason"].startswith("start failed: ")
        assert why in barred["reason"]
        assert worker.gone()
        eventually(lambda: f"event=worker-ended pid={worker.pid} code=126" in told.machine.log)
    assert told.ran() == {}


def test_without_a_fault_it_runs(told):
    worker = told.worker(2001)
    assert worker.do("2001-a", told.file_of("ann", "a", told.job("a")))["step"] == "ended"
    assert told.ran().pop("a") == "2001"


@pytest.mark.parametrize(
    "inject", [f"{call}:error=EPERM" for call in ("setgroups", "setresgid", "setresuid", "prctl")] + [*UNDONE]
)
def test_who_has_not_become_cronq_is_no_dispatcher(told, inject):
    with Fault(told.launcher.pid, inject):
        before = told.machine.log.count("event=child-failed")
        told.talk.close()  # the one that is there ends
        eventually(lambda: told.machine.log.count("event=child-failed") >= before + 2)
    told.line.close()
    told.accept()  # by itself, as soon as it can be dropped
    assert _ids(told.told["pid"]) == {"Uid": told.uid, "Gid": told.gid}


def _ids(pid: int) -> dict[str, int]:
    rows = dict(row.split(":\t", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert all(len(set(rows[key].split())) == 1 for key in ("Uid", "Gid"))
    return {key: int(rows[key].split()[0]) for key in ("Uid", "Gid")}
