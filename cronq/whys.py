"""Why a job is as it is: which gates are closed for one that waits, what became of one that has run.

Does:    the verb `why` for a job: one object, which says it in a sentence (`why`) and in detail: `gates` and `before`
         of one that has not started, `since` and `deadline` of one that runs, `because` and `last_lines` of one that
         will not run or failed for good, `events` of all.
Reads:   the backlog, results, the history, in slices (None in between); what a dead job printed last.
Trusts:  the caller to be who he is (`caller`): another user's job is unknown to him, and where one holds a gate, he
         learns that it is another user's and no more.
Fails:   `UnknownJob` for a job that is not his, or not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

from cronq import additions, barriers, chronicle, glance, parents, pauses, postmortem, spool, states, underway
from cronq.barriers import Barrier
from cronq.batches import Batch
from cronq.cancel import UNSTARTED
from cronq.entry import CANCEL_WANTED, Entry
from cronq.house import House, Now
from cronq.lanes import AGING
from cronq.payload import Payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]
DEPTH = 10  # of jobs that were skipped because others were
MOST_HOLDERS = 100  # of one gate whom the answer names, and whose deadlines are asked for
CLOCK = 86400.0  # seconds by which the clock may have been put back since a job was submitted
RUN = 256  # entries that are looked at at a time: below a millisecond
FREE = "nothing stands in its way; it starts in the next turn"


def why(ask: Ask) -> Found:
    """Why this job is as it is. Raises `UnknownJob`."""
    house, job_id = ask.house, str(ask.request.get("id"))
    kept = ask.find(job_id)
    if kept is not None:
        job_id = kept[1].id
    found = glance.view(house, *kept) if kept is not None else _other(ask, job_id)
    events = []
    for event in chronicle.of(house.history, job_id, float(found.get("submitted") or 0.0) - CLOCK):
        if event is None:
            yield None
        else:
            events.append(event)
    kept = house.backlog.find(job_id)  # as it is by now
    if kept is not None:
        found = glance.view(house, *kept)
        if kept[0] in UNSTARTED:
            found |= yield from _unstarted(ask, *kept)
        elif kept[0] == states.RUNNING:
            found |= _running(house, kept[1], found)
        else:
            found |= _ended(ask, found)
    elif "gates" not in found:
        found |= _ended(ask, found)
    yield {**found, "events": events}


def _other(ask: Ask, job_id: str) -> dict[str, Any]:
    """What is told of a job that is not below `queue/`. Raises `UnknownJob`, `Full`."""
    house = ask.house
    found = glance.result(house, job_id)
    if found:
        return found
    why = _not_made(house, job_id) or _not_judged(house, job_id)
    if why:
        bare: dict[str, Any] = {"id": job_id, "state": states.QUEUED, "submitted": spool.time_of(job_id)}
        return bare | {"why": why, "gates": [{"gate": "arrival", "why": why}]}
    owner, _, name = job_id.partition("-")
    refused = spool.reason(house.shelves.root, int(owner), name)
    if refused is None:
        return ask.result(job_id)
    return {"id": job_id, "state": states.REJECTED, "submitted": spool.time_of(job_id), "reason": refused[0]}


def _not_made(house: House, job_id: str) -> str:
    """Why a batch's member is no entry yet; empty for any other job."""
    base, plus, line = job_id.partition("+")
    kept = house.backlog.find(base) if plus else None
    if kept is None or kept[1].batch is None or not kept[1].batch[0] < int(line) <= kept[1].batch[2]:
        return ""
    made, _, total = kept[1].batch
    waits = f"its batch makes its {total} jobs as they can start, and has made {made} so far"
    return f"{waits}; {int(line) - 1 - made} come before it"


def _not_judged(house: House, job_id: str) -> str:
    """Why a job that was dropped is no entry yet; empty for one that was not."""
    if any(isinstance(each, Payload) and each.job.id == job_id for each in house.judging.values()):
        return "its input is being copied"
    if not parents.is_queued(house, job_id):
        return ""
    owner, _, name = job_id.partition("-")
    for captured in (f"{owner},{name}{ending}" for ending in spool.ENDINGS):
        if captured in house.behind:
            return "a job that it names is still to be judged"
        if isinstance(batch := house.judging.get(captured), Batch):
            return f"its batch is being read, {batch.count} lines so far"
        if captured in house.looks:
            return "its file is not whole yet, or there is no room for it now; it is looked at again"
    if pauses.REFUSE in house.pauses.gates:
        return pauses.sentence(pauses.REFUSE, house.pauses.gates[pauses.REFUSE])
    if any((int(owner), name + ending) in house.left for ending in spool.ENDINGS):
        reason = spool.reason(house.shelves.root, int(owner), name)
        return "its file cannot be taken out of the inbox" + (f": {reason[0]}" if reason is not None else "")
    return "it lies in the inbox and has not been looked at; the next turn takes it"


# ---------------------------------------------------------------- what waits


def _unstarted(ask: Ask, state: str, entry: Entry) -> Generator[None, None, dict[str, Any]]:
    house = ask.house
    before: Counter[int] = Counter()
    lane = entry.lane
    for number, each in enumerate(house.backlog.entries(states.READY, entry.uid) if state == states.READY else ()):
        if number % RUN == RUN - 1:
            yield None
        if each.lane == lane and _comes_before(house, ask.now, each, entry):
            before[each.priority] += 1
    if house.backlog.find(entry.id) != (state, entry):  # it has gone on meanwhile
        return {"why": "it goes on just now; ask again", "gates": []}
    gates: list[dict[str, Any]] = []
    known: dict[str, float | None] = {}  # until when the holders run at the latest
    for barrier in barriers.closed(house, ask.now, state, entry):
        yield None
        gates.append(_told(ask, barrier, known))
    ahead = [{"priority": level, "jobs": number} for level, number in sorted(before.items(), reverse=True)]
    said = "; ".join(each["why"] for each in gates) or (_behind(before.total()) if ahead else FREE)
    return {"why": said, "gates": gates, "before": ahead, "reason": house.reasons.get(entry.id)}


def _comes_before(house: House, now: Now, other: Entry, entry: Entry) -> bool:
    """Whether another entry of its lane is chosen first, by priority, unless the lower one has aged (`lanes`)."""
    if other.priority == entry.priority:
        return other.order < entry.order
    low, high = sorted((other, entry), key=lambda each: each.priority)
    aging = house.config.agings.get(entry.queue, AGING) * 1e6
    aged = aging > 0 and low.due < high.due and now.micros - low.due >= (high.priority - low.priority) * aging
    return (low is other) is aged


def _behind(number: int) -> str:
    return f"nothing stands in its way but {number} job{'s' * (number > 1)} of its own lane that come before it"


def _told(ask: Ask, barrier: Barrier, known: dict[str, float | None]) -> dict[str, Any]:
    """A gate as this caller may know it."""
    mine = [job_id for job_id in barrier.holders if ask.caller.may(int(job_id.partition("-")[0]))]
    holders = []
    for job_id in mine[:MOST_HOLDERS]:
        state = (ask.house.backlog.find(job_id) or ("",))[0]
        if job_id not in known:
            known[job_id] = barriers.until(ask.house, job_id)
        holders.append({"id": job_id, "state": state, "until": known[job_id]})
    said: dict[str, Any] = {"gate": barrier.gate, "why": barrier.why, "holders": holders}
    said |= {"more": len(mine) - len(holders), "others": len(barrier.holders) - len(mine)}
    return said | {"opens": barrier.opens, "latest": _latest(ask.house, barrier, holders)}


def _latest(house: House, barrier: Barrier, holders: list[dict[str, Any]]) -> float | None:
    """When it opens at the latest by the deadlines of those who hold it, as far as the caller sees them."""
    left = barrier.over
    if not left:
        return None
    for each in sorted((each for each in holders if each["until"] is not None), key=lambda each: float(each["until"])):
        kept = house.backlog.find(each["id"])
        left -= max(1, kept[1].weight) if kept is not None else 0
        if left <= 0:
            return float(each["until"])
    return None


# ---------------------------------------------------------------- what runs


def _running(house: House, entry: Entry, found: dict[str, Any]) -> dict[str, Any]:
    if entry.batch is not None:
        unfinished = house.backlog.unfinished(entry.id)
        why = f"{len(unfinished)} of its {additions.number(house.shelves, entry)} jobs have not ended"
        if not unfinished:
            why = "all of its jobs have ended; it ends when all job files in the inbox are judged: one may add to it"
        return {"why": why, "unfinished": unfinished}
    running = house.running.get(entry.id)
    since = underway.since(house, entry)
    said = f"attempt {entry.attempt} of {found.get('max_attempts') or '?'} runs"
    if running is None:
        said = f"attempt {entry.attempt} has ended; what it means is being written down"
    elif running.orphan and running.reap is not None:
        said = "its worker died in mid-job; that the job is gone too is being made sure of"
    elif CANCEL_WANTED in entry.flags:
        said = "it was cancelled, and is being ended"
    elif since is None:
        said = f"attempt {entry.attempt} of {found.get('max_attempts') or '?'} is being started"
    until = None if running is None else underway.until(house, running)
    return {"why": said, "since": since, "deadline": until, "runs_as": entry.runner}


# ---------------------------------------------------------------- what has ended


def _ended(ask: Ask, found: dict[str, Any]) -> dict[str, Any]:
    house = ask.house
    state, reason = str(found.get("state")), found.get("reason")
    if reason is None and state == states.DONE:
        reason = None if found.get("exit_code") is None else f"exit code {found['exit_code']}"
    said: dict[str, Any] = {"why": f"it is {state}" + (f": {reason}" if reason else "")}
    job_id = str(found.get("id"))
    if state == states.SKIPPED:
        said["because"] = list(_because(house, job_id))
    if state == states.DEAD:
        lines = postmortem.last_lines(house, job_id) if postmortem.may_read(house, ask.caller.uid, job_id) else []
        said |= {"last_lines": lines, "may_be_retried": job_id in house.backlog}
    return said


def _because(house: House, job_id: str) -> Iterator[dict[str, Any]]:
    """The jobs because of which this one was skipped: each was itself, because of the next."""
    for _ in range(DEPTH):
        needs = house.backlog.waits.needs.get(job_id)
        wrong = () if needs is None else needs.after
        culprit = next((each for each in wrong if parents.end(house, each) not in (None, states.DONE)), None)
        if culprit is None:
            return
        result = glance.result(house, culprit)
        job_id = culprit
        yield {"id": culprit, "state": parents.end(house, culprit), "reason": result.get("reason")}

