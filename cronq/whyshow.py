"""What `cronq why` prints: a dispatcher's answer about one job (`whys`), in lines for people.

Reads:   nothing but its arguments, and the machine's time zone.
Trusts:  no text of the answer: it is escaped.
Fails:   never: what is missing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cronq import show

MOST_NAMED = 5  # holders in a line
_LEVELS = {-10: "low", 0: "normal", 10: "high"}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The lines about one job."""
    yield from map(show.escape, plain(found))


def plain(found: dict[str, Any]) -> Iterator[str]:
    """The same, as they are: whoever prints them escapes them."""
    about = " ".join(filter(None, [str(found.get("id")), show.what(found)]))
    gates = found.get("gates")
    if not gates:
        until = _at(", until {} at the latest", found.get("deadline"))
        state, why = str(found.get("state")), str(found.get("why"))
        said = why if why.startswith(f"it is {state}") else f"it is {state}: {why}"
        yield f"{about} {said.removeprefix('it ')}{until}"
    else:
        yield f"{about} is {found.get('state')}, and does not start:"
        for gate in gates:
            yield f"  {gate.get('why')}{_opens(gate)}"
            if holders := _holders(gate):
                yield f"    held by {holders}"
    if found.get("since"):
        yield f"  since {show.instant(found['since'])}, as {show.user(found.get('runs_as'))}"
    if gates and found.get("before"):
        yield f"  and {_before(found['before'])} of its own lane come before it"
    if gates is not None and found.get("expires"):
        yield f"  it expires at {show.instant(found['expires'])}"
    for each in found.get("because") or ():
        yield f"  since {each.get('id')} is {each.get('state')}" + _reason(each.get("reason"))
    if found.get("may_be_retried"):
        yield f"  cronq retry {found.get('id')} runs it again"
    if found.get("last_lines"):
        yield "what it printed last:"
        yield from (f"  {line}" for line in found["last_lines"])
    if found.get("events"):
        yield "what happened:"
        yield from map(_event, found["events"])


def _reason(reason: Any) -> str:
    return f": {reason}" if reason else ""


def _at(text: str, moment: Any) -> str:
    return text.format(show.instant(moment)) if isinstance(moment, int | float) else ""


def _opens(gate: dict[str, Any]) -> str:
    """When a gate opens, as far as that is known."""
    return _at("; it opens at {}", gate.get("opens")) or _at("; it opens at {} at the latest", gate.get("latest"))


def _holders(gate: dict[str, Any]) -> str:
    """Who holds it: of another user's job only that."""
    known = list(gate.get("holders") or ())
    named = [_holder(each) for each in known[:MOST_NAMED]]
    more = len(known) - len(named) + int(gate.get("more") or 0)
    others = int(gate.get("others") or 0)
    named += [f"{more} more"] * bool(more)
    named += [f"{others} jobs of other users" if others > 1 else "another user's job"] * bool(others)
    return ", ".join(named)


def _holder(each: dict[str, Any]) -> str:
    until = _at(", until {} at the latest", each.get("until"))
    return f"{each.get('id')} ({each.get('state') or 'gone'}{until})"


def _before(ahead: list[dict[str, Any]]) -> str:
    said = [f"{each.get('jobs')} of priority {_LEVELS.get(each['priority'], each['priority'])}" for each in ahead]
    return ", ".join(said)


def _event(event: dict[str, Any]) -> str:
    by = f" (by {show.user(event['by'])})" if "by" in event else ""
    return f"  {show.instant(event.get('t'))}  {event.get('what')}{by}{_at('; again at {}', event.get('at'))}"
