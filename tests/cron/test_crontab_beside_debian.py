"""Debian's crontab(1) and ours, the same calls in the same order: what they say, exit with, and install.

DIFFERENT says where they part on purpose; a call that stands there and does not differ fails, too. CRONQ_LONG=1 asks
everything (`make cron`); without it, a slice.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from debian_jail import missing
from machine import OPT, SPOOL

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

LONG = os.environ.get("CRONQ_LONG") == "1"
DEBIANS, OURS = "/usr/bin/crontab", str(OPT / "bin" / "crontab")
TABLES = Path("/var/spool/cron/crontabs")
FILES = Path("/run/files")
GOOD, OTHER = "5 * * * * good\n", "# mine\nA=b c\n6 * * * * other\n"
TEXTS = {
    "good": GOOD,
    "other": OTHER,
    "empty": "",
    "bad": "# c\n61 * * * * x\n",
    "worse": "A=\n5 * * * * x\n",
    "two-bad": "5 * * * * x\n5 24 * * * x\n5 * 32 * * x\n",
    "star": "* * * * * *\n",
    "words": "hello world\n",
    "long-command": f"5 * * * * {'x' * 1000}\n",
    "unfinished": "5 * * * * x",
    "unfinished-comment": "5 * * * * x\n# c",
    "unfinished-and-bad": "61 * * * * x\n5 * * * * x",
    "blanks": "   ",
    "crlf": "5 * * * * x\r\n",
    "nul": "5 * * * * x\0y\n",
    "every": "@every 5m x\n",
    "zone": "CRON_TZ=Nowhere/Land\n5 * * * * x\n",
    "option": "# cronq: nmae=x\n5 * * * * x\n",
    "comments": "# a\n# b\n# c\n# d\n5 * * * * x\n",
    "10000": "# x\n" * 10_000,
    "10001": "# x\n" * 10_001,
    "latin": "5 * * * * \udce9\n",
}


class Call(NamedTuple):
    """`before` is the table that is there first, None for none; `editor` a script that has the file as $1."""

    words: str
    before: str | None = None
    given: str = ""
    user: str = "ann"
    editor: str = ""
    env: str = ""

    @property
    def of(self) -> str:
        """Whose table it is about."""
        found = re.search(r"-u ?(ann|bob)", self.words)
        return found[1] if found else self.user


def edited(text: str, end: str = "") -> str:
    """An editor that leaves this text, under another time, which is all that Debian's crontab looks at."""
    return f"printf '%s' '{text}' > $1; touch -d 20{len(text) % 50 + 31}-01-01 $1; {end}"


REFUSED = ["bad", "two-bad", "star", "words", "long-command", "unfinished", "unfinished-and-bad", "10001"]
TAKEN = ["good", "other", "empty", "unfinished-comment", "blanks", "crlf", "10000", "latin"]
CALLS = [
    *(Call(name) for name in TAKEN + REFUSED),
    *(Call(name, GOOD) for name in ("bad", "unfinished", "10001", "empty", "good")),
    *(Call("-", None, TEXTS[name]) for name in ("good", "bad", "empty", "unfinished")),
    *(Call(f"-n {name}", GOOD) for name in ("other", "bad", "unfinished", "10001", "nosuch")),
    *(Call(words) for words in ("nosuch", ".", "/dev/null", "/etc/shadow", "''", "-- good", "-- -l", "good other")),
    *(Call(words, GOOD) for words in ("-l", "-r", "-i -l", "-n -l", "-l -n", "-lni", "-i good")),
    *(Call(words) for words in ("-l", "-r", "-ir", "-l -u ann", "-u ann good", "-uann -l", "good -u ann")),
    *(Call(words, GOOD) for words in ("-l -l", "-l -r", "-e -l", "-l good", "-r -", "-e good", "-l -u", "-x", "-n")),
    *(Call(words, GOOD) for words in ("-h", "-i", "-u ann", "-T good", "-u nosuch -l", "-u '' -l", "-u bob -l", "-V")),
    *(Call("", before, given) for before, given in ((None, GOOD), (GOOD, OTHER), (GOOD, TEXTS["bad"]))),
    *(Call("- extra", None, GOOD), Call("-n - extra", None, GOOD)),
    *(Call("-ir", GOOD, given) for given in ("y\n", "n\n", "Yes\n", "NO\n", "maybe\n\ny\n", "x\n\n\nn\n")),
    *(Call(words, user="root") for words in ("-u ann good", "-u ann -l", "-u ann -r", "good", "-l -u nosuch")),
    *(Call(words, GOOD, user="root") for words in ("-u ann other", "-u ann -l", "-u ann bad", "-u ann -r", "-r")),
    Call("-u ann -ir", GOOD, "y\n", user="root"),
    Call("-u ann -e", GOOD, user="root", editor=edited(OTHER)),
    Call("-l", OTHER, env="CRONTAB_NOHEADER=Y"),
    Call("-e", GOOD, editor=edited(OTHER)),
    Call("-e", None, editor=edited(OTHER)),
    Call("-e", GOOD, editor="cat $1"),
    Call("-e", GOOD, editor="mv $1 $1.new; cp $1.new $1; rm $1.new; " + edited(OTHER)),
    Call("-e", GOOD, "n\n", editor=edited(TEXTS["bad"])),
    Call("-e", GOOD, "x\n\nn\n", editor=edited(TEXTS["bad"])),
    Call("-e", GOOD, "y\n", editor=f"if grep -q 61 $1; then {edited(OTHER)} else {edited(TEXTS['bad'])} fi"),
    Call("-e", GOOD, "n\n", editor=edited(TEXTS["unfinished"])),
    Call("-e", GOOD, editor="exit 3"),
    Call("-e", GOOD, editor="rm $1"),
    Call("-e", GOOD, env="VISUAL=/nosuch/editor"),
    Call("-e", GOOD, env="EDITOR=cat\\ -n"),
    Call("-e", GOOD, env="EDITOR=false VISUAL=cat"),
    Call("-e", GOOD, env="EDITOR=cat VISUAL="),
]
SAME_TIME = f"cp -p $1 $1.was; printf '%s' '{OTHER}' > $1; touch -r $1.was $1; rm $1.was"
DIFFERENT = [
    (Call("worse"), "MAILTO= and its like mean an empty value to everyone who writes it"),
    (Call("every"), "@every is cronq's own"),
    (Call("zone"), "Debian's cron ignores CRON_TZ; a table whose lines would not run is not installed"),
    (Call("option"), "a misspelt option of cronq's is no mere comment"),
    (Call("nul"), "a NUL byte makes it no crontab, which is said so"),
    (Call("-n -r", GOOD), "a dry run deletes nothing"),
    (Call("--help", GOOD), "help is no unknown option"),
    (Call("-l", GOOD, env="CRONTAB_NOHEADER=N"), "no header is put above a table, so there is none to show"),
    (Call("-e", GOOD, editor=edited(OTHER, "exit 3")), "what was edited is kept, and its place is told"),
    (Call("-e", GOOD, editor=SAME_TIME), "an edit is told by its content: Debian's loses one that took no time"),
]


@pytest.fixture
def both(machine):
    """Debian's spool and ours, on a machine that has both commands."""
    TABLES.mkdir(parents=True, exist_ok=True)
    for path in TABLES.iterdir():
        path.unlink()
    subprocess.run(["chown", "root:crontab", TABLES], check=True)
    TABLES.chmod(0o1730)
    FILES.mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (FILES / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    Path(OURS).symlink_to(OPT / "bin" / "cronq")
    machine.tasks("[exec]\nallow_root = true\n")
    machine.start()
    yield machine
    Path(OURS).unlink()
    for path in TABLES.iterdir():
        path.unlink()


def run(machine, program: str, call: Call) -> tuple[int, str, str]:
    script = FILES / "editor"
    env = machine.identity(call.user)["env"] | {"LC_ALL": "C.UTF-8", "EDITOR": str(script)}
    script.write_text(f"#!/bin/sh\n{call.editor}\n")
    script.chmod(0o755)
    Path("/run/stamp").touch()
    done = machine.as_user(
        call.user,
        "sh",
        "-c",
        f'export {call.env}; exec "$0" {call.words}' if call.env else f'exec "$0" {call.words}',
        program,
        input=call.given,
        env=env,
        cwd=FILES,
        code=None,
        errors="surrogateescape",
    )
    return done.returncode, done.stdout, done.stderr


def table(machine, program: str, user: str) -> str | None:
    """What is installed, without the header that Debian's crontab writes."""
    path = TABLES / user if program == DEBIANS else SPOOL / "schedule" / "tables" / str(_uid(machine, user))
    if not path.exists():
        return None
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return text.split("\n", 3)[3] if program == DEBIANS else text


def _uid(machine, user: str) -> int:
    return 0 if user == "root" else machine.uids[user]


def prepare(machine, program: str, call: Call) -> None:
    if table(machine, program, call.of) != call.before:
        done = Call("-" if call.before is not None else "-r", given=call.before or "", user=call.of)
        assert run(machine, program, done)[0] == 0


def comparable(told: tuple[int, str, str]) -> tuple[int, str, str]:
    """Without what always differs: our usage has more options, our line numbers are right, and all errors are shown."""
    code, shown, said = told
    said = said.partition("usage:")[0] + ("usage:\n" if "usage:" in said else "")
    lines, errors = [], 0
    for line in re.sub(r"/tmp/crontab\.\w+/", "/tmp/crontab.X/", said).splitlines():
        found = re.match(r'(".*"):\d+: ', line)
        errors = errors + 1 if found else 0
        if errors < 2:
            lines.append(found[1] + line[found.end() :] if found else re.sub("^(/[a-z]+)+/crontab:", "crontab:", line))
    shown = re.sub(r"(?s)^# (Edit this file|A line runs).*", "the help\n", shown)
    return code, re.sub(r"/tmp/crontab\.\w+/", "/tmp/crontab.X/", shown), "\n".join(lines)


def outcome(machine, program: str, call: Call):
    """What comes of a call: what is told, and the table then."""
    prepare(machine, program, call)
    told = comparable(run(machine, program, call))
    for path in Path("/tmp").glob("crontab.*/crontab"):
        if path.stat().st_uid in (0, *machine.uids.values()):
            path.unlink()
            path.parent.rmdir()
    return *told, table(machine, program, call.of)


def test_each_call_says_exits_with_and_installs_the_same(both):
    wrong = []
    for call in CALLS if LONG else CALLS[::4]:
        for _ in range(3):  # Debian's takes an edit within which the second changed for one that changed the file
            theirs, ours = (outcome(both, program, call) for program in (DEBIANS, OURS))
            if theirs == ours:
                break
        else:
            wrong.append(f"{call}\n  Debian's: {theirs}\n  ours:     {ours}")
    assert not wrong, "\n".join(wrong)


def test_where_they_part_they_do(both):
    for call, why in DIFFERENT:
        theirs, ours = (outcome(both, program, call) for program in (DEBIANS, OURS))
        assert theirs != ours, why


ALLOW, DENY = Path("/etc/cron.allow"), Path("/etc/cron.deny")
SETTINGS = [  # cron.allow, cron.deny, mode of both; None: there is no such file
    (None, None, 0o644),
    ("", None, 0o644),
    (None, "", 0o644),
    ("ann\n", None, 0o644),
    ("bob\nann\n", None, 0o644),
    ("bob\n", None, 0o644),
    (None, "ann\n", 0o644),
    (None, "bob\n", 0o644),
    ("ann\n", "ann\n", 0o644),
    ("bob\n", "bob\n", 0o644),
    ("ann \n", None, 0o644),
    (None, " ann\n", 0o644),
    (None, "root\nann\n", 0o644),
    ("ann\n", None, 0o600),
    (None, "bob\n", 0o600),
]
ASKED = [
    Call("-l"),
    Call("good"),
    Call("bad"),
    Call("nosuch"),
    Call("-n good"),
    Call("-r -l"),
    Call("-u ann -l", user="root"),
    Call("good", user="root"),
]


UNFINISHED = [("ann", None, 0o644), (None, "ann", 0o644)]  # the last name counts here, newline or not


def under(machine, setting, call: Call):
    """What both say to a call, where the allow and deny files are such."""
    allow, deny, mode = setting
    for path, text in ((ALLOW, allow), (DENY, deny)):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
            path.chmod(mode)
    return [comparable(run(machine, program, call)) for program in (DEBIANS, OURS)]


@pytest.fixture
def lists():
    yield
    for path in (ALLOW, DENY):
        path.unlink(missing_ok=True)


def test_allow_and_deny_files_let_the_same_users_through(both, lists):
    wrong = []
    for setting, call in list(itertools.product(SETTINGS, ASKED))[:: 1 if LONG else 5]:
        theirs, ours = under(both, setting, call)
        if theirs != ours:
            wrong.append(f"{setting} {call}\n  Debian's: {theirs}\n  ours:     {ours}")
    assert not wrong, "\n".join(wrong)


def test_a_last_name_without_a_newline_counts_with_us_only(both, lists):
    for setting, code in zip(UNFINISHED, (0, 1), strict=True):
        theirs, ours = under(both, setting, Call("good"))
        assert (theirs[0], ours[0]) == (1 - code, code)
