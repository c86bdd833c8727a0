"""The keys of tasks and queues that limit what runs at once: how the value of each is read.

Does:    `concurrency` of a task -> `Concurrency`; `rate` -> how many in how long; `render` -> what a job's key is.
Reads:   nothing but its arguments. Standard library only: workers read tasks too.
Trusts:  nothing.
Fails:   `BadJob` with a sentence that names the key and says what would be right.
"""

from __future__ import annotations

import re

from cronq import job as jobs
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from cronq.job import Job

KEYS = ("key", "group", "limit", "on_block", "rate", "burst")
WAIT, DISCARD, REPLACE, COALESCE = "wait", "discard", "replace", "coalesce"
ON_BLOCK = (WAIT, DISCARD, REPLACE, COALESCE)
MOST_KEY = 200
MOST_LOAD = 100_000
PLACEHOLDER = re.compile(r"\{(?:args\.(0|[1-9][0-9]?)|(user|queue))\}")


class Concurrency:
    """How many jobs with the same key may run at once, and what becomes of one more."""

    __slots__ = KEYS

    key: str  # a template of the key's text
    group: str | None  # whose keys they are: all tasks' of this group; None: this task's own
    limit: int | None
    on_block: str
    rate: tuple[int, float] | None
    burst: int

    def __init__(self, **fields: Any) -> None:
        self.key = fields.get("key", "")
        self.group = fields.get("group")
        self.limit = fields.get("limit", None if "rate" in fields else 1)
        self.on_block = fields.get("on_block", WAIT)
        self.rate = fields.get("rate")
        self.burst = fields.get("burst", 1)


def concurrency(key: str, value: object) -> Concurrency:
    """The table `concurrency` of a task. Raises `BadJob`."""
    if not isinstance(value, dict):
        raise BadJob(f'{key} must be a table, like {{ key = "{{args.0}}", limit = 1 }}, not {jobs.show(value)}')
    for name in value:
        if name not in READERS:
            raise BadJob(f"{key} has the unknown key {jobs.show(name)}; known are {', '.join(KEYS)}")
    for sentence in clashes(value):
        raise BadJob(f"{key}: {sentence}")
    return Concurrency(**{name: READERS[name](f"{key}.{name}", item) for name, item in value.items()})


def rate(key: str, value: object) -> tuple[int, float]:
    """How many may start in how many seconds. Raises `BadJob`."""
    number, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and number.isascii() and number.isdigit() and len(number) < 7 and int(number):
        try:
            seconds = jobs.seconds(period, key)
        except BadJob:
            seconds = 0.0
        if seconds > 0:
            return int(number), seconds
    raise BadJob(f'{key} must be how many may start in how long, at least one, like "10/1m", not {jobs.show(value)}')


def load(key: str, value: object) -> float:
    """A load of the machine, as the kernel's averages say it. Raises `BadJob`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_LOAD:
        raise BadJob(f"{key} must be a number above 0, at most {MOST_LOAD}, like 8 or 1.5, not {jobs.show(value)}")
    return float(value)


def clashes(keys: Collection[str]) -> list[str]:
    """Which keys of a limit do not go together: a sentence each."""
    return ["burst belongs to a rate; write both, or leave it out"] if "burst" in keys and "rate" not in keys else []


def render(template: str, job: Job, submitter: int, queue: str) -> str:
    """The text of a job's key. An argument that the job does not have is empty."""

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return str(submitter) if found[2] == "user" else queue
        place = int(found[1])
        return job.args[place] if place < len(job.args) else ""

    return PLACEHOLDER.sub(value, template)


def _template(key: str, value: object) -> str:
    text = str(jobs.READERS["note"](key, value))
    if len(text) > MOST_KEY:
        raise BadJob(f"{key} is longer than {MOST_KEY} characters")
    if any(brace in PLACEHOLDER.sub("", text) for brace in "{}"):
        known = "{args.0} to {args.99}, {user}, {queue}"
        raise BadJob(f"{key} may hold {known}, and no other braces, not {jobs.show(text)}")
    return text


def count(key: str, value: object) -> int:
    """How many of something, at least one. Raises `BadJob`."""
    return jobs.whole(key, value, 1, 100_000)


READERS: dict[str, Any] = {
    "key": _template,
    "group": jobs.READERS["queue"],
    "limit": count,
    "on_block": lambda key, value: jobs.one_of(key, value, ON_BLOCK),
    "rate": rate,
    "burst": count,
}
