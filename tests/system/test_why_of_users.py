"""Where many share a spool: who asks why hears of another user's job only that it is another user's."""

import json

import pytest
from conftest import eventually

pytestmark = pytest.mark.root


def test_another_users_job_is_only_that_and_his_own_is_unknown_to_others_but_operators_see_all(machine):
    machine.tasks('[control]\noperators = "ops"\n[queues.one]\nslots = 1\n')
    machine.start()
    first = machine.submit("ann", "exec", "--queue", "one", "--", "sleep", "300")
    eventually(lambda: json.loads(machine.cronq("root", "stats", "--json").stdout)["running"] == 1)
    second = machine.submit("bob", "exec", "--queue", "one", "--", "true")
    told = machine.cronq("bob", "why", second).stdout
    assert "all slots of queue one are taken (1)" in told
    assert "\n    held by another user's job\n" in told
    assert "ann" not in told
    assert first not in machine.cronq("bob", "why", "--json", second).stdout
    for operator in ("carl", "root"):
        assert f"\n    held by {first} (running)\n" in machine.cronq(operator, "why", second).stdout
    answers = [machine.cronq("bob", "why", job, code=65) for job in (first, first[:-8] + "nothing0")]
    assert [done.stderr for done in answers] == [
        f"cronq: unknown job '{job}'\n" for job in (first, first[:-8] + "nothing0")
    ]
    machine.cronq("carl", "hold", second)
    assert "(by carl)" in machine.cronq("bob", "why", second).stdout


def test_what_a_dead_job_printed_is_for_its_owner_and_root_and_for_no_operator(machine):
    machine.tasks('[control]\noperators = "ops"\n')
    machine.start()
    job_id = machine.submit("ann", "exec", "--", "sh", "-c", "echo secret >&2; exit 1")
    eventually(lambda: json.loads(machine.cronq("ann", "show", "--json", job_id).stdout)["state"] == "dead")
    told = {user: json.loads(machine.cronq(user, "why", "--json", job_id).stdout) for user in ("ann", "root", "carl")}
    lines = {user: said["last_lines"] for user, said in told.items()}
    assert lines == {"ann": ["secret"], "root": ["secret"], "carl": []}
    assert told["carl"]["why"] == told["ann"]["why"]
