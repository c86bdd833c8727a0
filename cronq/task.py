"""A task: what an administrator lets a name stand for; and a plan: what a job of it comes to.

Does:    table of a TOML file -> `Task` (one strict decoder, used by dispatcher and worker alike); `plan(job, task)`
         -> `Plan`, everything that starting, ending and retrying a job needs to know; `load` reads the tasks of a
         config directory.
Reads:   `cronq.toml` and `tasks.d/*.toml` of the config directory, in `load` only.
Trusts:  the config directory's owner. Standard library only.
Fails:   `BadConfig` with the file, the key and what would be right; `BadJob` where a job asks what a task refuses.
"""

from __future__ import annotations

import os

from cronq import job as jobs
from cronq.entry import DEFAULT_QUEUE
from cronq.errors import BadConfig, BadJob
from cronq.job import Backoff, Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KEYS = (
    "description",
    "command",
    "shell",
    "queue",
    "priority",
    "timeout",
    "grace",
    "retries",
    "backoff",
    "delivery",
    "on_crash",
    "max_crashes",
    "limit",
    "env",
    "cwd",
    "output_max",
    "leave_children",
)
ON_CRASH = ("retry", "dead", "hold")
DEFAULT_GRACE = 10.0
DEFAULT_OUTPUT_MAX = 10 * 1024 * 1024
DEFAULT_MAX_CRASHES = 3
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
MAX_SIZE = 2**60
_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


class Task:
    """One `[tasks.NAME]` table; a key that it does not have has its default (docs/reference.md)."""

    __slots__ = ("name", *KEYS)

    name: str
    description: str | None
    command: list[str] | None
    shell: str | None
    queue: str
    priority: int
    timeout: float | None
    grace: float
    retries: int
    backoff: Backoff
    delivery: str
    on_crash: str | None
    max_crashes: int
    limit: int | None
    env: dict[str, str]
    cwd: str | None
    output_max: int
    leave_children: bool

    def __init__(self, name: str, **fields: Any) -> None:
        self.name = name
        for key in KEYS:
            setattr(self, key, fields.get(key))
        self.queue = fields.get("queue", DEFAULT_QUEUE)
        self.priority = fields.get("priority", 0)
        self.grace = fields.get("grace", DEFAULT_GRACE)
        self.retries = fields.get("retries", 0)
        self.backoff = fields.get("backoff") or Backoff()
        self.delivery = fields.get("delivery", "at-least-once")
        self.max_crashes = fields.get("max_crashes", DEFAULT_MAX_CRASHES)
        self.env = fields.get("env") or {}
        self.output_max = fields.get("output_max", DEFAULT_OUTPUT_MAX)
        self.leave_children = fields.get("leave_children", False)


FREE = Task("", leave_children=True)  # what a free command runs under


class Plan:
    """What a job of a task comes to: what the worker starts, and by what the dispatcher orders and judges it."""

    __slots__ = (
        "argv",
        "backoff",
        "cwd",
        "delivery",
        "env",
        "grace",
        "leave_children",
        "limit",
        "max_crashes",
        "on_crash",
        "output_max",
        "priority",
        "queue",
        "retries",
        "stdin",
        "timeout",
    )

    argv: list[str]
    stdin: str | None
    env: dict[str, str]
    cwd: str | None
    queue: str
    priority: int
    timeout: float | None
    grace: float
    retries: int
    backoff: Backoff
    delivery: str
    on_crash: str
    max_crashes: int
    limit: int | None
    output_max: int
    leave_children: bool


def plan(job: Job, tasks: dict[str, Task]) -> Plan:
    """What `job` comes to. Raises `BadJob` where it names a task that is not there."""
    task = FREE
    if job.task is not None:
        if job.task not in tasks:
            known = ", ".join(sorted(tasks)) or "none"
            raise BadJob(f"unknown task {jobs.show(job.task)}; known are: {known} (cronq.toml, tasks.d/*.toml)")
        task = tasks[job.task]
    made = Plan()
    made.argv = _argv(job, task)
    made.stdin = job.stdin
    made.env = {**task.env, **job.env}
    made.cwd = task.cwd if task.cwd is not None else job.cwd
    made.queue = _either(job.queue, task.queue)
    made.priority = _either(job.priority, task.priority)
    made.timeout = _either(job.timeout, task.timeout)
    made.grace = task.grace
    made.retries = _either(job.retries, task.retries)
    made.backoff = _either(job.backoff, task.backoff)
    made.delivery = _either(job.delivery, task.delivery)
    made.on_crash = task.on_crash or ("dead" if made.delivery == "at-most-once" else "retry")
    made.max_crashes = task.max_crashes
    made.limit = task.limit
    made.output_max = task.output_max
    made.leave_children = task.leave_children
    return made


def _either(asked: Any, default: Any) -> Any:
    return default if asked is None else asked


def _argv(job: Job, task: Task) -> list[str]:
    if job.command is not None:
        return job.command
    if task.shell is not None:
        return ["/bin/sh", "-c", task.shell, task.name, *job.args]
    return [*(task.command or ()), *job.args]


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


def clashes(fields: Mapping[str, Any]) -> list[str]:
    """Which fields of a task do not go together: a sentence each."""
    found = []
    if ("command" in fields) == ("shell" in fields):
        found.append("a task has either a command or a shell line; write one of the two keys")
    if fields.get("delivery") == "at-most-once" and fields.get("on_crash") == "retry":
        found.append("an at-most-once job is never run again after a crash; leave out on_crash, or write dead or hold")
    return found


def _shell(key: str, value: object) -> str:
    text = str(jobs.READERS["stdin"](key, value))
    if not text.strip():
        raise BadJob(f"{key} is empty")
    return text


def _on_crash(key: str, value: object) -> str:
    if value not in ON_CRASH:
        raise BadJob(f"{key} must be one of {', '.join(ON_CRASH)}, not {jobs.show(value)}")
    return str(value)


def _count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise BadJob(f"{key} must be a whole number from 1 to 100000, not {jobs.show(value)}")
    return value


def _switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadJob(f"{key} must be true or false, not {jobs.show(value)}")
    return value


def size(key: str, value: object) -> int:
    """Bytes of a size: a number, or text like 64M. Raises `BadJob`."""
    found = -1
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and value:
        unit = "" if value[-1] in jobs.DIGITS else value[-1]
        number = value[: len(value) - len(unit)]
        if number.isascii() and number.isdigit() and len(number) <= 16 and unit in _SIZES:
            found = int(number) * _SIZES[unit]
    if not 0 <= found <= MAX_SIZE:
        raise BadJob(f"{key} must be a size like 500K, 64M or 2G, not {jobs.show(value)}")
    return found


READERS: dict[str, Any] = {
    "description": jobs.READERS["stdin"],
    "command": jobs.READERS["command"],
    "shell": _shell,
    "on_crash": _on_crash,
    "max_crashes": _count,
    "limit": _count,
    "output_max": size,
    "leave_children": _switch,
    "grace": jobs.READERS["delay"],
} | {key: jobs.READERS[key] for key in ("queue", "priority", "timeout", "retries", "backoff", "delivery", "env", "cwd")}


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
    found = [main] if os.path.lexists(main) else []  # a link that leads nowhere is a mistake to tell, not no config
    return found + [os.path.join(folder, name) for name in names if name.endswith(".toml") and name[0] != "."]


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
