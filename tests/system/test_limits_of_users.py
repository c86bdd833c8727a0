"""Whose a word is: what one user says of his jobs holds up no other's."""

import shutil
from pathlib import Path

import pytest
from conftest import eventually
from machine import CONFIG, SPOOL

pytestmark = pytest.mark.root

PROOF = Path("/run/limits")
WAITS = "touch {mark}; until [ -e {gate} ]; do sleep 0.02; done"


@pytest.fixture
def proof(machine):
    PROOF.mkdir()
    PROOF.chmod(0o1777)
    yield PROOF
    shutil.rmtree(PROOF)


def waits(name: str) -> str:
    return WAITS.format(mark=PROOF / name, gate=PROOF / f"{name}.gate")


def ready(job_id: str) -> bool:
    return any((SPOOL / "queue" / "ready").rglob(f"*,{job_id},*"))


def test_a_word_of_roots_tables_and_tasks_is_one_and_users_words_are_their_own(machine, proof):
    machine.tasks("[tasks.t]\nmutex = 'disk'\ncommand = ['true']\n")
    (CONFIG / "crontab").write_text(f"# cronq: name=c mutex=disk overlap=skip\n@every 1s ann {waits('root')}\n")
    (CONFIG / "crontab").chmod(0o600)
    machine.start()
    eventually((proof / "root").exists)
    tab = f"# cronq: name=c mutex=disk overlap=skip\n@every 1s {waits('anns')}\n"
    machine.cronq("ann", "crontab", "-", input=tab)
    eventually((proof / "anns").exists)
    shared = [machine.submit(user, "submit", "t") for user in ("ann", "bob")]
    anns = machine.submit("ann", "exec", "--mutex", "disk", "--", "true")
    assert machine.result(machine.submit("bob", "exec", "--mutex", "disk", "--", "true"))["state"] == "done"
    assert machine.result(machine.submit("ann", "exec", "--mutex", "other", "--", "true"))["state"] == "done"
    assert all(ready(each) for each in (*shared, anns))
    machine.cronq("ann", "crontab", "-r")
    (proof / "anns.gate").touch()
    assert machine.result(anns)["state"] == "done"
    assert all(ready(each) for each in shared)
    (CONFIG / "crontab").write_text("")
    (proof / "root.gate").touch()
    assert [machine.result(each)["state"] for each in shared] == ["done", "done"]


def test_what_a_task_does_not_allow_its_submitters_is_no_word_and_no_weight_either(machine):
    machine.tasks("[tasks.t]\ncommand = ['true']\n[tasks.free]\ncommand = ['true']\nallow = ['mutex', 'weight']\n")
    machine.start()
    job_id = machine.submit("ann", "submit", "--mutex", "m", "--weight", "3", "free")
    assert machine.result(job_id)["state"] == "done"
    machine.drop("ann", "bad", {"task": "t", "mutex": "m", "weight": 0})
    assert "mutex, weight: the task t lets no submitter set that" in machine.rejected("ann", "bad")


@pytest.mark.parametrize("on_block", ["replace", "discard", "coalesce"])
def test_nobodys_job_ends_another_users_for_its_key(machine, proof, on_block):
    machine.tasks(f"[tasks.t]\nshell = '''{waits('a')}'''\nconcurrency = {{ on_block = '{on_block}' }}\n")
    machine.start()
    anns = machine.submit("ann", "submit", "t")
    eventually((proof / "a").exists)
    bobs = machine.submit("bob", "submit", "t")
    assert machine.result(machine.submit("bob", "exec", "--", "true"))["state"] == "done"
    assert ready(bobs)
    (proof / "a.gate").touch()
    assert [machine.result(each)["state"] for each in (anns, bobs)] == ["done", "done"]


def test_fairness_where_one_job_runs_at_a_time_the_flood_of_one_user_costs_another_one_turn(machine, proof):
    machine.tasks("[limits]\nmax_jobs = 1\n")
    machine.start()
    first = machine.submit("ann", "exec", "--", "sh", "-c", waits("a"))
    eventually((proof / "a").exists)
    ledger = f"echo $LOGNAME >> {proof}/ledger"
    flood = machine.submit("ann", "exec", "--batch", "-", input=f"umask 0; {ledger}\n" * 20)
    bobs = machine.submit("bob", "exec", "--", "sh", "-c", ledger)
    eventually(lambda: ready(bobs))
    (proof / "a.gate").touch()
    assert [machine.result(each)["state"] for each in (first, flood, bobs)] == ["done"] * 3
    assert (proof / "ledger").read_text().split().index("bob") <= 1
