"""What the launcher tells systemd: ready, still turning, stopping (sd_notify(3), the protocol of Type=notify).

Does:    one datagram a word to the socket that NOTIFY_SOCKET names; nothing where there is none.
Fails:   never: whoever does not listen is not told.
"""

from __future__ import annotations

import os
import socket


class Notify:
    """The line to systemd, which is taken out of the environment: children must not speak for us."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    def tell(self, word: str) -> None:
        """Tell one word, like READY=1."""
        if self._line is None:
            return
        try:
            self._line.sendto(word.encode(), self._address)
        except OSError:
            pass
