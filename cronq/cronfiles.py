"""The files that crontabs are read from: their names, whose each is, and what it must be to count.

Does:    a table's name -> whether it counts here, whether it has a user column, whose it is; what fstat says of it ->
         accepted, or a refusal in the words of Debian's cron, which monitoring knows.
Reads:   passwd. No table: whoever opened it hands over what fstat says, and the bytes.
Trusts:  the kernel's fstat of an open file, never a name alone.
Fails:   `BadJob` with the sentence.

A table is named `installed/<uid>` (docs/spool.md), or by its path: `crontab` and `cron.d/NAME` of the configuration
count always, those of the machine only with `[cron] system = true`. For dispatcher and worker alike: standard library.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat

from cronq import cronrules
from cronq.crontab import MAX_BYTES, Crontab, parse_crontab, parsing
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cronq.crontab import CronEntry

MOST_BYTES = MAX_BYTES
INSTALLED = "installed/"
MACHINES = cronrules.SYSTEM_TABLE
MACHINES_FOLDER = cronrules.CRON_D
USERS_FOLDER = cronrules.USER_TABLES
MOST_NAME = 100


def is_of_cron_d(name: str) -> bool:
    """Whether a file of this name in a cron.d counts: a dot is for backups and what packages leave behind."""
    return cronrules.system_name(name) is None


def is_users(name: str) -> bool:
    """Whether a file of this name in the machine's directory of user crontabs may be a user's."""
    return cronrules.user_name(name) and name.isprintable() and len(name) <= MOST_NAME


class Places:
    """Which tables count: those of this configuration, and with `machine` the machine's own."""

    def __init__(self, config: str, system: bool) -> None:
        """`system`: the spool is one for many users."""
        self.own = os.path.join(config, "crontab")
        self._folder = os.path.join(config, "cron.d")
        self._system = system

    def known(self, table: str, machine: bool) -> bool:
        """Whether a table of this name may count at all."""
        if table.startswith(INSTALLED):
            return table.removeprefix(INSTALLED).isdecimal()
        folder, _, name = table.rpartition("/")
        if table == self.own or not self._system:
            return table == self.own
        if folder == self._folder:
            return is_of_cron_d(name)
        if not machine:
            return False
        if folder == USERS_FOLDER:
            return is_users(name)
        return table == MACHINES or (folder == MACHINES_FOLDER and is_of_cron_d(name))

    def has_column(self, table: str) -> bool:
        """Whether each line of the table names its user."""
        return self._system and not table.startswith((INSTALLED, USERS_FOLDER))

    def user(self, table: str) -> str:
        """Whose table it is; empty where each line says that."""
        if table.startswith(USERS_FOLDER):
            return os.path.basename(table)
        if table.startswith(INSTALLED):
            return user_of(int(table.removeprefix(INSTALLED)))
        return "" if self._system else user_of(os.getuid())

    def identity(self, table: str, entry: CronEntry) -> str:
        """What tells an entry from all others of its user's."""
        if table.startswith(INSTALLED) or not self._system:
            return entry.identity
        return f"{entry.identity}.{hashlib.sha256(os.fsencode(table)).hexdigest()[:6]}"

    def check(self, table: str, found: os.stat_result) -> None:
        """Whether a file, open by a path of root's, may be this table. Raises `BadJob`.

        An installed table is another thing: it came through its user's inbox, as a job does (`safeopen.Proof`).
        """
        if table.startswith(USERS_FOLDER):
            owner = uid_of(self.user(table))
            fault = cronrules.orphan(self.user(table)) if owner is None else cronrules.user_fault(owner, found)
        elif self._system:
            fault = cronrules.system_fault(found, found)  # of a link the launcher has made sure
        else:
            fault = _own_fault(found)
        if fault is not None:
            raise BadJob(f"{fault.word} ({table}): {fault}")

    def parse(self, table: str, data: bytes) -> Crontab:
        """What the bytes of this table say."""
        return parse_crontab(data, user=self.user(table), system=self.has_column(table))

    def parsing(self, table: str, data: bytes) -> Iterator[Crontab | None]:
        """The same in steps: None after each but the last."""
        return parsing(data, user=self.user(table), system=self.has_column(table))


def _own_fault(found: os.stat_result) -> cronrules.Fault | None:
    """What is wrong with somebody's own table, in a directory of his own."""
    if not stat.S_ISREG(found.st_mode):
        return cronrules.Fault("NOT A REGULAR FILE", "it is no regular file", "put a plain file there")
    if found.st_uid not in (0, os.getuid()):
        return cronrules.Fault("WRONG FILE OWNER", f"it belongs to uid {found.st_uid}", "chown it")
    if found.st_mode & 0o002:  # his group's may be his own group
        return cronrules.Fault("INSECURE MODE (group/other writable)", "anybody may write it", "chmod o-w it")
    return None


def user_of(uid: int) -> str:
    """The name of a user; the number where he has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def uid_of(user: str) -> int | None:
    """The uid of this user; None where there is none."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return None
