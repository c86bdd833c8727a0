"""Many lines: what a turn costs does not grow with them. A dispatcher that is killed at random makes each tick once.

Run whole by CRONQ_LONG=1.
"""

import mmap
import os
import random
import signal
import struct
import time
import traceback
import types

from bench import UTC, Bench, calls
from conftest import cost, eventually

from cronq import fire, settle, states
from cronq.house import Now

LONG = bool(os.environ.get("CRONQ_LONG"))
KILLS, MINUTES = (200, 60) if LONG else (25, 8)
FIVE = UTC + 5 * 3600


def fill(bench: Bench, count: int) -> None:
    """A table of so many lines, of which ten are due at half past five; loaded."""
    lines = ["30 5 * * * echo due\n"] * 10
    lines += [f"{n % 60} {n // 60 % 5} {1 + n // 300 % 28} * * echo {n}\n" for n in range(count - 10)]
    bench.install("".join(lines))
    now = FIVE + 29 * 60
    while bench.turn(now) == 0.0:
        now += 0.001


def test_idle_turns_cost_the_same_however_many_lines_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    found = []
    for count in (10, 10_000):
        (tmp_path / str(count)).mkdir()
        bench = Bench(tmp_path / str(count), os.getuid())
        fill(bench, count)
        bench.turn(FIVE + 29 * 60 + 10)
        idle = sorted(calls(bench, FIVE + 29 * 60 + second) for second in (11, 12, 13))
        found.append(idle[1])  # one of them may have more to look after
        bench.close()
    assert found[0] == found[1]


def test_ten_due_of_ten_thousand_cost_less_than_fifty_milliseconds(bench):
    fill(bench, 10_000)

    def turns() -> None:
        while bench.turn(FIVE + 30 * 60) == 0.0:
            pass

    assert cost(turns) < 0.050
    assert len(bench.ids()) == 10
    assert cost(lambda: bench.turn(FIVE + 31 * 60)) < 0.020


def test_whoever_changes_his_table_all_the_time_costs_others_a_part_of_it_only(bench, monkeypatch):
    fill(bench, 10_000)
    loads = 0
    load = bench.house.almanac.load

    def counted(entries):
        nonlocal loads
        loads += 1
        clock.append(clock[-1] + 0.2)  # a load that takes long is what is tested
        load(entries)

    clock = [0.0]
    monkeypatch.setattr(fire, "time", types.SimpleNamespace(monotonic=lambda: clock[-1]))
    bench.house.almanac.load = counted
    now = FIVE + 29 * 60 + 20
    for number in range(40):
        bench.crontab(f"1 1 1 1 * true # {number}\n")
        now += 0.25
        bench.turn(now)
    assert 2 <= loads <= 6


# -------------------------------------------------------------------- killed at random

LINES = {**{f"a{n}": "* * * * *" for n in range(4)}, "half": "*/2 * * * *", "every": "@every 20s"}
TABLE = "".join(f"# cronq: name={name}\n{when} true\n" for name, when in LINES.items())
TABLE += "# cronq: name=late jitter=3m\n* * * * * true\n"
STEP = 20


def live(path, clock: mmap.mmap) -> None:
    """A dispatcher from the second on at which the last one was killed, as far as time has gone."""
    bench = Bench(path, os.getuid())
    while True:
        second, until = struct.unpack("2q", clock[:16])
        if second > until:
            continue
        if second > MINUTES * 60:
            os._exit(0)
        while bench.turn(UTC + second) == 0.0:
            pass
        now = Now(float(UTC + second), float(UTC + second))
        for entry in bench.house.backlog.of(states.READY):
            if entry.due < now.micros - 60_000_000:  # what has ended is not made again either
                settle.end_unstarted(bench.house, now, "expire", states.READY, entry, "old")
        clock[:8] = struct.pack("q", second + STEP)


def test_a_dispatcher_that_is_killed_at_random_makes_each_tick_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    chance = random.Random(4)
    clock = mmap.mmap(-1, 16)
    Bench(tmp_path, os.getuid()).close()
    folder = tmp_path / "spool" / "schedule" / "tables"
    folder.mkdir(exist_ok=True)
    (folder / str(os.getuid())).write_text(TABLE)
    kills, over = 0, False
    while not over:
        clock[8:] = struct.pack("q", MINUTES * 60 * (kills + 1) // KILLS + STEP)  # a stretch of it for each life
        pid = os.fork()
        if pid == 0:
            try:
                os.close(2)
                os.open(os.devnull, os.O_WRONLY)
                live(tmp_path, clock)
            except BaseException:  # noqa: BLE001 - a fork of the test must never run on as a second test run
                (tmp_path / "failed").write_text(traceback.format_exc())
            os._exit(1)
        if kills < KILLS:
            time.sleep(chance.uniform(0.0, 0.06))  # where it is killed is the only thing that is left to chance
            os.kill(pid, signal.SIGKILL)
            kills += 1
        over = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) >= 0
    assert not (tmp_path / "failed").exists(), (tmp_path / "failed").read_text()
    assert kills == KILLS
    spool = tmp_path / "spool"
    waiting = [p.name.split(",")[2] for state in ("ready", "delayed") for p in (spool / "queue" / state).rglob("*,*")]
    gone = [p.parent.name for p in (spool / "out").rglob("result.json")]
    assert len(waiting) == len(set(waiting))
    seconds = {**dict.fromkeys([f"a{n}" for n in range(4)] + ["late"], 60), "half": 120, "every": STEP}
    wanted = {
        f"{os.getuid()}-tab-{name}-{(UTC + at) * 1_000_000:013x}"
        for name, period in seconds.items()
        for at in range(period, MINUTES * 60 + 1, period)
    }
    assert {*waiting, *gone} == wanted


def test_jobs_of_a_dispatcher_that_is_killed_at_random_run_once(world, tmp_path):
    chance = random.Random(5)
    ledger = tmp_path / "ledger"
    (world.config / "crontab").write_text(f"# cronq: name=a\n@every 1s echo x >> {ledger}\n")
    daemon = world.start()
    kills = 8 if LONG else 3
    for number in range(kills):
        eventually(lambda number=number: daemon.log.read_text().count("event=ready") == number + 1)
        time.sleep(chance.uniform(0.0, 1.5))  # when it is killed is the only thing that is left to chance
        os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=crontab-loaded") == kills + 1)
    eventually(lambda: ledger.exists() and len(ledger.read_text().split()) > 1)
    (world.config / "crontab").unlink()
    eventually(lambda: "event=crontab-gone" in daemon.log.read_text())
    queue = world.spool / "queue"
    eventually(lambda: not any(list((queue / state).rglob("*,*")) for state in ("ready", "running")))
    ended = [path.parent.name for path in (world.spool / "out").rglob("result.json")]
    assert len(ledger.read_text().split()) == len(ended) == len(set(ended)) > 1
