"""Two users of one dispatcher: each is served as himself, and neither meets the other; root and operators see all."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root

IDENTITY = "id -u; id -g; id -G; cat /proc/self/status; pwd; env"
SECRET = "ann's own words"
OPERATORS = '[control]\noperators = "ops"\n'


@pytest.fixture
def system(machine):
    machine.tasks(OPERATORS)
    machine.start()
    return machine


@pytest.mark.parametrize("user", ["ann", "bob", "carl"])
def test_a_job_is_its_owner_with_every_group_of_his_and_no_other(system, user):
    job_id = system.submit(user, "exec", "--", "sh", "-c", IDENTITY)
    assert system.result(job_id)["exit_code"] == 0
    uid, gid, groups, *rest = system.output(job_id).splitlines()
    assert [uid, gid, groups] == system.as_user(user, "sh", "-c", "id -u; id -g; id -G").stdout.splitlines()
    status = dict(re.findall(r"^(\w+):\t(.*)$", "\n".join(rest), re.M))
    assert status["Uid"].split() == [uid] * 4 and status["Gid"].split() == [gid] * 4
    assert sorted(status["Groups"].split()) == sorted(groups.split())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    home = f"/home/{user}"
    assert {home, f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash"} <= set(rest)


def test_a_job_file_by_plain_shell_runs_as_whoever_put_it_there(system):
    system.submit("ann", "exec", "--wait", "--", "true")  # the first contact makes the inbox
    system.drop("ann", "by-hand", {"command": ["sh", "-c", "id -un; pwd"]})
    assert system.output(system.named("ann", "by-hand")) == "ann\n/home/ann\n"


def test_two_users_run_beside_each_other_each_with_a_worker_of_his_own(system):
    for user in ("ann", "bob"):
        system.submit(user, "exec", "--", "sleep", "1000")
    eventually(lambda: sorted(system.workers()) == [2001, 2002])


@pytest.fixture
def anns(system):
    """Jobs of ann's, one in each state that somebody else might meddle with; bob has an inbox."""
    system.submit("bob", "exec", "--wait", "--", "true")
    ids = {
        "done": system.submit("ann", "exec", "--", "echo", SECRET),
        "dead": system.submit("ann", "exec", "--", "sh", "-c", f"echo {json.dumps(SECRET)}; exit 3"),
        "running": system.submit("ann", "exec", "--", "sh", "-c", f"echo {json.dumps(SECRET)}; exec sleep 1000"),
        "delayed": system.submit("ann", "exec", "--delay", "1h", "--", "echo", SECRET),
    }
    eventually(lambda: _states(system, "ann") == {job_id: state for state, job_id in ids.items()})
    return ids


def _states(machine, user, *options) -> dict[str, str]:
    shown = machine.cronq(user, "list", "--all", "--json", *options).stdout
    return {job["id"]: job["state"] for job in map(json.loads, shown.splitlines()) if "id" in job}


def test_another_user_sees_none_of_his_jobs(system, anns):
    assert not set(_states(system, "bob")) & set(anns.values())
    assert json.loads(system.cronq("bob", "stats", "--json").stdout)["delayed"] == 0
    _refused_as_unknown(system, "bob", ["show"], anns["running"])
    for verb in ("show", "logs", "result", "wait"):
        _refused_as_unknown(system, "bob", [verb], anns["done"])


def test_another_user_changes_none_of_his_jobs(system, anns):
    for verb in (["cancel"], ["cancel", "--now"], ["retry"], ["rm"]):
        _refused_as_unknown(system, "bob", verb, *anns.values())
    assert _states(system, "ann") == {job_id: state for state, job_id in anns.items()}


def _refused_as_unknown(machine, user, verb, *ids):
    """Refused, in the very words that are said of jobs that never were."""
    done = machine.cronq(user, *verb, *ids, code=None)
    never = machine.cronq(user, *verb, *(_never(job_id) for job_id in ids), code=None)
    assert done.returncode == never.returncode != 0, (verb, done)
    said = done.stdout + done.stderr
    assert all(job_id in said for job_id in ids) and SECRET not in said
    for job_id in ids:
        said = said.replace(job_id, _never(job_id))
    assert said == never.stdout + never.stderr


def _never(job_id: str) -> str:
    return job_id[:-8] + "z" * 8


def test_another_user_reads_and_writes_nothing_of_his_on_disk(system, anns):
    system.drop("ann", "bad", {})
    assert system.rejected("ann", "bad")
    assert _others(system.reach("bob", os.R_OK), "2002") == {"users", "users/2001"}  # as public as /etc/passwd
    assert _others(system.reach("bob", os.W_OK), "2002") == {"hello"}
    assert {"out", "in", "rejected"} <= {path.parts[0] for path in system.reach("ann", os.R_OK)}
    assert system.reach("carl", os.W_OK) == {Path("hello")}  # an operator
    for path in (system.results(anns["done"]) / "stdout", SPOOL / "rejected/2001/bad.job"):
        assert path.exists()
        assert system.as_user("bob", "cat", path, code=1).stdout == ""


def _others(paths: set[Path], uid: str) -> set[str]:
    """Those that are not this user's own."""
    return {str(path) for path in paths if path.parts[1:2] != (uid,)}


def test_the_owner_reads_his_results_and_changes_nothing_in_them(system, anns):
    folder = system.results(anns["done"])
    assert system.as_user("ann", "cat", folder / "stdout").stdout == SECRET + "\n"
    assert system.cronq("ann", "logs", anns["done"]).stdout == SECRET + "\n"
    assert json.loads(system.as_user("ann", "cat", folder / "result.json").stdout)["exit_code"] == 0
    system.as_user("ann", "sh", "-c", f"echo forged > {folder}/stdout", code=2)
    system.as_user("ann", "rm", "-rf", folder, code=1)
    system.as_user("ann", "mv", folder, folder.with_name("2001-other"), code=1)


def test_whose_a_job_is_cannot_be_claimed_in_it(system):
    system.submit("bob", "exec", "--wait", "--", "true")
    claims = ("uid", "user", "owner", "id", "gid")
    for claim in claims:
        system.drop("bob", claim, {"command": ["touch", "/home/ann/was-here"], claim: 2001})
    assert [claim in system.rejected("bob", claim) for claim in claims] == [True] * 5
    assert not Path("/home/ann/was-here").exists()


def test_a_name_like_another_users_id_is_still_his_who_chose_it(system):
    system.submit("bob", "exec", "--wait", "--", "true")
    system.drop("bob", "2001-forged", {"command": ["id", "-un"]})
    assert system.output(system.named("bob", "2001-forged")) == "bob\n"
    assert not (SPOOL / "out" / "2001").exists()


def test_another_users_inbox_takes_nothing(system):
    system.submit("ann", "exec", "--wait", "--", "true")
    system.submit("bob", "exec", "--wait", "--", "true")
    system.as_user("bob", "sh", "-c", "echo '{}' > /home/bob/x.job; chmod 640 /home/bob/x.job")
    for argv in (["cp", "/home/bob/x.job"], ["mv", "/home/bob/x.job"], ["ln", "/home/bob/x.job"], ["ln", "-s", "/x"]):
        system.as_user("bob", *argv, f"{SPOOL}/in/2001/", code=1)
    system.as_user("bob", "rmdir", f"{SPOOL}/in/2001", code=1)
    system.as_user("bob", "mv", f"{SPOOL}/in/2002", f"{SPOOL}/in/2003", code=1)
    assert list((SPOOL / "in/2001").iterdir()) == []


@pytest.mark.parametrize("user", ["root", "carl"])
def test_root_and_operators_see_and_control_all(system, anns, user):
    listed = _states(system, user)
    assert {job_id: listed.get(job_id) for job_id in anns.values()} == _states(system, "ann")
    assert json.loads(system.cronq(user, "show", anns["delayed"], "--json").stdout)["uid"] == 2001
    assert "ann" in system.cronq(user, "list", "--all").stdout
    system.cronq(user, "cancel", "--now", anns["running"], anns["delayed"])
    system.cronq(user, "retry", anns["dead"])
    system.cronq(user, "rm", anns["done"])
    assert [system.result(anns[state])["state"] for state in ("running", "delayed")] == ["cancelled"] * 2
    eventually(
        lambda: (
            _states(system, "ann")
            == {anns[each]: each if each == "dead" else "cancelled" for each in anns if each != "done"}
        )
    )
    assert json.loads((system.results(anns["dead"]) / "result.json").read_text())["attempt"] == 1


def test_nobody_is_an_operator_where_the_configuration_names_no_group(machine):
    machine.tasks("")
    machine.start()
    job_id = machine.submit("ann", "exec", "--", "sleep", "1000")
    assert _states(machine, "carl") == {}
    _refused_as_unknown(machine, "carl", ["cancel"], job_id)
