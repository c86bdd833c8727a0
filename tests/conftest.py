"""A real dispatcher on a spool of its own, for stories with real processes."""

import atexit
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from forerunner import QUICK, Forerunner
from receiver import Receiver

CRONQ = [sys.executable, "-m", "cronq"]


def eventually(probe, within=45.0):
    """What `probe` gives as soon as it is true; an assertion fails if it never is."""
    end = time.monotonic() + within
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within} s: {probe}"
        time.sleep(0.005)  # between looks at a condition, never instead of one


@contextmanager
def soon(limit: float, since: float):
    """What happens here takes so many seconds at most; on a busy machine three times what went before it since then."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < max(limit, 3 * (began - since)), f"it took {took} s, and what went before {began - since} s"


def cost(act) -> float:
    """The seconds of a processor that something takes this process, without those of collecting others' garbage."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    try:
        act()
    finally:
        gc.enable()
    return time.process_time() - began


def stop(daemons: list[subprocess.Popen[str]]) -> None:
    """End daemons as systemd would; their jobs run on."""
    for daemon in daemons:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@functools.cache
def forerunner() -> Forerunner:
    """Ours, for the whole session."""
    made = Forerunner(sys.executable)
    atexit.register(made.close)
    return made


class World:
    """One spool, its configuration, and the daemons that serve it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.config = path / "config"
        self.config.mkdir()
        self.env = {**os.environ, "CRONQ_SPOOL": str(self.spool), "CRONQ_CONFIG": str(self.config)}
        self.daemons: list[subprocess.Popen[str]] = []
        self.uid = os.getuid()

    @property
    def inbox(self) -> Path:
        return self.spool / "in" / str(self.uid)

    def tasks(self, text: str) -> None:
        (self.config / "cronq.toml").write_text(text)

    def start(self, *options: str, wait: str = "event=ready", whole: bool = False) -> subprocess.Popen[str]:
        """Start a dispatcher: `whole` by its command, else, ten times cheaper, what that becomes (`cli.dispatcher`)."""
        words = [sys.executable, "-I", "-m", "cronq.launcher", "--spool", self.spool, "--config", self.config]
        log = self.path / f"log{len(self.daemons)}"
        with log.open("w") as file:
            words = [*CRONQ, "dispatcher"] if whole else words
            daemon = subprocess.Popen([*words, *options], env=self.env, stderr=file, text=True)
        daemon.log = log
        self.daemons.append(daemon)
        eventually(lambda: wait in log.read_text() or daemon.poll() is not None)
        assert wait in log.read_text(), log.read_text()
        return daemon

    def dispatcher(self, daemon: subprocess.Popen[str], program: bytes = b"cronq.dispatcher") -> int:
        """The pid of a launcher's dispatcher."""
        for name in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if program in command:
                return int(name)
        raise AssertionError("no dispatcher")

    def run(self, *argv: str, code: int | None = 0, **options) -> subprocess.CompletedProcess[str]:
        if argv and argv[0] in QUICK and set(options) <= {"input"}:
            done = forerunner().run([*argv], options.get("input"), env=self.env, cwd=os.getcwd())
        else:
            done = subprocess.run([*CRONQ, *argv], env=self.env, capture_output=True, text=True, timeout=60, **options)
        if code is not None:
            assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
        return done

    def submit(self, *argv: str) -> str:
        return self.run(*argv).stdout.strip()

    def results(self, job_id: str) -> Path:
        return self.spool / "out" / str(self.uid) / job_id

    def result(self, job_id: str, within: float = 45.0) -> dict:
        file = self.results(job_id) / "result.json"
        eventually(lambda: file.exists() and file.stat().st_size, within)
        return json.loads(file.read_text())

    def drop(self, name: str, job: object) -> None:
        """Put a job file into the inbox as a shell script would."""
        draft = self.inbox / f".{name}.tmp"
        draft.write_text(job if isinstance(job, str) else json.dumps(job))
        draft.rename(self.inbox / f"{name}.job")

    def rejected(self, name: str, ending: str = "job") -> str:
        file = self.spool / "rejected" / str(self.uid) / f"{name}.{ending}.reason"
        return eventually(lambda: file.exists() and file.read_text())

    def stop(self) -> None:
        stop(self.daemons)


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def serve(world):
    """Starts a dispatcher that is killed at a step, once (handover.py); whoever starts it again is its launcher."""

    def start(who, step):
        flag, log = world.path / "killed", world.path / "log"
        script = Path(__file__).parent / "handover.py"
        argv = [sys.executable, str(script), "launch", who, step, str(flag), str(world.spool), str(world.config)]
        with log.open("w") as file:
            daemon = subprocess.Popen(argv, env=world.env, stderr=file, text=True)
        world.daemons.append(daemon)
        eventually(lambda: "event=ready" in log.read_text())
        return flag

    return start


@pytest.fixture
def hand(tmp_path):
    """A dispatcher's hand without a dispatcher (workbench.py)."""
    from workbench import Hand

    found = Hand(tmp_path)
    yield found
    found.close()


@pytest.fixture
def worker(hand):
    return hand.worker()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A dispatcher's house whose time is an argument (cron/bench.py), in a machine whose zone is UTC."""
    from bench import Bench

    monkeypatch.setenv("TZ", "UTC")
    made = Bench(tmp_path, os.getuid())
    yield made
    made.close()


@pytest.fixture
def liar(told):
    """A module's liar (attacks/liar.py); what its jobs have proved is gone after each test."""
    from liar import PROOF

    yield told
    for path in PROOF.iterdir():
        path.unlink()


@pytest.fixture
def base():
    """A cgroup for one test, gone with all that lives in it afterwards."""
    from workbench import cgroup_tree, empty

    found = cgroup_tree() / f"cronq-test-{os.getpid()}"
    found.mkdir()
    yield found
    empty(found)


def pytest_configure():
    """Whoever runs tests in the background has SIGINT ignored, and what they start would ignore it too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m is judged
def pytest_collection_modifyitems(items):
    """Tests in a private world come last: from then on this process does not see the real /etc, /opt, /var/spool.

    `make test` gives them a process of their own (`-m private`), beside that of all others.
    """
    items.sort(key=_is_private)
    for item in items:
        if _is_private(item):
            item.add_marker("private")


def _is_private(item):
    return "whole_machine" in item.fixturenames


@pytest.fixture(scope="session")
def whole_machine():
    """The machine of machine.py, made once; from then on this process lives in its private world."""
    from machine import Machine

    return Machine()


@pytest.fixture
def machine(whole_machine):
    """A machine with several users and the system's spool; nothing of an earlier test is on it."""
    yield whole_machine
    whole_machine.reset()


@pytest.fixture
def siege(machine):
    """The machine with a running dispatcher, an attacker (ann) and a bystander (bob)."""
    from siege import Siege

    found = Siege(machine)
    yield found
    found.close()


@pytest.fixture
def server():
    """Whoever is told events by webhooks."""
    made = Receiver()
    yield made
    made.close()
