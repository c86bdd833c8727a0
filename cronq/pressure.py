"""Pressure: whether the machine has room for more, by its load and its free memory.

Does:    `Pressure.reason` says why nothing is to be started now; at most once a second it looks anew.
Reads:   /proc/loadavg and /proc/meminfo, only where the configuration names a bound.
Trusts:  the kernel.
Fails:   never: what cannot be read holds nothing up.

A brake, not a cap: load is the kernel's average over a minute, and memory is gone only when a job has taken it.
"""

from __future__ import annotations

from cronq.log import line as log

LOOK_EVERY = 1.0
LOAD, MEMORY = "/proc/loadavg", "/proc/meminfo"


class Pressure:
    """What was found the last time."""

    def __init__(self, load: str = LOAD, memory: str = MEMORY) -> None:
        self._load = load
        self._memory = memory
        self._looked = float("-inf")
        self._bounds: tuple[float | None, int | None] = (None, None)
        self._reason = ""

    def reason(self, now: float, max_load: float | None, min_free_memory: int | None) -> str:
        """Why nothing is to be started; empty where nothing speaks against it."""
        bounds = max_load, min_free_memory
        if bounds != self._bounds or now - self._looked >= LOOK_EVERY:
            self._looked, self._bounds = now, bounds
            found = self._look(max_load, min_free_memory)
            if bool(found) != bool(self._reason):
                log("pressure", reason=found) if found else log("pressure-gone")
            self._reason = found
        return self._reason

    def _look(self, max_load: float | None, min_free_memory: int | None) -> str:
        load = _first_number(self._load) if max_load is not None else None
        if load is not None and max_load is not None and load > max_load:
            return f"the load is {load:g} (max_load = {max_load:g})"
        free = _available(self._memory) if min_free_memory is not None else None
        if free is not None and min_free_memory is not None and free < min_free_memory:
            mebibytes = free >> 20, min_free_memory >> 20
            return "{} MiB of memory are free (min_free_memory = {} MiB)".format(*mebibytes)
        return ""


def _first_number(path: str) -> float | None:
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read(100).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _available(path: str) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError, StopIteration):
        return None
