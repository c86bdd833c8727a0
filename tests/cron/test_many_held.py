"""Many that wait: what a turn costs does not grow with those that a limit holds back, however they are held."""

import os
import socket
import time

import pytest
from bench import Bench, calls

from cronq import crew, states
from cronq.entry import Entry
from cronq.house import Running

TASK = "[tasks.t]\ncommand = ['true']\n"
NOW = time.time()


def busy(path, config: str, count: int, **fields) -> Bench:
    """A house in which one job runs and so many wait; `fields` may have a place for a number."""
    path.mkdir()
    bench = Bench(path, os.getuid())
    bench.toml(config)
    house = bench.house
    house.paused_until = 0.0
    line, other = socket.socketpair()
    pidfd = os.pidfd_open(os.getpid())
    house.crew.current[bench.uid] = crew.Worker(os.getpid(), bench.uid, line, pidfd, NOW)
    for end in (line, other):
        end.close()
    os.close(pidfd)
    made = [
        Entry(id=f"{bench.uid}-{number:07}", due=number, task="t", **{k: v.format(number) for k, v in fields.items()})
        for number in range(count + 1)
    ]
    house.backlog.put(states.RUNNING, made[0])
    house.running[made[0].id] = Running(made[0])
    for entry in made[1:]:
        house.backlog.put(states.READY, entry)
        house.rates.restore(entry.group, NOW + 3600)
    return bench


HELD = {
    "by the limit of their task, each with a key of its own": (
        "limit = 1\nconcurrency = { key = '{args.0}' }",
        {"group": "g{:09}"},
    ),
    "by one key": ("concurrency = {}", {"group": "g" * 16}),
    "by one mutex": ("mutex = 'm'", {"key": "m" * 16}),
    "each by the rate of its own key": ("concurrency = { key = '{args.0}', rate = '1/2h' }", {"group": "g{:09}"}),
}


@pytest.mark.parametrize("how", HELD)
def test_a_turn_costs_the_same_however_many_are_held(tmp_path, monkeypatch, how):
    monkeypatch.setenv("TZ", "UTC")
    config, fields = HELD[how]
    found = []
    for count in (10, 20_000):
        bench = busy(tmp_path / str(count), TASK + config + "\n", count, **fields)
        for second in range(3):
            bench.turn(NOW + second)
        assert len(bench.house.running) == 1
        assert len(bench.house.backlog.ready) == count
        found.append(min(calls(bench, NOW + second) for second in (3, 4, 5)))
        bench.house.running.clear()
        bench.close()
    few, many = found
    assert many < few * 1.2 + 50
