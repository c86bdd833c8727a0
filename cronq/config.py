"""The configuration: cronq.toml and tasks.d/*.toml -> tasks, queues, schedules and limits.

Does:    `load` reads the files of a config directory, all or nothing.
Reads:   `cronq.toml` and `tasks.d/*.toml` below the directory it is handed. A directory that is not there is an empty
         configuration: rootless needs none.
Trusts:  the directory's owner.
Fails:   `BadConfig` with file, table, key and the way to mend it; `more` holds what else is wrong, in all files.

The keys are documented in docs/config.md; `cronq schema config` prints the JSON Schema.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from cronq import (
    cronjobs,
    cronmail,
    hooks,
    intake,
    limitkeys,
    metricskeys,
    retentionkeys,
    rhythm,
    taskkeys,
    tick,
    trusted,
)
from cronq import job as jobs
from cronq import task as tasks
from cronq.entry import DEFAULT_QUEUE
from cronq.errors import BadConfig, BadJob
from cronq.metricskeys import Metrics
from cronq.options import Options
from cronq.rate import Rate
from cronq.retentionkeys import Keep
from cronq.task import Task
from cronq.upcoming import AnySchedule

TABLES = ("tasks", "queues", "schedules")
ONLY_IN_MAIN = ("limits", "pressure", "control", "exec", "cron", "notify", "stop", "retention", "metrics")
MAIN = "cronq.toml"
ALWAYS = (DEFAULT_QUEUE, cronjobs.QUEUE, cronmail.QUEUE, hooks.QUEUE)  # queues that are there without being named


@dataclass(frozen=True, slots=True)
class Queue:
    """One `[queues.NAME]`: how many of its jobs may run at once, and start in how long (None: as many as there are)."""

    name: str
    slots: int | None = None
    rate: tuple[int, float] | None = None
    burst: int = 1
    pause_on_failure: bool = False
    aging: float | None = None  # in how many seconds of waiting a job gains a priority (`lanes`); 0: never
    retention: dict[str, Any] = field(default_factory=dict)  # what differs from `[retention]`


@dataclass(frozen=True, slots=True)
class Schedule:
    """One `[schedules.NAME]`: a job of `task` every so many seconds, or when `cron` says."""

    name: str
    every: float | None
    task: str
    args: list[str] = field(default_factory=list)
    priority: int | None = None
    queue: str | None = None
    enabled: bool = True
    cron: str | None = None
    zone: str = ""
    catchup: str = "none"
    jitter: float = 0.0
    schedule: AnySchedule = field(init=False, compare=False, repr=False)
    options: Options = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", rhythm.schedule(self.name, self.every, self.cron))
        object.__setattr__(self, "options", rhythm.options(self.catchup, self.jitter))

    def fields(self) -> dict[str, Any]:
        """The fields of the job that a tick of it makes."""
        return tick.fields(self.task, self.args, self.priority, self.queue)


def default_max_jobs() -> int:
    """Four for each CPU that this process may use, at least eight."""
    return max(8, 4 * len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration; an empty one has no task, and the default limit."""

    tasks: dict[str, Task] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    max_jobs: int = field(default_factory=default_max_jobs)
    operators: str | None = None  # the group that may see and control every job, beside root
    max_jobs_per_user: int | None = None  # None: as the mode has it (`lanes.per_user_default`)
    shares: dict[str, float] = field(default_factory=dict)  # of submitters, beside others' 1
    max_load: float | None = None  # above this load no job starts
    min_free_memory: int | None = None  # nor where fewer bytes are free
    cron_system: bool = False  # whether the machine's own crontabs are run
    sendmail: str = cronmail.SENDMAIL  # the program that takes mail
    notify: hooks.Notify = field(default_factory=hooks.Notify)  # who else is told what became of jobs
    drain_timeout: float = 0.0  # seconds that a dispatcher waits for running jobs when it is told to stop
    stop_mode: str = "leave"  # what it does about them then: leave them, or interrupt them
    keep: Keep = field(default_factory=Keep)  # for how long what is kept, in queues that say nothing else
    metrics: Metrics = field(default_factory=Metrics)  # where figures are written, and how often
    # How often something may start: of `queue NAME`, of `task NAME`, by `key NAME` of each key of a task.
    rates: dict[str, Rate] = field(init=False, compare=False, repr=False)
    # What is paused when a job of it ends dead: ("queue", NAME), ("task", NAME).
    pausing: frozenset[tuple[str, str]] = field(init=False, compare=False, repr=False)
    named_queues: frozenset[str] = field(init=False, compare=False, repr=False)  # by itself, or some table

    def kept(self, queue: str) -> Keep:
        """For how long something of this queue is kept."""
        found = self.queues.get(queue)
        return self.keep._replace(**found.retention) if found is not None else self.keep

    @property
    def slots(self) -> dict[str, int]:
        """The slots of each queue that has a number of them."""
        return {queue.name: queue.slots for queue in self.queues.values() if queue.slots is not None}

    @property
    def agings(self) -> dict[str, float]:
        """In how many seconds of waiting a job gains a priority, of each queue that says it."""
        return {queue.name: queue.aging for queue in self.queues.values() if queue.aging is not None}

    @property
    def limits(self) -> dict[str, int]:
        """The limit of each task that has one."""
        return {task.name: task.limit for task in self.tasks.values() if task.limit is not None}

    @property
    def key_limits(self) -> dict[str, int]:
        """How many of a key of each task may run at once."""
        said = {task.name: task.concurrency.limit for task in self.tasks.values() if task.concurrency is not None}
        return {name: limit for name, limit in said.items() if limit is not None}

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", self._rates())
        found = [("queue", each.name) for each in self.queues.values() if each.pause_on_failure]
        found += [("task", each.name) for each in self.tasks.values() if each.pause_on_failure]
        object.__setattr__(self, "pausing", frozenset(found))
        named = {*ALWAYS, *self.queues, *(each.queue for each in self.tasks.values())}
        named |= {each.queue for each in self.schedules.values() if each.queue is not None}
        object.__setattr__(self, "named_queues", frozenset(named))

    def _rates(self) -> dict[str, Rate]:
        said = [(f"queue {queue.name}", queue.rate, queue.burst) for queue in self.queues.values()]
        said += [(f"task {task.name}", task.rate, task.burst) for task in self.tasks.values()]
        keyed = [(task.name, task.concurrency) for task in self.tasks.values() if task.concurrency is not None]
        said += [(f"key {name}", each.rate, each.burst) for name, each in keyed]
        return {name: Rate(*rate, burst) for name, rate, burst in said if rate is not None}


def load(config_dir: str, *, system: bool = False) -> Config:
    """The configuration that the files of `config_dir` say. Raises `BadConfig`.

    With `system` it is one for many users: root's alone to change, and each schedule's task has a user.
    """
    reading = _Reading()
    if system:
        reading.errors += [error.sentence for error in trusted.problems(config_dir)]
    for path in tasks.files(config_dir):
        reading.path(path)
    reading.check_schedules(system)
    if reading.errors:
        raise BadConfig(reading.errors[0], reading.errors[1:])
    return reading.config()


def load_file(path: str, *, system: bool = False) -> tuple[Config, list[str]]:
    """What one file says by itself, and what is wrong with it; what it names may stand in others."""
    reading = _Reading()
    reading.path(path)
    reading.whole = False
    reading.check_schedules(system)
    return reading.config(), reading.errors


class _Reading:
    """What has been read so far, and everything that was wrong with it."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.whole = True  # whether every task's name is known, so that an unknown one can be told
        self.places: dict[tuple[str, str], str] = {}
        self.tasks: dict[str, Task] = {}
        self.queues: dict[str, Queue] = {}
        self.schedules: dict[str, Schedule] = {}
        self.main: dict[str, Any] = {}  # what the tables of cronq.toml alone say, by key: no two have the same

    def path(self, path: str) -> None:
        """Read one file."""
        try:
            self.file(path, tasks.tables(path), main=os.path.basename(path) == MAIN)
        except BadConfig as error:
            self.errors.append(error.sentence)
            self.whole = False

    def config(self) -> Config:
        """What has been read."""
        return Config(
            self.tasks,
            self.queues,
            self.schedules,
            max_jobs=self.main.get("max_jobs") or default_max_jobs(),
            operators=self.main.get("operators"),
            max_jobs_per_user=self.main.get("max_jobs_per_user"),
            shares=self.main.get("shares") or {},
            max_load=self.main.get("max_load"),
            min_free_memory=self.main.get("min_free_memory"),
            cron_system=self.main.get("system", False),
            sendmail=self.main.get("sendmail", cronmail.SENDMAIL),
            notify=hooks.Notify(**{key: value for key, value in self.main.items() if key in hooks.READERS}),
            drain_timeout=self.main.get("drain_timeout", 0.0),
            stop_mode=self.main.get("mode", "leave"),
            metrics=Metrics(**{key: value for key, value in self.main.items() if key in metricskeys.READERS}),
            keep=Keep(**{key: value for key, value in self.main.items() if key in retentionkeys.READERS}),
        )

    def file(self, path: str, tables: dict[str, Any], *, main: bool) -> None:
        """Read the tables of one file."""
        for title, table in tables.items():
            if title in ONLY_IN_MAIN and main:
                self.only(path, title, table)
            elif title in ONLY_IN_MAIN:
                self.errors.append(f"{path}: [{title}] stands in {MAIN} only; move it there")
            elif title not in TABLES:
                known = [f"{name}" for name in (*TABLES, *(ONLY_IN_MAIN if main else ()))]
                self.errors.append(f"{path}: {intake.unknown_key(title, known, 'table')}")
            elif not isinstance(table, dict):
                self.errors.append(f"{path}: {title} must be tables, like [{title}.NAME]")
            else:
                for name, fields in table.items():
                    self.one(path, title, name, fields)

    def one(self, path: str, title: str, name: str, fields: object) -> None:
        """Read one table, like [tasks.resize]."""
        what = f"{path}: [{title}.{name if jobs.is_name(name, 48) else jobs.show(name)}]"
        if not jobs.is_name(name, 48):
            self.errors.append(f"{what} a name has letters, digits, '.', '_', '-', at most 48")
            return
        there = self.places.setdefault((title, name), path)
        if there != path:
            self.errors.append(f"{what} stands in {there} too; keep one of them")
            return
        if not isinstance(fields, dict):
            self.errors.append(f"{what} must be a table, not {jobs.show(fields)}")
        elif title == "tasks":
            self.task(path, name, fields)
        elif title == "queues":
            if (found := self.read("queue", what, fields, QUEUE_READERS, limitkeys.clashes)) is not None:
                self.queues[name] = Queue(name, **found)
        elif (found := self.read("schedule", what, fields, rhythm.READERS, rhythm.clashes)) is not None:
            self.schedules[name] = Schedule(name, **{"task": name, "every": None, **found})

    def task(self, path: str, name: str, fields: dict[str, Any]) -> None:
        """Read one [tasks.NAME] by the decoder that the worker has too."""
        try:
            self.tasks[name] = tasks.decode(name, fields, path)
        except BadConfig as error:
            more = [f"{path}: [tasks.{name}] {each}" for each in intake.complaints("task", fields, taskkeys.READERS)]
            self.errors += more or [error.sentence]

    def only(self, path: str, title: str, fields: object) -> None:
        """Read a table of which there is one, like [limits]."""
        if not isinstance(fields, dict):
            self.errors.append(f"{path}: {title} must be a table, like [{title}]")
        elif (found := self.read(title, f"{path}: [{title}]", fields, MAIN_READERS[title])) is not None:
            self.main |= found

    def read(
        self,
        form: str,
        what: str,
        fields: dict[str, Any],
        readers: dict[str, Reader],
        clashes: Callable[[Collection[str]], list[str]] = lambda _fields: [],
    ) -> dict[str, Any] | None:
        """The values of a table's keys; None, with what is wrong noted, where it is wrong."""
        try:
            found = {key: readers[key](key, value) for key, value in fields.items()}
            if not (refusals := clashes(fields)):
                return found
            refused = refusals[0]
        except KeyError as error:
            refused = intake.unknown_key(str(error.args[0]), readers)
        except BadJob as error:
            refused = error.sentence
        self.errors += [f"{what} {each}" for each in intake.complaints(form, fields, readers) or [refused]]
        return None

    def check_schedules(self, system: bool) -> None:
        """Every schedule's task must be there, unless a file that may hold it could not be read."""
        for schedule in self.schedules.values():
            task = self.tasks.get(schedule.task)
            if system and task is not None and task.user is None:
                where = self.places["schedules", schedule.name]
                self.errors.append(f"{where}: {tick.needs_user(schedule.name, task.name)}")
            if self.whole and ("tasks", schedule.task) not in self.places:
                what = f"{self.places['schedules', schedule.name]}: [schedules.{schedule.name}]"
                known = sorted(name for title, name in self.places if title == "tasks")
                self.errors.append(f"{what} {intake.unknown_key(schedule.task, known, 'task')}")


Reader = Callable[[str, Any], Any]


QUEUE_READERS: dict[str, Reader] = {
    "slots": taskkeys.count,
    "rate": limitkeys.rate,
    "burst": limitkeys.count,
    "pause_on_failure": taskkeys.switch,
    "aging": jobs.READERS["delay"],
    "retention": retentionkeys.queue,
}
MAIN_READERS: dict[str, dict[str, Reader]] = {
    "limits": {"max_jobs": taskkeys.count, "max_jobs_per_user": taskkeys.count, "shares": taskkeys.shares},
    "pressure": {"max_load": limitkeys.load, "min_free_memory": taskkeys.size},
    "control": {"operators": taskkeys.operators},
    "exec": {"allow_root": taskkeys.switch},
    "cron": {"system": taskkeys.switch, "sendmail": taskkeys.READERS["env_file"]},
    "notify": hooks.READERS,
    "retention": retentionkeys.READERS,
    "metrics": metricskeys.READERS,
    "stop": {"drain_timeout": jobs.READERS["delay"], "mode": taskkeys.stop_mode},
}
