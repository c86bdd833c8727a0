"""Very many submitters, with jobs of several priorities that have aged: what a choice costs does not grow with them.

Counted in calls of functions, in the dispatcher's own way of choosing.
"""

import random
import sys

import pytest

from cronq import choosing
from cronq.choosing import Choice
from cronq.config import Config
from cronq.entry import Entry
from cronq.gates import Gates
from cronq.house import House, Now, Running
from cronq.lanes import Ready
from cronq.shares import Shares
from cronq.states import READY, RUNNING

MINUTE = 60_000_000
NOW = Now(1_800_000_000.0, 100.0)
MOST = 16


@pytest.fixture
def house(bench, monkeypatch):
    """One in which whoever is chosen has a worker."""
    monkeypatch.setattr(choosing.Choice, "reachable", lambda *_: True)
    bench.house.config = Config(max_jobs=MOST)
    return bench.house


def fill(house: House, users: int, each: int) -> None:
    """Each user has so many jobs of each of three priorities, all of which have waited for long."""
    for number in range(users * each * 3):
        uid, priority = 1000 + number % users, number // users % 3
        due = NOW.micros - 60 * MINUTE + number
        house.backlog.put(READY, Entry(id=f"{uid}-k{number:06}", due=due, priority=priority * 2))


def launch(house: House) -> list[Entry]:
    """Start what may start, as a turn does."""
    choice, found = Choice(house, NOW), []
    while (entry := choice.next()) is not None:
        house.backlog.put(RUNNING, entry)
        house.running[entry.id] = Running(entry)
        choice.started(entry)
        found.append(entry)
    return found


def end(house: House, job_id: str) -> None:
    del house.running[job_id]
    house.backlog.forget(job_id)


def calls(act) -> int:
    """How many functions it calls."""
    count = 0

    def called(_frame, event, _what):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("at_once", [1, MOST])
def test_a_choice_among_a_thousand_users_calls_no_more_functions_than_one_among_thirty(house, at_once):
    """Where one job at a time ends, and where a turn starts many."""
    costs = []
    for users in (30, 1000):
        fill(house, users, 2500 // users)
        launch(house)

        def go_on() -> None:
            for job_id in list(house.running)[:at_once]:
                end(house, job_id)
            assert len(launch(house)) == at_once

        costs.append(sum(calls(go_on) for _ in range(1600 // at_once)) / 1600)
        for entry in house.backlog.entries(READY) + house.backlog.entries(RUNNING):
            house.backlog.forget(entry.id)
        house.running.clear()
    assert costs[1] < 1.5 * costs[0], costs


@pytest.mark.parametrize("per_user", [None, 2])
def test_what_was_said_of_whose_turn_it_is_comes_to_the_same_as_asking_of_everybody(house, monkeypatch, per_user):
    """However jobs come, start and end, and whoever rests: as if everybody's load were worked out for each choice."""
    chance = random.Random(7)
    house.config = Config(max_jobs=5, max_jobs_per_user=per_user)
    shares = {1: 3.0, 2: 0.7}
    monkeypatch.setattr(Choice, "_shares", staticmethod(lambda _house: shares))
    plain = Shares()
    chosen = 0
    for turn in range(400):
        for number in range(chance.randrange(5)):
            due = NOW.micros - chance.randrange(40) * MINUTE
            job_id, priority = f"{chance.randrange(6)}-k{turn:03}.{number}", chance.randrange(3) * 2
            house.backlog.put(READY, Entry(id=job_id, due=due, priority=priority))
        for job_id in chance.sample(list(house.running), chance.randrange(len(house.running) + 1)):
            end(house, job_id)
        choice, resting = Choice(house, NOW), set()
        while True:
            if chance.random() < 0.05:
                resting.add(uid := chance.randrange(6))
                choice.rest(uid)
            gates = Gates(5, {}, {}, [each.entry for each in house.running.values()], per_user, shares=shares)
            gates.served = plain.turn
            everybody = Ready(house.backlog.entries(READY))
            loads = {uid: None if uid in resting else gates.load(uid) for uid in range(6)}
            entry = choice.next()
            assert entry == everybody.peek(gates.open, loads.get, now=NOW.micros)
            if entry is None:
                break
            chosen += 1
            house.backlog.put(RUNNING, entry)
            house.running[entry.id] = Running(entry)
            choice.started(entry)
            plain.serve(entry.uid, gates.share(entry.uid))
    assert chosen > 200
    for entry in house.backlog.entries(READY):
        house.backlog.forget(entry.id)
    assert (house.backlog.ready._levels, house.backlog.ready._bands._keys) == ({}, [])
    assert len(house.served) <= 6
