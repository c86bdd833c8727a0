"""What must be true when a story has come to rest, whatever it was interrupted by."""

import json
import os
import re
import signal
from pathlib import Path

from cell import UID, Late

from cronq import states
from cronq.entry import parse

ONCE = "at-most-once"
TO_REST = ("ready", "delayed", "waiting", "running")


class Damaged(Exception):
    """A job's file could not be read, and was set aside with the reason: there is nothing more to see."""


def settle(told) -> None:
    """Wait until nothing is left to do; a dispatcher that is gone is started again meanwhile. Raises `Late`."""
    cell = told.cell
    for _ in range(3):
        cell.keep_served()
        try:
            cell.until(lambda: _at_rest(told), "all is at rest")
        except Late:
            raise Late("; ".join(_unrest(told))) from None
        os.kill(cell.launcher, signal.SIGTERM)
        cell.until(lambda: cell.launcher in cell.ended, "the dispatcher leaves")
        if cell.ended[cell.launcher] == 0:
            return
    raise Late(f"the launcher never leaves but with {cell.ended[cell.launcher]}")


def _at_rest(told) -> bool:
    told.cell.keep_served()
    return not _unrest(told)


def _unrest(told) -> list[str]:
    cell = told.cell
    found = [f"{job} has no result" for job in told.promised if not cell.result(job) and _refusal(told, job) == "?"]
    found += [f"{state}: {name}" for state in TO_REST for name in cell.files(f"queue/{state}")]
    found += [f"{folder}: {name}" for folder in ("queue/outcome", "queue/.capture") for name in cell.files(folder)]
    found += [f"in: {name}" for name in cell.files("in") if name.endswith((".job", ".jobs", ".tab"))]
    return found or _judge_history(told)


def judge(told) -> list[str]:
    """What is wrong with what is there."""
    text = told.cell.log.read_text(errors="replace")
    told.crashed = told.crashed or bool(re.search(r"event=worker-ended pid=\d+ code=[^0]", text))
    told.promised = {told.cell.folder(job).name: ends for job, ends in told.promised.items()}
    runs = told.cell.runs()
    found = []
    for job, ends in told.promised.items():
        found += _judge_job(told, job, ends, runs.get(job, []))
    for job, attempts in runs.items():
        if len(attempts) > len(set(attempts)) and (told.delivery == ONCE or not told.crashed):
            found.append(f"DOUBLED: {job} ran {attempts}")
    found += _judge_tree(told) + _judge_history(told) + [said for out in told.submitted for said in _judge_submit(*out)]
    if "Traceback" in text or ("child-failed" in text and not told.failing):
        found.append("TRACE: " + text[max(0, text.find("Traceback")) :][:3000])
    return found


def _judge_job(told, job: str, ends: set[str], attempts: list[str]) -> list[str]:
    result = told.cell.result(job)
    state = result.get("state")
    allowed = set(ends)
    if told.delivery == ONCE and told.crashed:
        allowed |= {"dead", "skipped"}  # nobody can know; and what waits for it never runs
    if told.failing and str(result.get("reason")).startswith("cannot start:"):
        allowed |= {"dead"}  # it says so, and tells why
    if told.failing and not result and "the same as" in _refusal(told, job):
        return []  # it was judged after the newer one
    if not result:
        return [f"LOST: {job} has no result"]
    found = [] if state in allowed else [f"LOST: {job} is {state}, not {sorted(ends)}: {result.get('reason')}"]
    if state == "done" and "exit_code" in result and "batch" not in told.story:
        if not attempts:
            found.append(f"LOST: {job} is done and never ran")
        is_cut = told.failing and (result.get("stdout") or {}).get("cut")  # and says so
        if f"out {job}" not in (told.cell.folder(job) / "stdout").read_text() and not is_cut:
            found.append(f"UNREADABLE: {job}'s output; its result says {result.get('stdout')}")
    return found


def _judge_submit(code: int, out: str, err: str) -> list[str]:
    """Yes and an id; or no, in one sentence and with the code that says whose fault it is."""
    if (
        code < 0
        or (code == 0 and out and not err)
        or (code in (69, 70, 73, 75) and not out and len(err.splitlines()) == 1)
    ):
        return []
    return [f"SAID: submit ended with {code}: {out!r} {err!r}"]


def _judge_tree(told) -> list[str]:
    """No job is in two states, and nothing is left where nothing may be."""
    spool: Path = told.cell.spool
    found, seen = [], {}
    for state in states.KEPT:
        for name in told.cell.files(f"queue/{state}"):
            try:
                entry = parse(name)
            except ValueError:
                found.append(f"JUNK: {state}/{name}")
                continue
            if entry.id in seen:
                found.append(f"TWO STATES: {entry.id}: {seen[entry.id]}, {state}")
            seen[entry.id] = state
    for folder in (spool / "out" / str(UID)).glob("*-*"):
        if (folder / "job.json").exists() and folder.name in seen:
            found.append(f"TWO STATES: {folder.name}: ended, {seen[folder.name]}")
        for file in folder.glob("result.json*"):
            try:
                json.loads(file.read_text())
            except ValueError:
                found.append(f"UNREADABLE: {file}: {file.read_text()[:200]!r}")
    kept = {job for job, state in seen.items() if state in (states.DEAD, states.SKIPPED)}
    found += [f"LEFT: queue/data/{name}" for name in told.cell.files("queue/data") if name not in kept]
    if told.program != "submit":
        found += [f"LEFT: in/{name}" for name in told.cell.files("in")]
    refused = [name for name in told.cell.files("rejected") if not name.startswith("odd.") and not _twin(spool, name)]
    refused = [name for name in refused if not (told.failing and _DAMAGED.search(_reason(spool, name)))]
    return found + [f"LOST: rejected/{name}: {_reason(spool, name)}" for name in refused]


_DAMAGED = re.compile(
    r"(it|its file) cannot be (read|opened): (\[Errno 5\] )?Input/output error"
)  # kept, with the reason: nothing is lost


def is_damaged(told, job: str) -> bool:
    """Whether it was refused because the disk did not give its file."""
    return bool(_DAMAGED.search(_refusal(told, job)))


def _refusal(told, job: str) -> str:
    name = job.partition("-")[2]
    return _reason(told.cell.spool, f"{name}.job")


def _twin(spool: Path, name: str) -> bool:
    return "the same as" in _reason(spool, name)


def _reason(spool: Path, name: str) -> str:
    path = spool / "rejected" / str(UID) / (name if name.endswith(".reason") else f"{name}.reason")
    return path.read_text() if path.exists() else "?"


def _judge_history(told) -> list[str]:
    """Each line can be read; a job whose attempt ended has a line that says so.

    The line of a job that ended without one (cancelled, skipped) may be lost with the turn in which it did.
    """
    found, ended = [], set()
    for name in told.cell.files("history"):
        for line in (told.cell.spool / "history" / name).read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                found.append(f"HISTORY: {line[:200]!r}")
                continue
            if record.get("to") in (*states.TERMINAL, states.DEAD, states.SKIPPED):
                ended.add(record["id"])
    return found + [
        f"HISTORY: no end of {job}"
        for job in told.promised
        if _ran(told, job) and told.cell.folder(job).name not in ended
    ]


def _ran(told, job: str) -> bool:
    found = told.cell.result(job)
    return found.get("exit_code") is not None and "max_attempts" in found
