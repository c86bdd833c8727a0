"""What a job says of itself by its status descriptor: the grammar of its lines, and the state that they come to.

Does:    `State` takes the lines and holds what is kept of them. What was written down of one is `statement`'s.
Reads:   nothing but its arguments. Standard library only: it is a worker's.
Trusts:  nothing. A job may say anything, of any length, for ever.
Fails:   never: what is no line of ours is counted, and of the first one it is kept why.

    progress 3/10 · progress 30% · status TEXT · data TEXT · warning TEXT · result TEXT · metric NAME=NUMBER …
    touch · touch 10m · snooze 60 · cursor TEXT · {"progress": [3, 10], "status": "TEXT", …}

docs/status.md says what each means. A line is as long as a pipe takes in one piece, so that many processes may write.
"""

from __future__ import annotations

import math

from cronq import job as jobs
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_LINE = 4096  # PIPE_BUF: what several processes write at a time is not mixed
MOST_AT_ONCE = 256  # lines that are read one by one; of more that came together, the last of each kind
MOST_TEXT = 200
MOST_CURSOR = 1024
MOST_KEPT = 10  # warnings, and parts of data
MOST_DATA = 8192  # characters of those parts together
MOST_METRICS = 32
SHORTEST_SNOOZE = 1.0
WORDS = ("progress", "status", "data", "warning", "result", "metric", "snooze", "touch", "cursor")
TOLD = ("progress", "status", "result", "warnings", "metrics", "data", "touched", "ignored", "why_ignored")
_CLEANED = dict.fromkeys((*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)), "?")
_CLEANED |= {0x061C: "?", 0x200E: "?", 0x200F: "?", 9: " "}
_KINDS = {word.encode(): word not in ("data", "warning", "metric") for word in WORDS}  # whether the last one is all


class State:
    """What a job has said so far."""

    __slots__ = (*TOLD, "cursor", "deadline", "snooze")

    def __init__(self) -> None:
        self.progress: list[float] | None = None  # how far, of how much
        self.status: str | None = None
        self.result: Any = None
        self.warnings: list[str] = []  # the first ones
        self.metrics: dict[str, float] = {}
        self.data: list[Any] = []  # the last ones
        self.touched = 0
        self.ignored = 0
        self.why_ignored: str | None = None
        self.deadline: float | None = None  # of the last touch: seconds from then; None: the timeout again
        self.snooze: float | None = None
        self.cursor: str | None = None  # None: it said none; empty: it took back the one before

    def take(self, lines: list[bytes]) -> None:
        """Take lines, in their order. Of a flood, only the last of each kind."""
        if len(lines) > MOST_AT_ONCE:
            kinds = [_kind(line) for line in lines]
            last = dict(zip(kinds, lines, strict=True))
            lines = [line for kind, line in last.items() if kind]
            lost = sum(1 for kind in kinds if not _KINDS.get(kind)) - sum(1 for kind in last if not _KINDS.get(kind))
            self.ignore(lost + (b"" in last), "more lines at once than are read one by one")
        for line in lines:
            if line.strip(b" \t\r"):
                self._take(line)

    def ignore(self, count: int, why: str) -> None:
        """Count what is not taken."""
        if count > 0:
            self.ignored += count
            self.why_ignored = self.why_ignored or cleaned(why)

    def _take(self, line: bytes) -> None:
        try:
            if line.lstrip()[:1] == b"{":
                for key, value in jobs.parse_object(line, "a status line").items():
                    self.say(key, value)
                return
            text = line.decode().strip(" \t\r")
            word = text.partition(" ")[0].partition("\t")[0]
            self.say(word, text[len(word) :].strip(" \t"))
        except UnicodeDecodeError:
            self.ignore(1, "a status line is not UTF-8")
        except BadJob as error:
            self.ignore(1, error.sentence)

    def say(self, word: str, value: Any) -> None:
        """Take one thing that is said."""
        reader = _READERS.get(word)
        try:
            if reader is None:
                raise BadJob(f"a status line begins with {jobs.show(word)}; known are {', '.join(WORDS)}")
            reader(self, value)
        except BadJob as error:
            self.ignore(1, error.sentence)
        except (ValueError, ArithmeticError, RecursionError):  # nothing that a job says may end its worker
            self.ignore(1, f"{word} has no such value")

    def told(self) -> dict[str, Any]:
        """What is shown of it, and kept with the job's result: what it said, and nothing else."""
        found = {key: getattr(self, key) for key in TOLD}
        return {key: value for key, value in found.items() if value or (key == "result" and value is not None)}


def _kind(line: bytes) -> bytes:
    """By which the lines of a flood are told from each other; empty for what is none of ours."""
    word = line[:9].partition(b" ")[0]
    return word if word in _KINDS else line[:1] if line[:1] == b"{" else b""


# ---------------------------------------------------------------- the words


def _progress(state: State, value: Any) -> None:
    """`3/10`, `30%`; in JSON also [3, 10] and 0.3."""
    parts: list[Any] = [value, 1] if isinstance(value, int | float) else value if isinstance(value, list) else []
    if isinstance(value, str):
        parts = [value[:-1], "100"] if value.endswith("%") else value.split("/")
    numbers = [_number(part) for part in parts[:3]]
    if len(numbers) != 2 or not (0 <= numbers[0] <= numbers[1] and numbers[1] > 0):
        raise BadJob(f"progress must be like 3/10 or 30%, not {jobs.show(value)}")
    state.progress = numbers


def _number(value: Any) -> float:
    """A number that can be shown; -1 for what is none."""
    if isinstance(value, str) and len(value.strip()) < 24 and value.isascii() and "_" not in value:
        try:
            value = float(value) if "." in value or "e" in value.lower() else int(value)
        except ValueError:
            return -1
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if good else -1


def _status(state: State, value: Any) -> None:
    state.status = cleaned(_text("status", value))


def _warning(state: State, value: Any) -> None:
    text = cleaned(_text("warning", value))
    if not text:
        raise BadJob("a warning says nothing")
    if len(state.warnings) < MOST_KEPT:
        state.warnings.append(text)
    else:
        state.ignore(1, f"more than {MOST_KEPT} warnings; the first ones are kept")


def _data(state: State, value: Any) -> None:
    state.data = [*state.data[1 - MOST_KEPT :], _any("data", value)]
    while len(state.data) > 1 and sum(len(str(item)) for item in state.data) > MOST_DATA:
        del state.data[0]


def _result(state: State, value: Any) -> None:
    state.result = _any("result", value)


def _metric(state: State, value: Any) -> None:
    pairs = value if isinstance(value, dict) else dict(word.partition("=")[::2] for word in str(value).split())
    for name, item in pairs.items():
        number = _parsed(item) if isinstance(item, str) and _is_number(item) else item
        good = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not good or abs(number) >= 1e300 or not jobs.is_name(name.replace(":", "_").lstrip("_"), 48):
            raise BadJob(f"metric must be like rows=120, not {jobs.show(value)}")
        if name not in state.metrics and len(state.metrics) >= MOST_METRICS:
            raise BadJob(f"more than {MOST_METRICS} metrics; the first ones are kept")
        state.metrics[name] = number
    if not pairs:
        raise BadJob("metric must be like rows=120, not empty")


def _parsed(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _is_number(text: str) -> bool:
    try:
        return text.isascii() and len(text) < 48 and "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _snooze(state: State, value: Any) -> None:
    state.snooze = max(SHORTEST_SNOOZE, _seconds("snooze", value))


def _touch(state: State, value: Any) -> None:
    state.deadline = None if value in ("", True) else _seconds("touch", value)
    state.touched += 1


def _cursor(state: State, value: Any) -> None:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text("cursor", value)
    if text and not is_cursor(text):
        raise BadJob(f"cursor must be one line of at most {MOST_CURSOR} bytes, not {jobs.show(text)}")
    state.cursor = text


def is_cursor(text: object) -> bool:
    """Whether this can be a cursor, and so a variable of a job's environment."""
    if not isinstance(text, str) or not 0 < len(text) <= MOST_CURSOR or not is_whole(text):
        return False
    return len(text.encode()) <= MOST_CURSOR and not any(ord(char) < 32 and char != "\t" for char in text)


_READERS: dict[str, Callable[[State, Any], None]] = {
    "progress": _progress,
    "status": _status,
    "data": _data,
    "warning": _warning,
    "result": _result,
    "metric": _metric,
    "snooze": _snooze,
    "touch": _touch,
    "cursor": _cursor,
}


def _seconds(key: str, value: Any) -> float:
    if isinstance(value, str) and _is_number(value):
        value = float(value)  # 60 is sixty seconds
    return jobs.seconds(value, key)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not is_whole(value):
        raise BadJob(f"{key} must be text, not {jobs.show(value)}")
    return value


def _any(key: str, value: Any) -> Any:
    """A value that JSON knows, and every reader of it."""
    if not is_whole(value):
        raise BadJob(f"{key} must be text or what JSON knows, not {jobs.show(value)}")
    return value


def is_whole(value: Any) -> bool:
    """Whether it is without lone surrogates, and numbers that JSON does not know (1e999 is read as infinite)."""
    if isinstance(value, str):
        return value.isascii() or not any(0xD800 <= ord(char) < 0xE000 for char in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_whole(key) and is_whole(item) for key, item in value.items())
    return all(map(is_whole, value)) if isinstance(value, list) else True


def cleaned(text: str) -> str:
    """A text on one line that harms no terminal, not too long."""
    text = text.translate(_CLEANED).strip()
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
