r"""The lines that monitoring greps for: `CRON[123]: (ann) CMD (backup)`, to the system's log.

Does:    `Cronlog.job` and `.table` send one line to syslog or the journal, by the socket that both listen at.
Writes:  datagrams to /dev/log, facility cron. It never waits: a log that nobody reads loses lines.
Trusts:  nobody: control characters are printed as `^X`, bytes beyond ASCII as `\ooo`, as Debian's cron prints them.
Fails:   never; without a log there is none.

`CRON` says what happens to a job, `cron` what happens to tables and to the daemon.
"""

from __future__ import annotations

import socket
import time

SOCKET = "/dev/log"
_CRON_INFO = 9 << 3 | 6  # facility cron, severity info
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MOST_BYTES = 8000  # syslog daemons cut a line there


class Cronlog:
    """The system's log, as cron writes to it."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def job(self, pid: int, user: str, event: str, detail: str, now: float) -> None:
        """`CRON[pid]: (user) EVENT (detail)`: CMD, END, MAIL, UNSAFE MAIL; or `(CRON) error`, `(CRON) info`."""
        self._send("CRON", pid, user, event, detail, now)

    def table(self, pid: int, user: str, event: str, detail: str, now: float) -> None:
        """`cron[pid]: (user) EVENT (detail)`: RELOAD, ORPHAN, WRONG FILE OWNER, ERROR …, about a table."""
        self._send("cron", pid, user, event, detail, now)

    def _send(self, ident: str, pid: int, user: str, event: str, detail: str, now: float) -> None:
        text = f"({printable(user)}) {event} ({printable(detail)})"
        day = time.localtime(now)
        stamp = f"{_MONTHS[day.tm_mon - 1]} {day.tm_mday:2d} {time.strftime('%H:%M:%S', day)}"
        line = f"<{_CRON_INFO}>{stamp} {ident}[{pid}]: {text}".encode()[:_MOST_BYTES]
        for _ in range(2):  # once more after the log was started again
            try:
                if self._socket is None:
                    fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                    fresh.setblocking(False)
                    self._socket = fresh
                    fresh.connect(self._path)
                self._socket.send(line)
            except BlockingIOError:
                return
            except OSError:
                self.close()
            else:
                return

    def close(self) -> None:
        """Let go of the log."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def printable(text: str) -> str:
    r"""Text as cron prints it into a log: `^A` for control characters, `^?`, `\303\274` for what is no ASCII."""
    found = []
    for byte in text.encode("utf-8", "surrogateescape"):
        if byte < 0x20:
            found.append(f"^{chr(byte + 64)}")
        elif byte < 0x7F:
            found.append(chr(byte))
        else:
            found.append("^?" if byte == 0x7F else f"\\{byte:03o}")
    return "".join(found)
