"""The command line of `why`: why a job waits, or ended as it did; why an entry ran, or did not, at a time.

Does:    reads options, finds out whether a job or an entry is meant, asks, prints (`whyshow`).
Fails:   as what it asks; without a dispatcher, of a job that has ended it tells what its result says.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cronq import ids
from cronq import spool as spools
from cronq.errors import UnknownJob

ENTRY = "entry:"  # before a name that a job could have too
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add(app: typer.Typer) -> None:
    """Give `app` the command of this module."""
    app.command()(why)


def why(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ID|ENTRY",
            help="A job's id or its tail; or an entry as cronq next shows it.",
            autocompletion=ids.known,
        ),
    ],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of an entry: at this time; else when it was due last.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Say why a job does not start, or an entry did not run.

    Of a job: every gate that is closed for it, who holds that, and when it opens; or what became of it, and why. Of a
    line of a crontab, or a schedule: whether it was due at a time, whether it ran, and why not.
    """
    from cronq import show, whyentry, whyshow

    root = spools.find()
    if at is not None or what.startswith(ENTRY):
        return whyentry.main(root, what.removeprefix(ENTRY), at, as_json)
    try:
        found = _job(root, what)
    except UnknownJob as unknown:
        try:
            return whyentry.main(root, what, None, as_json)
        except UnknownJob:
            raise unknown from None
    if as_json:
        show.one_object(found)
    else:
        for line in whyshow.lines(found):
            print(line)
    return 0


def _job(root: str, text: str) -> dict[str, Any]:
    """What the dispatcher says of a job. Raises `CronqError`."""
    found, is_read = ids.told(root, text, "why")
    if is_read:
        state, reason = found.get("state"), found.get("reason")
        found["why"] = f"it is {state}" + (f": {reason}" if reason else "")
    return found
