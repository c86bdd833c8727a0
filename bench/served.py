"""A dispatcher for benchmarks: rootless, on a throw-away directory; and what its processes took of memory.

Does:    starts the real launcher, drops jobs as a shell script would, waits for their results, reads VmHWM.
Writes:  one directory, removed by `close`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL = 0.001
PATIENCE = 900.0  # seconds for the slowest job


def until(probe, within: float = PATIENCE):
    """What `probe` gives as soon as it is true."""
    end = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(POLL)
    return found


def peak(pid: int) -> int:
    """The most memory that a process has had at once, in KiB (VmHWM of proc(5)); 0 where it is gone."""
    try:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.startswith("VmHWM")), 0)


def children(pid: int) -> list[int]:
    """Its children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def timed(words: list, **options) -> tuple[float, int]:
    """Run a program: the seconds it took, and the most memory in KiB that it had."""
    began, most = time.monotonic(), 0
    running = subprocess.Popen(words, **options)
    while running.poll() is None:
        most = max(most, peak(running.pid))
        time.sleep(POLL)
    took = time.monotonic() - began
    assert running.returncode == 0, (words, running.returncode)
    return took, most


class Peaks:
    """The most memory that each kind of process had, in KiB."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def saw(self, who: str, kib: int) -> None:
        self.of[who] = max(self.of.get(who, 0), kib)

    def look(self, launcher: int) -> None:
        """At a launcher, its dispatcher and its workers."""
        self.saw("launcher", peak(launcher))
        for pid in children(launcher):
            is_dispatcher = b"cronq.dispatcher" in Path(f"/proc/{pid}/cmdline").read_bytes()
            self.saw("dispatcher" if is_dispatcher else "worker", peak(pid))


class Served:
    """A rootless spool below `parent`, and its dispatcher."""

    def __init__(self, parent: str, tasks: str = "") -> None:
        self.path = Path(tempfile.mkdtemp(prefix="cronq-bench-", dir=parent))
        self.spool, config = self.path / "spool", self.path / "config"
        config.mkdir()
        (config / "cronq.toml").write_text(tasks)
        self.env = {**os.environ, "CRONQ_SPOOL": str(self.spool), "CRONQ_CONFIG": str(config)}
        self.log = self.path / "log"
        words = [sys.executable, "-I", "-m", "cronq.launcher", "--spool", self.spool, "--config", config]
        with self.log.open("w") as log:
            self.launcher = subprocess.Popen(words, env=self.env, stderr=log)
        until(lambda: "event=ready" in self.log.read_text(), 60)
        self.inbox = self.spool / "in" / str(os.getuid())
        self.results = self.spool / "out" / str(os.getuid())

    def drop(self, name: str, job: dict) -> None:
        """Queue a job by its file."""
        draft = self.inbox / f".{name}.tmp"
        draft.write_text(json.dumps(job))
        draft.rename(self.inbox / f"{name}.job")

    def result(self, name: str) -> dict:
        """How the job of this name ended, once it has."""

        def ended() -> dict | None:
            for path in self.results.glob(f"*-{name}/result.json"):
                if text := path.read_text():
                    return json.loads(text)
            return None

        found = until(ended)
        assert found["state"] == "done", found
        return found

    def close(self) -> None:
        """End it, and leave nothing."""
        self.launcher.send_signal(signal.SIGTERM)
        self.launcher.wait()
        shutil.rmtree(self.path)
