"""The machine's crontabs as cron finds them: every table, whether cron uses it, and why not.

Does:    `tables()` -> every `Table`: /etc/crontab, /etc/cron.d/*, and the users' own in /var/spool/cron/crontabs, with
         its crontab as cronq reads it, and what cron itself makes of it.
Reads:   those files, as root, who follows the links that the launcher does (`cronrules`); of each no more than a
         crontab may have. passwd.
Trusts:  the kernel, and `cronrules` for cron's rules of names, owners, modes and links.
Fails:   never for one table: what is wrong with it is `Table.fault`. `NotPermitted` where it is not root who reads.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterable, Iterator

from cronq import accounts, become, cronrules
from cronq.cronfiles import uid_of
from cronq.cronrules import Fault
from cronq.crontab import MAX_BYTES, CronEntry, Crontab, parse_crontab
from cronq.errors import BadJob, NotPermitted

MOST_TABLES = 4000
CONFIG, INSTALLED = "/etc/cronq", "/var/spool/cronq/schedule/tables"

Known = Callable[[str], int | None]  # a user's uid, if the machine knows him
Barred = Callable[[str], str]  # why a user may have no jobs, "" if he may
Parsed = dict[tuple[str, bytes], Crontab]
Found = tuple[str, str, Fault | None, bytes, str]  # path, user, fault, content, why its link is not followed


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of this machine.

    user     whose table it is; "" where lines have a user column
    fault    why neither cron nor cronq uses it; None if they do
    crontab  what is in it, also where it is not used
    unknown  the users of its user column that the machine does not know, each with its first line
    barred   the users whose jobs cronq does not run, since their account is locked or has expired, each with why
    unfollowed  why root does not follow the link that it is, though cron does; "" if it is none, or one to follow
    """

    path: str
    user: str
    fault: Fault | None
    data: bytes
    crontab: Crontab = dataclasses.field(compare=False)
    unknown: dict[str, int]
    barred: dict[str, str]
    unfollowed: str = ""

    @property
    def entries(self) -> list[CronEntry]:
        """The lines that cronq would run: those of users who are there, and may have jobs."""
        none = {*self.unknown, *self.barred}
        return [] if self.fault else [entry for entry in self.crontab.entries if entry.user not in none]

    @property
    def silenced(self) -> str:
        """Why Debian's cron ignores all of a table whose good lines cronq would run; "" if it does not."""
        if self.fault or self.crontab.refused:
            return ""
        found = [(problem.line, problem.debian) for problem in self.crontab.problems if problem.debian]
        found += [(line, "bad username") for line in self.unknown.values()]
        return "line {}: {}".format(*min(found)) if found else ""

    @property
    def refused(self) -> str:
        """Why cronq takes nothing of a table that cron uses; "" where it does."""
        return "" if self.fault else self.unfollowed or self.crontab.refused


def tables(earlier: Iterable[Table] = ()) -> list[Table]:
    """Every table of this machine, in the order of their paths; `earlier` spares reading again what is as it was.

    Raises `NotPermitted`.
    """
    if os.geteuid() != 0:
        raise NotPermitted("only root can read all crontabs of this machine (sudo …); your own is in `crontab -l`")
    known = functools.cache(uid_of)
    found = [_system(path) for path in _paths(cronrules.SYSTEM_TABLE, cronrules.CRON_D)]
    found += [_user(name, known) for name in _names(cronrules.USER_TABLES) if cronrules.user_name(name)]
    parsed = {(table.path, table.data): table.crontab for table in earlier}
    barred = functools.cache(_barred)
    return [_parsed(each, parsed, known, barred) for each in found[:MOST_TABLES]]


def cronqs(earlier: Iterable[Table] = ()) -> list[Table]:
    """The tables that cronq runs beside the machine's, and logs as cron does: its configuration's, installed ones."""
    known, users = functools.cache(uid_of), accounts.Accounts()
    parsed = {(table.path, table.data): table.crontab for table in earlier}
    found = [_system(path) for path in _paths(f"{CONFIG}/crontab", f"{CONFIG}/cron.d")]
    uids = [int(name) for name in _names(INSTALLED) if name.isdecimal()]  # others are predecessors
    found += [_installed(uid, user) for uid in uids if (user := users.name(uid))]
    return [_parsed(each, parsed, known, lambda _name: "") for each in found[:MOST_TABLES]]


def _installed(uid: int, user: str) -> Found:
    path = f"{INSTALLED}/{uid}"
    return path, user, *_opened(None, lambda: cronrules.user_table(path, uid))


def own() -> Table:
    """The caller's own table, by cron's own `crontab -l`: empty if he has none."""
    import subprocess

    name = pwd.getpwuid(os.getuid()).pw_name
    try:
        done = subprocess.run([_crons(), "-l"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        data = b"" if done.returncode else done.stdout
    except FileNotFoundError:
        data = b""
    return _parsed((f"crontab of {name}", name, None, data, ""), {}, uid_of, _barred)


def _crons() -> str:
    """The first `crontab` in PATH that is not the link to cronq, which `cronq install --system --crontab` makes."""
    names = (os.path.join(folder, "crontab") for folder in os.get_exec_path())
    there = (name for name in names if os.access(name, os.X_OK) and os.path.isfile(name))
    return next((name for name in there if os.path.basename(os.path.realpath(name)) != "cronq"), "crontab")


def _parsed(found: Found, parsed: Parsed, known: Known, barred: Barred) -> Table:
    """A table of which this was found."""
    path, user, fault, data, unfollowed = found
    crontab = parsed.get((path, data)) or parse_crontab(data, user=user, system=not user)
    unknown: dict[str, int] = {}
    for entry in crontab.entries if not user else ():
        if entry.user not in unknown and known(entry.user) is None:
            unknown[entry.user] = entry.line
    users = {entry.user for entry in crontab.entries if known(entry.user) is not None}
    out = {name: why for name in sorted(users) if (why := barred(name))}
    return Table(path, user, fault, data, crontab, unknown, out, unfollowed)


def _paths(table: str, folder: str) -> Iterator[str]:
    if os.path.lexists(table):
        yield table
    for name in _names(folder):
        if name != ".placeholder":  # Debian's, so that the directory is not empty
            yield f"{folder}/{name}"


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _system(path: str) -> Found:
    fault = cronrules.system_name(os.path.basename(path)) if path != cronrules.SYSTEM_TABLE else None
    return path, "", *_opened(fault, lambda: cronrules.system_table(path))


def _user(name: str, known: Known) -> Found:
    path, uid = f"{cronrules.USER_TABLES}/{name}", known(name)
    fault = cronrules.orphan(name) if uid is None else None
    return path, name, *_opened(fault, lambda: cronrules.user_table(path, uid or 0))


def _opened(fault: Fault | None, opening: Callable[[], cronrules.Opened]) -> tuple[Fault | None, bytes, str]:
    """The fault that its name or user has already, or the one that is found at its opening; and what is in it."""
    try:
        descriptor, found, wrong = opening()
    except OSError as error:
        text = "it is a symbolic link" if error.errno == errno.ELOOP else f"it cannot be opened: {error.strerror}"
        return fault or Fault("CAN'T OPEN", text, "put a plain file there"), b"", ""
    except BadJob as error:
        strange = error.sentence.startswith(cronrules.STRANGE_LINK)
        wrong = (
            Fault(cronrules.STRANGE_LINK, "it is a link of another than root", "chown -h root it") if strange else None
        )
        return fault or wrong, b"", "" if strange else error.sentence
    try:
        regular = stat.S_ISREG(found.st_mode)
        return fault or wrong, cronrules.content(descriptor, MAX_BYTES) if regular else b"", ""
    except OSError as error:
        return fault or Fault("", f"it cannot be read: {error.strerror}", "look at the disk"), b"", ""
    finally:
        os.close(descriptor)


def _barred(name: str) -> str:
    """Why cronq runs nothing of a user's; "" where it does, or where only root can tell."""
    try:
        become.must_be_usable(name, time.time())
    except become.Barred as error:
        return error.sentence
    except PermissionError:
        pass
    return ""
