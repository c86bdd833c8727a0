"""A few busy seconds of cronq on the device that remembers, and what was promised meanwhile, in the device's own order.

Does:    `record` makes a file system, has a real launcher, dispatcher and worker serve a spool on it, and lets two
         producers submit, cancel, hold, release, edit, retry and remove. What a producer was told, what a result said
         and what a job really did (each job says so itself) become lines in the device's log, so that it is known what
         of it came before each write. In the middle of it, the dispatcher is killed once.
Reads:   a seed: what is done is the same each time, when it happens is not.
Writes:  the directory it is given: IMAGE as the file system was first, LOG, and the logs of those who took part.

The lines: `yes` an id was told · `try` something is about to be asked for · `did` it was answered · `ran` a job is
running · `torn` a job's input is not what was submitted · `saw` a result could be read.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import device
from forerunner import Forerunner

SIZES = {"ext4": 48, "xfs": 300, "btrfs": 112}  # MiB; the least that they can be made with, but ext4
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}
ROOM = Path("/run/cronq-power")  # the same in each private world, since what runs is named in job files
DISK, LEDGER, CONFIG = ROOM / "disk", ROOM / "ledger", ROOM / "config"
SPOOL = DISK / "spool"
INPUT = "what the job gets\n" * 200
LATER = "2h"
TASKS = f"""
[limits]
max_jobs = 8
[retention]
[tasks.note]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}'
[tasks.once]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}'
delivery = "at-most-once"
[tasks.long]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}; sleep 0.2'
delivery = "at-most-once"
[tasks.again]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}; [ $CRONQ_ATTEMPT -gt 1 ] || exit 75'
retries = 3
backoff = {{ base = "30ms", factor = 1, jitter = 0 }}
[tasks.fails]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}; exit 65'
[tasks.reads]
shell = 'echo ran $CRONQ_JOB_ID >> {LEDGER}; [ "$(md5sum)" = "$1" ] || echo torn $CRONQ_JOB_ID >> {LEDGER}'
[schedules.tick]
every = "1s"
task = "once"
"""


def furnish() -> None:
    """Make the room that every job finds, recorded or recovered; in a private world only."""
    for folder in (DISK, CONFIG):
        folder.mkdir(parents=True, exist_ok=True)
    (CONFIG / "cronq.toml").write_text(TASKS)


def format_image(kind: str, path: Path) -> None:
    """A new file system in a sparse file."""
    with path.open("wb") as file:
        file.truncate(SIZES[kind] << 20)
    subprocess.run([*MAKE[kind], path], check=True, capture_output=True)


def record(kind: str, seed: int, folder: Path, rounds: int) -> list[device.Record]:
    """Let it happen; the device's log. `folder`/image is the file system as it was before the log."""
    furnish()
    format_image(kind, folder / "image")
    subprocess.run(["cp", "--sparse=always", folder / "image", folder / "live"], check=True)
    shown = folder / "fuse"
    shown.mkdir()
    server = subprocess.Popen([sys.executable, device.__file__, "serve", shown, folder / "live", folder / "log"])
    try:
        _until((shown / "disk").exists)
        loop = device.Loop(shown / "disk")
        device.mount(loop.path, DISK, kind)
        LEDGER.unlink(missing_ok=True)
        LEDGER.symlink_to(shown / "mark")
        try:
            _Play(seed, folder, rounds).perform()
        finally:
            device.unmount(DISK)
            loop.close()
            LEDGER.unlink()
    finally:
        subprocess.run(["umount", "-l", shown], check=False)
        server.wait(20)
    (folder / "live").unlink()
    return device.read_log(folder / "log")


def _until(probe, within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not probe():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {within} s: {probe}")
        time.sleep(0.005)


class _Play:
    """One dispatcher, two producers, and somebody who watches the results."""

    def __init__(self, seed: int, folder: Path, rounds: int) -> None:
        self.seed, self.folder, self.rounds = seed, folder, rounds
        self.env = {**os.environ, "CRONQ_SPOOL": str(SPOOL), "CRONQ_CONFIG": str(CONFIG)}
        self.over = False
        self.troubles: list[str] = []

    def perform(self) -> None:
        log = self.folder / "dispatcher.log"
        words = [sys.executable, "-I", "-m", "cronq.launcher", "--spool", str(SPOOL), "--config", str(CONFIG)]
        with log.open("w") as file:
            daemon = subprocess.Popen(words, env=self.env, stderr=file)
        try:
            _until(lambda: "event=ready" in log.read_text() or daemon.poll() is not None)
            if daemon.poll() is not None:
                raise RuntimeError(log.read_text())
            players = [threading.Thread(target=self._guarded, args=(self._produce, number)) for number in range(2)]
            watcher = threading.Thread(target=self._guarded, args=(self._watch,))
            watcher.start()
            for each in players:
                each.start()
            players[0].join()
            self._kill_dispatcher(daemon.pid)
            players[1].join()
            _until(lambda: log.read_text().count("event=ready") == 2)
            time.sleep(0.3)  # some of what is under way ends, some does not
            self.over = True
            watcher.join()
        finally:
            self.over = True
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
        if self.troubles:
            raise RuntimeError(f"{self.troubles}\n{log.read_text()[-3000:]}")

    def _kill_dispatcher(self, launcher: int) -> None:
        for name in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            if b"cronq.dispatcher" in Path(f"/proc/{name}/cmdline").read_bytes():
                os.kill(int(name), signal.SIGKILL)

    def _guarded(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - told by whoever waits for this thread
            self.troubles.append(repr(error))

    def _watch(self) -> None:
        """Say which results can be read, as soon as they can."""
        seen: set[tuple[str, int]] = set()
        while not self.over:
            for file in (SPOOL / "out" / "0").glob("*/result.json"):
                try:
                    key = (file.parent.name, file.stat().st_ino)
                    if key not in seen:
                        _say("saw", key[0], json.loads(file.read_text())["state"])
                        seen.add(key)
                except OSError:
                    continue  # removed meanwhile, or put aside for another attempt
            time.sleep(0.01)

    def _produce(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        player = _Player(self.env, chance)
        try:
            for turn in range(self.rounds):
                if number == 1 and turn == self.rounds - 2:
                    _say("note", "last")
                chance.choice(ACTS)(player)
        finally:
            player.forerunner.close()


def _say(*words: str) -> None:
    with open(LEDGER, "a") as file:
        file.write(" ".join(words) + "\n")


class _Player:
    """Somebody who uses cronq, and says what he was told."""

    def __init__(self, env: dict[str, str], chance: random.Random) -> None:
        self.env, self.chance = env, chance
        self.forerunner = Forerunner(sys.executable)
        self.mine: dict[str, list[str]] = {}

    def cronq(self, *argv: str, given: str | None = None) -> str:
        """What cronq prints; "" where it did not do it (the dispatcher is away, or the job is)."""
        done = self.forerunner.run([*argv], given, env=self.env, cwd="/")
        return done.stdout.strip() if done.returncode == 0 else ""

    def submit(self, kind: str, *argv: str, given: str | None = None) -> str:
        job_id = self.cronq("submit", *argv, given=given)
        if job_id:
            _say("yes", job_id, kind)
            self.mine.setdefault(kind, []).append(job_id)
        return job_id

    def ask(self, verb: str, job_id: str, *options: str) -> bool:
        if not job_id:  # the dispatcher was away when one was to be made
            return False
        _say("try", job_id, verb)
        done = self.forerunner.run([verb, *options, job_id], None, env=self.env, cwd="/").returncode == 0
        if done:
            _say("did", job_id, verb)
        return done

    def one(self, kind: str) -> str:
        """One of mine, which I ask nothing else of then; a new one if there is none."""
        if not self.mine.get(kind):
            NEW[kind](self)
        found = self.mine.get(kind) or [""]
        return found.pop(self.chance.randrange(len(found)))


def _note(player: _Player) -> None:
    player.submit("note", "note")


def _urgent(player: _Player) -> None:
    player.submit("note", "--priority", "high", "note")


def _once(player: _Player) -> None:
    player.submit("once", player.chance.choice(["once", "once", "long"]))


def _again(player: _Player) -> None:
    player.submit("again", "again")


def _fails(player: _Player) -> None:
    player.submit("fails", "fails")


def _reads(player: _Player) -> None:
    from hashlib import md5

    text = INPUT * player.chance.choice([1, 1, 20])
    player.submit("note", "--stdin", "-", "reads", f"{md5(text.encode()).hexdigest()}  -", given=text)  # noqa: S324


def _later(player: _Player) -> None:
    player.submit("later", "--delay", LATER, "note")


def _batch(player: _Player) -> None:
    count = player.chance.randrange(2, 12)
    player.submit(f"batch:{count}", "--batch", "-", "note", given="x\n" * count)


def _after(player: _Player) -> None:
    if player.mine.get("note"):
        player.submit("note", "--after", player.mine["note"][-1], "note")


def _careless(player: _Player) -> None:
    """Nothing is promised here: what a power cut leaves of it may be empty, or torn."""
    player.cronq("submit", "--no-sync", "note")


def _replace(player: _Player) -> None:
    key = os.urandom(4).hex()
    first = player.submit("later", "--delay", LATER, "--unique", key, "note")
    if first:
        player.mine["later"].remove(first)
        _say("try", first, "replace")
        player.submit("later", "--delay", LATER, "--unique", key, "--on-conflict", "replace=args,at,priority", "once")


def _cancel(player: _Player) -> None:
    player.ask("cancel", player.one("later"))


def _hold(player: _Player) -> None:
    job_id = player.one("later")
    if player.ask("hold", job_id):
        player.mine.setdefault("held", []).append(job_id)


def _release(player: _Player) -> None:
    player.ask("release", player.one("held"))


def _edit(player: _Player) -> None:
    player.ask("edit", player.one("later"), "--priority", "7")


def _start(player: _Player) -> None:
    player.ask("start", player.one("later"), "--now")


def _retry(player: _Player) -> None:
    player.ask("retry", player.one("fails"))


def _remove(player: _Player) -> None:
    player.ask("rm", player.one("note"))


NEW = {"later": _later, "held": _hold, "fails": _fails, "note": _note}
ACTS = [_note, _note, _urgent, _once, _once, _once, _again, _fails, _reads, _later, _batch, _after, _careless]
ACTS += [_replace, _cancel, _hold, _release, _edit, _retry, _remove]
