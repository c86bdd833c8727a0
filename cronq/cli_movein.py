"""The command line of moving in: `import`, `shadow`, `takeover`, `rollback`.

Does:    reads options; what they come to is in movein, shadowing, takeover.
Fails:   as what it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command()(shadow)


def shadow(
    length: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="End so long after it began.")] = None,
    log: Annotated[str | None, typer.Option(metavar="FILE", help="Where cron's lines are; found by default.")] = None,
    journal: Annotated[bool, typer.Option("--journal", help="They are in the journal.")] = False,
    state: Annotated[
        str, typer.Option(metavar="FILE", help="What was seen, kept from one start to the next.")
    ] = "/var/lib/cronq/shadow.json",
    report: Annotated[bool, typer.Option("--report", help="Only show what was seen so far.")] = False,
    as_json: Json = False,
) -> int:
    """Watch beside cron, as root, without running anything.

    Compares what cronq would have started with what cron says it started. Exits with 0 only if they agree.
    """
    from cronq import shadowing

    return shadowing.main(shadowing.Options(length, log, journal, state, report, as_json))
