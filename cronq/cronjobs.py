"""The job that a line of a crontab makes: its bytes, and its id; the same for dispatcher and worker.

Does:    entry -> the fields of its job, and their bytes, by which the worker knows that the line is still the one that
         became due; entry and instant -> id.
Reads:   nothing but its arguments.
Trusts:  that the entry came from `crontab`.
Fails:   never.

The job file is for people and for the dispatcher's judgement: what cannot stand in one (control characters, bytes that
are no UTF-8) is shown in its place. What is run is the line itself, byte by byte (`cronworld`).
"""

from __future__ import annotations

from cronq import job as jobs
from cronq.crontext import split_percent
from cronq.entry import LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.crontab import CronEntry

QUEUE = "cron"
SHELL = "/bin/sh"


def fields(entry: CronEntry) -> dict[str, Any]:
    """The fields of the job that the entry makes."""
    command, stdin = split_percent(entry.command)
    options = entry.options
    return {
        "command": [shown(shell(entry)), "-c", shown(command)],
        "stdin": shown(stdin) if stdin else None,
        "queue": QUEUE,
        "timeout": options.timeout or None,
        "retries": options.retries or None,
        "delivery": "at-most-once",
    }


def encode(entry: CronEntry) -> bytes:
    """The bytes of the job file that a tick of the entry is."""
    return jobs.encode(fields(entry))


def shell(entry: CronEntry) -> str:
    """What runs the command."""
    return entry.env.get("SHELL") or SHELL


def shown(text: str) -> str:
    r"""Text as a job file can hold it: `^A` for control characters, `\377` for bytes that are no UTF-8."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\t\n" else _shown(ord(char)) for char in text)


def _shown(code: int) -> str:
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 64)}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\{code - 0xDC00:03o}"
    return chr(code) if code >= 0xA0 and not 0xD800 <= code < 0xE000 else f"\\u{code:04x}"


def job_id(uid: int, identity: str, instant: int) -> str:
    """The id of the tick of this user's line at this instant, in seconds."""
    return f"{uid}-{LINE}{identity}-{instant * 1_000_000:013x}"
