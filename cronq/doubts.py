"""Doubts: what cron accepts without a word, and whoever wrote it hardly meant.

Does:    a schedule, a command, a variable -> `Doubt`s: lines that never run, the OR rule in force, uneven steps,
         ignored junk, `%` in `date +%F`, an address that gets no mail, or no event. A doubt never changes what runs.
Reads:   nothing but its arguments.
Trusts:  that the schedule parsed: it is asked only about fields that `schedule` accepted.
Fails:   not at all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cronq import hooks
from cronq.fields import DOM, DOW, FIELDS, HOUR, MINUTE, Field, item, number, parse_field
from cronq.schedule import Schedule

_PERCENT = re.compile(r"(?<!\\)%")
_SIXTH_FIELD = re.compile(r"[\d*?/,-]+(?=\s|$)")
_EXPANSION = re.compile(r"\$[A-Za-z_{]")
_ADDRESSES = re.compile(r"([A-Za-z0-9][A-Za-z0-9@!:%.,_+=/-]*)?")


class Doubt(NamedTuple):
    """A short code, the offset in the text asked about, a sentence, and what to write instead."""

    code: str
    offset: int
    text: str
    mend: str


def of_schedule(five: list[tuple[int, str]], schedule: Schedule) -> list[Doubt]:
    """What is doubtful in these five words, each with the offset at which it stands."""
    found = [doubt for (at, word), field in zip(five, FIELDS, strict=True) for doubt in _of_field(word, field, at)]
    if schedule.never():
        if not any(doubt.code == "empty" for doubt in found):
            found.append(Doubt("never", five[2][0], "no such day exists: the line never runs", "correct day and month"))
        return found
    return found + _of_days(five[2], five[4][1], schedule)


def _of_days(dom: tuple[int, str], dow: str, schedule: Schedule) -> list[Doubt]:
    at, word = dom
    whole = (schedule.dom == DOM.all) + (schedule.dow == DOW.all)
    if schedule.either and not whole:
        text = "both day fields are given, so the line runs on a day that suits either of them"
        return [Doubt("or", at, text, "make one day field *, or test the other in the command")]
    if schedule.either and whole == 1:
        text = "one day field lists every day, so the line runs every day, whatever the other says"
        return [Doubt("or", at, text, "write * for the field that does not matter")]
    if not schedule.either and not whole and "*" not in (word, dow):
        text = "a day field begins with *, so a day must suit both fields"
        return [Doubt("and", at, text, "keep it if that is meant; list the days if either should suffice")]
    return []


def _of_field(word: str, field: Field, at: int) -> list[Doubt]:
    if word == "*" or word.isdecimal():
        return []
    found: list[Doubt] = []
    place, more = 0, True
    while more:
        start = place
        _, place = item(word, start, field, at)
        found += _of_item(word[start:place], field, at + start)
        more = word[place : place + 1] == ","
        place += more
    if place < len(word):
        text = f"cron ignores {ascii(word[place:])[1:-1]} here and reads {word[:place]}"
        found.append(Doubt("junk", at + place, text, f"write {word[:place]}, or what you mean"))
    if not parse_field(word, field, at):
        text = f"the {field.name} {word} matches nothing: cron's ranges do not wrap around"
        found.append(Doubt("empty", at, text, _unwrapped(word, field)))
    return found


def _of_item(text: str, field: Field, at: int) -> list[Doubt]:
    span, slash, behind = text.partition("/")
    if not slash:
        return []
    step, _ = number(behind, 0, field, (), at)
    first, last = (field.low, field.high) if span == "*" else _ends(span, field)
    count = last - first + 1
    if step >= count > 1:
        said = f"the step {step} is longer than the range, so {text} is only {first}"
        return [Doubt("step", at, said, f"write {first}")]
    if span == "*" and field in (MINUTE, HOUR) and count % step:
        newest = (count - 1) // step * step
        said = f"{text} is uneven: from {newest} on to 0 it is {count - newest}, not {step}"
        even = max(n for n in range(1, step) if not count % n)
        return [Doubt("uneven", at, said, f"write */{even}, or list the values you mean")]
    return []


def _ends(span: str, field: Field) -> tuple[int, int]:
    first, place = number(span, 0, field, field.names, 0)
    return first, number(span, place + 1, field, field.names, 0)[0]


def _unwrapped(word: str, field: Field) -> str:
    first, dash, last = word.partition("-")
    if not dash or not last.isalnum():
        return "write the smaller number first"
    if field is DOW and last.lower() in ("sun", "0"):
        return f"write {first}-7"
    return f"write {first}-{field.high},{field.low}-{last}"


def of_command(command: str, *, user: str) -> list[Doubt]:
    """What is doubtful in the text behind the schedule; `user` is "" in a table that has no user column."""
    if not command.strip():
        return [Doubt("no-command", 0, "there is no command", "write one, or remove the line")]
    found = []
    start = len(command) - len(command.lstrip())
    mark = _PERCENT.search(command)
    if mark and re.search(r"\bdate\b", command[: mark.start()]):
        text = "cron ends the command at %, and gives the rest to its standard input"
        found.append(Doubt("percent", mark.start(), text, r"write \% for a percent sign"))
    if sixth := _SIXTH_FIELD.match(command, start):
        text = f"the command is {sixth[0]}: cron has five fields, and this looks like a sixth"
        found.append(Doubt("sixth", start, text, "remove a field; seconds belong into [schedules.NAME] of cronq.toml"))
    if not user and re.match(r"root\s", command):
        text = "the command is root: a user's own table has no user column"
        found.append(Doubt("user-column", 0, text, "remove the word root"))
    return found


def of_variable(name: str, value: str, *, quoted: bool) -> list[Doubt]:
    """What is doubtful in a line NAME=value; offsets are 0, the whole line is meant."""
    found = []
    if name == "MAILTO" and not _ADDRESSES.fullmatch(value):
        text = f"no mail is sent to {value!a}: an address has letters, digits and @!:%-.,_+=/ only, no blanks"
        found.append(Doubt("mailto", 0, text, "separate addresses by commas alone"))
    if name == hooks.WEBHOOK and value and (why := hooks.fault(value)):
        found.append(Doubt("webhook", 0, f"nothing is told to that webhook: {why}", "correct it, or remove the line"))
    if name == "LOGNAME":
        found.append(Doubt("logname", 0, "LOGNAME is always the user's own name", "remove the line"))
    if name == "TZ":
        text = "TZ is for the commands alone: the lines below run by the machine's own time"
        found.append(
            Doubt("tz", 0, text, "keep it, if that is meant; cronq has CRON_TZ for the lines, Debian's cron nothing")
        )
    if _EXPANSION.search(value) and name != hooks.COMMAND:  # which a shell reads
        text = f"cron does not expand $ in the value of {name}"
        found.append(Doubt("expansion", 0, text, "write the value out"))
    if not quoted and " #" in value:
        text = "what follows # belongs to the value: cron has no comments behind a value"
        found.append(Doubt("comment", 0, text, "put the comment on a line of its own"))
    return found
