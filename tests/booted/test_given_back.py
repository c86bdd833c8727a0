"""A machine whose cron is Debian's: cronq takes it over and gives it back, interrupted or not.

The minutes pass as they do, so this takes a while: with CRONQ_LONG=1 (`make booted`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter

import boot
import installation
import pytest
from conftest import eventually
from test_booted import Server

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.environ.get("CRONQ_LONG") != "1", reason="takes minutes; set CRONQ_LONG=1 (make booted)"),
    pytest.mark.skipif(bool(boot.missing()), reason=boot.missing() or "-"),
    pytest.mark.skipif(bool(installation.missing()), reason=installation.missing() or "-"),
    pytest.mark.skipif(not shutil.which("cron", path="/usr/sbin"), reason="cron is not here (apt-get install cron)"),
    pytest.mark.timeout(600),
]
CONFIG = "# Ours.\n[limits]\nmax_jobs = 20  # enough\n"
NOTES = "/var/lib/cronq/takeover.json"
INTERRUPTED = """\
import os, sys
from cronq import takeover

def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), 9)

seams = takeover.Seams(step, lambda _seconds: None)
if sys.argv[1] == "takeover":
    takeover.takeover(False, False, print, seams)
else:
    takeover.rollback(False, print, seams)
"""
SIGN = "* * * * * {user} echo $(date +\\%H:\\%M) {user} >>/srv/ledger\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with cron and cronq, both running, and an entry of root's and one of ann's that are due every minute."""
    made = Server(tmp_path_factory.mktemp("takeover"))
    try:
        made.run("/opt/cronq/bin/cronq", "install", "--system")
        made.path("/etc/cronq/cronq.toml").write_text(CONFIG)
        made.path("/etc/crontab").write_text("")
        for file in made.path("/etc/cron.d").iterdir():
            file.unlink()
        made.run("install", "-d", "-m", "1730", "-g", "crontab", "/var/spool/cron/crontabs")
        made.run("systemctl", "enable", "--now", "cronq")
        made.run("systemctl", "enable", "--now", "cron")
        yield made
    finally:
        made.stop()


def state(server) -> tuple[str, ...]:
    """Of cron: whether it runs, whether it would at boot; of cronq the same; the configuration."""
    found = server.show("ActiveState", "UnitFileState", unit="cron") + server.show("ActiveState", "UnitFileState")
    return (*found, server.path("/etc/cronq/cronq.toml").read_text())


NOBODY = "fail  cron: nobody runs the machine's crontabs: a takeover or rollback was broken off"
DOCTOR = {
    "noted": "warn  cron: a takeover or rollback was broken off",
    "stopped": NOBODY,
    "written": NOBODY,
    "reloaded": "ok    cron: cronq runs the machine's crontabs",
    "back written": "fail  cron: cronq runs the machine's crontabs, and /etc/cronq/cronq.toml says no more",
    "back reloaded": NOBODY,
    "back enable": NOBODY,
    "back start": "warn  cron: a takeover or rollback was broken off",
}


def doctor(server) -> str:
    return server.run("cronq", "doctor", code=None).stdout


BEFORE = ("active", "enabled", "active", "enabled", CONFIG)
TAKEN = ("inactive", "disabled", "active", "enabled", CONFIG + "\n[cron]\nsystem = true\n")


def test_a_dry_run_says_each_step_and_does_nothing(server):
    assert state(server) == BEFORE
    said = server.run("cronq", "takeover", "--dry-run").stdout
    for step in (
        "would: note",
        "would: run      systemctl disable --now cron.service",
        "would: write",
        "systemctl reload",
    ):
        assert step in said
    assert "nothing was done" in said
    assert state(server) == BEFORE
    assert not server.path(NOTES).exists()
    assert server.run("cronq", "rollback").stdout.startswith("nothing to undo")


def test_what_cronq_would_do_otherwise_is_in_the_way(server):
    file = server.path("/etc/cron.d/bad")
    file.write_text("0 5 1 1 * root true\n61 * * * * root true\n")
    refused = server.run("cronq", "takeover", code=78)
    assert "differs  /etc/cron.d/bad: cronq runs its 1 good line; cron none, for line 2: bad minute" in refused.stdout
    assert "--anyway" in refused.stderr
    assert state(server) == BEFORE
    file.unlink()
    server.run("systemctl", "disable", "cronq")
    assert "would not start at the next boot" in server.run("cronq", "takeover", code=78).stderr
    server.run("systemctl", "enable", "cronq")
    server.path("/etc/cronq/cronq.toml").write_text(CONFIG + "[cron]\nsystem = 3\n")
    assert server.run("cronq", "takeover", code=78).stdout == ""
    server.path("/etc/cronq/cronq.toml").write_text(CONFIG)
    assert state(server) == BEFORE


@pytest.mark.parametrize("cut", ["noted", "stopped", "written", "reloaded"])
def test_a_takeover_that_was_killed_is_finished_or_undone(server, cut):
    python = ["/opt/cronq/bin/python", "-c", INTERRUPTED]
    for command, wanted in (("takeover", TAKEN), ("rollback", BEFORE)):
        assert server.run(*python, "takeover", cut, code=None).returncode == -9
        assert DOCTOR[cut] in doctor(server)
        server.run(*python, command, "")
        assert state(server) == wanted
        server.run(*python, "rollback", "")
        assert state(server) == BEFORE
        assert not server.path(NOTES).exists()


@pytest.mark.parametrize("cut", ["written", "reloaded", "enable", "start"])
def test_a_rollback_that_was_killed_is_finished(server, cut):
    python = ["/opt/cronq/bin/python", "-c", INTERRUPTED]
    server.run(*python, "takeover", "")
    assert state(server) == TAKEN
    assert "cronq rollback first" in server.run("cronq", "uninstall", "--system", code=78).stderr
    assert server.run(*python, "rollback", cut, code=None).returncode == -9
    assert DOCTOR[f"back {cut}"] in doctor(server)
    server.run(*python, "rollback", "")
    assert state(server) == BEFORE


def test_what_was_written_into_the_configuration_since_stays(server):
    python = ["/opt/cronq/bin/python", "-c", INTERRUPTED]
    server.run(*python, "takeover", "")
    file = server.path("/etc/cronq/cronq.toml")
    file.write_text(file.read_text() + "\n[queues.mail]\nslots = 2\n")
    server.run(*python, "rollback", "")
    assert file.read_text() == CONFIG + "\n[queues.mail]\nslots = 2\n"
    file.write_text(CONFIG)
    server.run("systemctl", "reload", "cronq")


def test_a_machine_that_booted_with_cronq_runs_no_reboot_line_twice(server):
    python = ["/opt/cronq/bin/python", "-c", INTERRUPTED]
    server.path("/etc/cron.d/boot").write_text("@reboot root echo boot >>/srv/ledger\n")
    server.run(*python, "takeover", "")
    server.path("/run/crond.reboot").unlink()  # as after a boot
    server.run(*python, "rollback", "")
    eventually(lambda: "Skipping @reboot jobs" in server.run("journalctl", "-t", "cron", "--no-pager").stdout)
    assert "boot" not in server.ledger()
    server.path("/etc/cron.d/boot").unlink()


def minutes(server) -> Counter:
    """How often each of the two entries ran in each minute."""
    return Counter(tuple(line.split()) for line in server.path("/srv/ledger").read_text().splitlines())


def test_no_minute_is_run_twice_or_by_nobody(server):
    server.path("/srv/ledger").write_text("")
    server.path("/etc/cron.d/sign").write_text(SIGN.format(user="root"))
    table = SIGN.format(user="ann").replace("* ann ", "* ")
    server.run("crontab", "-", user="ann", input=table)
    watching = ["systemd-run", "--unit=shadow", "cronq", "shadow", "--journal"]
    server.run(*watching)
    eventually(lambda: len(minutes(server)) == 2, 90)  # cron's
    first = time.time()
    server.run("systemctl", "stop", "shadow")
    report = json.loads(server.run("cronq", "shadow", "--report", "--json", code=None).stdout)
    assert not any(each["missing"] or each["extra"] for each in report["entries"])
    server.run("rm", "/var/lib/cronq/shadow.json")
    said = server.run("cronq", "takeover", timeout=90).stdout
    assert "late" not in said
    assert state(server) == TAKEN
    assert server.run("cronq", "takeover").stdout.count("there") == 3  # a second time nothing is left to do
    eventually(lambda: len(minutes(server)) >= 6, 150)  # cronq's
    server.run("cronq", "rollback", timeout=90)
    assert state(server) == BEFORE
    seen = len(minutes(server))
    eventually(lambda: len(minutes(server)) >= seen + 2, 90)  # cron's again
    took = (time.time() - first) / 60
    found = minutes(server)
    assert set(found.values()) == {1}, found
    names = sorted({minute for minute, _ in found})
    assert len(found) == 2 * len(names)
    assert len(names) >= int(took)
