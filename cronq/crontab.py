"""A crontab: text -> entries, with everything that is wrong or doubtful in it said at once.

Does:    bytes of a crontab -> `Crontab`: its entries, each with its schedule, command, variables, options and identity,
         and its problems, each with line, column, sentence, remedy, and what Debian's cron would say of it.
Reads:   nothing but its arguments, and the names of time zones (zoneinfo). No other file, no clock.
Trusts:  nobody. A table of more than 4 MiB or 50,000 lines, with a NUL byte or other rubbish, is refused whole with a
         sentence; memory stays proportional to the text (variables are shared between entries, not copied).
Fails:   never by an exception: an error is a `Problem`. The good lines of a table run although others are bad; Debian's
         cron would ignore all of the table, and `Crontab.debian` says so.

The grammar is Vixie's as built by Debian (3.0pl1), exceptions listed in tests/cron/test_against_debian.py. Text is str
with bytes that are not UTF-8 kept by surrogateescape: `os.fsencode(entry.command)` gives back the very bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
import zoneinfo
from collections.abc import Iterator

from cronq import doubts
from cronq.crontext import SPACE, variable
from cronq.fields import FIELDS, BadSchedule, TooLong, no_byte_ff
from cronq.options import PLAIN, BadOption, Options, with_word
from cronq.schedule import Every, Schedule, every, from_words, parse, words

MAX_BYTES = 4 << 20
MAX_LINES = 50_000
DEBIAN_LINES = 10_000
DEBIAN_COMMAND = 998  # bytes; a longer command makes Debian's cron ignore the table
DEBIAN_VARIABLE = 998  # bytes; a longer line is cut there by Debian's cron
_MOST_PROBLEMS = 1000
_STEP = 512  # bytes: about two milliseconds, as every line counts for some
_LINE = 32
_MOST_WORDS = 100  # in a comment with options
_TEXT = bytes({7, 8, 9, 10, 11, 12, 13, 27, *range(32, 127), *range(128, 256)})
_LOOKED_AT = 65536  # bytes, for whether it is text at all
_ODD = 16  # bytes that are no text's, and yet it may be one
_LONGEST_TEXT = 300  # of what is said: a line may be one word
_OPTIONS = re.compile(r"#[ \t]*cronq:")
_EMPTY_VALUE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*=\s*")
_NO_SUCH_USER = re.compile(r"[/:|;<>$*?,`\"'=]")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong (`error`) or doubtful with a line. `column` counts characters from 1.

    `debian` is what Debian's cron says of the table because of this line, "" if it minds nothing.
    """

    line: int
    column: int
    code: str
    error: bool
    text: str
    mend: str
    source: str
    debian: str = ""

    def __str__(self) -> str:
        kind = "error" if self.error else "warning"
        return "\n".join((f"line {self.line}, column {self.column}: {kind}: {self.text}", *self.excerpt()))

    def excerpt(self) -> tuple[str, str]:
        """The line, as much of it as fits, and below it a caret with the remedy; harmless on a terminal."""
        start = max(0, self.column - 60)
        shown = "".join(map(_one_cell, self.source[start : start + 110]))
        return f"    {shown}".rstrip(), f"    {' ' * (self.column - 1 - start)}^ {self.mend}"


def _one_cell(char: str) -> str:
    """The character if it takes one cell of a terminal, so that a caret stands where it is meant to."""
    if char == "\t":
        return " "
    narrow = char.isprintable() and not unicodedata.combining(char) and unicodedata.east_asian_width(char) not in "WF"
    return char if narrow else "?"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """A variable line and all above it: a chain, so that entries share what they have in common."""

    name: str
    value: str
    above: Settings | None

    def as_dict(self) -> dict[str, str]:
        """The variables an entry below this line sees, in the order of their first lines."""
        chain, link = [(self.name, self.value)], self.above
        while link is not None:
            chain.append((link.name, link.value))
            link = link.above
        return dict(reversed(chain))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CronEntry:
    """One line that runs a command. `command` is verbatim, `%` included, with the blanks cron keeps in front of it.

    user      the user column, or the owner of the table
    when      the schedule as written, its words parted by one blank
    zone      of the `CRON_TZ` above, "" for the machine's own
    identity  its name, else a hash of user, schedule, zone and command: it survives moving the line and editing others.
              Unique in the table (a second line like it has -2 at its end), not among tables.
    """

    line: int
    user: str
    when: str
    schedule: Schedule | Every
    command: str
    settings: Settings | None
    zone: str
    options: Options
    identity: str

    @property
    def env(self) -> dict[str, str]:
        """The table's variables for this entry; what cron adds (HOME, LOGNAME, PATH, SHELL) is not in it."""
        return self.settings.as_dict() if self.settings else {}


@dataclasses.dataclass(frozen=True, slots=True)
class Crontab:
    """What was read. `refused` is the sentence if the table as a whole cannot be used; then it has no entries."""

    entries: tuple[CronEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    refused: str = ""
    final_newline: bool = True

    @property
    def errors(self) -> list[Problem]:
        """Lines that do not run, in order."""
        return [problem for problem in self.problems if problem.error]

    @property
    def warnings(self) -> list[Problem]:
        """Lines that run, though perhaps not as meant, in order."""
        return [problem for problem in self.problems if not problem.error]

    @property
    def debian(self) -> Problem | None:
        """Why Debian's cron would ignore all of this table: the problem it would report, None if it would not."""
        return next((problem for problem in self.problems if problem.debian), None)


def parse_crontab(data: bytes, *, user: str = "", system: bool = False) -> Crontab:
    """Read a table of `user`, or with `system` one that has a user column (/etc/crontab, /etc/cron.d)."""
    return next(filter(None, parsing(data, user=user, system=system)))


def parsing(data: bytes, *, user: str = "", system: bool = False) -> Iterator[Crontab | None]:
    """The same in steps, for whoever must do other things meanwhile: None after some lines, the table at last."""
    if sentence := _refusal(data):
        yield Crontab(refused=sentence)
        return
    *lines, rest = data.split(b"\n")
    reading = _Reading(user, system)
    step = 0
    for number, line in enumerate(lines, 1):
        reading.read(number, line)
        step += _LINE + len(line)
        if step >= _STEP:
            yield None
            step = 0
    if rest:
        reading.read_last(len(lines) + 1, rest)
    yield reading.done(len(lines), final_newline=not rest)


def _refusal(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        return f"the table has more than {MAX_BYTES >> 20} MiB, and no more is read: split it"
    if (lines := data.count(b"\n")) > MAX_LINES:
        return f"the table has {lines} lines, and at most {MAX_LINES} are read: split it"
    if (at := data.find(b"\0")) >= 0:
        return f"line {data.count(10, 0, at) + 1} has a NUL byte: this is no crontab"
    odd = len(data[:_LOOKED_AT].translate(None, _TEXT))
    if odd > _ODD and odd * 20 > min(len(data), _LOOKED_AT):
        return "it is binary: this is no crontab"
    return ""


class _Reading:
    """One table being read: what the lines so far have set."""

    def __init__(self, user: str, system: bool) -> None:
        self.user, self.system = user, system
        self.entries: list[CronEntry] = []
        self.problems: list[Problem] = []
        self.counted = {True: 0, False: 0}  # errors and what Debian minds; other doubts: neither crowds out the other
        self.unsaid = 0
        self.settings: Settings | None = None
        self.zone: str | None = ""  # None: unknown, the entries below do not run
        self.options = PLAIN
        self.options_line = 0
        self.identities: dict[str, int] = {}  # -> the line that has it
        self.counts: dict[str, int] = {}
        self.said: set[str] = set()
        self.number, self.text = 0, ""

    def say(self, at: int, code: str, text: str, mend: str, *, error: bool = False, debian: str = "") -> None:
        """Note a problem of the current line, `at` characters into it."""
        grave = error or bool(debian)
        self.counted[grave] += 1
        if self.counted[grave] > _MOST_PROBLEMS:
            self.unsaid += 1
            return
        said, remedy = _short(text), _short(mend)
        self.problems.append(Problem(self.number, at + 1, code, error, said, remedy, self.text, debian))

    def say_once(self, key: str, at: int, text: str, mend: str) -> None:
        if key not in self.said:
            self.said.add(key)
            self.say(at, key, text, mend)

    def read_last(self, number: int, line: bytes) -> None:
        """The rest of the text behind the last newline: it runs, where Debian's cron would ignore the table."""
        self.read(number, line)
        if line.strip(b" \t") and not line.lstrip(b" \t").startswith(b"#"):
            text, mend = "the last line has no newline at its end", "end it with a newline"
            self.say(len(self.text), "newline", text, mend, debian="missing newline before EOF")

    def read(self, number: int, line: bytes) -> None:
        """One line: blank, comment, variable or entry."""
        self.number, self.text = number, line.decode("utf-8", "surrogateescape")
        start = len(self.text) - len(self.text.lstrip(" \t"))
        body = self.text[start:]
        if not body:
            return
        if body.startswith("#"):
            if mark := _OPTIONS.match(body):
                self.read_options(start + mark.end())
        elif variable := _variable(line.lstrip(b" \t"), body):
            self.set(*variable)
        elif empty := _EMPTY_VALUE.fullmatch(body):
            mend = f'write {empty[1]}=""'
            self.say(start, "empty-value", "Debian's cron refuses an empty value", mend, debian="bad minute")
            self.set(empty[1], "", True)
        else:
            self.read_entry(start)

    def read_options(self, at: int) -> None:
        """`# cronq: name=backup …`: for the next entry below."""
        self.options_line = self.number
        for offset, word in words(self.text[at:].rstrip(SPACE), _MOST_WORDS):
            try:
                self.options = with_word(self.options, word)
            except BadOption as error:
                self.say(at + offset, "option", str(error), "correct it; the entry runs without it", error=True)

    def set(self, name: str, value: str, quoted: bool) -> None:
        """NAME=value: for all entries below."""
        self.settings = Settings(name, value, self.settings)
        for doubt in doubts.of_variable(name, value, quoted=quoted):
            self.say(doubt.offset, doubt.code, doubt.text, doubt.mend)
        if len(self.text.encode("utf-8", "surrogateescape")) > DEBIAN_VARIABLE:
            text = f"Debian's cron cuts a line NAME=value after {DEBIAN_VARIABLE} bytes"
            self.say(0, "long-value", text, "set such a variable in the command, or in a file it reads")
        if name == "CRON_TZ":
            self.set_zone(value)

    def set_zone(self, zone: str) -> None:
        text = "Debian's cron does not know CRON_TZ: there the entries below follow the machine's own time"
        self.say_once("zone", 0, text, "keep it, if only cronq reads this table")
        self.zone = zone if not zone or is_zone(zone) else None
        if self.zone is None and f"zone {zone}" not in self.said:
            self.said.add(f"zone {zone}")
            text = f"there is no time zone {zone!a}: the entries below do not run"
            self.say(0, "zone", text, "write a name like Europe/Berlin", error=True)

    def read_entry(self, start: int) -> None:
        """A line with a schedule and a command."""
        options, self.options, self.options_line = self.options, PLAIN, 0
        try:
            when, schedule, at = self.read_schedule(start)
        except BadSchedule as error:
            mend = self.hint(start) or error.mend
            debian = "" if isinstance(error, TooLong) else f"bad {error.what}"
            self.say(error.offset, "schedule", str(error), mend, error=True, debian=debian)
            return
        user = self.user
        if self.system:
            user, at = self.read_user(at)
            if not user:
                return
        if self.command_is_bad(at) or self.zone is None:
            return
        command = self.text[at:]
        for doubt in doubts.of_command(command, user=user if self.system else ""):
            self.say(at + doubt.offset, doubt.code, doubt.text, doubt.mend)
        if command.endswith("\r"):
            text = "the command ends in a carriage return (Windows line ends)"
            self.say_once("crlf", len(self.text) - 1, text, "save the file with Unix line ends")
        identity = self.identify(options, user, when, command)
        entry = CronEntry(self.number, user, when, schedule, command, self.settings, self.zone, options, identity)
        self.entries.append(entry)

    def read_schedule(self, start: int) -> tuple[str, Schedule | Every, int]:
        """The schedule as text and as judged, and where what follows it begins. Raises `BadSchedule`."""
        text = self.text
        if text[start] == "@":
            return self.read_nickname(start)
        found = [(start + at, word) for at, word in words(text[start:], len(FIELDS) + 1)]
        five = found[: len(FIELDS)]
        if len(five) < len(FIELDS):
            from_words([*five, *((len(text), "") for _ in FIELDS[len(five) :])])
        schedule = from_words(five)
        for doubt in doubts.of_schedule(five, schedule):
            self.say(doubt.offset, doubt.code, doubt.text, doubt.mend)
        command = found[len(FIELDS)][0] if len(found) > len(FIELDS) else len(text)
        no_byte_ff(text[command:], command, FIELDS[-1])
        return " ".join(word for _, word in five), schedule, command

    def read_nickname(self, start: int) -> tuple[str, Schedule | Every, int]:
        found = [(start + at, word) for at, word in words(self.text[start:], 3)]
        if found[0][1] == "@every":
            return self.read_every(found)
        try:
            schedule = parse(found[0][1])
        except BadSchedule as error:
            raise BadSchedule(error.what, start, error.why, error.mend) from None
        rest = found[1][0] if len(found) > 1 else len(self.text)
        return found[0][1], schedule, rest

    def read_every(self, found: list[tuple[int, str]]) -> tuple[str, Schedule | Every, int]:
        at, period = found[1] if len(found) > 1 else (len(self.text), "")
        try:
            schedule = every(period)
        except BadSchedule as error:
            raise BadSchedule(error.what, at, error.why, error.mend) from None
        text = "Debian's cron does not know @every"
        self.say(found[0][0], "every", text, "keep it, if only cronq reads this table", debian="bad time specifier")
        return f"@every {period}", schedule, found[2][0] if len(found) > 2 else len(self.text)

    def read_user(self, at: int) -> tuple[str, int]:
        """The user column, and where the command begins; one blank ends it, further ones belong to the command."""
        user = re.split(r"[ \t]", self.text[at:], maxsplit=1)[0]
        end = at + len(user)
        if not user:
            text, mend = "the user column is missing", "write the user before the command"
        elif _NO_SUCH_USER.search(user):
            text, mend = f"{user!a} is no user: is the user column missing?", "write the user before the command"
        elif end == len(self.text):
            text, mend = f"there is no command behind the user {ascii(user)[1:-1]}", "write the command behind the user"
        else:
            return user, end + 1
        self.say(at, "user", text, mend, error=True, debian="bad username")
        return "", at

    def command_is_bad(self, at: int) -> bool:
        if not self.system and self.text[at : at + 1] == "*":
            text = "bad command: it begins with *"
            mend = "cron has five fields; seconds belong into [schedules.NAME] of cronq.toml"
            self.say(at, "command", text, mend, error=True, debian="bad command")
            return True
        length = len(self.text[at:].encode("utf-8", "surrogateescape"))
        if length > DEBIAN_COMMAND:
            text = f"command too long: {length} bytes, and cron takes {DEBIAN_COMMAND}"
            self.say(at, "command", text, "put it into a script", error=True, debian="command too long")
            return True
        return False

    def hint(self, start: int) -> str:
        """A better remedy for a line that was never meant to be a schedule."""
        body = self.text[start:]
        if re.match(r"(export|setenv|set)[ \t]", body):
            return "a variable is set by NAME=value alone"
        if "=" in body and re.match(r"[A-Za-z_][A-Za-z0-9_]*[ \t]*=[ \t]*['\"]", body):
            return "end the value with the quote it begins with, and write nothing behind it"
        return ""

    def identify(self, options: Options, user: str, when: str, command: str) -> str:
        """The entry's name if it has one of its own, else the hash of what it is."""
        if name := options.name:
            if name not in self.identities:
                self.identities[name] = self.number
                return name
            text = f"line {self.identities[name]} has the name {name} already"
            self.say(0, "name", text, "choose another; the entry runs without a name", error=True)
        what = "\0".join((user, when, self.zone or "", command)).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(what).hexdigest()[:16]
        count = self.counts[digest] = self.counts.get(digest, 0) + 1
        return digest if count == 1 else f"{digest}-{count}"

    def done(self, lines: int, *, final_newline: bool) -> Crontab:
        if self.options_line:
            self.number, self.text = self.options_line, ""
            self.say(0, "option", "these options have no entry below them", "move them above an entry")
        if lines > DEBIAN_LINES:
            self.number, self.text = DEBIAN_LINES + 1, ""
            text = f"Debian's cron ignores a table of more than {DEBIAN_LINES} lines"
            self.say(0, "lines", text, "split it", debian="crontab is too long")
        if self.unsaid:
            last = self.problems[-1]
            text = f"{self.unsaid} more problems are not shown"
            self.problems.append(Problem(last.line, 1, "more", False, text, "mend those above first", ""))
        return Crontab(tuple(self.entries), tuple(self.problems), "", final_newline)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def is_zone(name: str) -> bool:
    """Does the machine know this time zone?"""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _variable(line: bytes, body: str) -> tuple[str, str, bool] | None:
    """NAME, value, was it quoted; None if cron takes the line for an entry. Cron looks at its first 998 bytes only."""
    if len(line) <= DEBIAN_VARIABLE:
        return variable(body)
    cut = variable(line[:DEBIAN_VARIABLE].decode("utf-8", "surrogateescape"))
    return cut and (variable(body) or cut)
