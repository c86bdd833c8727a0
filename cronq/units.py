"""What systemd says of cron's service, and of ours; and a cron that it knows nothing of.

Reads:   `systemctl show`, the pid file of Debian's cron.
Fails:   never: where systemd does not run, no unit is anything.
"""

from __future__ import annotations

import os
import subprocess

OURS = "cronq.service"
CRONS = ("cron.service", "crond.service", "cronie.service")
PIDFILE = "/run/crond.pid"


def systemd_runs() -> bool:
    """Is systemd this machine's init?"""
    return os.path.isdir("/run/systemd/system")


def show(unit: str, what: str) -> str:
    """A property of a unit; "" where there is none."""
    asked = ["systemctl", "show", "--value", f"--property={what}", unit]
    try:
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def is_active(unit: str) -> bool:
    """Does it run?"""
    return bool(unit) and show(unit, "ActiveState") == "active"


def is_enabled(unit: str) -> bool:
    """Does it start at boot?"""
    return bool(unit) and show(unit, "UnitFileState") == "enabled"


def cron() -> str:
    """The unit of this machine's cron; "" if it has none."""
    return next((unit for unit in CRONS if show(unit, "LoadState") == "loaded"), "")


def pid_of_cron() -> int:
    """The pid of a cron that runs, whoever started it; 0 if none does."""
    try:
        with open(PIDFILE, encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return pid if file.read().strip() in ("cron", "crond") else 0
    except (OSError, ValueError):
        return 0
