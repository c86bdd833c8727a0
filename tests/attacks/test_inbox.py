"""What one user puts into his inbox to harm another, cronq, or root (trust.md rows 1 to 6, 12, 16, 21, 22, 26).

Each attack is ann's, with her ids, on a running system; bob works beside her and must not notice (siege.py).
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import eventually
from inotify_simple import INotify, flags
from machine import SPOOL
from siege import Siege

from cronq import entry, job

pytestmark = pytest.mark.root
LONG = bool(os.environ.get("CRONQ_LONG"))

ENDINGS = ("job", "jobs", "tab")
# Shapes of a NAME that is no plain file of ann's own: what she runs, and words of the reason.
SHAPES = {
    "a link to a file of root's": ("import os, sys; os.symlink('/etc/shadow', sys.argv[1])", "symbolic link"),
    "a link to a directory": ("import os, sys; os.symlink('/etc', sys.argv[1])", "symbolic link"),
    "a link that leads nowhere": ("import os, sys; os.symlink('/nowhere', sys.argv[1])", "symbolic link"),
    "a link to bob's inbox": ("import os, sys; os.symlink('../2002/x.job', sys.argv[1])", "symbolic link"),
    "a FIFO": ("import os, sys; os.mkfifo(sys.argv[1], 0o640)", "FIFO"),
    "a socket": ("import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", "socket"),
    "a directory": ("import os, sys; os.mkdir(sys.argv[1]); os.chmod(sys.argv[1], 0o2777)", "directory"),
    "a sparse file of a tebibyte": (
        "import os, sys; open(sys.argv[1], 'w').truncate(1 << 40); os.utime(sys.argv[1], (0, 0))",
        "64 KiB",
    ),
    "what nobody else may read": (
        "import os, sys; open(sys.argv[1], 'w').close(); os.chmod(sys.argv[1], 0o600)",
        "640",
    ),
    "what all may write": ("import os, sys; open(sys.argv[1], 'w').close(); os.chmod(sys.argv[1], 0o666)", "640"),
    "what has another name": ("import os, sys; open('x', 'w').close(); os.link('x', sys.argv[1])", "links"),
    "what came by mv": (
        "import os, sys; open('x', 'w').close(); os.chown('x', -1, os.getgid()); os.rename('x', sys.argv[1])",
        "use cp",
    ),
    "what came by mv and all may read": (
        "import os, sys; open('x', 'w').close(); os.chmod('x', 0o644); os.chown('x', -1, os.getgid()); "
        "os.rename('x', sys.argv[1])",
        "not mv",
    ),
}


SHAPE = """
import json, os, sys
for code, name in json.loads(sys.argv[1]):
    sys.argv[1] = f".{name}"
    exec(code, {})
    if os.path.lexists("x"):
        os.rename("x", f".x.{name}")  # each keeps its own
    os.rename(f".{name}", name)
"""


def make_shapes(siege, wanted: list[tuple[str, str]]) -> None:
    """Let ann make such files, under other names first."""
    siege.run("ann", SHAPE, json.dumps(wanted))


def test_what_is_no_plain_file_of_his_is_refused_with_a_reason_and_holds_nobody_up(siege):
    make_shapes(
        siege, [(code, f"s{number}.{end}") for number, (code, _) in enumerate(SHAPES.values()) for end in ENDINGS]
    )
    for number, (shape, (_, words)) in enumerate(SHAPES.items()):
        for ending in ENDINGS:
            reason = siege.machine.rejected("ann", f"s{number}", ending)
            assert words in reason or (words == "64 KiB" and "4194304" in reason and ending == "tab"), (shape, ending)
    siege.unharmed()
    assert not any(b"root:" in path.read_bytes() for path in (SPOOL / "out/2001").rglob("std*"))


def test_no_link_is_followed_not_even_to_a_job_of_ones_own(siege):
    elsewhere = SPOOL.parent / "linked"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    with INotify() as trap:
        trap.add_watch(elsewhere, flags.OPEN | flags.ACCESS)
        for name in ("a.job", "b.jobs", "c.data"):
            target = elsewhere / name
            target.write_text('{"command": ["true"]}\n')
            target.chmod(0o640)
            os.chown(target, 2001, siege.inbox().stat().st_gid)
            while trap.read(timeout=0):
                pass  # it is set: so it saw us
            (siege.inbox() / name).symlink_to(target)
        siege.put("ann", "c", {"command": ["true"]})
        for name, ending in (("a", "job"), ("b", "jobs"), ("c", "job")):
            assert "symbolic link" in siege.machine.rejected("ann", name, ending)
        siege.unharmed()
        assert [event.name for event in trap.read(timeout=0)] == []


def test_of_a_file_no_more_is_read_than_a_job_may_have(siege):
    """Whatever its size says: the dispatcher takes no more memory than before."""
    for name in ("a.job", "b.jobs", "c.tab"):
        siege.run("ann", SHAPES["a sparse file of a tebibyte"][0], f".{name}")
        siege.run("ann", "import os, sys; os.rename(*sys.argv[1:])", f".{name}", name)
        assert siege.machine.rejected("ann", *name.split("."))
    siege.unharmed()
    status = Path(f"/proc/{siege.dispatcher}/status").read_text()
    assert int(next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM"))) < 128 << 10  # KiB


def test_a_device_is_refused(siege):
    for number, (kind, major, minor) in enumerate([("c", 1, 8), ("c", 1, 5), ("b", 7, 0)]):
        node = siege.inbox() / f".d{number}.tmp"
        subprocess.run(["mknod", "-m", "640", node, kind, str(major), str(minor)], check=True)
        node.rename(siege.inbox() / f"d{number}.job")
        assert "device" in siege.machine.rejected("ann", f"d{number}")
    siege.unharmed()


def test_what_is_no_plain_file_is_no_input_either(siege):
    for number, (code, _) in enumerate(SHAPES.values()):
        if "tebibyte" in list(SHAPES)[number]:
            continue
        make_shapes(siege, [(code, f"i{number}.data")])
        siege.put("ann", f"i{number}", {"command": ["cat"]})
    for number in range(len(SHAPES)):
        if "tebibyte" not in list(SHAPES)[number]:
            assert siege.machine.rejected("ann", f"i{number}"), list(SHAPES)[number]
    siege.unharmed()


def test_a_hard_link_to_bobs_job_is_not_bobs_job(siege):
    """Bob's inbox and cronq's directories keep her out; so root puts it there for her, linked and moved."""
    for number, link in enumerate((os.link, os.rename)):
        his = Path("/var/spool/elsewhere")
        his.mkdir(exist_ok=True)
        file = his / f"{number}.job"
        file.write_text(json.dumps({"command": ["touch", "/home/bob/ran"]}))
        os.chown(file, 2002, siege.inbox().stat().st_gid)
        file.chmod(0o640)
        link(file, siege.inbox() / f"his{number}.job")
        assert "belongs to uid 2002" in siege.machine.rejected("ann", f"his{number}")
    siege.unharmed()
    assert not (siege.machine.home("bob") / "ran").exists()


RACE = """
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
tried = taken = 0
while time.monotonic() < end or tried <= 3000:
    for name in (f"r{tried}.job", f"../2002/r{tried}.job"):
        for source in ("../2002/work.job", "../2002/.work.tmp", f"../2002/hot{tried % 50}.job"):
            try:
                os.rename(source, name)
                taken += 1
            except OSError:
                pass
    tried += 1
print(tried, taken)
"""


def test_a_racer_never_gets_hold_of_a_file_of_bobs(siege):
    racer = siege.begin("ann", RACE, 3)
    while racer.poll() is None:
        for number in range(50):
            siege.put("bob", f"hot{number}", {"command": ["true"], "note": "bob's"})
        siege.unharmed(within=10, times=1)  # it waits behind fifty of his own
    tried, taken = map(int, racer.communicate()[0].split())
    assert tried > 3000
    assert taken == 0
    assert not any(b"bob's" in path.read_bytes() for path in (SPOOL / "out/2001").rglob("job.json"))


@pytest.fixture
def gated(machine):
    """A siege in which jobs are judged and queued, and none starts before its gate is opened."""
    tasks = '[limits]\nmax_jobs = 1\n[tasks.cat]\ncommand = ["cat"]\nuser = "carl"\nsubmit = ["ann"]\n'
    siege = Siege(machine, tasks=tasks)
    gate = machine.home("bob") / "gate"
    siege.open_gate = gate.touch
    machine.submit("bob", "exec", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done")
    eventually(lambda: list((SPOOL / "queue/running").iterdir()))
    yield siege
    siege.close()


def ready() -> list[entry.Entry]:
    """The jobs of ann's that are queued."""
    return [entry.parse(path.name) for path in (SPOOL / "queue/ready").rglob("*,2001-*")]


FLIP = """
import mmap, os, sys
good, evil, count = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
pages = []
for number in range(count):
    with open(".f.tmp", "w+b") as file:
        file.write(evil if number % 2 else good)
        file.flush()
        pages.append(mmap.mmap(file.fileno(), 0))
    os.rename(".f.tmp", f"flip{number}.job")
while True:
    for data in (evil, good):
        for page in pages:
            page[:] = data
"""


def test_bytes_that_change_after_the_judgement_never_run(gated):
    """All bytes change all the time, between admission and start, too: whatever ran printed what had been admitted."""
    count = 3000 if LONG else 60
    good = json.dumps({"command": ["/bin/echo", "AAAA"]})
    flipper = gated.begin("ann", FLIP, good, good.replace("AAAA", "BBBB"), count)
    admitted: dict[str, str] = {}

    def all_judged() -> bool:
        admitted.update((each.id, each.hash) for each in ready())
        refused = {path.name.partition(".")[0] for path in _reasons("flip")}
        return len({job_id.rpartition("-")[2] for job_id in admitted} | refused) == count

    eventually(all_judged)
    gated.open_gate()

    def all_over() -> bool:
        return len(list((SPOOL / "out/2001").glob("*-flip*/result.json"))) + len(_reasons("flip")) >= count

    eventually(all_over)
    flipper.kill()
    ran = {path.parent.name: path.read_text() for path in (SPOOL / "out/2001").glob("*-flip*/stdout")}
    ran = {job_id: output for job_id, output in ran.items() if output}
    for job_id, output in ran.items():
        assert entry.digest(good.replace("AAAA", output.strip()).encode()) == admitted[job_id], (job_id, output)
    assert ran
    assert any("changed after" in path.read_text() for path in _reasons("flip"))
    gated.unharmed(times=1)


def _reasons(name: str) -> list[Path]:
    return list((SPOOL / "rejected/2001").glob(f"*{name}*.reason"))


CHANGES = {
    "written": "os.pwrite(descriptor, b'BBBB', data.index(b'AAAA'))",
    "cut": "os.ftruncate(descriptor, 0)",
    "longer": "os.pwrite(descriptor, b' ', len(data))",
    "another": "os.ftruncate(descriptor, 0); os.pwrite(descriptor, data.replace(b'echo', b'true'), 0)",
}


def test_whoever_keeps_a_job_open_changes_nothing_but_that_it_is_refused(gated):
    code = """
import os, sys
data = sys.argv[1].encode()
kept = {}
for name, change in zip(sys.argv[2::2], sys.argv[3::2]):
    descriptor = os.open(f".{name}.tmp", os.O_CREAT | os.O_RDWR, 0o640)
    os.write(descriptor, data)
    os.rename(f".{name}.tmp", f"{name}.job")
    kept[descriptor] = change
sys.stdin.readline()
for descriptor, change in kept.items():
    exec(change)
"""
    words = [word for each in CHANGES.items() for word in each]
    writer = gated.begin("ann", code, json.dumps({"command": ["/bin/echo", "AAAA"]}), *words)
    eventually(lambda: len(ready()) == len(CHANGES))
    writer.communicate("now\n")
    gated.open_gate()
    for name in CHANGES:
        reason = eventually(lambda name=name: next((path.read_text() for path in _reasons(name)), ""))
        assert "changed after it was accepted" in reason
    assert not any(path.read_bytes() for path in (SPOOL / "out/2001").glob("*/stdout"))


def test_input_for_another_user_is_a_copy_that_its_submitter_cannot_change(gated):
    code = """
import os, sys
kept = os.open("input.data", os.O_CREAT | os.O_RDWR, 0o640)
os.write(kept, b"AAAA")
with open(".input.tmp", "w") as file:
    file.write(sys.argv[1])
os.rename(".input.tmp", "input.job")
sys.stdin.readline()
os.pwrite(kept, b"BBBB", 0)
"""
    writer = gated.begin("ann", code, json.dumps({"task": "cat"}))
    eventually(ready)
    writer.communicate("now\n")
    gated.open_gate()
    assert gated.machine.output(gated.job_id("ann", "input")) == "AAAA"


BOMBS = [
    b"{" * 60_000,
    b'{"command":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"command": ["true"], "command": ["id"]}',
    b'{"command": ["true"], "delay": NaN}',
    b'{"command": ["true"], "delay": Infinity}',
    b'{"command": ["tr\\u0000ue"]}',
    b'{"command": ["\\ud800"]}',
    b'{"command": ["true"], "uid": 0}',
    b'{"command": ["true"], "user": "root"}',
    b'{"command": "true"}',
    b'{"command": ["true"], "retries": 1e400}',
    b'{"command": ["true"], "priority": ' + b"9" * 5000 + b"}",
    b'{"command": ["true"], "env": {"A=B": "x"}}',
    b"\xff\xfe{}",
    b"\x00" * 1000,
    b"null",
    b"",
    b'{"command": ["true"]} trailing',
    b" " * 70_000,
    b'{"command": ["true"]}' + b" " * 70_000,
]


def test_what_is_no_job_is_a_refusal_with_a_reason(siege):
    for number, bomb in enumerate(BOMBS):
        siege.put("ann", f"b{number}", bomb, age=0 if LONG else 60)  # what is young may still be being written
    for number, bomb in enumerate(BOMBS):
        reason = eventually(lambda number=number: _verdict(f"b{number}"))
        assert reason.endswith("exit 65\n"), bomb[:40]
        assert reason.isprintable() or reason.count("\n") == 2
    siege.unharmed()


def _verdict(name: str) -> str:
    """Why a file of ann's was refused, or that it was not."""
    path = SPOOL / "rejected" / "2001" / f"{name}.job.reason"
    queued = [*(SPOOL / "queue").rglob(f"*-{name}*"), *(SPOOL / "out/2001").glob(f"*-{name}")]
    return path.read_text() if path.exists() else f"{queued} is a job" if queued else ""


def test_a_hostile_name_is_logged_printable_and_taken_by_nobody(siege):
    code = """
import os
names = b"\\n", b"\\x1b]52;c;x\\x07", b"\\xff", b"-rf", b"a" * 251, b".", b"a b", b"cron-x"
for name in [name + b".job" for name in names]:
    try:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o640))
    except OSError:
        pass
"""
    siege.run("ann", code)
    eventually(lambda: "event=name-refused" in siege.machine.log)
    siege.unharmed()
    assert all(line.isprintable() for line in siege.machine.log.splitlines())


def test_an_argument_is_one_word_whatever_it_says(machine):
    who = 'user = "carl"\nsubmit = ["ann"]\n'
    machine.tasks('[tasks.say]\nshell = \'printf "%s\\n" "$@"\'\nallow = ["options"]\n' + who)
    machine.start()
    evil = ["; id", "$(id)", "`id`", "a\tb", "-rf", "--", "'", '"', "*", "~root", "\\", "a && b | c > /tmp/x"]
    job = machine.submit("ann", "submit", "say", "--", *evil)
    assert machine.output(job).splitlines()[-len(evil) :] == evil
    machine.tasks('[tasks.say]\ncommand = ["echo"]\n' + who)
    machine.stop()
    machine.start()
    machine.drop("ann", "dash", {"task": "say", "args": ["-n"]})
    assert "allow" in machine.rejected("ann", "dash")


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o700, 0o755, 0o2750])
def test_who_closes_his_inbox_holds_up_himself_only(siege, mode):
    siege.inbox().chmod(mode)
    siege.put("ann", "closed", {"command": ["true"]})
    siege.unharmed()
    siege.inbox().chmod(0o2770)
    siege.put("ann", "open", {"command": ["true"]})
    assert siege.machine.result(siege.job_id("ann", "open"))["state"] == "done"


def test_his_own_results_are_not_his_to_change(siege):
    siege.machine.submit("ann", "exec", "--wait", "--", "true")
    code = """
import os
tried = []
spool = "/var/spool/cronq"
out = f"{spool}/out/2001"
job = f"{out}/{os.listdir(out)[0]}"
for act in (
    lambda: os.mkdir(f"{out}/2001-x"), lambda: os.symlink("/etc", f"{out}/2001-y"), lambda: os.unlink(f"{job}/stdout"),
    lambda: os.symlink("/etc/passwd", f"{job}/result.json.1"), lambda: os.rename(job, f"{out}/z"),
    lambda: os.open(f"{job}/result.json", os.O_WRONLY), lambda: os.listdir(f"{spool}/out"),
    lambda: os.open(f"{spool}/queue/dispatcher.lock", os.O_RDONLY), lambda: os.listdir(f"{spool}/history"),
    lambda: os.open(f"{spool}/out/2002", os.O_RDONLY), lambda: os.listdir(f"{spool}/in/2002"),
    lambda: os.listdir(f"{spool}/hello"), lambda: os.rename(f"{spool}/in/2001", f"{spool}/in/x"),
):
    try:
        act()
        tried.append(True)
    except PermissionError:
        tried.append(False)
print(any(tried), len(tried))
"""
    assert siege.run("ann", code).split() == ["False", "13"]


def test_a_name_that_is_another_users_is_free_to_all(siege):
    for user in ("bob", "ann"):
        siege.put(user, "backup", {"command": ["true"], "at": "2099-01-01"})
    eventually(lambda: list((SPOOL / "queue/delayed").rglob("*,2002-*-backup*")))
    waiting = eventually(lambda: list((SPOOL / "queue/delayed").rglob("*,2001-*-backup*")) or _reasons("backup"))
    assert waiting[0].suffix != ".reason", waiting[0].read_text()


def test_links_among_his_results_lead_to_nobody_elses(siege):
    """Her own result directories are not hers to write; so root plants it for her."""
    his = siege.machine.submit("bob", "exec", "--wait", "--", "echo", "bob's")
    his = next(path for path in (SPOOL / "out/2002").glob("*/stdout") if path.read_text() == "bob's\n")
    name = job.new_name()
    planted = SPOOL / "out/2001" / f"2001-{name}"
    planted.mkdir()
    for output in ("stdout", "stderr"):
        (planted / output).symlink_to(his)
    os.chown(planted, siege.machine.uids["cronq"], -1)
    siege.put("ann", name, {"command": ["sh", "-c", "echo forged; echo forged >&2"]})
    assert siege.machine.result(planted.name)["state"] == "done"
    assert his.read_text() == "bob's\n"
    assert (planted / "stdout").read_text() == "forged\n"


def test_an_operator_cannot_touch_an_inbox(siege):
    siege.machine.tasks('[control]\noperators = "ops"\n')
    siege.machine.launcher.send_signal(signal.SIGHUP)
    eventually(lambda: "event=reloaded" in siege.machine.log)
    assert "2001-" in siege.machine.cronq("carl", "list", "--all").stdout  # he is one
    code = """
import os, sys
done = []
for act in (
    lambda: os.listdir(sys.argv[1]), lambda: os.close(os.open(sys.argv[1] + "/x.job", os.O_CREAT | os.O_WRONLY)),
    lambda: os.mkdir(sys.argv[1] + "/d"), lambda: os.chdir(sys.argv[1]),
):
    try:
        act()
        done.append(True)
    except PermissionError:
        done.append(False)
print(done)
"""
    assert siege.run("carl", code, siege.inbox(), cwd="/") == "[False, False, False, False]\n"


def test_nobody_can_hold_a_lock_that_cronq_needs(siege):
    """Whatever of the spool she can open she waits to lock, and holds as soon as it is free: while cronq restarts."""
    code = """
import fcntl, os, sys, threading
for path in sys.stdin.readline().split("\\0"):
    try:
        descriptor = os.open(path.strip(), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        continue
    threading.Thread(target=fcntl.flock, args=(descriptor, fcntl.LOCK_EX), daemon=True).start()
print("open", flush=True)
sys.stdin.readline()
"""
    holder = siege.begin("ann", code)
    paths = [SPOOL, *SPOOL.rglob("*"), Path("/run/cronq"), Path("/etc/cronq"), Path("/etc/cronq/cronq.toml")]
    holder.stdin.write("\0".join(map(str, paths)) + "\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "open\n"
    siege.unharmed()
    siege.machine.stop()
    siege.start()
    siege.unharmed()


def test_a_lease_on_a_job_holds_up_nobody(siege):
    code = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(".l.tmp", "w") as file:
    file.write('{"command": ["true"]}')
os.chmod(".l.tmp", 0o640)
descriptor = os.open(".l.tmp", os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
os.rename(".l.tmp", "leased.job")
print("leased", flush=True)
sys.stdin.read()
"""
    holder = siege.begin("ann", code)
    assert holder.stdout.readline() == "leased\n"
    assert "cannot be opened" in siege.machine.rejected("ann", "leased")
    siege.unharmed()
