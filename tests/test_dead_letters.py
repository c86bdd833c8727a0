"""Dead letters: listed, looked into, and retried or removed together, by state, task and time."""

import json
import os

import pytest
from conftest import World
from desk import ANN, BOB, CAROL, Desk

from cronq import states
from cronq.entry import Entry

TASKS = """
[tasks.flaky]
shell = 'echo trouble with "$1" >&2; test -e "$2"'
retries = 1
backoff = { base = 0.01, jitter = 0 }
[tasks.other]
shell = "exit 3"
"""


@pytest.fixture(scope="module")
def morgue(tmp_path_factory):
    """A dispatcher, and who died there: three of one task, two of another."""
    world = World(tmp_path_factory.mktemp("dead"))
    world.tasks(TASKS)
    world.start()
    world.flag = world.path / "mended"
    argv = [["flaky", str(number), str(world.flag)] for number in range(3)] + [["other"], ["other"]]
    world.dead = [world.submit("submit", *each) for each in argv]
    for each in world.dead:
        assert world.result(each)["state"] == "dead"
    yield world
    world.stop()


def told(world, *argv):
    return [json.loads(line) for line in world.run(*argv, "--json").stdout.splitlines()]


def test_a_dead_letter_tells_its_reason_its_last_lines_and_when_each_attempt_ran(morgue):
    assert {each["id"] for each in told(morgue, "list", "--state", "dead")} == set(morgue.dead)
    (found,) = told(morgue, "show", morgue.dead[1])
    assert found["reason"] == "exit code 1 (attempt 2 of 2)"
    assert found["last_stderr"] == ["trouble with 1"]
    assert [each["attempt"] for each in found["attempts"]] == [1, 2]
    assert found["attempts"][0]["ended"] <= found["attempts"][1]["started"]
    text = morgue.run("show", morgue.dead[1]).stdout
    assert text.count("\nattempts:") == 2
    assert "\nlast_stderr:   trouble with 1\n" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "write ids, or choose jobs by --state"),
        (["--task", "flaky"], "need --state beside them"),
        (["--state", "done"], "only dead goes here"),
        (["--state", "dead", "1-x"], "not both"),
        (["--state", "dead", "--since", "soon"], "--since must be a time"),
    ],
)
def test_a_choice_that_says_too_little_or_too_much_is_refused(morgue, options, said):
    assert said in morgue.run("retry", *options, code=2).stderr


def test_dead_letters_are_retried_together_by_task_and_time_the_first_n(morgue):
    flaky, other = morgue.dead[:3], morgue.dead[3:]
    assert told(morgue, "retry", "--state", "dead", "--task", "none") == []
    assert told(morgue, "retry", "--state", "dead", "--since", "0s") == []
    morgue.flag.touch()
    again = told(morgue, "retry", "--state", "dead", "--task", "flaky", "--since", "1d", "-n", "2")
    assert again == [{"id": each, "state": "ready"} for each in flaky[:2]]
    morgue.run("wait", *flaky[:2])
    assert {each["id"] for each in told(morgue, "list", "--state", "dead")} == {flaky[2], *other}
    removed = told(morgue, "rm", "--state", "dead", "--task", "other")
    assert {each["id"] for each in removed} == set(other)
    assert {each["state"] for each in removed} == {"removed"}
    assert [each["id"] for each in told(morgue, "list", "--state", "dead")] == [flaky[2]]
    held = [morgue.submit("exec", "--delay", "1h", "true") for _ in range(3)]
    assert [each["id"] for each in told(morgue, "cancel", "--state", "delayed", "-n", "2")] == held[:2]


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_nobody_chooses_among_jobs_of_others_and_operators_do_not_see_what_they_print():
    desk = Desk()
    try:
        made = {uid: f"{uid}-{0x0660000000000:013x}-k0000000" for uid in (ANN, BOB)}

        def prepare(house):
            for each in made.values():
                entry = Entry(id=each, due=1_700_000_000_000_000, hash="h" * 22)
                assert house.shelves.create(states.DEAD, entry, b"{}")
                house.backlog.put(states.DEAD, entry)
                folder = desk.root / house.shelves.result_folder(entry)
                (folder / "result.json").write_text(json.dumps({"id": each, "state": "dead", "ended": 1}))
                (folder / "stderr").write_text("a secret\n")
            house.stopping = True  # nothing starts

        desk.start(prepare, operators="games")
        seen = {
            (uid, group): desk.ask(uid, group, do="show", id=made[BOB])[0].get("last_stderr")
            for uid, group in ((BOB, ()), (0, ()), (CAROL, (60,)), (ANN, ()))
        }
        assert seen == {(BOB, ()): ["a secret"], (0, ()): ["a secret"], (CAROL, (60,)): None, (ANN, ()): None}
        assert desk.ask(ANN, do="rm", states=["dead"], user=BOB)[-1]["code"] == 77
        assert [each["id"] for each in desk.ask(ANN, do="rm", states=["dead"])[:-1]] == [made[ANN]]
        assert [each["id"] for each in desk.ask(CAROL, (60,), do="rm", states=["dead"])[:-1]] == [made[BOB]]
    finally:
        desk.close()
