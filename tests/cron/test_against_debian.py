"""Debian's cron judges: what it accepts, what it says of what it refuses, and when it runs what.

CRONQ_LONG=1 asks it about thousands of tables and every minute of eight DST nights; without it, a slice of each.
"""

from __future__ import annotations

import datetime
import os
import random
import zoneinfo
from collections import Counter
from pathlib import Path

import pytest
from debian_jail import Cron, missing, verdicts

from cronq.clock import Clock
from cronq.crontab import parse_crontab
from cronq.crontext import split_percent
from cronq.cronworld import World

LONG = os.environ.get("CRONQ_LONG") == "1"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.timeout(1500 if LONG else 120),
]

# Where cronq runs what Debian's cron would ignore with all of its table, and why. `Crontab.debian` says so each time.
ONLY_HERE = {
    "MAILTO=\n0 5 * * * x\n": "an empty value means no mail to everyone who writes it, and to cronie",
    "@every 10s x\n": "cronq's own; a table for cronq alone may use it",
    "0 5 * * * x": "losing a whole table for a missing newline helps nobody; `cronq check` warns",
    "* * * * *\n" + "\n" * 10_000: "cronq takes 50,000 lines",
    "60 * * * * bad\n0 5 * * * x\n": "one bad line does not silence a table",
}
# Where cronq refuses what Debian's cron takes, and why.
ONLY_THERE = {
    "# \0\n5 * * * * x\n": "a NUL byte: the file is no text, and a command would be cut short",
    "CRON_TZ=Nowhere/Land\n5 * * * * x\n": "Debian's cron ignores CRON_TZ; a wrong hour is worse than an error",
}

LISTED_ACCEPTED = [
    *("*5", "*foo", "*/5-10", "1.5", "1-3-5", "1-10/2/3", "0~30", "5#3", "*-5", "*/2~5", "4294967301", "05"),
    *("22-4", "55-5", "10-5/2", "6-1"),
]
LISTED_REFUSED = [
    *("5/15", "0/15", "1/1", "*/0", "*/", "60", "L", "5L", "15W", "?", "H", "R", "~", ",1", "1,", "1,,2", "1--3", "-1"),
    *("+1", "0x10", "99999999999999999999", "*/2147483648", "1-1/2147483647", "5-64/30", "mon"),
    "5-3/2147483648",
]
LISTED_LINES = [
    *(f"* * * * {days}" for days in ("mon#1", "fri-sun", "sat-sun", "6-1", "7-1", "0-7", "MON-Fri", "monday", "8")),
    *(f"* * * {months} *" for months in ("nov-feb", "january", "0", "13", "jan,DEC", "jan-3")),
    *("* 24h * * *", "* * 0 * *", "* * 31-1 * *", "* * 32 * *", "* * dom * *", "* * * * * *", "* * * * * * x"),
    *("@DAILY", "@every_minute", "@ daily x", "@", "@daily", "@reboot", "@daily\tx", "@daily *", "* * * *"),
    "* * * * *",
    *("0 0 12 * * ?", "  5\t*  * * *\tx", "5 * * * * x # y", " # comment", "\ufeff5 * * * * x", "\x0c5 * * * * x"),
    *("5 * * * * x\r", "@daily\r", "\r", "* * * * * " + "x" * 998, "* * * * * " + "x" * 999),
    *("@daily " + "x" * 998, "@daily " + "x" * 999, "1" * 1000 + " * * * * x", "0" * 999 + " * * * * x"),
    *("A=" + "x" * 996, "A=" + "x" * 3000, 'A="' + "x" * 3000 + '"', "A=b c  ", 'A="a b "', "A=", "MAILTO=", "A= \t"),
    *('A=""', "A=''", "A=x # c", 'A="x" y', 'A="x', "A='x' # c", "export A=x", "A $=x", '"A B"=x', "'A'='b'"),
    *("1A=x", "=x", "A==x", "A = x", "A\t=\tx", "'A=b'=c", '"A"b=c', "A b=c", "* = x", "@daily = x", "*=5", "A=\r"),
    *("A=x\r", "LOGNAME=x", "A='\"x\"'", "5 5 5 5 5 = x", "'A", "A'=x", "A =", "= ="),
]


def answers(tmp_path: Path, tables: list[bytes]) -> list[str]:
    """Where our prediction of Debian's verdict is not its verdict."""
    wrong = []
    for table, verdict in zip(tables, verdicts(tmp_path, tables), strict=True):
        problem = parse_crontab(table).debian
        if verdict.accepted != (problem is None):
            wrong.append(f"{table!r}: Debian says {verdict}, cronq predicts {problem}")
        elif problem and verdict.line and verdict.message != problem.debian:
            wrong.append(f"{table!r}: Debian says {verdict}, cronq says {problem.debian}")
        elif problem and verdict.line and verdict.line - problem.line not in (0, 1):  # 1: it had read the newline
            wrong.append(f"{table!r}: Debian says {verdict}, cronq says line {problem.line}: {problem.debian}")
    return wrong


def test_every_listed_form_is_accepted_or_refused_as_debian_does(tmp_path: Path) -> None:
    accepted = [f"{form} * * * * x\n" for form in LISTED_ACCEPTED]
    refused = [f"{form} * * * * x\n" for form in LISTED_REFUSED]
    lines = [f"{line}\n" for line in LISTED_LINES]
    assert answers(tmp_path, [text.encode() for text in (*accepted, *refused, *lines)]) == []
    assert [text for text in accepted if parse_crontab(text.encode()).errors] == []
    assert [text for text in refused if not parse_crontab(text.encode()).errors] == []


@pytest.mark.parametrize("table", ONLY_HERE, ids=lambda table: repr(table[:20]))
def test_what_only_cronq_runs_is_refused_by_debian_and_said_to_be(table: str, tmp_path: Path) -> None:
    ours = parse_crontab(table.encode())
    assert ours.entries
    assert ours.debian
    assert not verdicts(tmp_path, [table.encode()])[0].accepted


@pytest.mark.parametrize("table", ONLY_THERE, ids=lambda table: repr(table[:20]))
def test_what_only_debian_runs_is_refused_here_with_a_sentence(table: str, tmp_path: Path) -> None:
    ours = parse_crontab(table.encode())
    assert not ours.entries
    assert ours.refused or ours.errors
    assert verdicts(tmp_path, [table.encode()])[0].accepted


class Scribe:
    """Writes crontab lines as people and typing monkeys do."""

    ATOMS = (
        *("*", "0", "1", "5", "7", "8", "12", "13", "23", "24", "31", "32", "59", "60", "07", "mon", "SUN", "jan"),
        *("Dec", "monday", "L", "?", "H", "~", "4294967301", "2147483648", "-1", "0x1", "é", "\udcff"),
    )
    BITS = ("-", "/", ",", "-", "/", ",", "*", "~", "#", ".", "+", "W", "", "--", ",,")
    ENV = ("A", "MAILTO", '"A B"', "'A'", "1A", "", "A B", "export A", '"A', "A$", " A", "é", "*", "@daily")
    VALUES = ("x", "b c  ", "\udcff", '"a b "', "", '""', "''", "x # c", '"x" y', '"x', "'x' # c", "'\"x\"'", "\r")

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def field(self) -> str:
        pick = self.random.choice
        if self.random.random() < 0.8:
            return pick(("*", "*/5", "0", "1-5", "1,5", "*/2", "1-5/2", "7", "5-3"))
        count = pick((1, 1, 2))
        return "".join(pick(self.ATOMS) + (pick(self.BITS) + pick(self.ATOMS)) * pick((0, 1, 1)) for _ in range(count))

    def schedule(self) -> str:
        pick = self.random.choice
        if self.random.random() < 0.05:
            return pick(("@daily", "@hourly", "@yearly", "@monthly", "@weekly", "@midnight", "@reboot", "@Daily", "@"))
        return pick((" ", "\t", "  ")).join(self.field() for _ in range(pick((5, 5, 5, 5, 5, 5, 5, 4, 6))))

    def line(self) -> str:
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(("", "  ", "# x", "\t# y", "#", " "))
        if kind < 0.3:
            gap = self.random.choice(("=", " = ", "= ", "\t=", "  ", "=="))
            return self.random.choice(self.ENV) + gap + self.random.choice(self.VALUES)
        pick = self.random.choice
        return pick(("", "", " ", "\t")) + self.schedule() + pick((" x", " x", "\tx y", "", " * x", " ?"))

    def table(self) -> bytes:
        lines = [self.line() for _ in range(self.random.choice((1, 1, 1, 1, 2, 4)))]
        text = "\n".join(lines) + self.random.choice(("\n", "\n", "\n", "\n", "\n", "\n", ""))
        return text.encode("utf-8", "surrogateescape")


def test_debian_gives_the_predicted_verdict_on_a_corpus_of_tables(tmp_path: Path) -> None:
    scribe = Scribe(seed=1)
    tables = [scribe.table() for _ in range(8000 if LONG else 700)]
    assert answers(tmp_path, tables) == []
    refused = sum(parse_crontab(table).debian is not None for table in tables)
    assert len(tables) // 5 < refused < len(tables) * 4 // 5, "the corpus must have both kinds"


class Both:
    """Debian's cron and our clock, side by side on the same lines, looks and zone."""

    def __init__(self, scratch: Path, schedules: list[str], now: int, zone: str, *, by_file: bool = False) -> None:
        lines = "".join(f"{when} echo {number} >>{scratch}/ran\n" for number, when in enumerate(schedules))
        table = parse_crontab(lines.encode())
        assert len(table.entries) == len(schedules), table.errors
        self.zone: datetime.tzinfo = zoneinfo.ZoneInfo(zone)
        self.words = {entry.identity: entry.command.split()[1] for entry in table.entries}
        self.schedules, self.now, self.names = schedules, now, set()
        self.clock = Clock()
        self.clock.load(table.entries)
        assert self.clock.start(now, self.zone) == []
        self.debian = Cron(scratch, lines.encode(), now, "" if by_file else zone)
        self.runs = 0

    def look(self, now: int) -> list[str]:
        """Both look at the clock: what they disagree about."""
        if now // 60 == self.now // 60:  # put back into the same minute: neither sees anything
            return [f"{now}: {tick} in a minute that was looked at" for tick in self.clock.turn(now, self.zone)]
        ticks = []
        if now // 60 < self.now // 60:  # put back within a minute, as clocks are: cron looks when the next one begins
            ticks += self.clock.turn(now - 60, self.zone)
        ticks += self.clock.turn(now, self.zone)
        self.now = now
        ours = Counter(self.words[tick.entry.identity] for tick in ticks)
        theirs = self.debian.look(now)
        names = {(tick.entry.identity, tick.instant) for tick in ticks}
        twice = len(ticks) - len(names) + len(names & self.names)
        self.names |= names
        self.runs += sum(theirs.values())
        when = datetime.datetime.fromtimestamp(now, self.zone).isoformat()
        wrong = [f"{when}: {twice} runs have a name that was used"] * bool(twice)
        for word in sorted((ours | theirs).keys()):
            if ours[word] != theirs[word]:
                line = self.schedules[int(word)]
                wrong.append(f"{when} {line}: Debian ran it {theirs[word]} times, cronq {ours[word]}")
        return wrong

    def looks(self, moments: list[int]) -> list[str]:
        with self.debian:
            return [wrong for now in moments for wrong in self.look(now)]


def at(zone: str, *when: int) -> int:
    return int(datetime.datetime(*when, tzinfo=zoneinfo.ZoneInfo(zone)).timestamp())


def accepted_schedules(count: int, seed: int) -> list[str]:
    """Schedules that cron accepts, junk included."""
    scribe, found = Scribe(seed), []
    while len(found) < count:
        text = scribe.schedule()
        table = parse_crontab(f"{text} x\n".encode("utf-8", "surrogateescape"))
        ours = bool(table.entries) and not table.debian and table.entries[0].command == "x"
        if ours and text.isascii() and text != "@reboot":
            found.append(text)
    return found


def test_debian_runs_the_same_lines_at_the_same_minutes(tmp_path: Path) -> None:
    """After a jump of more than three hours cron runs what is due in the minute it finds: a look asks for all sets."""
    chance = random.Random(2)
    schedules = accepted_schedules(400 if LONG else 120, seed=3)
    schedules += ["0 0 */2 * 1", "0 0 1-31 * 1", "0 0 13 * 5", "0 0 13,* * 5", "0 0 *,13 * 5", "0 0 13 * */1"]
    schedules += ["@daily", "@weekly", "@monthly", "@yearly", "@hourly", "0 0 29 2 *", "0 0 31-1 * 5", "0 0 13 * 0-6"]
    now = at("UTC", 2026, 1, 1)
    moments = []
    for _ in range(400 if LONG else 60):
        now += chance.randrange(4, 40) * 3600 + chance.randrange(4) * chance.randrange(60) * 60
        midnight = now // 86400 * 86400 + 86400
        moments.append(midnight if chance.random() < 0.5 and midnight - now > 4 * 3600 else now)
        now = moments[-1]
    both = Both(tmp_path, schedules, at("UTC", 2026, 1, 1) - 86400, "UTC")
    assert both.looks(moments) == []
    assert both.runs > 20 * len(moments) // 10


FIXED_AND_WILD = [
    *("30 2 * * *", "0,15,45 2 * * *", "* 2 * * *", "*/30 2 * * *", "0 * * * *", "17 * * * *", "30 2,3 * * *"),
    *("1 1-3 * * *", "0 1 * * *", "1 1 * * *", "30 0-4 * * *", "*/20 * * * *", "5,35 0-23 * * *", "45 1 * * *"),
    *("15 1,2 * * *", "0 3 * * 0", "0-9 12-15 * * *", "*/3 8-16 * * *"),
    *("@daily", "@hourly", "59 1 * * *", "0 2 * * *", "59 2 * * *", "10 12 * * *", "10,40 10-14 * * *"),
    "*/30 12 * * *",
]

NIGHTS = [
    *(("America/New_York", night) for night in ((2026, 3, 8), (2026, 11, 1), (2027, 3, 14), (2027, 11, 7))),
    *(("Europe/Berlin", night) for night in ((2026, 3, 29), (2026, 10, 25), (2027, 3, 28), (2027, 10, 31))),
    *(("Australia/Lord_Howe", night) for night in ((2026, 4, 5), (2026, 10, 4), (2027, 4, 4), (2027, 10, 3))),
    *(("Europe/Dublin", night) for night in ((2026, 3, 29), (2026, 10, 25), (2027, 3, 28), (2027, 10, 31))),
]


@pytest.mark.parametrize(("zone", "night"), NIGHTS if LONG else NIGHTS[:2], ids=str)
def test_on_a_night_when_the_clocks_change_both_run_the_same(zone: str, night: tuple[int, ...], tmp_path: Path) -> None:
    start = at(zone, *night, 0, 40)
    minutes = range(1, 260) if LONG else [*range(70, 90), *range(91, 150, 5), 150, *range(151, 156)]
    both = Both(tmp_path, FIXED_AND_WILD, start + (0 if LONG else 69 * 60), zone)
    assert both.looks([start + 60 * minute for minute in minutes]) == []
    assert both.runs > 20


STEPS = (1, -1, 5, -5, 6, -6, 59, -59, 179, -179, 180, -180, 181, -181, 120)


@pytest.mark.parametrize("step", STEPS if LONG else (6, -59, 180, -180, 181), ids=lambda step: f"{step:+d}min")
def test_after_a_step_of_the_clock_both_run_the_same(step: int, tmp_path: Path) -> None:
    """`step` is what the clock is put forward or back beside the minute that passes; +120 is a sleep of two hours."""
    start = at("UTC", 2026, 6, 1, 11, 58)
    moments = [start + 60, start + 120, now := start + 180 + 60 * step]
    after = 200 if LONG and -180 < step < 0 else 12
    moments += [now + 60 * minute for minute in range(1, min(after, -step + 5) if step < -1 and LONG else after)]
    both = Both(tmp_path, FIXED_AND_WILD, start, "UTC")
    assert both.looks(moments) == []
    assert both.runs > 5


@pytest.mark.parametrize("seed", range(12) if LONG else [5])
def test_after_many_steps_both_ran_the_same_and_no_two_runs_have_one_name(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    now = start = at("Europe/Berlin", 2026, 3, 29, 0, 30)
    moments = []
    for _ in range(100 if LONG else 60):  # with fewer than thirty steps back: see the docstring of clock
        steps = (2, 4, 5, 6, 7, 59, 61, 120, 179, 180, 181, 400, -3, -20, -58, -59, -178, -179, -181, -300)
        now += 60 * chance.choice((1,) * 12 + steps)
        moments.append(now)
    both = Both(tmp_path, FIXED_AND_WILD, start, "Europe/Berlin")
    assert both.looks(moments) == []
    assert both.runs > len(moments) // 2


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Tokyo", "America/Lima", "Europe/Moscow"])
def test_a_changed_localtime_is_a_step_of_the_clock(tmp_path: Path, zone: str) -> None:
    """The C library reads the file again when its mtime differs, in whole seconds: so the mtimes are set here."""
    here, zones = tmp_path / "localtime", Path("/usr/share/zoneinfo")
    here.write_bytes((zones / "Europe/Moscow").read_bytes())
    os.utime(here, (1, 1))
    start = at("UTC", 2026, 6, 1, 9, 58)
    both = Both(tmp_path, FIXED_AND_WILD, start, "Europe/Moscow", by_file=True)
    wrong = []
    with both.debian:
        for minute in range(1, 11):
            if minute == 6:
                here.write_bytes((zones / zone).read_bytes())
                os.utime(here, (2, 2))
            if minute == 7:  # Debian's offset follows at the look after the one that reads the file
                both.zone = zoneinfo.ZoneInfo(zone)
            wrong += both.look(start + minute * 60)
    assert wrong == []
    assert both.runs > 10


def test_jobs_see_the_variables_and_the_input_that_debian_gives(tmp_path: Path) -> None:
    values = ("b c  ", '"a b "', '""', "x # c", "'b'", "=x", "'\"q\"'", "$HOME/bin", "  y", "\\%z", "x\t")
    percents = (r"line1%line\%2%%last", "a", "", r"a\\%b", r"tail\ ", "%%", r"x\%", r"a\%%b\\\%c%", "end%", r"\n%\x")
    lines = [f"V{number}={value}" for number, value in enumerate(values)] + ['"A B"=x', "1A=x", "V0 = changed"]
    lines += [f"* * * * * env -0 >{tmp_path}/env"]
    lines += [f"* * * * * cat >{tmp_path}/in{number}%{text}" for number, text in enumerate(percents)]
    lines += [rf"* * * * * printf \%s 'a\\\\b\%c\d' >{tmp_path}/shown", "LATE=no"]
    table = "".join(f"{line}\n" for line in lines).encode()
    start = at("UTC", 2026, 6, 1, 9, 58)
    with Cron(tmp_path, table, start, "UTC") as cron:
        cron.look(start + 60)
    entries = parse_crontab(table).entries
    theirs = dict(part.split("=", 1) for part in (tmp_path / "env").read_text().split("\0")[:-1])
    ours = {name: value for name, value in entries[0].env.items() if name.isidentifier()}  # sh drops the others
    assert {name: value for name, value in theirs.items() if name in ours} == ours
    assert len(ours) == len(values)
    assert "LATE" not in theirs
    for number in range(len(percents)):
        assert (tmp_path / f"in{number}").read_text() == split_percent(entries[1 + number].command)[1], percents[number]
    shown = split_percent(entries[-1].command)[0]
    assert shown.startswith("printf %s 'a")
    assert (tmp_path / "shown").read_text() == shown.split("'")[1]


ENVIRONMENT = r"""# comment \
A=b # c
export B=x
C="q v"~~
D='s'
E=a"b
F= lead
G=x\
 H=y
I=1\~~
J=2
  K=x
L=$HOME
M=a#b
N="x
O=x"
P="a"b"
Q=trail~~~
R	=x
T="  in  "
U==x
V-W=x
X="a # b"
Y='x"
Z=
ZA=1
ZA
ZB=b # c \
ZC=1
ZD="
ZE=x\\
HOME=/nowhere
PATH=/opt/bin
SHELL=/bin/false
LOGNAME=somebody
USER=u
A=again
TABLE=no
BOTH=file
"""  # ~ stands for a blank at the end of a line


def test_jobs_have_the_very_environment_that_debian_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With files of the machine's that have every oddity which PAM reads in its own way."""
    (tmp_path / "environment").write_text(ENVIRONMENT.replace("~", " "))
    (tmp_path / "locale").write_text('LANG="de_DE.UTF-8"\nBOTH=locale\n')
    monkeypatch.setattr("cronq.cronworld.FILES", (str(tmp_path / "environment"), str(tmp_path / "locale")))
    table = f"TABLE=yes\nLOGNAME=nobody\nPATH=/bin:/sbin\n* * * * * env -0 >{tmp_path}/env\n".encode()
    start = at("UTC", 2026, 6, 1, 9, 58)
    with Cron(tmp_path, table, start, "UTC") as cron:
        cron.look(start + 60)
    theirs = dict(part.split(b"=", 1) for part in (tmp_path / "env").read_bytes().split(b"\0")[:-1])
    ours = World(parse_crontab(table, user="root").entries[0], "root", "/root").env
    assert {name: value for name, value in theirs.items() if name != b"PWD"} == ours  # PWD is the shell's
    assert (theirs[b"C"], theirs[b"I"]) == (b'q v"  ', b"1J=2"), "the oddities were there"


def test_two_lines_that_are_the_same_are_two_jobs(tmp_path: Path) -> None:
    table = f"* * * * * echo twin >>{tmp_path}/ran\n".encode() * 2
    start = at("UTC", 2026, 6, 1, 9, 58)
    with Cron(tmp_path, table, start, "UTC") as cron:
        assert cron.look(start + 60) == Counter(twin=2)
    clock = Clock()
    clock.load(parse_crontab(table).entries)
    clock.start(start, datetime.UTC)
    assert len({tick.entry.identity for tick in clock.turn(start + 60, datetime.UTC)}) == 2
