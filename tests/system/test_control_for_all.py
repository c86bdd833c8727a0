"""Several users and one dispatcher: each sees and controls his own jobs by the command line, operators and root all."""

import grp
import json

import pytest
from conftest import eventually

OPERATORS = '[control]\noperators = "ops"\n'


def listed(machine, user, *options):
    found = machine.cronq(user, "list", "--json", *options).stdout
    return [json.loads(line)["id"] for line in found.splitlines()]


@pytest.fixture
def jobs(machine):
    """A job of ann's and one of bob's, both running."""
    machine.tasks(OPERATORS)
    machine.start()
    found = {user: machine.submit(user, "exec", "--", "sleep", "300") for user in ("ann", "bob")}
    eventually(lambda: json.loads(machine.cronq("root", "stats", "--json").stdout)["running"] == 2)
    return found


def test_neither_of_two_users_sees_or_controls_the_others_jobs(machine, jobs):
    for user, other in (("ann", "bob"), ("bob", "ann")):
        assert listed(machine, user) == [jobs[user]]
        assert json.loads(machine.cronq(user, "stats", "--json").stdout)["running"] == 1
        for command in ("show", "cancel", "hold", "logs", "wait"):
            answers = []
            for job in (jobs[other], jobs[other][:-8] + "nothing"):
                done = machine.cronq(user, command, job, code=65)
                answers.append((done.stdout, done.stderr.replace(job, "ID")))
            assert answers[0] == answers[1] == ("", "cronq: unknown job 'ID'\n"), command
        assert machine.cronq(user, "cancel", jobs[other][-8:], code=65)
    assert json.loads(machine.cronq("root", "stats", "--json").stdout)["running"] == 2


def test_operators_and_root_see_whose_jobs_run_and_end_them(machine, jobs):
    for user in ("root", "carl"):
        rows = [line.split("\t") for line in machine.cronq(user, "list").stdout.splitlines()]
        assert {(row[0], row[1]) for row in rows} == {(jobs["ann"], "ann"), (jobs["bob"], "bob")}
        assert listed(machine, user, "--user", "bob") == [jobs["bob"]]
        assert listed(machine, user, "--mine") == []
    assert machine.cronq("carl", "cancel", jobs["ann"][-8:]).stdout == f"{jobs['ann']}\tcancelling\n"
    assert machine.result(jobs["ann"])["state"] == "cancelled"
    assert json.loads(machine.cronq("carl", "result", "--json", jobs["ann"]).stdout)["state"] == "cancelled"
    assert "only its owner and root" in machine.cronq("carl", "logs", jobs["ann"], code=77).stderr
    assert machine.cronq("root", "logs", jobs["ann"]).stdout == ""
    assert machine.cronq("ann", "wait", jobs["ann"], code=143)
    assert machine.cronq("bob", "list", "--user", "ann", code=77).stderr.count("\n") == 1


def test_who_becomes_an_operator_is_one_and_the_group_cronq_never_is(machine, jobs):
    done = machine.cronq("bob", "list", "--user", "ann", code=None, extra_groups=[grp.getgrnam("ops").gr_gid])
    assert done.returncode == 0
    assert jobs["ann"] in done.stdout
    done = machine.cronq("bob", "list", "--user", "ann", code=None, extra_groups=[grp.getgrnam("cronq").gr_gid])
    assert done.returncode == 77


def test_a_named_job_is_found_by_its_name_by_its_owner_and_by_operators(machine):
    machine.tasks(OPERATORS)
    machine.start()
    alias = machine.submit("ann", "exec", "--name", "nightly", "--", "true")
    assert alias == f"{machine.uids['ann']}-nightly"
    machine.cronq("ann", "wait", alias)
    job = json.loads(machine.cronq("ann", "show", "--json", "nightly").stdout)["id"]
    for text in (alias, "nightly"):
        assert json.loads(machine.cronq("carl", "show", "--json", text).stdout)["id"] == job
        machine.cronq("bob", "show", text, code=65)


def test_a_job_can_be_cancelled_from_the_moment_on_that_it_is_queued(machine):
    machine.start("--no-inotify", whole=True)
    for _ in range(3):
        script = 'job=$(cronq exec --delay 1h true) && cronq cancel "$job"'
        assert machine.as_user("ann", "sh", "-c", script).stdout.endswith("\tcancelled\n")
