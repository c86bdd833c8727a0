"""Uniqueness as far as it is judgement: what a job is unique by, and which keys are taken by whom.

Does:    `text` of what a job's key is made of; `holds`, whether a job in its state keeps its key; `Taken`, all keys
         that are taken, by jobs and for a while after their submission.
Reads:   its arguments. No clock, no disk.
Trusts:  `backlog`, which tells of every move.
Fails:   never. Nothing of it is kept on disk but in the jobs' names (and in the history, for how long a key is taken):
         so nothing can leak, and a restart finds the same keys taken.
"""

from __future__ import annotations

import json

from cronq.entry import UNTIL_START, UNTIL_SUCCESS, Entry
from cronq.job import Job
from cronq.states import DEAD, DELAYED, HELD, KEPT, READY, RUNNING, SKIPPED, WAITING
from cronq.task import Task
from cronq.uniquekeys import DEBOUNCE, ONCE, THROTTLE

_UNSTARTED = (READY, DELAYED, WAITING, HELD)


def text(wanted: Job, queue: str) -> str:
    """What a job's key is made of: its own word, or the values of the fields that it names."""
    if wanted.unique is None:
        return ""
    if isinstance(wanted.unique, str):
        return f"key {wanted.unique}"
    fields = {name: queue if name == "queue" else getattr(wanted, name) for name in wanted.unique}
    if wanted.unique_keys is not None:
        for name in ("args", "command"):
            words = fields.get(name)
            if words is not None:
                fields[name] = {str(place): words[place] for place in wanted.unique_keys if place < len(words)}
    return "fields " + json.dumps(fields, sort_keys=True, separators=(",", ":"))


def adopt(wanted: Job, task: Task | None) -> Job:
    """Let a job that does not say by what it is unique be so as its task says."""
    if task is not None and wanted.unique is None:
        for key in ("unique", "unique_keys", "unique_until", "unique_for", "on_conflict"):
            setattr(wanted, key, getattr(task, key))
    return wanted


def window(wanted: Job) -> float | None:
    """For how many seconds a job takes its key whatever becomes of it; None where it does not."""
    said = wanted.on_conflict
    return said.wait if said is not None and said.action == THROTTLE else wanted.unique_for


def holds(entry: Entry, state: str) -> bool:
    """Whether a job in this state (empty: below `queue/` no more) keeps its key."""
    if UNTIL_START in entry.flags:
        return state in _UNSTARTED and not (entry.attempt or entry.crashes or entry.snoozes or entry.interruptions)
    if UNTIL_SUCCESS in entry.flags:
        return state in KEPT
    return state in KEPT and state not in (DEAD, SKIPPED)


class Taken:
    """The keys that are taken."""

    def __init__(self) -> None:
        self.holders: dict[str, dict[str, str]] = {}  # by key: the jobs that keep it, and their states
        self.windows: dict[str, tuple[int, str]] = {}  # by key: until when it is taken anyway, and by which job
        self.first: dict[str, float] = {}  # of keys whose jobs are put off again and again: since when
        self._bound = 64

    def moved(self, entry: Entry, state: str) -> None:
        """A job is in this state now."""
        if not entry.unique:
            return
        if holds(entry, state):
            self.holders.setdefault(entry.unique, {})[entry.id] = state
            return
        own = self.holders.get(entry.unique, {})
        own.pop(entry.id, None)
        if not own:
            self.holders.pop(entry.unique, None)
            self.first.pop(entry.unique, None)

    def open(self, key: str, until: int, job_id: str, now: int) -> None:
        """A key is taken until then (microseconds), whatever becomes of the job."""
        self.windows[key] = until, job_id
        if len(self.windows) > self._bound:
            self.windows = {each: window for each, window in self.windows.items() if window[0] > now}
            self._bound = 2 * len(self.windows) + 64

    def reach(self) -> int:
        """Until when any key is taken so at the latest; 0 where none is."""
        return max((until for until, _ in self.windows.values()), default=0)

    def window(self, entry: Entry) -> int | None:
        """Until when this job has taken its key anyway."""
        until, job_id = self.windows.get(entry.unique, (0, ""))
        return until if job_id == entry.id else None

    def holder(self, key: str, now: int, action: str, uid: int) -> tuple[str, str] | None:
        """The job that a new one of this key conflicts with, and its state (empty: it has ended); None: there is none.

        A throttle asks only for how long ago the last one was; whoever wants one job to wait while another runs, or
        puts one off, only for those that do not run. Of other users' jobs each one counts, whatever is asked for.
        """
        until, last = self.windows.get(key, (0, ""))
        own = self.holders.get(key, {})
        for job_id, state in sorted(own.items(), key=_replaceable_first):
            if not _is_of(uid, job_id) or (
                action != THROTTLE and not (state == RUNNING and action in (ONCE, DEBOUNCE))
            ):
                return job_id, state
        if until > now and (action not in (ONCE, DEBOUNCE) or not _is_of(uid, last)):
            return last, own.get(last, "")
        return None


def _replaceable_first(each: tuple[str, str]) -> tuple[bool, bool, str]:
    """Somebody retries a dead one while another of its key waits: of several, what can be replaced comes first; after
    a restart it is the same one.
    """
    job_id, state = each
    return state not in _UNSTARTED, state != RUNNING, job_id


def _is_of(uid: int, job_id: str) -> bool:
    return job_id.partition("-")[0] == str(uid)
