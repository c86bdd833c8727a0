"""The rhythm of a schedule of the configuration: when `every`, `cron`, `zone`, `catchup` and `jitter` make it due.

Does:    reads each of these keys strictly (`READERS`), says which do not go together (`clashes`), and gives what the
         clock needs of them (`schedule`, `options`).
Reads:   nothing but its arguments, and the names of time zones. Loads croniter where an expression is none of cron's.
Trusts:  nobody: the values may be anything that TOML can say.
Fails:   `BadJob` with the key, and what would be right.

For the dispatcher and for forms; a worker judges ticks by `tick`, and needs none of this.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cronq import job as jobs
from cronq import tick
from cronq.crontab import is_zone
from cronq.errors import BadJob
from cronq.fields import BadSchedule
from cronq.options import PLAIN, BadOption, Options, with_word
from cronq.schedule import Every, parse_extended
from cronq.upcoming import AnySchedule


def schedule(name: str, every: float | None, cron: str | None) -> AnySchedule:
    """When the schedule `name` is due. Raises `BadSchedule`."""
    return parse_extended(cron, name) if cron is not None else Every(int(every or 1))


def options(catchup: str, jitter: float) -> Options:
    """What a schedule has of a crontab line's options. Raises `BadOption`."""
    return with_word(with_word(PLAIN, f"catchup={catchup}"), f"jitter={jitter}s")


def clashes(keys: Collection[str]) -> list[str]:
    """Which keys of a schedule do not go together: a sentence each."""
    if "every" not in keys and "cron" not in keys:
        return ["every or cron is missing; write one of them"]
    if "every" in keys and "cron" in keys:
        return ["every and cron exclude each other; keep one of them"]
    if "zone" in keys and "cron" not in keys:
        return ["zone belongs to cron; every so often is the same in all zones"]
    return []


def _cron(key: str, value: object) -> str:
    text = tick.READERS["cron"](key, value)
    try:
        parse_extended(text, "x")
    except BadSchedule as error:
        raise BadJob(f"{key} {jobs.show(value)}: {error}; {error.mend}") from None
    return str(text)


def _zone(key: str, value: object) -> str:
    text = tick.READERS["zone"](key, value)
    if not is_zone(text):
        raise BadJob(f"{key} must be a time zone like Europe/Berlin, not {jobs.show(value)}")
    return str(text)


def _catchup(key: str, value: object) -> str:
    text = tick.READERS["catchup"](key, value)
    try:
        with_word(PLAIN, f"catchup={text}")
    except BadOption as error:
        raise BadJob(str(error)) from None
    return str(text)


READERS: dict[str, Any] = {**tick.READERS, "cron": _cron, "zone": _zone, "catchup": _catchup}
