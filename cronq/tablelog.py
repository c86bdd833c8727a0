"""What logs are told of tables, each thing once; the system's in the words of Debian's cron, which monitoring knows.

Does:    a table's name and what became of it -> user, event and detail of a line (`Cronlog.table`): `RELOAD`, `ORPHAN`,
         `WRONG FILE OWNER`, `INSECURE MODE …`, `ERROR`. `Told` remembers what has been said of a table's lines.
Reads:   passwd, for the owner of an installed table (`cronfiles`).
Trusts:  nobody: what is logged is made printable there.
Fails:   never.
"""

from __future__ import annotations

import os

from cronq.cronfiles import Places
from cronq.schedule import Schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.crontab import Crontab, Problem

    Said = tuple[str, str, str]

ORPHAN = "ORPHAN"
CANNOT_OPEN = "CAN'T OPEN"
NEVER = ("never", "empty")  # doubts about dates that do not come


class Told:
    """What has been said of one table: no change of other lines has it said again."""

    __slots__ = ("_lines", "_reasons")

    def __init__(self) -> None:
        self._lines: set[int] = set()
        self._reasons: dict[str, str] = {}  # why lines do not run -> the identity of the first of them

    def fresh(self, found: Crontab) -> list[Problem]:
        """Of the lines that do not run, or never will, those that are new."""
        never = {each.line for each in found.entries if isinstance(each.schedule, Schedule) and each.schedule.never()}
        wrong = [each for each in found.problems if each.error or (each.code in NEVER and each.line in never)]
        earlier, self._lines = self._lines, {_hash(each) for each in wrong}
        return [each for each in wrong if _hash(each) not in earlier]

    def keep(self, identities: set[str]) -> None:
        """Forget what was said of lines that are not there any more."""
        self._reasons = {why: identity for why, identity in self._reasons.items() if identity in identities}

    def is_new(self, identity: str, reason: str) -> bool:
        """Whether it has not been said for this reason that a line of the table does not run; from now on it has."""
        new = reason not in self._reasons
        self._reasons.setdefault(reason, identity)
        return new


def _hash(problem: Problem) -> int:
    return hash((problem.source, problem.text))  # not its place: it may be moved


def no_user(user: str) -> str:
    """Why a line of nobody's does not run."""
    return f"there is no user {user}"


def reloaded(places: Places, table: str) -> Said:
    """A table that is another than it was: `(ann) RELOAD (crontabs/ann)`."""
    return _user(places, table), "RELOAD", _path(places, table)


def refused(places: Places, table: str, reason: str) -> Said:
    """A table that does not count; the reason begins with cron's own words where it has any."""
    words, known, _ = reason.partition(f" ({table})")
    if not known:
        return _user(places, table), "ERROR", f"{_path(places, table)}: {reason}"
    if words == ORPHAN:
        return _user(places, table), words, "no passwd entry"
    event = words if words.isupper() or words[:8].isupper() else CANNOT_OPEN  # INSECURE MODE (mode 0600 expected)
    return _user(places, table), event, _path(places, table)


def faulty(places: Places, table: str, errors: list[Problem]) -> Said:
    """A table some of whose lines do not run; cron would ignore all of it."""
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    first = f"{_path(places, table)}:{errors[0].line}: {errors[0].text}"
    return _user(places, table), "ERROR", f"{first}{more}; the other lines run"


def idle(places: Places, table: str, line: int, reason: str) -> Said:
    """A line that is right and does not run all the same."""
    return _user(places, table), "ERROR", f"{_path(places, table)}:{line}: {reason}"


def _user(places: Places, table: str) -> str:
    if not places.has_column(table):
        return places.user(table)
    name = "" if table.rpartition("/")[2] == "crontab" else os.path.basename(table)
    return f"*system*{name}"


def _path(places: Places, table: str) -> str:
    """As cron calls it: a user's table by its name among them."""
    return f"crontabs/{places.user(table)}" if not places.has_column(table) and table != places.own else table
