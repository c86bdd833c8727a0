"""The tasks as the configuration says them now, read again only when a file has changed.

Does:    `tasks` gives every task of the config directory, by name; it looks at the files' stamps at most ten times
         a second.
Reads:   `cronq.toml` and `tasks.d/*.toml` of the config directory.
Trusts:  the directory's owner, and the kernel's stamps; not those of files younger than two seconds, since several
         writes may fall into one tick of them.
Fails:   `BadConfig`, each time, until the files are mended.
"""

from __future__ import annotations

import os
import time

from cronq import task
from cronq.errors import BadConfig
from cronq.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_EVERY = 0.1
SETTLED_AFTER = 2.0

Stamp = tuple[tuple[str, int, int, int], ...]


class TaskBook:
    """A config directory's tasks, kept. `guard` is asked before each look, and may raise `BadConfig`."""

    def __init__(self, config: str, guard: Callable[[str], None] = lambda _config: None) -> None:
        self._config = config
        self._guard = guard
        self._looked = float("-inf")
        self._stamp: Stamp | None = None
        self._found: dict[str, Task] | BadConfig = {}
        self.young = True  # somebody may be writing these files right now

    def tasks(self) -> dict[str, Task]:
        """Every task, by name. Raises `BadConfig`."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look()
        if isinstance(self._found, BadConfig):
            raise BadConfig(self._found.sentence)
        return self._found

    def _look(self) -> None:
        try:
            self._guard(self._config)
            stamp = _stamp(self._config)
            if stamp == self._stamp and not self.young and not isinstance(self._found, BadConfig):
                return
            newest = max((mtime for _, mtime, _, _ in stamp), default=0)
            self.young = time.time() - newest / 1e9 < SETTLED_AFTER
            self._stamp = stamp
            self._found = task.load(self._config)
        except BadConfig as error:
            self._found = error


def _stamp(config: str) -> Stamp:
    found = []
    for path in (os.path.join(config, "tasks.d"), *task.files(config)):
        try:
            stat = os.stat(path)
        except OSError:
            continue  # `load` says it better
        found.append((path, stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return tuple(found)
