"""The lock of a spool: at most one process serves it, or mends it; the one home of filelock.

Does:    makes the lock of a spool; whoever acquires it and finds it `Taken` waits or gives up.
Writes:  `queue/dispatcher.lock`, an empty file, in a directory where nobody else can put or lock anything.
Trusts:  flock(2), by `filelock`: never its soft lock, which a killed process would leave behind.
Fails:   as `filelock` where the file cannot be opened.
"""

from __future__ import annotations

import os

from filelock import FileLock
from filelock import Timeout as Taken

__all__ = ["LOCK", "FileLock", "Taken", "lock"]
LOCK = "queue/dispatcher.lock"


def lock(root: str) -> FileLock:
    """The lock of the spool `root`, not taken yet."""
    return FileLock(os.path.join(root, LOCK), fallback_to_soft=False)
