"""The evidence for a tick of a crontab: a worker finds the line by itself, in a table whose owner the kernel names.

Does:    `Lines.judge` finds the line of a tick, and gives its job, its plan and its world; likewise of the mail about
         it, and of a hook that is told of it, or that the configuration names.
Reads:   an installed table from the descriptor that came with the tick; one of root's from the descriptor that the
         launcher opened for this worker; rootless, the configuration's own from its place. Whole, at each tick.
Trusts:  the kernel: owner, mode and links of the open file. Root's configuration says whether the machine's tables
         count. Of the message only which table and line are meant, and the hash of the job that was admitted.
Fails:   `BadJob` or `NotPermitted` where the line is another now, or not for me; `BadConfig` where the table cannot be
         had now: the tick goes back, and comes again with a worker that has it.
"""

from __future__ import annotations

import hashlib
import os
import pwd

from cronq import cronjobs, cronmail, hooks, safeopen
from cronq import job as jobs
from cronq import task as tasks
from cronq.cronfiles import INSTALLED, MOST_BYTES, Places, uid_of
from cronq.cronworld import World
from cronq.entry import CALL, HOOK, LINE, MAIL, POST, digest
from cronq.errors import BadConfig, BadJob, NotPermitted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.authority import Authority
    from cronq.crontab import CronEntry
    from cronq.safeopen import System

CHANGED = "its crontab line is another now"
KINDS = (LINE, MAIL, POST, CALL, HOOK)
MOST_KEPT = 64  # tables


class Lines:
    """What one user's worker knows of crontabs."""

    def __init__(self, config: str, uid: int, device: int, system: System | None, authority: Authority | None) -> None:
        self.config = config
        self.uid = uid
        self.system = system
        self.authority = authority
        self.places = Places(config, system is not None)
        self._installed = safeopen.Proof(uid, device, None if system is None else system.gid)
        self._read: dict[str, tuple[bytes, dict[str, CronEntry]]] = {}  # by table: the hash of its bytes, its lines

    def judge(self, message: dict[str, Any], proof: int) -> tuple[jobs.Job, tasks.Plan]:
        """The job of a tick, or of what tells of one, and its plan. Raises `CronqError`."""
        uid, _, name = message["id"].partition("-")
        if int(uid) != self.uid:
            raise NotPermitted(f"it is a tick for uid {uid}, and this worker is uid {self.uid}")
        kind = next((each for each in KINDS if name.startswith(each)), "")
        if not kind or (kind == LINE) == message["data"] or message["offset"] >= 0:
            raise BadJob("it is no tick of a crontab, nor mail or a hook that tells of one")
        if kind == HOOK:
            found, plan = self._hook(message["table"], name.removeprefix(HOOK))
        else:
            found, plan = self._made(kind, self._entry(message["table"], name[len(kind) :].rpartition("-")[0], proof))
        if digest(found) != message["hash"]:
            raise BadJob(CHANGED)
        return jobs.decode(found), plan

    def _entry(self, table: str, identity: str, proof: int) -> CronEntry:
        """The line of mine that has this identity in that table. Raises `CronqError`."""
        if not self.places.known(table, self.authority is not None and self.authority.machines_tables()):
            raise NotPermitted(f"{jobs.show(table)} is no crontab that counts here")
        if self.authority is not None:
            self.authority.runs_line(table, self.uid)
        entry = self._lines(table, self._bytes(table, proof)).get(identity)
        if entry is None:
            raise BadJob(CHANGED)
        if self.places.has_column(table) and uid_of(entry.user) != self.uid:
            raise NotPermitted(f"that line of {table} is {entry.user}'s")
        return entry

    def _made(self, kind: str, entry: CronEntry) -> tuple[bytes, tasks.Plan]:
        """What this line's job, or the mail about it, or its hook comes to: bytes and plan. Raises `CronqError`."""
        system = self.system is not None
        if kind in (POST, CALL):
            target = hooks.of_line(entry).get(kind)
            if target is None:
                raise BadJob(CHANGED)
            return hooks.encode(kind), hooks.plan(kind, target, entry.env, system)
        found = cronjobs.encode(entry) if kind == LINE else self._mail(entry)
        plan = tasks.plan(jobs.decode(found), {}, system=system)
        if kind == LINE:
            plan.cron = self._world(entry)
        return found, plan

    def _hook(self, table: str, name: str) -> tuple[bytes, tasks.Plan]:
        """What a hook of the configuration's comes to, if it is to run as me. What it tells is the dispatcher's."""
        if table != hooks.main_file(self.config):
            raise NotPermitted(f"{jobs.show(table)} names no hook")
        if self.authority is not None:
            self.authority.book.tasks()  # which looks whether the configuration is root's
            self.authority.runs_line(table, self.uid)
        said = hooks.of_config(self.config)
        if said.user is not None and uid_of(said.user) != self.uid:
            raise NotPermitted(f"the hooks of [notify] run as {said.user}")
        kind = POST if name.startswith(POST) else CALL
        if kind not in said.targets:
            raise BadJob("[notify] does not name that hook any more")
        return hooks.encode(kind), hooks.plan(kind, said.targets[kind], {}, self.system is not None)

    def _mail(self, entry: CronEntry) -> bytes:
        """The job that mails about this line: whom, and by which program. What the mail says is the dispatcher's."""
        if self.authority is not None:
            self.authority.book.tasks()  # which looks whether the configuration is root's
        try:
            return cronmail.encode(entry, pwd.getpwuid(self.uid).pw_name, cronmail.program(self.config))
        except (KeyError, cronmail.Unsafe):
            raise BadJob(CHANGED) from None

    def _bytes(self, table: str, proof: int) -> bytes:
        """What the table says now. Raises `BadJob`, `NotPermitted`, `BadConfig`."""
        if table.startswith(INSTALLED):
            if table != f"{INSTALLED}{self.uid}":
                raise NotPermitted("it is a line of another user's crontab")
            self._installed.check(proof)
            return self._whole(proof)
        if self.system is None:
            descriptor = os.open(table, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                self.places.check(table, os.fstat(descriptor))
                return self._whole(descriptor)
            finally:
                os.close(descriptor)
        if table not in self.system.tables:
            raise BadConfig(f"this worker has not {table}")
        found = os.fstat(self.system.tables[table])
        if found.st_nlink == 0:
            raise BadConfig(f"{table} was replaced since this worker began")
        self.places.check(table, found)
        if self.places.user(table) and uid_of(self.places.user(table)) != self.uid:
            raise NotPermitted("it is a line of another user's crontab")
        return self._whole(self.system.tables[table])

    @staticmethod
    def _whole(descriptor: int) -> bytes:
        try:
            return safeopen.read(descriptor, MOST_BYTES)
        except OSError as error:  # it is open for writing only
            raise BadJob(f"its crontab cannot be read: {error.strerror}") from None

    def _lines(self, table: str, data: bytes) -> dict[str, CronEntry]:
        """The lines of a table by their identities, parsed only when they are others than last time."""
        hashed = hashlib.sha256(data).digest()
        kept = self._read.get(table)
        if kept is not None and kept[0] == hashed:
            return kept[1]
        parsed = self.places.parse(table, data)
        if table.startswith(INSTALLED) and (parsed.refused or parsed.errors or not parsed.final_newline):
            raise BadJob(
                "it is no crontab that is ever installed"
            )  # another file of his, with a line in it that is one
        found = {self.places.identity(table, entry): entry for entry in parsed.entries}
        if len(self._read) >= MOST_KEPT:
            self._read.clear()
        self._read[table] = hashed, found
        return found

    def _world(self, entry: CronEntry) -> World:
        try:
            account = pwd.getpwuid(self.uid)
            return World(entry, account.pw_name, account.pw_dir or "/")
        except KeyError:
            return World(entry, str(self.uid), "/")
