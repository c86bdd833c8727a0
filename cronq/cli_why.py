"""The command line of `why`: why a job waits, or ended as it did; why an entry ran, or did not, at a time.

Does:    reads options, finds out whether a job or an entry is meant, asks, prints (`whyshow`).
Fails:   as what it asks; without a dispatcher, of a job that has ended it tells what its result says.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cronq import ids
from cronq import spool as spools

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add(app: typer.Typer) -> None:
    """Give `app` the command of this module."""
    app.command()(why)


def why(
    what: Annotated[str, typer.Argument(metavar="ID", help="A job's id or its tail.", autocompletion=ids.known)],
    as_json: Json = False,
) -> int:
    """Say why a job does not start, or what became of it and why.

    Every gate that is closed for it, who holds that, and when it opens.
    """
    from cronq import show, whyshow

    found = _job(spools.find(), what)
    if as_json:
        show.one_object(found)
    else:
        for line in whyshow.lines(found):
            print(line)
    return 0


def _job(root: str, text: str) -> dict[str, Any]:
    """What the dispatcher says of a job. Raises `CronqError`."""
    from cronq import client, follow
    from cronq.errors import NotRunning

    job_id = ids.resolve(root, text)
    try:
        (found,) = client.ask(root, {"do": "why", "id": job_id})
    except NotRunning:
        ended = follow.ended(root, job_id)
        if ended is None:
            raise
        state, reason = ended.get("state"), ended.get("reason")
        found = {"id": job_id} | ended | {"why": f"it is {state}" + (f": {reason}" if reason else "")}
    return found
