"""A private world for this process: its own /etc, /home, /opt, /run, /var/mail and /var/spool, gone with the process.

Does:    moves this process, and whatever it starts from then on, into a mount namespace of its own. /etc is a copy of
         the real one, /run a fresh tmpfs, /var/spool and the others fresh directories on the real disk. What the real
         /home and /opt hold is still there, at the same places: pytest itself may run from there.
Writes:  one throw-away directory below /var/tmp.
Trusts:  `keeper.py`, which stays outside: when this process ends, and be it by SIGKILL, the keeper kills every process
         in the namespace and removes the directory.
"""

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PREFIX = "cronq-machine-"
FRESH = ("home", "mail", "opt", "spool")

_libc = ctypes.CDLL(None, use_errno=True)


def enter(hidden: set[str]) -> Path:
    """Move into a world of our own, where nothing is that bears a hidden name; the directory that holds its files.

    Raises `PermissionError`.
    """
    _sweep()
    base = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
    _lock(base)
    keeper = _keeper(base)
    _unshare()
    os.write(keeper, namespace().encode())
    os.close(keeper)
    for name in ("etc", *FRESH):
        (base / name).mkdir()
        (base / name).chmod(0o755)
    subprocess.run(["cp", "-a", "/etc/.", base / "etc"], check=True)
    mount(base / "etc", "/etc", MS_BIND)
    mount(base / "spool", "/var/spool", MS_BIND)
    mount(base / "mail", "/var/mail", MS_BIND)
    for name in ("home", "opt"):
        _cover(base / name, Path("/", name), hidden)
    mount("tmpfs", "/run", 0, "tmpfs", "mode=0755")
    return base


def namespace(pid: int | str = "self") -> str:
    """The mount namespace of a process; "" where it has none (any more)."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _sweep() -> None:
    """Remove what earlier sessions left, whose keeper was killed, too. Anybody may put anything into /var/tmp."""
    for earlier in Path("/var/tmp").glob(f"{PREFIX}*"):
        try:
            if earlier.lstat().st_uid == 0 and _lock(earlier):
                shutil.rmtree(earlier, ignore_errors=True)
        except OSError:
            pass  # no directory, or its keeper is removing it just now


def _lock(directory: Path) -> bool:
    """Hold a directory's lock as long as this process lives; False where somebody else does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _keeper(base: Path) -> int:
    """Start the keeper, outside; the end of a pipe that takes the name of the namespace."""
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", str(Path(__file__).with_name("keeper.py")), str(os.getpid()), str(base)],
        {"PATH": os.environ["PATH"]},
        file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0), *((os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2))],
        setsid=True,  # a Ctrl-C is for pytest
    )
    os.close(reading)
    os.close(null)
    return writing


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no private mount namespace can be made here")
    mount("none", "/", MS_REC | MS_PRIVATE)


def _cover(new: Path, place: Path, hidden: set[str]) -> None:
    """Put `new` over `place`, with the directories that are in `place` still to be seen in it."""
    shown = []
    for each in place.iterdir():
        if each.name in hidden:
            continue
        if each.is_symlink():
            (new / each.name).symlink_to(each.readlink())
        elif each.is_dir():
            (new / each.name).mkdir()
            mount(each, new / each.name, MS_BIND | MS_REC)
            shown.append(new / each.name)
    mount(new, place, MS_BIND | MS_REC)
    for each in shown:  # only below `place`: whoever removes `new` must not find what is real in it
        unmount(each)


def mount(source: Path | str, target: Path | str, flags: int, kind: str = "none", data: str = "") -> None:
    """As mount(2). Raises `OSError`."""
    words = [os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def unmount(target: Path | str) -> None:
    """Take away what is mounted there, whoever is in it. Raises `OSError`."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), f"{target} cannot be unmounted")
