"""The command line of what stops and goes on: `pause`, `resume`, `drain`.

Does:    reads options; what they come to is in `halts`.
Fails:   as what it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cronq import spool as spools
from cronq.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command()(pause)
    app.command()(resume)
    app.command()(drain)


def pause(
    what: Annotated[
        str,
        typer.Argument(
            metavar="QUEUE|TASK|ENTRY", help="A name; queue:NAME, task:NAME or entry:NAME where two have it."
        ),
    ],
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until then: 18:00, or 2h from now.")] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Stop what runs of a queue or task, too.")] = False,
    as_json: Json = False,
) -> int:
    """Let a queue or a task start nothing more, or a line of a crontab or a schedule not run.

    Until it is resumed. What runs goes on, unless it is frozen. Jobs of a queue or task are accepted, and wait in their
    order; ticks of an entry are passed over, but by `cronq run` it runs all the same.
    """
    from cronq import halts

    return halts.pause(spools.find(), what, until, freeze, as_json)


def resume(
    what: Annotated[
        str | None,
        typer.Argument(metavar="QUEUE|TASK|ENTRY", help="Without it: end a drain.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """Let what was paused, or drained, go on.

    Ticks that an entry missed are not made up for.
    """
    from cronq import halts

    return halts.resume(spools.find(), what, as_json)


def drain(
    refuse: Annotated[
        bool, typer.Option("--refuse", help="Take nothing more instead, and run what is there to its end.")
    ] = False,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait no longer than this.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Go on; as cronq resume.")] = False,
    as_json: Json = False,
) -> int:
    """Start nothing more, and wait until nothing runs.

    What is submitted is accepted and waits, over restarts too, until `cronq resume`. Exits with 75 if something runs
    still after the timeout; then, as after ^C, nothing starts all the same.
    """
    from cronq import halts

    if end:
        if refuse or timeout is not None:
            raise UsageError("--end goes alone")
        return halts.end_drain(spools.find(), as_json)
    return halts.drain(spools.find(), refuse, timeout, as_json)
