"""The switch `[cron] system` in the text of cronq.toml: turned on and off with every other byte left as it is.

Does:    `on` and `off`: the text of a configuration -> the same text with that one key another. What comes out is
         parsed, and taken only if it says exactly what it said before, but for the key.
Reads:   nothing but its arguments.
Trusts:  nobody: the text is as an administrator wrote it.
Fails:   `BadConfig` where the text is no TOML, or is written in a way that no simple edit mends; it says what to write.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from cronq.errors import BadConfig

_LINE = "system = true"
_HEADER = re.compile(r"^[ \t]*\[[ \t]*cron[ \t]*\][ \t]*(#[^\r\n]*)?(\r?\n|\Z)", re.M)
_FALSE = re.compile(r"^([ \t]*(?:cron[ \t]*\.[ \t]*)?system[ \t]*=[ \t]*)false\b", re.M)
_TRUE = re.compile(r"^([ \t]*(?:cron[ \t]*\.[ \t]*)?system[ \t]*=[ \t]*)true\b", re.M)
_WHOLE_LINE = re.compile(r"^[ \t]*system[ \t]*=[ \t]*true[ \t]*\r?\n", re.M)
_WHOLE_TABLE = re.compile(r"(?:^\r?\n|\A)\[cron\]\r?\nsystem = true\r?\n", re.M)


def is_on(text: str, path: str) -> bool:
    """Does this configuration make cronq the machine's cron? Raises `BadConfig`."""
    table = _parsed(text, path).get("cron")
    return isinstance(table, dict) and table.get("system") is True


def on(text: str, path: str) -> str:
    """The text with `system = true` in its table [cron]. Raises `BadConfig`."""
    if is_on(text, path):
        return text
    wanted = _parsed(text, path)
    if not isinstance(wanted.setdefault("cron", {}), dict):
        raise BadConfig(f"{path}: cron must be a table, [cron]; mend that first")
    wanted["cron"]["system"] = True
    return _first(_turned_on(text), wanted, f"{path}: write {_LINE} into its table [cron], and try again")


def off(text: str, path: str) -> str:
    """The text without that key. Raises `BadConfig`."""
    if not is_on(text, path):
        return text
    wanted = _parsed(text, path)
    del wanted["cron"]["system"]
    return _first(_turned_off(text), wanted, f"{path}: take {_LINE} out of its table [cron], and try again")


def _turned_on(text: str) -> Iterator[str]:
    for found in _FALSE.finditer(text):
        yield f"{text[: found.end(1)]}true{text[found.end() :]}"
    for found in _HEADER.finditer(text):
        end = found[2] or "\n"
        yield f"{text[: found.end()]}{'' if found[2] else end}{_LINE}{end}{text[found.end() :]}"
    yield f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{chr(10) * bool(text)}[cron]\n{_LINE}\n"


def _turned_off(text: str) -> Iterator[str]:
    for pattern in (_WHOLE_TABLE, _WHOLE_LINE):
        for found in pattern.finditer(text):
            yield text[: found.start()] + text[found.end() :]
    for found in _TRUE.finditer(text):
        yield f"{text[: found.end(1)]}false{text[found.end() :]}"


def _first(texts: Iterator[str], wanted: dict[str, Any], otherwise: str) -> str:
    """The first of these texts that says what is wanted; an empty or false key is none."""
    for text in texts:
        try:
            if _plain(tomllib.loads(text)) == _plain(wanted):
                return text
        except tomllib.TOMLDecodeError:
            continue
    raise BadConfig(otherwise)


def _plain(parsed: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing: `system = false`, and an empty [cron]."""
    made = copy.deepcopy(parsed)
    table = made.get("cron")
    if isinstance(table, dict):
        if table.get("system") is False:
            del table["system"]
        if not table:
            del made["cron"]
    return made


def _parsed(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path}: {error}; mend that first") from None
