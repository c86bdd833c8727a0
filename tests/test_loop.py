"""The loop that worker and launcher stand on, and the log that must hold nobody up."""

import contextlib
import os
import time

import pytest

from cronq import log
from cronq.loop import Loop


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass


def test_a_ready_descriptor_is_called_until_it_is_ignored(pipe):
    loop, calls = Loop(), []
    loop.listen(pipe[0], lambda: calls.append(os.read(pipe[0], 1)))
    os.write(pipe[1], b"ab")
    loop.turn()
    loop.turn()
    assert calls == [b"a", b"b"]
    assert loop.busy
    loop.ignore(pipe[0])
    assert not loop.busy


def test_an_event_of_a_closed_descriptor_is_not_told_to_the_one_that_has_its_number_now():
    loop, called = Loop(), []
    pairs = [os.pipe() for _ in range(2)]

    def replace(own: int, other: int) -> None:
        """Close the other, whose event was fetched already, and give its number to somebody new."""
        loop.ignore(other)
        os.close(other)
        quiet = os.pipe()
        assert other in quiet
        loop.listen(other, lambda: called.append("the new one"))
        loop.ignore(own)

    (first, _), (second, _) = pairs
    loop.listen(first, lambda: replace(first, second))
    loop.listen(second, lambda: replace(second, first))
    for _, writing in pairs:
        os.write(writing, b"x")
    loop.turn()
    assert called == []


def test_timers_come_in_their_order_and_cancelled_ones_never():
    loop, calls = Loop(), []
    loop.after(0.02, lambda: calls.append("second"))
    loop.after(0.01, lambda: calls.append("first"))
    cancelled = loop.after(0.0, lambda: calls.append("never"))
    loop.cancel(cancelled)
    loop.cancel(cancelled)
    loop.cancel(None)
    while loop.busy:
        loop.turn()
    assert calls == ["first", "second"]


def test_cancelled_timers_do_not_pile_up():
    loop = Loop()
    kept = loop.after(1000, lambda: None)
    for _ in range(10_000):
        loop.cancel(loop.after(1000, lambda: None))
    assert len(loop._timers) < 200
    loop.cancel(kept)
    assert not loop.busy


def test_a_timer_does_not_come_early():
    loop, began = Loop(), time.monotonic()
    loop.after(0.05, lambda: None)
    while loop.busy:
        loop.turn()
    assert time.monotonic() - began >= 0.05


@contextlib.contextmanager
def stderr_into(descriptor):
    """For a while, descriptor 2 is this one. (Not by a fixture: pytest takes it back before the test.)"""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_log_line_is_one_line_whatever_is_in_it(pipe):
    with stderr_into(pipe[1]):
        log.line("refused", id="0-a", reason='say "no"\nevent=forged \x1b]52;', count=3, nothing="")
    text = os.read(pipe[0], 10_000).decode()
    assert text == ('event=refused id=0-a reason="say \\"no\\"\\nevent=forged \\u001b]52;" count=3 nothing=""\n')


def test_a_log_that_nobody_reads_holds_nobody_up(pipe):
    began = time.monotonic()
    with stderr_into(pipe[1]):
        for _ in range(2000):
            log.line("told", text="x" * 5000)
    assert time.monotonic() - began < 60
    assert 4096 < len(os.read(pipe[0], 1 << 20)) <= 1 << 16


def test_a_log_without_a_reader_is_no_error(pipe):
    os.close(pipe[0])
    with stderr_into(pipe[1]):
        log.line("told")
