"""Holes of our own dependencies (trust.md row 20): what we ask for is mended, and locks lie where nobody else can put
anything.

filelock followed a link in the place of its lock file, and emptied what it led to, by a race between a look and an
opening: CVE-2025-68146 (mended in 3.20.1), CVE-2026-22701 (its soft lock, mended in 3.20.3).
"""

import contextlib
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import eventually
from defences import REPOSITORY
from liar import fds
from machine import SPOOL

MENDED = {"filelock": (3, 20, 3)}
LAUNCHED = "event=dispatcher-started"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", text)[:3])


@pytest.mark.parametrize("name", MENDED)
def test_what_is_asked_for_what_is_pinned_and_what_is_installed_are_mended(name):
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    (floor,) = [text.removeprefix(f"{name}>=") for text in wanted if text.startswith(name)]
    pins = dict(row.split("==") for row in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in row)
    for found in (floor.partition(",")[0], pins[name], version(name)):
        assert _numbers(found) >= MENDED[name], found


@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_a_link_in_the_place_of_the_lock_leads_nowhere(world, target):
    """Whoever can put one there is cronq already; filelock must neither empty what it leads to nor make it."""
    world.start()
    world.stop()
    victim = world.path / "victim"
    if target == "a file":
        victim.write_text("precious")
    lock = world.spool / "queue" / "dispatcher.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(victim)
    world.start(wait=LAUNCHED)
    eventually(lambda: "event=dispatcher-ended" in world.daemons[-1].log.read_text())
    assert "event=ready" not in world.daemons[-1].log.read_text()
    assert (victim.read_text() if victim.exists() else None) == ("precious" if target == "a file" else None)


@pytest.mark.root
def test_every_lock_that_a_daemon_holds_lies_where_nobody_else_can_put_anything(machine):
    machine.start()
    machine.submit("ann", "exec", "--wait", "--", "true")
    running = machine.submit("ann", "exec", "--", "sleep", "1000")
    eventually((machine.results(running) / "stdout").exists)
    (worker,) = eventually(lambda: len(found := machine.workers().get(2001, [])) == 1 and found)
    held = [path for pid in (machine.launcher.pid, machine.dispatcher(), worker) for path in _locked(pid)]
    assert {path.parent for path in held} == {SPOOL / "queue", SPOOL / "queue" / "outcome"}
    names = [Path(path) for pid in (machine.dispatcher(), worker) for path in fds(pid).values() if "lock" in path]
    for path in {*held, *names, *SPOOL.rglob("*.lock"), *Path("/run/cronq").rglob("*.lock")}:
        for folder in (path.parent, *path.parent.parents):
            found = folder.stat()
            assert found.st_uid in (0, machine.uids["cronq"]), folder
            assert not found.st_mode & 0o022, folder


def _locked(pid: int) -> list[Path]:
    """The files on which this process holds an open lock."""
    found = []
    for number, path in fds(pid).items():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: it is none that is held
            if path.startswith("/") and "lock:" in Path(f"/proc/{pid}/fdinfo/{number}").read_text():
                found.append(Path(path))
    return found


def test_one_module_uses_filelock_and_it_falls_back_to_no_soft_lock():
    users = [path for path in (REPOSITORY / "cronq").glob("*.py") if "import FileLock" in path.read_text()]
    assert [path.name for path in users] == ["sole.py"]
    assert "fallback_to_soft=False" in users[0].read_text()
