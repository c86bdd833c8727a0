"""What a job waits for and is unique by is its submitter's: nobody learns of, waits for or replaces another's job."""

import json
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root

TASKS = """
[tasks.own]
command = ["sleep", "1000"]
[tasks.one]
command = ["sleep", "1000"]
unique_scope = "global"
[tasks.copied]
command = ["wc", "-c"]
user = "carl"
submit = ["ann", "bob"]
"""


@pytest.fixture
def system(machine):
    machine.tasks(TASKS)
    machine.start()
    return machine


def asked(system, user, *argv, code=0):
    """What a submission with --json is answered, or what it is refused with."""
    done = system.cronq(user, argv[0], "--json", *argv[1:], code=code)
    return json.loads(done.stdout) if code == 0 else done.stderr


def test_a_job_of_anothers_is_unknown_to_who_waits_for_it(system):
    anns = system.submit("ann", "exec", "--", "sleep", "1000")
    eventually(lambda: list(Path(SPOOL, "queue", "running").glob(f"*,{anns},*")))
    system.submit("bob", "exec", "--wait", "--", "true")
    system.drop("bob", "spy", {"command": ["true"], "after_any": [anns]})
    assert system.rejected("bob", "spy").startswith(f"after_any names the unknown job '{anns}'\n")
    never = anns[:-8] + "a" * 8
    system.drop("bob", "none", {"command": ["true"], "after_any": [never]})
    assert system.rejected("bob", "none").startswith(f"after_any names the unknown job '{never}'\n")


def test_the_same_key_of_another_user_is_another_key(system):
    for how in ("attach", "replace", "ignore"):
        first = asked(system, "ann", "submit", "--unique", how, "--on-conflict", how, "--delay", "1h", "own")
        second = asked(system, "bob", "submit", "--unique", how, "--on-conflict", how, "--delay", "1h", "own")
        assert "conflict" not in second
        assert json.loads(system.cronq("ann", "show", "--json", first["id"]).stdout)["state"] == "delayed"


def test_a_key_that_is_everybodys_is_refused_to_another_whatever_he_asks_for_and_tells_nothing(system):
    first = asked(system, "ann", "submit", "--unique", "k", "--delay", "1h", "one")
    for how in ("ignore", "reject", "attach", "replace", "debounce=1s", "throttle=1s", "requeue-once"):
        refused = asked(system, "bob", "submit", "--unique", "k", "--on-conflict", how, "one", code=73)
        assert "another user's job has this unique key" in refused
        assert first["id"] not in refused
    assert asked(system, "ann", "submit", "--unique", "k", "one") == {"id": first["id"], "conflict": True}
    system.cronq("ann", "cancel", first["id"])
    assert "conflict" not in asked(system, "bob", "submit", "--unique", "k", "one")


def test_a_key_is_taken_while_a_jobs_input_is_copied(system):
    """Its task runs as somebody else: the input is copied, and the job placed turns later."""
    system.submit("ann", "exec", "--wait", "--", "true")
    inbox = system.inbox("ann")
    script = (
        "for n in 1 2; do truncate -s 30M $n.data; head -c 30M /dev/zero > $n.data; "
        """echo '{"task": "copied", "unique": "k"}' > .$n.tmp; done; for n in 1 2; do mv .$n.tmp $n.job; done"""
    )
    system.as_user("ann", "sh", "-c", f"umask 027; cd {inbox}; {script}")
    job_id = system.named("ann", "1")
    assert system.result(job_id)["state"] == "done"
    assert system.output(job_id).strip() == str(30 << 20)
    assert "stands for this one" in system.rejected("ann", "2")
