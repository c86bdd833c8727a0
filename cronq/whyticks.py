"""What the history knows of an entry's ticks in a span: those of which a job was made, those that were passed over, and
when nobody looked at the clock.

Does:    the verb `ticks`: an object each, {"tick", "instant", "made", "cause"}; {"stood": [from, until]}; at the end
         {"since"}, the day from which on there is a history.
Reads:   the history, in slices (None in between).
Trusts:  the caller to be who he is (`caller`). An entry of another user's is unknown to him.
Fails:   `UnknownJob` for an entry that is not his, or not there; `UsageError` for times that are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cronq import annals, entryverbs
from cronq.errors import UsageError
from cronq.fire import PASSED_OVER
from cronq.job import HEX, LAST_INSTANT
from cronq.whys import CLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]
MOST = 1000  # ticks of one answer
_STOOD = b'"stood":['


def ticks(ask: Ask) -> Found:
    """The ticks of an entry from one instant to before another, and what there is to know about the time."""
    start, end = _moment(ask, "from"), _moment(ask, "until")
    _, _, name = entryverbs.find(ask)
    history = ask.house.history
    made: dict[str, dict[str, Any]] = {}
    marks = [b'"id":' + json.dumps(f"{name}-").encode()[:-1], _STOOD]
    for record in history.about(marks, start - CLOCK):
        if record is None:
            yield None
        elif "stood" in record:
            yield {"stood": record["stood"]}
        elif (instant := _instant(record.get("id"), name)) is not None and start <= instant < end:
            job_id = str(record["id"])
            if job_id not in made and len(made) < MOST:
                found = record.get("to") != PASSED_OVER
                made[job_id] = {"tick": job_id, "instant": instant, "made": found, "cause": record.get("cause")}
    yield from sorted(made.values(), key=lambda each: float(each["instant"]))
    yield {"since": next((annals.day_of(path) for path in history.days()), None)}


def _moment(ask: Ask, key: str) -> float:
    found = ask.request.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < LAST_INSTANT:
        raise UsageError(f"{key} must be seconds since the epoch")
    return found


def _instant(job_id: object, name: str) -> float | None:
    """Of which instant a tick of this entry is; None for another entry's, whose name begins alike."""
    owner, _, stamp = str(job_id).rpartition("-")
    if owner != name or len(stamp) != 13 or not all(char in HEX for char in stamp):
        return None
    return int(stamp, 16) / 1e6


VERBS = {"ticks": ticks}
