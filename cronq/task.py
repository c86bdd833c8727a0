"""A task: what an administrator lets a name stand for; and a plan: what a job of it comes to.

Does:    table of a TOML file -> `Task` (one strict decoder, used by dispatcher and worker alike); `plan(job, tasks)`
         -> `Plan`, everything that starting, ending and retrying a job needs to know; `load` reads the tasks of a
         config directory.
Reads:   `cronq.toml` and `tasks.d/*.toml` of the config directory, in `load` only; rootless, the passwd entry of a
         task's user.
Trusts:  the config directory's owner. Standard library only. How each key is read: `taskkeys`.
Fails:   `BadConfig` with the file, the key and what would be right; `BadJob` where a job asks what a task refuses.
"""

from __future__ import annotations

import os
import pwd
import sys

from cronq import job as jobs
from cronq.backoffs import retries_within
from cronq.entry import DEFAULT_QUEUE
from cronq.errors import BadConfig, BadJob, NotPermitted
from cronq.job import Backoff, Job
from cronq.taskkeys import READERS, clashes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.cronworld import World
    from cronq.limitkeys import Concurrency
    from cronq.uniquekeys import Conflict

KEYS = (
    "description",
    "command",
    "shell",
    "python",
    "interpreter",
    "mode",
    "max_jobs",
    "max_age",
    "max_rss",
    "user",
    "submit",
    "allow",
    "allow_root",
    "queue",
    "priority",
    "priority_max",
    "start_within",
    "timeout",
    "timeout_max",
    "watchdog",
    "grace",
    "retries",
    "retry_for",
    "backoff",
    "delivery",
    "on_crash",
    "max_crashes",
    "max_snoozes",
    "max_interruptions",
    "no_retry_on",
    "limit",
    "rate",
    "burst",
    "pause_on_failure",
    "concurrency",
    "mutex",
    "weight",
    "unique",
    "unique_keys",
    "unique_until",
    "unique_for",
    "on_conflict",
    "unique_scope",
    "env",
    "env_file",
    "cwd",
    "umask",
    "nice",
    "oom_score_adj",
    "rlimits",
    "no_new_privs",
    "memory_max",
    "pids_max",
    "cpu_weight",
    "output_max",
    "leave_children",
)
DEFAULT_GRACE = 10.0
DEFAULT_OUTPUT_MAX = 10 * 1024 * 1024
DEFAULT_MAX_CRASHES = 3
DEFAULT_MAX_SNOOZES = 100
DEFAULT_MAX_INTERRUPTIONS = 10
HOST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "host.py")
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
# What a plan takes over from the task as it is; the rest is asked of the job too, or made of both.
_AS_IT_IS = (
    "mode",
    "max_jobs",
    "max_age",
    "max_rss",
    "user",
    "env_file",
    "umask",
    "nice",
    "oom_score_adj",
    "rlimits",
    "no_new_privs",
    "memory_max",
    "pids_max",
    "cpu_weight",
    "timeout_max",
    "grace",
    "max_crashes",
    "max_snoozes",
    "max_interruptions",
    "no_retry_on",
    "limit",
    "output_max",
    "leave_children",
)
_OF_HOST = ("env", "env_file", "cwd", "umask", "nice", "oom_score_adj", "rlimits", "no_new_privs")


class Task:
    """One `[tasks.NAME]` table; a key that it does not have has its default (docs/reference.md)."""

    __slots__ = ("name", *KEYS)

    name: str
    description: str | None
    command: list[str] | None
    shell: str | None
    python: str | None  # module:function
    interpreter: str | None
    mode: str
    max_jobs: int | None
    max_age: float | None
    max_rss: int | None
    user: str | None
    submit: list[str] | None
    allow: list[str]
    allow_root: bool
    queue: str
    priority: int
    priority_max: int | None  # that a submitter may ask for
    start_within: float | None
    timeout: float | None
    timeout_max: float | None
    watchdog: float | None
    grace: float
    retries: int
    retry_for: float | None
    backoff: Backoff
    delivery: str
    on_crash: str | None
    max_crashes: int
    max_snoozes: int
    max_interruptions: int
    no_retry_on: list[str]  # kinds of ends (`taskkeys.ENDS`)
    limit: int | None
    rate: tuple[int, float] | None  # how many may start in how many seconds
    burst: int
    pause_on_failure: bool
    concurrency: Concurrency | None
    mutex: str | None
    weight: int
    unique: str | list[str] | None  # of jobs that say none; so are the next four
    unique_keys: list[int] | None
    unique_until: str | None
    unique_for: float | None
    on_conflict: Conflict | None
    unique_scope: str
    env: dict[str, str]
    env_file: str | None
    cwd: str | None
    umask: int | None
    nice: int | None
    oom_score_adj: int | None
    rlimits: dict[str, int | str]
    no_new_privs: bool
    memory_max: int | None
    pids_max: int | None
    cpu_weight: int | None
    output_max: int
    leave_children: bool

    def __init__(self, name: str, **fields: Any) -> None:
        self.name = name
        for key in KEYS:
            setattr(self, key, fields.get(key))
        self.mode = fields.get("mode", "exec")
        self.allow = fields.get("allow") or []
        self.allow_root = fields.get("allow_root", False)
        self.queue = fields.get("queue", DEFAULT_QUEUE)
        self.priority = fields.get("priority", 0)
        self.grace = fields.get("grace", DEFAULT_GRACE)
        self.retries = fields.get("retries", 0)
        self.backoff = fields.get("backoff") or Backoff()
        self.delivery = fields.get("delivery", "at-least-once")
        self.max_crashes = fields.get("max_crashes", DEFAULT_MAX_CRASHES)
        self.max_snoozes = fields.get("max_snoozes", DEFAULT_MAX_SNOOZES)
        self.max_interruptions = fields.get("max_interruptions", DEFAULT_MAX_INTERRUPTIONS)
        self.no_retry_on = fields.get("no_retry_on") or []
        self.burst = fields.get("burst", 1)
        self.pause_on_failure = fields.get("pause_on_failure", False)
        self.weight = fields.get("weight", 1)
        self.unique_scope = fields.get("unique_scope", "user")
        self.env = fields.get("env") or {}
        self.rlimits = fields.get("rlimits") or {}
        self.no_new_privs = fields.get("no_new_privs", False)
        self.output_max = fields.get("output_max", DEFAULT_OUTPUT_MAX)
        self.leave_children = fields.get("leave_children", False)


FREE = Task("", leave_children=True)  # what a free command runs under


class Plan:
    """What a job of a task comes to: what the worker starts, and by what the dispatcher orders and judges it."""

    __slots__ = (
        "args",
        "argv",
        "backoff",
        "batch",
        "cron",
        "cwd",
        "delivery",
        "env",
        "host",
        "on_crash",
        "priority",
        "queue",
        "retries",
        "stdin",
        "timeout",
        "watchdog",
        "weight",
        *_AS_IT_IS,
    )

    argv: list[str]
    args: list[str]  # the job's own, which are the last ones of argv
    host: Plan | None  # what is started beforehand, where jobs are not started each by itself
    mode: str
    max_jobs: int | None  # of one host; so are the next two
    max_age: float | None
    max_rss: int | None
    batch: str | None  # that the job was added to
    cron: World | None  # of a crontab's line: what is run instead, in cron's world
    stdin: str | None
    user: str | None  # whom the task names; None: it runs as its submitter
    env: dict[str, str]
    env_file: str | None
    cwd: str | None
    umask: int | None
    nice: int | None
    oom_score_adj: int | None
    rlimits: dict[str, int | str]  # "unlimited" is the only text
    no_new_privs: bool
    memory_max: int | None
    pids_max: int | None
    cpu_weight: int | None
    queue: str
    priority: int
    timeout: float | None
    timeout_max: float | None  # how long an attempt may take in all, however often it says `touch`
    watchdog: float | None
    weight: int
    grace: float
    retries: int
    backoff: Backoff
    delivery: str
    on_crash: str
    max_crashes: int
    max_snoozes: int
    max_interruptions: int
    no_retry_on: list[str]  # kinds of ends (`taskkeys.ENDS`)
    limit: int | None
    output_max: int
    leave_children: bool


def plan(job: Job, tasks: dict[str, Task], system: bool = False) -> Plan:
    """What `job` comes to. Raises `BadJob` where it names a task that is not there, or that cannot run here.

    With `system`, users differ: a directory that a submitter recorded is none of a task's with a `user` of its own,
    unless its `allow` says "cwd". Who may submit what is `authority`'s to say. Without, everything runs as whoever
    runs this program, so a task of somebody else's cannot.
    """
    task = FREE
    if job.task is not None:
        if job.task not in tasks:
            known = ", ".join(sorted(tasks)) or "none"
            raise BadJob(f"unknown task {jobs.show(job.task)}; known are: {known} (cronq.toml, tasks.d/*.toml)")
        task = tasks[job.task]
    if task.user is not None and not system:
        _must_be_mine(task.name, task.user)
    made = Plan()
    made.batch = job.batch
    made.cron = None
    for key in _AS_IT_IS:
        setattr(made, key, getattr(task, key))
    made.argv = _argv(job, task)
    made.args = job.args
    made.host = None if task.mode == "exec" else _host(task)
    made.stdin = job.stdin
    made.env = {**task.env, **job.env}
    made.cwd = task.cwd
    if task.cwd is None and (task.user is None or not system or "cwd" in task.allow):
        made.cwd = job.cwd
    made.queue = _either(job.queue, task.queue)
    made.priority = _either(job.priority, task.priority)
    made.timeout = _either(job.timeout, task.timeout)
    made.watchdog = _either(job.watchdog, task.watchdog)
    made.weight = _either(job.weight, task.weight)
    made.backoff = _either(job.backoff, task.backoff)
    made.retries = _retries(job if job.retries is not None or job.retry_for is not None else task, made.backoff)
    made.delivery = _either(job.delivery, task.delivery)
    made.on_crash = task.on_crash or ("dead" if made.delivery == "at-most-once" else "retry")
    return made


def _host(task: Task) -> Plan:
    """What is started beforehand for all jobs of a task: as a job of it that says nothing would be."""
    bare = Task(task.name, **{key: getattr(task, key) for key in _OF_HOST})
    made = plan(Job(task=task.name), {task.name: bare}, system=True)
    made.argv = list(task.command or ()) if task.python is None else _python(task, task.mode)
    return made


def mine(user: str) -> bool:
    """Whether the user of this name is the one who runs this program."""
    try:
        return pwd.getpwnam(user).pw_uid == os.getuid()
    except KeyError:
        return False


def _must_be_mine(task: str, user: str) -> None:
    if not mine(user):
        refused = BadJob(
            f"the task {task} runs as {user}, and this dispatcher runs everything as uid {os.getuid()}; submit it to "
            "the system's dispatcher, or take user out of the task"
        )
        refused.exit_code = NotPermitted.exit_code
        raise refused


def _either(asked: Any, default: Any) -> Any:
    return default if asked is None else asked


def _retries(said: Job | Task, backoff: Backoff) -> int:
    return said.retries or 0 if said.retry_for is None else retries_within(backoff, said.retry_for)


def _argv(job: Job, task: Task) -> list[str]:
    if job.command is not None:
        return job.command
    if task.python is not None:
        return [*_python(task, "once"), *job.args]
    if task.shell is not None:
        return ["/bin/sh", "-c", task.shell, task.name, *job.args]
    return [*(task.command or ()), *job.args]


def _python(task: Task, how: str) -> list[str]:
    """The command that calls the task's function, or that does so for many jobs (`host`)."""
    return [task.interpreter or sys.executable, HOST, how, task.python or "", task.cwd or ""]


def decode(name: str, table: object, where: str) -> Task:
    """The task `[tasks.NAME]` that this table says; `where` names the file. Raises `BadConfig`."""
    what = f"{where}: [tasks.{name if jobs.is_name(name, 48) else jobs.show(name)}]"
    try:
        if not jobs.is_name(name, 48):
            raise BadJob("a task's name has letters, digits, '.', '_', '-', at most 48")
        if not isinstance(table, dict):
            raise BadJob("a task is a table")
        for key in table:
            if key not in KEYS:
                raise BadJob(f"unknown key {jobs.show(key)}; known are {', '.join(KEYS)}")
        fields = {key: READERS[key](key, value) for key, value in table.items()}
        for sentence in clashes(fields):
            raise BadJob(sentence)
    except BadJob as error:
        raise BadConfig(f"{what} {error.sentence}") from None
    return Task(name, **fields)


def files(config: str) -> list[str]:
    """The config files below the directory `config`, in the order in which they are read. Raises `BadConfig`."""
    main = os.path.join(config, "cronq.toml")
    folder = os.path.join(config, "tasks.d")
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise BadConfig(f"{folder}: cannot be read: {error.strerror}") from None
    found = [main] if _is_there(main) else []  # a link that leads nowhere is a mistake to tell, not no config
    return found + [os.path.join(folder, name) for name in names if name.endswith(".toml") and name[0] != "."]


def _is_there(path: str) -> bool:
    """Whether there is such a file; where the disk does not say, that is no config without it. Raises `BadConfig`."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BadConfig(f"{path}: cannot be looked at: {error.strerror}") from None
    return True


def tables(path: str) -> dict[str, Any]:
    """The tables of one TOML file. Raises `BadConfig` with file, line and column."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: not UTF-8 (byte {error.start + 1}); write it in UTF-8") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; so is a number of thousands of digits
        raise BadConfig(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from None


def main_says(config: str, title: str, key: str) -> object:
    """What cronq.toml says for a key of one of its tables; None where it says nothing. Raises `BadConfig`."""
    path = os.path.join(config, "cronq.toml")
    table = tables(path).get(title) if _is_there(path) else None
    return table.get(key) if isinstance(table, dict) else None


def load(config: str) -> dict[str, Task]:
    """Every task of the config directory, by name. Raises `BadConfig`."""
    found: dict[str, Task] = {}
    for path in files(config):
        of_file = tables(path).get("tasks", {})
        if not isinstance(of_file, dict):
            raise BadConfig(f"{path}: tasks must be tables, like [tasks.resize]")
        for name, table in of_file.items():
            if name in found:
                raise BadConfig(f"{path}: [tasks.{name}] stands in two files; keep one of them")
            found[name] = decode(name, table, path)
    return found
