"""The cron.d files that Debian's packages ship: of each, both crons say the same, and run it at the same minutes.

Does:    downloads the packages into a scratch directory (nothing is installed) and takes their cron.d files out. No
         command of theirs is ever run: each copy that a cron gets to read has another one in its place.
Needs:   CRONQ_LONG=1 (as `make cron` sets it), root, the packages cron and faketime, apt with the lists of Debian 12.
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import cronq
from cronworld import CronWorld, world
from debian_jail import missing

from cronq import tabcheck, tabfile
from cronq.crontab import CronEntry, parse_crontab

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.skipif(os.environ.get("CRONQ_LONG") != "1", reason="downloads thirty packages: make cron"),
    pytest.mark.timeout(600),
]

PACKAGES = (
    *("amavisd-new", "anacron", "atop", "awstats", "buildd", "burp", "certbot", "clamav-unofficial-sigs", "cron-apt"),
    *("dma", "e2fsprogs", "fcheck", "inn", "inn2", "john", "logcheck", "mailman3", "mailman3-web", "mdadm", "mlmmj"),
    *("munin", "munin-node", "ntpsec-ntpviz", "php-common", "roundcube-core", "rsnapshot", "sogo", "sysstat", "tiger"),
)
# Of these files cronq says another thing than Debian's cron, on purpose, and why. Of Debian 12 there is none.
ON_PURPOSE: dict[str, str] = {}

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)  # a Sunday and a first: @weekly and @monthly are due
DAYS = 2
MINUTE = 60


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files by name, as the packages have them."""
    scratch = tmp_path_factory.mktemp("packages")
    argv = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    done = subprocess.run(argv, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"the packages cannot be had (apt-get update?): {done.stderr.strip()[:200]}")
    found: dict[str, bytes] = {}
    for package in PACKAGES:
        (archive,) = scratch.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, scratch / package], check=True)
        files = [path for path in sorted((scratch / package / "etc/cron.d").iterdir()) if path.name != ".placeholder"]
        assert files, f"{package} ships none: name another package"
        assert not {path.name for path in files} & found.keys()
        found |= {path.name: path.read_bytes() for path in files}
        shutil.rmtree(scratch / package)
    return found


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Every user can write there: the commands run as the users that the files name."""
    path = Path(tempfile.mkdtemp(prefix="packages."))
    path.chmod(0o755)
    (path / "ran").touch()
    (path / "ran").chmod(0o666)
    world(path)
    yield path
    shutil.rmtree(path)


def changed(data: bytes, command: Callable[[CronEntry], str], user: Callable[[str], str]) -> bytes:
    """The file with other commands and other users, and else as it is, to the byte."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for entry in parse_crontab(data, system=True).entries:
        line = lines[entry.line - 1]
        assert line.endswith(entry.command), line
        before, column, gap = line.removesuffix(entry.command).rpartition(entry.user)
        assert column and not gap.strip(), line
        lines[entry.line - 1] = f"{before}{user(entry.user)}{gap}{command(entry)}"
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def put(scratch: Path, name: str, data: bytes) -> Path:
    path = scratch / "cron.d" / name
    path.write_bytes(data)
    path.chmod(0o644)
    return path


def said_of(name: str, messages: list[str]) -> list[str]:
    """What cron's log says against this file: nothing if it runs it."""
    return [
        text for text in messages if f"/etc/cron.d/{name}" in text.rstrip(")").split() or f"(*system*{name})" in text
    ]


def test_debian_takes_and_refuses_the_very_files_that_cronq_says_it_does(
    shipped: dict[str, bytes], scratch: Path
) -> None:
    """With the users they name, most of whom only the package would make; commands of the same length."""
    files = {
        name: changed(data, lambda entry: ":".ljust(len(entry.command), "x"), str) for name, data in shipped.items()
    }
    paths = {name: put(scratch, name, data) for name, data in files.items()}
    with CronWorld(scratch, int(START.timestamp())) as cron:
        messages = cron.messages
    wrong, refused = [], 0
    for name, path in paths.items():
        theirs = [text for text in said_of(name, messages) if "RELOAD" not in text]
        ours = [fault for fault in tabcheck.check(str(path), system=True).faults if fault.debian]
        refused += bool(theirs)
        if bool(theirs) != bool(ours) and name not in ON_PURPOSE:
            wrong.append(f"{name}: Debian says {theirs}, cronq says {ours}")
        if theirs and ours and not any(ours[0].debian.split(" (")[0] in text for text in theirs):
            wrong.append(f"{name}: Debian says {theirs}, cronq says {ours[0].debian}")
    assert wrong == []
    print(f"{len(PACKAGES)} packages, {len(files)} files: {len(files) - refused} taken, {refused} refused here")
    assert len(files) >= 20


class Corpus:
    """All files in one cron, each command an `echo` of the line's number, and what `cronq simulate` has them start."""

    def __init__(self, scratch: Path, shipped: dict[str, bytes]) -> None:
        self.entries: list[tuple[str, CronEntry]] = []
        self.paths = {name: self._put(scratch, name, data) for name, data in shipped.items()}

    def _put(self, scratch: Path, name: str, data: bytes) -> Path:
        """Users whom this machine has not are root."""

        def echo(entry: CronEntry) -> str:
            self.entries.append((name, entry))
            return f"echo {len(self.entries) - 1} >>{scratch}/ran"

        return put(scratch, name, changed(data, echo, lambda user: user if tabfile.is_user(user) else "root"))

    def numbers(self, reboot: bool) -> list[str]:
        return [str(n) for n, (_, entry) in enumerate(self.entries) if (entry.when == "@reboot") == reboot]

    def simulated(
        self, capfd: pytest.CaptureFixture[str], start: int, end: int, names: set[str] | None = None
    ) -> dict[int, Counter[str]]:
        """What would be started, by the minute."""
        found: dict[int, Counter[str]] = {}
        moments = [datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%FT%R") for when in (start, end)]
        for name, path in self.paths.items():
            if names is not None and name not in names:
                continue
            argv = ("--from", moments[0], "--to", moments[1], "--tz", "UTC", "--system", "--json")
            done = cronq(capfd, "simulate", path, *argv)
            assert (done.code, done.err) == (0, ""), path
            for run in done.objects:
                when = int(datetime.datetime.fromisoformat(run["time"]).timestamp())
                found.setdefault(when, Counter())[run["command"].split()[1]] += 1
        return found


def test_for_two_days_and_at_rarer_dates_both_run_the_same_lines_of_all_files(
    shipped: dict[str, bytes], scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every minute of two days; then New Year, where what a year holds but once is due."""
    corpus, start = Corpus(scratch, shipped), int(START.timestamp())
    end = start + DAYS * 24 * 60 * MINUTE
    year = int(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp())
    ours = corpus.simulated(capfd, start, end) | corpus.simulated(capfd, year, year + 2 * MINUTE)
    moments = [*range(start, end, MINUTE), year, year + MINUTE]
    wrong, ran = [], Counter[str]()
    with CronWorld(scratch, start - MINUTE) as cron:
        assert [text for text in cron.messages if "rror" in text or "ERROR" in text] == []
        for now in moments:
            theirs = cron.look(now)
            expected = ours.get(now, Counter()) + Counter(corpus.numbers(reboot=True) if now == start else ())
            ran += theirs
            for number in sorted((theirs | expected).keys()):
                if theirs[number] != expected[number]:
                    when = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
                    name, entry = corpus.entries[int(number)]
                    line = f"{name}: {entry.when}"
                    wrong.append(f"{when} {line}: Debian ran it {theirs[number]} times, cronq {expected[number]}")
    assert wrong == []
    never = [f"{name}: {entry.when}" for n, (name, entry) in enumerate(corpus.entries) if not ran[str(n)]]
    assert never == [], "each line is due at least once"
    files = len({name for name, _ in corpus.entries})
    print(f"{files} files with {len(corpus.entries)} lines, {len(moments)} minutes: {ran.total()} runs in both")
