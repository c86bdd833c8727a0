"""Authority: who may have which job, and as whom it runs. For the system's dispatcher and for workers; not rootless.

Does:    `Authority.permit` and `Authority.runs_as` judge a job by its submitter and its task; `Authority.book` and
         `Authority.schedule_fields` are the tasks and ticks of a configuration that root alone can change.
Reads:   the config directory: its TOML files, `exec.allow`, `exec.deny`; passwd and group (`accounts`).
Trusts:  a configuration that is root's up to `/` (`trusted`), and NSS; of a job only its bytes' owner, who is an
         argument here. Nothing is written, nothing needs a privilege: a worker asks as the user it has become.
Fails:   in three ways, and the caller does with a job what the class says, nothing else:
         `NotPermitted` (77) or `BadJob` (65): the job is refused with this sentence, for good;
         `BadConfig` (78): an administrator must mend something; the job goes back to ready and has used no attempt, or,
         where it is only just admitted, is admitted: it is judged again when it is to start.

Standard library only. Looks at most ten times a second at files, and keeps accounts for a minute: a job costs
microseconds.
"""

from __future__ import annotations

import os
import time
import tomllib  # noqa: F401 - `task.tables` imports it where it reads; a worker has to before it is forked

from cronq import job as jobs
from cronq import task as tasks
from cronq import tick
from cronq.accounts import Accounts
from cronq.errors import BadConfig, BadJob, NotPermitted
from cronq.taskbook import LOOK_EVERY, TaskBook
from cronq.taskkeys import CRONQ
from cronq.trusted import tree, trusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cronq.job import Job
    from cronq.task import Task

__all__ = ["Authority", "trusted"]

ROOT = 0


class Authority:
    """What a configuration lets whom do."""

    def __init__(self, config: str, accounts: Accounts | None = None) -> None:
        self.config = config
        self.accounts = accounts or Accounts()
        self.book = TaskBook(config, tree)  # tasks, of a configuration that was found to be root's at each look
        self._ticks = _Kept(lambda: tick.tables(config))
        self._root_may = _Kept(lambda: _switched_on(config, "exec", "allow_root"))
        self._machines = _Kept(lambda: _switched_on(config, "cron", "system"))
        self._commanders = _Kept(lambda: _Commanders(config))

    def permit(self, job: Job, task: Task | None, submitter: int) -> None:
        """Make sure that the user `submitter` may have this job, whose task is `task` (None: a free command).

        Raises `NotPermitted` where he may not, or asks for what the task does not let him set; `BadConfig` where that
        cannot be known. A tick has no submitter: it is judged by `schedule_fields` and `runs_as` alone.
        """
        if task is None:
            if job.command is None:
                raise BadJob(f"unknown task {jobs.show(job.task)}")
            self._may_command(submitter)
            return
        self._may_submit(task, submitter)
        asked = {word: what for word, what in _asks(job, task) if word not in task.allow}
        if asked:
            raise NotPermitted(
                f"{', '.join(asked.values())}: the task {task.name} lets no submitter set that; leave it out, or have "
                f"{' and '.join(asked)} added to the task's allow"
            )
        if job.priority is not None and task.priority_max is not None and job.priority > task.priority_max:
            raise NotPermitted(
                f"priority: {job.priority} is more than the task {task.name} lets a submitter have "
                f"({task.priority_max}); ask for less"
            )
        for key in ("timeout", "watchdog"):
            wanted, most = getattr(job, key), getattr(task, key)
            if wanted is not None and most is not None and wanted > most:
                raise NotPermitted(
                    f"{key}: {wanted:g}s is longer than the task {task.name} has ({most:g}s); ask for less"
                )

    def runs_as(self, task: Task | None, submitter: int) -> int:
        """The uid that a job of `task` (None: a free command) runs as, if `submitter` submitted it.

        For a tick, `submitter` is the uid of cronq itself: its task must have a user. Raises `NotPermitted` where
        nothing runs as that user (cronq; root, unless the configuration says so); `BadConfig` where the task's user
        is nobody, or is in the group of cronq.
        """
        uid, what = submitter, "a command" if task is None else f"the task {task.name}"
        if task is not None and task.user is not None:
            found = self.accounts.uid(task.user)
            if found is None:
                raise BadConfig(
                    f"[tasks.{task.name}] there is no user {task.user}; make it (useradd --system {task.user}), "
                    "or name another"
                )
            uid = found
        if uid == self.accounts.uid(CRONQ):
            why = "a schedule's task needs a user" if uid == submitter else "name another user"
            raise NotPermitted(f"{what} would run as {CRONQ}, and nothing does; {why}")
        if uid != ROOT:
            self._not_of_ours(uid)
        elif not self._root_runs(task):
            where = "[exec] in cronq.toml" if task is None else f"[tasks.{task.name}]"
            raise NotPermitted(f"{what} would run as root; write allow_root = true into {where} to let it")
        return uid

    def runs_line(self, table: str, uid: int) -> None:
        """Make sure that lines of this crontab may run as this user. Raises `NotPermitted`, `BadConfig`.

        What root wrote into a table of root's, root wants; a table that came through an inbox has to be allowed for
        root, as his commands have, or by root having made this the machine's cron.
        """
        if uid == self.accounts.uid(CRONQ):
            raise NotPermitted(f"a line of {table} would run as {CRONQ}, and nothing does; name another user")
        if uid != ROOT:
            self._not_of_ours(uid)
        elif not table.startswith("/") and not (self._root_may.value() or self._machines.value()):
            raise NotPermitted("root's crontab needs allow_root = true in [exec], or system = true in [cron]")

    def machines_tables(self) -> bool:
        """Whether the machine's own crontabs count. Raises `BadConfig`."""
        self.book.tasks()  # which looks whether the configuration is root's
        return bool(self._machines.value())

    def _root_runs(self, task: Task | None) -> bool:
        if task is not None and (task.allow_root or task.user is not None):
            return task.allow_root
        return bool(self._root_may.value())  # what he may do by a command of his, he may do by a task

    def schedule_fields(self, name: str) -> dict[str, Any]:
        """The fields of the job that a tick of the schedule `name` is, by the configuration as it is now.

        A tick is what its schedule says if its bytes are `job.encode` of these. Raises `BadJob` where the schedule is
        not there any more or is not enabled, `BadConfig` where it, or its task, is not as it must be.
        """
        known = self.book.tasks()  # which looks whether the configuration is root's
        fields = tick.fields_of(name, self._ticks.value())
        task = known.get(fields["task"])
        if task is None:
            raise BadConfig(f"[schedules.{name}] unknown task {jobs.show(fields['task'])}; correct it")
        if task.user is None:
            raise BadConfig(tick.needs_user(name, task.name))
        return fields

    # ---------------------------------------------------------------- who may submit

    def _may_submit(self, task: Task, submitter: int) -> None:
        if submitter == ROOT or (task.submit is None and task.user is None):
            return
        if task.submit is None:
            if self.accounts.uid(task.user or "") == submitter:
                return
            raise NotPermitted(
                f"the task {task.name} runs as {task.user}, so only {task.user} and root may submit it; others need "
                f'to stand in its submit, like submit = ["{self._name(submitter)}"]'
            )
        for each in task.submit:
            if each.startswith("@"):
                gid = self.accounts.gid(each[1:])
                if gid is not None and gid in self.accounts.groups(submitter):
                    return
            elif self.accounts.uid(each) == submitter:
                return
        raise NotPermitted(f"{self._name(submitter)} may not submit the task {task.name}: its submit lists who may")

    def _may_command(self, submitter: int) -> None:
        """As at.allow and at.deny: whoever is listed; or else whoever is not; or else everybody; and root always."""
        if submitter == ROOT:
            return
        commanders = self._commanders.value()
        if not commanders.may(self.accounts.name(submitter)):
            raise NotPermitted(f"{self._name(submitter)} may not submit commands: {commanders.why}")

    def _not_of_ours(self, uid: int) -> None:
        """Whoever is in the group of cronq could make files that only an inbox should be able to make."""
        ours = self.accounts.gid(CRONQ)
        if ours is not None and ours in self.accounts.groups(uid):
            name = self._name(uid)
            raise BadConfig(f"{name} is in the group {CRONQ}, which must have no members; gpasswd -d {name} {CRONQ}")

    def _name(self, uid: int) -> str:
        return self.accounts.name(uid) or f"uid {uid}"


def _asks(job: Job, task: Task) -> list[tuple[str, str]]:
    """What a job asks for that a task has to allow: the word for it, and what it is."""
    dashed = next((arg for arg in job.args if arg.startswith("-")), None)
    found = [
        ("env", "env") if job.env else None,
        ("queue", "queue") if job.queue is not None else None,
        ("retries", "retries") if job.retries is not None or job.retry_for is not None else None,
        ("mutex", "mutex") if job.mutex is not None else None,
        ("weight", "weight") if job.weight is not None else None,
        ("unique", "unique") if job.unique is not None and task.unique is not None else None,
        ("options", f"the argument {jobs.show(dashed, 40)}") if dashed is not None else None,
    ]
    return [each for each in found if each is not None]


class _Kept:
    """What a function gives, for a tenth of a second, its `BadConfig` too."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self._look = look
        self._until = float("-inf")
        self._found: Any = None

    def value(self) -> Any:
        now = time.monotonic()
        if now >= self._until:
            try:
                self._found = self._look()
            except BadConfig as error:
                self._found = error
            self._until = now + LOOK_EVERY
        if isinstance(self._found, BadConfig):
            raise BadConfig(self._found.sentence)
        return self._found


def _switched_on(config: str, title: str, key: str) -> bool:
    """Whether a table of cronq.toml switches this on. Raises `BadConfig`."""
    path = os.path.join(config, "cronq.toml")
    if os.path.lexists(path):
        trusted(path)
    return tasks.main_says(config, title, key) is True


class _Commanders:
    """Who may submit free commands, by exec.allow and exec.deny. Raises `BadConfig` where others can change them.

    As at(1) has it: whoever is in the first; without it, whoever is not in the second; without both, everybody. A list
    that is there and cannot be read lets nobody.
    """

    def __init__(self, config: str) -> None:
        self.names: frozenset[str] = frozenset()
        self.listed: bool | None = None  # whether the list says who may, or who may not; None: there is no list
        self.why = ""
        for name, listed in (("exec.allow", True), ("exec.deny", False)):
            path = os.path.join(config, name)
            try:
                os.lstat(path)
                trusted(path)
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    self.names = frozenset(line.strip() for line in file)  # a comment is a name that nobody has
            except FileNotFoundError:
                continue
            except OSError as error:
                self.listed, self.why = True, f"{path} cannot be read: {error.strerror}"
                return
            self.listed, self.why = listed, f"{path} lists who may" + " not" * (not listed)
            return

    def may(self, name: str | None) -> bool:
        return self.listed is None or (name is not None and (name in self.names) == self.listed)
