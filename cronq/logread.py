"""What cron says it started: its lines in a log file or the journal, followed from where we were.

Does:    `Line`s of cron's log: when, who, what, as cron prints them; also that cron itself was started. Log
         files are followed over rotation, and over our own restarts by `place`.
Reads:   a syslog file (traditional or ISO stamps), or `journalctl -o json`.
Trusts:  that what bears cron's name in the log is cron's: any program can write there. It is compared, never obeyed.
Fails:   `UsageError` where there is no such log. A file that went away between two looks (rotated twice, or packed)
         is said by `lost`: what was in it since the last look is not known.
"""

from __future__ import annotations

import datetime
import glob
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

from cronq.errors import UsageError

FILES = ("/var/log/cron.log", "/var/log/syslog", "/var/log/cron", "/var/log/messages")
STARTED = ""  # the user of a line that says that cron itself began
_NAMES = ("CRON", "cron", "CROND", "crond")
_MOST = 16 << 20  # read at one look
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\S+|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ (CROND?|crond?)\[\d+\]: (.*)")
_COMMAND = re.compile(r"\((\S+)\) CMD \((.*)\)\s*", re.S)
_JOB_PID = re.compile(r"\[\d+\] ")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Line(NamedTuple):
    """Cron started `command`, as it prints it, for `user` at `at`, seconds since the epoch."""

    at: float
    user: str
    command: str

    def without_pid(self) -> str:
        """The command without the pid of its job, which `cron -L 8` puts in front."""
        return _JOB_PID.sub("", self.command, count=1)


def line(at: float, message: str) -> Line | None:
    """What this message of cron's says; None for what is neither a start of a job nor of cron."""
    if found := _COMMAND.fullmatch(message):
        return Line(at, found[1], found[2])
    if message.startswith(("(CRON) STARTUP", "(CRON) INFO (pidfile")):
        return Line(at, STARTED, "")
    return None


class File:
    """A log file that syslog writes. `place` says how far it was read: it goes into the state."""

    def __init__(self, path: str, now: float, place: dict[str, Any] | None = None) -> None:
        self.path = path
        self.lost = False
        self._lost_at_start = False
        self._file: Any = None
        self._rest = b""
        try:
            found = os.stat(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name cron's log with --log, or use --journal") from None
        if place is None or place.get("path") != path:
            self._open(path, found.st_size)
        else:
            self._go_on(place)
        self._now = now

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.path

    @property
    def place(self) -> dict[str, Any]:
        """Where reading goes on after a restart."""
        found = os.fstat(self._file.fileno())
        return {"path": self.path, "inode": found.st_ino, "at": self._file.tell() - len(self._rest)}

    def read(self, now: float) -> list[Line]:
        """What has been written since the last look; `now` tells the year of stamps that have none."""
        self._now, self.lost = now, self._lost_at_start
        self._lost_at_start = False
        found = self._lines()
        while self._is_rotated():
            found += self._lines()
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _open(self, path: str, at: int, lost: bool = False) -> None:
        if self._file is not None:
            self._file.close()
        self._file = open(path, "rb")  # noqa: SIM115 - kept open: a rotated file is read to its end
        self._file.seek(at)
        self._rest = b""
        self._lost_at_start = lost

    def _go_on(self, place: dict[str, Any]) -> None:
        """Where an earlier process stopped; the file may have been rotated since."""
        for path in (self.path, *sorted(glob.glob(glob.escape(self.path) + "[.-]*"))):
            found = os.stat(path)
            if found.st_ino == place.get("inode") and found.st_size >= int(place["at"]):
                self._open(path, int(place["at"]))
                return
        self._open(self.path, 0, lost=True)

    def _is_rotated(self) -> bool:
        """Go on with the new file, if there is one by now."""
        open_one = os.fstat(self._file.fileno())
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # the new one is not there yet
        if named.st_ino != open_one.st_ino:
            self._open(self.path, 0)
            return True
        if named.st_size < self._file.tell():  # cut down in place
            self._open(self.path, 0)
            self.lost = True
            return True
        return False

    def _lines(self) -> list[Line]:
        found: list[Line] = []
        while data := self._file.read(_MOST):
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._rest = self._rest[-_MOST:]
            for text in lines:
                if (mark := _STAMP.match(text)) and (at := _instant(mark[1].decode(), self._now)) is not None:
                    one = line(at, mark[3].decode("utf-8", "surrogateescape"))
                    found += [one] if one else []
        return found


class Journal:
    """systemd's journal."""

    name = "the journal"

    def __init__(self, now: float, place: dict[str, Any] | None = None) -> None:
        self.lost = False
        self._cursor = str((place or {}).get("cursor") or "")
        self._since = now
        try:
            subprocess.run(["journalctl", "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise UsageError("journalctl is not here; name cron's log file with --log") from None

    @property
    def place(self) -> dict[str, Any]:
        """Where reading goes on after a restart."""
        return {"cursor": self._cursor}

    def read(self, now: float) -> list[Line]:
        """What has been written since the last look."""
        since = [f"--after-cursor={self._cursor}"] if self._cursor else [f"--since=@{self._since:.0f}"]
        words = ["journalctl", "-o", "json", "--all", "--no-pager", "--quiet", *since]
        words += [word for name in _NAMES for word in ("+", f"SYSLOG_IDENTIFIER={name}")][1:]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.lost = bool(self._cursor and done.returncode)  # the journal no longer has the place
        if self.lost:
            self._cursor, self._since = "", now
        return list(self._lines(done.stdout))

    def _lines(self, output: bytes) -> Iterator[Line]:
        for text in output.splitlines():
            try:
                entry = json.loads(text)
                self._cursor = entry["__CURSOR"]
                message = entry["MESSAGE"]
                at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(message, list):  # bytes that are no text
                message = bytes(message).decode("utf-8", "surrogateescape")
            if isinstance(message, str) and (one := line(at, message)):
                yield one


Source = File | Journal


def find(log: str | None, journal: bool, now: float, place: dict[str, Any] | None) -> Source:
    """Where cron's lines are: the file or the journal that was asked for, else where they usually are."""
    if log and journal:
        raise UsageError("--log and --journal cannot both be meant")
    if log:
        return File(os.path.abspath(log), now, place)
    if journal:
        return Journal(now, place)
    kept = (place or {}).get("path")
    for path in [kept] if kept else FILES:
        if path and os.path.isfile(path):
            return File(path, now, place)
    return Journal(now, place)


def _instant(stamp: str, now: float) -> float | None:
    """Seconds since the epoch of a stamp; one without year and offset is the machine's local time, next to `now`."""
    try:
        if stamp[0].isdigit():
            return datetime.datetime.fromisoformat(stamp).timestamp()
        month, (hour, minute, second) = _MONTHS.index(stamp[:3]) + 1, map(int, stamp[7:].split(":"))
        this = datetime.datetime.fromtimestamp(now).year
        times = [
            datetime.datetime(year, month, int(stamp[4:6]), hour, minute, second, fold=fold).timestamp()
            for year in (this - 1, this, this + 1)
            for fold in (0, 1)
            if month != 2 or int(stamp[4:6]) < 29 or not year % 4
        ]
    except ValueError:
        return None
    return min(times, key=lambda at: abs(now - at))
