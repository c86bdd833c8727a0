"""Debian's own cron as a judge: in a private mount namespace, with a clock that stands where a test puts it.

Nothing of this machine is touched: the spool, /etc/crontab, /etc/cron.d and /run are scratch directories there. Needs
root and the packages cron and libfaketime; `missing()` says what is not there.
"""

from __future__ import annotations

import collections
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SLEEPS = {"230", "115", "35", "101"}  # clock_nanosleep and nanosleep, x86-64 and arm64
_PATIENCE = 60.0
_SECOND = 20  # of the minute, at every look: cron then sleeps for 41 s, and never so long in the midst of its work


def missing() -> str:
    """Why Debian's cron cannot be asked here; "" if it can."""
    if os.geteuid() != 0:
        return "asking Debian's cron needs root"
    if not Path("/usr/sbin/cron").exists() or not shutil.which("crontab") or not shutil.which("dpkg-query"):
        return "Debian's cron is not here (apt-get install cron)"
    version = subprocess.run(["dpkg-query", "-Wf", "${Version}", "cron"], capture_output=True, text=True, check=False)
    if not version.stdout.startswith("3.0pl1"):
        return f"the judge is Debian's cron 3.0pl1, not {version.stdout or 'another one'}"
    if not _FAKETIME:
        return "libfaketime is not here (apt-get install faketime)"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return "no private mount namespace can be made here"
    return ""


def _mounts(scratch: Path) -> str:
    for name in ("tabs", "cron.d", "run"):
        (scratch / name).mkdir(exist_ok=True)
    for name in ("crontab", "ran"):
        (scratch / name).touch()
    places = {"tabs": "/var/spool/cron/crontabs", "crontab": "/etc/crontab", "cron.d": "/etc/cron.d", "run": "/run"}
    more = {"localtime": "/etc", "shadow": "/etc", "environment": "/etc", "locale": "/etc/default"}
    places |= {name: f"{folder}/{name}" for name, folder in more.items() if (scratch / name).exists()}
    mounts = [f"mount --bind {scratch}/{name} {place}" for name, place in places.items()]
    return " && ".join(mounts + _devices(scratch) * (scratch / "log").exists())


def _devices(scratch: Path) -> list[str]:
    """A /dev in which /dev/log is the socket `log` of a test."""
    (scratch / "dev").mkdir(exist_ok=True)
    dev = f"{scratch}/dev"
    made = [f"mount -t tmpfs -o mode=755 tmpfs {dev}", f"mkdir -m 1777 {dev}/shm", f"touch {dev}/null"]
    return [*made, f"mount --bind /dev/null {dev}/null", f"ln -s {scratch}/log {dev}/log", f"mount --rbind {dev} /dev"]


Verdict = collections.namedtuple("Verdict", "accepted line message")


def verdicts(scratch: Path, tables: list[bytes]) -> list[Verdict]:
    """What `crontab -n` says of each table; line as cronq counts it (Debian's number is one too small)."""
    mounts = _mounts(scratch)
    for number, table in enumerate(tables):
        (scratch / f"t{number}").write_bytes(table)
    loop = f'for n in $(seq 0 {len(tables) - 1}); do crontab -n t$n 2>&1; echo "rc=$?"; done'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mounts} && cd {scratch} && {loop}"],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    answers = done.stdout.decode("latin-1").split("rc=")
    said = [answers[0], *(part.partition("\n")[2] for part in answers[1:-1])]
    codes = [part.partition("\n")[0] for part in answers[1:]]
    assert len(codes) == len(tables), done.stderr
    return [_verdict(code == "0", text) for code, text in zip(codes, said, strict=True)]


def _verdict(accepted: bool, text: str) -> Verdict:
    if found := re.match(r'"t\d+":(-?\d+): (.*)', text):
        return Verdict(accepted, int(found[1]) + 1, found[2])
    return Verdict(accepted, 0, text.partition("\n")[0])


class Cron:
    """A running Debian cron with one table of root's; `look` moves its clock and gives what it ran."""

    def __init__(self, scratch: Path, table: bytes, now: int, zone: str = "") -> None:
        self.scratch, self.ran = scratch, 0
        mounts = _mounts(scratch)
        tab = scratch / "tabs/root"
        tab.write_bytes(f"* * * * * echo look >>{scratch}/ran\n".encode() + table)
        tab.chmod(0o600)
        self._set(now)
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "FAKETIME_FMT": "%s", "FAKETIME_NO_CACHE": "1"}
        env |= {"FAKETIME_TIMESTAMP_FILE": f"{scratch}/clock", "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        if zone:
            env["TZ"] = zone
        start = f"{mounts} && exec env LD_PRELOAD={_FAKETIME[0]} /usr/sbin/cron -f -L 15"
        self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", start], env=env)
        self._wait(lambda: os.readlink(f"/proc/{self.process.pid}/exe") == "/usr/sbin/cron" and self._at_rest())

    def __enter__(self) -> Cron:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def look(self, now: int) -> Counter[str]:
        """Put the clock to the minute of `now` and let cron look at it: how often it ran each command `echo WORD`."""
        self._set(now)
        self.process.send_signal(signal.SIGHUP)
        self._wait(lambda: "look" in self._lines()[self.ran :] and self._at_rest())
        lines = self._lines()
        new, self.ran = lines[self.ran :], len(lines)
        return Counter(line for line in new if line != "look")

    def _set(self, now: int) -> None:
        fresh = self.scratch / "clock.new"
        fresh.write_text(f"{now // 60 * 60 + _SECOND}\n")
        fresh.rename(self.scratch / "clock")

    def _lines(self) -> list[str]:
        return (self.scratch / "ran").read_text().split("\n")[:-1]

    def _at_rest(self) -> bool:
        """All its children have ended, and it sleeps until the next minute."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        if children or words[0] not in _SLEEPS:
            return False
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(int(words[1] if words[0] in ("35", "101") else words[3], 16))
            (seconds,) = struct.unpack("q", memory.read(8))
        if seconds <= 10:  # it pauses between missed minutes, and missed the end of its child: wake it
            self.process.send_signal(signal.SIGHUP)
        return seconds > 10

    def _wait(self, condition) -> None:
        end = time.monotonic() + _PATIENCE
        watch = os.pidfd_open(self.process.pid)
        try:
            while not condition():
                assert time.monotonic() < end, "cron did not come to rest"
                dead = select.select([watch], [], [], 0.001)[0]
                assert not dead, "cron ended"
        finally:
            os.close(watch)
