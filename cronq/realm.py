"""For whom a launcher works: for one user, or as root for all of them; and what it does differently then.

Does:    says whose spool it is, makes inboxes, and turns a fresh fork into the dispatcher's user or a worker's.
Reads:   accounts (`become`); for a worker of root's the configuration, whose every file must be root's.
Trusts:  the config directory where it is root's up to `/`.
Fails:   `CronqError` with a sentence; in a fork any exception: `launcher` ends the process then.
"""

from __future__ import annotations

import grp
import os
import pwd

from cronq import become, cgroup, ground, linux, roottables, spool, task, trusted
from cronq.cronfiles import user_of
from cronq.errors import BadConfig, NotPermitted
from cronq.safeopen import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Own:
    """A rootless launcher's: its own user only, and nothing is dropped."""

    system: System | None = None
    leaves: cgroup.Leaves | None = None
    options: tuple[str, ...] = ()

    def __init__(self, root: str) -> None:
        self._root = root
        self._uid = os.getuid()

    def inbox(self, uid: int) -> None:
        """Make the inbox. Raises `CronqError`."""
        self.must_serve(uid)
        spool.make(self._root, uid)

    def must_serve(self, uid: int) -> None:
        """Raises `CronqError` for a uid that gets no worker here."""
        if uid != self._uid:
            raise NotPermitted(f"a rootless launcher serves uid {self._uid} only")

    def crontab(self, _number: int) -> tuple[dict[str, Any], list[int]]:
        """A rootless dispatcher opens its own."""
        raise NotPermitted("a rootless launcher opens no crontabs")

    def open_crontabs(self, _uid: int, _numbers: list[Any]) -> list[int]:
        """There are none to open."""
        return []

    def become_dispatcher(self) -> dict[str, str]:
        """In a fork: be who the dispatcher is; its environment."""
        become_oneself(self._uid)
        return dict(os.environ)

    def become_worker(self, uid: int) -> None:
        """In a fork: be `uid`, or raise."""
        become_oneself(uid)


def become_oneself(uid: int) -> None:
    """Rootless there is nothing to drop, only to make sure."""
    if {uid} != set(os.getresuid()):
        raise PermissionError(f"not uid {uid}, and a rootless launcher becomes nobody")


class Everybody:
    """The system's: root's, who becomes `cronq` for the dispatcher and each user for his worker."""

    def __init__(self, root: str, config: str) -> None:
        """Lay the ground. Raises `CronqError`."""
        if os.geteuid() != 0:
            raise NotPermitted("only root starts the system's dispatcher; without --system it is your own")
        self._root = root
        self._config = config
        self._ours = ours()
        trusted.tree(config)
        control = spool.SYSTEM_RUN if root == spool.SYSTEM_SPOOL else os.path.join(root, "run")
        self._spool = ground.lay(root, control, self._ours)
        self._crontabs = roottables.Listing()
        self.leaves, cgroups = cgroup.find()
        self.system: System = System(self._ours.uid, self._ours.gid, placing=self.leaves is not None)
        self.options = ("--system", "yes", "--cgroups", cgroups, *(("--placing", "yes") if self.leaves else ()))

    def inbox(self, uid: int) -> None:
        """Make the inbox of a user that has an account. Raises `CronqError`."""
        self.must_serve(uid)
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise NotPermitted(f"uid {uid} has no account") from None
        ground.inbox(self._spool, become.Account(entry.pw_name, uid, entry.pw_gid, []), self._ours)

    def must_serve(self, uid: int) -> None:
        """Raises `CronqError` for a uid that gets no worker here."""
        if not 0 <= uid < 2**32 - 1 or uid == self._ours.uid:
            raise NotPermitted(f"nothing runs as uid {uid}")

    def crontab(self, number: int) -> tuple[dict[str, Any], list[int]]:
        """The answer about a table of root's, and its descriptor; 0 lists them anew. Raises `CronqError`, `OSError`."""
        if number == 0:
            trusted.tree(self._config)
            self._crontabs.take(roottables.listing(self._config, machine=cron_is_ours(self._config)))
        return self._crontabs.answer(number)

    def open_crontabs(self, uid: int, numbers: list[Any]) -> list[int]:
        """In a fork, before it is a worker: open these tables for it; the descriptors."""
        self.system.tables = self._crontabs.open_for(user_of(uid), numbers)
        return list(self.system.tables.values())

    def become_dispatcher(self) -> dict[str, str]:
        """In a fork: be `cronq`; of the environment only what a daemon needs."""
        become.drop(self._ours)
        linux.set_no_new_privs()  # nothing that it could start makes more of it
        return {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}

    def become_worker(self, uid: int) -> None:
        """In a fork: be `uid`, with the groups that it has now, or raise."""
        self.must_serve(uid)
        who = become.account(uid, self._ours)
        try:
            ground.must_be_the_same(self._root, who)
        except ground.Reused as error:
            raise become.Barred(error.sentence) from None
        if uid == 0:
            root_must_be_allowed(self._config)
        _be_like_others()
        become.drop(who)


def _be_like_others() -> None:
    """In a worker's fork: what the unit protects or favours the daemon by is not for jobs."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pass  # root of a container that may not lower it: jobs have what the daemon has
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except PermissionError:
        pass  # the same


def ours() -> become.Account:
    """The account `cronq`, as the dispatcher is dropped to it. Raises `BadConfig`."""
    name = become.OURS
    mend = f"make it: `cronq install --system`, or useradd --system --user-group --shell /usr/sbin/nologin {name}"
    try:
        entry, group = pwd.getpwnam(name), grp.getgrnam(name)
    except KeyError:
        raise BadConfig(f"there must be a user and a group {name}; {mend}") from None
    if entry.pw_uid == 0 or entry.pw_gid != group.gr_gid or group.gr_gid == 0:
        raise BadConfig(f"the user {name} must not be root, and its group must be {name}; {mend}")
    if group.gr_mem:
        members = ", ".join(group.gr_mem)
        raise BadConfig(
            f"the group {name} must have no members, and has {members}; gpasswd -d {group.gr_mem[0]} {name}"
        )
    return become.Account(name, entry.pw_uid, entry.pw_gid, [])


def root_must_be_allowed(config: str) -> None:
    """Jobs run as root only where something in the configuration allows it: which ones, its worker judges each time.

    Raises `BadConfig`, `become.Barred`.
    """
    trusted.tree(config)
    if roottables.listing(config, machine=False) or cron_is_ours(config):
        return
    for path in task.files(config):
        found = task.tables(path)
        tasks = found.get("tasks", {})
        named = tasks.values() if isinstance(tasks, dict) else ()
        free = found.get("exec", {})
        if isinstance(free, dict) and free.get("allow_root") is True:
            return
        if any(isinstance(each, dict) and each.get("allow_root") is True for each in named):
            return
    raise become.Barred(f"nothing runs as root: no task below {config} says allow_root = true, nor does [exec]")


def cron_is_ours(config: str) -> bool:
    """Whether the machine's own crontabs are this cron's to run: [cron] system = true. Raises `BadConfig`."""
    return task.main_says(config, "cron", "system") is True
