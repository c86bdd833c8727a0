"""What lies around the jobs of a spool: its directories, what was refused, inboxes, what the dispatcher remembers.

Does:    `Surroundings.look` yields findings, as `survey` does.
Reads:   names, owners and modes; the small files below `schedule/`; of inboxes, through a descriptor that crosses no
         mount, names and ages.
Trusts:  nothing: no link is followed.
Fails:   `OSError` where a directory of ours cannot be read; an inbox that cannot be entered is its user's to mend.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from typing import Any

from cronq import almanac, annals, events, inboxes, linux, pauses, reboot, safeopen, shelves, spool
from cronq.clock import Clock
from cronq.errors import BadJob
from cronq.job import is_id, is_whole
from cronq.retention import DRAFT_AGE
from cronq.soundness import Finding
from cronq.spool import DATA_ENDING, ENDINGS

LOST_AND_FOUND = "queue/lost+found"  # what --repair moved aside, and beside each, why
REASON = ".reason"
_QUEUE = {"dispatcher.lock", "new", os.path.basename(LOST_AND_FOUND)}
_SCHEDULE = {"tables", "paused", "failing", "clock.json", "boot.json"}


class Surroundings:
    """Those of one spool."""

    def __init__(self, files: shelves.Shelves) -> None:
        self._files = files
        self._system = files.gid is not None

    def look(self) -> Iterator[Finding]:
        """Everything that is wrong."""
        yield from self._tree()
        yield from self._rejected()
        for uid in self._files.inboxes.uids():
            yield from self._inbox(uid)
        yield from self._schedule()
        days = set(annals.days(f"{self._files.root}/history"))
        for name in names(self._files, "history"):
            found = look(self._files, f"history/{name}")
            if found is not None and not (is_file(found) and f"{self._files.root}/history/{name}" in days):
                yield Finding("junk", f"history/{name}", "is no day of the history")

    # ---------------------------------------------------------------- directories

    def _tree(self) -> Iterator[Finding]:
        """What is this user's of it; a system's is looked at by `inspection`."""
        if not self._system and (found := look(self._files, ".")) is not None and found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            yield Finding("tree", "", f"has the mode {mode:04o}: others can enter it; chmod 0700")
        for folder in spool.TREE:
            found = look(self._files, folder)
            if found is None:
                yield Finding("missing", folder, "is not there")
            elif not stat.S_ISDIR(found.st_mode):
                yield Finding("junk", folder, "is no directory")
            elif not self._system and found.st_uid != self._files.uid:
                yield Finding("tree", folder, f"belongs to uid {found.st_uid}; chown {self._files.uid}")
        known = {folder.partition("/")[2] for folder in spool.TREE} | _QUEUE
        for name in names(self._files, "queue"):
            if name not in known and not (name.startswith(".") and name.endswith(".tmp")):
                yield Finding("junk", f"queue/{name}", "is nothing of cronq's")

    def _rejected(self) -> Iterator[Finding]:
        for uid in names(self._files, "rejected"):
            if not is_whole(uid):
                yield Finding("junk", f"rejected/{uid}", "is no user's")
                continue
            for name in names(self._files, f"rejected/{uid}"):
                place = f"rejected/{uid}/{name}"
                has_reason = name.endswith(REASON) or look(self._files, place + REASON) is not None
                if not has_reason and look(self._files, place) is not None:
                    yield Finding("no-reason", place, "was refused, and there is no reason beside it")

    def _inbox(self, uid: int) -> Iterator[Finding]:
        """What will not be taken, and what nobody finished. It is its user's: nothing of it is ever touched."""
        try:
            folder = self._files.inboxes.enter(uid)
            listed = os.scandir(folder)
        except OSError:
            return
        before = time.time() - DRAFT_AGE
        with listed:
            for each in listed:
                place = f"in/{uid}/{ascii(each.name)[1:-1]}"
                is_draft = each.name.startswith(".") and each.name.endswith(".tmp")
                if is_draft or each.name.endswith(DATA_ENDING):
                    if not is_draft and any(self._has(folder, each.name, ending) for ending in ENDINGS):
                        continue
                    found = self._look(folder, each.name)
                    if found is not None and max(found.st_mtime, found.st_ctime) <= before:
                        yield Finding("draft" if is_draft else "inbox-name", place, "has lain there for 36 hours")
                elif each.name.endswith(ENDINGS) and inboxes.split(each.name) is None:
                    yield Finding("inbox-name", place, "is no name of a job")

    def _has(self, folder: int, name: str, ending: str) -> bool:
        return self._look(folder, name.removesuffix(DATA_ENDING) + ending) is not None

    def _look(self, folder: int, name: str) -> os.stat_result | None:
        try:
            return safeopen.look(folder, name)
        except OSError:
            return None

    # ---------------------------------------------------------------- what the dispatcher remembers

    def _schedule(self) -> Iterator[Finding]:
        for name in names(self._files, "schedule"):
            if name not in _SCHEDULE and not name.startswith("."):
                yield Finding("junk", f"schedule/{name}", "is nothing of cronq's")
        for path in (almanac.FILE, reboot.FILE):
            if look(self._files, path) is not None and not self._is_sound(path):
                yield Finding("state", path, "does not say what it must")
        for name in names(self._files, pauses.FOLDER):
            place = f"{pauses.FOLDER}/{name}"
            if name.startswith("."):
                continue
            if not (pauses.is_gate(name) or is_id(name)):
                yield Finding("junk", place, "is nothing that can be paused")
            elif self._load(place) is None and look(self._files, place) is not None:
                yield Finding("pause", place, "does not say until when")
        for name in names(self._files, events.FAILING):
            if not is_id(name) and not name.startswith("."):
                yield Finding("junk", f"{events.FAILING}/{name}", "is no line of a crontab")
        for name in names(self._files, shelves.TABLES):
            yield from self._table(name)

    def _is_sound(self, path: str) -> bool:
        said = self._load(path)
        if said is None or path == reboot.FILE:
            return said is not None
        return all(said.get(key) == value for key, value in Clock(said).state().items())  # what it takes, it keeps

    def _load(self, path: str) -> dict[str, Any] | None:
        try:
            with open(safeopen.open_below(self._files.root, path), "rb") as file:
                said = json.loads(file.read(shelves.MOST_STATE))
        except (OSError, ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None

    def _table(self, name: str) -> Iterator[Finding]:
        uid, dot, number = name.partition(".")
        place = f"{shelves.TABLES}/{name}"
        if name.startswith("."):
            return
        if not is_whole(uid) or (dot and not is_whole(number)):
            yield Finding("table", place, "is no name of a table")
            return
        try:
            os.close(self._files.open_file(place, int(uid))[0])
        except FileNotFoundError:
            return
        except BadJob as error:
            yield Finding("table", place, f"is not as it must be ({error.sentence})")
            return
        if number == "0":
            yield Finding("table-coming", place, "is about to be installed")


# -------------------------------------------------------------------- looking at what is ours


def names(files: shelves.Shelves, folder: str) -> Iterator[str]:
    """The names in a directory of ours, as they come; none where there is none, or a link in its place."""
    try:
        descriptor = linux.open_inside(files.fd, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return
    try:
        with os.scandir(descriptor) as found:
            for each in found:
                yield each.name
    finally:
        os.close(descriptor)


def look(files: shelves.Shelves, place: str) -> os.stat_result | None:
    """What is there; None where nothing is, or where it cannot be looked at."""
    try:
        return os.stat(place, dir_fd=files.fd, follow_symlinks=False)
    except OSError:
        return None


def is_file(found: os.stat_result | None) -> bool:
    """Whether this is a file, and no link, pipe or directory."""
    return found is not None and stat.S_ISREG(found.st_mode)
