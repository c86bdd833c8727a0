"""Who runs what tells of jobs, where many users share a machine: the user whose job it is, or whom root names."""

import json
from pathlib import Path

import pytest
from conftest import eventually
from machine import CONFIG, SPOOL
from receiver import Receiver

pytestmark = pytest.mark.root
PROOF = Path("/run/told")
PAGER = CONFIG / "page"
SAYS = f"#!/bin/sh\nid -un > {PROOF}/$(id -un)-of-$CRONQ_EVENT_USER-$CRONQ_EVENT\n"


@pytest.fixture
def proof(machine):
    """A directory where hooks say as whom they run, and a program of root's that does."""
    PROOF.mkdir(exist_ok=True)
    PROOF.chmod(0o1777)
    for path in PROOF.iterdir():
        path.unlink()
    CONFIG.mkdir(exist_ok=True)
    PAGER.write_text(SAYS)
    PAGER.chmod(0o755)
    return lambda: {path.name for path in PROOF.iterdir()}


@pytest.fixture
def server(machine):
    made = Receiver()
    yield made
    made.close()


def command(more: str = "") -> str:
    return f'[notify]\ncommand = ["{PAGER}"]\n{more}'


def line(name: str, user: str = "", command: str = "false") -> str:
    return f"# cronq: name={name} overlap=skip\n@every 1s {user} {command}\n"


def test_roots_hook_runs_as_the_user_whose_job_it_is_about(machine, proof):
    machine.tasks(
        command('[tasks.t]\ncommand = ["false"]\nuser = "bob"\nsubmit = ["ann"]\n[schedules.t]\nevery = "1s"\n')
    )
    (CONFIG / "crontab").write_text(line("a", "carl") + line("r", "root"))
    machine.start()
    machine.submit("ann", "exec", "--", "false")
    wanted = {"ann-of-ann-died", "bob-of-bob-died", "carl-of-carl-failed", "root-of-root-failed"}
    eventually(lambda: wanted <= proof())
    assert proof() == wanted


def test_with_a_user_all_of_them_run_as_that_one_who_alone_can_read_the_address(machine, proof, server):
    secret = CONFIG / "webhook"
    secret.write_text(f"{server.url}/ok?token=secret\n")
    secret.chmod(0o640)
    machine.as_user("root", "chgrp", "carl", secret)
    machine.tasks(f'[notify]\nwebhook = "{secret}"\ncommand = ["{PAGER}"]\nuser = "carl"\n')
    machine.start()
    jobs = {machine.submit(user, "exec", "--", "false") for user in ("ann", "bob")}
    eventually(lambda: len(server.got) == 2)
    assert {event["job"] for _, _, event in server.got} == jobs
    eventually(lambda: proof() == {"carl-of-ann-died", "carl-of-bob-died"})
    for user in ("ann", "bob"):
        machine.as_user(user, "cat", secret, code=1)
        assert "-hook-" not in machine.cronq(user, "list", "--all").stdout
    readable = [path for path in SPOOL.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert readable == []


def test_a_users_table_has_only_his_own_lines_told_and_by_himself(machine, proof):
    """Bob may write what he will into his table: as ann nothing of it runs, and of her lines he is told nothing."""
    machine.start()
    hook = f"CRONQ_NOTIFY_COMMAND=. {PAGER}\n"
    machine.cronq("bob", "crontab", "-", input=f"LOGNAME=ann\nUSER=ann\n{hook}" + line("mine"))
    machine.cronq("ann", "crontab", "-", input=line("mine"))
    eventually(lambda: "bob-of-bob-failed" in proof())
    eventually(lambda: len(list((SPOOL / "out" / "2001").glob("*-tab-mine-*/result.json"))) >= 2)
    assert proof() == {"bob-of-bob-failed"}
    assert not list((SPOOL / "out" / "2001").glob("*-call-*"))
    assert not list((SPOOL / "out" / "2001").glob("*-hook-*"))


def test_a_hook_that_waits_over_a_restart_is_told_though_its_table_is_roots(machine, proof):
    """Nothing of that table is due any more: the worker gets it all the same."""
    gate = PROOF / "gate"
    hook = f"CRONQ_NOTIFY_COMMAND=test -e {gate} || exit 75; . {PAGER}\n"
    (CONFIG / "crontab").write_text(hook + "# cronq: name=once\n0 0 29 2 * ann false\n")
    machine.start()
    machine.cronq("ann", "run", "once", "--wait", code=1)
    told = eventually(lambda: [path.parent for path in (SPOOL / "out" / "2001").glob("*-call-once*/result.json.1")])[0]
    machine.stop()
    gate.touch()
    machine.start()
    assert (
        eventually(lambda: (told / "result.json").exists() and json.loads((told / "result.json").read_text()))["state"]
        == "done"
    )
    assert "ann-of-ann-failed" in proof()
