"""Retention: what is too old or too much goes, in slices and quiet turns; what anything still needs stays."""

import itertools
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cron.bench import Bench
from desk import ANN, BOB, Desk

from cronq import additions, retention, states
from cronq.entry import Entry
from cronq.house import Now
from cronq.retention import Rounds

DAY = 86400.0
NOW = 1_900_000_000.0
FILES = ("job.json", "stdout", "stderr", "result.json")


@pytest.fixture
def place(tmp_path):
    made = Bench(tmp_path, os.getuid())
    yield made
    made.close()


def job_id(name: str, age: float, uid: int | None = None) -> str:
    """A job's that was submitted so many seconds ago."""
    return f"{os.getuid() if uid is None else uid}-{int((NOW - age) * 1e6):013x}-{name}"


def ended(root: Path, name: str, age: float, *, uid: int | None = None, size: int = 3, **more) -> str:
    """What is left of a job that ended so many seconds ago, a second after it was submitted."""
    made = job_id(name, age + 1, uid)
    folder = Path(root) / "out" / made.partition("-")[0] / made
    folder.mkdir(parents=True)
    for each in FILES[:3]:
        (folder / each).write_text("x" * size)
    (folder / "result.json").write_text(json.dumps({"id": made, "state": "done", "ended": NOW - age, **more}) + "\n")
    return made


def dead(place: Bench, name: str, age: float, state: str = states.DEAD, **more) -> str:
    """A dead letter of a job that died so many seconds ago."""
    made = ended(place.root, name, age, state=state)
    (place.root / "out" / str(place.uid) / made / "job.json").unlink()
    entry = Entry(id=made, due=int((NOW - age) * 1e6), hash="h" * 22, **more)
    place.house.shelves.create(state, entry, b'{"command": ["true"]}')
    place.house.backlog.put(state, entry)
    return made


def sweep(place: Bench, now: float = NOW) -> None:
    """A round of its own, and what a turn does then."""
    place.house.rounds = rounds = Rounds(now)
    retention.turn(place.house, Now(now, now), 0)
    while rounds.busy:
        retention.turn(place.house, Now(now, now), 0)
    place.house.history.flush(now)
    place.house.shelves.sync()


def left(place: Bench) -> set[str]:
    return {name.rpartition("-")[2] for name in os.listdir(place.root / "out" / str(place.uid))}


# ---------------------------------------------------------------- what goes


def test_results_are_kept_for_a_week_and_then_go_whole(place):
    for name, age in (("young", 6.9 * DAY), ("old", 7.1 * DAY), ("older", 70 * DAY)):
        ended(place.root, name, age)
    sweep(place)
    assert left(place) == {"young"}
    place.toml('[retention]\nresults = "never"\n')
    sweep(place, NOW + 9000 * DAY)
    assert left(place) == {"young"}
    place.toml('[retention]\nresults = "30d"\n')
    sweep(place, NOW + 24 * DAY)
    assert left(place) == set()


def test_a_job_that_waited_long_in_the_queue_is_as_old_as_its_end(place):
    late = ended(place.root, "late", 1.0)
    os.rename(
        place.root / "out" / str(place.uid) / late, place.root / "out" / str(place.uid) / job_id("late", 50 * DAY)
    )
    sweep(place)
    assert left(place) == {"late"}


def test_output_can_go_before_its_result(place):
    place.toml('[retention]\nlogs = "1h"\n')
    for name, age in (("fresh", 3000), ("stale", 4000)):
        made = ended(place.root, name, age)
        (place.root / "out" / str(place.uid) / made / "stdout.1").touch()
    sweep(place)
    there = {path.name[-5:]: sorted(os.listdir(path)) for path in (place.root / "out" / str(place.uid)).iterdir()}
    assert there["stale"] == ["job.json", "result.json"]
    assert there["fresh"] == sorted([*FILES, "stdout.1"])


def test_a_queue_may_keep_for_another_time(place):
    place.toml('[queues.mail]\nretention = { results = "1h" }\n[queues.cron]\nretention = { results = "never" }\n')
    for queue in ("mail", "cron", "default"):
        ended(place.root, f"old{queue}", 8 * DAY, queue=queue)
        ended(place.root, f"new{queue}", 2 * 3600, queue=queue)
    sweep(place)
    assert left(place) == {"oldcron", "newcron", "newdefault"}


def test_of_too_many_results_the_last_that_ended_stay_of_each_user_and_queue(place):
    place.toml("[retention]\nmax_results = 3\n[queues.wide]\nretention = { max_results = 5 }\n")
    for number in range(8):
        for queue in ("narrow", "wide"):
            ended(place.root, f"{queue}{number}", 100 - number, queue=queue)
    other = ended(place.root, "other", 500, uid=place.uid + 1, queue="narrow")
    sweep(place)
    assert left(place) == {f"narrow{n}" for n in (5, 6, 7)} | {f"wide{n}" for n in (3, 4, 5, 6, 7)}
    assert (place.root / "out" / str(place.uid + 1) / other).exists()


def test_of_too_large_results_the_last_that_ended_stay(place):
    place.toml('[retention]\nmax_size = "10K"\n')
    for number in range(6):
        ended(place.root, f"big{number}", 100 - number, size=1000)
    sweep(place)
    assert left(place) == {"big3", "big4", "big5"}


def test_dead_letters_are_kept_for_ninety_days_and_the_history_says_that_they_went(place):
    for name, age in (("young", 80 * DAY), ("old", 91 * DAY)):
        dead(place, name, age)
    skipped = dead(place, "skipped", 91 * DAY, state=states.SKIPPED)
    sweep(place)
    assert left(place) == {"young"}
    assert [entry.id[-5:] for entry in place.house.backlog.of(states.DEAD)] == ["young"]
    assert skipped not in place.house.backlog
    assert len(list((place.root / "queue").rglob("*,*"))) == 1
    lines = [json.loads(each) for path in place.house.history.days() for each in Path(path).read_text().splitlines()]
    assert {(line["id"][-3:], line["to"], line["cause"]) for line in lines} == {
        ("old", "removed", "retention"),
        ("ped", "removed", "retention"),
    }


def test_of_too_many_dead_letters_the_last_that_died_stay(place):
    place.toml("[retention]\nmax_dead = 2\n")
    for number in range(5):
        dead(place, f"dead{number}", 100 - number)
        dead(place, f"other{number}", 100 - number, queue="other") if number < 2 else None
    sweep(place)
    assert left(place) == {"dead3", "dead4", "other0", "other1"}


def test_refused_files_and_their_reasons_go_a_month_after_they_were_refused(place):
    folder = place.root / "rejected" / str(place.uid)
    for name in ("a.job", "a.job.reason"):
        (folder / name).write_text("x")
    os.utime(folder / "a.job", (1, 1))  # its producer says how old it is
    now = time.time()
    sweep(place, now + 29 * DAY)
    assert sorted(os.listdir(folder)) == ["a.job", "a.job.reason"]
    sweep(place, now + 31 * DAY)
    assert os.listdir(folder) == []


def test_drafts_that_a_crash_left_in_an_inbox_go_after_36_hours_and_nothing_else_does(place):
    inbox = place.root / "in" / str(place.uid)
    (inbox / ".left.tmp").touch()
    (inbox / ".kept").touch()
    (inbox / "other.tmp").touch()
    (inbox / ".link.tmp").symlink_to("/etc/passwd")
    (inbox / ".folder.tmp").mkdir()
    now = time.time()
    sweep(place, now + 35 * 3600)
    assert (inbox / ".left.tmp").exists()
    sweep(place, now + 37 * 3600)
    assert sorted(os.listdir(inbox)) == [".folder.tmp", ".kept", ".link.tmp", "other.tmp"]


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_on_a_system_the_dispatcher_who_is_not_root_removes_what_is_its_users():
    desk = Desk()
    try:
        for uid in (ANN, BOB):
            for name, age in (("old", 8 * DAY), ("new", DAY)):
                ended(desk.root, name, age, uid=uid)
            draft = desk.root / "in" / str(uid) / ".left.tmp"
            draft.touch()
            os.chown(draft, uid, uid)
        for path in (desk.root / "out").rglob("*"):
            os.chown(path, desk.uid, desk.uid)

        def prepare(house):
            now = max(NOW, time.time() + 2 * DAY)
            rounds = Rounds(0.0)
            rounds.turn(house, Now(now, 1.0), 0)
            while rounds.busy:
                rounds.turn(house, Now(now, 1.0), 0)

        desk.start(prepare)
        there = [path.name.rpartition("-")[2] for path in (desk.root / "out").glob("*/*")]
        assert there == ["new", "new"]
        assert not list((desk.root / "in").glob("*/.left.tmp"))
    finally:
        desk.close()


# ---------------------------------------------------------------- what stays


def put(place: Bench, state: str, made: str, **more) -> None:
    place.house.backlog.put(state, Entry(id=made, due=int(NOW * 1e6), hash="h" * 22, **more))


def test_what_has_not_ended_stays_with_what_its_earlier_attempts_printed(place):
    put(place, states.RUNNING, ended(place.root, "again", 20 * DAY))
    sweep(place)
    assert left(place) == {"again"}


@pytest.mark.parametrize("state", [states.WAITING, states.SKIPPED])
def test_what_a_job_waits_for_or_would_wait_for_again_stays(place, state):
    from cronq.after import Needs

    parent, child = ended(place.root, "parent", 20 * DAY), job_id("child", 10)
    place.house.backlog.waits.add(child, Needs(after=(parent,)))
    put(place, state, child, flags="w")
    sweep(place)
    assert left(place) == {"parent"}
    place.house.backlog.forget(child)
    sweep(place)
    assert left(place) == set()


def test_a_dead_letter_stays_while_one_that_was_skipped_because_of_it_does(place):
    from cronq.after import Needs

    parent = dead(place, "parent", 100 * DAY)
    child = dead(place, "child", 10 * DAY, state=states.SKIPPED, flags="w")
    place.house.backlog.waits.add(child, Needs(after=(parent,)))
    sweep(place)
    assert left(place) == {"parent", "child"}


def test_the_job_that_holds_a_unique_key_for_a_while_stays(place):
    holder = ended(place.root, "holder", 20 * DAY)
    place.house.backlog.taken.open("k" * 22, int((NOW + 60) * 1e6), holder, int(NOW * 1e6))
    sweep(place)
    assert left(place) == {"holder"}
    sweep(place, NOW + 120)
    assert left(place) == set()


def test_results_of_a_batch_that_has_not_ended_stay_and_the_file_of_one_whose_jobs_may_be_retried(place):
    batch, over = job_id("batch", 20 * DAY), ended(place.root, "over", 20 * DAY, jobs=2)
    os.rename(
        place.root / "out" / str(place.uid) / ended(place.root, "member", 20 * DAY),
        place.root / "out" / str(place.uid) / f"{batch}+1",
    )
    put(place, states.RUNNING, batch, batch=(2, 10, 2))
    put(place, states.DEAD, f"{over}+2")
    place.house.backlog.put(states.READY, Entry(id=f"{batch}+2", due=int(NOW * 1e6), hash="h" * 22))
    sweep(place)
    assert left(place) == {"batch+1", "over"}


def test_results_of_what_was_added_to_a_batch_stay_as_long_as_those_of_its_own_jobs(place):
    batch, over = job_id("batch", 20 * DAY), ended(place.root, "over", 20 * DAY, jobs=2)
    for parent, name in ((batch, "added"), (over, "more")):
        added = Entry(id=ended(place.root, name, 20 * DAY), due=0, into=parent.partition("-")[2])
        additions.note(place.house, added)
    put(place, states.RUNNING, batch, batch=(2, 10, 2))
    put(place, states.DEAD, job_id("dead", 1), into=over.partition("-")[2])
    ended(place.root, "other", 20 * DAY)
    sweep(place)
    assert left(place) == {"batch", "added", "over", "more"}


def test_days_of_the_history_go_whole_but_not_the_last_two_nor_what_a_unique_key_needs(place):
    folder = Path(place.house.history.folder)

    def day(ago: float) -> Path:
        return folder / time.strftime("%Y-%m-%d.jsonl", time.gmtime(NOW - ago * DAY))

    for ago in (200, 91, 90, 50, 20):
        day(ago).write_text('{"t":1,"id":"1-a","from":"running","to":"done"}\n')
    sweep(place)
    assert sorted(folder.iterdir()) == [day(90), day(50), day(20)]
    sweep(place, NOW + 500 * DAY)
    assert sorted(folder.iterdir()) == [day(50), day(20)]
    day(200).touch()
    for ago in (50, 20):  # each of them says that a key is taken of which a day before it tells
        day(ago).write_text(json.dumps({"t": 1, "reach": int((NOW + 500 * DAY) * 1e6)}) + "\n")
    sweep(place, NOW + 499 * DAY)
    assert day(200) in folder.iterdir()
    sweep(place, NOW + 501 * DAY)
    assert day(200) not in folder.iterdir()


def test_of_a_history_that_is_too_large_the_first_days_go(place):
    place.toml('[retention]\nmax_history = 2500\nhistory = "never"\n')
    folder = Path(place.house.history.folder)
    for day in range(1, 7):
        (folder / f"2030-01-0{day}.jsonl").write_text("{}\n" + "x" * 997)
    sweep(place)
    assert sorted(path.name[8:10] for path in folder.iterdir()) == ["05", "06"]


# ---------------------------------------------------------------- when, and how much at a time


def test_a_turn_that_is_at_work_removes_nothing_unless_a_minute_went_by_without_a_quiet_one(place):
    ended(place.root, "old", 8 * DAY)
    rounds = Rounds(NOW)
    for second in (0, 1, 59):
        rounds.turn(place.house, Now(NOW, NOW + second), retention.FEW + 1)
    assert rounds.busy
    assert left(place) == {"old"}
    place.house.urgent = True
    rounds.turn(place.house, Now(NOW, NOW + 59.5), 0)
    assert left(place) == {"old"}
    rounds.turn(place.house, Now(NOW, NOW + 61), retention.FEW + 1)
    assert left(place) == set()


def test_a_turn_removes_a_slice(place, monkeypatch):
    monkeypatch.setattr(retention, "SLICE", -1.0)
    for number in range(100):
        ended(place.root, f"old{number}", 8 * DAY)
    rounds = Rounds(0.0)
    steps = [100]
    while not steps[1:] or rounds.busy:
        rounds.turn(place.house, Now(NOW, 1.0), 0)
        steps.append(len(left(place)))
    assert steps[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(steps)) == 1


def test_what_ends_all_the_time_does_not_pile_up_however_busy_the_dispatcher_is(place, monkeypatch):
    """Each second one result more is too old, in a turn that is at work; a slice is enough for two or three of them."""
    spent = [0.0]
    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=lambda: spent[0]))
    remove = place.house.shelves.remove_results

    def counted(gone: str) -> None:
        spent[0] += retention.SLICE / 2.5
        remove(gone)

    monkeypatch.setattr(place.house.shelves, "remove_results", counted)
    rounds, folder = Rounds(NOW), place.root / "out" / str(place.uid)
    folder.mkdir(exist_ok=True)
    piled, slices = [], []
    for second in range(4000):
        made = folder / job_id(f"old{second}", 8 * DAY)
        made.mkdir()
        (made / "result.json").write_text(f'{{"ended": {NOW - 8 * DAY}}}\n')
        before = spent[0]
        rounds.turn(place.house, Now(NOW, NOW + second), retention.FEW + 1)
        slices.append(spent[0] - before)
        if second % 50 == 0:
            piled.append(len(os.listdir(folder)))
    assert max(piled[40:]) <= max(piled[:40]) * 1.1, piled
    assert max(slices) <= retention.SLICE * (retention.MOST_SLICES + 1)


def test_between_rounds_nothing_is_looked_at(place, monkeypatch):
    sweep(place)
    monkeypatch.setattr(Rounds, "_go_round", None)
    place.turn(NOW + retention.EVERY - 1)
    assert not place.house.rounds.busy
    with pytest.raises(TypeError):
        place.turn(NOW + retention.EVERY)


def test_what_cannot_be_removed_is_said_and_keeps_nothing_else(place, capfd):
    strange = ended(place.root, "strange", 8 * DAY)
    (place.root / "out" / str(place.uid) / strange / "folder").mkdir()
    ended(place.root, "old", 8 * DAY)
    sweep(place)
    assert left(place) == {"strange"}
    assert capfd.readouterr().err.count("event=not-removed") == 1


# ---------------------------------------------------------------- a crash in between


def test_a_kill_at_any_removal_leaves_a_spool_in_order_and_the_next_round_removes_the_rest(tmp_path):
    """Killed before the first removal, before the second, and so on, until there are no more."""
    for cut in range(1, 40):
        (tmp_path / str(cut)).mkdir()
        place = Bench(tmp_path / str(cut), os.getuid())
        for name, age in (("old", 8 * DAY), ("older", 9 * DAY), ("new", DAY)):
            ended(place.root, name, age)
        dead(place, "dead", 91 * DAY)
        for ago in (100, 99, 2, 1):
            day = time.strftime("%Y-%m-%d", time.gmtime(NOW - ago * DAY))
            (place.root / "history" / f"{day}.jsonl").write_text("{}\n")
        if pid := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            _sweep_and_be_killed(place, cut)
        place.restart()
        _is_in_order(place)
        for _ in range(2):  # of a dead letter only its result may be left: that goes when it is a week old, as it is
            sweep(place)
        assert left(place) == {"new"}
        assert not place.house.backlog.counts[states.DEAD]
        assert len(list((place.root / "history").glob("*.jsonl"))) <= 3
        place.close()
        if code == 0:
            break
    assert code == 0
    assert cut > 15


def _sweep_and_be_killed(place: Bench, cut: int) -> None:
    count = 0

    def counting(act):
        def call(*given, **more):
            nonlocal count
            count += 1
            if count == cut:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*given, **more)

        return call

    code = 1
    try:
        os.unlink, os.rmdir = counting(os.unlink), counting(os.rmdir)
        sweep(place)
        code = 0
    finally:
        os._exit(code)


def _is_in_order(place: Bench) -> None:
    """What still has a name has a result that can be read, or nothing in it; each dead letter has its result."""
    for folder in (place.root / "out" / str(place.uid)).iterdir():
        files = os.listdir(folder)
        assert not files or json.loads((folder / "result.json").read_text())["id"]
    for entry in place.house.backlog.of(states.DEAD):
        assert place.house.shelves.result(entry.id)


def test_an_empty_result_directory_goes_at_once_and_one_without_a_result_as_if_it_had_ended_when_it_changed(place):
    for name in ("empty", "torn"):
        folder = place.root / "out" / str(place.uid) / job_id(name, 8 * DAY)
        folder.mkdir()
        if name == "torn":
            (folder / "result.json").touch()
        os.utime(folder, (NOW - 10, NOW - 10))
    sweep(place)
    assert left(place) == {"torn"}
    sweep(place, NOW + 7 * DAY)
    assert left(place) == set()


def test_all_results_of_a_batch_stay_while_a_job_of_it_or_a_callback_may_be_retried(place):
    """Its end is computed anew from them then."""
    batch = ended(place.root, "batch", 20 * DAY, jobs=2)
    folder = place.root / "out" / str(place.uid)
    for name in ("1", "complete"):
        os.rename(folder / ended(place.root, f"x{name}", 20 * DAY), folder / f"{batch}+{name}")
    put(place, states.DEAD, f"{batch}+2")
    sweep(place)
    assert len(list(folder.iterdir())) == 3
    place.house.backlog.forget(f"{batch}+2")
    sweep(place)
    assert list(folder.iterdir()) == []
