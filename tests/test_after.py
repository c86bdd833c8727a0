"""Dependencies as judgement: what a job's needs come to, and who is looked at when a job moves."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cronq.after import GONE, IN_PART, Needs, Waits, judge
from cronq.states import CANCELLED, DEAD, DELAYED, DONE, EXPIRED, HELD, READY, RUNNING, SKIPPED, WAITING

FAILED = (DEAD, CANCELLED, EXPIRED, SKIPPED, IN_PART, "rejected")


def come_to(needs: Needs, **ends: str | None) -> str:
    """met, hopeless, or what is open."""
    found = judge(needs, ends.__getitem__)
    return "hopeless" if found.hopeless else " ".join(found.open) or "met"


def test_after_is_met_when_all_are_done_and_hopeless_as_soon_as_one_is_not() -> None:
    needs = Needs(after=("a", "b"))
    assert come_to(needs, a=None, b=None) == "a b"
    assert come_to(needs, a=DONE, b=None) == "b"
    assert come_to(needs, a=DONE, b=DONE) == "met"
    for failed in (*FAILED, GONE):
        assert come_to(needs, a=None, b=failed) == "hopeless"


def test_after_any_is_met_when_all_have_ended_however() -> None:
    needs = Needs(after_any=("a", "b"))
    assert come_to(needs, a=DEAD, b=None) == "b"
    for ended in (*FAILED, GONE, DONE):
        assert come_to(needs, a=ended, b=DONE) == "met"


def test_after_fail_is_met_as_soon_as_one_failed_and_hopeless_when_all_are_done() -> None:
    needs = Needs(after_fail=("a", "b"))
    assert come_to(needs, a=None, b=DONE) == "a"
    assert come_to(needs, a=DONE, b=DONE) == "hopeless"
    for failed in FAILED:
        assert come_to(needs, a=None, b=failed) == "met"


def test_what_is_gone_is_neither_done_nor_failed() -> None:
    assert come_to(Needs(after=("a",)), a=GONE) == "hopeless"
    assert come_to(Needs(after_fail=("a",)), a=GONE) == "hopeless"
    assert come_to(Needs(after_any=("a",)), a=GONE) == "met"


def test_of_two_that_follow_the_same_jobs_exactly_one_runs() -> None:
    for a in (*FAILED, DONE):
        for b in (*FAILED, DONE):
            ends = {"a": a, "b": b}
            both = [come_to(needs, **ends) for needs in (Needs(after=("a", "b")), Needs(after_fail=("a", "b")))]
            assert sorted(both) == ["hopeless", "met"]


def test_all_of_a_jobs_needs_must_be_met() -> None:
    needs = Needs(("a",), ("b",), ("c",))
    assert come_to(needs, a=DONE, b=None, c=None) == "b c"
    assert come_to(needs, a=DONE, b=DEAD, c=DEAD) == "met"
    assert come_to(needs, a=DONE, b=None, c=DONE) == "hopeless"


def test_a_reason_names_the_job_and_few_of_many() -> None:
    assert judge(Needs(after=("1-a",)), lambda _: DEAD).hopeless == ("it was to run after 1-a is done, which is dead")
    many = tuple(f"1-{number}" for number in range(9))
    assert judge(Needs(after_fail=many), lambda _: DONE).hopeless == (
        "it was to run if one of 1-0, 1-1, 1-2 and 6 more failed, and none has"
    )


def called(waits: Waits) -> list[str]:
    return list(waits.called())


def waiting(*parents: str, child: str = "1-child") -> Waits:
    waits = Waits()
    waits.moved(child, WAITING, waits=True)
    assert called(waits) == [child]
    waits.add(child, Needs(after=parents))
    return waits


def test_a_job_that_ends_has_those_looked_at_that_wait_for_it_and_no_others() -> None:
    waits = waiting("1-a", "1-b")
    waits.moved("1-other", WAITING, waits=True)
    waits.add("1-other", Needs(after=("1-c",)))
    called(waits)
    for state in (DELAYED, READY, RUNNING, HELD):
        waits.moved("1-a", state, waits=False)
    assert called(waits) == []
    waits.moved("1-a", "", waits=False)
    assert called(waits) == ["1-child"]


def test_a_job_that_comes_back_has_its_children_looked_at_and_asked_about_anew() -> None:
    waits = waiting("1-a")
    waits.moved("1-a", DEAD, waits=False)
    assert waits.end("1-a", lambda _: DEAD) == DEAD
    called(waits)
    waits.moved("1-a", READY, waits=False)
    assert called(waits) == ["1-child"]
    assert waits.end("1-a", lambda _: None) is None


def test_how_a_job_ended_is_asked_once_for_all_that_wait_for_it() -> None:
    waits = waiting("1-a")
    asked: list[str] = []
    for _ in range(3):
        waits.end("1-a", lambda job_id: asked.append(job_id) or DONE)  # type: ignore[func-returns-value]
    assert asked == ["1-a"]


def test_when_a_batch_ends_those_that_wait_for_its_members_are_looked_at() -> None:
    waits = waiting("1-m+07")
    waits.moved("1-m", "", waits=False)
    assert called(waits) == ["1-child"]


def test_users_are_looked_at_in_turn() -> None:
    waits = Waits()
    for uid in (7, 7, 7, 8):
        waits.moved(f"{uid}-{len(list(waits._calls.get(uid, ())))}", WAITING, waits=True)
    assert called(waits) == ["7-0", "8-0", "7-1", "7-2"]


def test_one_at_which_the_look_stopped_is_called_again() -> None:
    waits = Waits()
    for name in "ab":
        waits.moved(f"1-{name}", WAITING, waits=True)
    for _ in waits.called():
        break
    assert sorted(called(waits)) == ["1-a", "1-b"]


ids = st.sampled_from(["1-a", "1-b", "2-c", "1-m+1", "1-m"])


class WaitsKeepsNothing(RuleBasedStateMachine):
    """Whatever moves where: what is known is of those that wait, and of what they wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Waits()
        self.plain: dict[str, Needs] = {}

    @rule(job_id=ids, state=st.sampled_from([WAITING, HELD, SKIPPED]), after=st.sets(ids), fail=st.sets(ids))
    def waits_for(self, job_id: str, state: str, after: set[str], fail: set[str]) -> None:
        self.waits.moved(job_id, state, waits=True)
        if job_id not in self.plain:
            self.plain[job_id] = Needs(after=tuple(after), after_fail=tuple(fail))
            self.waits.add(job_id, self.plain[job_id])

    @rule(job_id=ids, state=st.sampled_from([READY, RUNNING, DEAD, ""]))
    def goes_on(self, job_id: str, state: str) -> None:
        self.waits.moved(job_id, state, waits=False)
        self.plain.pop(job_id, None)
        self.waits.end(job_id, lambda _: state or DONE)

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.waits.needs == self.plain
        parents = {parent for needs in self.plain.values() for parent in needs.parents}
        assert set(self.waits._children) == parents
        assert set(self.waits.ends) <= parents
        assert set().union(*self.waits._members.values()) == {each for each in parents if "+" in each}


TestWaitsKeepsNothing = WaitsKeepsNothing.TestCase
TestWaitsKeepsNothing.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
