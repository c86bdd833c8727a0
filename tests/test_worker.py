"""The worker, in a process of its own, with real jobs: what comes back, what is refused, what each death leaves."""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import select
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually, soon
from workbench import FILES, TREE, UID, Hand, alive, empty, idle, numbers, real

from cronq import attempt, process
from cronq.cgroup import Leaves
from cronq.loop import Loop
from cronq.outcome import Outcome
from cronq.task import DEFAULT_PATH


def sh(script: str, **keys) -> dict:
    return {"command": ["sh", "-c", script], **keys}


def who() -> tuple[str, str, str]:
    """Name, home and shell of this user; in a container there may be no entry for it."""
    try:
        me = pwd.getpwuid(UID)
    except KeyError:
        return str(UID), "/", "/bin/sh"
    return me.pw_name, me.pw_dir, me.pw_shell


# -------------------------------------------------------------------- what comes back


def test_output_and_exit_code_arrive(hand, worker):
    ended = worker.do("a", sh("echo out; echo err >&2; exit 3"))
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (3, None, None)
    assert (hand.output("a"), hand.output("a", "stderr")) == (b"out\n", b"err\n")
    assert (ended["stdout"], ended["stderr"]) == ({"bytes": 4, "cut": False}, {"bytes": 4, "cut": False})


def test_the_outcome_tells_each_step_with_who_and_when(hand, worker):
    before = time.time()
    worker.do("a", sh("echo $$"))
    starting, started, ended = hand.outcome("a")
    assert [step["step"] for step in (starting, started, ended)] == ["starting", "started", "ended"]
    assert started["pid"] == int(hand.output("a"))
    assert started["boot"] == process.boot_id()
    assert started["start"] > 0
    assert before <= starting["t"] <= ended["started"] <= started["t"] <= ended["t"] <= time.time()
    assert 0 <= ended["wall"] <= time.time() - before
    assert ended["cpu"] >= 0
    assert ended["max_rss"] > 100_000


def test_a_death_by_signal_is_told_as_one(worker):
    ended = worker.do("a", sh("kill -SEGV $$"))
    assert (ended["exit_code"], ended["signal"], ended["reason"]) == (None, signal.SIGSEGV, None)


def test_output_is_cut_at_the_cap_and_says_so(hand, worker):
    hand.tasks("[tasks.loud]\nshell = 'head -c 200000 /dev/zero; head -c 1000 /dev/zero >&2'\noutput_max = 1000\n")
    ended = worker.do("a", {"task": "loud"})
    assert ended["exit_code"] == 0
    assert hand.output("a") == bytes(1000) + b"\n[cronq: output cut at 1000 bytes]\n"
    assert hand.output("a", "stderr") == bytes(1000)
    assert (ended["stdout"], ended["stderr"]) == ({"bytes": 1000, "cut": True}, {"bytes": 1000, "cut": False})


def test_a_job_that_prints_without_end_does_not_hold_up_another(hand, worker):
    def five(name: str) -> float:
        began = time.monotonic()
        for number in range(5):
            assert worker.do(f"{name}{number}", sh("echo hello"))["stdout"]["bytes"] == 6
        return time.monotonic() - began

    alone = five("alone")
    worker.sh("loud", "exec yes")
    eventually(lambda: b"output cut" in hand.output("loud")[-100:])
    assert five("beside") < 2 + 10 * alone
    worker.send({"do": "stop", "id": f"{UID}-loud", "now": True})
    assert worker.ended("loud")["stdout"]["cut"]


def test_a_result_file_without_room_cuts_the_output_and_the_job_goes_on(worker):
    ended = worker.do("a", sh("echo lost; echo kept >&2; exit 4"), stdout="/dev/full")
    assert ended["exit_code"] == 4
    assert (ended["stdout"], ended["stderr"]) == ({"bytes": 0, "cut": True}, {"bytes": 5, "cut": False})


def test_large_output_arrives_whole(hand, worker):
    ended = worker.do("a", sh("head -c 3000000 /dev/zero"))
    assert ended["stdout"] == {"bytes": 3_000_000, "cut": False}
    assert len(hand.output("a")) == 3_000_000


# -------------------------------------------------------------------- what a job is given


def test_the_environment_is_built_from_nothing(hand, worker):
    hand.tasks("[tasks.show]\ncommand = ['env', '-0']\nretries = 2\nenv = {A = 'of the task', B = 'b'}\n")
    worker.do("a", {"task": "show", "env": {"A": "ü\n="}}, redelivered=True)
    found = dict(item.split(b"=", 1) for item in hand.output("a").split(b"\0") if item)
    name, home, shell = who()
    expected = {
        "PATH": DEFAULT_PATH,
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "A": "ü\n=",
        "B": "b",
        "CRONQ_SPOOL": str(hand.spool),
        "CRONQ_JOB_ID": f"{UID}-a",
        "CRONQ_TASK": "show",
        "CRONQ_ATTEMPT": "1",
        "CRONQ_MAX_ATTEMPTS": "3",
        "CRONQ_REDELIVERED": "1",
        "CRONQ_SCHEDULED_AT": "2001-09-09T01:46:40Z",
    }
    assert found == {key.encode(): value.encode() for key, value in expected.items()}


def test_a_free_command_has_no_task_and_may_set_its_path_but_not_who_it_is(hand, worker):
    env = {"PATH": "/nowhere:/bin:/usr/bin", "CRONQ_JOB_ID": "0-other", "HOME": "/tmp"}
    worker.do("a", {"command": ["env", "-0"], "env": env})
    found = dict(item.split(b"=", 1) for item in hand.output("a").split(b"\0") if item)
    assert b"CRONQ_TASK" not in found
    assert found[b"PATH"] == b"/nowhere:/bin:/usr/bin"
    assert found[b"CRONQ_JOB_ID"] == f"{UID}-a".encode()
    assert found[b"CRONQ_REDELIVERED"] == b"0"
    assert found[b"HOME"] == b"/tmp"


@pytest.mark.parametrize("text", ["", "hello\nüber", "x" * 60_000])
def test_stdin_text_is_the_jobs_standard_input(hand, worker, text):
    worker.do("a", {"command": ["cat"], "stdin": text})
    assert hand.output("a").decode() == text


def test_data_are_the_jobs_standard_input(hand, worker):
    data = hand.path / "data"
    data.write_bytes(bytes(range(256)) * 1000)
    worker.do("a", {"command": ["cat"]}, data=data)
    assert hand.output("a") == data.read_bytes()


def test_without_input_standard_input_is_empty(hand, worker):
    worker.do("a", sh("cat; readlink /proc/self/fd/0"))
    assert hand.output("a") == b"/dev/null\n"


def test_descriptors_are_exactly_0_1_2_however_many_jobs_run(hand, worker):
    worker.do("first", sh("true"))
    before = _descriptors(worker)
    names = [f"j{number}" for number in range(60)]
    for name in names:
        worker.sh(name, "ls /proc/self/fd; echo ready; exec sleep 100", stdin="x")
    eventually(lambda: all(hand.output(name).endswith(b"ready\n") for name in names))
    assert worker.do("late", sh("ls /proc/self/fd"))["stdout"]["bytes"] == 8  # beyond the limit that a job has
    for name in names:
        worker.send({"do": "stop", "id": f"{UID}-{name}", "now": True})
        assert worker.ended(name)["reason"] == "cancelled"
        assert hand.output(name) == b"0\n1\n2\n3\nready\n"  # 3 is where ls reads
    eventually(lambda: _descriptors(worker) == before)


def test_signals_mask_umask_session_and_limits_are_fresh(hand, worker):
    worker.do("a", {"command": ["cat", "/proc/self/status"]})
    status = dict(line.split(":\t") for line in hand.output("a").decode().splitlines())
    internal = 3 << 31  # 32 and 33 are glibc's own; its posix_spawn leaves them ignored, and its programs set them
    assert [int(status[key], 16) & ~internal for key in ("SigPnd", "SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0, 0]
    worker.do("b", sh("umask; ulimit -n; cut -d' ' -f 1,5,6 /proc/$$/stat"))
    umask, files, ids = hand.output("b").decode().splitlines()
    assert umask in ("022", "0022")
    assert int(files) == FILES
    pid, group, session = ids.split()
    assert pid == group == session


def test_a_job_runs_where_it_says_else_at_home(hand, worker):
    worker.do("a", {"command": ["pwd"], "cwd": str(hand.path)})
    worker.do("b", {"command": ["pwd", "-P"]})
    _, home, _ = who()
    assert hand.output("a").decode() == f"{hand.path}\n"
    assert hand.output("b").decode().strip() == (os.path.realpath(home) if os.path.isdir(home) else "/")


def test_without_a_home_a_job_runs_at_the_root(hand, monkeypatch):
    nobody = pwd.struct_passwd(("somebody", "x", UID, 0, "", "/no/home", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: nobody)
    hand.worker().do("a", sh("pwd; echo $HOME $USER $SHELL"))
    assert hand.output("a") == b"/\n/no/home somebody /bin/sh\n"


def test_a_worker_keeps_no_directory_busy(hand, worker):
    worker.do("a", {"command": ["pwd"], "cwd": str(hand.path)})
    assert os.readlink(f"/proc/{worker.pid}/cwd") == "/"


# -------------------------------------------------------------------- what cannot start


def test_a_missing_directory_is_told(worker):
    ended = worker.do("a", {"command": ["pwd"], "cwd": "/no/such"})
    assert ended["reason"] == "cannot start: the directory /no/such: there is no such directory"
    assert ended["exit_code"] == 126


@pytest.mark.parametrize("word", ["no-such-program", "/no/such", "./no-such"])
def test_a_program_that_is_not_there_is_127(worker, word):
    ended = worker.do("a", {"command": [word]})
    assert ended["exit_code"] == 127
    assert ended["reason"].startswith(f"cannot start: {word}: not found")


def test_a_program_that_may_not_run_is_126_and_says_how_to_mend_it(hand, worker):
    for name, content, mode in (
        ("plain", "echo\n", 0o755),
        ("closed", "#!/bin/sh\n", 0o644),
        ("lost", "#!/no/such\n", 0o755),
    ):
        (hand.path / name).write_text(content)
        (hand.path / name).chmod(mode)
    env = {"PATH": str(hand.path)}
    plain, closed = (worker.do(name, {"command": [name], "env": env}) for name in ("plain", "closed"))
    lost = worker.do("lost", {"command": [str(hand.path / "lost")]})
    folder = worker.do("folder", {"command": ["/tmp"]})
    assert [each["exit_code"] for each in (plain, closed, lost, folder)] == [126, 126, 126, 126]
    assert "#!/bin/sh" in plain["reason"]
    assert "chmod +x" in closed["reason"]
    assert "interpreter" in lost["reason"]
    assert "permission denied" in folder["reason"]


def test_arguments_too_long_for_the_kernel_are_126(hand, worker):
    variables = "".join(f"A{number} = '{'x' * 60000}'\n" for number in range(40))
    hand.tasks(f"[tasks.long]\ncommand = ['true']\n[tasks.long.env]\n{variables}")
    ended = worker.do("a", {"task": "long"})
    assert ended["exit_code"] == 126
    assert "too long" in ended["reason"]


def test_a_path_is_searched_from_the_jobs_own_directory(hand, worker):
    program = hand.path / "bin" / "hello"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    (hand.path / "empty" / "hello").mkdir(parents=True)  # a directory of that name is not the program
    worker.do("a", {"command": ["hello"], "cwd": str(hand.path), "env": {"PATH": "empty:bin:/bin"}})
    worker.do("b", {"command": ["hello"], "cwd": str(hand.path / "bin"), "env": {"PATH": ":/bin"}})
    assert (hand.output("a"), hand.output("b")) == (b"hello\n", b"hello\n")


# -------------------------------------------------------------------- what is refused


def test_bytes_that_were_not_admitted_are_refused(hand, worker):
    ended = worker.do("a", sh("echo no"), hash="AAAAAAAAAAAAAAAAAAAAAA")
    assert (ended["step"], ended["code"], ended["again"]) == ("refused", 65, False)
    assert "changed after acceptance" in ended["reason"]
    assert hand.steps("a") == ["refused"]
    assert hand.output("a") == b""


def test_a_worker_that_is_kept_too_long_begins_no_job_any_more(hand, monkeypatch):
    monkeypatch.setattr("cronq.worker.OLDEST", 0.0)
    refused = hand.worker().do("a", sh("true"))
    assert (refused["step"], refused["again"]) == ("refused", True)
    assert "served its time" in refused["reason"]


def test_a_file_that_is_not_a_plain_file_of_mine_is_refused(hand, worker):
    linked = hand.path / "linked"
    linked.write_text("{}")
    os.link(linked, hand.path / "second")
    fifo = hand.path / "fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)
    assert "2 links" in worker.do("a", sh("true"), file=linked)["reason"]
    assert "FIFO" in worker.do("b", sh("true"), file=fifo)["reason"]
    assert "another file system" in worker.do("c", sh("true"), file="/proc/self/cmdline")["reason"]
    assert "FIFO" in worker.do("d", sh("true"), data=fifo)["reason"]
    os.close(keep)


@pytest.mark.root
@pytest.mark.skipif(UID != 0, reason="needs root, to make another user's file")
def test_a_file_of_another_user_is_refused(hand, worker):
    other = hand.path / "other"
    other.write_text(json.dumps(sh("true")))
    os.chown(other, 12345, 12345)
    assert "belongs to uid 12345" in worker.do("a", sh("true"), file=other)["reason"]


def test_a_job_of_no_known_form_is_refused(worker):
    ended = worker.do("a", b'{"command": ["true"], "uid": 0}')
    assert (ended["step"], ended["code"]) == ("refused", 65)
    assert "unknown key 'uid'" in ended["reason"]


def test_an_unknown_task_is_refused_but_not_for_good_while_the_config_is_fresh(hand, worker):
    hand.tasks("[tasks.other]\ncommand = ['true']\n")
    young = worker.do("a", {"task": "gone"})
    hand.tasks("[tasks.others]\ncommand = ['true']\n", age=60)
    old = eventually(lambda: (found := worker.do("b", {"task": "gone"}))["again"] is False and found)
    assert (young["again"], old["again"]) == (True, False)
    assert "unknown task 'gone'" in old["reason"]


def test_a_config_that_does_not_parse_sends_tasks_back_but_stops_no_free_command(hand, worker):
    hand.tasks("[tasks.hello\n")
    refused = worker.do("a", {"task": "hello"})
    assert (refused["step"], refused["again"], refused["code"]) == ("refused", True, 78)
    assert "cronq.toml" in refused["reason"]
    assert worker.do("b", sh("true"))["exit_code"] == 0
    hand.tasks("[tasks.hello]\ncommand = ['true']\n", age=60)
    eventually(lambda: worker.do("c", {"task": "hello"})["step"] == "ended")


def test_a_changed_config_counts_at_once(hand, worker):
    hand.tasks("[tasks.hello]\ncommand = ['echo', 'one']\n", age=60)
    worker.do("a", {"task": "hello"})
    hand.tasks("[tasks.hello]\ncommand = ['echo', 'two']\n", age=60)
    eventually(lambda: worker.do("b", {"task": "hello"})["step"] == "ended" and b"two" in hand.output("b"))
    assert hand.output("a") == b"one\n"


def test_the_same_job_does_not_run_twice_at_once(hand, worker):
    worker.sh("a", "exec sleep 100")
    eventually(lambda: "started" in hand.steps("a"))  # it has read its job's file, which is written over now
    second = hand.path / "second"
    worker.run("a", sh("exec sleep 100"), outcome=second)
    worker.hear("ended", "a")
    assert "runs already" in second.read_text()
    assert hand.locked("a")


def test_nonsense_is_passed_over(worker):
    for message in (
        {},
        {"do": "dance"},
        {"do": ["run"]},
        {"do": "run", "id": "x"},
        {"do": "stop", "id": 7, "now": True},
    ):
        worker.send(message)
    worker.send({"do": "reap", "id": "../x", "attempt": 1, "pid": None, "start": None, "boot": None})
    worker.send({"do": "stop", "id": f"{UID}-nobody", "now": True})
    worker.run("a", sh("true"), hash=7)
    assert worker.do("b", sh("exit 2"))["exit_code"] == 2


def test_an_outcome_that_cannot_be_written_means_no_start(hand, worker):
    worker.run("a", sh("echo no"), outcome="/dev/full")
    worker.hear("ended", "a")
    assert hand.output("a") == b""


def test_an_outcome_without_room_at_the_end_is_written_later_and_stays_locked(hand):
    def no_room(name: str) -> None:
        if name == "started":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    worker = hand.worker(no_room)
    worker.sh("a", "exec sleep 0")
    pid = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1]["pid"])
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert hand.locked("a")
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert worker.ended("a")["exit_code"] == 0
    assert not hand.locked("a")


def test_an_outcome_line_is_whole_or_absent(tmp_path):
    path = tmp_path / "outcome"
    outcome = Outcome(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert outcome.write("starting")
    whole = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        assert not outcome.write("started", pid=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    assert outcome.write("ended")
    assert path.read_bytes().count(b"\n") == 2
    outcome.close()


def test_nothing_stays_open_whatever_came(hand, worker):
    data = hand.path / "data"
    data.write_text("x")
    worker.do("first", sh("true"))
    before = _descriptors(worker)
    for turn in range(3):
        worker.do(f"ran{turn}", {"command": ["cat"], "stdin": "x"})
        worker.do(f"data{turn}", {"command": ["cat"]}, data=data)
        worker.do(f"refused{turn}", b"{}", data=data)
        worker.do(f"lost{turn}", {"command": ["/no/such"]}, data=data)
        worker.run(f"full{turn}", sh("true"), outcome="/dev/full", data=data)
        worker.hear("ended", f"full{turn}")
        worker.run(f"nonsense{turn}", sh("true"), hash=7)
    worker.do("last", sh("true"))
    assert _descriptors(worker) == before


def _descriptors(worker) -> list[str]:
    return sorted(os.listdir(f"/proc/{worker.pid}/fd"))


def test_a_worker_without_descriptors_hangs_up_and_finishes_what_it_has(hand, worker):
    worker.sh("a", "sleep 0.2; exit 3")
    worker.hear("starting", "a")
    eventually(lambda: "started" in hand.steps("a"))
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    worker.sh("b", "true")
    assert worker.wait() == 0
    assert hand.outcome("a")[-1]["exit_code"] == 3
    assert hand.outcome("b") == []
    assert not hand.locked("b")  # never started, and it can be seen


def test_without_room_for_pipes_the_job_goes_back_and_is_not_blamed(hand, worker):
    worker.do("first", sh("true"))
    free = [number for number in range(100) if str(number) not in _descriptors(worker)]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (free[4] + 1, limit))  # four arrive, two pipes do not fit
    refused = worker.do("a", sh("true"))
    assert (refused["step"], refused["again"]) == ("refused", True)
    assert "no room" in refused["reason"]
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (limit, limit))
    assert worker.do("b", sh("exit 4"))["exit_code"] == 4


# -------------------------------------------------------------------- ending jobs


def test_a_timeout_ends_the_whole_tree(hand, worker):
    pids = hand.path / "pids"
    script = f"(sleep 100 & echo $! >> {pids}; wait) & echo $$ >> {pids}; wait"
    ended = worker.do("a", sh(script, timeout="300ms"))
    assert ended["reason"] == "timeout"
    assert ended["signal"] == signal.SIGTERM
    assert 0.3 <= ended["wall"] < 50
    eventually(lambda: len(numbers(pids)) == 2 and not any(map(alive, numbers(pids))))


def test_a_job_that_ignores_term_is_killed_after_its_grace(hand, worker):
    hand.tasks(
        "[tasks.stubborn]\nshell = 'trap \"\" TERM; while :; do sleep 0.05; done'\ntimeout = '200ms'\ngrace = '300ms'\n"
    )
    ended = worker.do("a", {"task": "stubborn"})
    assert (ended["reason"], ended["signal"]) == ("timeout", signal.SIGKILL)
    assert 0.5 <= ended["wall"] < 50


def test_a_stopped_job_hears_its_term(worker):
    ended = worker.do("a", sh("trap 'exit 9' TERM; kill -STOP $$; sleep 100", timeout="200ms"))
    assert ended["exit_code"] == 9


def test_a_cancelled_job_may_clean_up_and_is_told_as_cancelled(hand, worker):
    worker.sh("a", "trap 'echo cleaned; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    eventually(lambda: hand.output("a"))
    worker.send({"do": "stop", "id": f"{UID}-a", "now": False})
    ended = worker.ended("a")
    assert (ended["reason"], ended["exit_code"]) == ("cancelled", 5)
    assert hand.output("a") == b"ready\ncleaned\n"


def test_stop_now_knows_no_grace(hand, worker):
    hand.tasks("[tasks.stubborn]\nshell = \"trap '' TERM; echo ready; while :; do sleep 0.05; done\"\ngrace = '1h'\n")
    worker.run("a", {"task": "stubborn"})
    eventually(lambda: hand.output("a"))
    worker.send({"do": "stop", "id": f"{UID}-a", "now": False})
    worker.send({"do": "stop", "id": f"{UID}-a", "now": True})
    ended = worker.ended("a")
    assert (ended["reason"], ended["signal"]) == ("cancelled", signal.SIGKILL)


def test_the_reason_that_came_first_is_told(hand, worker):
    worker.sh("a", "trap 'echo termed' TERM; while :; do sleep 0.05; done", timeout="100ms")
    eventually(lambda: hand.output("a") == b"termed\n")
    worker.send({"do": "stop", "id": f"{UID}-a", "now": True})
    assert worker.ended("a")["reason"] == "timeout"


def test_a_task_without_grace_is_killed_at_its_timeout(hand, worker):
    hand.tasks("[tasks.a]\nshell = 'trap \"\" TERM; sleep 100'\ntimeout = '100ms'\ngrace = 0\n")
    ended = worker.do("a", {"task": "a"})
    assert (ended["reason"], ended["signal"]) == ("timeout", signal.SIGKILL)


def test_what_a_task_leaves_behind_is_ended_with_it(hand, worker):
    pids = hand.path / "pids"
    hand.tasks(f"[tasks.a]\nshell = 'sleep 100 & echo $! > {pids}'\n")
    ended = worker.do("a", {"task": "a"})
    assert ended["exit_code"] == 0
    assert ended["wall"] < 50
    eventually(lambda: not alive(*numbers(pids)))


def test_what_a_free_command_leaves_behind_goes_on_and_its_output_is_kept(hand, worker):
    gate = hand.path / "gate"
    os.mkfifo(gate)
    ended = worker.do("a", sh(f"(read x < {gate}; echo late; sleep 100) & echo early"))
    assert hand.output("a") == b"early\n"
    assert not hand.locked("a")
    worker.line.close()
    gate.write_text("go\n")
    eventually(lambda: hand.output("a") == b"early\nlate\n")  # the worker stays for it
    os.killpg(hand.outcome("a")[1]["pid"], signal.SIGKILL)
    assert worker.wait() == 0
    assert ended["stdout"]["bytes"] == 6


def test_what_was_stopped_leaves_nothing_behind_a_free_command_neither(hand, worker):
    pids = hand.path / "pids"
    worker.sh("a", f"sh -c 'trap \"\" TERM; echo $$ > {pids}; exec sleep 100' & wait")
    (stubborn,) = eventually(lambda: numbers(pids))
    worker.send({"do": "stop", "id": f"{UID}-a", "now": False})
    assert worker.ended("a")["signal"] == signal.SIGTERM
    eventually(lambda: not alive(stubborn))


def test_what_escapes_the_group_and_holds_the_pipe_is_not_waited_for(hand, worker):
    pids = hand.path / "pids"
    (hand.path / "escape").write_text(f"#!/bin/sh\necho $$ > {pids}\nexec sleep 100\n")
    (hand.path / "escape").chmod(0o755)
    hand.tasks(f"[tasks.a]\nshell = 'setsid {hand.path}/escape & until [ -s {pids} ]; do :; done'\n")
    worker.run("a", {"task": "a"})
    job = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1]["pid"])
    (escaped,) = eventually(lambda: numbers(pids))
    try:
        eventually(lambda: not os.path.exists(f"/proc/{job}"))
        began = time.monotonic()
        worker.send({"do": "stop", "id": f"{UID}-a", "now": False})  # too late: there is no job any more
        ended = worker.ended("a")
        assert time.monotonic() - began < 50
        assert (ended["exit_code"], ended["reason"]) == (0, None)
    finally:
        os.kill(escaped, signal.SIGKILL)


@pytest.mark.root
@pytest.mark.skipif(UID != 0, reason="needs root, to trace a process that is no child")
def test_a_job_that_somebody_traces_holds_nothing_up(hand, worker):
    worker.sh("a", "exec sleep 100")
    traced = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1]["pid"])
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    assert ptrace(0x4206, ctypes.c_long(traced), None, None) == 0  # PTRACE_SEIZE
    os.kill(traced, signal.SIGKILL)
    os.waitid(os.P_PID, traced, os.WEXITED | os.WNOWAIT)  # dead, and the tracer has not let go of it
    assert worker.do("b", sh("exit 3"))["exit_code"] == 3
    assert hand.locked("a")
    os.waitpid(traced, 0)
    assert worker.ended("a")["signal"] == signal.SIGKILL


# -------------------------------------------------------------------- places


def test_a_worker_that_places_asks_for_it_with_the_limits_and_lets_the_job_run_then(hand):
    worker = hand.worker(placing=True)
    hand.tasks("[tasks.a]\nshell = 'echo ran; exit 3'\nmemory_max = '64M'\npids_max = 5\ncpu_weight = 50\n")
    worker.run("a", {"task": "a"})
    asked = worker.hear("place", "a")
    (pidfd,) = asked["descriptors"]
    assert asked["attempt"] == 1
    assert asked["limits"] == {"memory_max": 64 << 20, "pids_max": 5, "cpu_weight": 50}
    assert process.pid_of(pidfd) == hand.outcome("a")[-1]["pid"]
    os.close(pidfd)
    worker.send({"do": "go", "id": f"{UID}-a", "attempt": 2})  # of another attempt
    worker.send({"do": "go", "id": f"{UID}-nobody", "attempt": 1})
    worker.sh("b", "exit 4")
    asked = worker.hear("place", "b")
    os.close(*asked["descriptors"])
    assert asked["limits"] == {}
    worker.send({"do": "go", "id": f"{UID}-b", "attempt": 1})
    assert worker.ended("b")["exit_code"] == 4
    assert hand.output("a") == b""
    worker.send({"do": "go", "id": f"{UID}-a", "attempt": 1, "placed": True})
    assert worker.ended("a")["exit_code"] == 3
    assert hand.output("a") == b"ran\n"


def test_a_job_at_its_gate_runs_without_a_place_when_its_dispatcher_is_gone(hand, monkeypatch):
    monkeypatch.setattr(attempt, "PLACING", 1000.0)
    worker = hand.worker(placing=True)
    worker.sh("a", "exit 3")
    worker.hear("place", "a")
    worker.line.close()
    assert worker.wait() == 0
    assert hand.outcome("a")[-1]["exit_code"] == 3


def test_a_job_at_its_gate_ends_with_its_worker_and_never_ran(hand):
    worker = hand.worker(placing=True)
    worker.sh("a", f"echo ran > {hand.path}/ran")
    worker.hear("place", "a")
    started = hand.outcome("a")[-1]
    worker.kill()
    eventually(lambda: not hand.locked("a"))
    eventually(lambda: not alive(started["pid"]))
    assert not (hand.path / "ran").exists()


def test_places_asked_of_a_dispatcher_that_does_not_read_leave_nothing_open(hand):
    worker = hand.worker(placing=True)
    worker.sh("first", "true")
    os.close(*worker.hear("place", "first")["descriptors"])
    worker.send({"do": "go", "id": f"{UID}-first", "attempt": 1})
    worker.ended("first")
    before, kept = _descriptors(worker), []
    for number in range(60):
        worker.sh(f"j{number}", "true")
    eventually(lambda: all("ended" in hand.steps(f"j{number}") for number in range(60)))  # each waited in vain
    for number in range(60):
        kept += worker.hear("place", f"j{number}")["descriptors"]
        worker.hear("ended", f"j{number}")
    eventually(lambda: _descriptors(worker) == before)
    eventually(lambda: idle(worker.pid, worker.line))  # nor is it kept awake by what others still have open
    for descriptor in kept:
        os.close(descriptor)


def ends_in_its_leaf(hand, name: str, script: str, events: str | None, **keys) -> dict:
    """How a job ended that was put into a leaf of which the kernel would tell this."""
    worker = hand.workers[-1] if hand.workers else hand.worker(placing=True)
    leaf = hand.path / "leaves" / f"job-{UID}-{name}.1"
    leaf.mkdir(parents=True)
    if events is not None:
        (leaf / "memory.events").write_text(events)
    worker.sh(name, script, **keys)
    os.close(*worker.hear("place", name)["descriptors"])
    worker.send({"do": "go", "id": f"{UID}-{name}", "attempt": 1, "placed": True})
    return worker.ended(name)


KILLED = "low 0\nhigh 3\nmax 7\noom 2\noom_kill 1\noom_group_kill 1\n"


def test_a_job_that_fails_after_the_kernel_killed_any_of_it_for_want_of_memory_ended_for_that_reason(hand):
    ended = ends_in_its_leaf(hand, "killed", "kill -9 $$", KILLED)
    assert (ended["reason"], ended["signal"], ended["exit_code"]) == ("out of memory", 9, None)
    ended = ends_in_its_leaf(hand, "told", "sh -c 'kill -9 $$'; exit 65", KILLED)
    assert (ended["reason"], ended["exit_code"]) == ("out of memory", 65)


@pytest.mark.parametrize("events", [None, "", "oom 3\noom_kill 0\n", "oom_kill\n", "oom_kill x\n", "oom_kill -1\n"])
def test_a_job_of_whose_leaf_no_such_kill_is_told_was_killed_by_a_signal(hand, events):
    ended = ends_in_its_leaf(hand, "a", "kill -9 $$", events)
    assert (ended["reason"], ended["signal"]) == (None, 9)


def test_a_job_that_copes_with_such_a_kill_is_done_and_one_that_is_stopped_was_stopped(hand):
    assert ends_in_its_leaf(hand, "copes", "exit 0", KILLED)["reason"] is None
    assert ends_in_its_leaf(hand, "late", "sleep 60", KILLED, timeout="0.05s")["reason"] == "timeout"


@pytest.mark.root
@real
def test_in_a_cgroup_two_hundred_children_wherever_they_hid_are_gone_within_a_second_of_cancel_now(hand):
    base = TREE / f"cronq-test-{os.getpid()}"
    base.mkdir()
    leaves = Leaves(str(base))
    worker = hand.worker(placing=True)
    try:
        hide = (
            f"i=0; while [ $i -lt 100 ]; do sleep 100 & env -i setsid sleep 100 & i=$((i+1)); done; : > {hand.path}/r"
        )
        began = time.monotonic()
        worker.sh("a", f"{hide}; wait")
        (pidfd,) = worker.hear("place", "a")["descriptors"]
        leaves.place(f"{UID}-a.1", process.pid_of(pidfd), {})
        os.close(pidfd)
        worker.send({"do": "go", "id": f"{UID}-a", "attempt": 1, "placed": True})
        eventually((hand.path / "r").exists)
        pids = numbers(base / f"job-{UID}-a.1" / "cgroup.procs")
        assert len(pids) == 201
        with soon(1.0, began):
            worker.send({"do": "stop", "id": f"{UID}-a", "now": True})
            assert worker.ended("a")["reason"] == "cancelled"
            while leaves.kill(f"{UID}-a.1"):
                pass
        assert not any(map(alive, pids))
        assert [path for path in base.iterdir() if path.is_dir()] == []
    finally:
        empty(base)


def test_a_child_of_a_stopped_job_that_called_setsid_is_gone_with_it(hand, worker):
    pids = hand.path / "pids"
    worker.sh("a", f"setsid sleep 100 & echo $! > {pids}; wait")
    (escaped,) = eventually(lambda: numbers(pids))
    worker.send({"do": "stop", "id": f"{UID}-a", "now": False})
    assert worker.ended("a")["reason"] == "cancelled"
    assert not alive(escaped)


# -------------------------------------------------------------------- deaths


def test_the_lock_is_the_workers_life_and_never_the_jobs(hand, worker):
    worker.sh("a", "exec sleep 100")
    worker.hear("starting", "a")
    started = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1])
    assert hand.locked("a")
    worker.kill()
    assert not hand.locked("a")
    assert alive(started["pid"])
    _reap(hand, "a", started)
    assert not alive(started["pid"])


def _reap(hand, name: str, identity: dict, known: bool = True) -> None:
    other = hand.worker()
    facts = {key: identity.get(key) for key in ("pid", "start", "boot")}
    other.send({"do": "reap", "id": f"{UID}-{name}", "attempt": 1, **facts})
    assert other.hear("reaped", name)["known"] is known


@contextlib.contextmanager
def adopting():
    """For a while, orphans are this process's to wait for (PR_SET_CHILD_SUBREAPER)."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(36, 0, 0, 0, 0)


def test_the_tree_of_a_dead_workers_job_is_ended_wherever_it_hid(hand, worker):
    pids = hand.path / "pids"
    script = f"setsid sleep 100 & echo $! >> {pids}; env -i sleep 100 & echo $! >> {pids}; echo $$ >> {pids}; wait"
    worker.sh("a", script)
    eventually(lambda: len(numbers(pids)) == 3)
    eventually(lambda: hand.steps("a")[-1] == "started")
    worker.kill()
    _reap(hand, "a", hand.outcome("a")[-1])
    assert not any(map(alive, numbers(pids)))


def test_a_group_without_its_leader_is_ended_too(hand, worker):
    pids = hand.path / "pids"
    worker.sh("a", f"env -i sleep 100 & echo $! $$ > {pids}; wait")
    member, leader = eventually(lambda: numbers(pids))
    eventually(lambda: "started" in hand.steps("a"))
    worker.kill()
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: not alive(leader))
    _reap(hand, "a", hand.outcome("a")[-1])
    assert not alive(member)


def test_a_group_of_its_own_is_no_hiding_place(hand, worker):
    pids = hand.path / "pids"
    code = f"import os; os.setpgid(0, 0); print(os.getpid(), file=open({str(pids)!r}, 'w'), flush=True)"
    code += "; os.execve('/bin/sleep', ['sleep', '100'], {})"
    worker.sh("a", f"{sys.executable} -ISc {shlex.quote(code)} & wait")
    (member,) = eventually(lambda: numbers(pids))
    eventually(lambda: Path(f"/proc/{member}/environ").read_bytes() == b"")
    worker.kill()
    _reap(hand, "a", hand.outcome("a")[-1])
    assert not alive(member)


def test_a_recycled_pid_is_not_hit(hand, worker):
    worker.sh("other", "exec env -i sleep 100")
    other = eventually(lambda: "started" in hand.steps("other") and hand.outcome("other")[-1])
    eventually(lambda: Path(f"/proc/{other['pid']}/environ").read_bytes() == b"")
    _reap(hand, "a", {**other, "start": other["start"] - 1})
    _reap(hand, "b", {**other, "boot": "another-boot"})
    assert alive(other["pid"])
    assert "ended" not in hand.steps("other")
    _reap(hand, "other", other)
    assert not alive(other["pid"])


def test_what_is_older_than_the_job_is_not_its_own(hand, worker):
    pids = hand.path / "pids"
    worker.sh("other", f"env -i sleep 100 & echo $! $$ > {pids}; wait")
    member, leader = eventually(lambda: numbers(pids))
    eventually(lambda: Path(f"/proc/{member}/environ").read_bytes() == b"")
    with adopting():
        worker.kill()
        os.kill(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
    started = hand.outcome("other")[-1]
    _reap(hand, "a", {**started, "start": started["start"] + 1_000_000})
    assert alive(member)
    _reap(hand, "other", started)


def test_another_jobs_process_is_not_hit_whatever_the_pid_says(hand, worker):
    worker.sh("other", "exec sleep 100")
    other = eventually(lambda: "started" in hand.steps("other") and hand.outcome("other")[-1])
    _reap(hand, "a", other)
    assert alive(other["pid"])


@pytest.mark.parametrize("pid", [0, 1, -1, None])
def test_a_pid_that_is_no_jobs_is_none(pid):
    assert process.Hunt({"id": "0-a", "attempt": 1, "pid": pid, "start": 0}, now=0.0).pid is None


def test_a_zombie_that_nobody_waits_for_is_dead(hand, worker):
    with adopting():
        worker.sh("a", "exec sleep 100")
        started = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1])
        worker.kill()
        _reap(hand, "a", started)
        assert os.path.exists(f"/proc/{started['pid']}")
        assert os.waitpid(started["pid"], 0)[1] == signal.SIGKILL


def test_one_look_that_finds_nothing_is_not_enough(monkeypatch):
    """What forks between two looks may be missed by the first."""
    forked = process.Seen(7, b"7 (x) S 1 7 7 " + b"0 " * 15 + b"99 0")
    forked.carries = b"0-a"
    looks, killed, told, loop = [{}, {7: forked}, {}, {}], [], [], Loop()
    monkeypatch.setattr(process, "snapshot", lambda _spool: looks.pop(0))
    monkeypatch.setattr(process, "kill", killed.append)
    hunts = process.Hunts(loop, "/spool", lambda *known: told.append(known))
    hunts.add({"id": "0-a", "attempt": 2, "pid": None, "start": None, "boot": None})
    while loop.busy:
        loop.turn()
    assert (killed, told, looks) == ([forked], [("0-a", 2, True)], [])


def test_what_is_dying_and_carries_nothing_any_more_is_not_dead_yet(monkeypatch):
    """The environment goes with the memory, before the process does."""
    alive_one = process.Seen(7, b"7 (x) S 1 7 7 " + b"0 " * 15 + b"99 0")
    alive_one.carries = b"0-a"
    dying, gone = (process.Seen(7, b"7 (x) %b 1 7 7 " % state + b"0 " * 15 + b"99 0") for state in (b"R", b"Z"))
    looks, told, loop = [{7: alive_one}, {7: dying}, {7: dying}, {7: dying}, {7: gone}, {}], [], Loop()
    monkeypatch.setattr(process, "snapshot", lambda _spool: looks.pop(0))
    monkeypatch.setattr(process, "kill", lambda _process: None)
    hunts = process.Hunts(loop, "/spool", lambda *known: told.append(known))
    hunts.add({"id": "0-a", "attempt": 2, "pid": None, "start": None, "boot": None})
    while loop.busy:
        loop.turn()
    assert (told, looks) == ([("0-a", 2, True)], [])


def test_what_cannot_be_ended_is_not_known_to_be_dead(hand, worker, monkeypatch):
    monkeypatch.setattr(process, "kill", lambda _process: None)  # as if it were another user's
    monkeypatch.setattr(process, "PATIENCE", 0.1)
    worker.sh("a", "exec sleep 100")
    started = eventually(lambda: "started" in hand.steps("a") and hand.outcome("a")[-1])
    worker.kill()
    _reap(hand, "a", started, known=False)


def test_a_job_of_the_same_id_in_another_spool_is_not_hit(hand, tmp_path):
    (tmp_path / "second").mkdir()
    second = Hand(tmp_path / "second")
    try:
        second.worker().sh("a", "exec sleep 100")
        other = eventually(
            lambda: second.outcome_path("a").exists() and len(second.outcome("a")) == 2 and second.outcome("a")[1]
        )
        _reap(hand, "a", {}, known=False)
        assert alive(other["pid"])
    finally:
        second.close()
        os.killpg(other["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    ("step", "steps", "runs"),
    [
        ("received", [], False),
        ("starting", ["starting"], False),
        ("spawned", ["starting"], True),
        ("started", ["starting", "started"], True),
        ("ended", ["starting", "started", "ended"], False),
        ("told", ["starting", "started", "ended"], False),
    ],
)
def test_a_death_at_each_step_leaves_its_evidence(hand, step, steps, runs):
    worker = hand.worker(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None)
    pids = hand.path / "pids"
    worker.sh("a", f"echo $$ > {pids}" + ("; exec sleep 100" if runs else ""))
    assert worker.wait() == -signal.SIGKILL
    assert hand.steps("a") == steps
    eventually(lambda: not hand.locked("a"))  # a program that is just being executed lets go of it in a moment
    if runs:  # the job outlives its worker, and is found
        (pid,) = eventually(lambda: numbers(pids))
        _reap(hand, "a", hand.outcome("a")[-1])
        assert not alive(pid)
    elif step == "starting":
        _reap(hand, "a", {}, known=False)  # it may have run: nobody can know
        assert not pids.exists()


def test_a_dispatcher_that_is_gone_changes_nothing(hand, worker):
    gate = hand.path / "gate"
    os.mkfifo(gate)
    worker.sh("a", f"read x < {gate}; echo $x; exit 3")
    worker.hear("starting", "a")
    worker.line.close()
    gate.write_text("go\n")
    assert worker.wait() == 0
    assert hand.outcome("a")[-1]["exit_code"] == 3
    assert hand.output("a") == b"go\n"


def test_an_idle_worker_leaves_with_its_dispatcher(worker):
    worker.line.close()
    assert worker.wait() == 0


def test_a_packet_that_is_no_message_ends_the_line_but_no_job(hand, worker):
    worker.sh("a", "sleep 0.2; exit 3")
    worker.hear("starting", "a")
    worker.line.send(b"not json")
    assert worker.wait() == 0
    assert hand.outcome("a")[-1]["exit_code"] == 3


def test_a_dispatcher_that_does_not_read_is_not_waited_for(hand, worker):
    job = sh("true")
    for number in range(400):
        worker.run(f"j{number}", job, hash="AAAAAAAAAAAAAAAAAAAAAA")
    eventually(lambda: hand.outcome_path("j399").stat().st_size)
    assert select.select([worker.line], [], [], 0)[0]
    for number in range(400):  # what did not fit was kept, in order
        worker.hear("starting", f"j{number}")
        worker.hear("ended", f"j{number}")
    assert worker.do("after", job)["exit_code"] == 0


def test_term_for_everybody_ends_the_job_and_the_worker_tells(hand, worker):
    worker.sh("a", "echo ready; exec sleep 100")
    eventually(lambda: hand.output("a"))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        worker.kill(number)
    os.killpg(hand.outcome("a")[-1]["pid"], signal.SIGTERM)
    assert worker.ended("a")["signal"] == signal.SIGTERM


@pytest.mark.parametrize(("keys", "reason"), [({}, "interrupted"), ({"delivery": "at-most-once"}, None)])
def test_what_the_machines_shutdown_ends_is_interrupted_and_has_not_failed(hand, monkeypatch, tmp_path, keys, reason):
    first = tmp_path / "comm"
    first.write_text("systemd\n")
    monkeypatch.setattr(process, "INIT", str(first))
    worker = hand.worker()
    worker.sh("fails", "exit 3", **keys)
    assert worker.ended("fails")["reason"] is None
    worker.sh("a", "echo ready; exec sleep 100", **keys)
    worker.sh("b", "trap 'exit 0' TERM; echo ready; sleep 100 & wait", **keys)
    eventually(lambda: hand.output("a") and hand.output("b"))
    first.write_text("systemd-shutdow\n")
    for name in "ab":
        os.killpg(hand.outcome(name)[-1]["pid"], signal.SIGTERM)
    assert (worker.ended("a")["reason"], worker.ended("b")["reason"]) == (reason, None)  # b says that it is done


@pytest.mark.parametrize("bound", ["timeout", "watchdog"])
def test_no_time_goes_by_for_a_frozen_job(hand, worker, bound):
    """Another job of the same worker's, which has more time, comes to the end of it meanwhile."""
    worker.sh("a", "exec sleep 100", **{bound: "500ms"})
    worker.send({"do": "freeze", "id": f"{UID}-a", "on": True})
    pid = eventually(lambda: next((step["pid"] for step in hand.outcome("a") if "pid" in step), None))
    eventually(lambda: process.look(pid).state == b"T")
    assert worker.do("b", sh("sleep 100", **{bound: "700ms"}))["reason"] == bound
    assert process.look(pid).state == b"T"
    worker.send({"do": "freeze", "id": f"{UID}-a", "on": False})
    assert worker.ended("a")["reason"] == bound


def test_a_job_that_is_frozen_at_its_gate_stands_still_as_soon_as_it_has_passed_it(hand):
    worker = hand.worker(placing=True)
    worker.sh("a", "exec sleep 100")
    os.close(*worker.hear("place", "a")["descriptors"])
    worker.send({"do": "freeze", "id": f"{UID}-a", "on": True})
    worker.send({"do": "go", "id": f"{UID}-a", "attempt": 1, "placed": False})
    pid = next(step["pid"] for step in hand.outcome("a") if "pid" in step)
    eventually(lambda: process.look(pid).state == b"T")
    worker.send({"do": "stop", "id": f"{UID}-a", "now": False})
    assert worker.ended("a")["reason"] == "cancelled"


def test_an_idle_worker_sleeps(worker):
    worker.do("a", sh("true"))
    eventually(lambda: idle(worker.pid, worker.line))
