"""`cronq why ENTRY [--at TIME]`: people ask a running dispatcher why a line ran, or did not."""

import json
import re
import time

import pytest
from conftest import eventually

TAB = """# cronq: name=quick
@every 1s echo ticked >&2; exit 3
# cronq: name=slow overlap=skip
@every 1s sleep 300
# cronq: name=backup
30 2 * * * true
# cronq: name=each
* * * * * true
# cronq: name=boot
@reboot true
"""


@pytest.fixture
def begun(world):
    """A dispatcher with a crontab."""
    world.env["TZ"] = "UTC"
    (world.config / "crontab").write_text(TAB)
    (world.config / "crontab").chmod(0o644)
    world.start()
    return world


def told(world, *argv):
    return world.run("why", *argv).stdout


def test_of_its_last_time_it_is_told_how_the_job_ended_or_why_none_was_made(begun):
    place = f"{begun.config}/crontab"
    found = eventually(lambda: re.search(r".* is dead: .*", told(begun, "quick")) and told(begun, "quick"))
    assert found.startswith(f"quick ({place}:2), due by @every 1s\n")
    dead = eventually(lambda: re.search(r"(\S+-tab-quick-\S+) (.*) is dead: exit code 3\n", told(begun, "quick")))
    assert dead[2] == "/bin/sh -c 'echo ticked >&2; exit 3'"
    assert "\n      ticked\n" in found, found
    assert re.search(r"\n  it is due next at \w+ [-\d]+ [:\d]+ \+00:00\n$", found)
    skipped = r": no job was made of it: overlap=skip, and \S+-tab-slow-\w+ has not ended\n"
    eventually(lambda: re.search(skipped, told(begun, "entry:slow")))
    (first,) = (begun.spool / "queue" / "running").glob("*tab-slow*")
    instant = int(first.name.split(",")[2].rpartition("-")[2], 16) // 1_000_000
    found = json.loads(told(begun, "slow", "--json", "--at", time.strftime("%FT%TZ", time.gmtime(instant))))
    assert [(each["made"], each["job"]["state"], each["cause"]) for each in found["due"]] == [
        (True, "running", "crontab")
    ]


def test_of_a_time_it_is_told_whether_it_was_due_and_what_is_known(begun):
    def at(entry, moment):
        return told(begun, entry, "--at", moment).splitlines()[1:]

    assert at("backup", "2020-02-03T02:31") == [
        "  it was not due then; the times nearest are Mon 2020-02-03 02:30 +00:00 and Tue 2020-02-04 02:30 +00:00"
    ]
    unknown = "  Mon 2020-02-03 02:30 +00:00: nothing is known of that time: the history begins later"
    assert at("backup", "2020-02-03T02:30") == [unknown]
    assert at("backup", "2099-02-03T02:30") == ["  Tue 2099-02-03 02:30 +00:00: it is to come"]
    assert at("backup", "2099-02-03T02:31")[0].startswith("  it is not due then; the times nearest are ")
    begun.run("pause", "backup")
    assert at("backup", "2099-02-03T02:30") == [
        "  Tue 2099-02-03 02:30 +00:00: it is to come; no job will be made of it, for the entry is paused",
        "  it is paused until it is resumed",
    ]
    assert at("boot", "2020-02-03T02:31") == ["  the clock does not start it: once after each start of the machine"]
    assert "--at must be a time like" in begun.run("why", "backup", "--at", "then", code=2).stderr
    assert "unknown entry 'bakup'; did you mean 'backup'?" in begun.run("why", "bakup", "--at", "02:30", code=65).stderr
    assert "no job of yours has the id 'bakup'" in begun.run("why", "bakup", code=65).stderr


def test_what_was_run_by_hand_in_the_same_minute_is_told_beside_what_was_due(begun):
    job = begun.run("run", "each").stdout.strip()
    minute = int(job.rpartition("-")[2], 16) // 60_000_000 * 60
    found = json.loads(told(begun, "each", "--json", "--at", time.strftime("%FT%TZ", time.gmtime(minute))))
    assert [each["instant"] == minute for each in found["due"]] == [True, False]
    assert (found["due"][1]["tick"], found["due"][1]["cause"]) == (job, "manual")


def test_a_time_in_which_no_dispatcher_ran_is_told(begun):
    clock = begun.spool / "schedule" / "clock.json"
    eventually(clock.exists)
    begun.stop()
    state = json.loads(clock.read_text())
    for key, length in (("minute", 60), ("newest", 60), ("second", 3600)):
        state[key] -= length
    state["zones"] = {zone: minute - 60 for zone, minute in state["zones"].items()}
    clock.write_text(json.dumps(state))
    begun.start()
    moment = int(time.time()) // 60 * 60 - 1800
    asked = time.strftime("%FT%TZ", time.gmtime(moment))
    found = eventually(
        lambda: "no dispatcher ran" in told(begun, "each", "--at", asked) and told(begun, "each", "--at", asked)
    )
    span = (
        r": no dispatcher ran from [-\d]+ [:\d]+ until [-\d]+ [:\d]+, or the machine slept; that is made up for only by"
    )
    assert re.search(span, found)
