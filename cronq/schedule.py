"""A schedule: the five fields of a cron line, judged exactly as Vixie's cron judges them.

Does:    text -> `Schedule`: five bitsets and two flags.
Reads:   nothing but its arguments: no file, no clock, no environment.
Trusts:  nobody: the text may be anything at all.
Fails:   `BadSchedule` with the field, the offset of the offending character, a sentence, and how to mend it.

The judge is Debian's cron 3.0: what it accepts is accepted here, junk included, and means the same; what it refuses is
refused. In particular `*5` is `*`, `1-3-5` is `1-3`, `4294967301` is 5, `22-4` is accepted and empty, `5/15`
is refused. What it accepts and nobody means is said in `doubts`, never by a refusal.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from cronq.errors import BadJob
from cronq.job import seconds

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALNUM = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LONGEST_NUMBER = 999  # cron's buffer for one number or name
_VALUE = r"(\d+|[A-Za-z]{3})"
_ITEM = rf"(\*|{_VALUE}(-{_VALUE})?)(/\d+)?"
_PLAIN = re.compile(rf"{_ITEM}(,{_ITEM})*")  # no L, #, W, H or ?: cron's own grammar, no junk
_LONG_MAX = 2**63 - 1
_LAST_DAY = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Field(NamedTuple):
    """One of the five: its name as cron's own errors say it, the range of its values, and names for them."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def all(self) -> int:
        """The bitset of every value; a day of the week has Sunday twice, as 0 and 7."""
        return (1 << self.high + 1) - (1 << self.low)


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day-of-month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("day-of-week", 0, 7, _DAYS),
)
MINUTE, HOUR, DOM, MONTH, DOW = FIELDS

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


class BadSchedule(ValueError):
    """A schedule cron refuses: which field, where in the text (offset from 0), why, and how to mend it."""

    def __init__(self, what: str, offset: int, why: str, mend: str) -> None:
        super().__init__(f"bad {what}: {why}")
        self.what, self.offset, self.why, self.mend = what, offset, why, mend


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a line is due, in minutes of the local wall clock. Bit n of a set stands for the value n.

    wild    the minute or the hour field begins with `*`: the line follows the clock when it is stepped (cron.md §1)
    either  neither day field begins with `*`: a day that suits one of them suffices; else it must suit both (§2)
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
        raise BadSchedule(missing.name, len(text), "the field is missing", "a schedule has five fields: " + _FIVE)
    at, rest = parts[-1]
    if len(rest.split()) > 1:
        extra = at + len(rest.split()[0])
        raise BadSchedule("schedule", extra, "there are more than five fields", "cron has five: " + _FIVE)
    return from_words([(at, word.rstrip(" \t")) for at, word in parts])


_FIVE = "minute, hour, day of the month, month, day of the week"


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


def parse_field(text: str, field: Field, at: int = 0) -> int:
    """The bitset of one field; `at` is added to the offset of an error. Raises `BadSchedule`.

    A list of items; whatever follows the last item that could be read is ignored up to the next blank, as cron does.
    """
    if text == "*":
        return field.all
    bits, place = 0, 0
    while True:
        more, place = item(text, place, field, at)
        bits |= more
        if text[place : place + 1] != ",":
            break
        place += 1
    no_byte_ff(text[place:], at + place, field)
    return bits


def no_byte_ff(text: str, at: int, field: Field) -> None:
    """Cron takes the byte 0xff for the end of the file where an item or field has just ended. Raises `BadSchedule`."""
    if text.startswith("\udcff"):
        raise BadSchedule(field.name, at, "there is a byte 0xff behind it", "remove the byte")


def item(text: str, place: int, field: Field, at: int) -> tuple[int, int]:
    """One of `*`, `n`, `n-m`, each range with an optional `/step`: its bitset, and where it ends."""
    start = place
    if text[place : place + 1] == "*":
        first, last, place = field.low, field.high, place + 1
    else:
        first, place = number(text, place, field, field.names, at)
        mark = text[place : place + 1]
        if mark != "-":
            if mark == "/":
                mend = f"write {first}-{field.high}{text[place:]}, or */n for every n"
                raise BadSchedule(field.name, at + place, "a step needs a range", mend)
            return _span(first, first, 1, field, at + start), place
        last, place = number(text, place + 1, field, field.names, at)
    step = 1
    if text[place : place + 1] == "/":
        step, end = number(text, place + 1, field, (), at)
        if step <= 0:
            raise BadSchedule(field.name, at + place + 1, "a step must be 1 or more", "write * for every one")
        place = end
    return _span(first, last, step, field, at + start), place


def _span(first: int, last: int, step: int, field: Field, at: int) -> int:
    for value in (first, last):
        if not field.low <= value <= field.high:
            raise BadSchedule(field.name, at, f"{value} is not in {field.low}-{field.high}", _in_range(value, field))
    if first <= last and first + step >= 2**31:  # cron counts in 32 bits, runs over, and refuses the number it then has
        raise BadSchedule(field.name, at, f"the step {step} is too long", "write a smaller one")
    return sum(1 << value for value in range(first, last + 1, step))


def _in_range(value: int, field: Field) -> str:
    if field is HOUR and value == 24:
        return "midnight is 0"
    if field is MINUTE and value == 60:
        return "the full hour is 0"
    if field in (DOM, MONTH) and value == 0:
        return "the first is 1"
    return f"write a number from {field.low} to {field.high}"


def number(text: str, place: int, field: Field, names: tuple[str, ...], at: int) -> tuple[int, int]:
    """A name or a number at `place`, and where it ends; a number is what C's atoi makes of it, in 32 bits."""
    end = place
    while end < len(text) and text[end] in _ALNUM:
        end += 1
    word = text[place:end]
    if not word:
        raise BadSchedule(field.name, at + place, *_not_anumber(text, place, field))
    if word.lower() in names:
        return names.index(word.lower()) + field.low, end
    if not word.isdigit() or len(word) > _LONGEST_NUMBER:
        shown = word if len(word) < 20 else word[:20] + "…"
        raise BadSchedule(field.name, at + place, f"{shown} is not a number{_or_name(names)}", _for_word(word, names))
    value = min(int(word), _LONG_MAX) & 0xFFFFFFFF
    return value - (value >> 31 << 32), end


def _or_name(names: tuple[str, ...]) -> str:
    return f" or one of {', '.join(dict.fromkeys(names))}" if names else ""


def _for_word(word: str, names: tuple[str, ...]) -> str:
    if word[:3].lower() in names:
        return f"write {word[:3].lower()}"
    if word.upper() in ("L", "LW", "H", "R") or (word[-1] in "LWlw" and word[:-1].isdigit()):
        return "L, W, H and R are not cron's: put such a schedule into [schedules.NAME] in cronq.toml"
    if word.startswith("0x"):
        return "write the number in decimal"
    return "write a number, with nothing behind it"


def _not_anumber(text: str, place: int, field: Field) -> tuple[str, str]:
    mark = text[place : place + 1]
    if not mark and not place:
        return "the field is missing", "a schedule has five fields: " + _FIVE
    if not mark or mark == ",":
        return "a number is missing", "remove the comma, or write the number"
    if mark == "?":
        return "cron has no ?", "write *"
    if mark == "\ufeff":
        return "the file begins with a byte-order mark", "save it as plain UTF-8, without BOM"
    if mark == "\r":
        return "the line has nothing but a carriage return", "save the file with Unix line ends"
    if mark == "~":
        return "cron has no random times (~)", "write a fixed time, or use the option jitter="
    if mark in "+-":
        return f"a {field.name} has no sign", "write the number alone"
    return f"{mark!a} is not a number", "write a number, a range like 1-5, or *"
