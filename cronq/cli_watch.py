"""The command line of figures: `metrics` for Prometheus, `top` for people.

Does:    reads options, asks the dispatcher, prints.
Fails:   as `cli` does.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from cronq import cli_past, client, usage
from cronq import job as jobs
from cronq import spool as spools

LEAST_PAUSE = 0.2  # seconds between two looks


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command()(metrics)
    app.command()(top)


def metrics(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve them there by HTTP, until it is ended.")
    ] = None,
    user: cli_past.User = None,
    mine: cli_past.Mine = False,
) -> None:
    """Print figures for Prometheus.

    Of your own jobs; as root or an operator, of everybody's and of the dispatcher. docs/metrics.md says what they mean.
    """
    request = {"do": "metrics", **_whose(user, mine)}
    if listen is not None:
        from cronq import exporter

        exporter.serve(spools.find(), request, listen)
        return
    for piece in client.ask(spools.find(), request):
        sys.stdout.write(str(piece.get("text", "")))


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once; so it is where there is no terminal.")] = False,
    every: Annotated[str, typer.Option(metavar="DURATION", help="How often to look.")] = "2s",
    user: cli_past.User = None,
    mine: cli_past.Mine = False,
    as_json: cli_past.Json = False,
) -> None:
    """Show what is in the queues and what runs, anew every two seconds.

    Which gates keep how many, how many start, are done and fail in a second. Ends by ^C.
    """
    from cronq import top as shown

    seconds = jobs.seconds(usage.fields({"timeout": every}, 0.0)["timeout"])
    shown.main(spools.find(), _whose(user, mine), max(LEAST_PAUSE, seconds), once, as_json)


def _whose(user: str | None, mine: bool) -> dict[str, Any]:
    if not mine and user is None:
        return {}
    return {"user": os.getuid() if user is None else cli_past.uid_of(user)}
