"""`cronq next`: when schedules run next, and on which nights of the coming year a change of the clocks touches them.

Does:    expressions, crontabs, what the dispatcher runs -> their next runs, merged and in order, a line each; below
         them the changes of the clocks that shift, merge, repeat or leave out a run. With --json an object a line.
Reads:   the crontabs; what the dispatcher tells of its own (`entries`); the clock, unless it is told what time it is.
Fails:   `UsageError`, `BadExpression`; a crontab with bad lines is forecast without them, and the exit code is 65.
"""

from __future__ import annotations

import datetime
import heapq
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq import attend, dst, entries, expression, show, tabfile, when
from cronq import spool as spools
from cronq.errors import BadJob, NotPermitted, NotRunning, UnknownJob, UsageError
from cronq.explain import sentence
from cronq.fields import FIELDS
from cronq.schedule import Extended, Schedule
from cronq.upcoming import AnySchedule, Run, next_runs

YEAR = 365 * 86400
_MARKS = 24  # so many changes of the coming year are listed
_FIRST_WORD = "0123456789*/,-"


class Line(NamedTuple):
    """What runs: an expression (`text` alone), or a line of a crontab."""

    schedule: AnySchedule
    zone: str
    text: str
    about: dict[str, Any]  # for JSON
    cells: tuple[str, ...]  # for people: place, user, command
    paused: float = 0.0  # until when its runs are passed over


class Options(NamedTuple):
    """Of the command line."""

    most: int
    start: str | None
    tz: str | None
    system: bool
    as_json: bool


def main(words: list[str], options: Options) -> int:
    """Print the next runs; returns the exit code. Raises `UsageError`, `BadExpression`, `BadJob`."""
    zone = when.zone(options.tz)
    now = time.time()
    start = int(now) + 1 if options.start in (None, "now") else when.moment(options.start or "", zone, "--from")
    lines, code = _lines(words, options.system)
    forecast = Forecast(lines, zone, start - 1)
    runs = forecast.runs(options.most)
    if not lines and not code:
        attend.say("there is no line that runs")
    if options.as_json:
        for run, line in runs:
            show.one_object(_object(forecast, run, line))
        return code
    since = int(now) if options.start in (None, "now") else None
    for text in _listing(forecast, runs, since):
        print(text)
    return code


class Forecast:
    """These lines from this second on: runs later than `after`, by the machine's `zone` where a line has none."""

    def __init__(self, lines: list[Line], zone: datetime.tzinfo, after: int) -> None:
        self.lines, self.zone, self.after = lines, zone, after
        zones = {name: when.zone(name) if name else zone for name in {line.zone for line in lines}}
        changes = {name: dst.changes(there, after, after + YEAR) for name, there in zones.items()}
        self._zones = zones
        self._marks = {
            id(line): [mark for at in changes[line.zone] if (mark := dst.mark(line.schedule, zones[line.zone], at))]
            for line in lines
        }

    def zone_of(self, line: Line) -> datetime.tzinfo:
        """The zone that a line goes by."""
        return self._zones[line.zone]

    def runs(self, count: int) -> list[tuple[Run, Line]]:
        """The first `count` runs of all lines together."""
        found = [
            (run.at, number, run)
            for number, line in enumerate(self.lines)
            if not _is_silent(line.schedule)
            for run in next_runs(line.schedule, self.zone_of(line), self.after, count)
        ]
        return [(run, self.lines[number]) for _, number, run in heapq.nsmallest(count, found)]

    def marks(self, line: Line) -> list[dst.Mark]:
        """The changes of the coming year that touch a line."""
        return self._marks[id(line)]

    def mark(self, run: Run, line: Line) -> dst.Mark | None:
        """The change that touches this very run."""
        return next((mark for mark in self.marks(line) if mark.covers(run, self.zone_of(line))), None)


def _is_silent(schedule: AnySchedule) -> bool:
    """The clock never starts it."""
    return isinstance(schedule, Schedule) and (schedule.reboot or schedule.never())


def _lines(words: list[str], system: bool) -> tuple[list[Line], int]:
    """What the words of the command line name, and the exit code for what is wrong with it."""
    if not words:
        return [_of_entry(each) for each in entries.everything(spools.find())], 0
    if len(words) == len(FIELDS) and not any(os.path.exists(word) for word in words):
        words = [" ".join(words)]  # a shell took the quotes that were not there
    expressions = [word for word in words if _is_expression(word)]
    found: list[Line] = []
    code = 0
    for word in words:
        if word in expressions:
            known = expression.read(word)
            if isinstance(known.schedule, Extended):
                attend.say(f"{known.text}: {known.problems[0].text}")
            label = known.text if len(words) > 1 else ""
            found.append(Line(known.schedule, "", known.text, {"entry": known.text}, ("", "", label)))
        elif entry := _entry(word):
            found.append(_of_entry(entry))
        else:
            tab = tabfile.read(word, system=system)
            found += _of_tab(tab, len(words) > 1)
            code = code or say_errors(tab)
    return found, code


def _is_expression(word: str) -> bool:
    """A file goes before; what is neither is judged by its looks, so that the sentence fits what was meant."""
    if word == tabfile.STDIN or os.path.lexists(word):
        return False
    if word and not word.strip(_FIRST_WORD):
        raise UsageError(f"{word} is no schedule: put the five fields into quotes, like '30 2 * * *'")
    return " " in word.strip() or "\t" in word or word.startswith("@")


def _entry(word: str) -> dict[str, Any] | None:
    """What the dispatcher runs under this name; None for a file, and where nobody can be asked. Raises `UnknownJob`."""
    if word == tabfile.STDIN or os.path.lexists(word):
        return None
    try:
        return entries.resolve(spools.find(), word)
    except UnknownJob as error:
        error.sentence += "; a file of this name is not there either"
        raise
    except (NotRunning, NotPermitted):
        return None


def _of_entry(each: dict[str, Any]) -> Line:
    """What the dispatcher tells of one entry."""
    schedule, when_text = entries.schedule(each)
    command = str(each["command"]).strip(" \t\r")
    about = {"id": each["id"], "file": each["table"], "line": each["line"], "entry": each["entry"]}
    about |= {"user": each["user"], "command": command}
    place = entries.place(each)
    named = each["entry"] if each["table"] else ""
    return Line(schedule, each["zone"], when_text, about, (place, named, each["user"], command), entries.until(each))


def _of_tab(tab: tabfile.TabFile, several: bool) -> list[Line]:
    found = []
    for entry in tab.table.entries:
        command = entry.command.strip(" \t\r")
        about = {"file": tab.label, "line": entry.line, "entry": entry.identity, "user": entry.user, "command": command}
        place = f"{tab.label}:{entry.line}" if several else f"line {entry.line}"
        cells = (place, entry.user if tab.system else "", command)
        found.append(Line(entry.schedule, entry.zone, entry.when, about, cells))
    return found


def say_errors(tab: tabfile.TabFile) -> int:
    """One sentence if lines of a crontab do not run; returns the exit code."""
    errors = tab.table.errors
    if not errors:
        return 0
    more = f" (and {_errors(len(errors) - 1)} more)" if len(errors) > 1 else ""
    first = f"line {errors[0].line}: {errors[0].text}{more}"
    attend.say(f"{show.escape(tab.label)}: {first}; see cronq check {show.escape(tab.label)}")
    return BadJob.exit_code


def _errors(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"


def _object(forecast: Forecast, run: Run, line: Line) -> dict[str, Any]:
    """A run as JSON: what runs, the sentence if a change of the clocks touches it, and all such of the coming year."""
    zone, mark = forecast.zone_of(line), forecast.mark(run, line)
    changes = [{"date": when.day(mark.at, zone), "mark": mark.text} for mark in forecast.marks(line)]
    about = {key: when.text(value) if isinstance(value, str) else value for key, value in line.about.items()}
    paused = {"paused": run.at < line.paused} if "id" in about else {}
    return {"time": when.iso(run.at, forecast.zone), **about, **paused, "mark": mark and mark.text, "changes": changes}


def _listing(forecast: Forecast, runs: list[tuple[Run, Line]], now: int | None) -> Iterator[str]:
    """The runs, a line each; below one that a change of the clocks touches, the sentence."""
    seconds = any(run.at % 60 for run, _ in runs)
    rows, notes = [], []
    for run, line in runs:
        ahead = when.ahead(run.at - now) if now is not None else ""
        paused = "paused" if run.at < line.paused else ""
        rows.append((when.stamp(run.at, forecast.zone, seconds=seconds), ahead, *_cells(line), paused, line.cells[-1]))
        notes.append(forecast.mark(run, line))
    for text, mark in zip(when.columns(rows), notes, strict=True):
        yield text
        if mark:
            yield f"    ^ {mark.text}"
    for line in forecast.lines:
        if _is_silent(line.schedule):
            place = ": ".join(cell for cell in (line.cells[0], line.text) if cell)
            yield f"{show.escape(place)}: {sentence(line.schedule)}"
    said = {(id(line), mark) for (_, line), mark in zip(runs, notes, strict=True) if mark}
    later = list(_later(forecast, said))
    yield from ["", *later] if rows and later else later


def _cells(line: Line) -> tuple[str, ...]:
    """Place, name and user: only what the dispatcher runs has a name to be called by."""
    *about, _ = line.cells
    return tuple(about) if len(about) == 3 else (about[0], "", about[1])


def _later(forecast: Forecast, said: set[tuple[int, dst.Mark]]) -> Iterator[str]:
    """The changes of the coming year that no line above shows, by date."""
    rows = []
    for line in forecast.lines:
        for mark in forecast.marks(line):
            if (id(line), mark) not in said:
                zone = f" ({line.zone})" if line.zone else ""
                date = when.day(mark.at, forecast.zone_of(line))
                rows.append((mark.at, date, (*_cells(line), mark.text + zone, line.cells[-1])))
    rows.sort(key=lambda row: row[0])
    shown = rows[:_MARKS]
    texts = when.columns([cells for *_, cells in shown])
    yield from (f"{date}: {text}" for (_, date, _), text in zip(shown, texts, strict=True))
    if len(rows) > len(shown):
        yield f"… and {len(rows) - len(shown)} more"
