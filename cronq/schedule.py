"""A schedule: five fields together, a nickname, or what cron cannot say (`@every`, seconds, L, #, W, H).

Does:    text -> `Schedule` (five bitsets and two flags), `Every` or `Extended`. The one home of
         croniter, which is loaded when it is needed.
Reads:   nothing but its arguments: no file, no clock, no environment.
Trusts:  nobody: the text may be anything at all.
Fails:   `BadSchedule` with the field, the offset of the offending character, a sentence, and how to mend it.

How the fields themselves are judged is said in `fields`. What cron accepts and nobody means is said in `doubts`, never
by a refusal.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any

from cronq.errors import BadJob
from cronq.fields import FIELDS, FIVE, BadSchedule, no_byte_ff, parse_field
from cronq.job import seconds

_VALUE = r"(\d+|[A-Za-z]{3})"
_ITEM = rf"(\*|{_VALUE}(-{_VALUE})?)(/\d+)?"
_PLAIN = re.compile(rf"{_ITEM}(,{_ITEM})*")  # no L, #, W, H or ?: cron's own grammar, no junk
_LAST_DAY = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# What cron itself turns these into; `@daily` and the others are fixed-time lines, `@hourly` is a wildcard line.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
REBOOT = "@reboot"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a line is due, in minutes of the local wall clock. Bit n of a set stands for the value n.

    wild    the minute or the hour field begins with `*`: the line follows the clock when it is stepped
    either  neither day field begins with `*`: a day that suits one of them suffices; else it must suit both
    reboot  `@reboot`: due once per boot, never by the clock
    """

    minute: int
    hour: int
    dom: int
    month: int
    dow: int
    wild: bool
    either: bool
    reboot: bool = False

    def on_day(self, day: int, month: int, weekday: int) -> bool:
        """Does this day suit? `day` 1-31, `month` 1-12, `weekday` 0-6 from Sunday."""
        if not self.month >> month & 1:
            return False
        dom, dow = self.dom >> day & 1, self.dow >> weekday & 1
        return bool(dom | dow if self.either else dom & dow)

    def never(self) -> bool:
        """No minute of any year suits: an empty set, or a date like 31 February."""
        if not self.minute or not self.hour:
            return True
        if self.either and self.dow and self.month:
            return False
        days = any(self.month >> month & 1 and self.dom & (2 << last) - 1 for month, last in enumerate(_LAST_DAY, 1))
        return not days or (not self.either and not self.dow)


def parse(text: str) -> Schedule:
    """`*/5 9-17 * * mon-fri`, or a nickname such as `@daily` or `@reboot`, as cron reads it. Raises `BadSchedule`."""
    if text.startswith("@"):
        return _nickname(text)
    parts = words(text, len(FIELDS))
    if len(parts) < len(FIELDS):
        missing = FIELDS[len(parts)]
        raise BadSchedule(missing.name, len(text), "the field is missing", "a schedule has five fields: " + FIVE)
    at, rest = parts[-1]
    if len(rest.split()) > 1:
        extra = at + len(rest.split()[0])
        raise BadSchedule("schedule", extra, "there are more than five fields", "cron has five: " + FIVE)
    return from_words([(at, word.rstrip(" \t")) for at, word in parts])


@dataclass(frozen=True, slots=True)
class Every:
    """`@every 10s`: due at each whole multiple of so many seconds since the epoch. Raises ValueError below one."""

    seconds: int
    wild = True

    def __post_init__(self) -> None:
        if self.seconds < 1:
            raise ValueError("the period must be at least one second")


@dataclass(frozen=True, slots=True)
class Extended:
    """A schedule cron cannot say, for cronq.toml: six fields, seconds first, or `L`, `5#3`, `15W`, hashed `H`.

    `salt` is what `H` is hashed from: the entry's name, so that each entry has its own place. Judged by croniter, with
    cron's day rule. Raises `BadSchedule`.
    """

    text: str
    salt: str

    def __post_init__(self) -> None:
        import croniter

        fields = self.text.split()
        if len(fields) not in (5, 6):
            mend = "five, or six with the seconds first"
            raise BadSchedule("schedule", 0, f"there are {len(fields)} fields", mend)
        if any(word[:1] in "Rr" for word in fields):
            raise BadSchedule("schedule", 0, "R would be another time at each look", "use H")
        try:
            self._from(datetime.datetime(2000, 1, 1))
        except (croniter.CroniterError, ValueError, KeyError, IndexError) as error:
            raise BadSchedule("schedule", 0, str(error), "see cronq explain") from None

    @property
    def wild(self) -> bool:
        """As with cron: a field of the time of day begins with `*`."""
        return any(word.startswith("*") for word in self.text.split()[:-3])

    def after(self, local: datetime.datetime) -> datetime.datetime | None:
        """The next time by the wall clock after `local` (both without zone), None if there is none in fifty years."""
        import croniter

        try:
            found: datetime.datetime = self._from(local).get_next(datetime.datetime)
        except croniter.CroniterBadDateError:
            return None
        return found

    def _from(self, local: datetime.datetime) -> Any:
        import croniter

        return croniter.croniter(
            self.text, local, second_at_beginning=True, hash_id=self.salt.encode(), implement_cron_bug=True
        )


def parse_extended(text: str, salt: str) -> Schedule | Every | Extended:
    """A schedule of cronq.toml: cron's five fields mean what they mean in a crontab, `@every 10s`, or an `Extended`."""
    fields = text.split()
    if fields[:1] == ["@every"] and len(fields) == 2:
        return every(fields[1])
    if text.startswith("@") or (len(fields) == 5 and all(_PLAIN.fullmatch(word) for word in fields)):
        return parse(text)
    return Extended(" ".join(fields), salt)


def every(period: str) -> Every:
    """`10s`, `5m`: whole seconds. Raises `BadSchedule`."""
    try:
        length = seconds(period, "@every")
        if length % 1:
            raise ValueError("@every takes whole seconds")
        return Every(int(length))
    except (BadJob, ValueError) as error:
        raise BadSchedule("time specifier", 0, str(error), "write @every 10s, or @every 5m") from None


def _nickname(text: str) -> Schedule:
    if text == REBOOT:
        return Schedule(0, 0, 0, 0, 0, wild=False, either=True, reboot=True)
    if text in NICKNAMES:
        return parse(NICKNAMES[text])
    known, small = ", ".join((REBOOT, *NICKNAMES)), text.lower()
    if small in NICKNAMES or small == REBOOT:
        raise BadSchedule("time specifier", 0, f"cron knows {small} in small letters only", f"write {small}")
    raise BadSchedule("time specifier", 0, f"there is no {text}", f"cron knows {known}")


def words(text: str, most: int) -> list[tuple[int, str]]:
    """Up to `most` words of a line with their offsets, blanks and tabs between them; the last one is all the rest."""
    found: list[tuple[int, str]] = []
    at, end = 0, len(text)
    while True:
        while at < end and text[at] in " \t":
            at += 1
        if at == end:
            return found
        if len(found) == most - 1:
            return [*found, (at, text[at:])]
        start = at
        while at < end and text[at] not in " \t":
            at += 1
        found.append((start, text[start:at]))


def from_words(five: list[tuple[int, str]]) -> Schedule:
    """The schedule of five words, each with the offset at which it stands (for errors). Raises `BadSchedule`."""
    sets = []
    for number, ((at, word), field) in enumerate(zip(five, FIELDS, strict=True)):
        no_byte_ff(word, at, FIELDS[max(number - 1, 0)])
        sets.append(parse_field(word, field, at))
    star = [word.startswith("*") for _, word in five]
    minute, hour, dom, month, dow = sets
    if dow & 0x81:  # Sunday is 0 and 7
        dow |= 0x81
    return Schedule(minute, hour, dom, month, dow, wild=star[0] or star[1], either=not (star[2] or star[4]))
