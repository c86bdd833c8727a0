"""Whether an installation can be the system's: root's alone to change, everybody's to read.

Does:    checks paths: every component up to `/`, and of what links on the way lead to.
Reads:   owners and modes; the accounts, for whether a group has members.
Fails:   `BadConfig`, with the path that is wrong and the way to mend it.

Standard library only, for `install`.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
import sysconfig

from cronq.errors import BadConfig

MEND = "python3 -m venv /opt/cronq && /opt/cronq/bin/pip install cronq, with the system's own python3"
_FOLDERS_OF_A_HOME = ("/root", "/home")
MOST_LINKS = 40  # as the kernel


def program() -> str:
    """The command `cronq` of this installation."""
    return os.path.join(sys.prefix, "bin", "cronq")


def must_be_usable() -> None:
    """Root may run this installation, and every user read it: Python, and all files of it. Raises `BadConfig`."""
    package = os.path.dirname(os.path.abspath(__file__))
    parts = [sys.executable, package, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))]
    for path in parts:
        _must_be_no_home(os.path.realpath(path))
        must_be_roots(path)
    if not os.path.exists(program()):
        raise BadConfig(f"{program()} is not there; {MEND}")
    venv = sys.prefix != sys.base_prefix
    for top in {sys.prefix if venv else package, package}:
        for folder, folders, files in os.walk(top, onerror=_unreadable):
            for name in (*folders, *files):
                _must_be_readable(os.path.join(folder, name))


def _unreadable(error: OSError) -> None:
    raise BadConfig(f"{error.filename}: {error.strerror}") from None


def _must_be_no_home(path: str) -> None:
    for home in _FOLDERS_OF_A_HOME:
        if path.startswith(os.path.realpath(home) + "/"):
            raise BadConfig(f"{path} lies in a home directory, which other users cannot rely on; {MEND}")


def must_be_roots(path: str) -> None:
    """Only root can change what this path leads to. Raises `BadConfig`.

    Others may write in a directory with the sticky bit: what is root's in it they cannot replace.
    """
    names, walked, links = os.path.abspath(path).split("/"), "/", 0
    _must_be_roots_own(walked)
    while names:
        name = names.pop(0)
        if name in ("", ".", ".."):
            walked = os.path.dirname(walked) if name == ".." else walked
            continue
        here = os.path.join(walked, name)
        if not stat.S_ISLNK(_must_be_roots_own(here).st_mode):
            walked = here
            continue
        links += 1
        if links > MOST_LINKS:
            raise BadConfig(f"{path} leads through too many links")
        target = os.readlink(here)
        walked = "/" if target.startswith("/") else walked
        names[:0] = target.split("/")


def _must_be_roots_own(path: str) -> os.stat_result:
    try:
        found = os.lstat(path)
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from None
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != 0:
        raise BadConfig(f"{path} belongs to {_name(found.st_uid)}, who can change what root runs; chown root {path}")
    if stat.S_ISLNK(found.st_mode) or (stat.S_ISDIR(found.st_mode) and mode & stat.S_ISVTX):
        return found
    if mode & 0o002 or (mode & 0o020 and _has_members(found.st_gid)):
        raise BadConfig(f"{path} has the mode {mode:04o}: others can change what root runs; chmod go-w {path}")
    if stat.S_ISDIR(found.st_mode) and not mode & 0o001:
        raise BadConfig(f"{path} has the mode {mode:04o}: other users cannot pass; chmod o+x {path}")
    return found


def _must_be_readable(path: str) -> None:
    found = _must_be_roots_own(path)
    needed = 0o005 if stat.S_ISDIR(found.st_mode) else 0o004
    if found.st_mode & needed != needed:
        raise BadConfig(
            f"{path} has the mode {stat.S_IMODE(found.st_mode):04o}: other users cannot read it; "
            f"chmod -R go+rX {sys.prefix}"
        )


def _has_members(gid: int) -> bool:
    """Whether anybody but root is in a group (Debian's staff, which may write below /usr/local, has nobody in it)."""
    try:
        named = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return True  # of no name: nobody can say who is in it
    return bool((named | {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}) - {"root"})


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
