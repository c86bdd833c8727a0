"""Debian's cron with everything that a machine has around it: all its tables, and a log that is written down.

Does:    `CronWorld` is a `Cron` (debian_jail.py) whose scratch directory a test may fill with tables first, and whose
         log goes to a file as rsyslog writes it, under the clock of the test. `inside` runs a program in its world.
"""

from __future__ import annotations

import datetime
import os
import queue
import socket
import subprocess
import sys
import threading
import zoneinfo
from pathlib import Path

from debian_jail import Cron

from cronq.cronlog import Cronlog

REPOSITORY = Path(__file__).parent.parent.parent


class CronWorld(Cron):
    """`syslog` is the file that its lines are in, with ISO stamps or, `traditional`, as syslog always wrote them."""

    def __init__(
        self, scratch: Path, now: int, zone: str = "UTC", table: bytes = b"", traditional: bool = False
    ) -> None:
        self.syslog = scratch / "syslog"
        self.syslog.touch()
        self.now, self.zone, self.traditional = now, zoneinfo.ZoneInfo(zone), traditional
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        folder = os.open(scratch, os.O_PATH)  # the path itself may be too long for a socket
        self.socket.bind(f"/proc/self/fd/{folder}/log")
        os.close(folder)
        self.messages: list[str] = []
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._hear, daemon=True).start()  # a full socket would hold cron up
        super().__init__(scratch, table, now, zone)
        self.write_down()

    def __exit__(self, *words: object) -> None:
        super().__exit__(*words)
        self._tell(b"end")

    def look(self, now: int):
        found = super().look(now)
        self.now = now
        self.write_down()
        return found

    def _hear(self) -> None:
        with self.socket:
            while (message := self.socket.recv(65536)) != b"end":
                self.heard.put(message)

    def _tell(self, message: bytes) -> None:
        folder = os.open(self.scratch, os.O_PATH)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(message, f"/proc/self/fd/{folder}/log")
        os.close(folder)

    def log(self, user: str, command: str) -> None:
        """Let cronq's own log say that it runs this."""
        folder = os.open(self.scratch, os.O_PATH)
        ours = Cronlog(f"/proc/self/fd/{folder}/log")
        ours.job(99, user, "CMD", command, self.now)
        ours.close()
        os.close(folder)

    def write_down(self) -> None:
        """What cron has sent to syslog, into the file."""
        lines = []
        when = datetime.datetime.fromtimestamp(self.now // 60 * 60 + 1.25, self.zone)
        stamp = when.strftime("%b %e %H:%M:%S") if self.traditional else when.isoformat(timespec="microseconds")
        self._tell(b"so far")
        while (message := self.heard.get(timeout=60)) != b"so far":
            text = message.decode("ascii")
            self.messages.append(text[text.index(" cron" if " cron[" in text else " CRON") + 1 :].rstrip("\n\0"))
            lines.append(f"{stamp} box {self.messages[-1]}\n")
        with self.syslog.open("a") as file:
            file.writelines(lines)

    def inside(self, *argv: str | Path, **options) -> subprocess.CompletedProcess[str]:
        """Run a program that sees the tables that this cron sees."""
        words = ["nsenter", f"--target={self.process.pid}", "--mount", f"--wd={REPOSITORY}", *argv]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, **options)

    def beside(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program in there that is told things by lines, and answers by lines."""
        words = ["nsenter", f"--target={self.process.pid}", "--mount", f"--wd={REPOSITORY}", sys.executable, *argv]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def world(scratch: Path) -> None:
    """The directories of tables, to be filled before cron starts."""
    for name in ("tabs", "cron.d"):
        (scratch / name).mkdir()
    (scratch / "crontab").write_text("")
