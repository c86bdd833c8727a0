"""The keys of tasks and queues that limit what runs at once: how the value of each is read.

Does:    `concurrency` of a task -> `Concurrency`; `render` -> what a job's key is.
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
    from typing import Any

    from cronq.job import Job

KEYS = ("key", "group", "limit", "on_block")
WAIT, DISCARD, REPLACE, COALESCE = "wait", "discard", "replace", "coalesce"
ON_BLOCK = (WAIT, DISCARD, REPLACE, COALESCE)
MOST_KEY = 200
PLACEHOLDER = re.compile(r"\{(?:args\.(0|[1-9][0-9]?)|(user|queue))\}")


class Concurrency:
    """How many jobs with the same key may run at once, and what becomes of one more."""

    __slots__ = KEYS

    def __init__(self, key: str = "", group: str | None = None, limit: int = 1, on_block: str = WAIT) -> None:
        self.key = key  # a template of the key's text
        self.group = group  # whose keys they are: all tasks' of this group; None: this task's own
        self.limit = limit
        self.on_block = on_block


def concurrency(key: str, value: object) -> Concurrency:
    """The table `concurrency` of a task. Raises `BadJob`."""
    if not isinstance(value, dict):
        raise BadJob(f'{key} must be a table, like {{ key = "{{args.0}}", limit = 1 }}, not {jobs.show(value)}')
    for name in value:
        if name not in READERS:
            raise BadJob(f"{key} has the unknown key {jobs.show(name)}; known are {', '.join(KEYS)}")
    return Concurrency(**{name: READERS[name](f"{key}.{name}", item) for name, item in value.items()})


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


def _limit(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise BadJob(f"{key} must be a whole number from 1 to 100000, not {jobs.show(value)}")
    return value


def _on_block(key: str, value: object) -> str:
    if value not in ON_BLOCK:
        raise BadJob(f"{key} must be one of {', '.join(ON_BLOCK)}, not {jobs.show(value)}")
    return str(value)


READERS: dict[str, Any] = {
    "key": _template,
    "group": jobs.READERS["queue"],
    "limit": _limit,
    "on_block": _on_block,
}
