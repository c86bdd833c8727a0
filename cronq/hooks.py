"""Hooks: who is told of an event beside the mail, and the job that tells him; the same for dispatcher and worker.

Does:    `[notify]` of cronq.toml, or the variables of a crontab, -> how an event is told: to a webhook (`post`), to a
         command (`call`); the bytes of the job that tells, and its plan.
Reads:   cronq.toml, in `of_config`; else nothing but its arguments.
Trusts:  whoever wrote the definition: root, or the user as whom the hook runs. A worker finds it by itself when it is
         to run it, so the job's bytes do not hold it: a URL, which may be a secret, stands in no argument vector, job
         file or result. The hook has it from its environment, or reads it from a file.
Fails:   `BadConfig` for a [notify] that is none; `BadJob` where a table's is not text.

Standard library only: it is a worker's.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from cronq import job as jobs
from cronq import task as tasks
from cronq import taskkeys
from cronq.cronjobs import shell
from cronq.entry import CALL, POST
from cronq.errors import BadConfig, BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.crontab import CronEntry

QUEUE = "notify"
TIMEOUT = 60.0
RETRIES = 14  # four hours in all, from two seconds on: whoever is told may be down
BACKOFF = {"base": 2}
WEBHOOK = "CRONQ_NOTIFY_WEBHOOK"
COMMAND = "CRONQ_NOTIFY_COMMAND"
WHEN = ("failure", "change", "always")
MOST_URL = 1000
_SCHEMES = ("http://", "https://")

Targets = dict[str, list[str]]  # by POST or CALL: the URL, or the argument vector


@dataclasses.dataclass(frozen=True, slots=True)
class Notify:
    """The table [notify]: whom to tell of which events, and as which user (None: the one whose job it is about)."""

    on: str = WHEN[0]
    user: str | None = None
    webhook: str | None = None
    command: list[str] | None = None

    @property
    def targets(self) -> Targets:
        """Who is told."""
        found = {} if self.webhook is None else {POST: [self.webhook]}
        return found if self.command is None else {**found, CALL: self.command}


def of_config(config: str) -> Notify:
    """What cronq.toml says now. Raises `BadConfig`."""
    try:
        said = {key: tasks.main_says(config, "notify", key) for key in READERS}
        return Notify(**{key: READERS[key](key, value) for key, value in said.items() if value is not None})
    except BadJob as error:
        raise BadConfig(f"{main_file(config)}: [notify] {error.sentence}") from None


def of_line(entry: CronEntry) -> Targets:
    """What the variables above a line say: a command is for the shell of its jobs."""
    env, found = entry.env, {}
    if url := env.get(WEBHOOK):
        found[POST] = [url]
    if command := env.get(COMMAND):
        found[CALL] = [shell(entry), "-c", command]
    return found


def main_file(config: str) -> str:
    """What stands for the table of those hooks that the configuration has."""
    return os.path.join(config, "cronq.toml")


def encode(kind: str) -> bytes:
    """The bytes of the job file of a hook of this kind; what it tells is its input."""
    return jobs.encode(
        {
            "command": [sys.executable, "-I", "-m", "cronq.herald", kind.rstrip("-")],
            "queue": QUEUE,
            "timeout": TIMEOUT,
            "retries": RETRIES,
            "backoff": BACKOFF,
            "note": "tells an event, which is its input",
        }
    )


def plan(kind: str, target: list[str], env: dict[str, str], system: bool) -> tasks.Plan:
    """What the job of a hook comes to, whose definition says this now. Raises `BadJob`."""
    made = tasks.plan(jobs.decode(encode(kind)), {}, system=system)
    made.env = {name: value for name, value in env.items() if name and _is_text(name + value)}
    if not _is_text("".join(target)):
        raise BadJob("the hook's definition is not UTF-8; write it in UTF-8")
    if kind == CALL:
        made.argv = [*made.argv, *target]
    else:
        made.env[WEBHOOK] = target[0]
    return made


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of a crontab's that are no UTF-8
        return False
    return True


def fault(address: str) -> str:
    """What is wrong with the address of a webhook; empty where nothing is."""
    if address.startswith("/"):
        return ""
    if not address.startswith(_SCHEMES):
        return "it must begin with https:// or http://, or be the absolute path of a file that holds such an address"
    if len(address) > MOST_URL or not address.isascii() or not address.isprintable() or " " in address:
        return f"a URL has at most {MOST_URL} characters, all of them ASCII, and no blanks"
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        if parts.hostname and parts.port != 0 and parts.username is None:
            return ""
    except ValueError:
        pass
    return "it must have a host, like https://hooks.example.org/cronq, and no user"


def _webhook(key: str, value: object) -> str:
    text: str = jobs.READERS["note"](key, value)
    if why := fault(text):
        raise BadJob(f"{key}: {why}")
    return text


READERS: dict[str, Any] = {
    "webhook": _webhook,
    "command": jobs.READERS["command"],
    "on": lambda key, value: jobs.one_of(key, value, WHEN),
    "user": taskkeys.user,
}
