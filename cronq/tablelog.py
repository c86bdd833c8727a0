"""What the system's log is told of tables, in the words of Debian's cron, which monitoring greps for.

Does:    a table's name and what became of it -> user, event and detail of a line (`Cronlog.table`): `RELOAD`, `ORPHAN`,
         `WRONG FILE OWNER`, `INSECURE MODE …`, `ERROR`.
Reads:   passwd, for the owner of an installed table (`cronfiles`).
Trusts:  nobody: what is logged is made printable there.
Fails:   never.
"""

from __future__ import annotations

import os

from cronq.cronfiles import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.crontab import Problem

    Said = tuple[str, str, str]

ORPHAN = "ORPHAN"
CANNOT_OPEN = "CAN'T OPEN"


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


def _user(places: Places, table: str) -> str:
    if not places.has_column(table):
        return places.user(table)
    name = "" if table.rpartition("/")[2] == "crontab" else os.path.basename(table)
    return f"*system*{name}"


def _path(places: Places, table: str) -> str:
    """As cron calls it: a user's table by its name among them."""
    return f"crontabs/{places.user(table)}" if not places.has_column(table) and table != places.own else table
