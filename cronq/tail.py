"""What a job prints, as it grows, through all its attempts.

Reads:   `stdout.1`, `stdout.2` … and `stdout` (or `stderr`) of a result directory: before a further attempt, the file
         of the last one gets a number, and a new one is made.
Trusts:  no link and nothing else that could be in their places: root reads them, too.
Fails:   never on a file that is not there (yet, or any more).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from cronq import safeopen
from cronq import spool as spools

_CHUNK = 1 << 16
_NO_OUTPUT = (errno.ELOOP, errno.EXDEV, errno.EINVAL, errno.ENXIO)  # of something that no job printed


class Tail:
    """One output of a job, attempt after attempt: `stdout.1`, `stdout.2` … and `stdout`, each from its beginning."""

    def __init__(self, root: str, job_id: str, name: str, earlier: bool = True) -> None:
        self._root = root
        self._folder = spools.results("", job_id)
        self._name = name
        self._seen: set[int] = set()  # inodes: the file of an attempt that is over gets another name, and stays itself
        self._file: int | None = None
        if not earlier:
            for numbered in self._files():
                if numbered != name:
                    self._seen.add(safeopen.look_below(root, os.path.join(self._folder, numbered)).st_ino)

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
            found = safeopen.look_below(self._root, os.path.join(self._folder, self._name))
            return os.path.samestat(found, os.fstat(file))
        except OSError:
            return False

    def _open_next(self) -> bool:
        while True:
            names = self._files()
            for name in names:
                try:
                    file = safeopen.open_below(self._root, os.path.join(self._folder, name))
                except FileNotFoundError:
                    break  # renamed just now: look again
                except OSError as error:
                    if error.errno not in _NO_OUTPUT:
                        raise
                    continue
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
        found = safeopen.names_below(self._root, self._folder)
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
