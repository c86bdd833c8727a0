"""Two accounts of the same days: what our clock had due, and what cron's log says it started.

Does:    `expect` what the clock finds due and `hear` the lines of the log, in any order; `settle` counts per command
         what both have, what only cron ran (`missing`), and what only cronq would have run (`extra`).
Reads:   nothing but its arguments, time among them.
Trusts:  nobody: what stands in a log may be anything, so what is kept of it is bounded.
Fails:   not at all.

A line belongs to a run of the same user and command: the run of its own minute if there is one, else one that is up to
`LATE` seconds older, since a busy machine starts its jobs late. A log cannot tell two entries with the same user and
command apart: they are counted together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from cronq.logread import STARTED, Line

LATE = 300
_EARLY = 2  # a clock that is set by a second or two
_MOST_TIMES = 20
_MOST_STRANGERS = 1000
_OTHERS = ("", "(others)")


class Run(NamedTuple):
    """A run that the clock has due in the minute that begins at `at`; `instant` is the minute it is named by."""

    user: str
    command: str
    at: int
    instant: int

    def fits(self, heard: Line) -> bool:
        """Can this line be about this run?"""
        first = min(self.at, self.instant // 60 * 60)
        return first - _EARLY <= heard.at <= self.at + LATE


@dataclasses.dataclass(slots=True)
class Count:
    """What is known of one user's command. `where` are its lines in the tables, `note` why cron may not run it."""

    user: str
    command: str
    where: list[str] = dataclasses.field(default_factory=list)
    note: str = ""
    untold: bool = False  # it may run without our clock telling so: at boot, or from a table that cron has not
    same: int = 0
    missing: int = 0
    extra: int = 0
    missing_at: list[float] = dataclasses.field(default_factory=list)  # the newest ones
    extra_at: list[float] = dataclasses.field(default_factory=list)

    @property
    def seen(self) -> int:
        return self.same + self.missing + self.extra


class Agreement:
    """The counts, and what is not settled yet."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        """`state` is what `state()` gave before."""
        state = state or {}
        self.counts = {(each["user"], each["command"]): Count(**each) for each in state.get("counts", ())}
        self.excused = int(state.get("excused", 0))
        self._runs = [Run(*each) for each in state.get("runs", ())]
        self._lines = [Line(*each) for each in state.get("lines", ())]
        self._strangers = len(self.counts)  # how many commands no table was known to have
        self._started: set[int] = set(state.get("started", ()))  # minutes in which cron began

    def state(self) -> dict[str, Any]:
        """Plain JSON, for a restart."""
        return {
            "counts": [dataclasses.asdict(each) for each in self.counts.values() if each.seen],
            "excused": self.excused,
            "runs": self._runs,
            "lines": self._lines,
            "started": sorted(self._started),
        }

    @property
    def open(self) -> int:
        """How many runs have not been found in the log yet."""
        return len(self._runs)

    @property
    def agrees(self) -> bool:
        """Whether there was something to compare, and all of it was the same."""
        counts = self.counts.values()
        return any(each.same for each in counts) and not any(each.missing or each.extra for each in counts)

    def know(self, entries: Iterable[tuple[str, str, str, str, bool]]) -> None:
        """What stands in the tables now: user, command, where, note, whether it may run untold."""
        for each in self.counts.values():
            each.where, each.untold = [], False
        for user, command, where, note, untold in entries:
            found = self.counts.setdefault((user, command), Count(user, command))
            found.where.append(where)
            found.note, found.untold = note, found.untold or untold

    def expect(self, runs: Iterable[Run]) -> None:
        """These runs are due."""
        self._runs += runs

    def hear(self, lines: Iterable[Line]) -> None:
        """Cron's log has these lines."""
        for each in lines:
            if each.user == STARTED:
                self._started.add(int(each.at) // 60)
            else:
                self._lines.append(each)

    def forget(self) -> None:
        """Drop what is not settled: the log that would tell is lost."""
        self._runs, self._lines = [], []

    def settle(self, read: float, watched: list[list[int]]) -> None:
        """The log was read up to the time `read`, and the clock looked at the minutes of these spans."""
        left: dict[tuple[str, str], list[Run]] = {}
        for run in self._runs:
            left.setdefault((run.user, run.command), []).append(run)
        unmatched = self._lines
        for same_minute in (True, False):  # in this order, so that a late one takes no other's run
            unmatched = [heard for heard in unmatched if not self._match(heard, left, same_minute)]
        self._lines = [heard for heard in unmatched if not self._is_missing(heard, watched)]
        self._runs = [run for runs in left.values() for run in runs if not self._is_extra(run, read)]
        self._started = {minute for minute in self._started if minute * 60 > read - 2 * LATE}

    def _key(self, heard: Line) -> tuple[str, str]:
        key = heard.user, heard.command
        return key if key in self.counts else (heard.user, heard.without_pid())

    def _match(self, heard: Line, left: dict[tuple[str, str], list[Run]], same_minute: bool) -> bool:
        runs = left.get(self._key(heard), [])
        minute = int(heard.at) // 60
        for run in runs:
            if (minute in (run.at // 60, run.instant // 60) or not same_minute) and run.fits(heard):
                runs.remove(run)
                self.counts[run.user, run.command].same += 1
                return True
        return False

    def _is_missing(self, heard: Line, watched: list[list[int]]) -> bool:
        """Cron ran it, and our clock looked at that minute and did not have it due. True: it is settled."""
        minute = int(heard.at) // 60
        if not any(first <= minute <= last for first, last in watched):
            return not watched or minute <= watched[-1][1]  # nobody looked then
        found = self._count(*self._key(heard))
        if not found.untold:
            found.missing += 1
            found.missing_at = [*found.missing_at, heard.at][-_MOST_TIMES:]
        return True

    def _is_extra(self, run: Run, read: float) -> bool:
        """Cron would have said so by now. True: it is settled."""
        if run.at + LATE >= read:
            return False
        if run.at // 60 in self._started:  # it leaves out the minute in which it begins
            self.excused += 1
            return True
        found = self._count(run.user, run.command)
        found.extra += 1
        found.extra_at = [*found.extra_at, float(run.at)][-_MOST_TIMES:]
        return True

    def _count(self, user: str, command: str) -> Count:
        key = user, command
        if key not in self.counts:
            self._strangers += 1
            key = key if self._strangers <= _MOST_STRANGERS else _OTHERS
        return self.counts.setdefault(key, Count(*key))
