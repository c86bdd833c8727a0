"""The evidence for a job: what a worker insists on, by itself, before it runs anything.

Does:    `Judge.judge` reads a job's bytes from the descriptor that came with it, and gives the job and its plan.
Reads:   the job's bytes, once; tasks, schedules and who may do what from the config directory, by itself.
Trusts:  the kernel: device, owner and links of a descriptor, on a system spool its group and mode too (only the kernel
         gives a file that pair of ids, and only in that user's inbox). Of the message only that it names a job.
Fails:   `Refused` with a sentence; with `again` where the job may run when the configuration is whole again.

Five kinds of evidence: a job file in the submitter's inbox; a line of his batch file; a callback in the first line of
that; a tick, which says what the schedule in root's configuration says; a line of a crontab (`lineproof`). That a
dispatcher lies is tested in tests/attacks.
"""

from __future__ import annotations

import os

from cronq import callbacks, safeopen
from cronq import job as jobs
from cronq import task as tasks
from cronq.authority import Authority
from cronq.entry import Entry, digest
from cronq.errors import BadConfig, BadJob, CronqError
from cronq.lineproof import Lines
from cronq.taskbook import TaskBook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.safeopen import System

TICK = "cron-"  # how the names of ticks begin; a producer's never do


class Refused(Exception):
    """A job that may not run; with `again`, not now."""

    def __init__(self, sentence: str, code: int, again: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.again = again


class Judge:
    """What one user's worker makes sure of."""

    def __init__(self, spool: str, config: str, uid: int, system: System | None) -> None:
        self.uid = uid
        self.system = system
        self.device = os.stat(spool).st_dev
        self.authority = None if system is None else Authority(config)
        self.book = TaskBook(config) if self.authority is None else self.authority.book
        self.lines = Lines(config, uid, self.device, system, self.authority)

    def judge(self, message: dict[str, Any], job_file: int, data: list[int]) -> tuple[jobs.Job, tasks.Plan]:
        """The job and its plan. Raises `Refused`."""
        submitter = int(message["id"].partition("-")[0])
        event = Entry(id=message["id"], due=0).event
        try:
            if message["table"]:
                for payload in data:
                    self._proof(self.uid if self.system is None else self.system.uid).check(payload)
                return self.lines.judge(message, job_file)
            if self.system is None and submitter != self.uid:
                raise BadJob(f"it is a job of uid {submitter}, and a rootless worker runs its own user's only")
            found = self._bytes(submitter, message["offset"], event, job_file)
            if digest(found) != message["hash"]:
                raise BadJob("it was changed after acceptance; write a job whole, and do not touch it again")
            for payload in data:
                self._check_payload(submitter, payload, bool(event))
            job = jobs.decode(found)
            if data and job.stdin is not None:
                raise BadJob("it has both stdin and a payload; keep one of them")
            known = {} if job.task is None else self.book.tasks()
            if self.authority is not None:
                self._check_right(self.authority, message["id"], submitter, job, known, found)
            return job, tasks.plan(job, known, system=self.authority is not None)
        except BadConfig as error:
            raise Refused(error.sentence, error.exit_code, again=True) from None
        except OSError as error:  # no memory, no descriptor: not the job's fault
            raise Refused(f"the worker cannot look at it now: {error.strerror}", 75, again=True) from None
        except CronqError as error:
            # A config that is being written may miss the task for a moment.
            unsure = self.book.young and error.sentence.startswith("unknown task")
            raise Refused(error.sentence, error.exit_code, unsure) from None

    def plan_of(self, name: object) -> tasks.Plan:
        """What a job of this task that says nothing comes to, where its user, who I am, may have one.

        Raises `CronqError`.
        """
        known = self.book.tasks()
        task = known.get(name) if isinstance(name, str) else None
        if task is None:
            raise BadJob(f"unknown task {jobs.show(name)}")
        job = jobs.Job(task=task.name)
        if self.authority is not None:
            if task.user is None:
                self.authority.permit(job, task, self.uid)
            if self.authority.runs_as(task, self.uid) != self.uid:
                raise BadJob(f"the task {task.name} does not run as uid {self.uid}")
        return tasks.plan(job, known, system=self.authority is not None)

    def _proof(self, owner: int) -> safeopen.Proof:
        return safeopen.Proof(owner, self.device, None if self.system is None else self.system.gid)

    def _bytes(self, submitter: int, offset: int, event: str, job_file: int) -> bytes:
        """What the file says, or the batch's line at `offset`, or its callback for this event."""
        self._proof(submitter).check(job_file)
        try:
            if event:
                return callbacks.wanted(safeopen.read(job_file, jobs.MAX_JOB_BYTES), event)
            if offset < 0:
                return safeopen.read(job_file, jobs.MAX_JOB_BYTES)
            return _member(job_file, offset)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno in safeopen.IN_NEED:
                raise
            # It is damaged, or open for writing only, or no offset is that large.
            raise BadJob(f"its file cannot be read: {error}") from None

    def _check_right(
        self,
        authority: Authority,
        job_id: str,
        submitter: int,
        job: jobs.Job,
        known: dict[str, tasks.Task],
        found: bytes,
    ) -> None:
        """That the submitter may have this job, and that it runs as me. Raises `CronqError`."""
        assert self.system is not None  # noqa: S101 - there is an authority
        task = known.get(job.task or "")
        if submitter == self.system.uid:
            name = job_id.partition("-")[2]
            if not name.startswith(TICK):
                raise BadJob("it is no tick, and cronq submits nothing else")
            if found != jobs.encode(authority.schedule_fields(name.removeprefix(TICK).rpartition("-")[0])):
                raise BadJob("its schedule is another now")
        else:
            authority.permit(job, task, submitter)
        runner = authority.runs_as(task, submitter)
        if runner != self.uid:
            raise BadJob(f"it runs as uid {runner}, not as uid {self.uid}")

    def _check_payload(self, submitter: int, payload: int, told: bool) -> None:
        """His own file where he runs it himself; else the dispatcher's copy, which he cannot change any more.

        What a callback is `told` is the dispatcher's own in any case.
        """
        if self.system is not None and submitter == self.system.uid:
            raise BadJob("a tick has no payload, and nobody's is taken for it")
        is_his = self.system is None or (submitter == self.uid and not told)
        owner = submitter if self.system is None or is_his else self.system.uid
        self._proof(owner).check(payload)


def _member(job_file: int, offset: int) -> bytes:
    """The whole line at `offset`, in a file that is a batch.

    A job may be written over many lines, of which one may look like a job, too. Only a batch begins with a line that is
    an object by itself, and goes on.
    """
    if offset > 0 and os.pread(job_file, 1, offset - 1) != b"\n":
        raise BadJob("it begins in the middle of a line")
    line, newline, _ = safeopen.read(job_file, jobs.MAX_JOB_BYTES, offset).partition(b"\n")
    first = safeopen.read(job_file, jobs.MAX_JOB_BYTES).lstrip().partition(b"\n")[0]
    jobs.parse_object(first, "the first line of its file, which is no batch,")
    return line + newline
