"""Root looks at what cronq or a user owns, and is led nowhere by it (trust.md row 25).

A dispatcher that has been broken into is `cronq`, and may put links and pipes into the places of results; a user may
put them into his inbox. Root's `cronq logs`, `wait`, `result` and `show` read there. What `cronq doctor` does in the
spool is tested in system/test_inspection.py.
"""

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from machine import CONFIG, SPOOL

pytestmark = pytest.mark.root

TRAP = Path("/var/spool/trap")  # on the spool's file system: it is no mount that keeps root out
SECRET = "of root's alone"


@pytest.fixture
def served(machine):
    """A dispatcher, a job of ann's that has ended, and a place of root's that nobody must be led to."""
    machine.start()
    machine.job = machine.submit("ann", "exec", "--", "echo", "hello")
    machine.result(machine.job)
    machine.drop("ann", "refused", {"nonsense": 1})
    machine.rejected("ann", "refused")
    for folder in (TRAP, TRAP / machine.job):
        folder.mkdir(mode=0o700)
        for name in ("stdout", "stderr", "stdout.1"):
            (folder / name).write_text(SECRET)
        (folder / "result.json").write_text(json.dumps({"state": "done", "exit_code": 0, "reason": SECRET}))
        (folder / "refused.job.reason").write_text(f"{SECRET}\nexit 65\n")
    yield machine
    shutil.rmtree(TRAP)


OF_A_JOB = ("logs {job}", "logs --follow {job}", "wait --timeout 0.2s {job}", "result {job}", "show {job}")
PLACES = {  # what is put there, and by which commands root looks
    "files": (("out/2001/{job}/stdout", "out/2001/{job}/result.json"), ("link", "fifo"), OF_A_JOB),
    "a result directory": (("out/2001/{job}",), ("link",), OF_A_JOB),
    "a user's directories": (("out/2001", "rejected/2001"), ("link",), (*OF_A_JOB, "wait --timeout 0.2s 2001-refused")),
    "a reason": (("rejected/2001/refused.job.reason",), ("link", "fifo"), ("wait --timeout 0.2s 2001-refused",)),
}


@pytest.mark.parametrize(("place", "made"), [(place, made) for place, how in PLACES.items() for made in how[1]])
def test_what_lies_in_the_place_of_results_leads_root_nowhere_and_holds_it_up_nowhere(served, place, made):
    served.stop()  # else root asks it
    paths, _, commands = PLACES[place]
    for path in (SPOOL / path.format(job=served.job) for path in paths):
        subprocess.run(["rm", "-rf", path], check=True)
        os.mkfifo(path) if made == "fifo" else path.symlink_to(
            TRAP / path.name if path.name in os.listdir(TRAP) else TRAP
        )
        os.lchown(path, served.uids["cronq"], served.uids["cronq"])
    begun = []
    for words in commands:
        argv = [
            "timeout",
            "-s",
            "INT",
            "1" if "--follow" in words else "6",
            "cronq",
            *words.format(job=served.job).split(),
        ]
        begun.append(subprocess.Popen(argv, stdout=-1, stderr=-2, text=True, **served.identity("root")))
    for words, process in zip(commands, begun, strict=True):
        said = process.communicate()[0]
        assert SECRET not in said, words
        assert process.returncode != 124 or "--follow" in words, f"{words} waits"


def test_what_is_removed_is_the_link_and_not_where_it_leads(served):
    path = SPOOL / "out/2001" / served.job
    ours = served.base / "ours"
    subprocess.run(
        ["sh", "-c", f"mkdir -p {ours}/inside && touch {ours}/inside/file && chown -R cronq {ours}"], check=True
    )
    for target in (ours, TRAP):
        shutil.rmtree(path) if not path.is_symlink() else path.unlink()
        path.symlink_to(target)
        served.cronq("root", "rm", served.job, code=None)
    assert (ours / "inside" / "file").exists()
    assert (TRAP / "stdout").exists()


def _mount_what_never_answers(machine, path: Path) -> int:
    """A file system that a user serves, and does not: whoever asks it something waits for ever."""
    line = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={line},rootmode=100000,user_id=2001,group_id=2001,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"ann", os.fsencode(path), b"fuse", ctypes.c_ulong(0), options) != 0:
        pytest.skip(f"no FUSE here: {os.strerror(ctypes.get_errno())}")
    return line


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no FUSE here")
def test_what_a_user_mounts_in_his_inbox_does_not_hold_up_root(served):
    """The dispatcher is stopped: the client looks by itself whether a job is waiting there."""
    served.stop()
    path = served.inbox("ann") / "slow.job"
    path.touch()
    line = _mount_what_never_answers(served, path)
    try:
        for argv in (("wait", "--timeout", "0.2s", "2001-slow"), ("show", "2001-slow"), ("logs", "2001-slow")):
            served.cronq("root", *argv, code=None, timeout=60)
    finally:
        os.close(line)
        subprocess.run(["umount", "--lazy", path], check=True)


def test_check_and_doctor_become_the_user_before_they_look_at_what_is_his(served):
    """A task's home, directory, env_file and program: root would follow links there, and wait for pipes."""
    home = served.home("carl")
    served.as_user("carl", "sh", "-c", f"ln -s {TRAP} cwd; ln -s {TRAP}/stdout env; mkfifo pipe; ln -s {TRAP} bin")
    text = '[tasks.a]\ncommand = ["%s/bin/stdout"]\nuser = "carl"\ncwd = "%s/cwd"\nenv_file = "%s/%s"\n'
    for name in ("env", "pipe"):
        served.tasks(text % (home, home, home, name))
        for argv in (("check",), ("doctor",)):
            done = served.cronq("root", *argv, code=None, timeout=60)
            assert SECRET not in done.stdout + done.stderr
            assert f"its cwd {home}/cwd: Permission denied" in done.stdout
            assert "is not found by carl" in done.stdout or "cannot be run by carl" in done.stdout
    assert CONFIG.exists()
