"""Firing: schedules of the configuration, restarts, catching up, jitter, a full disk, a changed zone."""

import datetime
import json

import pytest
from bench import UTC

from cronq import almanac, fire, localzone, settle
from cronq.house import Now

TASK = '[tasks.t]\ncommand = ["true"]\n'
HALF = TASK + '[schedules.t]\ncron = "30 * * * *"\n'


def test_a_cron_schedule_makes_a_job_at_its_minute_and_only_one(bench):
    bench.toml(HALF)
    for second in (0, 1799, 1800, 1801, 1859, 1860, 3600):
        bench.turn(UTC + second)
    assert bench.made() == [("cron-t", 1800)]


def test_a_turn_says_when_something_is_due(bench):
    bench.toml(HALF)
    bench.turn(UTC + 1790)
    assert bench.turn(UTC + 1799.25) == 0.75


def test_seconds_and_every_go_by_the_clock_too(bench):
    bench.toml(TASK + '[schedules.t]\ncron = "*/20 * * * * *"\n[schedules.u]\nevery = "30s"\ntask = "t"\n')
    for second in range(0, 61, 10):
        bench.turn(UTC + second)
    assert bench.made() == [("cron-t", 20), ("cron-t", 40), ("cron-t", 60), ("cron-u", 30), ("cron-u", 60)]


def test_a_schedule_has_a_zone_of_its_own(bench):
    bench.toml(TASK + '[schedules.t]\ncron = "30 5 * * *"\nzone = "Asia/Kolkata"\n')
    bench.turn(UTC - 60)
    bench.turn(UTC)
    assert bench.made() == [("cron-t", 0)]


def test_a_short_gap_is_made_up_for_and_a_long_one_is_not(bench):
    bench.toml(HALF)
    bench.turn(UTC + 1790)
    bench.restart()
    bench.turn(UTC + 2040)
    assert bench.made() == [("cron-t", 1800)]
    bench.restart()
    bench.turn(UTC + 7000)
    assert bench.made() == [("cron-t", 1800)]


def test_catchup_makes_up_for_a_long_gap_and_what_is_passed_over_is_logged(bench, capfd):
    bench.toml(HALF + 'catchup = "last/6h"\n')
    bench.turn(UTC)
    bench.restart()
    bench.turn(UTC + 10_000)
    assert bench.made() == [("cron-t", 9000)]
    assert f"event=tick-passed-over entry=t instant={UTC + 5400}" in capfd.readouterr().err


def test_a_schedule_that_is_new_owes_nothing_for_the_time_before_it(bench):
    bench.toml(TASK)
    bench.turn(UTC + 1790)
    for second in (1800, 1860, 3600):
        bench.turn(UTC + second)
    bench.toml(HALF + 'catchup = "all"\n')
    bench.turn(UTC + 3601)
    bench.restart()
    bench.turn(UTC + 8000)
    assert bench.made() == [("cron-t", 5400)]


def test_a_tick_is_made_once_however_often_its_state_is_lost(bench):
    bench.toml(HALF)
    bench.turn(UTC + 1790)
    state = (bench.root / almanac.FILE).read_bytes()
    for _ in range(3):
        bench.turn(UTC + 1801)
        (bench.root / almanac.FILE).write_bytes(state)
        bench.restart()
    assert bench.made() == [("cron-t", 1800)]


@pytest.mark.parametrize("what", ["ended", "held"])
def test_a_tick_that_has_gone_on_meanwhile_is_not_made_again(bench, what):
    bench.toml(HALF)
    bench.turn(UTC + 1790)
    state = (bench.root / almanac.FILE).read_bytes()
    bench.turn(UTC + 1801)
    ((_, entry),) = bench.house.shelves.scan("ready")
    now = Now(UTC + 1802.0, 1.0)
    if what == "ended":
        settle.end_unstarted(bench.house, now, "cancel", "ready", entry, "done with")
    else:
        bench.house.move(now, "hold", "ready", entry, entry.but(attempt=1))
    (bench.root / almanac.FILE).write_bytes(state)
    bench.restart()
    bench.turn(UTC + 1803)
    assert bench.made() == []


def test_a_state_is_written_only_when_its_ticks_are_durable(bench, monkeypatch):
    bench.toml(HALF)
    bench.turn(UTC + 1790)
    before = (bench.root / almanac.FILE).read_bytes()
    monkeypatch.setattr(bench.house.shelves, "create", _no_room)
    bench.turn(UTC + 1800)
    assert (bench.root / almanac.FILE).read_bytes() == before
    monkeypatch.undo()
    bench.turn(UTC + 1805)
    assert bench.made() == [("cron-t", 1800)]
    assert json.loads((bench.root / almanac.FILE).read_text())["minute"] == (UTC + 1800) // 60


def _no_room(*_):
    raise OSError(28, "no room")


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"zones": 3}', b"\xff"])
def test_a_state_that_is_not_whole_is_none(bench, junk):
    (bench.root / almanac.FILE).write_bytes(junk)
    bench.restart()
    bench.toml(HALF)
    bench.turn(UTC + 1805)
    bench.turn(UTC + 5400)
    assert bench.made() == [("cron-t", 5400)]


def test_jitter_delays_a_schedule_by_a_time_that_stays_the_same(bench):
    bench.toml(HALF + 'jitter = "10m"\n')
    bench.turn(UTC)
    for at in (UTC + 1800, UTC + 5400):
        bench.turn(at)
        late = [entry.due / 1e6 - at for _, entry in bench.house.shelves.scan("delayed")]
        assert late == pytest.approx([600 * fire.share("t")])
    assert fire.share("t") != fire.share("u")


def test_many_ticks_of_one_minute_are_made_over_many_turns_and_none_is_lost(bench):
    bench.toml(TASK + "".join(f'[schedules.s{n}]\ntask = "t"\ncron = "30 * * * *"\n' for n in range(200)))
    bench.turn(UTC + 1790)
    before = (bench.root / almanac.FILE).read_bytes()
    turns = 0
    while bench.turn(UTC + 1800) == 0.0:
        turns += 1
        assert (bench.root / almanac.FILE).read_bytes() == before
    assert turns > 1
    assert len(bench.ids()) == 200


def test_the_machines_zone_is_looked_up_at_each_tick(bench, monkeypatch, tmp_path):
    monkeypatch.delenv("TZ")
    link = tmp_path / "localtime"
    monkeypatch.setattr(localzone, "LOCALTIME", str(link))
    link.symlink_to("/usr/share/zoneinfo/UTC")
    bench.toml(TASK + '[schedules.t]\ncron = "30 5 * * *"\n')
    bench.turn(UTC - 3600)
    link.unlink()
    link.symlink_to("/usr/share/zoneinfo/Asia/Kolkata")
    bench.turn(UTC - 3540)
    bench.turn(UTC)
    assert bench.made() == [("cron-t", 0)]


@pytest.mark.parametrize(
    ("name", "offset"),
    [("Asia/Kolkata", 19800), (":Asia/Kolkata", 19800), ("<+03>-3", 10800), ("", 0), ("no such zone", 0)],
)
def test_tz_goes_before_etc_localtime(monkeypatch, name, offset):
    monkeypatch.setenv("TZ", name)
    assert localzone.local().utcoffset(datetime.datetime(2026, 1, 1)) == datetime.timedelta(seconds=offset)


# ---------------------------------------------------------------- @reboot


@pytest.fixture
def boot(monkeypatch):
    """Let the machine be booted anew."""

    def begin(name: str) -> None:
        monkeypatch.setattr("cronq.process._boot", [name])

    begin("first")
    return begin


AT_BOOT = TASK + '[schedules.t]\ncron = "@reboot"\n'


def test_what_is_for_a_reboot_runs_once_a_boot(bench, boot):
    wanted = []
    for name, second in (("second", 0), ("third", 5000)):
        boot(name)
        for later in range(3):
            bench.restart()
            bench.toml(AT_BOOT)
            bench.crontab("# cronq: name=a\n@reboot true\n")
            bench.turn(UTC + second + later)
            bench.turn(UTC + second + later + 60)
        wanted += [("cron-t", second), ("tab-a", second)]
        assert bench.made() == sorted(wanted)


def test_a_line_that_comes_later_waits_for_the_next_boot(bench, boot, capfd):
    bench.turn(UTC)
    bench.crontab("# cronq: name=a\n@reboot true\n")
    bench.turn(UTC + 2)
    bench.restart()
    bench.turn(UTC + 4)
    assert bench.made() == []
    assert "event=reboot-skipped entries=1" in capfd.readouterr().err
    boot("second")
    bench.restart()
    bench.turn(UTC + 100)
    assert bench.made() == [("tab-a", 100)]


def test_a_crash_in_the_midst_of_a_boots_lines_loses_and_doubles_none(bench, boot, monkeypatch):
    boot("second")
    bench.restart()
    bench.crontab("".join(f"# cronq: name=a{n}\n@reboot true\n" for n in range(5)))
    create = bench.house.shelves.create
    calls = iter(range(100))
    monkeypatch.setattr(bench.house.shelves, "create", lambda *all: create(*all) if next(calls) < 2 else _no_room())
    bench.turn(UTC)
    assert bench.made() == [("tab-a0", 0), ("tab-a1", 0)]
    bench.restart()
    bench.turn(UTC + 30)
    bench.restart()
    bench.turn(UTC + 60)
    assert bench.made() == [(f"tab-a{n}", 0) for n in range(5)]
