"""What a job has said of itself, as it was written down: in its status file, its outcome, its result.

Does:    `read` and `clean` judge it, `words` and `part` put it into a line and a number for people.
Reads:   nothing but its arguments.
Trusts:  nothing: a worker wrote it, which is its user's. What has not the form that `status` gives is left out.
Fails:   never.
"""

from __future__ import annotations

import json
from typing import Any

from cronq.status import MOST_KEPT, State, cleaned, is_whole


def clean(found: object) -> dict[str, Any]:
    """Of what somebody wrote down as such a state, what can be one: each key that has the right form."""
    if not isinstance(found, dict):
        return {}
    state = State()
    for key, word in (("progress", "progress"), ("status", "status"), ("result", "result"), ("metrics", "metric")):
        if key in found:
            state.say(word, found[key])
    for key, word in (("warnings", "warning"), ("data", "data")):
        for item in found[key][:MOST_KEPT] if isinstance(found.get(key), list) else ():
            state.say(word, item)
    for key in ("touched", "ignored"):  # what was said above of what is wrong with it is none of the job's
        number = found.get(key)
        setattr(state, key, number if isinstance(number, int) and 0 < number < 2**53 else 0)
    why = found.get("why_ignored")
    state.why_ignored = cleaned(why) if isinstance(why, str) and is_whole(why) else None
    return state.told()


def read(data: bytes) -> dict[str, Any]:
    """What a status file says; empty where it is none, or is just being written."""
    try:
        return clean(json.loads(data.partition(b"\n")[0] or b"{}"))
    except (ValueError, RecursionError):
        return {}


def words(told: dict[str, Any]) -> str:
    """How far a job is, in a line: 3/10 copying."""
    progress, parts = told.get("progress"), []
    if progress:
        done, total = progress
        parts.append(f"{100 * done // total:.0f}%" if total in (1, 100) else f"{_shown(done)}/{_shown(total)}")
    if told.get("status"):
        parts.append(told["status"])
    return " ".join(parts)


def part(told: dict[str, Any]) -> float:
    """How much of it is done, of 1."""
    progress = told.get("progress")
    return progress[0] / progress[1] if progress else 0.0


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
