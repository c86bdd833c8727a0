"""What `cronq crontab` asks of a dispatcher: what became of a table, and to remove one or put an earlier one back.

Does:    one generator a verb, as in `verbs`. Each acts on the caller's own table: root becomes the user he means first.
Trusts:  the caller to be who he is (`caller`); nothing of the request.
Fails:   `NotPermitted` for who may have no crontab; the refusal of a table that was refused; `Full`, `NotRunning` where
         it must wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cronq import arrivals, installed, job, parents, spool
from cronq.cronfiles import INSTALLED, USERS_FOLDER, user_of
from cronq.errors import CronqError, NotRunning, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]


def crontab(ask: Ask) -> Found:
    """What became of the table that the caller has put into his inbox under this name."""
    house, uid, name = ask.house, _owner(ask), ask.request.get("name")
    if not isinstance(name, str) or not job.is_name(name):
        raise UsageError("name must be that of a table in the inbox")
    _admit(ask)
    refused = spool.reason(house.shelves.root, uid, name)
    if refused is not None:
        error = CronqError(refused[0])
        error.exit_code = refused[1]
        raise error
    if parents.is_queued(house, f"{uid}-{name}"):
        yield {"state": "queued"}
    else:
        yield {"state": installed.INSTALLED, "but": _why_idle(ask)}


def remove(ask: Ask) -> Found:
    """Take the caller's table out of use."""
    installed.must_be_allowed(ask.house, _owner(ask))
    _admit(ask)
    yield {"done": installed.remove(ask.house, ask.now, _owner(ask))}


def undo(ask: Ask) -> Found:
    """Put the caller's table of before back in use, or an earlier one still."""
    number = ask.request.get("number", 1)
    if not isinstance(number, int):
        raise UsageError("number must be a number")
    installed.must_be_allowed(ask.house, _owner(ask))
    _admit(ask)
    yield {"done": installed.undo(ask.house, ask.now, _owner(ask), number), "but": _why_idle(ask)}


def beside(ask: Ask) -> Found:
    """The table of the caller's that cron's own crontab(1) has made and that runs here too; "" where there is none."""
    table = f"{USERS_FOLDER}/{user_of(_owner(ask))}"
    known = ask.house.tables.known.get(table)
    yield {"table": table if known is not None and known.lines else ""}


def _why_idle(ask: Ask) -> str:
    """Why no line of the caller's table runs though it is installed; "" where they run."""
    try:
        if ask.house.authority is not None:
            ask.house.authority.runs_line(f"{INSTALLED}{_owner(ask)}", _owner(ask))
    except CronqError as error:
        return error.sentence
    return ""


def _admit(ask: Ask) -> None:
    """Have what the caller has put into his inbox judged before he is answered. Raises `NotRunning`."""
    if ask.house.stopping:
        raise NotRunning("the dispatcher is stopping")
    arrivals.admit(ask.house, ask.now, {("inbox", _owner(ask))})


def _owner(ask: Ask) -> int:
    """Whose table is meant: on a spool of one user, his."""
    shelves = ask.house.shelves
    return shelves.uid if shelves.gid is None else ask.caller.uid


VERBS = {"crontab": crontab, "crontab-beside": beside, "remove-crontab": remove, "undo-crontab": undo}
