"""One small file of root's, written so that after a crash it is the old one or the new one, whole.

Does:    `write` puts a file in the place of another, with the owner and mode that this had; `remove` takes one away.
Writes:  a draft beside it, flushed; then the directory.
Trusts:  that nobody else can write in the directory: the caller has looked.
Fails:   `OSError` of the disk; then the old file is there as it was.
"""

from __future__ import annotations

import os
import tempfile

from cronq.spool import sync_directory


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """A file with this content; `mode` if there was none. A link stays, and what it leads to is replaced."""
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{os.path.basename(real)}.", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            try:
                found = os.stat(real)
                os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, found.st_mode & 0o7777)
            except FileNotFoundError:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(draft, real)
    except BaseException:
        os.unlink(draft)
        raise
    sync_directory(folder)


def remove(path: str) -> None:
    """Take a file away for good."""
    os.unlink(path)
    sync_directory(os.path.dirname(path))
