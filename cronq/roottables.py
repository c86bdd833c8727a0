"""Root's crontabs, opened for a dispatcher and for workers, who could not.

Does:    `listing` names the tables that there are; `Listing` opens those of one listing by their numbers, MOST_TABLES
         at most, and says once where there are more.
Reads:   the names in fixed directories: the configuration's, and the machine's own; of a table not a byte.
Trusts:  directories that are root's. What the group crontab may put into the machine's directory of user crontabs is
         opened below a descriptor of that, and no link is followed there; elsewhere one of root's is.
Fails:   `BadJob` or `OSError`, and nothing is left open. Whether a table counts, is for those who read it.

For the launcher: standard library only.
"""

from __future__ import annotations

import errno
import os
import stat

from cronq import linux
from cronq.cronfiles import MACHINES, MACHINES_FOLDER, USERS_FOLDER, is_of_cron_d, is_users
from cronq.cronrules import open_of_roots
from cronq.errors import BadJob
from cronq.log import line as log

MOST_TABLES = 4000
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def listing(config: str, machine: bool) -> list[str]:
    """All tables of the configuration, with `machine` the machine's too, in one order. Raises `OSError`."""
    places = [(config, "crontab".__eq__), (os.path.join(config, "cron.d"), is_of_cron_d)]
    if machine:
        folder, name = os.path.split(MACHINES)
        places += [(folder, name.__eq__), (MACHINES_FOLDER, is_of_cron_d), (USERS_FOLDER, is_users)]
    found: list[str] = []
    for folder, counts in places:
        try:
            found += sorted(os.path.join(folder, name) for name in os.listdir(folder) if counts(name))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def too_many(found: list[str]) -> str:
    """What is to be said of a listing that has more tables than are opened; "" where it has not."""
    if len(found) <= MOST_TABLES:
        return ""
    rest = f"nothing of {found[MOST_TABLES]} runs, nor of what comes after it"
    return f"there are {len(found)} crontabs, and {MOST_TABLES} are read: {rest}; put several into one, or remove some"


def open_table(path: str) -> int:
    """A descriptor of a table of that listing's. Raises `BadJob`, `OSError`."""
    folder, name = os.path.split(path)
    if folder == USERS_FOLDER:
        directory = os.open(folder, _FOLDER)
        try:
            descriptor = linux.open_inside(directory, name, _FLAGS)
        finally:
            os.close(directory)
    else:
        descriptor = open_of_roots(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadJob(f"NOT A REGULAR FILE ({path})")
    return descriptor


class Listing:
    """The tables as they were listed last; a number says which."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._said = ""

    def take(self, found: list[str]) -> None:
        """Let these be the tables, as far as they are not too many, which is said once."""
        self.paths = found[:MOST_TABLES]
        said = too_many(found)
        if said and said != self._said:
            log("crontabs-left-out", reason=said)
        self._said = said

    def answer(self, number: int) -> tuple[dict[str, Any], list[int]]:
        """What the dispatcher is told about a table, and its descriptor or none. Raises `BadJob`."""
        answer: dict[str, Any] = {"table": "", "number": number, "of": len(self.paths)}
        if number == 0 and not self.paths:
            return answer, []
        if not 0 <= number < len(self.paths):
            raise BadJob("there is no table of that number")
        answer["table"] = path = self.paths[number]
        try:
            return answer, [open_table(path)]
        except BadJob as error:
            return answer | {"why": error.sentence}, []
        except OSError as error:
            return answer | {"why": f"{error.strerror} ({path})"}, []

    def open_for(self, user: str, numbers: list[Any]) -> dict[str, int]:
        """Descriptors of these tables, for a worker of this user's: none of another user's, nor what cannot be had.

        Raises `OSError` where there are no descriptors left: then the worker could not find out who its user is either.
        """
        found = {}
        for number in numbers:
            path = self.paths[number] if type(number) is int and 0 <= number < len(self.paths) else ""
            folder, name = os.path.split(path)
            if path and path not in found and (folder != USERS_FOLDER or name == user):
                try:
                    found[path] = open_table(path)
                except (BadJob, OSError) as error:
                    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                        raise
                    continue  # its worker says that it has none
        return found
