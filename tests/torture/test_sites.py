"""A slice of the suites of sites (`sites.py`): some calls, killed and failed; `make torture-sites` is all of it."""

import os
import time

import pytest
import sites
import stops
import strikes
from strikes import Way

LONG = os.environ.get("CRONQ_LONG") == "1"
SECONDS = 300.0 if LONG else 5.0
FEW = [
    Way("submit_data", "at-least-once", "submit"),
    Way("run", "at-most-once", "dispatcher"),
    Way("run", "at-most-once", "worker"),
    Way("run", "at-least-once", "launcher"),
    Way("recover", "at-least-once", "dispatcher"),
]


@pytest.mark.timeout(900 if LONG else 120)
@pytest.mark.parametrize("kind", ["kill", "errno"])
@strikes.needed
def test_at_no_call_that_is_killed_or_fails_is_a_job_lost_or_doubled(kind):
    calls = stops.CHANGING if kind == "kill" else strikes.ALL
    beside = 2 * (os.cpu_count() or 1)
    done, wrong = 0, {}
    with strikes.place() as where:
        points = sites.plan(where, kind, calls, beside, sites.ways() if LONG else FEW)
        end = time.monotonic() + SECONDS
        for point, found in strikes.side_by_side(points, lambda each: strikes.strike(where, each, calls), beside, end):
            done += 1
            if found.get("failed") or found.get("found"):
                wrong[point.name] = found.get("found") or found["failed"]
    assert done
    assert not wrong
