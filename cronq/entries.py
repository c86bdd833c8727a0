"""What the dispatcher runs by the clock, from a person's side: which entry he means, to pause, resume or run it.

Does:    a text -> the one entry of the dispatcher's that it means; what the dispatcher says of it -> its schedule, its
         place, its pause. `pause`, `resume` and `run` ask for that, and say what came of it.
Reads:   the dispatcher's answers (`entryverbs`).
Trusts:  no text of them on a terminal.
Fails:   `UnknownJob` with the name that was probably meant, or with all that a text may mean; as `client` does.
"""

from __future__ import annotations

import os
import time
from typing import Any

from cronq import attend, client, intake, rhythm, show, when
from cronq import job as jobs
from cronq.errors import UnknownJob, UsageError
from cronq.schedule import every, parse
from cronq.upcoming import AnySchedule

MOST_NAMES = 1000  # that are compared with a misspelt one
MOST_MEANT = 5


def everything(root: str) -> list[dict[str, Any]]:
    """All entries of the caller's. Raises `CronqError`."""
    return list(client.ask(root, {"do": "entries"}))


def resolve(root: str, text: str) -> dict[str, Any]:
    """The entry that is meant by its name, identity, `table:line` or id. Raises `UnknownJob`, as `client.ask` does."""
    found = list(client.ask(root, {"do": "entries", "like": text}))
    if len(found) == 1:
        return found[0]
    if found:
        meant = [f"{place(each)} ({show.user(each.get('uid'))})" for each in found[:MOST_MEANT]]
        more = f" and {len(found) - MOST_MEANT} more" if len(found) > MOST_MEANT else ""
        raise UnknownJob(f"{jobs.show(text)} may mean {', '.join(meant)}{more}; say which")
    known = [str(each["entry"]) for each in everything(root)]
    near = intake.suggestion(text, known[:MOST_NAMES])
    hint = f"did you mean {near!r}?" if near else "`cronq next` shows them"
    raise UnknownJob(f"unknown entry {jobs.show(text)}; {hint}")


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


def pause(root: str, text: str, end: str | None, as_json: bool) -> int:
    """Pause an entry. Raises `CronqError`."""
    request: dict[str, Any] = {"do": "pause"}
    if end is not None:
        request["until"] = when.moment(end, when.zone(None), "--until")
        if request["until"] <= time.time():
            raise UsageError(f"--until: {jobs.show(end)} is over already")
    found, answer = _act(root, request, text)
    word = "paused" if end is None else f"paused until {when.stamp(request['until'], when.zone(None), seconds=False)}"
    show.one_object(answer) if as_json else _say(found, word)
    return 0


def resume(root: str, text: str, as_json: bool) -> int:
    """Let an entry run again. Raises `CronqError`."""
    found, answer = _act(root, {"do": "resume"}, text)
    show.one_object(answer) if as_json else _say(found, "resumed" if answer.get("was") else "was not paused")
    return 0


def run(root: str, text: str, *, wait: bool, as_json: bool, raw: bool) -> int:
    """Run an entry now; print the job's id, or wait for it and show its output. Raises `CronqError`."""
    _, answer = _act(root, {"do": "run"}, text)
    job_id = str(answer["id"])
    if wait:
        return attend.job(root, job_id, 0.0, as_json=as_json, write=attend.writer(raw))
    show.one_object(answer) if as_json else os.write(1, f"{show.escape(job_id)}\n".encode())
    return 0


def _act(root: str, request: dict[str, Any], text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = resolve(root, text)
    (answer,) = client.ask(root, {**request, "entry": found["id"], "table": found["table"]})
    return found, answer


def _say(found: dict[str, Any], word: str) -> None:
    print(f"{show.escape(found['entry'])}\t{show.escape(place(found))}\t{word}")
