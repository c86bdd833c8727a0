"""`cronq shadow`: beside cron for days, without running anything; what would cronq have started, and what did cron?

Does:    once a minute reads the machine's tables, asks the dispatcher's own clock what is due, reads what cron logged,
         and counts where the two agree. `Shadow.look` is one minute; `watch` is forever, and survives being stopped.
Reads:   the tables (crontables), cron's log (logread), the clock.
Writes:  its state, a JSON file of root's, whole or not at all. It starts nothing.
Trusts:  root, whose file the state is.
Fails:   `NotPermitted` where it is not root; `UsageError` for a log or a state that cannot be used. What was not
         watched (it was stopped for more than five minutes, or a log was lost) is not compared; the report says so.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from cronq import durable, localzone, logread
from cronq.agreement import LATE, Agreement, Run
from cronq.clock import Clock
from cronq.cronlog import printable
from cronq.crontab import CronEntry
from cronq.crontables import Table, cronqs, tables
from cronq.crontext import split_percent
from cronq.errors import NotPermitted, UsageError
from cronq.schedule import Schedule
from cronq.upcoming import FEW

STATE = "/var/lib/cronq/shadow.json"
VERSION = 1
_MOST_SPANS = 1000


class Watched:
    """An entry as the clock wants it, and what cron would log of it."""

    __slots__ = ("command", "note", "options", "reboot", "schedule", "user", "where", "zone")

    def __init__(self, table: Table, entry: CronEntry) -> None:
        self.schedule, self.zone, self.options = entry.schedule, entry.zone, entry.options
        self.user = entry.user
        self.command = printable(split_percent(entry.command)[0])
        self.where = f"{table.path}:{entry.line} ({entry.when})"
        self.reboot = isinstance(entry.schedule, Schedule) and entry.schedule.reboot
        self.note = f"cron ignores all of {table.path} ({table.silenced})" if table.silenced else ""
        if entry.zone and not self.note:
            self.note = f"cron does not know CRON_TZ={entry.zone}"


class Shadow:
    """What was seen so far. `source` may be None where only a report is wanted."""

    def __init__(self, state: dict[str, Any], source: logread.Source | None, now: float) -> None:
        self.agreement = Agreement(state.get("agreement"))
        self.clock = Clock(state.get("clock"))
        self.spans: list[list[int]] = [
            list(map(int, span)) for span in state.get("spans", ())
        ]  # minutes, both included
        self.began = float(state.get("began", now))
        self.heard = int(state.get("heard", now)) // 60  # the minute in which the log was read last
        self.place: dict[str, Any] = dict(state.get("place", {}))
        self._source = source
        self._tables: list[Table] = []
        self._own: list[Table] = []  # cronq's, whose lines in the log are not cron's
        self._started = False

    def state(self) -> dict[str, Any]:
        """Plain JSON, to go on after a restart."""
        place = self._source.place if self._source is not None else self.place
        about = {"version": VERSION, "began": self.began, "spans": self.spans, "place": place, "heard": self.heard * 60}
        return about | {"clock": self.clock.state(), "agreement": self.agreement.state()}

    def look(self, now: float, local: datetime.tzinfo) -> None:
        """One minute: what is due, and what the log has."""
        self._load(tables(self._tables), cronqs(self._own))
        minute = int(now) // 60
        if not self._started:
            self.clock.start(now, local)
            if not self.spans or minute - self.spans[-1][1] > FEW:
                self._begin(minute + 1)
            self._started = True
        due = [tick for tick in self.clock.turn(now, local) if not tick.caught_up]
        found = [(tick.entry, tick.instant) for tick in due]
        self.agreement.expect(Run(each.user, each.command, minute * 60, instant) for each, instant in found)
        self.spans[-1][1] = max(self.spans[-1][1], minute)
        self.listen(now)

    def listen(self, now: float) -> None:
        """What the log has by now."""
        if self._source is None:
            return
        self.agreement.hear(self._source.read(now))
        if self._source.lost:
            self.agreement.forget()
            self.spans[-1][1] = min(self.spans[-1][1], self.heard - 1)
            self._begin(int(now) // 60 + 1)
        self.heard = int(now) // 60
        self.agreement.settle(now, self.spans)

    def _begin(self, minute: int) -> None:
        """What was before is not compared."""
        self.spans = [*(span for span in self.spans if span[0] <= span[1]), [minute, minute - 1]][-_MOST_SPANS:]

    def _load(self, found: list[Table], own: list[Table]) -> None:
        if self._started and (found, own) == (self._tables, self._own):
            return
        self._tables, self._own = found, own
        watched = [Watched(table, entry) for table in found for entry in table.entries]
        self.clock.load(watched)
        others = [Watched(table, entry) for table in own for entry in table.crontab.entries]
        told = [(each.user, each.command, each.where, each.note, each.reboot) for each in watched]
        self.agreement.know(told + [(each.user, each.command, each.where, "", True) for each in others])


def watch(
    path: str, log: str | None, journal: bool, length: float | None, say: Callable[[str], None], anew: bool = False
) -> Shadow:
    """Watch for so many seconds since the state began, or until a signal; what was seen. Raises `UsageError`.

    `anew`: the state begins now, whatever was seen before.
    """
    _must_be_root()
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with _Locked(path):
        state, now = {} if anew else load(path), time.time()
        source = logread.find(log, journal, now, state.get("place"))
        shadow = Shadow(state, source, now)
        end = float("inf") if length is None else shadow.began + length
        say(f"comparing with {source.name}; nothing is started. What was seen: cronq shadow --report")
        while (now := time.time()) < end:
            shadow.look(now, localzone.local())
            save(path, shadow.state())
            until = min((int(now) // 60 + 1) * 60, end) - time.time()
            if signal.sigtimedwait(signals, max(0.0, until)) is not None:
                break
        if shadow.agreement.open and time.time() >= end:
            say(f"waiting for lines of cron's that are late, for {LATE // 60} minutes at most")
        while shadow.agreement.open and (now := time.time()) < end + LATE and now >= end:  # cron's lines may be late
            shadow.listen(now)
            if signal.sigtimedwait(signals, 1.0) is not None:
                break
        save(path, shadow.state())
    return shadow


def report(path: str) -> Shadow:
    """What was seen so far. Raises `UsageError`, `NotPermitted`."""
    _must_be_root()
    if not os.path.exists(path):
        raise UsageError(f"nothing was watched yet ({path} is not there); cronq shadow --for 3d does")
    return Shadow(load(path), None, time.time())


def load(path: str) -> dict[str, Any]:
    """The state; an empty one where there is none. Raises `UsageError`."""
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if isinstance(state, dict) and state.get("version") == VERSION:
            return state
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; remove it to begin anew") from None
    raise UsageError(f"{path} is no state of cronq shadow; remove it to begin anew")


def save(path: str, state: dict[str, Any]) -> None:
    """Write the state, whole or not at all."""
    durable.write(path, json.dumps(state).encode(), 0o600)


class _Locked:
    """One shadow for a state at a time."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o755, exist_ok=True)
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UsageError(f"another cronq shadow keeps {path}; see cronq shadow --report") from None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("only root can watch beside cron (sudo cronq shadow …)")
