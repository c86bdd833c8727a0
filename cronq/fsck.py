"""`cronq fsck`: is everything in a spool as it must be, what does each thing mean that is not, and mending it.

Does:    becomes whoever owns the spool, looks at all of it, prints a sentence a finding; with `--repair` mends them
         while no dispatcher can start. Beside a running dispatcher, or where one might start, it looks twice, some
         seconds apart, and says only what it saw both times just so: what moves has no finding.
Reads:   the spool (`survey`, `surroundings`; of a system's tree `inspection`); /proc/locks for who holds a lock.
Writes:  nothing without `--repair` (`mending`), and takes no lock then.
Trusts:  root's own path to the spool. Root becomes `cronq`, or the user whose spool it is, before anything below what
         they own is listed or opened.
Fails:   `UsageError` where there is no spool; `NotPermitted` where it is another's; `Full` (exit 75) for a repair
         beside a dispatcher. Exits with 65 while there are faults; notes are none.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator

from cronq import become, checkup, inspection, realm, show, sole, soundness, spool
from cronq.checkup import OK
from cronq.entry import digest
from cronq.errors import BadConfig, Full, NotPermitted, UsageError
from cronq.job import decode
from cronq.mending import LATER, Mender
from cronq.shelves import Shelves
from cronq.soundness import FAULT, Finding
from cronq.surroundings import Surroundings
from cronq.survey import Survey

FAULTS = 65  # what it exits with
SETTLED = 2.0  # seconds between two looks
MOST = 10_000  # findings in memory
ROUNDS = 3  # of a repair: what is moved shows what else is wrong


def main(root: str, repair: bool, as_json: bool) -> int:
    """Look, print, mend; returns the exit code."""
    owners = _owners(root)
    system = root == spool.SYSTEM_SPOOL or (not owners and spool.is_system(root))
    if system and os.geteuid() != 0:
        raise NotPermitted(f"only root can look at all of {root}; sudo cronq fsck")
    printed = Printer(root, as_json)
    if system:
        printed.tree(_tree(root))
    gid = None
    _load()
    if system:
        gid = _be_cronq()
    else:
        _be_owner(root, owners)
    files = Shelves(root, os.getuid(), gid)
    try:
        if repair:
            return _repair(files, printed)
        for finding in _looked_at_twice(files):
            printed.found(finding)
        return printed.done()
    finally:
        files.close()


def _tree(root: str) -> Iterator[str]:
    """What is wrong with a system spool's directories, and whose they are: looked at by root, and nothing opened."""
    for level, sentence in inspection.Inspection(root).findings():
        if level != OK and not sentence.startswith("control:"):  # made by whoever starts
            yield sentence


def _owners(root: str) -> set[int]:
    """Whose the spool and the directories above it are, but for root; nothing in them is looked at."""
    return {_owner(part) for part in (*checkup.way(root), *checkup.way(os.path.realpath(root)))} - {0}


def _load() -> None:
    """Import what is imported late: whoever root becomes may not read root's Python."""
    digest(b"")
    decode(b'{"command": ["true"], "unique": "it"}')


def _be_cronq() -> int:
    """Become `cronq`; its group. Raises `BadConfig`."""
    who = realm.ours()
    become.drop(who)
    os.chdir("/")
    return who.gid


def _be_owner(root: str, owners: set[int]) -> None:
    """Become the user whose own spool this is. Raises `NotPermitted`, `BadConfig`, `UsageError`."""
    if os.geteuid() == 0:
        if len(owners) > 1:
            raise NotPermitted(f"{root} lies on a path of several users'; have its owner run cronq fsck")
        for uid in owners:
            become.drop(_account(uid))
            os.chdir("/")
    if not os.path.isdir(os.path.join(root, "queue")):
        raise UsageError(f"{root} is not a spool of uid {os.getuid()}; name one in CRONQ_SPOOL")
    if os.stat(root).st_uid != os.getuid():
        raise NotPermitted(f"{root} belongs to uid {os.stat(root).st_uid}; name your own in CRONQ_SPOOL")


def _owner(path: str) -> int:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return 0


def _account(uid: int) -> become.Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise BadConfig(f"the spool belongs to uid {uid}, which has no account; make it again") from None
    return become.Account(entry.pw_name, uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))


# -------------------------------------------------------------------- looking


def _look(files: Shelves) -> Iterator[Finding]:
    """One look at everything."""
    locks = _locks()
    holder = locks.get(_identity(files, sole.LOCK))
    live = holder not in (None, os.getpid()) and _is_dispatcher(holder)
    if holder not in (None, os.getpid()) and not live:
        yield Finding("lock", sole.LOCK, f"is held by process {holder}, which is no dispatcher")
    survey = Survey(files, lambda place: _identity(files, place) in locks)
    for finding in (each for room in (Surroundings(files), survey) for each in room.look()):
        if not (live and finding.starts):
            yield finding


def _looked_at_twice(files: Shelves) -> Iterator[Finding]:
    """What is wrong at two looks just so. What is wrong with what lies still is told once it is known, too."""
    first = _some(_look(files))
    if not first:
        return
    time.sleep(SETTLED)
    for finding in _look(files):
        if finding in first:
            first.discard(finding)  # once
            yield finding


def _some(findings: Iterator[Finding]) -> set[Finding]:
    found: set[Finding] = set()
    for finding in findings:
        found.add(finding)
        if len(found) >= MOST:
            break  # that many are enough to be told at a time
    return found


def _locks() -> dict[tuple[int, int, int], int]:
    """Who holds which file locked, by its device and inode."""
    with open("/proc/locks", encoding="utf-8", errors="replace") as lines:
        words = [line.split() for line in lines]
    return {_file(*each[5].split(":")): int(each[4]) for each in words if each[1] == "FLOCK"}


def _file(major: str, minor: str, inode: str) -> tuple[int, int, int]:
    return int(major, 16), int(minor, 16) * bool(int(major, 16)), int(inode)


def _identity(files: Shelves, place: str) -> tuple[int, int, int]:
    """As /proc/locks names a file. Where there is no real device (btrfs), stat has another number for it than that."""
    try:
        found = os.stat(place, dir_fd=files.fd, follow_symlinks=False)
    except OSError:
        return -1, -1, -1
    major = os.major(found.st_dev)
    return major, os.minor(found.st_dev) * bool(major), found.st_ino


def _is_dispatcher(pid: int) -> bool:
    """Whether a process is one, as far as its command tells: others cannot get at the lock."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"cronq" in file.read(4096)
    except OSError:
        return True  # it is another's to look at


# -------------------------------------------------------------------- mending


def _repair(files: Shelves, printed: Printer) -> int:
    lock = sole.lock(files.root)
    try:
        lock.acquire(timeout=0)
    except sole.Taken:
        holder = _locks().get(_identity(files, sole.LOCK), 0)
        raise Full(
            f"a dispatcher serves {files.root}{f' (pid {holder})' if holder else ''}, and nothing can be mended beside "
            "it; stop it (systemctl stop cronq), then cronq fsck --repair"
        ) from None
    try:
        for turn in range(ROUNDS):
            if not _mend_all(files, printed, last=turn == ROUNDS - 1):
                break
    finally:
        lock.release()
    return printed.done()


def _mend_all(files: Shelves, printed: Printer, last: bool) -> bool:
    """Look once, for nothing moves, and mend what is wrong; whether to look again."""
    found = sorted(_some(_look(files)), key=lambda finding: finding.kind in LATER)
    mender = Mender(files)
    mender.read(found)
    mended = False
    try:
        for finding in found:
            try:
                did = mender.mend(finding)
            except OSError as error:
                did = ""
                finding = finding._replace(wrong=f"{finding.wrong} ({error.strerror})")  # noqa: PLW2901 - told so
            if did:
                printed.found(finding, did)
                mended = True
            else:
                printed.left(finding)
    finally:
        mender.close()
    return mended and not last


class Printer:
    """Prints each finding once, and knows what to exit with."""

    def __init__(self, root: str, as_json: bool) -> None:
        self._root = root
        self._as_json = as_json
        self._counts = dict.fromkeys((FAULT, soundness.NOTE, "mended"), 0)
        self._left: set[Finding] = set()

    def tree(self, sentences: Iterator[str]) -> None:
        """What is wrong with a system's directories, each with the way to mend it."""
        for sentence in sentences:
            self._counts[FAULT] += 1
            self._print({"level": FAULT, "kind": "tree", "path": self._root, "sentence": sentence})

    def found(self, finding: Finding, did: str = "") -> None:
        """One finding, and what was done about it."""
        self._counts["mended" if did else finding.level] += 1
        path = os.path.join(self._root, finding.path)
        said = {"level": finding.level, "kind": finding.kind, "path": path, "sentence": finding.sentence(self._root)}
        self._print(said | {"id": finding.job_id, "mended": did})

    def left(self, finding: Finding) -> None:
        """One that cannot be mended, said once however often it is seen."""
        if finding not in self._left:
            self._left.add(finding)
            self.found(finding)

    def done(self) -> int:
        """Say how it is; the exit code."""
        faults, notes, mended = self._counts.values()
        if not self._as_json:
            counts = {"faults": faults, "notes": notes, "mended": mended}
            said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
            more = f"; these are the first {MOST}, and there may be more" * (faults + notes + mended >= MOST)
            print(f"{self._root}: {said or 'clean'}{more}")
        return FAULTS if faults else 0

    def _print(self, said: dict[str, str]) -> None:
        if self._as_json:
            show.one_object({key: value for key, value in said.items() if value})
        else:
            mended = f" -> {said['mended']}" if said.get("mended") else ""
            print(f"{said['level']:<5} {show.escape(said['sentence'])}{show.escape(mended)}")
