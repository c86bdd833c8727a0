"""Strain: how near users and the service are to the number of processes that they may have.

Does:    counts processes (threads count, as the kernel has it) and compares: RLIMIT_NPROC of each user, pids.max of
         the jobs' cgroup and every one above the service, the kernel's own number.
Reads:   /proc, and the cgroup file system; both may be read by anybody.
Fails:   never: what cannot be read is not compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from cronq import cgroup, checkup, show
from cronq.checkup import FAIL, OK, WARN, Finding

NEAR = 0.8  # of a limit


def check(uids: list[int], pid: int, cgroups: str = "") -> Iterator[Finding]:
    """The users `uids`, and the process `pid`, whose limits their jobs have (the dispatcher's)."""
    used = threads()
    limit = process_limit(pid)
    near = False
    for uid in uids:
        if uid != 0 and limit is not None and used[uid] >= NEAR * limit:  # root is not limited
            near = True
            yield (
                FAIL if used[uid] >= limit else WARN,
                f"processes: {show.user(uid)} has {used[uid]} of the {limit} that RLIMIT_NPROC allows each user; "
                "beyond them no job of his starts: end some, or raise LimitNPROC= of the service",
            )
    for folder, most, now in _cgroups(pid, cgroups or _mounted()):
        if now >= NEAR * most:
            near = True
            yield (
                FAIL if now >= most else WARN,
                f"processes: {now} of the {most} that {folder}/pids.max allows; raise TasksMax= of the unit",
            )
    most = _number("/proc/sys/kernel/threads-max") or 0
    if most and sum(used.values()) >= NEAR * most:
        near = True
        yield WARN, f"processes: {sum(used.values())} of the {most} that the kernel allows; raise kernel.threads-max"
    if not near:
        allowed = "no limit for a user" if limit is None else f"{limit} for each user"
        yield OK, f"processes: {sum(used.values())} on this machine, {allowed}"


def threads() -> Counter[int]:
    """How many threads each user has, by real uid."""
    found: Counter[int] = Counter()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
                rows = dict(line.split(":\t", 1) for line in file if line.startswith(("Uid:", "Threads:")))
            found[int(rows["Uid"].split()[0])] += int(rows["Threads"])
        except (OSError, KeyError, ValueError):
            continue  # it has just ended
    return found


def process_limit(pid: int) -> int | None:
    """How many processes a user may have, as this process hands it on; None for as many as he likes."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("Max processes"))
        return int(line[len("Max processes") :].split()[0])
    except (OSError, StopIteration, ValueError):
        return None


def _mounted() -> str:
    return next((point for point, kind in checkup.mounts() if kind == "cgroup2"), "/sys/fs/cgroup")


def _cgroups(pid: int, mounted: str) -> Iterator[tuple[str, int, int]]:
    """Every cgroup of the process, and that of its jobs, with a limit: its directory, the limit, and what is used."""
    path = _path(pid)
    paths = [path.removesuffix(cgroup.SERVICE) + cgroup.JOBS] if path.endswith(cgroup.SERVICE) else []
    while path.strip("/") and not path.startswith("/.."):
        paths.append(path)
        path = os.path.dirname(path)
    for folder in (mounted + path for path in paths):
        most, now = _number(f"{folder}/pids.max"), _number(f"{folder}/pids.current")
        if most is not None and now is not None:
            yield folder, most, now


def _path(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")
    except OSError:
        return "/"


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None  # not there, or "max"
