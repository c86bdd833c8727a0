"""What a job prints, as it grows, through all its attempts.

Reads:   `stdout.1`, `stdout.2` … and `stdout` (or `stderr`) of a result directory: before a further attempt, the file
         of the last one gets a number, and a new one is made.
Fails:   never on a file that is not there (yet, or any more).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_CHUNK = 1 << 16


class Tail:
    """One output of a job, attempt after attempt: `stdout.1`, `stdout.2` … and `stdout`, each from its beginning."""

    def __init__(self, folder: str, name: str, earlier: bool = True) -> None:
        self._folder = folder
        self._name = name
        self._seen: set[int] = set()  # inodes: the file of an attempt that is over gets another name, and stays itself
        self._file: int | None = None
        if not earlier:
            for numbered in self._files():
                if numbered != name:
                    self._seen.add(os.stat(os.path.join(folder, numbered)).st_ino)

    def read(self) -> Iterator[bytes]:
        """The parts that are new, and no more for now."""
        while self._file is not None or self._open_next():
            assert self._file is not None  # noqa: S101 - just opened
            over = not self._is_current(self._file)
            while part := os.read(self._file, _CHUNK):
                yield part
            if not over:
                return
            self.close()

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.stat(os.path.join(self._folder, self._name)), os.fstat(file))
        except OSError:
            return False

    def _open_next(self) -> bool:
        while True:
            names = self._files()
            for name in names:
                try:
                    file = os.open(os.path.join(self._folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                except FileNotFoundError:
                    break  # renamed just now: look again
                inode = os.fstat(file).st_ino
                if inode in self._seen:
                    os.close(file)
                elif name == self._name and self._files() != names:
                    os.close(file)
                    break  # renamed between the two: an earlier attempt's comes first
                else:
                    self._seen.add(inode)
                    self._file = file
                    return True
            else:
                return False

    def _files(self) -> list[str]:
        try:
            found = os.listdir(self._folder)
        except OSError:
            return []
        own = len(self._name) + 1
        numbers = sorted(
            int(name[own:]) for name in found if name.startswith(f"{self._name}.") and name[own:].isdigit()
        )
        return [f"{self._name}.{number}" for number in numbers] + [self._name] * (self._name in found)

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
