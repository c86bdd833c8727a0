"""The spool as everybody sees it: where it is, what lies where, and how a producer puts a job into it.

Does:    finds the spool, makes a rootless one, and `put`s files whole or not at all.
Reads:   CRONQ_SPOOL, CRONQ_CONFIG, XDG_STATE_HOME, XDG_CONFIG_HOME, HOME.
Writes:  `in/<uid>/` only (rootless also the tree itself; on a system spool an empty file in `hello/`, which asks for an
         inbox). What lies below `queue/` is the dispatcher's: see `shelves`.
Fails:   `Full` where the disk refuses, `NotRunning` where a system spool has no inbox for this user yet.

Standard library only, and light: this is most of what `cronq submit` imports. The layout is docs/spool.md.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from cronq import job as jobs
from cronq.errors import BadJob, CronqError, Duplicate, Full, NotRunning, Same, disk_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Content = bytes | int | Callable[[int], None]  # bytes, a descriptor to copy, or what writes to a descriptor

SYSTEM_SPOOL = "/var/spool/cronq"
SYSTEM_CONFIG = "/etc/cronq"
SYSTEM_RUN = "/run/cronq"
ENDINGS = (".job", ".jobs", ".tab")
DATA_ENDING = ".data"
WAITER_ENDING = ".wait"
INTRODUCTION = 5.0  # seconds to wait for a first inbox
BUFFER = 1 << 20
SLICE = 8 << 20  # bytes that are copied before the disk begins to write them
MOST = (1 << 31) - 4096  # that the kernel copies in one call: many small ones take two or three times as long
_FICLONE = 0x40049409  # linux/fs.h
_NOT_BETWEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # files that copy_file_range does not serve
TREE = (
    "in",
    "out",
    "rejected",
    "queue",
    "queue/.capture",
    "queue/outcome",
    "queue/data",
    "queue/ready",
    "queue/delayed",
    "queue/waiting",
    "queue/held",
    "queue/running",
    "queue/dead",
    "queue/skipped",
    "schedule",
    "schedule/tables",
    "history",
    "users",
)


def find() -> str:
    """The spool that this caller means: CRONQ_SPOOL, else the system's if there is one, else his own."""
    named = os.environ.get("CRONQ_SPOOL")
    if named:
        return os.path.abspath(named)
    return SYSTEM_SPOOL if os.path.isdir(SYSTEM_SPOOL) else own()


def own() -> str:
    """The rootless spool: $XDG_STATE_HOME/cronq."""
    return os.path.join(_home("XDG_STATE_HOME", ".local/state"), "cronq")


def find_config(spool: str) -> str:
    """The config directory that goes with `spool`: CRONQ_CONFIG, else /etc/cronq or $XDG_CONFIG_HOME/cronq."""
    named = os.environ.get("CRONQ_CONFIG")
    if named:
        return os.path.abspath(named)
    return SYSTEM_CONFIG if spool == SYSTEM_SPOOL else os.path.join(_home("XDG_CONFIG_HOME", ".config"), "cronq")


def _home(variable: str, below: str) -> str:
    named = os.environ.get(variable, "")
    if named.startswith("/"):
        return named
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):
        import pwd

        home = pwd.getpwuid(os.getuid()).pw_dir
    return os.path.join(home, below)


def is_system(root: str) -> bool:
    """Whether the spool is one for many users, laid out by root."""
    return os.path.isdir(os.path.join(root, "hello"))


def control_folder(root: str) -> str:
    """The directory of the spool's control socket, `control`."""
    if root == SYSTEM_SPOOL:
        return SYSTEM_RUN
    below = os.path.join(root, "run")
    return below if os.path.isdir(below) else root


def refusal_sign(root: str) -> str:
    """What is there, beside the control socket, while nothing is accepted (`cronq drain --refuse`)."""
    return os.path.join(control_folder(root), "refuse")


def must_be_accepted(root: str) -> None:
    """Make sure that a job is taken, rather than have it wait for nobody knows how long. Raises `Full`.

    Whoever drops a file without asking finds it in his inbox, and it is taken when the drain is over.
    """
    if os.path.exists(refusal_sign(root)):
        raise Full("cronq accepts nothing just now (cronq drain --refuse); submit it again when it does (cronq resume)")


def inbox(root: str, uid: int) -> str:
    """The directory into which `uid` puts jobs."""
    return os.path.join(root, "in", str(uid))


def results(root: str, job_id: str) -> str:
    """The result directory of a job: `out/<uid>/<id>`."""
    return os.path.join(root, "out", job_id.partition("-")[0], job_id)


def refusals(root: str, uid: int) -> str:
    """The directory that holds what was refused to `uid`, and why."""
    return os.path.join(root, "rejected", str(uid))


def make(root: str, uid: int) -> None:
    """Make the tree of a rootless spool for `uid`, as far as it is missing. Raises `Full`."""
    try:
        os.makedirs(os.path.dirname(root), exist_ok=True)
    except OSError as error:
        raise disk_error(error, f"the spool {root} cannot be made") from None
    own_folders = (inbox(root, uid), os.path.join(root, "out", str(uid)), refusals(root, uid))
    _make((root, *(os.path.join(root, folder) for folder in TREE), *own_folders), root)


def make_queue(root: str) -> None:
    """Make what the dispatcher of a system spool has below what the launcher made. Raises `Full`."""
    _make([os.path.join(root, folder) for folder in TREE if folder.startswith(("queue/", "schedule/"))], root)


def _make(folders: Iterable[str], root: str) -> None:
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:
                continue
            sync_directory(os.path.dirname(folder))
    except OSError as error:
        raise disk_error(error, f"the spool {root} cannot be made") from None


def put(
    root: str,
    name: str,
    data: Content,
    *,
    ending: str = ".job",
    payload: Content | None = None,
    sync: bool = True,
    chosen: bool = False,
    attached: bool = False,
) -> None:
    """Queue one file for the calling user: whole or absent, and durable before this returns.

    `payload` becomes NAME.data, the job's stdin. With `sync=False` nothing is flushed: fast, and lost if the machine
    loses power within the next seconds. `chosen` says that the name is not one of `new_name`'s, so that another job
    of that name may lie there and must not be replaced. `attached`: the job is cancelled when this process ends.
    Raises `Full`, `NotRunning`, `Duplicate`.
    """
    uid = os.getuid()
    folder = inbox(root, uid)
    if not os.path.isdir(folder):
        if is_system(root):
            _introduce(root, uid)
        elif root == SYSTEM_SPOOL:
            raise NotRunning(f"{root} is not a spool yet; start the dispatcher (systemctl start cronq)")
        else:
            make(root, uid)
    try:
        if attached:
            _attach(os.path.join(folder, name + WAITER_ENDING))
        if payload is not None:
            _write(folder, name + DATA_ENDING, payload, sync, chosen)
        try:
            _write(folder, name + ending, data, sync, chosen)
        except BaseException:
            if payload is not None:
                os.unlink(os.path.join(folder, name + DATA_ENDING))
            raise
        if sync:
            sync_directory(folder)
    except FileExistsError:
        raise Duplicate(f"a job named {name} is queued already; wait until it is taken, or name it otherwise") from None
    except OSError as error:
        raise disk_error(error, f"the job cannot be written to {folder}") from None


def _introduce(root: str, uid: int) -> None:
    """Ask for an inbox, and wait until it is there. Raises `NotRunning`."""
    path = os.path.join(root, "hello", f"{uid}-{os.urandom(4).hex()}")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise disk_error(error, f"{root}/hello cannot be written") from None
    end = time.monotonic() + INTRODUCTION
    while not os.path.isdir(inbox(root, uid)):
        if time.monotonic() > end:
            try:
                os.unlink(path)
            except OSError:
                pass
            raise NotRunning(f"{root} has no inbox for you yet, and no dispatcher makes it; systemctl start cronq")
        time.sleep(0.005)


def _attach(path: str) -> None:
    """Make and lock the file by which the dispatcher sees that this process waits: nobody unlocks it before its end."""
    import fcntl

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    os.fchmod(descriptor, 0o640)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(folder: str, name: str, content: Content, sync: bool, chosen: bool) -> None:
    draft = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        try:
            os.fchmod(descriptor, 0o640)
            if isinstance(content, bytes):
                write_all(descriptor, content)
            elif isinstance(content, int):
                copy(content, descriptor)
            else:
                content(descriptor)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _place(draft, os.path.join(folder, name), chosen)
    except BaseException:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise


def _place(draft: str, path: str, chosen: bool) -> None:
    if not chosen:
        os.rename(draft, path)
        return
    from cronq import linux  # ctypes: too heavy for every submit, and generated names are nobody else's

    linux.rename_new(-100, draft, -100, path)  # AT_FDCWD


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy(source: int, target: int) -> None:
    """All of `source` from where it stands: a reflink or copy_file_range where there is one, else a small buffer.

    Holes stay holes. Of a file that grows meanwhile it is what was there at first. Raises `BadJob` for a file that
    shrinks meanwhile.
    """
    found = os.fstat(source)
    if not stat.S_ISREG(found.st_mode) or not found.st_size:  # files of /proc have no size
        while part := os.read(source, BUFFER):
            write_all(target, part)
        return
    begin = os.lseek(source, 0, os.SEEK_CUR)
    if begin or not clone(source, target):
        at = begin
        while part_of := next_data(source, at, found.st_size):
            at, end = part_of
            count = copy_slice(source, target, at, end, at - begin, MOST)
            if not count:
                break
            at += count
        os.ftruncate(target, max(0, found.st_size - begin))
    os.lseek(source, found.st_size, os.SEEK_SET)
    size = os.fstat(source).st_size
    if size < found.st_size:
        raise BadJob(f"the file shrank from {found.st_size} to {size} bytes while it was read; nothing was queued")


def clone(source: int, target: int) -> bool:
    """Let `target` share what the file `source` holds, in one step; False where the file system does not do that."""
    import fcntl  # only few jobs have a payload

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def next_data(source: int, at: int, size: int) -> tuple[int, int] | None:
    """Where the next bytes of a file begin that are no hole, and where they end; None for none below `size`."""
    try:
        at = os.lseek(source, at, os.SEEK_DATA)
        return (at, min(size, os.lseek(source, at, os.SEEK_HOLE))) if at < size else None
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def copy_slice(source: int, target: int, at: int, end: int, to: int, most: int = 0) -> int:
    """Copy a slice of a file, `most` bytes from `at` on, to `to`; how many it was, 0 where it is shorter by now."""
    most = min(most or SLICE, end - at)
    try:
        if count := os.copy_file_range(source, target, most, at, to):
            return count
    except OSError as error:
        if error.errno not in _NOT_BETWEEN:
            raise
    part = os.pread(source, min(most, BUFFER), at)
    return os.pwrite(target, part, to)


def sync_directory(folder: str) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(root: str, uid: int, name: str) -> tuple[str, int] | None:
    """Why the file `name` of `uid` was refused, and the exit code that says so; None if it was not."""
    from cronq import safeopen  # ctypes: too heavy for every submit

    for ending in ENDINGS:
        try:
            path = os.path.join(refusals("", uid), f"{name}{ending}.reason")
            with open(safeopen.open_below(root, path), encoding="utf-8") as file:
                sentence, code = file.read().rstrip("\n").rsplit("\nexit ", 1)
        except (OSError, ValueError):
            continue
        return sentence.partition(_SAME)[0], int(code)
    return None


_SAME = "\nthe same as "
_ATTACHED = " (attached)"


def twin(root: str, job_id: str) -> tuple[str, bool] | None:
    """The job that stands for this one, and whether its result is for who waits for this one; None: there is none."""
    from cronq import safeopen

    owner, _, name = job_id.partition("-")
    try:
        path = os.path.join(refusals("", int(owner)), f"{name}.job.reason")
        with open(safeopen.open_below(root, path), encoding="utf-8") as file:
            found = file.read().partition(_SAME)[2].partition("\n")[0]
    except (OSError, ValueError):
        return None
    other = found.removesuffix(_ATTACHED)
    return (other, found != other) if jobs.is_id(other) else None


def reason_text(error: CronqError) -> str:
    """What a NAME.reason file holds: the sentence, and the exit code on a line of its own."""
    same = ""
    if isinstance(error, Same):
        same = f"{_SAME}{error.job_id}{_ATTACHED if error.attached else ''}"
    return f"{error.sentence}{same}\nexit {error.exit_code}\n"


def time_of(job_id: str) -> float | None:
    """When the job was submitted, as its id says; None for an id that does not carry it."""
    name = job_id.partition("-")[2].partition("+")[0]
    found = jobs.name_time(name)
    if found is None and len(name) > 14 and name[13] == "-" and all(char in jobs.HEX for char in name[:13]):
        found = int(name[:13], 16) / 1e6
    return found


def submitted(job_id: str, due: int) -> float:
    """When a job was submitted, as far as its id and its due time (microseconds) tell."""
    return time_of(job_id) or due / 1e6
