"""The example at the top and the page about crontabs: what they show is so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import cronq
from debian_jail import missing, verdicts

from cronq.crontab import parse_crontab
from cronq.options import _KEYS

TOP = Path(__file__).parent.parent.parent
EXAMPLE = TOP / "crontab.example"
PAGE = (TOP / "docs" / "cron.md").read_text()


def test_the_example_has_nothing_to_mend(capfd: pytest.CaptureFixture[str]) -> None:
    done = cronq(capfd, "check", EXAMPLE)
    count = len(parse_crontab(EXAMPLE.read_bytes()).entries)
    assert (done.code, done.out) == (0, [f"ok    {EXAMPLE}: {count} lines to run"])


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_debians_own_crontab_takes_the_example(tmp_path: Path) -> None:
    (verdict,) = verdicts(tmp_path, [EXAMPLE.read_bytes()])
    assert verdict.accepted, verdict.message
    assert verdict.message == "The syntax of the crontab file was successfully checked."


def test_the_example_shows_it_all() -> None:
    text = EXAMPLE.read_text()
    entries = parse_crontab(text.encode()).entries
    shown = set(
        re.findall(r"\b([a-z]+)=", "\n".join(line for line in text.splitlines() if line.startswith("# cronq:")))
    )
    assert shown == set(_KEYS)
    assert {"@daily", "@reboot"} <= {entry.when for entry in entries}
    assert any(r"\%" in entry.command for entry in entries)
    for word in ("MAILTO", "CRON_TZ", "@every", "SHELL", "PATH"):
        assert word in text


def test_the_page_names_every_option() -> None:
    assert re.findall(r"^\| `([a-z]+)` \|", PAGE, re.M) == list(_KEYS)


(DIFFERENCES,) = re.findall(r"^\| In the file \|.*\n\|---.*\n((?:\|.*\n)*)", PAGE, re.M)
ROWS = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in DIFFERENCES.splitlines()]
FILES = [
    "60 * * * * a\n0 5 * * * b\n",
    "0 5 * * * b",
    "MAILTO=\n0 5 * * * b\n",
    "@every 10s b\n",
    "CRON_TZ=Europe/Berlin\n0 5 * * * b\n",
    "CRON_TZ=Nowhere\n0 5 * * * b\n",
    f"A={'x' * 2000}\n0 5 * * * b\n",
    "0 5 * * * b\n" + "\n" * 10_001,
    f"#{'x' * (4 << 20)}\n0 5 * * * b\n",
    f"{'0,' * 600}5 5 * * * b\n",
    "# \0\n0 5 * * * b\n",
]
RUNS_NOTHING = ("refuses the file", "runs no line below it", "does not run the line")


@pytest.mark.parametrize(("row", "text"), list(zip(ROWS, FILES, strict=True)), ids=[row[0][:30] for row in ROWS])
def test_each_difference_in_a_file_that_the_page_names_is_one_and_has_its_reason(row: list[str], text: str) -> None:
    _, ours, theirs, why = row
    table = parse_crontab(text.encode())
    assert bool(table.entries) == (ours not in RUNS_NOTHING)
    assert bool(table.debian) == (theirs == "ignores the file")
    assert why


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_debians_own_crontab_does_with_these_files_what_the_page_says(tmp_path: Path) -> None:
    accepted = [verdict.accepted for verdict in verdicts(tmp_path, [text.encode() for text in FILES])]
    assert accepted == [theirs != "ignores the file" for _, _, theirs, _ in ROWS]


def test_no_difference_is_without_a_reason() -> None:
    tables = re.findall(r"^\|.* \| Why \|\n\|---.*\n((?:\|.*\n)*)", PAGE, re.M)
    rows = [row.count(" | ") for table in tables for row in table.splitlines()]
    assert len(rows) > 35
    assert set(rows) == {3}


TABLE = re.findall(r"^```crontab\n(.*?)^```", PAGE, re.M | re.S)[0]
COMMANDS = re.findall(
    r"^\$ (.*)\n((?:.*\n)*?)(?=\$ |```)", "\n".join(re.findall(r"^```console\n(.*?```)", PAGE, re.M | re.S)), re.M
)


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command[:50] for command, _ in COMMANDS])
def test_the_commands_of_the_page_print_what_it_shows(command: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "backup.tab").write_text(TABLE)
    script = tmp_path / "bin" / "cronq"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cronq "$@"\n')
    script.chmod(0o755)
    env = os.environ | {"PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
    shell = shutil.which("sh") or "/bin/sh"
    done = subprocess.run([shell, "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == shown
