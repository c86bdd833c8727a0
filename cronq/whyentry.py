"""`cronq why ENTRY`: whether a line of a crontab, or a schedule, was due at a time, what became of it then, and why.

Does:    puts together what its schedule says (`dueness`), what the history knows (`whyticks`) and how its jobs ended
         (`whys`); prints it.
Reads:   the dispatcher's answers, the machine's zone.
Trusts:  no text of the answers: it is escaped.
Fails:   as `entries.resolve` and `client.ask` do.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from typing import Any

from cronq import client, dueness, entries, explain, show, when, whyshow
from cronq.errors import UnknownJob
from cronq.upcoming import AnySchedule, Run

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):[0-5]\d")


def moment(text: str, now: float) -> int:
    """The time that is meant by `--at`; of a time of the day, the last one. Raises `UsageError`."""
    zone = when.zone(None)
    if not _TIME_OF_DAY.fullmatch(text):
        return when.moment(text, zone, "--at")
    today = datetime.datetime.fromtimestamp(now, zone).date()
    for day in (today, today - datetime.timedelta(days=1)):
        found = when.moment(f"{day.isoformat()}T{text:0>5}", zone, "--at")
        if found <= now:
            break
    return found


def main(root: str, text: str, at: str | None, as_json: bool) -> int:
    """Say why an entry ran, or did not, at a time; without one, when it was due last. Raises `CronqError`."""
    now = time.time()
    asked = None if at is None else moment(at, now)
    entry = entries.resolve(root, text)
    found = told(root, entry, asked, now)
    if as_json:
        show.one_object(found)
    else:
        for line in lines(found, now):
            print(show.escape(line))
    return 0


def told(root: str, entry: dict[str, Any], asked: int | None, now: float) -> dict[str, Any]:
    """All that is to be known. Raises `CronqError`."""
    schedule, words = entries.schedule(entry)
    zone = when.zone(entry["zone"] or None)
    last = None if dueness.is_silent(schedule) else dueness.last_before(schedule, zone, int(now) + 1)
    due = dueness.at(schedule, zone, asked if asked is not None else last.instant if last is not None else int(now))
    length = due.last - due.first  # in which a run has one name, or after a step back of the clock some near it
    starts = [due.first, *(run.instant // length * length for run in due.runs)]
    first, until = min(starts), max(starts) + length
    request = {"do": "ticks", **entries.named(entry), "from": first, "until": until}
    answers = list(client.ask(root, request))
    ticks = [_tick(root, each) for each in answers if "tick" in each]
    stood = [each["stood"] for each in answers if "stood" in each]
    since = next((each["since"] for each in answers if "since" in each), None)
    paused = entries.until(entry)
    known = {tick["instant"] // length for tick in ticks if not tick["instant"] % 1}  # else it was run by hand
    for run in due.runs:
        if run.instant // length not in known:
            why = _unmade(run, now, stood, since, paused)
            ticks.append({"tick": None, "instant": run.instant, "at": run.at, "made": False, "why": why})
    return {
        **{key: entry[key] for key in ("id", "entry", "table", "line", "paused")},
        "place": entries.place(entry),
        "schedule": words,
        "at": due.first if asked is not None or last is not None else None,
        "due": sorted(ticks, key=lambda each: float(each["instant"])),
        "why": "" if ticks else _not_due(schedule, asked),
        "nearest": [run.at for run in (due.before, due.after) if run is not None],
        "next": due.after.at if due.after is not None and asked is None else None,
        "mark": due.mark or None,
    }


def _tick(root: str, tick: dict[str, Any]) -> dict[str, Any]:
    """One that the history knows, with the job that was made of it, as far as that is still known."""
    if not tick["made"]:
        return {**tick, "why": f"no job was made of it: {tick.get('cause') or 'nobody knows why'}"}
    try:
        (job,) = client.ask(root, {"do": "why", "id": tick["tick"]})
    except UnknownJob:
        return {**tick, "job": None, "why": "a job was made of it, whose results have been removed since"}
    return {**tick, "job": job, "why": f"{job.get('state')}: {job.get('why')}"}


def _unmade(run: Run, now: float, stood: list[Any], since: str | None, paused: float) -> str:
    """Why there is nothing of a run in the history."""
    if run.at > now:
        return "it is to come" + ("; no job will be made of it, for the entry is paused" if run.at < paused else "")
    for begun, ended in stood:
        if begun < run.at <= ended:
            span = f"from {show.instant(begun)} until {show.instant(ended)}"
            return f"no dispatcher ran {span}, or the machine slept; that is made up for only by its catchup"
    if since is None or time.strftime("%Y-%m-%d", time.gmtime(run.at)) < since:
        return "nothing is known of that time: the history begins later"
    if now - run.at < 60:
        return "the dispatcher has not come to it yet"
    return (
        "no job was made of it: the entry was not there then, not due by what it said then, or nothing runs as its user"
    )


def _not_due(schedule: AnySchedule, asked: int | None) -> str:
    if dueness.is_silent(schedule):
        return f"the clock does not start it: {explain.sentence(schedule)}"
    return "it was not due then" if asked is not None else "it has not been due yet"


def lines(found: dict[str, Any], now: float) -> Iterator[str]:
    """What is printed."""
    zone, moments = when.zone(None), found["nearest"]
    seconds = any(each % 60 for each in [found["at"] or 0, *moments])

    def stamp(instant: float) -> str:
        return when.stamp(int(instant), zone, seconds=seconds)

    yield f"{found['entry']} ({found['place']}), due by {found['schedule']}"
    for tick in found["due"]:
        yield f"  {stamp(tick.get('at') or tick['instant'])}: {'' if tick.get('job') else tick['why']}".rstrip()
        if tick.get("job"):
            yield from (f"    {line}" for line in whyshow.plain(tick["job"]))
    if found["why"]:
        past = found["why"] if found["at"] is None or found["at"] <= now else "it is not due then"
        nearest = " and ".join(map(stamp, moments))
        yield f"  {past}" + (f"; the times nearest are {nearest}" if nearest and found["at"] is not None else "")
    if found["mark"]:
        yield f"    ^ {found['mark']}"
    if found["paused"]:
        until = "until it is resumed" if found["paused"] is True else f"until {stamp(found['paused'])}"
        yield f"  it is paused {until}"
    if found["next"]:
        yield f"  it is due next at {stamp(found['next'])}"
