"""Mending a spool: what `cronq fsck --repair` does about its findings, with the dispatcher's lock in hand.

Does:    `Mender.mend` does what `soundness.KINDS` says of a finding, and says what it did. No job is ever removed: what
         cannot stay where it is goes into `rejected/`, where its owner finds it, or into `queue/lost+found`; each with
         the reason beside it.
Reads:   the history, once, for what is to be written anew from it.
Writes:  the spool, by `shelves`; of each job that is refused or found lost a line into the history.
Trusts:  nothing of a finding but its kind and its place: what is there is looked at again.
Fails:   `OSError` of the disk: the finding is left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from cronq import annals, batches, callbacks, linux, safeopen, settle, spool, states
from cronq.entry import HAS_DATA, WAITS, Entry
from cronq.errors import BadJob, CronqError
from cronq.history import History
from cronq.house import encode
from cronq.job import MAX_JOB_BYTES, Job, decode
from cronq.shelves import Shelves, home
from cronq.soundness import LOST, Finding, at
from cronq.surroundings import LOST_AND_FOUND, REASON, is_file, look

FOR_EVER = 1 << 62
WRITES = ("result", "no-result", "lost")  # kinds that need the history
LATER = (*WRITES, "twice")  # what is judged only when files are where they belong


class Mender:
    """One repair."""

    def __init__(self, files: Shelves) -> None:
        self._files = files
        self._history = History(files.root)
        self._history.reach = lambda: FOR_EVER  # a day that this begins cannot say that no key is taken
        self._told: dict[str, dict[str, Any]] = {}

    def read(self, findings: Iterable[Finding]) -> None:
        """Read in the history what is to be written anew."""
        ids = {finding.job_id for finding in findings if finding.kind in WRITES}
        for path in annals.days(f"{self._files.root}/history") if ids else ():
            if not is_file(look(self._files, f"history/{os.path.basename(path)}")):
                continue
            for _, block in annals.blocks(path):
                for line in block.splitlines():
                    if b'"id":' in line:
                        self._take(line, ids)

    def _take(self, line: bytes, ids: set[str]) -> None:
        try:
            said = json.loads(line)
            if said["id"] in ids and (said["to"] in states.TERMINAL or said["id"] not in self._told):
                self._told[said["id"]] = said
        except (ValueError, KeyError, TypeError, RecursionError):
            return

    def mend(self, finding: Finding) -> str:
        """What was done; empty where it is left. Raises `OSError`."""
        act = _ACTS.get(finding.kind)
        return act(self, finding) if act is not None else ""

    def close(self) -> None:
        """Make it durable. Raises `OSError`, `SyncFailed`."""
        self._files.sync()
        self._history.flush(time.time())
        self._history.close()

    # ---------------------------------------------------------------- out of the way

    def _aside(self, finding: Finding) -> str:
        """Into `queue/lost+found`, as it is."""
        try:
            os.mkdir(LOST_AND_FOUND, 0o700, dir_fd=self._files.fd)
        except FileExistsError:
            pass
        name, count = os.path.basename(finding.path)[:200], 0
        while True:
            kept = f"{name}.{count}" if count else name
            try:
                linux.rename_new(self._files.fd, finding.path, self._files.fd, f"{LOST_AND_FOUND}/{kept}")
                break
            except FileExistsError:
                count += 1
        reason = f"{finding.path} {finding.wrong}\n".encode("utf-8", "surrogateescape")
        self._files.replace(f"{LOST_AND_FOUND}/{kept}{REASON}", [reason], 0o600)
        self._files.touch(LOST_AND_FOUND, os.path.dirname(finding.path))
        return f"moved to {LOST_AND_FOUND}/{kept}"

    def _refuse(self, finding: Finding) -> str:
        """As the dispatcher would when the job is to start; what has ended, or runs, is left."""
        state, entry = at(finding.path)
        if state in (states.RUNNING, *states.TERMINAL):
            return ""
        name = entry.id.partition("-")[2]
        reason = spool.reason_text(BadJob(finding.wrong))
        self._files.set_aside(finding.path, entry.uid, f"{name}.job", reason)
        if HAS_DATA in entry.flags:
            self._files.set_taken_data_aside(entry.id, entry.uid, name, reason)
        self._note(entry.id, state, states.REJECTED, finding.wrong)
        return f"moved to rejected/{entry.uid}/{name}.job"

    def _set_input_aside(self, finding: Finding) -> str:
        uid, _, name = finding.job_id.partition("-")
        self._files.set_taken_data_aside(finding.job_id, int(uid), name, spool.reason_text(BadJob(finding.wrong)))
        return f"moved to rejected/{uid}/{name}.data"

    # ---------------------------------------------------------------- where it belongs

    def _place(self, finding: Finding) -> str:
        state, entry = at(finding.path)
        return self._move(finding, state, entry, state)

    def _flag(self, finding: Finding) -> str:
        """What waits says so, and waits where it says so: the dispatcher finds out whether it still must."""
        state, entry = at(finding.path)
        if state in (states.READY, states.DELAYED):
            return self._move(finding, state, entry, states.WAITING)
        waits = state in (states.WAITING, states.SKIPPED)
        return self._move(finding, state, entry.flagged(WAITS) if waits else entry.unflagged(WAITS), state)

    def _move(self, finding: Finding, source: str, entry: Entry, state: str) -> str:
        folder = home(state, entry)
        os.makedirs(f"{self._files.root}/{folder}", 0o700, exist_ok=True)
        try:
            linux.rename_new(self._files.fd, finding.path, self._files.fd, f"{folder}/{entry.name}")
        except FileExistsError:
            return self._aside(finding)
        self._files.touch(folder, os.path.dirname(finding.path))
        if source != state:
            self._note(entry.id, source, state, finding.wrong)
        return f"moved to {folder}/{entry.name}"

    def _count(self, finding: Finding) -> str:
        """Find again where the batch's next line begins."""
        state, entry = at(finding.path)
        assert entry.batch is not None  # noqa: S101 - only a batch has a cursor
        descriptor = self._files.open_entry(state, entry)
        try:
            starts = [offset for offset, line in batches.read_lines(descriptor, 0) if callbacks.header(line) is None]
            size = os.fstat(descriptor).st_size
        except BadJob:
            return ""
        finally:
            os.close(descriptor)
        number, _, total = entry.batch
        if len(starts) != total:
            return ""  # it was changed: nobody knows which lines were judged
        number = min(number, total)
        offset = starts[number] if number < total else size
        return self._move(finding, state, entry.but(batch=(number, offset, total)), state)

    # ---------------------------------------------------------------- results

    def _end(self, finding: Finding) -> str:
        """Go on where a crash came between a job's result and the move of its file to it."""
        state, entry = at(finding.path)
        told = self._files.result(entry.id)
        self._files.end(state, entry)
        self._note(entry.id, state, str(json.loads(told)["state"]), "its result says so")
        return f"moved to out/{entry.uid}/{entry.id}/job.json"

    def _number(self, finding: Finding) -> str:
        self._files.revive(Entry(id=finding.job_id, due=0))
        return "given a number, as the result of an earlier attempt"

    def _write(self, finding: Finding) -> str:
        """Write a result from what the history tells; what was there is kept."""
        job_id, place = finding.job_id, finding.path
        entry, wanted = Entry(id=job_id, due=int((spool.time_of(job_id) or 0.0) * 1e6)), Job()
        told = self._told.get(job_id, {})
        state = str(told.get("to", ""))
        if finding.kind == "result":
            self._aside(finding)
        elif place.startswith("queue/"):
            state, entry = at(place)
        wanted = self._read(place if place.startswith("queue/") else f"out/{entry.uid}/{job_id}/job.json", entry)
        if state not in (*states.ENDED_IN_OUT, states.DEAD, states.SKIPPED) or finding.kind == "lost":
            state = states.DEAD
        result = _result(entry, wanted, told, state, finding.kind == "lost")
        self._files.user_folder(entry.uid)
        self._files.put_small(entry, "result.json", encode(result))
        if finding.kind == "lost":
            self._note(job_id, str(told.get("to")), LOST, "cronq fsck found it nowhere")
        return f"out/{entry.uid}/{job_id}/result.json says {state}"

    def _read(self, place: str, entry: Entry) -> Job:
        try:
            owner = self._files.uid if entry.ours else entry.uid
            descriptor, _ = self._files.open_file(place, owner)
        except (CronqError, OSError):
            return Job()
        try:
            return decode(safeopen.read(descriptor, MAX_JOB_BYTES))
        except BadJob:
            return Job()
        finally:
            os.close(descriptor)

    def _reason(self, finding: Finding) -> str:
        _, uid, name = finding.path.split("/", 2)
        self._files.give_reason(int(uid), name, spool.reason_text(BadJob("nobody knows any more why it was refused")))
        return f"{finding.path}{REASON} says that nobody knows why"

    def _chmod(self, finding: Finding) -> str:
        path = f"{self._files.root}/{finding.path}"
        found = look(self._files, finding.path or ".")
        if found is None or found.st_uid != self._files.uid or os.path.islink(path):
            return ""
        mode = 0o755 if finding.kind == "results-mode" else 0o700
        os.chmod(path, mode)
        return f"its mode is {mode:04o}"

    def _pause(self, finding: Finding) -> str:
        self._aside(finding)
        self._files.save(finding.path, {})
        return "written anew"

    def _note(self, job_id: str, source: str, to: str, cause: str) -> None:
        self._history.note(time.time(), job_id, source, to, cause=f"cronq fsck: {cause}")


def _result(entry: Entry, wanted: Job, told: dict[str, Any], state: str, lost: bool) -> dict[str, Any]:
    """What `result.json` says, as far as it is still known."""
    outcome = told.get("outcome")
    outcome = outcome if isinstance(outcome, dict) else {}
    described = settle.describe(entry, wanted)
    if not wanted.task and not wanted.command:
        described |= {"command": None, "queue": told.get("queue") or entry.queue}
    reason = "it was lost: cronq fsck found it nowhere" if lost else told.get("cause")
    return {
        **described,
        "state": state,
        "attempt": told.get("attempt", entry.attempt),
        "started": outcome.get("started"),
        "ended": told.get("t", time.time()),
        "exit_code": outcome.get("exit_code"),
        "signal": outcome.get("signal"),
        "reason": reason if reason or state == states.DONE else "unknown: its result was lost (cronq fsck)",
        **{key: outcome.get(key) for key in ("wall", "cpu", "max_rss", "stdout", "stderr")},
    }


_ACTS: dict[str, Callable[[Mender, Finding], str]] = {
    **dict.fromkeys(("name", "shape", "twice", "junk", "captured-name", "state", "table"), Mender._aside),
    "stray-outcome": Mender._aside,
    **dict.fromkeys(("owner", "bytes", "input", "no-batch", "line"), Mender._refuse),
    **dict.fromkeys(WRITES, Mender._write),
    **dict.fromkeys(("tree", "results-mode"), Mender._chmod),
    "misplaced": Mender._place,
    "flags": Mender._flag,
    "cursor": Mender._count,
    "stray-input": Mender._set_input_aside,
    "ended": Mender._end,
    "unrevived": Mender._number,
    "no-reason": Mender._reason,
    "pause": Mender._pause,
}
