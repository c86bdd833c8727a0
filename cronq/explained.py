"""`cronq explain`: an expression, or lines of a crontab, in plain English, with what runs next and what is doubtful.

Does:    text -> `Meaning`s: an expression has one, each line of a crontab that runs a command one. `main` prints them.
Reads:   the clock, unless it is told what time it is; names of users.
Fails:   `BadExpression`; for a bad line of a crontab what `cronq check` says, and the exit code 65.

A line of /etc/crontab has a user before the command: `--system`, or the word root there, which is no command.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq import attend, expression, show, when
from cronq import explain as english
from cronq.crontab import CronEntry, Problem, parse_crontab
from cronq.crontext import split_percent, variable
from cronq.errors import BadJob, UsageError
from cronq.fields import FIELDS
from cronq.options import PLAIN
from cronq.options import Options as EntryOptions
from cronq.schedule import words
from cronq.tabfile import TabFile
from cronq.upcoming import AnySchedule, Run, next_runs

_RUNS = 3
_STDIN_SHOWN = 200


class Options(NamedTuple):
    """Of the command line."""

    tz: str | None
    start: str | None
    system: bool
    as_json: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """One schedule; `entry` is the line of a crontab that has it."""

    text: str
    schedule: AnySchedule
    problems: tuple[Problem, ...]
    entry: CronEntry | None = None


def main(text: str, options: Options) -> int:
    """Explain this; returns the exit code. Raises `UsageError`, `BadExpression`."""
    zone = when.zone(options.tz)
    now = int(time.time())
    start = now if options.start in (None, "now") else when.moment(options.start or "", zone, "--from") - 1
    meanings, bad = read(text, options.system)
    for problem in bad:
        attend.say("\n".join((problem.text, *problem.excerpt())))
    for number, meaning in enumerate(meanings):
        there = when.zone(meaning.entry.zone) if meaning.entry and meaning.entry.zone else zone
        runs = [] if _is_silent(meaning) else next_runs(meaning.schedule, there, start, _RUNS)
        if options.as_json:
            show.one_object(_object(meaning, runs, there))
            continue
        for line in ([""] if number else []) + list(
            _lines(meaning, runs, there, now if options.start is None else None)
        ):
            print(line)
    return BadJob.exit_code if bad else 0


def read(text: str, system: bool) -> tuple[list[Meaning], list[Problem]]:
    """What the text means, and what does not run. Raises `UsageError`, `BadExpression`."""
    text = text.strip(" \t\r\n")
    if not text:
        raise UsageError("say what: an expression or a line of a crontab, in quotes")
    if _is_expression(text):
        known = expression.read(text)
        return [Meaning(known.text, known.schedule, known.problems)], []
    data = (text + "\n").encode("utf-8", "surrogateescape")
    system = system or _has_root(text)
    table = parse_crontab(data, user="", system=system)
    if table.refused:
        raise UsageError(f"this is no line of a crontab: {table.refused}")
    doubtful = [problem for problem in TabFile("", data, system, "", table).problems() if not problem.error]
    meanings = []
    for entry in table.entries:
        own = tuple(problem for problem in doubtful if problem.line == entry.line)
        meanings.append(Meaning(entry.when, entry.schedule, own, entry))
    if not meanings and not table.errors:
        raise UsageError(_nothing(text))
    return meanings, table.errors


def _is_expression(text: str) -> bool:
    """Five fields or six, a nickname, @every and a period: nothing behind that could be a command."""
    if "\n" in text or text.startswith("#"):
        return False
    found = text.split()
    if text.startswith("@"):
        return len(found) == 1 or (found[0] == "@every" and len(found) == 2)
    if "=" in text and variable(text):
        return False
    return len(found) <= len(FIELDS) or (len(found) == len(FIELDS) + 1 and expression.is_schedule(text))


def _has_root(text: str) -> bool:
    """Is it plainly a line of /etc/crontab?"""
    last = text.rsplit("\n", maxsplit=1)[-1]
    count = 1 if last.startswith("@") else len(FIELDS)
    found = [word for _, word in words(last, count + 2)]
    return len(found) == count + 2 and found[count] == "root"


def _nothing(text: str) -> str:
    first = text.split("\n", maxsplit=1)[0]
    if found := variable(first):
        name, value, _ = found
        return f"this sets {show.escape(name)} to {show.escape(repr(value))} for the lines below it, and runs nothing"
    return "this is a comment: it runs nothing"


def _is_silent(meaning: Meaning) -> bool:
    return english.sentence(meaning.schedule).startswith(("never: ", "once after each start"))


def _lines(meaning: Meaning, runs: list[Run], zone: datetime.tzinfo, now: int | None) -> Iterator[str]:
    yield english.sentence(meaning.schedule)
    seconds = any(run.at % 60 for run in runs)
    facts = [(name, show.escape(when.text(value))) for name, value in _facts(meaning)]
    for number, run in enumerate(runs):
        ahead = f"  {when.ahead(run.at - now)}" if now is not None else ""
        facts.append(("" if number else "next", when.stamp(run.at, zone, seconds=seconds) + ahead))
    for name, value in facts:
        yield f"  {name:<9}{value}"
    for problem in meaning.problems:
        yield f"warning: {show.escape(problem.text)}"
        yield from problem.excerpt()


def _facts(meaning: Meaning) -> Iterator[tuple[str, str]]:
    entry = meaning.entry
    if entry is None:
        return
    if entry.user:
        yield "user", entry.user
    command, given = split_percent(entry.command.strip(" \t\r"))
    yield "command", command or "none"
    if given:
        shown = given if len(given) <= _STDIN_SHOWN else f"{given[:_STDIN_SHOWN]}…"
        yield "stdin", repr(shown)
    if entry.zone:
        yield "zone", entry.zone
    for name, value in entry.env.items():
        if name != "CRON_TZ":
            yield "env", f"{name}={value}"
    for sentence in _options(entry.options):
        yield "option", sentence


def _options(options: EntryOptions) -> Iterator[str]:
    """What a comment `# cronq: …` says, in words."""
    if options.name:
        yield f"it is called {options.name}"
    meanings = {
        "skip": "a run that is due while the last one still runs is left out",
        "queue": "a run that is due while the last one still runs waits for its end",
        "replace": "a run that is due while the last one still runs ends that one",
    }
    if options.overlap != PLAIN.overlap:
        yield meanings[options.overlap]
    if options.catchup != PLAIN.catchup:
        within = f", if it is not older than {_length(options.catchup_within)}" if options.catchup_within else ""
        which = (
            "the last missed run is"
            if options.catchup == "last"
            else f"missed runs ({options.catchup_most} at most) are"
        )
        yield f"{which} made up for after downtime{within}"
    if options.timeout:
        yield f"it is ended after {_length(options.timeout)}"
    if options.retries:
        yield f"it is tried again, {options.retries} times at most, if it fails"
    if options.jitter:
        yield f"it starts up to {_length(options.jitter)} later"
    if options.mutex:
        yield f"it never runs at once with others of mutex {options.mutex}"
    mails = {"change": "when it begins to fail, and when it recovers", "failure": "when it fails", "never": "never"}
    if options.notify != PLAIN.notify:
        yield f"mail is sent {mails[options.notify]}"


def _length(seconds: float) -> str:
    return when.ahead(int(seconds)).removeprefix("in ") if seconds >= 1 else f"{seconds:g} s"


def _object(meaning: Meaning, runs: list[Run], zone: datetime.tzinfo) -> dict[str, Any]:
    found: dict[str, Any] = {"expression": meaning.text, "meaning": english.sentence(meaning.schedule)}
    if entry := meaning.entry:
        command, given = split_percent(entry.command.strip(" \t\r"))
        found |= {"line": entry.line, "entry": entry.identity, "user": entry.user or None, "command": command}
        found |= {"stdin": given or None, "zone": entry.zone or None, "env": entry.env}
        found["options"] = list(_options(entry.options))
    found["next"] = [when.iso(run.at, zone) for run in runs]
    found["warnings"] = [
        {"column": problem.column, "message": problem.text, "mend": problem.mend} for problem in meaning.problems
    ]
    cleaned: dict[str, Any] = _clean(found)
    return cleaned


def _clean(value: Any) -> Any:
    """Bytes that are not UTF-8 as JSON can have them."""
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return (
        [_clean(item) for item in value]
        if isinstance(value, list)
        else when.text(value)
        if isinstance(value, str)
        else value
    )
