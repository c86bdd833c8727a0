"""Power loss: what cronq said yes to, beside what is left of it when the power goes at any moment. As root.

    python tests/torture/power.py [--states N] [--more N] [--seed S] [--fs KIND…]   record, cut, recover, judge, count
    python tests/torture/power.py replay DIRECTORY NUMBER                           one state of a kept recording again

Does:    units of work, two at a time, each in a process and a private mount namespace of its own: one recording of one
         file system (`scenario`), N states of it (`cuts`) recovered by a real dispatcher, and more by its recovery
         code alone (`recovery`), each judged (`promises`). What a unit saw it says as lines of JSON.
Writes:  nothing that stays, but a recording of which a state was judged bad: its directory is named, with the command
         that looks at that state again.
Fails:   with 1 where anything was lost, doubled or wrong, or a state could not be mounted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cuts
import device
import private
import promises
import recovery
import scenario

KINDS = ("ext4", "xfs", "btrfs")
PROGRAMS = ("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "fusermount3")
ROUNDS = 45  # what each producer does in a recording
SHOWN = 5  # bad states of a unit that are told in full


def missing() -> str:
    """Why there can be no power loss here; "" where there can."""
    if os.getuid() != 0:
        return "mounting file systems needs root"
    absent = [each for each in PROGRAMS if shutil.which(each) is None]
    absent += [each for each in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(each)]
    if absent:
        return f"not here: {', '.join(absent)}"
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    unknown = [each for each in KINDS if each not in known]
    return f"this kernel has no {', '.join(unknown)}" if unknown else ""


# ---------------------------------------------------------------- a unit: one recording


def unit(kind: str, seed: int, real: int, more: int, rounds: int) -> None:
    """Record, and look at so many states of it; what was seen is printed, a line of JSON each."""
    folder = _world()
    began = time.monotonic()
    log = scenario.record(kind, seed, folder, rounds)
    found = cuts.Cuts(log, seed)
    _tell(recorded=kind, seed=seed, records=len(log), epochs=len(found.epochs), seconds=time.monotonic() - began)
    bad = 0
    for is_real, states in ((True, found.states(real)), (False, found.states(more, 1_000_000))):
        for state, sentences in _judged(kind, found, folder, states, is_real):
            _tell(kind=kind, real=is_real, bad=sentences, number=state.number, what=str(state))
            bad += bool(sentences)
            if sentences and bad == 1:
                _tell(kept=_keep(folder, kind, seed))


def _world() -> Path:
    """A private /run in memory, with the directory of this unit."""
    private._unshare()
    private.mount("tmpfs", "/run", 0, "tmpfs", "mode=0755,size=75%")
    folder = scenario.ROOM / "unit"
    folder.mkdir(parents=True)
    return folder


def _judged(kind, found, folder, states, real):
    """Each state with what is wrong with it."""
    images = cuts.Images(found, folder / "image", folder)
    recoverer = recovery.Recoverer(kind, images.path)
    try:
        for state in states:
            images.build(state)
            seen = recoverer.look(real)
            said = promises.Promises(found.promised(state))
            yield state, ["unmountable"] if seen is None else promises.judge(said, seen, real)
    finally:
        recoverer.close()


def _tell(**what) -> None:
    print(json.dumps(what), flush=True)


def _keep(folder: Path, kind: str, seed: int) -> str:
    """A copy of the recording that stays; where."""
    kept = Path(tempfile.mkdtemp(prefix="cronq-power-", dir="/var/tmp"))
    for name in ("image", "log", "dispatcher.log"):
        subprocess.run(["cp", "--sparse=always", folder / name, kept / name], check=True)
    (kept / "of.json").write_text(json.dumps({"kind": kind, "seed": seed}))
    return str(kept)


def replay(kept: Path, number: int) -> int:
    """Look at one state of a kept recording again, in both ways; 1 where it is bad."""
    of = json.loads((kept / "of.json").read_text())
    folder = _world()
    for name in ("image", "log"):
        subprocess.run(["cp", "--sparse=always", kept / name, folder / name], check=True)
    scenario.furnish()
    found = cuts.Cuts(device.read_log(folder / "log"), of["seed"])
    state = found.state(number)
    print(state, "\nsaid by then:", *found.promised(state), sep="\n  ")
    bad = []
    for real in (False, True):
        for _, sentences in _judged(of["kind"], found, folder, [state], real):
            bad += sentences
            print("by a real dispatcher:" if real else "by its recovery code:", *(sentences or ["good"]), sep="\n  ")
    print("the dispatcher's log:", (folder / "state.log").read_text(), sep="\n")
    return 1 if bad else 0


# ---------------------------------------------------------------- all units


class Figures:
    """What all units saw."""

    def __init__(self) -> None:
        self.states: Counter[tuple[str, bool]] = Counter()
        self.bad: Counter[str] = Counter()
        self.failed: list[str] = []

    def hear(self, told: dict) -> None:
        if "recorded" in told:
            print("recorded {recorded} seed {seed}: {records} records, {epochs} epochs".format(**told), flush=True)
        elif "kept" in told:
            print(f"  again: python tests/torture/power.py replay {told['kept']} NUMBER", flush=True)
        else:
            self.states[told["kind"], told["real"]] += 1
            self.bad.update({each.partition(":")[0] for each in told["bad"]})
            if told["bad"] and sum(self.bad.values()) <= 10 * SHOWN:
                shown = [each[:400] for each in told["bad"][:SHOWN]]
                print(f"{told['kind']}, {told['what']}:", *shown, sep="\n  ", flush=True)

    def tell(self) -> bool:
        """The last lines; whether all is well."""
        for real, how in ((True, "a real dispatcher"), (False, "its recovery code")):
            each = ", ".join(f"{kind} {self.states[kind, real]}" for kind in KINDS if self.states[kind, real])
            total = sum(count for (_, was), count in self.states.items() if was is real)
            print(f"states recovered by {how}: {total} ({each or 'none'})")
        told = {word: self.bad[word] for word in ("lost", "doubled", "wrong", "unmountable")}
        print("states with something " + ", ".join(f"{word}: {count}" for word, count in told.items()))
        for each in self.failed:
            print(f"failed: {each}")
        return not any(self.bad.values()) and not self.failed and bool(self.states)


def run(kinds: list[str], seed: int, real: int, more: int, each: int, rounds: int = ROUNDS) -> Figures:
    """So many states in all, in units of `each` real ones, as many at a time as there are processors, four at most."""
    figures = Figures()
    count = max(len(kinds), -(-real // each))
    jobs = [(kinds[n % len(kinds)], seed + n, -(-real // count), -(-more // count), rounds) for n in range(count)]
    going: list[_Unit] = []
    with tempfile.TemporaryDirectory(prefix="cronq-power-", dir="/var/tmp") as folder:
        try:
            while jobs or going:
                while jobs and len(going) < min(4, os.cpu_count() or 1):
                    going.append(_Unit(Path(folder), jobs.pop(0)))
                time.sleep(0.2)
                going = [unit for unit in going if not unit.look(figures)]
        finally:
            for unit in going:
                unit.process.kill()
                unit.process.wait()
    return figures


class _Unit:
    """A unit under way, and what it has said so far."""

    def __init__(self, folder: Path, job: tuple) -> None:
        self.name = f"{job[0]}, seed {job[1]}"
        self.out, self.err = folder / f"{job[1]}.out", folder / f"{job[1]}.err"
        words = [sys.executable, __file__, "unit", *map(str, job)]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(words, stdout=out, stderr=err)
        self.heard = 0

    def look(self, figures: Figures) -> bool:
        """Pass on what it says; whether it has ended."""
        code = self.process.poll()
        lines = self.out.read_text().splitlines(keepends=True)
        lines = [line for line in lines if line.endswith("\n")]
        for line in lines[self.heard :]:
            figures.hear(json.loads(line))
        self.heard = len(lines)
        if code:
            figures.failed.append(f"{self.name}, exit {code}: {self.err.read_text()[-3000:]}")
        return code is not None


def main(argv: list[str]) -> int:
    if argv[:1] == ["unit"]:
        unit(argv[1], *map(int, argv[2:]))
        return 0
    if argv[:1] == ["replay"]:
        return replay(Path(argv[1]), int(argv[2]))
    asked = argparse.ArgumentParser(prog="power.py")
    asked.add_argument("--states", type=int, default=5100, help="recovered by a real dispatcher")
    asked.add_argument("--more", type=int, default=20400, help="recovered by its recovery code")
    asked.add_argument("--seed", type=int, default=int(time.time()))
    asked.add_argument("--each", type=int, default=340, help="real ones of one recording")
    asked.add_argument("--rounds", type=int, default=ROUNDS, help="what each producer does in a recording")
    asked.add_argument("--fs", nargs="+", choices=KINDS, default=list(KINDS))
    how = asked.parse_args(argv)
    if reason := missing():
        print(f"no power loss here: {reason}")
        return 1
    print(f"power loss, seed {how.seed}", flush=True)
    began = time.monotonic()
    figures = run(how.fs, how.seed, how.states, how.more, how.each, how.rounds)
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if figures.tell() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
