"""What may run beside what: a story with real processes for each rule of it."""

import json
import os
import signal

import pytest
from conftest import eventually

from cronq.pressure import Pressure


class Ledger:
    """A file in which jobs write when they begin and end."""

    def __init__(self, path):
        self.path = path
        self.gate = path.with_name("gate")

    def turns(self, mark: str, seconds: float = 0.1) -> str:
        """A script that takes a while."""
        return f"echo +{mark} >> {self.path}; sleep {seconds}; echo -{mark} >> {self.path}"

    def waits(self, mark: str, gate=None) -> str:
        """A script that takes until the gate is there."""
        wait = f"until [ -e {gate or self.gate} ]; do sleep 0.02; done"
        return f"echo +{mark} >> {self.path}; {wait}; echo -{mark} >> {self.path}"

    def words(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []

    def most(self, marks: str) -> int:
        """How many of these marks there were at once, at most."""
        now = most = 0
        for word in self.words():
            if word[1] in marks:
                now += 1 if word[0] == "+" else -1
                most = max(most, now)
        return most


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


def shell(world, script: str, *options: str) -> str:
    """Queue a command."""
    return world.submit("exec", *options, "--", "sh", "-c", script)


def ready(world, what: str = "") -> list:
    return list((world.spool / "queue" / "ready").rglob(f"*,*{what}*"))


# ---------------------------------------------------------------- mutex


def test_mutex_a_crontabs_line_and_queued_jobs_of_one_word_never_run_at_once_and_all_get_their_turn(world, ledger):
    world.tasks(f"[tasks.t]\nmutex = 'disk'\nshell = '''{ledger.turns('t')}'''\n")
    (world.config / "crontab").write_text(f"# cronq: name=c mutex=disk\n@every 1s {ledger.turns('c', 1.1)}\n")
    (world.config / "crontab").chmod(0o644)
    world.start()
    eventually(lambda: "+c" in ledger.words())
    for _ in range(3):
        world.submit("submit", "t")
        shell(world, ledger.turns("j"), "--mutex", "disk")
        shell(world, ledger.turns("o"), "--mutex", "other")
    eventually(lambda: all(ledger.words().count(f"-{mark}") >= 3 for mark in "ctjo"))
    assert ledger.most("ctj") == 1


def test_mutex_is_held_by_a_queued_job_against_a_crontabs_line_over_a_restart(world, ledger, tmp_path):
    (world.config / "crontab").write_text(
        f"# cronq: name=c mutex=disk overlap=skip\n@every 1s {ledger.turns('c')}\n@every 1s {ledger.turns('b')}\n"
    )
    (world.config / "crontab").chmod(0o644)
    daemon = world.start()
    shell(world, ledger.waits("j"), "--mutex", "disk")
    eventually(lambda: "+j" in ledger.words())
    ended = ledger.words().count("-c")
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    eventually(lambda: ready(world, "-tab-c-"))
    since = ledger.words().count("-b")
    eventually(lambda: ledger.words().count("-b") >= since + 2)
    assert ledger.words().count("+c") == ended
    ledger.gate.touch()
    eventually(lambda: ledger.words().count("-c") > ended)
    assert ledger.most("cj") == 1


def test_mutex_is_held_by_a_crontabs_line_against_a_queued_job_over_a_restart(world, ledger):
    (world.config / "crontab").write_text(f"# cronq: name=c mutex=disk overlap=skip\n@every 1s {ledger.waits('c')}\n")
    (world.config / "crontab").chmod(0o644)
    daemon = world.start()
    eventually(lambda: "+c" in ledger.words())
    job = shell(world, ledger.turns("j"), "--mutex", "disk")
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    for _ in range(2):
        world.result(shell(world, "true"))
    assert ready(world, job)
    assert "+j" not in ledger.words()
    (world.config / "crontab").write_text("")
    eventually(lambda: daemon.log.read_text().count("event=crontab-loaded") >= 3)
    ledger.gate.touch()
    assert world.result(job)["state"] == "done"
    assert ledger.most("cj") == 1


def test_mutex_is_let_go_by_a_job_that_waits_to_be_tried_again(world, ledger):
    world.start()
    world.drop("again", {"command": ["sh", "-c", "exit 75"], "mutex": "m", "retries": 1, "backoff": {"base": "1h"}})
    eventually(lambda: list((world.spool / "queue" / "delayed").rglob("*,a1,*")))
    assert world.result(shell(world, "true", "--mutex", "m"))["state"] == "done"


# ---------------------------------------------------------------- keys


def task(world, script: str, concurrency: str) -> None:
    world.tasks(f"[tasks.t]\nshell = '''{script}'''\ntimeout = '60s'\nconcurrency = {{ {concurrency} }}\n")


def test_concurrency_as_many_of_a_key_run_as_its_limit_and_a_key_that_waits_holds_up_no_other(world, ledger):
    task(world, ledger.waits("$1"), 'key = "{args.0}", limit = 2')
    daemon = world.start()
    ids = [world.submit("submit", "t", mark) for mark in "aaab"]
    eventually(lambda: sorted(ledger.words()) == ["+a", "+a", "+b"])
    assert [bool(ready(world, each)) for each in ids] == [False, False, True, False]
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert world.result(shell(world, "true"))["state"] == "done"
    assert ready(world, ids[2])
    ledger.gate.touch()
    assert {world.result(each)["state"] for each in ids} == {"done"}
    assert ledger.most("a") == 2


def test_concurrency_tasks_of_one_group_share_their_keys(world, ledger):
    one = f"shell = '''{ledger.turns('$1', 0.2)}'''\nconcurrency = {{ key = \"{{args.0}}\", group = \"g\" }}\n"
    world.tasks(f"[tasks.s]\n{one}[tasks.t]\n{one}")
    world.start()
    ids = [world.submit("submit", name, mark) for name in "st" for mark in "ab"]
    assert {world.result(each)["state"] for each in ids} == {"done"}
    assert (ledger.most("a"), ledger.most("b")) == (1, 1)


def test_concurrency_on_block_discard_drops_what_comes_while_the_key_is_taken(world, ledger):
    task(world, ledger.waits("a"), 'on_block = "discard"')
    world.start()
    first = world.submit("submit", "t")
    eventually(lambda: "+a" in ledger.words())
    found = world.result(world.submit("submit", "t"))
    assert found["state"] == "cancelled"
    assert found["reason"] == f"discarded: {first} runs and has its concurrency key"
    ledger.gate.touch()
    assert world.result(first)["state"] == "done"
    assert world.result(world.submit("submit", "t"))["state"] == "done"


def test_concurrency_on_block_coalesce_lets_the_first_that_waits_run_for_all_that_wait(world, ledger):
    task(world, ledger.waits("a"), 'on_block = "coalesce"')
    world.start()
    first = world.submit("submit", "t")
    eventually(lambda: "+a" in ledger.words())
    second, third, fourth = (world.submit("submit", "t") for _ in range(3))
    for each in (third, fourth):
        assert world.result(each)["reason"] == f"coalesced: {second} waits, and runs for it too"
    ledger.gate.touch()
    assert [world.result(each)["state"] for each in (first, second)] == ["done", "done"]
    assert len(ledger.words()) == 4


def test_concurrency_on_block_replace_ends_what_runs_and_starts_the_newest(world, ledger):
    task(world, f"trap 'echo -$1 >> {ledger.path}; exit 1' TERM; {ledger.waits('$1')}", 'on_block = "replace"')
    world.start()
    ids = [world.submit("submit", "t", "a")]
    eventually(lambda: "+a" in ledger.words())
    ids += [world.submit("submit", "t", mark) for mark in "bc"]
    eventually(lambda: "+c" in ledger.words())
    ledger.gate.touch()
    assert [world.result(each)["state"] for each in ids] == ["cancelled", "cancelled", "done"]
    assert ledger.most("abc") == 1


def test_weight_a_job_waits_for_as_many_slots_as_it_weighs_and_what_comes_later_does_not_take_them(world, ledger):
    world.tasks("[queues.q]\nslots = 2\n")
    world.start()
    second = ledger.path.with_name("second")
    running = [shell(world, ledger.waits("w", gate), "--queue", "q") for gate in (ledger.gate, second)]
    eventually(lambda: ledger.words() == ["+w", "+w"])
    large = shell(world, ledger.turns("l"), "--queue", "q", "--weight", "2")
    small = [shell(world, ledger.turns("s"), "--queue", "q") for _ in range(2)]
    assert world.result(shell(world, "true", "--queue", "q", "--weight", "0"))["state"] == "done"
    ledger.gate.touch()
    assert world.result(running[0])["state"] == "done"
    assert world.result(shell(world, "true"))["state"] == "done"
    assert ledger.words() == ["+w", "+w", "-w"]
    second.touch()
    assert {world.result(each)["state"] for each in (*running, *small, large)} == {"done"}
    assert ledger.words()[3:6] == ["-w", "+l", "-l"]


# ---------------------------------------------------------------- rates


def begun(world) -> dict[str, list[tuple[float, str, int]]]:
    """When which job started, with which attempt, by its task."""
    found: dict[str, list[tuple[float, str, int]]] = {}
    for path in sorted((world.spool / "history").iterdir()):
        for line in map(json.loads, path.read_text().splitlines()):
            if line.get("move") == "start" and "attempt" in line:  # not of a batch
                kept = json.loads((world.results(line["id"]) / "result.json").read_text())
                found.setdefault(kept["task"], []).append((line["t"], line["id"], line["attempt"]))
    return found


def test_rate_a_limited_job_waits_keeps_its_place_and_uses_no_attempt(world):
    world.tasks("[tasks.t]\ncommand = ['true']\nrate = '5/1s'\nburst = 2\n[tasks.u]\ncommand = ['true']\n")
    world.start()
    ids = world.run("map", "--json", "t", input="1\n2\n3\n4\n5\n6\n").stdout.splitlines()
    other = world.submit("submit", "u")
    world.result(other)
    found = begun(world)["t"]
    assert len(ids) == len(found) == 6
    assert [each[1][-1] for each in found] == list("123456")
    assert {each[2] for each in found} == {1}
    times = [each[0] for each in found]
    assert all(later - earlier >= 0.15 for earlier, later in zip(times, times[2:], strict=False))
    assert times[-1] - times[0] >= 0.75


@pytest.mark.parametrize(
    "table",
    [
        "[tasks.t]\ncommand = ['true']\nrate = '1/1h'",
        "[tasks.t]\ncommand = ['true']\nqueue = 'q'\n[queues.q]\nrate = '1/1h'",
        "[tasks.t]\ncommand = ['true']\nconcurrency = { key = '{args.0}', rate = '1/1h' }",
    ],
    ids=["task", "queue", "key"],
)
def test_rate_holds_over_a_restart_and_begins_anew_where_the_history_is_lost(world, table):
    world.tasks(table + "\n")
    daemon = world.start()
    assert world.result(world.submit("submit", "t", "a"))["state"] == "done"
    second = world.submit("submit", "t", "a")
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert world.result(shell(world, "true"))["state"] == "done"
    assert ready(world, second)
    if "key" in table:
        assert world.result(world.submit("submit", "t", "b"))["state"] == "done"
    world.stop()
    for path in (world.spool / "history").iterdir():
        path.unlink()
    world.start()
    assert world.result(second)["state"] == "done"


def test_rate_of_the_queue_cron_holds_for_crontabs_lines_beside_that_of_jobs(world, ledger):
    world.tasks("[queues.cron]\nrate = '2/1h'\nburst = 2\n")
    (world.config / "crontab").write_text("".join(f"@every 1s {ledger.turns(mark)}\n" for mark in "ab"))
    (world.config / "crontab").chmod(0o644)
    world.start()
    eventually(lambda: len(ready(world, "-tab-")) >= 4)
    assert world.result(shell(world, ledger.turns("j"), "--queue", "cron"))["state"] == "done"
    assert sorted(ledger.words()) == ["+a", "+b", "+j", "-a", "-b", "-j"]


# ---------------------------------------------------------------- pressure


def test_pressure_while_too_little_memory_is_free_no_job_starts_but_crontabs_lines_do(world, ledger):
    world.tasks("[pressure]\nmin_free_memory = '900T'\n")
    (world.config / "crontab").write_text(f"# cronq: name=c mutex=m\n@every 1s {ledger.turns('c')}\n")
    (world.config / "crontab").chmod(0o644)
    daemon = world.start()
    job = shell(world, ledger.turns("j"), "--mutex", "m")
    eventually(lambda: ready(world, job))
    eventually(lambda: ledger.words().count("-c") >= 2)
    assert "+j" not in ledger.words()
    assert daemon.log.read_text().count("event=pressure ") == 1
    world.tasks("[pressure]\nmin_free_memory = '1M'\nmax_load = 99999\n")
    daemon.send_signal(signal.SIGHUP)
    assert world.result(job)["state"] == "done"
    assert "event=pressure-gone" in daemon.log.read_text()


def test_pressure_is_what_the_kernel_says_of_load_and_memory(tmp_path):
    load, memory = tmp_path / "load", tmp_path / "memory"
    load.write_text("2.50 1.00 0.50 3/500 12345\n")
    memory.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\n")
    found = Pressure(str(load), str(memory))
    assert found.reason(0.0, None, None) == ""
    assert found.reason(0.0, 2.5, 1 << 30) == ""
    assert found.reason(0.0, 2.4, None) == "the load is 2.5 (max_load = 2.4)"
    assert found.reason(0.0, 3, 2 << 30) == "1024 MiB of memory are free (min_free_memory = 2048 MiB)"
    load.write_text("0.10")
    assert found.reason(5.0, 2.4, None) == ""
    load.write_text("9")
    assert found.reason(5.9, 2.4, None) == ""
    assert found.reason(6.0, 2.4, None)
    load.write_text("")
    memory.write_text("MemAvailable: much\n")
    assert found.reason(7.0, 2.4, 1 << 60) == ""
    load.unlink()
    memory.unlink()
    assert found.reason(8.0, 2.4, 1 << 60) == ""
