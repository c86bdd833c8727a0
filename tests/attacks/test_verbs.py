"""A dispatcher that lies to the launcher and to workers by what it asks for: nobody becomes what he should not, nobody
else is hit, and whoever is lied to goes on (trust.md rows 17, 19)."""

import contextlib
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import eventually
from liar import LONG, Liar, fds
from machine import CONFIG, SPOOL
from recycled import end, recycled

from cronq import process, wire

pytestmark = pytest.mark.root

ROOTS = '[exec]\nallow_root = true\n[tasks.x]\nuser = "root"\nallow_root = true\ncommand = ["true"]\n'
NOBODY = (-1, 2**32 - 1, 2**32, 2**70, -(2**31))


@pytest.fixture(scope="module")
def told(whole_machine):
    whole_machine.tasks("")
    made = Liar(whole_machine)
    made.inboxes("ann", "bob")
    yield made
    made.close()
    whole_machine.reset()


@pytest.fixture(scope="module")
def ann(told):
    return told.worker(2001)


@pytest.fixture
def liar(told):
    """The launcher has as many descriptors as before, and serves."""
    yield told
    eventually(lambda: len(_held(told.launcher.pid)) == HELD)
    assert told.launcher.poll() is None


HELD = 8  # its standard ones, the spool, the loop, both ends of the pipe that signals ring, and the line


def _held(pid: int) -> list[str]:
    """What a launcher has open, but for its workers."""
    return sorted(what for what in fds(pid).values() if "pidfd" not in what)


# -------------------------------------------------------------------- the launcher's verbs


@pytest.mark.parametrize("uid", ["cronq", *NOBODY])
def test_there_is_no_worker_of_cronqs_or_of_nobodys(liar, uid):
    asked = liar.uid if uid == "cronq" else uid
    for more in ({"verb": "WORKER", "tables": []}, {"verb": "INBOX"}):
        assert liar.refused({"uid": asked, **more}) == f"nothing runs as uid {asked}"


@pytest.mark.parametrize("uid", [True, "2001", 2001.0, None, [2001], {"uid": 2001}, float("nan"), "x" * 60_000])
def test_a_uid_is_a_number(liar, uid):
    for more in ({"verb": "WORKER", "tables": []}, {"verb": "INBOX"}):
        assert liar.refused({"uid": uid, **more}) == "not a verb of the launcher's"


def test_an_inbox_is_for_who_has_an_account(liar):
    before = sorted(os.listdir(SPOOL / "in")), sorted(os.listdir(SPOOL / "users"))
    for uid in (77777, 2**32 - 2, 2**31):
        assert liar.refused({"verb": "INBOX", "uid": uid}) == f"uid {uid} has no account"
    assert (sorted(os.listdir(SPOOL / "in")), sorted(os.listdir(SPOOL / "users"))) == before


def _barred(liar, uid: int) -> str:
    """Why a worker does not become this user; it is gone then, and has told nothing else."""
    worker = liar.worker(uid)
    told = worker.hear("barred")
    assert worker.gone()
    eventually(lambda: f"event=worker-ended pid={worker.pid} code=126" in liar.machine.log)
    return told["reason"]


def test_who_has_no_account_or_a_locked_one_gets_nothing(liar):
    assert "has no account" in _barred(liar, 77777)
    liar.machine.as_user("root", "usermod", "-p", "!x", "carl")
    assert "is locked" in _barred(liar, 2003)
    liar.machine.as_user("root", "usermod", "-p", "*", "carl")
    liar.machine.as_user("root", "usermod", "--expiredate", "1", "carl")
    assert "has expired" in _barred(liar, 2003)
    liar.machine.as_user("root", "usermod", "--expiredate", "", "carl")


def test_who_is_of_the_group_of_cronq_gets_nothing(liar):
    for change, undo in ((("-g", "cronq"), ("-g", "carl")), (("-G", "cronq"), ("-G", "ops"))):
        liar.machine.as_user("root", "usermod", *change, "carl")
        assert "must have no members" in _barred(liar, 2003)
        liar.machine.as_user("root", "usermod", *undo, "carl")


def test_who_took_over_a_uid_gets_nothing(liar):
    liar.inboxes("carl")
    liar.machine.as_user("root", "usermod", "-l", "dora", "carl")
    try:
        assert "uid 2003 was carl when its inbox was made, and is dora now" in _barred(liar, 2003)
    finally:
        liar.machine.as_user("root", "usermod", "-l", "carl", "dora")


def test_there_is_no_worker_of_roots_that_root_has_not_allowed(liar):
    assert "nothing runs as root" in _barred(liar, 0)
    liar.machine.tasks(ROOTS)
    try:
        (CONFIG / "cronq.toml").chmod(0o666)
        assert "can be written by" in _barred(liar, 0)
        (CONFIG / "cronq.toml").chmod(0o644)
        os.chown(CONFIG, 2001, 0)
        assert "belongs to uid 2001" in _barred(liar, 0)
        os.chown(CONFIG, 0, 0)
        assert liar.worker(0).hear  # and there is one
        assert 0 in eventually(lambda: liar.machine.workers().keys() & {0})
    finally:
        os.chown(CONFIG, 0, 0)
        liar.machine.tasks("")


def test_end_is_for_workers_only(liar, ann):
    machine = liar.machine
    theirs = subprocess.Popen(["sleep", "100"], **machine.identity("bob"))
    name = ann.run("2001-end", liar.file_of("ann", "end", {"command": ["sleep", "100"]}))
    job = [eventually(lambda: _started(ann, name))["pid"]]
    for pid in (theirs.pid, *job, liar.told["pid"], liar.launcher.pid, os.getpid(), 1, 0, -1, 2**22, 2**70):
        assert "is no worker" in liar.refused({"verb": "END", "worker": pid})
    assert theirs.poll() is None
    assert _jobs(ann) == job
    theirs.kill()
    theirs.wait()
    ann.send({"do": "stop", "id": "2001-end", "now": True})
    ann.hear("ended", "2001-end")


def _started(worker, name: str) -> dict:
    """What an outcome file tells of its job, once it runs (a worker's first child is another: it asks shadow)."""
    steps = worker.outcome(name)
    return steps[-1] if steps and steps[-1]["step"] == "started" else {}


def test_end_does_not_hit_who_has_the_pid_of_a_worker_by_now(liar):
    worker = liar.worker(2001)
    worker.line.close()
    assert worker.gone()
    eventually(lambda: f"event=worker-ended pid={worker.pid}" in liar.machine.log)
    login = recycled(worker.pid, **liar.machine.identity("ann"))
    assert "is no worker" in liar.refused({"verb": "END", "worker": worker.pid})
    hit = select.select([pidfd := os.pidfd_open(login.pid)], [], [], 0.2)[0]  # a signal takes a moment
    os.close(pidfd)
    end(login)
    assert not hit, "the process that has the pid by now was killed"


def _jobs(worker) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]


def test_place_is_for_a_workers_own_children_only(liar, ann):
    theirs = subprocess.Popen(["sleep", "100"], **liar.machine.identity("bob"))
    kinds = [os.pidfd_open(pid) for pid in (theirs.pid, liar.launcher.pid, ann.pid, os.getpid(), 1)]
    kinds += [os.open("/dev/null", os.O_RDONLY), os.memfd_create("x"), os.open("/proc/self/stat", os.O_RDONLY)]
    kinds += [os.open(SPOOL, os.O_PATH), os.eventfd(0)]
    for worker in (ann.pid, liar.launcher.pid, theirs.pid, 1, 0, -1):
        verb = {"verb": "PLACE", "job": "2001-a.1", "worker": worker, "limits": {}}
        for given in (*([kind] for kind in kinds), [], kinds[:2], kinds[:8]):
            assert "is no process of the worker" in liar.refused(verb, given)
    for kind in kinds:
        os.close(kind)
    theirs.kill()
    theirs.wait()


def test_kill_and_place_take_no_path(liar):
    for name in ("", "x", "../x.1", "2001-a", "2001-../..1", "0-a.1/../..", "2001-a.1\n", "\ud800", "€" * 9000):
        answer = liar.refused({"verb": "KILL", "job": name})
        assert answer == "there are no cgroups here" or "is no attempt's name" in answer


def test_a_crontab_is_handed_over_open_and_not_kept(liar):
    (CONFIG / "crontab").write_text("@daily ann true\n")
    try:
        answer, (descriptor,) = liar.ask({"verb": "CRONTAB", "number": 0})
        assert answer == {"table": str(CONFIG / "crontab"), "number": 0, "of": 1}
        assert os.read(descriptor, 100) == b"@daily ann true\n"
        os.close(descriptor)
        assert liar.refused({"verb": "CRONTAB", "number": 1}) == "there is no table of that number"
    finally:
        (CONFIG / "crontab").unlink()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"verb": "RUN", "uid": 2001},
        {"verb": "worker", "uid": 2001},
        {"verb": "WORKER"},
        {"verb": "WORKER", "uid": 2001},
        {"verb": "WORKER", "uid": 2001, "tables": "/etc/shadow"},
        {"verb": "WORKER", "uid": 2001, "tables": [], "path": "/etc"},
        {"verb": "CRONTAB"},
        {"verb": "CRONTAB", "number": "0"},
        {"verb": "CRONTAB", "number": True},
        {"verb": "CRONTAB", "number": 0, "table": "/etc/shadow"},
        {"verb": "WORKER", "worker": 2001},
        {"verb": "WORKER", "uid": 2001, "is": "ready"},
        {"is": "ready", "uid": 0},
        {"is": ["ready"]},
        {"is": "STOPPING=1\nREADY=1"},
        {"verb": {"WORKER": 1}, "uid": 2001},
        {"verb": None},
        {"verb": "END", "uid": 2001},
        {"verb": "END", "worker": None},
        {"verb": "PLACE", "job": "2001-a.1", "worker": 1},
        {"verb": "PLACE", "job": "2001-a.1", "worker": 1, "limits": []},
        {"verb": "PLACE", "job": 1, "worker": 1, "limits": {}},
        {"verb": "KILL", "job": ["2001-a.1"]},
        {"verb": "KILL", "job": "2001-a.1", "more": 1},
        {"do": "run"},
        {"x" * 100: "y" * 60_000},
    ],
)
def test_what_is_no_verb_is_refused(liar, message):
    assert liar.refused(message) == "not a verb of the launcher's"


@pytest.mark.parametrize(
    "packet",
    [
        b"{",
        b"[]",
        b"7",
        b"null",
        b'"WORKER"',
        b"\xff\xfe",
        b"\0" * 1000,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"verb": "WORKER", "uid": 1' + b"0" * 5000 + b"}",
        b" " * 70_000 + b"{}",
    ],
)
def test_what_is_no_message_is_refused(liar, packet):
    null = os.open("/dev/null", os.O_RDONLY)
    liar.line.send(packet)
    assert "not a message" in liar.answer()[0]["failed"]
    socket.send_fds(liar.line, [packet], [null] * 8)
    assert "not a message" in liar.answer()[0]["failed"]
    os.close(null)


@pytest.mark.parametrize("number", [1, 8, 9, 253])
def test_descriptors_that_nobody_asked_for_are_closed(liar, number):
    reading, writing = os.pipe()
    socket.send_fds(liar.line, [b'{"verb": "INBOX", "uid": 2001}'], [writing] * number)
    answer = liar.answer()[0]
    assert answer == {"inbox": 2001} if number <= 8 else "a packet was cut" in answer["failed"]
    os.close(writing)
    assert os.read(reading, 1) == b""  # nobody else has the writing end
    os.close(reading)


def test_a_flood_is_answered_message_by_message_and_nothing_grows(liar, ann):
    number = 100_000 if LONG else 5_000
    memory = _memory(liar.launcher.pid)
    null = os.open("/dev/null", os.O_RDONLY)
    for each in range(number):
        while not wire.send(liar.line, {"verb": "DANCE", "uid": each}, [null] * 8):
            assert "failed" in liar.answer()[0]
    os.close(null)
    assert eventually(lambda: _answered(liar, {"verb": "INBOX", "uid": 2001})) == {"inbox": 2001}
    assert _memory(liar.launcher.pid) - memory < 2 << 20


def _answered(liar, message: dict) -> dict | None:
    """What is answered but refusals, until there is silence: an answer for which the line has no room is not given."""
    wire.send(liar.line, message)
    found = None
    while select.select([liar.line], [], [], 0.5)[0]:
        answer, _ = liar.answer()
        found = found if "failed" in answer else answer
    return found


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_that_nobody_reads_the_answers_of_holds_nothing_up(liar):
    sent = 0
    while "event=unanswered" not in liar.machine.log:
        sent += wire.send(liar.line, {"verb": "DANCE", "uid": 1})
    children = eventually(lambda: process.look(liar.launcher.pid))
    assert children.state in (b"S", b"R")
    liar.line.settimeout(0.5)
    answer = eventually(lambda: _asked_again(liar))
    liar.line.settimeout(60)
    assert answer == {"inbox": 2001}


def _asked_again(liar) -> dict | None:
    """What the launcher says to a question, behind all else that it has said; None where it had no room to say it."""
    with contextlib.suppress(BlockingIOError, TimeoutError):
        wire.send(liar.line, {"verb": "INBOX", "uid": 2001})
        while "failed" in (answer := liar.answer()[0]):
            pass
        return answer
    return None


# -------------------------------------------------------------------- workers


RUN = {"do": "run", "id": "2001-a", "attempt": 1, "redelivered": False, "scheduled": 1e9, "hash": "x", "data": False}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "fly"},
        {"do": ["run"]},
        {"do": "run"},
        RUN,
        {**RUN, "offset": 2.5},
        {**RUN, "offset": -1, "id": "../../2001-a"},
        {**RUN, "offset": -1, "id": "ann-a"},
        {**RUN, "offset": -1, "id": "-a"},
        {**RUN, "offset": -1, "id": "99999999999-a"},
        {**RUN, "offset": -1, "id": 7},
        {**RUN, "offset": -1, "attempt": "1"},
        {**RUN, "offset": -1, "scheduled": float("nan")},
        {**RUN, "offset": -1, "scheduled": float("inf")},
        {**RUN, "offset": -1, "scheduled": -1e300},
        {**RUN, "offset": -1, "scheduled": 1e300},
        {**RUN, "offset": -1, "hash": None},
        {**RUN, "offset": -1, "data": 2},
        {**RUN, "offset": -1, "data": True},
        {"do": "stop", "id": "2001-nobody", "now": True},
        {"do": "stop", "id": None, "now": True},
        {"do": "go", "id": "2001-nobody", "attempt": 1},
        {"do": "reap", "id": "2001-x", "attempt": 1, "pid": "1", "start": None, "boot": None},
        {"do": "reap", "id": "2001-x", "attempt": None, "pid": 1, "start": None, "boot": None},
    ],
)
@pytest.mark.parametrize("number", [0, 1, 4, 8])
def test_a_worker_lives_through_what_is_no_order(liar, ann, message, number):
    before = len(fds(ann.pid))
    null = os.open("/dev/null", os.O_RDWR)
    ann.send(message, [null] * number)
    os.close(null)
    ended = ann.do("2001-after", liar.file_of("ann", "after", {"command": ["true"]}))
    assert ended["step"] == "ended"
    eventually(lambda: len(fds(ann.pid)) == before)


def test_a_packet_that_is_no_message_ends_the_line_and_not_the_jobs(liar):
    worker = liar.worker(2001)
    name = worker.run("2001-lives", liar.file_of("ann", "lives", liar.job("lives")))
    worker.line.send(b"\xff\xfe")
    assert worker.gone()
    assert worker.outcome(name)[-1]["step"] == "ended"
    assert liar.ran()["lives"] == "2001"


@pytest.mark.parametrize("lost", ["outcome", "stdout", "stderr"])
@pytest.mark.parametrize("kind", ["read-only", "full", "pipe"])
def test_results_that_cannot_be_written_are_the_liars_own_loss(liar, ann, lost, kind):
    reading, writing = os.pipe()
    os.close(reading)
    given = {"read-only": os.open("/dev/null", os.O_RDONLY), "full": os.open("/dev/full", os.O_RDWR), "pipe": writing}
    ann.run("2001-lost", liar.file_of("ann", "lost", {"command": ["echo", "x"]}), **{lost: given.pop(kind)})
    for each in given.values():
        os.close(each)
    ann.hear("ended", "2001-lost")
    assert ann.do("2001-found", liar.file_of("ann", "found", {"command": ["true"]}))["step"] == "ended"


def test_reap_ends_jobs_and_nothing_else_of_the_users(liar, ann):
    """A worker is told by its dispatcher which processes a dead worker has left: any session could be meant."""
    login = subprocess.Popen(["sh", "-c", "sleep 100 & wait"], **liar.machine.identity("ann"))
    started = process.start_time(login.pid)
    for name, start in (("2001-a", started), ("2001-b", started - 1), ("2001-c", 0), ("2001-d", None)):
        ann.send({"do": "reap", "id": name, "attempt": 1, "pid": login.pid, "start": start, "boot": None})
        ann.hear("reaped", name)
    assert login.poll() is None
    os.killpg(login.pid, signal.SIGKILL)
    login.wait()


def test_reap_hits_no_process_that_has_the_pid_by_now(liar):
    """Row 17: the session that the pid means, by its start, is a job's; another start is another process."""
    first, second = liar.worker(2001), liar.worker(2001)
    name = first.run("2001-reaped", liar.file_of("ann", "reaped", {"command": ["sleep", "100"]}))
    started = eventually(lambda: _started(first, name))
    os.kill(first.pid, signal.SIGKILL)
    assert first.gone()
    order = {"do": "reap", "attempt": 1, "pid": started["pid"], "boot": started["boot"]}
    second.send({**order, "id": "2001-other", "start": started["start"] + 1})
    second.hear("reaped", "2001-other")
    assert process.start_time(started["pid"]) == started["start"]
    second.send({**order, "id": "2001-reaped", "start": started["start"]})
    assert second.hear("reaped", "2001-reaped")["known"] is True
    assert process.look(started["pid"]) is None or process.look(started["pid"]).state == b"Z"
