"""Ticks of crontabs: which lines of which tables make which jobs, when, once; without starting any."""

import os
import pwd
import time

import pytest
from bench import UTC

from cronq import cronjobs, fire, states
from cronq.crontab import parse_crontab


def identity(line: str, user: str = "root") -> str:
    return parse_crontab(line.encode(), user=user).entries[0].identity


ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_line_makes_a_job_at_each_of_its_minutes(bench):
    bench.crontab("*/2 * * * * echo hello\n")
    bench.minutes(0, 5)
    name = f"tab-{identity('*/2 * * * * echo hello', ME)}"
    assert bench.made() == [(name, 120), (name, 240)]


def test_the_job_file_says_what_runs_in_the_queue_cron(bench):
    bench.crontab("# cronq: name=a timeout=90s retries=2\nSHELL=/bin/bash\n* * * * * date +\\%F%in%put\n")
    bench.minutes(0, 1)
    ((_, entry),) = bench.house.shelves.scan("ready")
    assert (entry.queue, entry.flags, entry.line) == ("cron", "m", "a")
    data = bench.house.shelves.read(states.READY, entry, 1000)
    assert data == (
        b'{"command": ["/bin/bash", "-c", "date +%F"], "stdin": "in\\nput\\n", "queue": "cron", '
        b'"timeout": 90.0, "retries": 2, "delivery": "at-most-once"}\n'
    )


def test_a_plain_line_asks_for_nothing_that_cron_does_not_do():
    (entry,) = parse_crontab(b"* * * * * x\n").entries
    wanted = b'{"command": ["/bin/sh", "-c", "x"], "queue": "cron", "delivery": "at-most-once"}\n'
    assert cronjobs.encode(entry) == wanted


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (b"echo \xff\xc3\xa4", "echo \\377ä"),
        (b"echo \x07\x1b[0m\x7f", "echo ^G^[[0m^?"),
        ("echo \u2028 \x85".encode(), "echo \u2028 \\u0085"),
    ],
)
def test_what_cannot_stand_in_a_job_file_is_shown(command, shown):
    entry = parse_crontab(b"* * * * * " + command + b"\n").entries[0]
    assert cronjobs.fields(entry)["command"][2] == shown
    assert b"delivery" in cronjobs.encode(entry)


def test_lines_of_one_minute_are_in_the_order_of_the_table(bench):
    bench.crontab("".join(f"# cronq: name=n{n % 7}{n}\n* * * * * true\n" for n in range(20)))
    bench.minutes(0, 1)
    entries = sorted((entry for _, entry in bench.house.shelves.scan("ready")), key=lambda entry: entry.order)
    assert [entry.line for entry in entries] == [f"n{n % 7}{n}" for n in range(20)]


def test_an_installed_table_and_the_configurations_own_both_count(bench):
    bench.crontab("# cronq: name=a\n1 * * * * true\n")
    bench.install("# cronq: name=b\n1 * * * * true\n")
    bench.minutes(0, 1)
    assert bench.made() == [("tab-a", 60), ("tab-b", 60)]


def test_a_change_counts_from_the_next_look_on_and_moving_a_line_changes_nothing(bench):
    bench.install("# cronq: name=a\n* * * * * true\n5 5 5 5 * other\n")
    bench.minutes(0, 1)
    bench.install("# cronq: name=b\n* * * * * true\n")
    bench.minutes(2, 2)
    bench.install("\n\n# cronq: name=a\n* * * * * true\n")
    bench.minutes(3, 3)
    (bench.root / "schedule" / "tables" / str(bench.uid)).unlink()
    bench.minutes(4, 5)
    assert bench.made() == [("tab-a", 60), ("tab-a", 180), ("tab-b", 120)]


def test_a_change_is_seen_within_a_second(bench):
    bench.crontab("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 0)
    bench.crontab("# cronq: name=b\n* * * * * true\n")
    bench.turn(UTC + 1)
    assert [line.identity for line in bench.house.tables.lines()] == ["b"]


def test_a_change_within_one_tick_of_stamps_is_seen_too(bench):
    now = time.time()
    path = bench.config / "crontab"
    bench.crontab("# cronq: name=a\n* * * * * true\n")
    stamp = path.stat().st_mtime_ns
    bench.turn(now)
    with path.open("r+") as file:
        file.write("# cronq: name=b\n")
    os.utime(path, ns=(stamp, stamp))
    bench.turn(now + 1)
    assert [line.identity for line in bench.house.tables.lines()] == ["b"]


def test_a_table_whose_stamp_is_the_epoch_counts_and_so_does_its_next(bench):
    for second, name in ((1, "a"), (3, "b")):
        draft = bench.config / ".draft"
        draft.write_text(f"# cronq: name={name}\n* * * * * true\n")
        os.utime(draft, (0, 0))
        draft.rename(bench.config / "crontab")
        bench.turn(UTC + second)
        assert [line.identity for line in bench.house.tables.lines()] == [name]


def test_a_variable_that_is_added_counts_from_then_on(bench):
    bench.crontab("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 0)
    assert bench.house.tables.find(bench.uid, "a").entry.env == {}
    bench.crontab("MAILTO=ann\n# cronq: name=a\n* * * * * true\n")
    bench.minutes(1, 1)
    assert bench.house.tables.find(bench.uid, "a").entry.env == {"MAILTO": "ann"}


def test_a_last_line_without_a_newline_runs(bench):
    bench.crontab("# cronq: name=a\n* * * * * true")
    bench.minutes(0, 1)
    assert bench.made() == [("tab-a", 60)]


def test_each_bad_line_is_said_once_and_the_good_ones_run(bench, capfd):
    bench.crontab("61 * * * * true\n# cronq: name=a\n* * * * * true\n* * * * * \n@never x\n")
    bench.minutes(0, 3)
    log = capfd.readouterr().err
    assert [each for each in bench.made() if each[0] == "tab-a"] == [("tab-a", n * 60) for n in (1, 2, 3)]
    assert len(bench.made()) == 6, "a line without a command runs, as cron's does"
    path = bench.config / "crontab"
    assert log.count("event=crontab-loaded") == 1
    assert f"table={path} entries=2 errors=2" in log
    assert log.count("event=crontab-line") == 2
    assert 'line=1 column=1 reason="bad minute: 61 is not in 0-59" mend="write a number from 0 to 59"' in log
    assert "line=5" in log


WRONG = "61 * * * * true\nCRON_TZ=Nowhere\n* * * * * true\nCRON_TZ=\n0 0 30 feb * true\n5 22-4 * * * true\n"


def told(capfd) -> list[str]:
    """Of which lines the log has said something since the last time."""
    lines = [line for line in capfd.readouterr().err.splitlines() if "event=crontab-line" in line]
    return [line.partition(" line=")[2].partition(" ")[0] for line in lines]


def test_bad_lines_wrong_zones_and_dates_that_never_come_are_said_once_whatever_else_changes(bench, capfd):
    bench.crontab(WRONG)
    bench.minutes(0, 3)
    assert told(capfd) == ["1", "2", "5", "6"]
    bench.crontab(f"# moved\n{WRONG}* * * * * true\n")
    bench.minutes(4, 5)
    (bench.config / "crontab").chmod(0o666)
    bench.minutes(6, 6)
    (bench.config / "crontab").chmod(0o644)
    bench.minutes(7, 7)
    assert told(capfd) == []
    bench.crontab(f"{WRONG}0 25 * * * true\n")
    bench.minutes(8, 8)
    assert told(capfd) == ["7"]
    bench.crontab("")
    bench.minutes(9, 9)
    bench.crontab(WRONG)
    bench.minutes(10, 10)
    assert told(capfd) == ["1", "2", "5", "6"], "it was mended in between"


def test_a_table_that_may_not_count_has_no_lines_and_is_said_once(bench, capfd):
    bench.crontab("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 1)
    (bench.config / "crontab").chmod(0o666)
    bench.minutes(2, 4)
    assert bench.made() == [("tab-a", 60)]
    log = capfd.readouterr().err
    assert log.count("event=crontab-refused") == 1
    assert "INSECURE MODE" in log
    (bench.config / "crontab").chmod(0o644)
    bench.minutes(5, 5)
    assert bench.made() == [("tab-a", 60), ("tab-a", 300)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"* * * * * a\0b\n", "NUL byte"), (b"# x\n" * 100_000, "100000 lines"), (b"x" * (5 << 20), "more than 4 MiB")],
)
def test_rubbish_is_refused_whole_and_said_once(bench, capfd, content, reason):
    bench.crontab(content)
    bench.minutes(0, 3)
    log = capfd.readouterr().err
    assert log.count("event=crontab-refused") == 1
    assert reason in log


def test_a_link_or_a_pipe_in_the_place_of_an_installed_table_is_refused(bench, capfd, tmp_path):
    bench.install("")
    folder = bench.root / "schedule" / "tables"
    (folder / str(bench.uid)).unlink()
    (folder / str(bench.uid)).symlink_to("/etc/passwd")
    bench.minutes(0, 0)
    os.mkfifo(folder / "7")
    bench.minutes(1, 1)
    log = capfd.readouterr().err
    assert "a symbolic link, not a regular file" in log
    assert "a FIFO, not a regular file" in log


# ---------------------------------------------------------------- once


def test_a_restart_makes_what_was_missed_within_five_minutes_and_nothing_twice(bench):
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 2)
    bench.restart()
    bench.minutes(2, 2)
    bench.restart()
    bench.minutes(5, 5)
    bench.restart()
    bench.minutes(20, 21)
    assert bench.made() == [("tab-a", n * 60) for n in (1, 2, 3, 4, 5, 21)]


def test_nothing_is_due_before_all_tables_have_been_read(bench, monkeypatch):
    bench.install("# cronq: name=a catchup=all\n* * * * * true\n" + "# x\n" * 5000)
    bench.minutes(0, 2)
    bench.restart()
    monkeypatch.setattr("cronq.tables.SLICE_SECONDS", 0.0)
    turns = 0
    while bench.turn(UTC + 600) == 0.0:
        turns += 1
    assert turns > 10
    assert bench.made() == [("tab-a", n * 60) for n in range(1, 11)]


def test_a_jittered_line_waits_its_own_part_of_it(bench):
    bench.install("# cronq: name=a jitter=10m\n* * * * * true\n")
    bench.minutes(0, 1)
    ((_, entry),) = bench.house.shelves.scan("delayed")
    late = entry.due / 1e6 - UTC - 60
    assert late == pytest.approx(600 * fire.share(f"{bench.uid} a"), abs=0.001)
    assert 0 < late < 600


# ---------------------------------------------------------------- beside itself


def test_overlap_allow_is_as_cron(bench):
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 3)
    assert len(bench.ids()) == 3
    assert {entry.key for _, entry in bench.house.shelves.scan("ready")} == {""}


def test_overlap_skip_makes_none_beside_another_and_says_so(bench, capfd):
    bench.install("# cronq: name=a overlap=skip\n* * * * * true\n# cronq: name=b\n* * * * * true\n")
    bench.minutes(0, 2)
    assert bench.made() == [("tab-a", 60), ("tab-b", 60), ("tab-b", 120)]
    assert "event=tick-skipped" in capfd.readouterr().err
    (entry,) = [entry for _, entry in bench.house.shelves.scan("ready") if entry.line == "a"]
    bench.house.shelves.drop(states.READY, entry)
    bench.house.backlog.forget(entry.id)
    bench.minutes(3, 3)
    assert ("tab-a", 180) in bench.made()


def test_overlap_replace_cancels_what_waits_and_queue_keeps_it(bench):
    bench.install("# cronq: name=a overlap=replace\n* * * * * true\n# cronq: name=b overlap=queue\n* * * * * true\n")
    bench.minutes(0, 3)
    assert bench.made() == [("tab-a", 180), ("tab-b", 60), ("tab-b", 120), ("tab-b", 180)]
    keys = {entry.line: entry.key for _, entry in bench.house.shelves.scan("ready")}
    assert keys["a"] != keys["b"] != ""


def test_entries_of_one_mutex_have_one_key(bench):
    words = {"a": "x", "b": "x", "c": "y"}
    bench.install("".join(f"# cronq: name={name} mutex={words[name]}\n* * * * * true\n" for name in words))
    bench.minutes(0, 1)
    keys = {entry.line: entry.key for _, entry in bench.house.shelves.scan("ready")}
    assert keys["a"] == keys["b"] != keys["c"]


def test_what_is_due_goes_by_the_table_as_it_is_at_that_moment(bench):
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.turn(UTC + 59.9)
    bench.install("# cronq: name=b\n* * * * * true\n")
    bench.turn(UTC + 60)
    assert bench.made() == [("tab-b", 60)]
