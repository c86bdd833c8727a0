"""The command line of what stops and goes on: `pause`, `resume`, `drain`; `release`, `edit`, `start` of jobs.

Does:    reads options; what they come to is in `halts`, or the dispatcher's to say. `each` asks it about several jobs.
Fails:   as what it runs.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cronq import attend, cli_past, client, ids, show, usage
from cronq import spool as spools
from cronq.errors import UnknownJob, UsageError

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, or unambiguous tails.", autocompletion=ids.known)]
Chosen = Annotated[
    list[str] | None, typer.Argument(metavar="[ID…]", help="Ids, or unambiguous tails.", autocompletion=ids.known)
]
State = Annotated[list[str] | None, typer.Option(help="All jobs in this state, instead of ids; may be repeated.")]
Task = Annotated[str | None, typer.Option(metavar="TASK", help="Of those, only jobs of this task.")]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Of those, only this user's.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Of those, only what ended since then: 2026-12-24, 18:00, 1d.")
]
Limit = Annotated[int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="At most so many.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command()(pause)
    app.command()(resume)
    app.command()(drain)
    app.command()(release)
    app.command()(edit)
    app.command()(start)


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


def _more(answer: dict[str, Any]) -> list[str]:
    """What is said beside the state: which gates a job passes, and what it waits for all the same."""
    if "bypassed" not in answer:
        return []
    passed = "; ".join(answer["bypassed"]) or "no gate was closed"
    waits = [f"waits: {each}" for each in answer.get("waits", ())]
    return [f"bypassed: {passed}" if answer["bypassed"] else passed, *waits]


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


def release(
    jobs: Ids,
    anew: Annotated[
        bool, typer.Option("-r", "--requeue", help="To the end of the row, as if submitted now; else to its place.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Let held jobs go on.

    Each in the place that it had. A job that cronq itself held (its user has no account any more, is locked) is held
    again if that is still so.
    """
    return each({"do": "release", "anew": anew}, jobs, as_json)


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
