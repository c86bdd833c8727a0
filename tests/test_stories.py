"""Stories with real processes: a job's life, and what the death of each program leaves."""

import collections
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from conftest import CRONQ, eventually


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_submitted_job_runs_and_its_result_comes_back(world):
    world.tasks("[tasks.reverse]\nshell = 'printf %s \"$1\" | rev'\n")
    world.start()
    done = world.run("submit", "--wait", "reverse", "Hello World!")
    assert done.stdout == "!dlroW olleH"


def test_waiting_gives_the_output_and_the_exit_code_of_the_job(world):
    world.start(whole=True)
    done = world.run("exec", "--wait", "--", "sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_job_file_by_plain_echo_needs_no_code_of_ours(world):
    world.start()
    made = world.path / "made"
    line = f'echo \'{{"command":["touch","{made}"]}}\' > .x.tmp && mv .x.tmp x.job'
    subprocess.run(["sh", "-c", line], cwd=world.inbox, check=True)
    eventually(made.exists)


def test_a_half_written_file_is_never_run_but_awaited(world):
    world.start()
    made = world.path / "made"
    with (world.inbox / "slow.job").open("w") as file:
        file.write('{"command": ["touch", ')
        file.flush()
        capture = world.spool / "queue" / ".capture" / f"{world.uid},slow.job"
        eventually(capture.exists)
        file.write(f'"{made}"]}}')
    eventually(made.exists)


def test_submitting_works_while_the_dispatcher_is_down(world):
    job_id = world.submit("exec", "--", "true")
    assert list(world.inbox.glob("*.job"))
    world.start()
    assert world.result(job_id)["state"] == "done"


def test_a_failing_job_is_tried_again_and_then_dead(world):
    world.start()
    backoff = {"base": "10ms", "jitter": 0}
    world.drop("bad", {"command": ["sh", "-c", "echo $CRONQ_ATTEMPT >&2; exit 4"], "retries": 2, "backoff": backoff})
    (dead,) = eventually(lambda: list((world.spool / "queue" / "dead").iterdir()))
    job_id = dead.name.split(",")[2]
    found = world.result(job_id)
    assert (found["state"], found["attempt"], found["exit_code"]) == ("dead", 3, 4)
    outputs = [(world.results(job_id) / name).read_text() for name in ("stderr.1", "stderr.2", "stderr")]
    assert outputs == ["1\n", "2\n", "3\n"]


def test_a_dead_job_is_revived_by_retry(world):
    world.start()
    flag = world.path / "flag"
    job_id = world.submit("exec", "--", "test", "-e", str(flag))
    assert world.result(job_id)["state"] == "dead"
    flag.touch()
    world.run("retry", job_id)
    eventually(lambda: world.result(job_id)["state"] == "done")


def test_a_timeout_ends_the_whole_group(world):
    world.start()
    pids = world.path / "pids"
    script = f"sleep 300 & echo $! $$ > {pids}; wait"
    job_id = world.submit("exec", "--timeout", "500ms", "--", "sh", "-c", script)
    found = world.result(job_id)
    assert found["timeout"]
    eventually(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_running_job_is_cancelled(world):
    world.start()
    job_id = world.submit("exec", "--", "sleep", "300")
    eventually(lambda: list((world.spool / "queue" / "running").iterdir()))
    world.run("cancel", "--now", job_id)
    assert world.result(job_id)["state"] == "cancelled"


def test_a_killed_dispatcher_is_restarted_and_the_job_ends_once(world):
    daemon = world.start()
    gate, ledger = world.path / "gate", world.path / "ledger"
    os.mkfifo(gate)
    job_id = world.submit("exec", "--", "sh", "-c", f"cat {gate}; echo $CRONQ_JOB_ID >> {ledger}")
    eventually((world.results(job_id) / "stdout").exists)
    first = world.dispatcher(daemon)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    gate.write_text("go\n")
    assert world.result(job_id)["state"] == "done"
    assert ledger.read_text().split() == [job_id]


def test_a_killed_worker_is_no_second_run_beside_the_first(world):
    daemon = world.start()
    pids = world.path / "pids"
    job_id = world.submit("exec", "--", "sh", "-c", f"echo $$ $PPID >> {pids}; exec sleep 300")
    eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
    job, worker = map(int, pids.read_text().split())
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not alive(job))
    assert eventually(lambda: list((world.spool / "queue" / "delayed").rglob("*,c1,*")))
    assert "worker-died" in daemon.log.read_text()
    world.run("cancel", job_id)


def test_an_at_most_once_job_whose_worker_died_never_runs_again(world):
    world.start()
    pids = world.path / "pids"
    script = f"echo $$ $PPID >> {pids}; exec sleep 300"
    job_id = world.submit("exec", "--delivery", "at-most-once", "--", "sh", "-c", script)
    eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
    os.kill(int(pids.read_text().split()[1]), signal.SIGKILL)
    found = world.result(job_id)
    assert found["state"] == "dead"
    assert "unknown" in found["reason"]
    assert len(pids.read_text().splitlines()) == 1


def test_a_second_dispatcher_stands_by_and_takes_over(world):
    first = world.start()
    second = world.start(wait="event=standby")
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: "event=ready" in second.log.read_text())
    assert world.result(world.submit("exec", "--", "true"))["state"] == "done"
    first.wait()


def test_five_hundred_commands_run_each_exactly_once(world):
    world.start()
    ledger = world.path / "ledger"
    lines = f"echo $CRONQ_JOB_ID >> {ledger}\n" * 500
    job_id = world.run("exec", "--batch", "-", input=lines).stdout.strip()
    assert world.result(job_id)["counts"] == {"done": 500}
    assert sorted(ledger.read_text().split()) == [f"{job_id}+{number:03d}" for number in range(1, 501)]


def ledger_under_kill(world, *options):
    daemon = world.start()
    ledger = world.path / "ledger"
    lines = f"echo $CRONQ_JOB_ID >> {ledger}\n" * 500
    job_id = world.run("exec", *options, "--batch", "-", input=lines).stdout.strip()
    eventually(lambda: ledger.exists() and len(ledger.read_text().split()) > 100)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    world.result(job_id)
    return collections.Counter(ledger.read_text().split()), {f"{job_id}+{number:03d}" for number in range(1, 501)}


def test_no_job_is_lost_when_the_dispatcher_is_killed_in_the_middle(world):
    counted, wanted = ledger_under_kill(world)
    assert set(counted) == wanted


def test_no_at_most_once_job_runs_twice_when_the_dispatcher_is_killed(world):
    counted, wanted = ledger_under_kill(world, "--delivery", "at-most-once")
    assert set(counted) == wanted
    assert set(counted.values()) == {1}


def test_a_schedule_fires_again_and_again(world):
    ledger = world.path / "ledger"
    world.tasks(f"[tasks.tick]\nshell = 'echo x >> {ledger}'\n[schedules.tick]\nevery = '1s'\n")
    world.start()
    eventually(lambda: ledger.exists() and len(ledger.read_text().split()) >= 2)


def test_bad_files_are_set_aside_with_a_sentence(world):
    world.start()
    world.drop("unknown", {"command": ["true"], "prioriy": "high"})
    world.drop("nobody", {"task": "nobody"})
    world.drop("types", {"command": "true"})
    world.drop("root", {"command": ["id"], "uid": 0})
    assert "did you mean 'priority'" in world.rejected("unknown")
    assert "unknown task 'nobody'" in world.rejected("nobody")
    assert "must be a list" in world.rejected("types")
    assert "unknown key 'uid'" in world.rejected("root")


def test_a_job_that_changed_while_it_waited_is_set_aside_with_its_input(world):
    world.tasks("[queues.narrow]\nslots = 1\n")
    world.start()
    gate = world.path / "gate"
    first = world.submit("exec", "--queue", "narrow", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.01; done")
    draft = world.inbox / ".changed.tmp"
    (world.inbox / "changed.data").write_text("input")
    with draft.open("w") as producer:
        producer.write(json.dumps({"command": ["cat"], "queue": "narrow"}))
        producer.flush()
        draft.rename(world.inbox / "changed.job")
        eventually(lambda: "changed" in world.run("list").stdout)
        producer.write(" ")
    gate.touch()
    rejected = world.spool / "rejected" / str(world.uid)
    reason = eventually(lambda: next(rejected.glob("*-changed.data.reason"), None))
    assert "changed after it was accepted" in eventually(reason.read_text)
    assert reason.with_suffix("").read_text() == "input"
    assert not list((world.spool / "queue" / "data").iterdir())
    assert world.result(first)["state"] == "done"


def test_a_bad_member_refuses_the_whole_batch(world):
    world.start()
    made = world.path / "made"
    good, bad = {"command": ["touch", str(made)]}, {"command": []}
    draft = world.inbox / ".b.tmp"
    draft.write_text("\n".join(map(json.dumps, [{"jobs": 2}, good, bad])) + "\n")
    draft.rename(world.inbox / "b.jobs")
    assert "line 2" in world.rejected("b", "jobs")
    assert not made.exists()


def test_delayed_jobs_wait_and_expired_ones_never_run(world):
    world.start()
    made = world.path / "made"
    world.drop("late", {"command": ["touch", str(made)], "delay": "1h", "expires": time.strftime("%Y-%m-%dT%H:%M:%S")})
    eventually(lambda: list((world.spool / "out" / str(world.uid)).glob("*-late/result.json")))
    assert not made.exists()


def test_a_bad_configuration_keeps_the_old_one(world):
    world.tasks("[tasks.hello]\ncommand = ['echo', 'hello']\n")
    daemon = world.start()
    world.tasks("[tasks.hello\n")
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "event=reload-failed" in daemon.log.read_text())
    world.tasks("[tasks.hello]\ncommand = ['echo', 'hello']\n[tasks.other]\ncommand = ['echo', 'other']\n")
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "event=reloaded" in daemon.log.read_text())
    assert world.run("submit", "--wait", "other").stdout == "other\n"


def test_without_a_dispatcher_control_says_how_to_start_one(world):
    world.submit("exec", "--", "true")
    assert "cronq dispatcher" in world.run("stats", code=69).stderr


def test_stats_counts_every_state(world):
    world.start()
    world.run("exec", "--wait", "--", "true")
    found = json.loads(world.run("stats", "--json").stdout)
    kept = ["ready", "delayed", "waiting", "held", "running", "dead", "skipped"]
    assert list(found) == ["in", *kept, "done", "cancelled", "expired", "rejected", "queues"]
    assert found["done"] == 1


def test_without_inotify_the_poll_finds_the_job(world):
    world.start("--no-inotify", whole=True)
    assert world.result(world.submit("exec", "--", "true"))["state"] == "done"


def test_submit_imports_nothing_heavy(world):
    code = "import sys; sys.argv = ['cronq', 'exec', '--', 'true']; from cronq.__main__ import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\nprint(*sys.modules)"
    done = subprocess.run([CRONQ[0], "-c", code], env=world.env, capture_output=True, text=True, check=True)
    heavy = {"typer", "pydantic", "croniter", "filelock", "dataclasses", "typing", "pathlib", "argparse", "ctypes"}
    assert not heavy & set(done.stdout.split())


def test_a_thousand_job_files_run_each_exactly_once(world):
    world.start()
    ledger = world.path / "ledger"
    for number in range(1000):
        world.drop(f"n{number}", {"command": ["sh", "-c", f"echo {number} >> {ledger}"]})
    eventually(lambda: ledger.exists() and len(ledger.read_text().split()) >= 1000, within=100)
    eventually(lambda: json.loads(world.run("stats", "--json").stdout)["done"] == 1000)
    assert sorted(map(int, ledger.read_text().split())) == list(range(1000))


def test_a_worker_killed_under_load_holds_nothing_up(world):
    world.start()
    ledger, pids = world.path / "ledger", world.path / "pids"
    lines = f"echo $PPID >> {pids}; echo $CRONQ_JOB_ID >> {ledger}\n" * 300
    job_id = world.run("exec", "--batch", "-", input=lines).stdout.strip()
    eventually(lambda: pids.exists() and len(pids.read_text().split()) > 50)
    os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
    eventually(lambda: len(set(ledger.read_text().split())) == 300)
    world.run("cancel", job_id, code=None)


def test_a_batch_at_its_limit_does_not_hold_up_other_jobs(world):
    gate = world.path / "gate"
    os.mkfifo(gate)
    world.tasks(f"[tasks.slow]\nshell = 'cat {gate}'\nlimit = 1\n")
    world.start()
    lines = "".join(f"{n}\n" for n in range(200))
    batch = world.run("submit", "slow", "--batch", "-", input=lines).stdout.strip()
    eventually(lambda: list((world.spool / "queue" / "running").iterdir()))
    assert world.result(world.submit("exec", "--", "true"))["state"] == "done"
    world.run("cancel", "--now", batch)  # jobs outlive their dispatcher, but not this test
    assert world.result(batch)["counts"] == {"cancelled": 200}


def test_a_revived_job_is_not_judged_by_its_earlier_life(world):
    daemon = world.start()
    gate, flag, ledger = world.path / "gate", world.path / "flag", world.path / "ledger"
    os.mkfifo(gate)
    script = f"echo x >> {ledger}; test -e {flag} || exit 4; cat {gate}"
    job_id = world.submit("exec", "--", "sh", "-c", script)
    assert world.result(job_id)["state"] == "dead"
    flag.touch()
    world.run("retry", job_id)
    eventually(lambda: len(ledger.read_text().split()) == 2)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    assert json.loads(world.run("show", "--json", job_id).stdout)["state"] == "running"
    gate.write_text("go\n")
    assert world.result(job_id)["state"] == "done"
    assert len(ledger.read_text().split()) == 2


def test_a_second_file_of_a_name_is_answered_when_the_first_is_whole(world):
    world.start()
    first = world.inbox / "same.job"
    with first.open("w") as file:
        file.write('{"command": ')
        file.flush()
        eventually((world.spool / "queue" / ".capture" / f"{world.uid},same.job").exists)
        old = time.time() - 60
        world.drop("same", {"command": ["true"]})
        os.utime(world.inbox, (old, old))  # as after a quiet while: nothing in the inbox changes any more
        eventually(lambda: "event" in world.daemons[0].log.read_text())
        world.run("exec", "--wait", "--", "true")
        os.utime(world.inbox, (old, old))
        world.run("stats")
        file.write('["sleep", "300"]}')
    assert "has not ended" in world.rejected("same")


def draining(world, then):
    """A dispatcher that waits for a job, which does `then` when the gate is there."""
    world.tasks('[stop]\ndrain_timeout = "1h"\n')
    daemon = world.start()
    gate = world.path / "gate"
    job = world.submit("exec", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done; {then}")
    eventually(lambda: "running" in world.run("list", "--state", "running").stdout)
    daemon.send_signal(signal.SIGTERM)
    eventually(lambda: "event=draining" in daemon.log.read_text())
    return daemon, gate, job


def test_a_dispatcher_that_is_told_to_stop_waits_for_running_jobs_as_long_as_it_is_to(world):
    daemon, gate, job = draining(world, "echo ended")
    late = world.submit("exec", "--", "true")
    gate.touch()
    assert daemon.wait(60) == 0
    assert world.result(job)["state"] == "done"
    assert not world.results(late).exists()


def test_a_second_signal_cuts_the_waiting_short_and_the_job_goes_on(world):
    daemon, gate, job = draining(world, "exit 3")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    world.start()
    gate.touch()
    assert world.result(job)["exit_code"] == 3
