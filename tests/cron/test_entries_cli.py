"""`cronq next`, `pause`, `resume` and `run` of what a running dispatcher has, rootless."""

import json
import os
import pwd

import pytest
from conftest import eventually

ME = pwd.getpwuid(os.getuid()).pw_name
TAB = """# cronq: name=backup
30 2 * * * echo backed up; exit 3
# cronq: name=poll
0 9 * * * true
@reboot server
"""
TOML = '[tasks.report]\ncommand = ["echo", "all well"]\n[schedules.report]\ncron = "0 8 * * *"\nzone = "UTC"\n'
FROM = ("--from", "2027-06-01", "--tz", "UTC")


@pytest.fixture
def begun(world):
    """A dispatcher with a crontab and a schedule."""
    world.tasks(TOML)
    world.env["TZ"] = "UTC"
    (world.config / "crontab").write_text(TAB)
    (world.config / "crontab").chmod(0o644)
    world.start()
    return world


def test_next_shows_all_that_the_dispatcher_runs_and_a_name_one_of_it(begun):
    tab = begun.config / "crontab"
    lines = begun.run("next", "-n", "4", *FROM).stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["Tue", "2027-06-01", "02:30", "+00:00", f"{tab}:2", "backup", ME, "echo", "backed", "up;", "exit", "3"],
        ["Tue", "2027-06-01", "08:00", "+00:00", "schedules.report", "report"],
        ["Tue", "2027-06-01", "09:00", "+00:00", f"{tab}:4", "poll", ME, "true"],
    ]
    assert lines[4] == f"{tab}:5: @reboot: once after each start of the machine"
    (run,) = map(json.loads, begun.run("next", "backup", "-n", "1", "--json", *FROM).stdout.splitlines())
    assert run == {
        "time": "2027-06-01T02:30:00+00:00",
        "id": f"{begun.uid}-tab-backup",
        "file": str(tab),
        "line": 2,
        "entry": "backup",
        "user": ME,
        "command": "echo backed up; exit 3",
        "paused": False,
        "mark": None,
        "changes": [],
    }


def test_next_marks_what_is_paused_as_far_as_it_is(begun):
    assert begun.run("pause", "poll", "--until", "2099-01-02").stdout == (
        f"poll\t{begun.config}/crontab:4\tpaused until Fri 2099-01-02 00:00 +00:00\n"
    )
    runs = begun.run("next", "poll", "-n", "2", "--json", "--from", "2099-01-01", "--tz", "UTC").stdout.splitlines()
    assert [json.loads(run)["paused"] for run in runs] == [True, False]
    first, second = begun.run("next", "poll", "-n", "2", "--from", "2099-01-01", "--tz", "UTC").stdout.splitlines()
    assert "  paused  true" in first
    assert "  paused  " not in second
    begun.run("pause", f"{begun.config}/crontab:4")
    assert json.loads(begun.run("pause", "poll", "--json").stdout) == {"id": f"{begun.uid}-tab-poll", "paused": True}
    assert begun.run("resume", "poll").stdout.endswith("\tresumed\n")
    assert begun.run("resume", "poll").stdout.endswith("\twas not paused\n")
    assert "is over already" in begun.run("pause", "poll", "--until", "2020-01-01", code=2).stderr


def test_run_runs_a_line_at_once_though_it_is_paused_and_says_its_job(begun):
    begun.run("pause", "backup")
    job = begun.run("run", "backup").stdout.strip()
    assert job.startswith(f"{begun.uid}-tab-backup-")
    assert begun.result(job)["exit_code"] == 3
    done = begun.run("run", "backup", "--wait", code=3)
    assert (done.stdout, done.stderr) == ("backed up\n", "")
    assert begun.run("run", "schedules.report", "--wait").stdout == "all well\n"


def test_an_unknown_name_is_one_sentence_with_the_name_that_was_meant(begun):
    for command, what in (("pause", "no queue, task or entry is called"), ("run", "unknown entry")):
        done = begun.run(command, "backpu", code=65)
        assert done.stderr == f"cronq: {what} 'backpu'; did you mean 'backup'?\n"
    said = begun.run("next", "repor", code=65).stderr
    assert "did you mean 'report'?; a file of this name is not there either" in said
    assert "`cronq next` shows them" in begun.run("resume", "zzz", code=65).stderr


def test_a_name_that_means_two_lines_is_refused_with_both(begun):
    begun.run("crontab", "-", input="# cronq: name=report\n5 5 5 5 * true\n")
    said = begun.run("run", "report", code=65).stderr
    assert f"installed/{begun.uid}:2 ({ME})" in said
    assert "schedules.report" in said


def test_a_name_in_both_of_ones_crontabs_means_the_installed_line(begun):
    begun.run("crontab", "-", input="# cronq: name=backup\n5 5 5 5 * echo installed\n")
    assert begun.run("run", "backup", "--wait").stdout == "installed\n"


def test_a_pause_outlives_a_killed_dispatcher(begun):
    begun.run("pause", "poll")
    os.kill(begun.dispatcher(begun.daemons[0]), 9)
    eventually(lambda: begun.daemons[0].log.read_text().count("event=ready") == 2)
    assert json.loads(begun.run("next", "poll", "-n", "1", "--json").stdout)["paused"] is True
