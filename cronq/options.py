"""Options of a crontab entry, written in a comment so that the file stays a crontab for any cron.

    # cronq: name=backup overlap=skip catchup=last/6h timeout=1h retries=3 jitter=5m mutex=disk notify=change
    0 3 * * *  /usr/local/bin/backup

Does:    the words of such a comment -> `Options`; each word is judged alone, so that one typo costs one option.
Reads:   nothing but its arguments.
Trusts:  nobody.
Fails:   `BadOption` with the sentence; the caller says where.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cronq.errors import BadJob
from cronq.job import is_name, seconds

_OVERLAP = ("allow", "skip", "queue", "replace")
_CATCHUP = ("none", "last", "all")
_NOTIFY = ("always", "change", "failure", "never")
_MOST_RETRIES = 1000
_MOST_CAUGHT_UP = 1000


class BadOption(ValueError):
    """A word that is no option, or has a value it cannot have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a plain cron line cannot say. The defaults are what cron does. Durations are seconds, 0 is "no limit".

    overlap        a run is due while the last one still runs: `allow` both, `skip`, `queue`, or `replace` the old one
    catchup        what the clock passed over (the machine was off or asleep): `none`, the `last`, or `all`
    catchup_within a missed run older than this is not made up for
    catchup_most   at most so many, the newest ones
    jitter         each run starts up to so much later: by a part of it that is the entry's own, on this machine
    mutex          entries with the same word never run at once
    notify         when to mail: `always` there is output (as cron), on `failure`, on a `change` (the first
                   failure, and the recovery), `never`
    """

    name: str = ""
    overlap: str = "allow"
    catchup: str = "none"
    catchup_within: float = 0.0
    catchup_most: int = 100
    timeout: float = 0.0
    retries: int = 0
    jitter: float = 0.0
    mutex: str = ""
    notify: str = "always"


PLAIN = Options()


def with_word(options: Options, word: str) -> Options:
    """`options` with one `key=value` more. Raises `BadOption`."""
    key, equals, value = word.partition("=")
    if key not in _KEYS:
        raise BadOption(f"there is no option {ascii(key)[1:-1]}: cronq knows {', '.join(_KEYS)}")
    if not equals or not value:
        raise BadOption(f"{key} needs a value: {key}=…")
    try:
        return dataclasses.replace(options, **_KEYS[key](key, value))
    except BadJob as error:
        raise BadOption(error.sentence) from None


def _name(key: str, value: str) -> dict[str, Any]:
    if not is_name(value, 64):
        raise BadOption(f"{key} is letters, digits, and . _ - inside, at most 64, not {value!a}")
    return {key: value}


def _one_of(*choices: str) -> Any:
    def choose(key: str, value: str) -> dict[str, Any]:
        if value not in choices:
            raise BadOption(f"{key} is one of {', '.join(choices)}, not {value!a}")
        return {key: value}

    return choose


def _catchup(key: str, value: str) -> dict[str, Any]:
    """`none`, `last`, `last/6h`, `all/6h`, `all/6h/10`."""
    kind, *limits = value.split("/")
    if kind not in _CATCHUP or len(limits) > 2 or (kind == "none" and limits):
        raise BadOption(f"{key} is none, last, last/6h, all, all/2d or all/2d/10, not {value!a}")
    found: dict[str, Any] = {"catchup": kind, "catchup_within": 0.0, "catchup_most": 100}
    if limits:
        found["catchup_within"] = seconds(limits[0], key)
    if len(limits) == 2:
        found["catchup_most"] = _number(key, limits[1], 1, _MOST_CAUGHT_UP)
    return found


def _seconds(key: str, value: str) -> dict[str, Any]:
    return {key: seconds(value, key)}


def _retries(key: str, value: str) -> dict[str, Any]:
    return {key: _number(key, value, 0, _MOST_RETRIES)}


def _number(key: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
        raise BadOption(f"{key} takes a number from {least} to {most}, not {value!a}")
    return int(value)


_KEYS: dict[str, Any] = {
    "name": _name,
    "overlap": _one_of(*_OVERLAP),
    "catchup": _catchup,
    "timeout": _seconds,
    "retries": _retries,
    "jitter": _seconds,
    "mutex": _name,
    "notify": _one_of(*_NOTIFY),
}
