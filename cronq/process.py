"""Which process is which, and ending the jobs whose worker died.

Does:    knows a process by pid, start time and boot id, so that a recycled pid is never taken for it. `Hunts` ends
         whatever is left of a job: its session (a job leads one), and whatever carries its id, in the environment or as
         the name of its input.
Reads:   /proc.
Trusts:  the kernel. A pid that names a session is not given to a new process while a member lives.
Fails:   says so: a job is known dead only when nothing of it was found twice in a row.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cronq.loop import Loop

    Tell = Callable[[str, int, bool], None]

PATIENCE = 3.0  # seconds in which what was killed must be gone
SHORT_PATIENCE = 0.5  # the same, where an outcome waits for it
ROUND = 0.02
_GONE = (b"Z", b"X", b"x")
_boot: list[str] = []
INIT = "/proc/1/comm"
_SHUTDOWN = b"systemd-shutdow"  # systemd-shutdown(8), as the kernel cuts its name: what runs in systemd's place then


def boot_id() -> str:
    """What distinguishes this run of the kernel from every other."""
    if not _boot:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            _boot.append(file.read().strip())
    return _boot[0]


def machine_ends() -> bool:
    """Whether the machine is being shut down, and every process has been sent SIGTERM, or will be in a moment."""
    try:
        with open(INIT, "rb") as file:
            return file.read(64).rstrip() == _SHUTDOWN
    except OSError:
        return False


class Seen:
    """A process as /proc showed it."""

    __slots__ = ("carries", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat.rpartition(b")")[2].split()
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start = int(fields[19])  # field 22: clock ticks since boot
        self.carries: bytes | None = None  # the job id in its environment, or its input's name


def look(pid: int) -> Seen | None:
    """The process that has this pid now; None if there is none."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Seen(pid, os.read(descriptor, 4096))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None


def pid_of(pidfd: int) -> int | None:
    """The pid of the process that a pidfd means; None once it has been waited for."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii", errors="replace") as file:  # others name interfaces there
        pids = [int(line.split()[1]) for line in file if line.startswith("Pid:")]
    return pids[0] if pids and pids[0] > 0 else None  # 0: of no pid namespace of ours


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if there is none."""
    found = look(pid)
    return None if found is None else found.start


class Hunt:
    """One job to end, and what is known of it."""

    def __init__(
        self,
        message: dict[str, Any],
        now: float,
        tell: Tell = lambda *_: None,
        patience: float = PATIENCE,
        oldest: int = 0,
        sure: bool = False,
    ) -> None:
        """`sure`: that the pid is the job's is known; a dispatcher says it, and what it says must be seen."""
        self.id: str = message["id"]
        self.attempt: int = message["attempt"]
        pid: int | None = message.get("pid")
        self.pid = pid if pid is not None and pid > 1 else None
        self.start: int = message.get("start") or 0
        self.tell = tell
        self.until = now + patience
        self.sure = sure
        self.doubtful = False  # what lives in that session may be anybody's
        self.oldest = oldest  # what carries the job's id and is older is of an attempt before it
        self.found: set[tuple[int, int]] = set()  # pid and start of all that was found, which may be dying slowly
        self.quiet = 0  # rounds in a row in which nothing of it was found

    def left(self, seen: dict[int, Seen]) -> list[Seen]:
        """What lives of the job."""
        own = self.id.encode()
        leader = seen.get(self.pid) if self.pid is not None else None
        ours = self.pid is not None and (leader is None or leader.start == self.start)  # else its pid is recycled
        session = [process for process in seen.values() if ours and process.session == self.pid]  # it holds its groups
        members = [each for each in session if each.start >= self.start and each.carries in (None, own)]
        self.sure = self.sure or any(each.carries == own for each in members)
        self.doubtful = not self.sure and any(each.state not in _GONE for each in members)
        left = []
        for process in seen.values():
            carrier = process.carries == own and process.start >= self.oldest
            known = (process.pid, process.start) in self.found
            if ((self.sure and process in members) or carrier or known) and process.state not in _GONE:
                left.append(process)
                self.found.add((process.pid, process.start))
        return left


class Hunts:
    """Every job that is being ended. One look at /proc serves them all, however many a dead worker left."""

    def __init__(self, loop: Loop, spool: str, tell: Tell, sure: bool = True) -> None:
        """`sure`: whoever says which pid a job has, is believed (rootless it is the user himself)."""
        self._sure = sure
        self._loop = loop
        self._spool = b"CRONQ_SPOOL=" + os.fsencode(spool)
        self._tell = tell
        self._hunts: dict[tuple[str, int], Hunt] = {}
        self._due = False

    def add(self, message: dict[str, Any]) -> None:
        """End what is left of a job whose worker died, and tell."""
        hunt = Hunt(message, time.monotonic(), self._tell, PATIENCE, sure=self._sure)
        boot = message.get("boot")
        if boot is not None and boot != boot_id():
            self._tell(hunt.id, hunt.attempt, True)  # nothing outlives the kernel it ran on
            return
        self._begin(hunt)

    def follow(self, job: dict[str, Any], tell: Tell) -> None:
        """End what an attempt that was stopped left behind, as far as it can be found in a second, and tell."""
        self._begin(Hunt(job, time.monotonic(), tell, SHORT_PATIENCE, job["start"] or 0, sure=True))

    def _begin(self, hunt: Hunt) -> None:
        self._hunts[hunt.id, hunt.attempt] = hunt
        if not self._due:
            self._due = True
            self._loop.after(0.0, self._round)

    def _round(self) -> None:
        seen = snapshot(self._spool)
        now = time.monotonic()
        for key, hunt in list(self._hunts.items()):
            left = hunt.left(seen)
            hunt.quiet = 0 if left else hunt.quiet + 1
            for process in left:
                kill(process)
            if hunt.quiet == 2 or now > hunt.until:
                del self._hunts[key]
                # With neither a pid nor a trace, the job may have ended, or never begun: nobody can know.
                known = hunt.pid is not None or bool(hunt.found)
                hunt.tell(hunt.id, hunt.attempt, known and not left and not hunt.doubtful)
        self._due = bool(self._hunts)
        if self._due:
            self._loop.after(ROUND, self._round)


def snapshot(spool: bytes) -> dict[int, Seen]:
    """Every process there is. Launcher and workers carry no job's id, whoever started them (see `launcher.main`)."""
    found: dict[int, Seen] = {}
    for name in os.listdir("/proc"):
        process = look(int(name)) if name.isdigit() else None
        if process is not None:
            process.carries = _job_of(process.pid, spool) or _job_of_input(process.pid, spool)
            found[process.pid] = process
    return found


def _job_of(pid: int, spool: bytes) -> bytes | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None  # another user's, or gone
    ids = [variable[13:] for variable in variables if variable.startswith(b"CRONQ_JOB_ID=")]
    return ids[0] if ids and spool in variables else None


def input_name(spool: bytes, job_id: bytes) -> bytes:
    """How the input of a crontab's job is called: its environment is cron's, and has no id."""
    return b"cronq:%s:%s" % (hashlib.sha256(spool).hexdigest()[:12].encode(), job_id)


def _job_of_input(pid: int, spool: bytes) -> bytes | None:
    try:
        target = os.readlink(b"/proc/%d/fd/0" % pid)
    except OSError:
        return None
    ours = b"/memfd:" + input_name(spool.partition(b"=")[2], b"")
    return target[len(ours) :].removesuffix(b" (deleted)") if target.startswith(ours) else None


def kill(process: Seen) -> None:
    """SIGKILL for the process that was seen, and for no other that has its pid by now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if start_time(process.pid) == process.start:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass  # gone, or not ours to kill: the next round shows which
    finally:
        os.close(descriptor)


def signal_group(pid: int, number: int) -> None:
    """Signal a child's process group.

    Its leader is not waited for yet, so this pid is no other group's; one that was just forked may have none yet.
    """
    for tell in (os.killpg, os.kill):
        try:
            tell(pid, number)
            return
        except ProcessLookupError:
            pass
        except OSError:
            return  # all of it belongs to others (sudo), and is not ours to signal
