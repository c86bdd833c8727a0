"""The inboxes, as the dispatcher handles what belongs to others: entered once, never waited for, emptied in slices.

Does:    lists what is whole in an inbox, a slice at a time, and takes files out of it, unseen (docs/spool.md rule 4).
Reads:   directories that their users own, through descriptors that were opened without crossing a mount: a user can
         mount a file system of his own on his inbox, and hang whoever enters it by its path for ever.
Writes:  `queue/.capture`, `queue/data`, by renaming.
Trusts:  the kernel about who owns what. Names are the users'.
Fails:   `BadJob` for what cannot be taken and stays where it is; `OSError` where an inbox cannot be read, or the disk
         refuses.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from itertools import islice

from cronq import linux, safeopen
from cronq.errors import BadJob
from cronq.job import is_name
from cronq.spool import DATA_ENDING, ENDINGS, WAITER_ENDING

CAPTURE = "queue/.capture"
DATA = "queue/data"
MOST_LISTED = 20_000  # names of one inbox in memory
LISTED_AT_ONCE = 2048  # names of an inbox that are read in one turn: about two milliseconds
MOST_FOREIGN = 16  # names told of that no job may have
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STAYS = (errno.EACCES, errno.EPERM)
_DIRECTORY = "it is a directory, not a regular file; write a plain file"


class Inboxes:
    """Every inbox of one spool; `system` where it is for many users."""

    def __init__(self, spool: int, system: bool, touch: Callable[[str, str], None]) -> None:
        self._spool = spool
        self._names = "users" if system else "in"  # a system's `in/` is root's and shows no names
        self._touch = touch
        self._entered: dict[int, int] = {}
        self._listings: dict[int, _Listing] = {}

    def uids(self) -> list[int]:
        """The uids that have an inbox."""
        folder = os.open(self._names, _ENTER | os.O_CLOEXEC, dir_fd=self._spool)
        try:
            found = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
        finally:
            os.close(folder)
        return [uid for uid in found if uid in self._entered or self._is_there(uid)]

    def _is_there(self, uid: int) -> bool:
        """A user's name is written before his inbox is made; a crash between the two leaves the name alone."""
        try:
            safeopen.look(self._spool, f"in/{uid}")
        except FileNotFoundError:
            return False
        except OSError:
            pass  # it is, and something is mounted on it
        return True

    def enter(self, uid: int) -> int:
        """A descriptor of the inbox. Raises `OSError`."""
        found = self._entered.get(uid)
        if found is not None and os.fstat(found).st_nlink:
            return found
        if found is not None:  # it was removed, and made again
            os.close(self._entered.pop(uid))
        found = self._entered[uid] = linux.open_inside(self._spool, f"in/{uid}", _ENTER)
        return found

    def mtime(self, uid: int) -> int:
        """When the inbox last changed, in nanoseconds. Raises `OSError`."""
        return os.fstat(self.enter(uid)).st_mtime_ns

    def is_listing(self, uid: int) -> bool:
        """Whether a listing of this inbox is under way."""
        listing = self._listings.get(uid)
        return listing is not None and not listing.over

    def is_empty(self, uid: int) -> bool:
        """Whether nothing to take is there; no, where that cannot be said at once. Raises `OSError`."""
        if self.is_listing(uid):
            return False
        with os.scandir(self.enter(uid)) as found:
            names = [entry.name for entry in islice(found, LISTED_AT_ONCE)]
        return len(names) < LISTED_AT_ONCE and not any(map(split, names))

    def names(self, uid: int, most: int) -> tuple[list[str], int | None]:
        """Some names of whole files to take, oldest names first. Raises `OSError`.

        With them, where these are the last ones that there were, the inbox's mtime from before they were listed.
        """
        listing = self._listings.get(uid)
        if listing is None or listing.over:
            listing = self._listings[uid] = _Listing(self.enter(uid))
        return listing.take(most), listing.began if listing.over else None

    def put_back(self, uid: int, names: list[str]) -> None:
        """Have these names, the last ones of a slice, come first again."""
        self._listings[uid].left += reversed(names)

    def foreign(self, uid: int) -> list[str]:
        """Some names in an inbox that look like jobs but are not names that a job may have."""
        listing = self._listings.get(uid)
        return [] if listing is None else listing.foreign

    def capture(self, uid: int, filename: str) -> str | None:
        """Take a file out of its inbox, unseen; its name below `.capture`, or None if it cannot be had now.

        Raises `BadJob` for what must stay: no directory of a user's ever leaves an inbox.
        """
        captured = f"{uid},{filename}"
        try:
            self.take(uid, filename, f"{CAPTURE}/{captured}")
        except (FileNotFoundError, FileExistsError):
            return None
        self._touch(CAPTURE, f"in/{uid}")
        return captured

    def take_data(self, uid: int, name: str, job_id: str) -> bool:
        """Take the NAME.data that belongs to a job; whether there is one (taken now, or before a crash)."""
        try:
            self.take(uid, f"{name}{DATA_ENDING}", f"{DATA}/{job_id}")
        except FileNotFoundError:
            try:
                os.stat(f"{DATA}/{job_id}", dir_fd=self._spool, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True
        except FileExistsError:
            return True
        except BadJob as error:
            raise BadJob(f"its {name}{DATA_ENDING}: {error.sentence}") from None
        self._touch(DATA, f"in/{uid}")
        return True

    def has_waiter(self, uid: int, name: str) -> bool:
        """Whether there is a NAME.wait: the job of this name ends with the command that waits for it."""
        try:
            return stat.S_ISREG(safeopen.look(self.enter(uid), name + WAITER_ENDING).st_mode)
        except OSError:
            return False

    def is_waited_for(self, uid: int, name: str) -> bool:
        """Whether the command that waits is still there, for it holds its NAME.wait locked; else that is removed."""
        try:
            folder = self.enter(uid)
            descriptor = linux.open_inside(folder, name + WAITER_ENDING, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False  # whoever has not even the file has nothing locked
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name + WAITER_ENDING, dir_fd=folder)
        return False

    def take(self, uid: int, filename: str, place: str) -> None:
        """Rename what has this name to its place, unseen. Raises `BadJob` for what must stay."""
        folder = self.enter(uid)
        try:
            if stat.S_ISDIR(safeopen.look(folder, filename).st_mode):
                raise BadJob(_DIRECTORY)
            linux.rename_new(folder, filename, self._spool, place)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EBUSY):
                raise BadJob("something is mounted on it; umount it, and write a plain file") from None
            if error.errno not in _STAYS:
                raise
            raise BadJob(f"it cannot be taken out of the inbox ({error.strerror}); chmod 2770 the inbox") from None
        if stat.S_ISDIR(os.stat(place, dir_fd=self._spool, follow_symlinks=False).st_mode):
            self._give_back(folder, filename, place)
            raise BadJob(_DIRECTORY)

    def _give_back(self, folder: int, filename: str, place: str) -> None:
        """A directory took the file's place between the look and the rename: into the inbox with it again."""
        try:
            linux.rename_new(self._spool, place, folder, filename)
        except OSError:  # its owner sees to it that it does not go; out of everybody's way, then
            linux.rename_new(self._spool, place, self._spool, f"{CAPTURE}/left.{time.time_ns():x}")


class _Listing:
    """One listing of an inbox, read in slices. `left`: what was found and is still to be taken, last names first."""

    def __init__(self, directory: int) -> None:
        self.began = os.fstat(directory).st_mtime_ns
        self.left: list[str] = []
        self.foreign: list[str] = []
        self._names: Iterator[os.DirEntry[str]] | None = os.scandir(directory)
        self._sorted = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to take."""
        return self._names is None and not self.left

    def take(self, most: int) -> list[str]:
        """The next names; none yet while it is still being read. Raises `OSError`."""
        if not self._sorted:
            self._read()
        if not self._sorted:
            return []
        found = [self.left.pop() for _ in range(min(most, len(self.left)))]
        self._sorted = bool(self.left) or self._names is None
        return found

    def _read(self) -> None:
        assert self._names is not None  # noqa: S101 - it was not sorted yet
        read = [entry.name for entry in islice(self._names, LISTED_AT_ONCE)]
        for name in read:
            if split(name) is not None:
                self.left.append(name)
            elif name.endswith(ENDINGS) and not name.startswith(".") and len(self.foreign) < MOST_FOREIGN:
                self.foreign.append(name)
        if len(read) < LISTED_AT_ONCE:
            self._names = None
        if self._names is None or len(self.left) + LISTED_AT_ONCE > MOST_LISTED:
            self.left.sort(reverse=True)
            self._sorted = True


def split(filename: str) -> tuple[str, str] | None:
    """NAME and ending of a file to take; None for any other name in an inbox."""
    for ending in ENDINGS:
        if filename.endswith(ending) and is_name(filename[: -len(ending)]):
            return filename[: -len(ending)], ending
    return None


def owner(captured: str) -> tuple[int, str]:
    """The inbox's uid and the file name of a captured file. Raises `BadJob` for a name that is not one of ours."""
    uid, comma, filename = captured.partition(",")
    if not comma or not uid.isdigit() or split(filename) is None:
        raise BadJob(f"{captured!r} is no captured file's name")
    return int(uid), filename
