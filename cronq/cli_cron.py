"""The command line of what is about crontabs: `next`, `simulate`, `check`, `explain`, `try`, `run`.

Does:    reads options; what they come to is in forecast, simulate, check, explained, tryout, entries.
Fails:   as what it runs.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cronq import spool as spools

Json = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]
Zone = Annotated[str | None, typer.Option("--tz", metavar="ZONE", help="The machine's time zone; its own by default.")]
System = Annotated[
    bool, typer.Option("--system", help="It has a user column; /etc/crontab and files in a cron.d have it anyway.")
]
Start = Annotated[str | None, typer.Option("--from", metavar="TIME", help="From then on; from now by default.")]


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command("next")(next_runs)
    app.command()(simulate)
    app.command()(check)
    app.command()(explain)
    app.command("try")(try_line)
    app.command()(run)


def next_runs(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPR|FILE|ENTRY",
            help="An expression in quotes, a crontab, -, or what the dispatcher runs under this name.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=100_000, metavar="N", help="How many runs.")] = 5,
    start: Start = None,
    tz: Zone = None,
    system: System = False,
    as_json: Json = False,
) -> int:
    """Show when a schedule or a crontab runs next.

    Without any, all that the dispatcher runs for you. Below that, on which nights of the coming year a change of the
    clocks shifts, merges, repeats or leaves out a run.
    """
    from cronq import forecast

    return forecast.main(what or [], forecast.Options(count, start, tz, system, as_json))


def simulate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A crontab, or - for standard input.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="What the clock reads in the beginning.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to this, without it.")],
    tz: Zone = None,
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="TIME=±MIN", help="The clock is put forward or back when it would read TIME."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TIME=MIN", help="The dispatcher does not run for so long.")
    ] = None,
    suspend: Annotated[
        list[str] | None, typer.Option(metavar="TIME=MIN", help="The machine sleeps for so long.")
    ] = None,
    system: System = False,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose crontab it is; its owner's by default.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what a crontab would start, minute by minute.

    Under a clock of your making, by the very code that the dispatcher runs. Nothing is started. Not simulated are
    overlap, mutex and jitter.
    """
    from cronq import simulate as simulation

    options = simulation.Options(start, end, tz, step or [], stop or [], suspend or [], system, user, as_json)
    return simulation.main(file, options)


def check(
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", show_default=False)] = None,
    system: Annotated[
        bool, typer.Option("--system", help="As the system's dispatcher would take it: crontabs have a user column.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check crontabs, or the configuration.

    Everything that is wrong with these files and directories, or with the whole configuration; what will be when a job
    runs; what Debian's cron would do with a crontab. Nothing is started. Exits with 65 or 78 if there is an error.
    """
    from cronq import check as checks

    root = spools.SYSTEM_SPOOL if system or (os.getuid() == 0 and not os.environ.get("CRONQ_SPOOL")) else spools.find()
    everybody = system or root == spools.SYSTEM_SPOOL or spools.is_system(root)
    return checks.main(files or [], spools.find_config(root), everybody, columns=system, as_json=as_json, spool=root)


def explain(
    text: Annotated[
        list[str], typer.Argument(metavar="EXPR|LINE", help="An expression or a line of a crontab, in quotes.")
    ],
    tz: Zone = None,
    start: Start = None,
    system: System = False,
    as_json: Json = False,
) -> int:
    """Say in plain English what a schedule means.

    Of an expression or a line of a crontab; with its next three runs, and what is doubtful about it.
    """
    from cronq import explained

    return explained.main(" ".join(text), explained.Options(tz, start, system, as_json))


Entry = Annotated[str, typer.Argument(metavar="ENTRY", help="A name, or TABLE:LINE, as cronq next shows it.")]


def try_line(
    line: Annotated[str, typer.Argument(metavar="LINE|ENTRY", help="A line of a crontab in quotes, or a name.")],
) -> int:
    """Run a line of a crontab now, in the foreground, as yourself.

    Exactly as the dispatcher would; shows the environment, what it prints, how it ends, and what would be mailed.
    """
    from cronq import tryout

    root = spools.find()
    return tryout.main(line, root, spools.find_config(root))


def run(
    entry: Entry,
    wait: Annotated[bool, typer.Option("--wait", help="Wait, show what it prints, and exit as it does.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")] = False,
    as_json: Json = False,
) -> int:
    """Run a line of a crontab, or a schedule, now.

    Paused or not. Prints the job's id.
    """
    from cronq import entries

    return entries.run(spools.find(), entry, wait=wait, as_json=as_json, raw=raw)
