"""Pure judgement: what the end of an attempt means for its job.

Does:    outcome -> `Done`, `Again`, `Dead`, `Cancelled` or `Held` (`judge`; `crash` where the worker died), with the
         reason in words. What runs next is `lanes`.
Reads:   its arguments. No clock, no disk, no randomness: `now` and `chance` are handed in.
Trusts:  entries and plans. Not outcomes: a worker wrote them, so anything odd in one is a failed attempt, never a crash
         of the dispatcher.
Fails:   never.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from cronq import job as jobs
from cronq.backoffs import delay
from cronq.entry import AT_MOST_ONCE, CANCEL_WANTED, PUT_OFF, Entry
from cronq.task import Plan
from cronq.wire import INTERRUPTED, OUT_OF_MEMORY

TRY_AGAIN = 75  # EX_TEMPFAIL
NEVER_AGAIN = {
    64: "it was called wrongly",
    65: "its input is bad",
    77: "it lacks a permission",
    78: "its configuration is wrong",
}
KINDS = ("exit", "signal", "timeout", "watchdog", "memory", "start", "crash")
AT_ONCE = 1.0
SHORTEST_CRASH_DELAY = 1.0  # a job that kills its worker must not do so in a tight loop, whatever its backoff says


@dataclass(frozen=True, slots=True)
class Done:
    """It did what it should."""


@dataclass(frozen=True, slots=True)
class Again:
    """A further attempt is due at `at` (seconds since the epoch); `uses` is what is counted (`after`)."""

    at: float
    reason: str
    uses: str = "attempts"  # crashes, snoozes, interruptions: these have limits of their own


@dataclass(frozen=True, slots=True)
class Dead:
    """No further attempt happens by itself; a person may revive it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody wanted it to end, and it did."""

    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """It waits for a person."""

    reason: str


Verdict = Done | Again | Dead | Cancelled | Held


def judge(outcome: dict[str, Any], entry: Entry, plan: Plan, now: float, chance: float) -> Verdict:
    """What the outcome of an attempt that ended means; `chance` in [0, 1) spreads retries.

    A timeout is one even where the job then exits with 0: many programs end so on SIGTERM, their work half done.
    """
    code, reason = whole(outcome.get("exit_code")), outcome.get("reason")
    snooze = _seconds(outcome.get("snooze")) if reason is None and code in (0, TRY_AGAIN) else None
    if code == 0 and reason is None and snooze is None:
        return Done()
    why = describe(outcome)
    if reason == "cancelled" or CANCEL_WANTED in entry.flags:
        return Cancelled(why)
    if snooze is not None:
        return _put_off(snooze, entry, plan, now)
    if reason == INTERRUPTED and (plan.delivery == "at-most-once" or AT_MOST_ONCE in entry.flags):
        return Dead("interrupted, since cronq was to stop; an at-most-once job is not run again")
    if reason == INTERRUPTED:
        if entry.interruptions >= plan.max_interruptions:
            return Dead(f"interrupted once more after {entry.interruptions} times (max_interruptions)")
        return Again(_due(now, AT_ONCE), "interrupted, since cronq was to stop; no attempt is used", "interruptions")
    if reason is None and code in NEVER_AGAIN:
        return Dead(f"{why}: {NEVER_AGAIN[code]}, so it is never tried again")
    if kind(outcome) in plan.no_retry_on:
        return Dead(f"{why}; its task has no_retry_on for that")
    most = 1 + plan.retries
    if entry.attempt < most:
        return Again(_due(now, delay(plan.backoff, entry.attempt, chance)), why)
    return Dead(f"{why} (attempt {entry.attempt} of {most})" if most > 1 else why)


def _put_off(snooze: float, entry: Entry, plan: Plan, now: float) -> Verdict:
    """It ended well, or wants to be tried again, and said `snooze`."""
    if entry.snoozes >= plan.max_snoozes:
        return Dead(f"it put itself off once more after {entry.snoozes} times (max_snoozes = {plan.max_snoozes})")
    return Again(_due(now, snooze), f"it put itself off for {snooze:g}s; no attempt is used", "snoozes")


def after(entry: Entry, verdict: Again) -> Entry:
    """The entry that waits for its further attempt: what it used is counted, and nothing else."""
    changed = entry.but(due=int(verdict.at * 1e6))
    if verdict.uses not in ("crashes", "snoozes", "interruptions"):
        return changed
    if verdict.uses == "snoozes":
        changed = changed.but(snoozes=entry.snoozes + 1).flagged(PUT_OFF)
    elif verdict.uses == "interruptions":
        changed = changed.but(interruptions=entry.interruptions + 1)
    return changed.but(attempt=max(0, entry.attempt - 1))


def crash(entry: Entry, plan: Plan, known: bool, now: float, chance: float) -> Verdict:
    """What it means that the worker died in mid-job; `entry.crashes` counts this one already.

    `known`: the job itself has been seen dead. An at-most-once job never runs again by itself: it may have done its
    work, or part of it. A retry after a crash does not depend on `retries`, but is never at once.
    """
    fate = "the job was ended too" if known else "whether the job went on is unknown"
    why = f"its worker died in mid-job; {fate}"
    once = plan.delivery == "at-most-once" or AT_MOST_ONCE in entry.flags
    cancelled = CANCEL_WANTED in entry.flags
    if cancelled and (known or not once):
        return Cancelled(f"cancelled; {why}")
    if plan.on_crash == "hold" and not cancelled:  # whoever cancelled it has decided
        return Held(why)
    if once:
        return Dead(f"unknown: {why}; an at-most-once job is not run again")
    if plan.on_crash == "dead":
        return Dead(f"crashed: {why}")
    if entry.crashes >= plan.max_crashes:
        times = "once" if entry.crashes == 1 else f"{entry.crashes} times"
        return Dead(f"poison: its worker died in mid-job {times} (max_crashes = {plan.max_crashes})")
    return Again(_due(now, max(SHORTEST_CRASH_DELAY, delay(plan.backoff, entry.crashes, chance))), why, "crashes")


def _due(now: float, wait: float) -> float:
    return min(now + wait, jobs.LAST_INSTANT)  # a later instant does not fit into a file's name


def describe(outcome: dict[str, Any]) -> str:
    """How an attempt ended, for people: exit code 3 · killed by signal 9 (SIGKILL) · ran longer than its timeout."""
    reason, code, number = outcome.get("reason"), whole(outcome.get("exit_code")), whole(outcome.get("signal"))
    if reason == "timeout":
        return "ran longer than its timeout"
    if reason == "watchdog":
        return "was silent for longer than its watchdog allows"
    if isinstance(reason, str) and reason.isprintable() and 0 < len(reason) <= 500:
        return reason
    if reason is not None:
        return f"ended for a reason of no known form: {jobs.show(reason)}"
    if number is not None:
        return f"killed by signal {number}{_signal_name(number)}"
    if code is not None:
        return f"exit code {code}" + (" (try again later)" if code == TRY_AGAIN else "")
    return "ended without an exit code"


def kind(outcome: dict[str, Any]) -> str:
    """Of which kind the end of an attempt is, that was no good one: one of `KINDS`."""
    reason = outcome.get("reason")
    if outcome.get("crashed"):
        return "crash"
    if reason is None:
        return "signal" if whole(outcome.get("signal")) is not None else "exit"
    return reason if reason in ("timeout", "watchdog") else "memory" if reason == OUT_OF_MEMORY else "start"


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def _seconds(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= jobs.MAX_SECONDS
    return float(value) if good else None  # type: ignore[arg-type]


def whole(value: object) -> int | None:
    """A whole number that a worker wrote, if it can be an exit code or a signal."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None
