"""The course of a clock that somebody sets: what it reads while true time passes, and when nobody looks at it.

Does:    steps (`12:00=+59`: it reads 59 minutes more when it would have read 12:00), stops and suspensions ->
         a `Course`, which answers what the clock reads, when that next changes, and who is away.
Reads:   nothing but its arguments.
Fails:   `UsageError` for what contradicts itself: a time the clock never reads, two absences that overlap.

True time is counted in the seconds that the clock reads in the beginning, and goes on from there whatever is done to
the clock.
"""

from __future__ import annotations

import bisect
import datetime
import re
from typing import NamedTuple

from cronq import job as jobs
from cronq import show, when
from cronq.errors import BadJob, UsageError

_MOST = 60 * 24 * 366  # minutes


class Set(NamedTuple):
    """A step: at this reading, the clock is put forward by so many seconds (or back)."""

    text: str
    at: int
    by: int


class Away(NamedTuple):
    """From this true time to that one nobody looks: the dispatcher is stopped, or sleeps with the machine."""

    start: int
    end: int
    stopped: bool
    text: str


class Course:
    """What the clock reads, from its reading `start` on."""

    def __init__(self, start: int, steps: list[Set]) -> None:
        self.begin = start
        self._true, self._ahead = [start], [0]  # from this true time on, the clock is so far ahead of it
        self.away: list[Away] = []
        reading, true, left = start, start, list(steps)
        while left:
            following = min((step for step in left if step.at >= reading), key=lambda step: step.at, default=None)
            if following is None:
                raise UsageError(f"--step {left[0].text}: the clock never reads that; an earlier step goes past it")
            true += following.at - reading
            reading = following.at + following.by
            self._true.append(true)
            self._ahead.append(reading - true)
            left.remove(following)

    def leave(self, text: str, at: int, seconds: int, *, stopped: bool) -> None:
        """Nobody looks for so long from the reading `at` on. Raises `UsageError`."""
        start = self._true_time(at)
        if start is None:
            raise UsageError(f"{text}: the clock never reads that; a step goes past it")
        gone = Away(start, start + seconds, stopped, text)
        for other in self.away:
            if gone.start < other.end and other.start < gone.end:
                raise UsageError(f"{gone.text} and {other.text} overlap; write one of them")
        self.away = sorted([*self.away, gone])

    def _true_time(self, reading: int) -> int | None:
        for start, ahead, end in zip(self._true, self._ahead, [*self._true[1:], reading + _MOST * 60 * 2], strict=True):
            if start <= reading - ahead <= end:
                return reading - ahead
        return None

    def reading(self, true: int) -> int:
        """What the clock reads at this true time."""
        return true + self._ahead[bisect.bisect_right(self._true, true) - 1]

    def step(self, true: int) -> int:
        """By how much it is put forward or back at just this true time."""
        at = bisect.bisect_right(self._true, true) - 1
        first = bisect.bisect_left(self._true, true)
        return self._ahead[at] - self._ahead[first - 1] if 0 < first <= at else 0

    def next_step(self, true: int) -> float:
        """When it is put forward or back next, later than this true time."""
        at = bisect.bisect_right(self._true, true)
        return self._true[at] if at < len(self._true) else float("inf")


def read_steps(texts: list[str], zone: datetime.tzinfo) -> list[Set]:
    """`TIME=±MIN`, each. Raises `UsageError`."""
    found = []
    for text in texts:
        at, minutes = _split("--step", text, zone)
        sign, amount = ("-", minutes[1:]) if minutes[:1] in ("-", "−") else ("+", minutes.removeprefix("+"))
        seconds = _minutes("--step", text, amount)
        found.append(Set(text, at, -seconds if sign == "-" else seconds))
    return found


def read_absence(option: str, text: str, zone: datetime.tzinfo) -> tuple[int, int]:
    """`TIME=MIN`: the reading, and how many seconds. Raises `UsageError`."""
    at, minutes = _split(option, text, zone)
    return at, _minutes(option, text, minutes)


def _split(option: str, text: str, zone: datetime.tzinfo) -> tuple[int, str]:
    at, equals, minutes = text.rpartition("=")
    if not equals:
        raise UsageError(f"{option} must be like 2027-03-28T12:00={_EXAMPLE[option]}, not {jobs.show(text)}")
    return when.moment(at, zone, f"{option} TIME"), minutes.strip()


_EXAMPLE = {"--step": "+59", "--stop": "30", "--suspend": "30"}


def _minutes(option: str, text: str, amount: str) -> int:
    """Whole minutes, or a duration such as 2h; in seconds."""
    try:
        seconds = jobs.seconds(f"{amount}m" if re.fullmatch(r"[0-9]{1,7}", amount) else amount, option)
    except BadJob:
        seconds = 0.5
    if seconds % 1 or not 0 < seconds <= _MOST * 60:
        more = f"{_EXAMPLE[option]}: a number of minutes, or a duration like 2h"
        raise UsageError(f"{option} must be like TIME={more}; not {show.escape(text)}")
    return int(seconds)
