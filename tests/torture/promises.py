"""Whether cronq kept its word: what had been said before the power went, beside what was found after the recovery.

Does:    `Promises` reads the lines of the device's log up to a cut; `judge` names each promise that does not hold, as a
         line that begins with `lost`, `doubled` or `wrong`. No I/O.

Lost: a job whose id was told is nowhere; a result that was read is gone, or another one; a verb that was answered is
undone. Doubled: an at-most-once job that ran before the cut runs again; anything whose end was seen, or that was
cancelled or is held, runs. Wrong: a job in two states, a file of ours refused, an input that is not whole, a crash.
A verb that was asked for and not answered when the power went may have happened or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from recovery import Found

ENDED = ("done", "cancelled", "expired", "dead", "skipped")
KIND_STATES = {"note": {"done"}, "again": {"done"}, "once": {"done", "dead"}, "fails": {"dead"}, "later": {"delayed"}}
VERB_STATES = {
    "cancel": {"cancelled"},
    "hold": {"held"},
    "release": {"delayed"},
    "edit": {"delayed"},
    "retry": {"dead"},
    "rm": {"gone"},
    "replace": {"gone", "cancelled", "delayed"},
}
UNDER_WAY = {"ready", "running", "waiting", "delayed"}  # where no job is started by the recovery


@dataclass
class _Job:
    kind: str = ""
    told: bool = False
    states: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    ran: int = 0
    ran_since_retry: int = 0
    saw: str = ""


class Promises:
    """What had been said by a certain moment."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.jobs: dict[str, _Job] = {}
        self.torn: list[str] = []
        for line in lines:
            self._hear(*line.split())

    def _hear(self, word: str, job_id: str = "", what: str = "") -> None:
        job = self.jobs.setdefault(job_id, _Job())
        if word == "yes":
            job.kind, job.told = what, True
            job.states |= KIND_STATES.get(what, {"done"})
        elif word == "try":
            job.asked.append(what)
            job.states |= VERB_STATES[what]
            if what == "retry":
                job.saw, job.ran_since_retry = "", 0
        elif word == "did":
            job.answered.append(what)
            job.states = set(VERB_STATES[what])
        elif word == "ran":
            job.ran += 1
            job.ran_since_retry += 1
        elif word == "torn":
            self.torn.append(job_id)
        elif word == "saw":
            job.saw = what


def judge(promises: Promises, found: Found, real: bool) -> list[str]:
    """Each promise that does not hold."""
    wrong = [f"wrong: {each}" for each in found.troubles]
    wrong += [f"wrong: the input of {each} is not whole" for each in {*found.torn, *promises.torn}]
    for job_id, places in found.kept.items():
        if len(places) > 1:
            wrong.append(f"wrong: {job_id} is in two places: {places}")
    if real:
        told = {job_id.partition("-")[2] for job_id, job in promises.jobs.items() if job.told}
        left = [each for each in found.left if not each.endswith(".data") or each.removesuffix(".data") in told]
        wrong += [f"wrong: {each} was left where it was" for each in left]  # but input whose job did not come
    again = set(found.ran) if real else {each for each, places in found.kept.items() if places[0][0] == "ready"}
    for job_id, job in promises.jobs.items():
        if job.told:
            wrong += _of_one(job_id, job, found, real)
        wrong += _doubled(job_id, job, again, found)
    return wrong


def _of_one(job_id: str, job: _Job, found: Found, real: bool) -> list[str]:
    names = {job_id, *(each for each in found.kept if each.startswith(f"{job_id}+"))}
    kept = {state for each in names for state, _ in found.kept.get(each, [])}
    now = {found.results[job_id]} if job_id in found.results and found.results[job_id] in ENDED else set()
    now = kept or now or {"gone"}
    file = job_id.partition("-")[2]
    refused = next((why for name, why in found.refused.items() if name.startswith(f"{file}.")), None)
    if refused is not None:
        return [f"wrong: {job_id} ({job.kind}) was refused: {refused}"]
    if job.kind.startswith("batch:"):
        return _of_batch(job_id, job, found, now, real)
    allowed = set(job.states)
    if not real:
        allowed |= UNDER_WAY if allowed & {"done", "dead"} else set()
        if {"later", "delayed"} & allowed and not job.answered:
            allowed |= {"delayed"}
        if not job.saw and any(name.startswith(f"{file}.") for name in found.left):
            return []
    if now <= allowed:
        return _kept_as_asked(job_id, job, found, real)
    how = f"{job_id} ({job.kind}; asked {job.asked}, answered {job.answered}, saw {job.saw or 'nothing'})"
    return [f"lost: {how} is {'/'.join(sorted(now))}, and should be {'/'.join(sorted(allowed))}"]


def _kept_as_asked(job_id: str, job: _Job, found: Found, real: bool) -> list[str]:
    wrong = []
    stays = job.saw in ENDED and not {"rm", "retry"} & set(job.asked)
    stays = stays and (job.saw != "cancelled" or bool(job.answered))  # what nobody was told of may be undone
    if stays and found.results.get(job_id) != job.saw:
        wrong.append(f"lost: the result of {job_id}, which was {job.saw}, is {found.results.get(job_id)}")
    if "edit" in job.answered and (places := found.kept.get(job_id)) and not places[0][1].startswith("13,"):
        wrong.append(f"lost: the new priority of {job_id}: {places}")
    if real and "retry" in job.answered and not job.ran_since_retry and job_id not in found.ran:
        wrong.append(f"lost: the retry of {job_id}, which was answered, and nothing ran")
    if real and job.kind in ("note", "again", "fails") and not job.ran and not job.asked and job_id not in found.ran:
        wrong.append(f"lost: {job_id} ({job.kind}) never ran, and is {found.results.get(job_id)}")
    return wrong


def _of_batch(job_id: str, job: _Job, found: Found, now: set[str], real: bool) -> list[str]:
    if not real:
        return [f"lost: the batch {job_id} is gone"] if now == {"gone"} and not found.left else []
    count = int(job.kind.partition(":")[2])
    members = [f"{job_id}+{line:0{len(str(count))}}" for line in range(1, count + 1)]
    missing = [each for each in members if found.results.get(each) != "done"]
    if missing or now != {"done"}:
        return [f"lost: the batch {job_id} is {'/'.join(sorted(now))}, and of its {count} jobs not done: {missing}"]
    return []


def _doubled(job_id: str, job: _Job, again: set[str], found: Found) -> list[str]:
    wrong = []
    once = job.kind == "once" or "-cron-" in job_id
    if once and job.ran and job_id in again:
        wrong.append(f"doubled: {job_id} may run once at most, and ran before the power went")
    if once and found.ran.count(job_id) > 1:
        wrong.append(f"doubled: {job_id} ran {found.ran.count(job_id)} times in one recovery")
    if job.saw in ENDED and job_id in again and "retry" not in job.asked:
        wrong.append(f"doubled: {job_id} ran again, and its end ({job.saw}) had been seen")
    if {"cancel", "hold"} & set(job.answered[-1:]) and len(job.asked) == len(job.answered) and job_id in again:
        wrong.append(f"doubled: {job_id} ran, after {job.answered[-1]} had been answered")
    return wrong
