"""A schedule as people write it on a command line: `30 2 * * *`, `@daily`, `@every 10s`, `0 0 12 L * *`.

Does:    text -> `Expression`: the schedule, and what is doubtful about it, as in a crontab.
Reads:   nothing but its arguments.
Trusts:  nobody: the text may be anything at all.
Fails:   `BadExpression`, with the text and a caret under the place.

Five plain fields and nicknames mean what they mean in a crontab. Where cron knows no such thing (seconds, `L`, `5#3`,
`15W`, `H`), they mean what they mean in `[schedules.NAME]` of cronq.toml, and a doubt says so.
"""

from __future__ import annotations

import dataclasses

from cronq import doubts
from cronq.crontab import Problem
from cronq.errors import BadJob
from cronq.fields import FIELDS, FIVE, BadSchedule
from cronq.schedule import Extended, Schedule, parse, parse_extended, words
from cronq.upcoming import AnySchedule

_NAME = "name"  # what H is hashed from


class BadExpression(BadJob):
    """No schedule; the sentence shows it with a caret under the place."""

    def __init__(self, text: str, error: BadSchedule) -> None:
        problem = Problem(1, min(error.offset, len(text)) + 1, "schedule", True, str(error), error.mend, text)
        super().__init__("\n".join((problem.text, *problem.excerpt())))
        self.problem = problem


@dataclasses.dataclass(frozen=True, slots=True)
class Expression:
    """`text` is as it was written, without blanks around it."""

    text: str
    schedule: AnySchedule
    problems: tuple[Problem, ...]


def read(text: str) -> Expression:
    """What this expression means. Raises `BadExpression`."""
    text = text.strip()
    try:
        schedule = _judge(text)
    except BadSchedule as error:
        raise BadExpression(text, error) from None
    found = _of_extended(text, schedule) if isinstance(schedule, Extended) else _of_crontab(text, schedule)
    return Expression(text, schedule, tuple(found))


def is_schedule(text: str) -> bool:
    """Is this a schedule and nothing behind it?"""
    try:
        read(text)
    except BadExpression:
        return False
    return True


def _judge(text: str) -> AnySchedule:
    """As cronq.toml takes it, or else as a crontab does: junk that cron ignores is in both of them no reason to err."""
    try:
        return parse_extended(text, _NAME)
    except BadSchedule as error:
        if len(text.split()) != len(FIELDS):
            raise _readable(text, error) from None
        return parse(text)


def _readable(text: str, error: BadSchedule) -> BadSchedule:
    """croniter shows the fields in another order than they were written, and cron says better what is missing."""
    count = len(text.split())
    if text == "@every":
        return BadSchedule("time specifier", len(text), "@every needs a period", "write @every 10s, or @every 5m")
    if text.startswith("@") or count > len(FIELDS) + 1:
        return error
    if count < len(FIELDS):
        return BadSchedule(
            "schedule",
            len(text),
            "there is one field" if count == 1 else f"there are {count} fields",
            "a schedule has five: " + FIVE,
        )
    return BadSchedule("schedule", 0, "one of the six fields is no schedule", "the seconds come first: 0 30 2 * * *")


def _of_crontab(text: str, schedule: AnySchedule) -> list[Problem]:
    if not isinstance(schedule, Schedule) or text.startswith("@"):
        return []
    return [_doubt(text, doubt) for doubt in doubts.of_schedule(words(text, len(FIELDS)), schedule)]


def _doubt(text: str, doubt: doubts.Doubt) -> Problem:
    return Problem(1, doubt.offset + 1, doubt.code, False, doubt.text, doubt.mend, text)


def _junk(text: str, doubt: doubts.Doubt) -> Problem:
    return _doubt(
        text, doubt._replace(text=f"in a crontab {doubt.text}", mend="write it into [schedules.NAME] of cronq.toml")
    )


def _of_extended(text: str, schedule: Extended) -> list[Problem]:
    """What cron, and a crontab of cronq, make of it."""
    five = words(text, len(FIELDS))
    mend = "write it into [schedules.NAME] of cronq.toml"
    if len(text.split()) != len(FIELDS):
        at = five[-1][0] + len(five[-1][1].split()[0]) + 1
        said = "there are six fields, so the first is taken for seconds; a crontab has five"
        found = [Problem(1, at + 1, "sixth", False, said, mend, text)]
    else:
        try:
            found = [_junk(text, doubt) for doubt in doubts.of_schedule(five, parse(text)) if doubt.code == "junk"]
        except BadSchedule as error:
            said = f"a crontab refuses it: {error}"
            found = [Problem(1, error.offset + 1, "extended", False, said, mend, text)]
    if any(word[:1] in "Hh" for word in schedule.text.split()):
        said = "H is hashed from the schedule's own name, so its times will be others"
        found.append(
            Problem(1, text.upper().index("H") + 1, "hashed", False, said, "keep it, if any time will do", text)
        )
    return found
