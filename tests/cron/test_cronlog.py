"""The lines that monitoring greps for, read off a socket like /dev/log."""

import re
import socket

import pytest

from cronq.cronlog import Cronlog, printable

NOON = 1_790_000_000.0


@pytest.fixture
def log(tmp_path):
    path = str(tmp_path / "log")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    server.settimeout(60)
    ours = Cronlog(path)
    yield ours, server
    ours.close()
    server.close()


def test_a_line_is_as_cron_writes_it(log):
    ours, server = log
    ours.job(123, "ann", "CMD", 'echo "ü"', NOON)
    ours.table(7, "ann", "RELOAD", "crontabs/ann", NOON)
    assert re.fullmatch(
        rb'<78>Sep 2[01] \d\d:\d\d:20 CRON\[123\]: \(ann\) CMD \(echo "\\303\\274"\)', server.recv(9000)
    )
    assert server.recv(9000).endswith(b" cron[7]: (ann) RELOAD (crontabs/ann)")


def test_a_log_that_was_started_again_gets_the_next_line(log, tmp_path):
    ours, server = log
    ours.job(1, "ann", "CMD", "one", NOON)
    server.close()
    (tmp_path / "log").unlink()
    ours.job(1, "ann", "CMD", "lost", NOON)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "log"))
        again.settimeout(60)
        ours.job(1, "ann", "CMD", "two", NOON)
        assert again.recv(9000).endswith(b"(ann) CMD (two)")


def test_a_log_that_nobody_reads_holds_up_nothing(log):
    ours, _ = log
    for number in range(10_000):
        ours.job(number, "ann", "CMD", "x" * 1000, NOON)


def test_a_command_cannot_write_lines_of_its_own(log):
    ours, server = log
    ours.job(1, "ann", "CMD", "a\nroot) CMD (b\x1b[2J\x7f\udcff", NOON)
    assert server.recv(9000).endswith(rb"(a^Jroot) CMD (b^[[2J^?\377)")


def test_what_is_printable_stays_as_it_is():
    assert printable("0 5 * * * ls | tee ~/x") == "0 5 * * * ls | tee ~/x"
