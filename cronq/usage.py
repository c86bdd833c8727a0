"""What a producer may ask: the one table of the options of `submit`, `exec` and `map`, and their values as job fields.

Does:    argv -> option values and words (`parse`), option values -> the fields of a job file (`fields`). cli.py builds
         typer's options from the same table, so that help and completion agree with what is read here.
Reads:   the time zone, for times without one: a job file always says an instant, whatever zone the dispatcher is in.
Fails:   `UsageError` for an option or value that is not right. Standard library only, and light: `submit` imports this.
"""

from __future__ import annotations

import time

from cronq import job as jobs
from cronq.errors import BadJob, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PRODUCERS = ("submit", "exec", "map")
INLINE_STDIN = 32 * 1024


class Option:
    """One option: its flag, what its value is called (empty: a switch), its help, and which commands have it."""

    __slots__ = ("flag", "help", "key", "many", "metavar", "of")

    def __init__(
        self, flag: str, metavar: str, text: str, *, many: bool = False, of: tuple[str, ...] = PRODUCERS
    ) -> None:
        self.flag = flag
        self.key = flag[2:].replace("-", "_")
        self.metavar = metavar
        self.help = text
        self.many = many
        self.of = of


OPTIONS = (
    Option("--priority", "LEVEL", "low, normal, high, or a whole number from -20 (last) to 20 (first)."),
    Option("--delay", "DURATION", "Start no earlier than this from now: 90s, 10m, 1h30m, 2d."),
    Option("--at", "TIME", "Start no earlier than this: 2026-12-24T18:00:00+01:00, or 18:00 (the next, local time)."),
    Option("--expires", "TIME", "Do not start after this: a time as for --at, or a duration from now."),
    Option("--start-within", "DURATION", "The same, from when it is due."),
    Option("--after", "ID", "Run when this job is done, else never; may be repeated: when all are done.", many=True),
    Option("--after-any", "ID", "Run when this job has ended, however; may be repeated: when all have.", many=True),
    Option("--after-fail", "ID", "Run if this job fails, else never; may be repeated: if one of them does.", many=True),
    Option("--into", "BATCH", 'Add it to this batch, which has not ended: "$CRONQ_BATCH_ID".', of=PRODUCERS[:2]),
    Option("--unique", "KEY", "One job of this key at a time.", of=PRODUCERS[:2]),
    Option(
        "--unique-until", "WHEN", "Until when its key is taken: start, end (the default), success.", of=PRODUCERS[:2]
    ),
    Option("--unique-for", "DURATION", "Its key is taken for so long at least.", of=PRODUCERS[:2]),
    Option(
        "--on-conflict",
        "HOW",
        "If the key is taken: ignore (the default), reject, attach, requeue-once, replace[=args,at,priority], "
        "throttle=5s, debounce=5s[/1m].",
        of=PRODUCERS[:2],
    ),
    Option("--timeout", "DURATION", "End an attempt that takes longer."),
    Option("--watchdog", "DURATION", "End an attempt that prints and says nothing for so long."),
    Option("--retries", "N", "Further attempts after one that failed."),
    Option("--retry-for", "DURATION", "The same: as many as begin within that time, by the backoff."),
    Option("--queue", "QUEUE", "The queue, instead of the task's own."),
    Option("--mutex", "WORD", "Never run at once with anything else of yours, crontab lines too, that has this word."),
    Option("--weight", "N", "For how many jobs it counts in its queue's slots and its task's limit."),
    Option("--stdin", "FILE", "The job's standard input, of any size; - for that of this command.", of=PRODUCERS[:2]),
    Option("--env", "K=V", "A variable of the job's environment; may be repeated.", many=True),
    Option("--cwd", "DIR", "The directory to run in, instead of the current one."),
    Option("--batch", "FILE", "One job for each line of FILE, as one batch; - for standard input."),
    Option("--on-success", "TASK", "With --batch: run this when all of its jobs are done; arguments in the same word."),
    Option("--on-complete", "TASK", "The same, when all of its jobs have ended, however."),
    Option("--on-first-death", "TASK", "The same, as soon as one of its jobs is dead."),
    Option("--delivery", "HOW", "at-least-once or at-most-once: what a crash of the machine may do.", of=("exec",)),
    Option("--note", "TEXT", "A remark, shown by list and show."),
    Option("--name", "NAME", "The job's name, instead of a generated one."),
    Option("--wait", "", "Wait: print the job's output as it comes, exit as it did.", of=PRODUCERS[:2]),
    Option("--attached", "", "As --wait; if this command goes away, its job is cancelled.", of=PRODUCERS[:2]),
    Option("--raw", "", "Do not escape control characters of job output on a terminal."),
    Option("--no-sync", "", "Do not wait for the disk: quick, and lost if the power fails within seconds."),
    Option("--json", "", "Print JSON."),
)


def parse(verb: str, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The option values and the words of a `submit` or `exec` command line. Raises `UsageError`.

    `exec` ends its options at the first word (as env(1) and nice(1) do); `submit` takes them after TASK as well, and
    an argument that begins with a dash goes after `--`.
    """
    known = {option.flag: option for option in OPTIONS if verb in option.of}
    values: dict[str, Any] = {}
    words: list[str] = []
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == "--":
            return values, words + rest[::-1]
        if word[:1] != "-" or word == "-":
            if verb == "exec":
                return values, [word, *rest[::-1]]
            words.append(word)
        elif word in ("-h", "--help"):
            values["help"] = True
        else:
            _option(verb, known, word, rest, values)
    return values, words


def _option(verb: str, known: dict[str, Option], word: str, rest: list[str], values: dict[str, Any]) -> None:
    flag, equals, value = word.partition("=")
    option = known.get(flag)
    if option is None:
        more = "" if verb == "exec" else "; arguments of the task that begin with a dash go after --"
        raise UsageError(f"{verb} has no option {jobs.show(flag)}{more} (cronq {verb} --help)")
    if not option.metavar:
        if equals:
            raise UsageError(f"{flag} takes no value")
        values[option.key] = True
        return
    if not equals:
        if not rest:
            raise UsageError(f"{flag} needs a value: {flag} {option.metavar}")
        value = rest.pop()
    if option.many:
        values.setdefault(option.key, []).append(value)
    else:
        values[option.key] = value


def fields(values: dict[str, Any], now: float, dash: str = "--") -> dict[str, Any]:
    """The fields of a job file that these option values come to. Raises `UsageError`.

    Values are a command line's texts, or Python's own: numbers of seconds for durations and instants, a dict for env.
    """
    found: dict[str, Any] = {}
    try:
        for key, read in _READERS.items():
            value = values.get(key)
            if value is not None:
                named = dash + (key.replace("_", "-") if dash else key)
                found["batch" if key == "into" else key] = read(named, value, now)
    except BadJob as error:
        raise UsageError(error.sentence) from None
    for one, other in jobs.EXCLUDE:
        if one in found and other in found:
            names = [dash + (key.replace("_", "-") if dash else key) for key in (one, other)]
            raise UsageError(f"{' and '.join(names)} exclude each other; keep one of them")
    for key in ("unique_until", "unique_for", "on_conflict"):
        if key in found and "unique" not in found:
            raise UsageError(f"{dash}{key.replace('_', '-') if dash else key} needs {dash}unique beside it")
    return found


def _reader(key: str) -> Any:
    name = key.lstrip("-").replace("-", "_")
    return jobs.READERS["batch" if name == "into" else name]


def _list(key: str, value: Any, _now: float) -> Any:
    texts = [value] if isinstance(value, str) else value
    _reader(key)(key, texts)
    return texts


def _conflict(key: str, value: Any, _now: float) -> Any:
    how, equals, rest = value.partition("=") if isinstance(value, str) else (value, "", "")
    if equals and how == "replace":
        value = {how: rest.split(",")}
    elif equals:
        wait, slash, most = rest.partition("/")
        value = {how: wait} | ({"max_wait": most} if slash else {})
    jobs.READERS["on_conflict"](key, value)
    return value


def _plain(key: str, value: object, _now: float) -> Any:
    _reader(key)(key, value)
    return value


def _whole(key: str, value: object, _now: float) -> Any:
    if isinstance(value, str) and value.isascii() and value[value[:1] in "+-" : 9].isdigit():
        value = int(value)
    _reader(key)(key, value)
    return value


def _duration(key: str, value: object, _now: float) -> Any:
    if isinstance(value, str) and value.isascii() and value[:18].replace(".", "", 1).isdigit():
        value = float(value)  # 30 is thirty seconds
    _reader(key)(key, value)
    return value


def _instant(key: str, value: object, now: float) -> str:
    if hasattr(value, "timestamp"):
        return rfc3339(value.timestamp())
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value < jobs.LAST_INSTANT:
            return rfc3339(value)
        raise BadJob(f"{key} must be seconds since the epoch, not {jobs.show(value)}")
    clock = _clock(value) if isinstance(value, str) else None
    return rfc3339(jobs.instant(value, key) if clock is None else next_clock(*clock, now))


def _expires(key: str, value: object, now: float) -> str:
    if isinstance(value, str):
        try:
            return rfc3339(now + jobs.seconds(_duration("delay", value, now)))
        except BadJob:
            pass
    try:
        return _instant(key, value, now)
    except BadJob:
        shown = jobs.show(value)
        raise BadJob(f"{key} must be a time like 2026-12-24T18:00:00+01:00, 18:00, or 10m, not {shown}") from None


def to_come(key: str, value: str, now: float) -> float:
    """The instant that `--until 2h`, `--until 18:00` (the next one) or a time means. Raises `UsageError`."""
    try:
        return jobs.instant(_expires(key, value, now), key)
    except BadJob as error:
        raise UsageError(error.sentence) from None


def past(key: str, value: str, now: float) -> float:
    """The instant that `--since 2d`, `--since 18:00` (the last one) or a time means. Raises `UsageError`."""
    try:
        return now - jobs.seconds(_duration("delay", value, now))
    except BadJob:
        pass
    try:
        clock = _clock(value)
        return jobs.instant(value, key) if clock is None else next_clock(*clock, now - 86400)
    except BadJob:
        form = "2026-12-24T18:00, 2026-12-24, 18:00, or 2d for two days ago"
        raise UsageError(f"{key} must be a time like {form}, not {jobs.show(value)}") from None


def _env(key: str, value: Any, _now: float) -> dict[str, str]:
    if not isinstance(value, dict):
        for item in value:
            if "=" not in item:
                raise BadJob(f"{key} must be K=V, not {jobs.show(item)}")
        value = dict(item.split("=", 1) for item in value)
    found: dict[str, str] = jobs.READERS["env"](key, value)
    return found


_READERS = {
    "env": _env,
    "queue": _plain,
    "priority": _whole,
    "delay": _duration,
    "at": _instant,
    "expires": _expires,
    "start_within": _duration,
    "after": _list,
    "after_any": _list,
    "after_fail": _list,
    "into": _plain,
    "unique": _plain,
    "unique_until": _plain,
    "unique_for": _duration,
    "on_conflict": _conflict,
    "timeout": _duration,
    "watchdog": _duration,
    "retries": _whole,
    "retry_for": _duration,
    "backoff": _plain,
    "delivery": _plain,
    "mutex": _plain,
    "weight": _whole,
    "note": _plain,
}


def _clock(text: str) -> tuple[int, int] | None:
    hour, colon, minute = text.partition(":")
    if not (colon and text.isascii() and hour.isdigit() and minute.isdigit() and len(hour) < 3 and len(minute) == 2):
        return None
    if int(hour) > 23 or int(minute) > 59:
        raise BadJob(f"{jobs.show(text)} is no time of day; they go from 00:00 to 23:59")
    return int(hour), int(minute)


def next_clock(hour: int, minute: int, now: float) -> float:
    """When local clocks next show this time of day. A day that leaves it out (summer time begins) is passed over."""
    today = time.localtime(now)
    for day in range(4):
        for dst in (1, 0):  # both, since it may come twice on the day that summer time ends
            found = time.mktime((today.tm_year, today.tm_mon, today.tm_mday + day, hour, minute, 0, 0, 0, dst))
            there = time.localtime(found)
            if found > now and (there.tm_hour, there.tm_min, there.tm_isdst) == (hour, minute, dst):
                return found
    raise BadJob(f"there is no {hour:02d}:{minute:02d} in the next days")


def rfc3339(seconds: float) -> str:
    """This instant in local time with its offset, as people read it and every zone understands it."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    there = time.localtime(whole)
    sign, offset = ("-" if there.tm_gmtoff < 0 else "+"), abs(there.tm_gmtoff) // 60
    fraction = f".{micros:06d}" if micros else ""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', there)}{fraction}{sign}{offset // 60:02d}:{offset % 60:02d}"


def inline(content: bytes) -> str | None:
    """The text that a job file can carry as `stdin`; None if it is large, not UTF-8, or has odd control characters."""
    if len(content) > INLINE_STDIN:
        return None
    try:
        return str(jobs.READERS["stdin"]("stdin", content.decode()))
    except (UnicodeDecodeError, BadJob):
        return None
