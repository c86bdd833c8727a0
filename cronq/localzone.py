"""The machine's own time zone, as it is at this moment: TZ, else /etc/localtime.

Does:    `local` gives a `tzinfo` that knows the zone's changes; it is another one as soon as /etc/localtime is.
Reads:   the environment, /etc/localtime (by its stamp: read again only when that has changed), the zone files.
Trusts:  root, whose files they are.
Fails:   never: what cannot be read or understood is UTC, as libc has it.
"""

from __future__ import annotations

import datetime
import io
import os
import struct
import zoneinfo

LOCALTIME = "/etc/localtime"
_HEADER = struct.Struct(">4sc15x6L")  # of a TZif file: RFC 8536

_known: dict[tuple[object, ...], datetime.tzinfo] = {}


def local() -> datetime.tzinfo:
    """The zone that the machine's wall clock shows now."""
    name = os.environ.get("TZ")
    key: tuple[object, ...] = (name,) if name is not None else _stamp()
    if key not in _known:
        _known.clear()
        _known[key] = _of_file(LOCALTIME) if name is None else _named(name.removeprefix(":"))
    return _known[key]


def _stamp() -> tuple[object, ...]:
    try:
        found = os.stat(LOCALTIME)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _of_file(path: str) -> datetime.tzinfo:
    try:
        with open(path, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, key=path)
    except (OSError, ValueError, struct.error):
        return datetime.UTC


def _named(name: str) -> datetime.tzinfo:
    if name.startswith("/"):
        return _of_file(name)
    try:
        return zoneinfo.ZoneInfo(name) if name else datetime.UTC
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return _by_rule(name)


def _by_rule(rule: str) -> datetime.tzinfo:
    """A zone that is no name but a rule, such as CET-1CEST,M3.5.0,M10.5.0/3: what a zone file ends with."""
    nothing = _HEADER.pack(b"TZif", b"2", 0, 0, 0, 0, 1, 4)  # no change, one type of local time, which is UTC
    body = struct.pack(">lbB", 0, 0, 0) + b"UTC\0"
    try:
        file = io.BytesIO((nothing + body) * 2 + b"\n" + rule.encode("ascii") + b"\n")
        return zoneinfo.ZoneInfo.from_file(file, key=rule)
    except (ValueError, struct.error, IndexError):
        return datetime.UTC
