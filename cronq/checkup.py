"""The checkup of a machine: what every spool needs of kernel, clock and file system.

Does:    one generator a check, which yields findings: a level (ok, warn, fail) and a sentence that says how to mend it.
Reads:   /proc, what the kernel can do.
Writes:  nothing that stays: two files in a directory of its own below the temporary directory.
Fails:   `OSError`, which is a finding as well (`doctor`).
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator

from cronq import linux, show
from cronq.doorbell import Doorbell

OK, WARN, FAIL = "ok", "warn", "fail"
Finding = tuple[str, str]  # a level, and a sentence
EARLIEST = 1_700_000_000  # a clock before this (2023) was never set
LEAST_FREE = 64 * 1024 * 1024
LEAST_FILES = 10_000
ELSEWHERE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ocfs2", "gfs2")
GONE_AT_BOOT = ("tmpfs", "ramfs")


def mounts() -> Iterator[tuple[str, str]]:
    """Every mount point that this process sees, and the kind of file system there."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            yield unescaped(fields.split()[4]), rest.split()[0]


def unescaped(field: str) -> str:
    """A path as the kernel's tables write it: \\040 is a blank."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def file_system(root: str, found: list[tuple[str, str]] | None = None) -> Iterator[Finding]:
    """Renames must be atomic and locks real: no network's file system, nor one that a process serves, is for a spool.

    `found` are the mounts, the later ones over the earlier.
    """
    found = list(mounts()) if found is None else found
    path = os.path.realpath(nearest(root))
    best, kind = "", ""
    for point, each in found:
        if _inside(path, point) and len(point) >= len(best):
            best, kind = point, each
    if kind in ELSEWHERE or (kind.startswith("fuse") and kind != "fusectl"):
        yield FAIL, f"file system: {root} lies on {kind} ({best}); a spool needs a local disk: mount one there"
    elif kind in GONE_AT_BOOT:
        yield WARN, f"file system: {root} lies on {kind} ({best}): its jobs do not survive a restart of the machine"
    else:
        yield OK, f"file system: {kind or 'unknown'} ({best or '/'})"
    for point, each in found:
        if point != path and _inside(point, path) and path == os.path.realpath(root):
            yield (
                FAIL,
                f"file system: {point} ({each}) is mounted inside the spool, and no job is moved across; umount it",
            )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def nearest(path: str) -> str:
    """The path itself, or the nearest directory above it that is there."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def stranger(path: str, what: str = "spool") -> Iterator[Finding]:
    """Does it belong to another user? As root: does any part of its path, so that root must not look into it?"""
    mine = os.getuid()
    parts = [path] if mine else [*way(path), *way(os.path.realpath(path))]
    for part in parts:
        try:
            owner = os.lstat(part).st_uid
        except OSError:
            continue
        if owner not in (0, mine):
            yield FAIL, f"{what}: {part} belongs to uid {owner}; name your own in CRONQ_{what.upper()}"
            return


def way(path: str) -> Iterator[str]:
    """A path, and every directory above it but `/`."""
    while path != "/":
        yield path
        path = os.path.dirname(path)


def room(root: str) -> Iterator[Finding]:
    """Is there space, and are there inodes?"""
    found = os.statvfs(nearest(root))
    free = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY:
        yield FAIL, f"room: the file system of {root} is mounted read-only; mount it anew (dmesg says why it is so)"
    elif free < LEAST_FREE:
        yield FAIL, f"room: only {free // 1024**2} MiB are free below {root}; make room, or jobs will be refused"
    elif found.f_files and found.f_favail < LEAST_FILES:
        yield WARN, f"room: only {found.f_favail} files can still be made below {root}; remove some"
    else:
        yield OK, f"room: {free // 1024**2} MiB free"


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
