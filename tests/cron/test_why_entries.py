"""Why an entry ran, or did not, at a time: what its schedule says, what the history knows, and what nights have to do
with it in which the clocks change."""

import datetime
import zoneinfo

import pytest
from bench import UTC

from cronq import dueness, verbs
from cronq.caller import Caller
from cronq.errors import UnknownJob, UsageError
from cronq.house import Now
from cronq.pauses import Pause
from cronq.schedule import every, parse, parse_extended
from cronq.when import moment, zone

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def ticks(bench, name, first, last, caller=None, minute=2000):
    """What is known of an entry's ticks between two minutes of the day; the ids without what all have."""
    now = Now(UTC + minute * 60, UTC + minute * 60)
    request = {"do": "ticks", "entry": f"{bench.uid}-{name}", "from": UTC + first * 60, "until": UTC + last * 60}
    ask = verbs.Ask(bench.house, caller or Caller(bench.uid, True), request, now)
    found = [each for each in verbs.answer(ask) if each is not None]
    said = [(int(each["instant"] - UTC) // 60, each["made"], each["cause"]) for each in found if "tick" in each]
    return said, [[(at - UTC) / 60 for at in each["stood"]] for each in found if "stood" in each]


# ---------------------------------------------------------------- what the history knows


def test_of_each_tick_is_known_whether_a_job_was_made_of_it_or_why_not(bench):
    bench.install("# cronq: name=a\n* * * * * true\n# cronq: name=a-b overlap=skip\n* * * * * true\n")
    bench.minutes(0, 2)
    bench.house.pauses.begin(f"{bench.uid}-tab-a", Pause(UTC + 300))
    bench.minutes(3, 6)
    said, stood = ticks(bench, "tab-a", 1, 7)
    assert said == [
        (1, True, "crontab"),
        (2, True, "crontab"),
        (3, False, "paused"),
        (4, False, "paused"),
        (5, True, "crontab"),
        (6, True, "crontab"),
    ]
    assert stood == []
    said, _ = ticks(bench, "tab-a-b", 1, 3)
    assert said[0] == (1, True, "crontab")
    assert said[1][:2] == (2, False)
    assert said[1][2].startswith("overlap=skip, and ")
    with pytest.raises(UnknownJob):
        ticks(bench, "tab-a", 1, 7, Caller(bench.uid + 1))
    with pytest.raises(UsageError):
        ticks(bench, "tab-a", -UTC, 7)


def test_a_schedules_ticks_too_and_those_that_its_catchup_did_not_want(bench):
    bench.toml("[tasks.t]\ncommand = ['true']\n[schedules.s]\ntask = 't'\ncron = '* * * * *'\ncatchup = 'last'\n")
    bench.minutes(0, 1)
    bench.restart()
    bench.minutes(20, 20)
    said, stood = ticks(bench, "cron-s", 17, 21)
    assert said == [
        (17, False, "too old, or too many were missed (catchup)"),
        (18, False, "too old, or too many were missed (catchup)"),
        (19, False, "too old, or too many were missed (catchup)"),
        (20, True, "schedule"),
    ]
    assert stood == [[1, 20]]


def test_a_tick_that_could_be_no_job_says_why(bench):
    task, name, queue = ("tsq"[number] * 48 for number in range(3))
    bench.toml(
        f"[tasks.{task}]\ncommand = ['true']\n[schedules.{name}]\ntask = '{task}'\nqueue = '{queue}'\nevery = '1m'\n"
    )
    bench.minutes(0, 1)
    ((_, made, cause), *_), _ = ticks(bench, f"cron-{name}", 1, 2)
    assert not made
    assert cause.endswith("bytes too long together; shorten one")


def test_when_nobody_looked_at_the_clock_is_known_but_a_short_restart_is_no_gap(bench):
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 2)
    bench.restart()
    bench.minutes(5, 6)
    assert ticks(bench, "tab-a", 0, 60)[1] == []
    bench.restart()
    bench.minutes(30, 31)
    bench.minutes(200, 200)  # the machine slept
    said, stood = ticks(bench, "tab-a", 7, 32)
    assert stood == [[6, 30], [31, 200]]
    assert said == [(31, True, "crontab")]


# ---------------------------------------------------------------- whether it was due


def local(text: str) -> int:
    return moment(text, BERLIN, "--at")


def times(due: dueness.Due) -> list[str]:
    return [datetime.datetime.fromtimestamp(run.at, BERLIN).strftime("%H:%M") for run in due.runs]


def test_a_time_at_which_it_was_due_and_one_between_two_runs():
    line = parse("30 2 * * *")
    assert times(dueness.at(line, BERLIN, local("2027-02-01T02:30") + 59)) == ["02:30"]
    due = dueness.at(line, BERLIN, local("2027-02-01T02:31"))
    assert due.runs == []
    assert (due.before.at, due.after.at) == (local("2027-02-01T02:30"), local("2027-02-02T02:30"))
    assert due.mark == ""


def test_what_runs_by_the_second_is_due_at_that_second():
    due = dueness.at(every("10s"), BERLIN, 1_800_000_003)
    assert (due.runs, due.before.at, due.after.at) == ([], 1_800_000_000, 1_800_000_010)
    assert dueness.at(every("10s"), BERLIN, 1_800_000_010).runs[0].at == 1_800_000_010
    assert times(dueness.at(parse_extended("15 30 2 * * *", "x"), BERLIN, local("2027-02-01T02:30:15"))) == ["02:30"]


def test_in_the_hour_that_is_skipped_a_fixed_line_ran_at_its_end_and_a_wildcard_line_did_not():
    due = dueness.at(parse("30 2 * * *"), BERLIN, local("2027-03-28T02:30"))
    assert times(due) == ["03:00"]
    assert due.mark == "02:30 does not exist; runs at 03:00"
    due = dueness.at(parse("*/30 2 * * *"), BERLIN, local("2027-03-28T02:30"))
    assert due.runs == []
    assert due.mark == "02:00 and 02:30 do not exist; these runs are left out"
    assert dueness.at(parse("30 2 * * *"), BERLIN, local("2027-03-28T09:00")).mark == ""


def test_in_the_hour_that_comes_twice_a_fixed_line_ran_the_first_time_only():
    first = local("2027-10-31T02:30")
    assert times(dueness.at(parse("30 2 * * *"), BERLIN, first)) == ["02:30"]
    due = dueness.at(parse("30 2 * * *"), BERLIN, first + 3600)
    assert due.runs == []
    assert due.mark == "02:30 comes twice; runs the first time only"


def test_a_line_that_the_clock_never_starts_has_no_times_near():
    for text in ("@reboot", "0 0 31 2 *"):
        due = dueness.at(parse(text), zone("UTC"), 1_800_000_000)
        assert (due.runs, due.before, due.after) == ([], None, None)
