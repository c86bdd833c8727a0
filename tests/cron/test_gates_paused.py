"""What a dispatcher is asked about its gates, without starting any job: who may pause them, when a pause ends."""

import pytest
from bench import UTC

from cronq import force, states, verbs
from cronq.caller import Caller
from cronq.entry import START_NOW
from cronq.errors import NotPermitted, UnknownJob, UsageError
from cronq.house import Now
from cronq.pauses import FOR_EVER, Pause, Pauses


def ask(bench, caller=None, **request):
    who = caller or Caller(bench.uid, everything=True)
    return [each for each in verbs.answer(verbs.Ask(bench.house, who, request, Now(UTC, UTC))) if each is not None]


def test_the_dispatcher_is_woken_when_a_pause_ends(bench):
    ask(bench, do="pause", gate="queue:x", until=UTC + 0.25)
    assert bench.turn(UTC) <= 0.25
    bench.house.paused_until = 0.0
    bench.turn(UTC + 0.25)
    assert bench.house.pauses.gates == {}


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "pause", "gate": "queue:x"},
        {"do": "resume", "gate": "task:t"},
        {"do": "drain"},
        {"do": "drain", "refuse": True},
        {"do": "drain", "end": True},
    ],
    ids=str,
)
def test_queues_tasks_and_the_whole_are_only_roots_and_operators_to_stop(bench, request_):
    bench.toml('[tasks.t]\ncommand = ["true"]\n')
    with pytest.raises(NotPermitted, match="only root and operators"):
        ask(bench, caller=Caller(bench.uid), **request_)
    assert bench.house.pauses.gates == {}


@pytest.mark.parametrize("gate", ["x", "queue:", "queue:a/b", "drain", "refuse", "entry:x", ["queue:x"], None, 5])
def test_a_gate_is_a_queue_or_a_task(bench, gate):
    with pytest.raises(UsageError, match="like queue:mail"):
        ask(bench, do="pause", gate=gate)


def test_everybody_is_told_what_is_paused_but_not_by_whose_job(bench):
    bench.house.pauses.fail("queue:x", f"{bench.uid}-0661017c581d9-aaaaaaaa")
    (told,) = ask(bench, do="gates")
    assert told["job"].startswith(f"{bench.uid}-")
    (told,) = ask(bench, caller=Caller(bench.uid + 1), do="gates")
    assert "job" not in told
    assert told["why"] == "queue x is paused, because a job of it ended dead"


def test_a_queue_that_only_others_jobs_stand_in_is_unknown_to_a_user(bench):
    bench.toml('[tasks.t]\ncommand = ["true"]\nqueue = "known"\n')
    assert [each["gate"] for each in ask(bench, do="gates", like="known")] == ["queue:known"]
    assert ask(bench, do="gates", like="unknown") == []


def test_a_failure_makes_a_pause_of_a_while_one_for_ever_and_what_the_disk_refused_is_written_later(bench, monkeypatch):
    pauses = bench.house.pauses
    pauses.begin("queue:x", Pause(UTC + 60))
    with monkeypatch.context() as patched:
        patched.setattr(bench.house.shelves, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert pauses.fail("queue:x", "1-a")
        with pytest.raises(OSError, match="full"):
            pauses.save()
        assert pauses.gates["queue:x"] == Pause(FOR_EVER, "1-a")
    assert not pauses.fail("queue:x", "1-b")
    assert Pauses(bench.house.shelves).gates["queue:x"] == Pause(UTC + 60)
    bench.turn(UTC)
    assert Pauses(bench.house.shelves).gates["queue:x"] == Pause(FOR_EVER, "1-a")


def test_a_task_that_is_gone_can_be_resumed_still(bench):
    bench.house.pauses.begin("task:gone", Pause())
    with pytest.raises(UnknownJob):
        ask(bench, do="pause", gate="task:other")
    assert ask(bench, do="resume", gate="task:gone")[0]["was"] is True


def test_what_is_to_start_now_waits_for_its_worker_and_never_starts_when_it_has_expired(bench):
    """Nobody gives this dispatcher a worker. More may expire at once than one turn ends: this one is still there."""
    inbox = bench.root / "in" / str(bench.uid)
    draft = inbox / ".x.tmp"
    draft.write_text('{"command": ["true"]}')
    draft.rename(inbox / "x.job")
    bench.turn(UTC)
    (entry,) = bench.house.backlog.entries(states.READY)
    started = []
    bench.house.paused_until = 0.0
    for expires, state in ((0, states.READY), (1, None)):
        bench.house.shelves.rename(states.READY, entry, entry := entry.but(expires=expires).flagged(START_NOW))
        bench.house.backlog.put(states.READY, entry)
        force.launch(bench.house, Now(UTC, UTC), [], lambda _house, _now, each: started.append(each))
        assert (bench.house.backlog.find(entry.id) or (None,))[0] == state
    assert started == []


def test_that_a_pause_freezes_is_kept_and_which_attempts_stand_still_is_forgotten_with_them(bench):
    """A job that is retried by hand begins with its first attempt again, and that one has been told nothing."""
    bench.house.pauses.begin("task:t", Pause(frozen=True))
    assert Pauses(bench.house.shelves).gates == {"task:t": Pause(FOR_EVER, "", frozen=True)}
    assert bench.house.pauses.fail("task:t", "1-a") is False
    bench.house.frozen.add((f"{bench.uid}-gone", 1))
    bench.turn(UTC)
    assert bench.house.frozen == set()


def test_a_ready_job_whose_priority_is_edited_stays_ready_though_the_clock_was_set_back(bench):
    inbox = bench.root / "in" / str(bench.uid)
    (inbox / ".y.tmp").write_text('{"command": ["true"]}')
    (inbox / ".y.tmp").rename(inbox / "y.job")
    bench.turn(UTC + 100)
    (entry,) = bench.house.backlog.entries(states.READY)
    (told,) = ask(bench, do="edit", ids=[entry.id], priority=3)
    assert told == {"id": entry.id, "state": "ready"}
    assert bench.house.backlog.find(entry.id)[1].priority == 3
