"""A server's life with cronq: installed, started, restarted, killed, reloaded, stopped and taken away, under systemd.

Each test is a story on one machine that systemd has booted (boot.py); they stand in the order of that life.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import boot
import installation
import pytest
from conftest import eventually, soon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(boot.missing()), reason=boot.missing() or "-"),
    pytest.mark.skipif(bool(installation.missing()), reason=installation.missing() or "-"),
]
ANN, BOB = 2001, 2002
TESTS = Path(__file__).parent.parent
AS_PIP_DOES = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import installation
installation.install(Path(sys.argv[2]), Path("/opt/cronq"), Path("/tmp"))
"""
NEWER = {"RestartSteps", "RestartMaxDelaySec", "DelegateSubgroup"}  # keys of systemd 254: older ones ignore them
GONE = 1.0  # seconds from `cancel --now` until nothing of a job is left; on a busy machine, as long as it took to begin
BACK = 20.0  # seconds from a restart, or the death of every daemon, until a new job has ended; the others wait for ever


class Server(boot.Booted):
    """A booted machine with two users and an installation, and the gate that its jobs wait at."""

    def __init__(self, scratch: Path) -> None:
        packages = installation.packages()
        super().__init__(scratch)
        for name, uid in (("ann", ANN), ("bob", BOB)):
            self.run("useradd", "--create-home", f"--uid={uid}", name)
        self.run("cp", "-a", packages / "venv", "/opt/cronq")
        self.run(sys.executable, "-c", AS_PIP_DOES, TESTS, packages)
        self.path("/srv").chmod(0o755)
        for name in ("gate", "ledger"):
            self.path(f"/srv/{name}").touch()
            self.path(f"/srv/{name}").chmod(0o666)

    @property
    def spool(self) -> Path:
        return self.scratch / "disk/var/spool/cronq"

    def submit(self, user: str, script: str, count: int = 1) -> list[str]:
        """Queue shell scripts, `$N` in them from 0 on; their ids."""
        loop = f"for N in $(seq 0 {count - 1}); do cronq exec --env N=$N -- sh -c {_quoted(script)} || exit; done"
        return self.run("sh", "-c", loop, user=user).stdout.split()

    def result(self, job_id: str, within: float = 45.0) -> dict:
        file = self.spool / "out" / job_id.partition("-")[0] / job_id / "result.json"
        eventually(lambda: file.exists() and file.stat().st_size, within)
        return json.loads(file.read_text())

    def said(self, user: str, script: str) -> str:
        """What a job of the user's prints."""
        return self.run("cronq", "exec", "--wait", "--", "sh", "-c", script, user=user).stdout

    @contextlib.contextmanager
    def gate(self):
        """Jobs that pass the gate (`flock -s /srv/gate …`) wait until this is over."""
        with self.path("/srv/gate").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.path("/srv/ledger").write_text("")
            yield

    def ledger(self) -> list[str]:
        return self.path("/srv/ledger").read_text().split()

    def show(self, *names: str, unit: str = "cronq") -> list[str]:
        """Properties of a unit."""
        shown = self.run("systemctl", "show", *(f"--property={name}" for name in names), unit).stdout
        found = dict(row.split("=", 1) for row in shown.splitlines())
        return [found[name] for name in names]

    def daemons(self) -> dict[str, list[int]]:
        """The pids, in the machine's words: launcher, dispatcher, and workers."""
        (launcher,) = self.show("MainPID")
        found: dict[str, list[int]] = {"launcher": [], "dispatcher": [], "worker": []}
        for row in self.run("ps", "-e", "-o", "pid=,args=").stdout.splitlines():
            pid, _, command = row.strip().partition(" ")
            if "-m cronq.dispatcher" in command:
                found["dispatcher"].append(int(pid))
            elif "-m cronq.launcher" in command:
                found["launcher" if pid == launcher else "worker"].append(int(pid))
        return found

    def kill(self, number: signal.Signals, *kinds: str) -> None:
        daemons = self.daemons()
        pids = [str(pid) for kind in kinds for pid in daemons[kind]]
        assert len(pids) >= len(kinds), daemons
        self.run("kill", f"-{number.value}", *pids)

    def drop_in(self, text: str) -> None:
        """Change the unit as an administrator does."""
        folder = self.path("/etc/systemd/system/cronq.service.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        self.run("systemctl", "daemon-reload")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


PASS_AND_SIGN = "flock -s /srv/gate true; echo $CRONQ_JOB_ID >>/srv/ledger; exit $N"

CONFIG = f"""
[limits]
max_jobs = 50
max_jobs_per_user = 50

[tasks.where]
command = ["cat", "/proc/self/cgroup"]

[tasks.sign]
shell = "N=0; {PASS_AND_SIGN}"
backoff = {{ base = "100ms" }}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cronq(server):
    """The server with cronq installed and started, as docs/install.md says."""
    server.installed = server.run("/opt/cronq/bin/cronq", "install", "--system").stdout.splitlines()
    folders = ["/run/cronq", "/etc/cronq", "/etc/cronq/tasks.d", "/var/spool/cronq"]
    server.folders = server.run("stat", "-c", "%U:%G %a", *folders).stdout.splitlines()
    server.path("/etc/cronq/tasks.d/greet.toml").write_text('[tasks.greet]\nshell = "echo hello"\n')
    server.path("/etc/cronq/cronq.toml").write_text(CONFIG)
    server.run("systemctl", "enable", "--now", "cronq")
    return server


# ---------------------------------------------------------------- what is refused, before anything is installed


def test_a_user_cannot_install(server):
    done = server.run("/opt/cronq/bin/cronq", "install", "--system", user="ann", code=77)
    assert "only root" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("wrong", "mend", "sentence"),
    [
        ("chmod o-r {module}", "chmod o+r {module}", "chmod -R go[+]rX /opt/cronq"),
        ("chmod 666 {module}", "chmod 644 {module}", "others can change what root runs"),
        ("chown ann {module}", "chown root {module}", "belongs to ann"),
        ("chown bob /opt", "chown root /opt", "/opt belongs to bob"),
        ("chmod 777 /opt/cronq/bin", "chmod 755 /opt/cronq/bin", "/opt/cronq/bin has the mode 0777"),
        ("chown ann /usr/local/lib", "chown root /usr/local/lib", "/usr/local/lib belongs to ann"),
        ("ln -s /home/ann /etc/cronq", "rm /etc/cronq", "/etc/cronq must be a directory"),
        ("install -d -o ann /var/spool/cronq", "rmdir /var/spool/cronq", "belongs to 2001:0"),
        ("groupadd cronq && useradd -g cronq mal", "userdel mal && groupdel cronq", "must have no members; usermod"),
        ("groupadd -U ann cronq", "groupdel cronq", "must have no members; gpasswd -d ann cronq"),
    ],
)
def test_what_others_could_change_or_not_read_is_refused(server, wrong, mend, sentence):
    (module,) = server.run("sh", "-c", "echo /opt/cronq/lib/python3*/site-packages/cronq/launcher.py").stdout.split()
    server.run("sh", "-c", wrong.format(module=module))
    try:
        done = server.run("/opt/cronq/bin/cronq", "install", "--system", code=78)
        assert re.search(sentence, done.stderr), done.stderr
        assert done.stdout == ""  # nothing was done
    finally:
        server.run("sh", "-c", mend.format(module=module))


def test_an_installation_in_a_home_directory_is_refused(server):
    server.run("cp", "-a", "/opt/cronq", "/home/cronq")
    done = server.run("/home/cronq/bin/python", "-m", "cronq", "install", "--system", code=78)
    assert "lies in a home directory" in done.stderr
    server.run("rm", "-r", "/home/cronq")


def test_a_dry_run_as_root_does_nothing(server):
    done = server.run("/opt/cronq/bin/cronq", "install", "--system", "--dry-run")
    assert "would: run      systemctl daemon-reload" in done.stdout
    assert "cronq" not in server.path("/etc/passwd").read_text()
    assert not server.path("/etc/cronq").exists()


# ---------------------------------------------------------------- installed and started


def test_installing_says_what_it_did_and_a_second_time_that_all_is_there(cronq):
    assert cronq.installed[0].startswith("run      systemd-sysusers")
    assert cronq.installed[-1] == "now: systemctl enable --now cronq"
    assert cronq.folders == ["cronq:cronq 755", "root:root 755", "root:root 755", "root:root 711"]
    again = cronq.run("/opt/cronq/bin/cronq", "install", "--system").stdout.splitlines()
    assert {line.split()[0] for line in again[:-2]} == {"there"}
    assert again[-2:] == ["run      systemctl daemon-reload", "now: systemctl enable --now cronq"]


def test_systemd_finds_nothing_wrong_with_the_units(cronq):
    cronq.run("install", "-d", "-m", "0700", "/run/user/0")
    for words in (["cronq.service", "cronq-jobs.service"], ["--user", "/usr/local/lib/systemd/user/cronq.service"]):
        done = cronq.run("env", "XDG_RUNTIME_DIR=/run/user/0", "systemd-analyze", "verify", *words)
        complaints = [line for line in done.stderr.splitlines() if not any(f"'{key}'" in line for key in NEWER)]
        assert complaints == []


def test_it_is_ready_when_systemd_says_so_and_runs_as_root_and_as_cronq(cronq):
    assert cronq.show("ActiveState", "SubState", "NRestarts", "Type") == ["active", "running", "0", "notify"]
    daemons = cronq.daemons()
    owners = cronq.run("ps", "-o", "user=", *(str(pid) for pid in daemons["launcher"] + daemons["dispatcher"])).stdout
    assert owners.split() == ["root", "cronq"]


def test_each_user_gets_his_own_jobs_done(cronq):
    for user, uid in (("ann", ANN), ("bob", BOB)):
        assert cronq.said(user, "id") == f"uid={uid}({user}) gid={uid}({user}) groups={uid}({user})\n"


def test_the_unit_takes_nothing_from_jobs_that_cron_users_rely_on(cronq):
    cronq.run("install", "-m", "4755", "/usr/bin/id", "/usr/local/bin/root-id")
    cronq.path("/tmp/shared").write_text("seen\n")
    assert "euid=0(root)" in cronq.said("ann", "root-id")  # as sudo and ping are
    assert cronq.said("ann", "cat /tmp/shared") == "seen\n"
    rows = cronq.said("ann", "cat /proc/self/status /proc/self/oom_score_adj; ulimit -n; ulimit -Hn").split("\n")
    status = dict(row.split(":\t", 1) for row in rows if ":\t" in row)
    everything = re.search(r"CapBnd:\t(\w+)", cronq.path("/proc/1/status").read_text())
    assert (status["NoNewPrivs"], status["Seccomp"], status["CapBnd"]) == ("0", "0", everything[1])
    assert rows[-4:-2] == ["0", "1024"]
    assert int(rows[-2]) > 1024


def test_a_job_has_the_session_keyring_of_its_user(cronq):
    look = "import ctypes; c = ctypes.CDLL(None); b = ctypes.create_string_buffer(256); "
    look += "c.syscall(250, 6, ctypes.c_int(-3), b, 256); print(b.value.decode())"
    cronq.path("/srv/keyring.py").write_text(look)
    for user, uid in (("ann", ANN), ("bob", BOB)):
        assert f";{uid};" in cronq.said(user, "/usr/bin/python3 /srv/keyring.py")


# ---------------------------------------------------------------- killed, restarted, stopped: jobs go on


def end_all_once(server, jobs, within=45.0):
    """They all end, once each, each with its own exit code."""
    for user_jobs in jobs:
        for number, job_id in enumerate(user_jobs):
            found = server.result(job_id, within)
            assert (found["exit_code"], found["attempt"]) == (number, 1), found
    assert sorted(server.ledger()) == sorted(job_id for user_jobs in jobs for job_id in user_jobs)


def wait_for(server, count):
    """Until so many jobs stand before the gate."""
    eventually(lambda: len(server.run("pgrep", "-f", "^flock -s /srv/gate", code=None).stdout.split()) == count)


DEATHS = [pytest.param(None, id="restart"), pytest.param(("launcher", "dispatcher"), id="launcher+dispatcher")]
if os.environ.get("CRONQ_LONG") == "1":  # tests/system has each alone, without systemd
    DEATHS += [pytest.param((kind,), id=kind) for kind in ("launcher", "dispatcher")]


@pytest.mark.parametrize("kinds", DEATHS)
def test_twenty_jobs_live_through(cronq, kinds):
    with cronq.gate():
        jobs = [cronq.submit(user, PASS_AND_SIGN, 10) for user in ("ann", "bob")]
        wait_for(cronq, 20)
        before = cronq.daemons()
        if kinds is None:
            cronq.run("systemctl", "restart", "cronq")
        else:
            cronq.kill(signal.SIGKILL, *kinds)
        began = time.monotonic()
        eventually(lambda: cronq.run("cronq", "exec", "--wait", "--", "true", user="ann", code=None).returncode == 0)
        assert time.monotonic() - began < BACK
        after = cronq.daemons()
        for kind in kinds or ("launcher", "dispatcher"):
            assert not set(before[kind]) & set(after[kind])
        assert cronq.ledger() == []
    end_all_once(cronq, jobs)


def test_no_job_is_lost_when_every_process_of_cronq_is_killed(cronq):
    with cronq.gate():
        jobs = [cronq.run("cronq", "submit", "sign", user=user).stdout.strip() for user in ("ann", "bob")]
        at_most_once = ["cronq", "exec", "--delivery", "at-most-once", "--", "sh", "-c", PASS_AND_SIGN]
        once = cronq.run(*at_most_once, user="ann").stdout.strip()
        wait_for(cronq, 3)
        cronq.kill(signal.SIGKILL, "launcher", "dispatcher", "worker")
        assert cronq.result(once)["state"] == "dead"
        wait_for(cronq, 2)  # again, and what ran before is ended
    for job_id in jobs:
        assert cronq.result(job_id)["state"] == "done"
    assert sorted(cronq.ledger()) == sorted(jobs)


def test_stopping_leaves_jobs_alone_and_starting_takes_them_up(cronq):
    with cronq.gate():
        ended, running = (
            cronq.submit("ann", "flock -s /srv/first true; echo $N; exit 3"),
            cronq.submit("bob", PASS_AND_SIGN),
        )
        wait_for(cronq, 1)
        cronq.run("systemctl", "stop", "cronq")
        assert cronq.show("ActiveState", "Result") == ["inactive", "success"]
        assert cronq.daemons()["launcher"] + cronq.daemons()["dispatcher"] == []
        assert cronq.run("cronq", "list", user="ann", code=69).stdout == ""
        dropped = cronq.submit("ann", "echo later")  # the inbox is open all the same
        wait_for(cronq, 1)
        cronq.run("systemctl", "start", "cronq")
        assert cronq.result(*ended)["exit_code"] == 3
        assert cronq.result(*dropped)["state"] == "done"
    end_all_once(cronq, [running])


HIDE = "setsid setsid env -i sleep 4321 &"  # of no session, no group, no environment and no parent of the job's


@pytest.mark.parametrize("restarted", [False, True])
def test_all_of_a_job_is_gone_a_second_after_it_is_cancelled(cronq, restarted):
    since = time.monotonic()
    (job_id,) = cronq.submit("ann", f"for n in $(seq 200); do {HIDE} done; exec sleep 4321")
    eventually(lambda: len(sleepers(cronq)) == 201)
    if restarted:
        cronq.run("systemctl", "restart", "cronq")
    with soon(GONE, since):
        cronq.run("cronq", "cancel", "--now", job_id, user="ann")
        eventually(lambda: sleepers(cronq) == [])
    assert cronq.result(job_id)["state"] == "cancelled"


def sleepers(server):
    return server.run("pgrep", "-x", "-f", "sleep 4321", code=None).stdout.split()


def test_a_job_has_a_cgroup_of_its_own_which_goes_with_it(cronq):
    shown = [
        row
        for row in cronq.run("cronq", "submit", "--wait", "where", user="ann").stdout.splitlines()
        if row.startswith("0::")
    ]
    group = re.fullmatch(r"0::(/system.slice/cronq-jobs.service/job-2001-[^/]*\.1)", shown[0])[1]
    eventually(lambda: not cronq.path(f"/sys/fs/cgroup{group}").exists())


# ---------------------------------------------------------------- the jobs' cgroup, and limits that outlive a restart


def enable(server, unit):
    """Enable a controller for what lives below a unit's cgroup, as the launcher does where there is one of limits."""
    given = server.controllers()
    if not given:
        pytest.skip("no controller of cgroup v2 is free for the test")
    control = server.path(f"/sys/fs/cgroup/system.slice/{unit}/cgroup.subtree_control")
    control.write_text(f"+{given[0]}")
    return control


def leaves(server):
    """The pids in the cgroup of each job that runs, by its id."""
    groups = server.path("/sys/fs/cgroup/system.slice/cronq-jobs.service").glob("job-*.1")
    found = {path.name[4:-2]: (path / "cgroup.procs").read_text().split() for path in groups}
    return {job_id: pids for job_id, pids in found.items() if pids}  # an empty one goes at the next occasion


def has_a_leaf(server, user, uid):
    """Whether a new job gets one."""
    return f"0::/system.slice/cronq-jobs.service/job-{uid}-" in server.said(user, "cat /proc/self/cgroup")


def test_a_service_whose_jobs_are_limited_below_its_own_cgroup_cannot_be_restarted(server):
    """Why they have a unit of their own."""
    unit = ["--unit=alone", "--property=Delegate=yes", "--property=KillMode=process", "sleep", "infinity"]
    server.run("systemd-run", *unit)
    inside = "/sys/fs/cgroup/system.slice/alone.service"
    group = server.path(inside)
    (group / "job").mkdir()
    server.run("sh", "-c", f"setsid sleep 4322 >/dev/null 2>&1 & echo $! >{inside}/job/cgroup.procs")
    (main,) = server.show("MainPID", unit="alone")
    (group / "main").mkdir()
    server.run("sh", "-c", f"echo {main} >{inside}/main/cgroup.procs")
    try:
        enable(server, "alone.service")
        server.run("systemctl", "restart", "alone", code=None)
        eventually(lambda: server.show("ActiveState", "ExecMainStatus", unit="alone") == ["failed", "219"])
    finally:
        (group / "cgroup.kill").write_text("1")
        server.run("systemctl", "stop", "alone", code=None)
        server.run("systemctl", "reset-failed", "alone", code=None)


def test_limits_outlive_restarts_of_cronq_and_of_systemd(cronq):
    control = enable(cronq, "cronq-jobs.service")
    enabled = control.read_text()
    with cronq.gate():
        before = cronq.submit("ann", PASS_AND_SIGN)
        wait_for(cronq, 1)
        (keeper,) = cronq.show("MainPID", unit="cronq-jobs")
        lives = leaves(cronq)
        assert list(lives) == before
        for words in (["restart", "cronq"], ["daemon-reload"], ["daemon-reexec"]):
            cronq.run("systemctl", *words)
            assert has_a_leaf(cronq, "bob", BOB)
            assert (control.read_text(), leaves(cronq)) == (enabled, lives)
        cronq.kill(signal.SIGKILL, "launcher", "dispatcher")
        eventually(lambda: cronq.run("cronq", "exec", "--wait", "--", "true", user="bob", code=None).returncode == 0)
        assert cronq.show("ActiveState", "MainPID", unit="cronq-jobs") == ["active", keeper]
        assert (control.read_text(), leaves(cronq)) == (enabled, lives)
    end_all_once(cronq, [before])
    eventually(lambda: leaves(cronq) == {})
    assert control.read_text() == enabled  # the unit keeps its cgroup when nobody is left in it


def test_whoever_stops_or_kills_the_jobs_unit_ends_no_job_and_takes_no_leaf_away(cronq):
    folder = cronq.path("/etc/systemd/system/cronq-jobs.service.d")
    folder.mkdir()
    (folder / "test.conf").write_text("[Service]\nRestartSec=100ms\n")
    cronq.run("systemctl", "daemon-reload")
    enable(cronq, "cronq-jobs.service")
    with cronq.gate():
        before = cronq.submit("ann", PASS_AND_SIGN)
        wait_for(cronq, 1)
        lives = leaves(cronq)
        (keeper,) = cronq.show("MainPID", unit="cronq-jobs")
        cronq.run("kill", "-9", keeper)
        eventually(lambda: cronq.show("MainPID", unit="cronq-jobs") != [keeper])
        for words in (["restart", "cronq"], ["stop", "cronq-jobs"], ["restart", "cronq-jobs"], ["restart", "cronq"]):
            cronq.run("systemctl", *words, code=None)
            assert has_a_leaf(cronq, "bob", BOB)
            assert leaves(cronq) == lives
    end_all_once(cronq, [before])
    eventually(lambda: cronq.show("SubState", unit="cronq-jobs") == ["running"])  # once no job lives there
    (keeper,) = cronq.show("MainPID", unit="cronq-jobs")
    assert has_a_leaf(cronq, "bob", BOB)
    assert cronq.path(f"/proc/{keeper}/cgroup").read_text().endswith("/system.slice/cronq-jobs.service/keeper\n")
    (folder / "test.conf").unlink()
    folder.rmdir()
    cronq.run("systemctl", "daemon-reload")


def test_a_reload_takes_a_changed_task(cronq):
    assert cronq.run("cronq", "submit", "--wait", "greet", user="ann").stdout == "hello\n"
    pids = cronq.daemons()
    cronq.path("/etc/cronq/tasks.d/greet.toml").write_text('[tasks.greet]\nshell = "echo good morning"\n')
    cronq.run("systemctl", "reload", "cronq")
    eventually(lambda: cronq.run("cronq", "submit", "--wait", "greet", user="ann").stdout == "good morning\n")
    assert cronq.daemons() | {"worker": 0} == pids | {"worker": 0}


def test_a_dispatcher_that_stands_still_is_started_again(cronq):
    cronq.drop_in("WatchdogSec=2s")
    cronq.run("systemctl", "restart", "cronq")
    with cronq.gate():
        jobs = [cronq.submit("ann", PASS_AND_SIGN)]
        wait_for(cronq, 1)
        (stopped,) = cronq.daemons()["dispatcher"]
        cronq.kill(signal.SIGSTOP, "dispatcher")
        eventually(lambda: cronq.daemons()["dispatcher"] not in ([], [stopped]))
        assert cronq.said("bob", "echo back") == "back\n"
        assert int(cronq.show("NRestarts")[0]) >= 1
    end_all_once(cronq, jobs)
    cronq.drop_in("")
    cronq.run("systemctl", "restart", "cronq")


def test_a_configuration_that_is_wrong_is_told_once_and_not_tried_again(cronq):
    file = cronq.path("/etc/cronq/cronq.toml")
    file.write_text("[limits]\nmax_jobs = 'many'\n")
    cronq.run("systemctl", "restart", "cronq", code=1)
    assert cronq.show("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "78", "0"]
    assert "max_jobs" in cronq.run("journalctl", "--unit=cronq", "--lines=20", "--no-pager").stdout
    file.write_text(CONFIG)
    cronq.run("systemctl", "start", "cronq")
    assert cronq.said("ann", "echo mended") == "mended\n"


def test_a_machine_that_boots_has_the_socket_s_directory_before_cronq_starts(cronq):
    cronq.run("systemctl", "stop", "cronq")
    cronq.run("rm", "-r", "/run/cronq")
    cronq.run("systemd-tmpfiles", "--create", "--prefix=/run/cronq")
    assert cronq.run("stat", "-c", "%U:%G %a", "/run/cronq").stdout == "cronq:cronq 755\n"
    cronq.run("systemctl", "start", "cronq")


def test_a_user_has_a_queue_of_his_own_too(cronq):
    cronq.run("useradd", "--create-home", "--uid=2003", "carl")
    cronq.run("install", "-d", "-m", "0700", "-o", "carl", "/run/user/2003")
    own = {"XDG_RUNTIME_DIR": "/run/user/2003", "HOME": "/home/carl", "CRONQ_SPOOL": "/home/carl/.local/state/cronq"}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", **own}
    made = ["--unit=carl", "--uid=carl", "--property=Delegate=yes", "--property=Type=notify"]
    cronq.run("systemd-run", *made, *(f"--setenv={key}={own[key]}" for key in own), "/lib/systemd/systemd", "--user")
    try:
        cronq.run("systemctl", "--user", "enable", "--now", "cronq", user="carl", env=env)
        stats = cronq.run("cronq", "stats", user="carl", env=env)  # ready, as systemd said
        assert stats.returncode == 0
        with cronq.gate():
            asked = ["cronq", "exec", "--env", "N=3", "--", "sh", "-c", PASS_AND_SIGN]
            job_id = cronq.run(*asked, user="carl", env=env).stdout.strip()
            wait_for(cronq, 1)
            cronq.run("systemctl", "--user", "restart", "cronq", user="carl", env=env)
            assert cronq.run("cronq", "exec", "--wait", "--", "id", "-un", user="carl", env=env).stdout == "carl\n"
        cronq.run("cronq", "wait", job_id, user="carl", env=env, code=3)
        assert cronq.ledger() == [job_id]
    finally:
        cronq.run("systemctl", "stop", "carl")


# ---------------------------------------------------------------- taken away


def test_uninstalling_leaves_the_queue_and_installing_again_goes_on(cronq):
    (delayed,) = cronq.run("cronq", "exec", "--delay", "1s", "--", "echo", "kept", user="ann").stdout.split()
    with cronq.gate():
        running = cronq.submit("bob", PASS_AND_SIGN)
        wait_for(cronq, 1)
        done = cronq.run("/opt/cronq/bin/cronq", "uninstall", "--system").stdout
        assert "rm -r /var/spool/cronq" in done and "userdel cronq" in done
        assert cronq.daemons()["dispatcher"] == []
        assert cronq.run("systemctl", "is-active", "cronq-jobs", code=None).stdout == "inactive\n"
        wait_for(cronq, 1)
    assert cronq.run("systemctl", "is-enabled", "cronq", code=None).stdout in ("", "not-found\n")
    assert (
        cronq.run(
            "sh", "-c", "ls /usr/local/bin/cronq /usr/local/lib/*/*/cronq* /usr/local/lib/*/cronq*", code=2
        ).stdout
        == ""
    )
    assert os.path.exists(cronq.spool / "queue") and cronq.path("/etc/cronq/cronq.toml").exists()
    assert cronq.path("/run/cronq").exists() is False
    cronq.run("/opt/cronq/bin/cronq", "install", "--system")
    cronq.run("systemctl", "enable", "--now", "cronq")
    assert cronq.result(delayed)["state"] == "done"
    end_all_once(cronq, [running])
