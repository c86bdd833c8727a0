"""Mail about the jobs of crontabs by a real mail server: what lies in the mailbox is as with Debian's cron.

One table is run by both crons, on one machine with one exim. ON_PURPOSE says which headers are others, and why.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from socket import gethostname

import pytest
from conftest import eventually
from cronworld import CronWorld, world
from debian_jail import missing as no_cron
from machine import OPT, SPOOL
from mta import BOX, Mta, missing

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

NEW_YEAR = int(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp())  # as Debian's cron gets to see it
AT = "0 0 1 1 *"  # ours are run by hand
# The variables and the command of a line. Variables stay for the lines below, but for MAILTO.
LINES = {
    "plain": ("", "echo out; echo err >&2"),
    "variables": ('FOO="b  c"', "echo $FOO"),
    "not-ascii": ("", "echo grüße, 日本"),
    "long-command": ("", f"echo {'x' * 900}"),
    "two": ('MAILTO="bob,carl"', "echo x"),
    "nobody": ('MAILTO=""', "echo x"),
    "unsafe": ('MAILTO="bob, carl"', "echo x"),
    "silent": ("", "true"),
    "long-line": ("", r"printf '\%02000d\n' 7"),
    "dot": ("", "echo before; echo .; echo after; echo ..; echo .x"),
    "like-headers": ("", "echo; echo From me; echo Subject: none"),
    "eight-bit": ("", r"printf '\344\200\377\n'"),
    "control": ("", r"printf 'a\000b\001\033[31m\tc\n'"),
    "carriage-return": ("", r"printf 'a\r\nb\rc\r\n'"),
    "unfinished": ("", "printf x"),
    "input": ("", "cat%one%two"),
    "much": ("", "yes | head -c 300000"),
    "encoding": ("CONTENT_TRANSFER_ENCODING=7bit", "echo x"),
    "sender": ('MAILFROM="ops@box.example"', "echo x"),
    "type": ('CONTENT_TYPE="text/html; charset=UTF-8"', "echo '<b>x</b>'"),
    "no-type": ('CONTENT_TYPE=""', "echo x"),
}
NO_MAIL = {"nobody", "unsafe", "silent"}
TABLE = "".join(
    f"MAILTO=ann\nCASE={name}\n{variables}\n# cronq: name={name}\n{AT} {command}\n"
    for name, (variables, command) in LINES.items()
)
ON_PURPOSE = {
    "Auto-Submitted": "only ours has it: who is on holiday does not answer a machine",
    "Content-Type": "Debian's cron tells the charset of its own locale, ours is always UTF-8; set, it is as it is set",
    "Subject": "what is no ASCII is encoded: a header must not hold it as it is",
}
OTHERS = {
    "not-ascii": {"Auto-Submitted", "Content-Type", "Subject"},
    "type": {"Auto-Submitted"},
}
OF_THE_SERVER = {"Received", "Message-Id", "Date"}  # another of each mail
RUN = """import sys
from cronq import entries
for name in sys.argv[1:]:
    entries.run("/var/spool/cronq", name, wait=False, as_json=False, raw=False)
"""
USERS = ("ann", "bob", "carl")
LONG = 180  # seconds: twenty jobs, as many mails, four at a time, by a server that starts three processes for each


@pytest.fixture
def post(machine):
    """A mail server, and a dispatcher."""
    found = Mta()
    machine.start()
    yield found
    found.close()


def run(machine, table: str, *names: str) -> None:
    """Let this be ann's crontab, and these of its lines run now."""
    machine.as_user("ann", "cronq", "crontab", "-", input=table)
    machine.as_user("ann", OPT / "bin" / "python", "-c", RUN, *names)


def all_is_mailed(machine, post: Mta, runs: int) -> None:
    """Wait until so many runs have ended, and no mail about one is under way."""
    folder = SPOOL / "out" / str(machine.uids["ann"])
    try:
        eventually(lambda: len(list(folder.glob("*-tab-*/result.json"))) == runs, LONG)
        eventually(lambda: "-mail-" not in machine.cronq("ann", "list").stdout and not post.queued(), LONG)
    except AssertionError as error:
        pytest.fail(f"{error}\n{machine.cronq('ann', 'list', '--all').stdout}\n{post.queued()}\n{post.log()}")


def shown(message: Message) -> list[tuple[str, str]]:
    """The headers that are not another of each mail."""
    return [(name, str(value)) for name, value in message.items() if name not in OF_THE_SERVER]


def plain(header: str) -> str:
    """A header's text, which has gone through the mail in ASCII."""
    assert header.isascii()
    return str(make_header(decode_header(header)))


def test_what_a_line_prints_lies_in_its_users_mailbox_once(machine, post):
    run(machine, f'FOO="b  c"\nBAR=$FOO\n# cronq: name=a\n{AT} echo out; echo grüße; exit 3%x\n', "a")
    all_is_mailed(machine, post, 1)
    (mail,) = post.inbox("ann")
    assert (mail["From"], mail["To"]) == (f"root@{BOX} (Cron Daemon)", f"ann@{BOX}")
    assert plain(mail["Subject"]) == f"Cron <ann@{gethostname()}> echo out; echo grüße; exit 3"
    assert (mail["Content-Type"], mail["Content-Transfer-Encoding"]) == ("text/plain; charset=UTF-8", "8bit")
    standard = ["<SHELL=/bin/sh>", "<HOME=/home/ann>", "<PATH=/usr/bin:/bin>", "<LOGNAME=ann>"]
    assert mail.get_all("X-Cron-Env") == ["<FOO=b  c>", "<BAR=$FOO>", *standard]
    assert mail["Return-path"] == f"<ann@{BOX}>"
    assert mail.get_payload(decode=True).decode() == "out\ngrüße\n"


@pytest.mark.skipif(
    os.environ.get("CRONQ_LONG") != "1", reason="a second attempt is a while after the first: make cron"
)
def test_a_mail_server_that_can_take_nothing_is_asked_again_and_gets_it_once(machine, post):
    post.fails()
    run(machine, f"# cronq: name=a\n{AT} echo x\n", "a")
    folder = SPOOL / "out" / str(machine.uids["ann"])
    (first,) = eventually(lambda: list(folder.glob("*-mail-a-*/result.json.1")))
    assert '"state": "delayed"' in first.read_text()
    assert post.inbox("ann") == []
    post.recovers()
    eventually(lambda: post.inbox("ann"), 60)
    all_is_mailed(machine, post, 1)
    assert len(post.inbox("ann")) == 1


@pytest.mark.skipif(bool(no_cron()), reason=no_cron() or "-")
def test_the_mail_is_as_with_debians_cron(machine, post, tmp_path):
    run(machine, TABLE, *LINES)
    all_is_mailed(machine, post, len(LINES))
    ours = {user: dict(cases(post.inbox(user))) for user in USERS}
    assert {name for found in ours.values() for name in found} == set(LINES) - NO_MAIL
    counts = {user: len(post.inbox(user)) for user in USERS}
    assert counts == {user: len(ours[user]) for user in USERS}
    debian(tmp_path)
    eventually(lambda: all(len(post.inbox(user)) == 2 * counts[user] for user in USERS) and not post.queued(), LONG)
    theirs = {user: dict(cases(post.inbox(user)[counts[user] :])) for user in USERS}
    for user in USERS:
        for name, mail in ours[user].items():
            must_be_alike(name, mail, theirs[user][name])


def debian(scratch: Path) -> None:
    """Let Debian's cron run the same table, once."""
    world(scratch)
    for place in ("/var/spool/cron/crontabs", "/etc/cron.d"):
        Path(place).mkdir(parents=True, exist_ok=True)
    Path("/etc/crontab").touch()
    table = scratch / "tabs" / "ann"
    table.write_text(TABLE)
    table.chmod(0o600)
    shutil.chown(table, "ann")
    with CronWorld(scratch, NEW_YEAR - 60) as cron:
        cron.look(NEW_YEAR)
        assert [line for line in cron.messages if "UNSAFE" in line]


def cases(mails: list[Message]) -> Iterator[tuple[str, Message]]:
    for mail in mails:
        (name,) = re.findall(r"<CASE=(.*?)>", " ".join(mail.get_all("X-Cron-Env")))
        yield name, mail


def must_be_alike(name: str, ours: Message, theirs: Message) -> None:
    others = OTHERS.get(name, {"Auto-Submitted", "Content-Type"})
    assert others <= set(ON_PURPOSE)
    mine, debians = shown(ours), shown(theirs)
    assert {header for header, _ in set(mine) ^ set(debians)} == others, name
    rest = [[header for header in found if header[0] not in others] for found in (mine, debians)]
    assert rest[0] == rest[1], name
    raw = dict(theirs.raw_items())["Subject"]
    assert plain(ours["Subject"]) == raw.encode("utf-8", "surrogateescape").decode(), name
    assert ours.get_payload(decode=True) == theirs.get_payload(decode=True), name
