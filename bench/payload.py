"""Payloads: gigabytes through submit and run, beside `cat` and `cp` on the same machine in the same run.

    python bench/payload.py [GIB [ROUNDS [rootless|reflinked|apart]]]     make bench-payload SIZE=5 ROUNDS=3 ONLY=apart

Each line compares the wall time of cronq with that of plain programs that move the same bytes; both are done in turn,
ROUNDS times, and the medians are shown. "flushed": the copy is durable at the end (sync FILE), as cronq's is
before it says "queued", or before a task of another user starts. Virtual machines give memory that is freed back to
their host, and get it again at a tenth of the speed: so both find as much of it used when they begin. Needs room for
three files of that size in /var/tmp; for users apart root, for a file system with reflinks root and mkfs.btrfs:
without them these lines are left out, and it says so.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from served import Peaks, Served, timed, until

PLACE = "/var/tmp"
SINK = "cat >/dev/null"
WAIT = "submit --stdin FILE --wait"
CHUNK = 1 << 20
LINES = '[tasks.pour]\nshell = \'cat "$1"\'\noutput_max = "1T"\n'
BETWEEN = 0.02  # seconds between two small jobs
Rows = list[tuple[str, ...]]


class Bench:
    """The file, and what was measured with it."""

    def __init__(self, gib: float, rounds: int) -> None:
        self.rounds = rounds
        self.size = int(gib * (1 << 30))
        self.path = Path(tempfile.mkdtemp(prefix="cronq-bench-", dir=PLACE))
        self.path.chmod(0o755)
        self.file, self.copy = self.path / "file", self.path / "copy"
        self.peaks = Peaks()
        self.rows: Rows = []
        self.small: Rows = []
        with self.file.open("wb") as file:
            for _ in range(self.size // CHUNK):
                file.write(os.urandom(CHUNK))  # nothing that a disk or a file system could make smaller
            os.fsync(file.fileno())

    def shell(self, script: str, *words: object) -> float:
        """The seconds that a script takes; $0 is the file, $1 its copy."""
        return timed(["sh", "-c", script, str(self.file), str(self.copy), *map(str, words)])[0]

    def compare(self, what: str, ours, plain: dict[str, str], ready=lambda: None) -> None:
        """One line for each plain way of doing `what`: `ours` gives seconds, a plain one is a script; `ready` comes
        before each of them, and takes no time."""
        took: dict[str, list[float]] = {}
        for _ in range(self.rounds):
            for words, script in plain.items():
                ready()
                took.setdefault(words, []).append(self.shell(script))
                self.copy.unlink(missing_ok=True)
            ready()
            took.setdefault("", []).append(ours())
        mine = statistics.median(took.pop(""))
        for words, seconds in took.items():
            theirs = statistics.median(seconds)
            self.rows.append((what, f"{mine:.2f} s", f"`{words}`", f"{theirs:.2f} s", f"{mine / theirs:.2f}"))
            print(*self.rows[-1], sep="  ", flush=True)

    def client(self, served: Served, name: str, *words: object, **options) -> float:
        """The seconds that a command of cronq's takes."""
        took, most = timed([sys.executable, "-m", "cronq", *map(str, words)], env=served.env, **options)
        self.peaks.saw(name, most)
        return took


def rootless(bench: Bench) -> None:
    """One user: what lies in his inbox is what his job reads."""
    served = Served(PLACE, LINES)
    names = (f"bench{number}" for number in range(1000))
    try:

        def taken() -> float:
            name = next(names)
            shutil.copyfile(bench.file, served.inbox / f"{name}.data")
            bench.shell('sync "$2"', served.inbox / f"{name}.data")
            began = time.monotonic()
            served.drop(name, {"command": ["sh", "-c", SINK]})
            served.result(name)
            return time.monotonic() - began

        def submitted(*options: str) -> float:
            words = ("exec", "--stdin", bench.file, "--wait", *options, "--", "sh", "-c", SINK)
            return bench.client(served, WAIT, *words)

        def piped() -> float:
            words = ("exec", "--stdin", "-", "--wait", "--", "sh", "-c", SINK)
            with subprocess.Popen(["cat", bench.file], stdout=subprocess.PIPE) as producer:
                return bench.client(served, "submit --stdin - --wait", *words, stdin=producer.stdout)

        def poured() -> float:
            name = next(names)
            began = time.monotonic()
            served.drop(name, {"task": "pour", "args": [str(bench.file)]})
            assert served.result(name)["stdout"]["bytes"] == bench.size
            return time.monotonic() - began

        def read() -> float:
            (folder,) = served.results.glob(f"*-{kept}")
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as sink:
                return bench.client(served, "logs", "logs", folder.name, stdout=sink.stdin)

        cat = {"cat FILE | job": f'cat "$0" | {SINK}', "job <FILE": f'{SINK} <"$0"'}
        bench.compare("`NAME.data` in the inbox, to the job's end", taken, cat)
        loose = {
            "cp; job <COPY": f'cp "$0" "$1"; {SINK} <"$1"',
            "cp; cat COPY | job": f'cp "$0" "$1"; cat "$1" | {SINK}',
        }
        flushed = {f"{key} (flushed)": value.replace("; ", '; sync "$1"; ', 1) for key, value in loose.items()}
        bench.compare("`submit --stdin FILE --wait`", submitted, flushed | loose)
        bench.compare("`submit --stdin FILE --no-sync --wait`", lambda: submitted("--no-sync"), loose)
        flushed = {"cat FILE | cat >COPY; job <COPY (flushed)": f'cat "$0" | cat >"$1"; sync "$1"; {SINK} <"$1"'}
        bench.compare("`cat FILE | submit --stdin - --wait`", piped, flushed)
        bench.compare("a job that prints it, to its end", poured, {"cat FILE | cat >COPY": 'cat "$0" | cat >"$1"'})
        bench.peaks.look(served.launcher.pid)
        kept = next(names)
        served.drop(kept, {"task": "pour", "args": [str(bench.file)]})
        served.result(kept)
        for path in served.results.glob("*/stdout"):
            if not path.parent.name.endswith(f"-{kept}"):
                path.unlink()
        bench.compare("`logs` of it, into a pipe", read, {"cat FILE | cat": f'cat "$0" | {SINK}'})
    finally:
        bench.peaks.look(served.launcher.pid)
        served.close()


@contextlib.contextmanager
def btrfs(room: int):
    """A fresh file system that has reflinks, of its own file; None where there can be none."""
    made = Path(tempfile.mkdtemp(prefix="cronq-bench-", dir=PLACE))
    image, place = made / "image", made / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(room)
    done = False
    try:
        if os.geteuid() == 0 and shutil.which("mkfs.btrfs"):
            subprocess.run(["mkfs.btrfs", "-q", image], check=True)
            done = subprocess.run(["mount", "-o", "loop", image, place], check=False).returncode == 0
        yield place if done else None
    finally:
        if done:
            subprocess.run(["umount", place], check=True)
        shutil.rmtree(made)


def reflinked(bench: Bench) -> None:
    """The same where the file system shares what is copied."""
    with btrfs(2 * bench.size + (2 << 30)) as place:
        if place is None:
            print("left out: reflinks need root, mkfs.btrfs and a loop device")
            return
        kept, bench.file, bench.copy = (bench.file, bench.copy), place / "file", place / "copy"
        shutil.copyfile(kept[0], bench.file)
        bench.shell('sync "$0"')
        served = Served(str(place))
        try:
            words = ("exec", "--stdin", bench.file, "--wait", "--", "sh", "-c", SINK)
            plain = {
                "cat FILE | job": f'cat "$0" | {SINK}',
                "cp --reflink; job <COPY": f'cp --reflink=always "$0" "$1"; {SINK} <"$1"',
            }
            bench.compare("`submit --stdin FILE --wait`, btrfs", lambda: bench.client(served, WAIT, *words), plain)
            bench.peaks.look(served.launcher.pid)
        finally:
            served.close()
            bench.file, bench.copy = kept


class Small:
    """Small jobs of another user's, one after the other: how long each takes from its name to its first instruction."""

    def __init__(self, machine) -> None:
        self.machine = machine
        self.count = 0

    def meanwhile(self, over) -> list[float]:
        """The latencies until `over` says so, in milliseconds, sorted."""
        from machine import SPOOL

        began: dict[str, float] = {}
        while not over():
            name = f"small{self.count}"
            self.count += 1
            draft = self.machine.inbox("bob") / f".{name}.tmp"
            draft.write_text('{"command": ["date", "+%s.%N"]}')
            os.chown(draft, self.machine.uids["bob"], draft.parent.stat().st_gid)
            draft.chmod(0o640)
            began[name] = time.time()
            draft.rename(draft.with_name(f"{name}.job"))
            time.sleep(BETWEEN)
        folder = SPOOL / "out" / str(self.machine.uids["bob"])
        until(lambda: len(list(folder.glob("*-small*/result.json"))) >= self.count)
        printed = {path.parent.name.rpartition("-")[2]: path.read_text() for path in folder.glob("*-small*/stdout")}
        return sorted((float(printed[name]) - since) * 1e3 for name, since in began.items())


def apart(bench: Bench) -> None:
    """Users apart: a task that runs as another user gets a copy that its submitter cannot change."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from machine import SPOOL, Machine

    machine = Machine()
    try:
        machine.tasks(f'[tasks.sink]\nshell = "{SINK}"\nuser = "carl"\nsubmit = ["ann"]\n')
        daemon = machine.start()
        for user in ("ann", "bob"):
            machine.submit(user, "exec", "--wait", "--", "true")
        small = Small(machine)
        latencies: dict[str, list[float]] = {}

        def note(while_what: str, found: list[float]) -> None:
            latencies[while_what] = sorted(latencies.get(while_what, []) + found)

        inbox = machine.inbox("ann")
        given = inbox / ".given.tmp"

        def give() -> None:
            """What ann will submit lies there, as it would have come to her."""
            given.unlink(missing_ok=True)  # a plain way leaves it
            shutil.copyfile(bench.file, given)
            bench.shell('sync "$2"', given)

        def taken(beside: bool = False) -> float:
            """From the job's name to its end; with small jobs meanwhile it takes longer."""
            name = f"bench{time.time_ns():x}"
            draft = inbox / f".{name}.tmp"
            draft.write_text('{"task": "sink"}')
            for path in (given, draft):
                os.chown(path, machine.uids["ann"], inbox.stat().st_gid)
                path.chmod(0o640)
            given.rename(inbox / f"{name}.data")
            folder = SPOOL / "out" / str(machine.uids["ann"])
            began = time.monotonic()
            draft.rename(inbox / f"{name}.job")
            if beside:
                note("cronq copies", small.meanwhile(lambda: list(folder.glob(f"*-{name}/stdout"))))
            until(lambda: list(folder.glob(f"*-{name}/result.json")))
            return time.monotonic() - began

        note("nothing else happens", small.meanwhile(_after(2.0)))
        plain = {"cp; job <COPY": f'cp {given} "$1"; {SINK} <"$1"'}
        flushed = {"cp; job <COPY (flushed)": f'cp {given} "$1"; sync "$1"; {SINK} <"$1"'}
        bench.compare("`NAME.data` in the inbox, for a task of another user", taken, flushed | plain, give)
        for _ in range(bench.rounds):
            give()
            taken(beside=True)
            with subprocess.Popen(["sh", "-c", 'cp "$0" "$1"; sync "$1"', bench.file, bench.copy]) as copying:
                note("`cp; sync` runs beside it", small.meanwhile(lambda copying=copying: copying.poll() is not None))
            bench.copy.unlink()
        for what, found in latencies.items():
            worst, median = found[-1], statistics.median(found)
            late = found[int(0.99 * len(found))]
            bench.small.append((what, str(len(found)), f"{median:.1f} ms", f"{late:.1f} ms", f"{worst:.1f} ms"))
            print(*bench.small[-1], sep="  ", flush=True)
        bench.peaks.look(daemon.pid)
    finally:
        machine.reset()


def _after(seconds: float):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def main(gib: str = "5", rounds: str = "3", *only: str) -> None:
    """Measure, and write the section; where only some of it is measured, nothing is written."""
    bench = Bench(float(gib), int(rounds))
    try:
        for measure in (rootless, reflinked, apart):
            if only and measure.__name__ not in only:
                continue
            if measure is apart and os.geteuid() != 0:
                print("left out: users apart need root")
            else:
                measure(bench)
    finally:
        shutil.rmtree(bench.path)
    if only:
        print({who: f"{kib / 1024:.0f} MiB" for who, kib in bench.peaks.of.items()})
        return
    parts = [
        f"{gib} GiB of random bytes; the median of {rounds}. {report.machine()}",
        report.table(("What", "cronq", "beside", "took", "ratio"), bench.rows),
        "Peak memory (VmHWM) of cronq's processes meanwhile:",
        report.table(("Process", "MiB"), [(who, f"{kib / 1024:.0f}") for who, kib in sorted(bench.peaks.of.items())]),
    ]
    if bench.small:
        parts += [
            "Small jobs of another user's meanwhile, from the file's name to the first instruction:",
            report.table(("While", "jobs", "median", "99 %", "worst"), bench.small),
        ]
    report.section("payload", "\n\n".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
