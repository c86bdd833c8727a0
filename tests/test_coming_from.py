"""docs/coming-from.md: what it says to type does what it says, each command of it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import World, eventually

DOCUMENT = (Path(__file__).parent.parent / "docs" / "coming-from.md").read_text()
ROWS = re.findall(r"^\| .* \| `(cronq [^`]*|printf [^`]*)` \| .*\|$", DOCUMENT, re.M)
COMMANDS = [*dict.fromkeys(row.replace(r"\|", "|") for row in ROWS)]


class Typed:
    """One command that was typed, and what came of it."""

    def __init__(self, world: World, ids: dict[str, str], done: subprocess.CompletedProcess[str]) -> None:
        self.world, self.ids = world, ids
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def job(self) -> dict:
        """The job whose id it printed."""
        return self.show(self.out.strip())

    def show(self, job_id: str) -> dict:
        return json.loads(self.world.run("show", "--json", job_id).stdout)

    def file(self) -> dict:
        """The file of the job whose id it printed, wherever that is now."""
        return eventually(self._read)

    def _read(self) -> dict | None:
        for found in self.world.spool.rglob(f"*{self.out.strip()}*"):
            try:
                content = json.loads((found / "job.json" if found.is_dir() else found).read_text())
            except (OSError, ValueError):
                continue  # it has just moved on; or this is its output
            if "task" in content or "command" in content:
                return content
        return None

    def ends(self, state: str, job_id: str = "") -> dict:
        return eventually(lambda: (found := self.show(job_id or self.out.strip()))["state"] == state and found)



def accepted(**fields):
    """The job is there, with these fields in its file."""
    return lambda t: fields.items() <= t.file().items()


def shown(**fields):
    """So it is shown."""
    return lambda t: fields.items() <= t.job.items()


def printed(text):
    return lambda t: t.out == text


def done(t):
    return t.ends("done")


def waits(kind):
    """It waits for the job that was named."""
    return lambda t: t.job["state"] == "waiting" and next(iter(t.ids.values())) in t.job["reason"] and kind in t.file()


def later(seconds):
    """It starts so much later than now."""
    return lambda t: t.job["state"] == "delayed" and abs(t.job["due"] - time.time() - seconds) < 60


def ends_as(state, of):
    return lambda t: t.ends(state, t.ids[of])


def lists(of):
    """It tells of the job in this state, and of no other."""
    return lambda t: t.ids[of][-8:] in t.out and not any(each[-8:] in t.out for n, each in t.ids.items() if n != of)


def stands(sentence):
    """So it is told by `cronq stats`."""
    return lambda t: sentence in t.world.run("stats").stdout


def batch(members, ends="done"):
    """As many jobs as lines."""
    def check(t):
        return [t.ends(ends, f"{t.out.strip()}+{n + 1}") for n in range(members)]
    return check


CHECKS = {
    # foreground, background, input, order
    "printf abc | cronq submit --wait --stdin - upper": printed("ABC"),
    "printf abc | cronq submit --attached --stdin - upper": printed("ABC"),
    "cronq submit --stdin big.bin --wait upper": lambda t: len(t.out) == BIG,
    "cronq submit resize img.jpg": shown(task="resize", args=["img.jpg"], queue="mail", priority=0),
    "cronq submit --wait resize img.jpg": printed("small img.jpg\n"),
    "cronq submit --wait upper": lambda t: (t.code, t.out) == (0, ""),
    "cronq submit --priority high resize img.jpg": shown(priority=10),
    "cronq submit --priority low resize img.jpg": shown(priority=-10),
    "cronq submit --queue mail upper": shown(queue="mail"),
    "cronq exec -- true": done,
    "cronq exec --wait -- true": lambda t: t.code == 0,
    "cronq exec --queue mail -- true": shown(queue="mail"),
    "cronq exec --note LABEL -- true": shown(note="LABEL"),
    "cronq exec --note L -- true": shown(note="L"),
    "cronq exec --priority 5 -- true": shown(priority=5),
    "cronq exec --priority low -- true": shown(priority=-10),
    "cronq exec --retries 3 -- true https://example.org/hook": accepted(retries=3),
    # many at once
    "printf 'a\\nb\\n' | cronq map --keep-order resize": printed("small a\nsmall b\n"),
    "printf 'a\\nb\\n' | cronq map --fail-fast resize": lambda t: {*t.out.split()} == {"small", "a", "b"},
    "printf 'a\\nb\\n' | cronq submit --batch - resize": batch(2),
    "printf 'a\\nb\\n' | cronq submit --batch - --on-success tell resize": lambda t: (
        batch(2)(t) and t.ends("done", f"{t.out.strip()}+success")
    ),
    # time
    "cronq submit --at 18:00 resize img.jpg": lambda t: time.localtime(t.job["due"])[3:6] == (18, 0, 0),
    "cronq submit --at 2099-12-24T18:00:00Z resize img.jpg": lambda t: time.gmtime(t.job["due"])[:3] == (2099, 12, 24),
    "cronq exec --at 18:00 --stdin script.sh -- sh": lambda t: time.localtime(t.job["due"])[3:6] == (18, 0, 0),
    "cronq submit --priority 5 --delay 10m --timeout 60s resize img.jpg": lambda t: (
        later(600)(t) and t.job["priority"] == 5 and t.file()["timeout"] in (60, "60s")
    ),
    "cronq submit --delay 15m resize img.jpg": later(900),
    "cronq submit --delay 90s resize img.jpg": later(90),
    "cronq submit --delay 30s resize img.jpg": later(30),
    "cronq submit --delay 1h resize img.jpg": later(3600),
    "cronq exec --delay 10m -- true": later(600),
    "cronq submit --expires 4d resize img.jpg": lambda t: abs(t.job["expires"] - time.time() - 4 * 86400) < 60,
    "cronq submit --expires 10m resize img.jpg": lambda t: abs(t.job["expires"] - time.time() - 600) < 60,
    "cronq submit --timeout 30s resize img.jpg": lambda t: t.file()["timeout"] in (30, "30s"),
    "cronq submit --timeout 60s --wait resize img.jpg": printed("small img.jpg\n"),
    "cronq next sweep": lambda t: t.out.count("schedules.sweep") > 1,
    # again, and never again
    "cronq submit flaky": lambda t: t.ends("dead")["attempt"] == 2,
    'cronq retry "$DEAD"': ends_as("dead", "DEAD"),
    "cronq retry --state dead": ends_as("dead", "DEAD"),
    "cronq retry --state dead -n 10": ends_as("dead", "DEAD"),
    "cronq retry --state dead --since 1d": ends_as("dead", "DEAD"),
    "cronq list --state dead": lists("DEAD"),
    # limits, keys, others
    "cronq submit nightly": done,
    "cronq submit import customer-1": done,
    "cronq submit import host-1": done,
    "cronq submit poll": done,
    "cronq submit --mutex stock upper": accepted(mutex="stock"),
    "cronq exec --weight 2 -- true": accepted(weight=2),
    "cronq submit --unique a.jpg --on-conflict attach --wait resize a.jpg": printed("small a.jpg\n"),
    "cronq submit --unique order-1 --unique-for 5m resize img.jpg": accepted(unique="order-1"),
    "cronq submit --unique a.jpg resize a.jpg": accepted(unique="a.jpg"),
    "cronq submit --unique a.jpg --on-conflict debounce=5s resize a.jpg": later(5),
    "cronq submit --unique a.jpg --on-conflict throttle=5s resize a.jpg": accepted(unique="a.jpg"),
    'cronq submit --after "$WAITS" resize img.jpg': waits("after"),
    'cronq exec --after "$WAITS" -- true': waits("after"),
    'cronq exec --after "$RUNS" -- true': waits("after"),
    'cronq submit --after-any "$WAITS" resize img.jpg': waits("after_any"),
    'cronq submit --after-any "$RUNS" tell': waits("after_any"),
    'cronq submit --after-fail "$WAITS" resize img.jpg': waits("after_fail"),
    # what a job says
    "cronq submit --wait steps": lambda t: t.code == 0,
    "cronq submit steps": lambda t: done(t)["progress"] == [3, 3],
    "cronq submit --wait slow": lambda t: t.code == 0,
    # looking
    'cronq show "$RUNS"': lambda t: "state:         running" in t.out,
    'cronq show "$WAITS"': lambda t: "state:         delayed" in t.out,
    'cronq show --json "$WAITS"': lambda t: json.loads(t.out)["id"] == t.ids["WAITS"],
    'cronq why "$WAITS"': lambda t: "due" in t.out,
    "cronq stats": lambda t: "\ndelayed\t" in t.out,
    "cronq stats --json": lambda t: json.loads(t.out)["dead"] >= 0,
    "cronq list": lists("WAITS"),
    "cronq list --all": lambda t: {each[-8:] for each in t.ids.values()} <= {*re.findall(r"-(\w{8})\t", t.out)},
    "cronq list --state ready": lambda t: t.ids["WAITS"][-8:] not in t.out,
    "cronq list --state delayed": lists("WAITS"),
    "cronq history --task resize": lambda t: "resize" in t.out and "steps" not in t.out,
    'cronq logs "$DONE"': printed("done\n"),
    'cronq logs -f "$DONE"': printed("done\n"),
    'cronq wait "$DONE"': lambda t: t.code == 0,
    'cronq wait --timeout 30s "$RUNS"': lambda t: t.code == 143,
    'cronq logs -f "$RUNS"': printed("runs\n"),
    'cronq result --value "$DONE"': printed("42\n"),
    "cronq check": lambda t: "ok" in t.out,
    # control
    'cronq cancel "$WAITS"': ends_as("cancelled", "WAITS"),
    'cronq cancel "$RUNS"': ends_as("cancelled", "RUNS"),
    'cronq cancel --now "$RUNS"': ends_as("cancelled", "RUNS"),
    "cronq cancel --state delayed --state ready": ends_as("cancelled", "WAITS"),
    'cronq hold "$WAITS"': ends_as("held", "WAITS"),
    'cronq release "$HELD"': ends_as("delayed", "HELD"),
    'cronq start --now "$WAITS"': ends_as("done", "WAITS"),
    'cronq edit --priority high "$WAITS"': lambda t: t.show(t.ids["WAITS"])["priority"] == 10,
    'cronq edit --priority 20 "$WAITS"': lambda t: t.show(t.ids["WAITS"])["priority"] == 20,
    'cronq rm "$DONE"': lambda t: t.world.run("show", t.ids["DONE"], code=65),
    "cronq pause mail": stands("queue mail is paused, until it is resumed"),
    "cronq pause mail --until 23:59": stands("queue mail is paused, until 2"),
    "cronq resume mail": lambda t: not stands("queue mail is paused")(t),
    "cronq drain --timeout 30s": stands("nothing starts"),
    "cronq drain --refuse": lambda t: "accepts nothing" in t.world.run("exec", "--", "true", code=75).stderr,
}
BIG = 3 << 20
NEEDS = {
    "RUNS": ("exec", "--", "sh", "-c", "echo runs; exec sleep 600"),
    "WAITS": ("exec", "--delay", "1h", "--", "true"),
    "HELD": ("exec", "--delay", "1h", "--", "true"),
    "DEAD": ("exec", "--", "false"),
    "DONE": ("exec", "--", "sh", "-c", "echo done; echo result 42 >&3"),
}
IS = {"RUNS": "running", "WAITS": "delayed", "HELD": "delayed", "DEAD": "dead", "DONE": "done"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The document's own configuration, and a dispatcher."""
    world = World(tmp_path_factory.mktemp("coming-from"))
    world.tasks(re.search(r"```toml\n(.*?)```", DOCUMENT, re.S)[1])
    (world.path / "big.bin").write_bytes(b"x" * BIG)
    (world.path / "script.sh").write_text("true\n")
    bin_folder = world.path / "bin"
    bin_folder.mkdir()
    (bin_folder / "cronq").write_text(f'#!/bin/sh\nexec {sys.executable} -m cronq "$@"\n')
    (bin_folder / "cronq").chmod(0o755)
    world.env["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
    world.start()
    yield world
    world.stop()


def in_the_state(world, name):
    job_id = world.submit(*NEEDS[name])
    eventually(lambda: json.loads(world.run("show", "--json", job_id).stdout)["state"] == IS[name])
    if name == "HELD":
        world.run("hold", job_id)
    if name == "RUNS":
        eventually(lambda: world.run("logs", job_id).stdout)
    return job_id


@pytest.mark.parametrize("command", COMMANDS)
def test_what_it_says_to_type_does_what_it_says(served, command):
    world = served
    chosen = {"--state dead": "DEAD", "cancel --state delayed": "WAITS", "cronq list": "WAITS", "list --all": "DONE"}
    names = [name for name in NEEDS if f"${name}" in command]
    names += [name for choice, name in chosen.items() if choice in command]
    ids = {name: in_the_state(world, name) for name in names}
    env = {**world.env, **ids}
    if command.startswith("cronq resume"):
        world.run("pause", "mail")
    asked = subprocess.Popen(
        ["sh", "-c", command], env=env, cwd=world.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if command in ('cronq logs -f "$RUNS"', 'cronq wait --timeout 30s "$RUNS"'):
        world.run("cancel", ids["RUNS"])  # else they go on with it
    out, err = asked.communicate(timeout=60)
    assert asked.returncode in (0, 143), err
    try:
        assert CHECKS[command](Typed(world, ids, subprocess.CompletedProcess(command, asked.returncode, out, err))), out
    finally:
        world.run("cancel", *ids.values(), code=None)
        if command.startswith(("cronq pause", "cronq drain")):
            world.run("resume", *command.split()[2:3] if "pause" in command else [])


def test_each_row_has_a_command_and_each_check_a_row():
    rows = re.findall(r"^\|(?! *[-|]| [^|]* \| cronq \|).*\|$", DOCUMENT, re.M)
    assert len(rows) == len(ROWS) > 100
    assert set(COMMANDS) == set(CHECKS)
