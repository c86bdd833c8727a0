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
