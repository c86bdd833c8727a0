"""Editing, releasing and starting now where there are many users: each his own jobs, as far as their task lets him."""

import json

import pytest

pytestmark = pytest.mark.root

TOML = """[control]
operators = "ops"
[tasks.who]
command = ["id", "-un"]
user = "bob"
submit = ["ann"]
[tasks.free]
command = ["id", "-un"]
user = "bob"
submit = ["ann"]
allow = ["queue"]
"""


def test_each_edits_his_own_jobs_within_what_their_task_lets_him_set_and_operators_start_them_now(machine):
    machine.tasks(TOML)
    machine.start()
    strict = machine.submit("ann", "submit", "--delay", "1h", "who")
    loose = machine.submit("ann", "submit", "--delay", "1h", "free")
    said = machine.cronq("ann", "edit", "--queue", "fast", strict, code=77).stderr
    assert "queue: the task who lets no submitter set that" in said
    machine.cronq("root", "edit", "--queue", "fast", strict, code=77)
    machine.cronq("ann", "edit", "--queue", "fast", loose)
    machine.cronq("ann", "edit", "--priority", "high", strict)
    shown = [json.loads(machine.cronq("ann", "show", "--json", job).stdout) for job in (strict, loose)]
    assert [(each["queue"], each["priority"]) for each in shown] == [("default", 10), ("fast", 0)]
    for verb in (("edit", "--priority", "1"), ("release", "-r"), ("hold",)):
        assert "unknown job" in machine.cronq("bob", *verb, strict, code=65).stderr
    for user in ("ann", "bob"):
        said = machine.cronq(user, "start", "--now", strict, code=77).stderr
        assert said == "cronq: only root and operators ([control] operators in cronq.toml) start a job past its gates\n"
    machine.cronq("carl", "pause", "task:who")
    said = machine.cronq("carl", "start", "--now", strict).stdout
    assert said.endswith("; task who is paused\n")
    assert machine.output(strict) == "bob\n"
    machine.cronq("ann", "edit", "--delay", "0s", loose)
    assert machine.output(loose) == "bob\n"
