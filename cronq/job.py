"""A job and what became of it: plain types, the one strict decoder of job files, and names that sort by time.

Does:    bytes of a job file -> `Job`, fields -> bytes (`encode`), durations and instants -> numbers, new job names.
Reads:   nothing but what it is handed. Standard library only, and light: `submit` imports this.
Trusts:  nothing. `decode` refuses whatever is not exactly a version 1 job; dispatcher and worker use this same one.
Fails:   `BadJob` with one sentence that names the key and what would be right.

The job file is documented in docs/job-file.md; `cronq schema job` prints its JSON Schema.
"""

from __future__ import annotations

import os
import time

from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from cronq.uniquekeys import Conflict

MAX_JOB_BYTES = 64 * 1024
MAX_DEPTH = 16
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
DELIVERIES = ("at-least-once", "at-most-once")
CALLBACKS = ("success", "complete", "first_death")  # of a batch: how the ids of these jobs end, after a +
KEYS = (
    "task",
    "command",
    "args",
    "stdin",
    "env",
    "cwd",
    "queue",
    "priority",
    "delay",
    "at",
    "expires",
    "start_within",
    "after",
    "after_any",
    "after_fail",
    "batch",
    "unique",
    "unique_keys",
    "unique_until",
    "unique_for",
    "on_conflict",
    "timeout",
    "watchdog",
    "retries",
    "retry_for",
    "backoff",
    "delivery",
    "mutex",
    "weight",
    "note",
)
BACKOFF_KEYS = ("base", "factor", "max", "jitter")
MAX_RETRIES = 1000
EXCLUDE = (("delay", "at"), ("expires", "start_within"), ("retries", "retry_for"))
MAX_WEIGHT = 1000
MAX_WORD = 64  # of a mutex, as in a crontab's options
MAX_SECONDS = 50 * 366 * 86400.0
MAX_DURATION_TEXT = 64
LAST_INSTANT = 16**13 / 1e6 - 86400  # a due time is 13 hex digits of microseconds in a file's name: year 2112
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = frozenset("0123456789")
NAME_FIRST = LETTERS | DIGITS
NAME_REST = NAME_FIRST | frozenset("._-")
_TEXT_CONTROLS = frozenset("\t\n\r")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Backoff:
    """How long to wait before a further attempt: `min(max, base * factor**n) * (1 + U(0, jitter))` seconds."""

    __slots__ = ("base", "factor", "jitter", "max")

    def __init__(self, base: float = 15.0, factor: float = 2.0, max: float = 3600.0, jitter: float = 0.2) -> None:  # noqa: A002 - the key's name
        self.base = base
        self.factor = factor
        self.max = max
        self.jitter = jitter


class Job:
    """One job as its file says it; a key that the file does not have is None (`args` and `env`: empty).

    Times are seconds since the epoch, durations are seconds.
    """

    __slots__ = KEYS

    task: str | None
    command: list[str] | None
    args: list[str]
    stdin: str | None
    env: dict[str, str]
    cwd: str | None
    queue: str | None
    priority: int | None
    delay: float | None
    at: float | None
    expires: float | None
    start_within: float | None  # it expires so many seconds after it was due
    after: list[str] | None
    after_any: list[str] | None
    after_fail: list[str] | None
    batch: str | None  # it is added to this one
    unique: str | list[str] | None
    unique_keys: list[int] | None
    unique_until: str | None
    unique_for: float | None
    on_conflict: Conflict | None
    timeout: float | None
    watchdog: float | None
    retries: int | None
    retry_for: float | None  # as many as begin within so many seconds
    backoff: Backoff | None
    delivery: str | None
    mutex: str | None
    weight: int | None
    note: str | None

    def __init__(self, **fields: Any) -> None:
        for key in KEYS:
            setattr(self, key, fields.get(key))
        self.args = fields.get("args") or []
        self.env = fields.get("env") or {}


def decode(data: bytes) -> Job:
    """The job that these bytes say. Raises `BadJob`.

    Strict (docs/job-file.md): at most 64 KiB of UTF-8, one JSON object, depth at most 16, no duplicate or unknown
    keys, no NaN or Infinity, no NUL, lone surrogate or control character in a string (tab and line ends are allowed
    in arguments, values and stdin).
    """
    return from_fields(fields(data))


def fields(data: bytes) -> dict[str, Any]:
    """The JSON object that these bytes say, whatever its keys are. Raises `BadJob`."""
    if len(data) > MAX_JOB_BYTES:
        raise BadJob(f"the job is larger than {MAX_JOB_BYTES // 1024} KiB; put large input into NAME.data beside it")
    return parse_object(data, "the job")


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """One strict JSON object from `data`; `what` begins the sentence of a refusal. Raises `BadJob`."""
    import json

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise BadJob(f"{what} has the key {show(twice)} twice; keep one of them")
        return found

    def constant(word: str) -> None:
        raise BadJob(f"{what} has the number {word}, which JSON does not know")

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJob(f"{what} is not UTF-8 (byte {error.start + 1}); write it in UTF-8") from None
    _bound_depth(text, what)
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadJob(f"{what} is not JSON: {message}{place}") from None
    if not isinstance(value, dict):
        raise BadJob(f"{what} is not a JSON object; write {{…}}")
    return value


def _bound_depth(text: str, what: str) -> None:
    depth = deepest = 0
    inside = escaped = False
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    for char in text:
        if inside:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif char == '"':
            inside = True
        elif char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    if deepest > MAX_DEPTH:
        raise BadJob(f"{what} is nested deeper than {MAX_DEPTH}")


def from_fields(fields: dict[str, Any]) -> Job:
    """The job that this JSON object says. Raises `BadJob`."""
    for key in fields:
        if key not in KEYS:
            raise BadJob(f"unknown key {show(key)}; known are {', '.join(KEYS)}")
    job = Job(**{key: READERS[key](key, value) for key, value in fields.items()})
    for sentence in clashes(fields):
        raise BadJob(sentence)
    return job


def clashes(keys: Collection[str]) -> list[str]:
    """Which keys of a job do not go together: a sentence each."""
    found = []
    if ("task" in keys) == ("command" in keys):
        found.append("a job has either a task or a command; write one of the two keys")
    if "command" in keys and "args" in keys:
        found.append("args belong to a task; put a command's arguments into command")
    if "task" in keys and "delivery" in keys:
        found.append("delivery is a free command's key; a task says its own")
    found += twice(keys)
    if any(key in keys for key in ("unique_keys", "unique_until", "unique_for", "on_conflict")):
        from cronq import uniquekeys

        found += uniquekeys.clashes(keys, keys)
    return found


def twice(keys: Collection[str]) -> list[str]:
    """Which of these keys, a job's or a task's, say the same thing in two ways: a sentence each."""
    pairs = [pair for pair in EXCLUDE if pair[0] in keys and pair[1] in keys]
    return [f"{one} and {other} exclude each other; keep one of them" for one, other in pairs]


def show(value: object, limit: int = 60) -> str:
    """A stranger's value, short and printable, for a sentence."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits (hexadecimal in TOML), deep nesting
        text = "a value too long to show"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(key: str, value: object, *, most: int = MAX_JOB_BYTES, lines: bool = True) -> str:
    if not isinstance(value, str):
        raise BadJob(f"{key} must be text, not {show(value)}")
    if len(value) > most:
        raise BadJob(f"{key} is longer than {most} characters")
    if value.isprintable():
        return value
    for char in value:
        code = ord(char)
        if (code < 32 or code == 127) and not (lines and char in _TEXT_CONTROLS):
            raise BadJob(f"{key} holds the control character U+{code:04X}")
        if 0x80 <= code < 0xA0:
            raise BadJob(f"{key} holds the control character U+{code:04X}")
        if 0xD800 <= code < 0xE000:
            raise BadJob(f"{key} holds the lone surrogate U+{code:04X}")
    return value


def _line(key: str, value: object) -> str:
    return _text(key, value, most=1000, lines=False)


def _name(key: str, value: object) -> str:
    text = _text(key, value, most=48, lines=False)
    if not is_name(text, 48):
        raise BadJob(f"{key} must be a name (letters, digits, '.', '_', '-'; at most 48), not {show(text)}")
    return text


def _word(key: str, value: object) -> str:
    text = _text(key, value, most=MAX_WORD, lines=False)
    if not is_name(text, MAX_WORD):
        raise BadJob(f"{key} must be a word (letters, digits, '.', '_', '-'; at most {MAX_WORD}), not {show(text)}")
    return text


def _texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise BadJob(f'{key} must be a list of texts, like ["a", "b"], not {show(value)}')
    return [_text(f"{key}[{place}]", item) for place, item in enumerate(value)]


def _command(key: str, value: object) -> list[str]:
    words = _texts(key, value)
    if not words or not words[0]:
        raise BadJob("command is empty; its first element is the program")
    return words


def _env(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadJob(f'{key} must be an object of texts, like {{"A": "b"}}, not {show(value)}')
    for name in value:
        if not name or name[0] in DIGITS or not all(c == "_" or c in NAME_FIRST for c in name):
            raise BadJob(f"{key} has the variable {show(name)}; a name has letters, digits and '_' only")
    return {name: _text(f"{key}.{name}", item) for name, item in value.items()}


def _path(key: str, value: object) -> str:
    text = _text(key, value, most=4096, lines=False)
    if not text.startswith("/"):
        raise BadJob(f"{key} must be an absolute path, not {show(text)}")
    return text


def _priority(key: str, value: object) -> int:
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, int) and not isinstance(value, bool) and -20 <= value <= 20:
        return value
    raise BadJob(f"{key} must be low, normal, high or a whole number from -20 to 20, not {show(value)}")


def _duration(key: str, value: object) -> float:
    return seconds(value, key)


def _positive(key: str, value: object) -> float:
    found = seconds(value, key)
    if found <= 0:
        raise BadJob(f"{key} must be longer than nothing, not {show(value)}")
    return found


def _instant(key: str, value: object) -> float:
    return instant(value, key)


def _ids(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not value:
        raise BadJob(f'{key} must be a list of jobs\' ids, like ["1000-065f0c2a1b3c4-k3x9q2ab"], not {show(value)}')
    for place, item in enumerate(value):
        if not isinstance(item, str) or not is_id(item):
            raise BadJob(f"{key}[{place}] must be a job's id, like 1000-065f0c2a1b3c4-k3x9q2ab, not {show(item)}")
    return list(value)


def _batch(key: str, value: object) -> str:
    if not isinstance(value, str) or not is_id(value) or "+" in value:
        raise BadJob(f"{key} must be a batch's id, like 1000-065f0c2a1b3c4-k3x9q2ab, not {show(value)}")
    return value


def _unique(name: str) -> Any:
    """A reader of uniquekeys.py, which is imported where a job has such a key."""

    def read(key: str, value: object) -> Any:
        from cronq import uniquekeys

        return getattr(uniquekeys, name)(key, value)

    return read


def whole(key: str, value: object, least: int, most: int) -> int:
    """A whole number from `least` to `most`. Raises `BadJob`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadJob(f"{key} must be a whole number from {least} to {most}, not {show(value)}")
    return value


def one_of(key: str, value: object, words: tuple[str, ...]) -> str:
    """One of these words. Raises `BadJob`."""
    if value not in words:
        raise BadJob(f"{key} must be one of {', '.join(words)}, not {show(value)}")
    return str(value)


def _backoff(key: str, value: object) -> Backoff:
    if not isinstance(value, dict):
        raise BadJob(f'{key} must be an object like {{"base": "15s", "factor": 2}}, not {show(value)}')
    found = Backoff()
    for name, item in value.items():
        if name not in BACKOFF_KEYS:
            raise BadJob(f"{key} has the unknown key {show(name)}; known are {', '.join(BACKOFF_KEYS)}")
        if name in ("base", "max"):
            setattr(found, name, seconds(item, f"{key}.{name}"))
        else:
            setattr(found, name, _factor(f"{key}.{name}", item, least=1.0 if name == "factor" else 0.0))
    return found


def _factor(key: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 100:
        raise BadJob(f"{key} must be a number from {least:g} to 100, not {show(value)}")
    return float(value)


def _delivery(key: str, value: object) -> str:
    if value not in DELIVERIES:
        raise BadJob(f"{key} must be {' or '.join(DELIVERIES)}, not {show(value)}")
    return str(value)


READERS: dict[str, Any] = {
    "task": _name,
    "command": _command,
    "args": _texts,
    "stdin": _text,
    "env": _env,
    "cwd": _path,
    "queue": _name,
    "priority": _priority,
    "delay": _duration,
    "at": _instant,
    "expires": _instant,
    "after": _ids,
    "after_any": _ids,
    "after_fail": _ids,
    "batch": _batch,
    "unique": _unique("unique"),
    "unique_keys": _unique("positions"),
    "unique_until": _unique("until"),
    "unique_for": _positive,
    "on_conflict": _unique("on_conflict"),
    "timeout": _positive,
    "watchdog": _positive,
    "retries": lambda key, value: whole(key, value, 0, MAX_RETRIES),
    "retry_for": _positive,
    "start_within": _positive,
    "backoff": _backoff,
    "delivery": _delivery,
    "mutex": _word,
    "weight": lambda key, value: whole(key, value, 0, MAX_WEIGHT),
    "note": _line,
}


def seconds(value: object, key: str = "the duration") -> float:
    """Seconds of a duration: a number of seconds, or text like 10m, 1.5s, 1h30m, 2d. Raises `BadJob`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= MAX_SECONDS:
            return float(value)
        raise BadJob(f"{key} must be from 0 seconds to 50 years, not {show(value)}")
    total, rest = 0.0, value if isinstance(value, str) and len(value) <= MAX_DURATION_TEXT else ""
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))
        unit, rest = rest[:letters], rest[letters:]
        if number.count(".") > 1 or not number.strip(".") or unit not in _UNITS:
            total = -1.0
            break
        total += float(number) * _UNITS[unit]
    if not isinstance(value, str) or not 0 < len(value) <= MAX_DURATION_TEXT or not 0 <= total <= MAX_SECONDS:
        raise BadJob(f"{key} must be a duration like 90s, 10m, 1h30m or 2d (50 years at most), not {show(value)}")
    return total


def instant(value: object, key: str = "the time") -> float:
    """Seconds since the epoch of an RFC 3339 instant. Raises `BadJob`.

    What people leave out may be missing: the offset (then it is local time), the seconds, the time of day (then it is
    midnight); a space may stand for the T. Nothing else of what Python's parser takes, which differs by version.
    """
    import datetime

    if isinstance(value, str) and _instant_shape(value):
        text = value.upper().replace(" ", "T")
        try:
            found = datetime.datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            found = -1.0
        if 0 <= found < LAST_INSTANT:
            return found
    raise BadJob(f"{key} must be a time like 2026-12-24T18:00:00+01:00, not {show(value)}")


def _instant_shape(text: str) -> bool:
    shape = "".join("9" if char in DIGITS else char for char in text)
    if shape == "9999-99-99":
        return True
    if not text.isascii() or shape[:16].upper().replace(" ", "T") != "9999-99-99T99:99":
        return False
    rest = shape[16:]
    if rest[:3] == ":99":
        rest = rest[3:]
        if rest[:2] == ".9":
            fraction = len(rest[1:]) - len(rest[1:].lstrip("9"))
            rest = rest[1 + fraction :] if fraction <= 9 else "?"
    return rest in ("", "Z", "z") or (rest[1:] == "99:99" and rest[0] in "+-" and text[-2] < "6")


def encode(fields: dict[str, Any]) -> bytes:
    """These fields as one line of JSON in UTF-8. Text, numbers, lists and objects; None is left out.

    By hand, since importing `json` costs `cronq submit` a quarter of its time. The surrogates by which Python carries
    bytes that are not UTF-8 are refused: a job file is UTF-8.
    """
    try:
        return (_json({key: value for key, value in fields.items() if value is not None}) + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadJob(f"{show(error.object[error.start : error.end])} is not UTF-8; a job file is") from None


def _json(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    if value is True or value is False or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is the one that differs from itself
            raise BadJob(f"{value!r} is not a number that JSON knows")
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_json(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_json(str(key))}: {_json(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"not JSON: {value!r}")


_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {34: '\\"', 92: "\\\\", 10: "\\n", 9: "\\t"}


def is_name(text: str, most: int = 81) -> bool:
    """Whether `text` is `[A-Za-z0-9][A-Za-z0-9._-]*`, at most `most` characters."""
    return 0 < len(text) <= most and text[0] in NAME_FIRST and all(char in NAME_REST for char in text)


def is_id(text: str) -> bool:
    """Whether `text` is a job's id: <uid>-NAME, or of a batch's jobs <uid>-NAME+LINE, <uid>-NAME+success …"""
    uid, dash, rest = text.partition("-")
    name, plus, line = rest.partition("+")
    own = len(uid) <= 10 and is_whole(uid) and bool(dash) and is_name(name, 96)
    return own and (not plus or (is_whole(line) and len(line) <= 9) or line in CALLBACKS)


def is_whole(text: str) -> bool:
    """Whether `text` is digits and nothing else."""
    return bool(text) and all(char in DIGITS for char in text)


def new_name(now: float | None = None) -> str:
    """A name nobody else chooses, that sorts by time: 13 hex digits of microseconds, a dash, 8 random letters."""
    micros = int((time.time() if now is None else now) * 1e6)
    return f"{micros:013x}-" + "".join(_ALPHABET[byte & 31] for byte in os.urandom(8))


HEX = frozenset("0123456789abcdef")
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # no l, o, 0, 1: a person may read an id aloud


def name_time(name: str) -> float | None:
    """When a name made by `new_name` was made; None for any other name (backup, nightly-2 …)."""
    ours = len(name) == 22 and name[13] == "-" and all(char in _ALPHABET for char in name[14:])
    return int(name[:13], 16) / 1e6 if ours and all(char in HEX for char in name[:13]) else None
