"""The command line: what it prints on terminals and in pipes, its exit codes, and stories with a real dispatcher."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from standin import CRONQ, UID, Control, Runner, cronq, settings

from cronq import client, ids, states, submit, usage
from cronq.errors import NotRunning, UnknownJob
from cronq.job import new_name

OK = {"ok": True}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def runner(root: Path) -> Runner:
    return Runner(root)


@pytest.fixture
def job_id() -> str:
    return f"{UID}-{new_name()}"


@pytest.fixture
def serve(root: Path, runner: Runner) -> Iterator[Any]:
    started: list[Control] = []

    def start(**answers: list[Any]) -> Control:
        started.append(Control(root, answers))
        return started[-1]

    yield start
    for control in started:
        control.close()


def on_a_terminal(root: Path, *argv: str, **options: Any) -> tuple[int, str]:
    """The exit code of a command whose output and errors go to a terminal, and what it wrote there."""
    ours, theirs = pty.openpty()
    started = settings(root)
    started["env"] |= {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    with subprocess.Popen([*CRONQ, *argv], **started, stdout=theirs, stderr=theirs, **options) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError as error:
                assert error.errno == errno.EIO  # the terminal's other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    return process.returncode, b"".join(parts).decode()


# ---------------------------------------------------------------- no dispatcher, or a sick one


@pytest.mark.parametrize("command", ["list", "stats --json", f"show {UID}-x", f"cancel {UID}-x", f"retry {UID}-x"])
def test_without_a_dispatcher_it_says_how_to_start_one(root: Path, runner: Runner, command: str) -> None:
    done = cronq(root, *command.split())
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"cronq: no dispatcher is running for {root}; start it with `cronq dispatcher`")
    assert done.stderr.count("\n") == 1


def test_a_socket_that_nobody_serves_is_no_dispatcher(root: Path, serve: Any) -> None:
    serve().close()
    done = cronq(root, "list")
    assert done.returncode == 69
    assert "no dispatcher is running" in done.stderr


def test_a_dispatcher_that_dies_in_mid_answer_is_noticed(root: Path, serve: Any) -> None:
    serve(list=[b'{"id": "0-x"}\n{"half'])
    with pytest.raises(NotRunning, match="went away in the middle"):
        list(client.ask(str(root), {"do": "list"}))


def test_a_dispatcher_that_is_silent_is_not_waited_for_ever(root: Path, runner: Runner) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        here = os.open(root, os.O_PATH)
        line.bind(f"/proc/self/fd/{here}/control")
        os.close(here)
        line.listen()
        with pytest.raises(NotRunning, match="has not answered for"):
            list(client.ask(str(root), {"do": "list"}, patience=0.05))


def test_its_refusal_is_our_sentence_and_exit_code(root: Path, serve: Any) -> None:
    serve(stats=[{"error": "this spool belongs to another user", "code": 77}])
    done = cronq(root, "stats")
    assert (done.returncode, done.stderr) == (77, "cronq: this spool belongs to another user\n")


def test_a_path_longer_than_a_sockets_address_is_no_hindrance(tmp_path: Path) -> None:
    root = tmp_path / ("x" * 120)
    Runner(root)
    control = Control(root, {"stats": [{"ready": 1}, OK]})
    try:
        assert list(client.ask(str(root), {"do": "stats"})) == [{"ready": 1}]
    finally:
        control.close()


# ---------------------------------------------------------------- list, show, stats

JOB = {"id": "0-x", "state": "dead", "command": ["sh", "-c", "echo \x1b[31m\ttwo words"], "queue": "default"} | {
    "priority": 0,
    "attempt": 1,
    "max_attempts": 2,
    "submitted": 1.0,
    "ended": 2.0,
    "reason": "exit code 3",
}


def test_a_list_in_a_pipe_is_tabs_and_no_control_characters(root: Path, serve: Any) -> None:
    control = serve(list=[JOB, OK])
    done = cronq(root, "list", "--state", "dead", "--limit", "3")
    assert done.returncode == 0, done.stderr
    columns = done.stdout.rstrip("\n").split("\t")
    assert columns[:6] == ["0-x", "dead", "sh -c 'echo \\x1b[31m\\x09two words'", "default", "0", "1/2"]
    assert columns[7] == "exit code 3"
    assert control.asked == [{"do": "list", "states": ["dead"], "limit": 3}]


def test_a_list_on_a_terminal_is_a_table(root: Path, serve: Any) -> None:
    serve(list=[JOB, OK])
    code, screen = on_a_terminal(root, "list")
    assert code == 0
    assert "STATE" in screen
    assert "echo \\x1b[31m\\x09two words" in re.sub("\x1b\\[[0-9;]*m", "", screen)
    assert "\x1b[31m" not in screen  # what the job's command holds is not obeyed


def test_a_list_in_json_is_an_object_a_line(root: Path, serve: Any) -> None:
    serve(list=[JOB, JOB, OK])
    done = cronq(root, "list", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [JOB, JOB]


def test_who_sees_several_users_sees_whose_each_job_is(root: Path, serve: Any) -> None:
    control = serve(list=[{"sees": "all"}, JOB | {"uid": 0}, JOB | {"uid": 4_000_000}, OK])
    rows = [line.split("\t") for line in cronq(root, "list").stdout.splitlines()]
    assert [row[:3] for row in rows] == [["0-x", "root", "dead"], ["0-x", "4000000", "dead"]]
    assert [row["uid"] for row in map(json.loads, cronq(root, "list", "--json").stdout.splitlines())] == [0, 4_000_000]
    code, screen = on_a_terminal(root, "list", "--user", "root")
    assert code == 0
    assert re.sub("\x1b\\[[0-9;]*m", "", screen).split()[:3] == ["ID", "USER", "STATE"]
    assert cronq(root, "list", "--mine").stdout.split("\t")[1] == "dead"
    assert [each.get("user") for each in control.asked] == [None, None, 0, UID]


def test_the_list_is_what_is_in_the_queue_and_all_is_all(root: Path, serve: Any) -> None:
    control = serve(list=[{"sees": "own"}, OK])
    assert cronq(root, "list").stdout == ""
    cronq(root, "list", "--all")
    assert control.asked[0]["states"] is None
    assert set(control.asked[1]["states"]) == set(states.STATES)


def test_show_and_stats_in_json_are_one_object(root: Path, serve: Any) -> None:
    serve(show=[JOB, OK], stats=[{"ready": 1, "done": 7}, OK])
    assert json.loads(cronq(root, "show", f"{UID}-{new_name()}", "--json").stdout) == JOB
    assert json.loads(cronq(root, "stats", "--json").stdout) == {"ready": 1, "done": 7}
    assert cronq(root, "stats").stdout == "ready\t1\ndone\t7\n"


def test_show_reads_the_files_of_an_ended_job_by_itself(root: Path, runner: Runner, job_id: str) -> None:
    runner.ends(job_id, exit_code=0)
    assert json.loads(cronq(root, "show", job_id, "--json").stdout) == {"id": job_id, "state": "done", "exit_code": 0}


def test_a_reader_that_leaves_is_no_error(root: Path, serve: Any) -> None:
    serve(list=[JOB] * 5000 + [OK])
    with subprocess.Popen(
        [*CRONQ, "list", "--json"], **settings(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode > 0


def test_cancel_names_what_could_not_be_cancelled(root: Path, serve: Any) -> None:
    first, second = (f"{UID}-{new_name()}" for _ in range(2))
    answers = [{"id": first, "state": "cancelled"}, {"id": second, "error": f"unknown job {second}", "code": 65}, OK]
    control = serve(cancel=answers)
    done = cronq(root, "cancel", "--now", first, second.partition("-")[2])
    assert (done.returncode, done.stdout) == (65, f"{first}\tcancelled\n")
    assert done.stderr == f"cronq: unknown job {second}\n"
    assert control.asked == [{"do": "cancel", "now": True, "ids": [first, second]}]


# ---------------------------------------------------------------- ids


def test_an_id_may_be_written_short(root: Path, runner: Runner, job_id: str) -> None:
    runner.ends(job_id)
    own = job_id.partition("-")[2]
    for text in (job_id, own, job_id[-8:]):
        assert ids.resolve(str(root), text) == job_id
    assert ids.resolve(str(root), f"{own}+3") == f"{job_id}+3"
    assert ids.resolve(str(root), f"{job_id[-8:]}+3") == f"{job_id}+3"
    with pytest.raises(UnknownJob, match="no job of yours"):
        ids.resolve(str(root), "zzzz")


def test_a_tail_of_two_jobs_is_refused(root: Path, runner: Runner) -> None:
    for stem in ("aaaa", "bbbb"):
        runner.ends(f"{UID}-0660000000000-{stem}2222")
    with pytest.raises(UnknownJob, match="may be"):
        ids.resolve(str(root), "2222")
    assert ids.resolve(str(root), "a2222").endswith("aaaa2222")


def test_a_chosen_name_is_its_latest_job(root: Path, runner: Runner) -> None:
    for when in ("0660000000000", "0660000000001"):
        runner.ends(f"{UID}-{when}-backup")
    for text in ("backup", f"{UID}-backup"):
        assert ids.resolve(str(root), text) == f"{UID}-0660000000001-backup"
    submit.execute(["true"], spool=str(root), name="backup")
    assert ids.resolve(str(root), "backup") == f"{UID}-backup"


# ---------------------------------------------------------------- wait, result, logs


def test_wait_exits_as_the_job_did(root: Path, runner: Runner, job_id: str) -> None:
    runner.ends(job_id, "dead", exit_code=3)
    other = f"{UID}-{new_name()}"
    runner.ends(other, exit_code=0)
    assert cronq(root, "wait", other).returncode == 0
    done = cronq(root, "wait", other, job_id)
    assert (done.returncode, done.stdout) == (3, f"{other}: done: exit code 0\n{job_id}: dead: exit code 3\n")


def test_wait_bounds_the_waiting(root: Path, runner: Runner, job_id: str) -> None:
    runner.begins(job_id)
    done = cronq(root, "wait", "--timeout", "50ms", job_id)
    assert done.returncode == 75
    assert f"{job_id} not ended within 50ms" in done.stderr


def test_nobody_waits_for_a_job_that_is_unknown(root: Path, serve: Any, job_id: str) -> None:
    serve(show=[{"error": f"unknown job '{job_id}'", "code": 65}])
    for command in ("wait", "logs", "result"):
        done = cronq(root, command, job_id)
        assert (done.returncode, done.stderr) == (65, f"cronq: unknown job '{job_id}'\n")


def test_result_is_for_jobs_that_have_ended(root: Path, runner: Runner, job_id: str) -> None:
    runner.begins(job_id)
    assert cronq(root, "result", job_id).returncode == 75
    runner.ends(job_id, exit_code=0, started=1.0)
    assert json.loads(cronq(root, "result", job_id, "--json").stdout)["state"] == "done"
    assert "state:" in cronq(root, "result", job_id).stdout


def test_logs_are_exact_in_a_pipe_and_harmless_on_a_terminal(root: Path, runner: Runner, job_id: str) -> None:
    output = b"\x1b]0;title\x07\xff\nzwei\t\xc3\xa4\n"
    runner.prints(job_id, output)
    runner.prints(job_id, b"errors\n", "stderr")
    assert cronq(root, "logs", job_id, text=False).stdout == output
    assert cronq(root, "logs", "--stderr", job_id).stdout == "errors\n"
    code, screen = on_a_terminal(root, "logs", job_id)
    assert (code, screen) == (0, "\\x1b]0;title\\x07\\xff\r\nzwei\tä\r\n")
    with pytest.raises(UnicodeDecodeError):
        on_a_terminal(root, "logs", "--raw", job_id)  # then it is what it is


def test_logs_follow_until_the_end(root: Path, runner: Runner, job_id: str) -> None:
    runner.begins(job_id)
    with subprocess.Popen([*CRONQ, "logs", "-f", job_id], **settings(root), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in (b"one\n", b"two\n"):
            runner.prints(job_id, line)
            assert process.stdout.readline() == line
        runner.ends(job_id)
        assert process.stdout.read() == b""
    assert process.returncode == 0


# ---------------------------------------------------------------- in the foreground


def test_submit_waits_and_prints_and_exits_as_the_job(root: Path, runner: Runner, serve: Any) -> None:
    serve()

    def act(path: Path) -> None:
        job_id = f"{UID}-{path.stem}"
        runner.begins(job_id)
        runner.prints(job_id, b"out\n")
        runner.prints(job_id, b"err\n", "stderr")
        runner.ends(job_id, "dead", exit_code=7)

    thread = runner.takes_the_next(act)
    done = cronq(root, "submit", "--wait", "t")
    thread.join()
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_waiting_for_a_refused_job_says_why(root: Path, runner: Runner, serve: Any) -> None:
    serve()
    thread = runner.takes_the_next(lambda path: runner.rejects(path.name, "unknown task 't'", 65))
    done = cronq(root, "submit", "--wait", "t")
    thread.join()
    assert done.returncode == 65
    assert re.fullmatch(r"cronq: \S+: rejected: unknown task 't'\n", done.stderr)


def test_waiting_without_a_dispatcher_says_so(root: Path, runner: Runner) -> None:
    thread = runner.takes_the_next(lambda path: runner.ends(f"{UID}-{path.stem}", exit_code=0))
    done = cronq(root, "exec", "--wait", "true")
    thread.join()
    assert done.returncode == 0
    assert "is queued and waits: no dispatcher is running" in done.stderr


def test_an_interrupt_leaves_the_job_and_says_its_id(root: Path, runner: Runner, serve: Any) -> None:
    serve()
    started = settings(root)
    with subprocess.Popen(
        [*CRONQ, "exec", "--wait", "--", "sleep", "9"], **started, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None

        def act(path: Path) -> None:
            runner.begins(f"{UID}-{path.stem}")
            runner.prints(f"{UID}-{path.stem}", b"begun\n")

        thread = runner.takes_the_next(act)
        assert process.stdout.readline() == b"begun\n"
        thread.join()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    (job,) = runner.inbox()
    assert process.returncode == 130
    assert said == (
        f"cronq: interrupted; the job goes on: cronq wait {UID}-{job.stem}, cronq cancel {UID}-{job.stem}\n"
    )


def batch_runner(runner: Runner, fails: set[str]) -> threading.Thread:
    """Ends the jobs of a batch, the last one first; prints the argument of each."""

    def act(path: Path) -> None:
        head, *members = path.read_text().splitlines()
        count = json.loads(head)["jobs"]
        for number, line in reversed(list(enumerate(members, 1))):
            job_id = f"{UID}-{path.stem}+{number:0{len(str(count))}d}"
            word = json.loads(line)["args"][-1]
            runner.begins(job_id)
            runner.prints(job_id, f"{word}\n".encode())
            runner.ends(job_id, "dead" if word in fails else "done", exit_code=int(word in fails))
        runner.ends(f"{UID}-{path.stem}", jobs=count, exit_code=int(bool(fails)))

    return runner.takes_the_next(act)


def test_map_prints_what_its_jobs_print(root: Path, runner: Runner, serve: Any) -> None:
    serve()
    thread = batch_runner(runner, set())
    words = [str(number) for number in range(20)]
    done = cronq(root, "map", "--keep-order", "t", input="\n".join(words))
    thread.join()
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, words, "20 done, 0 failed\n")


def test_map_names_what_failed(root: Path, runner: Runner, serve: Any) -> None:
    serve()
    thread = batch_runner(runner, {"b"})
    done = cronq(root, "map", "t", input="a\nb\nc\n")
    thread.join()
    assert (done.returncode, sorted(done.stdout.split())) == (1, ["a", "b", "c"])
    assert re.fullmatch(rf"cronq: {UID}-\S+\+2: dead: exit code 1\n2 done, 1 failed\n", done.stderr)


def test_map_shows_its_progress_on_a_terminal(root: Path, runner: Runner, serve: Any, tmp_path: Path) -> None:
    serve()
    thread = batch_runner(runner, set())
    (tmp_path / "lines").write_text("a\nb\nc\n")
    code, screen = on_a_terminal(root, "map", "--batch", str(tmp_path / "lines"), "t")
    thread.join()
    assert code == 0
    assert "/3" in screen
    assert "3 done, 0 failed" in screen


def test_a_refused_batch_ends_map(root: Path, runner: Runner, serve: Any) -> None:
    serve()
    thread = runner.takes_the_next(lambda path: runner.rejects(path.name, "line 1: unknown task 't'", 65))
    done = cronq(root, "map", "t", input="a\nb\n")
    thread.join()
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.endswith(": rejected: line 1: unknown task 't'\n")


# ---------------------------------------------------------------- help, completion


@pytest.mark.parametrize("verb", usage.PRODUCERS)
def test_help_shows_the_options_that_are_read(root: Path, verb: str) -> None:
    done = cronq(root, verb, "--help")
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE))
    more = {"--keep-order", "--fail-fast"} if verb == "map" else set()
    assert shown == {option.flag for option in usage.OPTIONS if verb in option.of} | more


def test_map_reads_options_as_submit_does(root: Path, runner: Runner) -> None:
    for verb in ("map", "submit"):
        done = cronq(root, verb, "--at", "nonsense", "t", input="x\n")
        assert done.returncode == 2
        assert done.stderr.startswith("cronq: --at must be a time like")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("list --nonsense", "No such option"),
        ("list --user no-such-user", "there is no user 'no-such-user'"),
        ("list --state gone", "there is no state 'gone'; the states are queued, ready"),
        ("wait --timeout soon 0-x", "--timeout must be a duration"),
        ("show", "Missing argument"),
        ("schema nonsense", "there is no schema 'nonsense'"),
    ],
)
def test_a_usage_error_is_one_sentence(root: Path, runner: Runner, argv: str, says: str) -> None:
    done = cronq(root, *argv.split())
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_version_and_schemas(root: Path) -> None:
    assert cronq(root, "--version").stdout.startswith("cronq ")
    for name in ("job", "task", "config"):
        assert "$schema" in json.loads(cronq(root, "schema", name).stdout)


def test_ids_and_tasks_are_completed(root: Path, runner: Runner, job_id: str) -> None:
    runner.ends(job_id)
    (root / "config").mkdir()
    (root / "config" / "cronq.toml").write_text('[tasks.resize]\ncommand = ["true"]\n')

    def complete(words: str, last: int) -> str:
        started = settings(root)
        started["env"] |= {"_CRONQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(last)}
        return subprocess.run(CRONQ, **started, capture_output=True, text=True, check=False).stdout

    assert complete(f"cronq show {UID}-", 2).split() == [job_id]
    assert complete("cronq submit res", 2).split() == ["resize"]
    assert "--priority" in complete("cronq submit --pri", 2)


# ---------------------------------------------------------------- stories with the real dispatcher


def test_story_of_a_job_that_is_tried_again(world: Any) -> None:
    world.tasks(
        '[tasks.t]\nshell = "echo $CRONQ_ATTEMPT; test $CRONQ_ATTEMPT = 3"\nretries = 5\nbackoff = {base="1ms"}\n'
    )
    world.start()
    done = world.run("submit", "--wait", "t")
    assert done.stdout == "1\n2\n3\n"


def test_story_of_exit_codes(world: Any) -> None:
    world.start()
    world.run("exec", "--wait", "--", "sh", "-c", "kill -9 $$", code=137)
    world.run("exec", "--wait", "--timeout", "100ms", "--", "sleep", "60", code=124)
    world.run("exec", "--wait", "--expires", "2020-01-01T00:00:00Z", "--", "true", code=125)
    world.run("submit", "--wait", "unknown", code=65)


def test_story_of_a_cancelled_job(world: Any) -> None:
    world.start()
    job_id = world.submit("exec", "--delay", "1h", "true")
    eventually(lambda: world.run("list", code=0).stdout)
    assert world.run("cancel", job_id[-8:]).stdout == f"{job_id}\tcancelled\n"
    world.run("wait", job_id, code=125)
    world.run("rm", job_id)
    world.run("show", job_id, code=65)


def test_story_of_a_chosen_name(world: Any) -> None:
    world.start()
    for word in ("one", "two"):
        done = world.run("exec", "--name", "nightly", "--wait", "--", "echo", word)
        assert done.stdout == f"{word}\n"
    assert world.run("logs", "nightly").stdout == "two\n"
    world.run("wait", f"{UID}-nightly")


def test_story_of_a_map(world: Any) -> None:
    world.tasks("[tasks.square]\nshell = 'echo $(($1 * $1))'\n")
    world.start()
    done = world.run("map", "--keep-order", "square", input="\n".join(map(str, range(1, 31))))
    assert done.stdout.split() == [str(number * number) for number in range(1, 31)]
    assert done.stderr == "30 done, 0 failed\n"


def test_story_of_input_of_any_size(world: Any) -> None:
    world.start()
    content = bytes(range(256)) * 4096
    done = subprocess.run(
        [*CRONQ, "exec", "--stdin", "-", "--wait", "--", "cat"],
        env=world.env,
        input=content,
        capture_output=True,
        check=True,
    )
    assert done.stdout == content


def test_story_of_a_batch_in_the_foreground(world: Any) -> None:
    world.start()
    done = world.run("exec", "--batch", "-", "--wait", input="echo 1\nexit 5\necho 3\n", code=1)
    assert sorted(done.stdout.split()) == ["1", "3"]
    assert "+2: dead: exit code 5" in done.stderr
    assert done.stderr.endswith("2 done, 1 failed\n")
