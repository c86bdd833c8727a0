"""Figures for Prometheus: what they are, whose they are, in a file and by HTTP; and whom reading them holds up."""

import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager

import pytest
from conftest import CRONQ, World, eventually
from cron.bench import Bench
from desk import ANN, BOB, Desk, entry
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cronq import agetable, counting, depths, measures, metricsfile, top
from cronq.counting import OTHER, Counts, Histogram
from cronq.entry import Entry
from cronq.exposition import COUNTER, GAUGE, HISTOGRAM, Family
from cronq.house import Now, Running

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
TASKS = """
[limits]
max_jobs = 4
[queues.slow]
slots = 1
[tasks.fine]
command = ["true"]
queue = "quick"
[tasks.slow]
shell = "read -r _ < gate"
queue = "slow"
[tasks.flaky]
shell = "exit 1"
retries = 1
backoff = { base = 0.05, jitter = 0 }
[tasks.killed]
shell = "kill -9 $$"
[tasks.late]
command = ["sleep", "7"]
timeout = "0.05s"
"""


def parsed(text: str) -> dict[tuple, float]:
    """Each sample by its name and labels, as Prometheus's own parser reads them."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        key = sample.name, *sorted(sample.labels.items())
        assert key not in found
        found[key] = sample.value
    return found


def told(found: dict[tuple, float], name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(value for key, value in found.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A dispatcher, and what has happened there."""
    world = World(tmp_path_factory.mktemp("metrics"))
    world.tasks(TASKS + "[metrics]\nusers = true\n")
    world.start()
    world.run("submit", "--wait", "fine")
    world.run("submit", "--wait", "flaky", code=1)
    world.run("submit", "--wait", "killed", code=128 + 9)
    world.run("submit", "--wait", "late", code=124)
    world.run("cancel", world.submit("submit", "--delay", "1h", "fine"))
    world.result(world.submit("submit", "--delay", "1h", "--expires", "0.01s", "fine"))
    world.drop("bad", {"task": "nosuch"})
    world.rejected("bad")
    os.mkfifo(world.path / "gate")
    for _ in range(3):
        world.submit("submit", "--cwd", str(world.path), "slow")
    world.submit("submit", "--delay", "1h", "fine")
    eventually(lambda: told(of(world), "cronq_jobs", queue="slow", state="running") == 1)
    yield world
    (world.path / "gate").write_text("\n")
    world.stop()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path, os.getuid())
    yield made
    made.close()


def of(world, *options) -> dict[tuple, float]:
    return parsed(world.run("metrics", *options).stdout)


# -------------------------------------------------------------------- what they say


def test_each_job_and_attempt_is_counted_once_by_queue_task_and_how_it_ended(past):
    found = of(past)
    assert told(found, "cronq_jobs_ended_total", queue="quick", task="fine", state="done") == 1
    assert told(found, "cronq_jobs_ended_total", task="fine", state="cancelled") == 1
    assert told(found, "cronq_jobs_ended_total", task="fine", state="expired") == 1
    assert told(found, "cronq_jobs_ended_total", state="dead") == 3
    assert told(found, "cronq_jobs_ended_total", state="rejected") == 1
    assert told(found, "cronq_jobs_ended_total") == 7
    assert told(found, "cronq_attempts_started_total", task="flaky") == 2
    assert told(found, "cronq_jobs_retried_total") == told(found, "cronq_jobs_retried_total", task="flaky") == 1
    failed = {
        reason: told(found, "cronq_attempts_failed_total", reason=reason) for reason in ("exit", "signal", "timeout")
    }
    assert failed == {"exit": 2, "signal": 1, "timeout": 1}
    assert told(found, "cronq_attempts_failed_total") == 4
    ended = told(found, "cronq_attempt_run_seconds_count")
    assert told(found, "cronq_job_wait_seconds_count") == ended == 5
    running = told(found, "cronq_jobs", state="running")
    returned = told(found, "cronq_attempts_returned_total")
    assert told(found, "cronq_attempts_started_total") == ended + running + returned


def test_depths_are_those_of_stats_and_closed_gates_are_named_with_how_many_they_keep(past):
    found, stats = of(past), json.loads(past.run("stats", "--json").stdout)
    for state in ("ready", "delayed", "waiting", "held", "running", "dead", "skipped"):
        assert told(found, "cronq_jobs", state=state) == stats[state], state
    assert told(found, "cronq_jobs", queue="slow", task="slow", state="ready") == 2
    assert told(found, "cronq_jobs_blocked", queue="slow", gate="slots") == told(found, "cronq_jobs_blocked") == 2
    assert told(found, "cronq_oldest_ready_age_seconds", queue="slow") > 0
    assert told(found, "cronq_oldest_ready_age_seconds", queue="quick") == 0
    past.run("pause", "queue:slow")
    try:
        assert told(of(past), "cronq_jobs_blocked", queue="slow", gate="paused") == 2
        assert told(of(past), "cronq_paused", gate="queue:slow") == 1
    finally:
        past.run("resume", "queue:slow")


def test_the_dispatchers_own_work_is_told(past):
    found = of(past)
    assert told(found, "cronq_turn_seconds_count") > told(found, "cronq_flush_seconds_count") > 5
    assert told(found, "cronq_flush_seconds_sum") > 0
    assert (told(found, "cronq_working"), told(found, "cronq_max_jobs"), told(found, "cronq_inbox_files")) == (1, 4, 0)
    assert told(found, "cronq_queue_slots", queue="slow") == 1
    assert told(found, "cronq_build_info") == told(found, "cronq_workers") == 1


def test_users_are_told_apart_where_the_configuration_says_so(past):
    found, uid = of(past), str(os.getuid())
    assert told(found, "cronq_user_jobs", uid=uid, state="ready") == 2
    for name in ("jobs_ended_total", "attempts_started_total", "attempts_failed_total", "jobs_retried_total"):
        assert told(found, f"cronq_user_{name}", uid=uid) == told(found, f"cronq_{name}") > 0
    assert not [key for key in of(past, "--mine") if key[0].startswith(("cronq_user", "cronq_turn"))]


def test_what_failed_comes_again_in_a_new_dispatcher_with_counters_at_nothing_and_depths_as_they_are(world):
    world.tasks(TASKS)
    world.start()
    world.run("submit", "--wait", "flaky", code=1)
    world.stop()
    world.start()
    found = of(world)
    assert told(found, "cronq_jobs", state="dead") == 1
    assert told(found, "cronq_jobs_ended_total") == told(found, "cronq_attempts_started_total") == 0


def test_of_a_batch_only_its_jobs_are_counted_and_what_is_not_made_yet_is_told(world):
    world.tasks("[limits]\nmax_jobs = 1\n")
    world.start()
    world.run("exec", "--batch", "-", "--wait", input="true\ntrue\ntrue\n")
    found = of(world)
    assert told(found, "cronq_jobs_ended_total") == told(found, "cronq_attempts_started_total") == 3
    assert told(found, "cronq_batches") == told(found, "cronq_jobs") == 0
    world.run("drain", "--timeout", "1s")
    world.run("exec", "--batch", "-", input="true\n" * 5)
    found = eventually(lambda: told(found := of(world), "cronq_batches") and found)
    assert told(found, "cronq_batch_jobs_unmade") + told(found, "cronq_jobs", state="ready") == 5


# -------------------------------------------------------------------- the text


@given(st.text(max_size=20), st.text(max_size=20).filter(lambda text: text.strip()))
def test_any_text_is_a_label_and_a_help_that_come_back_as_they_were(value, text):
    whole = "".join(Family("cronq_x", GAUGE, text, [({"queue": value, "task": "b"}, 1.5)]).pieces())
    (line,) = [line for line in whole.split("\n") if line.startswith("cronq_x{")]
    (family,) = text_string_to_metric_families(f"# TYPE cronq_x gauge\n{line}\n")
    sent = value.encode("utf-8", "replace").decode()
    assert [(each.labels, each.value) for each in family.samples] == [({"queue": sent, "task": "b"}, 1.5)]


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_a_histogram_counts_each_duration_in_every_bucket_that_it_fits(values):
    kept = Histogram()
    for value in values:
        kept.add(value)
    found = parsed("".join(Family("cronq_x_seconds", HISTOGRAM, "h", [({}, kept)]).pieces()))
    for bound in counting.BOUNDS:
        le = str(int(bound)) if bound == int(bound) else repr(bound)
        assert found["cronq_x_seconds_bucket", ("le", le)] == sum(value <= bound for value in values), le
    assert found["cronq_x_seconds_bucket", ("le", "+Inf")] == found["cronq_x_seconds_count",] == len(values)
    assert found["cronq_x_seconds_sum",] == pytest.approx(sum(values), abs=1e-5)


def test_a_family_without_a_sample_says_nothing():
    assert list(Family("cronq_x_total", COUNTER, "h", []).pieces()) == []


# -------------------------------------------------------------------- bounds


def test_queues_that_users_make_up_are_told_apart_up_to_a_number_and_configured_ones_always():
    kept = Counts()
    kept.configured = lambda queue: queue == "mail"
    for number in range(3 * counting.MOST_QUEUES):
        line = {"id": "7-a", "from": "running", "to": "done", "queue": f"q{number}", "outcome": {}, "verdict": "Done"}
        kept.take(line)
    kept.take({"id": "7-a", "from": "running", "to": "done", "queue": "mail", "outcome": {}, "verdict": "Done"})
    ended = Counter({queue: group.ended["done"] for (_, queue, _), group in kept.groups.items()})
    assert len(ended) == counting.MOST_QUEUES + 2
    assert (ended["mail"], ended[OTHER], ended.total()) == (1, 2 * counting.MOST_QUEUES, 3 * counting.MOST_QUEUES + 1)


def test_whatever_comes_of_users_and_tasks_the_groups_have_an_end():
    kept = Counts()
    kept.configured = lambda _queue: True
    for number in range(counting.MOST_GROUPS + 50):
        kept.take({"id": "7-a", "from": "ready", "to": "expired", "queue": f"q{number}"})
    assert len(kept.groups) == counting.MOST_GROUPS + 1
    assert kept.groups[7, OTHER, ""].ended["expired"] == 50


def walks(house, monkeypatch) -> list[object]:
    """Collects each walk over the whole backlog."""
    done, walk = [], depths.walk
    monkeypatch.setattr(depths, "walk", lambda *given: done.append(given) or walk(*given))
    return done


def test_where_nothing_moves_the_backlog_is_walked_once_and_again_when_something_has(bench, monkeypatch):
    house, done = bench.house, walks(bench.house, monkeypatch)
    house.backlog.put("delayed", Entry(id="7-a", due=9))
    texts = ["".join(filter(None, measures.text(house, lambda: Now(9.0, 9.0), None))) for _ in range(3)]
    assert len(done) == 1
    assert told(parsed(texts[-1]), "cronq_jobs", state="delayed") == 1
    house.backlog.put("held", Entry(id="7-a", due=9))
    text = "".join(filter(None, measures.text(house, lambda: Now(9.0, 9.0), None)))
    assert len(done) == 2
    assert told(parsed(text), "cronq_jobs", state="delayed") == 0 != told(parsed(text), "cronq_jobs", state="held")


def test_a_large_backlog_is_walked_in_slices_and_one_row_of_gates_stands_for_all_that_are_alike(bench):
    for number in range(5000):
        bench.house.backlog.put("ready", Entry(id=f"7-{number:05}", due=number))
    pieces = list(measures.text(bench.house, lambda: Now(9.0, 9.0), None))
    assert pieces[:2] == [None, None]
    assert len(bench.house.depths.rows) == 1
    found = parsed("".join(filter(None, pieces)))
    assert told(found, "cronq_jobs_blocked", gate="disk") == told(found, "cronq_jobs", state="ready") == 5000


# -------------------------------------------------------------------- whose they are


@needs_root
def test_figures_are_of_ones_own_jobs_and_for_root_of_everybodys_and_of_the_dispatcher():
    desk = Desk()
    try:
        for uid, number in ((ANN, 1), (BOB, 2)):
            for each in range(number):
                desk.drop(uid, f"job{each}", {"command": ["true"], "queue": f"of{uid}"})
        desk.drop(BOB, "bad", {"command": []})
        desk.start()
        eventually(lambda: desk.ask(0, do="stats")[0]["ready"] == 3)
        texts = {uid: desk.ask(uid, do="metrics") for uid in (ANN, BOB, 0)}
        found = {uid: parsed("".join(each.get("text", "") for each in answer)) for uid, answer in texts.items()}
        assert [told(found[uid], "cronq_jobs") for uid in (ANN, BOB, 0)] == [1, 2, 3]
        assert [told(found[uid], "cronq_jobs_ended_total") for uid in (ANN, BOB, 0)] == [0, 1, 1]
        assert f"of{BOB}" not in json.dumps(texts[ANN])
        assert ("cronq_turn_seconds_count",) in found[0]
        assert {key[0] for key in found[ANN]} < {key[0] for key in found[0]}
        assert "cronq_turn_seconds_count" not in {key[0] for key in found[ANN]}
        assert desk.ask(ANN, do="metrics", user=BOB)[-1]["code"] == 77
        assert desk.ask(ANN, do="ages", user=BOB)[-1]["code"] == 77
        assert [row["user"] for row in desk.ask(ANN, do="ages", by="user")[:-1]] == [ANN]
        assert [(row["user"], row["total"]) for row in desk.ask(0, do="ages", by="user")[:-1]] == [(BOB, 2), (ANN, 1)]
    finally:
        desk.close()


@needs_root
def test_top_is_told_of_ones_own_jobs_also_of_those_that_run():
    desk = Desk()

    def prepare(house):
        for uid in (ANN, BOB):
            each = entry(uid, 1).but(queue=f"of{uid}", attempt=1)
            house.backlog.put("running", each)
            house.running[each.id] = Running(each)

    try:
        desk.start(prepare)
        found = {uid: desk.ask(uid, do="overview")[0] for uid in (ANN, BOB, 0)}
        assert [each["running"] for each in found.values()] == [1, 1, 2]
        assert [[job["uid"] for job in each["jobs"]] for each in found.values()] == [[ANN], [BOB], [ANN, BOB]]
        assert [[*each["queues"]] for each in found.values()] == [[f"of{ANN}"], [f"of{BOB}"], [f"of{ANN}", f"of{BOB}"]]
        assert desk.ask(ANN, do="overview", user=BOB)[-1]["code"] == 77
    finally:
        desk.close()


# -------------------------------------------------------------------- the file


def test_the_file_has_what_metrics_prints_can_be_read_by_all_and_is_written_anew(world):
    path = world.path / "node" / "cronq.prom"
    path.parent.mkdir()
    world.tasks(TASKS + f'[metrics]\nfile = "{path}"\nevery = "1s"\n')
    world.start()
    first = eventually(lambda: path.exists() and path.read_text())
    assert {key for key in parsed(first) if "queue" not in dict(key[1:])} <= set(of(world))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    world.run("submit", "--wait", "fine")
    eventually(lambda: told(parsed(path.read_text()), "cronq_jobs_ended_total", task="fine", state="done") == 1)
    assert [each.name for each in path.parent.iterdir()] == ["cronq.prom"]


def test_whoever_reads_the_file_sees_a_whole_one_whenever_he_looks(tmp_path):
    path, over = tmp_path / "cronq.prom", threading.Event()
    texts = {(letter * 300_000 + "\n").encode() for letter in "ab"}

    def write():
        for _ in range(60):
            for text in texts:
                metricsfile.put(str(path), text)
        over.set()

    metricsfile.put(str(path), next(iter(texts)))
    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not over.is_set():
        seen.append(path.read_bytes())
    writer.join()
    assert seen
    assert set(seen) <= texts


@pytest.mark.parametrize("planted", ["fifo", "link"])
def test_nothing_that_lies_where_the_draft_goes_is_written_into(tmp_path, planted):
    draft, other = tmp_path / ".cronq.prom.tmp", tmp_path / "other"
    other.write_text("mine")
    os.mkfifo(draft) if planted == "fifo" else draft.symlink_to(other)
    metricsfile.put(str(tmp_path / "cronq.prom"), b"text\n")
    assert (tmp_path / "cronq.prom").read_text() == "text\n"
    assert other.read_text() == "mine"
    assert not os.path.lexists(draft)


def test_each_reason_for_which_the_file_cannot_be_written_is_said_once(tmp_path, capfd):
    kept = metricsfile.MetricsFile()
    for name in ("a/x.prom", "a/x.prom", "b/x.prom", "b/x.prom", "x.prom", "b/x.prom"):
        kept._put(f"{tmp_path}/{name}", b"")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("event=metrics-unwritten")]
    assert [line.count(f"{tmp_path}/a") for line in said] == [1, 0, 0]


def test_a_place_that_cannot_be_written_is_said_and_holds_no_job_up(world):
    world.tasks(TASKS + f'[metrics]\nfile = "{world.path}/nowhere/cronq.prom"\nevery = "1s"\n')
    daemon = world.start()
    eventually(lambda: "event=metrics-unwritten" in daemon.log.read_text())
    for _ in range(3):
        world.run("submit", "--wait", "fine")
    (world.path / "nowhere").mkdir()
    eventually((world.path / "nowhere" / "cronq.prom").exists)


def test_a_disk_that_hangs_costs_figures_and_no_turn(bench, monkeypatch):
    gate, entered, writes = threading.Event(), threading.Event(), []

    def hang(path, _data):
        writes.append(path)
        entered.set()
        gate.wait(60)

    monkeypatch.setattr(metricsfile, "put", hang)
    bench.toml('[metrics]\nfile = "/srv/x.prom"\nevery = "1s"\n')
    try:
        for second in range(20):
            bench.turn(1_800_000_000.0 + second)
        assert entered.wait(60)
        assert writes == ["/srv/x.prom"]
    finally:
        gate.set()


# -------------------------------------------------------------------- by HTTP


@contextmanager
def exporter(world):
    """Where `cronq metrics --listen` answers."""
    argv = [*CRONQ, "metrics", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, env=world.env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process.stderr.readline().split()[-1]
        finally:
            process.terminate()


def fetched(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - ours
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_a_scrape_is_answered_with_the_text_and_its_type(past):
    with exporter(past) as url:
        status, kind, text = fetched(url)
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert told(parsed(text), "cronq_jobs_ended_total") == 7
        assert fetched(url.replace("/metrics", "/"))[0] == 404
        assert fetched(f"{url}?x=1")[0] == 200


def test_scrapers_that_hang_hold_up_neither_the_dispatcher_nor_others(past):
    with exporter(past) as url:
        host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(4)]
        try:
            for line in lines[:2]:
                line.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")  # and never reads
            for line in lines[2:]:
                line.sendall(b"GET /met")  # and never ends
            assert fetched(url)[0] == 200
            assert select.select(lines[2:], [], [], 0)[0] == []  # it did not wait until these were hung up on
            past.run("submit", "--wait", "--queue", "free", "fine")
        finally:
            for line in lines:
                line.close()


def test_whoever_finds_no_place_is_hung_up_on_at_once_and_the_places_come_back(past):
    from cronq import exporter as room

    with exporter(past) as url:
        host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(room.PLACES)]
        with socket.create_connection((host, int(port))) as one_more:
            assert select.select([*lines, one_more], [], [], 60)[0] == [one_more]
            assert one_more.recv(1) == b""
        for line in lines:
            line.close()
        eventually(lambda: _answers(url))


def _answers(url: str) -> bool:
    try:
        return fetched(url)[0] == 200
    except OSError:
        return False


def test_without_a_dispatcher_a_scrape_is_told_so_and_the_next_one_is_answered(world):
    world.tasks(TASKS)
    world.start()
    with exporter(world) as url:
        world.stop()
        status, _, text = fetched(url)
        assert (status, "no dispatcher is running" in text) == (503, True)
        world.start()
        assert fetched(url)[0] == 200


@pytest.mark.parametrize("where", ["9747", "localhost:9747", "127.0.0.1:99999", "127.0.0.1:", ":9747", "1.2.3.4.5:1"])
def test_an_address_that_is_none_is_refused_with_a_sentence(world, where):
    world.start()
    assert "like 127.0.0.1:9747" in world.run("metrics", "--listen", where, code=2).stderr


# -------------------------------------------------------------------- top


def test_top_shows_queues_rates_closed_gates_and_what_runs_once_where_there_is_no_terminal(past):
    shown = past.run("top").stdout
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("slow ") and "waits" not in line]
    assert (row[1], row[3]) == ("2", "1")
    assert "slow waits: 2 by slots" in shown
    assert "running 1/4  ready 2  delayed 1  dead 3" in shown
    (job,) = [line.split() for line in shown.splitlines() if line.startswith(f"{os.getuid()}-")]
    assert job[2:4] == ["slow", "slow"]
    assert job[4].endswith("s")  # for how long


def test_top_tells_the_same_as_json_one_object_a_look(past):
    (found,) = map(json.loads, past.run("top", "--once", "--json").stdout.splitlines())
    assert (found["ready"], found["running"], found["delayed"], found["dead"], found["max_jobs"]) == (2, 1, 1, 3, 4)
    assert found["queues"]["slow"]["gates"] == {"slots": 2}
    assert found["queues"]["default"] | {"failed": 4, "done": 0} == found["queues"]["default"]
    assert [(job["queue"], job["state"]) for job in found["jobs"]] == [("slow", "running")]
    assert found["jobs"][0]["started"] > found["since"]


def test_rates_are_those_between_two_looks_of_one_dispatcher():
    queue = {"ready": 0, "oldest": None, "gates": {}} | dict.fromkeys(
        ("delayed", "waiting", "held", "running", "dead"), 0
    )
    base = {"since": 0.0, "max_jobs": 4, "inbox": 0, "unmade": 0, "broken": "", "jobs": []}
    base |= dict.fromkeys(("ready", "delayed", "waiting", "held", "running", "dead"), 0)
    first = base | {"at": 100.0, "queues": {"mail": queue | {"started": 10, "done": 9, "failed": 1}}}
    second = base | {"at": 102.0, "queues": {"mail": queue | {"started": 14, "done": 12, "failed": 1}}}
    second["queues"]["new"] = queue | {"started": 1, "done": 0, "failed": 0}
    assert "started 2.5/s  done 1.5/s  failed 0.0/s  (since the last look)" in "\n".join(top.lines(second, first))
    assert "started 0.1/s  done 0.1/s  failed 0.0/s  (since it started)" in "\n".join(top.lines(first, None))
    anew = second | {"since": 101.0}
    assert "(since it started)" in "\n".join(top.lines(anew, first))


def test_what_strangers_named_is_escaped_in_top_and_in_the_age_table():
    job = {"id": "7-a", "uid": 7, "command": ["\x1b]52;c;aGk=\x07"], "queue": "q", "state": "running", "started": 1.0}
    empty = {"at": 2.0, "since": 1.0, "max_jobs": 1, "inbox": 0, "unmade": 0, "broken": "", "queues": {}, "jobs": [job]}
    empty |= dict.fromkeys(("ready", "delayed", "waiting", "held", "running", "dead"), 0)
    text = "\n".join(top.lines(empty, None)) + str(
        agetable.lines([{"task": "\x1b", "total": 1, "ages": [1] * 10}], "task")
    )
    assert "\x1b" not in text
    assert "\\x1b]52" in text


def test_on_a_terminal_top_looks_again_and_again_until_it_is_interrupted(past):
    leader, follower = pty.openpty()
    process = subprocess.Popen([*CRONQ, "top", "--every", "0.2s"], env=past.env, stdout=follower, stderr=follower)
    os.close(follower)
    try:
        shown = b""
        while shown.count(b"since the last look") < 2:
            shown += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        while _more(leader):
            pass
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _more(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def test_no_command_that_does_not_need_them_imports_what_shows_and_serves_figures():
    code = "import sys, cronq.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cronq.cli_watch" in loaded
    heavy = {
        "rich",
        "http.server",
        "cronq.exporter",
        "cronq.exposition",
        "cronq.top",
        "cronq.measures",
        "cronq.agetable",
    }
    assert heavy.isdisjoint(loaded)


# -------------------------------------------------------------------- ages


def test_ages_are_told_in_columns_that_double_by_queue_task_or_user(bench):
    house, now = bench.house, Now(1_800_000_000.0, 0.0)
    minutes = {"mail": [0, 5, 6, 39], "web": [1279, 1281, 99999]}
    for queue, waited in minutes.items():
        for number, each in enumerate(waited):
            due = int((now.wall - 60 * each) * 1e6)
            house.backlog.put("ready", Entry(id=f"7-{queue}{number}", due=due, queue=queue, task="t"))
    found = [row for row in depths.ages(house, now, "queue", "ready", None) if row]
    assert found == [
        {"queue": "mail", "total": 4, "ages": [2, 1, 0, 1, 0, 0, 0, 0, 0, 0]},
        {"queue": "web", "total": 3, "ages": [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]},
    ]
    assert [row for row in depths.ages(house, now, "user", "ready", 7) if row] == [
        {"user": 7, "total": 7, "ages": [2, 1, 0, 1, 0, 0, 0, 0, 1, 2]}
    ]


def test_the_age_table_has_a_row_for_all_together_and_one_for_each(past):
    rows = [line.split("\t") for line in past.run("stats", "--ages").stdout.splitlines()]
    assert rows[0][:3] == ["", "T", "5m"]
    assert [row[:3] for row in rows[1:]] == [["TOTAL", "2", "2"], ["slow", "2", "2"]]
    (row,) = map(
        json.loads, past.run("stats", "--ages", "--by", "task", "--state", "delayed", "--json").stdout.splitlines()
    )
    assert (row["task"], row["total"]) == ("fine", 1)
    assert "by queue, task or user" in past.run("stats", "--ages", "--by", "age", code=2).stderr
    assert "go with --ages" in past.run("stats", "--by", "task", code=2).stderr
