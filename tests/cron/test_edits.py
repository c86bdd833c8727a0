"""A crontab that is edited just before a minute begins: which table does the minute go by?

Debian's cron looks at its tables as it wakes for a minute, and runs that minute by what it finds; so do we.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from bench import UTC
from conftest import eventually
from debian_jail import Cron, missing
from machine import CONFIG

from cronq import check
from cronq.listing import Listing

EVERY = 4  # seconds
EDGE = 0.3  # of a second before a line is due: nobody has looked at tables since


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_debians_cron_goes_by_the_table_that_is_there_as_a_minute_begins(tmp_path):
    minute = 1_790_000_040

    def table(word: str) -> bytes:
        return f"* * * * * echo look >>{tmp_path}/ran\n* * * * * echo {word} >>{tmp_path}/ran\n".encode()

    def edit(word: str, age: int) -> None:
        draft = tmp_path / "draft"
        draft.write_bytes(table(word))
        draft.chmod(0o600)
        os.utime(draft, (time.time() - age, time.time() - age))  # cron compares whole seconds
        shutil.move(draft, tmp_path / "tabs" / "root")
        os.utime(tmp_path / "tabs", (time.time() - age, time.time() - age))

    with Cron(tmp_path, table("first").partition(b"\n")[2], minute) as cron:
        assert cron.look(minute + 60) == {"first": 1}
        edit("second", 30)
        assert cron.look(minute + 120) == {"second": 1}
        edit("third", 20)  # too late for the minute that has begun
        assert cron.look(minute + 180) == {"third": 1}


@pytest.mark.parametrize("place", ["crontab", "install"])
def test_so_do_we_with_a_table_of_ones_own(bench, place):
    write = getattr(bench, place)
    write("# cronq: name=first\n* * * * * true\n")
    bench.minutes(0, 1)
    write("# cronq: name=second\n* * * * * true\n")
    bench.minutes(2, 2)
    assert bench.made() == [("tab-first", 60), ("tab-second", 120)]


def test_of_one_name_in_both_of_ones_tables_the_installed_entry_runs_and_that_is_told(bench, capfd):
    bench.crontab("# cronq: name=a\n* * * * * true\n# cronq: name=b\n* * * * * true\n5 * * * * true\n")
    bench.install("# cronq: name=a\n* * * * * false\n5 * * * * true\n")
    bench.minutes(0, 1)
    assert bench.made() == [("tab-a", 60), ("tab-b", 60)]
    (entry,) = [each for _, each in bench.house.shelves.scan("ready") if "tab-a" in each.id]
    assert bench.house.tables.find(bench.uid, "a").table == f"installed/{bench.uid}"
    assert b'"false"' in bench.house.shelves.read("ready", entry, 65536)
    said = capfd.readouterr().err
    assert said.count("the installed crontab has an entry a too, and that one runs; rename one") == 1
    assert "line=2" in said
    told = list(check.twins(str(bench.root), str(bench.config)))
    assert [sentence.partition(": ")[0] for _, sentence in told] == [
        f"{bench.config}/crontab:{line}" for line in (2, 5)
    ]
    bench.install("")
    bench.minutes(2, 2)
    assert list(check.twins(str(bench.root), str(bench.config))) == []
    assert bench.made()[1:] == [("tab-a", 120), ("tab-b", 60), ("tab-b", 120)]


@pytest.mark.root
def test_so_do_we_with_a_table_of_roots_which_the_launcher_must_open(machine):
    proof = Path("/run/edits")
    proof.mkdir()
    proof.chmod(0o1777)

    def edit(word: str) -> None:
        draft = CONFIG / ".draft"
        draft.write_text(f"@every {EVERY}s ann date +\\%s > {proof}/{word}\n")
        draft.chmod(0o644)
        draft.rename(CONFIG / "crontab")

    machine.tasks("")
    edit("before")
    machine.start()
    eventually((proof / "before").exists)
    for number in range(5):
        eventually(lambda: time.time() % EVERY > EVERY - EDGE)
        due = time.time() // EVERY * EVERY + EVERY
        edit(f"edit{number}")
        if time.time() < due:
            break  # else this process was too slow
    new = proof / f"edit{number}"
    assert int(eventually(lambda: new.exists() and new.read_text())) - due < EVERY
    shutil.rmtree(proof)


def test_a_launcher_that_does_not_answer_delays_a_minute_by_seconds_and_no_longer(bench):
    bench.crontab("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 1)
    bench.house.listing = Listing(bench.house.tables, bench.house.crew, str(bench.config))
    bench.turn(UTC + 120)
    assert bench.house.listing.busy
    bench.turn(UTC + 124)
    assert bench.made() == [("tab-a", 60)]
    bench.turn(UTC + 126)
    assert bench.made() == [("tab-a", 60), ("tab-a", 120)]
