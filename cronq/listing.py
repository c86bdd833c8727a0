"""Root's tables: those that the launcher opens for a dispatcher, who could not.

Does:    looks whether any of them may be another now, and has the launcher list and open them anew then, one by one.
Reads:   stamps of the configuration's tables, with `[cron] system` of the machine's too; what the launcher opened.
Trusts:  the launcher. What a table must be to count, `tables` asks.
Fails:   a launcher that does not answer, or refuses, is asked again in a while; what is known stays.
"""

from __future__ import annotations

import os

from cronq.crew import Crew
from cronq.cronfiles import MACHINES, MACHINES_FOLDER, USERS_FOLDER, uid_of
from cronq.log import line as log
from cronq.tables import LOOK_EVERY, SETTLED_AFTER, Tables

ANSWER_WITHIN = 5.0
AGAIN = 30.0  # seconds after a listing that failed
ORPHANS_EVERY = 5.0  # seconds between looks whether the user of a table has come
Stamps = tuple[tuple[str, int, int, int], ...]


class Listing:
    """What the launcher has been asked for, and what it has not."""

    def __init__(self, tables: Tables, crew: Crew, config: str) -> None:
        self._tables = tables
        self._crew = crew
        self._own = (os.path.join(config, "crontab"), os.path.join(config, "cron.d"))
        self._looked = float("-inf")
        self._stamps: Stamps | None = None
        self._begun: float | None = None  # the listing that is under way
        self._asked = 0.0  # when the launcher was asked last
        self._next = 0
        self._seen: set[str] = set()
        self._machine = False
        self._due = False
        self._orphans: list[str] = []  # users whom the machine does not know, and who have tables
        self._orphans_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether numbers of tables mean nothing now: a listing is under way."""
        return self._begun is not None

    def turn(self, wall: float, mono: float, machine: bool, due: bool = False) -> None:
        """Look, ask, and hear. `machine`: the machine's own tables count. `due`: something has become due: look now."""
        due, self._due = due and not self._due, due
        answers, self._crew.tables = self._crew.tables, []
        for message, descriptor in answers:
            try:
                self._hear(message, descriptor, wall, mono)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        if self._begun is not None:
            if mono - self._asked > ANSWER_WITHIN:
                self._give_up("the launcher does not answer", mono)
        elif due or mono - self._looked >= LOOK_EVERY:
            self._looked = mono
            stamps = self._look(machine)
            if stamps != self._stamps or machine != self._machine or self._is_found(mono):
                young = any(-0.1 < wall - mtime / 1e9 < SETTLED_AFTER for _, mtime, _, _ in stamps)
                self._stamps, self._machine = None if young else stamps, machine
                self._begun, self._seen = mono, set()
                self._ask(0, mono)

    def _is_found(self, mono: float) -> bool:
        """Whether there is a user now whose table had none."""
        if not self._orphans or mono < self._orphans_at:
            return False
        self._orphans_at = mono + ORPHANS_EVERY
        return any(uid_of(user) is not None for user in self._orphans)

    def _ask(self, number: int, mono: float) -> None:
        self._next, self._asked = number, mono
        self._crew.crontab(number)

    def _hear(self, message: dict[str, object], descriptor: int | None, wall: float, mono: float) -> None:
        if self._begun is None or message.get("number") != self._next:
            return
        if "failed" in message:
            self._give_up(str(message["failed"]), mono)
            return
        table, total = str(message.get("table")), message.get("of")
        if self._tables.places.known(table, self._machine):
            self._seen.add(table)
            if descriptor is None:
                self._tables.refuse(table, str(message.get("why")))
            else:
                self._tables.read(table, descriptor, wall, self._begun, self._next)
        if isinstance(total, int) and self._next + 1 < total:
            self._ask(self._next + 1, mono)
            return
        self._begun = None
        self._orphans = [os.path.basename(name) for name in self._seen if self._tables.is_orphan(name)]
        self._tables.keep("/", self._seen)
        self._tables.complete = True

    def _give_up(self, why: str, mono: float) -> None:
        log("crontabs-not-listed", reason=why)
        self._begun, self._stamps = None, None
        self._looked = mono + AGAIN
        self._tables.complete = True

    def _look(self, machine: bool) -> Stamps:
        """What can be seen of root's tables without opening them."""
        paths = list(self._own)
        folders = [self._own[1]]
        if machine:
            paths += [MACHINES, MACHINES_FOLDER, USERS_FOLDER]
            folders.append(MACHINES_FOLDER)
        for folder in folders:
            try:
                paths += sorted(entry.path for entry in os.scandir(folder))
            except OSError:
                continue
        found = []
        for path in paths:
            try:
                stat = os.stat(path)
            except OSError:
                continue
            found.append((path, stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return tuple(found)
