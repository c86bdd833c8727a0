"""What `cronq shadow` has to say: how far cron and cronq agree, for people and as JSON; and the exit code.

Does:    a `Shadow` -> a table of what ran the same, what only cron ran, what only cronq would have run, with the times;
         0 if there was something to compare and all of it agreed, 1 otherwise.
Fails:   as `shadow` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from cronq import job as jobs
from cronq import shadow, show
from cronq.agreement import Count
from cronq.errors import UsageError
from cronq.shadow import Shadow

_DIFFER = 1
_MOST_TIMES = 5


class Options(NamedTuple):
    """Of the command line."""

    length: str | None
    log: str | None
    journal: bool
    state: str
    report: bool
    anew: bool
    as_json: bool


def main(options: Options) -> int:
    """Watch, or only report; print what was seen. Raises `UsageError`, `NotPermitted`."""
    if options.report:
        if options.length or options.log or options.journal or options.anew:
            raise UsageError("--report only shows what was seen: leave --for, --log, --journal and --anew out")
        seen = shadow.report(options.state)
    else:
        length = None if options.length is None else jobs.seconds(options.length, "--for")
        say = (lambda _text: None) if options.as_json else (lambda text: print(show.escape(text), flush=True))
        seen = shadow.watch(options.state, options.log, options.journal, length, say, options.anew)
    if options.as_json:
        show.one_object(as_json(seen))
    else:
        for line in lines(seen):
            print(show.escape(line))
    return 0 if seen.agreement.agrees else _DIFFER


def as_json(seen: Shadow) -> dict[str, object]:
    """All that was seen, in one object."""
    counts = [
        {name: getattr(each, name) for name in ("user", "command", "where", "note", "same", "missing", "extra")}
        | {"missing_at": each.missing_at, "extra_at": each.extra_at}
        for each in _ordered(seen)
    ]
    watched = [[first * 60, last * 60 + 60] for first, last in seen.spans if first <= last]
    about = {"agrees": seen.agreement.agrees, "watched": watched, "excused": seen.agreement.excused}
    return about | {"open": seen.agreement.open, "entries": counts}


def lines(seen: Shadow) -> Iterator[str]:
    """The same for people."""
    yield from _watched(seen)
    counts = _ordered(seen)
    if counts:
        yield f"{'SAME':>7} {'MISSING':>7} {'EXTRA':>7}  USER      COMMAND"
    for each in counts:
        yield f"{each.same:>7} {each.missing:>7} {each.extra:>7}  {each.user:<8}  {each.command}"
        if each.missing or each.extra:
            yield from _details(each)
    if seen.agreement.excused:
        yield f"not counted: {seen.agreement.excused} runs in minutes in which cron itself was started"
    yield _sum(counts)


def _watched(seen: Shadow) -> Iterator[str]:
    spans = [span for span in seen.spans if span[0] <= span[1]]
    if not spans:
        yield "no minute was watched yet"
        return
    minutes = sum(last - first + 1 for first, last in spans)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    took = f"{days} d {hours} h {rest} min" if days else f"{hours} h {rest} min" if hours else f"{rest} min"
    yield f"watched {took} from {show.instant(spans[0][0] * 60)} to {show.instant(spans[-1][1] * 60 + 60)}"
    for before, after in itertools.pairwise(spans):
        yield f"not watched from {show.instant(before[1] * 60 + 60)} to {show.instant(after[0] * 60)}"


def _details(each: Count) -> Iterator[str]:
    """Where it stands, when they differed, and why if that is known."""
    pad = " " * 25
    for where in each.where or ["in no table now"]:
        yield f"{pad}{where}"
    for what, times in (("only cron ran it", each.missing_at), ("only cronq would have run it", each.extra_at)):
        if times:
            newest = ", ".join(show.instant(at) for at in times[-_MOST_TIMES:])
            yield f"{pad}{what}: {newest}"
    if each.note:
        yield f"{pad}{each.note}"


def _sum(counts: list[Count]) -> str:
    same, missing, extra = (sum(getattr(each, name) for each in counts) for name in ("same", "missing", "extra"))
    if missing or extra:
        return (
            f"they differ: {same} runs the same, {missing} that only cron ran, {extra} that only cronq would have run"
        )
    if same:
        return f"they agree: {same} runs, all the same"
    return "nothing to compare yet: nothing was due, or cron logs nothing (is it started with -L 0?)"


def _ordered(seen: Shadow) -> list[Count]:
    """What differs first."""
    counts = [each for each in seen.agreement.counts.values() if each.seen]
    return sorted(counts, key=lambda each: (not (each.missing or each.extra), each.user, each.command))
