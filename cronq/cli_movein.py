"""The command line of moving in: `import`, `shadow`, `takeover`, `rollback`.

Does:    reads options; what they come to is in movein, shadowing, takeover.
Fails:   as what it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command("import")(import_)
    app.command()(shadow)
    app.command()(takeover)
    app.command()(rollback)


def import_(as_json: Json = False) -> int:
    """Show what cron has to do here: as root on this machine, otherwise for yourself.

    When each entry runs next, what cron does with it that you may not know, and what cronq would. Changes nothing.
    """
    from cronq import movein

    return movein.main(as_json)


def shadow(
    length: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="End so long after it began.")] = None,
    log: Annotated[str | None, typer.Option(metavar="FILE", help="Where cron's lines are; found by default.")] = None,
    journal: Annotated[bool, typer.Option("--journal", help="They are in the journal.")] = False,
    state: Annotated[
        str, typer.Option(metavar="FILE", help="What was seen, kept from one start to the next.")
    ] = "/var/lib/cronq/shadow.json",
    report: Annotated[bool, typer.Option("--report", help="Only show what was seen so far.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Forget what was seen before, and begin again.")] = False,
    as_json: Json = False,
) -> int:
    """Watch beside cron, as root, without running anything.

    Compares what cronq would have started with what cron says it started. Exits with 0 only if they agree.
    """
    from cronq import shadowing

    return shadowing.main(shadowing.Options(length, log, journal, state, report, anew, as_json))


def takeover(
    dry_run: DryRun = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Though cronq would not do all as cron does.")] = False,
) -> None:
    """Make cronq this machine's cron, as root.

    Stops and disables cron, and lets cronq run its tables, so that no minute is run twice or by nobody.
    """
    from cronq import takeover as taking

    taking.takeover(dry_run, anyway, _say)


def rollback(dry_run: DryRun = False) -> None:
    """Undo `cronq takeover`, as root.

    Cron runs its tables again, and cronq none of them.
    """
    from cronq import takeover as taking

    taking.rollback(dry_run, _say)


def _say(line: str) -> None:
    from cronq import show

    print(show.escape(line), flush=True)
