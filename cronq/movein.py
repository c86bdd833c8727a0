"""`cronq import`: what cron has to do here, what it does with it that nobody may know, and what cronq would.

Does:    as root every table of the machine, the run-parts directories, and what stands around cron (mail, anacron,
         timers); as a user his own table. Each entry with its next run; each oddity in a sentence. Nothing is changed.
Reads:   the tables (crontables), /etc/cron.hourly and its like, /etc/default/cron; systemctl where systemd runs.
Trusts:  nobody: control characters of a table are escaped.
Fails:   never for a table; what is wrong with one is what is shown.
"""

from __future__ import annotations

import datetime
import os
import stat
import subprocess
import time
import zoneinfo
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq import cronrules, crontables, localzone, show, units
from cronq.crontab import CronEntry
from cronq.crontables import Table
from cronq.schedule import Schedule
from cronq.upcoming import next_runs

SENDMAIL, ANACRON, DEFAULTS = "/usr/sbin/sendmail", "/usr/sbin/anacron", "/etc/default/cron"
FOLDERS = tuple(f"/etc/cron.{name}" for name in ("hourly", "daily", "weekly", "monthly"))


class Remark(NamedTuple):
    """A sentence about a line of a table; 0: about all of it."""

    line: int
    text: str


def main(as_json: bool) -> int:
    """Print what is here; returns the exit code."""
    root = os.geteuid() == 0
    tables = crontables.tables() if root else [crontables.own()]
    now, local = time.time(), localzone.local()
    folders = [folder for path in FOLDERS if (folder := _folder(path))] if root else []
    if as_json:
        for each in (
            ([{"machine": _machine()}] if root else []) + [_as_json(table, now, local) for table in tables] + folders
        ):
            show.one_object(each)
        return 0
    for line in _machine().values() if root else ():
        print(show.escape(line))
    for table in tables:
        _print_table(table, now, local)
    for folder in folders:
        _print_folder(folder)
    return 0


# ---------------------------------------------------------------- one table


def today(table: Table) -> Iterator[Remark]:
    """What cron does with this table that its owner may not know."""
    if table.fault:
        yield Remark(0, f"cron ignores it: {table.fault}" if table.fault.word else str(table.fault))
    elif table.silenced:
        yield Remark(0, f"cron ignores all of it, the good lines too ({table.silenced})")
    for user, line in table.unknown.items():
        yield Remark(line, f"there is no user {user}")
    for user, why in table.barred.items():
        if not _is_locked(why):
            yield Remark(0, f"cron runs nothing of {user}'s: {why}")
    for problem in table.crontab.problems:
        yield Remark(problem.line, f"{problem.text}; {problem.mend}")


def differences(table: Table) -> Iterator[Remark]:
    """What cronq would do with it, and cron does not, or the other way round."""
    if table.fault:
        return
    if table.refused:
        yield Remark(0, f"cronq runs nothing of it: {table.refused}")
    if table.silenced:
        if count := len(table.entries):
            yield Remark(0, f"cronq runs its {count} good line{'s' * (count > 1)}; cron none, for {table.silenced}")
        return
    for problem in table.crontab.errors:
        if problem.code != "option":
            yield Remark(problem.line, f"cronq does not run it, and cron does: {problem.text}")
    for user, why in table.barred.items():
        if _is_locked(why):  # cron runs the jobs of a locked account, and cronq does not
            yield Remark(0, f"cronq runs nothing of {user}'s, and cron does: {why}")
    for zone in sorted({entry.zone for entry in table.entries if entry.zone}):
        yield Remark(0, f"with cronq CRON_TZ={zone} holds; with cron these are times of the machine")


def _is_locked(why: str) -> bool:
    return " is locked; " in why


def _next(entry: CronEntry, now: float, local: datetime.tzinfo) -> float | None:
    zone = zoneinfo.ZoneInfo(entry.zone) if entry.zone else local
    found = next_runs(entry.schedule, zone, now, 1)
    return found[0].at if found else None


def _as_json(table: Table, now: float, local: datetime.tzinfo) -> dict[str, Any]:
    entries = []
    for entry in table.crontab.entries:
        at = _next(entry, now, local)
        about = {"line": entry.line, "user": entry.user, "when": entry.when, "command": entry.command}
        moment = None if at is None else datetime.datetime.fromtimestamp(at, local).isoformat()
        entries.append(about | {"next": moment})
    used = not table.fault and not table.silenced
    said = {name: [each._asdict() for each in of(table)] for name, of in (("today", today), ("cronq", differences))}
    return {"table": table.path, "owner": table.user, "used_by_cron": used, "entries": entries} | said


def _print_table(table: Table, now: float, local: datetime.tzinfo) -> None:
    count = len(table.crontab.entries)
    print(f"\n{show.escape(table.path)}: {count} entr{'y' if count == 1 else 'ies'}")
    for entry in table.crontab.entries:
        at = _next(entry, now, local)
        boot = isinstance(entry.schedule, Schedule) and entry.schedule.reboot
        when = "at boot" if boot else "never" if at is None else show.instant(at)
        print(
            f"    {when:<19}  {show.escape(entry.when):<14}  {show.escape(entry.user):<8}  {show.escape(entry.command)}"
        )
    for word, remarks in (("today", today(table)), ("cronq", differences(table))):
        for remark in remarks:
            print(f"  {word}: {f'line {remark.line}: ' * bool(remark.line)}{show.escape(remark.text)}")


# ---------------------------------------------------------------- what stands around cron


def _machine() -> dict[str, str]:
    mail = "is sent by" if os.path.exists(SENDMAIL) else "what jobs print is thrown away: there is no"
    anacron = "runs cron.daily, weekly and monthly" if os.path.exists(ANACRON) else "is not here"
    found = {"cron": f"cron: {_cron()}", "mail": f"mail: {mail} {SENDMAIL}", "anacron": f"anacron: {anacron}"}
    if units.systemd_runs():
        timers = _output("systemctl", "list-timers", "--all", "--no-legend", "--no-pager").splitlines()
        found["timers"] = f"systemd timers: {len([line for line in timers if line.strip()])}; cronq leaves them alone"
    return found


def _cron() -> str:
    unit, pid = units.cron(), units.pid_of_cron()
    about = f"{unit} is {units.show(unit, 'ActiveState')}, {units.show(unit, 'UnitFileState')}" if unit else ""
    return (about or (f"runs, with the pid {pid}" if pid else "does not run")) + _options()


def _options() -> str:
    """What Debian's cron is started with: -l makes other names of files count, -L changes what is logged."""
    try:
        with open(DEFAULTS, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return ""
    given = [line.partition("=")[2].strip("\"' ") for line in lines if line.startswith("EXTRA_OPTS=")]
    return f", started with {given[-1]}" if given and given[-1] else ""


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _folder(path: str) -> dict[str, Any] | None:
    """What run-parts would run of a directory, and what it passes over."""
    try:
        names = sorted(name for name in os.listdir(path) if name != ".placeholder")
    except OSError:
        return None
    runs, ignored = [], {}
    for name in names:
        if why := _passed_over(path, name):
            ignored[name] = why
        else:
            runs.append(name)
    return {"folder": path, "runs": runs, "ignored": ignored}


def _passed_over(folder: str, name: str) -> str:
    if cronrules.system_name(name):
        return "its name has a dot, or another character that is no letter, digit, _ or -"
    try:
        found = os.stat(os.path.join(folder, name))
    except OSError:
        return "it leads nowhere"
    if not stat.S_ISREG(found.st_mode):
        return "it is no file"
    return "" if found.st_mode & 0o111 else "it is not executable"


def _print_folder(folder: dict[str, Any]) -> None:
    print(f"\n{folder['folder']}: {', '.join(map(show.escape, folder['runs'])) or 'nothing'}")
    for name, why in folder["ignored"].items():
        print(f"  today: {show.escape(name)} does not run: {why}")
