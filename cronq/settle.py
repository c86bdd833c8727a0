"""Settling: what the end of an attempt means for its job, and making it known.

Does:    reads outcome files, lets `policy` judge, and publishes results once the history is on disk, so that a result
         that can be read is durable. After a restart, finds out what became of what was running.
Reads:   `queue/outcome/`, the lock on each file (held exactly as long as its worker lives), running jobs' files.
Trusts:  the kernel about who lives. Not what a worker wrote: anything odd is a failed attempt.
Fails:   never guesses: a dead worker is not a dead job, so a worker of the same user makes sure first.
"""

from __future__ import annotations

import json
from typing import Any

from cronq import (
    callbacks,
    cursors,
    events,
    job,
    pace,
    pauses,
    policy,
    reboot,
    safeopen,
    spool,
    statement,
    states,
    task,
)
from cronq.entry import AT_MOST_ONCE, CANCEL_WANTED, HAS_DATA, PUT_OFF, START_NOW, Entry, digest
from cronq.errors import BadJob, CronqError
from cronq.history import named, waited
from cronq.house import House, Now, Running, Settled, Shut, encode
from cronq.job import MAX_JOB_BYTES
from cronq.log import line as log
from cronq.shelves import STATUS
from cronq.wire import OUT_OF_MEMORY

REAP_AGAIN = 5.0
NOT_NOW = 1.0
EXPIRED = "it had not started when it expired"
LAPSED = "expired before its next attempt; the last one: "


def settle(house: House, now: Now) -> None:
    """Judge every attempt whose end has become known."""
    heard, house.crew.heard = house.crew.heard, []
    for message in heard:
        running = house.running.get(message["id"])
        if running is None or message.get("attempt") != running.entry.attempt:
            continue
        if message["is"] == "reaped":
            if running.reap is not None:  # else it was cancelled, and its worker tells how it ended
                _crashed(house, now, running, known=bool(message.get("known")))
        else:
            _examine(house, now, running)
    lost, house.crew.lost = house.crew.lost, []
    for job_id in lost:
        if job_id in house.running:
            house.running[job_id].orphan = True
    for running in [each for each in house.running.values() if each.orphan]:
        _examine(house, now, running)


def _examine(house: House, now: Now, running: Running) -> None:
    """The same; one that cannot be read now is looked at in each turn, and holds up nothing."""
    try:
        examine(house, now, running)
    except OSError as error:
        if not running.orphan:
            log("disk", id=running.entry.id, reason=str(error))
        running.orphan = True


def examine(house: House, now: Now, running: Running) -> None:
    """What the outcome file of an attempt says by now."""
    if running.reaping is not None:
        if now.mono - running.reaping > REAP_AGAIN:
            _reap(house, now, running)
        return
    data = house.shelves.try_outcome(running.entry)
    if data is None:
        return  # its worker lives
    steps = read_outcome(data) or ([{"step": "starting"}] if running.doubtful else [])
    last = steps[-1] if steps else {}
    if "state" in last:
        _publish_again(house, now, running, last)
    elif last.get("step") == "ended":
        _judged(house, now, running, last)
    elif last.get("step") == "refused":
        _refused(house, now, running, last)
    elif steps:
        started = next((step for step in steps if step.get("step") == "started"), {})
        running.cursor = next((step.get("cursor") for step in reversed(steps) if step.get("step") == "cursor"), None)
        identity = {key: started.get(key) for key in ("pid", "start", "boot")}
        running.reap = {"do": "reap", "id": running.entry.id, "attempt": running.entry.attempt, **identity}
        log("worker-died", id=running.entry.id, attempt=running.entry.attempt)
        if house.placing:
            house.crew.kill(running.entry.id, running.entry.attempt, now.mono)
        _reap(house, now, running)
    else:
        give_back(house, now, running, "never started")


def read_outcome(data: bytes) -> list[dict[str, Any]]:
    """The steps that an outcome file tells, or its one result. A line that a crash cut is passed over."""
    steps = []
    for line in data.splitlines():
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(step, dict):
            steps.append(step)
            if "state" in step and len(steps) == 1:
                break
    return steps


def _reap(house: House, now: Now, running: Running) -> None:
    assert running.reap is not None  # noqa: S101 - set before
    if house.crew.tell(running.entry.runner, running.reap, now.mono):
        running.reaping = now.mono


def details(house: House, running: Running) -> tuple[job.Job, task.Plan]:
    """The job and the plan of an attempt; after a restart they are read again."""
    if running.job is None or running.plan is None:
        try:
            running.job = job.decode(house.shelves.read(states.RUNNING, running.entry, MAX_JOB_BYTES))
            running.plan = house.plan(running.job)
        except (CronqError, OSError):  # the task has gone since: a free command's rules
            running.job = job.Job(task=running.entry.task or None)
            running.plan = task.plan(job.Job(command=["?"]), {})
    return running.job, running.plan


def _judged(house: House, now: Now, running: Running, outcome: dict[str, Any]) -> None:
    _, plan = details(house, running)
    stays = plan.leave_children or plan.mode == "pool"  # a pool is where its last job was put until it has a next one
    if house.placing and not (stays and outcome.get("reason") is None):
        house.crew.kill(running.entry.id, running.entry.attempt, now.mono)
    _decide(house, now, running, policy.judge(outcome, running.entry, plan, now.wall, house.chance()), outcome)


def _crashed(house: House, now: Now, running: Running, known: bool) -> None:
    _, plan = details(house, running)
    counted = running.entry.but(crashes=running.entry.crashes + 1)
    verdict = policy.crash(counted, plan, known, now.wall, house.chance())
    outcome = {"reason": getattr(verdict, "reason", "its worker died"), "crashed": True, "t": now.wall}
    outcome |= {"said": statement.read(house.shelves.small(running.entry, STATUS)), "cursor": running.cursor}
    _decide(house, now, running, verdict, outcome)


def _decide(
    house: House, now: Now, running: Running, verdict: policy.Verdict, outcome: dict[str, Any], noted: bool = False
) -> None:
    entry = running.entry
    del house.running[entry.id]
    house.settled.append(Settled(running, verdict, outcome))
    if isinstance(verdict, policy.Dead):  # now, so that nothing of it starts in the turn in which it is known
        _pause(house, entry)
    if not noted:
        to = _STATES[type(verdict)]
        facts: dict[str, Any] = {"attempt": entry.attempt, "used": _used(entry)}
        facts |= {"outcome": outcome, "verdict": type(verdict).__name__}
        if isinstance(verdict, policy.Again):
            facts |= {"at": verdict.at, "uses": verdict.uses}
        facts |= {**named(entry, details(house, running)[0]), "wait": waited(entry, outcome)}
        house.history.note(now.wall, entry.id, states.RUNNING, to, entry, cause=_reason(verdict), **facts)


def _used(entry: Entry) -> int:
    """How often a job had run already without using an attempt, so that one of the same number came after it."""
    return entry.crashes + entry.snoozes + entry.interruptions


_STATES: dict[type, str] = {
    policy.Done: states.DONE,
    policy.Again: states.DELAYED,
    policy.Dead: states.DEAD,
    policy.Cancelled: states.CANCELLED,
    policy.Held: states.HELD,
}


def _pause(house: House, entry: Entry) -> None:
    """Pause the queue and the task of a job that is dead, where they are to be then."""
    for kind, of in ((pauses.QUEUE, entry.queue), (pauses.TASK, entry.task)):
        if (kind, of) in house.config.pausing and house.pauses.fail(pauses.gate(kind, of), entry.id):
            log("paused", gate=pauses.gate(kind, of), reason=f"{entry.id} is dead, and pause_on_failure is set")


def _reason(verdict: policy.Verdict) -> str | None:
    return None if isinstance(verdict, policy.Done) else verdict.reason


def publish(house: House, now: Now) -> None:
    """Make known what `settle` judged; the history, with the outcomes, is on disk by now."""
    while house.settled:
        each = house.settled[0]  # it stays first until it is published: the disk may refuse
        entry, verdict = each.running.entry, each.verdict
        house.step("settled")
        found = result(house, each)
        if entry.line and isinstance(verdict, policy.Done | policy.Dead):
            events.ended(house, now, each, _STATES[type(verdict)], _reason(verdict))
        elif isinstance(verdict, policy.Dead):
            events.died(house, now, each, _reason(verdict))
        if isinstance(verdict, policy.Done):
            cursors.forget(house.shelves, entry)
            house.end(now, "finish", states.RUNNING, entry, found)
        elif isinstance(verdict, policy.Cancelled):
            house.end(now, "stop", states.RUNNING, entry, found)
        else:
            _keep(house, entry, verdict, each, found)
        house.settled.pop(0)
        log("ended", id=entry.id, attempt=entry.attempt, state=_STATES[type(verdict)], reason=_reason(verdict) or "-")


def _keep(house: House, entry: Entry, verdict: policy.Verdict, each: Settled, found: dict[str, Any]) -> None:
    crashed = bool(each.outcome.get("crashed"))
    changed = entry.but(crashes=entry.crashes + 1) if crashed else entry
    changed = cursors.keep(house.shelves, entry, changed.unflagged(PUT_OFF).unflagged(START_NOW), each.outcome)
    if isinstance(verdict, policy.Again):
        changed = policy.after(changed, verdict)
        move = "retry"
    else:
        move = "bury" if isinstance(verdict, policy.Dead) else "suspend"
        if crashed and move == "suspend":  # a crash uses no attempt here either
            changed = changed.but(attempt=max(0, entry.attempt - 1))
    if PUT_OFF in changed.flags:
        house.shelves.drop_outcome(entry)  # it may do so a thousand times: the history has each
    else:
        house.shelves.publish(entry, encode(found), last=move == "bury")
    state = house.shelves.move(move, states.RUNNING, entry, changed)
    house.backlog.put(state, changed)
    if move == "bury":
        house.tally(entry, state)
        _put_away_earlier(house, entry)


def _put_away_earlier(house: House, entry: Entry) -> None:
    """Of a crontab's line that fails time and again only the last tick is a dead letter; the others' results stay."""
    for job_id in sorted(house.backlog.failed.get(entry.id.rpartition("-")[0], set()) - {entry.id}):
        kept = house.backlog.find(job_id)
        if kept is not None:
            house.shelves.end(*kept)
            house.backlog.forget(job_id)


def result(house: House, each: Settled) -> dict[str, Any]:
    """What `result.json` says of an attempt."""
    entry, outcome = each.running.entry, each.outcome
    wanted, plan = details(house, each.running)
    return {
        **describe(entry, wanted),
        "state": _STATES[type(each.verdict)],
        "attempt": entry.attempt,
        "max_attempts": 1 + plan.retries,
        "started": outcome.get("started"),
        "ended": outcome.get("t"),
        "exit_code": outcome.get("exit_code"),
        "signal": outcome.get("signal"),
        "reason": _reason(each.verdict),
        "timeout": outcome.get("reason") in ("timeout", "watchdog"),
        **{key: outcome.get(key) for key in ("wall", "cpu", "max_rss", "stdout", "stderr")},
        **statement.clean(outcome.get("said")),
        **{key: outcome[key] for key in ("snooze", "cursor") if outcome.get(key) is not None},
        **({"watchdog": True} if outcome.get("reason") == "watchdog" else {}),
        **({"out_of_memory": True} if outcome.get("reason") == OUT_OF_MEMORY else {}),
    }


def describe(entry: Entry, wanted: job.Job) -> dict[str, Any]:
    """What is the same about a job in every state."""
    named = {"task": wanted.task, "args": wanted.args} if wanted.task else {"command": wanted.command}
    return {
        "id": entry.id,
        "uid": entry.uid,
        **named,
        "queue": entry.queue,
        "priority": entry.priority,
        "submitted": spool.submitted(entry.id, entry.due),
        "due": entry.due / 1e6,
        "expires": entry.expires / 1e6 or None,
        "note": wanted.note,
        **({"batch": entry.parent} if entry.into else {}),
    }


def end_unstarted(house: House, now: Now, move: str, state: str, entry: Entry, reason: str) -> None:
    """A job ends without having run (cancelled, expired)."""
    try:
        wanted = job.decode(house.shelves.read(state, entry, MAX_JOB_BYTES))
    except (CronqError, OSError):
        wanted = job.Job(task=entry.task or None)
    ended = states.target(move, state)
    facts = {**describe(entry, wanted), "state": ended, "attempt": entry.attempt, "started": None, "ended": now.wall}
    found = {**facts, "exit_code": None, "signal": None, "reason": reason}
    house.end(now, move, state, entry, found, cause=reason, **named(entry, wanted))
    log("ended", id=entry.id, state=ended, reason=reason)


def expire(house: House, now: Now, state: str, entry: Entry) -> None:
    """What has not started by now never will: it has expired, or is a dead letter where an attempt of it failed."""
    if not (entry.attempt or entry.crashes):
        end_unstarted(house, now, "expire", state, entry, EXPIRED)
        return
    wanted = read(house, state, entry) or job.Job(task=entry.task or None)
    last = (read_outcome(house.shelves.last_result(entry)) or [{"state": states.DELAYED}])[0]
    reason = LAPSED + str(last.get("reason") or "it failed")
    found = {**describe(entry, wanted), "attempt": entry.attempt, **last}
    found |= {"state": states.DEAD, "ended": now.wall, "reason": reason}
    _pause(house, entry)
    house.pauses.save()  # before its move, as where an attempt was its last
    events.died(house, now, Settled(Running(entry, wanted), policy.Dead(reason), outcome_of(last)), reason)
    house.shelves.publish(entry, encode(found))
    house.step("lapsed")
    changed = entry.unflagged(PUT_OFF).unflagged(START_NOW)
    house.move(now, "bury", state, entry, changed, reason, attempt=entry.attempt, **named(entry, wanted))
    house.tally(entry, states.DEAD)
    _put_away_earlier(house, entry)
    log("ended", id=entry.id, attempt=entry.attempt, state=states.DEAD, reason=reason)


def give_back(house: House, now: Now, running: Running, cause: str) -> None:
    """An attempt that never started is no attempt: the job is ready again."""
    entry = running.entry
    running.orphan = True  # until it is done: where the disk refuses, it is looked at again
    house.shelves.drop_outcome(entry)
    changed = entry.but(attempt=max(0, entry.attempt - 1))
    house.move(now, "return", states.RUNNING, entry, changed, cause, rate=pace.give_back(house, now, entry))
    del house.running[entry.id]
    if CANCEL_WANTED in entry.flags:
        house.stops.setdefault(entry.id, False)  # its worker was told, and is gone: it is cancelled, and not expired


def _refused(house: House, now: Now, running: Running, outcome: dict[str, Any]) -> None:
    reason = str(outcome.get("reason"))
    if outcome.get("again"):
        log("not-now", id=running.entry.id, reason=reason)
        house.lanes_closed[running.entry.task, running.entry.uid] = Shut(now.mono + NOT_NOW, reason)  # nobody else's
        give_back(house, now, running, reason)
    else:
        error = BadJob(reason)
        error.exit_code = outcome["code"] if outcome.get("code") in (65, 77) else BadJob.exit_code
        refuse(house, now, running.entry, states.RUNNING, error)


def refuse(house: House, now: Now, entry: Entry, state: str, error: CronqError) -> None:
    """A job that must not run (its bytes changed after they were judged) is set aside with the reason."""
    reason = error.sentence
    house.shelves.drop_outcome(entry)  # first: one that never started is refused again where the disk refuses this
    place = f"{house.shelves.place(state, entry)}/{entry.name}"
    name = entry.id.partition("-")[2]
    try:
        house.shelves.set_aside(place, entry.uid, f"{name}.job", spool.reason_text(error))
    except FileNotFoundError:  # it was, and there was no room for the reason
        house.shelves.give_reason(entry.uid, f"{name}.job", spool.reason_text(error))
    if HAS_DATA in entry.flags:
        house.shelves.set_taken_data_aside(entry.id, entry.uid, name, spool.reason_text(error))
    house.running.pop(entry.id, None)
    house.backlog.forget(entry.id)
    house.tally(entry, states.REJECTED)
    house.history.note(now.wall, entry.id, state, states.REJECTED, entry, cause=reason, **named(entry))
    log("refused", id=entry.id, reason=reason)


def _publish_again(house: House, now: Now, running: Running, found: dict[str, Any]) -> None:
    """The result was written, but a crash kept it from its place; the history may or may not have the line."""
    _judged(house, now, running, outcome_of(found))


def outcome_of(found: dict[str, Any]) -> dict[str, Any]:
    """The outcome that a result was made of."""
    outcome = {**found, "t": found.get("ended")}
    outcome["said"] = found
    if found.get("timeout"):
        outcome["reason"] = "watchdog" if found.get("watchdog") else "timeout"
    elif found.get("out_of_memory"):
        outcome["reason"] = OUT_OF_MEMORY
    elif found["state"] != states.CANCELLED:
        outcome["reason"] = None if found.get("exit_code") is not None or found.get("signal") else found.get("reason")
    else:
        outcome["reason"] = "cancelled"
    return outcome


def recover(house: House, now: Now) -> None:
    """Take up what was running under a dispatcher before this one, and what was ending without having run."""
    _go_on_ending(house, now)
    entries = [entry for entry in house.backlog.of(states.RUNNING) if entry.batch is None]
    last = house.history.last() if entries else {}
    new = bool(entries) and reboot.is_new(house.shelves)
    for entry in entries:
        # The power may have gone before its outcome was on disk: that it is empty does not say that it never started.
        doubtful = new and AT_MOST_ONCE in entry.flags
        running = house.running[entry.id] = Running(entry, orphan=True, doubtful=doubtful)
        record = last.get(entry.id, {}).get(entry.attempt)
        if record is not None and record.get("used", _used(entry)) != _used(entry):
            record = None  # of an attempt before it, which had the same number
        data = house.shelves.try_outcome(entry)
        steps = read_outcome(data or b"")
        published = data is not None and (not steps or "state" in steps[-1])
        if record is not None and published:  # its worker is gone, and what it wrote down has been judged
            verdict = restored(record, now)
            _decide(house, now, running, verdict, record["outcome"], noted=True)
        else:
            _examine(house, now, running)


def _go_on_ending(house: House, now: Now) -> None:
    """A crash came between a result and the move that goes with it: a job that has not started ends as it says."""
    unstarted = {entry.uid for state in _UNSTARTED for entry in house.backlog.entries(state)}
    for uid in unstarted:
        for job_id in house.shelves.with_results(uid):
            state, entry = house.backlog.find(job_id) or ("", None)
            if entry is None or state not in _UNSTARTED or entry.batch is not None:
                continue
            steps = read_outcome(house.shelves.result(job_id))
            if steps and steps[0].get("state") == states.DEAD:  # only what expires is a dead letter from here
                expire(house, now, state, entry)
                continue
            move = next((move for move, ended in _ENDINGS.items() if steps and steps[0].get("state") == ended), None)
            if move is not None:
                house.shelves.end(state, entry)
                house.backlog.forget(job_id)
                house.tally(entry, _ENDINGS[move])
                house.history.note(now.wall, job_id, state, _ENDINGS[move], move=move, cause=steps[0].get("reason"))


_UNSTARTED = (states.READY, states.DELAYED, states.WAITING, states.HELD)
_ENDINGS = {"cancel": states.CANCELLED, "expire": states.EXPIRED}


def restored(record: dict[str, Any], now: Now) -> policy.Verdict:
    """What was made of an outcome, as its line in the history says."""
    reason = str(record.get("cause"))
    verdicts: dict[str, policy.Verdict] = {
        "Done": policy.Done(),
        "Again": policy.Again(float(record.get("at") or now.wall), reason, str(record.get("uses"))),
        "Cancelled": policy.Cancelled(reason),
        "Held": policy.Held(reason),
    }
    return verdicts.get(str(record.get("verdict")), policy.Dead(reason))


def read(house: House, state: str, entry: Entry) -> job.Job | None:
    """The job that a queued entry is; None where it is not to be had, or is another than the one that was judged."""
    try:
        data = house.shelves.read(state, entry, MAX_JOB_BYTES)
        return job.decode(data) if digest(data) == entry.hash else None
    except (CronqError, FileNotFoundError):
        return None


def check_bytes(descriptor: int, entry: Entry) -> bytes:
    """The job's bytes, which must be those that were judged. Raises `BadJob`."""
    data = safeopen.read_job(descriptor, MAX_JOB_BYTES, max(0, entry.offset))
    if entry.event:
        data = callbacks.wanted(data, entry.event)
    elif entry.proof:
        line, newline, _ = data.partition(b"\n")
        data = line + newline
    if digest(data) != entry.hash:
        raise BadJob("it was changed after it was accepted; write a job whole, and do not touch it again")
    return data
