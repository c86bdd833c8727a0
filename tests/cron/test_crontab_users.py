"""`cronq crontab` of several users: whose a table is, who may have one, and what root does in another's name."""

from __future__ import annotations

import grp
import json
import os
import signal
import stat
from pathlib import Path

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root

ONE, TWO = "5 * * * * one\n", "6 * * * * two\n"
ALLOW, DENY = Path("/etc/cron.allow"), Path("/etc/cron.deny")


@pytest.fixture
def users(machine):
    """The machine, with a dispatcher and nobody's crontab."""
    machine.start()
    yield machine
    for path in (ALLOW, DENY):
        path.unlink(missing_ok=True)


def crontab(machine, user: str, *words: str, given: str = "", code: int | None = 0):
    return machine.cronq(user, "crontab", *words, input=given, code=code)


def tables() -> dict[str, str]:
    return {path.name: path.read_text() for path in (SPOOL / "schedule" / "tables").iterdir()}


def ask(machine, user: str, request: dict) -> dict:
    """The first line of the answer to what this user asks of the dispatcher by hand."""
    script = (
        "import json, socket, sys\n"
        "line = socket.socket(socket.AF_UNIX); line.connect('/run/cronq/control')\n"
        "line.sendall(sys.argv[1].encode() + b'\\n')\n"
        "print(line.makefile().readline())"
    )
    return json.loads(machine.as_user(user, "/usr/bin/python3", "-c", script, json.dumps(request)).stdout)


def test_at_first_contact_a_table_is_installed_its_users_own_and_no_others_to_read(users):
    crontab(users, "ann", "-", given=ONE)
    crontab(users, "bob", "-", given=TWO)
    assert tables() == {"2001": ONE, "2002": TWO}
    for uid in (2001, 2002):
        found = (SPOOL / "schedule" / "tables" / str(uid)).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_nlink) == (
            uid,
            grp.getgrnam("cronq").gr_gid,
            0o640,
            1,
        )
    assert crontab(users, "ann", "-l").stdout == ONE
    users.as_user("ann", "cat", SPOOL / "out" / "2001" / "crontab")
    users.as_user("bob", "cat", SPOOL / "out" / "2001" / "crontab", code=1)
    users.as_user("ann", "sh", "-c", f"echo x > {SPOOL}/out/2001/crontab", code=2)
    crontab(users, "bob", "-r")
    crontab(users, "bob", "--undo=2", code=1)
    assert tables() == {"2001": ONE, "2002.1": TWO}


def test_what_is_installed_runs_as_its_user_from_then_on_and_not_when_it_is_removed(users):
    ran = users.home("ann") / "ran"
    crontab(users, "ann", "-", given="@every 1s id -un >> ran\n")
    eventually(lambda: ran.exists() and ran.read_text() == "ann\n")
    crontab(users, "ann", "-", given="# cronq: name=second\n@every 1s echo second >> ran\n")
    eventually(lambda: ran.read_text().endswith("second\nsecond\n"))
    crontab(users, "ann", "-r")
    crontab(users, "bob", "-", given="@every 1s touch ran\n")
    eventually((users.home("bob") / "ran").exists)
    before = ran.read_text()
    (users.home("bob") / "ran").unlink()
    eventually((users.home("bob") / "ran").exists)  # a second later, and nothing of hers has run
    assert ran.read_text() == before
    crontab(users, "ann", "--undo")
    eventually(lambda: ran.read_text() != before)


def test_root_acts_as_the_user_whose_crontab_it_is(users):
    users.as_user("root", "usermod", "--password=!$6$x$y", "ann")  # crontab -u is for locked accounts, too
    crontab(users, "root", "-u", "ann", "-", given=ONE)
    crontab(users, "root", "-u", "ann", "-", given=TWO)
    assert tables() == {"2001": TWO, "2001.1": ONE}
    assert (SPOOL / "schedule" / "tables" / "2001").stat().st_uid == 2001
    assert crontab(users, "root", "-u", "ann", "-l").stdout == TWO
    assert crontab(users, "root", "-l", code=1).stderr == "no crontab for root\n"
    crontab(users, "root", "--undo", "-u", "ann")
    crontab(users, "root", "-r", "-u", "ann")
    assert crontab(users, "root", "-u", "ann", "-r", code=1).stderr == "no crontab for ann\n"
    assert tables() == {"2001.1": ONE, "2001.2": TWO}
    refused = crontab(users, "root", "-u", "ann", "-", given="61 * * * * x\n", code=1)
    assert refused.stderr.startswith('"-":1: bad minute')
    crontab(users, "root", "-", given=ONE)
    assert tables()["0"] == ONE


def test_whose_table_does_not_run_is_told_so_when_it_is_installed(users):
    said = "crontab: it is installed, and does not run: root's crontab needs allow_root = true in [exec]"
    assert crontab(users, "root", "-", given=ONE).stderr.startswith(said)
    assert crontab(users, "root", "-", given=TWO, code=0).stderr.startswith(said)
    assert crontab(users, "root", "--undo").stderr.startswith(said)
    users.tasks("[exec]\nallow_root = true\n")
    users.launcher.send_signal(signal.SIGHUP)
    eventually(lambda: "event=reloaded" in users.log)
    eventually(lambda: crontab(users, "root", "-", given=TWO).stderr == "")  # a tenth of a second it is remembered
    assert crontab(users, "ann", "-", given=TWO).stderr == ""


def test_root_follows_no_link_that_a_user_has_laid(users):
    secret = Path("/run/secret")
    secret.write_text(ONE)
    secret.chmod(0o600)
    crontab(users, "ann", "-", given=TWO)
    inbox = users.inbox("ann")
    users.as_user("ann", "ln", "-s", secret, inbox / "evil.tab")
    assert "symbolic link" in users.rejected("ann", "evil", "tab")
    assert crontab(users, "root", "-u", "ann", "-l").stdout == TWO
    assert tables() == {"2001": TWO}


def test_root_is_led_nowhere_by_a_link_in_the_place_of_what_he_reads(users):
    crontab(users, "root", "-", given=ONE)
    copy = SPOOL / "out" / "0"
    copy.rename(SPOOL / "out" / "other")
    copy.symlink_to("/run/elsewhere")
    Path("/run/elsewhere").mkdir()
    Path("/run/elsewhere/crontab").write_text("8 * * * * evil\n")
    done = crontab(users, "root", "-l", code=1)
    assert (done.stdout, "symbolic links" in done.stderr) == ("", True)


def test_who_is_not_allowed_gets_no_table_in_by_hand_either(users):
    runs = "@every 1s echo x >> ran\n"
    crontab(users, "ann", "-", given=ONE)
    crontab(users, "ann", "-", given=runs)
    DENY.write_text("ann\n")
    refusal = "You (ann) are not allowed to use this program (crontab)\nSee crontab(1) for more information\n"
    for words in (["-"], ["-l"], ["-r"], ["--undo"], ["-n", "-"]):
        assert crontab(users, "ann", *words, given=ONE, code=1).stderr == refusal
    script = 'umask 027; echo "7 * * * * evil" > "$0/.x.tmp" && mv "$0/.x.tmp" "$0/x.tab"'
    users.as_user("ann", "sh", "-c", script, users.inbox("ann"))
    assert users.rejected("ann", "x", "tab") == "ann is not allowed to use crontab\nexit 77\n"
    for verb in ("remove-crontab", "undo-crontab"):
        answer = ask(users, "ann", {"do": verb})
        assert (answer["error"], answer["code"]) == ("ann is not allowed to use crontab", 77)
    assert tables() == {"2001": runs, "2001.1": ONE}
    (users.home("ann") / "ran").unlink(missing_ok=True)
    eventually((users.home("ann") / "ran").exists)  # what is installed runs all the same
    crontab(users, "bob", "-", given=ONE)
    DENY.unlink()
    ALLOW.write_text("bob\n")
    assert ask(users, "ann", {"do": "undo-crontab"})["code"] == 77
    ALLOW.chmod(0o600)
    assert "cron.allow: Permission denied" in ask(users, "bob", {"do": "undo-crontab"})["error"]
    crontab(users, "root", "-", given=ONE)


def test_a_table_that_another_user_owns_is_not_installed(users):
    crontab(users, "ann", "-", given=ONE)
    crontab(users, "bob", "-", given=ONE)
    draft = users.inbox("ann") / ".x.tmp"
    draft.write_text("8 * * * * bobs\n")
    os.chown(draft, 2002, grp.getgrnam("cronq").gr_gid)
    draft.chmod(0o640)
    draft.rename(users.inbox("ann") / "x.tab")
    assert "it belongs to uid 2002" in users.rejected("ann", "x", "tab")
    assert tables() == {"2001": ONE, "2002": ONE}


def test_a_uid_that_is_anothers_now_neither_reads_nor_replaces_the_table(users):
    crontab(users, "ann", "-", given=ONE)
    users.as_user("root", "sed", "-i", "s/^ann:/zoe:/", "/etc/passwd")  # usermod would mind her worker
    eventually(lambda: "event=stranger" in users.log)
    copy = SPOOL / "out" / "2001" / "crontab"
    script = f'umask 027; echo "7 * * * * evil" > "$0/.x.tmp" && mv "$0/.x.tmp" "$0/x.tab"; cat {copy}'
    done = users.as_user("zoe", "sh", "-c", script, users.inbox("zoe"), code=1)
    assert "Permission denied" in done.stderr
    eventually((SPOOL / "rejected" / "2001" / "x.tab.reason").exists)
    assert crontab(users, "zoe", "-", given=TWO, code=1).stderr.startswith("uid 2001 was ann and is zoe now")
    crontab(users, "zoe", "-r", code=1)
    assert tables() == {"2001": ONE}


def test_one_user_whose_tables_are_long_does_not_hold_up_another(users):
    crontab(users, "ann", "-", given=ONE)
    crontab(users, "bob", "-", given=ONE)
    long = "".join(f"{number % 60} * * * * x{number}\n" for number in range(10_000))
    script = 'umask 027; cat > "$0/.l"; for i in $(seq 11 40); do cp "$0/.l" "$0/.x"; mv "$0/.x" "$0/$i.tab"; done'
    users.as_user("ann", "sh", "-c", script, users.inbox("ann"), input=long)
    for number in range(3):
        crontab(users, "bob", "-", given=f"{number} * * * * x\n")
    assert list((SPOOL / "queue" / ".capture").iterdir()) != []  # hers are being judged still
    eventually(lambda: tables()["2001"] == long, 60)


def test_an_answer_that_was_cut_off_is_none(users):
    """The process that became the user is his: he can kill it while it tells what it has read."""
    script = """
import fcntl, os, pwd
from cronq import tabclient
from cronq.errors import CronqError

def half():
    for fd in range(3, 64):
        try:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                os.write(fd, b"0\\nhalf")
        except OSError:
            pass
    os.kill(os.getpid(), 9)

try:
    print(tabclient.Other("/var/spool/cronq", pwd.getpwnam("ann"))._become(half))
except CronqError as error:
    print(error.sentence)
"""
    said = users.as_user("root", "/opt/cronq/bin/python", "-I", "-c", script).stdout
    assert said == "the process that became ann has died\n"
