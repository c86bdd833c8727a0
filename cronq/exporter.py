"""`cronq metrics --listen`: figures by HTTP, from a process of its own.

Does:    answers GET /metrics with what the dispatcher tells this process's user, asked anew for each scrape.
Reads:   requests; the control socket.
Trusts:  nobody: who connects gets a few seconds to ask and to read, one of a few places, and nothing but the figures
         that this user may see. There is no login, so it is for 127.0.0.1, or behind something that has one.
Fails:   a dispatcher that does not answer is a 503 with the sentence; `UsageError` for an address that is none,
         `CronqError` where it cannot be had.

The dispatcher is asked by this process alone and read at once (`client`), so a scraper that hangs holds up nobody but
itself.
"""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import socket
import threading
from http import HTTPStatus
from typing import Any

from cronq import attend, client, job
from cronq.errors import CronqError, UsageError
from cronq.exposition import CONTENT_TYPE

PATH = "/metrics"
PATIENCE = 10.0  # seconds for a request, and for each part of an answer to be taken
LONGEST = 30.0  # for all of it
PLACES = 8  # scrapes at the same time; a hanging one keeps its place no longer than that
WAITING = 16


def serve(spool: str, request: dict[str, object], where: str) -> None:
    """Answer until the process is ended. Raises `CronqError`."""
    try:
        server = Server(address(where), spool, request)
    except OSError as error:
        raise CronqError(f"{where}: {error.strerror or error}") from None
    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if server.address_family == socket.AF_INET6 else str(host)
    attend.say(f"figures at http://{shown}:{port}{PATH}")
    with server:
        server.serve_forever()


def address(text: str) -> tuple[str, int]:
    """Host and port of 127.0.0.1:9747, or [::1]:9747. Raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    try:
        if not (colon and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError:
        raise UsageError(f"--listen: an address and a port, like 127.0.0.1:9747, not {job.show(text)}") from None


class Server(http.server.ThreadingHTTPServer):
    """The one of one process."""

    daemon_threads = True
    request_queue_size = WAITING

    def __init__(self, where: tuple[str, int], spool: str, request: dict[str, object]) -> None:
        self.spool = spool
        self.request = request
        self.places = threading.BoundedSemaphore(PLACES)
        if ":" in where[0]:
            self.address_family = socket.AF_INET6
        super().__init__(where, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread for it, if there is a place; who finds none is not waited for."""
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there can be no further thread now
            self.places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and leave the place; whoever drips byte by byte is hung up on."""
        end = threading.Timer(LONGEST, _hang_up, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self.places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Whoever hung up, or did not read, gets nothing."""


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection: one request."""

    timeout = PATIENCE
    server: Server
    server_version, sys_version = "cronq", ""

    def do_GET(self) -> None:
        """Tell the figures, or why there are none."""
        if self.path.partition("?")[0] != PATH:
            self._tell(HTTPStatus.NOT_FOUND, f"there is only {PATH}\n", "text/plain; charset=utf-8")
            return
        try:
            found = client.ask(self.server.spool, dict(self.server.request))
            text = "".join(str(piece.get("text", "")) for piece in found)
        except CronqError as error:
            self._tell(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.sentence}\n", "text/plain; charset=utf-8")
        else:
            self._tell(HTTPStatus.OK, text, CONTENT_TYPE)

    def _tell(self, status: HTTPStatus, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """A scrape is no news."""
