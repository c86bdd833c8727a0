"""The control socket bounds what a peer may cost: size, connections; a bad request gets one sentence."""

import json
import os
import socket

import pytest

from cronq import control


@pytest.fixture
def knock(world):
    world.start()
    folder = os.open(world.spool, os.O_RDONLY | os.O_DIRECTORY)
    lines = []

    def connect():
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(10)
        line.connect(f"/proc/self/fd/{folder}/control")
        lines.append(line)
        return line

    yield connect
    for line in lines:
        line.close()
    os.close(folder)


def ask(line, request):
    line.sendall(request)
    answer = b""
    while part := line.recv(65536):
        answer += part
    return [json.loads(each) for each in answer.splitlines()]


@pytest.mark.parametrize("request_", [b"rubbish\n", b'{"do": "explode"}\n', b"[]\n", b'{"do": "cancel", "ids": 7}\n'])
def test_a_bad_request_gets_one_sentence_and_a_code(knock, request_):
    (answer,) = ask(knock(), request_)
    assert set(answer) == {"error", "code"}


def test_a_request_that_is_too_large_is_dropped(knock):
    line = knock()
    try:
        answer = ask(line, b"x" * (control.MAX_REQUEST + 70_000))
    except ConnectionError:
        answer = []
    assert answer == []
    assert ask(knock(), b'{"do": "stats"}\n')[-1] == {"ok": True}


def test_one_user_has_a_bounded_number_of_connections(knock):
    held = [knock() for _ in range(control.MAX_PEERS_PER_UID)]
    try:
        answer = ask(knock(), b'{"do": "stats"}\n')
    except ConnectionError:
        answer = []
    assert answer == []
    assert ask(held[0], b'{"do": "stats"}\n')[-1] == {"ok": True}


def test_others_ids_are_no_paths(knock):
    (answer,) = ask(knock(), b'{"do": "show", "id": "../../etc"}\n')
    assert answer["code"] == 65
