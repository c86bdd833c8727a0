"""A job says how it goes, told as stories: each rule of the status descriptor with a real dispatcher and real jobs."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import CRONQ, eventually
from workbench import alive

from cronq import live, policy, settle
from cronq.house import Now

SEEN = 'echo "${CRONQ_CURSOR:-none}" >> $W/seen; '


def shown(world, job_id: str) -> dict:
    return json.loads(world.run("show", "--json", job_id).stdout)


def queued(world, state: str) -> list[str]:
    """The names of what is in this state."""
    return [path.name for path in (world.spool / "queue" / state).rglob("*,*")]


def script(world, text: str) -> list[str]:
    """A command that runs these lines; `$W` is the test's own directory."""
    return ["--env", f"W={world.path}", "--", "sh", "-c", text]


@pytest.fixture
def gate(world):
    made = world.path / "gate"
    os.mkfifo(made)
    return made


def test_progress_and_status_are_shown_while_the_job_runs(world, gate):
    world.start()
    job_id = world.submit("exec", *script(world, "echo progress 3/10 >&3; echo status copying >&3; cat $W/gate"))
    eventually(lambda: shown(world, job_id).get("status") == "copying")
    assert shown(world, job_id)["progress"] == [3, 10]
    assert "3/10 copying" in world.run("list").stdout
    assert json.loads(world.run("list", "--json").stdout)["progress"] == [3, 10]
    assert "progress:      3/10" in world.run("show", job_id).stdout
    gate.write_text("")
    assert world.result(job_id)["progress"] == [3, 10]
    assert not (world.results(job_id) / "status").exists()


def test_a_result_is_what_cronq_result_gives(world):
    world.start()
    job_id = world.submit("exec", *script(world, """echo '{"result": {"made": 3}, "warning": "one was empty"}' >&3"""))
    assert world.result(job_id)["state"] == "done"
    assert 'result:        {"made": 3}' in world.run("result", job_id).stdout
    found = json.loads(world.run("result", "--json", job_id).stdout)
    assert (found["result"], found["warnings"]) == ({"made": 3}, ["one was empty"])
    assert world.run("result", "--value", job_id).stdout == '{"made": 3}\n'
    text = world.submit("exec", "--wait", "--json", *script(world, "echo result 42 of them >&3"))
    assert json.loads(text)["result"] == "42 of them"
    assert world.run("result", "--value", json.loads(text)["id"]).stdout == "42 of them\n"
    none = json.loads(world.submit("exec", "--wait", "--json", "--", "true"))["id"]
    assert world.run("result", "--value", none, code=1).stdout == ""


def test_a_snoozed_job_comes_again_and_uses_no_attempt(world):
    world.start()
    text = "echo x >> $W/ran; echo $CRONQ_ATTEMPT; test $(wc -l < $W/ran) -ge 3 || echo snooze 1 >&3"
    job_id = world.submit("exec", *script(world, text))
    found = world.result(job_id)
    assert (found["state"], found["attempt"], found["max_attempts"]) == ("done", 1, 1)
    assert (world.path / "ran").read_text() == "x\n" * 3
    assert sorted(path.name for path in world.results(job_id).iterdir()) == [
        "job.json",
        "result.json",
        "stderr",
        "stdout",
    ]
    assert (world.results(job_id) / "stdout").read_text() == "1\n"


def test_a_snooze_that_a_crash_kept_from_its_place_is_taken_up_as_one(world):
    """Its line in the history says when it is due, and what it used."""
    world.start()
    job_id = world.submit("exec", *script(world, "echo snooze 1h >&3"))
    eventually(lambda: queued(world, "delayed"))
    lines = [json.loads(line) for path in (world.spool / "history").iterdir() for line in path.read_text().splitlines()]
    (record,) = (line for line in lines if line["id"] == job_id and "outcome" in line)
    verdict = settle.restored(record, Now(0.0, 0.0))
    assert isinstance(verdict, policy.Again)
    assert verdict.uses == "snoozes"
    assert verdict.at == pytest.approx(record["t"] + 3600, abs=5)


def test_a_job_that_snoozes_without_end_is_dead_with_the_reason(world):
    world.tasks("[tasks.poll]\nshell = 'echo snooze 0 >&3'\nmax_snoozes = 1\n")
    world.start()
    found = world.result(world.submit("submit", "poll"))
    assert found["state"] == "dead"
    assert "put itself off once more after 1 times (max_snoozes = 1)" in found["reason"]


def test_a_job_that_fails_has_failed_whatever_it_said_before(world):
    world.start()
    found = world.result(world.submit("exec", *script(world, "echo snooze 60 >&3; exit 3")))
    assert (found["state"], found["exit_code"]) == ("dead", 3)


def test_a_snoozing_job_that_is_cancelled_is_cancelled(world, gate):
    world.start()
    job_id = world.submit("exec", *script(world, "trap 'exit 0' TERM; echo snooze 60 >&3; cat $W/gate & wait"))
    eventually(lambda: queued(world, "running"))
    world.run("cancel", job_id)
    assert world.result(job_id)["state"] == "cancelled"


def test_the_cursor_comes_back_in_the_next_attempt_and_is_gone_with_success(world):
    world.start()
    text = SEEN + 'case $CRONQ_CURSOR in "") echo cursor page 17 >&3; exit 1;; esac'
    backoff = {"base": "10ms", "jitter": 0}
    command = ["env", f"W={world.path}", "sh", "-c", text]
    world.drop("c", {"command": command, "retries": 2, "backoff": backoff})
    eventually(lambda: list((world.spool / "out" / str(world.uid)).glob("*-c/result.json")))
    assert (world.path / "seen").read_text() == "none\npage 17\n"
    (folder,) = (world.spool / "out" / str(world.uid)).glob("*-c")
    assert not (folder / "cursor").exists()


def test_the_cursor_comes_back_after_a_snooze_and_by_hand_from_the_dead(world):
    world.start()
    text = SEEN + 'case $CRONQ_CURSOR in "") echo cursor 1 >&3; echo snooze 1 >&3;; 1) exit 1;; esac'
    job_id = world.submit("exec", *script(world, text))
    assert world.result(job_id)["state"] == "dead"
    world.run("retry", job_id)
    eventually(lambda: (world.path / "seen").read_text() == "none\n1\n1\n")


def test_the_cursor_comes_back_when_the_worker_died_in_mid_job(world):
    daemon = world.start()
    text = f"echo $PPID > $W/worker; {SEEN}"
    text += 'case $CRONQ_CURSOR in "") printf "cursor 41\\ncursor 42\\n" >&3; exec sleep 300;; esac'
    job_id = world.submit("exec", *script(world, text))
    outcome = world.spool / "queue" / "outcome" / f"{job_id}.1"
    eventually(lambda: outcome.exists() and '"cursor":"42"' in outcome.read_text())
    os.kill(int((world.path / "worker").read_text()), signal.SIGKILL)
    assert eventually(lambda: [name for name in queued(world, "delayed") if ",c1," in name and ",fr," in name])
    world.run("hold", job_id)
    assert (world.results(job_id) / "cursor").read_text() == "42"
    world.run("cancel", job_id)
    assert "worker-died" in daemon.log.read_text()


def test_the_cursor_is_kept_when_the_dispatcher_is_killed(world, gate):
    daemon = world.start()
    text = SEEN + 'case $CRONQ_CURSOR in "") echo cursor 5 >&3; cat $W/gate; echo snooze 1 >&3;; esac'
    job_id = world.submit("exec", *script(world, text))
    outcome = world.spool / "queue" / "outcome" / f"{job_id}.1"
    eventually(lambda: outcome.exists() and '"cursor":"5"' in outcome.read_text())
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    gate.write_text("")
    assert world.result(job_id)["state"] == "done"
    assert (world.path / "seen").read_text() == "none\n5\n"


def test_touch_extends_the_timeout_and_the_watchdog_ends_what_is_silent(world):
    world.start()
    touching = world.submit(
        "exec", "--timeout", "600ms", *script(world, "for n in 1 2 3 4; do sleep 0.3; echo touch >&3; done")
    )
    silent = world.submit("exec", "--watchdog", "300ms", "--", "sleep", "300")
    assert world.result(touching)["state"] == "done"
    found = world.result(silent)
    assert (found["state"], found["reason"]) == ("dead", "was silent for longer than its watchdog allows")
    assert world.run("wait", silent, code=124)


def test_a_line_of_a_crontab_has_three_descriptors_as_under_cron(world):
    look = "test -e /proc/$$/fd/2 && ! test -e /proc/$$/fd/3 && ! env | grep -q CRONQ && echo as under cron"
    (world.config / "crontab").write_text(f"@reboot ({look}) > {world.path}/seen 2>&1; touch {world.path}/ran\n")
    world.start()
    eventually((world.path / "ran").exists)
    assert (world.path / "seen").read_text() == "as under cron\n"


def test_a_submitter_may_not_make_the_watchdog_of_a_task_longer_nor_say_nonsense(world):
    world.start()
    world.drop("none", {"command": ["true"], "watchdog": 0})
    assert "watchdog must be longer than nothing" in world.rejected("none")
    assert "--watchdog must be a duration" in world.run("exec", "--watchdog", "soon", "--", "true", code=2).stderr


EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = {"sh": "thumbs.sh", sys.executable: "thumbs.py", "perl": "thumbs.pl", "node": "thumbs.js"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_examples_in_each_language_say_how_they_go(world, program):
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here")
    files = [world.path / f"{letter} {letter}.jpg" for letter in "abc"]
    for file in files:
        file.write_text("" if file.name.startswith("b") else "x" * 200)
    argv = [found, str(EXAMPLES / PROGRAMS[program]), *map(str, files)]
    subprocess.run(argv, check=True)  # without cronq
    assert [file.with_name(file.name + ".thumb").exists() for file in files] == [True, False, True]
    world.start()
    ended = world.result(world.submit("exec", "--", *argv))
    wanted = {
        "progress": [3, 3],
        "status": "c c.jpg",
        "result": "3 thumbnails",
        "warnings": [f"{files[1]} is empty"],
        "metrics": {"files": 3},
        "cursor": "3",
    }
    assert {key: ended.get(key) for key in wanted} == wanted
    again = world.submit("exec", "--", "env", "CRONQ_CURSOR=2", *argv)
    assert "warnings" not in world.result(again)  # it went on behind the second


class Terminal:
    """A command whose standard error is a terminal."""

    def __init__(self, world, *argv: str) -> None:
        self.ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 60))
        self.command = subprocess.Popen(
            [*CRONQ, *argv], env=world.env | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.seen = ""

    def shows(self, text: str) -> bool:
        """Whether it has shown this by now; waits a moment for more."""
        if text not in self.seen and select.select([self.ours], [], [], 0.05)[0]:
            try:
                self.seen += os.read(self.ours, 65536).decode()
            except OSError:
                assert text in self.seen, self.seen
        return text in self.seen

    def code(self) -> int:
        """What the command exited with."""
        while True:
            try:
                self.seen += os.read(self.ours, 65536).decode()
            except OSError:  # its end
                os.close(self.ours)
                return self.command.wait(20)


def test_a_waiting_command_shows_on_its_terminal_how_far_the_job_is(world, gate):
    world.start()
    text = "echo first; echo progress 3/10 >&3; printf 'status a\\033]52;c;x\\007b\\n' >&3; cat $W/gate; echo last"
    terminal = Terminal(world, "exec", "--wait", *script(world, text))
    eventually(lambda: terminal.shows("3/10 a?]52;c;x?b"))
    gate.write_text("")
    assert terminal.code() == 0
    assert terminal.seen.startswith("first\r\n")
    assert "\r\x1b[Klast\r\n" in terminal.seen  # the line is gone before more is printed, and at the end
    assert terminal.seen.endswith("\r\x1b[K")
    assert "]52" in terminal.seen
    assert "\x1b]52" not in terminal.seen


def test_a_line_that_is_longer_than_the_terminal_is_cut(world, gate):
    world.start()
    terminal = Terminal(world, "exec", "--wait", *script(world, f"echo status {'x' * 150} >&3; cat $W/gate"))
    eventually(lambda: terminal.shows("x" * 59))
    gate.write_text("")
    assert terminal.code() == 0
    assert "x" * 60 not in terminal.seen


def test_map_shows_what_its_jobs_say_and_counts_the_parts_of_those_under_way(world, gate):
    world.tasks(f"[tasks.copy]\nshell = 'echo progress 1/2 >&3; echo \"status copying $1\" >&3; cat {gate}'\n")
    world.start()
    lines = world.path / "lines"
    lines.write_text("b.jpg\n")
    terminal = Terminal(world, "map", "--batch", str(lines), "copy")
    eventually(lambda: terminal.shows("1/2 copying b.jpg"))
    gate.write_text("")
    assert terminal.code() == 0
    assert terminal.seen.endswith("\r\x1b[1A\x1b[2K1 done, 0 failed\r\n")  # the bar has gone before


def test_where_nobody_looks_nothing_of_it_is_printed(world):
    world.start()
    done = world.run("exec", "--wait", *script(world, "echo out; echo status copying >&3; sleep 0.3; echo err >&2"))
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def interrupted(world, *options: str, text: str = "", more: str = "") -> str:
    """A job that was running when its dispatcher was told to stop and to interrupt; that has gone."""
    world.tasks(f'[stop]\nmode = "interrupt"\n{more}')
    daemon = world.start()
    text = text or SEEN + 'echo "cursor ${CRONQ_CURSOR:-}x" >&3; test -e $W/go || { echo $$ > $W/pid; exec sleep 300; }'
    command = script(world, text) if not more else ["--env", f"W={world.path}"]
    job_id = world.submit("submit" if more else "exec", *options, *command, *(["long"] if more else []))
    eventually(lambda: (world.path / "pid").exists() and (world.path / "pid").read_text().endswith("\n"))
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    return job_id


def test_an_interruption_by_a_restart_is_no_failure_and_uses_no_attempt(world):
    job_id = interrupted(world)
    assert not alive(int((world.path / "pid").read_text()))
    (name,) = queued(world, "delayed")
    assert ",fr,i1," in name
    (world.path / "go").touch()
    world.start()
    found = world.result(job_id)
    assert (found["state"], found["attempt"], found["max_attempts"]) == ("done", 1, 1)
    assert (world.path / "seen").read_text() == "none\nx\n"


def test_a_job_that_is_interrupted_too_often_is_dead(world):
    shell = "echo $$ > $W/pid; exec sleep 300"
    job_id = interrupted(world, more=f"[tasks.long]\nshell = '{shell}'\nmax_interruptions = 0\n")
    assert "interrupted once more after 0 times" in world.result(job_id)["reason"]


def test_a_job_that_runs_at_most_once_is_not_interrupted(world):
    text = "echo $$ > $W/pid; until test -e $W/go; do sleep 0.02; done; exit 3"
    job_id = interrupted(world, "--delivery", "at-most-once", text=text)
    assert alive(int((world.path / "pid").read_text()))
    (world.path / "go").touch()
    world.start()
    assert world.result(job_id)["exit_code"] == 3


def test_without_that_mode_running_jobs_run_on(world):
    daemon = world.start()
    text = "echo $$ > $W/pid; until test -e $W/go; do sleep 0.02; done; exit 3"
    job_id = world.submit("exec", *script(world, text))
    eventually((world.path / "pid").exists)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    (world.path / "go").touch()
    world.start()
    assert world.result(job_id)["exit_code"] == 3


def test_a_line_that_a_job_has_not_ended_is_not_written_into():
    ours, theirs = pty.openpty()
    line = live.Line(theirs)
    write = line.below(os.write)
    write(theirs, b"half a")
    line.show({"progress": [3, 10]})
    write(theirs, b" line\n")
    line.erase()
    wanted, seen = b"half a line\r\n3/10\r\x1b[K", b""
    while len(seen) < len(wanted):  # a terminal hands on in parts
        seen += os.read(ours, 1000)
    assert seen == wanted
    os.close(ours), os.close(theirs)
