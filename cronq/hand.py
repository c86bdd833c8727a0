"""Root's hand: makes and removes files and directories where only root can, and says each step in a line.

Does:    one thing at a time, whole or not at all; what is there already stays. In a dry run it only says what it would
         do.
Trusts:  root. No path is written to that others can change, and no file replaced or removed that `install` did not
         write.
Fails:   `BadConfig` for what is not as it must be, with the way to mend it; `OSError` of the disk.

For `install`; standard library only.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable

from cronq import premises
from cronq.errors import BadConfig

MARK = "# Written by `cronq install`"  # what begins so is ours to replace, and to remove
Say = Callable[[str], None]


class Hand:
    """Makes things below `destdir`, each said in a line."""

    def __init__(self, destdir: str, dry_run: bool, say: Say) -> None:
        self.destdir = destdir.rstrip("/")
        self.dry_run = dry_run
        self._say = say

    def said(self, verb: str, what: str) -> bool:
        """Say a step; whether it is to be done."""
        self._say(f"{'would: ' * self.dry_run}{verb:<8} {what}")
        return not self.dry_run

    def run(self, argv: list[str]) -> None:
        """Run a program. Raises `BadConfig` with what it complained of."""
        if self.said("run", " ".join(argv)):
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                complaint = done.stderr.strip().replace("\n", "; ") or f"exit code {done.returncode}"
                raise BadConfig(f"{argv[0]} failed: {complaint}")

    def folder(self, path: str, mode: int, owner: tuple[int, int]) -> None:
        """A directory of this owner and mode. Raises `BadConfig` where another one is there."""
        real = self._place(path)
        found = _look(real)
        if found is None:
            if self.said("make", f"{path}/ ({mode:04o})"):
                os.mkdir(real, 0o700)
                descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fchmod(descriptor, mode)
                    if not self.destdir:
                        os.fchown(descriptor, *owner)
                finally:
                    os.close(descriptor)
            return
        if not stat.S_ISDIR(found.st_mode):
            raise BadConfig(f"{path} must be a directory; look what it is, and move it away")
        if not self.destdir and (found.st_uid, found.st_gid) != owner:
            uid, gid = owner
            raise BadConfig(f"{path} belongs to {found.st_uid}:{found.st_gid}; look why, then chown {uid}:{gid} {path}")
        if stat.S_IMODE(found.st_mode) != mode:
            raise BadConfig(f"{path} has the mode {stat.S_IMODE(found.st_mode):04o}; chmod {mode:04o} {path}")
        self.said("there", f"{path}/")

    def file(self, path: str, text: str, once: bool = False) -> None:
        """A file with this text. One that another hand wrote stays, and so does any file if it is written `once`."""
        real = self._place(path)
        found = _look(real)
        earlier = None if found is None else _read(real, found)
        if earlier == text or (once and found):
            self.said("there", path)
        elif found and not (earlier or "").startswith(MARK):
            self.said("left", f"{path}, which `cronq install` did not write; remove it and install again")
        elif self.said("renew" if found else "write", path):
            _replace(real, lambda draft: _write(draft, text))

    def link(self, path: str, target: str) -> None:
        """A symbolic link to the command `target`; one that leads to another installation is changed."""
        real = self._place(path)
        found = _look(real)
        if path == target or (found and stat.S_ISLNK(found.st_mode) and os.readlink(real) == target):
            self.said("there", path)
        elif found and not (stat.S_ISLNK(found.st_mode) and os.readlink(real).endswith("/bin/cronq")):
            self.said("left", f"{path}, which `cronq install` did not make; the command is {target}")
        elif self.said("link", f"{path} -> {target}"):
            _replace(real, lambda draft: os.symlink(target, draft))

    def remove_file(self, path: str) -> None:
        """Remove a file that `install` wrote."""
        real = self._place(path, make=False)
        found = _look(real)
        if found is None:
            return
        if not (_read(real, found) or "").startswith(MARK):
            self.said("left", f"{path}, which `cronq install` did not write")
        elif self.said("remove", path):
            os.unlink(real)

    def remove_folder(self, path: str, names: set[str]) -> None:
        """Remove a directory that is empty but for these names; anything else in it is not ours to remove."""
        real = self._place(path, make=False)
        found = _look(real)
        if not found or not stat.S_ISDIR(found.st_mode) or set(os.listdir(real)) - names:
            return
        if self.said("remove", f"{path}/"):
            descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for name in os.listdir(descriptor):  # its owner's, who may have put anything there: no path is followed
                    os.unlink(name, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            os.rmdir(real)

    def remove_link(self, path: str, target: str) -> None:
        """Remove a link that leads to `target`."""
        real = self._place(path, make=False)
        found = _look(real)
        if found and stat.S_ISLNK(found.st_mode) and os.readlink(real) == target and self.said("remove", path):
            os.unlink(real)

    def _place(self, path: str, make: bool = True) -> str:
        """Where the path really is, its directory made, and safe from others. Raises `BadConfig`."""
        real = self.destdir + path
        above = os.path.dirname(real)
        missing = []
        while _look(above) is None:
            missing.append(above)
            above = os.path.dirname(above)
        if self.destdir:
            self._must_be_no_link(above)
        else:
            premises.must_be_roots(above)
        for folder in reversed(missing if make and not self.dry_run else []):
            os.mkdir(folder, 0o755)
            os.chmod(folder, 0o755)  # noqa: S103 - as system directories are, whatever the umask
        return real

    def _must_be_no_link(self, path: str) -> None:
        while path.startswith(self.destdir):
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
                raise BadConfig(f"{path} must be a directory of your own, below --destdir {self.destdir}")
            path = os.path.dirname(path)


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _read(path: str, found: os.stat_result) -> str | None:
    """The text of a file; None for what is no file, or no text."""
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1 << 20)
    except ValueError:
        return None


def _replace(path: str, make: Callable[[str], None]) -> None:
    """Make a file beside its place, and put it there in one step."""
    draft = f"{os.path.dirname(path)}/.{os.path.basename(path)}.cronq"
    try:
        os.unlink(draft)  # of an installation that was interrupted
    except FileNotFoundError:
        pass
    make(draft)
    os.rename(draft, path)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
