"""What the system's log is told of tables, as Debian's cron tells it."""

import os
import pwd
import re
import socket

import pytest
from bench import UTC

from cronq import cronfiles, tablelog
from cronq.cronlog import Cronlog
from cronq.tables import Tables

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def system(bench, tmp_path):
    """The tables of a system's dispatcher, the fds that the launcher hands it, and what it tells the log."""
    bench.house.shelves.gid = os.getgid()
    told = []
    tables = Tables(bench.house.shelves, "/etc/cronq", lambda *said: told.append("({}) {} ({})".format(*said)))
    draft = tmp_path / "draft"

    def give(name, text, mode=0o644, owner=0):
        draft.unlink(missing_ok=True)
        draft.write_bytes(text.encode())
        draft.chmod(mode)
        os.chown(draft, owner, owner)
        descriptor = os.open(draft, os.O_RDONLY)
        tables.read(name, descriptor, UTC, 0.0, 0)
        os.close(descriptor)
        tables.turn(UTC, UTC)
        said = told[:]
        told.clear()
        return said

    give.tables, give.told = tables, told
    return give


def test_a_users_table_is_reloaded_not_loaded_and_the_socket_gets_it(bench, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        here = os.open(tmp_path, os.O_PATH)  # the path itself may be too long for a socket
        ear.bind(f"/proc/self/fd/{here}/log")
        ear.settimeout(60)
        bench.house.cronlog = Cronlog(f"/proc/self/fd/{here}/log")
        bench.install("# cronq: name=a\n1 * * * * true\n")
        bench.crontab("1 * * * * true\n")
        bench.minutes(0, 0)
        bench.install("# cronq: name=b\n1 * * * * true\n")
        bench.crontab("2 * * * * true\n")
        bench.minutes(1, 1)
        told = [ear.recv(8000).decode().partition(" cron[")[2].partition("]: ")[2] for _ in range(2)]
        ear.setblocking(False)
        with pytest.raises(BlockingIOError):
            ear.recv(1)
        bench.house.cronlog.close()
        os.close(here)
    assert told == [f"({ME}) RELOAD (crontabs/{ME})", f"({ME}) RELOAD ({bench.config}/crontab)"]


def test_the_machines_cron_says_whether_it_runs_what_is_for_a_reboot_as_cron_says_it(bench, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "log"))
        ear.settimeout(5)
        said = []
        for boot, toml in (("1", "[cron]\nsystem = true\n"), ("1", "[cron]\nsystem = true\n"), ("1", ""), ("2", "")):
            monkeypatch.setattr("cronq.process._boot", [boot])
            bench.restart()
            bench.toml(toml)
            bench.house.cronlog = Cronlog(str(tmp_path / "log"))
            bench.minutes(0, 1)
            bench.house.cronlog.table(1, "end", "", "", UTC)
            said.append(re.findall(r"\(CRON\) INFO \((.*)\)", ear.recv(8000).decode()))
            ear.recv(8000) if said[-1] else None
            bench.house.cronlog.close()
    assert said == [["Running @reboot jobs"], ["Skipping @reboot jobs -- not system startup"], [], []]


@pytest.mark.root
def test_roots_tables_have_crons_names_for_them(system):
    line = "1 * * * * root true\n"
    for name, user in (
        ("/etc/crontab", "*system*"),
        ("/etc/cron.d/php", "*system*php"),
        ("/etc/cronq/crontab", "*system*"),
        ("/etc/cronq/cron.d/crontab-x", "*system*crontab-x"),
    ):
        assert system(name, line) == []
        assert system(name, line + line) == [f"({user}) RELOAD ({name})"]


@pytest.mark.root
def test_a_table_that_does_not_count_is_told_once_in_crons_words(system):
    line = "1 * * * * root true\n"
    assert system("/etc/cron.d/php", line) == []
    said = ["(*system*php) INSECURE MODE (group/other writable) (/etc/cron.d/php)"]
    assert system("/etc/cron.d/php", line, mode=0o666) == said
    assert system("/etc/cron.d/php", line, mode=0o666) == []
    assert system("/etc/cron.d/php", line, owner=2) == ["(*system*php) WRONG FILE OWNER (/etc/cron.d/php)"]
    assert system("/etc/cron.d/php", line) == [], "it is loaded, not loaded again"
    users = cronfiles.USERS_FOLDER
    assert system(f"{users}/daemon", line, mode=0o644, owner=1) == [
        "(daemon) INSECURE MODE (mode 0600 expected) (crontabs/daemon)"
    ]
    assert system(f"{users}/no-such-user", line, mode=0o600) == ["(no-such-user) ORPHAN (no passwd entry)"]


def test_what_the_launcher_could_not_open_is_told(system):
    path = "/etc/cron.d/php"
    for why, event in (
        (f"NOT A REGULAR FILE ({path})", "NOT A REGULAR FILE"),
        (f"WRONG SYMLINK OWNER ({path})", "WRONG SYMLINK OWNER"),
        (f"Permission denied ({path})", "CAN'T OPEN"),
    ):
        system.tables.refuse(path, why)
        assert system.told.pop() == f"(*system*php) {event} ({path})"


@pytest.mark.root
def test_bad_lines_and_bad_tables_are_errors_of_which_only_new_ones_are_told(system):
    path = "/etc/cron.d/php"
    bad, reload = "61 * * * * root a\n", f"(*system*php) RELOAD ({path})"
    assert system(path, bad + bad) == [
        f"(*system*php) ERROR ({path}:1: bad minute: 61 is not in 0-59, and 1 more; the other lines run)"
    ]
    assert system(path, f"1 * * * * root b\n{bad}") == [reload]
    assert system(path, f"{bad}1 25 * * * root b\n") == [
        reload,
        f"(*system*php) ERROR ({path}:2: bad hour: 25 is not in 0-23; the other lines run)",
    ]
    (said,) = system(path, "1 * * * * root a\0\n")
    assert said == f"(*system*php) ERROR ({path}: line 1 has a NUL byte: this is no crontab)"


@pytest.mark.root
def test_a_user_who_is_not_there_is_told_at_once_and_once(system):
    path = "/etc/cron.d/php"
    line, reload = "0 0 1 1 * nosuch a\n", f"(*system*php) RELOAD ({path})"
    said = f"(*system*php) ERROR ({path}:1: there is no user nosuch)"
    assert system(path, line + "0 0 2 1 * nosuch b\n") == [said]
    (first, _) = system.tables.lines()
    system.tables.complain(first, tablelog.no_user("nosuch"))  # as when it is due
    assert system.told == []
    assert system(path, line + "0 0 2 1 * root b\n") == [reload]
    assert system(path, "0 0 2 1 * root b\n") == [reload]
    assert system(path, line) == [reload, said]


def test_each_of_crons_words_is_kept_whole():
    places = cronfiles.Places("/etc/cronq", True)
    for word in ("NOT A REGULAR FILE", "NUMBER OF HARD LINKS > 1", "INSECURE MODE (group/other writable)"):
        assert tablelog.refused(places, "/etc/crontab", f"{word} (/etc/crontab): so")[1] == word
