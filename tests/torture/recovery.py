"""What cronq makes of a file system after a power cut: by a real dispatcher, or by its recovery code alone.

Does:    `Recoverer.look` mounts an image, which has the kernel recover its journal, and starts a real launcher with a
         real dispatcher and real workers on it, as after a boot (the boot id is another one). As soon as nothing is
         left to do, they are stopped, and all that lies in the spool is read. With `real=False` a fork runs the same
         take-up and turns, and starts nothing: what is ready then is what would run.
Trusts:  being alone in a private mount namespace: `ROOM` is the same there for all.
Fails:   never for what cronq does: `Found.troubles` says that it crashed, or did not come to an end.

Launcher, dispatcher and workers are the code that always runs, in processes of their own; only the start of the
interpreter and the imports are shared: they are forks of one that has done both already.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import device
import private
from scenario import CONFIG, DISK, LEDGER, ROOM, SPOOL, furnish

from cronq import dispatcher, launcher, linux, realm, states

LONGEST = 20.0
SOON = 60_000_000  # microseconds: what is due later than this is not waited for
UID = "0"


@dataclass
class Found:
    """What is there after the recovery."""

    kept: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # by id: states and names
    results: dict[str, str] = field(default_factory=dict)  # by id: the state that result.json says
    refused: dict[str, str] = field(default_factory=dict)  # by file: why
    left: list[str] = field(default_factory=list)  # files that nobody took
    ran: list[str] = field(default_factory=list)  # ids, in order
    torn: list[str] = field(default_factory=list)  # ids whose input was not whole
    troubles: list[str] = field(default_factory=list)


class Recoverer:
    """One place to mount images at, with one loop device."""

    def __init__(self, kind: str, image: Path) -> None:
        self.kind, self.image = kind, image
        self.log = image.with_suffix(".log")
        furnish()
        _another_boot(image.with_suffix(".boot"))
        self.loop = device.Loop(image)

    def look(self, real: bool) -> Found | None:
        """Recover the image; None where the kernel cannot mount it."""
        self.loop.forget()
        try:
            device.mount(self.loop.path, DISK, self.kind, "nouuid" if self.kind == "xfs" else "")
        except OSError:
            return None
        LEDGER.write_text("")
        found = Found()
        try:
            found.troubles += _really(self.log) if real else _in_a_fork(self.log)
            _read(found)
        finally:
            device.unmount(DISK)
        return found

    def close(self) -> None:
        """Give the loop device back."""
        self.loop.close()


def _another_boot(path: Path) -> None:
    path.write_text("00000000-0000-4000-8000-00000000b007\n")
    private.mount(path, "/proc/sys/kernel/random/boot_id", private.MS_BIND)


# ---------------------------------------------------------------- a real dispatcher


class _Launcher(launcher.Launcher):
    """A launcher whose dispatcher need not import what is imported."""

    def _exec_dispatcher(self, line: socket.socket) -> int:
        launcher._detach(line)
        self.realm.become_dispatcher()
        linux.die_with_parent(self.pid)
        return dispatcher.main([*self.command, "--launcher-fd", str(line.fileno())])


def _really(log: Path) -> list[str]:
    """Run it until there is nothing to do; what went wrong."""
    options = ["--spool", str(SPOOL), "--config", str(CONFIG)]
    pid = _fork(log, lambda: _Launcher(str(SPOOL), str(CONFIG), options, realm.Own(str(SPOOL))).serve())
    end = time.monotonic() + LONGEST
    troubles = []
    while "event=ready" not in (said := log.read_text()) or not _idle(said):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return [f"it ended by itself: {log.read_text()[-2000:]}"]
        if time.monotonic() > end:
            troubles.append(f"it does not come to an end: {_busy()} {log.read_text()[-2000:]}")
            break
        time.sleep(0.004)
    os.kill(pid, signal.SIGTERM)
    _end(pid, 10.0)
    said = log.read_text()
    return troubles + [line for line in said.splitlines() if _is_bad(line)]


def _is_bad(line: str) -> bool:
    return any(word in line for word in ("child-failed", "Traceback", "event=broken", "event=disk"))


def _end(pid: int, within: float) -> None:
    end = time.monotonic() + within
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.001)


def _idle(said: str) -> bool:
    """Nothing to do: nothing waits to be taken, runs, is ready, or is due soon; and that held while we looked."""
    return not _busy() and not _busy()


def _busy() -> list[str]:
    soon = time.time_ns() // 1000 + SOON
    found = [name for name in os.listdir(SPOOL / "in" / UID) if name.endswith((".job", ".jobs"))]
    found += os.listdir(SPOOL / "queue" / ".capture")
    for state in ("ready", "running", "delayed", "waiting"):
        for _, _, names in os.walk(SPOOL / "queue" / state):
            found += [name for name in names if state != "delayed" or int(name.split(",")[1], 16) < soon]
    return found


# ---------------------------------------------------------------- its recovery code alone


def _in_a_fork(log: Path) -> list[str]:
    pid = _fork(log, _take_up)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [f"exit {code}: {log.read_text()[-2000:]}"] if code else []


def _take_up() -> int:
    """What `dispatcher.run` does at its start, and the turns until nothing is left to admit."""
    from cronq import config, shelves, spool
    from cronq.crew import Crew
    from cronq.doorbell import Doorbell
    from cronq.history import History
    from cronq.house import House
    from cronq.turn import turn

    spool.make(str(SPOOL), int(UID))
    line, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.setblocking(False)
    crew = Crew(line, Doorbell(inotify=False))
    settings = config.load(str(CONFIG), system=False)
    house = House(shelves.Shelves(str(SPOOL), int(UID), None), History(str(SPOOL)), crew, settings, str(CONFIG))
    house.paused_until = float("inf")  # nothing starts
    dispatcher.take_up(house, dispatcher.clock())
    for _ in range(200):
        patience = turn(house, dispatcher.clock(), set())
        if house.broken:
            return 3
        if patience and not os.listdir(SPOOL / "queue" / ".capture"):
            break
    return 0


# ---------------------------------------------------------------- common to both


def _fork(log: Path, call) -> int:
    """Run it in a process of its own whose errors go to `log`; its pid."""
    log.write_text("")
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 2)
        os.chdir("/")
        code = call()
    except BaseException:  # noqa: BLE001 - a fork must never run on as another harness
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _read(found: Found) -> None:
    """All that the spool and the ledger say."""
    for line in LEDGER.read_text().splitlines():
        word, _, job_id = line.partition(" ")
        (found.ran if word == "ran" else found.torn).append(job_id)
    for state in states.KEPT:
        for _, _, names in os.walk(SPOOL / "queue" / state):
            for name in names:
                parts = name.split(",")
                found.kept.setdefault(parts[2] if len(parts) > 2 else name, []).append((state, name))
    for folder in _listed(SPOOL / "out" / UID):
        file = SPOOL / "out" / UID / folder / "result.json"
        try:
            found.results[folder] = json.loads(file.read_bytes())["state"]
        except FileNotFoundError:
            continue
        except ValueError:
            found.troubles.append(f"{folder}/result.json cannot be read: {file.read_bytes()[:20]!r}")
    for name in _listed(SPOOL / "rejected" / UID):
        if name.endswith(".reason"):
            found.refused[name.removesuffix(".reason")] = (SPOOL / "rejected" / UID / name).read_text()
    names = _listed(SPOOL / "in" / UID)
    found.left += [name for name in names if name.endswith((".job", ".jobs", ".data")) and name[0] != "."]
    found.left += _listed(SPOOL / "queue" / ".capture")


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


__all__ = ["ROOM", "Found", "Recoverer"]
