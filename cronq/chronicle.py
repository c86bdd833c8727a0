"""A job's life as the history has it: what happened to it, line by line, in words.

Does:    a line of the history -> when, and what happened then (`event`); the last of them of one job (`of`).
Reads:   its arguments; `of` the history, in slices.
Trusts:  the history as far as it is JSON: a cause may have come from a worker, so whoever prints it escapes it.
Fails:   never: a line of another form says nothing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from cronq.history import History

MOST = 50  # events of one job that are kept, the last ones: one that puts itself off may have thousands
_WORDS = {
    "admit": "queued",
    "postpone": "queued for later",
    "await": "waits for other jobs",
    "detain": "queued, and held",
    "reject": "refused",
    "ripen": "due",
    "unblock": "what it waited for has ended",
    "skip": "skipped",
    "expire": "expired",
    "return": "not started after all",
    "cancel": "cancelled",
    "hold": "held",
    "release": "released",
    "defer": "goes on later",
    "revive": "retried",
    "rejoin": "waits again",
    "finish": "ended",
    "stop": "ended",
    "remove": "removed",
}
_MADE = {"crontab": "made of a line that was due", "schedule": "made of a schedule", "manual": "made by `cronq run`"}
_VERDICTS = {"Done": "done", "Dead": "failed for good", "Cancelled": "cancelled", "Held": "held", "Again": "failed"}


def of(history: History, job_id: str, since: float) -> Iterator[dict[str, Any] | None]:
    """The last events of this job since then; first None now and then (`History.about`)."""
    found: deque[dict[str, Any]] = deque(maxlen=MOST)
    for record in history.about([b'"id":' + json.dumps(job_id).encode()], since):
        if record is None:
            yield None
        elif record.get("id") == job_id and (said := event(record)) is not None:
            found.append(said)
    yield from found


def event(record: dict[str, Any]) -> dict[str, Any] | None:
    """What one line says: `t`, `what`, perhaps `by` (a uid) and `at` (when it goes on); None where it says nothing."""
    moment, cause = record.get("t"), record.get("cause")
    what = _what(record, cause if isinstance(cause, str) else "")
    if not isinstance(moment, int | float) or not what:
        return None
    more = {key: record[key] for key in ("by", "at") if isinstance(record.get(key), int | float)}
    return {"t": moment, "what": what, **more}


def _what(record: dict[str, Any], cause: str) -> str:
    attempt, move, verdict = record.get("attempt"), str(record.get("move")), str(record.get("verdict"))
    if "outcome" in record:
        put_off = record.get("uses") in ("snoozes", "interruptions")
        how = "ended" if put_off else _VERDICTS.get(verdict, verdict)
        return f"attempt {attempt} {how}" + (f": {cause}" if cause else "")
    if move == "start":
        return f"attempt {attempt} started" if attempt is not None else "its last job was made"
    if move in ("admit", "postpone") and cause in _MADE:
        return _MADE[cause]
    if isinstance(record.get("edit"), dict):
        return "edited: " + ", ".join(f"{key} = {value}" for key, value in record["edit"].items())
    if record.get("from") == record.get("to"):  # it stayed where it was
        return "" if "window" in record else cause  # that of a unique key, which is told anew after a restart
    words = _WORDS.get(move, str(record.get("to") or ""))
    return f"{words}: {cause}" if cause and cause not in (words, "retry") else words
