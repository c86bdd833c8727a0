"""What a dispatcher makes of files that were not flushed when the power went: found by tests/torture."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import eventually


def reboot(world):
    """Have the next dispatcher find that the machine has been started again."""
    file = world.spool / "schedule" / "boot.json"
    said = json.loads(eventually(lambda: file.exists() and file.read_text()))
    file.write_text(json.dumps(said | {"boot": "another"}))


def cut(world, daemon):
    """End the launcher, its dispatcher and its workers in one moment."""
    for name in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        os.kill(int(name), signal.SIGKILL)
    daemon.kill()
    daemon.wait()


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b'{"id": "', b'{"step":"starting","t":1}\n'])
def test_a_result_that_did_not_reach_the_disk_is_written_again_from_the_history(world, left):
    daemon = world.start()
    jobs = [world.submit("exec", "--", "sh", "-c", f"exit {code}") for code in (0, 65)]
    jobs.append(world.submit("exec", "--delay", "1h", "--", "true"))
    world.run("cancel", jobs[2])
    before = [world.result(each) for each in jobs]
    cut(world, daemon)
    for each in jobs:
        (world.results(each) / "result.json").write_bytes(left)
    reboot(world)
    world.start()
    eventually(lambda: all((world.results(each) / "result.json").read_bytes() not in (left, b"") for each in jobs))
    after = [world.result(each) for each in jobs]
    assert [each["state"] for each in after] == ["done", "dead", "cancelled"]
    rough = {"due", "ended"}  # as near as the history tells
    for old, new in zip(before, after, strict=True):
        assert {key: new.get(key) for key in old if key not in rough} == {key: old[key] for key in old.keys() - rough}
        assert old["state"] == "cancelled" or abs(old["due"] - new["due"]) < 1


def test_a_job_that_ended_unstarted_and_of_whose_end_nothing_is_known_is_cancelled_with_a_reason(world):
    daemon = world.start()
    job = world.submit("exec", "--delay", "1h", "--", "true")
    world.run("cancel", job)
    world.result(job)
    cut(world, daemon)
    (world.results(job) / "result.json").write_bytes(b"")
    for file in (world.spool / "history").iterdir():
        file.write_text("".join(line for line in file.read_text().splitlines(True) if '"cancelled"' not in line))
    reboot(world)
    world.start()
    found = world.result(job)
    assert found["state"] == "cancelled"
    assert "not on disk yet" in found["reason"]


def test_an_at_most_once_job_whose_outcome_did_not_reach_the_disk_is_dead_not_run_again(world, tmp_path):
    daemon = world.start()
    ran, mended = tmp_path / "ran", tmp_path / "mended"
    script = f"echo >> {ran}; while [ ! -e {mended} ]; do sleep 0.01; done"
    world.drop("job", {"command": ["sh", "-c", script], "delivery": "at-most-once"})
    eventually(ran.exists)
    cut(world, daemon)
    mended.touch()
    (outcome,) = (world.spool / "queue" / "outcome").iterdir()
    outcome.write_bytes(b"")
    reboot(world)
    world.start()
    (folder,) = (world.spool / "out" / str(world.uid)).iterdir()
    assert world.result(folder.name)["state"] == "dead"
    assert ran.read_text() == "\n"


def test_of_a_move_whose_two_names_reached_the_disk_the_earlier_is_taken_away(world):
    daemon = world.start()
    job = world.submit("exec", "--delay", "1h", "--", "true")
    world.run("hold", job)
    cut(world, daemon)
    (held,) = [path for path in (world.spool / "queue" / "held").rglob("*") if job in path.name]
    (folder,) = (world.spool / "queue" / "delayed").iterdir()
    (folder / held.name).hardlink_to(held)
    world.start()
    found = [path for path in (world.spool / "queue").rglob("*") if job in path.name]
    assert found == [held]
    assert held.stat().st_nlink == 1
