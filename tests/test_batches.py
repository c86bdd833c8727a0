"""Batches (docs/batches.md): `map`, callbacks, a batch that goes on when a dead job of it is retried."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CRONQ, eventually


def lines(path):
    return path.read_text().split() if path.exists() else []


def put(world, name, *said):
    """A batch as a shell script would write it; its id."""
    draft = world.inbox / f".{name}.tmp"
    draft.write_text("".join(json.dumps(each) + "\n" for each in said))
    draft.rename(world.inbox / f"{name}.jobs")


def sh(text):
    return {"command": ["/bin/sh", "-c", text]}


def results_of(world, name):
    """The result of a job that was named so by hand, or of its batch's callback; the id."""
    found = eventually(lambda: list((world.spool / "out" / str(world.uid)).glob(f"*-{name}/result.json")))
    return world.result(found[0].parent.name)


def on_a_terminal(world, *argv):
    """Exit code and screen of a command whose three descriptors are a terminal."""
    terminal, theirs = pty.openpty()
    done = subprocess.Popen([*CRONQ, *argv], env=world.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        screen += part
    os.close(terminal)
    return done.wait(60), screen.decode()


# -------------------------------------------------------------------- map


def test_map_prints_as_they_come_or_in_the_order_of_the_lines(world):
    gate = world.path / "gate"
    world.tasks(f"[tasks.step]\nshell = 'while [ $1 = 1 -a ! -e {gate} ]; do sleep 0.01; done; echo $1'\n")
    world.start()
    (world.path / "lines").write_text("1\n2\n")
    argv = [*CRONQ, "map", "--batch", str(world.path / "lines"), "step"]
    with subprocess.Popen(argv, env=world.env, stdout=subprocess.PIPE, text=True) as mapped:
        assert mapped.stdout.readline() == "2\n"
        gate.touch()
        assert (mapped.stdout.read(), mapped.wait(60)) == ("1\n", 0)
    gate.unlink()
    with subprocess.Popen([*argv, "--keep-order"], env=world.env, stdout=subprocess.PIPE, text=True) as mapped:
        eventually(lambda: len(list((world.spool / "out" / str(world.uid)).glob("*+2/result.json"))) == 2)
        gate.touch()
        assert (mapped.stdout.read(), mapped.wait(60)) == ("1\n2\n", 0)


def test_map_has_a_bar_on_a_terminal_and_only_there(world):
    world.tasks("[tasks.say]\nshell = 'echo said $1'\n")
    world.start()
    (world.path / "lines").write_text("1\n2\n3\n")
    argv = ("map", "--batch", str(world.path / "lines"), "say")
    done = world.run(*argv)
    assert sorted(done.stdout.splitlines()) == ["said 1", "said 2", "said 3"]
    assert done.stderr == "3 done, 0 failed\n"
    code, screen = on_a_terminal(world, *argv)
    assert code == 0
    assert "0 failed" in screen
    assert "/3" in screen
    assert "\x1b[" in screen
    assert screen.rstrip().endswith("3 done, 0 failed")


def test_map_exits_with_1_where_a_job_failed_and_runs_the_others(world):
    world.tasks("[tasks.step]\nshell = 'test $1 != 2 || exit 7; echo $1'\n")
    world.start()
    done = world.run("map", "--keep-order", "step", input="1\n2\n3\n", code=1)
    assert done.stdout.split() == ["1", "3"]
    assert re.fullmatch(r"cronq: \S+\+2: dead: exit code 7\n2 done, 1 failed\n", done.stderr)


def test_the_first_failure_of_a_fail_fast_map_cancels_what_runs_and_what_waits(world):
    world.tasks("[limits]\nmax_jobs = 3\n[tasks.step]\nshell = 'case $1 in 1) ;; 2) exit 7;; *) sleep 300;; esac'\n")
    world.start()
    done = world.run("map", "--fail-fast", "step", input="".join(f"{n}\n" for n in range(1, 5001)), code=7)
    assert re.fullmatch(r"cronq: \S+\+0002: dead: exit code 7\n1 done, 1 failed, 4998 cancelled\n", done.stderr)
    (batch,) = (path for path in (world.spool / "out" / str(world.uid)).iterdir() if "+" not in path.name)
    assert world.result(batch.name)["counts"] == {"done": 1, "dead": 1, "cancelled": 4998}


# -------------------------------------------------------------------- gates


def test_jobs_of_a_batch_that_pass_other_gates_are_not_held_up_by_the_first_ones(world):
    gate = world.path / "gate"
    os.mkfifo(gate)
    world.tasks(f"[tasks.slow]\nshell = 'cat {gate}'\nlimit = 1\n")
    world.start()
    put(world, "b", {"jobs": 201}, *({"task": "slow"} for _ in range(200)), sh("true"))
    assert results_of(world, "b+201")["state"] == "done"
    world.run("cancel", "--now", "b")
    assert results_of(world, "b")["counts"] == {"done": 1, "cancelled": 200}


def test_a_batch_does_not_wait_at_gates_that_are_none_of_its_jobs(world):
    gate = world.path / "gate"
    os.mkfifo(gate)
    world.tasks("[queues.default]\nslots = 1\n")
    world.start()
    first = world.submit("exec", "--", "cat", str(gate))
    eventually(lambda: list((world.spool / "queue" / "running").iterdir()))
    put(world, "b", {"jobs": 1}, sh("true") | {"queue": "other"})
    assert results_of(world, "b")["counts"] == {"done": 1}
    gate.write_text("")
    world.result(first)


# -------------------------------------------------------------------- callbacks


def test_a_callback_runs_once_when_its_batch_has_come_so_far(world):
    world.start()
    ledger = world.path / "ledger"
    calls = {f"on_{event}": sh(f"echo {event} >> {ledger}") for event in ("success", "complete", "first_death")}
    put(world, "good", {"jobs": 2, **calls}, sh("true"), sh("true"))
    for event in ("complete", "success"):
        assert results_of(world, f"good+{event}")["state"] == "done"
    assert sorted(lines(ledger)) == ["complete", "success"]
    put(world, "bad", {"jobs": 3, **calls}, sh("true"), sh("false"), sh("exit 3"))
    for event in ("complete", "first_death"):
        assert results_of(world, f"bad+{event}")["state"] == "done"
    results_of(world, "bad")
    assert sorted(lines(ledger)) == ["complete", "complete", "first_death", "success"]


def test_a_callback_is_told_of_its_batch(world):
    world.start()
    told = {"on_complete": sh("cat; env | grep ^CRONQ_BATCH | sort"), "on_first_death": sh("cat")}
    put(world, "b", told, sh("echo $CRONQ_BATCH_ID"), sh("exit 3"))
    result = results_of(world, "b+complete")
    printed = (world.results(result["id"]) / "stdout").read_text().splitlines()
    batch = result["id"].partition("+")[0]
    path = f"{world.spool}/out/{world.uid}/{batch}"
    assert json.loads(printed[0]) == {
        "batch": batch,
        "event": "complete",
        "jobs": 2,
        "counts": {"done": 1, "dead": 1},
        "results": path,
    }
    env = {"ID": batch, "EVENT": "complete", "RESULTS": path}
    assert printed[1:] == [f"CRONQ_BATCH_{name}={env[name]}" for name in sorted(env)]
    death = results_of(world, "b+first_death")
    told = json.loads((world.results(death["id"]) / "stdout").read_text())
    assert (told["event"], told["dead"]) == ("first_death", f"{batch}+2")
    assert (world.results(f"{batch}+1") / "stdout").read_text() == f"{batch}\n"


def test_the_first_death_is_told_while_others_still_run(world):
    world.start()
    gate, ledger = world.path / "gate", world.path / "ledger"
    os.mkfifo(gate)
    put(
        world,
        "b",
        {"jobs": 2, "on_first_death": sh(f"echo x >> {ledger}; echo >{gate}")},
        sh("exit 65"),
        sh(f"cat {gate}"),
    )
    assert results_of(world, "b")["counts"] == {"done": 1, "dead": 1}
    assert lines(ledger) == ["x"]


def test_the_first_death_is_told_after_a_crash_while_others_still_run(world, serve):
    flag = serve("dispatcher", "over")
    gate = world.path / "gate"
    os.mkfifo(gate)
    put(world, "b", {"jobs": 2, "on_first_death": sh(f"echo >{gate}")}, sh(f"cat {gate}"), sh("exit 65"))
    assert results_of(world, "b")["counts"] == {"done": 1, "dead": 1}
    assert flag.exists()


def test_a_cancelled_batch_is_complete_also_where_none_of_it_was_taken(world):
    world.tasks("[limits]\nmax_jobs = 1\n")
    world.start()
    world.submit("exec", "--", "sleep", "300")
    eventually(lambda: list((world.spool / "queue" / "running").iterdir()))
    put(world, "b", {"jobs": 1, "on_complete": sh("cat"), "on_success": sh("true")}, sh("true"))
    eventually(lambda: list((world.spool / "queue" / "ready").rglob("*-b,*")))
    world.run("cancel", "b")
    assert results_of(world, "b")["state"] == "cancelled"
    found = list((world.spool / "queue" / "ready").rglob("*-b+*"))
    assert [path.name.split(",")[2].partition("+")[2] for path in found] == ["complete"]


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ({"on_success": {"task": "nope"}}, "on_success: unknown task 'nope'"),
        ({"on_complete": "merge"}, "on_complete must be a job, like"),
        ({"on_complete": {"command": ["cat"], "stdin": "x"}}, "on_complete: stdin is no key of a callback"),
        ({"on_first_death": {"command": ["cat"], "after": ["0-x"]}}, "on_first_death: after is no key of a callback"),
        ({"on_success": {"command": ["true"], "nice": 1}}, "on_success: unknown key 'nice'"),
        ({"on_success": {"command": ["true"], "note": "x" * 66000}}, "must end within 64 KiB"),
        ({"jobs": "1"}, "jobs must be a whole number"),
    ],
)
def test_a_bad_callback_refuses_the_whole_batch(world, calls, words):
    world.start()
    put(world, "b", {"jobs": 1} | calls, sh("true"))
    assert words in world.rejected("b", "jobs")
    assert not list((world.spool / "queue" / "ready").rglob("*,*"))


def test_options_name_the_callbacks(world):
    total = """shell = 'cat "$CRONQ_BATCH_RESULTS"+[0-9]*/stdout; echo $*'"""
    world.tasks(f"[tasks.square]\nshell = 'echo $(($1 * $1))'\n[tasks.sum]\n{total}\n")
    world.start()
    batch = world.run(
        "submit", "square", "--batch", "-", "--on-success", "sum 'a b' c", input="1\n2\n3\n"
    ).stdout.strip()
    world.result(f"{batch}+success")
    assert (world.results(f"{batch}+success") / "stdout").read_text() == "1\n4\n9\na b c\n"
    batch = world.run("exec", "--batch", "-", "--on-complete", "cat | wc -l", input="true\n").stdout.strip()
    world.result(f"{batch}+complete")
    assert (world.results(f"{batch}+complete") / "stdout").read_text() == "1\n"
    assert "--on-success is for a batch" in world.run("submit", "square", "--on-success", "sum", code=2).stderr


# -------------------------------------------------------------------- again


def test_a_batch_is_a_success_when_its_dead_jobs_were_retried_and_are_done(world):
    """on_complete is not told again; who waits for the batch waits again."""
    world.start()
    ledger, flag = world.path / "ledger", world.path / "flag"
    calls = {f"on_{event}": sh(f"echo {event} >> {ledger}") for event in ("success", "complete", "first_death")}
    put(world, "b", {"jobs": 2, **calls}, sh("true"), sh(f"test -e {flag}"))
    result = results_of(world, "b+complete")
    batch = result["id"].partition("+")[0]
    assert world.result(batch)["exit_code"] == 1
    after = world.submit("exec", "--after", batch, "--", "sh", "-c", f"echo after >> {ledger}")
    assert world.result(after)["state"] == "skipped"
    world.run("retry", f"{batch}+2")
    eventually(lambda: world.result(batch)["counts"] == {"done": 1, "dead": 1})
    flag.touch()
    eventually(lambda: world.result(f"{batch}+2")["state"] == "dead")
    world.run("retry", f"{batch}+2")
    eventually(lambda: world.result(after)["state"] == "done")
    assert world.result(batch)["counts"] == {"done": 2}
    assert world.result(f"{batch}+success")["state"] == "done"
    assert sorted(lines(ledger)) == ["after", "complete", "first_death", "success"]


def test_a_job_that_was_retried_is_tallied_once_though_the_dispatcher_was_restarted(world):
    daemon = world.start()
    gates = [world.path / f"gate{number}" for number in range(2)]
    flag, ledger = world.path / "flag", world.path / "ledger"
    begin = [f"echo x >> {ledger}; until [ -e {gate} ]; do sleep 0.01; done" for gate in gates]
    put(world, "b", sh("true"), sh(f"{begin[0]}; test -e {flag}"), sh(begin[1]), sh(begin[1]))
    batch = results_of(world, "b+1")["id"].partition("+")[0]
    eventually(lambda: len(lines(ledger)) == 3)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    gates[0].touch()
    assert world.result(f"{batch}+2")["state"] == "dead"
    flag.touch()
    world.run("retry", f"{batch}+2")
    eventually(lambda: world.result(f"{batch}+2")["state"] == "done")
    gates[1].touch()
    assert world.result(batch)["counts"] == {"done": 4}


def test_a_batch_is_not_removed_before_its_callbacks_have_ended(world):
    """They prove themselves by its file."""
    world.start()
    gate = world.path / "gate"
    os.mkfifo(gate)
    put(world, "b", {"on_complete": sh(f"cat {gate}")}, sh("true"))
    batch = results_of(world, "b")["id"]
    assert f"job {batch}+complete is a callback of it" in world.run("rm", batch, code=65).stderr
    gate.write_text("")
    world.result(f"{batch}+complete")
    assert "would run again; remove that first" in world.run("rm", f"{batch}+complete", code=65).stderr
    world.run("rm", batch, f"{batch}+complete")


@pytest.mark.parametrize("step", ["placed", "settled", "over", "called", "reopened"])
def test_a_dispatcher_killed_at_a_step_neither_loses_nor_doubles_a_callback(world, serve, step):
    flag = serve("dispatcher", step)
    ledger, mended = world.path / "ledger", world.path / "mended"
    calls = {f"on_{event}": sh(f"echo {event} >> {ledger}") for event in ("success", "complete", "first_death")}
    put(world, "b", {"jobs": 2, **calls}, sh("true"), sh(f"test -e {mended}"))
    batch = results_of(world, "b+complete")["id"].partition("+")[0]
    assert results_of(world, "b+first_death")["state"] == "done"
    eventually((world.results(batch) / "result.json").exists)
    mended.touch()
    eventually(lambda: world.run("retry", f"{batch}+2", code=None).returncode == 0)
    assert world.result(f"{batch}+success")["state"] == "done"
    eventually(lambda: world.result(batch)["counts"] == {"done": 2})
    assert flag.exists()
    assert sorted(lines(ledger)) == ["complete", "first_death", "success"]


def test_the_example_maps_and_reduces(world):
    world.start()
    program = Path(__file__).parent.parent / "examples" / "wordcount.py"
    files = [world.path / name for name in ("one", "two", "missing")]
    files[0].write_text("a b a")
    files[1].write_text("b a")
    env = world.env | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [sys.executable, str(program), "submit", *map(str, files)]
    batch = subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout.strip()
    assert world.result(f"{batch}+complete")["state"] == "done"
    printed = json.loads((world.results(f"{batch}+complete") / "stdout").read_text())
    assert printed == {"words": {"a": 3, "b": 2}, "files": 3, "failed": 1}


# -------------------------------------------------------------------- very many


MANY = 1_000_000 if os.environ.get("CRONQ_LONG") else 5_000
LITTLE = 60_000  # KiB


def test_a_batch_of_very_many_jobs_is_one_file_and_takes_little_memory(world):
    """A million with CRONQ_LONG: only those that are needed become entries, and whoever asks is answered meanwhile."""
    daemon = world.start()
    dispatcher = world.dispatcher(daemon)
    (world.path / "lines").write_text("true\n" * MANY)
    batch_id = world.submit("exec", "--batch", str(world.path / "lines"))
    eventually(lambda: list((world.spool / "out" / str(world.uid)).glob(f"{batch_id}+*/result.json")), within=600)
    kept = sum(len(files) for _, _, files in os.walk(world.spool / "queue"))
    assert kept < 1000
    assert json.loads(world.run("stats", "--json").stdout)["running"] >= 1
    world.run("cancel", batch_id)
    found = world.result(batch_id, within=120)
    assert (found["state"], sum(found["counts"].values())) == ("cancelled", MANY)
    peak = next(line for line in Path(f"/proc/{dispatcher}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(peak.split()[1]) < LITTLE
