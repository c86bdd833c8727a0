"""`cronq next`: the next runs of expressions and crontabs, and the nights on which the clocks change."""

from __future__ import annotations

import re
import zoneinfo
from collections import Counter
from pathlib import Path

import pytest
from command import cronq, crontab

from cronq import dst, when
from cronq.clock import Clock
from cronq.crontab import parse_crontab
from cronq.schedule import parse

Capture = pytest.CaptureFixture[str]
SPRING = ("--from", "2027-03-27", "--tz", "Europe/Berlin")


def test_an_expression_has_its_next_runs_with_day_and_offset(capfd: Capture) -> None:
    done = cronq(capfd, "next", "0 12 * * *", "-n", "2", "--from", "2026-12-31T12:00", "--tz", "UTC")
    assert (done.code, done.err) == (0, "")
    assert done.out == ["Thu 2026-12-31 12:00 +00:00", "Fri 2027-01-01 12:00 +00:00"]


def test_a_run_that_a_change_of_the_clocks_shifts_is_marked_and_so_are_those_of_the_coming_year(capfd: Capture) -> None:
    done = cronq(capfd, "next", "30 2 * * *", "-n", "3", *SPRING)
    assert done.out == [
        "Sat 2027-03-27 02:30 +01:00",
        "Sun 2027-03-28 03:00 +02:00",
        "    ^ 02:30 does not exist; runs at 03:00",
        "Mon 2027-03-29 02:30 +02:00",
        "",
        "2027-10-31: 02:30 comes twice; runs the first time only",
    ]


def test_in_json_a_run_is_an_object_with_its_mark_and_those_of_the_coming_year(capfd: Capture) -> None:
    runs = cronq(capfd, "next", "30 2 * * *", "-n", "2", "--json", *SPRING).objects
    assert [run["time"] for run in runs] == ["2027-03-27T02:30:00+01:00", "2027-03-28T03:00:00+02:00"]
    assert [run["mark"] for run in runs] == [None, "02:30 does not exist; runs at 03:00"]
    assert [change["date"] for change in runs[0]["changes"]] == ["2027-03-28", "2027-10-31"]


MARKS = {
    "30 2 * * *": ["02:30 does not exist; runs at 03:00", "02:30 comes twice; runs the first time only"],
    "0 2,3 * * *": ["02:00 does not exist; runs twice at 03:00", "02:00 comes twice; runs the first time only"],
    "0,15,45 2 * * *": [
        "02:00, 02:15 and 02:45 do not exist; runs 3 times at 03:00",
        "02:00, 02:15 and 02:45 come twice; runs the first time only",
    ],
    "*/5 2 * * *": [
        "02:00 to 02:55 do not exist; these runs are left out",
        "02:00 to 02:55 come twice; runs both times",
    ],
    "0 */2 * * *": ["02:00 does not exist; this run is left out", "02:00 comes twice; runs both times"],
    "30 2 L 1-9 *": [],
    "0 30 2 L * *": ["02:30 comes twice; runs the first time only"],
    "*/5 * * * *": [],
    "0 * * * *": [],
    "0 4 * * *": [],
    "30 2 29 3 *": [],
    "@every 10m": [],
    "@reboot": [],
}


@pytest.mark.parametrize("expression", MARKS)
def test_each_way_to_be_touched_by_a_change_has_its_sentence(expression: str, capfd: Capture) -> None:
    done = cronq(capfd, "next", expression, "-n", "1", "--from", "2027-01-01", "--tz", "Europe/Berlin")
    assert [line.partition(": ")[2] for line in done.out if line[:4] == "2027"] == MARKS[expression]


def test_half_an_hour_of_summer_time_touches_even_hourly_lines() -> None:
    zone = zoneinfo.ZoneInfo("Australia/Lord_Howe")
    spring, *_ = dst.changes(zone, 1_790_000_000, 1_790_000_000 + 366 * 86400)
    assert dst.mark(parse("0 * * * *"), zone, spring).text == "02:00 does not exist; this run is left out"  # type: ignore[union-attr]
    assert dst.mark(parse("15 2 * * *"), zone, spring).text == "02:15 does not exist; runs at 02:30"  # type: ignore[union-attr]
    assert dst.mark(parse("* * * * *"), zone, spring) is None


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Europe/Dublin"])
def test_the_marks_say_what_the_clock_does(name: str) -> None:
    """Each sentence is held against the dispatcher's own clock, minute by minute over both nights of 2027."""
    zone = zoneinfo.ZoneInfo(name)
    texts = [
        "30 2 * * *",
        "0 2,3 * * *",
        "0,15,45 2 * * *",
        "*/20 2 * * *",
        "0 */2 * * *",
        "45 1 * * *",
        "10-12 1,2 * * *",
    ]
    entries = parse_crontab("".join(f"{text} x\n" for text in texts).encode()).entries
    start = when.moment("2027-01-01", zone, "x")
    for at in dst.changes(zone, start, start + 365 * 86400):
        clock = Clock()
        clock.load(entries)
        clock.start(at - 3 * 3600, zone)
        ran = [(now, tick) for now in range(at - 3 * 3600, at + 3 * 3600, 60) for tick in clock.turn(now, zone)]
        for entry in entries:
            mark = dst.mark(entry.schedule, zone, at)
            mine = Counter(now for now, tick in ran if tick.entry is entry)
            said = mark.text if mark else ""
            if "runs at" in said or "times at" in said or "runs twice at" in said:
                count = 2 if "twice at" in said else int(said.split("runs ")[1].split()[0]) if "times at" in said else 1
                assert mine[at] == count, (entry.when, said)
            elif "left out" in said:
                assert not mine[at] or entry.when.startswith("0 */2"), (entry.when, said)
            elif mark is not None:
                length = mark.until - mark.at
                first = [mine[now] for now in range(at - length, at, 60)]
                again = [mine[now] for now in range(at, at + length, 60)]
                assert (first == again) == ("both times" in said), (entry.when, said)
                assert any(first)


def test_crontabs_and_expressions_are_merged_in_order(tmp_path: Path, capfd: Capture) -> None:
    one = crontab(tmp_path, "MAILTO=x", "0 3 * * * three", "0 1 * * * one%input", name="one")
    two = crontab(tmp_path, "0 2 * * * root two  words", name="cron.d/two")
    done = cronq(capfd, "next", one, two, "0 4 * * *", "-n", "4", "--from", "2026-06-01", "--tz", "UTC")
    assert [line.split("+00:00")[1].split() for line in done.out] == [
        [f"{one}:3", "one%input"],
        [f"{two}:1", "root", "two", "words"],
        [f"{one}:2", "three"],
        ["0", "4", "*", "*", "*"],
    ]
    runs = cronq(capfd, "next", one, two, "-n", "2", "--from", "2026-06-01", "--tz", "UTC", "--json").objects
    assert [(run["file"], run["line"], run["user"], run["command"]) for run in runs][1] == (
        str(two),
        1,
        "root",
        "two  words",
    )
    assert runs[0]["time"] == "2026-06-01T01:00:00+00:00"
    assert len(runs[0]["entry"]) == 16


def test_a_crontab_on_standard_input_may_have_a_user_column(capfd: Capture) -> None:
    stdin = b"0 1 * * * root x y\n"
    done = cronq(capfd, "next", "-", "--system", "--json", "-n", "1", stdin=stdin)
    assert [(run["user"], run["command"], run["file"]) for run in done.objects] == [("root", "x y", "standard input")]


def test_the_zone_of_a_line_is_its_own(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 2 * * * here", "CRON_TZ=America/New_York", "30 2 * * * there")
    done = cronq(capfd, "next", tab, "-n", "2", "--from", "2027-03-14", "--tz", "UTC")
    assert done.out == [
        "Sun 2027-03-14 02:00 +00:00  line 1  here",
        "Sun 2027-03-14 07:00 +00:00  line 3  there",
        "    ^ 02:30 does not exist; runs at 03:00",
        "",
        "2028-03-12: line 3  02:30 does not exist; runs at 03:00 (America/New_York)  there",
    ]


def test_without_a_start_it_is_from_now_on_and_says_how_long(capfd: Capture) -> None:
    done = cronq(capfd, "next", "* * * * *", "-n", "2", "--tz", "UTC")
    assert len(done.out) == 2
    assert re.search(r"  in (1 min|\d\d? s)$", done.out[0])


def test_the_machines_own_zone_is_tz_or_localtime(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Kolkata")
    assert cronq(capfd, "next", "0 0 * * *", "-n", "1", "--from", "2026-06-01").out == ["Mon 2026-06-01 00:00 +05:30"]
    monkeypatch.delenv("TZ")
    assert cronq(capfd, "next", "0 0 * * *", "-n", "1", "--from", "2026-06-01").code == 0


def test_what_the_clock_never_starts_is_said(capfd: Capture) -> None:
    done = cronq(capfd, "next", "@reboot", "0 0 31 2 *")
    assert done.out == [
        "@reboot: once after each start of the machine",
        "0 0 31 2 *: never: there is no 31st of February",
    ]


def test_a_schedule_that_only_the_configuration_may_have_says_so(capfd: Capture) -> None:
    done = cronq(capfd, "next", "*/10 * * * * *", "-n", "2", "--from", "2026-06-01", "--tz", "UTC")
    assert done.out == ["Mon 2026-06-01 00:00:00 +00:00", "Mon 2026-06-01 00:00:10 +00:00"]
    assert "there are six fields, so the first is taken for seconds; a crontab has five" in done.err


def test_quotes_that_were_forgotten_do_no_harm_or_are_asked_for(capfd: Capture) -> None:
    assert cronq(capfd, "next", "30", "2", "*", "*", "mon", "-n", "1").code == 0
    done = cronq(capfd, "next", "30", "2", "Makefile", "README.md")
    assert (done.code, done.out) == (2, [])
    assert done.err == "cronq: 30 is no schedule: put the five fields into quotes, like '30 2 * * *'\n"


BAD = [
    (["60 * * * *"], 65, "cronq: bad minute: 60 is not in 0-59\n    60 * * * *\n    ^ the full hour is 0\n"),
    (["* * * *"], 65, "cronq: bad schedule: there are 4 fields\n"),
    (["@Daily"], 65, "cronq: bad time specifier: cron knows @daily in small letters only\n"),
    (["@every 1fortnight"], 65, "cronq: bad time specifier: @every must be a duration"),
    (["99 * * * * *"], 65, "cronq: bad schedule: one of the six fields is no schedule\n"),
    (["nosuch"], 2, "cronq: nosuch is not there\n"),
    (["."], 65, "cronq: . is a directory, not a crontab\n"),
    ([], 69, "cronq: no dispatcher is running for /nowhere"),
    (["@daily", "--tz", "Europe/Nowhere"], 2, "cronq: --tz: there is no time zone 'Europe/Nowhere'; "),
    (["@daily", "--from", "tomorrow"], 2, "cronq: --from must be a time like 2026-12-24T18:00, "),
    (["@daily", "-n", "0"], 2, "cronq: Invalid value for '-n'"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=lambda value: str(value)[:30])
def test_bad_input_is_one_clear_sentence(
    words: list[str], code: int, said: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRONQ_SPOOL", "/nowhere")
    done = cronq(capfd, "next", *words)
    assert (done.code, done.out) == (code, [])
    assert done.err.startswith(said)


def test_a_crontab_with_a_bad_line_shows_the_others_and_says_so(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "60 * * * * bad", "0 1 * * * good")
    done = cronq(capfd, "next", tab, "-n", "1", "--from", "2026-06-01", "--tz", "UTC")
    assert (done.code, done.out) == (65, ["Mon 2026-06-01 01:00 +00:00  line 2  good"])
    assert done.err == f"cronq: {tab}: line 1: bad minute: 60 is not in 0-59; see cronq check {tab}\n"


def test_of_many_changes_of_the_clocks_a_few_are_listed(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, *[f"{minute} 2 * * * x" for minute in range(60)])
    done = cronq(capfd, "next", tab, "-n", "1", "--from", "2027-01-01", "--tz", "Europe/Berlin")
    assert len(done.out) == 1 + 1 + 24 + 1
    assert done.out[-1] == "… and 96 more"


def test_no_text_of_a_crontab_is_obeyed_by_a_terminal(tmp_path: Path, capfd: Capture) -> None:
    tab = tmp_path / "tab"
    tab.write_bytes(b"0 1 * * * \x1b[2J\xff\n")
    (line,) = cronq(capfd, "next", tab, "-n", "1", "--tz", "UTC").out
    assert line.endswith(r"line 1  \x1b[2J\xff")
    assert cronq(capfd, "next", tab, "-n", "1", "--json").objects[0]["command"] == "\x1b[2J\\xff"
