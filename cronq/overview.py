"""The overview that `cronq top` shows: what stands in each queue, what happened there, which gates keep what.

Does:    one object, worked out in slices, with None in between. Counters are told as they are: whoever asks twice has
         the rate in between.
Reads:   what was counted (`counting`), what stands where (`depths`), the configuration; files of what runs.
Trusts:  its caller to ask only for users whose jobs may be seen.
Fails:   never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cronq import depths, glance, measures, states, underway
from cronq.counting import Group
from cronq.depths import Clock
from cronq.house import House

MOST_SHOWN = 20  # jobs that run: each costs two small files


def overview(house: House, clock: Clock, uid: int | None) -> Iterator[dict[str, Any] | None]:
    """All of it, of everybody's jobs or of one user's."""
    found = yield from measures.counted(house, uid)
    blocked = yield from depths.blocked(house, clock, found)
    inbox = 0
    for number in glance.arrived(house, None if uid is None else [uid]):
        inbox += number or 0
        yield None
    now = clock()
    counts: dict[str, Group] = {}
    for (queue, _), group in measures.groups(house, uid).items():
        counts.setdefault(queue, Group()).join(group)
    queues = {queue: _queue(group) for queue, group in counts.items()}
    for ((_, queue, _), state), jobs in found.jobs.items():
        queues.setdefault(queue, _queue(Group()))[state] += jobs
    for (_, queue, _), due in found.oldest.items():
        queues[queue]["oldest"] = max(queues[queue]["oldest"] or 0.0, round(now.wall - due, 3))
    for (_, queue, gate), jobs in sorted(blocked.items()):
        gates = queues.setdefault(queue, _queue(Group()))["gates"]
        gates[gate] = gates.get(gate, 0) + jobs
    totals: Counter[str] = Counter()
    for each in queues.values():
        totals.update({state: each[state] for state in states.KEPT})
    yield {
        "at": round(now.wall, 3),
        "since": round(house.history.counts.since, 3),
        "inbox": inbox,
        **{state: totals[state] for state in states.KEPT},
        "unmade": found.unmade,
        "max_jobs": house.config.max_jobs,
        "broken": house.broken,
        "queues": {queue: each for queue, each in sorted(queues.items()) if _says_anything(each)},
        "jobs": [*_running(house, uid)],
    }


def _running(house: House, uid: int | None) -> Iterator[dict[str, Any]]:
    """What runs, in the order in which it was started, as far as it fits on a screen."""
    entries = [each.entry for each in house.running.values() if uid in (None, each.entry.uid)]
    for entry in entries[:MOST_SHOWN]:
        yield glance.view(house, states.RUNNING, entry) | {"started": underway.since(house, entry)}


def _queue(group: Group) -> dict[str, Any]:
    counted = {"started": group.started, "done": group.ended[states.DONE], "failed": group.failed.total()}
    return {**dict.fromkeys(states.KEPT, 0), "oldest": None, **counted, "gates": {}}


def _says_anything(queue: dict[str, Any]) -> bool:
    return any(queue.values())
