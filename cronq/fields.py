"""A field of a cron line: `*/5`, `mon-fri`, `1,15-20/2`, judged exactly as Vixie's cron judges it.

Does:    the text of one field -> the bitset of its values.
Reads:   nothing but its arguments.
Trusts:  nobody: the text may be anything at all.
Fails:   `BadSchedule` with the field, the offset of the offending character, a sentence, and how to mend it.

The judge is Debian's cron 3.0: what it accepts is accepted here, junk included, and means the same; what it refuses is
refused. In particular `*5` is `*`, `1-3-5` is `1-3`, `4294967301` is 5, `22-4` is accepted and empty, `5/15`
is refused.
"""

from __future__ import annotations

from typing import NamedTuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALNUM = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LONGEST_NUMBER = 999  # cron's buffer for one number or name
_LONGEST_FIELD = 1000  # a list of every minute has 170 characters; cron would read on, and others would wait
_LONG_MAX = 2**63 - 1
FIVE = "minute, hour, day of the month, month, day of the week"


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


class BadSchedule(ValueError):
    """A schedule cron refuses: which field, where in the text (offset from 0), why, and how to mend it."""

    def __init__(self, what: str, offset: int, why: str, mend: str) -> None:
        super().__init__(f"bad {what}: {why}")
        self.what, self.offset, self.why, self.mend = what, offset, why, mend


class TooLong(BadSchedule):
    """A list that cron reads, and that is refused here all the same: see `_LONGEST_FIELD`."""


def parse_field(text: str, field: Field, at: int = 0) -> int:
    """The bitset of one field; `at` is added to the offset of an error. Raises `BadSchedule`.

    A list of items; whatever follows the last item that could be read is ignored up to the next blank, as cron does.
    """
    if text == "*":
        return field.all
    bits, place = 0, 0
    while True:
        if place > _LONGEST_FIELD:
            why = f"the list has {len(text)} characters, and at most {_LONGEST_FIELD} are read"
            raise TooLong(field.name, at, why, "name each value once, or write ranges")
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
        return "the field is missing", "a schedule has five fields: " + FIVE
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
