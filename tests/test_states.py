"""The state table: what a job may become from where it is."""

from __future__ import annotations

import itertools

import pytest

from cronq import states
from cronq.states import MOVES, STATES, TERMINAL, IllegalMove, target

EDGES = {(source, state) for sources, state in MOVES.values() for source in sources}


OF_BATCHES = {"reopen"}  # a job of it is retried; no other job has this move


def test_every_move_joins_two_states() -> None:
    assert {state for edge in EDGES for state in edge} <= set(STATES)


def test_no_state_stands_twice_in_the_list() -> None:
    assert len(STATES) == len(set(STATES))


def test_every_state_can_be_reached_from_queued() -> None:
    reached = {states.QUEUED}
    for _ in STATES:
        reached |= {state for source, state in EDGES if source in reached}
    assert reached == set(STATES)


def test_a_job_that_is_not_at_its_end_can_get_there() -> None:
    ending = set(TERMINAL)
    for _ in STATES:
        ending |= {source for source, state in EDGES if state in ending}
    assert ending == set(STATES)


def test_only_a_person_brings_an_ended_job_back() -> None:
    leaving = {move for move, (sources, _) in MOVES.items() if set(sources) & set(TERMINAL)}
    assert leaving == {"revive", "rejoin", "reopen"}


def test_what_was_done_cancelled_expired_or_rejected_stays_so() -> None:
    final = {states.DONE, states.CANCELLED, states.EXPIRED, states.REJECTED}
    assert {move for move, (sources, _) in MOVES.items() if set(sources) & final} == OF_BATCHES


def test_only_a_ready_job_starts_and_only_a_running_one_ends_an_attempt() -> None:
    starting = {move: set(sources) for move, (sources, state) in MOVES.items() if state == states.RUNNING}
    assert starting == {"start": {states.READY}, **{move: {states.DONE} for move in OF_BATCHES}}
    assert {source for source, state in EDGES if state == states.DONE} == {states.RUNNING}


def test_a_job_that_has_started_never_expires() -> None:
    assert states.RUNNING not in MOVES["expire"][0]


def test_nothing_returns_to_the_inbox() -> None:
    assert states.QUEUED not in {state for _, state in EDGES}


@pytest.mark.parametrize(("move", "source"), list(itertools.product(MOVES, STATES)))
def test_a_move_the_table_has_leads_where_it_says_and_no_other_is_made(move: str, source: str) -> None:
    sources, state = MOVES[move]
    if source in sources:
        assert target(move, source) == state
    else:
        with pytest.raises(IllegalMove, match=f"a {source} job cannot {move}"):
            target(move, source)


def test_a_move_of_no_name_is_illegal() -> None:
    with pytest.raises(IllegalMove, match="a ready job cannot fly"):
        target("fly", states.READY)
