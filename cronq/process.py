"""Who a process is, and ending what a job left: by pid, start time and boot, never by pid alone.

Reads:   /proc. Trusts: the kernel. Fails: a process that is gone, or not ours to see, is not there.
"""

from __future__ import annotations

import os
import signal


def boot_id() -> str:
    """This boot's name."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc(5), stat, field 22); None if it is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; a zombie counts as gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def of_job(job_id: str, pid: object, start: object, boot: object) -> list[int]:
    """The processes of a job whose worker died: its group and session, and whatever carries its id.

    The group counts only if the same boot is on, and its leader, where it still lives, started when the job did.
    """
    mark = f"CRONQ_JOB_ID={job_id}".encode()
    group = pid if isinstance(pid, int) and boot == boot_id() else None
    if group is not None and isinstance(start, int):
        there = start_time(group)
        if there is not None and there != start:
            group = None
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        fields = _stat(int(name))
        if fields is None or fields[0] in "ZX":
            continue
        member = group is not None and group in (int(fields[2]), int(fields[3]))
        if member and isinstance(start, int) and int(fields[19]) < start:
            member = False
        if member or _carries(name, mark):
            found.append(int(name))
    return found


def _carries(name: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{name}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def kill(pids: list[int]) -> None:
    """End these processes at once."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
