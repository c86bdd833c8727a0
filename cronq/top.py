"""`cronq top`: what is in the queues and what runs, anew every few seconds, until it is ended.

Does:    asks the dispatcher for its overview and for what runs, and shows both: on a terminal in place, by rich, else
         once; how many start, are done and fail in a second is worked out between two looks.
Trusts:  no text of the answers: it is escaped.
Fails:   as `client.ask` does; where the dispatcher goes away, so does this.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from cronq import client, show
from cronq.cli_past import duration

RATES = ("started", "done", "failed")
_QUEUE_HEADS = ("QUEUE", "READY", "OLDEST", "RUN", "DELAY", "WAIT", "HELD", "DEAD", "START/S", "DONE/S", "FAIL/S")
_JOB_HEADS = ("ID", "USER", "JOB", "QUEUE", "FOR", "SAYS")
Found = dict[str, Any]


def main(root: str, whose: Found, every: float, once: bool, as_json: bool) -> None:
    """Show it. Raises `CronqError`."""
    if as_json:
        for found in _looks(root, whose, every, once):
            show.one_object(found)
            sys.stdout.flush()
    elif once or not sys.stdout.isatty():
        for found in _looks(root, whose, every, once=True):
            print("\n".join(lines(found, None)))
    else:
        _live(root, whose, every)


def _live(root: str, whose: Found, every: float) -> None:
    from rich.live import Live
    from rich.text import Text

    before: Found | None = None
    with Live(auto_refresh=False, screen=True) as screen:
        for found in _looks(root, whose, every, once=False):
            screen.update(Text("\n".join(lines(found, before)), no_wrap=True, overflow="ellipsis"), refresh=True)
            before = found


def _looks(root: str, whose: Found, every: float, once: bool) -> Iterator[Found]:
    while True:
        began = time.monotonic()
        (found,) = client.ask(root, {"do": "overview", **whose})
        yield found
        if once:
            return
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def lines(found: Found, before: Found | None) -> Iterator[str]:
    """What is shown, by two looks or one; a second one of another dispatcher tells no rates."""
    if before is not None and before["since"] != found["since"]:
        before = None
    others = [state for state in ("delayed", "waiting", "held", "dead") if found[state]]
    counted = "  ".join(f"{state} {found[state]}" for state in ("ready", *others))
    unmade = f" (and {found['unmade']} of batches)" if found["unmade"] else ""
    up = duration(found["at"] - found["since"])
    yield f"{show.instant(found['at'])}  up {up}  running {found['running']}/{found['max_jobs']}  {counted}{unmade}"
    yield f"inbox {found['inbox']}  {_rates(found, before)}"
    if found["broken"]:
        yield show.escape(f"broken: {found['broken']}")
    yield ""
    rows = [_queue(name, each, _of(before, name), _span(found, before)) for name, each in found["queues"].items()]
    yield from _columns(_QUEUE_HEADS, rows)
    gates = [_gates(name, each["gates"]) for name, each in found["queues"].items() if each["gates"]]
    if gates:
        yield ""
        yield from gates
    if found["jobs"]:
        yield ""
        yield from _columns(_JOB_HEADS, [_job(job, found["at"]) for job in found["jobs"]])
        if found["running"] > len(found["jobs"]):
            yield f"and {found['running'] - len(found['jobs'])} more"


def _of(before: Found | None, queue: str) -> Found | None:
    return None if before is None else before["queues"].get(queue, dict.fromkeys(RATES, 0))


def _span(found: Found, before: Found | None) -> float:
    return float(found["at"] - (found["since"] if before is None else before["at"]))


def _rates(found: Found, before: Found | None) -> str:
    span = _span(found, before)
    sums = dict.fromkeys(RATES, 0)
    for name, each in found["queues"].items():
        earlier = _of(before, name) or {}
        sums = {key: number + each[key] - earlier.get(key, 0) for key, number in sums.items()}
    said = "  ".join(f"{key} {_rate(number, span)}/s" for key, number in sums.items())
    return f"{said}  (since {'it started' if before is None else 'the last look'})"


def _rate(number: float, span: float) -> str:
    return f"{number / span:.1f}" if span > 0 else ""


def _queue(name: str, queue: Found, before: Found | None, span: float) -> list[str]:
    counts = [queue[state] for state in ("running", "delayed", "waiting", "held", "dead")]
    rates = [_rate(queue[key] - (before or {}).get(key, 0), span) for key in RATES]
    cells = [name or "(refused)", queue["ready"], duration(queue["oldest"]), *counts, *rates]
    return [show.escape(cell) for cell in cells]


def _gates(name: str, gates: dict[str, int]) -> str:
    return show.escape(f"{name} waits: " + ", ".join(f"{jobs} by {gate}" for gate, jobs in sorted(gates.items())))


def _job(job: Found, now: float) -> list[str]:
    started = job.get("started")
    ran = duration(now - started) if isinstance(started, int | float) else ""
    cells = (job.get("id"), show.user(job.get("uid")), show.what(job), job.get("queue"), ran, show.why(job))
    return [show.escape("" if cell is None else cell) for cell in cells]


def _columns(heads: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
