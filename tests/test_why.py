"""`cronq why`: what people are told of a job that does not start, and of one that has ended."""

import json
import re

from conftest import eventually

TASKS = """
[queues.one]
slots = 1
[tasks.flaky]
shell = "echo it is broken >&2; exit 3"
retries = 1
backoff = {base = "1s", jitter = 0}
"""


def told(world, *argv: str, **how) -> str:
    return world.run("why", *argv, **how).stdout


def test_a_waiting_job_is_told_who_holds_its_queue_and_until_when_and_then_that_it_is_done(world):
    world.tasks(TASKS)
    world.start()
    gate = world.path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    first = world.submit("exec", "--queue", "one", "--timeout", "1h", "--", "sh", "-c", wait)
    eventually(lambda: json.loads(told(world, first, "--json")).get("since"))
    second = world.submit("exec", "--queue", "one", "--", "true")
    lines = told(world, second).splitlines()
    assert lines[0] == f"{second} true is ready, and does not start:"
    assert re.fullmatch(r"  all slots of queue one are taken \(1\); it opens at [-\d]+ [:\d]+ at the latest", lines[1])
    assert re.fullmatch(rf"    held by {first} \(running, until [-\d]+ [:\d]+ at the latest\)", lines[2])
    assert re.fullmatch(r"what happened:\n  [-\d]+ [:\d]+  queued", "\n".join(lines[3:]))
    running = told(world, first[-8:]).splitlines()
    assert re.search(r" is running: attempt 1 of 1 runs, until [-\d]+ [:\d]+ at the latest$", running[0])
    assert re.match(r"  since [-\d]+ [:\d]+, as \w+$", running[1])
    gate.touch()
    world.result(second)
    assert told(world, second).splitlines()[0] == f"{second} true is done: exit code 0"


def test_a_dead_job_tells_each_attempt_and_its_last_words_and_a_skipped_one_because_of_whom(world):
    world.tasks(TASKS)
    daemon = world.start()
    job = world.submit("submit", "flaky")
    child = world.submit("exec", "--after", job, "--", "true")
    found = eventually(lambda: world.run("show", "--json", job).stdout.count('"dead"') and told(world, job))
    assert f"{job} flaky is dead: exit code 3 (attempt 2 of 2)\n" in found
    assert f"  cronq retry {job} runs it again\nwhat it printed last:\n  it is broken\n" in found
    assert [line[23:] for line in found.splitlines() if "attempt" in line][1:-1] == [
        "attempt 1 started",
        "attempt 1 failed: exit code 3; again at " + found.partition("; again at ")[2][:19],
        "attempt 2 started",
    ]
    eventually(lambda: "is skipped" in told(world, child))
    assert f"\n  since {job} is dead: exit code 3 (attempt 2 of 2)\n" in told(world, child)
    world.stop()
    daemon.wait()
    assert told(world, job) == f"{job} flaky is dead: exit code 3 (attempt 2 of 2)\n"
    assert "no dispatcher is running" in world.run("why", f"{world.uid}-nothing", code=69).stderr


def test_a_job_that_is_none_is_unknown(world):
    world.start()
    assert "unknown job" in world.run("why", f"{world.uid}-065f0c2a1b3c4-k3x9q2ab", code=65).stderr
