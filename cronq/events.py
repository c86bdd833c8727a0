"""Events: what became of a job, told by mail, webhook and command to whoever is to know.

Does:    `ended` of a crontab line's tick: it printed, failed, or recovered; `died` of any other job. The mail is
         `mails`'s; for each hook it makes a job of its own, ordinary and limited, that can hold up nothing.
Reads:   what the job printed; the line that a tick stands for, as `tables` knows it; `[notify]` of the configuration.
Writes:  the event as the hook's data; an empty file in `schedule/failing` for each line whose last run failed, where
         somebody is to be told of changes only: last of all, so that a crash before it tells again, under the same id.
Trusts:  nothing of it is evidence: a worker finds out by itself which hook runs as its user (`lineproof`).
Fails:   `OSError` of the disk. A hook that cannot be made is said in the log.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shlex
import socket
from typing import Any

from cronq import admission, cronmail, hooks, job, keys, mails, policy, states
from cronq.cronfiles import uid_of
from cronq.crontext import split_percent
from cronq.entry import HAS_DATA, HOOK, Entry, digest
from cronq.errors import BadJob
from cronq.house import House, Now, Settled
from cronq.log import line as log
from cronq.tables import Line

FAILING = "schedule/failing"
MOST_WAITING = 100  # events about one user's jobs that one hook is still to be told
MOST_OUTPUT = 4096  # bytes of what was printed: the end of it
MOST_COMMAND = 500  # characters
MOST_SUBJECT = 80


def ended(house: House, now: Now, each: Settled, state: str, why: str | None) -> None:
    """Tell of a tick that has ended, where its line's user, or the configuration, wants that."""
    tick = each.running.entry
    line = house.tables.find(tick.uid, tick.line)
    if line is None:
        return
    own, said, notify = hooks.of_line(line.entry), house.config.notify, line.options.notify
    failed, name = state != states.DONE, f"{tick.uid}-{tick.line}"
    wanted = notify == "change" or bool(said.targets and said.on == "change")
    changed = wanted and failed != os.path.lexists(f"{house.shelves.root}/{FAILING}/{name}")
    mails.post(house, now, tick, line, failed, changed, why)
    if own and (event := _of_tick(house, each, line, notify, failed, changed, why)):
        for kind in own:
            _queue(house, now, each, kind, f"{tick.uid}-{kind}{tick.line}", kind, event)
    if said.targets and notify != "never" and (event := _of_tick(house, each, line, said.on, failed, changed, why)):
        _tell(house, now, each, event)
    house.step("told")
    if changed:
        _note(house, name, failed)


def died(house: House, now: Now, each: Settled, why: str | None) -> None:
    """Tell the configuration's hooks of a job that is dead: it is not tried again by itself."""
    entry = each.running.entry
    if entry.about and entry.queue == cronmail.QUEUE:
        mails.undelivered(house, now, entry, each.outcome)
    if not house.config.notify.targets or entry.tabled:
        return
    wanted = each.running.job or job.Job()
    command = shlex.join([*filter(None, [wanted.task]), *wanted.args, *(wanted.command or ())])
    told = {"task": entry.task or None, "command": command[:MOST_COMMAND], "reason": why}
    printed = _end_of(house, entry, "stderr") or _end_of(house, entry, "stdout")
    _tell(house, now, each, _event(house, each, "died", entry.task or command, told, printed))


def _of_tick(
    house: House, each: Settled, line: Line, rule: str, failed: bool, changed: bool, why: str | None
) -> dict[str, Any] | None:
    """The event that this end of a tick is, by a rule of whom to tell what; None where it is none."""
    printed = _end_of(house, each.running.entry, "stdout")
    # Beyond what cron mails: a hook is told also of a failure that printed nothing.
    if not {"always": failed or bool(printed), "failure": failed, "change": changed}.get(rule, False):
        return None
    what = "failed" if failed else "recovered" if rule == "change" else "printed"
    command = split_percent(line.entry.command)[0].strip()
    told = {"entry": line.entry.identity, "command": command[:MOST_COMMAND], "reason": why}
    return _event(house, each, what, line.options.name or command, told, printed)


def _event(house: House, each: Settled, what: str, subject: str, told: dict[str, Any], printed: str) -> dict[str, Any]:
    """One event. Its id is the same however often the end of this attempt is judged, and no other event has it."""
    entry, outcome, host = each.running.entry, each.outcome, socket.gethostname()
    user = mails.name_of(house, entry.runner)
    text = f"{subject[:MOST_SUBJECT]} ({user}@{host}) {what}" + (f": {told['reason']}" if told["reason"] else "")
    event = {
        "id": f"{entry.id}.{_stamp(each)}",
        "event": what,
        "time": _instant(outcome.get("t")),
        "host": host,
        "user": user,
        "job": entry.id,
        **told,
        "exit_code": policy.whole(outcome.get("exit_code")),
        "signal": policy.whole(outcome.get("signal")),
        "scheduled": _instant(entry.due / 1e6),
        "text": text,
        "output": printed,
    }
    return {key: _printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _stamp(each: Settled) -> str:
    """What tells this end of a job from another one of the same job, which somebody may have revived."""
    entry = each.running.entry
    return hashlib.sha256(f"{entry.id} {entry.attempt} {each.outcome.get('t')}".encode()).hexdigest()[:13]


def _instant(seconds: object) -> str | None:
    """RFC 3339, UTC. A worker said it, who may say anything."""
    if isinstance(seconds, int | float) and 0 <= seconds < job.LAST_INSTANT:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
    return None


def _printable(text: str) -> str:
    """Text that is UTF-8, whatever a crontab holds."""
    return text.encode("utf-8", "replace").decode()


def _end_of(house: House, entry: Entry, name: str) -> str:
    """The end of what the job printed."""
    try:
        descriptor = house.shelves.printed(entry, name)
    except FileNotFoundError:
        return ""  # somebody has removed it
    try:
        begin = max(0, os.fstat(descriptor).st_size - MOST_OUTPUT)
        return os.pread(descriptor, MOST_OUTPUT, begin).decode(errors="replace")
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------- the job that tells


def _tell(house: House, now: Now, each: Settled, event: dict[str, Any]) -> None:
    """Tell the hooks of the configuration, as the user whom it names, or as the one whose job it is about."""
    said, about = house.config.notify, each.running.entry.runner
    runner = about if said.user is None else uid_of(said.user)
    if runner is None or (house.authority is None and runner != house.shelves.uid):
        log("hook-refused", id=each.running.entry.id, reason=f"nothing runs as {said.user} here ([notify] user)")
        return
    for kind in said.targets:
        lane = f"{HOOK}{kind}{about}"  # of each user apart: the flood of one keeps no other from being told of
        _queue(house, now, each, kind, f"{runner}-{lane}", lane, event)


def _queue(house: House, now: Now, each: Settled, kind: str, name: str, lane: str, event: dict[str, Any]) -> None:
    """Make the job that tells this event; those of one lane run one after the other."""
    job_id, about = f"{name}-{_stamp(each)}", each.running.entry.id
    if job_id in house.backlog or house.shelves.result(job_id):
        return
    data = hooks.encode(kind)
    try:
        entry = admission.entry_of(house, job_id, job.decode(data), digest(data), now.wall).flagged(HAS_DATA)
    except BadJob as error:
        log("hook-refused", id=about, reason=error.sentence)
        return
    entry = entry.but(key=keys.hook(entry.uid, lane))
    if len(house.backlog.errands.get(entry.errand, ())) >= MOST_WAITING:
        log("hook-dropped", id=about, reason=f"{MOST_WAITING} events wait for {kind}; does whoever is told hang?")
        return
    mails.send(house, now, entry, data, [json.dumps(event).encode() + b"\n"], f"event of {about}")


def _note(house: House, name: str, failed: bool) -> None:
    """Remember whether a line's last run failed."""
    path = f"{FAILING}/{name}"
    try:
        if failed:
            os.makedirs(f"{house.shelves.root}/{FAILING}", 0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(path, flags, 0o600, dir_fd=house.shelves.fd))
        else:
            os.unlink(path, dir_fd=house.shelves.fd)
    except (FileExistsError, FileNotFoundError):
        return
    house.shelves.touch(FAILING)
