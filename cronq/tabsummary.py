"""What a person is told of a crontab just installed: what has changed, what is doubtful, what runs next.

Does:    two tables -> a few lines. An entry that was only moved, or stands beside others that changed, is the same.
Reads:   the clock and the machine's time zone.
Trusts:  no text of a table: whoever prints the lines escapes them.
Fails:   not at all.
"""

from __future__ import annotations

import datetime
import time
import zoneinfo

from cronq import localzone
from cronq.crontab import CronEntry, Crontab, parse_crontab
from cronq.schedule import Schedule
from cronq.upcoming import next_runs

MOST = 10  # lines of each kind
LONGEST = 60  # characters of a command
LOOKED_AT = 1000  # entries of which it is worked out when they run


def lines(before: bytes, after: bytes, user: str) -> list[str]:
    """What to tell of a table of `user` that has replaced another one."""
    old, new = (parse_crontab(data, user=user) for data in (before, after))
    earlier, present = ({entry.identity: entry for entry in table.entries} for table in (old, new))
    changes = [f"  + {_line(entry)}" for identity, entry in present.items() if identity not in earlier]
    changes += [f"  - {_line(entry)}" for identity, entry in earlier.items() if identity not in present]
    changes += [
        f"  ~ {_line(entry)}"
        for identity, entry in present.items()
        if identity in earlier and _facts(entry) != _facts(earlier[identity])
    ]
    found = [_count(new, earlier, present)]
    found += _bounded(changes)
    found += _bounded([str(problem) for problem in new.warnings])
    return found + _next(new.entries)


def _facts(entry: CronEntry) -> tuple[object, ...]:
    return entry.when, entry.zone, entry.command, entry.options, entry.env


def _count(new: Crontab, earlier: dict[str, CronEntry], present: dict[str, CronEntry]) -> str:
    added, gone = len(present.keys() - earlier.keys()), len(earlier.keys() - present.keys())
    changed = sum(_facts(present[each]) != _facts(earlier[each]) for each in present.keys() & earlier.keys())
    words = [f"{number} {word}" for number, word in ((added, "new"), (gone, "gone"), (changed, "changed")) if number]
    number = len(new.entries)
    return f"{number} {'entry' if number == 1 else 'entries'}: {', '.join(words) or 'nothing has changed'}"


def _line(entry: CronEntry) -> str:
    command = entry.command.strip()
    shown = command if len(command) <= LONGEST else command[: LONGEST - 1] + "…"
    return f"{entry.when}  {shown}"


def _bounded(found: list[str]) -> list[str]:
    return found[:MOST] + [f"  … and {len(found) - MOST} more"] * (len(found) > MOST)


def _next(entries: tuple[CronEntry, ...]) -> list[str]:
    """The first runs, a line for each of the entries that run soonest."""
    now = time.time()
    runs = []
    for entry in entries[:LOOKED_AT]:
        if isinstance(entry.schedule, Schedule) and entry.schedule.reboot:
            continue
        zone = zoneinfo.ZoneInfo(entry.zone) if entry.zone else localzone.local()
        runs += [(run.at, _line(entry)) for run in next_runs(entry.schedule, zone, now, 1)]
    runs.sort()
    local = localzone.local()
    return [f"next {datetime.datetime.fromtimestamp(at, local):%a %Y-%m-%d %H:%M %z}  {line}" for at, line in runs[:3]]
