"""`cronq stats --ages`: for how long jobs have waited, in columns that double, as qshape(1) of Postfix has them.

Does:    asks the dispatcher, and prints a row for each queue, task or user, those with the most jobs first, below one
         for all together: how many have waited for up to so many minutes, and for more.
Trusts:  no text of the answer: it is escaped.
Fails:   as `client.ask` does; `UsageError` where it cannot be asked so.
"""

from __future__ import annotations

import sys
from typing import Any

from cronq import client, show
from cronq import spool as spools

BOUNDS = (5, 10, 20, 40, 80, 160, 320, 640, 1280)  # minutes: `depths.AGES`
TOTAL = "TOTAL"


def main(request: dict[str, Any], by: str, state: str, as_json: bool) -> None:
    """Print the table. Raises `CronqError`."""
    found = list(client.ask(spools.find(), {**request, "by": by, "state": state}))
    if as_json:
        for row in found:
            show.one_object(row)
        return
    for line in lines(found, by):
        print("\t".join(line) if not sys.stdout.isatty() else _aligned(line, found, by))


def lines(found: list[dict[str, Any]], by: str) -> list[list[str]]:
    """The table's cells: heads, all together, then each row."""
    ages = [sum(column) for column in zip(*(row["ages"] for row in found), strict=True)] or [0] * (len(BOUNDS) + 1)
    heads = ["", "T", *(f"{bound}m" for bound in BOUNDS), f"{BOUNDS[-1]}m+"]
    rows = [[_name(row, by), str(row["total"]), *map(str, row["ages"])] for row in found]
    return [heads, [TOTAL, str(sum(ages)), *map(str, ages)], *rows]


def _name(row: dict[str, Any], by: str) -> str:
    return show.escape(show.user(row[by]) if by == "user" else row[by] or "(command)")


def _aligned(line: list[str], found: list[dict[str, Any]], by: str) -> str:
    width = max([len(TOTAL), *(len(_name(row, by)) for row in found)])
    return f"{line[0]:>{width}} " + " ".join(f"{cell:>7}" for cell in line[1:])
