"""Pace: the rates of queues, tasks and keys, as far as the configuration has some.

Does:    says from when on a lane or a key may start the next job, counts what starts, takes back what did not.
Reads:   the configuration; after a restart the history, as far back as a rate reaches.
Writes:  nothing: the line of each start in the history says how far its rates are spent (`house.move`). There is no
         other memory of them, so none that can be lost alone or block anything; without it, a rate begins anew.
Trusts:  the history; what it says is bounded all the same (`rate`).
Fails:   never.

A start of a limited job is durable before it is made, so that no crash lets more start than the rate allows.
"""

from __future__ import annotations

import math

from cronq.entry import Entry
from cronq.house import House, Now
from cronq.rate import Rate


def lane_opens(house: House, now: Now, queue: str, task: str) -> float:
    """From when on, by the monotonic clock, a job of this queue and task may start."""
    rates = house.config.rates
    if not rates:
        return now.mono
    names = (f"queue {queue}", f"task {task}")
    return max((house.rates.opens(name, rates[name], now.mono) for name in names if name in rates), default=now.mono)


def key_opens(house: House, now: Now, entry: Entry) -> float:
    """From when on a job may start that has this one's concurrency key."""
    rate = house.config.rates.get(f"key {entry.task}") if entry.group else None
    return now.mono if rate is None else house.rates.opens(entry.group, rate, now.mono)


def ticks_open(house: House, now: Now, queue: str) -> float:
    """From when on a tick of a crontab's, or mail about one, may start in this queue."""
    rate = house.config.rates.get(f"queue {queue}")
    return now.mono if rate is None else house.rates.opens(f"ticks {queue}", rate, now.mono)


def closed(house: House, now: Now, entry: Entry) -> list[tuple[str, float]]:
    """The rates that let an entry wait: of what, and until when by the monotonic clock."""
    found = []
    for name, rate in _limiters(house, entry).items():
        opens = house.rates.opens(name, rate, now.mono)
        if opens > now.mono:
            found.append(("its concurrency key" if name == entry.group else name, opens))
    return found


def is_limited(house: House, entry: Entry) -> bool:
    """Whether any rate counts this."""
    return bool(house.config.rates) and bool(_limiters(house, entry))


def spend(house: House, now: Now, entry: Entry) -> dict[str, float] | None:
    """One starts: what the history is to know of it."""
    spent = {name: house.rates.spend(name, rate, now.mono) for name, rate in _limiters(house, entry).items()}
    return _known(now, spent)


def give_back(house: House, now: Now, entry: Entry) -> dict[str, float] | None:
    """One did not start after all."""
    spent = {name: house.rates.give_back(name, rate, now.mono) for name, rate in _limiters(house, entry).items()}
    return _known(now, spent)


def since(house: House, now: Now) -> float:
    """From when on the history tells how far rates are spent; infinity where there are none."""
    return now.wall - max((rate.ahead for rate in house.config.rates.values()), default=-math.inf)


def restore(house: House, now: Now, spent: dict[str, float]) -> None:
    """After a restart: go on where it was."""
    if house.config.rates:
        for name, paid in spent.items():
            house.rates.restore(name, now.mono + paid - now.wall)


def _limiters(house: House, entry: Entry) -> dict[str, Rate]:
    """The rates that count an entry, by the names under which they do. Ticks have their own."""
    said = {f"queue {entry.queue}": f"queue {entry.queue}", f"task {entry.task}": f"task {entry.task}"}
    if entry.group:
        said[entry.group] = f"key {entry.task}"
    if entry.tabled:
        said = {f"ticks {entry.queue}": f"queue {entry.queue}"}
    rates = house.config.rates
    return {name: rates[each] for name, each in said.items() if each in rates}


def _known(now: Now, paid: dict[str, float]) -> dict[str, float] | None:
    return {name: round(now.wall + each - now.mono, 6) for name, each in paid.items()} or None
