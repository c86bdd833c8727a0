"""The crontabs that the dispatcher knows, and the lines in them.

Does:    finds tables that are new, changed or gone, reads them a slice a turn, and says once of each what is wrong, to
         the system's log too (`tablelog`).
Reads:   `schedule/tables/`, which installed tables lie in; rootless the configuration's `crontab`; on a system spool
         the tables of root's that the launcher opened (`listing`). Stamps at most once a second, a table only when its
         stamp is another.
Trusts:  of a table what its file's owner proves (`safeopen`, `cronfiles`); the worker proves it again.
Fails:   a table that may not count, or is no crontab, has no lines; the log says why, once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from cronq import safeopen, tablelog
from cronq.cronfiles import INSTALLED, MOST_BYTES, Places, uid_of
from cronq.crontab import CronEntry, Crontab
from cronq.errors import BadJob
from cronq.log import line as log
from cronq.options import Options
from cronq.shelves import TABLES, Shelves
from cronq.upcoming import AnySchedule

LOOK_EVERY = 1.0
SETTLED_AFTER = 2.0  # seconds until a stamp can be believed: several writes may fall into one tick of it
SLICE_SECONDS = 0.010
MOST_SAID = 100  # bad lines of one table
Stamp = tuple[int, int, int]
Tell = Callable[[str, str, str], object]


class Line:
    """A line that runs something, and the table it stands in."""

    __slots__ = ("entry", "identity", "options", "schedule", "table", "zone")

    def __init__(self, table: str, entry: CronEntry, identity: str) -> None:
        self.table = table
        self.entry = entry
        self.identity = identity
        self.schedule: AnySchedule = entry.schedule
        self.zone = entry.zone
        self.options: Options = entry.options


class Table:
    """One table as it was read last."""

    __slots__ = ("hash", "lines", "number", "read", "said", "since", "stamp", "told")

    def __init__(self) -> None:
        self.stamp: Stamp | None = None
        self.hash = b""
        self.said = ""
        self.told = tablelog.Told()
        self.lines: list[Line] = []
        self.read = False  # once at least
        self.number = -1  # in the launcher's listing
        self.since = 0.0  # whoever opened it before sees another one


class Tables:
    """All of them."""

    def __init__(self, shelves: Shelves, config: str, tell: Tell = lambda *_: None) -> None:
        """`tell` tells the system's log of a table: user, event, detail."""
        self._tell = tell
        self.places = Places(config, shelves.gid is not None)
        self.known: dict[str, Table] = {}
        self.complete = False  # every table has been looked at once
        self.ready = False  # and been read
        self._shelves = shelves
        self._lines: dict[tuple[str, str], Line] = {}  # by table's uid, or "" for those of root's, and identity
        self._hidden: set[Line] = set()  # those that another one of the same name keeps from running
        self._users: dict[int, set[str]] = {}  # the tables of root's that have due lines of this user
        self._queue: deque[tuple[str, bytes]] = deque()  # what is to be read
        self._reading: Iterator[Crontab | None] | None = None
        self._changed = False
        self._looked = float("-inf")
        self._resting = float("-inf")
        self._folder_stamp = -1

    def turn(self, wall: float, mono: float, due: bool = False) -> bool:
        """Look, and read on; whether the lines are others now. `due`: something is, and goes by what is there now."""
        if (due or mono - self._looked >= LOOK_EVERY) and not self._queue:
            self._looked = mono
            self._look(wall)
        deadline = time.monotonic() + SLICE_SECONDS
        while self._queue:
            self._read_on(deadline)
            if time.monotonic() > deadline:
                break
        if self._queue:
            return False
        rests = self.ready and mono < self._resting
        self.ready = self.ready or self.complete
        if not self._changed or rests:
            return False
        self._changed = False
        self._index()
        return True

    def rest(self, until: float) -> None:
        """Let changes wait so long: taking them up costs with all lines that there are."""
        self._resting = until

    @property
    def busy(self) -> bool:
        """Whether there is more to read, at once."""
        return bool(self._queue)

    def lines(self) -> Iterator[Line]:
        """All lines that can run, in the order of the tables' names."""
        return (line for name in sorted(self.known) for line in self.known[name].lines if line not in self._hidden)

    def find(self, uid: int, identity: str) -> Line | None:
        """The line of this user's that has this identity."""
        return self._lines.get((str(uid), identity)) or self._lines.get(("", identity))

    # ---------------------------------------------------------------- looking

    def _look(self, wall: float) -> None:
        self._look_at_installed(wall)
        if self._shelves.gid is None:
            self._look_at_own(wall)
            self.complete = True

    def _look_at_installed(self, wall: float) -> None:
        try:
            stamp = os.stat(TABLES, dir_fd=self._shelves.fd).st_mtime_ns
            if stamp == self._folder_stamp:
                return
            names = [name for name in os.listdir(f"{self._shelves.root}/{TABLES}") if name.isdecimal()]
        except FileNotFoundError:
            stamp, names = 0, []
        for name in names:
            self._look_at(INSTALLED + name, partial(self._shelves.open_installed, int(name)), wall)
        self.keep(INSTALLED, {INSTALLED + name for name in names})
        self._folder_stamp = stamp if _settled(stamp, wall) else -1

    def _look_at_own(self, wall: float) -> None:
        path = self.places.own
        if not os.path.lexists(path):
            self.keep(path, set())
            return
        self._look_at(path, partial(os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), wall)

    def _look_at(self, name: str, opening: Callable[[], int], wall: float) -> None:
        try:
            descriptor = opening()
        except FileNotFoundError:
            self.keep(name, set())
            return
        except (BadJob, OSError) as error:
            self.refuse(name, error.sentence if isinstance(error, BadJob) else f"{name}: {error.strerror}")
            return
        try:
            self.read(name, descriptor, wall, 0.0)
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- one table

    def read(self, name: str, descriptor: int, wall: float, since: float, number: int = -1) -> None:
        """Take a table that is open up again, if it is another than it was. The descriptor stays the caller's."""
        table = self.known.setdefault(name, Table())
        table.number = number
        found = os.fstat(descriptor)
        try:
            if not name.startswith(INSTALLED):
                self.places.check(name, found)
        except BadJob as error:
            self.refuse(name, error.sentence)
            return
        stamp = found.st_mtime_ns, found.st_ino, found.st_size
        if stamp == table.stamp:
            return
        table.stamp = stamp if _settled(found.st_mtime_ns, wall) else None
        data = safeopen.read(descriptor, MOST_BYTES)
        digest = hashlib.sha256(b"%d " % found.st_ino * (number >= 0) + data).digest()
        if digest != table.hash:
            table.hash = digest
            table.since = since
            self._queue.append((name, data))

    def refuse(self, name: str, reason: str) -> None:
        """A table that may not count has no lines."""
        earlier = self.known.get(name, Table())
        if earlier.said != reason:
            log("crontab-refused", table=name, reason=reason)
            self._tell(*tablelog.refused(self.places, name, reason))
        self._changed = self._changed or bool(earlier.lines)
        table = self.known[name] = Table()
        table.said, table.number = reason, earlier.number
        table.told = earlier.told

    def is_orphan(self, name: str) -> bool:
        """Whether a table of the machine's is no user's."""
        return name in self.known and self.known[name].said.startswith(tablelog.ORPHAN)

    def keep(self, prefix: str, names: set[str]) -> None:
        """Forget every table that begins so and is none of these."""
        for name in [name for name in self.known if name.startswith(prefix) and name not in names]:
            if self.known.pop(name).lines:
                self._changed = True
                log("crontab-gone", table=name)

    def _read_on(self, deadline: float) -> None:
        name, data = self._queue[0]
        if self._reading is None:
            self._reading = self.places.parsing(name, data)
        for found in self._reading:
            if found is not None:
                self._reading = None
                self._queue.popleft()
                if name in self.known:
                    self._take(name, self.known[name], found)
                return
            if time.monotonic() > deadline:
                return

    def _take(self, name: str, table: Table, found: Crontab) -> None:
        if found.refused:
            self.refuse(name, found.refused)
            self.known[name].stamp, self.known[name].hash = table.stamp, table.hash
            return
        table.said = ""
        table.lines = [Line(name, entry, self.places.identity(name, entry)) for entry in found.entries]
        self._changed = True
        log("crontab-loaded", table=name, entries=len(table.lines), errors=len(found.errors))
        if table.read:
            self._tell(*tablelog.reloaded(self.places, name))
        table.read = True
        self._say_what_is_new(name, table, found)

    def _say_what_is_new(self, name: str, table: Table, found: Crontab) -> None:
        fresh = table.told.fresh(found)
        for each in fresh[:MOST_SAID]:
            log("crontab-line", table=name, line=each.line, column=each.column, reason=each.text, mend=each.mend)
        if len(fresh) > MOST_SAID:
            log("crontab-line", table=name, reason=f"and {len(fresh) - MOST_SAID} more")
        if errors := [each for each in fresh if each.error]:
            self._tell(*tablelog.faulty(self.places, name, errors))
        table.told.keep({line.identity for line in table.lines})
        if self.places.has_column(name):
            self._say_who_is_unknown(table)

    def _say_who_is_unknown(self, table: Table) -> None:
        """Users of its column who are not there, before the first of their lines is due."""
        firsts: dict[str, Line] = {}
        for line in table.lines:
            firsts.setdefault(line.entry.user, line)
        for user, line in list(firsts.items())[:MOST_SAID]:
            if uid_of(user) is None:
                self.complain(line, tablelog.no_user(user))

    def _index(self) -> None:
        self._hidden = set()
        self._lines = {(_owner(line.table), line.identity): line for line in self.lines()}
        for (owner, identity), line in [] if self._shelves.gid is not None else list(self._lines.items()):
            if owner == "" and (str(self._shelves.uid), identity) in self._lines:  # both are this user's
                self._hidden.add(self._lines.pop((owner, identity)))
                self.complain(line, f"the installed crontab has an entry {identity} too, and that one runs; rename one")

    def complain(self, line: Line, reason: str) -> None:
        """Say once why a line does not run, and not of each line that does not for that reason."""
        table = self.known.get(line.table)
        if table is not None and table.told.is_new(line.identity, reason):
            log("crontab-line", table=line.table, line=line.entry.line, reason=reason)
            self._tell(*tablelog.idle(self.places, line.table, line.entry.line, reason))

    # ---------------------------------------------------------------- what a worker must have open

    def note(self, uid: int, table: str) -> None:
        """A line of that table is due for this user: his worker needs it."""
        if table.startswith("/"):
            self._users.setdefault(uid, set()).add(table)

    def needed(self, uid: int) -> tuple[dict[str, int], float]:
        """The tables that this user's worker must have, with their numbers, and since when it must have them."""
        found = {name: self.known[name] for name in self._users.get(uid, ()) if name in self.known}
        return {name: each.number for name, each in found.items()}, max((t.since for t in found.values()), default=0.0)


def _owner(table: str) -> str:
    return table.removeprefix(INSTALLED) if table.startswith(INSTALLED) else ""


def _settled(mtime_ns: int, wall: float) -> bool:
    return not -0.1 < wall - mtime_ns / 1e9 < SETTLED_AFTER
