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
from collections.abc import Iterator
from typing import Any

from cronq import cronrules, show, tabfile, when
from cronq.cronfiles import uid_of
from cronq.crontab import Problem
from cronq.errors import BadJob, UsageError
from cronq.tabfile import TabFile

ERROR, WARNING = "error", "warning"
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
    folder, name = os.path.split(full)
    if path == tabfile.STDIN:
        return
    odd = cronrules.system_name(name)
    faults: list[cronrules.Fault] = []
    if tabfile.in_cron_d(path):
        faults = ([odd] if odd else []) + cronrules.system_faults(os.lstat(full), os.stat(full))
    elif tabfile.is_system(path):
        faults = cronrules.system_faults(os.lstat(full), os.stat(full))
    elif folder == cronrules.USER_TABLES:
        uid = uid_of(name)
        faults = [cronrules.orphan(name)] if uid is None else cronrules.user_faults(uid, os.stat(full))
    elif system and odd:
        text = odd.text.replace("cron ignores", "in cron.d cron would ignore")
        yield Fault(0, 0, WARNING, text, f"{odd.mend} there", "")
    for fault in faults:
        mend = fault.mend.removesuffix("it") + full if fault.word and fault.mend.endswith(" it") else fault.mend
        yield Fault(0, 0, WARNING, fault.text, mend, fault.word or _IGNORED)


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
