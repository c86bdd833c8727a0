"""The survey: every file below `queue/` and `out/`, and every line of the history, looked at once.

Does:    `Survey.look` yields findings (`soundness` judges), those about one id when all of it is known.
Reads:   names, owners and modes; queued jobs' bytes, to compare them with the hash in the name; every result.json; the
         history. Whatever the number of jobs, memory is bounded: facts go through `rows`.
Writes:  nothing.
Trusts:  nothing: no link is followed, no mount is crossed, and whoever calls this has become the spool's owner first.
Fails:   `OSError` where a directory cannot be read. What goes away while it is looked at has moved, and is no finding.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator

from cronq import annals, inboxes, linux, safeopen, shelves, spool, states
from cronq.after import Needs
from cronq.entry import WAITS, Entry, digest
from cronq.errors import BadJob
from cronq.job import MAX_JOB_BYTES, decode, is_id, is_whole
from cronq.rows import Rows
from cronq.soundness import DAMAGED, Facts, Finding, at, of_cursor, of_job, of_place, of_result
from cronq.surroundings import is_file, look, names

MOST_RESULT = 1 << 20
_REMEMBERED = 50_000  # ids whose last line of the history is in memory at a time
_AT, _RESULT, _DATA, _OUTCOME, _TOLD, _NEED, _MEMBER = "0123456"  # what a row says, in the order of `_of_one`
_MEMBERS_STATES = (states.READY, states.DELAYED, states.WAITING, states.HELD, states.RUNNING)


class Survey:
    """One look at a spool. `is_locked` says of an outcome file whether a worker has it."""

    def __init__(self, files: shelves.Shelves, is_locked: Callable[[str], bool]) -> None:
        self._files = files
        self._is_locked = is_locked
        self._rows = Rows()

    def look(self) -> Iterator[Finding]:
        """Everything that is wrong."""
        self._rows = Rows()
        try:
            yield from self._history()
            yield from self._captured()
            for state in states.KEPT:
                yield from self._state(state)
            yield from self._inputs()
            yield from self._outcomes()
            yield from self._results()
            for job_id, rows in self._rows.groups():
                yield from self._of_one(job_id, rows)
        finally:
            self._rows.close()

    # ---------------------------------------------------------------- the history

    def _history(self) -> Iterator[Finding]:
        last: dict[str, tuple[int, str, str]] = {}
        number = 0
        for path in annals.days(f"{self._files.root}/history"):
            spoilt = 0
            if not is_file(look(self._files, f"history/{os.path.basename(path)}")):
                continue  # `surroundings` says so
            for _, block in annals.blocks(path):
                for line in block.splitlines():
                    number += 1
                    try:
                        said = json.loads(line)
                        if "id" in said:
                            last[str(said["id"])] = number, f"{said['t']}", str(said["to"])
                    except (ValueError, KeyError, TypeError, RecursionError):
                        spoilt += bool(line)
                    if len(last) >= _REMEMBERED:
                        self._remember(last)
            if spoilt:
                yield Finding("history", f"history/{os.path.basename(path)}", f"has {spoilt} lines that say nothing")
        self._remember(last)

    def _remember(self, last: dict[str, tuple[int, str, str]]) -> None:
        for job_id, (number, moment, state) in last.items():
            if is_id(job_id):
                self._rows.add(job_id, _TOLD, f"{number:015d}", moment, state.replace("\t", " ").replace("\n", " "))
        last.clear()

    # ---------------------------------------------------------------- queue/

    def _captured(self) -> Iterator[Finding]:
        for name in names(self._files, inboxes.CAPTURE):
            place = f"{inboxes.CAPTURE}/{name}"
            try:
                inboxes.owner(name)
            except BadJob:
                yield Finding("captured-name", place, "is no name of a captured file")
            else:
                yield Finding("captured", place, "is still to be judged")

    def _state(self, state: str) -> Iterator[Finding]:
        for place, is_folder in self._below(f"queue/{state}"):
            if is_folder:
                yield Finding("shape", place, "is a directory")
                continue
            wrong = list(of_place(place))
            yield from wrong
            if not any(each.kind == "name" for each in wrong):
                yield from self._file(place, *at(place))

    def _below(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Every file there, and every directory that has a job's name, or no file's."""
        try:
            names = os.scandir(f"{self._files.root}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return
        with names:
            for each in names:
                place = f"{folder}/{each.name}"
                if not each.is_dir(follow_symlinks=False):
                    yield place, False
                elif "," in each.name:
                    yield place, True
                else:
                    yield from self._below(place)

    def _file(self, place: str, state: str, entry: Entry) -> Iterator[Finding]:
        try:
            owner = self._files.uid if entry.ours else entry.uid
            descriptor, _ = self._files.open_file(place, owner)
        except FileNotFoundError:
            return
        except BadJob as error:
            found = look(self._files, place)
            self._rows.add(entry.id, _AT, place)
            if found is not None:
                kind = "owner" if is_file(found) else "shape"
                yield Finding(kind, place, f"is not as it must be ({error.sentence})", entry.id)
            return
        try:
            data = safeopen.read_job(descriptor, MAX_JOB_BYTES)
            if entry.batch is not None:
                before = os.pread(descriptor, 1, max(0, entry.batch[1] - 1))
                if sentence := of_cursor(entry.batch, os.fstat(descriptor).st_size, before):
                    yield Finding("cursor", place, sentence, entry.id)
            elif digest(data) != entry.hash:
                yield Finding("bytes", place, "has other bytes than were judged", entry.id)
        except BadJob as error:
            data = b""
            yield Finding("unreadable", place, f": {error.sentence}", entry.id)
        finally:
            os.close(descriptor)
        self._rows.add(entry.id, _AT, place)
        if entry.proof and state in _MEMBERS_STATES:
            self._rows.add(entry.proof, _MEMBER, place)
        if WAITS in entry.flags and state in (states.WAITING, states.HELD):
            self._needs(place, data)

    def _needs(self, place: str, data: bytes) -> None:
        try:
            parents = Needs.of(decode(data)).parents
        except BadJob:
            return
        for parent in parents:
            self._rows.add(parent.partition("+")[0], _NEED, place, parent)

    def _inputs(self) -> Iterator[Finding]:
        for name in names(self._files, inboxes.DATA):
            place = f"{inboxes.DATA}/{name}"
            found = look(self._files, place)
            if found is None:
                continue
            if name.startswith("."):
                yield Finding("input-left", place, "is a copy that was not finished")
            elif not is_id(name):
                yield Finding("junk", place, "is no job's input")
            elif not is_file(found):
                yield Finding("shape", place, "is no file", name)
            else:
                self._rows.add(name, _DATA)

    def _outcomes(self) -> Iterator[Finding]:
        for name in names(self._files, shelves.OUTCOME):
            job_id, _, attempt = name.rpartition(".")
            place = f"{shelves.OUTCOME}/{name}"
            found = look(self._files, place)
            if not is_id(job_id) or not is_whole(attempt):
                yield Finding("junk", place, "is no attempt's")
            elif found is not None and not is_file(found):
                yield Finding("shape", place, "is no file")
            elif found is not None:
                self._rows.add(job_id, _OUTCOME, attempt, int(self._is_locked(place)))

    # ---------------------------------------------------------------- out/

    def _results(self) -> Iterator[Finding]:
        for uid in names(self._files, "out"):
            if not is_whole(uid):
                yield Finding("junk", f"out/{uid}", "is no user's")
                continue
            for name in names(self._files, f"out/{uid}"):
                place = f"out/{uid}/{name}"
                found = look(self._files, place)
                if found is None or (name in ("crontab", ".crontab.tmp") and is_file(found)):
                    continue
                if not is_id(name) or name.partition("-")[0] != uid or not stat.S_ISDIR(found.st_mode):
                    yield Finding("junk", place, "is no result directory of this user's")
                    continue
                if found.st_uid != self._files.uid or found.st_mode & 0o022:
                    mode = stat.S_IMODE(found.st_mode)
                    yield Finding("results-mode", place, f"is uid {found.st_uid}'s, and has the mode {mode:04o}")
                yield from self._result(place, name)

    def _result(self, place: str, job_id: str) -> Iterator[Finding]:
        job_file = look(self._files, f"{place}/job.json")
        has_file = is_file(job_file)
        if job_file is not None and not has_file:
            yield Finding("junk", f"{place}/job.json", "is no file")
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
            descriptor = linux.open_inside(self._files.fd, f"{place}/result.json", flags)
        except FileNotFoundError:
            self._rows.add(job_id, _RESULT, int(has_file), "")
            return
        except OSError as error:
            state, wrong = "", f"cannot be read: {error.strerror}"
        else:
            with open(descriptor, "rb") as file:
                good = is_file(os.fstat(descriptor))
                try:
                    state, wrong = of_result(job_id, file.read(MOST_RESULT)) if good else ("", "is no file")
                except OSError as error:
                    state, wrong = "", f"cannot be read: {error.strerror}"
        if wrong:
            yield Finding("result", f"{place}/result.json", wrong, job_id)
        self._rows.add(job_id, _RESULT, int(has_file), state or DAMAGED)

    # ---------------------------------------------------------------- one id

    def _of_one(self, job_id: str, rows: Iterator[list[str]]) -> Iterator[Finding]:
        facts = Facts(job_id)
        judged = False
        batch = -1
        try:
            for word, *said in rows:
                if word in (_NEED, _MEMBER) and not judged:
                    judged = True
                    yield from self._judge(facts)
                if word == _AT:
                    facts.places.append(said[0])
                elif word == _RESULT:
                    facts.has_file, facts.result = said[0] == "1", said[1]
                elif word == _DATA:
                    facts.has_input = True
                elif word == _OUTCOME:
                    facts.outcomes[int(said[0])] = said[1] == "1"
                elif word == _TOLD:
                    facts.told = max(facts.told, (int(said[0]), said[1], said[2]))
                elif word == _NEED and not (facts.places or facts.result or facts.near):
                    wrong = f"waits for {said[1]}, of which nothing is known"
                    yield Finding("waits", said[0], wrong, at(said[0])[1].id)
                elif word == _MEMBER:
                    batch = self._batch(facts) if batch < 0 else batch
                    yield from self._member(said[0], batch)
            if not judged:
                yield from self._judge(facts)
        finally:
            if batch >= 0:
                os.close(batch)

    def _judge(self, facts: Facts) -> Iterator[Finding]:
        if not facts.places and not facts.result:
            facts.near = self._is_near(facts.job_id)
        return of_job(facts)

    def _is_near(self, job_id: str) -> bool:
        """Whether a file of this name is in the inbox still, or captured: a crash came before it was placed."""
        uid, _, name = job_id.partition("-")
        names = [name, name[14:]] if spool.time_of(job_id) is not None else [name]
        places = [
            folder + each + ending
            for folder in (f"in/{uid}/", f"{inboxes.CAPTURE}/{uid},")
            for each in names
            for ending in spool.ENDINGS
        ]
        return any(look(self._files, place) is not None for place in places)

    def _batch(self, facts: Facts) -> int:
        """A descriptor of the batch's file; below 0 where there is none. One that moves meanwhile is looked for."""
        for place in (*facts.places, f"{facts.folder}/job.json", *self._where(facts.job_id)):
            try:
                return self._files.open_file(place, int(facts.job_id.partition("-")[0]))[0]
            except (FileNotFoundError, BadJob):
                continue
        return -1

    def _where(self, job_id: str) -> Iterator[str]:
        """Where a job is now, found by its name."""
        for state in _MEMBERS_STATES:
            yield from (place for place, _ in self._below(f"queue/{state}") if f",{job_id}," in place)

    def _member(self, place: str, batch: int) -> Iterator[Finding]:
        _, entry = at(place)
        if look(self._files, place) is None:
            return  # it has moved
        if batch < 0:
            yield Finding("no-batch", place, f"is of the batch {entry.proof}, whose file is not there", entry.id)
        elif not entry.event:
            line, newline, _ = safeopen.read(batch, MAX_JOB_BYTES, max(0, entry.offset)).partition(b"\n")
            if digest(line + newline) != entry.hash:
                yield Finding("line", place, f"is another line than stands in {entry.proof}", entry.id)
