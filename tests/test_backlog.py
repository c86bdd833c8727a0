"""The backlog: every entry found where it was put last, and what is due told user by user."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cronq.backlog import MOST_MEMBERS, Backlog
from cronq.entry import Entry
from cronq.states import DEAD, DELAYED, HELD, KEPT, READY, RUNNING, SKIPPED, WAITING


def entry(name: str, *, due: int = 1, uid: int = 1, **fields: object) -> Entry:
    return Entry(id=f"{uid}-{name}", due=due, **fields)


def every(*_: object) -> bool:
    return True


def ripened(backlog: Backlog, now: int, most: int | None = None) -> list[str]:
    """As a turn does: each is moved when it is told, and whoever moves them may stop."""
    found = []
    for each in islice(backlog.ripe(now), most):
        backlog.put(READY, each)
        found.append(each.id)
    return found


def test_what_is_due_ripens_the_earliest_first_and_nothing_else() -> None:
    backlog = Backlog()
    for due in (3, 1, 2, 9):
        backlog.put(DELAYED, entry(f"{due}", due=due))
    assert backlog.next_due() == 1
    assert ripened(backlog, 3) == ["1-1", "1-2", "1-3"]
    assert ripened(backlog, 3) == []
    assert backlog.next_due() == 9


def test_of_what_is_due_at_one_instant_the_more_urgent_ripens_first() -> None:
    backlog = Backlog()
    backlog.put(DELAYED, entry("a", due=5))
    backlog.put(DELAYED, entry("b", due=5, priority=10))
    assert ripened(backlog, 5, 1) == ["1-b"]


def test_a_flood_that_is_due_holds_up_nobody_elses_due_job() -> None:
    backlog = Backlog()
    for number in range(10_000):
        backlog.put(DELAYED, entry(f"{number:05}", uid=7, due=1))
    for uid in (8, 9):
        backlog.put(DELAYED, entry("a", uid=uid, due=2))
    assert sorted(ripened(backlog, 5, 3)) == ["7-00000", "8-a", "9-a"]
    assert len(ripened(backlog, 5)) == 9_999


def test_whoever_was_served_last_comes_last_the_next_time_too() -> None:
    """A turn may have time for a few only."""
    backlog = Backlog()
    for number in range(10):
        backlog.put(DELAYED, entry(f"{number}", uid=7, due=1))
    for uid in (8, 9):
        backlog.put(DELAYED, entry("a", uid=uid, due=2))
    assert [*ripened(backlog, 5, 1), *ripened(backlog, 5, 1), *ripened(backlog, 5, 1)] == ["7-0", "8-a", "9-a"]


def test_what_whoever_ripens_did_not_come_to_is_due_still() -> None:
    """A full disk ends a turn in the middle."""
    backlog = Backlog()
    for name in "abc":
        backlog.put(DELAYED, entry(name, due=1))
    for _ in backlog.ripe(5):
        break
    assert backlog.next_due() == 1
    assert ripened(backlog, 5) == ["1-a", "1-b", "1-c"]


def test_what_is_left_as_it_is_is_told_once() -> None:
    backlog = Backlog()
    backlog.put(DELAYED, entry("a", expires=3))
    assert [state for state, _ in backlog.expired(5)] == [DELAYED]
    assert list(backlog.expired(5)) == []


def test_what_is_put_off_when_it_ripens_ripens_later() -> None:
    backlog = Backlog()
    backlog.put(DELAYED, entry("a"))
    for each in backlog.ripe(5):
        backlog.put(DELAYED, each.but(due=9))
    assert backlog.next_due() == 9


def test_what_has_not_started_expires_and_what_runs_does_not() -> None:
    backlog = Backlog()
    for name, state in (("r", READY), ("d", DELAYED), ("w", WAITING), ("h", HELD), ("x", RUNNING), ("dead", DEAD)):
        backlog.put(state, entry(name, due=9, expires=5))
    backlog.put(READY, entry("never"))
    assert list(backlog.expired(4)) == []
    assert sorted(each.id for _, each in backlog.expired(5)) == ["1-d", "1-h", "1-r", "1-w"]


def test_what_runs_and_is_given_back_expires_after_all() -> None:
    backlog = Backlog()
    for state in (READY, RUNNING, READY):
        backlog.put(state, entry("a", expires=5))
    assert [each.id for _, each in backlog.expired(5)] == ["1-a"]


def test_what_was_put_off_or_forgotten_does_not_ripen_at_its_old_time() -> None:
    backlog = Backlog()
    for name in "abc":
        backlog.put(DELAYED, entry(name, due=5))
    backlog.put(DELAYED, entry("a", due=8))
    backlog.put(HELD, entry("b", due=5))
    backlog.forget("1-c")
    assert backlog.next_due() == 8
    assert ripened(backlog, 7) == []
    assert ripened(backlog, 8) == ["1-a"]
    assert backlog.next_due() is None


def test_putting_off_for_ever_keeps_no_rubbish() -> None:
    backlog = Backlog()
    backlog.put(DELAYED, entry("early", due=1))
    for number in range(5000):
        backlog.put(DELAYED, entry("late", due=10 + number))
    assert len(backlog._due._heaps[1]) < 100


def test_a_hundred_thousand_that_are_due_cost_the_next_turn_little_of_each() -> None:
    """A turn that stops early pays for what it took, not for what waits."""

    def seconds(count: int) -> float:
        backlog = Backlog()
        for number in range(count):
            backlog.put(DELAYED, entry(f"{number:06}", due=1))
        started = time.process_time()
        for _ in range(10):
            assert len(ripened(backlog, 5, 50)) == 50
        return time.process_time() - started

    assert seconds(100_000) < 10 * seconds(1000) + 0.05


def batch(made: int = 0, total: int = 1000) -> Entry:
    return entry("m", batch=(made, 0, total))


def member(number: int) -> Entry:
    return entry(f"m+{number:04}")


def test_a_batch_is_not_chosen_while_enough_of_its_members_wait() -> None:
    backlog = Backlog()
    backlog.put(READY, batch())
    assert backlog.ready.get("1-m") is not None
    for number in range(MOST_MEMBERS):
        backlog.put(HELD, member(number))
    backlog.put(READY, batch(MOST_MEMBERS))
    assert backlog.ready.peek(every) is None
    backlog.put(RUNNING, member(0))
    backlog.forget("1-m+0000")
    assert backlog.ready.peek(every) == batch(MOST_MEMBERS)
    backlog.put(HELD, member(MOST_MEMBERS))
    assert backlog.ready.peek(every) is None
    backlog.put(DEAD, member(1))
    assert backlog.ready.peek(every) == batch(MOST_MEMBERS)


def test_after_a_restart_too_whatever_is_found_first() -> None:
    found = [(READY, batch(MOST_MEMBERS)), *((READY, member(number)) for number in range(MOST_MEMBERS))]
    for order in (found, found[::-1]):
        backlog = Backlog()
        for state, each in order:
            backlog.put(state, each)
        assert "1-m" not in backlog.ready
        assert len(backlog.ready) == MOST_MEMBERS


def test_a_batch_that_is_held_is_not_offered_when_members_end() -> None:
    backlog = Backlog()
    backlog.put(HELD, batch(1))
    backlog.put(READY, member(0))
    backlog.forget("1-m+0000")
    assert "1-m" not in backlog.ready


def test_a_batch_is_over_when_all_are_made_and_none_is_unfinished() -> None:
    backlog = Backlog()
    backlog.put(READY, batch(1, 2))
    backlog.put(READY, member(0))
    backlog.forget("1-m+0000")
    assert backlog.over() == []  # more are to be made
    backlog.put(READY, member(1))
    backlog.put(RUNNING, batch(2, 2))
    assert backlog.over() == []
    backlog.put(DEAD, member(1))
    assert backlog.over() == [batch(2, 2)]
    assert backlog.over() == [batch(2, 2)]  # until it has been ended
    backlog.forget("1-m")
    assert backlog.over() == []


def test_a_batch_all_of_whose_members_ended_before_a_restart_is_over() -> None:
    backlog = Backlog()
    backlog.put(RUNNING, batch(2, 2))
    assert backlog.over() == [batch(2, 2)]


some = st.builds(
    Entry,
    id=st.builds("{}-{}".format, st.integers(1, 3), st.sampled_from(["a", "b", "a+1", "a+2", "b+1"])),
    due=st.integers(0, 5),
    expires=st.integers(0, 5),
    priority=st.integers(-1, 1),
)


class BacklogIsATable(RuleBasedStateMachine):
    """Whatever is put, forgotten, ripened and expired: the backlog says what a plain table would say."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.plain: dict[str, tuple[str, Entry]] = {}

    @rule(state=st.sampled_from(KEPT), each=some)
    def put(self, state: str, each: Entry) -> None:
        self.backlog.put(state, each)
        self.plain[each.id] = state, each

    @rule(each=some)
    def forget(self, each: Entry) -> None:
        self.backlog.forget(each.id)
        self.plain.pop(each.id, None)

    @rule(now=st.integers(0, 5))
    def ripen(self, now: int) -> None:
        due = [each for state, each in self.plain.values() if state == DELAYED and each.due <= now]
        told = []
        for each in self.backlog.ripe(now):
            told.append(each)
            self.put(READY, each)
        assert sorted(each.id for each in told) == sorted(each.id for each in due)
        for uid in (1, 2, 3):
            own = [each for each in told if each.uid == uid]
            assert own == sorted(own, key=lambda each: (each.due, -each.priority, each.id))

    @rule(now=st.integers(0, 5))
    def expire(self, now: int) -> None:
        unstarted = (READY, DELAYED, WAITING, HELD)
        over = [each.id for state, each in self.plain.values() if state in unstarted and 0 < each.expires <= now]
        told = []
        for state, each in self.backlog.expired(now):
            assert self.plain[each.id] == (state, each)
            told.append(each.id)
            self.forget(each)
        assert sorted(told) == sorted(over)

    @invariant()
    def all_is_where_it_was_put(self) -> None:
        assert {job_id: self.backlog.find(job_id) for job_id in self.plain} == self.plain
        assert self.backlog.counts == dict.fromkeys(KEPT, 0) | Counter(state for state, _ in self.plain.values())
        assert {each.id for each in self.backlog.ready} == {
            each.id for state, each in self.plain.values() if state == READY
        }
        unstarted = (READY, DELAYED, WAITING, HELD)
        instants = [each.due for state, each in self.plain.values() if state == DELAYED]
        instants += [each.expires for state, each in self.plain.values() if state in unstarted and each.expires]
        assert self.backlog.next_due() == min(instants, default=None)

    @invariant()
    def members_are_counted(self) -> None:
        unfinished = [each for state, each in self.plain.values() if each.parent and state not in (DEAD, SKIPPED)]
        assert self.backlog.members == Counter(each.parent for each in unfinished)
        for parent in self.backlog.members:
            assert self.backlog.unfinished(parent) == sorted(each.id for each in unfinished if each.parent == parent)


TestBacklogIsATable = BacklogIsATable.TestCase
TestBacklogIsATable.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
