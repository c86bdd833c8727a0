"""Cursors: how far a job has come, from one attempt to the next.

Does:    keeps the cursor that an attempt gave in the job's result directory, hands it to the next one, and forgets it
         when the job is done.
Writes:  `out/<uid>/<id>/cursor`, flushed before the job is anywhere else; that there is one, its name says (`r`).
Trusts:  the entry's flag. Not what the outcome says: a worker wrote it.
Fails:   as the disk does.
"""

from __future__ import annotations

from typing import Any

from cronq.entry import HAS_CURSOR, Entry
from cronq.shelves import Shelves
from cronq.status import is_cursor

NAME = "cursor"


def load(shelves: Shelves, entry: Entry) -> str:
    """The cursor that the next attempt is given; empty for none."""
    if HAS_CURSOR not in entry.flags:
        return ""
    found = shelves.small(entry, NAME).decode("utf-8", "replace")
    return found if is_cursor(found) else ""


def keep(shelves: Shelves, entry: Entry, changed: Entry, outcome: dict[str, Any]) -> Entry:
    """Keep what this attempt gave, for the next one; the changed entry that says so."""
    cursor = outcome.get("cursor")
    if cursor == "":
        shelves.drop_small(entry, NAME)
        return changed.unflagged(HAS_CURSOR)
    if not is_cursor(cursor):
        return changed  # it gave none: the one before goes on
    shelves.put_small(entry, NAME, str(cursor).encode())
    return changed.flagged(HAS_CURSOR)


def forget(shelves: Shelves, entry: Entry) -> None:
    """The job is done."""
    if HAS_CURSOR in entry.flags:
        shelves.drop_small(entry, NAME)
