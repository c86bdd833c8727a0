"""`cronq doctor`: is everything there that cronq needs, and if not, how is it mended?

Does:    one line a finding: ok, warn or fail, and what to do. `main` exits with 1 if something failed.
Reads:   the spool's owners and modes (a system's: `inspection`), the configuration (`check`), the dispatcher's control
         socket, what the kernel can do (`checkup`), how full the machine is (`strain`), whose cron it is (`whosecron`).
Trusts:  nothing of a spool that others than this user, or root, can change: it is not looked into.
Fails:   never by itself: what a check trips over is its finding. What this user may not see is no failure.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

from cronq import check, checkup, client, inspection, show, strain, trusted, whosecron
from cronq import spool as spools
from cronq import task as tasks
from cronq.checkup import FAIL, OK, WARN, Finding
from cronq.errors import BadConfig, CronqError

SLOW = 1.0


def main(root: str, config: str) -> int:
    """Check the spool `root` and the configuration, and print what was found; returns the exit code."""
    failed = False
    for look in checks(root, config):
        try:
            findings = list(look())
        except OSError as error:
            findings = [(FAIL, f"{error.filename or 'the system'}: {error.strerror or error}")]
        for level, sentence in findings:
            print(f"{level:<5} {show.escape(sentence)}")
            failed = failed or level == FAIL
    return 1 if failed else 0


def checks(root: str, config: str) -> list[Callable[[], Iterator[Finding]]]:
    """What is looked at, in this order."""
    system = root == spools.SYSTEM_SPOOL or spools.is_system(root)
    of_machine: list[Callable[[], Iterator[Finding]]] = [checkup.inotify, checkup.kernel, checkup.clock]
    of_tree = inspection.Inspection(root).findings if system else lambda: spool(root)
    if not _is_ours(root, system):
        return [of_tree if system else lambda: checkup.stranger(root), *of_machine]
    return [
        of_tree,
        lambda: checkup.file_system(root),
        lambda: checkup.room(root),
        lambda: configuration(config, system),
        lambda: dispatcher(root, system),
        *([lambda: whosecron.check(root)] if root == spools.SYSTEM_SPOOL else []),
        *([] if system else [lambda: check.twins(root, config)]),
        *of_machine,
    ]


def _is_ours(root: str, system: bool) -> bool:
    """Whether nobody but root, or this user, decides what the spool's path leads to."""
    if not system:
        return not list(checkup.stranger(root))
    try:
        trusted.trusted(root)
    except BadConfig:
        return not os.path.lexists(root)
    return True


def spool(root: str) -> Iterator[Finding]:
    """A spool of one's own: is it there, and nobody else's to enter?"""
    if not os.path.isdir(root):
        yield WARN, f"spool: {root} is not there yet; `cronq dispatcher` (or the first submit) makes it"
        return
    missing = [folder for folder in spools.TREE if not os.path.isdir(os.path.join(root, folder))]
    mode = stat.S_IMODE(os.stat(root).st_mode)
    if missing:
        yield FAIL, f"spool: {root} lacks {', '.join(missing[:5])}; start the dispatcher, which makes what is missing"
    if mode & 0o077:
        yield FAIL, f"spool: {root} has the mode {mode:04o}; chmod 0700 {root}"
    elif not missing:
        yield OK, f"spool: {root}"
    yield from _inbox(spools.inbox(root, os.getuid()))


def _inbox(folder: str) -> Iterator[Finding]:
    if not os.path.isdir(folder):
        yield WARN, f"inbox: {folder} is not there yet; the first submit makes it"
    elif os.stat(folder).st_uid != os.getuid():
        yield FAIL, f"inbox: {folder} is not yours; chown {os.getuid()} {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield FAIL, f"inbox: {folder} cannot be written; chmod u+rwx {folder}"
    else:
        yield OK, f"inbox: {folder}"


def configuration(config: str, system: bool) -> Iterator[Finding]:
    """What `cronq check` finds; what this user may not read is no failure, but his jobs' worker may not either."""
    strange = [] if system else list(checkup.stranger(config, "config"))
    if strange:
        yield from strange
    elif system and os.getuid() != 0 and (hidden := _hidden(config)):
        yield WARN, f"config: {hidden} is not yours to read, nor your jobs' worker's; have root chmod o+r it"
    else:
        found = check.findings(config, system)
        yield from ((level, f"config: {sentence}") for level, sentence in found)
        if not any(level == FAIL for level, _ in found):
            there = "" if os.path.lexists(config) else " is not there: commands (cronq exec) need none"
            yield OK, f"config: {config}{there}"


def _hidden(config: str) -> str | None:
    """What of the configuration this user cannot read."""
    try:
        paths = [config, *tasks.files(config)] if os.path.lexists(config) else []
    except BadConfig:
        return config
    return next((path for path in paths if not os.access(path, os.R_OK)), None)


def dispatcher(root: str, system: bool) -> Iterator[Finding]:
    """Does it answer, how quickly, and what does it say of itself?"""
    began = time.monotonic()
    try:
        (about,) = client.ask(root, {"do": "about"})
    except CronqError as error:
        yield FAIL, f"dispatcher: {error.sentence}"
        yield from strain.check([os.getuid()], os.getpid())
        return
    took = time.monotonic() - began
    yield (OK if took < SLOW else WARN), f"dispatcher: answers after {took * 1000:.0f} ms"
    if about.get("broken"):
        yield FAIL, f"dispatcher: {about['broken']}"
    for each in about.get("paused", ()):
        how = "cronq resume" if ":" not in each["gate"] else f"cronq resume {each['gate']}"
        yield WARN, f"dispatcher: {show.gate(each)}; {how} lets it go on"
    if about.get("cgroups"):
        yield (OK if about.get("placing") else WARN), f"cgroups: {about['cgroups']}"
    yield from strain.check(_users(root) if system else [os.getuid()], _pid(about))


def _pid(about: dict[str, Any]) -> int:
    return int(about.get("pid") or os.getpid())


def _users(root: str) -> list[int]:
    """Whose number of processes is of interest: root asks for everybody who has an inbox."""
    if os.getuid() != 0:
        return [os.getuid()]
    try:
        return sorted(int(name) for name in os.listdir(os.path.join(root, "users")) if name.isdigit())
    except OSError:
        return []
