"""The time of an attempt: what is left of it when it was frozen in between."""

import time

from cronq import task
from cronq.deadline import Deadline
from cronq.job import Job


class Timers:
    """A loop that rings never, and remembers when it would."""

    def __init__(self) -> None:
        self.left: list[float] = []

    def after(self, seconds, _act):
        self.left.append(seconds)
        return (seconds, len(self.left))

    def cancel(self, timer) -> None:
        if timer is not None:
            self.left[timer[1] - 1] = float("inf")


def test_a_frozen_attempt_has_as_much_time_left_as_it_had(monkeypatch):
    timers, clock = Timers(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ended: list[str] = []
    deadline = Deadline(timers, task.plan(Job(command=["x"], timeout=20.0, watchdog=10.0), {}), ended.append)
    deadline.begin()
    assert timers.left == [20.0, 10.0]
    clock[0] += 4
    deadline.freeze(True)
    assert min(timers.left) == float("inf")
    clock[0] += 500
    deadline.freeze(False)
    assert timers.left[2:] == [16.0, 6.0]
    assert ended == []
