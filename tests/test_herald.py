"""The program that tells an event: real servers, real commands, the very process that a worker starts."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from receiver import Receiver

from cronq import herald, hooks

EVENT = {
    "id": "1-tab-a-0.f",
    "event": "failed",
    "exit_code": 3,
    "signal": None,
    "text": "it's \n$(x)",
    "output": "out\n",
}


@pytest.fixture
def tell(tmp_path):
    """Run the herald as a job's process: the event is a file; what it is told by `env` is all of its environment."""

    def run(*words: str, data: bytes = json.dumps(EVENT).encode(), seconds: float = 0, **env: str):
        path = tmp_path / "event"
        path.write_bytes(data)
        program = ["-m", "cronq.herald"]
        if seconds:
            text = (
                f"import sys; from cronq import herald; herald.SECONDS = {seconds}; sys.exit(herald.main(sys.argv[1:]))"
            )
            program = ["-c", text]
        with path.open() as file:
            argv = [sys.executable, "-I", *program, *words]
            return subprocess.run(argv, stdin=file, env={"PATH": "/bin", **env}, capture_output=True, timeout=20)

    return run


@pytest.fixture
def post(tell):
    return lambda address, **more: tell("post", **{hooks.WEBHOOK: address}, **more)


def test_an_event_is_posted_as_json_under_its_id(server, post):
    done = post(f"{server.url}/ok")
    assert (done.returncode, done.stdout) == (0, b"200\n")
    ((_, headers, event),) = server.got
    assert event == EVENT
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == EVENT["id"]


def test_the_address_may_stand_in_a_file(server, post, tmp_path):
    (tmp_path / "address").write_text(f"{server.url}/ok?token=secret\nmore\n")
    assert post(str(tmp_path / "address")).returncode == 0
    assert server.events("/ok?token=secret") == [EVENT]
    (tmp_path / "address").write_text(str(tmp_path / "address"))
    assert post(str(tmp_path / "address")).returncode == 65
    assert post(str(tmp_path / "nothing")).returncode == 75  # it may be mended


@pytest.mark.parametrize(
    ("status", "code"), [(204, 0), (400, 65), (404, 65), (408, 75), (429, 75), (500, 75), (503, 75)]
)
def test_what_the_answer_means_is_said_by_the_exit_code(server, post, status, code):
    done = post(f"{server.url}/status/{status}")
    assert done.returncode == code
    if code:
        assert done.stderr.decode() == f"the answer is {status} so  [31mbe it\n"


@pytest.mark.parametrize("path", ["/moved", "/file"])
def test_no_redirect_is_followed(server, post, path):
    done = post(server.url + path)
    assert (done.returncode, b"a redirect" in done.stderr) == (65, True)
    assert [where for where, _, _ in server.got] == [path]


@pytest.mark.parametrize(
    "address",
    ["", "file:///etc/passwd", "ftp://h/x", "javascript:x", "http:///x", "http://h:port/", "http://h/a b",
     "http://h/\r\nX: y", "http://me:pw@h/", "http://h/é", "HTTPS", "http://" + "h" * 1000, "relative"],
)  # fmt: skip
def test_what_is_no_address_is_never_asked(post, address):
    assert hooks.fault(address)
    done = post(address)
    assert (done.returncode, done.stdout) == (65, b"")
    assert done.stderr.startswith(b"CRONQ_NOTIFY_WEBHOOK: ")


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_a_server_that_is_slow_is_left(server, post, path):
    began = time.monotonic()
    done = post(server.url + path, seconds=0.5)
    assert (done.returncode, done.stderr) == (75, b"not delivered: no whole answer within 0.5 s\n")
    assert time.monotonic() - began < 5


def test_of_an_answer_without_end_no_more_is_read_than_is_shown(server, post):
    done = post(f"{server.url}/flood")
    assert (done.returncode, done.stdout) == (0, b"200\n")


def test_nobody_there_is_worth_another_try(post):
    done = post("http://127.0.0.1:1/")
    assert (done.returncode, b"not delivered: " in done.stderr) == (75, True)


def test_a_certificate_of_nobodys_is_not_believed(post, tmp_path):
    import ssl
    from http.server import ThreadingHTTPServer
    from threading import Thread

    from receiver import _handler

    key = tmp_path / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", tmp_path / "cert.pem"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", key)
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"https://localhost:{server.server_port}/ok"
    try:
        done = post(url)
        assert (done.returncode, b"CERTIFICATE_VERIFY_FAILED" in done.stderr, receiver.got) == (75, True, [])
        assert post(url, SSL_CERT_FILE=str(tmp_path / "cert.pem")).returncode == 0
        assert receiver.events() == [EVENT]
    finally:
        server.shutdown()
        server.server_close()
        receiver.close()


# ---------------------------------------------------------------- a command


def test_a_command_has_the_event_as_input_and_in_variables_and_nothing_of_it_in_its_arguments(tell):
    done = tell("call", "sh", "-c", "cat; echo; env | grep ^CRONQ_ | sort; echo $0 $#", "page")
    text, variables = done.stdout.decode().split("\n", 1)
    assert json.loads(text) == EVENT
    assert variables.splitlines() == [
        "CRONQ_EVENT=failed",
        "CRONQ_EVENT_EXIT_CODE=3",
        "CRONQ_EVENT_ID=1-tab-a-0.f",
        "CRONQ_EVENT_TEXT=it's ",  # its second line does not begin so
        "page 0",
    ]


def test_a_command_is_asked_by_its_exit_code_and_one_that_is_not_there_is_tried_again(tell):
    assert tell("call", "sh", "-c", "exit 3").returncode == 3
    done = tell("call", "/no/such")
    assert (done.returncode, done.stderr) == (75, b"/no/such: no such file or directory\n")


def test_a_command_has_the_signals_that_any_program_has(tell):
    done = tell("call", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)  # with what whoever runs the tests ignores, SIGHUP perhaps
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)  # as Python ignores them


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a": "' + b"x" * herald.MOST_EVENT + b'"}'])
def test_what_is_no_event_is_told_to_nobody(server, tell, data):
    done = tell("post", data=data, **{hooks.WEBHOOK: f"{server.url}/ok"})
    assert (done.returncode, server.got) == (65, [])


def test_a_nul_byte_in_an_event_is_no_end_of_a_variable():
    assert herald.variables({"event": "failed", "reason": "a\0b", "output": "x", "entry": None}) == {
        "CRONQ_EVENT": "failed",
        "CRONQ_EVENT_REASON": "a b",
    }


def test_the_program_is_told_nothing_secret_in_its_arguments():
    words = hooks.plan("post-", ["https://example.org/secret"], {}, system=False)
    assert "secret" not in " ".join(words.argv)
    assert words.env == {hooks.WEBHOOK: "https://example.org/secret"}
    assert Path(words.argv[0]).samefile(sys.executable)
