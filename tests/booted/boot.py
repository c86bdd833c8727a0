"""A machine that systemd has booted: PID 1 of namespaces of its own, on a private copy-on-write root.

Nothing of the real machine is touched: its root is the lower layer of an overlay, /run, /tmp, /dev and the spool are
fresh, the cgroup tree is a sub-tree of its own, and all of it is gone when the last process is. Needs root, Debian's
package systemd (or the like), overlayfs and cgroup v2; `missing()` says what is not there.

CRONQ_SYSTEMD names a tree that is laid over the root: another systemd's, unpacked (dpkg -x), to try that one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NAMESPACES = ["--mount", "--pid", "--uts", "--ipc", "--cgroup"]
PATIENCE = 100.0


def cgroups() -> Path | None:
    """Where cgroup v2 is mounted."""
    for place in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (place / "cgroup.procs").exists() and (place / "cgroup.controllers").exists():
            return place
    return None


def missing() -> str:
    """Why no machine can be booted here; "" if one can."""
    if os.geteuid() != 0:
        return "booting systemd needs root"
    if not Path("/lib/systemd/systemd").exists() or not shutil.which("systemctl"):
        return "systemd is not here (apt-get install systemd)"
    if not shutil.which("nsenter") or not shutil.which("unshare"):
        return "unshare and nsenter are not here (apt-get install util-linux)"
    if cgroups() is None:
        return "cgroup v2 is not mounted here"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlayfs"
    if subprocess.run(["unshare", *NAMESPACES, "--net", "--fork", "true"], capture_output=True).returncode:
        return "namespaces cannot be made here"
    return ""


class Booted:
    """One booted machine; `run` runs a command on it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        (scratch / "layers").mkdir()
        self.console = scratch / "console"
        self.console.touch()
        top = cgroups()
        assert top is not None
        self.group = top / f"cronq-booted-{os.getpid()}"
        _sweep(top)
        self.group.mkdir()
        self.borrowed: set[str] = set()  # controllers that the real machine had given to none of its groups
        enter = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', self.group / "cgroup.procs"]
        # With this process, and be it killed, the machine goes too.
        alone = ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--net", "--fork", "--kill-child"]
        command = [*alone, "/bin/sh", HERE / "inside.sh", scratch, *_elsewhere()]
        with self.console.open("ab") as log:
            self.process = subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.pid = self._pid_one()
            # The group is the machine's root and must not hold a process of ours, or no controller can be enabled.
            (_own_group(top) / "cgroup.procs").write_text(str(self.process.pid))
            self.run("systemctl", "is-system-running", "--wait", code=None)
        except BaseException:
            self.stop()
            raise

    def _pid_one(self) -> int:
        end = time.monotonic() + PATIENCE
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while time.monotonic() < end:
            assert self.process.poll() is None, self.console.read_text()
            for word in children.read_text().split():
                if Path(f"/proc/{word}/root/run/systemd/private").exists() and b"systemd" in _command(int(word)):
                    return int(word)
            time.sleep(0.01)  # between looks at a condition, never instead of one
        raise AssertionError(f"systemd did not boot: {self.console.read_text()}")

    def run(self, *argv: str | Path, code: int | None = 0, user: str = "", net: bool = False, **options):
        """Run a command on the machine, as root or as a user; `net` gives it the real machine's network."""
        words = ["nsenter", f"--target={self.pid}", *NAMESPACES, *([] if net else ["--net"]), "--wdns=/"]
        home = f"/home/{user}" if user else "/root"
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}
        if user:
            words += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        options = {"capture_output": True, "text": True, "timeout": PATIENCE, "env": env} | options
        done = subprocess.run([*words, *argv], **options)
        if code is not None:
            assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
        return done

    def controllers(self) -> list[str]:
        """What the real machine has to give in its cgroup v2; it is given to this one as far as its units' slice."""
        given = (self.group.parent / "cgroup.controllers").read_text().split()
        had = (self.group.parent / "cgroup.subtree_control").read_text().split()
        self.borrowed |= set(given) - set(had)
        for folder in (self.group.parent, self.group, self.group / "system.slice"):
            for name in given:
                (folder / "cgroup.subtree_control").write_text(f"+{name}")
        return given

    def path(self, path: str | Path) -> Path:
        """A file of the machine's, as this process sees it."""
        return Path(f"/proc/{self.pid}/root/{str(path).lstrip('/')}")

    def stop(self) -> None:
        """End everything on the machine, and with that the machine."""
        self.process.send_signal(signal.SIGKILL)  # --kill-child: PID 1 goes with it, and all the rest with that
        self.process.wait()
        end = time.monotonic() + PATIENCE
        while self.group.exists():
            _remove(self.group)
            assert time.monotonic() < end, "the machine's processes did not end"
            time.sleep(0.01)
        for name in self.borrowed:
            with contextlib.suppress(OSError):  # another test's machine has it, too
                (self.group.parent / "cgroup.subtree_control").write_text(f"-{name}")


def _sweep(top: Path) -> None:
    """Remove the groups of machines whose tests were killed."""
    for group in top.glob("cronq-booted-*"):
        if "populated 0" in (group / "cgroup.events").read_text():
            _remove(group)


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass


def _elsewhere() -> list[Path]:
    """Directories of these tests that are not on the root's file system: an overlay does not show them."""
    wanted = [HERE.parent.parent, Path(sys.prefix), Path(sys.base_prefix)]
    return [path for path in wanted if path.stat().st_dev != Path("/").stat().st_dev]


def _own_group(top: Path) -> Path:
    """The cgroup of this process."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return top / next(line for line in lines if line.startswith("0::"))[3:].lstrip("/")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
