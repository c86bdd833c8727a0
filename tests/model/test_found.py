"""What the model found in the dispatcher, each once more and by itself: the same play (test_model.py), by hand."""

import pytest
from players import DEAF, HEARS
from test_model import UID, Calm
from theatre import Cut

from cronq.entry import Entry

FREE = {"task": "", "argument": "x"}


@pytest.fixture
def play():
    made = Calm()
    yield made
    made.teardown()


def killed(*_: object) -> None:
    raise Cut


def states(play) -> dict[str, str]:
    return {job_id.partition("+")[2] or job_id: state for job_id, (state, _) in play.theatre.lying().items()}


def test_a_job_that_is_held_after_a_crash_has_used_no_attempt(play):
    play.submit({"task": "hold", "argument": "x", "retries": 0})
    play.crash(0, known=True)
    play.release(0)
    play.end(0, 1, tell=True)
    (job,) = play.model.jobs.values()
    found = play.theatre.result(job.id)
    assert (found["state"], found["attempt"], found["max_attempts"]) == ("dead", 1, 1)


def test_a_job_that_was_cancelled_is_not_held_when_its_worker_dies(play):
    play.submit({"task": "hold", "argument": "x"})
    play.pace(0, HEARS)
    play.cancel(1, now=False)
    play.crash(0, known=False)
    (job,) = play.model.jobs.values()
    assert play.theatre.result(job.id)["state"] == "cancelled"


def test_a_dead_member_is_tried_again_though_its_batch_has_ended(play):
    play.submit_many([FREE, FREE], header=False)
    play.end(0, 1, tell=True)
    play.end(0, 0, tell=True)
    assert states(play) == {"1": "dead"}
    play.retry(1)
    assert list(states(play).values()) == ["running", "running"]  # the batch, too: its end is another now
    play.end(0, 0, tell=True)
    assert states(play) == {}
    assert not play.theatre.names(f"rejected/{UID}")


def test_a_member_that_had_expired_when_it_was_made_never_runs(play):
    play.submit_many([{**FREE, "expires": 0}, FREE], header=False)
    assert states(play)["2"] == "running"
    assert [play.theatre.result(job_id)["state"] for job_id in play.model.jobs if job_id.endswith("+1")] == ["expired"]
    assert not any(part.id.endswith("+1") for worker in play.cast.workers for part in worker.parts.values())


def test_what_a_refused_job_brought_is_no_later_jobs_input(play):
    """Else the next job of that name, which brings nothing, would read it."""
    play.submit_by_a_name_of_ones_own(FREE, "a")
    play.submit_by_a_name_of_ones_own({**FREE, "data": True}, "a")
    assert {"a.job", "a.data"} <= play.theatre.names(f"rejected/{UID}")
    play.end(0, 0, tell=True)
    play.submit_by_a_name_of_ones_own(FREE, "a")
    assert not play.theatre.names("queue/data")


def test_the_input_of_a_job_that_had_ended_when_its_dispatcher_was_killed_is_removed(play):
    play.submit({**FREE, "data": True})
    (job,) = play.model.jobs.values()
    worker, _ = play.cast.find(job.id)
    worker.end(job.id, 0)
    play.theatre.hear()
    play.theatre.house.shelves.drop_data = killed
    with pytest.raises(Cut):
        play.theatre.turn()
    assert play.theatre.result(job.id)["state"] == "done"
    assert play.theatre.names("queue/data") == {job.id}
    play.theatre.restart()
    assert not play.theatre.names("queue/data")


def test_a_name_is_taken_as_long_as_any_job_of_that_name_has_not_ended(play):
    """Somebody revives a dead one while another of its name waits: then there are two."""
    play.submit_by_a_name_of_ones_own(FREE, "b")
    play.end(0, 1, tell=True)
    play.submit_by_a_name_of_ones_own({**FREE, "delay": 60}, "b")
    (dead,) = play.model.of("dead")
    play.do("retry", dead, play.model.retried)
    play.do("cancel", dead, play.model.cancelled, now=True)
    play.submit_by_a_name_of_ones_own(FREE, "b")
    assert len(play.theatre.names(f"rejected/{UID}")) == 2


def test_a_job_that_has_waited_for_long_enough_comes_before_a_newer_one_of_a_higher_priority(play):
    for _ in range(4):
        play.submit(FREE)
    for priority in ("low", 3):
        play.submit({**FREE, "priority": priority})
        play.pass_time(600.0)
    low, soon = (next(job for job in play.model.of("ready") if job.priority == number) for number in (-10, 3))
    play.end(0, 0, tell=True)
    assert (low.state, soon.state) == ("ready", "running")  # ten minutes are two levels
    play.pass_time(3600.0)
    play.submit({**FREE, "priority": 3})
    play.end(0, 0, tell=True)
    assert [job.priority for job in play.model.of("ready")] == [3]
    assert low.state == "running"


def test_a_callback_is_flushed_before_its_batch_has_ended(play):
    """Else the power may fail when the one is on the disk and the other is not."""
    play.submit_many([FREE], header=True, calls={"complete"})
    shelves, told = play.theatre.house.shelves, []

    def hear(name):
        act = getattr(shelves, name)

        def heard(*words):
            told.append((name, *(word.id.partition("+")[2] for word in words if isinstance(word, Entry))))
            return act(*words)

        setattr(shelves, name, heard)

    for name in ("create", "sync", "end"):
        hear(name)
    play.end(0, 0, tell=True)
    made, ended = told.index(("create", "complete")), told.index(("end", ""))
    assert made < ended
    assert ("sync",) in told[made:ended]


def test_a_batch_and_a_job_of_it_that_are_both_still_to_be_cancelled_after_a_restart_are(play):
    """Their worker is of a dispatcher that is gone: another one is asked to end them, each once."""
    play.submit_many([FREE, FREE], header=False)
    play.pace(0, DEAF)
    (batch,) = (job for job in play.model.jobs.values() if job.members)
    play.do("cancel", batch, play.model.cancelled, now=False)
    play.restart()
    stops = play.theatre.house.stops
    play.theatre.house.stops = {job_id: stops[job_id] for job_id in sorted(stops)}  # the batch first, as may be
    assert len(stops) == 3
    play.settle()
    assert set(states(play).values()) <= {"running"}


def test_a_dead_job_of_a_batch_that_is_being_cancelled_waits_for_that(play):
    """Else it would be cancelled with the batch, if the dispatcher came to be restarted."""
    play.submit_many([FREE, FREE], header=False)
    play.end(0, 1, tell=True)
    play.pace(0, HEARS)
    (batch,) = (job for job in play.model.jobs.values() if job.members)
    play.do("cancel", batch, play.model.cancelled, now=False)
    play.retry(1)
    assert states(play)["1"] == "dead"
