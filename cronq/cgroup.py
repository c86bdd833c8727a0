"""A cgroup v2 leaf for each attempt: what a job may take, and ending all of it at once, wherever it hid.

Does:    `find` finds the cgroup of the jobs' unit; `place` moves an attempt's first process into a leaf of its own
         below it, with its limits; `kill` ends everything in a leaf; `sweep` removes the empty ones; `oom_kills`
         tells how many processes of a leaf the kernel killed for want of memory.
Reads:   /proc/self/cgroup, /proc/self/mountinfo, and the kernel's files below the jobs' cgroup.
Writes:  below the jobs' cgroup only: leaves named `job-<id>.<attempt>`, `keeper`, theirs and its own files.
Trusts:  the kernel; and systemd, whose mark (the attribute `trusted.delegate` or `user.delegate`) says that a cgroup is
         for others to divide. Not its caller: a name that is no attempt's and a limit that is none are refused.
Fails:   `find` says why there are no leaves; `OSError` where the kernel refuses; `CronqError` for what is not one of
         ours. A leaf that cannot be emptied at once stays, and `kill` says so.

The launcher's part: root's, standard library only, no byte of a user's. The rules behind it: the kernel's
Documentation/admin-guide/cgroup-v2.rst ("No Internal Process Constraint", "cgroup.kill") and systemd's
CGROUP_DELEGATION. A cgroup whose controllers are enabled for its children takes no process of its own: not even the
new main process of a service that is restarted while its jobs go on (EBUSY, and the service does not start). So jobs
live in the cgroup of a second unit, `cronq-jobs.service` beside `cronq.service`, which is never restarted. Its only
process is one that sleeps, for systemd removes the cgroup of a unit without any; it is moved out of the way, into
`keeper`, which systemd does by itself from 254 on (`DelegateSubgroup=`).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import stat
import time

from cronq.errors import CronqError
from cronq.job import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE, JOBS = ".service", "-jobs.service"  # `cronq.service` has its jobs in `cronq-jobs.service`
KEEPER = "keeper"  # DelegateSubgroup= of that unit
PREFIX = "job-"
MARKS = ("trusted.delegate", "user.delegate")  # the second since systemd 251
LIMITS = {  # what a task may limit: the controller, its file, the least and the most
    "memory_max": ("memory", "memory.max", 1, 2**60),
    "pids_max": ("pids", "pids.max", 1, 2**22),
    "cpu_weight": ("cpu", "cpu.weight", 1, 10_000),
}
PATIENCE = 0.02  # seconds for what was killed; whoever asked asks again
KILL = "cgroup.kill"  # since Linux 5.14
MAX_ATTEMPT_DIGITS = 9


class Leaves:
    """The leaves below the cgroup of one unit."""

    def __init__(self, base: str) -> None:
        self.base = base

    def limits(self) -> tuple[str, ...]:
        """The limits that a leaf can have now: their controllers are enabled where they are not yet."""
        for pid in _pids(self.base):  # no controller is enabled above a process: after each start of the unit's
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{self.base}/{KEEPER}", 0o755)
            _try_write(f"{self.base}/{KEEPER}/cgroup.procs", str(pid))
        control = f"{self.base}/cgroup.subtree_control"
        missing = set(_read(f"{self.base}/cgroup.controllers").split()) - set(_read(control).split())
        for controller in sorted(missing & {controller for controller, *_ in LIMITS.values()}):
            _try_write(control, f"+{controller}")  # each by itself: one may be refused
        enabled = _read(control).split()
        return tuple(key for key, (controller, *_) in LIMITS.items() if controller in enabled)

    def place(self, name: str, pid: int, limits: Mapping[str, object]) -> list[str]:
        """Move a process into the new leaf of its attempt; which of the limits asked for cannot be set here."""
        leaf = self._leaf(name)
        for key, value in limits.items():
            _check(key, value)
        possible = self.limits()
        self._make(leaf)
        try:
            for key in set(limits) & set(possible):
                _write(f"{leaf}/{LIMITS[key][1]}", str(limits[key]))
                if key == "memory_max":  # over its limit, all of a job is ended, not a part of it
                    _write(f"{leaf}/memory.oom.group", "1")
            _write(f"{leaf}/cgroup.procs", str(pid))
        except OSError:
            _remove(leaf)
            raise
        return [key for key in limits if key not in possible]

    def kill(self, name: str) -> bool:
        """End everything in an attempt's leaf; whether something is left of it (ask again), else the leaf is gone."""
        leaf = self._leaf(name)
        try:
            _write(f"{leaf}/{KILL}", "1")
        except FileNotFoundError:
            _kill_each(leaf)
        _await_empty(leaf)
        return not _remove(leaf)

    def oom_kills(self, name: str) -> int:
        """How many processes in an attempt's leaf the kernel killed for want of memory; 0 where it cannot be told.

        Everybody may read that, so its worker asks, as the user whom the job belongs to.
        """
        rows = (line.split() for line in _read(f"{self._leaf(name)}/memory.events").splitlines())
        return next((int(row[1]) for row in rows if row[:1] == ["oom_kill"] and row[1:] and row[1].isdigit()), 0)

    def sweep(self) -> None:
        """Remove the leaves that nothing lives in any more."""
        with contextlib.suppress(FileNotFoundError):  # where its unit is not active, and nothing lives below it
            for name in os.listdir(self.base):
                if name.startswith(PREFIX):
                    _remove(f"{self.base}/{name}")

    def _leaf(self, name: str) -> str:
        job_id, _, attempt = name.rpartition(".")
        digits = attempt.isascii() and attempt.isdigit() and len(attempt) <= MAX_ATTEMPT_DIGITS
        if not (digits and is_id(job_id)):
            raise CronqError(f"{name[:200]!r} is no attempt's name")
        return f"{self.base}/{PREFIX}{name}"

    def _make(self, leaf: str) -> None:
        try:
            os.mkdir(leaf, 0o755)
        except FileExistsError:  # its limits, if any, were another's; whatever lives in it makes this fail
            os.rmdir(leaf)
            os.mkdir(leaf, 0o755)


def find() -> tuple[Leaves | None, str]:
    """The leaves below the cgroup of the jobs' unit, or None; and a sentence that says why."""
    own = own_cgroup()
    if own is None:
        return None, "no cgroup per job: this process is in no cgroup v2 that is mounted here"
    if not own.endswith(SERVICE):
        return None, f"no cgroup per job: {own} is not that of a service of systemd's"
    base = own.removesuffix(SERVICE) + JOBS
    unit = os.path.basename(base)
    try:
        owner = os.stat(base)
    except OSError:
        start = f"start {unit}, in the slice of {os.path.basename(own)}, and then that one again"
        return None, f"no cgroup per job: {base} is not there; {start}"
    if not _marked(base):
        return None, f"no cgroup per job: {base} is not delegated; let {unit} say Delegate=yes"
    if os.geteuid() != 0 or owner.st_uid != 0 or stat.S_IMODE(owner.st_mode) & 0o022:
        return None, f"no cgroup per job: {base} must be root's, and writable by nobody else"
    if not os.access(base, os.W_OK):
        return None, f"no cgroup per job: {base} is mounted read-only"
    leaves = Leaves(base)
    limits = ", ".join(leaves.limits()) or "no limit: none of their controllers is available there"
    return leaves, f"a cgroup per job below {base}, with {limits}"


def beside() -> Leaves | None:
    """The leaves of the unit beside this process's own; for a worker, which knows that there are some."""
    own = own_cgroup()
    return Leaves(own.removesuffix(SERVICE) + JOBS) if own is not None and own.endswith(SERVICE) else None


def own_cgroup() -> str | None:
    """Where the cgroup v2 of this process is mounted; None where it is not."""
    lines = [line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    if not lines or lines[0].startswith("/.."):  # outside of the root of its cgroup namespace
        return None
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted = (_unescaped(field) for field in fields.split()[3:5])
        inside = os.path.commonpath([root, lines[0]]) == root
        if kind.startswith("cgroup2 ") and inside:
            path = os.path.join(mounted, os.path.relpath(lines[0], root)).removesuffix("/.")
            if str(os.getpid()) in _read(f"{path}/cgroup.procs").split():  # another mount may lie over it
                return path
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _marked(path: str) -> bool:
    for mark in MARKS:
        try:
            if os.getxattr(path, mark) == b"1":
                return True
        except OSError:
            pass
    return False


def _check(key: str, value: object) -> None:
    if key not in LIMITS:
        raise CronqError(f"{key[:40]!r} is no limit of a job's")
    *_, least, most = LIMITS[key]
    if type(value) is not int or not least <= value <= most:
        raise CronqError(f"{key} must be a whole number from {least} to {most}")


def _remove(leaf: str) -> bool:
    """Remove a leaf that nothing lives in, with what a job of root's made below it; whether there is none any more."""
    try:
        os.rmdir(leaf)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        if _populated(leaf):
            return False
    for folder, _, _ in os.walk(leaf, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


def _populated(leaf: str) -> bool:
    return "populated 1" in _read(f"{leaf}/cgroup.events")


def _await_empty(leaf: str) -> None:
    try:
        descriptor = os.open(f"{leaf}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)  # the kernel wakes whoever has read it before it changed
        end = time.monotonic() + PATIENCE
        while b"populated 1" in os.pread(descriptor, 4096, 0) and (left := end - time.monotonic()) > 0:
            poll.poll(left * 1000)
    finally:
        os.close(descriptor)


def _kill_each(leaf: str) -> None:
    """SIGKILL for each process below a leaf, frozen so that none forks away; for kernels that cannot do it at once."""
    _try_write(f"{leaf}/cgroup.freeze", "1")  # since Linux 5.2; the frozen die of SIGKILL
    for folder, _, _ in os.walk(leaf):
        for pid in _pids(folder):
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue  # gone
            try:
                if pid in _pids(folder):  # still, or again: what this descriptor means lives here
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(descriptor)


def _pids(folder: str) -> list[int]:
    return [int(word) for word in _read(f"{folder}/cgroup.procs").split() if word != "0"]  # 0: of no namespace of ours


def _read(path: str) -> str:
    """What a file of the kernel's says; nothing where it is gone."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """One write into a file of the kernel's, which must be there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _try_write(path: str, text: str) -> None:
    """A write that may be refused: what is there afterwards says what holds."""
    with contextlib.suppress(OSError):
        _write(path, text)
