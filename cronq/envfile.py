"""A task's `env_file`: variables that only the task's user reads, such as passwords.

Does:    file -> variables. `KEY=VALUE` a line; lines that are empty or begin with "#" say nothing; a value may stand in
         double or single quotes, which keep its blanks; nothing is expanded. Of a key that comes twice the last counts.
Reads:   the file, by whoever runs this: the worker, which is the job's user, when the job starts.
Trusts:  a regular file of root's or of this user's that nobody else may write: it may set LD_PRELOAD.
Fails:   `ValueError` with the file, the line, and what would be right.
"""

from __future__ import annotations

import os
import stat

MOST_BYTES = 64 * 1024
QUOTES = "\"'"


def read(path: str) -> dict[str, str]:
    """The variables of a file. Raises `ValueError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise ValueError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        _must_be_safe(path, os.fstat(descriptor))
        data = os.read(descriptor, MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: longer than {MOST_BYTES} bytes")
    return parse(data, path)


def _must_be_safe(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{path}: belongs to uid {found.st_uid}; it must be root's, or the task's user's (chown it)")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise ValueError(
            f"{path}: its group or others may write it (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it"
        )


def parse(data: bytes, path: str) -> dict[str, str]:
    """The variables that the bytes of the file `path` say. Raises `ValueError`."""
    found = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            text = line.decode().strip(" \t\r")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: line {number}: not UTF-8") from None
        if text and not text.startswith("#"):
            key, equals, value = text.partition("=")
            key = key.rstrip(" \t")
            if not equals or not _is_key(key):
                raise ValueError(f"{path}: line {number}: not KEY=VALUE; a key has letters, digits and '_' only")
            if "\0" in value:
                raise ValueError(f"{path}: line {number}: has a NUL byte")
            found[key] = _value(value.lstrip(" \t"), f"{path}: line {number}")
    return found


def _is_key(text: str) -> bool:
    return text.isascii() and text.replace("_", "a").isalnum() and not text[0].isdigit()


def _value(text: str, where: str) -> str:
    if not text or text[0] not in QUOTES:
        return text
    if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1]:
        raise ValueError(f"{where}: a value that begins with {text[0]} ends with the next {text[0]}, at the line's end")
    return text[1:-1]
