"""A batch from lines: one job for each, in one file `NAME.jobs` that is whole or absent.

Does:    pours the jobs of any number of lines into the spool's draft, in bounded memory. The file's first line is
         `{"jobs": N}`, with the batch's callbacks, written last, so that a file of which a part is missing can never be
         taken for a smaller batch.
Reads:   the lines' file, once.
Fails:   `BadJob` for a line that no job can carry, with its number, or where there is no line at all; `UsageError`
         where the file cannot be read. Standard library only, and light.
"""

from __future__ import annotations

import os

from cronq import job as jobs
from cronq import spool as spools
from cronq import usage
from cronq.errors import BadJob, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

HEADER_BYTES = 32
_BUFFER = 1 << 20
_HOLE = "\0"  # stands where each job has its line; no text of a job can hold it


def of_file(path: str) -> Iterator[bytes]:
    """The lines of a file (- is standard input), without their ends. Raises `UsageError`."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            while line := file.readline(jobs.MAX_JOB_BYTES + 2):
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise UsageError(f"--batch {path}: {error.strerror}") from None


def small_text(batch: str, stdin: str) -> str:
    """The text of --stdin beside --batch: each job carries it. Raises `UsageError`."""
    if stdin == batch == "-":
        raise UsageError("--stdin - and --batch - cannot both read the standard input")
    try:
        with open(0 if stdin == "-" else stdin, "rb", closefd=stdin != "-") as file:
            text = usage.inline(file.read(usage.INLINE_STDIN + 1))
    except OSError as error:
        raise UsageError(f"--stdin {stdin}: {error.strerror}") from None
    if text is None:
        raise UsageError("--stdin beside --batch must be UTF-8 text of at most 32 KiB: every job of it carries its own")
    return text


class Batch:
    """The jobs of these lines; `count` says how many they are once they are poured."""

    def __init__(
        self, source: Iterable[bytes], order: dict[str, Any], key: str, calls: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self.count = 0
        self._calls = calls or {}
        self._source = source
        template = jobs.encode(order | {key: [*order.get(key, ()), _HOLE]})
        self._head, self._tail = template.split(jobs.encode({"": _HOLE})[5:-2])
        if len(template) > jobs.MAX_JOB_BYTES:
            raise BadJob(f"each job of the batch is larger than {jobs.MAX_JOB_BYTES // 1024} KiB")

    def pour(self, target: int) -> None:
        """Write the batch to the descriptor of a new file. Raises `BadJob`."""
        room = len(jobs.encode(self._calls)) - len(b"{}\n") + HEADER_BYTES
        spools.write_all(target, b" " * (room - 1) + b"\n")
        waiting: list[bytes] = []
        size = 0
        for number, line in enumerate(self._source, 1):
            if not line.strip():
                continue
            waiting.append(self._job(number, line))
            size += len(waiting[-1])
            self.count += 1
            if size > _BUFFER:
                spools.write_all(target, b"".join(waiting))
                waiting, size = [], 0
        if not self.count:
            raise BadJob("the batch is empty: there is no line in it that is not blank")
        spools.write_all(target, b"".join(waiting))
        os.pwrite(target, jobs.encode({"jobs": self.count, **self._calls})[:-1], 0)

    def _job(self, number: int, line: bytes) -> bytes:
        try:
            text = line.decode()
            jobs.READERS["stdin"](f"line {number}", text)
        except UnicodeDecodeError:
            raise BadJob(f"line {number} is not UTF-8: {jobs.show(line)}; nothing was queued") from None
        except BadJob as error:
            raise BadJob(f"{error.sentence}; nothing was queued") from None
        job = self._head + jobs.encode({"": text})[5:-2] + self._tail
        if len(job) > jobs.MAX_JOB_BYTES:
            raise BadJob(f"line {number} makes a job larger than {jobs.MAX_JOB_BYTES // 1024} KiB; nothing was queued")
        return job
