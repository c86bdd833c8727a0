"""Mail about the jobs of crontabs: when there is any, and what it says; and the lines that monitoring greps for.

Does:    `post` makes a job of the mail about a tick that has ended: an ordinary, limited job of its user's, which can
         hold up nothing; `started` says to the system's log that a tick runs.
Reads:   what the tick printed; the line that it stands for, as `tables` knows it.
Writes:  the mail as the job's data.
Trusts:  nothing of it is evidence: the worker works out by itself whom its user mails by which program (`lineproof`).
Fails:   `OSError` of the disk. A mail that cannot be is said in the log, once for its tick.

As Debian's cron: there is mail where a job printed something, whatever its exit code, once it has ended.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from cronq import admission, cronmail, job, states
from cronq.cronfiles import user_of
from cronq.crontext import split_percent
from cronq.entry import HAS_DATA, Entry, digest
from cronq.errors import BadJob
from cronq.house import House, Now
from cronq.inboxes import DATA
from cronq.log import line as log
from cronq.tables import Line

MOST_WAITING = 100  # mails of one user
CHUNK = 1 << 16


def post(house: House, now: Now, tick: Entry, line: Line, failed: bool, changed: bool, why: str | None) -> None:
    """Make the job that mails about a tick that has ended, where its user wants one.

    `changed`: it failed and the line's last run did not, or the other way round; known where the line asks for it.
    """
    wanted, word = _wanted(line, failed, changed)
    if not wanted:
        return
    try:
        descriptor = house.shelves.printed(tick)
    except FileNotFoundError:
        return  # somebody has removed it
    try:
        size = os.fstat(descriptor).st_size
        if size or line.options.notify in ("change", "failure"):
            _queue(house, now, tick, line, descriptor, word, why)
    finally:
        os.close(descriptor)


def _wanted(line: Line, failed: bool, changed: bool) -> tuple[bool, str]:
    """Whether the line's option `notify` wants a mail now, and the word that its subject ends with."""
    notify = line.options.notify
    word = " (failed)" if failed else ""
    if notify == "always":
        return True, ""
    if notify == "change":
        return changed, word or " (recovered)"
    return notify == "failure" and failed, word


def _queue(house: House, now: Now, tick: Entry, line: Line, printed: int, word: str, why: str | None) -> None:
    job_id = cronmail.job_id(tick.id)
    if job_id in house.backlog or house.shelves.result(job_id):
        return
    user, sendmail = name_of(house, tick.uid), house.config.sendmail
    try:
        to = cronmail.recipient(line.entry.env, user)
        if to is None:
            return
        data = cronmail.encode(line.entry, user, sendmail)
        entry = admission.entry_of(house, job_id, job.decode(data), digest(data), now.wall).flagged(HAS_DATA)
    except cronmail.Unsafe as error:
        house.cronlog.job(os.getpid(), user, "UNSAFE MAIL", str(error), now.wall)
        return
    except BadJob as error:
        log("mail-refused", id=tick.id, reason=error.sentence)
        return
    if not os.access(sendmail, os.X_OK):
        house.cronlog.job(os.getpid(), "CRON", "info", "No MTA installed, discarding output", now.wall)
        return
    if len(house.backlog.errands.get(entry.errand, ())) >= MOST_WAITING:
        log("mail-dropped", id=tick.id, reason=f"{MOST_WAITING} mails of {user} wait; is the mailer hanging?")
        return
    head = cronmail.about(line.entry, to, user, _home(tick.uid), socket.gethostname(), word)
    send(house, now, entry, data, _parts(head, printed, tick.id, why if word else None), "mail")


def send(house: House, now: Now, entry: Entry, data: bytes, told: Iterable[bytes], cause: str) -> None:
    """Make the job of a mail, a hook or a callback, whose file has these bytes and whose input is what it tells."""
    house.shelves.make_data(entry.id, told)
    move = admission.arrival(now, entry)
    state = states.target(move, states.QUEUED)
    if house.shelves.create(state, entry, data):
        house.backlog.put(state, entry)
        house.history.note(now.wall, entry.id, states.QUEUED, state, move=move, cause=cause)


def _parts(head: bytes, printed: int, tick_id: str, why: str | None) -> Iterator[bytes]:
    """The mail, piece by piece."""
    yield head
    if why is not None:
        yield f"{why}\n\n".encode()
    left = cronmail.MOST_BYTES
    while left and (chunk := os.read(printed, min(CHUNK, left))):
        left -= len(chunk)
        yield chunk
    if rest := os.fstat(printed).st_size - cronmail.MOST_BYTES + left if not left else 0:
        yield f"\n[{rest} more bytes: cronq logs {tick_id}]\n".encode()


def started(house: House, now: Now, tick: Entry, pid: int) -> None:
    """Say to the system's log that a tick runs, by which worker."""
    line = house.tables.find(tick.uid, tick.line)
    if line is not None:
        house.cronlog.job(pid, name_of(house, tick.uid), "CMD", split_percent(line.entry.command)[0], now.wall)


def undelivered(house: House, now: Now, mail: Entry, outcome: dict[str, Any]) -> None:
    """Say to the system's log, as cron does, that the mailer has not taken a mail."""
    try:
        with open(house.shelves.open_file(f"{DATA}/{mail.id}", house.shelves.uid)[0], "rb") as file:
            size = len(file.read(2 * cronmail.MOST_BYTES).partition(b"\n\n")[2])
    except (OSError, BadJob):
        size = 0  # somebody has removed it
    status = outcome.get("exit_code") or outcome.get("signal")
    said = f"mailed {size} byte{'' if size == 1 else 's'} of output but got status 0x{status or 0:04x} from MTA"
    house.cronlog.job(os.getpid(), name_of(house, mail.uid), "MAIL", said, now.wall)


def name_of(house: House, uid: int) -> str:
    """The name of a user; the number where he has none."""
    if house.authority is not None:
        return house.authority.accounts.name(uid) or str(uid)
    return user_of(uid)


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir or "/"
    except KeyError:
        return "/"
