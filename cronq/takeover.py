"""`cronq takeover`, `cronq rollback`: cronq becomes the machine's cron, and cron again what it was.

Does:    looks whether it would be safe (readiness); then, within one minute and after its first seconds: notes what is
         now, disables and stops cron, writes `[cron] system = true`, has cronq read it. Rollback undoes exactly that.
Reads:   the tables, cronq.toml, the units' state.
Writes:  NOTES, durable before anything is done and gone when all is undone; cronq.toml, whole and durable.
Trusts:  root, and systemd.
Fails:   `BadConfig` with what is in the way, before anything is done. Interrupted anywhere, either of the two commands
         can be given: each looks what is there and does what is left.

Cron starts what is due in a minute in its first seconds. So the change is made between the 5th and the 40th second: of
that minute cron ran all, and of the next cronq does; none is run twice or by nobody. Cron goes first: whoever is
interrupted between the two has jobs that wait for a second call, and no job that ran twice.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cronq import cronswitch, crontables, durable, localzone, readiness, units
from cronq.crontables import Table
from cronq.errors import BadConfig
from cronq.hand import Hand, Say
from cronq.readiness import CONFIG
from cronq.units import OURS
from cronq.upcoming import runs

NOTES = "/var/lib/cronq/takeover.json"
REBOOT_MARK = "/run/crond.reboot"  # Debian's cron runs no @reboot line where this is
FIRST, LAST = 5, 40  # seconds of a minute
_VERSION = 1


class Seams(NamedTuple):
    """What tests put in the place of the clock, or interrupt."""

    step: Callable[[str], None] = lambda _name: None
    sleep: Callable[[float], None] = time.sleep


def takeover(dry_run: bool, anyway: bool, say: Say, seams: Seams = Seams()) -> None:  # noqa: B008 - immutable
    """Make cronq this machine's cron. Raises `BadConfig`, `NotPermitted`."""
    readiness.must_be_possible()
    hand = Hand("", dry_run, say)
    tables = crontables.tables()
    before = _text()
    after = cronswitch.on(before or "", CONFIG)
    readiness.must_be_safe(tables, after, anyway, say)
    unit, notes = units.cron(), _notes()
    if notes is None:
        notes = {"version": _VERSION, "unit": unit, "config": before, "after": _digest(after), "on": before == after}
        notes |= {"enabled": units.is_enabled(unit), "active": units.is_active(unit)}
        if hand.said("note", f"{NOTES}: what is now, for cronq rollback"):
            durable.write(NOTES, json.dumps(notes).encode())
    else:
        hand.said("there", NOTES)
    seams.step("noted")
    begun = _wait(hand, seams, needed=units.is_active(unit) or before != after)
    if units.is_active(unit) and not dry_run:
        notes["stopping"] = begun
        durable.write(NOTES, json.dumps(notes).encode())
    elif before != after:  # it was stopped by a call that was interrupted
        begun = notes.get("stopping", begun)
    if unit and (units.is_active(unit) or units.is_enabled(unit)):
        hand.run(["systemctl", "disable", "--now", unit])
    else:
        hand.said("there", f"{unit or 'cron'}, which does not run")
    seams.step("stopped")
    _switch(hand, before, after)
    seams.step("written")
    hand.run(["systemctl", "reload", OURS])
    seams.step("reloaded")
    if not dry_run:
        _say_missed(tables, begun, time.time(), say)
        readiness.must_be_active()
    say("nothing was done (--dry-run)" if dry_run else "cronq is this machine's cron; cronq rollback undoes it")


def rollback(dry_run: bool, say: Say, seams: Seams = Seams()) -> None:  # noqa: B008
    """Make cron what it was before `takeover`. Raises `BadConfig`, `NotPermitted`."""
    readiness.must_be_possible()
    hand = Hand("", dry_run, say)
    notes, text = _notes(), _text()
    if notes is None:
        if text is not None and cronswitch.is_on(text, CONFIG):
            raise BadConfig(f"{CONFIG} says [cron] system = true, and not by cronq takeover: take it out, start cron")
        say("nothing to undo: cronq took nothing over")
        return
    unit, begun = notes["unit"], _wait(hand, seams, needed=True)
    if not notes["on"]:
        undone = notes["config"] if text is not None and _digest(text) == notes["after"] else text
        _switch(hand, text, undone if undone is None else cronswitch.off(undone, CONFIG))
    seams.step("written")
    if units.is_active(OURS):
        hand.run(["systemctl", "reload", OURS])
    seams.step("reloaded")
    booted_without = notes["active"] and not os.path.exists(REBOOT_MARK)
    if booted_without and hand.said("write", f"{REBOOT_MARK}: cronq ran the @reboot lines"):
        durable.write(REBOOT_MARK, b"")
    for wanted, verb in ((notes["enabled"], "enable"), (notes["active"], "start")):
        if wanted:
            hand.run(["systemctl", verb, unit])
            seams.step(verb)
    if hand.said("remove", NOTES):
        durable.remove(NOTES)
        _say_missed(crontables.tables(), begun, time.time(), say)
    say("nothing was done (--dry-run)" if dry_run else "cron is this machine's cron again")


# ---------------------------------------------------------------- the steps


def wait(now: float) -> float:
    """Seconds until the change can be made: until all that is due in a minute was started, well before the next."""
    second = now % 60
    return 0.0 if FIRST <= second <= LAST else (FIRST - second) % 60


def _wait(hand: Hand, seams: Seams, needed: bool) -> float:
    """Wait for the right seconds; the time at which the change begins."""
    seconds = wait(time.time()) if needed else 0.0
    if seconds:
        at = datetime.datetime.fromtimestamp(time.time() + seconds).strftime("%H:%M:%S")
        if hand.said("wait", f"until {at}: then all of that minute has been started"):
            seams.sleep(seconds)
    return time.time()


def _switch(hand: Hand, before: str | None, after: str | None) -> None:
    """Put the configuration in its place, if it is another."""
    if before == after:
        hand.said("there", CONFIG)
    elif after is None:
        if hand.said("remove", CONFIG):
            durable.remove(CONFIG)
    elif hand.said("write", f"{CONFIG}: [cron] system = {'true' if cronswitch.is_on(after, CONFIG) else 'false'}"):
        durable.write(CONFIG, after.encode())


def _say_missed(tables: list[Table], begun: float, done: float, say: Say) -> None:
    """It took longer than the minute: name what was due meanwhile, and run by nobody."""
    first, last = int(begun) // 60 * 60, int(done) // 60 * 60
    if first == last:
        return
    say(f"late     it took {done - begun:.0f} s; what was due meanwhile may have been run by nobody:")
    for table in tables:
        for entry in table.entries:
            if next(runs(entry.schedule, localzone.local(), first, last), None):
                say(f"late     {table.path}:{entry.line}  {entry.user}  {entry.command}")


def _notes() -> dict[str, Any] | None:
    try:
        with open(NOTES, encoding="utf-8") as file:
            notes = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        notes = None
    if not isinstance(notes, dict) or notes.get("version") != _VERSION:
        raise BadConfig(f"{NOTES} are no notes of cronq takeover; look, undo by hand what was done, and remove it")
    return notes


def _text() -> str | None:
    """The configuration as it is; None where there is none."""
    try:
        with open(CONFIG, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadConfig(f"{CONFIG} is no UTF-8; mend that first") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
