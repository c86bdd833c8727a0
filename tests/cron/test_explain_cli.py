"""`cronq explain`: an expression or a crontab line in English, with its next runs and what is doubtful about it."""

from __future__ import annotations

import re

import pytest
from command import cronq

Capture = pytest.CaptureFixture[str]
START = ("--from", "2026-06-01", "--tz", "UTC")


def test_an_expression_is_said_in_english_with_its_next_three_runs(capfd: Capture) -> None:
    done = cronq(capfd, "explain", "*/5 9-17 * * mon-fri", *START)
    assert (done.code, done.err) == (0, "")
    assert done.out == [
        "every 5 minutes from 09:00 to 17:55, Monday to Friday",
        "  next     Mon 2026-06-01 09:00 +00:00",
        "           Mon 2026-06-01 09:05 +00:00",
        "           Mon 2026-06-01 09:10 +00:00",
    ]
    assert re.search(r"  in (1 min|\d\d? s)$", cronq(capfd, "explain", "* * * * *").out[1])


def test_a_doubt_has_a_caret_and_a_remedy(capfd: Capture) -> None:
    assert cronq(capfd, "explain", "0 0 13 * 5", *START).out[-3:] == [
        "warning: both day fields are given, so the line runs on a day that suits either of them",
        "    0 0 13 * 5",
        "        ^ make one day field *, or test the other in the command",
    ]


def test_a_line_of_a_crontab_has_a_command_and_perhaps_an_input(capfd: Capture) -> None:
    done = cronq(capfd, "explain", r"30 2 * * * backup --at 5\%%yes%no", *START)
    assert done.out[:4] == [
        "at 02:30, every day",
        "  command  backup --at 5%",
        "  stdin    'yes\\nno\\n'",
        "  next     Mon 2026-06-01 02:30 +00:00",
    ]


@pytest.mark.parametrize("line", ["30 2 * * * root x y", "@daily root x y"])
def test_a_line_with_the_user_root_is_one_of_etc_crontab(line: str, capfd: Capture) -> None:
    assert cronq(capfd, "explain", line, *START).out[1:3] == ["  user     root", "  command  x y"]


def test_any_other_user_is_told_by_an_option(capfd: Capture) -> None:
    assert cronq(capfd, "explain", "@daily daemon x", *START).out[1] == "  command  daemon x"
    assert cronq(capfd, "explain", "--system", "@daily daemon x", *START).out[1] == "  user     daemon"
    assert "there is no user nosuch" in "".join(cronq(capfd, "explain", "--system", "@daily nosuch x").out)


def test_options_and_variables_above_a_line_are_explained_too(capfd: Capture) -> None:
    lines = (
        "MAILTO=ann",
        "CRON_TZ=America/New_York",
        "# cronq: name=b overlap=skip catchup=last/6h timeout=1h retries=3 jitter=5m mutex=disk notify=change",
        "0 3 * * * x",
    )
    assert cronq(capfd, "explain", "\n".join(lines), *START).out == [
        "at 03:00, every day",
        "  command  x",
        "  zone     America/New_York",
        "  env      MAILTO=ann",
        "  option   it is called b",
        "  option   a run that is due while the last one still runs is left out",
        "  option   the last missed run is made up for after downtime, if it is not older than 6 h",
        "  option   it is ended after 1 h",
        "  option   it is tried again, 3 times at most, if it fails",
        "  option   it starts up to 5 min later",
        "  option   it never runs at once with others of mutex disk",
        "  option   mail is sent when it begins to fail, and when it recovers",
        "  next     Mon 2026-06-01 03:00 -04:00",
        "           Tue 2026-06-02 03:00 -04:00",
        "           Wed 2026-06-03 03:00 -04:00",
    ]


def test_in_json_it_is_one_object(capfd: Capture) -> None:
    (found,) = cronq(capfd, "explain", "--json", "0 0 13 * 5", *START).objects
    assert found == {
        "expression": "0 0 13 * 5",
        "meaning": "at 00:00, on the 13th of the month and also on Fridays (a day that suits either is enough)",
        "next": ["2026-06-05T00:00:00+00:00", "2026-06-12T00:00:00+00:00", "2026-06-13T00:00:00+00:00"],
        "warnings": [
            {
                "column": 5,
                "message": "both day fields are given, so the line runs on a day that suits either of them",
                "mend": "make one day field *, or test the other in the command",
            }
        ],
    }
    (line,) = cronq(capfd, "explain", "--json", "A=b\n@daily x%y", *START).objects
    assert {key: line[key] for key in ("line", "user", "command", "stdin", "env")} == {
        "line": 2,
        "user": None,
        "command": "x",
        "stdin": "y\n",
        "env": {"A": "b"},
    }


EXTENDED = {
    "0 0 12 * * ?": ("at 12:00, every day", "there are six fields, so the first is taken for seconds"),
    "*/10 * * * * *": ("every 10 seconds", "there are six fields, so the first is taken for seconds"),
    "*/2,5 * * * * *": ("an extended schedule: second */2,5", "there are six fields"),
    "0 4 L * *": ("an extended schedule: minute 0, hour 4, day of the month L (L is the last)", "a crontab refuses it"),
    "0 4 * * 5#3": ("an extended schedule: minute 0, hour 4, day of the week 5#3", "in a crontab cron ignores #3"),
    "H H * * *": ("an extended schedule: minute H, hour H", "a crontab refuses it"),
    "@every 90s": ("every 90 seconds", ""),
    "*5 * * * *": ("every minute", "cron ignores 5 here and reads *"),
}


@pytest.mark.parametrize("text", EXTENDED)
def test_what_a_crontab_cannot_have_or_reads_otherwise_is_said(text: str, capfd: Capture) -> None:
    meaning, warning = EXTENDED[text]
    done = cronq(capfd, "explain", text, *START)
    assert (done.code, done.out[0][: len(meaning)]) == (0, meaning)
    said = [line for line in done.out if line.startswith("warning: ")]
    assert bool(said) == bool(warning)
    assert not said or said[0].startswith(f"warning: {warning}")


def test_what_never_runs_by_the_clock_has_no_next_run(capfd: Capture) -> None:
    assert cronq(capfd, "explain", "@reboot").out == ["once after each start of the machine"]
    assert cronq(capfd, "explain", "0 0 31 2 *").out[0] == "never: there is no 31st of February"
    assert "next" not in "".join(cronq(capfd, "explain", "0 0 31 2 *").out)


BAD = {
    "60 * * * *": (65, "cronq: bad minute: 60 is not in 0-59\n    60 * * * *\n    ^ the full hour is 0\n"),
    "60 * * * * x": (65, "cronq: bad minute: 60 is not in 0-59\n    60 * * * * x\n    ^ the full hour is 0\n"),
    "*/15": (65, "cronq: bad schedule: there is one field\n"),
    "* * * *": (65, "cronq: bad schedule: there are 4 fields\n"),
    "@never": (65, "cronq: bad time specifier: there is no @never\n"),
    "@every": (65, "cronq: bad time specifier: @every needs a period\n"),
    "* * * * * * *": (65, "cronq: bad command: it begins with *\n"),
    "": (2, "cronq: say what: an expression or a line of a crontab, in quotes\n"),
    "MAILTO=ann": (2, "cronq: this sets MAILTO to 'ann' for the lines below it, and runs nothing\n"),
    "# comment": (2, "cronq: this is a comment: it runs nothing\n"),
    "# cronq: name=x": (2, "cronq: this is a comment: it runs nothing\n"),
    "0 1 * * * x\0": (2, "cronq: this is no line of a crontab: line 1 has a NUL byte"),
}


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_what_is_no_schedule_is_one_clear_sentence(text: str, capfd: Capture) -> None:
    code, said = BAD[text]
    done = cronq(capfd, "explain", text)
    assert (done.code, done.out) == (code, [])
    assert done.err.startswith(said)


def test_no_text_of_a_line_is_obeyed_by_a_terminal(capfd: Capture) -> None:
    done = cronq(capfd, "explain", "0 1 * * * x\x1b[2J\udcff%\x1b[2J", *START)
    assert done.out[1:3] == [r"  command  x\x1b[2J\xff", r"  stdin    '\x1b[2J\n'"]
    assert "\x1b" not in cronq(capfd, "explain", "60 1 * * * x\x1b[2J").err
