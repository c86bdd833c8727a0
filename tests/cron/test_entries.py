"""What people do with the lines that a dispatcher runs: list, pause, resume, run; without starting any job."""

import json
import os
import pwd

import pytest
from bench import UTC

from cronq import verbs
from cronq.caller import Caller
from cronq.errors import CronqError, Full, UnknownJob, UsageError
from cronq.house import Now

ME = pwd.getpwuid(os.getuid()).pw_name
TASK = """[tasks.t]
command = ["true"]
[schedules.s]
every = "1h"
task = "t"
[schedules.off]
every = "1h"
task = "t"
enabled = false
"""


def ask(bench, minute=0.5, caller=None, **request):
    """What the dispatcher answers at this minute of the day."""
    who = caller or Caller(bench.uid, everything=True)
    now = Now(UTC + minute * 60, UTC + minute * 60)
    return [each for each in verbs.answer(verbs.Ask(bench.house, who, request, now)) if each is not None]


def named(bench, like, **more):
    (found,) = ask(bench, do="entries", like=like, **more)
    return found["id"]


def skipped(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if "event=tick-skipped" in line]


def test_all_lines_and_schedules_are_told_with_all_that_tells_them_apart(bench):
    bench.toml(TASK)
    bench.crontab("# cronq: name=a\n1 2 * * * echo a%in\n")
    bench.install("\nCRON_TZ=Europe/Berlin\n@every 10s b\n")
    bench.minutes(0, 0)
    schedule, *lines = ask(bench, do="entries")
    assert (schedule["id"], schedule["entry"], schedule["every"]) == (f"{bench.uid}-cron-s", "s", 3600.0)
    assert schedule["command"] == "t"
    own, installed = sorted(lines, key=lambda each: each["table"])
    assert own | {"uid": 0} == {
        "id": f"{bench.uid}-tab-a",
        "entry": "a",
        "table": str(bench.config / "crontab"),
        "line": 2,
        "user": ME,
        "uid": 0,
        "when": "1 2 * * *",
        "zone": "",
        "command": "echo a%in",
        "paused": False,
    }
    assert (installed["table"], installed["line"]) == (f"installed/{bench.uid}", 3)
    assert (installed["when"], installed["zone"]) == ("@every 10s", "Europe/Berlin")


def test_an_entry_is_meant_by_name_identity_place_or_id(bench):
    bench.toml(TASK)
    bench.install("# cronq: name=a\n1 * * * * true\n2 * * * * true\n")
    bench.minutes(0, 0)
    _, a, other = ask(bench, do="entries")
    assert {named(bench, text) for text in ("a", f"installed/{bench.uid}:2", a["id"])} == {a["id"]}
    assert {named(bench, text) for text in (other["entry"], f"installed/{bench.uid}:3")} == {other["id"]}
    assert {named(bench, text) for text in ("s", "schedules.s")} == {f"{bench.uid}-cron-s"}
    for text in ("off", "b", "installed/1:2", ""):
        assert ask(bench, do="entries", like=text) == []


def test_of_two_lines_of_one_name_the_one_that_is_not_run_is_refused(bench):
    bench.crontab("# cronq: name=a\n1 * * * * own\n")
    bench.install("# cronq: name=a\n1 * * * * installed\n")
    bench.minutes(0, 0)
    (found,) = ask(bench, do="entries", like="a")
    assert found["table"].startswith("installed/")
    with pytest.raises(UnknownJob, match="has the same name"):
        ask(bench, do="run", entry=found["id"], table=bench.house.tables.places.own)
    (ran,) = ask(bench, do="run", entry=found["id"], table=found["table"])
    assert ran["id"]


def test_a_table_that_changed_a_moment_ago_is_told_as_it_is_now(bench):
    bench.install("# cronq: name=a\n1 * * * * true\n")
    bench.minutes(0, 0)
    bench.install("# cronq: name=b\n1 * * * * true\n")
    (found,) = ask(bench, minute=0.001, do="entries")
    assert found["entry"] == "b"
    bench.minutes(1, 1)
    assert bench.made() == [("tab-b", 60)]


def test_what_is_paused_makes_no_ticks_and_the_log_says_so(bench, capfd):
    bench.toml(TASK)
    bench.install("# cronq: name=a\n* * * * * true\n# cronq: name=b\n* * * * * true\n")
    bench.minutes(0, 0)
    for name in ("a", "s"):
        assert ask(bench, do="pause", entry=named(bench, name)) == [{"id": named(bench, name), "paused": True}]
    capfd.readouterr()
    bench.minutes(59, 60)
    assert {name for name, _ in bench.made()} == {"tab-b"}
    said = skipped(capfd)
    assert all(line.endswith("reason=paused") for line in said)
    assert {line.split(" id=")[1].rpartition("-")[0] for line in said} == {
        f"{bench.uid}-tab-a",
        f"{bench.uid}-cron-s",
    }
    assert {each["entry"]: each["paused"] for each in ask(bench, do="entries")} == {"s": True, "a": True, "b": False}


def test_a_pause_outlives_a_restart_and_a_change_of_the_table(bench):
    bench.toml(TASK)
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 0)
    for name in ("a", "s"):
        ask(bench, do="pause", entry=named(bench, name))
    assert sorted(os.listdir(bench.root / "schedule" / "paused")) == [f"{bench.uid}-cron-s", f"{bench.uid}-tab-a"]
    bench.restart()
    bench.install("\n\n# cronq: name=a\n* * * * * other\n")
    bench.minutes(1, 3)
    assert bench.made() == []
    for name in ("a", "s"):
        assert ask(bench, minute=3.5, do="resume", entry=named(bench, name))[0]["was"] is True
    assert os.listdir(bench.root / "schedule" / "paused") == []
    bench.restart()
    bench.minutes(4, 4)
    assert bench.made() == [("tab-a", 240)]
    assert ask(bench, do="resume", entry=named(bench, "a")) == [
        {"id": f"{bench.uid}-tab-a", "paused": False, "was": False}
    ]


def test_a_pause_until_a_time_ends_by_itself_and_after_a_restart_too(bench):
    bench.install("# cronq: name=a catchup=all\n* * * * * true\n")
    bench.minutes(0, 0)
    ask(bench, do="pause", entry=named(bench, "a"), until=UTC + 180)
    assert ask(bench, do="entries")[0]["paused"] == UTC + 180
    bench.minutes(1, 1)
    bench.restart()
    bench.minutes(20, 20)
    assert [instant for _, instant in bench.made()] == [60 * minute for minute in range(3, 21)]
    assert os.listdir(bench.root / "schedule" / "paused") == []
    assert ask(bench, minute=20, do="entries")[0]["paused"] is False


def test_a_line_runs_by_hand_at_once_paused_or_not_as_often_as_one_wants(bench):
    bench.install("# cronq: name=a jitter=9h timeout=5s\n5 5 5 5 * true\n")
    bench.minutes(0, 0)
    ask(bench, do="pause", entry=named(bench, "a"))
    found = [ask(bench, minute=1, do="run", entry=named(bench, "a"))[0]["id"] for _ in range(3)]
    stamps = [int(each.rpartition("-")[2], 16) for each in found]
    base = (UTC + 60) * 1_000_000
    assert stamps == [base + 1, base + 2, base + 3], "a whole second is the clock's"
    assert {each.rpartition("-")[0] for each in found} == {f"{bench.uid}-tab-a"}
    states = [bench.house.backlog.find(each) for each in found]
    assert [(state, entry.queue) for state, entry in states] == [("ready", "cron")] * 3
    bench.turn(UTC + 61)
    history = "".join(path.read_text() for path in (bench.root / "history").glob("*.jsonl"))
    history = [json.loads(line) for line in history.splitlines()]
    assert [each["cause"] for each in history if each.get("id") in found] == ["manual"] * 3


def test_a_schedule_runs_by_hand_under_a_name_of_its_ticks(bench):
    bench.toml(TASK)
    bench.minutes(0, 0)
    (found,) = ask(bench, do="run", entry=named(bench, "s"))
    assert found["id"].startswith(f"{bench.uid}-cron-s-")
    state, entry = bench.house.backlog.find(found["id"])
    assert (state, entry.task) == ("ready", "t")


def test_by_hand_overlap_and_mutex_hold_too(bench):
    bench.install("# cronq: name=a overlap=skip\n5 5 5 5 * a\n# cronq: name=b mutex=disk\n5 5 5 5 * b\n")
    bench.minutes(0, 0)
    first = ask(bench, do="run", entry=named(bench, "a"))[0]["id"]
    with pytest.raises(Full, match=f"overlap=skip, and {first} has not ended"):
        ask(bench, do="run", entry=named(bench, "a"))
    assert bench.house.backlog.find(ask(bench, do="run", entry=named(bench, "b"))[0]["id"])[1].key


def test_of_another_users_entries_nothing_is_told_and_nothing_is_done(bench):
    bench.toml(TASK)
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 0)
    stranger = Caller(bench.uid + 1)
    assert ask(bench, caller=stranger, do="entries") == []
    assert ask(bench, caller=stranger, do="entries", like="a") == []
    for verb in ("pause", "resume", "run"):
        for name in ("a", "s"):
            with pytest.raises(UnknownJob, match="unknown entry"):
                ask(bench, caller=stranger, do=verb, entry=named(bench, name))
    assert bench.made() == []
    own = Caller(bench.uid)
    assert len(ask(bench, caller=own, do="entries")) == 2


NONE = [None, 5, "", "x", "-", "0-tab-", "٣-tab-a", "0-tab-../a", "0-cron-off", "9" * 5000 + "-tab-a"]


@pytest.mark.parametrize("entry", NONE, ids=lambda value: str(value)[:12])
def test_an_entry_that_is_none_is_unknown(bench, entry):
    bench.toml(TASK)
    bench.minutes(0, 0)
    for verb in ("pause", "resume", "run"):
        with pytest.raises(UnknownJob, match="unknown entry"):
            ask(bench, do=verb, entry=entry)


@pytest.mark.parametrize("until", ["soon", True, [], UTC, 1e300, float("nan")])
def test_until_is_a_time_to_come(bench, until):
    bench.install("# cronq: name=a\n* * * * * true\n")
    bench.minutes(0, 0)
    with pytest.raises(UsageError, match="until must be"):
        ask(bench, do="pause", entry=named(bench, "a"), until=until)


def test_a_user_can_pause_so_many_and_no_more(bench, monkeypatch):
    monkeypatch.setattr("cronq.pauses.MOST", 2)
    bench.install("".join(f"# cronq: name=n{n}\n* * * * * true\n" for n in range(3)))
    bench.minutes(0, 0)
    for name in ("n0", "n1", "n0"):
        ask(bench, do="pause", entry=named(bench, name))
    with pytest.raises(CronqError, match="2 entries are paused already"):
        ask(bench, do="pause", entry=named(bench, "n2"))


def test_while_tables_are_read_for_the_first_time_one_is_told_so(bench):
    with pytest.raises(Full, match="are being read still"):
        ask(bench, do="pause", entry="x")
