"""How often something may start: what a rate promises, whatever is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cronq.rate import Rate, Rates

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
rates = st.builds(Rate, st.integers(1, 5), st.integers(1, 20), st.integers(1, 4))


def starts(rate: Rate, asked: list[int]) -> list[float]:
    """When something starts that is asked for at these times, each as soon as it may."""
    known, found, now = Rates(), [], 0.0
    for each in sorted(asked):
        now = max(now, each, known.opens("x", rate, max(now, each)))
        known.spend("x", rate, now)
        found.append(now)
    return found


@patient
@given(rates, st.lists(st.integers(0, 60), max_size=40))
def test_never_more_start_in_any_while_than_the_rate_and_one_burst_allow(rate: Rate, asked: list[int]) -> None:
    found = starts(rate, asked)
    for first in range(len(found)):
        for last in range(first, len(found)):
            assert last - first <= (found[last] - found[first]) / rate.interval + rate.burst - 1 + 1e-6


@patient
@given(rates, st.lists(st.integers(0, 60), max_size=40))
def test_nothing_waits_that_need_not(rate: Rate, asked: list[int]) -> None:
    found = starts(rate, asked)
    for place, wanted in enumerate(sorted(asked)):
        steps = enumerate(found[:place])
        earlier = [each + (place - before + 1 - rate.burst) * rate.interval for before, each in steps]
        assert found[place] == pytest.approx(max([wanted, *found[:place], *earlier]))


def test_one_starts_each_interval_and_a_burst_where_there_were_none_for_a_while() -> None:
    assert starts(Rate(10, 60), [0, 0, 0]) == [0, 6, 12]
    assert starts(Rate(10, 60, burst=3), [0, 0, 0, 0, 0]) == [0, 0, 0, 6, 12]
    assert starts(Rate(10, 60, burst=3), [0, 0, 0, 0, 100, 100, 100, 100]) == [0, 0, 0, 6, 100, 100, 100, 106]


def test_what_did_not_start_is_given_back() -> None:
    known, rate = Rates(), Rate(1, 10)
    known.spend("x", rate, 5.0)
    assert known.opens("x", rate, 5.0) == 15.0
    assert known.give_back("x", rate, 5.0) <= 5.0
    assert known.opens("x", rate, 5.0) <= 5.0


def test_each_limiter_counts_for_itself() -> None:
    known, rate = Rates(), Rate(1, 10)
    known.spend("x", rate, 0.0)
    assert known.opens("y", rate, 0.0) <= 0.0


@pytest.mark.parametrize("paid", [1e6, 1e18, float("inf")])
def test_what_cannot_be_is_not_believed_so_nothing_waits_for_longer_than_a_burst_takes(paid: float) -> None:
    known, rate = Rates(), Rate(1, 10, burst=3)
    known.restore("x", paid)
    assert known.opens("x", rate, 100.0) == 110.0
    assert known.opens("x", rate, 109.0) == 110.0
    known.spend("x", rate, 110.0)
    assert known.opens("x", rate, 110.0) == 120.0


def test_what_is_paid_for_is_forgotten() -> None:
    known, rate = Rates(), Rate(1, 10)
    for number in range(10_000):
        known.spend(f"key {number}", rate, float(number))
    assert len(known) < 200
