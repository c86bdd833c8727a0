"""Lines of several users under one dispatcher: each lists, pauses and runs his own, root and operators all."""

import json

import pytest
from machine import CONFIG

pytestmark = pytest.mark.root

TOML = """[control]
operators = "ops"
[tasks.t]
user = "bob"
command = ["id", "-un"]
[schedules.t]
cron = "7 7 7 7 *"
"""


@pytest.fixture
def tabs(machine):
    """Ann and bob have each a crontab, and a line in root's."""
    machine.tasks(TOML)
    (CONFIG / "cron.d").mkdir()
    table = CONFIG / "cron.d" / "shared"
    table.write_text("# cronq: name=theirs\n5 5 5 5 * ann id -un\n# cronq: name=other\n5 5 5 5 * bob id -un\n")
    table.chmod(0o600)
    machine.start()
    for user in ("ann", "bob"):
        machine.cronq(user, "crontab", "-", input="# cronq: name=mine\n6 6 6 6 * id -un\n")
    return table


def entries(machine, user):
    runs = machine.cronq(user, "next", "--json", "-n", "100").stdout.splitlines()
    return {json.loads(run)["id"] for run in runs}


def lines(machine, user):
    return {each for each in entries(machine, user) if "-cron-" not in each}


def test_each_has_his_own_entries_and_operators_all(machine, tabs):
    assert {each.partition("-")[2][:9] for each in entries(machine, "ann")} == {"tab-mine", "tab-their"}
    assert {each[:4] for each in entries(machine, "ann")} == {"2001"}
    assert {each[:4] for each in entries(machine, "bob")} == {"2002"}
    assert lines(machine, "ann") | lines(machine, "bob") == lines(machine, "carl") == lines(machine, "root")
    others = ("other", "installed/2002:2", "2002-tab-mine", "t")
    for verb, entry in zip(("pause", "resume", "run", "run"), others, strict=True):
        said = machine.cronq("ann", verb, entry, code=65).stderr
        assert "unknown entry" in said or "no queue, task or entry is called" in said
    assert (
        "may mean installed/2001:2 (ann), installed/2002:2 (bob)"
        in machine.cronq("carl", "run", "mine", code=65).stderr
    )
    assert machine.cronq("ann", "pause", "mine").stdout == "mine\tinstalled/2001:2\tpaused\n"
    assert machine.cronq("carl", "pause", "installed/2002:2").stdout == "mine\tinstalled/2002:2\tpaused\n"


def test_what_runs_by_hand_runs_as_whose_it_is_with_its_workers_own_evidence(machine, tabs):
    for user, entry, whose in (
        ("ann", "mine", "ann"),
        ("ann", "theirs", "ann"),
        ("carl", f"{tabs}:4", "bob"),
        ("root", "installed/2002:2", "bob"),
        ("root", "t", "bob"),
    ):
        job = machine.submit(user, "run", entry)
        assert machine.output(job) == f"{whose}\n", entry
    assert machine.cronq("bob", "run", "mine", "--wait").stdout == "bob\n"


def test_a_line_is_tried_as_the_caller_and_only_his_own_is_found(machine, tabs):
    assert "\nann\n# it ended: exit code 0" in machine.cronq("ann", "try", "mine").stdout
    assert "HOME=/home/ann\n" in machine.cronq("ann", "try", "* * * * * id").stdout
    assert "unknown entry" in machine.cronq("bob", "try", "theirs", code=65).stderr


def test_queues_and_tasks_are_paused_by_operators_and_a_users_own_line_of_the_name_by_him(machine, tabs):
    machine.cronq("ann", "crontab", "-", input="# cronq: name=default\n6 6 6 6 * id -un\n")
    assert machine.cronq("ann", "pause", "default").stdout == "default\tinstalled/2001:2\tpaused\n"
    for verb, what in (("pause", "mail"), ("pause", "task:t"), ("drain", "--end")):
        assert "only root and operators" in machine.cronq("ann", verb, what, code=77).stderr
    said = machine.cronq("carl", "pause", "default", code=65).stderr
    assert said == "cronq: 'default' may mean queue:default, installed/2001:2 (ann); say which\n"
    machine.cronq("carl", "pause", "queue:default")
    job = machine.submit("ann", "exec", "--", "id", "-un")
    assert json.loads(machine.cronq("ann", "show", "--json", job).stdout)["reason"] == "queue default is paused"
    machine.cronq("root", "resume", "queue:default")
    assert machine.output(job) == "ann\n"


def test_while_nothing_is_accepted_every_user_is_told_so_and_a_dropped_file_waits(machine, tabs):
    machine.cronq("carl", "drain", "--refuse")
    for user in ("ann", "root"):
        assert "accepts nothing just now" in machine.cronq(user, "exec", "--", "true", code=75).stderr
    machine.drop("ann", "dropped", {"command": ["id", "-un"]})
    machine.cronq("ann", "show", "2001-dropped", code=75)
    machine.cronq("root", "resume")
    assert machine.output(machine.named("ann", "dropped")) == "ann\n"
