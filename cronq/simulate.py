"""`cronq simulate`: what the dispatcher would start from a crontab, under a clock that steps, sleeps and changes hours.

Does:    drives the very `Clock` that the dispatcher runs, by the turns that it would make: at each minute, where an
         extended schedule is due, and as soon as the clock is put forward or back. What it finds due is printed, a line
         or (--json) an object each; changes of the clock stand between them as lines that begin with `#`.
Reads:   the crontab, nothing else; no clock.
Fails:   `UsageError`, `BadJob`; a crontab with bad lines is simulated without them, and the exit code is 65.

Each job is taken to have ended before its next run is due: overlap and mutex are not simulated, nor is jitter.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq import attend, dst, show, tabfile, when
from cronq.clock import Clock, Tick
from cronq.course import Away, Course, read_absence, read_steps
from cronq.errors import UsageError
from cronq.forecast import say_errors
from cronq.tabfile import TabFile
from cronq.upcoming import wall

_YEARS = 10


class Options(NamedTuple):
    """Of the command line."""

    start: str
    end: str
    tz: str | None
    step: list[str]
    stop: list[str]
    suspend: list[str]
    system: bool
    user: str | None
    as_json: bool


class Event(NamedTuple):
    """At this reading of the clock: an entry is due (`tick`), or something happens to the clock (`text`)."""

    reading: int
    tick: Tick | None
    text: str = ""


def main(path: str, options: Options) -> int:
    """Print what would be started; returns the exit code. Raises `UsageError`, `BadJob`."""
    zone = when.zone(options.tz)
    course, end = _course(options, zone)
    tab = tabfile.read(path, system=options.system, user=options.user)
    code = say_errors(tab)
    _say_left_out(tab)
    events = Simulation(tab, course, zone).events(end)
    if options.as_json:
        for event in events:
            if event.tick is not None:
                show.one_object(_object(event.reading, event.tick, zone))
        return code
    _print(events, tab, zone)
    return code


def _say_left_out(tab: TabFile) -> None:
    """Which options of this crontab are not simulated."""
    options = [entry.options for entry in tab.table.entries]
    given = {
        "overlap": any(each.overlap != "allow" for each in options),
        "mutex": any(each.mutex for each in options),
        "jitter": any(each.jitter for each in options),
    }
    if names := [name for name, used in given.items() if used]:
        attend.say(f"not simulated, each run starts when it is due: {', '.join(names)}")


def _course(options: Options, zone: datetime.tzinfo) -> tuple[Course, int]:
    """The course of the clock, and the reading at which it ends."""
    start, end = when.moment(options.start, zone, "--from"), when.moment(options.end, zone, "--to")
    if not start < end <= start + _YEARS * 366 * 86400:
        raise UsageError(f"--to must be later than --from, by {_YEARS} years at most")
    steps = read_steps(options.step, zone)
    course = Course(start, steps)
    absences = [("--stop", text) for text in options.stop] + [("--suspend", text) for text in options.suspend]
    for step in steps:
        _must_lie_within(f"--step {step.text}", step.at, start, end)
    for option, text in absences:
        at, seconds = read_absence(option, text, zone)
        _must_lie_within(f"{option} {text}", at, start, end)
        course.leave(f"{option} {text}", at, seconds, stopped=option == "--stop")
    return course, end


def _must_lie_within(text: str, at: int, start: int, end: int) -> None:
    if not start <= at < end:
        raise UsageError(f"{text} is not between --from and --to")


class Simulation:
    """A crontab, the course of a clock, and the machine's zone. It begins as a dispatcher does that has run before."""

    def __init__(self, tab: TabFile, course: Course, zone: datetime.tzinfo) -> None:
        self.tab, self.course, self.zone = tab, course, zone
        self.true = course.begin
        self.changes: list[int] = []
        self.clock = Clock()
        self.clock.load(tab.table.entries)
        self.clock.start(course.begin - 1, zone)

    def events(self, end: int) -> Iterator[Event]:
        """All that happens before the clock reads `end`."""
        away, last = list(self.course.away), self.course.reading(self.true)
        self.changes = dst.changes(self.zone, self.course.begin, end)
        while (reading := self.course.reading(self.true)) < end:
            yield from self._changes(last, reading)
            yield from self._stepped(reading)
            last = reading
            if away and self.true >= away[0].start:
                yield from self._leave(reading, away.pop(0))
                continue
            yield from self._due(reading, self.clock.turn(reading, self.zone))
            wake = self.true + max(self.clock.wake(reading) - reading, 1)
            following = min(wake, self.course.next_step(self.true), away[0].start if away else wake)
            if following == float("inf"):
                return
            self.true = int(following)

    def _changes(self, last: int, reading: int) -> Iterator[Event]:
        """Summer time begins, or ends."""
        for at in self.changes:
            if not last < at <= reading:
                continue
            before = wall(self.zone, at // 60 - 1) + 1
            text = f"the clocks go from {dst.clock(before)} to {dst.clock(wall(self.zone, at // 60))}"
            yield Event(at, None, text)

    def _stepped(self, reading: int) -> Iterator[Event]:
        """The clock is put forward or back; a dispatcher that runs sees it in the last moment before `reading`."""
        by = self.course.step(self.true)
        if by:
            yield Event(reading, None, _put(by))
        if by < 0:
            yield from self._due(reading, self.clock.turn(reading - 1, self.zone))

    def _leave(self, reading: int, gone: Away) -> Iterator[Event]:
        """Nobody looks at the clock; then it is as with a machine that wakes, or with a dispatcher that starts."""
        length = gone.end - self.true
        what = "the dispatcher is stopped" if gone.stopped else "the machine is asleep"
        yield Event(reading, None, f"{what} for {_length(length)}")
        self.true = gone.end
        now = self.course.reading(gone.end)
        if by := now - self.course.step(gone.end) - reading - length:
            yield Event(now, None, f"{_put(by)} meanwhile")
        if gone.stopped:
            state = json.loads(json.dumps(self.clock.state()))  # as it is kept on disk
            self.clock = Clock(state)
            self.clock.load(self.tab.table.entries)
            yield from self._due(now, self.clock.start(now, self.zone))

    def _due(self, reading: int, ticks: list[Tick]) -> Iterator[Event]:
        for tick in ticks:
            yield Event(reading, tick)
        if passed := self.clock.passed_over:
            counts = {tick.entry.identity: 0 for tick in passed}
            for tick in passed:
                counts[tick.entry.identity] += 1
            said = ", ".join(f"{count} of {name}" for name, count in counts.items())
            yield Event(reading, None, f"missed, and not made up for: {said}")


def _put(by: int) -> str:
    return f"the clock is put {'forward' if by > 0 else 'back'} by {_length(abs(by))}"


def _length(seconds: int) -> str:
    return when.ahead(seconds).removeprefix("in ")


def _object(reading: int, tick: Tick, zone: datetime.tzinfo) -> dict[str, Any]:
    entry = tick.entry
    found: dict[str, Any] = {"time": when.iso(reading, zone), "line": entry.line, "entry": entry.identity}
    found |= {"user": when.text(entry.user), "command": when.text(entry.command.strip(" \t\r"))}
    return found | ({"caught_up": True} if tick.caught_up else {})


def _print(events: Iterator[Event], tab: TabFile, zone: datetime.tzinfo) -> None:
    entries = tab.table.entries
    seconds = any(entry.schedule.seconds % 60 for entry in entries if hasattr(entry.schedule, "seconds"))
    numbers = max((len(str(entry.line)) for entry in entries), default=0) + len("line ")
    users = max((len(entry.user) for entry in entries), default=0) if tab.system else 0
    widths = (len("Sun 2027-03-28 03:00 +02:00") + 3 * seconds, numbers, users, 1)
    count = 0
    for event in events:
        if event.tick is None:
            print(f"# {when.stamp(event.reading, zone, seconds=seconds)}: {event.text}")
            continue
        count += 1
        entry = event.tick.entry
        command = entry.command.strip(" \t\r") + " (made up for)" * event.tick.caught_up
        row = (when.stamp(event.reading, zone, seconds=seconds), f"line {entry.line}", entry.user, command)
        print(*when.columns([row], widths))
    if not count:
        attend.say("nothing would be started")
