"""Which tables cron uses: Debian's own says so in its log, and we say the same of the same files."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from cronworld import CronWorld, world
from debian_jail import missing

from cronq import cronrules

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
NOON = 1_790_000_040
ALL = """\
import json
from cronq import crontables
for table in crontables.tables():
    fault, users = table.fault, [each.user for each in table.entries]
    print(json.dumps([table.path, fault and [fault.word, str(fault)], table.silenced, users]))
"""


def fill(scratch: Path) -> None:
    """Tables that cron takes, and one for each reason not to."""
    world(scratch)
    line, own = "* * * * * root true\n", "* * * * * true\n"
    system, users = scratch / "cron.d", scratch / "tabs"
    (scratch / "crontab").write_text(line)
    for name in (
        "good",
        "Good_2-x",
        "executable",
        "writable",
        "world",
        "owned",
        "linked",
        "foo.conf",
        ".hidden",
        "a~",
        "typo",
        "nobody",
    ):
        (system / name).write_text(line)
    (system / "executable").chmod(0o755)
    (system / "writable").chmod(0o664)
    (system / "world").chmod(0o646)
    os.chown(system / "owned", 1, 0)
    os.link(system / "linked", scratch / "other")
    (system / "typo").write_text(line + "60 * * * * root true\n")
    (system / "nobody").write_text(line + "* * * * * no_such_user true\n")
    (system / "folder").mkdir()
    (system / "dangling").symlink_to("/nowhere")
    (system / "fine").symlink_to("/etc/crontab")
    (system / "strange").symlink_to("/etc/crontab")
    os.lchown(system / "strange", 1, 0)
    for name, uid in (
        ("nobody", 65534),
        ("daemon", 1),
        ("bin", 3),
        ("sys", 3),
        ("mail", 0),
        ("ghost", 0),
        ("tmp.x", 0),
    ):
        (users / name).write_text(own)
        (users / name).chmod(0o600)
        os.chown(users / name, uid, 0)
    (users / "daemon").chmod(0o640)
    os.link(users / "sys", scratch / "third")
    (users / "games").symlink_to(users / "nobody")
    (users / "lp").write_text("* * * * * true")
    (users / "lp").chmod(0o600)


WORDS = re.compile(
    r"cron\[\d+\]: \((.*?)\) ([A-Z' ]+?(?: > 1)?)(?: \((?:mode 0600 expected|group/other writable)\))? \((.*)\)"
)


def test_cron_and_cronq_use_the_same_tables_and_give_the_same_reasons(tmp_path: Path) -> None:
    fill(tmp_path)
    with CronWorld(tmp_path, NOON) as cron:
        cron.look(NOON + 60)
        done = cron.inside(sys.executable, "-c", ALL, check=True)
        theirs = {mark[1].removeprefix("*system*"): mark[2] for text in cron.messages if (mark := WORDS.match(text))}
        ran = sorted(mark[1] for text in cron.messages if (mark := re.search(r"\((\w+)\) CMD .* true\)", text)))
    found = {
        path: (fault, silenced, users) for path, fault, silenced, users in map(json.loads, done.stdout.splitlines())
    }
    ours = {os.path.basename(path): fault[0].partition(" (")[0] for path, (fault, _, _) in found.items() if fault}
    silenced = {os.path.basename(path): why for path, (_, why, _) in found.items() if why}
    assert silenced == {
        "typo": "line 2: bad minute",
        "nobody": "line 2: bad username",
        "lp": "line 1: missing newline before EOF",
    }
    unlogged = {name: word for name, word in ours.items() if not word}
    assert unlogged == {"foo.conf": "", ".hidden": "", "a~": ""}
    logged = {name: word for name, word in ours.items() if word}
    for link in ("dangling", "games"):  # it says CAN'T OPEN SYMLINK of one of them
        assert theirs.pop(link).startswith(logged.pop(link))
    assert {name: word for name, word in theirs.items() if name in logged} == logged
    assert len(logged) == 10
    ours_run = [user for fault, why, users in found.values() if not fault and not why for user in users]
    assert sorted(ours_run) == sorted([*ran, "root"])  # one of them is the look of the test itself


def test_a_fifo_in_the_place_of_a_table_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor, _, fault = cronrules.system_table(str(tmp_path / "fifo"))
    os.close(descriptor)
    assert fault is not None
    assert fault.word == "NOT A REGULAR FILE"


def test_no_more_of_a_table_is_read_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 1000)
    descriptor, _, _ = cronrules.system_table(str(tmp_path / "big"))
    assert cronrules.content(descriptor, 10) == b"x" * 11
    os.close(descriptor)
