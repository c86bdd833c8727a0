"""`cronq simulate`: what would be started under a clock that steps, sleeps and changes hours; Debian's cron judges."""

from __future__ import annotations

import datetime
import itertools
import zoneinfo
from collections import Counter
from pathlib import Path

import pytest
from command import Done, cronq, crontab
from debian_jail import Cron, missing

Capture = pytest.CaptureFixture[str]


def day(hours: str) -> str:
    return f"2026-06-01T{hours}"


def simulate(capfd: Capture, tab: Path, start: str, end: str, *more: str, zone: str = "UTC") -> Done:
    return cronq(capfd, "simulate", tab, "--from", start, "--to", end, "--tz", zone, *more)


def started(capfd: Capture, tab: Path, start: str, end: str, *more: str) -> list[tuple[str, str]]:
    """Times of day, and commands."""
    done = simulate(capfd, tab, start, end, "--json", *more)
    assert (done.code, done.err) == (0, "")
    return [(found["time"][11:16], found["command"]) for found in done.objects]


def test_each_start_is_a_line_or_an_object_from_the_first_minute_up_to_the_last(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "MAILTO=x", "# cronq: name=half", "*/30 * * * * a  b%c", "5 1 * * * five")
    done = simulate(capfd, tab, day("01:00"), day("02:00"))
    assert done.out == [
        "Mon 2026-06-01 01:00 +00:00  line 3  a  b%c",
        "Mon 2026-06-01 01:05 +00:00  line 4  five",
        "Mon 2026-06-01 01:30 +00:00  line 3  a  b%c",
    ]
    first = simulate(capfd, tab, day("01:00"), day("02:00"), "--json", "--user", "root").objects[0]
    assert first == {
        "time": "2026-06-01T01:00:00+00:00",
        "line": 3,
        "entry": "half",
        "user": "root",
        "command": "a  b%c",
    }


def test_a_table_with_a_user_column_is_read_as_one(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 1 * * * root x y")
    for path, more in ((tab, ["--system"]), (crontab(tmp_path, "0 1 * * * root x y", name="cron.d/t"), [])):
        done = simulate(capfd, path, day("01:00"), day("02:00"), *more)
        assert done.out == ["Mon 2026-06-01 01:00 +00:00  line 1  root  x y"]


def test_a_schedule_by_seconds_is_simulated_by_seconds(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "@every 25s x")
    done = simulate(capfd, tab, day("01:00:00"), day("01:02:00"))
    assert [line[15:23] for line in done.out] == ["01:00:00", "01:00:25", "01:00:50", "01:01:15", "01:01:40"]


def test_a_change_of_the_clocks_stands_between_the_lines(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 * * * * hourly", "30 2 * * * fixed")
    done = simulate(capfd, tab, "2026-03-08T01:00", "2026-03-08T04:00", zone="America/New_York")
    assert done.out == [
        "Sun 2026-03-08 01:00 -05:00  line 1  hourly",
        "# Sun 2026-03-08 03:00 -04:00: the clocks go from 02:00 to 03:00",
        "Sun 2026-03-08 03:00 -04:00  line 1  hourly",
        "Sun 2026-03-08 03:00 -04:00  line 2  fixed",
    ]


FIXED, WILD = "0-59/10 12-14 * * * fixed", "*/10 * * * * wild"
STEPS = {
    "+4": ["12:14 fixed", "12:14 wild", "12:20 fixed", "12:20 wild"],  # 12:10 was missed, of five
    "+5": ["12:15 fixed", "12:20 fixed", "12:20 wild"],
    "+59": ["13:09 fixed"] * 6 + ["13:10 fixed", "13:10 wild"],
    "+180": ["15:10 wild"],
    "-5": ["12:10 fixed", "12:10 wild"],
    "-10": ["12:00 wild", "12:10 fixed", "12:10 wild"],
    "-59": ["11:20 wild", "11:30 wild"],
}


@pytest.mark.parametrize("step", STEPS)
def test_at_a_step_the_clock_reads_so_much_more_when_it_would_have_read_that(
    step: str, tmp_path: Path, capfd: Capture
) -> None:
    tab = crontab(tmp_path, FIXED, WILD)
    runs = started(capfd, tab, day("12:01"), day("15:30"), "--step", f"{day('12:10')}={step}")
    found = [f"{time} {command}" for time, command in runs][: len(STEPS[step])]
    assert sorted(found) == sorted(STEPS[step]), runs


def test_steps_and_absences_are_told(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 1 * * * x")
    more = ["--step", f"{day('12:10')}=-5", "--suspend", f"{day('13:00')}=2h", "--stop", f"{day('16:00')}=7"]
    assert [line[17:22] + line[29:] for line in simulate(capfd, tab, day("12:00"), day("17:00"), *more).out] == [
        "12:05: the clock is put back by 5 min",
        "13:00: the machine is asleep for 2 h",
        "16:00: the dispatcher is stopped for 7 min",
    ]


def test_a_sleep_makes_up_for_fixed_lines_and_a_long_stop_for_nothing(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, FIXED, WILD)
    asleep = started(capfd, tab, day("12:05"), day("12:46"), "--suspend", f"{day('12:06')}=39")
    assert Counter(asleep) == {("12:45", "fixed"): 4}
    stopped = started(capfd, tab, day("12:05"), day("12:46"), "--stop", f"{day('12:06')}=39")
    assert stopped == []
    short = started(capfd, tab, day("12:05"), day("12:12"), "--stop", f"{day('12:09')}=2")
    assert short == [("12:11", "fixed"), ("12:11", "wild")]  # under six minutes a restart is no gap


def test_catchup_is_made_up_for_after_a_stop_and_what_is_too_old_is_said(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "# cronq: name=last catchup=last/1h", FIXED, "# cronq: name=old catchup=all/1m", FIXED)
    stop = ["--stop", f"{day('12:06')}=39"]
    made = simulate(capfd, tab, day("12:05"), day("12:46"), *stop, "--json").objects
    assert [(run["entry"], run["time"][11:16], run["caught_up"]) for run in made] == [("last", "12:45", True)]
    out = simulate(capfd, tab, day("12:05"), day("12:46"), *stop).out
    assert out[1].endswith("line 2  fixed (made up for)")
    assert out[2].endswith("missed, and not made up for: 3 of last, 4 of old")


BAD = [
    (["--from", "x", "--to", day("12:00")], "cronq: --from must be a time like"),
    (["--from", day("12:00"), "--to", day("12:00")], "cronq: --to must be later than --from"),
    (["--from", day("12:00"), "--to", "2099-01-01"], "cronq: --to must be later than --from, by 10 years at most"),
    (["--step", "59"], "cronq: --step must be like 2027-03-28T12:00=+59, not '59'"),
    (["--step", f"{day('12:10')}=much"], "cronq: --step must be like TIME=+59: a number of minutes"),
    (["--step", f"{day('18:00')}=+1"], f"cronq: --step {day('18:00')}=+1 is not between --from and --to"),
    (
        ["--step", f"{day('12:10')}=+9", "--step", f"{day('12:12')}=+9"],
        f"cronq: --step {day('12:12')}=+9: the clock never reads that; an earlier step goes past it",
    ),
    (["--step", f"{day('12:10')}=+9", "--stop", f"{day('12:12')}=9"], "cronq: --stop"),
    (["--stop", f"{day('12:10')}=9", "--suspend", f"{day('12:12')}=9"], "cronq: --suspend"),
    (["--stop", f"{day('12:10')}=-9"], "cronq: --stop must be like TIME=30"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_clear_sentence(words: list[str], said: str, tmp_path: Path, capfd: Capture) -> None:
    span = [] if "--from" in words else ["--from", day("12:00"), "--to", day("13:00")]
    done = cronq(capfd, "simulate", crontab(tmp_path, "* * * * * x"), "--tz", "UTC", *span, *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, [], 1)
    assert done.err.startswith(said)


def test_a_crontab_with_a_bad_line_is_simulated_without_it(tmp_path: Path, capfd: Capture) -> None:
    done = simulate(capfd, crontab(tmp_path, "60 * * * * bad", "0 1 * * * good"), day("01:00"), day("02:00"))
    assert (done.code, len(done.out)) == (65, 1)
    assert "line 1: bad minute: 60 is not in 0-59; see cronq check" in done.err
    done = simulate(capfd, crontab(tmp_path, "0 1 * * * x"), day("02:00"), day("03:00"))
    assert (done.code, done.out, done.err) == (0, [], "cronq: nothing would be started\n")


# ---------------------------------------------------------------- beside Debian's cron

SCHEDULES = [
    *("30 2 * * *", "0,15,45 2 * * *", "* 2 * * *", "*/30 2 * * *", "0 * * * *", "17 * * * *", "30 2,3 * * *"),
    *("1 1-3 * * *", "0 1 * * *", "30 0-4 * * *", "*/20 * * * *", "15 1,2 * * *", "0 3 * * 0", "@daily", "@hourly"),
    *("*/3 8-16 * * *", "10 12 * * *", "10,40 10-14 * * *", "0-9 12-15 * * *", "* * * * *"),
]


def beside_debian(capfd: Capture, folder: Path, zone: str, start: datetime.datetime, end: datetime.datetime,
                  readings: list[int], *more: str) -> int:  # fmt: skip
    """Debian's cron looks at these readings of a clock, `cronq simulate` is told of the same: how often both ran."""
    lines = [f"{when} echo {number} >>{folder}/ran" for number, when in enumerate(SCHEDULES)]
    tab = crontab(folder, *lines)
    span = [moment.isoformat(timespec="minutes")[:16] for moment in (start, end)]
    found = simulate(capfd, tab, *span, "--json", *more, zone=zone).objects
    times = [
        (int(datetime.datetime.fromisoformat(run["time"]).timestamp()), run["command"].split()[1]) for run in found
    ]
    ours = [(at, Counter(word for _, word in runs)) for at, runs in itertools.groupby(times, key=lambda run: run[0])]
    with Cron(folder, tab.read_bytes(), readings[0] - 60, zone) as debian:
        theirs = [(reading, ran) for reading in readings if (ran := debian.look(reading))]
    assert ours == theirs
    return len(found)


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_on_a_night_when_the_clocks_change_debian_starts_the_same(tmp_path: Path, capfd: Capture) -> None:
    zone = zoneinfo.ZoneInfo("America/New_York")
    start = datetime.datetime(2026, 3, 8, 1, 50, tzinfo=zone)
    end = datetime.datetime(2026, 3, 8, 3, 32, tzinfo=zone)
    readings = list(range(int(start.timestamp()), int(end.timestamp()), 60))
    assert beside_debian(capfd, tmp_path, "America/New_York", start, end, readings) > 10


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
@pytest.mark.parametrize("step", [5, 6, 59, 180, 181, -1, -6])
def test_after_a_step_debian_starts_the_same(step: int, tmp_path: Path, capfd: Capture) -> None:
    start, at = (datetime.datetime(2026, 6, 1, 11, minute, tzinfo=datetime.UTC) for minute in (57, 59))
    end = at + datetime.timedelta(minutes=step + 15)
    first, turn, last = (int(moment.timestamp()) for moment in (start, at, end))
    again = turn + step * 60 + 60 * (step == -1)  # in a minute that it has looked at, cron does not look again
    readings = [*range(first, turn, 60), *range(again, last, 60)]
    more = ("--step", f"2026-06-01T11:59={step:+d}")
    assert beside_debian(capfd, tmp_path, "UTC", start, end, readings, *more) > 3


def test_options_that_are_not_simulated_are_named(tmp_path, capfd):
    tab = tmp_path / "tab"
    tab.write_text("# cronq: name=a overlap=skip jitter=5m\n* * * * * true\n")
    words = ["simulate", str(tab), "--from", "2027-01-01T00:00", "--to", "2027-01-01T00:02", "--tz", "UTC"]
    assert "not simulated, each run starts when it is due: overlap, jitter" in cronq(capfd, *words).err
    tab.write_text("# cronq: name=a overlap=allow\n* * * * * true\n")
    assert cronq(capfd, *words).err == ""
