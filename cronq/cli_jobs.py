"""The command line of what is done to jobs: `cancel`, `retry`, `hold`, `release`, `rm`, `edit`, `start`.

Does:    reads options, asks the dispatcher about jobs that are named or chosen, prints what becomes of each. `CHOICE`
         is the one home of the options that choose jobs by what they are.
Fails:   as what it asks; returns the first refusal's exit code.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cronq import attend, cli_past, client, ids, show, states, usage
from cronq import spool as spools
from cronq.errors import UnknownJob, UsageError

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, or unambiguous tails.", autocompletion=ids.known)]
Chosen = Annotated[
    list[str] | None, typer.Argument(metavar="[ID…]", help="Ids, or unambiguous tails.", autocompletion=ids.known)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]
CHOICE: dict[str, Any] = {
    "state": Annotated[
        list[str] | None, typer.Option(help="All jobs in this state, instead of ids; may be repeated.")
    ],
    "task": Annotated[str | None, typer.Option(metavar="TASK", help="Of those, only jobs of this task.")],
    "user": Annotated[str | None, typer.Option(metavar="NAME", help="Of those, only this user's.")],
    "since": Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Of those, only what ended, or else was submitted, since then: 2026-12-24, 18:00, 1d."
        ),
    ],
    "limit": Annotated[int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="At most so many.")],
}


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    for command in (cancel, retry, hold, release):
        app.command()(command)
    app.command("rm")(remove)
    app.command()(edit)
    app.command()(start)


def of_many(*allowed: str) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., int]]:
    """A command on jobs that are named, or chosen by what they are, if they are in one of these states.

    What is decorated has options of its own, and returns what is asked of each job.
    """

    def made(asked: Callable[..., dict[str, Any]]) -> Callable[..., int]:
        @functools.wraps(asked)
        def command(jobs: list[str] | None = None, as_json: bool = False, **given: Any) -> int:
            chosen = choose(allowed, **{name: given.pop(name) for name in CHOICE})
            return each(asked(**given), jobs, as_json, chosen)

        own = inspect.signature(asked, eval_str=True).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        first = inspect.Parameter("jobs", kind, default=None, annotation=Chosen)
        choice = [inspect.Parameter(name, kind, default=None, annotation=each) for name, each in CHOICE.items()]
        last = inspect.Parameter("as_json", kind, default=False, annotation=Json)
        signature = inspect.Signature([first, *own, *choice, last])
        command.__signature__ = signature  # type: ignore[attr-defined]  # this is what typer reads
        command.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return command

    return made


def choose(
    allowed: tuple[str, ...],
    state: list[str] | None,
    task: str | None,
    user: str | None,
    since: str | None,
    limit: int | None,
) -> dict[str, Any]:
    """What a request says of jobs that are chosen, not named; nothing where none are. Raises `UsageError`."""
    if not state:
        if task or user or since or limit:
            raise UsageError(f"--task, --user, --since and -n need --state beside them, like --state {allowed[0]}")
        return {}
    for name in state:
        if name not in allowed:
            raise UsageError(f"--state: only {', '.join(allowed)} goes here, not {name!r}")
    found: dict[str, Any] = {"states": state, "task": task, "limit": limit}
    found |= {} if user is None else {"user": cli_past.uid_of(user)}
    return found | ({} if since is None else {"since": usage.past("--since", since, time.time())})


def each(
    request: dict[str, Any], jobs: list[str] | None, as_json: bool, chosen: dict[str, Any] | None = None
) -> int:
    """Ask something of each of these jobs, or of those that are chosen; returns the first refusal's exit code."""
    root = spools.find()
    code = 0
    if chosen and jobs:
        raise UsageError("write ids, or choose jobs by --state, --task, --since: not both")
    if not chosen and not jobs:
        raise UsageError("no job is meant: write ids, or choose jobs by --state")
    named = ids.resolve_all(root, jobs or [])
    for answer in client.ask(root, request | chosen) if chosen else client.of_ids(root, request, named):
        if as_json:
            show.one_object(answer)
        elif "error" in answer:
            attend.say(show.escape(answer["error"]))
        else:
            print("\t".join(map(show.escape, (answer.get("id"), answer.get("state"), *_more(answer)))))
        if "error" in answer:
            code = code or int(answer.get("code") or UnknownJob.exit_code)
    return code


def _more(answer: dict[str, Any]) -> list[str]:
    """What is said beside the state: which gates a job passes, and what it waits for all the same."""
    if "bypassed" not in answer:
        return []
    passed = "; ".join(answer["bypassed"]) or "no gate was closed"
    waits = [f"waits: {each}" for each in answer.get("waits", ())]
    return [f"bypassed: {passed}" if answer["bypassed"] else passed, *waits]


@of_many(*states.MOVES["cancel"][0], states.RUNNING)
def cancel(
    now: Annotated[bool, typer.Option("--now", help="Kill it at once, without the time to end tidily.")] = False,
) -> dict[str, Any]:
    """Cancel jobs, or whole batches.

    Those that wait never run, those that run are ended.
    """
    return {"do": "cancel", "now": now}


@of_many(states.DEAD)
def retry() -> dict[str, Any]:
    """Run dead jobs again, with all their attempts.

    Those that are named, or by --state dead all, of a task, since a time, the first N.
    """
    return {"do": "retry"}


@of_many(*states.MOVES["hold"][0])
def hold() -> dict[str, Any]:
    """Keep jobs that have not started from starting.

    Until they are released.
    """
    return {"do": "hold"}


@of_many(*states.MOVES["release"][0])
def release(
    anew: Annotated[
        bool, typer.Option("-r", "--requeue", help="To the end of the row, as if submitted now; else to its place.")
    ] = False,
) -> dict[str, Any]:
    """Let held jobs go on.

    Each in the place that it had. A job that cronq itself held (its user has no account any more, is locked) is held
    again if that is still so.
    """
    return {"do": "release", "anew": anew}


@of_many(*(each for each in states.TERMINAL if each != states.REJECTED))
def remove() -> dict[str, Any]:
    """Remove jobs that have ended.

    With their results and output.
    """
    return {"do": "rm"}


def edit(
    jobs: Ids,
    priority: Annotated[str | None, typer.Option(metavar="low|normal|high|N", help="Its priority.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it may run.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="How long from now it may run.")] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="The queue to stand in.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME|DURATION", help="Not started by then: never.")] = None,
    as_json: Json = False,
) -> int:
    """Change jobs that have not started.

    Only what submit could have said, and only what the task lets its submitter say.
    """
    asked = {"priority": priority, "at": at, "delay": delay, "queue": queue, "expires": expires}
    fields = usage.fields({key: value for key, value in asked.items() if value is not None}, time.time())
    if not fields:
        raise UsageError("say what to change: --priority, --at, --delay, --queue or --expires")
    return each({"do": "edit", **fields}, jobs, as_json)


def start(
    jobs: Ids,
    now: Annotated[bool, typer.Option("--now", help="Past all gates; without it there is nothing to say.")] = False,
    ignore_after: Annotated[bool, typer.Option("--ignore-after", help="Also what waits for other jobs.")] = False,
    as_json: Json = False,
) -> int:
    """Start jobs now, whatever the gates say: limits, rates, pauses, drain.

    Says which ones were closed. Also what is not due, or held. A mutex holds all the same. For root and operators, on
    a spool of your own for you.
    """
    if not now:
        raise UsageError("jobs start by themselves; cronq start --now ID starts one past all gates")
    return each({"do": "start", "ignore_after": ignore_after}, jobs, as_json)
