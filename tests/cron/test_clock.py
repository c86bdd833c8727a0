"""The clock: Vixie's rule for steps, the names of runs, restarts, catching up, extended schedules, speed."""

from __future__ import annotations

import datetime
import itertools
import json
import time
import zoneinfo

import pytest
from conftest import cost
from hypothesis import given, settings
from hypothesis import strategies as st

from cronq.clock import Clock, Due, Tick, step
from cronq.crontab import CronEntry, parse_crontab
from cronq.options import Options
from cronq.schedule import Every, Extended, parse, parse_extended
from cronq.upcoming import Run, last_runs, next_runs, runs

UTC = datetime.UTC
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Europe/Dublin", "Asia/Kathmandu", "UTC"]


def at(*when: int, zone: datetime.tzinfo = UTC, fold: int = 0) -> int:
    return int(datetime.datetime(*when, tzinfo=zone, fold=fold).timestamp())  # type: ignore[misc,arg-type]


def table(*lines: str) -> tuple[CronEntry, ...]:
    read = parse_crontab("".join(f"{line}\n" for line in lines).encode())
    assert not read.errors
    return read.entries


class Watch:
    """A clock that has entries and was started; `to` puts the time to a minute and gives the commands that are due."""

    def __init__(self, now: int, *lines: str, zone: datetime.tzinfo = UTC) -> None:
        self.now, self.zone, self.names = now, zone, set[tuple[str, int]]()
        self.entries = table(*lines)
        self.clock = Clock()
        self.clock.load(self.entries)
        assert self.clock.start(now, zone) == []

    def ticks(self, now: int) -> list[Tick]:
        if now // 60 < self.now // 60:  # the clock was put back in the midst of a minute
            assert self.clock.turn(now - 60, self.zone) == []
        self.now = now
        return self.clock.turn(now, self.zone)

    def to(self, now: int) -> list[str]:
        ticks = self.ticks(now)
        names = {(tick.entry.identity, tick.instant) for tick in ticks}
        assert len(names) == len(ticks)
        assert not names & self.names, "a name of a run was given twice"
        self.names |= names
        return [tick.entry.command for tick in ticks]

    def minutes(self, count: int) -> list[str]:
        return [command for _ in range(count) for command in self.to(self.now + 60)]

    def restarted(self, now: int) -> tuple[list[Tick], list[Tick]]:
        """Saved, gone, started again at `now`: what the start gives, and what the first turn does."""
        saved = json.loads(json.dumps(self.clock.state()))
        self.clock = Clock(saved)
        self.clock.load(self.entries)
        self.now = now
        return self.clock.start(now, self.zone), self.clock.turn(now, self.zone)


# ---- the rule itself (section 1, points 1 to 4), at each of its limits

V = 1000


@pytest.mark.parametrize("difference", [1, 2, 3, 4, 5])
def test_up_to_five_missed_minutes_run_in_full(difference: int) -> None:
    assert step(V, V + difference) == (V + difference, [Due(V + n, True, True) for n in range(1, difference + 1)])


@pytest.mark.parametrize("difference", [6, 7, 60, 179, 180])
def test_up_to_three_hours_wildcards_run_once_and_fixed_times_for_every_minute(difference: int) -> None:
    now = V + difference
    missed = [Due(V + n, False, True) for n in range(1, difference + 1)]
    assert step(V, now) == (now, [Due(now, True, False), *missed])


@pytest.mark.parametrize("difference", [181, 182, 1000, -180, -181, -1000])
def test_more_than_three_hours_are_a_jump(difference: int) -> None:
    assert step(V, V + difference) == (V + difference, [Due(V + difference, True, True)])


@pytest.mark.parametrize("difference", [0, -1, -59, -179])
def test_less_than_three_hours_back_the_virtual_clock_stands_still(difference: int) -> None:
    assert step(V, V + difference) == (V, [Due(V + difference, True, False)])


# ---- the rule at work


def test_a_minute_is_looked_at_once_however_many_turns_it_has() -> None:
    watch = Watch(at(2026, 6, 1, 11, 59), "* * * * * wild", "0 12 * * * noon")
    assert watch.to(at(2026, 6, 1, 12, 0, 1)) == ["wild", "noon"]
    for second in range(2, 60):
        assert watch.to(at(2026, 6, 1, 12, 0, second)) == []


def test_the_minute_in_which_cron_starts_is_not_run() -> None:
    watch = Watch(at(2026, 6, 1, 12, 0), "0 12 * * * noon", "1 12 * * * later")
    assert watch.to(at(2026, 6, 1, 12, 0, 30)) == []
    assert watch.to(at(2026, 6, 1, 12, 1)) == ["later"]


def test_a_late_turn_runs_every_missed_minute() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "* * * * * wild", "0 12 * * * noon")
    assert watch.to(at(2026, 6, 1, 12, 3)) == ["wild", "wild", "noon", "wild", "wild", "wild"]


def test_after_a_sleep_of_two_hours_fixed_times_are_made_up_for() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "* * * * * wild", "0 12,13 * * * hours", "58 13 * * * now")
    assert watch.to(at(2026, 6, 1, 13, 58)) == ["wild", "hours", "hours", "now"]


def test_the_runs_of_missed_minutes_are_named_by_those_minutes() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "0 12,13 * * * x")
    assert [tick.instant for tick in watch.ticks(at(2026, 6, 1, 13, 58))] == [at(2026, 6, 1, 12), at(2026, 6, 1, 13)]


def test_after_a_sleep_of_four_hours_only_the_current_minute_runs() -> None:
    watch = Watch(at(2026, 6, 1, 8, 58), "* * * * * wild", "0 12 * * * missed", "58 12 * * * now")
    assert watch.to(at(2026, 6, 1, 12, 58)) == ["wild", "now"]


def test_put_back_an_hour_wildcards_go_on_and_fixed_times_wait() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "*/10 * * * * wild", "0 12 * * * noon", "5 12 * * * after")
    assert watch.minutes(2) == ["wild", "noon"]
    assert watch.to(at(2026, 6, 1, 11, 10)) == ["wild"]
    assert watch.minutes(50) == ["wild"] * 5  # noon comes again and is not repeated
    assert watch.minutes(5) == ["after"]


def test_put_back_three_hours_everything_begins_anew() -> None:
    watch = Watch(at(2026, 6, 1, 11, 59), "0 9,12 * * * x")
    assert watch.minutes(1) == ["x"]
    assert watch.to(at(2026, 6, 1, 9)) == ["x"]
    assert watch.minutes(180) == ["x"]  # at noon again, under another name


def test_a_second_back_over_the_full_minute_runs_nothing_twice() -> None:
    watch = Watch(at(2026, 6, 1, 11, 59), "* * * * * wild")
    assert watch.to(at(2026, 6, 1, 12, 0, 0)) == ["wild"]
    assert watch.clock.turn(at(2026, 6, 1, 11, 59, 59), UTC) == []
    assert watch.clock.turn(at(2026, 6, 1, 12, 0, 0), UTC) == []
    assert [tick.entry.command for tick in watch.clock.turn(at(2026, 6, 1, 12, 1), UTC)] == ["wild"]


def test_a_changed_local_zone_is_a_step_of_the_clock() -> None:
    watch = Watch(at(2026, 6, 1, 9, 58), "0 10-13 * * * fixed", "*/30 * * * * wild")
    assert watch.minutes(3) == ["fixed", "wild"]
    watch.zone = zoneinfo.ZoneInfo("Europe/Berlin")  # two hours ahead: 12:02
    assert watch.minutes(1) == ["fixed", "fixed"]  # 11:00 and 12:00 were never shown
    assert watch.minutes(58) == ["wild", "fixed", "wild"]


def test_each_zone_has_a_virtual_clock_of_its_own() -> None:
    """On this night Berlin goes from 02:00 to 03:00; London's clock, an hour behind, does so at the same instant."""
    lines = ("30 2 * * * here", "CRON_TZ=Europe/Berlin", "30 2 * * * berlin", "CRON_TZ=Asia/Tokyo", "0 10 * * * tokyo")
    watch = Watch(at(2026, 3, 29, 0, 58), *lines)
    assert watch.minutes(2) == ["berlin", "tokyo"]
    assert watch.minutes(90) == ["here"]
    assert set(watch.clock.state()["zones"]) == {"", "Europe/Berlin", "Asia/Tokyo"}


def test_a_zone_that_comes_with_a_reload_begins_with_the_next_minute() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "0 12 * * * a")
    watch.minutes(1)
    watch.clock.load(table("0 12 * * * a", "CRON_TZ=Asia/Tokyo", "0 21 * * * b", "59 20 * * * missed"))
    assert watch.minutes(1) == ["a", "b"]


# ---- nights when the clocks change (section 1, point 6; test_against_debian has the judge)


def test_in_the_skipped_hour_fixed_times_run_at_its_end_each_on_its_own() -> None:
    lines = ["30 2 * * * once", "0,15,45 2 * * * thrice", "* 2 * * * never", "*/30 2 * * * never", "0 * * * * hourly"]
    watch = Watch(at(2026, 3, 8, 1, 58, zone=NEW_YORK), *lines, zone=NEW_YORK)
    assert watch.minutes(1) == []
    assert sorted(watch.minutes(1)) == ["hourly", "once", "thrice", "thrice", "thrice"]
    assert watch.minutes(59) == []


def test_in_the_repeated_hour_wildcards_run_twice_and_fixed_times_once() -> None:
    lines = ["0 * * * * hourly", "0 1 * * * zero", "1 1 * * * one", "30 0-4 * * * half", "* * * * * minute"]
    watch = Watch(at(2026, 11, 1, 0, 59, zone=NEW_YORK), *lines, zone=NEW_YORK)
    ran = watch.minutes(120)
    assert {command: ran.count(command) for command in set(ran)} == {
        "hourly": 2,
        "zero": 1,
        "one": 1,
        "half": 1,
        "minute": 120,
    }


def test_a_run_of_the_skipped_hour_has_a_name_apart_from_the_minute_it_would_have_had() -> None:
    watch = Watch(at(2026, 3, 8, 1, 59, zone=NEW_YORK), "30 2,3 * * * x", zone=NEW_YORK)
    (skipped,) = watch.ticks(at(2026, 3, 8, 3, 0, zone=NEW_YORK))
    assert skipped.instant == at(2026, 3, 8, 3, 30, 30, zone=NEW_YORK)
    ticks = [tick for _ in range(30) for tick in watch.ticks(watch.now + 60)]
    assert [tick.instant for tick in ticks] == [at(2026, 3, 8, 3, 30, zone=NEW_YORK)]


@pytest.mark.parametrize("zone", ZONES)
def test_tick_by_tick_the_clock_makes_the_runs_that_are_foretold(zone: str) -> None:
    lines = ["30 2 * * *", "0,15,45 2 * * *", "*/7 1-3 * * *", "0 * * * *", "59 0-4 * * *", "1 1,2 * * *", "@daily"]
    tz = zoneinfo.ZoneInfo(zone)
    for start in (at(2026, 3, 7, 23), at(2026, 3, 28, 23), at(2026, 4, 4, 12), at(2026, 10, 3, 12), at(2026, 11, 1, 4)):
        watch = Watch(start, *(f"{line} {number}" for number, line in enumerate(lines)), zone=tz)
        made = {line: [] for line in lines}
        for minute in range(1, 361):
            for tick in watch.ticks(start + 60 * minute):
                made[lines[int(tick.entry.command)]].append(Run(tick.instant, start + 60 * minute))
        foretold = {line: list(runs(parse(line), tz, start, start + 360 * 60)) for line in lines}
        assert made == foretold


@settings(max_examples=150, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    start=st.sampled_from([at(2026, 3, 8, 4), at(2026, 3, 29, 0), at(2026, 10, 25, 0), at(2026, 11, 1, 4)]),
    steps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 5, 6, 61, 180, 181, -1, -2, -59, -179, -180, -200]), max_size=29),
)
def test_no_two_runs_have_one_name_whatever_the_clock_does(zone: str, start: int, steps: list[int]) -> None:
    lines = ("* * * * * a", "0-59 0-23 * * * b", "30 1,2 * * * c", "*/5 2 * * * d")
    watch = Watch(start, *lines, zone=zoneinfo.ZoneInfo(zone))
    for minutes in steps:
        watch.to(watch.now + 60 * minutes)  # it asserts that all names are new


def test_asleep_through_the_repeated_hour_a_wildcard_run_is_named_by_the_minute_of_waking() -> None:
    watch = Watch(at(2026, 11, 1, 0, 50, zone=NEW_YORK), "*/30 * * * * wild", "30 1 * * * fixed", zone=NEW_YORK)
    wild, fixed = watch.ticks(at(2026, 11, 1, 1, 30, zone=NEW_YORK, fold=1))
    assert wild.instant == at(2026, 11, 1, 1, 30, zone=NEW_YORK, fold=1)
    assert fixed.instant == at(2026, 11, 1, 1, 30, zone=NEW_YORK)


@pytest.mark.parametrize("text", ["30 1 * * *", "0 30 1 * * *"])
def test_asked_in_the_repeated_hour_a_fixed_time_comes_next_day(text: str) -> None:
    (run,) = next_runs(parse_extended(text, "x"), NEW_YORK, at(2026, 11, 1, 1, 10, zone=NEW_YORK, fold=1), 1)
    assert run.at == at(2026, 11, 2, 1, 30, zone=NEW_YORK)


# ---- restart


@pytest.mark.parametrize("gap", [0, 1, 5])
def test_a_restart_within_six_minutes_is_no_gap(gap: int) -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "* * * * * wild", "0-59 12 * * * fixed")
    watch.minutes(2)
    first, then = watch.restarted(at(2026, 6, 1, 12, gap))
    assert first == []
    assert [tick.instant for tick in then] == [at(2026, 6, 1, 12, n) for n in range(1, gap + 1) for _ in "wf"]


@pytest.mark.parametrize("gap", [6, 60, 500])
def test_a_longer_gap_runs_nothing_not_even_the_minute_of_the_start(gap: int) -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "* * * * * wild", "0-59 * * * * fixed")
    watch.minutes(2)
    assert watch.restarted(at(2026, 6, 1, 12) + 60 * gap) == ([], [])
    assert sorted(watch.minutes(1)) == ["fixed", "wild"]


def test_a_short_restart_over_the_skipped_hour_loses_no_fixed_time() -> None:
    watch = Watch(at(2026, 3, 8, 1, 58, zone=NEW_YORK), "30 2 * * * x", zone=NEW_YORK)
    watch.minutes(1)
    first, then = watch.restarted(at(2026, 3, 8, 3, 1, zone=NEW_YORK))
    assert (first, [tick.entry.command for tick in then]) == ([], ["x"])


def test_a_restart_in_the_repeated_hour_repeats_no_fixed_time() -> None:
    watch = Watch(at(2026, 11, 1, 1, 0, zone=NEW_YORK), "30 1 * * * x", "*/30 * * * * wild", zone=NEW_YORK)
    assert watch.minutes(40) == ["x", "wild"]
    assert watch.restarted(at(2026, 11, 1, 1, 10, zone=NEW_YORK, fold=1)) == ([], [])
    assert watch.minutes(50) == ["wild", "wild"]


def test_the_state_is_one_number_per_zone_and_four_of_the_clock() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "* * * * * x", "CRON_TZ=Asia/Tokyo", "* * * * * y")
    state = json.loads(json.dumps(watch.clock.state()))
    assert state.keys() == {"zones", "minute", "newest", "second", "repeats"}
    assert state["zones"] == {"": at(2026, 6, 1, 11, 58) // 60, "Asia/Tokyo": at(2026, 6, 1, 20, 58) // 60}


@pytest.mark.parametrize(
    "state", [{}, {"zones": []}, {"zones": {"": "x"}, "minute": 1, "newest": 1, "second": 1, "repeats": 0}]
)
def test_a_damaged_state_is_none(state: dict[str, object]) -> None:
    clock = Clock(state)
    clock.load(table("* * * * * x"))
    assert clock.start(at(2026, 6, 1, 12), UTC) == []
    assert clock.turn(at(2026, 6, 1, 12), UTC) == []
    assert len(clock.turn(at(2026, 6, 1, 12, 1), UTC)) == 1


def test_reboot_lines_are_never_due_by_the_clock() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58), "@reboot x")
    assert watch.minutes(200) == []


# ---- catching up


@pytest.mark.parametrize(
    ("catchup", "hours"),
    [
        *(("none", []), ("last", [12]), ("last/6h", [12]), ("last/30m", [])),
        *(("all", [9, 10, 11, 12]), ("all/2h", [11, 12]), ("all/9h/3", [10, 11, 12])),
    ],
)
def test_after_downtime_an_entry_gets_the_missed_runs_it_asks_for(catchup: str, hours: list[int]) -> None:
    watch = Watch(at(2026, 6, 1, 8, 58), f"# cronq: catchup={catchup}", "0 9-12 * * * x", "0 9-12 * * * plain")
    watch.minutes(1)
    first, _ = watch.restarted(at(2026, 6, 1, 12, 45))
    assert [tick.instant for tick in first] == [at(2026, 6, 1, hour) for hour in hours]
    assert {tick.entry.command for tick in first} <= {"x"}


def test_what_is_passed_over_is_told() -> None:
    watch = Watch(at(2026, 6, 1, 8, 59), "# cronq: catchup=last", "0 9-12 * * * x")
    watch.restarted(at(2026, 6, 1, 12, 45))
    assert watch.clock.passed_over == []  # of the turn after it
    watch = Watch(at(2026, 6, 1, 8, 59), "# cronq: catchup=last", "0 9-12 * * * x")
    watch.clock = clock = Clock(watch.clock.state())
    clock.load(watch.entries)
    assert [tick.instant for tick in clock.start(at(2026, 6, 1, 12, 45), UTC)] == [at(2026, 6, 1, 12)]
    assert [tick.instant for tick in clock.passed_over] == [at(2026, 6, 1, hour) for hour in (9, 10, 11)]


def test_after_a_long_sleep_catchup_makes_up_for_what_the_rule_passes_over() -> None:
    watch = Watch(at(2026, 6, 1, 8, 58), "# cronq: catchup=all", "0 9-13 * * * x", "0 9-13 * * * plain")
    ticks = watch.ticks(at(2026, 6, 1, 13, 0))
    assert sorted((tick.entry.command, tick.instant, tick.caught_up) for tick in ticks) == [
        ("plain", at(2026, 6, 1, 13), False),
        *(("x", at(2026, 6, 1, hour), True) for hour in (9, 10, 11, 12)),
        ("x", at(2026, 6, 1, 13), False),
    ]


def test_the_skipped_hour_is_no_downtime() -> None:
    watch = Watch(at(2026, 3, 8, 1, 59, zone=NEW_YORK), "# cronq: catchup=all", "*/10 * * * * x", zone=NEW_YORK)
    assert watch.minutes(1) == ["x"]


def test_years_of_downtime_are_looked_through_quickly() -> None:
    watch = Watch(at(2020, 6, 1, 8, 58), "# cronq: catchup=all", "* * * * * x", "# cronq: catchup=last", "0 0 29 2 * y")
    begin = time.process_time()
    first, _ = watch.restarted(at(2026, 6, 1, 12, 45))
    assert time.process_time() - begin < 5
    assert len(first) == 101
    assert at(2024, 2, 29) in [tick.instant for tick in first]


# ---- extended schedules


class Plain:
    """A schedule of cronq.toml as the clock sees it."""

    def __init__(self, text: str, catchup: str = "none", zone: str = "") -> None:
        self.schedule, self.zone, self.options = parse_extended(text, text), zone, Options(catchup=catchup)


def extended(now: int, *entries: Plain) -> Clock:
    clock = Clock()
    clock.load(entries)
    assert clock.start(now, UTC) == []
    assert clock.turn(now, UTC) == []
    return clock


def seconds(clock: Clock, begin: int, moments: list[int]) -> list[int]:
    return [tick.instant - begin for moment in moments for tick in clock.turn(begin + moment, UTC)]


@pytest.mark.parametrize("text", ["*/10 * * * * *", "@every 10s"])
def test_seconds_are_kept(text: str) -> None:
    begin = at(2026, 6, 1, 12)
    assert seconds(extended(begin, Plain(text)), begin, list(range(1, 61))) == [10, 20, 30, 40, 50, 60]


def test_a_late_turn_makes_an_extended_schedule_run_once_for_the_newest_time() -> None:
    begin = at(2026, 6, 1, 12)
    clock = extended(begin, Plain("@every 10s"))
    assert seconds(clock, begin, [10, 3605]) == [10, 3600]
    assert clock.passed_over == []  # nobody asked for the others
    assert seconds(clock, begin, [3606, 3610]) == [3610]


def test_after_a_very_long_sleep_an_extended_schedule_begins_with_what_is_to_come() -> None:
    begin = at(2026, 6, 1, 12, 0, 1)
    clock = extended(begin, Plain("0 0 13 * * *"))
    assert clock.turn(at(2026, 6, 1, 18), UTC) == []
    assert [tick.instant for tick in clock.turn(at(2026, 6, 2, 13), UTC)] == [at(2026, 6, 2, 13)]


def test_an_extended_schedule_catches_up_if_it_is_asked_to() -> None:
    begin = at(2026, 6, 1, 12)
    assert seconds(extended(begin, Plain("@every 10s", "all")), begin, [35]) == [10, 20, 30]


def test_an_extended_schedule_stands_still_while_the_clock_is_behind() -> None:
    begin = at(2026, 6, 1, 12)
    clock = extended(begin, Plain("@every 10s"))
    assert seconds(clock, begin, [10, -600, -590, 10, 20]) == [10, 20]
    assert seconds(clock, begin, [-20_000, -19_995, -19_990]) == [-19990]


def test_a_reload_while_the_clock_is_behind_repeats_no_extended_schedule() -> None:
    begin = at(2026, 6, 1, 12)
    clock = extended(begin, Plain("@every 10s"))
    assert seconds(clock, begin, [10, -600]) == [10]
    clock.load([Plain("@every 10s")])
    assert seconds(clock, begin, [-590, -580, 10, 20]) == [20]


def test_an_extended_schedule_is_not_lost_in_a_restart() -> None:
    begin = at(2026, 6, 1, 12)
    clock = extended(begin, Plain("@every 10s"))
    clock.turn(begin + 9, UTC)
    again = Clock(clock.state())
    again.load([Plain("@every 10s")])
    assert again.start(begin + 12, UTC) == []
    assert seconds(again, begin, [12]) == [10]


NEXT = [
    ("0 0 12 L * *", [(2026, 3, 31, 12), (2026, 4, 30, 12)]),
    ("0 12 * * 5#3", [(2026, 3, 20, 12), (2026, 4, 17, 12)]),
    ("0 12 15W * *", [(2026, 3, 16, 12), (2026, 4, 15, 12)]),
    ("*/30 * * * * *", [(2026, 3, 8, 0, 0, 30), (2026, 3, 8, 0, 1)]),
    ("0 0 12 1 1 *", [(2027, 1, 1, 12), (2028, 1, 1, 12)]),
    ("0 0 12 */2 * 1", [(2026, 3, 9, 12), (2026, 3, 23, 12)]),  # cron's day rule: odd days that are Mondays
    ("0 0 29 2 *", [(2028, 2, 29), (2032, 2, 29)]),
    ("@every 1h", [(2026, 3, 8, 1), (2026, 3, 8, 2)]),
    ("0 0 31 2 *", []),
    ("0 0 12 31 2 *", []),
    ("@reboot", []),
]


@pytest.mark.parametrize(("text", "expected"), NEXT, ids=[row[0] for row in NEXT])
def test_the_next_runs_of_an_expression(text: str, expected: list[tuple[int, ...]]) -> None:
    found = next_runs(parse_extended(text, "x"), UTC, at(2026, 3, 8), 2)
    assert [run.at for run in found] == [at(*when) for when in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/20 30 * * * *", [(3, 30), (3, 30), (3, 30)]),
        ("0 30 2 * * *", [(3, 0)]),
        ("0 30 2,3 * * *", [(3, 0), (3, 30)]),
    ],
)
def test_an_extended_schedule_in_the_skipped_hour(text: str, expected: list[tuple[int, int]]) -> None:
    begin, end = at(2026, 3, 8, 1, 45, zone=NEW_YORK), at(2026, 3, 8, 4, zone=NEW_YORK)
    found = list(runs(parse_extended(text, "x"), NEW_YORK, begin, end))
    clock = [datetime.datetime.fromtimestamp(run.at, NEW_YORK) for run in found]
    assert [(shown.hour, shown.minute) for shown in clock] == expected
    assert len({run.instant for run in found}) == len(found)


@pytest.mark.parametrize(("text", "times"), [("0 */30 * * * *", 4), ("0 0,30 1 * * *", 2)])
def test_an_extended_schedule_in_the_repeated_hour(text: str, times: int) -> None:
    begin = at(2026, 11, 1, 0, 59, zone=NEW_YORK)
    assert len(list(runs(Extended(text, "x"), NEW_YORK, begin, begin + 2 * 3600))) == times


@pytest.mark.parametrize("text", ["*/7 3 * * *", "30 2 * * *", "@every 17s", "*/59 * * * * *", "0 0 2 L * *"])
def test_the_last_runs_are_the_end_of_all_runs(text: str) -> None:
    schedule = parse_extended(text, "x")
    begin, end = at(2026, 3, 8, 1, zone=NEW_YORK), at(2026, 3, 9, 4, zone=NEW_YORK)
    everything = list(runs(schedule, NEW_YORK, begin, end))
    for count in (1, 3, 10_000):
        assert last_runs(schedule, NEW_YORK, begin, end, count) == everything[-count:]


def test_asking_again_after_each_run_gives_the_same_runs() -> None:
    for text in ("30 2 * * *", "*/20 * * * *", "0 30 1 * * *", "*/30 1 1 * * *"):
        schedule = parse_extended(text, "x")
        for begin in (at(2026, 3, 8, 5), at(2026, 11, 1, 4)):
            at_once = sorted({run.at for run in runs(schedule, NEW_YORK, begin, begin + 8 * 3600)})
            one_by_one, now = [], begin
            while (found := next_runs(schedule, NEW_YORK, now, 1)) and found[0].at <= begin + 8 * 3600:
                now = found[0].at
                one_by_one.append(now)
            assert one_by_one == at_once


# ---- waking, and what a turn costs


def test_nothing_to_wait_for_is_waited_for_for_ever() -> None:
    assert Clock().wake(12.0) == float("inf")


def test_the_clock_tells_when_it_must_be_asked_again() -> None:
    watch = Watch(at(2026, 6, 1, 11, 58, 20), "0 0 * * * x")
    assert watch.clock.wake(watch.now) == at(2026, 6, 1, 11, 59)
    assert extended(at(2026, 6, 1, 12), Plain("@every 10s")).wake(at(2026, 6, 1, 12)) == at(2026, 6, 1, 12, 0, 10)


def test_ten_due_of_ten_thousand_cost_less_than_fifty_milliseconds() -> None:
    moments = itertools.product(range(1, 60), range(24), range(1, 29))
    lines = [f"{minute} {hour} {day} * * x" for minute, hour, day in itertools.islice(moments, 9990)]
    entries = table(*lines, *(f"0 12 * * * due{number}" for number in range(10)))
    ticks: list[Tick] = []
    clock = Clock()
    clock.load(entries)
    clock.start(at(2026, 6, 1, 11, 59), UTC)
    assert cost(lambda: ticks.extend(clock.turn(at(2026, 6, 1, 12), UTC))) < 0.05
    assert len(ticks) == 10


def test_an_idle_turn_looks_at_no_entry() -> None:
    class Counted(Plain):
        looks = 0

        def __getattribute__(self, name: str) -> object:
            Counted.looks += 1
            return super().__getattribute__(name)

    entries = [Counted(text) for text in ("0 0 * * *", "@every 1h") for _ in range(50)]
    clock = extended(at(2026, 6, 1, 12), *entries)
    Counted.looks = 0
    for second in range(1, 60):
        assert clock.turn(at(2026, 6, 1, 12, 0, second), UTC) == []
    assert Counted.looks == 0


def test_a_period_is_counted_from_the_epoch() -> None:
    assert [run.at for run in runs(Every(7), UTC, 0, 21)] == [7, 14, 21]
