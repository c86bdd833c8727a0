"""Messages between the programs: whole, with their descriptors, and nobody waits."""

import os
import socket

import pytest

from cronq import wire


@pytest.fixture
def ends():
    pair = wire.pair()
    yield pair
    for end in pair:
        end.close()


def test_a_message_arrives_with_its_descriptors_and_no_job_will_have_them(ends):
    reading, writing = os.pipe()
    assert wire.send(ends[0], {"do": "run", "id": "0-a"}, [reading, writing])
    message, descriptors = wire.receive(ends[1])
    assert message == {"do": "run", "id": "0-a"}
    assert len(descriptors) == 2
    assert not any(map(os.get_inheritable, descriptors))
    for descriptor in (reading, writing, *descriptors):
        os.close(descriptor)


def test_a_full_line_says_so_and_nothing_is_sent_in_part(ends):
    sent = 0
    while wire.send(ends[0], {"number": sent}):
        sent += 1
    assert [wire.receive(ends[1])[0]["number"] for _ in range(sent)] == list(range(sent))
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(ends[1])


def test_the_end_is_none_and_a_send_to_nobody_an_error_without_a_signal(ends):
    ends[0].close()
    assert wire.receive(ends[1]) is None
    with pytest.raises(OSError, match="Broken pipe"):
        wire.send(ends[1], {})


@pytest.mark.parametrize("data", [b"nonsense", b"[]", b"7", b"\xff", b"[" * 60_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_what_is_no_message_is_an_error_and_its_descriptors_are_closed(ends, data):
    reading, writing = os.pipe()
    socket.send_fds(ends[0], [data], [writing])
    os.close(writing)
    with pytest.raises(wire.WireError):
        wire.receive(ends[1])
    assert os.read(reading, 1) == b""  # nobody has the writing end
    os.close(reading)


def test_a_packet_that_was_cut_is_no_message(ends):
    reading, writing = os.pipe()
    ends[0].send(b'{"a": "' + b"x" * wire.MAX_MESSAGE + b'"}')
    with pytest.raises(wire.WireError, match="cut"):
        wire.receive(ends[1])
    socket.send_fds(ends[0], [b"{}"], [writing] * (wire.MAX_DESCRIPTORS + 1))
    os.close(writing)
    with pytest.raises(wire.WireError, match="cut"):
        wire.receive(ends[1])
    assert os.read(reading, 1) == b""
    os.close(reading)
