"""Mail about the jobs of crontabs, under a real dispatcher, to a mailer that writes down what it gets."""

import email
import json
import os
import pwd
import socket

import pytest
from bench import UTC
from conftest import eventually

from cronq import events, mails
from cronq.cronlog import Cronlog
from cronq.house import Now, Running, Settled
from cronq.policy import Dead

ME = pwd.getpwuid(os.getuid()).pw_name
MAILER = """#!/bin/sh
draft=$(mktemp {folder}/.XXXXXX)
{{ printf '%s\\n' "$*"; cat; }} >"$draft"
{then}
mv "$draft" {folder}/mail$$
"""


@pytest.fixture
def post(world):
    """Start a dispatcher with this crontab, and a mailer that goes on with `then`; the mails so far."""
    folder = world.path / "mails"
    folder.mkdir()

    def begin(crontab: str, then: str = "", sendmail: str | None = None):
        mailer = world.path / "mailer"
        mailer.write_text(MAILER.format(folder=folder, then=then))
        mailer.chmod(0o755)
        world.tasks(f'[cron]\nsendmail = "{sendmail or mailer}"\n')
        (world.config / "crontab").write_text(crontab)
        (world.config / "crontab").chmod(0o644)
        world.start()

        def mails():
            found = [path.read_bytes().split(b"\n", 1) for path in sorted(folder.glob("mail*"))]
            return [(words.decode(), email.message_from_bytes(data)) for words, data in found]

        return mails

    return begin


def ticks(world, name: str) -> list:
    """The results of this line's ticks so far."""
    folder = world.spool / "out" / str(world.uid)
    return [json.loads(path.read_text()) for path in folder.glob(f"*-tab-{name}-*/result.json")]


def test_what_a_job_prints_is_mailed_to_its_owner_whatever_its_exit_code(world, post):
    mails = post('FOO="b  c"\n# cronq: name=a overlap=skip\n@every 1s echo out; echo err >&2; exit 3\n')
    words, mail = eventually(mails)[0]
    assert words == f"-FCronDaemon -i -B8BITMIME -oem {ME}"
    assert (mail["To"], mail["From"]) == (ME, "root (Cron Daemon)")
    assert mail["Subject"] == f"Cron <{ME}@{socket.gethostname()}> echo out; echo err >&2; exit 3"
    assert mail.get_payload() == "out\nerr\n"
    assert mail.get_all("X-Cron-Env")[0] == "<FOO=b  c>"


def test_nothing_printed_and_nobody_to_mail_are_no_mail(world, post):
    mails = post(
        "# cronq: name=quiet\n@every 1s true\n"
        'MAILTO=""\n# cronq: name=nobody\n@every 1s echo x\n'
        'MAILTO="a, b"\n# cronq: name=unsafe\n@every 1s echo x\n'
        "MAILTO=bob@example.org\n# cronq: name=last\n@every 1s echo x\n"
    )
    eventually(lambda: all(len(ticks(world, name)) >= 2 for name in ("quiet", "nobody", "unsafe")))
    eventually(mails)
    assert {mail["To"] for _, mail in mails()} == {"bob@example.org"}


def test_a_line_may_ask_for_mail_only_when_it_fails(world, post):
    mails = post(
        "# cronq: name=ok notify=failure\n@every 1s echo fine\n# cronq: name=bad notify=failure\n@every 1s false\n"
    )
    eventually(lambda: len(ticks(world, "ok")) >= 2)
    eventually(mails)
    for _, mail in mails():
        assert mail["Subject"].endswith("> false (failed)")
        assert mail.get_payload().startswith("exit code 1")


def test_a_line_may_ask_for_mail_only_when_that_changes(world, post):
    good = world.path / "good"
    mails = post(f"# cronq: name=a notify=change\n@every 1s echo look; test -e {good}\n")
    eventually(lambda: len(ticks(world, "a")) >= 2)
    good.touch()
    count = len(ticks(world, "a"))
    eventually(lambda: len(mails()) >= 2 and len(ticks(world, "a")) >= count + 3)
    subjects = [mail["Subject"].rpartition(" ")[2] for _, mail in mails()]
    assert sorted(subjects) == ["(failed)", "(recovered)"]


def test_a_mailer_that_cannot_now_is_asked_again(world, post):
    tried = world.path / "tried"
    mails = post(
        "# cronq: name=a overlap=skip\n@every 1s echo x\n", then=f"[ -e {tried} ] || {{ touch {tried}; exit 75; }}"
    )
    eventually(mails)
    folder = world.spool / "out" / str(world.uid)
    assert eventually(lambda: any(list(each.glob("result.json.1")) for each in folder.glob("*-mail-a-*")))


def test_a_mailer_that_hangs_holds_up_neither_cron_nor_the_queue(world, post):
    world.tasks("")
    gate = world.path / "gate"
    mails = post("# cronq: name=a\n@every 1s echo x\n", then=f"until [ -e {gate} ]; do sleep 0.05; done")
    count = eventually(lambda: len(ticks(world, "a")) >= 6 and len(ticks(world, "a")))
    assert world.run("exec", "--wait", "--", "echo", "alive").stdout == "alive\n"
    running = world.run("list", "--state", "running").stdout.count("-mail-a-")
    assert 1 <= running <= 4 and not mails()
    gate.touch()
    eventually(lambda: len(mails()) >= count)


def test_without_a_mailer_output_stays_where_it_is(world, post):
    post("# cronq: name=a\n@every 1s echo x\n", sendmail="/nowhere/sendmail")
    eventually(lambda: len(ticks(world, "a")) >= 2)
    assert not list((world.spool / "out" / str(world.uid)).glob("*-mail-*"))


# ---------------------------------------------------------------- the system's log


@pytest.fixture
def heard(bench, tmp_path):
    """What the system's log is told next, without date and program."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(60)
        bench.house.cronlog = Cronlog(str(tmp_path / "log"))
        yield lambda: log.recv(1000).decode()
        bench.house.cronlog.close()


def printed(bench, tick, text: bytes) -> None:
    """A tick has printed this, and has ended."""
    os.write(bench.house.shelves.outputs(tick)[0], text)
    line = bench.house.tables.find(tick.uid, tick.line)
    mails.post(bench.house, Now(UTC + 61.0, 0.0), tick, line, False, False, None)


def test_why_nothing_is_mailed_is_told_to_the_systems_log_as_cron_tells_it(bench, heard):
    """Debian's own lines are in test_mta, and in its source."""
    bench.toml('[cron]\nsendmail = "/nowhere"\n')
    bench.crontab("# cronq: name=plain\n* * * * * x\nMAILTO=a, b\n# cronq: name=unsafe\n* * * * * x\n")
    bench.minutes(0, 1)
    said = {}
    for _, tick in bench.house.shelves.scan("ready"):
        printed(bench, tick, b"printed")
        said[tick.line] = heard().partition(": ")[2]
    assert said == {
        "plain": "(CRON) info (No MTA installed, discarding output)",
        "unsafe": f"({ME}) UNSAFE MAIL (a, b)",
    }


def test_a_mail_that_the_mailer_does_not_take_is_told_to_the_systems_log_as_cron_tells_it(bench, heard):
    """Debian's own: `CRON[123]: (root) MAIL (mailed 3 bytes of output but got status 0x004b from MTA`."""
    bench.toml('[cron]\nsendmail = "/bin/false"\n')
    bench.crontab("# cronq: name=a\n* * * * * x\n")
    bench.minutes(0, 1)
    ((_, tick),) = bench.house.shelves.scan("ready")
    printed(bench, tick, b"hi\n")
    (mail,) = [entry for _, entry in bench.house.shelves.scan("ready") if entry.about]
    each = Settled(Running(mail), Dead("exit code 75"), {"exit_code": 75})
    events.died(bench.house, Now(UTC + 62.0, 0.0), each, "exit code 75")
    assert heard().partition(": ")[2] == f"({ME}) MAIL (mailed 3 bytes of output but got status 0x004b from MTA)"


def test_a_start_is_told_to_the_systems_log(bench, heard):
    bench.crontab("# cronq: name=a\n* * * * * date +\\%F%in\n")
    bench.minutes(0, 1)
    ((_, tick),) = bench.house.shelves.scan("ready")
    mails.started(bench.house, Now(UTC + 60.0, 0.0), tick, 4711)
    assert heard().endswith(f" CRON[4711]: ({ME}) CMD (date +%F)")
