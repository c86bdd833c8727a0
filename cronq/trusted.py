"""Trusted paths: what nobody but root can change, or put something else in the place of.

Does:    `trusted` looks at every component of a path from / on, links and what they lead to among them; `tree` at all
         that a config directory holds.
Reads:   lstat and readlink of the components; any user may.
Trusts:  root, and the kernel. A path that is trusted stays so until root changes that: between the look and an opening
         nobody else can slip anything in, so no descriptor has to be kept.
Fails:   `BadConfig` that names the component and says how to mend it.

Standard library only. A sticky directory that everybody may write to (/tmp) is no place for what root means: who makes
a name there first owns what is behind it.
"""

from __future__ import annotations

import os
import stat

from cronq import task as tasks
from cronq.errors import BadConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LINKS = 40  # as the kernel has it
LISTS = ("exec.allow", "exec.deny")


def trusted(path: str, known: set[str] | None = None, owner: int = 0) -> None:
    """Make sure that only root can change what `path` is, or `owner` beside root. Raises `BadConfig`.

    `known` are real directories that were found good a moment ago; those that are found good now are added.
    """
    known = set() if known is None else known
    if not path.startswith("/"):
        raise BadConfig(f"{path}: must be an absolute path")
    place, links = "/", 0
    ahead = path.split("/")[::-1]
    _must_be_roots("/", path, known, owner)
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":  # the place has no link in it, and was found good
            place = os.path.dirname(place)
            continue
        component = os.path.join(place, part)
        target = _must_be_roots(component, path, known, owner)
        if target is None:
            place = component
            continue
        links += 1
        if links > MOST_LINKS:
            raise BadConfig(f"{path}: too many links, one leads to another; remove them")
        place = "/" if target.startswith("/") else place
        ahead += target.split("/")[::-1]


def _must_be_roots(component: str, path: str, known: set[str], owner: int) -> str | None:
    """Where the component leads if it is a link, after looking at its owner and mode. Raises `BadConfig`."""
    if component in known:
        return None
    what = f"{path}:" if component == path else f"{path}: {component}"
    try:
        found = os.lstat(component)
        target = os.readlink(component) if stat.S_ISLNK(found.st_mode) else None
    except OSError as error:
        raise BadConfig(f"{what} cannot be looked at: {error.strerror}") from None
    whose, by = ("root's", "root alone") if owner == 0 else (f"root's or uid {owner}'s", f"root and uid {owner} alone")
    if found.st_uid not in (0, owner):
        option = "" if target is None else "-h "
        raise BadConfig(f"{what} belongs to uid {found.st_uid}, and must be {whose}; chown {option}root {component}")
    if target is None and found.st_mode & 0o022:
        who = " and ".join(who for who, bit in (("its group", 0o020), ("others", 0o002)) if found.st_mode & bit)
        sticky = found.st_mode & (stat.S_ISVTX | 0o002) == stat.S_ISVTX | 0o002
        mend = "keep it in another place" if sticky else f"chmod go-w {component}"
        raise BadConfig(f"{what} can be written by {who}, and must be by {by}; {mend}")
    if target is None and stat.S_ISDIR(found.st_mode):
        known.add(component)
    return target


def tree(config: str) -> None:
    """Make sure that only root can change a configuration; one that is not there is empty. Raises `BadConfig`."""
    for error in problems(config):
        raise error


def problems(config: str) -> Iterator[BadConfig]:
    """What is wrong with the owners and modes of a configuration, each directory or file of it once."""
    try:
        os.lstat(config)
    except FileNotFoundError:
        return
    except OSError:
        pass  # `trusted` says it
    known: set[str] = set()
    try:
        trusted(config, known)  # else the same holds for all that is in it
        paths = [
            path
            for path in (os.path.join(config, name) for name in ("tasks.d", "cron.d", *LISTS))
            if os.path.lexists(path)
        ]
        paths += tasks.files(config)
    except BadConfig as error:
        yield error
        return
    for path in paths:
        try:
            trusted(path, known)
        except BadConfig as error:
            yield error
