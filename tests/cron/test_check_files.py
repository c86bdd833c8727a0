"""`cronq check FILE`: everything that is wrong with a crontab at once, and what Debian's cron would do with it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import Done, cronq, crontab
from debian_jail import _mounts, missing

from cronq import cronrules, tabcheck

Capture = pytest.CaptureFixture[str]
ME = os.getuid()


@pytest.fixture(autouse=True)
def of_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRONQ_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("CRONQ_CONFIG", str(tmp_path / "config"))


def places(done: Done) -> list[tuple[int, int, str]]:
    return [(found["line"], found["column"], found["level"]) for found in done.objects]


def test_errors_and_warnings_have_their_place_the_line_a_caret_and_a_remedy(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "MAILTO=", "60 2\t* * * x", "0 0 13 * 5 y", "5 22-4 * * * z")
    done = cronq(capfd, "check", tab)
    assert (done.code, done.err) == (65, "")
    assert done.out == [
        f"{tab}:1:1: warning: Debian's cron refuses an empty value",
        "    MAILTO=",
        '    ^ write MAILTO=""',
        f"{tab}:2:1: error: bad minute: 60 is not in 0-59",
        "    60 2 * * * x",
        "    ^ the full hour is 0",
        f"{tab}:3:5: warning: both day fields are given, so the line runs on a day that suits either of them",
        "    0 0 13 * 5 y",
        "        ^ make one day field *, or test the other in the command",
        f"{tab}:4:3: warning: the hour 22-4 matches nothing: cron's ranges do not wrap around",
        "    5 22-4 * * * z",
        "      ^ write 22-23,0-4",
        f"{tab}: 1 error, 3 warnings; 2 lines to run. Debian's cron would ignore all of it: bad minute (line 1).",
    ]


def test_in_json_each_finding_is_an_object(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 0 13 * 5 y", "0 24 * * * x")
    done = cronq(capfd, "check", "--json", tab)
    assert done.code == 65
    assert done.objects[1] == {
        "file": str(tab),
        "line": 2,
        "column": 3,
        "level": "error",
        "message": "bad hour: 24 is not in 0-23",
        "mend": "midnight is 0",
        "debian": "bad hour",
    }
    assert places(done)[0] == (1, 5, "warning")


def test_warnings_alone_are_no_failure_and_a_good_file_says_how_many_lines_run(tmp_path: Path, capfd: Capture) -> None:
    doubtful, good = crontab(tmp_path, "*/35 * * * * x"), crontab(tmp_path, "0 5 * * * x", "@daily y", name="good")
    done = cronq(capfd, "check", good, doubtful)
    assert (done.code, done.out[0]) == (0, f"ok    {good}: 2 lines to run")
    assert done.out[-1] == f"{doubtful}: 1 warning; 1 line to run. Debian's cron would take it."
    assert cronq(capfd, "check", "--json", good) == Done(0, [], "")


def test_a_hundred_errors_are_all_told(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, *["60 * * * * x"] * 100)
    assert places(cronq(capfd, "check", "--json", tab)) == [(line, 1, "error") for line in range(1, 101)]


def test_the_user_column_is_there_by_option_or_by_place_and_its_users_are_looked_up(
    tmp_path: Path, capfd: Capture
) -> None:
    lines = ("0 5 * * * root x", "0 5 * * *\tnosuch x", "17 * * * * run-parts /etc", "0 5 * * * x/y z")
    for path, more in ((crontab(tmp_path, *lines), ["--system"]), (crontab(tmp_path, *lines, name="cron.d/t"), [])):
        found = cronq(capfd, "check", "--json", *more, path).objects
        assert [(fault["line"], fault["column"], fault["level"]) for fault in found if fault["line"]] == [
            (2, 11, "warning"),
            (3, 12, "warning"),
            (4, 11, "error"),
        ]
        assert found[-3]["message"] == "there is no user nosuch: the line does not run"
        assert found[-2]["mend"] == "write the user before the command"
        assert {fault["debian"] for fault in found[-3:]} == {"bad username"}
    assert "user's own table has no user column" in cronq(capfd, "check", crontab(tmp_path, *lines[:1])).out[0]


def test_a_file_of_cron_d_that_cron_would_ignore_is_told(tmp_path: Path, capfd: Capture) -> None:
    tab = crontab(tmp_path, "0 5 * * * root x", name="cron.d/tool.conf")
    tab.chmod(0o666)
    os.link(tab, tmp_path / "second")
    if ME == 0:
        os.chown(tab, 12345, -1)
    done = cronq(capfd, "check", tab)
    assert done.code == 0
    head = f"{tab}: warning:"
    owner = [f"{head} it belongs to uid 12345, and must be root's; chown root {tab}"]
    assert done.out[:-1] == [
        f"{head} its name has a dot, and cron ignores it for that; rename it",
        *(owner if ME == 0 else [line for line in done.out if "belongs to" in line]),
        f"{head} its mode is 0666, and others than root can write it; chmod go-w {tab}",
        f"{head} it has 2 hard links; use cp, not ln",
    ]
    assert done.out[-1].endswith("1 line to run. Debian's cron would ignore all of it.")
    link = tab.parent / "link"
    link.symlink_to(tab)
    if ME == 0:
        os.lchown(link, 12345, -1)
        assert "it is a link of uid 12345, and must be root's; chown -h root" in cronq(capfd, "check", link).out[0]
    elsewhere = crontab(tmp_path, "0 5 * * * root x", name="tool.conf")
    said = "its name has a dot, and in cron.d cron would ignore it for that; rename it there"
    assert said in cronq(capfd, "check", "--system", elsewhere).out[0]
    assert cronq(capfd, "check", elsewhere).out[-1].endswith("Debian's cron would take it.")


@pytest.mark.root
@pytest.mark.skipif(ME != 0, reason="gives files away")
def test_a_users_table_in_crons_own_spool_must_be_his_and_secret(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cronrules, "USER_TABLES", str(tmp_path))
    tab = crontab(tmp_path, "0 5 * * * x", name="root")
    tab.chmod(0o600)
    assert cronq(capfd, "check", tab).out == [f"ok    {tab}: 1 line to run"]
    tab.chmod(0o644)
    os.chown(tab, 12345, -1)
    found = cronq(capfd, "check", "--json", tab).objects
    assert [fault["debian"] for fault in found] == [
        "WRONG FILE OWNER",
        "INSECURE MODE (mode 0600 expected)",
    ]
    stranger = crontab(tmp_path, "0 5 * * * x", name="nosuch")
    assert cronq(capfd, "check", "--json", stranger).objects[0]["debian"] == "ORPHAN"


def test_a_directory_cron_d_and_a_configuration_are_checked_whole(tmp_path: Path, capfd: Capture) -> None:
    config = tmp_path / "config"
    crontab(config, "60 * * * * x", name="crontab")
    crontab(config, "0 5 * * * root x", name="cron.d/good")
    crontab(config, "# keeps the directory", name="cron.d/.placeholder")
    for path in (config / "crontab", config / "cron.d" / "good"):
        path.chmod(0o644)
    done = cronq(capfd, "check")
    assert (done.code, done.out[0]) == (65, f"ok    {config}")
    assert f"{config}/crontab:1:1: error: bad minute: 60 is not in 0-59" in done.out
    assert cronq(capfd, "check", "--json", config / "cron.d").code == 0
    (config / "cronq.toml").write_text("[queues.q]\nslot = 1\n")
    done = cronq(capfd, "check", "--json")
    assert done.code == 78
    assert done.objects[0]["message"].endswith("did you mean 'slots'?")
    assert done.objects[1]["file"] == f"{config}/crontab"


NO_CRONTABS = {
    "nul": (b"0 5 * * * x\n\0", "line 2 has a NUL byte: this is no crontab"),
    "binary": (bytes(range(1, 32)) * 1000, "it is binary: this is no crontab"),
    "long": (b"0 5 * * * " + b"x" * 10_000_000, "it has more than 4 MiB, and no more is read of a crontab: split it"),
    "lines": (b"\n" * 100_000, "the table has 100000 lines, and at most 50000 are read: split it"),
}


@pytest.mark.parametrize("name", NO_CRONTABS)
def test_what_is_no_crontab_is_one_sentence(name: str, tmp_path: Path, capfd: Capture) -> None:
    data, sentence = NO_CRONTABS[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert cronq(capfd, "check", path) == Done(65, [f"{path}: error: {sentence}"], "")
    assert places(cronq(capfd, "check", "--json", path)) == [(0, 0, "error")]
    done = cronq(capfd, "simulate", path, "--from", "2026-01-01", "--to", "2026-01-02")
    assert (done.code, done.out, done.err.count("\n")) == (65, [], 1)


def test_what_cannot_be_read_is_one_sentence_and_holds_up_nothing(tmp_path: Path, capfd: Capture) -> None:
    os.mkfifo(tmp_path / "fifo")
    good = crontab(tmp_path, "0 5 * * * x")
    done = cronq(capfd, "check", tmp_path / "none", tmp_path / "fifo", "/dev/zero", good)
    assert done.code == 65
    assert done.out == [
        f"{tmp_path}/none: error: it is not there",
        f"{tmp_path}/fifo: error: it is no regular file: this is no crontab",
        "/dev/zero: error: it is no regular file: this is no crontab",
        f"ok    {good}: 1 line to run",
    ]
    assert cronq(capfd, "check", tmp_path / "none").code == 2


def test_a_line_without_end_costs_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "tab"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, of which none is there

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))

    argv = [sys.executable, "-m", "cronq", "check", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=bound, timeout=60)
    assert (done.returncode, done.stdout) == (65, f"{path}: error: {NO_CRONTABS['long'][1]}\n")


def test_a_pipe_of_the_shell_and_standard_input_are_files_too(tmp_path: Path, capfd: Capture) -> None:
    assert cronq(capfd, "check", "-", stdin=b"0 5 * * * x\n").out == ["ok    standard input: 1 line to run"]
    script = f"{sys.executable} -m cronq check <(echo '60 5 * * * x')"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 65
    assert "error: bad minute: 60 is not in 0-59" in done.stdout


def test_no_text_of_a_crontab_is_obeyed_by_a_terminal(tmp_path: Path, capfd: Capture) -> None:
    tab = tmp_path / "t\x1b[2J"
    tab.write_bytes(b"60 * * * * \x1b[2J\xff\nA\x1b=$B\n")
    assert not any("\x1b" in line for line in cronq(capfd, "check", tab).out)
    assert cronq(capfd, "check", "--json", tab).code == 65


def log_of_debians_cron(scratch: Path) -> str:
    """What it tells syslog until it has read all its tables."""
    said = [""]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(scratch / "log"))
        line.settimeout(30)
        argv = ["unshare", "-m", "sh", "-c", f"{_mounts(scratch)} && exec cron -f"]
        with subprocess.Popen(argv, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}) as cron:
            while "@reboot jobs" not in said[-1]:
                said.append(line.recv(65536).decode())
            cron.terminate()
    return "\n".join(said)


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_debians_cron_says_of_a_system_table_what_is_predicted(tmp_path: Path) -> None:
    """`crontab -n` knows no user column: the daemon itself is asked, by what it logs."""
    tables = {
        "nosuch": "0 5 * * * nosuch x\n",
        "minute": "60 5 * * * root x\n",
        "mode": "0 5 * * * root x\n",
        "owner": "0 5 * * * root x\n",
        "good": "0 5 * * * root x\n",
        "dot.conf": "0 5 * * * root x\n",
    }
    (tmp_path / "cron.d").mkdir()
    for name, text in tables.items():
        (tmp_path / "cron.d" / name).write_text(text)
        (tmp_path / "cron.d" / name).chmod(0o666 if name == "mode" else 0o644)
    os.chown(tmp_path / "cron.d" / "owner", 12345, -1)
    log = log_of_debians_cron(tmp_path)
    for name in tables:
        predicted = [fault.debian for fault in tabcheck.check(str(tmp_path / "cron.d" / name), system=True).faults]
        if name in ("good", "dot.conf"):
            assert name not in log
            assert predicted == ([] if name == "good" else ["ignores the file"])
            continue
        (said,) = predicted
        assert said.split(" (")[0] in log, (name, said, log)
