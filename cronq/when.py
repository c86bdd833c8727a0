"""When: what times and zones people write on a command line, and how times are written for people.

Does:    `--tz` and the machine's own zone -> a zone; `--from` -> an instant; an instant -> `Sun 2027-03-28 03:00
         +02:00`; rows of a list -> lines, in columns.
Reads:   the machine's zone (`localzone`), the zones of zoneinfo; the width of a terminal.
Trusts:  no text it prints: control characters are escaped.
Fails:   `UsageError` with the option, what was written, and the form it has.
"""

from __future__ import annotations

import datetime
import functools
import os
import zoneinfo
from collections.abc import Iterable, Sequence

from cronq import job as jobs
from cronq import localzone, show
from cronq.errors import BadJob, UsageError
from cronq.upcoming import offset

_GAP = "  "
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # strftime would ask the locale


def zone(name: str | None) -> datetime.tzinfo:
    """The zone of this name, or the machine's own without one. Raises `UsageError`."""
    if name is None:
        return localzone.local()
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--tz: there is no time zone {jobs.show(name)}; write a name like Europe/Berlin") from None


def moment(text: str, there: datetime.tzinfo, key: str) -> int:
    """Seconds since the epoch of a time as people write it; without an offset it is a time in this zone.

    Raises `UsageError`.
    """
    try:
        jobs.instant(text, key)
        found = datetime.datetime.fromisoformat(text.upper().replace(" ", "T"))
        return int((found if found.tzinfo else found.replace(tzinfo=there)).timestamp())
    except (BadJob, ValueError, OverflowError, OSError):
        form = "2026-12-24T18:00, 2026-12-24 or 2026-12-24T18:00:00+01:00"
        raise UsageError(f"{key} must be a time like {form}, not {jobs.show(text)}") from None


@functools.lru_cache(16)
def iso(instant: int, there: datetime.tzinfo) -> str:
    """`2027-03-28T03:00:00+02:00`."""
    return _there(instant, there).isoformat()


@functools.lru_cache(16)  # many runs are due at once
def stamp(instant: int, there: datetime.tzinfo, *, seconds: bool) -> str:
    """`Sun 2027-03-28 03:00 +02:00`, with seconds where any time of the list has some."""
    found = _there(instant, there)
    text = found.isoformat(sep=" ", timespec="seconds" if seconds else "minutes")
    return f"{_WEEKDAYS[found.weekday()]} {text[:-6]} {text[-6:]}"


def day(instant: int, there: datetime.tzinfo) -> str:
    """`2027-03-28`."""
    return _there(instant, there).date().isoformat()


def _there(instant: int, there: datetime.tzinfo) -> datetime.datetime:
    ahead = datetime.timedelta(seconds=offset(there, instant) // 60 * 60)  # before 1900 zones have odd seconds
    return datetime.datetime.fromtimestamp(instant, datetime.timezone(ahead))


def ahead(seconds: int) -> str:
    """How long from now, in the two largest units: `in 14 h 25 min`."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    first = next((at for at, (size, _) in enumerate(units) if seconds >= size), 3)
    parts: list[str] = []
    for size, unit in units[first : first + 2 if first < 2 else first + 1]:
        count, seconds = divmod(seconds, size)
        parts += [f"{count} {unit}"] if count or not parts else []
    return "in " + " ".join(parts)


def text(value: str) -> str:
    """A text out of a crontab as JSON can have it: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(value).decode("utf-8", "backslashreplace") if not value.isascii() else value


def columns(rows: Iterable[Sequence[str]], widths: Sequence[int] | None = None) -> Iterable[str]:
    """The rows as lines, each column as wide as its widest cell (or `widths`); on a terminal no line is longer than it.

    A column that is empty in all rows is left out.
    """
    cells = [[show.escape(text(cell)) for cell in row] for row in rows]
    if widths is None and cells:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    most = _width()
    for row in cells:
        shown = [f"{cell:<{width}}" for cell, width in zip(row, widths or (), strict=True) if width]
        line = _GAP.join(shown).rstrip()
        yield line[: most - 1] + "…" if 0 < most < len(line) else line


@functools.cache
def _width() -> int:
    """Of the terminal; 0 if standard output is none."""
    return os.get_terminal_size(1).columns if os.isatty(1) else 0
