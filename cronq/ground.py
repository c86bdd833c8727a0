"""What root lays out for the others: the tree of a system spool, and each user's inbox.

Does:    `lay` makes the tree that dispatcher and producers find, `inbox` a user's inbox and the record of his name.
Writes:  the spool's own directory, `in/`, `users/`, all of them root's: nobody else can put anything in their way.
Trusts:  no path that others may change. A directory is changed through a descriptor that was opened without following a
         link, and never again once it belongs to its user.
Fails:   `BadConfig` where the ground is not as it must be, with the way to mend it; `OSError` of the disk.

For the launcher; others only read names by it. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat

from cronq import acl
from cronq.errors import BadConfig, CronqError
from cronq.trusted import trusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.become import Account

# Directories below the spool: whose they are (root's, or cronq's), and their mode.
TREE = {
    "hello": ("cronq", 0o1733),
    "in": ("root", 0o711),
    "out": ("cronq", 0o711),
    "rejected": ("cronq", 0o711),
    "queue": ("cronq", 0o700),
    "schedule": ("cronq", 0o700),
    "history": ("cronq", 0o750),
    "users": ("root", 0o755),
}
INBOX_MODE = 0o2770
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Reused(CronqError):
    """This uid belongs to another account than when its inbox was made."""

    exit_code = 77


def lay(root: str, control: str, ours: Account) -> int:
    """Make what is missing of a system spool, and of the folder of its control socket; a descriptor of the spool.

    Raises `BadConfig` where something is there that is not what it must be: an owner that is another now may mean that
    the files below are another's too, so nobody but an administrator can say how to mend it.
    """
    try:
        trusted(_nearest(os.path.dirname(root)))  # before root makes a directory where others may have put a link
        os.makedirs(os.path.dirname(root), exist_ok=True)
        trusted(os.path.dirname(root))
        spool = _directory(root, None, 0, 0, 0o711)
        for name, (owner, mode) in TREE.items():
            uid, gid = (ours.uid, ours.gid) if owner == "cronq" else (0, 0)
            os.close(_directory(f"{root}/{name}", spool, uid, gid, mode))
        os.close(_directory(control, None, ours.uid, ours.gid, 0o755))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadConfig(f"{error.filename or root}: {error.strerror}; it must be a directory") from None
        raise
    return spool


def _nearest(path: str) -> str:
    """What there is of a path: it, or the nearest directory above it."""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _directory(path: str, parent: int | None, uid: int, gid: int, mode: int) -> int:
    """A descriptor of the directory, made if it is missing. Raises `BadConfig` where it is not as it must be."""
    name = path if parent is None else os.path.basename(path)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        found = os.fstat(descriptor)
        owner, was = (found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode)
        # New, or a crash came in between: the mode comes first, the owner last.
        if owner == (0, 0) and (uid != 0 or was == 0o700):
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, uid, gid)
            _flush(descriptor, parent)
        elif owner != (uid, gid):
            raise BadConfig(f"{path} belongs to {found.st_uid}:{found.st_gid}; chown {uid}:{gid} {path}")
        elif was != mode:
            raise BadConfig(f"{path} has the mode {was:04o}; chmod {mode:04o} {path}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def inbox(spool: int, who: Account, ours: Account) -> None:
    """Make a user's inbox, and keep his name beside it. Raises `Reused`, `OSError`.

    The name comes first: an inbox without one would be the next account's that gets this uid, with all that is in it.
    """
    folders = {name: os.open(name, _DIRECTORY, dir_fd=spool) for name in ("in", "users")}
    try:
        if _must_be_the_same(folders["users"], who) is None:
            _remember(folders["users"], who)
        _make_inbox(folders["in"], who, ours)
    finally:
        for descriptor in folders.values():
            os.close(descriptor)


def must_be_the_same(root: str, who: Account) -> None:
    """That this uid is still who it was when its inbox was made, if it has one. Raises `Reused`."""
    users = os.open(f"{root}/users", _DIRECTORY)
    try:
        _must_be_the_same(users, who)
    finally:
        os.close(users)


def _must_be_the_same(users: int, who: Account) -> str | None:
    earlier = earlier_name(users, who.uid)
    if earlier not in (None, who.name):
        raise Reused(
            f"uid {who.uid} was {earlier} when its inbox was made, and is {who.name} now; "
            f"see `cronq doctor` before you remove users/{who.uid}"
        )
    return earlier


def _make_inbox(folder: int, who: Account, ours: Account) -> None:
    name, draft = str(who.uid), f".{who.uid}.tmp"
    if _is_there(name, folder):
        return
    if not _is_there(draft, folder):
        os.mkdir(draft, 0o700, dir_fd=folder)
    descriptor = os.open(draft, _DIRECTORY, dir_fd=folder)
    try:
        acl.inherit(descriptor)
        os.fchmod(descriptor, INBOX_MODE)
        os.fchown(descriptor, who.uid, ours.gid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)  # whoever waits for it sees it when it is his
    os.fsync(folder)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def earlier_name(users: int, uid: int) -> str | None:
    """The name that this uid had when its inbox was made; None where it has none. `users` is that directory."""
    try:
        descriptor = os.open(str(uid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=users)
    except FileNotFoundError:
        return None
    try:
        return os.fsdecode(os.read(descriptor, 256).strip())
    finally:
        os.close(descriptor)


def _remember(users: int, who: Account) -> None:
    draft = f".{who.uid}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o644, dir_fd=users)
    try:
        os.write(descriptor, os.fsencode(who.name) + b"\n")
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(draft, str(who.uid), src_dir_fd=users, dst_dir_fd=users)
    os.fsync(users)


def _flush(descriptor: int, parent: int | None) -> None:
    os.fsync(descriptor)
    if parent is not None:
        os.fsync(parent)
