"""In the foreground: `submit --wait`, `exec --wait` and `map` show what their jobs print, and exit as they did.

Does:    copies a job's output to this command's own, live; a batch's, job by job, as they end or in their order.
Reads:   result directories, through `follow`.
Trusts:  no output: onto a terminal it goes as `show` lets it.
Fails:   never on account of a job. An interrupt leaves the jobs running and says their id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cronq import client, follow, live, safeopen, show
from cronq import spool as spools
from cronq.errors import CronqError, NotRunning

INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13
_SAID = 20  # that many failures are named
Write = Callable[[int, bytes], object]


def writer(raw: bool) -> Write:
    """What writes to this command's output (1) and errors (2), and lets a terminal obey nothing unless `raw`."""
    writers = {descriptor: show.Printable(descriptor, raw) for descriptor in (1, 2)}
    return lambda descriptor, part: writers[descriptor].write(part)


def job(root: str, job_id: str, since: float, *, as_json: bool, write: Write, attached: bool = False) -> int:
    """Wait for one job and show its output (with --json its result); returns what to exit with."""
    _warn_if_nobody_runs_it(root, job_id)
    try:
        if as_json:
            ((_, found),) = follow.wait(root, [job_id], since=since)
            spools.write_all(1, show.json_line({"id": job_id} | found))
        else:
            found = _watch(root, job_id, since, write)
    except KeyboardInterrupt:
        say(_left("job", job_id, attached))
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    if found.get("exit_code") != follow.exit_code(found):  # else its own output and code say it
        say(sentence(job_id, found))
    return follow.exit_code(found)


def _watch(root: str, job_id: str, since: float, write: Write) -> dict[str, Any]:
    """Show what it prints, and on a terminal below that what it says of itself; its result."""
    line = live.Line() if os.isatty(2) else None
    if line is None:
        return follow.stream(root, job_id, {"stdout": partial(write, 1), "stderr": partial(write, 2)}, since=since)
    write = line.below(write)
    try:
        return follow.stream(
            root,
            job_id,
            {"stdout": partial(write, 1), "stderr": partial(write, 2)},
            since=since,
            look=lambda known: line.show(live.said(root, known)),
        )
    finally:
        line.erase()


def _warn_if_nobody_runs_it(root: str, job_id: str) -> None:
    try:
        client.connect(root, 1.0).close()
    except NotRunning as error:
        say(f"{job_id} is queued and waits: {error.sentence}")


def _left(what: str, job_id: str, attached: bool) -> str:
    if attached:
        return f"interrupted; {job_id} is cancelled"
    return f"interrupted; the {what} goes on: cronq wait {job_id}, cronq cancel {job_id}"


def say(text: str) -> None:
    """One sentence on standard error."""
    os.write(2, f"cronq: {show.printable(text.encode('utf-8', 'backslashreplace'))}\n".encode())


def sentence(job_id: str, found: dict[str, Any]) -> str:
    """What became of a job, in words."""
    reason = found.get("reason")
    if reason is None and found.get("exit_code") is not None:
        reason = f"exit code {found['exit_code']}"
    if reason is None and found.get("signal") is not None:
        reason = f"killed by signal {found['signal']}"
    state = str(found.get("state"))
    return f"{job_id}: {state}" if reason in (None, state) else f"{job_id}: {state}: {reason}"


def batch(
    root: str,
    batch_id: str,
    tally: Tally,
    *,
    in_order: bool = False,
    as_json: bool = False,
    fail_fast: bool = False,
    write: Write,
    attached: bool = False,
) -> int:
    """Wait for a batch and show the output of each job when it has ended, or each in its turn (with JSON: its result).

    Returns 0 if all of them are done, else 1, or the refusal's code; with `fail_fast`, what waiting for the first one
    that failed exits with, and then the others are cancelled.
    """
    if fail_fast:
        tally.failed = lambda: _cancel(root, batch_id)
    _warn_if_nobody_runs_it(root, batch_id)
    try:
        code = _gather(root, batch_id, tally, in_order=in_order, as_json=as_json, write=write)
        return tally.code if fail_fast and tally.code else code
    except KeyboardInterrupt:
        say(_left("batch", batch_id, attached))
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE


def _cancel(root: str, batch_id: str) -> None:
    """Have no more of a batch run."""
    try:
        list(client.ask(root, {"do": "cancel", "ids": [batch_id]}))
    except CronqError as error:
        say(f"its other jobs go on: {error.sentence}")


class Tally:
    """How many jobs of a batch are over, and which of them failed."""

    def __init__(self, count: int, changed: Callable[[], object] = lambda: None) -> None:
        self.count = count
        self.done = 0
        self.cancelled = 0
        self.failures = 0
        self.code = 0  # what waiting for the first one that failed exits with
        self._said: list[str] = []
        self.failed: Callable[[], object] = lambda: None  # the first one did
        self.changed = changed
        self.look: Callable[[list[str]], object] = lambda _job_ids: None  # at those that may run now
        self.over: Callable[[], object] = lambda: None  # before the report

    def take(self, job_id: str, found: dict[str, Any] | None) -> None:
        """Count one job."""
        found = found or {"state": "never ran"}
        if found.get("state") == "done":
            self.done += 1
        elif found.get("state") == "cancelled":
            self.cancelled += 1
        else:
            self.failures += 1
            if len(self._said) < _SAID:
                self._said.append(sentence(job_id, found))
            if self.failures == 1:
                self.code = follow.exit_code(found)
                self.failed()
        self.changed()

    @property
    def over_now(self) -> int:
        """How many are over."""
        return self.done + self.failures + self.cancelled

    def report(self) -> None:
        """The failures and the sums, on standard error."""
        self.over()
        for failure in self._said:
            say(failure)
        if self.failures > len(self._said):
            say(f"… and {self.failures - len(self._said)} more: cronq list --state dead")
        cancelled = f", {self.cancelled} cancelled" if self.cancelled else ""
        os.write(2, f"{self.done} done, {self.failures} failed{cancelled}\n".encode())


def _gather(root: str, batch_id: str, tally: Tally, *, in_order: bool, as_json: bool, write: Write) -> int:
    """Outputs stay in their files until they are shown, so that any number of jobs takes little memory."""
    found = _as_they_end(root, batch_id, tally)
    if in_order:
        found = _in_order(found, follow.member_ids(batch_id, tally.count))
    for job_id, of_it in found:
        if job_id == batch_id:
            say(sentence(job_id, of_it or {}))
            return follow.exit_code(of_it or {})
        if as_json:
            write(1, show.json_line({"id": job_id} | (of_it or {"state": "never ran"})))
        else:
            _show(root, job_id, write)
    tally.report()
    return 1 if tally.failures or tally.cancelled else 0


def _as_they_end(root: str, batch_id: str, tally: Tally) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The jobs of the batch; the batch itself only where it was refused, and before any job."""
    refused = None
    for job_id, of_it in follow.members(root, batch_id, tally.count, look=tally.look):
        if job_id == batch_id:
            refused = of_it if of_it and of_it.get("state") == "rejected" else None
        else:
            tally.take(job_id, of_it)
            yield job_id, of_it
    if refused is not None:
        yield batch_id, refused


def _in_order(
    found: Iterator[tuple[str, dict[str, Any] | None]], turn: Iterator[str]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    early: dict[str, dict[str, Any] | None] = {}
    awaited = next(turn, None)
    for job_id, of_it in found:
        early[job_id] = of_it
        while awaited in early:
            yield awaited, early.pop(awaited)
            awaited = next(turn, None)
    yield from early.items()


def _show(root: str, job_id: str, write: Write) -> None:
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        try:
            with open(safeopen.open_below(root, os.path.join(spools.results("", job_id), name)), "rb") as file:
                while part := file.read(1 << 16):
                    write(descriptor, part)
        except FileNotFoundError:
            continue
