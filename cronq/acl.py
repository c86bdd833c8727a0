"""POSIX ACLs, as far as the spool needs them: two lists, in the form that the kernel takes as extended attributes.

Does:    `lend` lets one user read a directory of ours, `take_back` undoes it, `inherit` says what new files in an inbox
         allow, and `inherits` whether it was said.
Writes:  the attributes of the directory that a descriptor or path names.
Fails:   `OSError`; ENOTSUP where the file system has none (mount it with `acl`).

The layout is linux/posix_acl_xattr.h: a version, then (tag, permissions, id) each, all little-endian, sorted by tag.
"""

from __future__ import annotations

import errno
import os
import struct

_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
READ, WRITE, ENTER = 4, 2, 1


def _encoded(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def lend(directory: int | str, uid: int) -> None:
    """Let `uid` list and enter this directory, and nobody else but its owner."""
    everything = READ | WRITE | ENTER
    entries = [(_USER_OBJ, everything, _NOBODY), (_USER, READ | ENTER, uid), (_GROUP_OBJ, 0, _NOBODY)]
    os.setxattr(directory, _ACCESS, _encoded(*entries, (_MASK, READ | ENTER, _NOBODY), (_OTHER, 0, _NOBODY)))


def take_back(directory: int | str) -> None:
    """Let nobody but its owner enter this directory."""
    os.setxattr(directory, _ACCESS, _encoded((_USER_OBJ, 7, _NOBODY), (_GROUP_OBJ, 0, _NOBODY), (_OTHER, 0, _NOBODY)))


_FOR_THE_GROUP = _encoded((_USER_OBJ, 7, _NOBODY), (_GROUP_OBJ, READ | ENTER, _NOBODY), (_OTHER, 0, _NOBODY))


def inherit(directory: int | str) -> None:
    """Let new files in this directory be the group's to read and nobody else's, whatever the producer's umask."""
    os.setxattr(directory, _DEFAULT, _FOR_THE_GROUP)


def inherits(directory: str) -> bool:
    """Whether new files in this directory are so. Raises `OSError` where the file system has no ACLs."""
    try:
        return os.getxattr(directory, _DEFAULT) == _FOR_THE_GROUP
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise
