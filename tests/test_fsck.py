"""`cronq fsck`: a sound spool has no finding, each damage has its own, and a repair loses nothing.

Spools here are filled by a real dispatcher. What root does on a system spool is in system/test_fsck_of_all.py.
"""

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import CRONQ, World, eventually

from cronq import fsck, job, soundness, spool, surroundings
from cronq.entry import Entry, digest, parse
from cronq.history import History
from cronq.shelves import home

UID = os.getuid()
TASKS = '[tasks.late]\ncommand = ["true"]\n'


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A spool with jobs in every state, filled by a dispatcher that has been stopped since."""
    made = World(tmp_path_factory.mktemp("filled"))
    made.tasks(TASKS)
    made.start()
    made.run("pause", "queue:closed")
    made.run("pause", "task:late")
    large = made.path / "large"
    large.write_bytes(b"input\n" * 30_000)
    made.names = {
        "done": made.submit("exec", "--", "echo", "done"),
        "dead": made.submit("exec", "--", "false"),
        "delayed": made.submit("exec", "--delay", "1h", "--", "true"),
        "held": made.submit("exec", "--delay", "2h", "--", "true"),
        "expired": made.submit("exec", "--expires", "2020-01-01T00:00:00Z", "--", "true"),
        "input": made.submit("exec", "--delay", "1h", "--stdin", str(large), "--", "cat"),
        "ready": made.submit("exec", "--queue", "closed", "--", "true"),
        "cancelled": made.submit("exec", "--delay", "1h", "--", "true"),
    }
    made.run("hold", made.names["held"])
    made.run("cancel", made.names["cancelled"])
    made.result(made.names["dead"])
    made.names["waiting"] = made.submit("exec", "--after", made.names["delayed"], "--", "true")
    made.names["skipped"] = made.submit("exec", "--after", made.names["dead"], "--", "true")
    made.names["batch"] = f"{UID}-{job.new_name()}"
    lines = [{"jobs": 70}, *({"command": ["true"], "queue": "closed", "note": str(number)} for number in range(70))]
    batch = made.inbox / f"{made.names['batch'].partition('-')[2]}.jobs"
    (made.inbox / ".batch").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made.inbox / ".batch").rename(batch)
    made.drop("wrong", {"nonsense": 1})
    made.rejected("wrong")
    for name in ("done", "expired", "cancelled", "skipped"):
        made.result(made.names[name])
    made.run("crontab", "-", input="0 3 * * * true\n")
    eventually(lambda: len(list((made.spool / "queue/ready").rglob("*+*"))) >= 64)
    made.stop()
    return made


@pytest.fixture
def world(filled, tmp_path):
    """A copy of it."""
    made = World(tmp_path)
    shutil.copytree(filled.spool, made.spool, symlinks=True, ignore=shutil.ignore_patterns("control"))
    made.tasks(TASKS)
    made.names = filled.names
    yield made
    made.stop()


@pytest.fixture
def check(world, capsys, monkeypatch):
    """`cronq fsck --json` in this process: what it found, and what it exited with."""
    monkeypatch.setattr(fsck, "SETTLED", 0.0)

    def run(repair=False):
        code = fsck.main(str(world.spool), repair, True)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()], code

    return run


def test_a_sound_spool_has_no_finding_stopped_or_running(world):
    assert world.run("fsck").stdout == f"{world.spool}: clean\n"
    world.start()
    assert world.run("fsck", "--json").stdout == ""


# ---------------------------------------------------------------- damage


class Damage:
    """One spool, and hands to damage it with."""

    def __init__(self, world):
        self.spool = world.spool
        self.names = world.names

    def queued(self, name: str) -> Path:
        """The file of one of the spool's jobs, below queue/<state>/."""
        found = (self.spool / "queue").rglob(f"*,{self.names.get(name, name)},*")
        return next(path for path in found if path.parts[-2] not in ("data", "outcome"))

    def results(self, name: str) -> Path:
        return self.spool / "out" / str(UID) / self.names[name]

    def member(self) -> Path:
        return next((self.spool / "queue/ready").rglob(f"*,{self.names['batch']}+*"))

    def rename(self, path: Path, **fields) -> Path:
        """Have a file's name say something else."""
        return path.rename(path.with_name(parse(path.name).but(**fields).name))

    def move(self, path: Path, state: str, **fields) -> Path:
        """Put a file into another state."""
        entry = parse(path.name).but(**fields)
        folder = self.spool / home(state, entry)
        folder.mkdir(parents=True, exist_ok=True)
        return path.rename(folder / entry.name)

    def rewrite(self, path: Path, data: bytes) -> None:
        path.chmod(0o640)
        path.write_bytes(data)


def _name(at):
    at.queued("held").rename(at.spool / "queue/held/what is this")


def _no_hash(at):
    at.rename(at.queued("delayed"), hash="")


def _link(at):
    path = at.queued("held")
    path.unlink()
    path.symlink_to("/etc/passwd")


def _folder(at):
    at.queued("ready").with_suffix(".x").mkdir()


def _fifo(at):
    os.mkfifo(at.spool / "queue/held" / Entry(id=f"{UID}-pipe", due=1, hash="h" * 22).name)


def _misplaced(at):
    path = at.queued("ready")
    path.rename(at.spool / "queue/ready" / path.name)


def _waits_for_nobody(at):
    at.rename(at.queued("waiting"), flags="")


def _does_not_wait(at):
    at.move(at.queued("waiting"), "ready")


def _linked_twice(at):
    os.link(at.queued("delayed"), at.spool.parent / "second")


def _bytes(at):
    at.rewrite(at.queued("delayed"), b'{"command": ["false"]}\n')


def _bytes_of_one_with_input(at):
    at.rewrite(at.queued("input"), b'{"command": ["false"]}\n')


def _twice(at):
    path = at.queued("dead")
    shutil.copy(path, at.spool / "queue/held" / path.name)


def _both(at):
    shutil.copy(at.queued("delayed"), at.results("done").parent / at.names["delayed"] / "job.json")


def _no_input(at):
    (at.spool / "queue/data" / at.names["input"]).unlink()


def _stray_input(at):
    (at.spool / "queue/data" / f"{UID}-nobody").write_text("of nobody")


def _no_batch(at):
    at.queued("batch").rename(at.spool.parent / "batch")


def _line(at):
    path = at.queued("batch")
    at.rewrite(path, path.read_bytes().replace(b'"0"', b'"1"'))


def _cursor(at):
    path = at.queued("batch")
    number, offset, total = parse(path.name).batch
    at.rename(path, batch=(number, offset + 3, total))


def _lost(at):
    at.queued("ready").rename(at.spool.parent / "taken away")


def _junk(at):
    (at.spool / "queue/what").write_text("?")


def _junk_input(at):
    (at.spool / "queue/data/what").write_text("?")


def _junk_result(at):
    (at.spool / "out" / str(UID) / "what").symlink_to("/etc")


def _captured_name(at):
    (at.spool / "queue/.capture/what,is this").write_text("?")


def _stray_outcome(at):
    (at.spool / "queue/outcome" / f"{at.names['delayed']}.7").write_text("")


def _running(at):
    at.move(at.queued("ready"), "running", attempt=1)


def _captured(at):
    (at.spool / "queue/.capture" / f"{UID},late.job").write_text('{"command": ["true"]}')


def _empty_result(at):
    at.rewrite(at.results("done") / "result.json", b"")


def _others_result(at):
    shutil.copy(at.results("done") / "result.json", at.results("cancelled") / "result.json")


def _no_result(at):
    (at.results("dead") / "result.json").unlink()


def _no_result_of_done(at):
    (at.results("done") / "result.json").unlink()


def _unsaid(at):
    (at.results("skipped") / "result.json").unlink()


def _ended(at):
    path = at.results("cancelled")
    entry = Entry(id=at.names["cancelled"], due=1, hash=digest((path / "job.json").read_bytes()))
    folder = at.spool / home("delayed", entry)
    folder.mkdir(exist_ok=True)
    (path / "job.json").rename(folder / entry.name)


def _unrevived(at):
    at.move(at.queued("dead"), "delayed")


def _mode(at):
    at.results("done").chmod(0o777)


def _no_reason(at):
    (at.spool / "rejected" / str(UID) / "wrong.job.reason").unlink()


def _clock(at):
    (at.spool / "schedule/clock.json").write_text('{"zones": ')


def _clock_says_nothing(at):
    (at.spool / "schedule/clock.json").write_text('{"zones": 5}')


def _pause(at):
    (at.spool / "schedule/paused/queue:closed").write_text("{")


def _table(at):
    (at.spool / "schedule/tables/what").write_text("")


def _history(at):
    path = next((at.spool / "history").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"id":', b'"i', 1))


def _history_is_a_pipe(at):
    os.mkfifo(at.spool / "history/2020-01-01.jsonl")


def _open_to_others(at):
    at.spool.chmod(0o755)


def _missing(at):
    (at.spool / "queue/outcome").rmdir()


def _waits_for_what_is_gone(at):
    at.queued("delayed").rename(at.spool.parent / "gone")
    shutil.rmtree(at.results("done").parent / at.names["delayed"], ignore_errors=True)


def _draft(at):
    path = at.spool / "in" / str(UID) / "bad name.job"
    path.write_text("{}")


def _half_gone(at):
    (at.results("done") / "job.json").rename(at.spool.parent / "removed")


def _unpublished(at):
    at.move(at.queued("dead"), "running", attempt=1)


def _input_left(at):
    (at.spool / "queue/data" / at.names["done"]).write_text("of a job that has ended")


def _copy_left(at):
    (at.spool / "queue/data" / f".{at.names['done']}.tmp").write_text("of a copy")


def _table_coming(at):
    shutil.copy(at.spool / "schedule/tables" / str(UID), at.spool / "schedule/tables" / f"{UID}.0")


def _not_placed_yet(at):
    """As a power cut leaves it: the history has the line of its move, and its directory has not the name."""
    path = at.queued("ready")
    path.rename(at.spool / "queue/.capture" / f"{UID},{at.names['ready'].partition('-')[2]}.job")


DAMAGES = {
    _not_placed_yet: {"captured"},
    _unpublished: {"unpublished"},
    _input_left: {"input-left"},
    _copy_left: {"input-left"},
    _table_coming: {"table-coming"},
    _name: {"name", "lost"},
    _no_hash: {"name", "lost", "waits"},
    _link: {"shape"},
    _folder: {"shape"},
    _fifo: {"shape"},
    _misplaced: {"misplaced"},
    _waits_for_nobody: {"flags"},
    _does_not_wait: {"flags"},
    _linked_twice: {"owner"},
    _bytes: {"bytes"},
    _bytes_of_one_with_input: {"bytes"},
    _twice: {"twice"},
    _no_input: {"input"},
    _stray_input: {"stray-input"},
    _no_batch: {"no-batch", "lost"},
    _line: {"line"},
    _cursor: {"cursor"},
    _lost: {"lost"},
    _junk: {"junk"},
    _junk_input: {"junk"},
    _junk_result: {"junk"},
    _captured_name: {"captured-name"},
    _stray_outcome: {"stray-outcome"},
    _running: {"unsettled"},
    _captured: {"captured"},
    _empty_result: {"result"},
    _others_result: {"result"},
    _no_result: {"no-result"},
    _no_result_of_done: {"no-result"},
    _unsaid: {"unsaid"},
    _ended: {"ended"},
    _unrevived: {"unrevived"},
    _mode: {"results-mode"},
    _no_reason: {"no-reason"},
    _clock: {"state"},
    _clock_says_nothing: {"state"},
    _pause: {"pause"},
    _table: {"table"},
    _history: {"history"},
    _history_is_a_pipe: {"junk"},
    _open_to_others: {"tree"},
    _missing: {"missing"},
    _waits_for_what_is_gone: {"waits", "lost"},
    _draft: {"inbox-name"},
    _half_gone: {"half-gone"},
}
THEN = {_link: {"lost"}}  # what shows only when that is out of the way: there was no job under its name any more
HARMLESS = [_not_placed_yet, _unpublished, _input_left, _copy_left, _table_coming, _running, _captured, _unsaid]
HARMLESS += [_missing, _history, _draft, _half_gone, _stray_outcome]


def kept(world):
    """What every job, input and result of the spool says, and what else is in it."""
    files = [path for path in world.spool.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.read_bytes() for path in files if "history" not in path.parts and "schedule" not in path.parts}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda act: act.__name__.strip("_").replace("_", " "))
def test_each_damage_is_told_and_mended_and_no_byte_is_gone(world, check, damage):
    damage(Damage(world))
    found, code = check()
    assert {each["kind"] for each in found} == DAMAGES[damage], found
    assert code == (0 if damage in HARMLESS else 65)
    before = kept(world)
    mended, code = check(repair=True)
    told = DAMAGES[damage] | THEN.get(damage, set())
    faults = {kind for kind in told if soundness.KINDS[kind].level == soundness.FAULT}
    assert ({each["kind"] for each in mended if each["level"] == "fault"}, code) == (faults, 0)
    assert before <= kept(world)
    found, code = check()
    assert (code, [each for each in found if each["level"] == "fault"]) == (0, [])


def test_every_kind_of_finding_is_shown_by_some_damage():
    elsewhere = {"lock", "unseen", "draft", "unreadable"}
    assert set().union(*DAMAGES.values()) | elsewhere == set(soundness.KINDS)


def test_a_draft_is_told_when_it_is_old_enough_for_retention(world, check, monkeypatch):
    (world.inbox / ".late.job.tmp").write_text("{")
    assert check() == ([], 0)
    monkeypatch.setattr(surroundings, "DRAFT_AGE", -1.0)
    assert [each["kind"] for each in check()[0]] == ["draft"]


def test_what_a_worker_runs_unseen_is_told_and_left(world, check):
    path = world.spool / "queue/outcome" / f"{world.names['delayed']}.7"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for repair in (False, True):
            found, code = check(repair)
            assert ([each["kind"] for each in found], code) == (["unseen"], 65)
    assert path.exists()


def test_whoever_holds_the_dispatchers_lock_and_is_none_is_named(world, check):
    with subprocess.Popen(["flock", world.spool / "queue/dispatcher.lock", "sleep", "60"]) as holder:
        try:
            found, code = eventually(lambda: (told := check())[0] and told)
            assert ([each["kind"] for each in found], code) == (["lock"], 65)
            assert f"process {holder.pid}, which is no dispatcher" in found[0]["sentence"]
        finally:
            holder.kill()


def test_a_day_of_the_history_that_a_repair_begins_hides_no_key_that_is_taken(world, check):
    now = time.time()
    (today,) = (world.spool / "history").iterdir()
    window = {"t": now, "id": world.names["done"], "from": "queued", "to": "ready", "unique": "k", "window": 2**60}
    with today.open("a") as file:
        file.write(json.dumps(window) + "\n")
        file.write(json.dumps({**window, "to": "done"}) + "\n")
    today.rename(today.with_name("2026-01-01.jsonl"))
    _lost(Damage(world))
    check(repair=True)
    assert len(list((world.spool / "history").iterdir())) == 2
    assert "k" in History(str(world.spool)).recall(now, now, set()).windows


@pytest.mark.skipif(os.getuid() != 0, reason="root becomes another user")
def test_root_becomes_the_spools_owner_though_he_may_not_read_roots_python():
    folder = Path(tempfile.mkdtemp(prefix="cronq-fsck-", dir="/var/tmp"))
    try:
        folder.chmod(0o711)
        root, owner = folder / "spool", pwd.getpwnam("daemon")
        spool.make(str(root), owner.pw_uid)
        (root / "queue/what").touch()
        data = b'{"command": ["true"]}\n'
        held = Entry(id=f"{owner.pw_uid}-one", due=1, hash=digest(data))
        (root / "queue/held" / held.name).write_bytes(data)
        for path in (root, *root.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        env = os.environ | {"CRONQ_SPOOL": str(root)}
        done = subprocess.run([*CRONQ, "fsck", "--repair"], env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert (root / "queue/lost+found").stat().st_uid == owner.pw_uid
    finally:
        shutil.rmtree(folder)


TOGETHER = [_name, _misplaced, _twice, _does_not_wait, _stray_input, _cursor, _ended, _clock, _pause, _empty_result]
TOGETHER += [_no_result, _captured_name, _junk, _junk_result, _no_input, _linked_twice, _mode, _fifo, _captured]


def test_after_a_repair_of_everything_a_dispatcher_starts_and_runs_what_there_is(world):
    at = Damage(world)
    for damage in TOGETHER:
        damage(at)
    before = kept(world)
    world.run("fsck", code=65)
    said = world.run("fsck", "--repair").stdout
    assert before <= kept(world)
    assert "moved to queue/lost+found" in said
    daemon = world.start()
    assert world.run("exec", "--wait", "--", "echo", "runs").stdout == "runs\n"
    world.run("resume", "queue:closed")
    assert world.result(world.names["batch"])["counts"] == {"done": 70}
    assert "event=junk" not in daemon.log.read_text()
    assert [line for line in world.run("fsck").stdout.splitlines() if line.startswith("fault")] == []


# ---------------------------------------------------------------- beside a dispatcher


def test_nothing_is_mended_beside_a_dispatcher(world):
    """Not by one that waits for its lock, either."""
    _mode(Damage(world))
    world.start()
    done = world.run("fsck", "--repair", code=75)
    assert "a dispatcher serves" in done.stderr
    assert "stop it" in done.stderr
    assert (world.spool / "out" / str(UID) / world.names["done"]).stat().st_mode & 0o777 == 0o777


def test_a_busy_spool_has_no_finding(world, check):
    """Jobs of every fate move all the time, by several hands; each look is at other files."""
    world.tasks(TASKS + '[tasks.again]\ncommand = ["false"]\nretries = 3\nbackoff = {base = "50ms"}\n')
    world.start()
    fates = (["exec", "--", "true"], ["submit", "again"], ["exec", "--delay", "200ms", "--", "true"])
    world.run("resume", "queue:closed")  # a batch and its jobs
    stop = threading.Event()

    def produce(words):
        while not stop.is_set():
            world.run(*words)

    hands = [threading.Thread(target=produce, args=(words,)) for words in fates]
    for hand in hands:
        hand.start()
    try:
        found = [check() for _ in range(8)]
    finally:
        stop.set()
        for hand in hands:
            hand.join()
    assert found == [([], 0)] * 8


def test_what_a_kill_leaves_is_no_fault_and_a_start_mends_it(world):
    daemon = world.start()
    for _ in range(3):
        world.submit("exec", "--", "sleep", "0.2")
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    daemon.kill()
    daemon.wait()
    found = [json.loads(line) for line in world.run("fsck", "--json").stdout.splitlines()]
    assert {each["level"] for each in found} <= {"note"}
