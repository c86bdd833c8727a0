"""A machine with several users, for stories about the system's dispatcher: real accounts, a real installation.

Does:    lives in a private world (private.py): the accounts, the spool, the configuration and the installation are
         there only, at their real places. Daemons and jobs are real processes of real users.
Fails:   `Machine()` skips the test, with the reason, where there can be no such world.

After each test `reset` ends every process of the machine's, and makes accounts, homes, spool and configuration what
they were before it.
"""

import atexit
import grp
import json
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import installation
import private
import pytest
from conftest import eventually, stop
from forerunner import QUICK, Forerunner
from keeper import QUIET

SPOOL = Path("/var/spool/cronq")
CONFIG = Path("/etc/cronq")
OPT = Path("/opt/cronq")
PATH = f"{OPT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS = {"ann": (2001, "crew"), "bob": (2002, ""), "carl": (2003, "ops")}  # uid, and the group besides his own
ACCOUNTS = [Path("/etc", name) for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")]
LAUNCHER = (OPT / "bin/python", "-I", "-m", "cronq.launcher", "--spool", SPOOL, "--config", CONFIG, "--system")
DIED = "event=dispatcher-ended"


class Machine:
    """The users, the daemons, and the system spool."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("users and their jobs need root")
        if reason := installation.missing():
            pytest.skip(reason)
        packages = installation.packages()  # before /opt is hidden: the index may be there
        try:
            self.base = private.enter({OPT.name, *USERS})
        except PermissionError as error:
            pytest.skip(str(error))
        self.daemons: list[subprocess.Popen[str]] = []
        shutil.rmtree(CONFIG, ignore_errors=True)
        _make_accounts()
        self.uids = {name: pwd.getpwnam(name).pw_uid for name in ("cronq", *USERS)}
        self.accounts = {path: path.read_bytes() for path in ACCOUNTS if path.exists()}
        _make_homes()
        installation.copy(packages, self.base / "opt" / OPT.name)
        installation.install(packages, OPT, self.base)
        self.forerunner = Forerunner(str(OPT / "bin/python"), env={"PATH": PATH, "LANG": "C.UTF-8"}, cwd="/")
        atexit.register(self.forerunner.close)

    # ---------------------------------------------------------------- the daemon

    def tasks(self, text: str, name: str = "cronq.toml") -> None:
        """Write the configuration, as root does."""
        CONFIG.mkdir(mode=0o755, exist_ok=True)
        (CONFIG / name).write_text(text)
        (CONFIG / name).chmod(0o644)

    def start(
        self, *options: str, wait: str = "event=ready", cgroup: Path | None = None, whole: bool = False
    ) -> subprocess.Popen[str]:
        """Start the dispatcher as root does, in this cgroup, and wait until its log says so.

        `whole` by its command, else, ten times cheaper, what that becomes (`cli.dispatcher`).
        """
        log = self.base / f"log{len(self.daemons)}"
        with log.open("w") as file:
            words = ["cronq", "dispatcher"] if whole else [*LAUNCHER]
            words += options
            if cgroup is not None:
                words = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', cgroup / "cgroup.procs", *words]
            daemon = subprocess.Popen(words, stderr=file, text=True, **self.identity("root"))
        daemon.log = log
        self.daemons.append(daemon)
        eventually(lambda: wait in log.read_text() or daemon.poll() is not None or log.read_text().count(DIED) > 1)
        assert wait in log.read_text(), log.read_text()
        return daemon

    @property
    def launcher(self) -> subprocess.Popen[str]:
        """The launcher that was started last."""
        return self.daemons[-1]

    @property
    def log(self) -> str:
        """What the daemons have logged since the last reset."""
        return "".join(daemon.log.read_text() for daemon in self.daemons)

    def dispatcher(self) -> int:
        """The pid of the launcher's dispatcher, as soon as there is one."""
        return eventually(lambda: next((pid for pid in self._pids("cronq.dispatcher") if _alive(pid)), 0))

    def workers(self) -> dict[int, list[int]]:
        """The pids of all workers, old and new, by uid."""
        found: dict[int, list[int]] = {}
        for pid in self._pids("cronq.launcher"):
            status = _status(pid)
            # A fork is a worker once it is another user, or root's with a session of its own.
            if status and status["uid"] != self.uids["cronq"] and (status["uid"] or status["sid"] == pid):
                found.setdefault(status["uid"], []).append(pid)
        return found

    def _pids(self, module: str) -> list[int]:
        launchers = {daemon.pid for daemon in self.daemons}
        return [pid for pid in _ours() if pid not in launchers and module.encode() in command(pid)]

    # ---------------------------------------------------------------- the users

    def identity(self, user: str) -> dict:
        """What makes a `subprocess` this user's: ids, exactly his groups, his home, an environment from scratch."""
        entry = pwd.getpwnam(user)
        env = {"PATH": PATH, "HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "SHELL": entry.pw_shell}
        groups = os.getgrouplist(user, entry.pw_gid)
        if user == "root":
            env |= {name: os.environ[name] for name in installation.MEASURED if name in os.environ}
        return {
            "user": entry.pw_uid,
            "group": entry.pw_gid,
            "extra_groups": groups,
            "env": env | {"LANG": "C.UTF-8"},
            "cwd": entry.pw_dir,
            "umask": 0o022,
            "start_new_session": True,
        }

    def as_user(self, user: str, *argv: str | Path, code: int | None = 0, **options) -> subprocess.CompletedProcess:
        """Run a command as this user and nobody else."""
        options = self.identity(user) | {"capture_output": True, "text": True, "timeout": 60} | options
        done = subprocess.run(argv, **options)
        if code is not None:
            assert done.returncode == code, (user, argv, done.returncode, done.stdout, done.stderr)
        return done

    def cronq(self, user: str, *argv: str, code: int | None = 0, **options) -> subprocess.CompletedProcess:
        """Run the installed cronq as this user."""
        if argv and argv[0] in QUICK and set(options) <= {"input", "extra_groups"}:
            given = options.pop("input", None)
            how = {key: value for key, value in (self.identity(user) | options).items() if key != "start_new_session"}
            done = self.forerunner.run([str(word) for word in argv], given, **how)
            if code is not None:
                assert done.returncode == code, (user, argv, done.returncode, done.stdout, done.stderr)
            return done
        return self.as_user(user, "cronq", *argv, code=code, **options)

    def submit(self, user: str, *argv: str, **options) -> str:
        """`submit …` or `exec …` as this user; the job's id."""
        return self.cronq(user, *argv, **options).stdout.strip()

    def reach(self, user: str, mode: int) -> set[Path]:
        """What of the spool this user can read (os.R_OK) or write (os.W_OK), though he may not be shown that it is."""
        script = "import os, sys; print(*[p for p in sys.stdin.read().split('\\0') if os.access(p, int(sys.argv[1]))])"
        paths = "\0".join(str(path) for path in SPOOL.rglob("*"))
        shown = self.as_user(user, installation.PYTHON, "-c", script, str(mode), input=paths).stdout
        return {Path(path).relative_to(SPOOL) for path in shown.split()}

    def home(self, user: str) -> Path:
        return Path(pwd.getpwnam(user).pw_dir)

    # ---------------------------------------------------------------- the spool, as root sees it

    def inbox(self, user: str) -> Path:
        return SPOOL / "in" / str(pwd.getpwnam(user).pw_uid)

    def results(self, job_id: str) -> Path:
        return SPOOL / "out" / job_id.partition("-")[0] / job_id

    def result(self, job_id: str, within: float = 45.0) -> dict:
        """How a job ended, once it has."""
        file = self.results(job_id) / "result.json"
        eventually(lambda: file.exists() and file.stat().st_size, within)
        return json.loads(file.read_text())

    def output(self, job_id: str, name: str = "stdout") -> str:
        """What a job wrote, once it has ended."""
        self.result(job_id)
        return (self.results(job_id) / name).read_text()

    def named(self, user: str, name: str) -> str:
        """The id of the job that the user named so himself, once it has a result directory."""
        folder = SPOOL / "out" / str(self.uids[user])
        return eventually(lambda: [each.name for each in folder.glob(f"{self.uids[user]}-*{name}")])[0]

    def drop(self, user: str, name: str, job: object) -> None:
        """Put a job file into the user's inbox as a shell script of his would."""
        text = job if isinstance(job, str) else json.dumps(job)
        script = f'umask 027; cat > "$0/.{name}.tmp" && mv "$0/.{name}.tmp" "$0/{name}.job"'
        self.as_user(user, "sh", "-c", script, self.inbox(user), input=text)

    def rejected(self, user: str, name: str, ending: str = "job") -> str:
        """Why a file of this user's was refused, once it was."""
        file = SPOOL / "rejected" / str(self.uids[user]) / f"{name}.{ending}.reason"
        return eventually(lambda: file.exists() and file.read_text())

    # ---------------------------------------------------------------- the end

    def stop(self) -> None:
        """End the daemons as systemd would; their jobs run on."""
        stop(self.daemons)

    def reset(self) -> None:
        """End whatever runs here, and let nothing be left of it."""
        self.stop()
        quiet = 0
        while quiet < QUIET:
            quiet = 0 if sum(_kill(pid) for pid in self.processes()) else quiet + 1
        for daemon in self.daemons:
            daemon.log.unlink()
        self.daemons.clear()
        for path, data in self.accounts.items():
            if path.read_bytes() != data:
                path.write_bytes(data)
        shutil.rmtree(SPOOL, ignore_errors=True)
        shutil.rmtree(CONFIG, ignore_errors=True)
        shutil.rmtree("/run/cronq", ignore_errors=True)
        _make_homes()

    def processes(self) -> list[int]:
        """Every process of the machine's users, every daemon of its spool, and every job of root's."""
        return [pid for pid in _ours() if self._is_mine(pid)]

    def _is_mine(self, pid: int) -> bool:
        status = _status(pid)
        if not status:
            return False
        if status["uid"] >= min(uid for uid, _ in USERS.values()) or status["uid"] == self.uids["cronq"]:
            return True
        if os.fsencode(SPOOL) in command(pid).split(b"\0"):
            return True
        return "CRONQ_JOB_ID" not in os.environ and b"\0CRONQ_JOB_ID=" in b"\0" + _read(pid, "environ")


def _make_accounts() -> None:
    """With Debian's own tools; what the real machine has of these names is not on ours."""
    kept = [entry for entry in pwd.getpwall() if entry.pw_name in USERS or entry.pw_uid in range(2001, 2010)]
    for name in [entry.pw_name for entry in kept]:
        _tool("userdel", "--force", name)
    names = {entry.gr_name for entry in grp.getgrall()}
    for group in ("crew", "ops"):
        if group not in names:
            _tool("groupadd", group)
    if "cronq" not in {entry.pw_name for entry in pwd.getpwall()}:
        _tool("useradd", "--system", "--user-group", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin", "cronq")
    for name, (uid, group) in USERS.items():
        shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
        options = [f"--uid={uid}", "--user-group", f"--shell={shell}", f"--home-dir=/home/{name}"]
        _tool("useradd", "--no-log-init", "--no-create-home", *options, *([f"--groups={group}"] if group else []), name)


def _make_homes() -> None:
    """Empty ones, 0700."""
    for name, (uid, _) in USERS.items():
        home = Path("/home", name)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
        os.chown(home, uid, pwd.getpwnam(name).pw_gid)


def _tool(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stderr)


def _ours() -> list[int]:
    """Every other process in our mount namespace."""
    mine = private.namespace()
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in numbers if pid != os.getpid() and private.namespace(pid) == mine]


def _status(pid: int) -> dict[str, int]:
    """Its uid and session; empty where it has ended."""
    try:
        rows = dict(row.split(":\t", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {} if rows["State"].startswith("Z") else {"uid": int(rows["Uid"].split()[0]), "sid": os.getsid(pid)}
    except OSError:
        return {}


def _alive(pid: int) -> bool:
    return bool(_status(pid))


def command(pid: int) -> bytes:
    """The argv of a process, as the kernel gives it."""
    return _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
