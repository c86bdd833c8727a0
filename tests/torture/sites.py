"""Each system call of submit, dispatcher, worker and launcher on each way of a job: killed there, or failed there.

    python tests/torture/sites.py kill|errno [--points N] [--minutes N] [--only TEXT] [--beside N] [--show]

Does:    plays each story of `paths` once to learn the calls of its programs; then once for each call, with the process
         killed in the place of it (`kill`), or the call failed by an errno that it may have (`errno`, `errnos`); lets
         all come to rest and judges what is there (`verdict`). Prints figures, and what is wrong with the name of the
         point, by which alone (`--only NAME`) it is played again.
Fails:   exit code 1 where anything is wrong, 77 where this machine does not let it be done.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter

import errnos
import paths
import stops
import strikes
from strikes import Point, Way

FIRST = ("LOST", "DOUBLED")  # figures that are always told


def main() -> int:
    """Play a suite."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("kind", choices=("kill", "errno"))
    parser.add_argument("--points", type=int, help="no more than these")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="none is begun after these")
    parser.add_argument("--only", default="", help="a point's name, or a part of it")
    parser.add_argument("--beside", type=int, default=3 * (os.cpu_count() or 1), help="points at once")
    parser.add_argument("--show", action="store_true", help="all that a point leaves")
    given = parser.parse_args()
    if reason := strikes.why_not():
        print(f"skipped: {reason}")
        return 77
    with strikes.place() as where:
        return suite(where, given)


def suite(where: str, given: argparse.Namespace) -> int:
    """Play points until the end, and say what came of them."""
    began = time.monotonic()
    calls = stops.CHANGING if given.kind == "kill" else strikes.ALL
    if given.only.count(":") >= 4:
        points = [strikes.point(given.only)]
    else:
        near = [way for way in ways() if _is_near(given.only, ":".join((given.kind, *way)))]
        points = [each for each in plan(where, given.kind, calls, given.beside, near) if given.only in each.name]
    chosen = points[: given.points]
    wrong: Counter[str] = Counter()
    done: list[Point] = []
    missed = 0
    planned = time.monotonic()
    end = began + 60 * given.minutes
    for point, found in strikes.side_by_side(
        chosen, lambda each: strikes.strike(where, each, calls), given.beside, end
    ):
        done.append(point)
        missed += not found.get("struck")
        faults = found.get("found") or ([f"STUCK: {found['failed']}"] if "failed" in found else [])
        wrong.update(fault.split(":")[0] for fault in faults)
        if faults or given.show:
            print(point.name, found.get("struck"), *(f"    {fault}" for fault in faults), sep="\n", flush=True)
            print(*(f"    | {line}" for line in found.get("log", "").splitlines()[-8:]), sep="\n", flush=True)
        if given.show:
            print(found.get("trace", ""), found.get("log"), *found.get("tree", []), sep="\n", flush=True)
    tell(done, len(points), missed, wrong, time.monotonic() - planned)
    return 1 if wrong else 0


def _is_near(only: str, name: str) -> bool:
    """Whether points whose names begin with this one may have `only` in theirs."""
    return only in name or only.startswith(name) or not only.startswith(("kill:", "errno:"))


def plan(where: str, kind: str, calls: dict[str, int], beside: int, chosen: list[Way]) -> list[Point]:
    """All points, in an order that mixes ways, so that a part of them is a sample; the same each time."""
    points = set()
    look = strikes.side_by_side(chosen, lambda way: strikes.calls_of(where, way, calls), beside, float("inf"))
    for way, answer in look:
        seen, left = answer if isinstance(answer, list) else ([], answer)
        if left.get("failed") or left.get("found"):
            raise SystemExit(f"{way} goes wrong without any fault: {json.dumps(left, indent=1)}")
        for name, number, named, flags in seen:
            if kind == "kill":
                points.add(Point(way, name, number))
            else:
                points |= {Point(way, name, number, fault) for fault in errnos.faults(name, number, named, flags)}
    found = sorted(points)
    random.Random(1).shuffle(found)
    return found


def ways() -> list[Way]:
    """All of them."""
    return [
        Way(story, delivery, program)
        for story, path in paths.PATHS.items()
        for delivery in path.deliveries
        for program in path.programs
    ]


def tell(done: list[Point], whole: int, missed: int, wrong: Counter[str], took: float) -> None:
    """The figures."""
    by_path = Counter((point.way.story, point.way.program) for point in done)
    for (story, program), count in sorted(by_path.items()):
        print(f"{story} {program}: {count}")
    speed = len(done) / max(took, 0.001)
    print(f"{len(done)} of {whole} points in {took:.0f} s, {speed:.1f} a second; {missed} came not to their call")
    faults = {point.fault.partition("@")[0] for point in done if point.fault}
    if faults:
        sites = {point[:3] for point in done}
        print(f"{len(sites)} sites; {len(faults)} errnos: {', '.join(sorted(faults))}")
    print(", ".join(f"{kind.lower()} {wrong[kind]}" for kind in (*FIRST, *sorted(set(wrong) - {*FIRST}))))


if __name__ == "__main__":
    sys.exit(main())
