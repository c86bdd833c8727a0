"""What the end of an attempt means for its job."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cronq import job as jobs
from cronq import policy, settle
from cronq.entry import AT_MOST_ONCE, CANCEL_WANTED, Entry
from cronq.job import Backoff, Job
from cronq.policy import Again, Cancelled, Dead, Done, Held, Verdict, after, delay, describe
from cronq.task import Plan, Task, plan

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_800_000_000.0
ONCE = {"delivery": "at-most-once"}


def planned(**fields: Any) -> Plan:
    return plan(Job(task="t"), {"t": Task("t", command=["true"], **fields)})


def outcome(code: object = None, signal: object = None, reason: object = None) -> dict[str, Any]:
    return {"exit_code": code, "signal": signal, "reason": reason, "wall": 1.0}


COUNTED = ("attempt", "flags", "snoozes", "interruptions")


def entry_of(**fields: Any) -> Entry:
    return Entry(due=1, id="1-a", **{"attempt": 1} | fields)


def judged(ended: dict[str, Any], *, chance: float = 0.0, **fields: Any) -> Verdict:
    entry = entry_of(**{key: fields.pop(key) for key in COUNTED if key in fields})
    return policy.judge(ended, entry, planned(**fields), NOW, chance)


def crashed(*, crashes: int = 1, known: bool = True, flags: str = "", chance: float = 0.0, **fields: Any) -> Verdict:
    entry = Entry(due=1, id="1-a", attempt=crashes, crashes=crashes, flags=flags)
    return policy.crash(entry, planned(**fields), known, NOW, chance)


def test_exit_code_0_is_done() -> None:
    assert judged(outcome(0)) == Done()


def test_a_cancel_that_came_too_late_leaves_a_done_job_done() -> None:
    assert judged(outcome(0), flags=CANCEL_WANTED) == Done()


def test_a_job_that_was_cancelled_is_so_even_where_it_exits_with_0() -> None:
    assert judged(outcome(0, reason="cancelled")) == Cancelled("cancelled")


@pytest.mark.parametrize("ended", [outcome(1), outcome(75), outcome(65), outcome(None, 15), outcome(reason="timeout")])
def test_a_wanted_cancel_wins_over_a_retry_and_over_death(ended: dict[str, Any]) -> None:
    assert isinstance(judged(ended, flags=CANCEL_WANTED, retries=5), Cancelled)


def test_a_job_that_exits_with_0_after_its_timeout_has_timed_out() -> None:
    assert judged(outcome(0, reason="timeout")) == Dead("ran longer than its timeout")


@pytest.mark.parametrize("code", [64, 65, 77, 78])
def test_an_exit_code_that_says_never_is_dead_whatever_the_retries(code: int) -> None:
    verdict = judged(outcome(code), retries=5)
    assert isinstance(verdict, Dead)
    assert verdict.reason.startswith(f"exit code {code}: ")
    assert verdict.reason.endswith("never tried again")


ENDINGS = [
    (outcome(1), "exit code 1"),
    (outcome(75), "exit code 75 (try again later)"),
    (outcome(None, 9), "killed by signal 9 (SIGKILL)"),
    (outcome(None, reason="timeout"), "ran longer than its timeout"),
    (outcome(None, 15, reason="timeout"), "ran longer than its timeout"),
    (outcome(None, 15, reason="watchdog"), "was silent for longer than its watchdog allows"),
    (outcome(65, reason="timeout"), "ran longer than its timeout"),
    (outcome(127, reason="cannot start: x: no such program"), "cannot start: x: no such program"),
    (outcome(126, reason="cannot start: x: permission denied"), "cannot start: x: permission denied"),
]


@pytest.mark.parametrize(("ended", "words"), ENDINGS)
def test_any_other_failure_is_tried_again_while_retries_are_left(ended: dict[str, Any], words: str) -> None:
    assert judged(ended, retries=1) == Again(NOW + 15, words)


@pytest.mark.parametrize(("ended", "words"), ENDINGS)
def test_a_failure_without_retries_is_dead_with_its_reason(ended: dict[str, Any], words: str) -> None:
    assert judged(ended) == Dead(words)


def test_a_job_has_one_attempt_and_its_retries() -> None:
    verdicts = [judged(outcome(3), attempt=attempt, retries=2) for attempt in (1, 2, 3)]
    assert verdicts == [
        Again(NOW + 15, "exit code 3"),
        Again(NOW + 30, "exit code 3"),
        Dead("exit code 3 (attempt 3 of 3)"),
    ]


def test_an_at_most_once_job_that_is_known_to_have_failed_is_retried() -> None:
    assert isinstance(judged(outcome(1), retries=1, **ONCE), Again)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("once", [{"delivery": "at-most-once"}, {"flags": AT_MOST_ONCE, "on_crash": "retry"}])
def test_an_at_most_once_job_never_runs_again_after_a_crash(known: bool, once: dict[str, Any]) -> None:
    verdict = crashed(known=known, **once, retries=5)
    assert isinstance(verdict, Dead)
    assert verdict.reason.startswith("unknown: ")


def test_an_at_most_once_job_may_be_held_for_a_person_after_a_crash() -> None:
    assert isinstance(crashed(on_crash="hold", **ONCE), Held)


def test_a_crash_is_retried_without_any_retries() -> None:
    assert crashed(retries=0) == Again(NOW + 15, "its worker died in mid-job; the job was ended too", "crashes")


def test_a_crash_says_where_the_jobs_fate_is_unknown() -> None:
    assert crashed(known=False) == Again(
        NOW + 15, "its worker died in mid-job; whether the job went on is unknown", "crashes"
    )


@pytest.mark.parametrize("code", [0, 75])
def test_a_snooze_uses_no_attempt(code: int) -> None:
    verdict = judged(outcome(code) | {"snooze": 60.0}, attempt=1, retries=0)
    assert verdict == Again(NOW + 60, "it put itself off for 60s; no attempt is used", "snoozes")
    entry = entry_of(attempt=1, flags="c")
    assert (after(entry, verdict).attempt, after(entry, verdict).snoozes, after(entry, verdict).flags) == (0, 1, "cs")


@pytest.mark.parametrize(("snoozes", "most"), [(100, 100), (0, 0), (1, 1)])
def test_a_job_that_has_put_itself_off_too_often_is_dead(snoozes: int, most: int) -> None:
    verdict = judged(outcome(0) | {"snooze": 60.0}, snoozes=snoozes, max_snoozes=most)
    assert verdict == Dead(f"it put itself off once more after {snoozes} times (max_snoozes = {most})")


@pytest.mark.parametrize("ended", [outcome(3), outcome(65), outcome(None, signal=9), outcome(0, reason="timeout")])
def test_a_snooze_does_not_make_a_failure_good(ended: dict[str, Any]) -> None:
    assert isinstance(judged(ended | {"snooze": 60.0}, retries=0), Dead)


def test_a_cancelled_job_does_not_come_again_for_a_snooze() -> None:
    assert isinstance(judged(outcome(0) | {"snooze": 60.0}, flags=CANCEL_WANTED), Cancelled)


@pytest.mark.parametrize("snooze", [True, "60", -1, float("nan"), 1e300, [60], None])
def test_a_snooze_of_no_known_form_is_none(snooze: object) -> None:
    assert judged(outcome(0) | {"snooze": snooze}) == Done()


def test_an_interruption_uses_no_attempt_and_has_a_limit_of_its_own() -> None:
    ended = outcome(None, signal=15, reason="interrupted")
    verdict = judged(ended, attempt=1, retries=0)
    assert isinstance(verdict, Again)
    changed = after(entry_of(attempt=1), verdict)
    assert (verdict.uses, changed.attempt, changed.interruptions) == ("interruptions", 0, 1)
    assert isinstance(judged(ended, interruptions=2, max_interruptions=2), Dead)


ENDS = {
    "signal": outcome(None, signal=9),
    "timeout": outcome(None, signal=15, reason="timeout"),
    "watchdog": outcome(0, reason="watchdog"),
    "memory": outcome(65, reason="out of memory"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_a_signal_a_timeout_and_want_of_memory_are_kinds_of_their_own_and_tried_again_unless_the_task_says_no(
    kind: str,
) -> None:
    assert policy.kind(ENDS[kind]) == kind
    assert isinstance(judged(ENDS[kind], retries=3), Again)
    others = [other for other in ENDS if other != kind]
    assert isinstance(judged(ENDS[kind], retries=3, no_retry_on=others), Again)
    assert judged(ENDS[kind], retries=3, no_retry_on=[kind]) == Dead(
        f"{describe(ENDS[kind])}; its task has no_retry_on for that"
    )


@pytest.mark.parametrize("kind", ENDS)
def test_a_result_tells_the_kind_of_its_end_to_whoever_must_judge_it_again(kind: str) -> None:
    ended = ENDS[kind]
    marks = {"timeout": ended["reason"] in ("timeout", "watchdog"), "watchdog": kind == "watchdog"}
    found = ended | marks | {"out_of_memory": kind == "memory", "state": "dead", "reason": describe(ended)}
    assert policy.kind(settle.outcome_of(found)) == kind


def test_what_is_tried_again_by_its_exit_code_does_not_depend_on_how_others_end() -> None:
    assert isinstance(judged(outcome(1), retries=3, no_retry_on=[*ENDS]), Again)
    assert describe(ENDS["memory"]) == "out of memory"
    assert policy.kind({"reason": "start failed: no such user", "exit_code": 126}) == "start"
    assert policy.kind({"reason": "its worker died", "crashed": True}) == "crash"


def test_crashes_wait_longer_each_time() -> None:
    assert crashed(crashes=2) == Again(NOW + 30, "its worker died in mid-job; the job was ended too", "crashes")


def test_a_crash_is_never_retried_at_once_whatever_the_backoff() -> None:
    verdict = crashed(backoff=Backoff(base=0))
    assert isinstance(verdict, Again)
    assert verdict.at == NOW + 1


@pytest.mark.parametrize(("crashes", "most", "words"), [(3, 3, "3 times"), (4, 3, "4 times"), (1, 1, "once")])
def test_a_job_that_kills_its_worker_again_and_again_is_poison(crashes: int, most: int, words: str) -> None:
    verdict = crashed(crashes=crashes, max_crashes=most)
    assert verdict == Dead(f"poison: its worker died in mid-job {words} (max_crashes = {most})")


def test_a_task_may_bury_or_hold_what_crashed() -> None:
    why = "its worker died in mid-job; the job was ended too"
    assert crashed(on_crash="dead") == Dead(f"crashed: {why}")
    assert crashed(on_crash="hold") == Held(why)


@pytest.mark.parametrize("fields", [{}, {"on_crash": "hold"}, {"on_crash": "dead"}, {"max_crashes": 1}, ONCE])
def test_a_cancelled_job_whose_worker_died_and_that_is_seen_dead_is_cancelled(fields: dict[str, Any]) -> None:
    assert isinstance(crashed(flags=CANCEL_WANTED, **fields), Cancelled)


def test_a_cancel_does_not_hide_that_an_at_most_once_jobs_fate_is_unknown() -> None:
    assert isinstance(crashed(flags=CANCEL_WANTED, known=False, **ONCE), Dead)
    assert isinstance(crashed(flags=CANCEL_WANTED, known=False), Cancelled)


spans = st.floats(0, jobs.MAX_SECONDS)
backoffs = st.builds(Backoff, spans, st.floats(1, 100), spans, st.floats(0, 100))
chances = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 1000)


@patient
@given(backoffs, attempts, chances)
def test_a_delay_is_between_nothing_and_its_maximum_with_all_of_the_jitter(b: Backoff, n: int, chance: float) -> None:
    assert 0 <= delay(b, n, chance) <= b.max * (1 + b.jitter)


@patient
@given(backoffs, attempts, attempts, chances)
def test_a_later_attempt_never_waits_shorter(backoff: Backoff, one: int, other: int, chance: float) -> None:
    first, second = sorted((one, other))
    assert delay(backoff, first, chance) <= delay(backoff, second, chance)


@patient
@given(backoffs, attempts, chances, chances)
def test_a_greater_chance_never_waits_shorter(backoff: Backoff, attempt: int, one: float, other: float) -> None:
    first, second = sorted((one, other))
    assert delay(backoff, attempt, first) <= delay(backoff, attempt, second)


def test_the_default_delays_double_up_to_an_hour() -> None:
    found = [delay(Backoff(), attempt, 0.0) for attempt in (1, 2, 3, 8, 9, 1000)]
    assert found == [15, 30, 60, 1920, 3600, 3600]


def test_jitter_adds_its_part_on_top() -> None:
    assert delay(Backoff(base=10, jitter=0.5), 1, 0.5) == pytest.approx(12.5)


@pytest.mark.parametrize(("base", "wait"), [(1.0, 5.0), (0.0, 0.0)])
def test_a_thousandth_attempt_does_not_overflow(base: float, wait: float) -> None:
    assert delay(Backoff(base=base, factor=100, max=5, jitter=0), 1000, 0.0) == wait


def test_a_retry_is_never_due_later_than_a_name_can_say() -> None:
    far = Backoff(base=jobs.MAX_SECONDS, max=jobs.MAX_SECONDS, jitter=100)
    for verdict in (judged(outcome(1), retries=1, backoff=far, chance=0.9), crashed(backoff=far, chance=0.9)):
        assert isinstance(verdict, Again)
        assert Entry(due=int(verdict.at * 1e6), id="1-a").name


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=600) | st.lists(st.integers())


@patient
@given(st.dictionaries(st.sampled_from(["exit_code", "signal", "reason", "wall", "x"]), anything), st.integers(0, 2))
def test_whatever_a_worker_writes_there_is_a_verdict_in_printable_words(ended: dict[str, Any], retries: int) -> None:
    verdict = judged(ended, retries=retries)
    if not isinstance(verdict, Done):
        assert verdict.reason.isprintable()
        assert 0 < len(verdict.reason) < 600


@pytest.mark.parametrize(
    "ended", [{}, outcome(True), outcome(False), outcome("0"), outcome(0.0), outcome(0, reason="")]
)
def test_an_outcome_of_no_known_form_is_a_failure_and_never_done(ended: dict[str, Any]) -> None:
    assert isinstance(judged(ended), Dead)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (outcome(3), "exit code 3"),
        (outcome(None, 15), "killed by signal 15 (SIGTERM)"),
        (outcome(None, 63), "killed by signal 63"),
        (outcome(), "ended without an exit code"),
        (outcome(reason="a\x1b[31m"), "ended for a reason of no known form: 'a\\x1b[31m'"),
        (outcome(reason=5), "ended for a reason of no known form: 5"),
    ],
)
def test_how_an_attempt_ended_is_said_in_words(ended: dict[str, Any], words: str) -> None:
    assert describe(ended) == words
