"""Rows: more facts than fit into memory, sorted by the job that they are about.

Does:    takes lines, sorts them in pieces in temporary files, and gives them back merged, all of one id together.
Writes:  temporary files without a name (TMPDIR).
Fails:   `OSError` where there is no room for them.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from itertools import groupby
from typing import IO

PIECE = 100_000  # lines in memory


class Rows:
    """Lines of an id, a tab, and what is to be known of it. Neither may have a line end."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._pieces: list[IO[str]] = []

    def add(self, job_id: str, *facts: object) -> None:
        """One fact more."""
        self._lines.append("\t".join((job_id, *map(str, facts))) + "\n")
        if len(self._lines) >= PIECE:
            piece = tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 - `close`
            piece.writelines(sorted(self._lines))
            self._pieces.append(piece)
            self._lines.clear()

    def groups(self) -> Iterator[tuple[str, Iterator[list[str]]]]:
        """Each id, and what is known of it, sorted."""
        for piece in self._pieces:
            piece.seek(0)
        merged = heapq.merge(*self._pieces, sorted(self._lines))
        split = (line.rstrip("\n").split("\t") for line in merged)
        for job_id, group in groupby(split, key=lambda words: words[0]):
            yield job_id, (words[1:] for words in group)

    def close(self) -> None:
        """Let go of it all."""
        for piece in self._pieces:
            piece.close()
