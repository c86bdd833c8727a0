"""Cron's own rules for its files: which names are tables, whose they must be, which mode, and how many links.

Does:    a name -> whether cron looks at it at all; what stat says of a table -> the `Fault` for which cron ignores it.
         `system_table` and `user_table` open one the way cron does, and wait for nothing; `open_of_roots` is how root
         opens one for whomever: it follows a link of root's, and only where nobody else chooses what it leads to.
Reads:   the file's inode; at most the bytes asked for. No byte is judged here.
Trusts:  the kernel, and that /etc, /etc/cron.d and the spool of tables are root's alone to change.
Fails:   a table that cron ignores is a `Fault` with cron's word for it, a sentence and the way to mend it; one that
         root does not follow a link to is a `BadJob`.

Debian's cron 3.0pl1 without -l. Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from cronq.errors import BadConfig, BadJob
from cronq.trusted import trusted

SYSTEM_TABLE = "/etc/crontab"
CRON_D = "/etc/cron.d"
USER_TABLES = "/var/spool/cron/crontabs"
USER_MODE = 0o600
STRANGE_LINK = "WRONG SYMLINK OWNER"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Fault:
    """Why cron ignores a table. `word` is what cron logs, "" where it says nothing."""

    __slots__ = ("mend", "text", "word")

    def __init__(self, word: str, text: str, mend: str) -> None:
        self.word = word
        self.text = text
        self.mend = mend

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and (self.word, self.text) == (other.word, other.text)

    def __hash__(self) -> int:
        return hash((self.word, self.text))

    def __str__(self) -> str:
        return f"{self.text}; {self.mend}"


def system_name(name: str) -> Fault | None:
    """Is a file of /etc/cron.d, or a script of cron.daily and its like, looked at by its name?"""
    if _NAME.fullmatch(name):
        return None
    wrong = "a dot" if "." in name else "a character that is no letter, digit, _ or -"
    return Fault("", f"its name has {wrong}, and cron ignores it for that", "rename it")


def user_name(name: str) -> bool:
    """May a file among the users' tables be one? `crontab` itself makes tmp.XXXXXX there."""
    return not name.startswith((".", "tmp."))


def system_fault(link: os.stat_result, found: os.stat_result) -> Fault | None:
    """The first of `system_faults`, which is the one that cron logs."""
    return next(iter(system_faults(link, found)), None)


def system_faults(link: os.stat_result, found: os.stat_result) -> list[Fault]:
    """/etc/crontab or a file of /etc/cron.d: `link` is what lstat says, `found` what is behind it."""
    faults = []
    if stat.S_ISLNK(link.st_mode) and link.st_uid != 0:
        text = f"it is a link of uid {link.st_uid}, and must be root's"
        faults.append(Fault(STRANGE_LINK, text, "chown -h root it"))
    if found.st_uid != 0:
        faults.append(
            Fault("WRONG FILE OWNER", f"it belongs to uid {found.st_uid}, and must be root's", "chown root it")
        )
    if not stat.S_ISREG(found.st_mode):
        return [*faults, _no_file()]
    if found.st_mode & 0o022:
        text = f"its mode is {stat.S_IMODE(found.st_mode):04o}, and others than root can write it"
        faults.append(Fault("INSECURE MODE (group/other writable)", text, "chmod go-w it"))
    return faults + _links(found)


def user_fault(uid: int, found: os.stat_result) -> Fault | None:
    """The first of `user_faults`, which is the one that cron logs."""
    return next(iter(user_faults(uid, found)), None)


def user_faults(uid: int, found: os.stat_result) -> list[Fault]:
    """The table of a user among the users' tables, whose name it bears."""
    faults = []
    if found.st_uid not in (uid, 0):
        text = f"it belongs to uid {found.st_uid}, and its name says uid {uid}"
        faults.append(Fault("WRONG FILE OWNER", text, f"look how it came there, then chown {uid} it"))
    if not stat.S_ISREG(found.st_mode):
        return [*faults, _no_file()]
    if stat.S_IMODE(found.st_mode) != USER_MODE:
        text = f"its mode is {stat.S_IMODE(found.st_mode):04o}, not 0600"
        faults.append(Fault("INSECURE MODE (mode 0600 expected)", text, "chmod 600 it"))
    return faults + _links(found)


def orphan(name: str) -> Fault:
    """A table whose user the machine does not know."""
    mend = f"remove it, or make the user {ascii(name)[1:-1]} again"
    return Fault("ORPHAN", "there is no such user", mend)


def _no_file() -> Fault:
    return Fault("NOT A REGULAR FILE", "it is no regular file", "put a plain file there")


def _links(found: os.stat_result) -> list[Fault]:
    if found.st_nlink == 1:
        return []
    return [Fault("NUMBER OF HARD LINKS > 1", f"it has {found.st_nlink} hard links", "use cp, not ln")]


TYPE_CHECKING = False
if TYPE_CHECKING:
    Opened = tuple[int, os.stat_result, Fault | None]


def system_table(path: str) -> Opened:
    """A descriptor of a system table, what fstat says of it, and its fault. Raises `BadJob`, `OSError`."""
    descriptor = open_of_roots(path)
    found = os.fstat(descriptor)
    return descriptor, found, system_fault(found, found)


def open_of_roots(path: str) -> int:
    """A descriptor of a file among root's tables, whatever it is. Raises `BadJob`, `OSError`."""
    try:
        return os.open(path, _FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if os.lstat(path).st_uid != 0:
        raise BadJob(f"{STRANGE_LINK} ({path})")
    try:
        trusted(path)  # where it leads must be root's to say, at every step: nobody else may choose what root opens
    except BadConfig as error:
        os.stat(path)  # what leads nowhere is said so
        raise BadJob(error.sentence) from None
    return os.open(path, _FLAGS)


def user_table(path: str, uid: int) -> Opened:
    """The same for the table of the user `uid`; a symbolic link is no table of anybody's."""
    descriptor = os.open(path, _FLAGS | os.O_NOFOLLOW)
    found = os.fstat(descriptor)
    return descriptor, found, user_fault(uid, found)


def content(descriptor: int, most: int) -> bytes:
    """At most `most + 1` bytes of an open table, so that the caller sees one that is too large."""
    parts, size = [], 0
    while size <= most and (part := os.read(descriptor, most + 1 - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
