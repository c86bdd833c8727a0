"""`cronq takeover` without systemd: the switch in cronq.toml, the right seconds of a minute, and what is refused.

With a real cron.service, under systemd: tests/booted/test_given_back.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import CRONQ

from cronq import cronswitch, durable, takeover
from cronq.checkup import FAIL, OK, WARN
from cronq.errors import BadConfig
from cronq.whosecron import Facts, judge

PATH = "/etc/cronq/cronq.toml"
IN_A_TEXT = '[tasks.a]\nshell = """\nsystem = false\n"""\n'

SIMPLE = {
    "": "[cron]\nsystem = true\n",
    "[limits]\nmax_jobs = 3\n": "[limits]\nmax_jobs = 3\n\n[cron]\nsystem = true\n",
    "[limits]\nmax_jobs = 3": "[limits]\nmax_jobs = 3\n\n[cron]\nsystem = true\n",
    "[cron] # ours\nsystem = false # not yet\n": "[cron] # ours\nsystem = true # not yet\n",
    "[cron]\n[limits]\n": "[cron]\nsystem = true\n[limits]\n",
    "[cron]": "[cron]\nsystem = true\n",
    "[ cron ]\r\n[limits]\r\n": "[ cron ]\r\nsystem = true\r\n[limits]\r\n",
    "cron.system = false\n[limits]\n": "cron.system = true\n[limits]\n",
    "[cron]\nsystem = true\n": "[cron]\nsystem = true\n",
    '[tasks.a]\nshell = """\n[cron]\n"""\n': '[tasks.a]\nshell = """\n[cron]\n"""\n\n[cron]\nsystem = true\n',
    f"{IN_A_TEXT}[cron]\nsystem = false\n": f"{IN_A_TEXT}[cron]\nsystem = true\n",
}


@pytest.mark.parametrize("text", SIMPLE, ids=repr)
def test_the_switch_is_turned_on_and_every_other_byte_stays(text):
    turned = cronswitch.on(text, PATH)
    assert turned == SIMPLE[text]
    assert cronswitch.is_on(turned, PATH)
    assert cronswitch.on(turned, PATH) == turned


@pytest.mark.parametrize("text", SIMPLE, ids=repr)
def test_turned_off_again_it_says_what_it_said(text):
    again = cronswitch.off(cronswitch.on(text, PATH), PATH)
    assert not cronswitch.is_on(again, PATH)
    before, after = tomllib.loads(text), tomllib.loads(again)
    assert without_switch(after) == without_switch(before)


def without_switch(parsed):
    return {key: value for key, value in parsed.items() if key != "cron"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[limits\n", "mend that first"),
        ("cron = 3\n", "must be a table"),
        ("cron = { system = false }\n", "write system = true into its table"),
        ("[cron]\nsystem = 1\n", "write system = true into its table"),
    ],
)
def test_a_text_that_no_simple_edit_mends_is_refused_with_what_to_write(text, sentence):
    with pytest.raises(BadConfig, match=sentence) as refused:
        cronswitch.on(text, PATH)
    assert PATH in refused.value.sentence


def test_any_text_made_of_such_lines_is_switched_without_changing_its_meaning():
    chance = random.Random(4)
    lines = [
        "[cron]",
        "system = false",
        "[limits]",
        "max_jobs = 3",
        "# [cron]",
        'a = "system = false"',
        "",
        "'''",
        "x = '''",
    ]
    switched = 0
    for _ in range(3000):
        text = "\n".join(chance.choice(lines) for _ in range(chance.randrange(6)))
        try:
            before = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        try:
            turned = cronswitch.on(text, PATH)
        except BadConfig:
            continue
        switched += 1
        wanted = before | {"cron": {**before.get("cron", {}), "system": True}}
        assert tomllib.loads(turned) == wanted, text
        assert tomllib.loads(cronswitch.off(turned, PATH)).get("cron", {}).get("system", False) is False
    assert switched > 300


def test_it_waits_until_a_minutes_jobs_are_started_and_leaves_time_before_the_next():
    assert [takeover.wait(1_790_000_040 + second) for second in (0, 4.5, 5, 40)] == [5.0, 0.5, 0.0, 0.0]
    assert [takeover.wait(1_790_000_040 + second) for second in (41, 59.5)] == [24.0, 5.5]


def test_a_file_is_replaced_whole_with_its_mode_and_through_its_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    durable.write(str(link), b"new")
    assert (real.read_text(), real.stat().st_mode & 0o777, link.is_symlink()) == ("new", 0o640, True)
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---------------------------------------------------------------- what doctor says of it

BEFORE = Facts(noted=False, cron="cron.service", boots=True, switch=False, heeded=False, we_boot=True)
TAKEN = Facts(noted=True, cron="", boots=False, switch=True, heeded=True, we_boot=True)
BROKEN, NOBODY = "was broken off", "nobody runs the machine's crontabs"
FOUND = {
    "before": (BEFORE, None, ""),
    "takeover: noted": (BEFORE._replace(noted=True), WARN, BROKEN),
    "takeover: stopped": (
        TAKEN._replace(switch=False, heeded=False),
        FAIL,
        f"{NOBODY}: a takeover or rollback {BROKEN}",
    ),
    "takeover: written": (TAKEN._replace(heeded=False), FAIL, f"{NOBODY}: a takeover or rollback {BROKEN}"),
    "taken": (TAKEN, OK, "cronq runs the machine's crontabs"),
    "rollback: written": (TAKEN._replace(switch=False), FAIL, BROKEN),
    "rollback: reloaded": (
        TAKEN._replace(switch=False, heeded=False),
        FAIL,
        f"{NOBODY}: a takeover or rollback {BROKEN}",
    ),
    "rollback: enable": (TAKEN._replace(switch=False, heeded=False, boots=True), FAIL, NOBODY),
    "rollback: start": (BEFORE._replace(noted=True), WARN, BROKEN),
    "cron was started": (
        TAKEN._replace(cron="cron.service"),
        FAIL,
        "each line twice; cronq takeover does what is left",
    ),
    "by hand: both": (BEFORE._replace(switch=True, heeded=True), FAIL, "each line twice; stop cron"),
    "by hand: not reloaded": (BEFORE._replace(switch=True), WARN, "both would, after a restart"),
    "by hand: nobody": (TAKEN._replace(noted=False, heeded=False), FAIL, f"{NOBODY}: cron does not run"),
    "by hand: not reloaded back": (TAKEN._replace(noted=False, switch=False), FAIL, "systemctl reload cronq"),
    "cron was enabled": (TAKEN._replace(boots=True), WARN, "after the next boot both"),
    "cronq was disabled": (TAKEN._replace(we_boot=False), WARN, "after the next boot nobody"),
    "no cron at all": (BEFORE._replace(cron="", boots=False), None, ""),
}


@pytest.mark.parametrize("when", FOUND)
def test_whoever_runs_the_tables_now_and_after_the_next_boot_is_told(when):
    facts, level, words = FOUND[when]
    found = list(judge(facts))
    assert [each for each, _ in found] == [level] * (level is not None)
    assert all(words in sentence for _, sentence in found)


@pytest.mark.parametrize("command", ["takeover", "rollback"])
@pytest.mark.skipif(Path("/run/systemd/system").exists() or os.geteuid() != 0, reason="systemd runs here")
def test_without_systemd_it_does_nothing_and_says_what_to_do(command):
    done = subprocess.run([*CRONQ, command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (78, "")
    assert "between the 5th and the 40th second of a minute stop cron" in done.stderr
