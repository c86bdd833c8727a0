"""docs/moving.md: what it shows is what the commands print, on a machine with these tables."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from cronworld import CronWorld
from debian_jail import _FAKETIME, missing
from test_shadow import NOON, Beside, tables

from cronq.crontab import parse_crontab

PAGE = (Path(__file__).parent.parent.parent / "docs/moving.md").read_text()
debian = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
HOURLY = "17 * * * * root run-parts /etc/cron.hourly\n"
TABLES = {
    "etc": HOURLY,
    "backup.sh": "30 2 * * * root backup\n",
    "report": "0 8 13 * 5 root report --last-month\n*/5 * * * * root poll\n61 3 * * * root tidy\n",
    "sync": "*/2 * * * * nobody sync-mirror\n",
}


def shown(command: str) -> str:
    """What the page shows that a command prints."""
    (text,) = re.findall(rf"^# {command}\n(.*?)^```", PAGE, re.M | re.S)
    return text


@pytest.mark.root
@debian
def test_import_and_shadow_print_what_the_page_shows(tmp_path: Path) -> None:
    tables(tmp_path, **TABLES)
    state = tmp_path / "state"
    with CronWorld(tmp_path, NOON) as cron:
        env = os.environ | {"LD_PRELOAD": str(_FAKETIME[0]), "FAKETIME": "@2026-09-21 14:14:00", "TZ": "UTC"}
        command = [sys.executable, "-m", "cronq"]
        imported = cron.inside(*command, "import", env=env, check=True).stdout
        both = Beside(cron)
        for _ in range(3):
            both.minute()
        both.end()
        both.tell("save")
        both.process.communicate(timeout=60)
        report = cron.inside(*command, "shadow", "--report", "--state", state, env=env)
    for block in shown("cronq import").split("\n\n")[1:]:
        assert block.strip("\n") in imported
    assert report.returncode == 1
    lines = report.stdout.splitlines(keepends=True)
    ours = "".join(line for line in lines if "echo look" not in line)  # the test's own entry
    assert ours.replace("they differ: 5", "they differ: 2") == shown("cronq shadow --report")


ROWS = re.findall(r"^\| (?!in a table|---)(.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M)
SAID = [
    "60 * * * * a\n0 5 * * * b\n",
    "0 5 * * * b",
    "MAILTO=\n0 5 * * * b\n",
    "CRON_TZ=Asia/Tokyo\n0 5 * * * b\n",
    "@every 10s b\n",
    "0 5 * * * b\n" + "\n" * 10_001,
    "CRON_TZ=No/Where\n0 5 * * * b\n",
]


@pytest.mark.parametrize(("row", "text"), list(zip(ROWS, SAID, strict=True)), ids=[row[0][:30] for row in ROWS])
def test_what_the_page_says_is_different_is_so(row: tuple[str, str, str], text: str) -> None:
    table = parse_crontab(text.encode())
    assert bool(table.debian) == (row[1] == "ignores all of the table")
    assert bool(table.entries) == (row[2] != "runs no entry below it")
    assert [entry.zone for entry in table.entries if entry.zone] == ["Asia/Tokyo"] * ("Tokyo" in row[0])
