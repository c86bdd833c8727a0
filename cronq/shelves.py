"""The dispatcher's side of the spool: every move is one rename, and one group sync makes a turn's moves durable.

Does:    moves entries between states, makes ticks and batch members, result directories and outcome files, sets refused
         files aside, puts small files of what the dispatcher remembers in their place, and flushes. What producers
         dropped is captured by `inboxes`.
Reads:   directories; files only by `safeopen`.
Writes:  everything below the spool but the inboxes' own content. One dispatcher at a time (its lock).
Trusts:  `queue/` is ours alone (0700). Inboxes are their users': captured first, looked at then (docs/spool.md rule 4).
Fails:   `OSError` of the disk, with nothing half done that `scan` would not show again; `SyncFailed` when a flush
         failed: then nobody may be told "yes" any more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cronq import acl, linux, safeopen, states
from cronq.entry import HAS_DATA, PUT_OFF, Entry, parse
from cronq.inboxes import CAPTURE, DATA, Inboxes
from cronq.spool import DATA_ENDING, write_all

OUTCOME = "queue/outcome"
STATUS = "status"  # what a running job says of itself, as its worker writes it
NEW = "queue/new"  # a file of ours that is being written; what is left of one is written over
LARGE = 16 << 20
MOST_STATE = 1 << 20  # bytes of what the dispatcher remembers
TABLES = "schedule/tables"  # installed crontabs: <uid>, and its predecessors <uid>.<N>
SHARD_DIGITS = {states.READY: 7, states.DELAYED: 6}  # of a due time's 13: 17 seconds, 4.5 minutes a directory


class SyncFailed(Exception):
    """A flush failed: what it should have made durable may be gone, and trying again would say "ok" (docs/spool.md)."""


def home(state: str, entry: Entry) -> str:
    """The directory that holds an entry in this state: the larger ones are divided by priority and time."""
    digits = SHARD_DIGITS.get(state)
    if digits is None:
        return f"queue/{state}"
    shard = f"{entry.due:013x}"[:digits]
    return f"queue/{state}/{20 - entry.priority:02d}/{shard}" if state == states.READY else f"queue/{state}/{shard}"


class Shelves:
    """The spool below one directory, as its dispatcher handles it."""

    def __init__(self, root: str, uid: int, gid: int | None = None) -> None:
        """`gid` is the group `cronq` on a system spool, None on a rootless one."""
        self.root = root
        self.uid = uid
        self.gid = gid
        self.fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # a system spool shows us no names
        self.device = os.fstat(self.fd).st_dev
        self.dirty: list[str] = []  # directories to flush, in an order in which every target comes before its source
        self.inboxes = Inboxes(self.fd, gid is not None, self.touch)
        self.locked: set[int] = set()  # uids that are another's now: nothing is theirs to read
        self._made: set[str] = set()

    def close(self) -> None:
        """Let go of the spool."""
        os.close(self.fd)

    # ---------------------------------------------------------------- arrival

    def captured(self) -> list[str]:
        """What lies captured: after a crash, or since it is not whole yet."""
        return sorted(name for name in os.listdir(self._path(CAPTURE)) if "," in name)

    def set_aside(self, place: str, uid: int, filename: str, reason: str) -> None:
        """Keep a refused file in `rejected/<uid>/`, with its reason beside it."""
        self._set_aside(lambda target: linux.rename_new(self.fd, place, self.fd, target), uid, filename, reason)
        self.touch(f"rejected/{uid}", os.path.dirname(place))

    def set_data_aside(self, uid: int, name: str, reason: str) -> None:
        """Keep what lies in the inbox for a job that is refused there too: it is no later job's. Raises `BadJob`."""
        filename = f"{name}{DATA_ENDING}"
        try:
            self._set_aside(lambda target: self.inboxes.take(uid, filename, target), uid, filename, reason)
        except FileNotFoundError:
            return
        self.touch(f"rejected/{uid}", f"in/{uid}")

    def set_taken_data_aside(self, job_id: str, uid: int, name: str, reason: str) -> bool:
        """Keep there the input of a refused job that was taken already; whether there is any."""
        try:
            self.set_aside(f"{DATA}/{job_id}", uid, f"{name}{DATA_ENDING}", reason)
        except FileNotFoundError:
            return False
        return True

    def _set_aside(self, take: Callable[[str], None], uid: int, filename: str, reason: str) -> None:
        folder = f"rejected/{uid}"
        self._own(folder, uid)
        kept, count = filename, 0
        while True:
            try:
                take(f"{folder}/{kept}")
                break
            except FileExistsError:
                count += 1
                kept = f"{filename}.{count if count < 10 else f'{time.time_ns():x}'}"  # one may drop it time and again
        self._lend_file(f"{folder}/{kept}")
        for text in {filename, kept}:
            self.give_reason(uid, text, reason)

    def give_reason(self, uid: int, filename: str, reason: str) -> None:
        """Write beside what was refused, why."""
        self._own(f"rejected/{uid}", uid)
        self._write(f"rejected/{uid}/{filename}.reason", [reason.encode()], os.O_TRUNC)
        self.touch(f"rejected/{uid}")

    # ---------------------------------------------------------------- states

    def place(self, state: str, entry: Entry) -> str:
        """The directory that holds an entry in this state."""
        return home(state, entry)

    def admit(self, captured: str, state: str, entry: Entry) -> None:
        """Give a captured file its place in `queue/`."""
        self._rename(CAPTURE, captured, self._shard(state, entry), entry.name)

    def move(self, move: str, source: str, entry: Entry, changed: Entry) -> str:
        """Move an entry as the table of states allows; the state it is in then. Raises `IllegalMove`."""
        state = states.target(move, source)
        self._rename(self.place(source, entry), entry.name, self._shard(state, changed), changed.name)
        return state

    def rename(self, state: str, entry: Entry, changed: Entry) -> None:
        """Change what an entry's name says, in the same state."""
        self._rename(self.place(state, entry), entry.name, self._shard(state, changed), changed.name)

    def create(self, state: str, entry: Entry, data: bytes) -> bool:
        """Make a file of our own (a tick, a member of a batch), whole or not at all; False if it is there already."""
        folder = self._shard(state, entry)
        self._write(NEW, [data], os.O_TRUNC, 0o640)  # as a producer's, for the same proof
        try:
            linux.rename_new(self.fd, NEW, self.fd, f"{folder}/{entry.name}")
        except FileExistsError:
            os.unlink(NEW, dir_fd=self.fd)
            return False
        self.touch(folder)
        return True

    def drop(self, state: str, entry: Entry) -> None:
        """Remove an ended job's file for good: somebody said `rm`."""
        folder = self.place(state, entry)
        os.unlink(f"{folder}/{entry.name}", dir_fd=self.fd)
        self.touch(folder)

    def scan(self, state: str) -> Iterator[tuple[str, Entry | None]]:
        """Every file of a state: where it is, and the entry that its name says (None: junk). Raises `OSError`."""
        top = f"queue/{state}"
        for folder, subfolders, names in os.walk(self._path(top), onerror=_tell):
            subfolders.sort()
            relative = os.path.relpath(folder, self.root)
            for name in names:
                try:
                    entry: Entry | None = parse(name)
                except ValueError:
                    entry = None
                yield f"{relative}/{name}", entry

    def prune(self, state: str, before: int) -> None:
        """Remove empty shards of times before `before` (microseconds); a shard in use refuses by itself."""
        digits = SHARD_DIGITS[state]
        limit = f"{before:013x}"[:digits]
        for folder, _, _ in os.walk(self._path(f"queue/{state}"), topdown=False):
            if len(os.path.basename(folder)) == digits and os.path.basename(folder) < limit:
                try:
                    os.rmdir(folder)
                except OSError:
                    continue
                self._made.discard(os.path.relpath(folder, self.root))

    # ---------------------------------------------------------------- reading what belongs to a user

    def open_file(self, path: str, uid: int) -> tuple[int, os.stat_result]:
        """A descriptor of a file that must be `uid`'s. Raises `BadJob`, `FileNotFoundError`."""
        gid = None if uid == self.uid else self.gid  # what is ours needs no proof but that: it lies where only we write
        return safeopen.open_file(self.fd, path, safeopen.Proof(uid, self.device, gid))

    def open_entry(self, state: str, entry: Entry) -> int:
        """A descriptor of a queued job's file. Raises `BadJob`, `FileNotFoundError`."""
        owner = self.uid if entry.ours else entry.uid
        return self.open_file(f"{self.place(state, entry)}/{entry.name}", owner)[0]

    def open_ended(self, job_id: str) -> int:
        """A descriptor of the file of a user's job that has ended. Raises `BadJob`, `FileNotFoundError`."""
        uid = job_id.partition("-")[0]
        return self.open_file(f"out/{uid}/{job_id}/job.json", int(uid))[0]

    def open_installed(self, uid: int) -> int:
        """A descriptor of this user's installed crontab. Raises `BadJob`, `FileNotFoundError`."""
        return self.open_file(f"{TABLES}/{uid}", uid)[0]

    def read(self, state: str, entry: Entry, most: int) -> bytes:
        """The bytes of a queued job. Raises `BadJob`, `FileNotFoundError`."""
        descriptor = self.open_entry(state, entry)
        try:
            return safeopen.read(descriptor, most)
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- an attempt

    def lock_outcome(self, entry: Entry) -> int:
        """The outcome file of an attempt, new and locked: whoever holds this open file description runs the job."""
        path = self.outcome_path(entry)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600, dir_fd=self.fd)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        self.touch(OUTCOME)
        return descriptor

    def try_outcome(self, entry: Entry) -> bytes | None:
        """What the outcome file of an attempt says; None while its worker lives (it holds the lock)."""
        try:
            descriptor = os.open(self.outcome_path(entry), os.O_RDWR | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return b""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return safeopen.read(descriptor, 1 << 20)
        except BlockingIOError:
            return None
        finally:
            os.close(descriptor)

    def outcome_path(self, entry: Entry) -> str:
        """Where the outcome of this attempt is written."""
        return f"{OUTCOME}/{entry.id}.{entry.attempt}"

    def drop_outcome(self, entry: Entry) -> None:
        """Forget an attempt that never started."""
        try:
            os.unlink(self.outcome_path(entry), dir_fd=self.fd)
        except FileNotFoundError:
            return
        self.touch(OUTCOME)

    def outputs(self, entry: Entry) -> list[int]:
        """New `stdout`, `stderr` and `status` in the job's result directory.

        Those of the attempt before get its number; of one that put itself off they go, and `status` always does. What
        is there for a crontab has no `status`.
        """
        folder = self.result_folder(entry)
        found: list[int] = []
        try:
            for name in ("stdout", "stderr") if entry.tabled else ("stdout", "stderr", STATUS):
                path = f"{folder}/{name}"
                try:
                    found.append(self._create(path))
                except FileExistsError:
                    if name == STATUS or PUT_OFF in entry.flags:
                        os.unlink(path, dir_fd=self.fd)
                    else:
                        self._number(folder, name)
                    found.append(self._create(path))
        except OSError:
            for descriptor in found:
                os.close(descriptor)
            raise
        self.touch(folder)
        return found

    def result_folder(self, entry: Entry) -> str:
        """The job's result directory, made if it is missing."""
        folder = f"{self.user_folder(entry.uid)}/{entry.id}"
        self._folder(folder, 0o755)
        return folder

    def user_folder(self, uid: int) -> str:
        """The directory of what a user may read, made if it is missing."""
        folder = f"out/{uid}"
        self._own(folder, uid)
        return folder

    def publish(self, entry: Entry, result: bytes, *, last: bool = True, flush: bool = False) -> None:
        """Put an attempt's result into the result directory: its outcome file, rewritten and renamed to `result.json`.

        An attempt that is not the job's last gets a numbered name: whoever waits looks for `result.json`.

        Rewritten in place, not as a new file: one name fewer to make and to remove. The first line is the result, so
        that a crash between writing and cutting leaves a file that says the same.
        """
        folder = self.result_folder(entry)
        outcome = self.outcome_path(entry)
        descriptor = os.open(outcome, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            write_all(descriptor, result)
            os.ftruncate(descriptor, len(result))
            os.fchmod(descriptor, 0o644)
            if flush:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        name = "result.json" if last else f"result.json.{self._free_number(folder, 'result.json')}"
        os.rename(outcome, f"{folder}/{name}", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        if not entry.tabled:
            self.drop_small(entry, STATUS)  # the result says it all
        self.touch(folder, OUTCOME)

    def small(self, entry: Entry, name: str) -> bytes:
        """What a small file in the job's result directory holds; empty where there is none."""
        try:
            with open(self._path(f"out/{entry.uid}/{entry.id}/{name}"), "rb") as file:
                return file.read(MOST_STATE)
        except OSError:
            return b""

    def put_small(self, entry: Entry, name: str, data: bytes) -> None:
        """Write a small file into the job's result directory, whole or not at all."""
        folder = self.result_folder(entry)
        self.replace(f"{folder}/{name}", [data], 0o644)
        self.touch(folder)

    def drop_small(self, entry: Entry, name: str) -> None:
        """Remove such a file."""
        try:
            os.unlink(f"out/{entry.uid}/{entry.id}/{name}", dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def revive(self, entry: Entry) -> None:
        """Move an old result aside, so that whoever waits sees that the job has not ended."""
        folder = self.result_folder(entry)
        if os.path.exists(self._path(f"{folder}/result.json")):
            self._number(folder, "result.json")
            self.touch(folder)

    def reopen(self, entry: Entry, state: str) -> None:
        """The file of a batch that has ended comes back from its results."""
        source, target = f"out/{entry.uid}/{entry.id}", self._shard(state, entry)
        linux.rename_new(self.fd, f"{source}/job.json", self.fd, f"{target}/{entry.name}")
        self.touch(target, source)

    def end(self, state: str, entry: Entry) -> None:
        """An ended job's file goes to its results, its data go for good."""
        folder = self.result_folder(entry)
        source = self.place(state, entry)
        self.touch(folder, source)
        try:
            os.rename(f"{source}/{entry.name}", f"{folder}/job.json", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            if not os.path.exists(self._path(f"{folder}/job.json")):
                raise
            # It went there before, and the disk refused what comes now.
        if entry.ours:
            os.chmod(self._path(f"{folder}/job.json"), 0o644)  # ours, and its user's to read
        if HAS_DATA in entry.flags:
            self.drop_data(entry.id)

    def drop_data(self, job_id: str) -> None:
        """Remove a job's data."""
        try:
            self._remove(f"{DATA}/{job_id}")
        except FileNotFoundError:
            return
        self.touch(DATA)

    def sweep_data(self, is_queued: Callable[[str], bool]) -> None:
        """Remove what a crash left: data of jobs that have ended, and copies that were under way."""
        for job_id in os.listdir(self._path(DATA)):
            if job_id.startswith(".") or (not is_queued(job_id) and self.result(job_id)):
                self.drop_data(job_id)

    def make_data(self, job_id: str, parts: Iterable[bytes]) -> None:
        """Write a job's data ourselves, whole or not at all."""
        self.replace(f"{DATA}/{job_id}", parts, 0o640)
        self.touch(DATA)

    def printed(self, entry: Entry, name: str = "stdout") -> int:
        """A descriptor of what the job's last attempt printed. Raises `OSError`."""
        return os.open(
            f"{self.result_folder(entry)}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd
        )

    def result(self, job_id: str) -> bytes:
        """What `result.json` of a job holds; empty where there is none, or a power cut left it so."""
        try:
            with open(self._path(f"out/{job_id.partition('-')[0]}/{job_id}/result.json"), "rb") as file:
                return file.read(1 << 20).partition(b"\n")[0]
        except OSError:
            return b""

    def last_result(self, entry: Entry) -> bytes:
        """The result of the last attempt of a job that is to have a further one; empty where there is none."""
        number = self._free_number(self.result_folder(entry), "result.json") - 1
        return self.small(entry, f"result.json.{number}")

    def with_results(self, uid: int) -> Iterator[str]:
        """The jobs of a user that have a result directory, whatever is in it."""
        try:
            with os.scandir(self._path(f"out/{uid}")) as found:
                yield from (each.name for each in found)
        except FileNotFoundError:
            return
    def has_results(self, job_id: str) -> bool:
        """Whether there is a result directory."""
        return os.path.isdir(self._path(f"out/{job_id.partition('-')[0]}/{job_id}"))

    def has_ended(self, job_id: str) -> bool:
        """Whether the job's file is among its results."""
        return os.path.exists(self._path(f"out/{job_id.partition('-')[0]}/{job_id}/job.json"))

    def results_since(self, when: float) -> Iterator[str]:
        """The ids of the jobs whose result directory has changed since then."""
        for user in os.listdir(self._path("out")):
            if not user.isdecimal():
                continue
            with os.scandir(self._path(f"out/{user}")) as found:
                yield from (each.name for each in found if each.is_dir() and each.stat().st_mtime >= when)

    def remove_results(self, job_id: str) -> None:
        """Remove an ended job's result directory for good: somebody said `rm`."""
        folder = f"out/{job_id.partition('-')[0]}/{job_id}"
        try:
            names = os.listdir(self._path(folder))
            for name in sorted(names, key=lambda name: name == "result.json"):  # the last: until then the job is known
                self._remove(f"{folder}/{name}")
            os.rmdir(folder, dir_fd=self.fd)
        except FileNotFoundError:
            return
        self.touch(os.path.dirname(folder))

    # ---------------------------------------------------------------- what the dispatcher remembers

    def save(self, path: str, said: dict[str, Any]) -> None:
        """Write a small file of ours, whole or not at all."""
        self.replace(path, [json.dumps(said).encode() + b"\n"], 0o600)

    def load(self, path: str) -> dict[str, Any] | None:
        """What such a file says; None where it is not there, or not whole."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(safeopen.read(descriptor, MOST_STATE))
        except ValueError:
            return None
        finally:
            os.close(descriptor)
        return found if isinstance(found, dict) else None

    # ---------------------------------------------------------------- durable

    def touch(self, target: str, source: str | None = None) -> None:
        """Remember that a name appeared in `target` and went from `source`: both are flushed, the target first."""
        if source is None or source == target:
            if target not in self.dirty:
                self.dirty.append(target)
            return
        if target in self.dirty and source in self.dirty:
            if self.dirty.index(target) > self.dirty.index(source):
                self.sync()  # this move and an earlier one want opposite orders: flush the earlier one first
                self.dirty += [target, source]
        elif target in self.dirty:
            self.dirty.append(source)
        elif source in self.dirty:
            self.dirty.insert(self.dirty.index(source), target)
        else:
            self.dirty += [target, source]

    def sync(self) -> None:
        """Flush every directory that changed, targets before sources. Raises `SyncFailed`."""
        done = 0
        try:
            for folder in self.dirty:
                self._flush(folder)
                done += 1
        finally:  # where no descriptor is to be had just now, the rest is flushed next time
            del self.dirty[:done]

    def _flush(self, folder: str) -> None:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return  # an emptied shard that is gone
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise SyncFailed(f"{self._path(folder)}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- small pieces

    def _path(self, relative: str) -> str:
        return f"{self.root}/{relative}"

    def _rename(self, source: str, name: str, target: str, new: str) -> None:
        self.touch(target, source)  # first: where it cannot flush what must be before this, nothing is moved
        linux.rename_new(self.fd, f"{source}/{name}", self.fd, f"{target}/{new}")

    def _shard(self, state: str, entry: Entry) -> str:
        folder = self.place(state, entry)
        if state in SHARD_DIGITS:
            self._folder(os.path.dirname(folder), 0o700)
            self._folder(folder, 0o700)
        return folder

    def _folder(self, folder: str, mode: int) -> None:
        if folder in self._made:
            return
        try:
            os.mkdir(folder, mode, dir_fd=self.fd)
            self.touch(os.path.dirname(folder))
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(folder, dir_fd=self.fd, follow_symlinks=False).st_mode):
                raise OSError(errno.ENOTDIR, "not a directory", self._path(folder)) from None
        if not folder.startswith("out/") or folder.count("/") == 1:
            self._made.add(folder)

    def _own(self, folder: str, uid: int) -> None:
        """Make a directory for what one user may read, and nobody else."""
        if folder in self._made:
            return
        self._folder(folder, 0o700)
        if self.gid is not None and uid != self.uid and uid not in self.locked:
            acl.lend(self._path(folder), uid)

    def _lend_file(self, path: str) -> None:
        """Let a file of ours (a copy, a tick) be read by whom its directory lets in."""
        found = os.stat(path, dir_fd=self.fd, follow_symlinks=False)
        if self.gid is not None and found.st_uid == self.uid and stat.S_ISREG(found.st_mode):
            os.chmod(self._path(path), 0o644)

    def _create(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o644, dir_fd=self.fd)

    def _remove(self, path: str) -> None:
        """Remove a file; of a large one the space is given back beside the turn: for gigabytes that takes a second."""
        if os.stat(path, dir_fd=self.fd, follow_symlinks=False).st_size < LARGE:
            os.unlink(path, dir_fd=self.fd)
            return
        kept = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        os.unlink(path, dir_fd=self.fd)
        try:
            threading.Thread(target=os.close, args=(kept,), daemon=True).start()
        except RuntimeError:  # there can be no further thread
            os.close(kept)

    def _number(self, folder: str, name: str) -> None:
        numbered = f"{folder}/{name}.{self._free_number(folder, name)}"
        os.rename(f"{folder}/{name}", numbered, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def _free_number(self, folder: str, name: str) -> int:
        number = 1
        while os.path.lexists(self._path(f"{folder}/{name}.{number}")):
            number += 1
        return number

    def replace(self, path: str, parts: Iterable[bytes], mode: int) -> None:
        """Put a file of ours in its place, whole or not at all; its directory is not flushed yet."""
        folder, _, name = path.rpartition("/")
        draft = f"{folder}/.{name}.tmp"  # no job, and nothing that is listed, has a name like this
        self._write(draft, parts, os.O_TRUNC, mode)
        os.rename(draft, path, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def _write(self, path: str, parts: Iterable[bytes], how: int, mode: int = 0o644) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how
        descriptor = os.open(path, flags, mode, dir_fd=self.fd)
        try:
            for part in parts:
                write_all(descriptor, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tell(error: OSError) -> None:
    """What cannot be listed is not empty, as `os.walk` would have it."""
    raise error
