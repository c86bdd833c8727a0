"""A dispatcher's house without a launcher, whose time is an argument: ticks are made and nothing ever starts."""

import socket
import sys
from pathlib import Path

from cronq import shelves, spool
from cronq.config import Config, load
from cronq.crew import Crew
from cronq.doorbell import Doorbell
from cronq.history import History
from cronq.house import House, Now
from cronq.turn import turn

UTC = 1_792_800_000 // 86400 * 86400  # a midnight


class Bench:
    """One rootless spool and its configuration; `begin` is a start of the dispatcher."""

    def __init__(self, path: Path, uid: int) -> None:
        self.root = path / "spool"
        self.config = path / "config"
        self.config.mkdir(exist_ok=True)
        self.uid = uid
        spool.make(str(self.root), uid)
        self.begin()

    def begin(self) -> None:
        self.bell = Doorbell(inotify=False)
        launcher, self.launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher.setblocking(False)
        files = shelves.Shelves(str(self.root), self.uid)
        crew = Crew(launcher, self.bell)
        self.house = House(files, History(str(self.root)), crew, Config(), str(self.config))
        for state in ("ready", "delayed", "held", "dead"):
            for _, entry in files.scan(state):
                self.house.backlog.put(state, entry)
        self.house.paused_until = float("inf")  # nothing starts

    def toml(self, text: str) -> None:
        (self.config / "cronq.toml").write_text(text)
        self.house.config = load(str(self.config))

    def crontab(self, text: str | bytes) -> None:
        """The configuration's own table."""
        draft = self.config / ".draft"
        draft.write_bytes(text if isinstance(text, bytes) else text.encode())
        draft.chmod(0o644)
        draft.rename(self.config / "crontab")

    def install(self, text: str) -> None:
        """This user's table, as `cronq crontab` leaves it."""
        folder = self.root / "schedule" / "tables"
        folder.mkdir(exist_ok=True)
        draft = folder / ".draft"
        draft.write_text(text)
        draft.rename(folder / str(self.uid))

    def restart(self) -> None:
        """As after a SIGKILL: what was in memory is gone."""
        config = self.house.config
        self.close()
        self.begin()
        self.house.config = config

    def close(self) -> None:
        for each in (self.house.crew.launcher, self.launcher, self.bell, self.house.shelves, self.house.history):
            each.close()

    def minutes(self, first: int, last: int) -> None:
        """A turn at each of these minutes of the day."""
        for minute in range(first, last + 1):
            while self.turn(UTC + minute * 60) == 0.0:
                pass

    def turn(self, wall: float) -> float:
        patience = turn(self.house, Now(wall, wall), set())
        assert self.house.broken == ""
        return patience

    def ids(self) -> list[str]:
        """The jobs that there are, without their uid."""
        found = [entry.id for state in ("ready", "delayed") for _, entry in self.house.shelves.scan(state)]
        return sorted(each.partition("-")[2] for each in found)

    def made(self) -> list[tuple[str, int]]:
        """What was made, and for which second of this day."""
        cut = [each.rpartition("-") for each in self.ids()]
        return sorted((name, int(instant, 16) // 1_000_000 - UTC) for name, _, instant in cut)


def calls(bench: Bench, wall: float) -> int:
    """How many functions a turn calls."""
    count = 0

    def called(_frame, event, _what):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        bench.turn(wall)
    finally:
        sys.setprofile(None)
    return count
