"""Whether cronq can become this machine's cron: what `cronq takeover` looks at before it does anything.

Does:    `must_be_possible` and `must_be_safe` refuse; what they looked at is said in lines.
Reads:   the tables, the shadow's state, units, and cronq.toml as it would be.
Trusts:  root, and systemd.
Fails:   `BadConfig` with what is in the way, and how to mend it; `NotPermitted`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

from cronq import config as configs
from cronq import movein, roottables, shadow, trusted, units
from cronq.crontables import Table
from cronq.errors import BadConfig, NotPermitted, UsageError
from cronq.hand import Say
from cronq.schedule import Schedule
from cronq.units import OURS

CONFIG = "/etc/cronq/cronq.toml"
_BY_HAND = (
    "systemd does not run here: between the 5th and the 40th second of a minute stop cron, and keep it from starting "
    f"at boot; write [cron] system = true into {CONFIG}; send HUP to cronq's launcher"
)


def must_be_possible() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("only root can do this (sudo …)")
    if not units.systemd_runs():
        raise BadConfig(_BY_HAND)


def must_be_safe(tables: list[Table], after: str, anyway: bool, say: Say) -> None:
    """Say what was looked at. Raises `BadConfig` for what is in the way; `anyway` lets differences pass."""
    must_be_active()
    _must_be_the_only_one()
    if not units.is_enabled(OURS):
        raise BadConfig(f"{OURS} would not start at the next boot; systemctl enable cronq")
    _must_be_taken(after)
    used = [table for table in tables if table.entries]
    say(f"ok       {OURS}: active and enabled")
    say(f"ok       {sum(len(table.entries) for table in used)} entries in {len(used)} tables")
    said = roottables.too_many(roottables.listing(os.path.dirname(CONFIG), machine=True))
    differences = [*[said] * bool(said), *_differences(tables), *_shadows(say)]
    for sentence in differences:
        say(f"differs  {sentence}")
    for sentence in _remarks(tables):
        say(f"note     {sentence}")
    if differences and not anyway:
        raise BadConfig("cronq would not do what cron does today; mend that, or say --anyway")


def must_be_active() -> None:
    if not units.is_active(OURS):
        raise BadConfig(f"{OURS} does not run: systemctl enable --now cronq (docs/install.md), see cronq doctor")


def _must_be_the_only_one() -> None:
    """A cron that systemd did not start is none that it stops."""
    pid, unit = units.pid_of_cron(), units.cron()
    if pid and not (unit and units.show(unit, "MainPID") == str(pid)):
        raise BadConfig(f"a cron runs that systemd did not start, with the pid {pid} ({units.PIDFILE}); stop it first")


def _must_be_taken(text: str) -> None:
    """The configuration as it will be must be one that this cronq takes."""
    trusted.tree(os.path.dirname(CONFIG))
    with tempfile.TemporaryDirectory(prefix="cronq-takeover-") as folder:
        path = os.path.join(folder, os.path.basename(CONFIG))
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        _, errors = configs.load_file(path)
    if errors:
        raise BadConfig(errors[0].replace(path, CONFIG), [error.replace(path, CONFIG) for error in errors[1:]])


def _differences(tables: list[Table]) -> Iterator[str]:
    """What cron does today with these tables, and cronq would not, or the other way round."""
    for table in tables:
        for remark in movein.differences(table):
            yield f"{table.path}{f':{remark.line}' * bool(remark.line)}: {remark.text}"


def _shadows(say: Say) -> Iterator[str]:
    if not os.path.exists(shadow.STATE):
        say("note     cronq shadow has watched nothing yet; some days of it tell more")
        return
    try:
        seen = shadow.report(shadow.STATE).agreement
    except UsageError as error:
        yield error.sentence
        return
    if seen.agrees:
        say(f"ok       cronq shadow agrees: {sum(each.same for each in seen.counts.values())} runs")
    else:
        yield "cronq shadow does not agree; see cronq shadow --report (mended? watch again: cronq shadow --anew)"


def _remarks(tables: list[Table]) -> Iterator[str]:
    entries = [(table, entry) for table in tables for entry in table.entries]
    boots = sum(isinstance(entry.schedule, Schedule) and entry.schedule.reboot for _, entry in entries)
    if boots:
        yield f"@reboot lines run at the next boot, not now: {boots}"
    for table, entry in entries:
        if "cronq" in entry.command:
            yield f"{table.path}:{entry.line} is about cronq itself; look whether it is still needed"
