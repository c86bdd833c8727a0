"""`cronq shadow` beside Debian's own cron: it agrees where both do the same, and finds what they do not."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
import signal
import subprocess
import zoneinfo
from pathlib import Path

import pytest
from conftest import CRONQ, eventually
from cronworld import CronWorld, world
from debian_jail import missing

from cronq import logread
from cronq.agreement import LATE, Agreement, Run
from cronq.logread import Line

DEBIAN_MISSING = missing()
NOON = 1_790_000_040  # 14:14 UTC on a Monday; the beginning of a minute

BESIDE = """\
import json, sys, zoneinfo
from cronq import crontables, logread, shadow, shadowing
crontables.CONFIG, crontables.INSTALLED = sys.argv[4:]

def begin(now, state):
    return shadow.Shadow(state, logread.find(sys.argv[1], False, now, state.get("place")), now)

seen, zone = None, zoneinfo.ZoneInfo(sys.argv[2])
for line in sys.stdin:
    word, now = line.split()
    now = int(now)
    if word == "begin":
        seen = begin(now, json.loads(json.dumps(seen.state())) if seen else {})
    if word in ("begin", "look"):
        seen.look(now, zone)
    elif word == "save":
        shadow.save(sys.argv[3], seen.state())
    else:
        seen.listen(now)
    print(json.dumps(shadowing.as_json(seen)), flush=True)
"""


def beside_debian(test):
    """Marks a test that needs Debian's cron."""
    return pytest.mark.root(pytest.mark.skipif(bool(DEBIAN_MISSING), reason=DEBIAN_MISSING or "-")(test))


class Beside:
    """Our shadow and Debian's cron under one clock."""

    def __init__(self, cron: CronWorld) -> None:
        self.cron, self.now = cron, cron.now
        files = cron.scratch / "state", cron.scratch / "cronq", cron.scratch / "installed"
        self.process = cron.beside("-c", BESIDE, cron.syslog, str(cron.zone), *files)
        self.tell("begin")

    def tell(self, word: str, after: int = 0) -> dict:
        self.process.stdin.write(f"{word} {self.now + after}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def minute(self, minutes: int = 1, shadow: bool = True) -> None:
        """So many minutes pass on the clock, and both look at it; the shadow reads what cron logs a minute later."""
        self.now += 60 * minutes
        if shadow:
            self.tell("look")
        self.cron.look(self.now)

    def begin_again(self) -> None:
        """The shadow is started again, a minute later, and watches two more."""
        self.now += 60
        self.tell("begin")
        self.cron.look(self.now)
        self.minute(1)
        self.minute(1)

    def end(self) -> dict:
        return self.tell("settle", LATE + 120)


@contextlib.contextmanager
def beside(scratch: Path, **options):
    with CronWorld(scratch, options.pop("now", NOON), **options) as cron:
        both = Beside(cron)
        yield both
        both.process.communicate(timeout=60)


def tables(scratch: Path, **texts: str) -> None:
    """root's own table, /etc/crontab, and files of cron.d."""
    world(scratch)
    for name, text in texts.items():
        path = scratch / "crontab" if name == "etc" else scratch / "cron.d" / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))


def of(report: dict, command: str) -> dict:
    return next(each for each in report["entries"] if each["command"] == command)


EVERYDAY = {
    "etc": "SHELL=/bin/sh\n*/2 * * * * root true  /etc%into%it\n15-40/5 14 * * 1 root printf '\\%s' b >/dev/null\n",
    "some": "* * * * * root true ä\tb\n* * * * * root true twice\n* * * * * root true twice\n@reboot root true boot\n",
    "other": "20 14 * * * nobody true once\n0 0 31 2 * root true never\n",
}


@beside_debian
@pytest.mark.parametrize("traditional", [False, True], ids=["iso", "traditional"])
def test_it_agrees_with_debians_cron_on_everyday_tables(tmp_path, traditional):
    tables(tmp_path, **EVERYDAY)
    with beside(tmp_path, traditional=traditional) as both:
        for _ in range(12):
            both.minute()
        report = both.end()
    logged = both.cron.syslog.read_text().count(" CMD (") - 1  # without @reboot's
    assert report["agrees"]
    assert sum(each["same"] for each in report["entries"]) == logged == 12 * 4 + 6 + 3 + 1
    assert of(report, "true twice")["same"] == 24
    assert of(report, r"true \303\244^Ib")["where"] == ["/etc/cron.d/some:1 (* * * * *)"]
    assert of(report, "true  /etc")["same"] == 6
    assert report["watched"] == [[NOON + 60, NOON + 13 * 60]]


@beside_debian
def test_in_the_night_when_the_clocks_change_it_agrees(tmp_path):
    lines = "30 2 * * * root true a\n*/10 * * * * root true b\n0,45 2 * * * root true c\n5 3 * * * root true d\n"
    tables(tmp_path, night=lines)
    start = int(datetime.datetime(2026, 3, 29, 1, 55, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).timestamp())
    with beside(tmp_path, now=start, zone="Europe/Berlin") as both:
        for _ in range(12):
            both.minute()
        report = both.end()
    assert report["agrees"]
    assert {each["command"]: each["same"] for each in report["entries"] if "true" in each["command"]} == {
        "true a": 1,
        "true b": 1,
        "true c": 2,
        "true d": 1,
    }


@beside_debian
@pytest.mark.parametrize("minutes", [4, 30, 200])
def test_after_a_step_of_the_clock_it_agrees(tmp_path, minutes):
    tables(tmp_path, step="* * * * * root true a\n20 14 * * * root true b\n*/5 * * * * root true c\n")
    with beside(tmp_path) as both:
        for step in (1, 1, minutes, 1, 1):
            both.minute(step)
        report = both.end()
    assert report["agrees"]
    assert of(report, "true a")["same"] == (8 if minutes == 4 else 5)


@beside_debian
def test_what_only_one_of_them_runs_is_found(tmp_path):
    texts = {
        "silent": "* * * * * root true silent\n60 * * * * root true\n",
        "zone": "CRON_TZ=Asia/Tokyo\n16 14 * * * root true zone\n",
        "where": "CRON_TZ=No/Where\n* * * * * root true where\n",
        "both": "* * * * * root true both\n",
    }
    tables(tmp_path, **texts)
    with beside(tmp_path) as both:
        for _ in range(3):
            both.minute()
        report = both.end()
    assert not report["agrees"]
    found = {each["command"]: (each["same"], each["missing"], each["extra"]) for each in report["entries"]}
    assert {command: each for command, each in found.items() if command.startswith("true")} == {
        "true silent": (0, 0, 3),
        "true zone": (0, 1, 0),
        "true where": (0, 3, 0),
        "true both": (3, 0, 0),
    }
    assert of(report, "true silent")["note"] == "cron ignores all of /etc/cron.d/silent (line 2: bad minute)"
    assert of(report, "true zone")["note"] == "cron does not know CRON_TZ=Asia/Tokyo"
    assert of(report, "true zone")["missing_at"] == [NOON + 121.25]


@beside_debian
def test_a_locked_account_runs_with_cron_only_and_an_expired_one_with_neither(tmp_path):
    tables(tmp_path, some="* * * * * daemon true locked\n* * * * * bin true expired\n* * * * * sys true none\n")
    rows = Path("/etc/shadow").read_text().splitlines()
    kept = [row for row in rows if row.split(":")[0] not in ("daemon", "bin", "sys")]
    kept += ["daemon:!$y$hash:19000:0:99999:7:::", "bin:*:19000:0:99999:7::1:", "sys:!:19000:0:99999:7:::"]
    (tmp_path / "shadow").write_text("\n".join(kept) + "\n")
    (tmp_path / "shadow").chmod(0o600)
    with beside(tmp_path) as both:
        both.minute()
        both.minute()
        report = both.end()
        imported = both.cron.inside(*CRONQ, "import").stdout
    found = {each["command"]: (each["same"], each["missing"], each["extra"]) for each in report["entries"]}
    assert {command: each for command, each in found.items() if command.startswith("true")} == {
        "true locked": (0, 2, 0),
        "true none": (2, 0, 0),
    }
    assert "cronq: cronq runs nothing of daemon's, and cron does: the account daemon is locked" in imported
    assert "today: cron runs nothing of bin's: the account bin has expired" in imported


@beside_debian
def test_what_cronq_runs_of_its_own_crontabs_is_not_taken_for_crons(tmp_path):
    tables(tmp_path, some="* * * * * root true cron\n")
    (tmp_path / "cronq").mkdir()
    (tmp_path / "cronq/crontab").write_text("* * * * * root true ours\n")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/1").write_text("* * * * * true installed\n")
    (tmp_path / "installed/1.1").write_text("* * * * * true earlier\n")
    with beside(tmp_path) as both:
        for command, user in (("true ours", "root"), ("true installed", "daemon"), ("true earlier", "daemon")):
            both.cron.log(user, command)
        both.minute()
        both.minute()
        report = both.end()
    found = {each["command"]: (each["same"], each["missing"], each["extra"]) for each in report["entries"]}
    assert {command: each for command, each in found.items() if command.startswith("true")} == {
        "true cron": (2, 0, 0),
        "true earlier": (0, 1, 0),
    }


@beside_debian
def test_a_table_that_changes_is_followed(tmp_path):
    tables(tmp_path, some="* * * * * root true before\n")
    with beside(tmp_path) as both:
        both.minute()
        (tmp_path / "cron.d/some").write_text("* * * * * root true after\n")
        os.utime(tmp_path / "cron.d/some", (1, 1))  # cron looks at whole seconds of mtime
        for _ in range(3):
            both.minute()
        report = both.end()
    assert report["agrees"]
    assert (of(report, "true before")["same"], of(report, "true after")["same"]) == (1, 3)


def rotate(log: Path) -> None:
    log.rename(f"{log}.1")
    log.touch()


@beside_debian
def test_a_log_that_is_rotated_and_a_shadow_that_is_restarted_lose_nothing(tmp_path):
    tables(tmp_path, some="* * * * * root true a\n")
    with beside(tmp_path) as both:
        both.minute()
        both.minute()
        rotate(both.cron.syslog)  # its last lines were not read yet
        both.minute()
        rotate(both.cron.syslog)
        both.minute(shadow=False)
        both.minute(shadow=False)
        both.now += 60
        both.tell("begin")  # goes on in the rotated file, and makes up for the minutes: the gap is short
        both.cron.look(both.now)
        both.minute()
        report = both.end()
    assert report["agrees"]
    assert of(report, "true a")["same"] == 7
    assert len(report["watched"]) == 1


@beside_debian
def test_what_was_not_watched_is_not_compared(tmp_path):
    tables(tmp_path, some="* * * * * root true a\n")
    with beside(tmp_path) as both:
        both.minute()
        for _ in range(10):
            both.minute(shadow=False)
        both.begin_again()
        report = both.end()
    assert report["agrees"]
    assert of(report, "true a")["same"] == 3
    assert report["watched"] == [[NOON + 60, NOON + 120], [NOON + 13 * 60, NOON + 15 * 60]]


@beside_debian
def test_a_log_that_was_packed_away_unread_is_a_gap_not_a_difference(tmp_path):
    tables(tmp_path, some="* * * * * root true a\n")
    with beside(tmp_path) as both:
        both.minute()
        both.minute()
        text = both.cron.syslog.read_bytes()
        (tmp_path / "syslog.1.gz").write_bytes(gzip.compress(text))
        fresh = tmp_path / "fresh"
        fresh.touch()  # before the old one is gone, or it has the same inode
        fresh.rename(both.cron.syslog)
        both.begin_again()
        report = both.end()
    assert report["agrees"]
    assert len(report["watched"]) == 2
    assert of(report, "true a")["same"] == 3


def test_the_minute_in_which_cron_was_started_is_not_held_against_it():
    seen = Agreement()
    seen.know([("root", "true", "/etc/crontab:1", "", False)])
    seen.expect([Run("root", "true", NOON, NOON), Run("root", "true", NOON + 60, NOON + 60)])
    seen.hear([Line(NOON + 30, logread.STARTED, ""), Line(NOON + 61, "root", "true")])
    seen.settle(NOON + LATE + 200, [[NOON // 60, NOON // 60 + 1]])
    assert (seen.agrees, seen.excused) == (True, 1)


def test_an_entry_that_runs_at_boot_is_not_compared():
    seen = Agreement()
    seen.know([("root", "true", "/etc/crontab:1", "", True), ("root", "x", "/etc/crontab:2", "", False)])
    seen.expect([Run("root", "x", NOON, NOON)])
    seen.hear([Line(NOON + 1, "root", "true"), Line(NOON + 1, "root", "x")])
    seen.settle(NOON + 100, [[NOON // 60, NOON // 60]])
    assert (seen.agrees, seen.counts["root", "true"].seen) == (True, 0)


def test_jobs_that_start_late_take_no_other_minutes_place():
    seen, watched = Agreement(), [[NOON // 60, NOON // 60 + 9]]
    seen.know([("root", "true", "/etc/crontab:1", "", False)])
    seen.expect(Run("root", "true", NOON + 60 * n, NOON + 60 * n) for n in range(3))
    seen.hear(Line(NOON + at, "root", "true") for at in (60.5, 61.0, 121.0))  # the first one is a minute late
    seen.settle(NOON + 130, watched)
    assert (seen.counts["root", "true"].same, seen.open) == (3, 0)
    seen.expect([Run("root", "true", NOON + 180, NOON + 180)])
    seen.settle(NOON + 180 + LATE + 1, watched)
    assert seen.counts["root", "true"].extra_at == [NOON + 180]


def test_a_log_full_of_strangers_lines_is_not_kept_whole():
    seen = Agreement()
    seen.hear(Line(NOON + 1, "root", f"c{n}") for n in range(5000))
    seen.settle(NOON + 100, [[NOON // 60, NOON // 60]])
    assert len(seen.counts) < 1100
    assert sum(each.missing for each in seen.counts.values()) == 5000


def test_stamps_without_a_year_or_an_offset_are_of_the_nearest_time(tmp_path):
    log = tmp_path / "log"
    log.write_text("")
    new_year = datetime.datetime(2027, 1, 1, 0, 0, 30).timestamp()
    source = logread.File(str(log), new_year)
    log.write_text("Dec 31 23:59:01 box CRON[1]: (root) CMD (old)\nJan  1 00:00:01 box CRON[1]: (root) CMD (new)\n")
    assert [new_year - each.at for each in source.read(new_year)] == [89, 29]
    source.close()


# ---------------------------------------------------------------- the command


def run(*words: str | Path, code: int | None = None, **options) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*CRONQ, "shadow", *words], capture_output=True, text=True, timeout=60, **options)
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="reading all tables needs root")
def test_the_command_watches_keeps_what_it_saw_and_reports(log, tmp_path):
    state = tmp_path / "deep/state.json"
    words = [*CRONQ, "shadow", "--for", "1h", "--log", log, "--state", state]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        assert "nothing is started" in watching.stdout.readline()
        eventually(state.exists)
        assert "another cronq shadow" in run("--state", state, "--log", log, code=2).stderr
        watching.send_signal(signal.SIGTERM)
        assert "nothing to compare yet" in watching.stdout.read()
    assert watching.returncode == 1
    report = json.loads(run("--report", "--json", "--state", state, code=1).stdout)
    assert (report["agrees"], report["entries"]) == (False, [])
    assert state.stat().st_mode & 0o777 == 0o600
    kept = json.loads(state.read_text()) | {"began": 1000.0}
    state.write_text(json.dumps(kept))
    assert "nothing to compare" in run("--for", "1h", "--log", log, "--state", state, code=1).stdout  # long over
    assert json.loads(state.read_text())["began"] == 1000.0
    run("--for", "1s", "--anew", "--log", log, "--state", state, code=1)
    assert json.loads(state.read_text())["began"] > 1000.0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="as another user, which needs root")
def test_what_cannot_be_used_is_said(log, tmp_path):
    state = tmp_path / "state"
    assert "--report only shows" in run("--report", "--log", log, "--state", state, code=2).stderr
    assert "nothing was watched yet" in run("--report", "--state", state, code=2).stderr
    state.write_text("[]")
    assert "remove it to begin anew" in run("--report", "--state", state, code=2).stderr
    state.unlink()
    assert "name cron's log with --log" in run("--log", tmp_path / "none", "--state", state, code=2).stderr
    assert "cannot both be meant" in run("--journal", "--log", log, "--state", state, code=2).stderr
