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

import errno
import os
import stat
from collections.abc import Callable
from itertools import islice

from cronq import linux
from cronq.errors import BadJob
from cronq.job import is_name
from cronq.spool import DATA_ENDING, ENDINGS

CAPTURE = "queue/.capture"
DATA = "queue/data"
MOST_LISTED = 20_000  # names of one inbox in memory
_RESOLVE = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_XDEV
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STAYS = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV)


class Inboxes:
    """Every inbox of one spool; `system` where it is for many users."""

    def __init__(self, spool: int, system: bool, touch: Callable[[str, str], None]) -> None:
        self._spool = spool
        self._names = "users" if system else "in"  # a system's `in/` is root's and shows no names
        self._touch = touch
        self._entered: dict[int, int] = {}
        self._listed: dict[int, list[str]] = {}  # what is left of the last listing, last names first
        self._more: dict[int, bool] = {}

    def uids(self) -> list[int]:
        """The uids that have an inbox."""
        folder = os.open(self._names, _ENTER | os.O_CLOEXEC, dir_fd=self._spool)
        try:
            return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
        finally:
            os.close(folder)

    def enter(self, uid: int) -> int:
        """A descriptor of the inbox. Raises `OSError`."""
        found = self._entered.get(uid)
        if found is not None and os.fstat(found).st_nlink:
            return found
        if found is not None:  # it was removed, and made again
            os.close(self._entered.pop(uid))
        try:
            found = linux.openat2(self._spool, f"in/{uid}", _ENTER, _RESOLVE)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            found = os.open(f"in/{uid}", _ENTER | os.O_CLOEXEC, dir_fd=self._spool)  # kernels before 5.6
        self._entered[uid] = found
        return found

    def mtime(self, uid: int) -> int:
        """When the inbox last changed, in nanoseconds. Raises `OSError`."""
        return os.fstat(self.enter(uid)).st_mtime_ns

    def names(self, uid: int, most: int) -> tuple[list[str], bool]:
        """Some names of whole files to take, oldest names first, and whether these were all. Raises `OSError`."""
        if not self._listed.get(uid):
            with os.scandir(self.enter(uid)) as entries:
                listed = [entry.name for entry in islice(entries, MOST_LISTED)]
            self._more[uid] = len(listed) == MOST_LISTED
            self._listed[uid] = sorted((name for name in listed if split(name) is not None), reverse=True)
        left = self._listed[uid]
        found = [left.pop() for _ in range(min(most, len(left)))]
        return found, not left and not self._more[uid]

    def put_back(self, uid: int, names: list[str]) -> None:
        """Have these names, the last ones of a slice, come first again."""
        self._listed[uid] += reversed(names)

    def count(self, uid: int) -> int:
        """How many files lie there to be taken, as far as anybody counts."""
        try:
            with os.scandir(self.enter(uid)) as entries:
                return sum(split(entry.name) is not None for entry in islice(entries, MOST_LISTED))
        except OSError:
            return 0

    def foreign(self, uid: int) -> list[str]:
        """The names in an inbox that look like jobs but are not names that a job may have."""
        with os.scandir(self.enter(uid)) as entries:
            names = [entry.name for entry in islice(entries, MOST_LISTED)]
        odd = [name for name in names if name.endswith(ENDINGS) and not name.startswith(".")]
        return [name for name in odd if split(name) is None]

    def capture(self, uid: int, filename: str) -> str | None:
        """Take a file out of its inbox, unseen; its name below `.capture`, or None if it cannot be had now.

        Raises `BadJob` for what must stay: no directory of a user's ever leaves an inbox.
        """
        captured = f"{uid},{filename}"
        folder = self.enter(uid)
        try:
            if stat.S_ISDIR(os.stat(filename, dir_fd=folder, follow_symlinks=False).st_mode):
                raise BadJob("it is a directory, not a regular file; write a plain file")
            linux.rename_new(folder, filename, self._spool, f"{CAPTURE}/{captured}")
        except (FileNotFoundError, FileExistsError):
            return None
        except OSError as error:
            if error.errno not in _STAYS:
                raise
            raise BadJob(f"it cannot be taken out of the inbox ({error.strerror}); chmod 2770 the inbox") from None
        self._touch(CAPTURE, f"in/{uid}")
        return captured

    def take_data(self, uid: int, name: str, job_id: str) -> bool:
        """Take the NAME.data that belongs to a job; whether there is one (taken now, or before a crash)."""
        try:
            linux.rename_new(self.enter(uid), f"{name}{DATA_ENDING}", self._spool, f"{DATA}/{job_id}")
        except FileNotFoundError:
            try:
                os.stat(f"{DATA}/{job_id}", dir_fd=self._spool, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True
        except FileExistsError:
            return True
        except OSError as error:
            if error.errno not in _STAYS:
                raise
            raise BadJob(f"{name}{DATA_ENDING} cannot be taken out of the inbox: {error.strerror}") from None
        self._touch(DATA, f"in/{uid}")
        return True


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
