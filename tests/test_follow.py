"""Waiting from files alone: results that appear, refusals, outputs that grow through several attempts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import UID, Runner

from cronq import follow, spool
from cronq.doorbell import Doorbell
from cronq.errors import NotEnded
from cronq.job import new_name
from cronq.tail import Tail


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "spool")


@pytest.fixture
def runner(root: str) -> Runner:
    return Runner(Path(root))


@pytest.fixture
def job_id() -> str:
    return f"{UID}-{new_name()}"


class Waiting:
    """Something that waits, in a thread of its own; it is waiting for real once `looked` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
        self.looked = threading.Event()
        self.results: list[Any] = []
        wait = follow.Bell.wait

        def watched(bell: follow.Bell, deadline: float | None) -> None:
            self.looked.set()
            wait(bell, deadline)

        monkeypatch.setattr(follow.Bell, "wait", watched)
        self._thread = threading.Thread(target=lambda: self.results.append((call(), time.monotonic())), daemon=True)
        self._thread.start()
        assert self.looked.wait(60)

    def end(self) -> tuple[Any, float]:
        self._thread.join(60)
        return self.results[0]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda call: Waiting(monkeypatch, call)


# ---------------------------------------------------------------- results


def test_a_result_that_is_there_is_found_at_once(root: str, runner: Runner, job_id: str) -> None:
    runner.ends(job_id, exit_code=0)
    assert list(follow.wait(root, [job_id])) == [(job_id, {"state": "done", "exit_code": 0})]


def test_a_result_is_seen_within_milliseconds(
    root: str, runner: Runner, job_id: str, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL", 60.0)  # so that only the doorbell can have told it
    waiter = waiting(lambda: list(follow.wait(root, [job_id])))
    runner.ends(job_id)
    ended = time.monotonic()
    found, seen = waiter.end()
    assert found[0][0] == job_id
    assert seen - ended < 30


def test_without_inotify_a_result_is_seen_by_looking(
    root: str, runner: Runner, job_id: str, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "Doorbell", lambda: Doorbell(inotify=False))
    waiter = waiting(lambda: list(follow.wait(root, [job_id])))
    runner.ends(job_id)
    assert waiter.end()[0] == [(job_id, {"state": "done"})]


@pytest.mark.parametrize("content", [b"", b'{"state": "do', b"[]\n", b"{}\n"])
def test_a_file_that_is_not_whole_is_not_there_yet(root: str, runner: Runner, job_id: str, content: bytes) -> None:
    path = runner.folder(job_id) / "result.json"
    path.write_bytes(content)
    assert follow.result(root, job_id) is None
    with pytest.raises(NotEnded):
        list(follow.wait(root, [job_id], timeout=0.0))
    path.write_bytes(b'{"state": "done"}\n{"is": "older text"')
    assert follow.result(root, job_id) == {"state": "done"}


def test_many_are_given_as_they_end(root: str, runner: Runner, waiting: Any) -> None:
    job_ids = [f"{UID}-{new_name()}" for _ in range(100)]
    runner.ends(job_ids[50])
    found = follow.wait(root, job_ids)
    assert next(found)[0] == job_ids[50]
    for job_id in reversed(job_ids):
        runner.ends(job_id)
    assert {job_id for job_id, _ in found} == set(job_ids) - {job_ids[50]}


def test_a_bound_bounds_the_waiting(root: str, runner: Runner, job_id: str) -> None:
    with pytest.raises(NotEnded):
        list(follow.wait(root, [job_id], timeout=0.05))


def test_a_refusal_ends_the_waiting(root: str, runner: Runner, job_id: str, waiting: Any) -> None:
    waiter = waiting(lambda: list(follow.wait(root, [job_id])))
    runner.rejects(job_id.partition("-")[2] + ".job", "unknown task 'x'", 65)
    ((_, found),) = waiter.end()[0]
    assert (found["state"], found["reason"], follow.exit_code(found)) == ("rejected", "unknown task 'x'", 65)


def test_a_refusal_of_an_earlier_file_of_that_name_is_not_this_ones(root: str, runner: Runner) -> None:
    runner.rejects("backup.job", "long ago", 65)
    os.utime(Path(root) / "rejected" / str(UID) / "backup.job.reason", (1000, 1000))
    assert follow.refusal(root, f"{UID}-backup", since=time.time()) is None
    runner.rejects("backup.job", "just now", 73)
    found = follow.refusal(root, f"{UID}-backup", since=time.time() - 5)
    assert found is not None
    assert found["reason"] == "just now"


def test_a_chosen_name_is_found_under_the_id_that_it_got(root: str, runner: Runner) -> None:
    now = time.time()
    old, new, newer = (f"{UID}-{int((now + add) * 1e6):013x}-backup" for add in (-100, 1, 2))
    other = f"{UID}-{int((now + 1) * 1e6):013x}-my-backup"
    for job_id in (old, new, newer, other):
        runner.ends(job_id, note=job_id)
    found = follow.ended(root, f"{UID}-backup", since=now)
    assert found is not None
    assert found["note"] == new
    assert follow.actual(root, f"{UID}-backup") == newer
    spool.put(root, "backup", b"{}", chosen=True)
    assert follow.actual(root, f"{UID}-backup", now) == f"{UID}-backup"  # it still lies in the inbox


# ---------------------------------------------------------------- batches


def test_members_come_as_they_end_and_the_batch_last(root: str, runner: Runner, job_id: str) -> None:
    found = follow.members(root, job_id, 12)
    runner.ends(f"{job_id}+03")
    assert next(found) == (f"{job_id}+03", {"state": "done"})
    runner.ends(f"{job_id}+12", "dead", exit_code=1)
    assert next(found) == (f"{job_id}+12", {"state": "dead", "exit_code": 1})
    runner.ends(f"{job_id}+01")
    runner.ends(job_id, "dead", jobs=12)
    rest = list(found)
    assert rest[-1][0] == job_id
    assert dict(rest)[f"{job_id}+01"] == {"state": "done"}
    assert dict(rest)[f"{job_id}+02"] is None
    assert len(rest) == 11


def test_the_members_of_a_refused_batch_are_not_spoken_of(root: str, runner: Runner, job_id: str) -> None:
    runner.rejects(job_id.partition("-")[2] + ".jobs", "line 2: unknown task", 65)
    ((ended, found),) = follow.members(root, job_id, 1000)
    assert ended == job_id
    assert found is not None
    assert found["state"] == "rejected"


def test_a_large_batch_is_looked_at_in_part(root: str, runner: Runner, job_id: str) -> None:
    """Members far behind are seen as soon as those before them have ended, or all of it has."""
    found = follow.members(root, job_id, 1000)
    for member in follow.member_ids(job_id, 1000):
        runner.ends(member)
    runner.ends(job_id)
    assert [member for member, _ in found] == [*follow.member_ids(job_id, 1000), job_id]


# ---------------------------------------------------------------- output


def test_output_is_handed_on_while_the_job_runs(
    root: str, runner: Runner, job_id: str, waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL", 60.0)
    parts: list[tuple[str, bytes]] = []
    came = threading.Event()

    def take(name: str) -> Any:
        return lambda part: (parts.append((name, part)), came.set())

    waiter = waiting(lambda: follow.stream(root, job_id, {"stdout": take("out"), "stderr": take("err")}))
    runner.begins(job_id)
    folder = runner.folder(job_id)
    with (
        open(folder / "stdout", "ab", 0) as stdout,
        open(folder / "stderr", "ab", 0) as stderr,
    ):  # kept open, as a job's
        for file, text in ((stdout, b"one\n"), (stderr, b"oh\n"), (stdout, b"two\n")):
            came.clear()
            file.write(text)
            assert came.wait(30)
    runner.ends(job_id, exit_code=0)
    assert waiter.end()[0] == {"state": "done", "exit_code": 0}
    assert parts == [("out", b"one\n"), ("err", b"oh\n"), ("out", b"two\n")]


def test_all_that_was_printed_before_the_end_is_handed_on(root: str, runner: Runner, job_id: str) -> None:
    runner.begins(job_id)
    runner.prints(job_id, b"x" * 1_000_000)
    runner.ends(job_id)
    parts: list[bytes] = []
    follow.stream(root, job_id, {"stdout": parts.append})
    assert b"".join(parts) == b"x" * 1_000_000


def test_attempts_are_shown_one_after_the_other(root: str, runner: Runner, job_id: str) -> None:
    tail = Tail(str(runner.root), job_id, "stdout")
    assert list(tail.read()) == []
    runner.begins(job_id)
    runner.prints(job_id, b"first")
    assert list(tail.read()) == [b"first"]
    runner.prints(job_id, b" and last words")
    runner.begins(job_id)
    runner.prints(job_id, b"second")
    runner.begins(job_id)  # two attempts between two looks
    runner.prints(job_id, b"third")
    assert list(tail.read()) == [b" and last words", b"second", b"third"]
    runner.prints(job_id, b"!")
    assert list(tail.read()) == [b"!"]
    tail.close()


def test_only_the_latest_attempt_may_be_asked_for(root: str, runner: Runner, job_id: str) -> None:
    for text in (b"first", b"second"):
        runner.begins(job_id)
        runner.prints(job_id, text)
    tail = Tail(str(runner.root), job_id, "stdout", earlier=False)
    assert list(tail.read()) == [b"second"]
    tail.close()


def test_an_attempt_that_begins_in_mid_look_comes_in_its_turn(
    root: str, runner: Runner, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed as `stdout`, renamed before it is opened: what is opened then is a later attempt's."""
    runner.begins(job_id)
    runner.prints(job_id, b"first")
    listed = Tail._files

    def files(tail: Tail) -> list[str]:
        found = listed(tail)
        monkeypatch.setattr(Tail, "_files", listed)
        runner.begins(job_id)
        runner.prints(job_id, b"second")
        return found

    monkeypatch.setattr(Tail, "_files", files)
    tail = Tail(str(runner.root), job_id, "stdout")
    assert list(tail.read()) == [b"first", b"second"]
    tail.close()


# ---------------------------------------------------------------- exit codes


def cases() -> Iterator[tuple[dict[str, Any], int]]:
    yield {"state": "done", "exit_code": 0}, 0
    yield {"state": "dead", "exit_code": 3}, 3
    yield {"state": "dead", "exit_code": 75, "reason": "exit code 75 (try again later)"}, 75
    yield {"state": "dead", "signal": 9, "reason": "killed by signal 9 (SIGKILL)"}, 137
    yield {"state": "dead", "signal": 15, "reason": "ran longer than its timeout", "timeout": True}, 124
    yield {"state": "dead", "exit_code": 0, "reason": "ran longer than its timeout", "timeout": True}, 124
    yield {"state": "dead", "exit_code": None, "reason": "unknown: its worker died in mid-job"}, 125
    yield {"state": "dead", "exit_code": 0, "reason": "its output could not be kept"}, 125
    yield {"state": "cancelled", "exit_code": None, "signal": None, "reason": "cancelled"}, 125
    yield {"state": "cancelled", "signal": 15, "reason": "cancelled"}, 143
    yield {"state": "cancelled", "exit_code": 0, "reason": "cancelled"}, 143
    yield {"state": "cancelled", "exit_code": 4, "reason": "cancelled"}, 4
    yield {"state": "expired"}, 125
    yield {"state": "skipped", "reason": "0-x is dead"}, 125
    yield {"state": "rejected", "code": 77}, 77
    yield {"state": "rejected"}, 65
    yield {"state": "done", "jobs": 3, "exit_code": 0}, 0
    yield {"state": "done", "jobs": 3, "exit_code": 1, "reason": "1 jobs of the batch are not done"}, 1


@pytest.mark.parametrize(("found", "code"), list(cases()))
def test_waiting_exits_as_the_job_did(found: dict[str, Any], code: int) -> None:
    assert follow.exit_code(found) == code


def test_who_waits_for_a_job_that_another_stands_for_is_shown_how_that_goes(
    root: str, runner: Runner, job_id: str, waiting: Any
) -> None:
    runner.begins(job_id)
    mine = f"{UID}-{new_name()}"
    again = threading.Event()
    its = waiting(lambda: follow.stream(root, mine, {}, look=lambda known: again.set() if known == job_id else None))
    runner.rejects(f"{mine.partition('-')[2]}.job", f"it is queued already\nthe same as {job_id} (attached)", 0)
    assert again.wait(60)
    runner.ends(job_id, exit_code=0)
    assert its.end()[0]["state"] == "done"
