"""The keys of a job file that say what it is unique by: how the value of each is read.

Does:    `unique`, `unique_keys`, `unique_until`, `on_conflict` -> what they say; `clashes` of them.
Reads:   nothing but its arguments. Standard library only: workers read jobs too.
Trusts:  nothing.
Fails:   `BadJob` with a sentence that names the key and says what would be right.
"""

from __future__ import annotations

from cronq import job as jobs
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

FIELDS = ("task", "command", "args", "queue", "cwd")
START, END, SUCCESS = "start", "end", "success"
UNTIL = (START, END, SUCCESS)
IGNORE, REJECT, ATTACH, ONCE = "ignore", "reject", "attach", "requeue-once"
REPLACE, DEBOUNCE, THROTTLE, MAX_WAIT = "replace", "debounce", "throttle", "max_wait"
WORDS = (IGNORE, REJECT, ATTACH, ONCE, REPLACE)
PARTS = ("args", "at", "priority")
SCOPES = ("user", "global")
MOST_KEY = 200
MOST_POSITION = 999
_DEPENDENT = ("unique_keys", "unique_until", "unique_for", "on_conflict")


class Conflict:
    """What becomes of a job whose key is taken."""

    __slots__ = ("action", "longest", "parts", "wait")

    def __init__(
        self, action: str = IGNORE, wait: float = 0.0, longest: float | None = None, parts: Collection[str] = PARTS
    ) -> None:
        self.action = action
        self.wait = wait  # seconds, of a throttle and of a debounce
        self.longest = longest  # seconds that a debounce may put off in all
        self.parts = parts  # what a replacement replaces


def unique(key: str, value: object) -> str | list[str]:
    """A key of one's own words, or the fields that it is made of. Raises `BadJob`."""
    if isinstance(value, list):
        for place, item in enumerate(value):
            jobs.one_of(f"{key}[{place}]", item, FIELDS)
        if value:
            return list(value)
    if not isinstance(value, str) or not value or len(value) > MOST_KEY:
        what = f'a key (text of 1 to {MOST_KEY} characters), or a list of fields like ["task", "args"]'
        raise BadJob(f"{key} must be {what}, not {jobs.show(value)}")
    return str(jobs.READERS["note"](key, value))


def positions(key: str, value: object) -> list[int]:
    """Which of the arguments count, from 0. Raises `BadJob`."""
    if not isinstance(value, list) or not value:
        raise BadJob(f"{key} must be a list of positions of arguments, like [0, 2], not {jobs.show(value)}")
    return [jobs.whole(f"{key}[{place}]", item, 0, MOST_POSITION) for place, item in enumerate(value)]


def until(key: str, value: object) -> str:
    """Until when a job keeps its key. Raises `BadJob`."""
    if value not in UNTIL:
        raise BadJob(f"{key} must be {', '.join(UNTIL[:-1])} or {UNTIL[-1]}, not {jobs.show(value)}")
    return str(value)


def scope(key: str, value: object) -> str:
    """Whose jobs a task's keys are compared with. Raises `BadJob`."""
    if value not in SCOPES:
        raise BadJob(f"{key} must be {' or '.join(SCOPES)}, not {jobs.show(value)}")
    return str(value)


def on_conflict(key: str, value: object) -> Conflict:
    """What becomes of a job whose key is taken. Raises `BadJob`."""
    if isinstance(value, str) and value in WORDS:
        return Conflict(value)
    found = value if isinstance(value, dict) else {}
    if set(found) == {THROTTLE}:
        return Conflict(THROTTLE, wait=_positive(f"{key}.{THROTTLE}", found[THROTTLE]))
    if DEBOUNCE in found and set(found) <= {DEBOUNCE, MAX_WAIT}:
        longest = _positive(f"{key}.{MAX_WAIT}", found[MAX_WAIT]) if MAX_WAIT in found else None
        return Conflict(DEBOUNCE, wait=_positive(f"{key}.{DEBOUNCE}", found[DEBOUNCE]), longest=longest)
    if set(found) == {REPLACE}:
        return Conflict(REPLACE, parts=_parts(f"{key}.{REPLACE}", found[REPLACE]))
    raise BadJob(
        f'{key} must be {", ".join(WORDS)}, {{"replace": ["args", "at", "priority"]}}, {{"debounce": "5s", '
        f'"max_wait": "1m"}} or {{"throttle": "5s"}}, not {jobs.show(value)}'
    )


def _positive(key: str, value: object) -> float:
    return float(jobs.READERS["timeout"](key, value))


def _parts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(item not in PARTS for item in value):
        raise BadJob(f"{key} must be a list of {', '.join(PARTS)}, not {jobs.show(value)}")
    return tuple(value)


def clashes(keys: Collection[str], values: Any = None) -> list[str]:
    """Which of these keys do not go together; `values`: a job's fields as its file has them."""
    if "unique" not in keys:
        return [f"{key} needs unique beside it" for key in _DEPENDENT if key in keys]
    fields = values if isinstance(values, dict) else {}
    if "unique_keys" in keys and not {"args", "command"} & set(_listed(fields.get("unique"))):
        return ['unique_keys are positions in args or command: have one of them in unique, like ["task", "args"]']
    return []


def _listed(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
