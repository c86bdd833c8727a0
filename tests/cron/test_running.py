"""Crontabs under a real dispatcher, rootless: cron's world, what excludes each other, what ends a job."""

import json
import os
import pwd
import signal
import time
from pathlib import Path

import pytest
from conftest import eventually

from cronq import cronworld

ACCOUNT = pwd.getpwuid(os.getuid())


@pytest.fixture
def tab(world):
    """Write the configuration's crontab, and start the dispatcher the first time."""

    def write(text: str | bytes) -> None:
        draft = world.config / ".draft"
        draft.write_bytes(text if isinstance(text, bytes) else text.encode())
        draft.chmod(0o644)
        draft.rename(world.config / "crontab")
        if not world.daemons:
            world.start()

    return write


def ended(world, name: str, count: int = 1) -> list[Path]:
    """The result directories of ticks of this line, as soon as so many have ended."""
    folder = world.spool / "out" / str(world.uid)

    def look() -> list[Path]:
        found = sorted(path.parent for path in folder.glob(f"{world.uid}-tab-{name}-*/result.json"))
        return found if len(found) >= count else []

    return eventually(look)


def test_a_job_finds_exactly_crons_world(world, tab, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    tab(
        f"""LOGNAME=somebody
A="b  c"
# cronq: name=env
@every 1s exec env -0
# cronq: name=order
@every 1s echo 1; echo 2 >&2; echo 3; umask; pwd; cat; [ -t 0 ] || echo no terminal
HOME={here}
# cronq: name=home
@every 1s pwd; cat%one%two\\%%%last
HOME=/nowhere
SHELL=/bin/bash
# cronq: name=nowhere
PATH=/bin:/sbin
@every 1s pwd; echo $BASH_VERSION; echo $PATH; [ $(ps -o sid= $$) = $$ ] && echo its own session
"""
    )
    got = (ended(world, "env")[0] / "stdout").read_bytes()
    files = {}
    for path in cronworld.FILES:
        files |= cronworld.parse(Path(path).read_bytes()) if Path(path).exists() else {}
    wanted = files | {
        b"HOME": ACCOUNT.pw_dir.encode(),
        b"LOGNAME": ACCOUNT.pw_name.encode(),
        b"PATH": b"/usr/bin:/bin",
        b"SHELL": b"/bin/sh",
        b"A": b"b  c",
    }
    # A shell that is no bash may add PWD; debian's does.
    assert (
        dict(each.split(b"=", 1) for each in got.split(b"\0")[:-1] if not each.startswith((b"PWD=", b"OLDPWD=")))
        == wanted
    )
    order = ended(world, "order")[0]
    assert (order / "stdout").read_text() == f"1\n2\n3\n0022\n{ACCOUNT.pw_dir}\nno terminal\n"
    assert (order / "stderr").read_bytes() == b""
    assert (ended(world, "home")[0] / "stdout").read_text() == f"{here}\none\ntwo%\n\nlast\n"
    nowhere = (ended(world, "nowhere")[0] / "stdout").read_text().splitlines()
    assert nowhere[0] == "/"
    assert nowhere[1]
    assert nowhere[2:] == ["/bin:/sbin", "its own session"]


def test_the_bytes_of_a_command_are_run_as_they_are(world, tab):
    tab(b'V=\xfe\n# cronq: name=a\n@every 1s printf \'%%s|\' "\xff\xc3\xa4" "$V"'.replace(b"%%", b"\\%") + b"\n")
    folder = ended(world, "a")[0]
    assert (folder / "stdout").read_bytes() == b"\xff\xc3\xa4|\xfe|"
    assert "\\377ä" in json.loads((folder / "result.json").read_text())["command"][2]


def test_children_that_a_job_leaves_behind_live_on(world, tab, tmp_path):
    pid = tmp_path / "pid"
    tab(f"# cronq: name=a overlap=skip\n@every 1s [ -e {pid} ] || {{ sleep 60 & echo $! > {pid}; }}\n")
    ended(world, "a")
    child = int(eventually(lambda: pid.exists() and pid.read_text()))
    assert Path(f"/proc/{child}").exists()
    os.kill(child, signal.SIGKILL)


def test_ticks_take_no_place_of_others_and_others_take_none_of_theirs(world, tab):
    world.tasks("[limits]\nmax_jobs = 1\n")
    tab("")
    long = world.submit("exec", "--", "sleep", "60")
    tab("".join(f"# cronq: name=n{n} overlap=skip\n@every 1s sleep 60\n" for n in range(5)))

    def running() -> int:
        return len(list((world.spool / "queue" / "running").iterdir()))

    eventually(lambda: running() == 6)
    tab("")
    world.run("cancel", "--now", long)
    quick = world.submit("exec", "--", "true")
    assert world.result(quick)["state"] == "done"


def test_slots_of_the_queue_cron_hold_for_ticks(world, tab, tmp_path):
    world.tasks("[queues.cron]\nslots = 1\n")
    ledger = tmp_path / "ledger"
    tab("".join(f"@every 1s echo + >> {ledger}; sleep 0.02; echo - >> {ledger} # {n}\n" for n in range(6)))
    text = eventually(lambda: ledger.exists() and len(t := ledger.read_text().replace("\n", "")) >= 24 and t)
    assert "++" not in text


@pytest.mark.parametrize("options", ["mutex=disk", "overlap=queue"])
def test_what_excludes_each_other_never_runs_at_once(world, tab, tmp_path, options):
    ledger = tmp_path / "ledger"
    names = ("a", "b") if options == "mutex=disk" else ("a",)
    run = f"echo + >> {ledger}; sleep 0.7; echo - >> {ledger}"
    tab("".join(f"# cronq: name={name} {options}\n@every 1s {run} # {name}\n" for name in names) + "@every 1s true\n")
    text = eventually(lambda: ledger.exists() and len(t := ledger.read_text().replace("\n", "")) >= 8 and t)
    assert "++" not in text


def test_overlap_replace_ends_the_old_run_before_the_new_one_begins(world, tab, tmp_path):
    ledger = tmp_path / "ledger"
    run = f"trap 'echo - >> {ledger}; exit' TERM; echo + >> {ledger}; sleep 60 & wait"
    tab(f"# cronq: name=a overlap=replace\n@every 1s {run}\n")
    text = eventually(lambda: ledger.exists() and len(t := ledger.read_text().replace("\n", "")) >= 4 and t)
    assert text.startswith("+-+-")
    assert json.loads((ended(world, "a")[0] / "result.json").read_text())["state"] == "cancelled"


def test_timeout_and_retries_of_a_line(world, tab, tmp_path):
    ledger = tmp_path / "ledger"
    tab(
        f"# cronq: name=slow timeout=200ms overlap=skip\n@every 1s sleep 60\n"
        f"# cronq: name=again retries=3 overlap=skip\n@every 1s echo x >> {ledger}; exit 75\n"
    )
    eventually(lambda: "ran longer than its timeout" in world.daemons[0].log.read_text())
    eventually(lambda: any("-tab-again-" in path.name for path in (world.spool / "queue" / "delayed").rglob("*")))


def test_a_tick_whose_line_changed_before_it_started_is_refused(world, tab, tmp_path):
    world.tasks("[queues.cron]\nslots = 1\n")
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    tab(f"# cronq: name=first overlap=skip\n@every 1s touch {begun}; until [ -e {gate} ]; do sleep 0.02; done\n")
    eventually(begun.exists)  # from then on its line may go
    tab(f"# cronq: name=a overlap=skip\n@every 1s touch {tmp_path}/old\n")
    eventually(lambda: list((world.spool / "queue" / "ready").rglob("*-tab-a-*")))
    tab(f"# cronq: name=a overlap=skip\n@every 1s touch {tmp_path}/new\n")
    eventually(lambda: world.daemons[0].log.read_text().count("event=crontab-loaded") == 3)
    gate.touch()
    eventually(lambda: "its crontab line is another now" in world.daemons[0].log.read_text())
    eventually((tmp_path / "new").exists)
    assert not (tmp_path / "old").exists()


def test_a_tick_can_be_cancelled_and_all_of_it_ends(world, tab, tmp_path):
    pids = tmp_path / "pids"
    tab(f"# cronq: name=a overlap=skip\n@every 1s echo $$ > {pids}; sleep 60 & echo $! >> {pids}; wait\n")
    first, second = eventually(lambda: pids.exists() and len(p := pids.read_text().split()) == 2 and p)
    (entry,) = (world.spool / "queue" / "running").iterdir()
    tab("")
    world.run("cancel", "--now", entry.name.split(",")[2])
    for pid in (first, second):
        eventually(lambda pid=pid: not _alive(int(pid)))


def test_a_job_whose_worker_died_is_found_by_its_input_and_ended_and_not_run_again(world, tab, tmp_path):
    pids = tmp_path / "pids"
    tab(f"# cronq: name=a overlap=skip\n@every 1s echo $$ >> {pids}; sleep 60 & wait\n")
    pid = int(eventually(lambda: pids.exists() and pids.read_text()))
    tab("")
    eventually(lambda: world.daemons[0].log.read_text().count("event=crontab-loaded") == 2)
    assert "/memfd:cronq:" in os.readlink(f"/proc/{pid}/fd/0")
    worker = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not _alive(pid))
    eventually(lambda: "an at-most-once job is not run again" in world.daemons[0].log.read_text())
    assert len(pids.read_text().split()) == 1


def test_a_restart_goes_on_where_it_was(world, tab, tmp_path):
    ledger = tmp_path / "ledger"
    tab(f"# cronq: name=a\n@every 1s date +\\%s >> {ledger}\n")
    ended(world, "a", 2)
    pid = world.dispatcher(world.daemons[0])
    os.kill(pid, signal.SIGKILL)
    ended(world, "a", 4)
    names = [path.name for path in ended(world, "a", 4)]
    seconds = [int(name.rpartition("-")[2], 16) // 1_000_000 for name in names]
    assert len(set(seconds)) == len(seconds)
    assert len(ledger.read_text().split()) >= len(names)
    assert time.time() - seconds[-1] < 60


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_of_a_line_that_fails_each_time_one_dead_letter_is_kept_and_all_results(world, tab):
    tab("# cronq: name=a\n@every 1s exit 3\n")
    ended(world, "a", 3)
    tab("")
    eventually(lambda: not list((world.spool / "queue" / "running").iterdir()))
    *earlier, last = [path.name for path in ended(world, "a", 3)]
    dead = eventually(lambda: len(d := list((world.spool / "queue" / "dead").iterdir())) == 1 and d)
    assert f",{last}," in dead[0].name
    assert f"job {earlier[0]} is no dead letter any more" in world.run("retry", earlier[0], code=65).stderr
    assert world.run("rm", earlier[0]).returncode == 0
    assert not world.results(earlier[0]).exists()
    world.run("rm", last)
    assert list((world.spool / "queue" / "dead").iterdir()) == []
