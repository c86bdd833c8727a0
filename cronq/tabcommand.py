"""`cronq crontab`, and `crontab` by a link: crontab(1) as Debian has it, on cronq's spool.

Does:    replaces a user's crontab from a file or standard input, lists, removes and edits it, checks a file, puts an
         earlier table back; with crontab(1)'s own texts and exit codes, which programs read.
Reads:   the file, with the caller's own rights; CRONQ_SPOOL; /etc/cron.allow, /etc/cron.deny.
Writes:  through `tabclient`; standard output holds a table and questions only, all else is said on standard error; a
         line to the system's log.
Trusts:  nothing. What it checks is checked again by the dispatcher.
Fails:   1 as crontab(1) does; 69 where no dispatcher runs, 75 where there is no room, with a sentence of cronq's.

Silent where crontab(1) is, unless a person looks on (standard error is a terminal) or --verbose is said: then it tells
what has changed and what runs next. It must start fast: the parser is imported for a table only.
"""

from __future__ import annotations

import os
import pwd
import stat

from cronq import spool as spools
from cronq import tabclient, tabrules
from cronq.errors import CronqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.crontab import Crontab

    Table = tabclient.Own | tabclient.Other

USAGE = """\
usage:	crontab [-u user] [-n] file
	crontab [ -u user ] [ -i ] { -e | -l | -r }
	crontab [ -u user ] --undo[=number]

	-h	(displays this help message)

	file	(default operation is replace, per 1003.2)
	-n	(dry run: checks the syntax, then bails out)
	-u user	(choose the user whose crontab is touched)

	-e	(edit user's crontab)
	-l	(list user's crontab)
	-r	(delete user's crontab)
	--undo	(put back what was replaced or deleted last, or so many times ago)

	-i	(prompt before deleting user's crontab)
	--verbose	(say what changes, and what runs next; on a terminal that is always said)

"""
REPLACE, LIST, DELETE, EDIT, UNDO = "replace", "-l", "-r", "-e", "--undo"


class Failed(CronqError):
    """What crontab(1) says, to the letter, and ends with 1."""

    exit_code = 1


class Usage(Failed):
    """A wrong command line: the sentence, and below it how it is used."""

    def __init__(self, what: str) -> None:
        super().__init__(f"crontab: usage error: {what}\n{USAGE}")


def main(argv: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        return run(Asked(argv))
    except CronqError as error:
        say(error.sentence if error.exit_code == Failed.exit_code else f"crontab: {error.sentence}")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except KeyboardInterrupt:
        return 128 + 2
    except OSError as error:
        say(f"crontab: {error.filename or 'the system'}: {error.strerror or error}")
        return 1


def say(text: str) -> None:
    """A text on standard error; onto a terminal no control character of a stranger's."""
    data = text.encode("utf-8", "surrogateescape")
    if os.isatty(2):
        from cronq import show

        data = show.printable(data).encode()
    spools.write_all(2, data.removesuffix(b"\n") + b"\n")


def log(asked: Asked, event: str, detail: str = "") -> None:
    """A line in the system's log, as crontab(1) writes it and monitoring greps for it."""
    import syslog

    syslog.openlog("crontab", syslog.LOG_PID, syslog.LOG_CRON)
    syslog.syslog(syslog.LOG_INFO, f"({asked.caller.pw_name}) {event} ({detail or asked.user.pw_name})")


# ---------------------------------------------------------------- the command line


class Asked:
    """What a command line asks for. Raises `Failed`."""

    def __init__(self, argv: list[str]) -> None:
        self.what = ""
        self.caller = self.user = _caller()
        self.dry = self.ask_first = self.verbose = False
        self.number = 1
        self.words_given = bool(argv)
        words = []
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--":
                words += rest
                break
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and word != "-":
                self._letters(word[1:], rest)
            else:
                words.append(word)
        self._settle(words)

    def _long(self, word: str) -> None:
        name, equals, value = word.partition("=")
        if name == "--undo" and (not equals or value.isdecimal()):
            self._one(UNDO)
            self.number = int(value or 1)
        elif word == "--verbose":
            self.verbose = True
        elif word == "--help":
            raise Failed(USAGE)
        else:
            say("crontab: invalid option -- '-'")
            raise Usage("unrecognized option")

    def _letters(self, letters: str, rest: list[str]) -> None:
        for at, letter in enumerate(letters):
            if letter in "lre":
                self._one(f"-{letter}")
            elif letter == "n":
                self.dry = True
            elif letter == "i":
                self.ask_first = True
            elif letter == "u":
                if not letters[at + 1 :] and not rest:
                    say("crontab: option requires an argument -- 'u'")
                    raise Usage("unrecognized option")
                self.user = _user(letters[at + 1 :] or rest.pop(0))
                return
            elif letter == "h":
                raise Failed(USAGE)
            else:
                say(f"crontab: invalid option -- '{letter}'")
                raise Usage("unrecognized option")

    def _one(self, what: str) -> None:
        if self.what:
            raise Usage("only one operation permitted")
        self.what = what

    def _settle(self, words: list[str]) -> None:
        if self.what and words:
            raise Usage("no arguments permitted after this option")
        if self.dry and self.what not in ("", LIST):
            raise Usage("-n changes nothing: it goes with a file only")
        if not self.what and not words and self.words_given:
            raise Usage("file name must be specified for replace")
        self.what = self.what or REPLACE
        self.file = words[0] if words else "-"


def _caller() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        raise Failed("crontab: your UID isn't in the passwd file.\nbailing out.") from None


def _user(name: str) -> pwd.struct_passwd:
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise Failed(f"crontab:  user `{name}' unknown") from None
    if os.getuid() not in (0, found.pw_uid):
        raise Failed("must be privileged to use -u")
    return found


# ---------------------------------------------------------------- what it does


def run(asked: Asked) -> int:
    """Do what is asked for; the exit code. Raises `CronqError`, `OSError`."""
    root = spools.find()
    source = _open(asked.file) if asked.what == REPLACE else -1  # before anything else, as crontab(1) does
    _must_be_allowed(root, asked)
    table = _table(root, asked.user)
    try:
        return _act(table, asked, source)
    finally:
        if spools.is_system(root) and not asked.dry and (crons := table.beside()):  # or he would look for it in vain
            say(f"crontab: {crons} runs too; to have one table: /usr/bin/crontab -l | crontab - && /usr/bin/crontab -r")


def _act(table: Table, asked: Asked, source: int) -> int:
    if asked.what == LIST:
        return _list(table, asked)
    if asked.what == DELETE:
        return _delete(table, asked)
    if asked.what == UNDO:
        return _undo(table, asked)
    if asked.what == EDIT:
        from cronq import tabedit

        return tabedit.edit(table, asked)
    if source == 0 and os.isatty(0) and os.isatty(2):
        say("crontab: reading the crontab from here, to its end (Ctrl-D); Ctrl-C leaves yours as it is")
    data = _read(source)
    judged(data, asked.file)
    if asked.dry:
        say("The syntax of the crontab file was successfully checked.")
        return 0
    install(table, data, asked)
    return 0


def _open(path: str) -> int:
    if path == "-":
        return 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}" if path else str(error.strerror)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Failed(f"{path}: Not a regular file.")
    return descriptor


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=descriptor != 0) as file:
        return file.read(tabrules.MAX_BYTES + 1)


def _must_be_allowed(root: str, asked: Asked) -> None:
    user = asked.user
    if not spools.is_system(root):
        return
    why = tabrules.forbidden(user.pw_name, user.pw_uid)
    if why is None:
        return
    if why:
        say(why)
    if os.getuid() != user.pw_uid:
        raise Failed(f"The user {user.pw_name} cannot use this program (crontab)")
    log(asked, "AUTH", "crontab command not allowed")
    raise Failed(
        f"You ({user.pw_name}) are not allowed to use this program (crontab)\nSee crontab(1) for more information"
    )


def _table(root: str, user: pwd.struct_passwd) -> Table:
    if user.pw_uid == os.getuid():
        return tabclient.Own(root)
    if not spools.is_system(root):
        raise Failed(f"crontab: {root} is one user's own, and has no crontab of {user.pw_name}'s")
    return tabclient.Other(root, user)


def _list(table: Table, asked: Asked) -> int:
    log(asked, "LIST")
    data = table.read()
    if data is None:
        raise Failed(f"no crontab for {asked.user.pw_name}")
    if os.isatty(1):
        from cronq import show

        show.Printable(1, raw=False).write(data)
    else:
        spools.write_all(1, data)
    return 0


def _delete(table: Table, asked: Asked) -> int:
    name = asked.user.pw_name
    if asked.ask_first:
        if table.read() is None:
            raise Failed(f"no crontab for {name}")
        if not agreed(f"crontab: really delete {name}'s crontab? (y/n) ", "Please enter Y or N: "):
            return 0
    if not table.remove():
        raise Failed(f"no crontab for {name}")
    log(asked, "DELETE")
    return 0


def _undo(table: Table, asked: Asked) -> int:
    before = table.read()
    but = table.undo(asked.number)
    if but is None:
        raise Failed(f"no earlier crontab for {asked.user.pw_name}")
    log(asked, "REPLACE")
    _tell(before, table.read() or b"", asked, but)
    return 0


def agreed(question: str, again: str) -> bool:
    """Ask a person who must answer y or n; the end of the input is a no."""
    spools.write_all(1, question.encode())
    while line := _line():
        if line[:1] in b"yYnN":
            return line[:1] in b"yY"
        spools.write_all(2, again.encode())
        if again.endswith("\n"):
            spools.write_all(1, question.encode())
    return False


def _line() -> bytes:
    """The next line of standard input, and nothing behind it: an editor may read that."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def judged(data: bytes, label: str) -> Crontab:
    """The table that these bytes say. Raises `Failed` with all that is wrong with it."""
    table, complaints = next(filter(None, tabrules.judging(data, label)))
    if complaints:
        raise Failed("\n".join(_with_excerpts(complaints, table) if os.isatty(2) else complaints))
    return table


def _with_excerpts(complaints: list[str], table: Crontab) -> list[str]:
    """For a person: below each complaint the line, and a caret with the remedy."""
    lines = []
    for number, complaint in enumerate(complaints):
        lines.append(complaint)
        if number < len(table.errors):
            lines += str(table.errors[number]).splitlines()[1:]
    return lines


def install(table: Table, data: bytes, asked: Asked) -> None:
    """Hand in a table that is good, and tell a person who looks on what that changes. Raises `CronqError`."""
    before = table.read() if _is_told(asked) else None
    but = table.install(data)
    log(asked, "REPLACE")
    _tell(before, data, asked, but)


def _is_told(asked: Asked) -> bool:
    return asked.verbose or os.isatty(2)


def _tell(before: bytes | None, after: bytes, asked: Asked, but: str) -> None:
    if but:  # nobody may find that out by waiting
        say(f"crontab: it is installed, and does not run: {but}")
    if _is_told(asked):
        from cronq import tabsummary

        say("\n".join(tabsummary.lines(before or b"", after, asked.user.pw_name)))
