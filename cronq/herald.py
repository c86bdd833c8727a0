"""The herald: tells one event, which it reads from its standard input, to a webhook or to a command.

    python -I -m cronq.herald post                   POST it to the URL in CRONQ_NOTIFY_WEBHOOK, or in the file there
    python -I -m cronq.herald call PROGRAM [ARG…]    become this program, which has it as input and in its variables

Does:    sends the event as it is, a JSON object; `call` sets CRONQ_EVENT and a CRONQ_EVENT_KEY for each of its keys.
Reads:   at most 64 KiB of input; at most 4 KiB of an answer, of whose body it shows a line where it was refused.
Trusts:  whoever set its environment: it runs as him, or as the user whom root named. Not the server: half a minute for
         everything, no redirect is followed, a certificate is verified, no scheme but http and https is known. Proxies
         are those of the environment.
Fails:   75 where it is worth trying again: no connection, no answer in time, 408, 425, 429, 5xx, a program that cannot
         be started. 65 where it is not. An event may come twice; its id is the same then (Idempotency-Key).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, NoReturn

from cronq.hooks import WEBHOOK, fault

SECONDS = 30.0  # for everything together
MOST_EVENT = 64 * 1024
MOST_ANSWER = 4 * 1024
MOST_SHOWN = 300
BAD, AGAIN = 65, 75
_WORTH_IT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def main(words: list[str]) -> int:
    """Tell the event on standard input; the exit code."""
    data = sys.stdin.buffer.read(MOST_EVENT + 1)
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict) or len(data) > MOST_EVENT:
        return _say(BAD, f"the input is no JSON object of at most {MOST_EVENT} bytes")
    if words[:1] == ["call"] and len(words) > 1:
        return call(event, words[1:])
    return post(event, data, os.environ.get(WEBHOOK, ""))


def call(event: dict[str, Any], argv: list[str]) -> int:
    """Become the program; the exit code where that cannot be."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.lseek(0, 0, os.SEEK_SET)  # it reads the event too
        os.execvpe(argv[0], argv, {**os.environ, **variables(event)})  # noqa: S606 - no shell is meant
    except OSError as error:
        return _say(AGAIN, f"{argv[0]}: {(error.strerror or str(error)).lower()}")


def variables(event: dict[str, Any]) -> dict[str, str]:
    """The event as variables: CRONQ_EVENT is what happened. What was printed is for the input alone."""
    found = {}
    for key, value in event.items():
        if isinstance(value, str | int | float) and key != "output":
            name = "CRONQ_EVENT" if key == "event" else f"CRONQ_EVENT_{key.upper()}"
            found[name] = str(value).replace("\0", " ")
    return found


def post(event: dict[str, Any], data: bytes, address: str) -> int:
    """Send the event; the exit code."""
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)  # a timeout of the socket's would begin anew with each byte
    try:
        url = _url(address)
        if why := fault(url) or ("it leads to another file" if url.startswith("/") else ""):
            return _say(BAD, f"{WEBHOOK}: {why}")
        status, body = _answer(url, data, str(event.get("id")))
    except (OSError, HTTPException) as error:
        return _say(AGAIN, f"not delivered: {error or type(error).__name__}")
    if 200 <= status < 300:
        print(status)
        return 0
    if 300 <= status < 400:
        return _say(BAD, f"the answer is {status}, a redirect, and none is followed; name the place that it leads to")
    again = status >= 500 or status in _WORTH_IT
    shown = "".join(char if char.isprintable() else " " for char in body.decode(errors="replace")[:MOST_SHOWN])
    return _say(AGAIN if again else BAD, f"the answer is {status} {shown}".rstrip())


def _url(address: str) -> str:
    """The URL, which a file may hold in its first line. Raises `OSError`."""
    if not address.startswith("/"):
        return address
    with open(address, "rb") as file:
        return file.read(MOST_ANSWER).partition(b"\n")[0].decode(errors="replace").strip()


def _answer(url: str, data: bytes, event_id: str) -> tuple[int, bytes]:
    """Status and beginning of the answer. Raises `OSError`, `HTTPException`."""
    import ssl
    from urllib import request

    opener = request.OpenerDirector()  # with nothing that follows redirects, or knows another scheme
    context = ssl.create_default_context()
    for handler in (request.ProxyHandler(), request.HTTPHandler(), request.HTTPSHandler(context=context)):
        opener.add_handler(handler)
    headers = {"Content-Type": "application/json", "User-Agent": "cronq", "Idempotency-Key": event_id}
    asked = request.Request(url, data, headers, method="POST")  # noqa: S310 - `fault` knows http and https only
    with opener.open(asked, timeout=SECONDS) as answer:
        return answer.status, answer.read(MOST_ANSWER)


def _late(_number: int, _frame: object) -> NoReturn:
    raise TimeoutError(f"no whole answer within {SECONDS:g} s")


def _say(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
