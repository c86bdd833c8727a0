"""What runs next: the order of dispatch, lanes that do not block each other, fairness between users, and gates."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cronq.entry import Entry
from cronq.gates import Gates, per_user_default
from cronq.heads import FITS, NOT_NOW
from cronq.lanes import AGING, Ready
from cronq.shares import Shares

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def always(*_lane: object) -> bool:
    return True


def never(*_lane: object) -> bool:
    return False


def drained(ready: Ready) -> list[Entry]:
    found = []
    while (entry := ready.take(always)) is not None:
        found.append(entry)
    return found


def calls(act: Callable[[], object]) -> int:
    """How many functions are called."""
    count = 0

    def called(_frame: object, event: str, _what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def choose(ready: Ready, gates: Gates) -> Entry | None:
    """As a turn of the dispatcher does: the first that may start, counted as running."""
    gates.claims.clear()
    chosen = ready.take(gates.open, gates.load, gates.fits)
    if chosen is not None:
        gates.count(chosen)
    return chosen


def said(gates: Gates, waiting: Entry) -> list[tuple[str, list[str]]]:
    """The gates that are closed, in words, and who holds them."""
    return [(each.why, each.holders) for each in gates.closed(waiting)]


def entry(name: str, *, due: int = 1, uid: int = 1, **fields: object) -> Entry:
    return Entry(id=f"{uid}-{name}", due=due, **fields)


def key(each: Entry) -> tuple[str, str, int, int]:
    return each.queue, each.task, each.uid, each.weight


some = st.builds(
    Entry,
    id=st.builds("{}-{:02}".format, st.integers(1, 3), st.integers(0, 10)),
    due=st.integers(0, 3),
    priority=st.integers(-2, 2),
    queue=st.sampled_from("pqr"),
    task=st.sampled_from(["", "s", "t"]),
    key=st.sampled_from(["", "k", "l"]),
    group=st.sampled_from(["", "", "g", "h"]),
    weight=st.integers(0, 1),
)
some_load = st.none() | st.tuples(st.integers(0, 2), st.integers(0, 1))


@patient
@given(st.lists(some, unique_by=lambda each: each.id))
def test_entries_come_out_in_the_order_of_dispatch_whatever_their_lanes(found: list[Entry]) -> None:
    assert drained(Ready(found)) == sorted(found, key=lambda each: each.order)


@patient
@given(st.permutations([f"{number:02}" for number in range(12)]))
def test_entries_of_one_priority_come_out_first_in_first_out(names: list[str]) -> None:
    ready = Ready(entry(name, due=int(name)) for name in names)
    assert [each.due for each in drained(ready)] == list(range(12))


@patient
@given(
    st.lists(some, unique_by=lambda each: each.id),
    st.sets(st.tuples(st.sampled_from("pqr"), st.sampled_from(["", "s", "t"]), st.integers(1, 3))),
)
def test_a_closed_lane_keeps_its_entries_and_no_other_lanes(
    found: list[Entry], closed: set[tuple[str, str, int]]
) -> None:
    ready = Ready(found)
    gate = lambda *lane: lane not in closed  # noqa: E731
    taken = []
    while (each := ready.take(gate)) is not None:
        taken.append(each)
    free = [each for each in found if key(each) not in closed]
    assert taken == sorted(free, key=lambda each: each.order)
    assert drained(ready) == sorted((each for each in found if each not in free), key=lambda each: each.order)


def test_the_first_twenty_and_the_oldest_are_told_as_fast_of_a_hundred_thousand_as_of_a_hundred() -> None:
    counts = []
    for number in (100, 100_000):
        ready = Ready(entry(f"{each:06}", due=each, uid=each % 2, queue="pq"[each % 2]) for each in range(number))
        found: list[object] = []
        counts.append(calls(lambda: found.extend(islice(ready.in_order(), 20)) or found.append(ready.oldest())))  # noqa: B023
        assert [each.due for each in found[:20]] == list(range(20))
        assert found[20] == {"p": 0, "q": 1}
    assert counts[1] < 2 * counts[0]


def test_nothing_is_taken_where_every_gate_is_closed() -> None:
    ready = Ready([entry("a"), entry("b", task="t")])
    assert ready.take(never) is None
    assert len(ready) == 2


def test_peek_shows_what_take_would_take_and_leaves_it() -> None:
    ready = Ready([entry("a"), entry("b", priority=5)])
    assert ready.peek(always) == entry("b", priority=5)
    assert ready.peek(never) is None
    assert len(ready) == 2
    assert ready.take(always) == entry("b", priority=5)


def test_an_entry_that_is_discarded_never_comes() -> None:
    ready = Ready([entry("a"), entry("b"), entry("c")])
    assert ready.discard("1-a") == entry("a")
    assert ready.discard("1-a") is None
    assert "1-a" not in ready
    assert drained(ready) == [entry("b"), entry("c")]


def test_an_entry_that_is_added_again_stands_once_where_it_says_last() -> None:
    ready = Ready([entry("a", priority=5), entry("b")])
    ready.add(entry("a", priority=-5, queue="other"))
    assert len(ready) == 2
    assert ready.get("1-a") == entry("a", priority=-5, queue="other")
    assert drained(ready) == [entry("b"), entry("a", priority=-5, queue="other")]


def test_an_entry_that_was_discarded_and_added_unchanged_comes_once() -> None:
    ready = Ready([entry("a"), entry("b")])
    for _ in range(5):
        ready.discard("1-a")
        ready.add(entry("a"))
    assert drained(ready) == [entry("a"), entry("b")]


def test_a_batch_waits_like_any_entry() -> None:
    batch = entry("m", batch=(0, 0, 1000))
    ready = Ready([entry("a", due=2), batch])
    assert ready.take(always) == batch


def counts_as(each: Entry, agings: dict[str, int], micros: int) -> int:
    """Its priority, and one more for each while that it has waited."""
    aging = agings.get(each.queue, int(AGING * 1e6))
    return each.priority + (max(0, micros - each.due) // aging if aging else 0)


class ReadyIsASortedList(RuleBasedStateMachine):
    """Whatever is added, discarded and taken: `Ready` does what a plain list would do, slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = Ready()
        self.plain: dict[str, Entry] = {}
        self.now = 0.0
        self.closed_until: dict[str, float] = {}
        self.agings: dict[str, int] = {}

    @rule(each=some)
    def add(self, each: Entry) -> None:
        self.ready.add(each)
        self.plain[each.id] = each

    @rule(uid=st.integers(1, 3), number=st.integers(0, 10))
    def discard(self, uid: int, number: int) -> None:
        assert self.ready.discard(f"{uid}-{number:02}") == self.plain.pop(f"{uid}-{number:02}", None)

    @rule(
        queues=st.sets(st.sampled_from("pqr")),
        task=st.sampled_from(["", "s", "t", "any"]),
        loads=st.fixed_dictionaries(dict.fromkeys((1, 2, 3), some_load)),
        absent=st.integers(0, 3),
        taken=st.sampled_from(["k", "l", None]),
        micros=st.integers(0, 8),
    )
    def take(
        self,
        queues: set[str],
        task: str,
        loads: dict[int, tuple[int, int] | None],
        absent: int,
        taken: str | None,
        micros: int,
    ) -> None:
        def fits(each: Entry) -> float:
            until = self.closed_until.get(each.key, 0.0)
            return NOT_NOW if each.key == taken else until if until > self.now else FITS

        def gate(queue: str, of: str, uid: int, _weight: int) -> bool:
            return queue in queues and task in (of, "any") and uid != absent

        fit = [each for each in self.plain.values() if fits(each) == FITS and loads[each.uid] is not None]
        can = [each for each in fit if gate(*key(each))]
        expected = min(can, key=lambda each: (-each.priority, loads[each.uid], each.order), default=None)
        if expected is not None:
            counts = [each for each in can if counts_as(each, self.agings, micros) >= expected.priority]
            expected = min(counts, key=lambda each: (loads[each.uid], each.due, each.id))
        self.ready.wake(self.now)
        assert self.ready.peek(gate, loads.get, fits, micros) == expected
        assert self.ready.take(gate, loads.get, fits, micros) == expected
        if expected is not None:
            del self.plain[expected.id]

    @rule(agings=st.dictionaries(st.sampled_from("pqr"), st.integers(0, 3)))
    def let_it_age(self, agings: dict[str, int]) -> None:
        self.agings = agings
        self.ready.age({queue: micros / 1e6 for queue, micros in agings.items()})

    @rule(key=st.sampled_from(["", "k", "l"]), seconds=st.integers(1, 3))
    def close_a_key_for_a_while(self, key: str, seconds: int) -> None:
        self.closed_until[key] = max(self.closed_until.get(key, 0.0), self.now + seconds)

    @rule(seconds=st.integers(0, 2))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def all_are_told_in_their_order_whether_they_sleep_or_not(self) -> None:
        told = sorted(self.plain.values(), key=lambda each: each.order)
        assert list(self.ready.in_order()) == told
        assert list(self.ready.in_order([1, 3])) == [each for each in told if each.uid != 2]
        for uid in (None, 2):
            dues: dict[str, list[int]] = {}
            for each in told:
                if uid in (None, each.uid):
                    dues.setdefault(each.queue, []).append(each.due)
            assert self.ready.oldest(uid) == {queue: min(of_queue) for queue, of_queue in dues.items()}

    @invariant()
    def the_same_wait(self) -> None:
        assert len(self.ready) == len(self.plain)
        assert {each.id for each in self.ready} == set(self.plain)


TestReadyIsASortedList = ReadyIsASortedList.TestCase
TestReadyIsASortedList.settings = settings(patient, max_examples=60, stateful_step_count=40)


def test_adding_and_discarding_for_ever_keeps_no_rubbish() -> None:
    ready = Ready([entry("stays", due=2)])
    for number in range(3000):
        ready.add(entry(f"{number}", due=1 + number % 3, queue="pq"[number % 2]))
        ready.discard(f"1-{number}")
    ((level,),) = [list(own.values()) for own in ready._levels.values()]
    lanes, heads = level.parts, level.heap
    assert sum(len(row.heap) for lane in lanes.values() for row in lane.parts.values()) < 10
    assert len(lanes) == 1
    assert len(heads) < 100


def test_a_submitter_of_whom_nothing_waits_is_forgotten() -> None:
    ready = Ready([entry("stays", due=2)])
    for uid in range(2, 500):
        ready.add(entry("a", uid=uid))
        ready.discard(f"{uid}-a")
    assert list(ready._levels) == [1]


def test_what_is_discarded_behind_a_head_that_stays_is_swept_too() -> None:
    ready = Ready([entry("stays")])
    for number in range(3000):
        ready.add(entry(f"{number}", due=2))
        ready.discard(f"1-{number}")
    ((level,),) = [list(own.values()) for own in ready._levels.values()]
    (lane,) = level.parts.values()
    assert [len(row.heap) for row in lane.parts.values()] < [10]


def test_a_hundred_thousand_in_a_closed_lane_cost_an_open_one_nothing() -> None:
    ready = Ready(entry(f"{number:06}", priority=5, task="limited") for number in range(100_000))
    looks: Counter[str] = Counter()

    def gate(_queue: str, task: str, _uid: int, _weight: int) -> bool:
        looks[task] += 1
        return task != "limited"

    started = time.process_time()
    for number in range(1000):
        ready.add(entry(f"f{number:04}"))
        assert ready.take(gate) == entry(f"f{number:04}")
    assert time.process_time() - started < 10  # a look at each would be a hundred million
    assert looks["limited"] <= 2000


def test_cancelling_a_hundred_thousand_is_cheap() -> None:
    ready = Ready(entry(f"{number:06}") for number in range(100_000))
    started = time.process_time()
    for number in range(100_000):
        ready.discard(f"1-{number:06}")
    assert time.process_time() - started < 30
    assert len(ready) == 0
    assert ready.take(always) is None


def test_as_many_run_as_max_jobs_and_no_more() -> None:
    ready = Ready(entry(name) for name in "abcd")
    gates = Gates(3, {}, {}, [entry("running")])
    assert [choose(ready, gates) for _ in range(3)] == [entry("a"), entry("b"), None]
    assert len(ready) == 2


def test_a_full_queue_lets_other_queues_start() -> None:
    ready = Ready([entry("a", queue="mail"), entry("b", queue="mail"), entry("c")])
    gates = Gates(9, {"mail": 2}, {}, [entry("running", queue="mail")])
    assert [choose(ready, gates) for _ in range(3)] == [entry("a", queue="mail"), entry("c"), None]


def test_a_task_at_its_limit_lets_other_tasks_start_in_the_same_queue() -> None:
    ready = Ready([entry("a", task="t"), entry("b", task="t"), entry("c", task="s"), entry("d")])
    gates = Gates(9, {}, {"t": 1})
    assert [choose(ready, gates) for _ in range(4)] == [entry("a", task="t"), entry("c", task="s"), entry("d"), None]


def test_a_task_is_counted_in_all_queues_and_a_queue_over_all_tasks() -> None:
    running = [entry("x", queue="p", task="t"), entry("y", queue="q", task="s")]
    gates = Gates(9, {"q": 1}, {"t": 1}, running)
    assert not gates.open("default", "t", 1)
    assert not gates.open("q", "", 1)
    assert gates.open("p", "", 1)
    assert gates.open("p", "s", 1)


def test_every_closed_gate_is_named_with_those_who_hold_it() -> None:
    running = [entry("x", queue="mail", task="t"), entry("y", queue="mail")]
    gates = Gates(2, {"mail": 2}, {"t": 1}, running)
    assert said(gates, entry("z", queue="mail", task="t")) == [
        ("max_jobs = 2 jobs are running", ["1-x", "1-y"]),
        ("all slots of queue mail are taken (2)", ["1-x", "1-y"]),
        ("task t is at its limit (1)", ["1-x"]),
    ]
    assert Gates(9, {"mail": 2}, {"t": 1}).closed(entry("z", queue="mail", task="t")) == []


@patient
@given(
    st.lists(some, unique_by=lambda each: each.id),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.none() | st.integers(1, 3),
)
def test_what_is_chosen_fits_every_gate_and_what_is_left_does_not(
    found: list[Entry], most: int, slots: int, limit: int, per_user: int | None
) -> None:
    ready, gates = Ready(found), Gates(most, {"p": slots}, {"t": limit}, per_user=per_user)
    chosen = []
    while (each := choose(ready, gates)) is not None:
        chosen.append(each)
    assert len(chosen) <= most
    weights = [each.weight for each in chosen if each.queue == "p" and each.weight]
    assert sum(weights) <= slots or len(weights) == 1
    weights = [each.weight for each in chosen if each.task == "t" and each.weight]
    assert sum(weights) <= limit or len(weights) == 1
    assert all(sum(each.key == word for each in chosen) <= 1 for word in "kl")
    assert all(sum(each.uid == uid for each in chosen) <= (per_user or most) for uid in (1, 2, 3))
    for left in ready:
        assert gates.closed(left)
        assert not gates.open(*key(left)) or gates.fits(left) != FITS


def test_what_differs_in_its_priority_only_is_one_kind_for_whoever_decides_about_all_of_it() -> None:
    alike = [entry("low", group="g", priority=-1), entry("a", group="g"), entry("high", group="g", priority=5)]
    ready = Ready([*alike, entry("other", group="h"), entry("elsewhere", group="g", queue="p")])
    assert ready.row(alike[0])[0] == alike[2]  # the first of them
    assert {each.id for each in ready.row(alike[1])} == {each.id for each in alike}
    assert not ready.alone(alike[0])
    ready.discard("1-high")
    ready.discard("1-a")
    assert ready.alone(alike[0])


# ---------------------------------------------------------------- aging


@patient
@given(
    st.lists(some, unique_by=lambda each: each.id, min_size=2),
    st.dictionaries(st.sampled_from("pqr"), st.integers(0, 3)),
    st.integers(0, 9),
    st.permutations([1, 2, 3]),
)
def test_aging_what_has_waited_for_each_priority_that_it_lacks_counts_as_what_would_be_next(
    found: list[Entry], agings: dict[str, int], micros: int, loads: list[int]
) -> None:
    ready = Ready(found)
    ready.age({queue: aging / 1e6 for queue, aging in agings.items()})
    left = list(found)
    while left:
        urgent = min(left, key=lambda each: (-each.priority, loads[each.uid - 1], each.order))
        equal = [each for each in left if counts_as(each, agings, micros) >= urgent.priority]
        expected = min(equal, key=lambda each: (loads[each.uid - 1], each.due, each.id))
        assert ready.take(always, lambda uid: (loads[uid - 1], 0), now=micros) == expected
        left.remove(expected)
    assert ready.peek(always) is None


def aged(ready: Ready, gates: Gates, seconds: float) -> Entry | None:
    """As `choose`, so long after the epoch."""
    gates.claims.clear()
    chosen = ready.take(gates.open, gates.load, gates.fits, int(seconds * 1e6))
    if chosen is not None:
        gates.count(chosen)
    return chosen


def test_aging_a_stream_of_urgent_jobs_starves_nothing() -> None:
    ready = Ready([entry("low", due=0, priority=-10)])
    for minute in range(200):
        ready.add(entry(f"u{minute:03}", due=minute * 60_000_000, priority=10))
        if aged(ready, Gates(1, {}, {}), minute * 60) == entry("low", due=0, priority=-10):
            assert minute == 100  # twenty levels of five minutes
            return
    pytest.fail("it never came")


def test_aging_is_worth_nothing_between_two_users_jobs_of_one_priority() -> None:
    ready = Ready(entry(f"{number}", due=number) for number in range(5))
    new = entry("new", due=86_400_000_000, uid=2)
    ready.add(new)
    gates = Gates(9, {}, {}, [entry("running")])
    assert aged(ready, gates, 86_400) == new


def test_aging_a_heavy_job_keeps_the_room_that_lighter_and_more_urgent_ones_would_take() -> None:
    heavy, light = entry("heavy", weight=2, queue="p"), entry("light", due=9, priority=1, queue="p")
    other = entry("other", due=9, priority=1)
    running = entry("running", queue="p")
    for seconds, expected in ((100, [light, other, None]), (400, [other, None])):
        ready, gates = Ready([heavy, light, other]), Gates(9, {"p": 2}, {}, [running])
        assert [aged(ready, gates, seconds) for _ in expected] == expected
    assert aged(ready, Gates(9, {"p": 2}, {}), 400) == heavy


def test_aging_of_a_queue_may_be_shorter_or_none_and_may_change_while_jobs_wait() -> None:
    old, new = entry("old", queue="p"), entry("new", due=50_000_000, priority=1, queue="p")
    ready = Ready([old, new])
    assert ready.peek(always, now=100_000_000) == new
    ready.age({"p": 60.0})
    assert ready.peek(always, now=100_000_000) == old
    ready.age({"p": 0.0})
    assert ready.peek(always, now=10**15) == new
    ready.add(entry("beside"))  # in another queue, and so of another level than before
    ready.add(entry("further", queue="q", due=2))
    ready.age({"p": 0.0, "default": 0.0})
    assert ready.peek(always, now=300_000_001) == new  # of the others only one ages, and it came later
    assert ready.peek(always, now=300_000_002) == entry("further", queue="q", due=2)
    for name in ("beside", "further", "new"):
        ready.discard(f"1-{name}")
    ready.age({})
    assert drained(ready) == [old]
    assert ready._levels == {}


def test_aging_may_change_from_one_queue_to_another_while_one_job_waits_in_each() -> None:
    """Each leaves its level for another one, which stands under the same head in the place of the first one."""
    found = Ready([])
    for each in (mine := entry("b", due=0, queue="q"), other := entry("b", due=0, uid=2, queue="p")):
        found.add(each)
    found.age({"q": 1.0})
    found.age({"p": 1.0})
    assert drained(found) == [mine, other]


def test_aging_looks_at_no_more_of_a_hundred_thousand_that_have_not_waited_for_long_enough() -> None:
    ready = Ready(entry(f"{number:06}", due=number, queue=f"q{number % 500}") for number in range(100_000))
    ready.add(entry("urgent", due=200_000, priority=1))
    looks: Counter[str] = Counter()

    def fits(each: Entry) -> float:
        looks[each.id] += 1
        return FITS

    assert ready.peek(always, fits=fits, now=299_999_999) == entry("urgent", due=200_000, priority=1)
    assert ready.peek(always, fits=fits, now=300_000_000) == entry("000000", due=0, queue="q0")
    assert looks.total() <= 4


# ---------------------------------------------------------------- keys


def test_what_has_the_key_of_something_that_runs_waits_and_holds_up_nothing_else() -> None:
    ready = Ready([entry("a", key="k"), entry("b", key="k", due=2), entry("c", key="l", due=3), entry("d", due=4)])
    gates = Gates(9, {}, {}, others=[entry("tab-x-0660000000000", key="k")])
    assert [choose(ready, gates) for _ in range(3)] == [entry("c", key="l", due=3), entry("d", due=4), None]
    assert said(gates, entry("b", key="k")) == [("another one of its mutex is running", ["1-tab-x-0660000000000"])]


def test_of_those_that_wait_for_a_key_the_highest_priority_comes_first_then_what_was_due_first() -> None:
    found = [
        entry("late", key="k", due=3),
        entry("early", key="k", due=2, queue="q"),
        entry("high", key="k", due=4, priority=1, task="t"),
    ]
    ready = Ready(found)
    chosen = []
    for _ in found:
        gates = Gates(9, {}, {})
        chosen.append(choose(ready, gates))
        assert choose(ready, gates) is None
    assert [each and each.id for each in chosen] == ["1-high", "1-early", "1-late"]


def test_the_first_of_each_row_of_a_key_is_known_as_long_as_it_waits() -> None:
    ready = Ready([entry("a", key="k"), entry("b", key="k", due=2), entry("c", key="k", task="t"), entry("d")])
    assert {each.id for each in ready.keyed("k")} == {"1-a", "1-c"}
    ready.discard("1-a")
    ready.discard("1-c")
    assert [each.id for each in ready.keyed("k")] == ["1-b"]
    ready.discard("1-b")
    assert ready.keyed("k") == []
    assert ready._keyed == {}


def test_a_row_that_sleeps_is_not_asked_of_until_it_is_woken_and_wakes_no_other() -> None:
    ready = Ready([entry(f"{number}", key=f"k{number}", due=number) for number in range(100)])
    asked: list[str] = []

    def fits(each: Entry) -> float:
        asked.append(each.id)
        return 50.0 + each.due

    assert ready.peek(always, fits=fits) is None
    assert len(asked) == 100
    assert ready.peek(always, fits=fits) is None
    assert len(asked) == 100
    assert ready.next_wake() == 50.0
    ready.add(entry("more", key="k0", due=9, priority=1))
    ready.wake(51.0)
    assert ready.next_wake() == 52.0
    del asked[:]
    assert ready.peek(always, fits=lambda each: asked.append(each.id) or FITS) == entry(
        "more", key="k0", due=9, priority=1
    )
    assert asked == ["1-more"]


def test_a_row_that_sleeps_and_loses_all_that_waits_in_it_is_forgotten() -> None:
    ready = Ready([entry("a", key="k")])
    assert ready.peek(always, fits=lambda _each: 5.0) is None
    ready.discard("1-a")
    assert ready._levels == {}
    ready.add(entry("b", key="k"))
    assert ready.peek(always) == entry("b", key="k")
    ready.wake(9.0)
    assert ready.take(always) == entry("b", key="k")
    assert ready.take(always) is None


# ---------------------------------------------------------------- weights


def test_a_job_takes_as_many_slots_as_it_weighs() -> None:
    ready = Ready([entry("a", queue="q", weight=2), entry("b", queue="q", due=2), entry("c", queue="q", due=3)])
    gates = Gates(9, {"q": 3}, {})
    assert [choose(ready, gates) for _ in range(3)] == [
        entry("a", queue="q", weight=2),
        entry("b", queue="q", due=2),
        None,
    ]


def test_a_job_that_weighs_nothing_passes_a_full_queue_and_a_task_at_its_limit_but_is_one_of_max_jobs() -> None:
    light = entry("light", queue="q", task="t", weight=0)
    running = [entry("x", queue="q", task="t")]
    assert Gates(2, {"q": 1}, {"t": 1}, running).closed(light) == []
    assert choose(Ready([light]), Gates(2, {"q": 1}, {"t": 1}, running)) == light
    assert choose(Ready([light]), Gates(1, {"q": 1}, {"t": 1}, running)) is None
    assert choose(Ready([entry("y", queue="q")]), Gates(2, {"q": 1}, {}, [light])) == entry("y", queue="q")


def test_a_job_that_weighs_more_than_there_is_room_for_runs_alone() -> None:
    heavy = entry("heavy", queue="q", weight=9)
    assert choose(Ready([heavy]), Gates(9, {"q": 2}, {}, [entry("x", queue="q")])) is None
    gates = Gates(9, {"q": 2}, {})
    ready = Ready([heavy, entry("b", queue="q", due=2)])
    assert [choose(ready, gates) for _ in range(2)] == [heavy, None]


def test_what_weighs_too_much_for_the_room_that_there_is_keeps_it_until_it_fits() -> None:
    heavy = entry("heavy", queue="q", weight=2)
    ready = Ready([heavy, entry("light", queue="q", due=2), entry("other", due=3)])
    running = [entry("x", queue="q"), entry("y", queue="q")]
    assert choose(ready, Gates(9, {"q": 3}, {}, running)) == entry("other", due=3)
    assert choose(ready, Gates(9, {"q": 3}, {}, running)) is None
    ready.add(entry("first", queue="q", priority=1))
    assert choose(ready, Gates(9, {"q": 3}, {}, running)) == entry("first", queue="q", priority=1)
    assert choose(ready, Gates(9, {"q": 3}, {}, running[:1])) == heavy


def test_what_waits_for_a_key_keeps_no_room_that_it_cannot_use() -> None:
    ready = Ready([entry("heavy", queue="q", weight=2, key="k"), entry("light", queue="q", due=2)])
    gates = Gates(9, {"q": 3}, {}, [entry("x", queue="q"), entry("y", queue="q", weight=0, key="k")])
    assert choose(ready, gates) == entry("light", queue="q", due=2)


def test_a_key_has_as_much_room_as_the_limit_of_its_task_says_by_weight() -> None:
    def of(name: str, **fields: object) -> Entry:
        return entry(name, task="t", group="g", **fields)

    running = [of("x"), of("y")]
    limits = {"t": 3}
    assert choose(Ready([of("a")]), Gates(9, {}, {}, running, key_limits=limits)) == of("a")
    ready = Ready([of("heavy", weight=2), of("light", due=2), entry("other", task="t", group="h", due=3)])
    gates = Gates(9, {}, {}, running, key_limits=limits)
    assert choose(ready, gates) == entry("other", task="t", group="h", due=3)
    assert choose(ready, gates) is None
    assert said(gates, of("heavy", weight=2)) == [("its concurrency key is taken (limit 3)", ["1-x", "1-y"])]
    assert choose(ready, Gates(9, {}, {}, running[:1], key_limits=limits)) == of("heavy", weight=2)
    assert choose(Ready([of("none", weight=0)]), Gates(9, {}, {}, running, key_limits={"t": 1})) == of("none", weight=0)


# ---------------------------------------------------------------- many users


def naive(waiting: list[Entry], gates: Gates) -> Entry | None:
    """What `choose` must choose, by sorting everything."""
    can = [each for each in waiting if not gates.closed(each)]
    return min(can, key=lambda each: (-each.priority, gates.by_user[each.uid], each.order), default=None)


@patient
@given(
    st.lists(some, unique_by=lambda each: each.id),
    st.lists(some, max_size=5),
    st.integers(1, 20),
    st.none() | st.integers(1, 6),
)
def test_the_highest_priority_comes_first_then_who_has_the_fewest_running_then_what_was_due_first(
    found: list[Entry], running: list[Entry], most: int, per_user: int | None
) -> None:
    ready = Ready(found)
    gates, reference = (Gates(most, {"p": 3}, {"t": 4}, running, per_user) for _ in range(2))
    waiting = list(found)
    while (expected := naive(waiting, reference)) is not None:
        assert choose(ready, gates) == expected
        reference.count(expected)
        waiting.remove(expected)
    assert choose(ready, gates) is None
    assert len(ready) == len(waiting)


def test_one_user_alone_sees_the_plain_order_whatever_of_him_runs() -> None:
    found = [entry(f"{number:02}", due=number % 7, queue="pq"[number % 2], priority=number % 3) for number in range(40)]
    ready, gates = Ready(found), Gates(99, {}, {}, [entry("x"), entry("y", queue="q")])
    assert [choose(ready, gates) for _ in found] == sorted(found, key=lambda each: each.order)


def test_two_users_take_turns_however_early_and_many_the_jobs_of_one_are() -> None:
    ready = Ready([entry(f"{number:04}", uid=7) for number in range(1000)])
    for number in range(3):
        ready.add(entry(f"{number}", uid=8, due=9))
    gates = Gates(8, {}, {})
    assert [choose(ready, gates).uid for _ in range(8)] == [7, 8, 7, 8, 7, 8, 7, 7]


def test_a_users_high_comes_before_the_normal_of_one_who_has_less_running() -> None:
    ready = Ready([entry("normal", uid=8), entry("high", uid=7, priority=10)])
    gates = Gates(9, {}, {}, [entry("a", uid=7), entry("b", uid=7)])
    assert [choose(ready, gates).id for _ in range(2)] == ["7-high", "8-normal"]


def test_a_high_job_that_must_wait_holds_up_no_normal_one() -> None:
    ready = Ready([entry("high", uid=7, priority=10, task="t"), entry("mine", uid=7), entry("his", uid=8, due=2)])
    gates = Gates(9, {}, {"t": 1}, [entry("x", uid=9, task="t")])
    assert [choose(ready, gates).id for _ in range(2)] == ["7-mine", "8-his"]


def test_a_user_whose_lanes_are_closed_holds_up_nobody() -> None:
    """His worker is not there yet, or his jobs are held up: the gate says so for each user."""
    ready = Ready([entry("a", uid=7, priority=20), entry("b", uid=8)])
    assert ready.take(lambda _queue, _task, uid, _weight: uid != 7) == entry("b", uid=8)
    assert "7-a" in ready


def test_a_batch_is_its_submitters_like_any_entry() -> None:
    ready = Ready([entry("many", uid=7, batch=(0, 0, 1000)), entry("one", uid=8, due=2)])
    gates = Gates(9, {}, {}, [entry("many+0001", uid=7)])
    assert choose(ready, gates) == entry("one", uid=8, due=2)
    assert choose(ready, gates) == entry("many", uid=7, batch=(0, 0, 1000))


def test_a_user_starts_as_many_as_max_jobs_per_user_and_others_go_on() -> None:
    ready = Ready([*(entry(name, uid=7) for name in "abcd"), entry("e", uid=8, due=2)])
    gates = Gates(9, {}, {}, [entry("x", uid=7, queue="q", task="t")], per_user=3)
    assert [each and each.id for each in (choose(ready, gates) for _ in range(4))] == ["8-e", "7-a", "7-b", None]
    assert gates.load(7) is None
    assert gates.load(8) == (1, 0)
    assert said(gates, entry("z", uid=7)) == [
        ("max_jobs_per_user = 3 jobs of the same user are running", ["7-x", "7-a", "7-b"])
    ]
    assert said(gates, entry("z", uid=8)) == []


def test_where_all_places_are_taken_nobody_has_any() -> None:
    gates = Gates(1, {}, {}, [entry("x", uid=7)])
    assert gates.load(8) is None
    assert not gates.open("default", "", 8)


@pytest.mark.parametrize(
    ("most", "one"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 6), (8, 6), (16, 12), (64, 48), (100_000, 75_000)]
)
def test_where_nothing_is_said_a_quarter_of_the_places_is_left_to_others(most: int, one: int) -> None:
    assert per_user_default(most) == one


def test_where_one_job_runs_at_a_time_two_users_take_turns_too() -> None:
    ready, shares = Ready([entry(f"{number:04}", uid=7) for number in range(1000)]), Shares()
    for number in range(3):
        ready.add(entry(f"{number}", uid=8, due=9))
    chosen = []
    for _ in range(8):
        each = choose(ready, Gates(1, {}, {}, served=shares.turn))
        shares.serve(each.uid)
        chosen.append(each.uid)
    assert chosen == [7, 8, 7, 8, 7, 8, 7, 7]


def test_whoever_has_twice_the_share_of_others_has_twice_as_many_running_and_twice_as_many_turns() -> None:
    found = [entry(f"{number:03}", uid=uid, due=number) for number in range(100) for uid in (7, 8, 9)]
    gates = Gates(40, {}, {}, shares={8: 2.0})
    ready = Ready(found)
    assert Counter(choose(ready, gates).uid for _ in range(40)) == {7: 10, 8: 20, 9: 10}
    shares, chosen = Shares(), Counter()
    for _ in range(40):
        gates = Gates(1, {}, {}, shares={8: 2.0}, served=shares.turn)
        each = choose(ready, gates)
        shares.serve(each.uid, gates.share(each.uid))
        chosen[each.uid] += 1
    assert chosen == {7: 10, 8: 20, 9: 10}


def test_who_asked_for_nothing_for_a_while_has_saved_up_nothing_and_is_forgotten() -> None:
    shares = Shares()
    shares.serve(8)
    for _ in range(1000):
        shares.serve(7)
    assert shares.turn(8) == shares.turn(7) - 1
    for uid in range(10_000):
        shares.serve(uid)
    assert len(shares) < 10_001
    for _ in range(3):
        shares.serve(1)
    assert [shares.turn(uid) < shares.turn(1) for uid in (7, 8, 9)] == [True, True, True]


# ---------------------------------------------------------------- floods


def looks_of(ready: Ready, gates: Gates) -> int:
    """Choose once, and count how often a gate was looked at."""
    looks = 0

    def gate(queue: str, task: str, uid: int, _weight: int) -> bool:
        nonlocal looks
        looks += 1
        return gates.open(queue, task, uid)

    assert ready.peek(gate, gates.load) == naive(list(ready), gates)
    return looks


def flood(uid: int, **differ: Callable[[int], str]) -> list[Entry]:
    """100,000 jobs of one user, which came before all others."""
    return [
        entry(f"{number:06}", uid=uid, due=0, **{name: made(number) for name, made in differ.items()})
        for number in range(100_000)
    ]


def test_a_flood_of_one_user_costs_one_look() -> None:
    ready = Ready(flood(7))
    for uid in range(100, 110):
        ready.add(entry("a", uid=uid))
    assert looks_of(ready, Gates(99, {}, {})) == 1
    assert looks_of(ready, Gates(99, {}, {}, [entry("x", uid=7)])) == 1
    assert looks_of(ready, Gates(99, {}, {}, [entry("x", uid=7)], per_user=1)) == 1


def test_who_would_not_be_next_anyway_is_not_looked_at() -> None:
    closed = [entry(f"{number}", uid=7, task="t", queue=f"q{number}") for number in range(100)]
    ready = Ready([*closed, entry("high", uid=8, priority=10)])
    assert looks_of(ready, Gates(99, {}, {"t": 1}, [entry("x", uid=9, task="t")])) == 1


def test_a_flood_over_as_many_queues_as_jobs_costs_a_user_who_may_start_no_more_not_one_look() -> None:
    ready = Ready(flood(7, queue=lambda number: f"q{number}"))
    ready.add(entry("a", uid=8))
    gates = Gates(99, {}, {}, [entry("x", uid=7)], per_user=1)
    assert looks_of(ready, gates) == 1
    assert looks_of(ready, Gates(1, {}, {}, [entry("x", uid=7)])) == 0


def test_ten_thousand_that_wait_for_one_key_cost_one_look() -> None:
    ready = Ready(entry(f"{number:05}", key="k", due=number % 50) for number in range(10_000))
    ready.add(entry("free", due=60))
    looks = []

    def fits(each: Entry) -> float:
        looks.append(each.key)
        return NOT_NOW if each.key else FITS

    assert ready.peek(always, fits=fits) == entry("free", due=60)
    assert looks == ["k", ""]


def test_choosing_takes_as_long_with_a_hundred_thousand_that_wait_for_a_key_as_with_ten() -> None:
    """Both in one run, so that a busy machine slows down both."""

    def seconds(ready: Ready) -> float:
        started = time.process_time()
        for number in range(2000):
            ready.add(entry(f"f{number}", due=200))
            assert ready.take(always, fits=lambda each: NOT_NOW if each.key else FITS).id == f"1-f{number}"
        return time.process_time() - started

    def waiting(number: int) -> Ready:
        return Ready(entry(f"{each:06}", key="k", due=each % 97) for each in range(number))

    many, few = waiting(100_000), waiting(10)
    assert min(seconds(many) for _ in range(3)) < 5 * min(seconds(few) for _ in range(3))


def test_one_job_beside_a_flood_is_chosen_in_the_time_that_it_takes_alone() -> None:
    """Both in one run, so that a busy machine slows down both."""

    def seconds(ready: Ready) -> float:
        started = time.process_time()
        for number in range(2000):
            ready.add(entry(f"{number}", uid=8, due=5))
            assert ready.take(always, {7: (1, 0), 8: (0, 0)}.get).uid == 8
        return time.process_time() - started

    beside, alone = Ready(flood(7)), Ready([entry("a", uid=7)])
    assert min(seconds(beside) for _ in range(3)) < 5 * min(seconds(alone) for _ in range(3))
