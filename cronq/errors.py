"""Every error cronq tells anybody: one sentence, an exit code, and whose fault it is.

The sentence says what is wrong, where, and how to mend it. The exit codes are those of sysexits(3) where the field has
one (docs/reference.md lists them); programs raise these, only `cli`, `submit` and the main loops print them.
"""

from __future__ import annotations


class CronqError(Exception):
    """What went wrong, in one sentence; `exit_code` is what the command exits with."""

    exit_code = 70

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class UsageError(CronqError):
    """The command line is wrong: the caller's to mend."""

    exit_code = 2


class BadJob(CronqError):
    """A job file (or batch, or crontab) that cannot be taken: its author's to mend."""

    exit_code = 65


class UnknownJob(CronqError):
    """No such job, or not one of yours: to others an id is unknown."""

    exit_code = 65


class NotRunning(CronqError):
    """The dispatcher must be running for this, and is not."""

    exit_code = 69


class Duplicate(CronqError):
    """A job of this name is there already."""

    exit_code = 73


class Same(CronqError):
    """Another job stands for this one, `job_id`; with `attached`, whoever waits for this one gets that one's result."""

    exit_code = 0

    def __init__(self, sentence: str, job_id: str = "", attached: bool = False) -> None:
        super().__init__(sentence)
        self.job_id = job_id
        self.attached = attached


class Full(CronqError):
    """No room, or a broken disk: nothing was queued, try later."""

    exit_code = 75


class NotEnded(CronqError):
    """The job goes on; whoever waited for it had set himself a bound."""

    exit_code = 75


class NotPermitted(CronqError):
    """This user may not do this."""

    exit_code = 77


class BadConfig(CronqError):
    """A config file that cannot be used: the administrator's to mend; `more` holds what else is wrong with it."""

    exit_code = 78

    def __init__(self, sentence: str, more: list[str] | None = None) -> None:
        super().__init__(sentence)
        self.more = more or []


def disk_error(error: OSError, what: str) -> Full:
    """The sentence for a disk that refused: full, over quota, read-only or broken."""
    return Full(f"{what}: {error.strerror or error}; nothing was queued, make room (or mend the disk) and try again")
