"""Whose the machine's crontabs are: cron's, cronq's, both's, nobody's; and whether a takeover was broken off.

Does:    `check` looks, for `cronq doctor`; `judge` says what that means, now and after the next boot.
Reads:   the notes of `cronq takeover`, the switch in cronq.toml, cron's service and ours, a running dispatcher's own
         word of which tables it goes by.
Trusts:  the dispatcher only about itself: a finding changes nothing.
Fails:   never: what this user may not read, or is no configuration, is other checks' to say.

A takeover stops cron before it writes the switch, and a rollback does the reverse. So whatever breaks one of them off
leaves lines that nobody runs; what leaves two that run them was done by hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from cronq import client, cronswitch, units
from cronq.checkup import FAIL, OK, WARN, Finding
from cronq.errors import BadConfig, CronqError
from cronq.readiness import CONFIG
from cronq.takeover import NOTES
from cronq.units import OURS

_BROKEN = f"a takeover or rollback was broken off ({NOTES})"
_FINISH = "cronq takeover does what is left, cronq rollback undoes it"


class Facts(NamedTuple):
    """What there is to know.

    noted     a takeover has begun, and was not undone
    cron      what of cron's runs: its unit, or its pid; "" if none does
    boots     cron starts at boot
    switch    cronq.toml says that cronq is the machine's cron
    heeded    a dispatcher runs that goes by such a switch
    we_boot   cronq starts at boot
    """

    noted: bool
    cron: str
    boots: bool
    switch: bool
    heeded: bool
    we_boot: bool


def check(root: str) -> Iterator[Finding]:
    """Look, and judge. `root` is the system's spool."""
    try:
        with open(CONFIG, encoding="utf-8") as file:
            switch = cronswitch.is_on(file.read(), CONFIG)
    except FileNotFoundError:
        switch = False
    except (OSError, UnicodeDecodeError, BadConfig):
        return
    unit, pid = units.cron(), units.pid_of_cron()
    cron = unit if units.is_active(unit) else f"pid {pid}" if pid else ""
    boots = units.is_enabled(unit), not units.systemd_runs() or units.is_enabled(OURS)
    yield from judge(Facts(os.path.lexists(NOTES), cron, boots[0], switch, _is_heeded(root), boots[1]))


def _is_heeded(root: str) -> bool:
    try:
        (about,) = client.ask(root, {"do": "about"})
    except CronqError:
        return False
    return about.get("cron") is True


def judge(facts: Facts) -> Iterator[Finding]:
    """Who runs the tables now, and who after the next boot."""
    mend = _FINISH if facts.noted else f"stop cron, or take system = true out of {CONFIG} and reload {OURS}"
    if facts.cron and facts.heeded:
        yield (
            FAIL,
            f"cron: cron ({facts.cron}) runs, and cronq runs the machine's crontabs too, each line twice; {mend}",
        )
    elif not facts.cron and not facts.heeded and (facts.noted or facts.switch):
        yield FAIL, f"cron: nobody runs the machine's crontabs: {_why_nobody(facts)}"
    elif facts.heeded:
        yield from _ours(facts)
    elif facts.noted:
        yield WARN, f"cron: {_BROKEN}, and cron runs the machine's crontabs; {_FINISH}"
    elif facts.switch:
        yield (
            WARN,
            f"cron: {CONFIG} says system = true, and cron ({facts.cron}) runs: both would, after a restart; {mend}",
        )


def _why_nobody(facts: Facts) -> str:
    if facts.noted:
        return f"{_BROKEN}; {_FINISH}"
    return f"cron does not run, and no dispatcher goes by {CONFIG}; systemctl restart cronq"


def _ours(facts: Facts) -> Iterator[Finding]:
    """It is cronq that runs the tables: will it be, and it alone?"""
    if not facts.switch:
        why = f"{_BROKEN}; {_FINISH}" if facts.noted else f"systemctl reload {OURS}"
        yield FAIL, f"cron: cronq runs the machine's crontabs, and {CONFIG} says no more that it should; {why}"
    elif facts.boots:
        yield WARN, "cron: after the next boot both cron and cronq run the machine's crontabs; systemctl disable cron"
    elif not facts.we_boot:
        yield WARN, "cron: after the next boot nobody runs the machine's crontabs; systemctl enable cronq"
    else:
        yield OK, "cron: cronq runs the machine's crontabs"
