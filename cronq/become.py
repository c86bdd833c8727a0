"""Becoming somebody: an account as the system knows it, and the drop of root's privileges for it.

Does:    finds an account by uid, reads whether it is locked or expired, drops to it, and verifies the drop.
Reads:   passwd, group and shadow through NSS; /proc/self/status.
Trusts:  NSS and the kernel.
Fails:   `Barred` for an account that may not have jobs now; any other exception where the drop is not what it should
         be: the caller must end its process then, and do nothing else.

Standard library only. `subprocess(user=, group=)` keeps root's groups; so this is done by hand, in the one order that
works: groups, gid, uid (CVE-2021-41617 and CVE-2023-6507 are what becomes of it otherwise).
"""

from __future__ import annotations

import os
import pwd
import time

from cronq import linux

OURS = "cronq"  # user and group
DAY = 86400
SHADOW = "/etc/shadow"
_USABLE = "usable"


class Barred(Exception):
    """An account that may not have jobs now. With `hold`, an administrator must do something about it."""

    def __init__(self, sentence: str, hold: bool = True) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hold = hold


class Account:
    """Who to become: a name, and all ids that go with it."""

    __slots__ = ("gid", "groups", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, groups: list[int]) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = groups


def account(uid: int, ours: Account) -> Account:
    """The account of a user that jobs may run as, with its groups as they are now. Raises `Barred`."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Barred(f"uid {uid} has no account; make it again, or cancel its jobs") from None
    found = Account(entry.pw_name, uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))
    if uid == ours.uid or ours.gid in found.groups:
        raise Barred(f"{found.name} is of the group {OURS}, which must have no members; gpasswd -d {found.name} {OURS}")
    must_be_usable(found.name, time.time())
    return found


def must_be_usable(name: str, now: float) -> None:
    """Whether shadow lets this account work. Raises `Barred`.

    Asked in a process of its own: what libc has read of shadow, everybody's hashes, stays in memory, and a worker's is
    its user's.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, (_unusable(name, now) or _USABLE).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        told = file.read()
    os.waitpid(pid, 0)
    if told != _USABLE:
        raise Barred(told) if told else PermissionError(f"shadow cannot be asked for {name}")


def _unusable(name: str, now: float) -> str:
    """Why shadow does not let this account work.

    As pam_unix judges it for cron: an account is expired from its day of expiry on. Locked is a password hash behind a
    "!" (usermod -L, passwd -l); "!" or "*" alone is an account that never had a password, as most daemons' are.
    """
    found = linux.shadow(name)
    if found is None:
        try:
            os.close(os.open(SHADOW, os.O_RDONLY | os.O_CLOEXEC))  # the next service of NSS hides that "files" failed
        except FileNotFoundError:
            pass
        return ""
    password, expires = found
    if password.startswith("!") and password.strip("!*"):
        return f"the account {name} is locked; usermod -U {name}"
    if 0 <= expires <= now // DAY:
        return f"the account {name} has expired; chage -E -1 {name}"
    return ""


def drop(who: Account) -> None:
    """Be `who` and nobody else, for good, or raise."""
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    if who.uid != 0:
        linux.drop_capabilities()
    linux.join_new_keyring()  # else all users' jobs share the service's, and what any of them keeps in it
    verify(who)


def verify(who: Account) -> None:
    """Make sure of the drop: every id, every group, no capability, and no way back. Raises `PermissionError`."""
    ids = (os.getresuid(), os.getresgid(), set(os.getgroups()) - {who.gid})
    if ids != ((who.uid,) * 3, (who.gid,) * 3, set(who.groups) - {who.gid}):
        raise PermissionError(f"the drop to {who.name} left {ids}")
    if who.uid == 0:
        return
    capabilities = _capabilities()
    if capabilities:
        raise PermissionError(f"the drop to {who.name} left capabilities: {capabilities}")
    try:
        os.setresuid(-1, 0, -1)
    except PermissionError:
        return
    raise PermissionError(f"the drop to {who.name} can be undone")


def _capabilities() -> str:
    """The sets of capabilities of this process that are not empty."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        rows = [row.split() for row in file if row.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))]
    if len(rows) != 4:
        raise PermissionError("/proc/self/status does not tell the capabilities")
    return " ".join(f"{name}{value}" for name, value in rows if int(value, 16))
