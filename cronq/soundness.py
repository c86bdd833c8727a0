"""Soundness: what is wrong with a spool, judged from what lies in it, and what each finding means. No disk, no clock.

Does:    `of_place` judges where a queued file lies and what its name says, `of_result` the bytes of a `result.json`,
         `of_job` all that is known of one id: where it is, its result, its input, its outcome files, its history.
Reads:   its arguments.
Trusts:  nothing in them.
Fails:   never: what cannot be understood is a finding.

docs/fsck.md has `KINDS` as a table; a test compares them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cronq.entry import HAS_DATA, NONE, WAITS, Entry, parse
from cronq.job import is_whole
from cronq.shelves import home
from cronq.states import (
    DEAD,
    DELAYED,
    ENDED_IN_OUT,
    HELD,
    KEPT,
    READY,
    RUNNING,
    SKIPPED,
    WAITING,
)

LOST = "lost"  # in the history, of a job that a repair found nowhere
FAULT, NOTE = "fault", "note"
ASIDE = "moved into queue/lost+found"
REFUSED = "refused: moved into rejected/, with the reason"
STARTS = "none needed: the next dispatcher does it"  # so that it is no finding while one runs
LEFT = "none"


class Kind(NamedTuple):
    """What findings of one kind have in common: a note is no fault, a crash may leave it."""

    level: str
    means: str
    mend: str


KINDS: dict[str, Kind] = {
    # files of jobs, below queue/
    "name": Kind(FAULT, "no dispatcher knows whose job this is", ASIDE),
    "shape": Kind(FAULT, "it is no file of cronq's, and none is run from it", ASIDE),
    "misplaced": Kind(FAULT, "the dispatcher looks for it where its name says", "put into its place"),
    "flags": Kind(FAULT, "it would start too early, or never", "moved or renamed as it must be"),
    "owner": Kind(FAULT, "it proves nobody's wish, and is refused when it is to start", REFUSED),
    "bytes": Kind(FAULT, "it was changed after it was judged, and is refused when it is to start", REFUSED),
    "unreadable": Kind(FAULT, "the disk does not give it, and it is refused when it is to start", LEFT),
    "twice": Kind(FAULT, "only the later of the two states counts, and this file is in its way", ASIDE),
    "input": Kind(FAULT, "its input is gone, and it is refused when it is to start", REFUSED),
    "no-batch": Kind(FAULT, "the file that proves whose job it is is gone; it is refused when it is to start", REFUSED),
    "line": Kind(FAULT, "the batch's file was changed, and it is refused when it is to start", REFUSED),
    "cursor": Kind(FAULT, "the jobs of the batch that are still to come would be lost", "counted anew"),
    "waits": Kind(NOTE, "nobody can tell any more how that one ended", STARTS),
    "lost": Kind(FAULT, "it was accepted, and whoever waits for it waits for ever", "a result that says so"),
    "junk": Kind(FAULT, "nothing of cronq's is called so", ASIDE),
    # attempts
    "unsettled": Kind(NOTE, "the worker of this attempt is gone", STARTS),
    "unpublished": Kind(NOTE, "its end is known, and was not finished being told", STARTS),
    "unseen": Kind(FAULT, "a worker runs it, and nobody will learn how it ends", "none: it ends by itself"),
    "stray-outcome": Kind(NOTE, "a crash left it, and nobody sweeps it", ASIDE),
    # arrivals and inputs
    "captured": Kind(NOTE, "it was taken out of its inbox and not judged yet", STARTS),
    "captured-name": Kind(FAULT, "the next dispatcher cannot start for it", ASIDE),
    "input-left": Kind(NOTE, "its job has ended, or its copying was cut off", STARTS),
    "stray-input": Kind(FAULT, "no job has it", "moved into rejected/, with the reason"),
    "draft": Kind(NOTE, "its producer never finished it, and was never told yes", "none needed: retention removes it"),
    "inbox-name": Kind(NOTE, "no job may be called so, and it is never taken", LEFT),
    # results
    "result": Kind(FAULT, "whoever waits for it cannot read how it ended", "written anew from the history"),
    "no-result": Kind(FAULT, "whoever waits for it waits for ever", "written anew from the history"),
    "unsaid": Kind(NOTE, "a crash came before its result was written", STARTS),
    "ended": Kind(FAULT, "it would run though it is told to have ended", "moved to its result"),
    "unrevived": Kind(FAULT, "it is told to have ended, and is still to run", "the result gets a number"),
    "half-gone": Kind(NOTE, "it was being removed", "none needed: retention removes the rest"),
    "results-mode": Kind(FAULT, "others could change what is told of it", "its mode is set"),
    "no-reason": Kind(FAULT, "its owner is not told why it was refused", "a reason is written"),
    # beside the jobs
    "history": Kind(NOTE, "a crash cut it; what it told is lost, and everybody passes over it", LEFT),
    "state": Kind(FAULT, "the dispatcher cannot know what it had written there", ASIDE),
    "pause": Kind(FAULT, "it is paused for ever", "written anew: paused until cronq resume"),
    "table": Kind(FAULT, "it is nobody's crontab", ASIDE),
    "table-coming": Kind(NOTE, "a crash came before it was installed", STARTS),
    "tree": Kind(FAULT, "cronq or its users cannot work there, or others can", "what is this user's to set is set"),
    "missing": Kind(NOTE, "a directory is missing", STARTS),
    "lock": Kind(FAULT, "no dispatcher can start", LEFT),
}


class Finding(NamedTuple):
    """One thing that is not as it must be. `path` is below the spool; `wrong` says what is wrong with it."""

    kind: str
    path: str
    wrong: str
    job_id: str = ""

    @property
    def level(self) -> str:
        """`fault` or `note`."""
        return KINDS[self.kind].level

    @property
    def starts(self) -> bool:
        """Whether a start of the dispatcher mends it."""
        return KINDS[self.kind].mend == STARTS

    def sentence(self, root: str) -> str:
        """The path, what is wrong, what it means, and what mends it."""
        kind = KINDS[self.kind]
        means = "" if self.kind == "tree" else f": {kind.means}"
        return f"{os.path.join(root, self.path)} {self.wrong}{means} (--repair: {kind.mend})"


# -------------------------------------------------------------------- one file below queue/<state>/


def at(place: str) -> tuple[str, Entry]:
    """The state and the entry that a path below the spool says. Raises `ValueError`."""
    _, state, *_, name = place.split("/")
    return state, parse(name)


def of_place(place: str) -> Iterator[Finding]:
    """What is wrong with where a queued file lies, and with what its name says."""
    try:
        state, entry = at(place)
    except ValueError:
        yield Finding("name", place, "is no name of a job")
        return
    if home(state, entry) != os.path.dirname(place):
        yield Finding("misplaced", place, f"should lie in {home(state, entry)}", entry.id)
    if (state in (WAITING, SKIPPED)) and WAITS not in entry.flags:
        yield Finding("flags", place, f"is {state}, and its name does not say that it waits for others", entry.id)
    elif WAITS in entry.flags and state not in (WAITING, SKIPPED, HELD):
        yield Finding("flags", place, f"is {state}, and its name says that it waits for others", entry.id)
    if entry.offset != NONE and not is_whole(entry.id.partition("+")[2]):
        yield Finding("name", place, "has a place in a batch, and is none of its jobs", entry.id)
    if entry.batch is None and not entry.hash:
        yield Finding("name", place, "does not say which bytes were judged", entry.id)


def of_result(job_id: str, data: bytes) -> tuple[str, str]:
    """The state that a `result.json` tells, and what is wrong with it; one of them is empty."""
    try:
        found = json.loads(data.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return "", "is empty" if not data else "is not JSON"
    if not isinstance(found, dict) or found.get("id") != job_id:
        return "", "is another job's"
    state = found.get("state")
    if state not in (*ENDED_IN_OUT, DEAD, SKIPPED):
        return "", f"tells of no end ({state!r:.40})"
    return str(state), ""


def of_cursor(batch: tuple[int, int, int], size: int, before: bytes) -> str:
    """What is wrong with how far a batch has come; `before`: the byte before where its next line begins."""
    number, offset, total = batch
    if number > total:
        return f"has come to job {number} of {total}"
    if offset > size:
        return f"has come to byte {offset} of {size}"
    if 0 < offset < size and before != b"\n":
        return f"has come to byte {offset}, in the midst of a line"
    return ""


# -------------------------------------------------------------------- all that is known of one id

DAMAGED = "damaged"  # a result that cannot be read, which is a finding of its own


@dataclass(slots=True)
class Facts:
    """What was found of one job."""

    job_id: str
    places: list[str] = field(default_factory=list)  # below queue/<state>/
    has_input: bool = False
    outcomes: dict[int, bool] = field(default_factory=dict)  # attempts, and whether a worker holds their file
    has_file: bool = False  # job.json, by its results
    result: str = ""  # the state that its result tells, or DAMAGED; empty: there is none
    told: tuple[int, str, str] = (-1, "", "")  # of its last line in the history: number, time, state
    near: bool = False  # a file of its name is in the inbox still, or captured

    @property
    def folder(self) -> str:
        """Where its results are."""
        return f"out/{self.job_id.partition('-')[0]}/{self.job_id}"


def of_job(facts: Facts) -> Iterator[Finding]:
    """What is wrong with a job, all that is known of it taken together."""
    places = sorted(facts.places, key=lambda place: (KEPT.index(place.split("/")[1]), place))
    for place in places[:-1]:
        yield Finding("twice", place, f"is {facts.job_id}, which is {places[-1]} too", facts.job_id)
    if places:
        state, entry = at(places[-1])
        yield from _of_queued(facts, places[-1], state, entry)
        running = entry.attempt if state == RUNNING else -1
    else:
        yield from _of_ended(facts)
        running = -1
    for attempt, held in facts.outcomes.items():
        path = f"queue/outcome/{facts.job_id}.{attempt}"
        if attempt != running and held:
            yield Finding("unseen", path, "is locked, and no such attempt is in queue/running", facts.job_id)
        elif attempt != running:
            yield Finding("stray-outcome", path, "is of no attempt that runs", facts.job_id)


def _of_queued(facts: Facts, place: str, state: str, entry: Entry) -> Iterator[Finding]:
    result = facts.result
    if facts.has_file:
        yield Finding("twice", f"{facts.folder}/job.json", f"is {facts.job_id}, which is {place} too", facts.job_id)
    if HAS_DATA in entry.flags and not facts.has_input:
        yield Finding("input", place, f"has an input, and queue/data/{entry.id} is not there", entry.id)
    if state == RUNNING:
        if result and result != DAMAGED:
            yield Finding("unpublished", place, f"has a result that says {result}", entry.id)
        elif entry.batch is None and not facts.outcomes.get(entry.attempt):
            yield Finding("unsettled", place, "is running, and no worker has its outcome file", entry.id)
    elif result in ENDED_IN_OUT:
        yield Finding("ended", place, f"is {state}, and its result says {result}", entry.id)
    elif result in (DEAD, SKIPPED) and state in (READY, DELAYED, WAITING, HELD):
        yield Finding("unrevived", f"{facts.folder}/result.json", f"says {result}, and the job is {state}", entry.id)
    elif state == DEAD and not result:
        yield Finding("no-result", place, "is dead, and has no result.json", entry.id)
    elif state == SKIPPED and not result:
        yield Finding("unsaid", place, "is skipped, and has no result.json", entry.id)


def _of_ended(facts: Facts) -> Iterator[Finding]:
    """Of what is not below queue/<state>/."""
    has_ended = facts.result in (*ENDED_IN_OUT, DEAD, SKIPPED)
    if facts.has_input and has_ended:
        yield Finding("input-left", f"queue/data/{facts.job_id}", f"is of a job that is {facts.result}", facts.job_id)
    elif facts.has_input and not facts.near:
        yield Finding("stray-input", f"queue/data/{facts.job_id}", "is of no job that is there", facts.job_id)
    if facts.has_file and not facts.result:
        yield Finding("no-result", f"{facts.folder}/job.json", "has ended, and has no result.json", facts.job_id)
    elif has_ended and not facts.has_file and facts.told[2] != LOST:
        yield Finding("half-gone", facts.folder, f"says {facts.result}, and the job's file is gone", facts.job_id)
    last = facts.told[2]
    known = facts.has_file or facts.result or facts.near
    # Of a crontab's line that fails again and again only the last tick stays; no line tells of those before it.
    if last in KEPT and not known and not (last == DEAD and Entry(id=facts.job_id, due=0).tabled):
        yield Finding("lost", facts.job_id, f"was {last} ({facts.told[1]}), and is nowhere", facts.job_id)


