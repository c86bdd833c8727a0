"""The history: what has ended, read in slices; figures computed from it; what a restart finds out from it."""

import errno
import json
import os
import random
import time

import pytest
from conftest import World
from desk import ANN, BOB, CAROL, Desk, talk

from cronq import annals, answer, client, figures, history, spool
from cronq.caller import Doorman
from cronq.history import History
from cronq.house import Now
from cronq.shelves import SyncFailed

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
DAY = 86400
NOON = 1_795_521_600  # of a day, UTC
TASKS = """
[tasks.fine]
command = ["true"]
queue = "quick"
[tasks.flaky]
shell = "exit 1"
retries = 1
backoff = { base = 0.05, jitter = 0 }
"""


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A dispatcher and what has ended there: done, dead after two attempts, done, cancelled, expired."""
    world = World(tmp_path_factory.mktemp("history"))
    world.tasks(TASKS)
    world.start()
    world.run("submit", "--wait", "fine")
    world.run("submit", "--wait", "flaky", code=1)
    world.run("exec", "--wait", "--", "/bin/sh", "-c", "sleep 0.2")
    world.run("cancel", world.submit("exec", "--delay", "1h", "sleep", "7"))
    world.result(world.submit("submit", "--delay", "1h", "--expires", "0.01s", "fine"))
    yield world
    world.stop()


def told(world, *options, verb="history"):
    return [json.loads(line) for line in world.run(verb, "--json", *options).stdout.splitlines()]


def test_history_tells_of_each_job_that_ended_in_one_line_the_last_one_last(past):
    found = told(past)
    assert [each["state"] for each in found] == ["done", "dead", "done", "cancelled", "expired"]
    assert [each["ended"] for each in found] == sorted(each["ended"] for each in found)
    assert [each["task"] for each in found] == ["fine", "flaky", None, None, "fine"]
    assert [each["command"] for each in found] == [None, None, "/bin/sh -c 'sleep 0.2'", "sleep 7", None]
    assert [each["attempts"] for each in found] == [1, 2, 1, 0, 0]
    assert found[0]["queue"] == "quick"
    assert found[1]["reason"] == "exit code 1 (attempt 2 of 2)"
    assert 0.19 <= found[2]["run"] < 30
    assert 0 < found[2]["wait"] < 30
    assert found[3]["wait"] is None
    rows = [line.split("\t") for line in past.run("history").stdout.splitlines()]
    assert [(row[1], row[2], row[4]) for row in rows] == [(x["id"], x["state"], str(x["attempts"])) for x in found]


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["-n", "2"], [3, 4]),
        (["--state", "dead", "--state", "done"], [0, 1, 2]),
        (["--state", "done", "-n", "1"], [2]),
        (["--task", "fine"], [0, 4]),
        (["--task", "sh"], [2]),
        (["--since", "1h"], [0, 1, 2, 3, 4]),
        (["--until", "1h"], []),
        (["--user", str(os.getuid()), "--mine"], [0, 1, 2, 3, 4]),
        (["--user", "54321"], []),
    ],
)
def test_history_is_filtered_by_task_user_state_and_time(past, options, places):
    every = told(past)
    assert told(past, *options) == [every[place] for place in places]


def test_history_without_a_dispatcher_or_of_a_state_in_which_no_job_ends_is_a_sentence(past):
    assert "no job ends as 'ready'" in past.run("history", "--state", "ready", code=2).stderr
    assert "--since must be a time" in past.run("history", "--since", "soon", code=2).stderr
    assert "go with --tasks" in past.run("stats", "--task", "fine", code=2).stderr


def test_statistics_of_tasks_are_computed_from_the_history(past):
    found = {each.get("task") or each["command"]: each for each in told(past, "--tasks", verb="stats")}
    assert list(found) == ["fine", "flaky", "sh", "sleep"]
    wanted = {"runs": 2, "done": 0, "failed": 2, "retried": 1, "dead": 1, "expired": 0, "cancelled": 0}
    assert wanted.items() <= found["flaky"].items()
    assert {"runs": 1, "done": 1, "failed": 0, "expired": 1}.items() <= found["fine"].items()
    assert {"runs": 0, "cancelled": 1, "run_p50": None}.items() <= found["sleep"].items()
    assert found["sh"]["run_p50"] >= 0.19
    assert found["sh"]["since"] == told(past)[2]["ended"]
    assert told(past, "--stats", "--task", "sh") == [found["sh"]]
    assert told(past, "--tasks", "--until", "1h", verb="stats") == []


def test_stats_tell_of_each_queue_how_long_its_oldest_ready_job_has_been_due(past):
    (found,) = told(past, verb="stats")
    assert found["queues"] == {"default": {"dead": 1}}
    past.tasks(TASKS + "[limits]\nmax_jobs = 1\n")
    past.daemons[-1].send_signal(1)
    first = past.submit("exec", "--", "sleep", "300")
    waiting = past.submit("exec", "--queue", "narrow", "--", "true")
    began = spool.time_of(waiting)
    while "narrow" not in (found := told(past, verb="stats")[0])["queues"]:
        pass
    age = found["queues"]["narrow"]["oldest_ready"]
    assert 0 <= age <= time.time() - began
    later = told(past, verb="stats")[0]["queues"]["narrow"]
    assert later["ready"] == 1
    assert later["oldest_ready"] > age
    past.run("cancel", waiting)
    past.run("cancel", "--now", first)


# ---------------------------------------------------------------- who sees what


def write(root, day, *records, cut=b""):
    path = os.path.join(root, "history", time.strftime("%Y-%m-%d.jsonl", time.gmtime(day)))
    with open(path, "ab") as file:
        for record in records:
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        file.write(cut)
    os.chmod(path, 0o644)
    return path


def line(uid, number, to="done", t=NOON, **more):
    return {"t": t + number, "id": f"{uid}-job{number}", "from": "running", "to": to, **more}


@needs_root
def test_a_user_sees_the_history_of_his_own_jobs_only_operators_and_root_all():
    desk = Desk()
    try:
        write(desk.root, NOON, line(ANN, 1), line(BOB, 2), line(BOB, 3, "dead", task="t", outcome={"wall": 1}))
        desk.start(operators="games")
        seen = {uid: [each["id"] for each in desk.ask(uid, do="history") if "id" in each] for uid in (ANN, BOB, CAROL)}
        assert seen == {ANN: [f"{ANN}-job1"], BOB: [f"{BOB}-job2", f"{BOB}-job3"], CAROL: []}
        for uid, groups in ((0, ()), (CAROL, [60])):
            assert len(desk.ask(uid, groups, do="history")) == 1 + 3 + 1
            assert len(desk.ask(uid, groups, do="history", user=BOB)) == 1 + 2 + 1
            assert len(desk.ask(uid, groups, do="figures")) == 2 + 1
        for do in ("history", "figures", "stats"):
            assert desk.ask(ANN, do=do, user=BOB)[-1]["code"] == 77
        assert [each.get("runs") for each in desk.ask(ANN, do="figures")[:-1]] == [0]
        assert [desk.ask(uid, do="stats")[0]["done"] for uid in (ANN, BOB, CAROL, 0)] == [1, 1, 0, 2]
    finally:
        desk.close()


# ---------------------------------------------------------------- a long history


@pytest.fixture
def root(tmp_path):
    spool.make(str(tmp_path / "spool"), os.getuid())
    return str(tmp_path / "spool")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(annals, "BLOCK", 300)


def found(steps):
    return [each for each in steps if each is not None]


@pytest.mark.parametrize("last", [1, 2, 7, 40, 41, 95, 96, 200])
def test_the_last_lines_are_the_end_of_all_lines_wherever_blocks_of_them_end(root, small_blocks, last):
    rng = random.Random(4)
    states = ["done", "dead", "ready", "running"]
    for day in range(4):
        records = [
            line(1000, 100 * day + number, rng.choice(states), NOON + day * DAY, pad="x" * rng.randrange(700))
            for number in range(50)
        ]
        write(root, NOON + day * DAY, *records)
    folder = os.path.join(root, "history")
    for wanted in (annals.Wanted(), annals.Wanted(states=frozenset(["dead"]), since=NOON + DAY)):
        every = found(annals.ends(folder, wanted))
        assert len(every) > 30
        assert {each["to"] for each in every} == {"done", "dead"} & wanted.states
        assert found(annals.ends(folder, wanted, last)) == every[-last:]


def test_lines_that_a_crash_cut_and_those_that_end_nothing_are_passed_over(root, small_blocks):
    write(root, NOON, line(1, 1), cut=b'{"t":1795521602,"id":"1-job2","from":"running","to":"do\n')
    write(root, NOON, line(1, 5, "dead") | {"from": "dead"})
    write(root, NOON, line(1, 3), cut=b'{"t":1795521604,"id":"1-job4","from":"running","to":"done"')
    for last in (None, 2):
        ids = [each["id"] for each in found(annals.ends(os.path.join(root, "history"), annals.Wanted(), last))]
        assert ids == ["1-job1", "1-job3"]


def test_days_that_are_not_asked_for_are_not_opened(root):
    os.mkdir(os.path.join(root, "history", "2020-01-01.jsonl"))  # reading it would fail
    write(root, NOON, line(1, 1))
    folder = os.path.join(root, "history")
    assert len(found(annals.ends(folder, annals.Wanted(since=NOON - DAY)))) == 1
    assert len(found(annals.ends(folder, annals.Wanted(), 1))) == 1
    with pytest.raises(IsADirectoryError):
        found(annals.ends(folder, annals.Wanted()))


@pytest.mark.parametrize("do", ["history", "figures", "stats"])
def test_a_long_history_is_read_and_told_in_slices_and_never_held_in_memory(do, monkeypatch):
    """An answer stops where its step is over or enough waits to be read; a turn is between two steps."""
    monkeypatch.setattr(answer, "STEP", -1.0)  # it is over at once
    desk = Desk(system=False)
    try:
        number = 20_000
        write(desk.root, NOON, *(line(desk.uid, each, task=f"t{each % 3000}") for each in range(number)))
        most = {}

        def prepare(house):
            begun = answer.Answer(house, Doorman(desk.uid, False), desk.uid, frozenset(), b'{"do": "%s"}' % do.encode())
            most.update(steps=0, out=0, said=0)
            while not begun.over:
                begun.step(Now(time.time(), time.monotonic()))
                most["steps"] += 1
                most["out"] = max(most["out"], len(begun.out))
                most["said"] += len(begun.out.splitlines())
                begun.out.clear()
            (desk.folder / "told").write_text(json.dumps(most))

        desk.start(prepare)
        most = json.loads((desk.folder / "told").read_text())
        size = os.path.getsize(next((desk.root / "history").iterdir()))
        assert most["steps"] > size / annals.BLOCK
        assert most["out"] < answer.ENOUGH + 1000
        assert most["said"] == {"history": 2 + number, "figures": 1 + figures.MOST_GROUPS + 1, "stats": 2}[do]
        assert size > 10 * annals.BLOCK
    finally:
        desk.close()


def test_whoever_does_not_read_a_long_history_keeps_nobody_from_an_answer():
    desk = Desk(system=False)
    try:
        write(desk.root, NOON, *(line(desk.uid, each) for each in range(20_000)))
        desk.start()
        deaf = desk.connect()
        deaf.sendall(b'{"do": "history"}\n')
        assert talk(desk.connect(), {"do": "history", "last": 1})[1]["id"] == f"{desk.uid}-job19999"
        with deaf.makefile() as said:
            assert sum(1 for _ in said) == 2 + 20_000
    finally:
        desk.close()


def test_whoever_waits_for_an_answer_that_takes_long_hears_that_it_is_under_way(root, monkeypatch):
    monkeypatch.setattr(answer, "SILENCE", -1.0)
    monkeypatch.setattr(answer.verbs, "answer", lambda _ask: iter([None] * 3 + [{"id": "x"}]))
    monkeypatch.setattr(answer, "STEP", -1.0)

    class Nobody:
        flushes, strangers, broken = 0, {}, ""
        config = type("", (), {"operators": None})

    begun = answer.Answer(Nobody(), Doorman(os.getuid(), False), os.getuid(), frozenset(), b'{"do": "x"}')
    said = b""
    while not begun.over:
        begun.step(Now(0.0, 0.0))
        said += begun.out
        begun.out.clear()
    assert said.startswith(b'\n\n\n{"id": "x"}\n')
    assert list(client._objects("", iter(said.split(b"\n")))) == [{"id": "x"}]


def test_ends_are_counted_once_however_many_ask_and_as_the_files_are_pruned(root, small_blocks):
    counted = annals.Ended(os.path.join(root, "history"))
    old = write(root, NOON - DAY, *(line(7, number) for number in range(30)))
    write(root, NOON, *(line(8, number, "cancelled") for number in range(30)), cut=b'{"t":1,"id":"8-x"')
    first, second = counted.look(), counted.look()
    next(first), next(second), next(first)
    list(second), list(first)
    assert (counted.counts()["done"], counted.counts()["cancelled"]) == (30, 30)
    write(root, NOON, cut=b',"from":"ready","to":"expired"}\n')
    list(counted.look())
    assert counted.counts(8) == {"done": 0, "cancelled": 30, "expired": 1, "rejected": 0}
    os.unlink(old)
    list(counted.look())
    assert counted.counts()["done"] == 0


def test_quantiles_are_right_to_three_percent():
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(1, 2) for _ in range(5000))
    spread = figures.Spread()
    for value in values:
        spread.add(value)
    assert spread.quantile(0.5) == pytest.approx(values[2499], rel=0.03)
    assert spread.quantile(0.95) == pytest.approx(values[4749], rel=0.03)


# ---------------------------------------------------------------- what a restart reads


def test_a_restart_reads_only_the_days_that_something_of_it_needs(root):
    os.mkdir(os.path.join(root, "history", "2020-01-01.jsonl"))  # reading it would fail
    write(root, NOON - DAY, {"t": 1, "id": "1-held", "from": "ready", "to": "held", "cause": "old"})
    write(root, NOON, {"t": 1, "id": "1-a", "from": "ready", "to": "running", "rate": {"queue q": NOON + 5}})
    kept = History(root)
    assert kept.recall(NOON, NOON - 60, set()).rates == {"queue q": NOON + 5}
    job = f"1-{(NOON - DAY) * 1_000_000:013x}-held"
    write(root, NOON - DAY, {"t": 2, "id": job, "from": "ready", "to": "held", "cause": "locked"})
    assert kept.recall(NOON, NOON - 60, {job}).causes == {job: "locked"}
    for since, held in ((NOON - 9 * DAY, set()), (NOON, {"1-of-any-time"})):
        with pytest.raises(IsADirectoryError):
            kept.recall(NOON, since, held)


def test_a_day_begins_with_how_far_unique_keys_reach_so_that_days_before_it_are_read_only_for_them(root):
    until = int((NOON + 3 * DAY) * 1e6)
    kept = History(root)
    kept.note(NOON, "1-a", "queued", "ready", unique="k" * 22, window=until)
    kept.flush(NOON)
    kept.reach = lambda: until
    for day in (1, 2, 4):
        kept.note(NOON + day * DAY, f"1-b{day}", "running", "done")
        kept.flush(NOON + day * DAY)
    kept.close()
    found = [annals.day_of(path)[-2:] for path in kept.days()]
    assert len(found) == 4
    assert kept.recall(NOON + 2.5 * DAY, NOON + 2.5 * DAY, set()).windows == {"k" * 22: (until, "1-a")}
    os.unlink(kept.days()[0])
    os.mkdir(os.path.join(root, "history", time.strftime("%Y-%m-%d.jsonl", time.gmtime(NOON))))
    with pytest.raises(IsADirectoryError):
        kept.recall(NOON + 2.5 * DAY, NOON + 2.5 * DAY, set())
    assert kept.recall(NOON + 3.5 * DAY, NOON + 3.5 * DAY, set()).windows == {}


def test_what_a_later_day_told_goes_before_what_an_earlier_one_did(root):
    for day in (0, 1):
        write(
            root,
            NOON + day * DAY,
            {"t": 1, "reach": 10**17},
            {"t": 1, "id": "1-x", "from": "ready", "to": "running", "rate": {"q": day}},
            {"t": 1, "id": f"1-{day}", "from": "queued", "to": "ready", "unique": "u", "window": 10**17},
            {"t": 1, "id": "1-h", "from": "ready", "to": "held", "cause": str(day)},
        )
    assert History(root).recall(NOON, 0, {"1-h"}) == history.Recalled({"q": 1.0}, {"u": (10**17, "1-1")}, {"1-h": "1"})


def test_the_name_of_a_day_is_flushed_by_whoever_opens_it_and_is_not_where_that_failed(tmp_path, monkeypatch):
    """A dispatcher was killed between both; or the disk refused, and that is final, as for each other flush."""
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / time.strftime("%Y-%m-%d.jsonl", time.gmtime(NOON))).write_text('{"cut')
    flushed, flush = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    one = History(str(tmp_path))
    one.note(NOON, "1-a", "ready", "running")
    one.flush(NOON)
    one.note(NOON, "1-a", "running", "done")
    one.flush(NOON)
    assert flushed == [str(tmp_path / "history")]

    def refuses(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuses)
    one.note(NOON + DAY, "1-b", "ready", "running")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SyncFailed, match="history: Input/output error"):
        one.flush(NOON + DAY)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    monkeypatch.setattr(os, "fsync", flush)
    one.close()
