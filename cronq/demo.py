"""`cronq demo`: the main job on a throw-away spool, as a transcript that a reader can repeat.

Does:    makes a spool, a configuration and a picture in a temporary directory, starts a dispatcher, runs the commands
         it prints, checks what they say, and removes everything.
Fails:   exit 1 with a sentence as soon as anything differs from what it expects.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

CONFIG = """\
[tasks.resize]
command = [{python}, {resize}]

[tasks.reverse]
shell = 'printf %s "$1" | rev'

[tasks.fail]
shell = 'echo "no such customer: $1" >&2; exit 65'

[tasks.tick]
shell = 'date +%T >> {folder}/ticks'

[schedules.tick]
every = "2s"
"""


class Differs(Exception):
    """Something was not as expected."""


def main() -> int:
    """Run the demo; 0 if everything was as expected."""
    examples = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
    resize = os.path.join(examples, "resize.py")
    if not os.path.exists(resize):
        print("cronq demo: examples/resize.py is not here; run it from a checkout (make demo)", file=sys.stderr)
        return 1
    folder = tempfile.mkdtemp(prefix="cronq-demo-")
    demo = Demo(folder, resize)
    try:
        demo.run(os.path.join(examples, "photo.py"))
    except Differs as error:
        print(f"cronq demo: {error}", file=sys.stderr)
        return 1
    finally:
        demo.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print("\nEverything was as expected.")
    return 0


class Demo:
    """One run of the demo."""

    def __init__(self, folder: str, resize: str) -> None:
        self.folder = folder
        self.env = {**os.environ, "CRONQ_SPOOL": f"{folder}/spool", "CRONQ_CONFIG": f"{folder}/config"}
        self.daemon: subprocess.Popen[str] | None = None
        os.mkdir(f"{folder}/config")
        with open(f"{folder}/config/cronq.toml", "w", encoding="utf-8") as file:
            names = {"python": json.dumps(sys.executable), "resize": json.dumps(resize), "folder": folder}
            file.write(CONFIG.format(**names))

    def run(self, photo: str) -> None:
        """The story."""
        picture = f"{self.folder}/photo.jpg"
        made = subprocess.run([sys.executable, photo, picture], check=False)
        if made.returncode:
            raise Differs("the picture could not be made; install Pillow (pip install 'cronq[examples]')")
        self.say(f"export CRONQ_SPOOL={self.folder}/spool CRONQ_CONFIG={self.folder}/config")
        self.say("cronq dispatcher &")
        self.daemon = subprocess.Popen([*_cronq(), "dispatcher"], env=self.env, stderr=subprocess.DEVNULL, text=True)
        self.until("the dispatcher answers", lambda: self.quiet("stats").returncode == 0)
        thumbnail = self.cronq("submit", "--wait", "resize", picture).strip()
        sizes = [os.path.getsize(path) for path in (picture, thumbnail)]
        print(f"# {picture}: {sizes[0]:,} bytes; its thumbnail: {sizes[1]:,} bytes")
        self.expect(sizes[0] > 2_000_000 > sizes[1] > 0, "a thumbnail much smaller than the picture")
        self.expect(self.cronq("submit", "--wait", "reverse", "Hello World!").strip() == "!dlroW olleH", "!dlroW olleH")
        words = "".join(f"word{number}\n" for number in range(20))
        reversed_words = self.cronq("map", "--keep-order", "reverse", stdin=words).split("\n")
        self.expect(all(f"word{n}"[::-1] in "".join(reversed_words) for n in range(20)), "20 words, reversed")
        self.fail()
        self.until("two ticks", lambda: self.ticks() >= 2)
        self.say("cat ticks", f"{self.ticks()} ticks, two seconds apart")

    def fail(self) -> None:
        """A job that fails is kept, with what it said."""
        job_id = self.cronq("submit", "fail", "4711").strip()
        self.until("the failed job is dead", lambda: self.shown(job_id).get("state") == "dead")
        self.cronq("list")
        found = self.cronq("logs", job_id, "--stderr")
        self.expect("no such customer: 4711" in found, "the job's stderr")

    def shown(self, job_id: str) -> dict[str, Any]:
        """What `show` says of a job."""
        found = self.quiet("show", "--json", job_id)
        return dict(json.loads(found.stdout)) if found.returncode == 0 else {}

    def ticks(self) -> int:
        """How often the schedule has fired."""
        try:
            with open(f"{self.folder}/ticks", encoding="utf-8") as file:
                return len(file.readlines())
        except FileNotFoundError:
            return 0

    def cronq(self, *argv: str, stdin: str | None = None) -> str:
        """Print a command, run it, print and return what it said."""
        before = f"printf 'word%d\\n' $(seq 0 {stdin.count(chr(10)) - 1}) | " if stdin else ""
        self.say(before + shlex.join(["cronq", *argv]))
        done = subprocess.run(
            [*_cronq(), *argv], env=self.env, input=stdin, stdout=subprocess.PIPE, text=True, timeout=60, check=False
        )
        print(done.stdout, end="" if done.stdout.endswith("\n") else "\n")
        self.expect(done.returncode == 0, f"exit code 0 of cronq {argv[0]}, not {done.returncode}")
        return done.stdout

    def quiet(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command for its answer only."""
        return subprocess.run([*_cronq(), *argv], env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def say(self, command: str, *lines: str) -> None:
        """Print a command as a reader would type it."""
        print(f"\n$ {command}", *lines, sep="\n", flush=True)

    def expect(self, true: bool, what: str) -> None:
        """Stop if it is not so."""
        if not true:
            raise Differs(f"expected {what}")

    def until(self, what: str, probe: Callable[[], bool], seconds: float = 15.0) -> None:
        """Look until it is so."""
        end = time.monotonic() + seconds
        while not probe():
            self.expect(time.monotonic() < end, f"that {what}, within {seconds:g} seconds")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the dispatcher."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait()


def _cronq() -> list[str]:
    return [sys.executable, "-m", "cronq"]
