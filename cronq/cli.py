"""The command line: every command of cronq but the quick way to `submit` and `exec`, which this gives help to.

Does:    reads options, asks (client), looks (follow), prints (show). It decides nothing: who may do what is the
         dispatcher's to say.
Reads:   CRONQ_SPOOL, CRONQ_CONFIG; result directories.
Fails:   `cronq: sentence` on standard error and the error's exit code; usage 2; never a traceback for a user's mistake.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Annotated, Any

import typer

from cronq import (
    __version__,
    attend,
    cli_control,
    cli_cron,
    cli_jobs,
    cli_movein,
    cli_past,
    cli_watch,
    cli_why,
    client,
    follow,
    ids,
    producers,
    show,
    states,
    usage,
)
from cronq import job as jobs_file
from cronq import spool as spools
from cronq.errors import CronqError, NotEnded, NotPermitted, NotRunning, UsageError
from cronq.tail import Tail

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
CLICK_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # click is inside typer, or beside it: this is its UsageError


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - cronq … >&-
    try:
        code = typer.main.get_command(app).main(argv, prog_name="cronq", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CronqError as error:
        attend.say(error.sentence)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at the end does not fail again
        return attend.BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return attend.INTERRUPTED
    except OSError as error:
        attend.say(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 70
    except CLICK_USAGE_ERROR as error:
        return _usage(error)


def _usage(error: Any) -> int:
    message = error.format_message()
    if error.ctx is not None and (not message or message.startswith("Usage:")):  # no command at all: the help
        print(error.ctx.get_help(), file=sys.stderr)
        return 2
    where = error.ctx.command_path if error.ctx is not None else "cronq"
    attend.say(f"{message.strip().rstrip('.')} ({where} --help)")
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cronq {__version__}")
        raise typer.Exit


@app.callback()
def cronq(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The job queue and cron of one Linux server, made of files."""


Id = Annotated[str, typer.Argument(metavar="ID", help="An id, or its unambiguous tail.", autocompletion=ids.known)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")]


producers.add(app, "submit", "Queue a job of a named task.\n\nPrints its id.")
producers.add(
    app, "exec", "Queue a command.\n\nIt runs as yourself; a -- before it is never wrong. Prints the job's id."
)
producers.add(app, "map", "Queue a job per line of input, and wait.\n\nPrints what they print.")


@app.command("list")
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended or were refused, too.")] = False,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only the jobs of this user.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own jobs.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most that many.")] = None,
    as_json: Json = False,
) -> None:
    """Show what is in the queue.

    That is what waits or runs, and what is dead until you retry or remove it. Root and operators see everybody's jobs.
    """
    for name in state or ():
        if name not in states.STATES:
            raise UsageError(f"there is no state {name!r}; the states are {', '.join(states.STATES)}")
    request = {"do": "list", "states": list(states.STATES) if everything else state or None, "limit": limit}
    if mine or user is not None:
        request["user"] = os.getuid() if user is None else cli_past.uid_of(user)
    answer = client.ask(spools.find(), request)
    first = next(answer, None)
    jobs = answer if first is None or "id" not in first else itertools.chain([first], answer)
    if as_json:
        for job in jobs:
            show.one_object(job)
        return
    unread = show.table(jobs, users=first is not None and first.get("sees") == "all" and not mine)
    if unread:
        attend.say(f"of the last {unread} only their names were read; --limit N tells all of N, cronq show ID of one")


@app.command("show")
def show_job(job: Id, as_json: Json = False) -> None:
    """Show one job, all of it."""
    found, _ = ids.told(spools.find(), job, "show")
    show.one_object(found) if as_json else show.details(found)


@app.command()
def logs(
    job: Id,
    follow_it: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Its standard error instead.")] = False,
    raw: Raw = False,
) -> None:
    """Print what a job printed.

    Its standard output, of the latest attempt.
    """
    root = spools.find()
    job_id = ids.resolve(root, job)
    _must_be_readable(root, job_id)
    ids.must_be_known(root, job_id)
    name, writer = "stderr" if stderr else "stdout", show.Printable(1, raw)
    if follow_it:
        follow.stream(root, job_id, {name: writer.write}, earlier=False)
        return
    tail = Tail(root, job_id, name, earlier=False)
    for part in tail.read():
        writer.write(part)
    tail.close()


@app.command()
def wait(
    jobs: cli_jobs.Ids,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait no longer than this.")] = None,
    as_json: Json = False,
) -> int:
    """Wait until jobs have ended.

    Exits as the job did; of several, as the first one that failed.
    """
    root = spools.find()
    job_ids = ids.resolve_all(root, jobs)
    for job_id in job_ids:
        _must_be_readable(root, job_id)
        try:
            ids.must_be_known(root, job_id)
        except NotRunning as error:
            attend.say(error.sentence)
    bound = None if timeout is None else usage.fields({"timeout": timeout}, 0.0)["timeout"]
    codes: dict[str, int] = {}
    try:
        for job_id, found in follow.wait(root, job_ids, None if bound is None else jobs_file.seconds(bound)):
            codes[job_id] = follow.exit_code(found)
            if as_json:
                show.one_object({"id": job_id} | found)
            else:
                print(show.escape(attend.sentence(job_id, found)), flush=True)
    except NotEnded:
        left = [job_id for job_id in job_ids if job_id not in codes]
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise NotEnded(f"{left[0]}{more} not ended within {timeout}; the waiting is over, the job goes on") from None
    return next((codes[job_id] for job_id in job_ids if codes[job_id]), 0)


@app.command("result")
def show_result(
    job: Id,
    as_json: Json = False,
    value: Annotated[bool, typer.Option("--value", help="Only what the job itself said that it came to.")] = False,
    raw: Raw = False,
) -> int:
    """Print how a job has ended.

    With --value its own result, as it said it (docs/status.md); exits with 1 where it said none.
    """
    root = spools.find()
    job_id = ids.resolve(root, job)
    found = _asked(root, job_id) if ids.is_anothers(root, job_id) else follow.ended(root, job_id)
    if found is None:
        ids.must_be_known(root, job_id)
        raise NotEnded(f"{job_id} has not ended yet; wait for it with `cronq wait {job_id}`")
    if value:
        return _its_own(found, as_json, attend.writer(raw))
    found = {"id": job_id} | found
    show.one_object(found) if as_json else show.details(found)
    return 0


def _its_own(found: dict[str, Any], as_json: bool, write: attend.Write) -> int:
    """What a job said that it came to: text as it is, anything else as JSON."""
    if "result" not in found:
        return 1
    said = found["result"]
    if isinstance(said, str) and not as_json:
        write(1, said.encode("utf-8", "replace") + b"\n")
    else:
        write(1, show.json_line(said))
    return 0


def _asked(root: str, job_id: str) -> dict[str, Any] | None:
    """How another user's job has ended, which only the dispatcher can tell an operator. Raises `UnknownJob`."""
    (found,) = client.ask(root, {"do": "show", "id": job_id})
    return found if found.get("state") in states.TERMINAL else None


def _must_be_readable(root: str, job_id: str) -> None:
    """Refuse to wait for what this user could not see. Raises `NotPermitted`, `UnknownJob`."""
    if ids.is_anothers(root, job_id):
        list(client.ask(root, {"do": "show", "id": job_id}))
        raise NotPermitted(f"only its owner and root read what {job_id} prints; see `cronq show {job_id}`")


cli_jobs.add(app)
cli_past.add(app)
cli_watch.add(app)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def crontab(asked: typer.Context) -> int:
    """Install, list, edit or remove your crontab.

    As crontab(1) does: cronq crontab FILE, -l, -e, -r; -h shows all. --undo puts back what was there before.
    """
    from cronq import tabcommand

    return tabcommand.main(asked.args)


@app.command()
def dispatcher(
    spool: Annotated[str | None, typer.Option(metavar="DIR", help="The spool.")] = None,
    config: Annotated[str | None, typer.Option(metavar="DIR", help="The directory of cronq.toml.")] = None,
    no_inotify: Annotated[bool, typer.Option("--no-inotify", help="Look once a second instead.")] = False,
    system: Annotated[bool, typer.Option("--system", help="For all users; the default of root's.")] = False,
) -> None:
    """Run the dispatcher, in the foreground.

    As root for the system, otherwise for yourself.
    """
    root = os.path.abspath(spool) if spool else _spool_to_serve()
    settings = os.path.abspath(config) if config else spools.find_config(root)
    argv = [sys.executable, "-I", "-m", "cronq.launcher", "--spool", root, "--config", settings]
    everybody = system or root == spools.SYSTEM_SPOOL
    sys.stdout.flush()
    os.execv(sys.executable, argv + ["--no-inotify"] * no_inotify + ["--system"] * everybody)  # noqa: S606 - a small process, without typer


def _spool_to_serve() -> str:
    if os.environ.get("CRONQ_SPOOL"):
        return spools.find()
    return spools.SYSTEM_SPOOL if os.getuid() == 0 else spools.own()


@app.command()
def demo() -> int:
    """Show cronq at work, on a throw-away spool."""
    from cronq import demo as shown

    return shown.main()


@app.command()
def schema(name: Annotated[str, typer.Argument(metavar="job|task|config")]) -> None:
    """Print the JSON Schema of a file."""
    import json

    from cronq import intake

    if name not in intake.SCHEMAS:
        raise UsageError(f"there is no schema {name!r}; there are {', '.join(intake.SCHEMAS)}")
    print(json.dumps(intake.schema(name), indent=2, ensure_ascii=False))


cli_why.add(app)
cli_control.add(app)
cli_cron.add(app)


@app.command()
def doctor() -> int:
    """Check everything, and say how to mend it.

    Spool and modes, configuration, dispatcher, system. Exits with 1 if something is broken.
    """
    from cronq import doctor as checks

    root = _spool_to_serve() if os.getuid() == 0 else spools.find()
    return checks.main(root, spools.find_config(root))


@app.command()
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is wrong; no job is ever removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a finding.")] = False,
) -> int:
    """Check every file of the spool, and say what is wrong with it.

    Beside a running dispatcher too, but for --repair. Exits with 65 if there are faults (docs/fsck.md).
    """
    from cronq import fsck as checks

    return checks.main(_spool_to_serve() if os.getuid() == 0 else spools.find(), repair, as_json)


cli_movein.add(app)


Prefix = Annotated[str, typer.Option(metavar="DIR", help="Where units and the command go.")]
Destdir = Annotated[str, typer.Option(metavar="DIR", help="Make the tree below it, for a package.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def install(
    system: Annotated[bool, typer.Option("--system", help="As this machine's cron and job queue.")] = False,
    prefix: Prefix = "/usr/local",
    destdir: Destdir = "",
    crontab: Annotated[bool, typer.Option("--crontab", help="The command crontab, too.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Make this installation the system's, as root.

    Units, the user cronq, directories, the command: docs/install.md.
    """
    from cronq import install as installation

    if not system:
        raise UsageError("say cronq install --system; for yourself alone, `cronq dispatcher` needs no installing")
    installation.install(os.path.abspath(prefix), destdir and os.path.abspath(destdir), dry_run, print, crontab)


@app.command()
def uninstall(
    system: Annotated[bool, typer.Option("--system", help="The system's; there is no other.")] = False,  # noqa: ARG001
    prefix: Prefix = "/usr/local",
    destdir: Destdir = "",
    dry_run: DryRun = False,
) -> None:
    """Undo `cronq install --system`, as root.

    Jobs, results and the configuration stay.
    """
    from cronq import install as installation

    installation.uninstall(os.path.abspath(prefix), destdir and os.path.abspath(destdir), dry_run, print)
