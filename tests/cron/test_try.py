"""`cronq try`: a line runs in the foreground as a worker runs it, and nothing of it is left behind."""

import os
import pwd
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import CRONQ, eventually

from cronq import cronworld

ACCOUNT = pwd.getpwuid(os.getuid())


def printed(out: str) -> str:
    """What the line itself printed."""
    return out.partition("# it prints:\n")[2].partition("# it ended:")[0]


def test_a_line_is_given_exactly_crons_world_and_no_dispatcher_is_needed(world, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    line = (
        "A=b c\nHOME=/usr\nLOGNAME=nobody\n* * * * * env | sort; pwd; umask; cat; [ -t 0 ] || echo no terminal%in%put"
    )
    done = world.run("try", f"A=b c\nHOME=/usr\nLOGNAME=nobody\n{line}")
    files = {}
    for path in cronworld.FILES:
        files |= cronworld.parse(Path(path).read_bytes()) if Path(path).exists() else {}
    wanted = {name.decode(): value.decode() for name, value in files.items()}
    wanted |= {"A": "b c", "HOME": "/usr", "LOGNAME": ACCOUNT.pw_name, "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    *env, pwd_line, umask, first, second, terminal = [
        each for each in printed(done.stdout).splitlines() if not each.startswith(("PWD=", "OLDPWD=", "_="))
    ]
    assert dict(each.split("=", 1) for each in env) == wanted
    assert (pwd_line, umask, first, second, terminal) == ("/usr", "0022", "in", "put", "no terminal")
    shown = done.stdout.partition("with this environment:\n")[2].partition("\n# with this input")[0]
    assert dict(each.split("=", 1) for each in shown.splitlines()) == wanted
    assert not world.spool.exists()


def test_it_shows_the_mail_that_cron_would_send_and_exits_as_the_line_does(world):
    done = world.run("try", "MAILTO=ann@example.org\nFOO=bar\n* * * * * printf out; echo err >&2; exit 3", code=3)
    said, _, mail = done.stdout.partition("# this would be mailed to ann@example.org:\n")
    assert printed(said) == "outerr\n"
    assert "# it ended: exit code 3, after " in said
    head, _, body = mail.partition("\n\n")
    assert "Subject: Cron <" in head
    assert "To: ann@example.org\n" in head
    assert "X-Cron-Env: <FOO=bar>" in head
    assert body == "outerr\n"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("* * * * * true", 0, "no mail: it printed nothing"),
        ('MAILTO=""\n* * * * * echo x', 0, "no mail: MAILTO is empty"),
        ("MAILTO=a, b\n* * * * * echo x", 0, "no mail: MAILTO is a, b"),
        ("# cronq: notify=never\n* * * * * echo x", 0, "no mail: notify=never"),
        ("# cronq: notify=failure\n* * * * * echo x", 0, "no mail: notify=failure"),
        ("# cronq: notify=failure\n* * * * * false", 1, "\n\nexit code 1\n"),
        ("# cronq: notify=change\n* * * * * true", 0, ", if the run before it failed:\n"),
        ("CRONQ_NOTIFY_COMMAND=page\n* * * * * false", 1, "\n# a command would be told of it\n"),
        (
            "CRONQ_NOTIFY_WEBHOOK=/w\nCRONQ_NOTIFY_COMMAND=page\n# cronq: notify=change\n* * * * * false",
            1,
            "\n# a webhook and a command would be told of it, if the run before it did not fail\n",
        ),
        ("# cronq: timeout=100ms\n* * * * * echo x; sleep 60", 124, "ran longer than its timeout"),
        ("SHELL=/nonexistent\n* * * * * true", 127, "cannot start: /nonexistent: not found"),
        ("* * * * * kill -9 $$", 137, "killed by signal 9 (SIGKILL)"),
    ],
)
def test_what_is_mailed_and_how_it_ended_is_said(world, line, code, said):
    assert said in world.run("try", line, code=code).stdout


@pytest.mark.parametrize("options", ["", "notify=failure", "notify=never"])
def test_nobody_would_be_told_of_a_run_in_which_nothing_happened(world, options):
    done = world.run("try", f"CRONQ_NOTIFY_COMMAND=page\n# cronq: name=a {options}\n* * * * * true")
    assert "would be told" not in done.stdout


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("61 * * * * x", 65, "cronq: bad minute: 61 is not in 0-59\n    61 * * * * x\n"),
        ("# nothing runs", 2, "one line of a crontab is tried at a time"),
        ("* * * * * a\n* * * * * b", 2, "this has 2 that run"),
        ("nosuch", 65, "unknown entry 'nosuch'; "),
    ],
)
def test_what_is_no_line_is_said(world, line, code, said):
    done = world.run("try", line, code=code)
    assert said in done.stderr
    assert done.stdout == ""


def test_a_line_of_ones_own_tables_is_tried_by_its_name(world):
    (world.config / "crontab").write_text("V=1\n# cronq: name=a\n5 5 5 5 * echo $V\n")
    (world.config / "crontab").chmod(0o644)
    assert printed(world.run("try", "a").stdout) == "1\n"
    assert printed(world.run("try", f"{world.config}/crontab:3").stdout) == "1\n"
    world.start()
    world.run("crontab", "-", input="# cronq: name=mine\n5 5 5 5 * echo 2\n")
    assert printed(world.run("try", "mine").stdout) == "2\n"
    assert "did you mean 'mine'?" in world.run("try", "mien", code=65).stderr
    assert world.run("list", "--all").stdout == ""


def test_a_table_that_does_not_count_has_no_line_to_try(world):
    (world.config / "crontab").write_text("# cronq: name=a\n5 5 5 5 * true\n")
    (world.config / "crontab").chmod(0o666)
    assert "unknown entry 'a'" in world.run("try", "a", code=65).stderr


def test_an_interrupt_ends_the_line(world, tmp_path):
    pid = tmp_path / "pid"
    line = f"* * * * * echo $$ > {pid}; sleep 60"
    tried = subprocess.Popen([*CRONQ, "try", line], env=world.env, stdout=subprocess.PIPE, text=True)
    child = int(eventually(lambda: pid.exists() and pid.read_text()))
    tried.send_signal(signal.SIGINT)
    out, _ = tried.communicate(timeout=60)
    assert tried.returncode == 130
    assert "# it ended: interrupted, after " in out
    assert not Path(f"/proc/{child}").exists()
