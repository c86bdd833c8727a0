"""The mail about a cron job: to whom, by which program, under which headers.

Does:    a table's variables -> the recipient, or None; a line -> the job that mails; all of it -> headers.
Reads:   nothing but its arguments; `program` the configuration.
Trusts:  nobody: variables and command are a user's. A value is one header, whatever is in it, and a recipient is one
         argument that is no option (trust: mail header and option injection).
Fails:   `Unsafe` for a recipient that Debian's cron would not mail either.

As Debian's cron 3.0pl1-162 mails, seen side by side with it in tests/cron; but lawful where that is not: what is no
ASCII is encoded, as RFC 2047 has it, and the charset is always said to be UTF-8.
"""

from __future__ import annotations

import re

from cronq import job as jobs
from cronq import task as tasks
from cronq.crontext import split_percent
from cronq.cronworld import variables
from cronq.entry import MAIL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.crontab import CronEntry

SENDMAIL = "/usr/sbin/sendmail"
QUEUE = "mail"
MOST_BYTES = 1 << 20  # of what was printed; the mail says where the rest is
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9@!:%.,_+=/-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # whatever ends a line for anybody
_STANDARD = ("SHELL", "HOME", "PATH", "LOGNAME")  # what cron tells after the table's own variables


def program(config: str) -> str:
    """The program that takes mail, by this configuration. Raises `BadConfig`."""
    found = tasks.main_says(config, "cron", "sendmail")
    return found if isinstance(found, str) else SENDMAIL


class Unsafe(ValueError):
    """A MAILTO with a character that no recipient has: nothing is mailed, and the log says so."""


def recipient(env: dict[str, str], user: str) -> str | None:
    """Whom to mail: MAILTO, or else the user; None where it is set to nothing. Raises `Unsafe`."""
    to = env.get("MAILTO", user)
    if not to:
        return None
    if not _SAFE.fullmatch(to):
        raise Unsafe(to)
    return to


def fields(entry: CronEntry, user: str, sendmail: str) -> dict[str, Any]:
    """The fields of the job that mails about this line of the user's; the mail is its input. Raises `Unsafe`.

    A recipient cannot begin with "-", so it is no option of sendmail's.
    """
    to = recipient(entry.env, user)
    if to is None:
        raise Unsafe("")
    return {
        "command": [sendmail, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", to],
        "queue": QUEUE,
        "timeout": 300.0,
        "retries": 5,  # exit code 75: the mailer cannot now
        "note": f"mail about {entry.identity}",
    }


def encode(entry: CronEntry, user: str, sendmail: str) -> bytes:
    """The bytes of the job file of a mail. Raises `Unsafe`."""
    return jobs.encode(fields(entry, user, sendmail))


def job_id(tick_id: str) -> str:
    """The id of the mail about this tick."""
    uid, _, name = tick_id.partition("-")
    return f"{uid}-{MAIL}{name.partition('-')[2]}"


def about(entry: CronEntry, to: str, user: str, home: str, host: str, word: str = "") -> bytes:
    """Everything before the output of the mail about a line of the user's; `word` ends the subject."""
    return head(to, user, host, split_percent(entry.command)[0] + word, variables(entry, user, home))


def head(to: str, user: str, host: str, command: str, env: dict[str, str]) -> bytes:
    """Everything before the output; `command` as the log shows it, `env` what the job was given."""
    from email.headerregistry import HeaderRegistry
    from email.message import EmailMessage
    from email.policy import default

    # RFC 5322 allows 998: a header is not folded without need. None is taken apart: an address may be any text here.
    policy = default.clone(max_line_length=990, header_factory=HeaderRegistry(use_default_map=False))
    message = EmailMessage(policy=policy)
    own = [name for name in env if name not in _STANDARD]
    listed = [*own, *(name for name in _STANDARD if name in env)]
    headers = [
        ("From", env.get("MAILFROM") or "root (Cron Daemon)"),
        ("To", to),
        ("Subject", f"Cron <{user}@{host}> {command}"),
        ("MIME-Version", "1.0"),
        ("Content-Type", env.get("CONTENT_TYPE") or "text/plain; charset=UTF-8"),
        ("Content-Transfer-Encoding", env.get("CONTENT_TRANSFER_ENCODING") or "8bit"),
        ("Auto-Submitted", "auto-generated"),
        *(("X-Cron-Env", f"<{name}={env[name]}>") for name in listed),
    ]
    for name, value in headers:
        message[name] = _one_line(value)
    return message.as_bytes()


def _one_line(text: str) -> str:
    """A header's value without anything that could end it; bytes that are no UTF-8 become question marks."""
    return _CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).strip()
