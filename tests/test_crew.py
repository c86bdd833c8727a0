"""The crew, with the test at the other end of launcher's and worker's line."""

import os

import pytest

from cronq import wire
from cronq.crew import Crew
from cronq.doorbell import Doorbell

UID, NOW = 2001, 100.0
LAST_WORDS = {"is": "barred", "reason": "the account ann is locked; usermod -U ann", "hold": True}


@pytest.fixture
def crew_and_worker():
    """A crew that has just got a worker, and the worker's end of their line."""
    launcher, ours = wire.pair()
    crew = Crew(ours, Doorbell(inotify=False))
    worker, theirs = wire.pair()
    with launcher, ours, worker, theirs:
        launcher.setblocking(False)
        pidfd = os.pidfd_open(os.getpid())
        wire.send(launcher, {"worker": os.getpid(), "uid": UID}, [theirs.fileno(), pidfd])
        os.close(pidfd)
        ours.setblocking(False)
        crew.hear({"launcher"}, NOW)
        theirs.close()
        yield crew, worker


def _give(crew):
    return crew.run(crew.ready(UID, NOW), {"id": "2001-x"}, [], NOW)


def test_why_a_worker_could_not_come_to_be_is_heard_though_it_is_gone_before_it_gets_a_job(crew_and_worker):
    crew, worker = crew_and_worker
    wire.send(worker, LAST_WORDS)
    worker.close()
    assert not _give(crew)
    assert crew.barred(UID, NOW).reason == LAST_WORDS["reason"] and crew.workers == {} and crew.lost == []


def test_why_a_worker_could_not_come_to_be_is_heard_though_it_left_a_job_unread(crew_and_worker):
    crew, worker = crew_and_worker
    pid = next(iter(crew.workers))
    assert _give(crew)
    wire.send(worker, LAST_WORDS)
    worker.close()  # the kernel tells "connection reset" first, and what was said only then
    crew.hear({("worker", pid)}, NOW)
    assert crew.barred(UID, NOW).reason == LAST_WORDS["reason"] and crew.lost == ["2001-x"]


class Launched:
    """A crew, the launcher's end of its line, and those of the workers that it was given."""

    def __init__(self):
        self.launcher, self.ours = wire.pair()
        self.crew = Crew(self.ours, Doorbell(inotify=False))
        self.lines = [self.launcher, self.ours]
        for line in self.lines:
            line.setblocking(False)

    def give(self, pid, now):
        """Give it a worker; its end of the line."""
        mine, theirs = wire.pair()
        pidfd = os.pidfd_open(pid)
        wire.send(self.launcher, {"worker": pid, "uid": UID}, [theirs.fileno(), pidfd])
        os.close(pidfd)
        theirs.close()
        mine.setblocking(False)
        self.lines.append(mine)
        self.crew.hear({"launcher"}, now)
        return mine

    def say(self, pid, line, message, now):
        wire.send(line, message)
        self.crew.hear({("worker", pid)}, now)

    def asked(self):
        """How many workers were asked for since."""
        found = 0
        while True:
            try:
                found += wire.receive(self.launcher)[0].get("verb") == "WORKER"
            except BlockingIOError:
                return found


OLD, NEW = os.getpid(), os.getppid()
ENDED = {"is": "ended", "id": "2001-x", "attempt": 1, "warm": "t"}


@pytest.fixture
def launched():
    made = Launched()
    yield made
    for worker in list(made.crew.workers.values()):
        made.crew._part(worker)
    for line in made.lines:
        line.close()


def test_a_new_worker_takes_no_job_before_it_is_as_warm_as_the_old_one_was(launched):
    crew, old = launched.crew, launched.give(OLD, NOW)
    launched.say(OLD, old, ENDED, NOW)
    assert crew.ready(UID, NOW + 61).pid == OLD
    assert launched.asked() == 1
    new = launched.give(NEW, NOW + 61)
    assert wire.receive(new) == ({"do": "warm", "tasks": ["t"]}, [])
    for later in (62, 63, 64):
        crew.hear(set(), NOW + later)
        assert crew.ready(UID, NOW + later).pid == OLD
    assert launched.asked() == 0  # it comes
    launched.say(NEW, new, {"is": "warm"}, NOW + 65)
    assert crew.ready(UID, NOW + 65).pid == NEW
    assert list(crew.workers) == [NEW]


def test_a_new_worker_that_does_not_get_warm_takes_jobs_all_the_same(launched):
    crew, old = launched.crew, launched.give(OLD, NOW)
    launched.say(OLD, old, ENDED, NOW)
    launched.give(NEW, NOW + 61)
    crew.hear(set(), NOW + 61 + 29)
    assert crew.ready(UID, NOW + 90).pid == OLD
    crew.hear(set(), NOW + 61 + 31)
    assert crew.ready(UID, NOW + 92).pid == NEW


def test_a_new_worker_takes_jobs_at_once_where_there_is_nothing_to_warm_up_or_no_old_one(launched):
    launched.give(OLD, NOW)
    new = launched.give(NEW, NOW + 61)
    assert launched.crew.ready(UID, NOW + 61).pid == NEW
    launched.say(NEW, new, ENDED, NOW + 61)
    new.close()
    launched.crew.hear({("worker", NEW)}, NOW + 62)
    launched.give(OLD, NOW + 63)
    assert launched.crew.ready(UID, NOW + 63).pid == OLD


def test_an_idle_worker_is_replaced_by_a_warm_one_as_long_as_its_tasks_had_jobs_of_late(launched):
    crew, old = launched.crew, launched.give(OLD, NOW)
    crew.hear(set(), NOW + 59)
    launched.say(OLD, old, ENDED, NOW + 59)
    crew.hear(set(), NOW + 61)
    assert (list(crew.workers), launched.asked()) == ([OLD], 1)
    new = launched.give(NEW, NOW + 62)
    launched.say(NEW, new, {"is": "warm"}, NOW + 63)
    assert list(crew.workers) == [NEW]
    crew.hear(set(), NOW + 62 + 61)
    assert (list(crew.workers), launched.asked()) == ([NEW], 1)
    crew.hear(set(), NOW + 62 + 121)  # nobody came
    assert list(crew.workers) == []
    launched.give(OLD, NOW + 700)  # ten minutes after its last job
    crew.hear(set(), NOW + 761)
    assert list(crew.workers) == []


def test_a_worker_that_names_tasks_without_end_costs_no_more_than_a_message(launched):
    old = launched.give(OLD, NOW)
    for number in range(100):
        launched.say(OLD, old, {**ENDED, "warm": f"t{number:02}"}, NOW)
        launched.say(OLD, old, {**ENDED, "warm": "x" * 60_000}, NOW)
    assert wire.receive(launched.give(NEW, NOW + 61))[0] == {"do": "warm", "tasks": [f"t{n:02}" for n in range(64)]}
