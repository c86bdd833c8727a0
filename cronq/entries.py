"""What the dispatcher runs by the clock, from a person's side: which entry he means, to run it.

Does:    a text -> the one entry of the dispatcher's that it means; what the dispatcher says of it -> its schedule, its
         place, its pause. `run` asks for that, and says what came of it. To pause and resume: `halts`.
Reads:   the dispatcher's answers (`entryverbs`).
Trusts:  no text of them on a terminal.
Fails:   `UnknownJob` with the name that was probably meant, or with all that a text may mean; as `client` does.
"""

from __future__ import annotations

import os
from typing import Any

from cronq import attend, client, intake, rhythm, show
from cronq import job as jobs
from cronq.errors import UnknownJob
from cronq.schedule import every, parse
from cronq.upcoming import AnySchedule

MOST_NAMES = 1000  # that are compared with a misspelt one
MOST_MEANT = 5


def everything(root: str) -> list[dict[str, Any]]:
    """All entries of the caller's. Raises `CronqError`."""
    return list(client.ask(root, {"do": "entries"}))


def resolve(root: str, text: str) -> dict[str, Any]:
    """The entry that is meant by its name, identity, `table:line` or id. Raises `UnknownJob`, as `client.ask` does."""
    found = alike(root, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise ambiguous(text, [whose(each) for each in found])
    raise UnknownJob(f"unknown entry {jobs.show(text)}; {hint(root, text)}")


def alike(root: str, text: str) -> list[dict[str, Any]]:
    """The entries that a text may mean. Raises `CronqError`."""
    return list(client.ask(root, {"do": "entries", "like": text}))


def ambiguous(text: str, meant: list[str]) -> UnknownJob:
    """The sentence for a text that means several things."""
    more = f" and {len(meant) - MOST_MEANT} more" if len(meant) > MOST_MEANT else ""
    return UnknownJob(f"{jobs.show(text)} may mean {', '.join(meant[:MOST_MEANT])}{more}; say which")


def hint(root: str, text: str) -> str:
    """What to do about a text that means no entry."""
    known = [str(each["entry"]) for each in everything(root)]
    near = intake.suggestion(text, known[:MOST_NAMES])
    return f"did you mean {near!r}?" if near else "`cronq next` shows them"


def whose(each: dict[str, Any]) -> str:
    """Where an entry stands, and whose it is."""
    return f"{place(each)} ({show.user(each.get('uid'))})"


def place(each: dict[str, Any]) -> str:
    """Where an entry stands: `table:line`, or the schedule's table."""
    return f"{each['table']}:{each['line']}" if each["table"] else f"schedules.{each['entry']}"


def schedule(each: dict[str, Any]) -> tuple[AnySchedule, str]:
    """When an entry is due, and that in its own words."""
    if not each["table"]:
        period, cron = each["every"], each["cron"]
        return rhythm.schedule(each["entry"], period, cron), cron or f"every {period:g} s"
    text = str(each["when"])
    return (every(text.split()[1]) if text.startswith("@every ") else parse(text)), text


def until(each: dict[str, Any]) -> float:
    """Until when an entry is paused; 0 for one that is not."""
    paused = each["paused"]
    return float("inf") if paused is True else float(paused)


def run(root: str, text: str, *, wait: bool, as_json: bool, raw: bool) -> int:
    """Run an entry now; print the job's id, or wait for it and show its output. Raises `CronqError`."""
    found = resolve(root, text)
    (answer,) = client.ask(root, {"do": "run", **named(found)})
    job_id = str(answer["id"])
    if wait:
        return attend.job(root, job_id, 0.0, as_json=as_json, write=attend.writer(raw))
    show.one_object(answer) if as_json else os.write(1, f"{show.escape(job_id)}\n".encode())
    return 0


def named(found: dict[str, Any]) -> dict[str, Any]:
    """How an entry is named in a request."""
    return {"entry": found["id"], "table": found["table"]}
