"""Tasks with a user of their own, batches, ticks and payloads across users: who may, and as whom it runs."""

import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root
WHO = '[tasks.who]\nshell = "id -un; cat; echo $0 $*"\nuser = "carl"\nsubmit = ["ann", "@ops"]\n'


def test_a_task_runs_as_its_user_for_those_who_may_submit_it(machine):
    machine.tasks(WHO)
    machine.start()
    for user in ("ann", "carl", "root"):
        assert machine.output(machine.submit(user, "submit", "who", "x")).splitlines() == ["carl", "who x"]
    refused = machine.cronq("bob", "submit", "--wait", "who", code=77)
    assert "bob may not submit the task who" in refused.stderr


def test_a_batch_runs_line_by_line_as_the_tasks_user(machine):
    machine.tasks(WHO)
    machine.start()
    lines = "".join(f"{number}\n" for number in range(100))
    done = machine.cronq("ann", "submit", "--wait", "--json", "--batch", "-", "who", input=lines)
    assert '"done": 100' in done.stdout or done.returncode == 0
    batch = next(path for path in (SPOOL / "out/2001").iterdir() if "+" not in path.name)
    outputs = [(SPOOL / "out/2001" / f"{batch.name}+{number:03d}" / "stdout").read_text() for number in range(1, 101)]
    assert outputs == [f"carl\nwho {number}\n" for number in range(100)]


def test_a_callback_reads_its_submitters_results_and_a_task_of_another_user_is_told_of_them_alone(machine):
    look = 'id -un; cat; cat "$CRONQ_BATCH_RESULTS"+[0-9]/stdout'
    tidy = '[tasks.tidy]\ncommand = ["true"]\nuser = "carl"\n'
    machine.tasks(WHO + tidy + f'[tasks.look]\nshell = \'{look}\'\nuser = "carl"\nsubmit = ["ann"]\n')
    machine.start()
    batch = machine.submit("ann", "exec", "--batch", "-", "--on-success", look, input="echo 1\necho 2\n")
    printed = machine.output(f"{batch}+success").splitlines()
    assert (printed[0], json.loads(printed[1])["counts"], printed[2:]) == ("ann", {"done": 2}, ["1", "2"])
    batch = machine.submit("ann", "submit", "who", "--batch", "-", "--on-complete", "look", input="1\n2\n")
    found = machine.result(f"{batch}+complete")
    printed = (machine.results(f"{batch}+complete") / "stdout").read_text().splitlines()
    assert (printed[0], json.loads(printed[1])["counts"], printed[2:]) == ("carl", {"done": 2}, [])
    assert found["exit_code"] == 1  # cat: permission denied
    for task, code, why in (("nope", 65, "unknown task 'nope'"), ("tidy", 77, "the task tidy runs as carl")):
        argv = ("submit", "--wait", "who", "--batch", "-", "--on-success", task)
        assert f"on_success: {why}" in machine.cronq("ann", *argv, input="x\n", code=code).stderr


def test_a_job_whose_input_is_copied_belongs_to_its_batch_and_nobody_adds_to_that_of_another(machine):
    machine.tasks('[tasks.sum]\nshell = "id -un; sha256sum"\nuser = "carl"\nsubmit = ["ann"]\n')
    machine.start()
    data, gate = machine.home("ann") / "data", machine.home("ann") / "gate"
    data.write_bytes(os.urandom(20 << 20))
    wait = f"until [ -e {gate} ]; do sleep 0.02; done\n"
    batch = machine.submit("ann", "exec", "--batch", "-", "--on-complete", "cat", input=wait)
    eventually(lambda: list((SPOOL / "queue/running").rglob(f"*{batch}+1*")))
    theirs = machine.cronq("bob", "exec", "--into", batch, "--wait", "--", "true", code=65)
    assert f"batch names the unknown batch '{batch}'" in theirs.stderr
    added = machine.submit("ann", "submit", "--stdin", str(data), "--into", batch, "sum")
    gate.touch()
    assert machine.result(added)["state"] == "done"
    assert json.loads(machine.output(f"{batch}+complete"))["counts"] == {"done": 2}
    assert machine.result(batch)["counts"] == {"done": 2}


def test_a_large_input_reaches_another_user_as_a_copy_that_the_submitter_cannot_change(machine):
    machine.tasks('[tasks.sum]\nshell = "id -un; sha256sum"\nuser = "carl"\nsubmit = ["ann"]\n')
    machine.start()
    data = machine.home("ann") / "data"
    data.write_bytes(os.urandom(20 << 20))
    want = machine.as_user("root", "sha256sum", data).stdout.split()[0]
    job = machine.submit("ann", "submit", "--stdin", str(data), "sum")
    assert machine.output(job).splitlines()[0] == "carl"
    assert machine.output(job).split()[1] == want
    held = machine.submit("ann", "submit", "--delay", "1h", "--stdin", str(data), "sum")
    copy = eventually(lambda: next((SPOOL / "queue/data").glob(held), None))
    eventually(lambda: copy.stat().st_uid != machine.uids["ann"])
    found = copy.stat()
    assert (found.st_uid, found.st_size, found.st_nlink) == (machine.uids["cronq"], 20 << 20, 1)
    own = machine.submit("ann", "exec", "--delay", "1h", "--stdin", str(data), "--", "cat")
    mine = eventually(lambda: next((SPOOL / "queue/data").glob(own), None))
    assert mine.stat().st_uid == machine.uids["ann"]


def test_a_sparse_input_stays_sparse(machine):
    machine.tasks('[tasks.count]\ncommand = ["head", "-c", "5"]\nuser = "carl"\nsubmit = ["ann"]\n')
    machine.start()
    machine.cronq("ann", "exec", "--wait", "--", "true")
    script = f"umask 027; cd {machine.inbox('ann')}; echo hello > s.data; truncate -s 1T s.data"
    machine.as_user("ann", "sh", "-c", script)
    machine.drop("ann", "s", {"task": "count", "delay": 3600})
    copy = eventually(
        lambda: next((path for path in (SPOOL / "queue/data").iterdir() if path.name.endswith("-s")), None)
    )
    eventually(lambda: copy.stat().st_uid == machine.uids["cronq"])
    assert copy.stat().st_size == 1 << 40
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_a_schedule_makes_jobs_of_the_tasks_user_and_a_changed_one_makes_the_changed_ones(machine):
    text = WHO + '[schedules.who]\nevery = "1s"\nargs = ["{}"]\n'
    machine.tasks(text.format("one"))
    daemon = machine.start()
    folder = SPOOL / "out" / str(machine.uids["cronq"])

    def printed():
        return {path.read_text() for path in folder.glob("*-cron-who-*/stdout") if path.stat().st_size}

    eventually(lambda: "carl\nwho one\n" in printed())
    machine.tasks(text.format("two"))
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "carl\nwho two\n" in printed())
    assert printed() == {"carl\nwho one\n", "carl\nwho two\n"}


def test_root_runs_what_its_configuration_lets_it_and_nothing_else(machine):
    machine.tasks(WHO)
    machine.start()
    assert "allow_root" in machine.cronq("root", "exec", "--wait", "--", "true", code=77).stderr
    machine.stop()
    machine.tasks('[tasks.all]\ncommand = ["id", "-u"]\nuser = "root"\nallow_root = true\nsubmit = ["ann"]\n')
    machine.start()
    assert machine.output(machine.submit("ann", "submit", "all")) == "0\n"
    assert "allow_root" in machine.cronq("root", "exec", "--wait", "--", "true", code=77).stderr
    machine.stop()
    machine.tasks("[exec]\nallow_root = true\n")
    machine.start()
    assert machine.output(machine.submit("root", "exec", "--", "id", "-u")) == "0\n"


def test_exec_allow_and_exec_deny_say_who_has_commands(machine):
    machine.tasks("bob\n", "exec.deny")
    machine.start()
    machine.cronq("ann", "exec", "--wait", "--", "true")
    assert "may not submit commands" in machine.cronq("bob", "exec", "--wait", "--", "true", code=77).stderr
    machine.tasks("carl\n", "exec.allow")
    eventually(lambda: machine.cronq("ann", "exec", "--wait", "--", "true", code=None).returncode == 77)
    for user, code in (("ann", 77), ("bob", 77), ("carl", 0)):
        machine.cronq(user, "exec", "--wait", "--", "true", code=code)


def test_a_task_whose_user_is_nobody_waits_for_the_administrator_and_holds_up_no_other(machine):
    machine.tasks('[tasks.lost]\ncommand = ["id", "-un"]\nuser = "dora"\nsubmit = ["ann"]\n')
    machine.start()
    job = machine.submit("ann", "submit", "lost")
    eventually(lambda: "there is no user dora" in machine.log)
    machine.cronq("ann", "exec", "--wait", "--", "true")
    assert json.loads(machine.cronq("ann", "show", "--json", job).stdout)["attempt"] == 0
    machine.as_user("root", "useradd", "--no-create-home", "dora")
    assert machine.result(job, within=90)["state"] == "done"
    assert machine.output(job) == "dora\n"


def test_users_that_a_task_names_have_an_inbox_before_they_come(machine):
    machine.tasks(WHO)
    machine.start()
    inbox = machine.inbox("ann")
    eventually(inbox.is_dir)
    found = inbox.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
        2001,
        Path("/var/spool/cronq/queue").stat().st_gid,
        0o2770,
    )
    machine.as_user("ann", "sh", "-c", f"umask 077; echo x > {inbox}/.x.tmp")
    assert stat.S_IMODE((inbox / ".x.tmp").stat().st_mode) == 0o640


def test_a_held_job_says_why_also_after_a_restart_and_goes_on_when_it_is_released(machine):
    machine.start()
    job = machine.submit("ann", "exec", "--delay", "1h", "--", "true")
    eventually(lambda: job in machine.cronq("ann", "list").stdout)
    assert "held" in machine.cronq("ann", "hold", job).stdout
    machine.stop()
    machine.start()
    shown = json.loads(machine.cronq("ann", "show", "--json", job).stdout)
    assert (shown["state"], shown["reason"]) == ("held", "held by hand; cronq release lets it go on")
    machine.cronq("bob", "release", job, code=65)
    assert "delayed" in machine.cronq("ann", "release", job).stdout


def test_a_user_who_has_too_many_processes_waits_and_nobody_else_does(machine):
    machine.start()
    machine.cronq("ann", "exec", "--wait", "--", "true")
    (worker,) = machine.workers()[machine.uids["ann"]]
    machine.as_user("ann", "prlimit", "--nproc=1:", "--pid", str(worker))
    job = machine.submit("ann", "exec", "--", "echo", "ran")
    eventually(lambda: "too many processes" in machine.log)
    machine.cronq("bob", "exec", "--wait", "--", "true")
    shown = json.loads(machine.cronq("ann", "show", "--json", job).stdout)
    assert (shown["state"], shown["attempt"]) == ("ready", 0)
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]  # as the worker has it
    machine.as_user(
        "ann", "prlimit", f"--nproc={'unlimited' if hard == resource.RLIM_INFINITY else hard}:", "--pid", str(worker)
    )
    assert machine.output(job) == "ran\n"
