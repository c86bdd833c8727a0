"""`cronq doctor`: is everything there that cronq needs, and if not, how is it mended?

Does:    one line a check: ok, warn or fail, and what to do. `main` exits with 1 if one failed.
Reads:   the spool's modes, the configuration, the dispatcher's control socket, what the kernel can do.
Writes:  nothing that stays: two files in a directory of its own below the temporary directory.
Fails:   never by itself: what a check trips over is its finding.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator

from cronq import client, linux, show
from cronq import spool as spools
from cronq.doorbell import Doorbell
from cronq.errors import BadConfig, CronqError

OK, WARN, FAIL = "ok", "warn", "fail"
Finding = tuple[str, str]  # a level, and a sentence
EARLIEST = 1_700_000_000  # a clock before this (2023) was never set
LEAST_FREE = 64 * 1024 * 1024
BAD_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph")


def main(root: str, config: str) -> int:
    """Check the spool `root` and the configuration, and print what was found; returns the exit code."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: spool(root),
        lambda: file_system(root),
        lambda: room(root),
        lambda: configuration(config),
        lambda: dispatcher(root),
        inotify,
        kernel,
        clock,
    )
    failed = False
    for check in checks:
        try:
            findings = list(check())
        except OSError as error:
            findings = [(FAIL, f"{error.filename or 'the system'}: {error.strerror or error}")]
        for level, sentence in findings:
            print(f"{level:<5} {show.escape(sentence)}")
            failed = failed or level == FAIL
    return 1 if failed else 0


def spool(root: str) -> Iterator[Finding]:
    """Is it there, and are owners and modes such that nobody can pass himself off as another?"""
    if not os.path.isdir(root):
        yield WARN, f"spool: {root} is not there yet; `cronq dispatcher` (or the first submit) makes it"
        return
    missing = [folder for folder in spools.TREE if not os.path.isdir(os.path.join(root, folder))]
    if missing and os.access(root, os.R_OK | os.W_OK):
        yield FAIL, f"spool: {root} lacks {', '.join(missing[:5])}; start the dispatcher, which makes what is missing"
    found = os.stat(root)
    system = root == spools.SYSTEM_SPOOL
    if found.st_uid != (0 if system else os.getuid()):
        mend = f"chown root {root}" if system else "name your own in CRONQ_SPOOL"
        yield FAIL, f"spool: {root} belongs to uid {found.st_uid}; {mend}"
    elif stat.S_IMODE(found.st_mode) & (0o022 if system else 0o077):
        mode = "0711" if system else "0700"
        yield FAIL, f"spool: {root} has the mode {stat.S_IMODE(found.st_mode):04o}; chmod {mode} {root}"
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


def file_system(root: str) -> Iterator[Finding]:
    """Renames must be atomic and locks real: a network's file system is none for a spool."""
    path = os.path.realpath(_nearest(root))
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="backslashreplace") as mounts:
        for line in mounts:
            _, point, found = line.split()[:3]
            point = point.replace("\\040", " ")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    if kind in BAD_FILE_SYSTEMS:
        yield FAIL, f"file system: {root} lies on {kind} ({best}); a spool needs a local disk: set CRONQ_SPOOL"
    elif kind in ("tmpfs", "ramfs"):
        yield WARN, f"file system: {root} lies on {kind} ({best}): its jobs do not survive a restart of the machine"
    else:
        yield OK, f"file system: {kind or 'unknown'} ({best or '/'})"


def _nearest(path: str) -> str:
    """The path itself, or the nearest directory above it that is there."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def room(root: str) -> Iterator[Finding]:
    """Is there space, and are there inodes?"""
    found = os.statvfs(_nearest(root))
    free = found.f_bavail * found.f_frsize
    if free < LEAST_FREE:
        yield FAIL, f"room: only {free // 1024**2} MiB are free below {root}; make room, or jobs will be refused"
    elif found.f_files and found.f_favail < 10_000:
        yield WARN, f"room: only {found.f_favail} files can still be made below {root}; remove some"
    else:
        yield OK, f"room: {free // 1024**2} MiB free"


def configuration(config: str) -> Iterator[Finding]:
    """Does it parse?"""
    from cronq import config as configs

    if not os.path.isdir(config):
        yield OK, f"config: {config} is not there; only commands (cronq exec) can run, which needs none"
        return
    try:
        found = configs.load(config)
    except BadConfig as error:
        yield FAIL, f"config: {error.sentence}"
        for more in getattr(error, "more", ()):
            yield FAIL, f"config: {more}"
        return
    yield OK, f"config: {config}, tasks: {', '.join(sorted(found.tasks)) or 'none'}"


def dispatcher(root: str) -> Iterator[Finding]:
    """Does it answer, and how quickly?"""
    began = time.monotonic()
    try:
        list(client.ask(root, {"do": "stats"}))
    except CronqError as error:
        yield FAIL, f"dispatcher: {error.sentence}"
        return
    took = time.monotonic() - began
    yield (OK if took < 1 else WARN), f"dispatcher: answers after {took * 1000:.0f} ms"


def inotify() -> Iterator[Finding]:
    """Does the doorbell ring?"""
    with tempfile.TemporaryDirectory(prefix="cronq-doctor-") as folder:
        door = Doorbell()
        try:
            watched = door.watch(folder, "rang")
            with open(os.path.join(folder, "file"), "wb"):
                pass
            if watched and "rang" in door.wait(2.0):
                yield OK, "inotify: rings"
            else:
                mend = "raise fs.inotify.max_user_instances and max_user_watches (sysctl)"
                yield WARN, f"inotify: is silent, so jobs start up to a second late; {mend}"
        finally:
            door.close()


def kernel() -> Iterator[Finding]:
    """Are the system calls there that files of strangers are opened, and jobs are moved with?"""
    with tempfile.TemporaryDirectory(prefix="cronq-doctor-") as folder:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.close(os.open("one", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory))
            yield _tried("renameat2", lambda: linux.rename_new(directory, "one", directory, "two"), "Linux 3.15")
            yield _tried("openat2", lambda: os.close(_open_beneath(directory)), "Linux 5.6")
        finally:
            os.close(directory)


def _open_beneath(directory: int) -> int:
    return linux.openat2(directory, "two", os.O_RDONLY, linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS)


def _tried(name: str, call: Callable[[], None], since: str) -> Finding:
    try:
        call()
    except OSError as error:
        return (
            WARN,
            f"{name}: {error.strerror}; cronq does without, more slowly and less strictly (it came with {since})",
        )
    return OK, f"{name}: there"


def clock() -> Iterator[Finding]:
    """Was it ever set?"""
    now = time.time()
    if now < EARLIEST:
        yield FAIL, f"clock: it says {show.instant(now)}; set it (timedatectl), or schedules and names are wrong"
    else:
        yield OK, f"clock: {show.instant(now)} {time.strftime('%Z')}"
