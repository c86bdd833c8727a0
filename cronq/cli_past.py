"""The command line of what has been: `history` and `stats`. It only prints (see `cli`).

Does:    asks the dispatcher, whose the history is, and prints line by line as the answer comes: columns on a terminal,
         tabs in a pipe.
Fails:   as `cli` does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from cronq import client, show, usage
from cronq import job as jobs
from cronq import spool as spools
from cronq.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Task = Annotated[str | None, typer.Option(metavar="TASK", help="Only of this task, or of commands of this name.")]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Only the jobs of this user.")]
Mine = Annotated[bool, typer.Option("--mine", help="Only your own jobs.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only from then on: 2026-12-24, 18:00, or 2d for two days ago.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only up to then.")]

_WIDTHS = (19, 38, 9, 24, 3, 8, 8)
_HEADS = ("ENDED", "ID", "STATE", "JOB", "TRY", "WAIT", "RUN", "WHY")
_TASK_HEADS = (
    *("TASK", "QUEUE", "RUNS", "DONE", "FAILED", "RETRIED", "DEAD", "EXPIRED"),
    *("WAIT P50", "P95", "RUN P50", "P95", "SINCE"),
)


def add(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command()(history)
    app.command()(stats)


def history(
    task: Task = None,
    user: User = None,
    mine: Mine = False,
    state: Annotated[
        list[str] | None, typer.Option(help="Only jobs that ended so: done, dead, cancelled …; may be repeated.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="Only the last N.")] = None,
    per_task: Annotated[bool, typer.Option("--stats", help="What each task came to, instead of each job.")] = False,
    as_json: Json = False,
) -> None:
    """Show which jobs have ended, the last one last.

    As long as the history is kept ([retention] in docs/config.md), whether or not their results are still there. WAIT
    is how long a job was due before its last attempt started, RUN how long that ran. Root and operators see all users'.
    """
    if per_task:
        if state or limit:
            raise UsageError("--stats is of all states and jobs; leave out --state and -n")
        _per_task(_request("figures", task, user, mine, since, until), as_json)
        return
    request = _request("history", task, user, mine, since, until) | {"states": _ends(state), "last": limit}
    answer = client.ask(spools.find(), request)
    users = next(answer, {}).get("sees") == "all" and not mine
    if as_json:
        for found in answer:
            show.one_object(found)
        return
    heads, widths = (_HEADS, _WIDTHS) if not users else (_with(_HEADS, "USER"), _with(_WIDTHS, 8))
    _rows(heads, (_row(found, users) for found in answer), widths)


def stats(
    tasks: Annotated[bool, typer.Option("--tasks", help="What each task came to, as the history tells.")] = False,
    ages: Annotated[bool, typer.Option("--ages", help="For how long jobs have waited, as qshape(1) tells it.")] = False,
    by: Annotated[str | None, typer.Option(metavar="queue|task|user", help="With --ages: a row for each.")] = None,
    state: Annotated[str | None, typer.Option(help="With --ages: of jobs in this state; ready without.")] = None,
    task: Task = None,
    user: User = None,
    mine: Mine = False,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Count jobs, by state and queue; with --tasks by task, with --ages by how long they have waited.

    Your own; as root or an operator, everybody's. Of a task: how many attempts ran, and how the jobs ended; the median
    (P50) and the 95th percentile of how long they waited and ran, right to 3 %.
    """
    if tasks:
        _per_task(_request("figures", task, user, mine, since, until), as_json)
        return
    if task or since or until:
        raise UsageError("--task, --since and --until go with --tasks")
    if ages:
        from cronq import agetable

        agetable.main(_request("ages", None, user, mine, None, None), by or "queue", state or "ready", as_json)
        return
    if by or state:
        raise UsageError("--by and --state go with --ages")
    (found,) = client.ask(spools.find(), _request("stats", None, user, mine, None, None))
    if as_json:
        show.one_object(found)
        return
    queues = found.pop("queues", {})
    show.counts(found)
    for name, counts in sorted(queues.items()):
        oldest = counts.pop("oldest_ready", None)
        parts = [f"{state} {number}" for state, number in counts.items()]
        parts += [f"oldest ready {duration(oldest)}"] if oldest is not None else []
        print(show.escape(f"queue {name}"), show.escape(", ".join(parts)), sep="\t")


def _request(
    do: str, task: str | None, user: str | None, mine: bool, since: str | None, until: str | None
) -> dict[str, Any]:
    now = time.time()
    request: dict[str, Any] = {"do": do, "task": task}
    request |= {
        key: usage.past(f"--{key}", text, now) for key, text in (("since", since), ("until", until)) if text is not None
    }
    if mine or user is not None:
        request["user"] = os.getuid() if user is None else uid_of(user)
    return request


def _ends(names: list[str] | None) -> list[str] | None:
    from cronq import states

    for name in names or ():
        if name not in states.TERMINAL:
            raise UsageError(f"no job ends as {name!r}; they end as {', '.join(states.TERMINAL)}")
    return names or None


def uid_of(user: str) -> int:
    """The uid that `--user` means. Raises `UsageError`."""
    import pwd

    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"--user: there is no user {jobs.show(user)}") from None


def _with(columns: tuple[Any, ...], user: Any) -> tuple[Any, ...]:
    return (*columns[:2], user, *columns[2:])


def _row(found: dict[str, Any], users: bool) -> list[str]:
    cells = [
        show.instant(found.get("ended")),
        found.get("id"),
        found.get("state"),
        show.what(found),
        found.get("attempts"),
        duration(found.get("wait")),
        duration(found.get("run")),
        show.why(found),
    ]
    if users:
        cells.insert(2, show.user(found.get("uid")))
    return ["" if cell is None else str(cell) for cell in cells]


def _per_task(request: dict[str, Any], as_json: bool) -> None:
    answer = client.ask(spools.find(), request)
    if as_json:
        for found in answer:
            show.one_object(found)
        return
    counts = ("runs", "done", "failed", "retried", "dead", "expired")
    times = ("wait_p50", "wait_p95", "run_p50", "run_p95")
    rows = [
        [
            str(found.get("task") or found.get("command") or ""),
            str(found.get("queue") or ""),
            *(str(found.get(key, 0)) for key in counts),
            *(duration(found.get(key)) for key in times),
            show.instant(found.get("since")),
        ]
        for found in answer
    ]
    widths = [max(map(len, column)) for column in zip(_TASK_HEADS, *rows, strict=True)]
    _rows(_TASK_HEADS, rows, widths)


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> None:
    """Print rows as they come."""
    from cronq import when

    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(map(show.escape, row)))
        return
    print(*when.columns([heads], [*widths, 3][: len(heads)]))
    for row in rows:
        print(*when.columns([row], [*widths, 3][: len(heads)]))


def duration(seconds: Any) -> str:
    """`0.03s`, `12s`, `3m20s`, `2h05m`; empty for none."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e11:
        return ""
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 6000:
        return f"{whole // 60}m{whole % 60:02d}s"
    hours = whole // 3600
    return f"{hours}h{whole % 3600 // 60:02d}m" if hours < 100 else f"{hours // 24}d{hours % 24:02d}h"
