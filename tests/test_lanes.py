"""What runs next: the order of dispatch, lanes that do not block each other, and gates."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cronq.entry import Entry
from cronq.lanes import Gates, Ready

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def always(_queue: str, _task: str) -> bool:
    return True


def never(_queue: str, _task: str) -> bool:
    return False


def drained(ready: Ready) -> list[Entry]:
    found = []
    while (entry := ready.take(always)) is not None:
        found.append(entry)
    return found


def choose(ready: Ready, gates: Gates) -> Entry | None:
    """As a turn of the dispatcher does: the first that may start, counted as running."""
    chosen = ready.take(gates.open)
    if chosen is not None:
        gates.count(chosen)
    return chosen


def entry(name: str, *, due: int = 1, **fields: object) -> Entry:
    return Entry(id=f"1-{name}", due=due, **fields)


some = st.builds(
    Entry,
    id=st.integers(0, 30).map(lambda number: f"1-{number:02}"),
    due=st.integers(0, 3),
    priority=st.integers(-2, 2),
    queue=st.sampled_from("pqr"),
    task=st.sampled_from(["", "s", "t"]),
)


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
    st.sets(st.tuples(st.sampled_from("pqr"), st.sampled_from(["", "s", "t"]))),
)
def test_a_closed_lane_keeps_its_entries_and_no_other_lanes(found: list[Entry], closed: set[tuple[str, str]]) -> None:
    ready = Ready(found)
    gate = lambda queue, task: (queue, task) not in closed  # noqa: E731
    taken = []
    while (each := ready.take(gate)) is not None:
        taken.append(each)
    free = [each for each in found if (each.queue, each.task) not in closed]
    assert taken == sorted(free, key=lambda each: each.order)
    assert drained(ready) == sorted((each for each in found if each not in free), key=lambda each: each.order)


def test_nothing_is_taken_where_every_gate_is_closed() -> None:
    ready = Ready([entry("a"), entry("b", task="t")])
    assert ready.take(never) is None
    assert len(ready) == 2


def test_peek_shows_what_take_would_take_and_leaves_it() -> None:
    ready = Ready([entry("a"), entry("b", priority=5)])
    assert ready.peek(always) == entry("b", priority=5)
    assert ready.peek(lambda queue, task: False) is None
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


class ReadyIsASortedList(RuleBasedStateMachine):
    """Whatever is added, discarded and taken: `Ready` does what a plain list would do, slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = Ready()
        self.plain: dict[str, Entry] = {}

    @rule(each=some)
    def add(self, each: Entry) -> None:
        self.ready.add(each)
        self.plain[each.id] = each

    @rule(number=st.integers(0, 30))
    def discard(self, number: int) -> None:
        assert self.ready.discard(f"1-{number:02}") == self.plain.pop(f"1-{number:02}", None)

    @rule(queues=st.sets(st.sampled_from("pqr")), task=st.sampled_from(["", "s", "t", "any"]))
    def take(self, queues: set[str], task: str) -> None:
        def gate(queue: str, of: str) -> bool:
            return queue in queues and task in (of, "any")

        can = [each for each in self.plain.values() if gate(each.queue, each.task)]
        expected = min(can, key=lambda each: each.order, default=None)
        assert self.ready.peek(gate) == expected
        assert self.ready.take(gate) == expected
        if expected is not None:
            del self.plain[expected.id]

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
    assert sum(len(lane.heap) for lane in ready._lanes.values()) < 10
    assert len(ready._lanes) == 1
    assert len(ready._heads) < 100


def test_what_is_discarded_behind_a_head_that_stays_is_swept_too() -> None:
    ready = Ready([entry("stays")])
    for number in range(3000):
        ready.add(entry(f"{number}", due=2))
        ready.discard(f"1-{number}")
    assert [len(lane.heap) for lane in ready._lanes.values()] < [10]


def test_a_hundred_thousand_in_a_closed_lane_cost_an_open_one_nothing() -> None:
    ready = Ready(entry(f"{number:06}", priority=5, task="limited") for number in range(100_000))
    looks: Counter[str] = Counter()

    def gate(_queue: str, task: str) -> bool:
        looks[task] += 1
        return task != "limited"

    started = time.process_time()
    for number in range(1000):
        ready.add(entry(f"f{number:04}"))
        assert ready.take(gate) == entry(f"f{number:04}")
    assert time.process_time() - started < 1
    assert looks["limited"] <= 2000


def test_cancelling_a_hundred_thousand_is_cheap() -> None:
    ready = Ready(entry(f"{number:06}") for number in range(100_000))
    started = time.process_time()
    for number in range(100_000):
        ready.discard(f"1-{number:06}")
    assert time.process_time() - started < 3
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
    assert not gates.open("default", "t")
    assert not gates.open("q", "")
    assert gates.open("p", "")
    assert gates.open("p", "s")


def test_every_closed_gate_is_named_with_those_who_hold_it() -> None:
    running = [entry("x", queue="mail", task="t"), entry("y", queue="mail")]
    gates = Gates(2, {"mail": 2}, {"t": 1}, running)
    assert gates.closed("mail", "t") == [
        ("max_jobs = 2 jobs are running", ["1-x", "1-y"]),
        ("all slots of queue mail are taken (2)", ["1-x", "1-y"]),
        ("task t is at its limit (1)", ["1-x"]),
    ]
    assert Gates(9, {"mail": 2}, {"t": 1}).closed("mail", "t") == []


@patient
@given(st.lists(some, unique_by=lambda each: each.id), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
def test_what_is_chosen_fits_every_gate_and_what_is_left_does_not(
    found: list[Entry], most: int, slots: int, limit: int
) -> None:
    ready, gates = Ready(found), Gates(most, {"p": slots}, {"t": limit})
    chosen = []
    while (each := choose(ready, gates)) is not None:
        chosen.append(each)
    assert len(chosen) <= most
    assert sum(each.queue == "p" for each in chosen) <= slots
    assert sum(each.task == "t" for each in chosen) <= limit
    for left in ready:
        assert gates.closed(left.queue, left.task)
        assert not gates.open(left.queue, left.task)
