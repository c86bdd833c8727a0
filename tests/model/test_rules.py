"""Rules of the queue, turn by turn: a real dispatcher whose time is an argument and whose workers are played."""

import json

import pytest
from players import DEAF, STARTS
from test_model import Calm
from theatre import UID, Cut, Theatre

from cronq.entry import Entry

FREE = {"task": "", "argument": "x"}
TOML = """
[tasks.late]
command = ["true"]
start_within = "1h"
[tasks.again]
command = ["true"]
retries = 1
backoff = { base = "10s", jitter = 0 }
unique = ["task"]
[tasks.key]
command = ["true"]
concurrency = { key = "{args.0}", limit = 1 }
"""


def killed(*_: object) -> None:
    raise Cut


class Stage:
    """A dispatcher and its players, whose jobs are named by letters."""

    def __init__(self) -> None:
        self.theatre = Theatre(TOML, 64, 0.5)
        self.names: dict[str, str] = {}

    def drop(self, letter: str, **fields: object) -> None:
        name = self.names[letter] = f"{self.theatre.micros:013x}-{letter * 8}"
        self.theatre.drop(f"{name}.job", json.dumps(fields).encode())
        self.turns()

    def id(self, letter: str) -> str:
        return f"{UID}-{self.names[letter]}"

    def turns(self) -> None:
        for _ in range(4):
            self.theatre.hear()
            self.theatre.turn()

    def pass_time(self, seconds: float) -> None:
        self.theatre.wall += seconds
        self.theatre.mono += seconds
        self.turns()

    def restart(self) -> None:
        self.theatre.restart()
        self.turns()

    def crash(self) -> None:
        """The worker dies, and all of its jobs are seen dead."""
        self.theatre.cast.known = True
        self.theatre.cast.workers[0].die()
        self.turns()

    def entry(self, letter: str) -> Entry:
        return self.theatre.lying()[self.id(letter)][1]

    def end(self, letter: str, code: int) -> None:
        worker, part = self.theatre.cast.find(self.id(letter))
        assert part.step == "started"
        assert worker.pace == STARTS
        worker.end(part.id, code)
        self.turns()

    def do(self, verb: str, letter: str) -> None:
        assert not self.theatre.ask(do=verb, ids=[self.id(letter)])[0].get("error")
        self.turns()

    def state(self, letter: str) -> str:
        """Where it lies, or how it ended; empty where nothing of it is there."""
        lies = self.theatre.lying().get(self.id(letter))
        return lies[0] if lies is not None else (self.theatre.result(self.id(letter)) or {}).get("state", "")


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.theatre.close()


def test_each_change_of_a_jobs_state_is_one_line_of_the_history_with_its_cause(stage):
    stage.theatre.told()
    stage.drop("a", task="again", delay=5)
    stage.do("hold", "a")
    stage.do("release", "a")
    stage.pass_time(6)
    stage.end("a", 1)
    stage.pass_time(11)
    stage.end("a", 65)
    told = [(line["from"], line["to"], line.get("cause")) for line in stage.theatre.told()]
    assert [(source, to) for source, to, _ in told] == [
        ("queued", "delayed"),
        ("delayed", "held"),
        ("held", "delayed"),
        ("delayed", "ready"),
        ("ready", "running"),
        ("running", "delayed"),
        ("delayed", "ready"),
        ("ready", "running"),
        ("running", "dead"),
    ]
    assert [cause for _, to, cause in told if to in ("held", "dead")] == [
        "held by hand; cronq release lets it go on",
        "exit code 65: its input is bad, so it is never tried again",
    ]
    assert told[5][2] == "exit code 1"


def test_a_crash_is_tried_again_by_the_backoff_never_at_once_and_uses_no_attempt(stage):
    stage.drop("a", task="again")
    stage.crash()
    kept = stage.entry("a")
    assert (stage.state("a"), kept.attempt, kept.crashes) == ("delayed", 0, 1)
    assert kept.due == stage.theatre.micros + 10_000_000
    stage.pass_time(11)
    stage.end("a", 1)
    assert stage.state("a") == "delayed"  # its one retry is left


def test_a_cancel_wins_over_a_retry(stage):
    stage.drop("a", task="again")
    stage.do("cancel", "a")
    assert stage.state("a") == "running"  # it was told, and ends in its own way
    stage.end("a", 1)
    assert stage.state("a") == "cancelled"
    stage.drop("b", task="again")
    stage.end("b", 1)
    assert stage.state("b") == "delayed"
    stage.do("cancel", "b")
    stage.pass_time(11)
    assert stage.state("b") == "cancelled"
    assert stage.theatre.result(stage.id("b"))["state"] == "cancelled"


def test_a_job_that_is_held_sits_for_ever_and_is_released_to_its_original_place(stage):
    for letter in "abcd":
        stage.drop(letter, command=["true"], mutex="m")
        stage.pass_time(1)
    stage.do("hold", "b")
    stage.pass_time(90 * 86400)
    stage.end("a", 0)
    assert [stage.state(letter) for letter in "bcd"] == ["held", "running", "ready"]
    stage.do("release", "b")
    stage.end("c", 0)
    assert [stage.state(letter) for letter in "bd"] == ["running", "ready"]


def test_a_concurrency_key_is_taken_when_a_job_is_due_not_when_it_is_scheduled_and_blocks_no_other_key(stage):
    stage.drop("a", task="key", args=["x"], delay=10)
    stage.drop("b", task="key", args=["x"])
    assert [stage.state(letter) for letter in "ab"] == ["delayed", "running"]
    stage.pass_time(11)
    stage.drop("c", task="key", args=["y"])
    assert [stage.state(letter) for letter in "abc"] == ["ready", "running", "running"]
    stage.end("b", 0)
    assert stage.state("a") == "running"


@pytest.mark.parametrize("said", [{}, {"start_within": "2h"}, {"expires": "2100-01-01"}])
def test_start_within_a_job_that_has_not_started_so_long_after_it_was_due_never_runs(stage, said):
    """The task says an hour; what the job says itself goes before."""
    stage.drop("a", task="late", delay="10m", **said)
    stage.do("hold", "a")
    stage.pass_time(600 + 3599)
    assert stage.state("a") == "held"
    stage.pass_time(2)
    assert stage.state("a") == ("held" if said else "expired")


def test_start_within_goes_along_when_a_job_is_edited_and_a_job_that_somebody_retries_does_not_expire_at_once(stage):
    stage.drop("a", command=["true"], start_within="1h", delay="10m")
    began = stage.entry("a").expires
    assert not stage.theatre.ask(do="edit", ids=[stage.id("a")], delay="2h")[0].get("error")
    assert stage.entry("a").expires == began + 110 * 60 * 10**6
    assert not stage.theatre.ask(do="edit", ids=[stage.id("a")], expires="2100-01-01")[0].get("error")
    assert stage.entry("a").expires > began + 10**15
    stage.drop("b", task="late")
    stage.end("b", 1)
    stage.pass_time(86400)
    stage.do("retry", "b")
    assert stage.state("b") == "running"


LAPSED = "expired before its next attempt; the last one: "


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_a_job_of_which_an_attempt_failed_is_a_dead_letter_when_it_expires_and_one_that_never_started_is_not(
    stage, crashed, held
):
    said = {"retries": 1, "backoff": {"base": "10s", "jitter": 0}, "start_within": "5s"}
    stage.drop("a", command=["true"], **said)
    stage.drop("b", command=["true"], after=[stage.id("a")])
    stage.drop("c", command=["true"], start_within="5s", delay=1)
    stage.do("hold", "c")
    stage.crash() if crashed else stage.end("a", 1)
    for _ in range(held):
        stage.do("hold", "a")
    stage.theatre.told()
    stage.pass_time(6)
    assert [stage.state(each) for each in "abc"] == ["dead", "skipped", "expired"]
    found = stage.theatre.result(stage.id("a"))
    why = "its worker died in mid-job; the job was ended too" if crashed else "exit code 1"
    assert found["reason"] == LAPSED + why
    assert found["exit_code"] == (None if crashed else 1)
    (last,) = [line for line in stage.theatre.told() if line["id"] == stage.id("a")]
    assert (last["from"], last["to"]) == ("held" if held else "delayed", "dead")
    assert last["cause"] == found["reason"]
    (shown,) = stage.theatre.ask(do="show", id=stage.id("a"))
    assert [each.get("reason") for each in shown["attempts"]] == [why]
    stage.do("retry", "a")
    assert [stage.state(each) for each in "ab"] == ["running", "waiting"]


def test_a_job_that_only_put_itself_off_has_expired_and_one_whose_dead_letter_a_crash_cut_is_one(stage):
    said = {"retries": 1, "backoff": {"base": "10s", "jitter": 0}, "start_within": "5s"}
    stage.drop("a", command=["true"], **said)
    stage.drop("b", command=["true"], **said)
    stage.end("a", 1)
    worker, part = stage.theatre.cast.find(stage.id("b"))
    part.write("ended", exit_code=75, snooze=10, reason=None)
    worker.die()
    stage.turns()

    def cut(name):
        if name == "lapsed":
            killed()

    stage.theatre.wall += 6
    stage.theatre.house.step = cut
    with pytest.raises(Cut):
        stage.theatre.turn()
    stage.theatre.wall -= 6  # nor does the clock change what somebody may have read
    stage.restart()
    assert stage.state("a") == "dead"
    stage.pass_time(6)
    assert stage.state("b") == "expired"
    assert [stage.theatre.result(stage.id(each))["state"] for each in "ab"] == ["dead", "expired"]


def test_what_waits_for_a_job_waits_on_while_that_is_tried_again(stage):
    stage.drop("a", task="again")
    stage.drop("b", command=["true"], after=[stage.id("a")])
    stage.drop("c", command=["true"], after_fail=[stage.id("a")])
    stage.end("a", 1)
    assert [stage.state(each) for each in "abc"] == ["delayed", "waiting", "waiting"]
    stage.pass_time(11)
    stage.end("a", 0)
    assert [stage.state(each) for each in "abc"] == ["done", "running", "skipped"]


def test_a_job_that_is_tried_again_keeps_its_id_and_its_key_and_a_revived_one_has_all_its_attempts(stage):
    stage.drop("a", task="again")
    stage.end("a", 1)
    stage.drop("b", task="again")
    assert stage.state("b") == ""  # left out: the key is taken by one that waits for its further attempt
    stage.pass_time(11)
    stage.end("a", 1)
    assert stage.state("a") == "dead"
    stage.do("retry", "a")
    assert stage.state("a") == "running"
    stage.end("a", 1)
    assert stage.state("a") == "delayed"
    assert f"the same as {stage.id('a')}" in stage.theatre.reason(stage.names["b"])


def test_a_unique_key_is_free_again_when_a_job_has_crashed_that_was_to_keep_it_until_it_started(stage):
    stage.drop("a", command=["true"], unique="k", unique_until="start")
    stage.crash()
    assert stage.state("a") == "delayed"
    stage.drop("b", command=["true"], unique="k", unique_until="start")
    assert stage.state("b") == "running"


def test_a_unique_key_is_kept_for_its_time_from_when_its_job_was_first_due_over_an_edit_and_a_restart(stage):
    stage.drop("a", command=["true"], unique="k", unique_for="10s")
    stage.drop("b", command=["true"], unique="j", unique_for="10s", delay=5)
    assert not stage.theatre.ask(do="edit", ids=[stage.id("b")], delay="2h")[0].get("error")
    stage.end("a", 0)
    stage.pass_time(5)
    stage.restart()
    stage.drop("c", command=["true"], unique="k")
    assert stage.state("c") == ""  # it is left out
    stage.pass_time(20)
    stage.restart()
    stage.do("cancel", "b")
    stage.drop("d", command=["true"], unique="j")
    assert stage.state("d") == "running"


@pytest.mark.parametrize("restarted", [False, True])
def test_of_two_that_have_a_unique_key_the_one_that_waits_is_replaced_also_after_a_restart(stage, restarted):
    """Somebody retried a dead one while another waited."""
    stage.drop("a", command=["true"], unique="k")
    stage.end("a", 1)
    stage.pass_time(1)
    stage.drop("b", command=["true"], unique="k", delay=60)
    stage.do("retry", "a")
    assert [stage.state(each) for each in "ab"] == ["running", "delayed"]
    for letter, older in ("c", "b"), ("d", "c"):
        stage.pass_time(1)
        stage.drop(letter, command=["true"], unique="k", delay=60, on_conflict="replace")
        assert [stage.state(each) for each in ("a", older, letter)] == ["running", "cancelled", "delayed"]
        for _ in range(restarted):  # else the one that runs has had the key for longer by then
            stage.restart()


def test_a_job_that_is_to_be_cancelled_and_never_started_is_cancelled_though_it_has_expired_since(stage):
    stage.drop("b", command=["true"])
    worker = stage.theatre.cast.workers[0]
    worker.pace = DEAF
    stage.drop("a", command=["true"], start_within="5s")
    stage.do("cancel", "a")
    stage.theatre.wall += 10
    worker.die()
    stage.turns()
    assert stage.state("a") == "cancelled"


def test_what_waits_for_a_job_that_was_skipped_is_skipped_and_revived_with_it(stage):
    stage.drop("a", command=["true"])
    stage.drop("b", command=["true"], after=[stage.id("a")])
    stage.drop("c", command=["true"], after=[stage.id("b")])
    stage.drop("d", command=["true"], after_fail=[stage.id("c")])
    stage.end("a", 1)
    assert [stage.state(each) for each in "abcd"] == ["dead", "skipped", "skipped", "running"]
    stage.do("retry", "a")
    assert [stage.state(each) for each in "abcd"] == ["running", "waiting", "waiting", "running"]
    stage.end("a", 0)
    assert [stage.state(each) for each in "abcd"] == ["done", "running", "waiting", "running"]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_skipped_stays_so_where_somebody_removed_what_it_was_to_run_after_also_after_a_restart(
    stage, restarted
):
    for letter, code in ("a", 1), ("b", 0):
        stage.drop(letter, command=["true"])
        stage.end(letter, code)
    stage.drop("c", command=["true"], after=[stage.id("b"), stage.id("a")])
    assert stage.state("c") == "skipped"
    stage.do("rm", "b")
    for _ in range(restarted):
        stage.restart()
    stage.do("retry", "a")
    stage.end("a", 0)
    assert [stage.state(each) for each in "abc"] == ["done", "", "skipped"]


def test_an_attempt_that_never_started_is_not_taken_for_an_earlier_one_of_the_same_number(stage):
    """The dispatcher is killed when it has marked the job as running, before its worker or the history hears of it."""
    stage.drop("a", task="again")
    stage.crash()
    stage.theatre.wall += 11
    stage.theatre.mono += 11
    stage.theatre.hear()
    stage.theatre.house.crew.run = killed
    with pytest.raises(Cut):
        stage.theatre.turn()
    assert (stage.state("a"), stage.entry("a").attempt) == ("running", 1)
    stage.restart()
    assert (stage.state("a"), stage.entry("a").attempt, stage.entry("a").crashes) == ("running", 1, 1)
    stage.end("a", 0)


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
