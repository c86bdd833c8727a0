"""`cronq map`: a job for each input line, as one batch; waits, prints what they print, and sums up.

Does:    queues the batch and gathers it (attend.py); a progress bar where standard error is a terminal, with what the
         jobs say of themselves, otherwise only the sums at the end.
Fails:   1 where a job failed, naming it, with --fail-fast as that job did; a refused batch with the refusal's code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from cronq import attend, live, show, statement, submit
from cronq import spool as spools
from cronq.attend import Tally, Write


def run(values: dict[str, Any], words: list[str], *, keep_order: bool, fail_fast: bool) -> int:
    """Run `cronq map`; returns the exit code. Raises `CronqError`."""
    root = spools.find()
    batch_id, count = submit.queue_lines("map", {"batch": "-"} | values, words, root)
    tally = Tally(count)
    plainly = attend.writer("raw" in values)
    with _bar(root, tally, plainly) if sys.stderr.isatty() else nullcontext(plainly) as write:
        how = {"in_order": keep_order, "as_json": "json" in values, "fail_fast": fail_fast}
        return attend.batch(root, batch_id, tally, **how, write=write)


@contextmanager
def _bar(root: str, tally: Tally, plainly: Write) -> Iterator[Write]:
    """A progress bar on standard error; what goes to the same terminal is put above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    counted = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeElapsedColumn())
    columns = (*counted, TextColumn("{task.fields[says]}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=tally.count, failed=0, says="")

        def step(under_way: float = 0.0, says: str = "") -> None:
            progress.update(bar, completed=tally.over_now + under_way, failed=tally.failures, says=says)

        def look(job_ids: list[str]) -> None:
            told = [found for job_id in job_ids if (found := live.said(root, job_id))]
            step(sum(map(statement.part, told)), next((text for each in told if (text := statement.words(each))), ""))

        def above(descriptor: int, part: bytes) -> None:
            if os.isatty(descriptor):
                console.out(show.printable(part).removesuffix("\n"), highlight=False)
            else:
                plainly(descriptor, part)

        tally.changed, tally.look, tally.over = step, look, progress.stop
        yield above
