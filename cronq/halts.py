"""Pausing, resuming and draining from a person's side: which queue, task or entry he means, and what came of it.

Does:    a text -> the one thing that it means: `queue:NAME`, `task:NAME`, `entry:NAME`, or a name that only one of them
         has. `pause`, `resume` and `drain` ask for that, and say what came of it.
Reads:   the dispatcher's answers (`gateverbs`, `entryverbs`).
Trusts:  no text of them on a terminal.
Fails:   `UnknownJob` with the name that was probably meant, or with all that a text may mean; `NotEnded` where a drain
         takes too long; as `client` does.
"""

from __future__ import annotations

import time
from typing import Any

from cronq import client, entries, show, usage, when
from cronq import job as jobs
from cronq.errors import BadJob, NotEnded, UnknownJob, UsageError

ENTRY = "entry:"
SOONEST, LATEST = 0.05, 1.0  # seconds between two looks at what still runs


def pause(root: str, text: str, end: str | None, freeze: bool, as_json: bool) -> int:
    """Pause what is meant. Raises `CronqError`."""
    request: dict[str, Any] = {"do": "pause"}
    word = "paused"
    if end is not None:
        request["until"] = usage.to_come("--until", end, time.time())
        if request["until"] <= time.time():
            raise UsageError(f"--until: {jobs.show(end)} is over already")
        word = f"paused until {when.stamp(int(request['until']), when.zone(None), seconds=False)}"
    named, shown = _meant(root, text, resumes=False)
    if freeze and "gate" not in named:
        raise UsageError("--freeze is for queues and tasks; an entry's jobs are in the queue cron, or in their task's")
    request |= {"freeze": True} if freeze else {}
    (answer,) = client.ask(root, request | named)
    _say(answer, shown, word, as_json)
    return 0


def resume(root: str, text: str | None, as_json: bool) -> int:
    """Let what is meant go on; without a text, what a drain stopped. Raises `CronqError`."""
    if text is None:
        return end_drain(root, as_json)
    named, shown = _meant(root, text, resumes=True)
    (answer,) = client.ask(root, {"do": "resume", **named})
    _say(answer, shown, "resumed" if answer.get("was") else "was not paused", as_json)
    return 0


def end_drain(root: str, as_json: bool) -> int:
    """Start again, and accept again. Raises `CronqError`."""
    answers = list(client.ask(root, {"do": "drain", "end": True}))
    ended = [each for each in answers if each.get("was")] or answers[:1]
    for answer in ended:
        _say(answer, [str(answer["gate"])], "ended" if answer.get("was") else "there was none", as_json)
    return 0


def drain(root: str, refuse: bool, timeout: str | None, as_json: bool) -> int:
    """Start nothing more (or accept nothing more), and wait until nothing runs. Raises `CronqError`."""
    try:
        bound = float("inf") if timeout is None else jobs.seconds(timeout, "--timeout")
    except BadJob as error:
        raise UsageError(error.sentence) from None
    (begun,) = client.ask(root, {"do": "drain", "refuse": refuse})
    deadline, pace = time.monotonic() + bound, SOONEST
    while True:
        (about,) = client.ask(root, {"do": "about"})
        gates = {each["gate"] for each in about["paused"]}
        if begun["gate"] not in gates:
            raise NotEnded("somebody ended the drain meanwhile (cronq resume)")
        left = int(about["running"]) + (int(about["due"]) if refuse and "drain" not in gates else 0)
        if not left:
            break
        patience = deadline - time.monotonic()
        if patience <= 0:
            until = f"nothing more is {'accepted' if refuse else 'started'} until `cronq resume`"
            raise NotEnded(f"not idle within {timeout}: {about['running']} jobs run still; {until}")
        time.sleep(min(pace, patience))
        pace = min(LATEST, 1.5 * pace)
    _say(begun | {"running": 0, "due": about["due"]}, [begun["gate"]], f"nothing runs, {about['due']} wait", as_json)
    return 0


def _meant(root: str, text: str, *, resumes: bool) -> tuple[dict[str, Any], list[str]]:
    """What a text means: as a request names it, and as it is shown. Raises `UnknownJob`."""
    if text.startswith(("queue:", "task:")):
        return {"gate": text}, [text]
    if text.startswith(ENTRY):
        return _entry(entries.resolve(root, text.removeprefix(ENTRY)))
    lines = entries.alike(root, text)
    gates = list(client.ask(root, {"do": "gates", "like": text})) if jobs.is_name(text, 48) else []
    if lines and not all(each["may"] for each in gates):
        gates = []  # these are not his to pause, so he means his own
    if resumes and any(each["paused"] for each in gates + lines):
        gates, lines = ([each for each in known if each["paused"]] for known in (gates, lines))
    meant = [str(each["gate"]) for each in gates] + [entries.whose(each) for each in lines]
    if len(meant) > 1:
        raise entries.ambiguous(text, meant)
    if not meant:
        hint = entries.hint(root, text)
        raise UnknownJob(f"no queue, task or entry is called {jobs.show(text)}; {hint}")
    return ({"gate": meant[0]}, meant) if gates else _entry(lines[0])


def _entry(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    return entries.named(found), [str(found["entry"]), entries.place(found)]


def _say(answer: dict[str, Any], shown: list[str], word: str, as_json: bool) -> None:
    show.one_object(answer) if as_json else print("\t".join(map(show.escape, (*shown, word))))
