"""The inspection of a system spool: is everything whose it must be, and is each user who he was?

Does:    `Inspection.findings` looks at the accounts, the tree, every inbox and result directory, and users' names.
Reads:   owners, modes and ACLs of directories; `in/` and `users/`, which are root's; passwd and group.
Trusts:  what is root's. Below what belongs to cronq or to users nothing is opened and no link is followed, not even by
         root: a place there is looked at through a descriptor that can do nothing else (O_PATH).
Fails:   never: what is not as it must be is a finding, with the way to mend it. What this user may not look at is left
         out, and that is said once.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator

from cronq import acl, ground, linux, spool
from cronq.become import OURS
from cronq.checkup import FAIL, OK, WARN, Finding
from cronq.errors import BadConfig
from cronq.trusted import trusted

_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}


def place(folder: int, name: str) -> int:
    """A descriptor of what is there, good for looking only. Raises `OSError`: EXDEV for what is mounted there."""
    return linux.open_inside(folder, name, _PLACE)


class Inspection:
    """One system spool, looked at by whoever runs this."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.me = os.geteuid()
        self.ids: tuple[int, int] | None = None  # of user and group cronq
        self.unseen = False
        self.faults = 0

    def findings(self) -> Iterator[Finding]:
        """Everything that was found."""
        yield from self._accounts()
        if not os.path.lexists(self.root):
            yield (
                FAIL,
                f"spool: {self.root} is not there; install cronq (cronq install --system), and start the dispatcher",
            )
            return
        try:
            trusted(self.root)
            top = os.open(self.root, _PLACE | os.O_DIRECTORY)
        except (BadConfig, OSError) as error:
            yield FAIL, f"spool: {getattr(error, 'sentence', error)}"
            return
        try:
            for level, sentence in self._tree(top):
                self.faults += 1
                yield level, sentence
            if not self.faults:
                yield OK, f"spool: {self.root}, its directories as they must be"
            yield from self._inboxes(top)
            yield from self._names(top)
        finally:
            os.close(top)
        if self.unseen:
            yield (
                OK,
                "only root can look at the rest of the spool: it was left out; sudo cronq doctor looks at all of it",
            )

    def _accounts(self) -> Iterator[Finding]:
        """Who is cronq? That user and group are as they must be is `check`'s to find."""
        try:
            self.ids = pwd.getpwnam(OURS).pw_uid, grp.getgrnam(OURS).gr_gid
        except KeyError:
            return
        yield OK, f"accounts: user and group {OURS} are {self.ids[0]}:{self.ids[1]}"

    # ---------------------------------------------------------------- directories

    def _tree(self, top: int) -> Iterator[Finding]:
        yield from self._wrong(self.root, os.fstat(top), (0, 0), 0o711)
        for name, (owner, mode) in ground.TREE.items():
            yield from self._directory(top, name, self.ids if owner == OURS else (0, 0), mode)
        for name in spool.TREE:
            if name.startswith("queue/"):
                yield from self._directory(top, name, self.ids, None)
        control = spool.control_folder(self.root)
        try:
            found = os.lstat(control)
        except FileNotFoundError:
            yield FAIL, f"control: {control} is not there; start the dispatcher, which makes it"
        else:
            yield from self._wrong(control, found, self.ids, 0o755)

    def _directory(self, top: int, name: str, owner: tuple[int, int] | None, mode: int | None) -> Iterator[Finding]:
        path = f"{self.root}/{name}"
        try:
            descriptor = place(top, name)
        except FileNotFoundError:
            yield FAIL, f"spool: {path} is not there; start the dispatcher, which makes what is missing"
        except OSError as error:
            yield from self._hidden(path, error)
        else:
            try:
                yield from self._wrong(path, os.fstat(descriptor), owner, mode)
            finally:
                os.close(descriptor)

    def _hidden(self, path: str, error: OSError) -> Iterator[Finding]:
        """What cannot be looked at: it is not ours to see, it is mounted, or its way leads through something else."""
        if error.errno in (errno.EACCES, errno.EPERM):
            self.unseen = True
        elif error.errno == errno.EXDEV:
            yield FAIL, f"spool: {path} is a file system of its own, and no job can be moved across; umount it"
        else:
            yield FAIL, f"spool: {path}: {error.strerror}; the way to it is not one of directories"

    def _wrong(
        self, path: str, found: os.stat_result, owner: tuple[int, int] | None, mode: int | None
    ) -> Iterator[Finding]:
        """What is wrong with a directory; without `mode`, it must be its owner's alone."""
        kind, was = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
        if kind != stat.S_IFDIR:
            yield FAIL, f"spool: {path} is {_KINDS.get(kind, 'something else')}, not a directory; remove it"
        elif owner is not None and (found.st_uid, found.st_gid) != owner:
            uid, gid = owner
            yield FAIL, f"spool: {path} belongs to {found.st_uid}:{found.st_gid}; chown {uid}:{gid} {path}"
        elif (mode is None and was & 0o077) or (mode is not None and was != mode):
            yield FAIL, f"spool: {path} has the mode {was:04o}; chmod {mode or 0o700:04o} {path}"

    # ---------------------------------------------------------------- users

    def _inboxes(self, top: int) -> Iterator[Finding]:
        """Each inbox is its user's, its files the group's to read; each result directory is cronq's."""
        uids = self._uids(top)
        faults = 0
        for uid in uids:
            for finding in [
                *self._inbox(top, uid),
                *self._results(top, "out", uid),
                *self._results(top, "rejected", uid),
            ]:
                faults += 1
                yield finding
        if uids and not faults:
            yield OK, f"inboxes: {len(uids)}, each its user's alone"

    def _uids(self, top: int) -> list[int]:
        """Who has an inbox; without the right to list them, whoever asks."""
        try:
            folder = os.open("in", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        except PermissionError:
            return [self.me]
        except OSError:
            return []  # `_tree` has said so
        try:
            return sorted(int(name) for name in os.listdir(folder) if name.isdigit()) if self._is_roots(folder) else []
        finally:
            os.close(folder)

    def _is_roots(self, folder: int) -> bool:
        return os.fstat(folder).st_uid == 0

    def _inbox(self, top: int, uid: int) -> Iterator[Finding]:
        path = f"{self.root}/in/{uid}"
        try:
            descriptor = place(top, f"in/{uid}")
        except FileNotFoundError:
            yield WARN, f"inbox: {path} is not there yet; the first submit makes it"
            return
        except OSError as error:
            yield from self._hidden(path, error)
            return
        try:
            found = os.fstat(descriptor)
            owner = (uid, self.ids[1]) if self.ids is not None else None
            yield from self._wrong(path, found, owner, ground.INBOX_MODE)
            if stat.S_ISDIR(found.st_mode) and not acl.inherits(f"/proc/self/fd/{descriptor}"):
                yield FAIL, f"inbox: {path} has not the default ACL; setfacl -d -m u::rwx,g::r-x,o::--- {path}"
        except OSError as error:
            yield FAIL, f"inbox: {path}: {error.strerror}; mount the spool with ACLs"
        finally:
            os.close(descriptor)

    def _results(self, top: int, kind: str, uid: int) -> Iterator[Finding]:
        path = f"{self.root}/{kind}/{uid}"
        try:
            descriptor = place(top, f"{kind}/{uid}")
        except FileNotFoundError:
            return
        except OSError as error:
            yield from self._hidden(path, error)
            return
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISDIR(found.st_mode) or self.ids is None or (found.st_uid, found.st_gid) != self.ids:
                yield from self._wrong(path, found, self.ids, 0o750)
            elif found.st_mode & 0o027:
                yield FAIL, f"spool: {path} can be read or written by others; chmod o=,g-w {path}"
        finally:
            os.close(descriptor)

    def _names(self, top: int) -> Iterator[Finding]:
        """Is each uid still the account's that it was when its inbox was made?"""
        try:
            folder = os.open("users", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        except OSError:
            return  # `_tree` has said so
        try:
            for name in sorted(os.listdir(folder)) if self._is_roots(folder) else []:
                if name.isdigit():
                    yield from self._name(folder, int(name))
        finally:
            os.close(folder)

    def _name(self, folder: int, uid: int) -> Iterator[Finding]:
        try:
            earlier = ground.earlier_name(folder, uid)
        except OSError as error:
            yield (
                WARN,
                f"users: {self.root}/users/{uid}: {error.strerror}; its jobs are taken for those of a known user",
            )
            return
        try:
            present = pwd.getpwuid(uid).pw_name
        except KeyError:
            present = ""
        if earlier is None or present == earlier:
            return
        now = f"is {present} now" if present else "has no account any more"
        mend = (
            f"if {present} is the same person, echo {present} > {self.root}/users/{uid}" if present else "make it again"
        )
        yield (
            WARN,
            f"users: uid {uid} was {earlier} and {now}: its jobs are held, its results shown to nobody; {mend}; "
            f"else cancel them (cronq list --user {uid}), then remove in/{uid}, out/{uid}, rejected/{uid}, users/{uid}",
        )
