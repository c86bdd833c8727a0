"""Guests: who has an inbox on a system spool, who asks for one, and whether each is still who he was.

Does:    takes the wishes in `hello/` to the launcher, who makes the inbox; looks whether the name that a uid had when
         its inbox was made is still its name, and locks what is kept for it where it is not.
Reads:   `hello/` (whose a name is says lstat), `users/`, passwd.
Writes:  removes from `hello/`; the ACLs of `out/<uid>` and `rejected/<uid>`.
Trusts:  `users/`, which is root's. Of `hello/` only who owns a name: a wish for somebody else's inbox does no harm.
Fails:   never: what cannot be read now is looked at again.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from cronq import acl, ground, safeopen
from cronq.house import House, Now
from cronq.log import line as log

SLICE = 256  # names of hello/ a turn
UNSETTLED = 2.0  # seconds in which a directory's mtime may not tell of a change
LOOK_EVERY = 60.0  # seconds, for accounts that are not in /etc/passwd
ASK_AGAIN = 1.0
FORGET = 60.0  # seconds until a uid that was refused is asked for again


class Guests:
    """What is known of the users of one spool."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.asked: dict[int, float] = {}
        self._passwd = 0
        self._looked = float("-inf")
        self._greeted = -1
        self._pass: Iterator[os.DirEntry[str]] | None = None
        self._waiting = False  # somebody's inbox was asked for

    def turn(self, now: Now, rung: set[object]) -> bool:
        """Look at wishes and names; whether somebody new is there."""
        fresh = False
        made, self.house.crew.inboxes = self.house.crew.inboxes, {}
        for uid, refused in made.items():
            if refused:
                self.asked[uid] = now.mono + FORGET
            else:
                self.asked.pop(uid, None)
                fresh = True
        if fresh or self._changed(now):
            self.look()
        self._greet(now, made, "in" in rung)
        return fresh

    @property
    def busy(self) -> bool:
        """Whether there are more wishes to look at, at once."""
        return self._pass is not None

    def invite(self, now: Now) -> None:
        """Have an inbox made for each user whom a task names as a submitter, before the first contact."""
        tasks = self.house.config.tasks.values()
        names = {name for task in tasks for name in task.submit or () if not name.startswith("@")}
        there = set(self.house.shelves.inboxes.uids())
        for name in sorted(names):
            try:
                uid = pwd.getpwnam(name).pw_uid
            except KeyError:
                continue
            if uid not in there:
                self._ask(uid, now)

    # ---------------------------------------------------------------- hello/

    def _greet(self, now: Now, made: dict[int, str], rung: bool) -> None:
        """Ask for the inboxes that are wished for; a wish is taken away when it has been dealt with.

        In passes over all names, some names a turn: what its owner lets nobody take away stands in nobody's way.
        """
        if self._pass is None:
            mtime = os.stat("hello", dir_fd=self.house.shelves.fd).st_mtime_ns
            if not (rung or made or self._waiting or mtime != self._greeted):
                return
            self._greeted = mtime if now.wall - mtime / 1e9 > UNSETTLED else -1
            self._waiting = False
            self._pass = os.scandir(f"{self.house.shelves.root}/hello")
        there = set(self.house.shelves.inboxes.uids())
        wishes = [wish.name for wish in islice(self._pass, SLICE)]
        for wish in wishes:
            self._grant(f"hello/{wish}", there, made, now)
        if len(wishes) < SLICE:
            self._pass = None

    def _grant(self, path: str, there: set[int], made: dict[int, str], now: Now) -> None:
        try:
            found = safeopen.look(self.house.shelves.fd, path)
        except OSError:
            return  # it is gone; or something is mounted on it, and its owner may wait
        uid = found.st_uid
        if uid in there or made.get(uid) or self.asked.get(uid, 0.0) > now.mono + ASK_AGAIN:
            self._take_away(path, found)
        else:
            self._ask(uid, now)
            self._waiting = True

    def _take_away(self, path: str, found: os.stat_result) -> None:
        try:
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(path, dir_fd=self.house.shelves.fd)
            else:
                os.unlink(path, dir_fd=self.house.shelves.fd)
        except OSError:
            pass  # a directory with something in it: its owner's, and in nobody's way

    def _ask(self, uid: int, now: Now) -> None:
        if self.asked.get(uid, 0.0) <= now.mono:
            self.asked[uid] = now.mono + ASK_AGAIN
            self.house.crew.invite(uid)

    # ---------------------------------------------------------------- names

    def _changed(self, now: Now) -> bool:
        try:
            mtime = os.stat("/etc/passwd").st_mtime_ns
        except OSError:
            mtime = 0
        if mtime == self._passwd and now.mono - self._looked < LOOK_EVERY:
            return False
        self._passwd, self._looked = mtime, now.mono
        return True

    def look(self) -> None:
        """Compare each uid's name with the one that it had; who is another now is a stranger."""
        strangers = {}
        users = os.open("users", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.house.shelves.fd)
        try:
            for uid in self.house.shelves.inboxes.uids():
                reason = _strange(users, uid)
                if reason is not None:
                    strangers[uid] = reason
        finally:
            os.close(users)
        for uid in strangers.keys() - self.house.strangers.keys():
            log("stranger", uid=uid, reason=strangers[uid])
            self._each_folder(uid, acl.take_back)
        for uid in self.house.strangers.keys() - strangers.keys():
            log("known-again", uid=uid)
            self._each_folder(uid, partial(acl.lend, uid=uid))
        self.house.strangers = strangers
        self.house.shelves.locked = set(strangers)

    def _each_folder(self, uid: int, change: Callable[[str], None]) -> None:
        for folder in (f"out/{uid}", f"rejected/{uid}"):
            try:
                change(f"{self.house.shelves.root}/{folder}")
            except FileNotFoundError:
                pass


def _strange(users: int, uid: int) -> str | None:
    """Why this uid is not who it was; None where it is, or where that cannot be read now."""
    try:
        earlier = ground.earlier_name(users, uid)
    except OSError:
        earlier = None
    if earlier is None:
        return None
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid} was {earlier}, who has no account any more"
    return None if name == earlier else f"uid {uid} was {earlier} and is {name} now"
