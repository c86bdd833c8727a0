"""Whom root starts, and what they keep of root's: nothing (trust.md rows 8 to 10, and what a session hands on)."""

import os
from pathlib import Path

import pytest
from conftest import eventually
from liar import LONG, PYTHON, Liar, fds
from machine import SPOOL

from cronq import wire

pytestmark = pytest.mark.root


@pytest.fixture
def lie(machine):
    """Start launchers whose dispatcher we are."""
    made = []

    def start(**how) -> Liar:
        made.append(Liar(machine, **how))
        return made[-1]

    start.machine = machine
    yield start
    for each in made:
        each.close()


def _status(pid: int) -> dict[str, str]:
    return dict(row.split(":\t", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in row)


def test_the_dispatcher_is_cronq_and_can_never_be_anybody_else(lie):
    liar = lie(prefix=["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"])
    status = _status(liar.told["pid"])
    assert set(status["Uid"].split()) == {str(liar.uid)}
    assert set(status["Gid"].split()) == {str(liar.gid)}
    assert status["Groups"].split() == []
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"  # no set-user-ID program helps it


def test_a_worker_is_its_user_with_all_his_groups_and_nobody_else(lie):
    liar = lie(prefix=["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"])
    worker = liar.worker(2001)
    status = eventually(lambda: _status(worker.pid)["Uid"].split()[0] == "2001" and _status(worker.pid))
    identity = liar.machine.identity("ann")
    assert set(status["Uid"].split()) == {"2001"}
    assert set(status["Gid"].split()) == {str(identity["group"])}
    assert {int(word) for word in status["Groups"].split()} == set(identity["extra_groups"])
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "0"  # jobs may use sudo and ping


# -------------------------------------------------------------------- descriptors (row 9)

OPENS = """
import os, pwd
shadow = open("/etc/shadow"); os.set_inheritable(shadow.fileno(), True)
spare = [os.open("/etc", os.O_RDONLY) for _ in range(20)]
for each in spare: os.set_inheritable(each, True)
real = pwd.getpwuid
def keeps_open(uid):  # as a library behind NSS may
    if os.geteuid() == 0: os.open("/etc/shadow", os.O_RDONLY)
    return real(uid)
pwd.getpwuid = keeps_open
"""


def test_no_descriptor_of_roots_comes_along(lie):
    # Whatever the launcher, or a library in it, has open: dispatcher and worker have four, and this job three.
    liar = lie(before=OPENS, pass_fds=(shadow := os.open("/etc/shadow", os.O_RDONLY),))
    os.close(shadow)
    assert "/etc/shadow" in fds(liar.launcher.pid).values()
    assert liar.told["fds"] == [0, 1, 2, liar.told["line"]]
    assert [fds(liar.told["pid"])[place] for place in (0, 1)] == ["/dev/null"] * 2
    liar.inboxes("ann")
    worker = liar.worker(2001)
    eventually(lambda: _status(worker.pid)["Uid"].split()[0] == "2001")
    shown = {"command": ["sh", "-c", "for fd in /proc/self/fd/*; do echo $fd; done; ls -l /proc/$$/fd"]}
    assert worker.do("2001-a", liar.file_of("ann", "a", shown))["step"] == "ended"
    assert [row for row in worker.output().splitlines() if row.startswith("/")] == [
        f"/proc/self/fd/{fd}"
        for fd in (*range(3), 3)  # the last one is the shell's, which lists the directory
    ]
    held = fds(worker.pid)
    assert [held[place] for place in (0, 1)] == ["/dev/null"] * 2
    outside = {"/dev/null", held[2]}
    assert {what for what in held.values() if what not in outside and what.startswith("/")} == set()


def test_jobs_side_by_side_have_their_own_four_descriptors_each(machine):
    """At many concurrent jobs, started by the real dispatcher; the daemons have none of theirs either."""
    number = 500 if LONG else 200
    machine.tasks(f"[limits]\nmax_jobs = {number}\nmax_jobs_per_user = {number}\n")
    machine.start()
    for _ in range(number // 50):
        machine.submit("ann", "exec", "--batch", "-", input="exec sleep 1000\n" * 50)
    jobs = eventually(lambda: len(found := _sleeping(machine)) == number and found, 60)
    held = [fds(pid) for pid in jobs]
    assert {tuple(sorted(each)) for each in held} == {(0, 1, 2, 3)}
    assert {each[0] for each in held} == {"/dev/null"}
    pipes = [each[place] for each in held for place in (1, 2, 3)]
    assert len({pipe for pipe in pipes if pipe.startswith("pipe:")}) == 3 * number  # each has its own
    (worker,) = machine.workers()[2001]
    files = [what for what in fds(worker).values() if what.startswith("/")]
    assert {what.rpartition("/")[0] for what in files} <= {"/dev", *(str(machine.base),), *_results(files)}
    assert not [what for what in fds(machine.dispatcher()).values() if what in pipes]


def _sleeping(machine) -> list[int]:
    """The jobs that have become their program."""
    workers = machine.workers().get(2001, [])
    found = [int(pid) for worker in workers for pid in _children(worker)]
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _results(files: list[str]) -> set[str]:
    """Where a worker writes: outcomes and results of its own user."""
    found = {what.rpartition("/")[0] for what in files}
    return {folder for folder in found if folder.startswith((f"{SPOOL}/queue/outcome", f"{SPOOL}/out/2001/"))}


# -------------------------------------------------------------------- memory


def test_a_worker_holds_no_passwords_but_has_looked_at_them(lie):
    """What libc read of shadow would stay in memory: of every user, in a process of one."""
    liar = lie()
    hashes = {}
    for user in ("ann", "bob", "carl"):
        hashes[user] = f"$6$salt$hash-of-{user}-" + "x" * 40
        liar.machine.as_user("root", "usermod", "-p", hashes[user], user)
    worker = liar.worker(2001)
    eventually(lambda: _status(worker.pid)["Uid"].split()[0] == "2001")
    liar.inboxes("ann")
    assert worker.do("2001-a", liar.file_of("ann", "a", {"command": ["true"]}))["step"] == "ended"
    memory = _memory(worker.pid)
    assert b"2001-a" in memory  # it is its memory that was looked at
    assert [user for user, text in hashes.items() if text.encode() in memory] == []


def _memory(pid: int) -> bytes:
    parts = []
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for row in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = row.split()
            if fields[1].startswith("rw"):
                start, end = (int(word, 16) for word in fields[0].split("-"))
                memory.seek(start)
                parts.append(memory.read(end - start))
    return b"".join(parts)


def test_a_users_jobs_cannot_look_into_his_worker(lie):
    liar = lie()
    liar.inboxes("ann")
    worker = liar.worker(2001)
    eventually(lambda: _status(worker.pid)["Uid"].split()[0] == "2001")
    for what in ("fd", "environ", "mem", "maps", "cwd"):
        reader = "readlink" if what == "cwd" else "ls" if what == "fd" else "cat"
        assert liar.machine.as_user("ann", reader, f"/proc/{worker.pid}/{what}", code=None).returncode != 0
    script = f"import ctypes; raise SystemExit(ctypes.CDLL(None).ptrace(16, {worker.pid}, 0, 0) == 0)"
    liar.machine.as_user("ann", "/usr/bin/python3", "-c", script)


# -------------------------------------------------------------------- keyrings

CALLS = {"x86_64": (248, 250), "aarch64": (217, 219)}  # add_key, keyctl
ADD_KEY, KEYCTL = CALLS.get(os.uname().machine, (0, 0))
LIBC = "import ctypes; libc = ctypes.CDLL(None)\n"
JOINS = f"{LIBC}libc.syscall({KEYCTL}, 1, None)"
ADDS = f"{LIBC}print(libc.syscall({ADD_KEY}, b'user', b'cronq', b'secret', ctypes.c_size_t(6), -3))"
FINDS = f"{LIBC}print(libc.syscall({KEYCTL}, 10, -3, b'user', b'cronq', 0))"


@pytest.mark.skipif(not KEYCTL, reason="numbers of other architectures")
def test_a_users_keys_are_his_jobs_own(lie):
    """A service has one session keyring, which every process of it holds; cronq's jobs have one per worker."""
    liar = lie(before=JOINS)  # as systemd does
    liar.inboxes("ann", "bob")
    ann, bob = liar.worker(2001), liar.worker(2002)
    adds = {"command": ["/usr/bin/python3", "-c", ADDS]}
    finds = {"command": ["/usr/bin/python3", "-c", FINDS]}
    assert bob.do("2002-a", liar.file_of("bob", "a", adds))["step"] == "ended"
    if int(bob.output()) < 0:
        pytest.skip("there are no keyrings here")
    assert bob.do("2002-b", liar.file_of("bob", "b", finds))["step"] == "ended"
    assert int(bob.output()) > 0
    assert ann.do("2001-a", liar.file_of("ann", "a", finds))["step"] == "ended"
    assert int(ann.output()) == -1


# -------------------------------------------------------------------- terminals


def test_whoever_starts_it_at_a_terminal_does_not_lend_it(lie):
    """A process that has root's terminal as its own can type for root (TIOCSTI)."""
    ours, theirs = os.openpty()
    liar = lie(
        prefix=["setsid", "--ctty"],
        stdin=theirs,
        start_new_session=False,
    )
    assert os.readlink(f"/proc/{liar.launcher.pid}/fd/0").startswith("/dev/pts/")
    worker = liar.worker(2001)
    eventually(lambda: _status(worker.pid)["Uid"].split()[0] == "2001")
    terminals = {pid: _terminal(pid) for pid in (liar.launcher.pid, liar.told["pid"], worker.pid)}
    assert terminals[liar.launcher.pid] != 0
    assert (terminals[liar.told["pid"]], terminals[worker.pid]) == (0, 0)
    for pid in (liar.told["pid"], worker.pid):
        assert not [what for what in fds(pid).values() if "/dev/pts" in what]
    os.close(ours)
    os.close(theirs)


def _terminal(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


# -------------------------------------------------------------------- how many, and again


def test_there_are_so_many_workers_and_no_more(machine, lie):
    liar = lie(before="import cronq.launcher; cronq.launcher.MOST_WORKERS = 3")
    workers = [liar.worker(2001) for _ in range(3)]
    assert "there are 3 workers, and no more are made" in liar.refused({"verb": "WORKER", "uid": 2002, "tables": []})
    workers[0].line.close()
    assert workers[0].gone()
    eventually(lambda: "event=worker-ended" in machine.log)
    assert liar.worker(2002).pid


def test_a_line_that_is_closed_starts_another_dispatcher(lie):
    liar = lie()
    worker = liar.worker(2001)
    liar.line.send(b"")  # an empty packet is the end, too
    with pytest.raises(OSError):
        while True:
            assert wire.receive(liar.line) is None
            wire.send(liar.line, {"verb": "WORKER", "uid": 2002, "tables": []})
    liar.talk.close()
    liar.line.close()
    liar.accept()
    assert liar.worker(2002).pid not in (0, worker.pid)


# -------------------------------------------------------------------- what a process hands on (row 10)

# Before the launcher: what somebody who starts it by hand, from a script or from another supervisor may have about him.
ODD = """
import os, resource, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
os.umask(0o077)
os.setpriority(os.PRIO_PROCESS, 0, -7)
with open("/proc/self/oom_score_adj", "w") as file: file.write("300")  # to lower it needs a capability
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4000))
resource.setrlimit(resource.RLIMIT_CORE, (4096, 8192))
os.chdir("/tmp")
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])
"""
PLAIN = '[tasks.plain]\ncommand = ["cat", "/proc/self/status", "/proc/self/limits", "/proc/self/oom_score_adj"]\n'
# With settings its process is forked and waits at a gate; without, it is spawned.
CHANGED = PLAIN.replace("plain", "changed") + 'nice = 3\noom_score_adj = 100\numask = "027"\nrlimits = { core = 0 }\n'
INTERNAL = 3 << 31  # signals of glibc's own


@pytest.mark.parametrize("task", ["plain", "changed"])
def test_however_the_launcher_was_started_a_job_starts_as_ever(lie, task):
    lie.machine.tasks(PLAIN + CHANGED)
    ours, theirs = os.openpty()
    started = {"stdin": theirs, "start_new_session": False, "restore_signals": False}
    liar = lie(prefix=["setsid", "--ctty", PYTHON, "-I", "-c", ODD], **started)
    liar.inboxes("ann")
    worker = liar.worker(2001)
    assert worker.do("2001-a", liar.file_of("ann", "a", {"task": task}))["exit_code"] == 0
    output = worker.output()
    status = dict(row.split(":\t", 1) for row in output.splitlines() if ":\t" in row)
    limits = {row[:26].strip(): row[26:].split()[:2] for row in output.splitlines() if row.startswith("Max ")}
    assert [int(status[key], 16) & ~INTERNAL for key in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")] == [0] * 5
    assert status["Umask"] == ("0022" if task == "plain" else "0027")
    assert output.splitlines()[-1] == ("0" if task == "plain" else "100")
    assert limits["Max open files"] == ["100", "4000"]  # the daemon's, though the worker has raised its own
    assert limits["Max core file size"] == (["4096", "8192"] if task == "plain" else ["0", "0"])
    facts = {"command": ["cut", "-d", " ", "-f", "5,6,7,19", "/proc/self/stat"]}
    assert worker.do("2001-b", liar.file_of("ann", "b", facts))["exit_code"] == 0
    group, session, terminal, nice = worker.output().split()
    assert (group, terminal, nice) == (session, "0", "0")
    worker.line.close()
    assert worker.gone()
    eventually(lambda: f"event=worker-ended pid={worker.pid}" in liar.machine.log)  # it hears of its own children
    os.close(ours)
    os.close(theirs)
