"""Stories of warm workers under a whole dispatcher: the documents' example, and what random deaths leave."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from conftest import eventually

REPOSITORY = Path(__file__).parent.parent


def test_the_documents_task_runs_as_it_says(world):
    page = (REPOSITORY / "docs" / "warm-workers.md").read_text()
    (text,) = re.findall(r"```toml\n(\[tasks\.words.*?)```", page, re.S)
    (line,) = re.findall(r"```sh\n(.*?)```", page, re.S)
    code = world.path / "words"
    code.mkdir()
    shutil.copy(REPOSITORY / "examples" / "words.py", code)
    world.tasks(text.replace(tomllib.loads(text)["tasks"]["words"]["cwd"], str(code)))
    world.start()
    first, second = (world.run(*line.split()[1:]) for _ in range(2))
    told = f"{len(Path('/etc/hostname').read_text().split())} /etc/hostname\n"
    assert (first.stdout, second.stdout) == (told, told)
    (one, host), (two, same) = (re.findall(r"\d+", done.stderr)[:2] for done in (first, second))
    assert host == same
    assert len({one, two, host}) == 3


def test_the_documents_pool_runs_as_it_says(world):
    page = (REPOSITORY / "docs" / "warm-workers.md").read_text()
    (text,) = re.findall(r"```toml\n(\[tasks\.upper.*?)```", page, re.S)
    perl = shutil.which("perl")
    if perl is None or subprocess.run([perl, "-MJSON::PP", "-e", "1"], capture_output=True).returncode:
        pytest.skip("no perl with JSON::PP here")
    program = REPOSITORY / "examples" / "upper.pl"
    world.tasks(text.replace(json.dumps(tomllib.loads(text)["tasks"]["upper"]["command"]), f'["{perl}", "{program}"]'))
    world.start()
    ended = [world.result(world.submit("submit", "upper", "some", word)) for word in ("words", "more")]
    assert [each["result"] for each in ended] == [1, 2]
    assert [each["status"] for each in ended] == ["job 1 of this process", "job 2 of this process"]
    assert world.run("submit", "--wait", "upper", "x", "y").stdout == "X Y\n"


LEDGER = """
import os, time
def note(path, name):
    with open(path, "a") as file:
        file.write(f"{name}\\n")
    time.sleep(0.02)
    with open(path, "a") as file:
        file.write(f"{name}.\\n")
"""


@pytest.mark.parametrize("mode", ["fork", "pool"])
def test_whatever_is_killed_no_warm_job_is_lost_and_none_that_runs_at_most_once_runs_twice(world, mode):
    code, ledger = world.path / "code", world.path / "ledger"
    code.mkdir()
    (code / "ledger.py").write_text(LEDGER)
    for name, delivery in (("least", "at-least-once"), ("most", "at-most-once")):
        more = "on_crash = 'retry'\nmax_crashes = 1000\nretries = 100\nbackoff = {base = '10ms', max = '10ms'}"
        more = more if name == "least" else ""
        text = f"[tasks.{name}]\npython = 'ledger:note'\nmode = '{mode}'\ncwd = '{code}'\ndelivery = '{delivery}'\n"
        (world.config / "tasks.d").mkdir(exist_ok=True)
        (world.config / "tasks.d" / f"{name}.toml").write_text(f"{text}{more}\n")
    daemon = world.start()
    jobs = {}
    for number in range(60):
        for name in ("least", "most"):
            jobs[f"{name}{number}"] = world.submit("submit", name, str(ledger), f"{name}{number}")
    chance = random.Random(7)
    for _ in range(12):
        before = ledger.stat().st_size if ledger.exists() else 0
        eventually(lambda before=before: all_ended(world, jobs) or (ledger.exists() and ledger.stat().st_size > before))
        victims = below(daemon.pid)
        if victims:
            kill(chance.choice(victims))
    for job_id in jobs.values():
        world.result(job_id, within=90)
    began = Counter(line for line in ledger.read_text().splitlines() if not line.endswith("."))
    ended = Counter(line for line in ledger.read_text().splitlines() if line.endswith("."))
    for name, job_id in jobs.items():
        state = world.result(job_id)["state"]
        if name.startswith("least"):
            assert (state, ended[f"{name}."] >= 1) == ("done", True), name
        else:
            assert began[name] <= 1, name
            assert state in ("done", "dead"), name
            assert ended[f"{name}."] == 1 or state == "dead", name


def all_ended(world, jobs) -> bool:
    return all((world.results(job_id) / "result.json").exists() for job_id in jobs.values())


def below(pid: int) -> list[int]:
    """The processes below the launcher: dispatcher, workers, hosts, jobs; the launcher restarts what is its own."""
    found, look = [], [pid]
    while look:
        try:
            children = Path("/proc/{0}/task/{0}/children".format(look.pop(0))).read_text().split()
        except OSError:
            continue
        found += map(int, children)
        look += map(int, children)
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
