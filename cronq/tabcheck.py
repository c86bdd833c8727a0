"""`cronq check FILE` of a crontab: all that is wrong or doubtful, at once, and what Debian's cron would do with it.

Does:    a crontab -> `Fault`s, by line: those of the text (`tabfile`), and those of the file in its place: a name, an
         owner or a mode for which cron ignores it. `lines` writes them for people, `objects` as JSON.
Reads:   the file, its owner and mode; names of users.
Fails:   never: what it trips over is a fault.

Line and column 0 mean the file as a whole. The rules of a place hold in any directory cron.d, so that a file can be
checked before it is put there.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import stat
from collections.abc import Iterator
from typing import Any

from cronq import show, tabfile, when
from cronq.crontab import Problem
from cronq.errors import BadJob, UsageError
from cronq.tabfile import TabFile

ERROR, WARNING = "error", "warning"
_CRON_D_NAME = re.compile(r"[A-Za-z0-9_-]+")
_IGNORED = "ignores the file"


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One finding. `debian` is what Debian's cron says or does because of it, "" if nothing."""

    line: int
    column: int
    level: str
    text: str
    mend: str
    debian: str
    excerpt: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found about one file; `entries`: how many lines of it run; `code`: the exit code."""

    label: str
    faults: tuple[Fault, ...]
    entries: int = 0
    code: int = 0


def check(path: str, *, system: bool) -> Report:
    """Look at one crontab."""
    label = "standard input" if path == tabfile.STDIN else path
    try:
        tab = tabfile.read(path, system=system)
    except (UsageError, BadJob) as error:
        said = error.sentence.removeprefix(show.escape(label))
        fault = Fault(0, 0, ERROR, said[2:] if said.startswith(": ") else f"it{said}", "", "")
        return Report(label, (fault,), 0, error.exit_code)
    faults = [*_of_place(path, system), *(_of_problem(problem) for problem in tab.problems())]
    code = BadJob.exit_code if any(fault.level == ERROR for fault in faults) else 0
    return Report(label, tuple(faults), _running(tab), code)


def _running(tab: TabFile) -> int:
    if not tab.system:
        return len(tab.table.entries)
    known = {name: tabfile.is_user(name) for name in {entry.user for entry in tab.table.entries}}
    return sum(known[entry.user] for entry in tab.table.entries)


def _of_problem(problem: Problem) -> Fault:
    level = ERROR if problem.error else WARNING
    excerpt = problem.excerpt() if problem.source else ()
    return Fault(problem.line, problem.column, level, problem.text, problem.mend, problem.debian, excerpt)


# ---------------------------------------------------------------- the file in its place


def _of_place(path: str, system: bool) -> Iterator[Fault]:
    """What makes cron ignore a file, whatever stands in it."""
    full = os.path.abspath(path)
    name = os.path.basename(full)
    if path == tabfile.STDIN:
        return
    if tabfile.in_cron_d(path):
        if not _CRON_D_NAME.fullmatch(name):
            text = f"cron ignores a file of this name in cron.d: {_odd(name)}"
            yield _whole(text, f"mv {show.escape(path)} {_plain(path, name)}", _IGNORED)
        yield from _of_owner(full)
    elif tabfile.is_system(path):
        yield from _of_owner(full)
    elif os.path.dirname(full) == tabfile.USER_TABLES:
        yield from _of_user_table(full, name)
    elif system and not _CRON_D_NAME.fullmatch(name):
        text = f"in cron.d, cron would ignore a file of this name: {_odd(name)}"
        yield _whole(text, "give it another name there", "")


def _odd(name: str) -> str:
    odd = next(char for char in f"{name} " if not _CRON_D_NAME.fullmatch(char))
    return "it has a dot" if odd == "." else f"it has {show.escape(ascii(odd))}"


def _plain(path: str, name: str) -> str:
    better = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "NAME"
    return show.escape(os.path.join(os.path.dirname(path), better))


def _of_owner(path: str) -> Iterator[Fault]:
    """/etc/crontab and cron.d: root's, and nobody else's to write; a link must be root's own."""
    link, found = os.lstat(path), os.stat(path)
    shown = show.escape(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid != 0:
        yield _whole("the link is not root's", f"chown -h root {shown}", "WRONG SYMLINK OWNER")
    if found.st_uid != 0:
        yield _whole(
            f"it belongs to {_user(found.st_uid)}, and must be root's", f"chown root {shown}", "WRONG FILE OWNER"
        )
    if found.st_mode & 0o022:
        who = " and ".join(who for who, bit in (("its group", 0o020), ("others", 0o002)) if found.st_mode & bit)
        text = f"it can be written by {who} (mode {stat.S_IMODE(found.st_mode):04o})"
        yield _whole(text, f"chmod go-w {shown}", f"INSECURE MODE (group/other writable) ({shown})")
    yield from _of_links(found, shown)


def _of_user_table(path: str, name: str) -> Iterator[Fault]:
    """/var/spool/cron/crontabs: bears its user's name, is his or root's, and nobody else reads it."""
    found, shown = os.stat(path), show.escape(path)
    try:
        uid = pwd.getpwnam(name).pw_uid
    except (KeyError, UnicodeEncodeError):
        yield _whole(f"there is no user {show.escape(name)}", f"rm {shown}", "ORPHAN (no passwd entry)")
        return
    if found.st_uid not in (0, uid):
        text = f"it belongs to {_user(found.st_uid)}, and must be {name}'s or root's"
        yield _whole(text, f"chown {name} {shown}", "WRONG FILE OWNER")
    if stat.S_IMODE(found.st_mode) != 0o600:
        text = f"its mode is {stat.S_IMODE(found.st_mode):04o}, and must be 0600"
        yield _whole(text, f"chmod 600 {shown}", f"INSECURE MODE (mode 0600 expected) (crontabs/{show.escape(name)})")
    yield from _of_links(found, shown)


def _of_links(found: os.stat_result, shown: str) -> Iterator[Fault]:
    if found.st_nlink != 1:
        mend = f"cp {shown} {shown}-new && mv {shown}-new {shown}"
        yield _whole(f"it has {found.st_nlink} hard links", mend, "NUMBER OF HARD LINKS > 1")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _whole(text: str, mend: str, debian: str) -> Fault:
    return Fault(0, 0, WARNING, text, mend, debian)


# ---------------------------------------------------------------- for people, and for programs


def lines(report: Report) -> Iterator[str]:
    """`FILE:LINE:COLUMN: level: text`, the line with a caret, and in the end what it comes to."""
    label = show.escape(report.label)
    for fault in report.faults:
        place = f"{label}:{fault.line}:{fault.column}" if fault.line else label
        mend = f"; {fault.mend}" if fault.mend and not fault.excerpt else ""
        yield f"{place}: {fault.level}: {show.escape(fault.text)}{show.escape(mend)}"
        yield from fault.excerpt
    if not report.faults:
        yield f"ok    {label}: {_count(report.entries, 'line')} to run"
        return
    errors = sum(fault.level == ERROR for fault in report.faults)
    counts = [(errors, "error"), (len(report.faults) - errors, "warning")]
    said = ", ".join(_count(count, word) for count, word in counts if count)
    if report.faults[0].line or report.faults[0].level != ERROR:
        yield f"{label}: {said}; {_count(report.entries, 'line')} to run. {_debian(report)}"


def _count(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def _debian(report: Report) -> str:
    ignored = next((fault for fault in report.faults if fault.debian), None)
    if ignored is None:
        return "Debian's cron would take it."
    if not ignored.line:
        said = "" if ignored.debian == _IGNORED else f": {ignored.debian}"
        return f"Debian's cron would ignore all of it{said}."
    return f"Debian's cron would ignore all of it: {ignored.debian} (line {ignored.line})."


def objects(report: Report) -> Iterator[dict[str, Any]]:
    """A fault each."""
    for fault in report.faults:
        found = dataclasses.asdict(fault) | {"file": report.label, "message": fault.text}
        keys = ("file", "line", "column", "level", "message", "mend", "debian")
        yield {
            key: when.text(value) if isinstance(value, str) else value for key, value in ((k, found[k]) for k in keys)
        }
