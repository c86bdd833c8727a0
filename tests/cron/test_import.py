"""`cronq import`: it shows what is there, and says of each oddity what cron does with it, and what cronq would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cronworld import CronWorld, world
from debian_jail import missing

from cronq import crontables, movein

debian = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
NOON = 1_790_000_040
ODD = {
    "odd": "MAILTO=a@example.org, b\n0 22-4 * * * root true\n0 0 13 * 5 root true\n5 * * * * root date +%F\n",
    "bad": "* * * * * root true\n60 * * * * root true\n",
    "stranger": "* * * * * nobody_at_all true\n* * * * * root true\n",
    "zone": "CRON_TZ=Asia/Tokyo\n0 9 * * * root true\n",
    "foo.conf": "* * * * * root true\n",
    "loose": "* * * * * root true\n",
    "nul": "* * * * * root true\0\n",
    "long": f"# {'x' * 10_000_000}\n* * * * * root true\n",
    "esc": "0 5 1 1 * root echo \x1b[2J\n",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What import says on a machine with odd tables: as text, and as objects."""
    scratch = tmp_path_factory.mktemp("import")
    world(scratch)
    for name, text in ODD.items():
        (scratch / "cron.d" / name).write_text(text)
    (scratch / "cron.d/loose").chmod(0o666)
    (scratch / "theirs").mkdir()
    (scratch / "theirs/app").write_text("0 5 1 1 * root true of-a-secret\n")
    os.chown(scratch / "theirs", 1, 0)
    (scratch / "cron.d/app").symlink_to(scratch / "theirs/app")
    (scratch / "crontab").write_text("17 * * * * root true hourly\n@reboot root true boot\n")
    (scratch / "tabs/daemon").write_text("30 6 * * * true own")
    os.chown(scratch / "tabs/daemon", 1, 0)
    (scratch / "tabs/daemon").chmod(0o600)
    before = {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}
    with CronWorld(scratch, NOON) as cron:
        before |= {path: path.read_bytes() for path in (scratch / "tabs").iterdir()}
        words = [sys.executable, "-m", "cronq", "import"]
        text = cron.inside(*words, check=True).stdout
        objects = [json.loads(line) for line in cron.inside(*words, "--json", check=True).stdout.splitlines()]
    assert {path: path.read_bytes() for path in before if "cron.d" in str(path) or "tabs" in str(path)} == {
        path: data for path, data in before.items() if "cron.d" in str(path) or "tabs" in str(path)
    }
    return text, {each["table"]: each for each in objects if "table" in each}, objects


def said(imported, name: str, key: str = "today") -> str:
    path = name if name.startswith("/") else f"/etc/cron.d/{name}"
    return "\n".join(f"{each['line']} {each['text']}" for each in imported[1][path][key])


@pytest.mark.root
@debian
def test_every_table_is_there_with_its_entries_and_their_next_runs(imported):
    text, tables, _ = imported
    assert list(tables)[:1] == ["/etc/crontab"]
    assert len(tables) == 1 + len(ODD) + 1 + 2
    hourly, boot = tables["/etc/crontab"]["entries"]
    assert (hourly["when"], hourly["user"], hourly["command"]) == ("17 * * * *", "root", "true hourly")
    assert ":17:00" in hourly["next"]
    assert boot["next"] is None
    assert "    at boot              @reboot         root      true boot\n" in text
    assert tables["/var/spool/cron/crontabs/daemon"]["entries"][0]["user"] == "daemon"


@pytest.mark.root
@debian
def test_a_link_to_where_others_than_root_choose_is_not_followed_and_that_is_a_difference(imported):
    assert "0 cronq runs nothing of it: /etc/cron.d/app: " in said(imported, "app", "cronq")
    assert "of-a-secret" not in imported[0]


@pytest.mark.root
@debian
def test_what_cron_does_that_nobody_may_know_is_said(imported):
    assert "no mail is sent to" in said(imported, "odd")
    assert "2 the hour 22-4 matches nothing" in said(imported, "odd")
    assert "3 both day fields are given" in said(imported, "odd")
    assert "4 cron ends the command at %" in said(imported, "odd")
    assert "0 cron ignores all of it, the good lines too (line 2: bad minute)" in said(imported, "bad")
    assert "1 there is no user nobody_at_all" in said(imported, "stranger")
    assert "its name has a dot" in said(imported, "foo.conf")
    assert "its mode is 0666" in said(imported, "loose")
    assert "(line 1: missing newline before EOF)" in said(imported, "/var/spool/cron/crontabs/daemon")
    assert said(imported, "/etc/crontab") == ""


@pytest.mark.root
@debian
def test_what_cronq_would_do_otherwise_is_said(imported):
    assert "cronq runs its 1 good line; cron none, for line 2: bad minute" in said(imported, "bad", "cronq")
    assert "cronq runs its 1 good line" in said(imported, "stranger", "cronq")
    assert "with cronq CRON_TZ=Asia/Tokyo holds" in said(imported, "zone", "cronq")
    assert said(imported, "nul", "cronq") == "0 cronq runs nothing of it: line 1 has a NUL byte: this is no crontab"
    assert "0 cronq runs nothing of it: the table has more than 4 MiB" in said(imported, "long", "cronq")
    assert said(imported, "loose", "cronq") == said(imported, "odd", "cronq") == ""


@pytest.mark.root
@debian
def test_a_table_cannot_speak_to_the_terminal(imported):
    assert "\x1b" not in imported[0]
    assert r"echo \x1b[2J" in imported[0]


@pytest.mark.root
@debian
def test_what_stands_around_cron_is_said(imported):
    assert imported[0].startswith("cron: runs, with the pid ")
    assert "mail" in imported[2][0]["machine"]


def test_of_a_directory_of_scripts_it_names_those_that_run_parts_runs(tmp_path):
    for name in ("good", "b_2", "dotted.sh", "plain", "bak~", "-x"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o644 if name == "plain" else 0o755)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "broken").symlink_to("/nowhere")
    (tmp_path / ".placeholder").touch()
    found = movein._folder(str(tmp_path))
    assert set(found["ignored"]) == {"dotted.sh", "plain", "bak~", "folder", "broken"}
    judged = subprocess.run(["run-parts", "--test", tmp_path], capture_output=True, text=True)
    assert found["runs"] == [Path(line).name for line in judged.stdout.splitlines()]


def test_the_link_crontab_to_cronq_is_not_asked_for_what_cron_has(tmp_path, monkeypatch):
    (tmp_path / "link").mkdir()
    (tmp_path / "link/cronq").write_text("#!/bin/sh\necho '1 1 * * * asked cronq'\n")
    (tmp_path / "link/crontab").symlink_to("cronq")
    (tmp_path / "crons").mkdir()
    (tmp_path / "crons/crontab").write_text("#!/bin/sh\necho '2 2 * * * asked cron'\n")
    for file in ("link/cronq", "crons/crontab"):
        (tmp_path / file).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/link:{tmp_path}/crons:/usr/bin:/bin")
    assert [entry.command for entry in crontables.own().entries] == ["asked cron"]
