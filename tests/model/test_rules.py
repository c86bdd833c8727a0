"""Rules of the queue, turn by turn: a real dispatcher whose time is an argument and whose workers are played."""

import pytest
from test_model import Calm

FREE = {"task": ""}


@pytest.fixture
def play():
    made = Calm()
    yield made
    made.teardown()


def test_the_time_at_which_a_job_should_have_run_stays_the_same_in_every_attempt(play):
    play.submit({**FREE, "delay": 60, "retries": 1, "backoff": (20.0, 1.0, 20.0, 0.0)})
    due = int(play.theatre.wall + 60)
    play.pass_time(61.0)
    (worker,) = play.cast.workers
    (first,) = worker.parts.values()
    play.end(0, 1, tell=True)
    play.pass_time(30.0)
    (again,) = play.cast.workers[0].parts.values()
    assert (int(first.message["scheduled"]), again.message["attempt"], int(again.message["scheduled"])) == (due, 2, due)


def test_all_that_is_due_in_one_tick_is_released_before_anything_is_chosen(play):
    """Else equal delays would be served in the order of submission, whatever the priorities."""
    for _ in range(3):
        play.submit(FREE)
    for priority in (3, 20, "low"):
        play.submit({**FREE, "delay": 7, "priority": priority})
    play.pass_time(11.0)
    assert [job.priority for job in play.model.of("running") if job.priority] == [20]
    assert [job.priority for job in play.model.of("ready")] == [3, -10]


def test_a_job_waits_at_most_its_own_aging_longer_for_each_priority_that_it_lacks(play):
    for number in range(4):
        play.submit({**FREE, "queue": "other" if number else "narrow", "weight": 2})
    old = {**FREE, "queue": "narrow", "priority": 3}  # a second for each priority
    play.submit(old)
    play.pass_time(30.0)
    play.submit({**FREE, "queue": "narrow", "priority": 20})
    (urgent, waiting) = play.model.of("ready")
    assert (urgent.priority, waiting.priority) == (20, 3)
    while urgent.state == waiting.state == "ready":
        play.end(0, 0, tell=True)
    assert waiting.state == "running"
