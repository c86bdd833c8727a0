"""Each form that a crontab must not have: refused with its place and a remedy, and all other lines run.

By what a person asks (`cronq check`), by `cronq crontab`, and by a dispatcher, which says so in its log.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench import Bench
from command import cronq

from cronq import tabcommand

Capture = pytest.CaptureFixture[str]
LONG = "x" * 999

FORMS = {  # -> the column at which the caret stands
    "5/15 * * * * x": 2,
    "0/15 * * * * x": 2,
    "1/1 * * * * x": 2,
    "*/0 * * * * x": 3,
    "*/ * * * * x": 3,
    "60 * * * * x": 1,
    "0 24h * * * x": 3,
    "0 24 * * * x": 3,
    "0 0 dom * * x": 5,
    "0 0 0 * * x": 5,
    "0 0 32 * * x": 5,
    "0 0 1 0 * x": 7,
    "0 0 1 13 * x": 7,
    "0 0 1 january * x": 7,
    "0 0 * * 8 x": 9,
    "0 0 * * monday x": 9,
    "L * * * * x": 1,
    "0 0 * * 5L x": 9,
    "0 0 15W * * x": 5,
    "? * * * * x": 1,
    "H * * * * x": 1,
    "R * * * * x": 1,
    "~ * * * * x": 1,
    ",1 * * * * x": 1,
    "1, * * * * x": 3,
    "1,,2 * * * * x": 3,
    "1--3 * * * * x": 3,
    "-1 * * * * x": 1,
    "+1 * * * * x": 1,
    "0x10 * * * * x": 1,
    "@DAILY x": 1,
    "@every_minute x": 1,
    "@every": 7,
    "@every soon x": 8,
    "\ufeff5 * * * * x": 1,
    "* * * * * * x": 11,
    "5 4 * *": 8,
    "5 * * * * " + LONG: 11,
    "0," * 600 + "0 * * * * x": 1,
    'A="x" y': 1,
    'A="x': 1,
    "A='x' # c": 1,
    "export A=x": 1,
    "A $=x": 1,
    "CRON_TZ=Nowhere": 1,
}
TAKEN = ["MAILTO=", "@every 5h x", "CRON_TZ=UTC"]
TABLE = "".join(f"{form}\n0 5 * * * good{number}\n" for number, form in enumerate(FORMS) if form != "CRON_TZ=Nowhere")
TABLE += "".join(f"{line}\n" for line in TAKEN) + "CRON_TZ=Nowhere\n"
PLACES = [(2 * number + 1, column) for number, column in enumerate(FORMS.values())]
PLACES[-1] = (PLACES[-1][0] + len(TAKEN), 1)
GOOD = len(FORMS) - 1


@pytest.fixture
def tab(tmp_path: Path) -> Path:
    path = tmp_path / "tab"
    path.write_text(TABLE)
    return path


def test_check_shows_each_with_its_place_a_caret_and_a_remedy(tab: Path, capfd: Capture) -> None:
    done = cronq(capfd, "check", "--json", tab)
    errors = [found for found in done.objects if found["level"] == "error"]
    assert (done.code, [(found["line"], found["column"]) for found in errors]) == (65, PLACES)
    assert all(found["message"] and found["mend"] for found in errors)
    out = cronq(capfd, "check", tab).out
    assert f"{len(FORMS)} errors" in out[-1]
    assert f"{GOOD + 1} lines to run" in out[-1]
    for (number, column), form in zip(PLACES, FORMS, strict=True):
        at = next(at for at, line in enumerate(out) if line.startswith(f"{tab}:{number}:{column}: error: "))
        assert out[at + 1].strip()[:40] == form[:40].replace("\ufeff", "?")
        assert out[at + 2].startswith(" " * (4 + column - 1) + "^ ")


def test_crontab_names_each_line_and_installs_nothing(tab: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert tabcommand.main(["-n", str(tab)]) == 1
    *lines, last = capfd.readouterr().err.splitlines()
    assert last == "errors in crontab file, can't install."
    assert [int(re.findall(r'^".*":(\d+): .', line)[0]) for line in lines] == [number for number, _ in PLACES]


def test_a_dispatcher_runs_all_other_lines_and_its_log_says_the_same(bench: Bench, capfd: Capture) -> None:
    bench.crontab(TABLE)
    bench.minutes(299, 301)
    log = [line for line in capfd.readouterr().err.splitlines() if "event=crontab-line" in line]
    said = [re.findall(r' line=(\d+) column=(\d+) reason="?(.+?)"? mend="?(.)', line)[0] for line in log]
    assert [(int(line), int(column)) for line, column, _, _ in said] == PLACES
    at_five = [name for name, second in bench.made() if second == 300 * 60]
    assert len(at_five) == GOOD + 1  # one of them is due every five hours
