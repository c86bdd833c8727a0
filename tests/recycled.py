"""A pid that is given again: the next process of the kernel's gets the number of one that is gone."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from conftest import eventually

LAST = Path("/proc/sys/kernel/ns_last_pid")


def recycled(pid: int, **options) -> subprocess.Popen:
    """A process that leads a session and does nothing, and has this pid. Others on the machine may be quicker."""
    if not os.access(LAST, os.W_OK):
        pytest.skip("which pid is next cannot be said here: it needs root, and CONFIG_CHECKPOINT_RESTORE")
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    until = time.monotonic() + 5  # its number is free once all of its session has been waited for
    while time.monotonic() < until:
        LAST.write_text(str(pid - 1))
        found = subprocess.Popen(["sleep", "1000"], **({"start_new_session": True} | options))
        if found.pid == pid:
            return found
        end(found)
    pytest.skip(f"pid {pid} is always somebody else's")


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
