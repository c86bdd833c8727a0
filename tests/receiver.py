"""A webhook on this machine, for stories about whoever is told: a real HTTP server, which does as the path says.

Does:    /ok takes an event; /once says 500 the first time; /status/N answers N; /moved redirects to /ok, /file to a
         file; /hang never answers; /drip answers a byte a tenth of a second; /flood sends a body without end.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """The server, and what it was sent: path, headers and event."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], dict]] = []
        self.gone = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def events(self, path: str = "/ok") -> list[dict]:
        """The events that came to this path."""
        return [event for where, _, event in self.got if where == path]

    def close(self) -> None:
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            again = any(path == self.path for path, _, _ in receiver.got)
            receiver.got.append((self.path, dict(self.headers), json.loads(body)))
            answer = {"/once": 200 if again else 500, "/moved": 307, "/file": 302}.get(self.path, 200)
            if self.path == "/hang":
                receiver.gone.wait()
            elif self.path in ("/drip", "/flood"):
                self._go_on(self.path == "/drip")
            else:
                self.send_response(int(self.path.removeprefix("/status/")) if "/status/" in self.path else answer)
                place = {"/moved": "/ok", "/file": "file:///etc/passwd"}.get(self.path)
                if place:
                    self.send_header("Location", place)
                self.end_headers()
                self.wfile.write(b"so \x1b[31mbe it")

        def do_GET(self) -> None:
            receiver.got.append((self.path, dict(self.headers), {}))
            self.send_response(200)
            self.end_headers()

        def _go_on(self, slowly: bool) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"" if slowly else b"\r\n"))
            try:
                while not (slowly and receiver.gone.wait(0.1)):
                    self.wfile.write(b"x" if slowly else b"x" * 65536)
            except OSError:
                pass  # it has heard enough

        def log_message(self, *_: object) -> None:
            pass

    return Handler
