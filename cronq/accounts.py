"""Users and groups as the system knows them, kept for a minute at most.

Does:    names -> uids and gids, uids -> names and groups.
Reads:   passwd and group through NSS, which may be slow (LDAP): hence what is found is kept for a minute, and what is
         not found for a few seconds. A user who left a group may still be taken for a member that long.
Trusts:  NSS.
Fails:   never: what is not there is None, or no group.

Standard library only.
"""

from __future__ import annotations

import grp
import os
import pwd
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KEPT = 60.0
MISSED = 5.0
MOST = 10_000  # uids and names that strangers can make this remember


class Accounts:
    """The users and groups of this machine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[tuple[str, str | int], tuple[float, Any]] = {}

    def uid(self, name: str) -> int | None:
        """The uid of the user of this name."""
        entry = self._user(name)
        return None if entry is None else entry.pw_uid

    def name(self, uid: int) -> str | None:
        """The name of the user who has this uid."""
        entry = self._known("uid", uid, pwd.getpwuid)
        return None if entry is None else entry.pw_name

    def groups(self, uid: int) -> list[int]:
        """The gids of all groups that this user is in, his primary one among them."""
        found: list[int] | None = self._known("groups", uid, _groups)
        return found or []

    def gid(self, group: str) -> int | None:
        """The gid of the group of this name."""
        entry = self._known("group", group, grp.getgrnam)
        return None if entry is None else entry.gr_gid

    def _user(self, name: str) -> pwd.struct_passwd | None:
        found: pwd.struct_passwd | None = self._known("user", name, pwd.getpwnam)
        return found

    def _known(self, kind: str, key: str | int, look_up: Callable[[Any], Any]) -> Any:
        now = self._clock()
        until, found = self._found.get((kind, key), (0.0, None))
        if now < until:
            return found
        if len(self._found) >= MOST:
            self._found.clear()
        try:
            found = look_up(key)
        except (KeyError, ValueError, OverflowError):  # a NUL in a name, a uid beyond 32 bits
            found = None
        self._found[kind, key] = (now + (MISSED if found is None else KEPT), found)
        return found


def _groups(uid: int) -> list[int]:
    entry = pwd.getpwuid(uid)
    return os.getgrouplist(entry.pw_name, entry.pw_gid)
