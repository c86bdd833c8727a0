"""The forms: what job files and config tables may hold, as pydantic models, from which the JSON Schemas are made.

Does:    `FORMS` (job, task, queue, schedule, limits, pressure, control, exec, cron, notify, retention, metrics, stop,
         config) and `schema`.
Reads:   nothing but its arguments.
Trusts:  nothing. The decoders (`job.decode`, `task.decode`, `config.load`) decide; property tests hold these models to
         the same verdicts.
Fails:   `pydantic.ValidationError`, which `intake` puts into words.

This is the one home of pydantic, and imported only where something is wrong or a schema is asked for: it costs more
time and memory than the rest of the dispatcher together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from cronq import hooks, limitkeys, metricskeys, retentionkeys, rhythm, taskkeys, uniquekeys
from cronq import job as jobs
from cronq.errors import BadJob

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NO_CONTROLS = r"[^\x00-\x1f\x7f-\x9f]"
_NO_CONTROLS_BUT_LINES = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_SHELL = rf"^{_NO_CONTROLS_BUT_LINES}*[^\s\x00-\x1f\x7f-\x9f]{_NO_CONTROLS_BUT_LINES}*$"
_PYTHON = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
_SIZES = [
    {"type": "integer", "minimum": 0, "maximum": taskkeys.MAX_SIZE},
    {"type": "string", "pattern": "^[0-9]{1,16}[KMGT]?$"},
]
_ACCOUNT = r"(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.@\\+$-]{0,99}$"
_DURATION = r"^(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ms|s|m|h|d|w))+$"
_INSTANT = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
)


def _read_by(reader: Callable[[str, Any], Any]) -> BeforeValidator:
    """Judge a value by the decoder's own reader: its grammar is more than a pattern can say."""

    def judge(value: Any) -> Any:
        try:
            reader("it", value)
        except BadJob as error:
            raise ValueError(error.sentence) from None
        return value

    return BeforeValidator(judge)


def _duration_schema(bounds: dict[str, float], pattern: str) -> WithJsonSchema:
    number = {"type": "number", "maximum": jobs.MAX_SECONDS, **bounds}
    text = {"type": "string", "pattern": pattern, "maxLength": jobs.MAX_DURATION_TEXT}
    return WithJsonSchema({"anyOf": [number, text]})


def _text_schema(times: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{_NO_CONTROLS_BUT_LINES}{times}$", "maxLength": jobs.MAX_JOB_BYTES}


def _table(keys: dict[str, Any], needed: str) -> dict[str, Any]:
    return {"type": "object", "properties": keys, "required": [needed], "additionalProperties": False}


_LONGER: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": jobs.MAX_SECONDS},
        {
            "type": "string",
            "pattern": _DURATION.replace("^", "^(?=.*[1-9])"),
            "maxLength": jobs.MAX_DURATION_TEXT,
        },
    ]
}
_THROTTLE = _LONGER | {"description": "One in so long.", "examples": ["5s"]}
_DEBOUNCE = _LONGER | {"description": "How long nothing more has to come.", "examples": ["5s"]}
_MAX_WAIT = _LONGER | {"description": "How long to wait in all.", "examples": ["1m"]}
_PARTS = {
    "description": "What is replaced.",
    "examples": [["args"]],
    "type": "array",
    "items": {"enum": list(uniquekeys.PARTS)},
    "minItems": 1,
}
Text = Annotated[str, StringConstraints(pattern=f"^{_NO_CONTROLS_BUT_LINES}*$", max_length=jobs.MAX_JOB_BYTES)]
Line = Annotated[str, StringConstraints(pattern=f"^{_NO_CONTROLS}*$", max_length=1000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Path = Annotated[str, StringConstraints(pattern=f"^/{_NO_CONTROLS}*$", max_length=4096)]
Python = Annotated[str, StringConstraints(pattern=_PYTHON, max_length=taskkeys.MAX_PYTHON)]
Shell = Annotated[str, StringConstraints(pattern=_SHELL, max_length=jobs.MAX_JOB_BYTES)]
Command = Annotated[
    list[Text],
    Field(min_length=1),
    _read_by(jobs.READERS["command"]),
    WithJsonSchema({"type": "array", "minItems": 1, "prefixItems": [_text_schema("+")], "items": _text_schema("*")}),
]
Arguments = Annotated[list[Text], _read_by(jobs.READERS["args"])]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Env = Annotated[
    dict[Variable, Text],
    _read_by(jobs.READERS["env"]),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": _text_schema("*"),
        }
    ),
]
Priority = Literal["low", "normal", "high"] | Annotated[int, Field(ge=-20, le=20)]
Duration = Annotated[float | str, _read_by(jobs.READERS["delay"]), _duration_schema({"minimum": 0}, _DURATION)]
Positive = Annotated[
    float | str,
    _read_by(jobs.READERS["timeout"]),
    _duration_schema({"exclusiveMinimum": 0}, _DURATION.replace("^", "^(?=.*[1-9])")),
]
Age = Annotated[
    float | str,
    _read_by(retentionkeys.age),
    WithJsonSchema({"anyOf": [*_LONGER["anyOf"], {"const": retentionkeys.NEVER}]}),
]
PromFile = Annotated[
    Path,
    _read_by(metricskeys.READERS["file"]),
    WithJsonSchema({"type": "string", "pattern": f"^/{_NO_CONTROLS}*\\.prom$", "maxLength": 4096}),
]
Often = Annotated[
    float | str,
    _read_by(metricskeys.READERS["every"]),
    _duration_schema({"minimum": 1, "maximum": 3600}, _DURATION.replace("^", "^(?=.*[1-9])")),
]
Period = Annotated[
    float | str,
    _read_by(rhythm.READERS["every"]),
    _duration_schema({"minimum": 1}, _DURATION.replace("^", "^(?=.*[1-9])")),
]
Expression = Annotated[Line, _read_by(rhythm.READERS["cron"])]
Zone = Annotated[Line, _read_by(rhythm.READERS["zone"])]
Catchup = Annotated[
    Line,
    _read_by(rhythm.READERS["catchup"]),
    WithJsonSchema({"type": "string", "pattern": r"^(none|(last|all)(/[^/]+(/[0-9]{1,4})?)?)$"}),
]
Instant = Annotated[str, _read_by(jobs.READERS["at"]), WithJsonSchema({"type": "string", "pattern": _INSTANT})]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}-[A-Za-z0-9][A-Za-z0-9._-]{0,95}(\+[0-9]{1,9})?$")]
BatchId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}-[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
Ids = Annotated[list[Id], Field(min_length=1)]
Unique = Annotated[
    str | list[Literal["task", "command", "args", "queue", "cwd"]],
    _read_by(uniquekeys.unique),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_NO_CONTROLS}+$", "maxLength": uniquekeys.MOST_KEY},
                {"type": "array", "items": {"enum": list(uniquekeys.FIELDS)}, "minItems": 1},
            ]
        }
    ),
]
Position = Annotated[int, Field(ge=0, le=uniquekeys.MOST_POSITION)]
Positions = Annotated[list[Position], Field(min_length=1)]
OnConflict = Annotated[
    str | dict[str, Any],
    _read_by(uniquekeys.on_conflict),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(uniquekeys.WORDS)},
                _table({"throttle": _THROTTLE}, "throttle"),
                _table({"debounce": _DEBOUNCE, "max_wait": _MAX_WAIT}, "debounce"),
                _table({"replace": _PARTS}, "replace"),
            ]
        }
    ),
]
Retries = Annotated[int, Field(ge=0, le=jobs.MAX_RETRIES)]
Weight = Annotated[int, Field(ge=0, le=jobs.MAX_WEIGHT)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Kept = Annotated[int, Field(ge=1, le=retentionkeys.MOST_COUNT)]
Again = Annotated[int, Field(ge=0, le=taskkeys.MAX_AGAIN)]
Factor = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]
Jitter = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Delivery = Literal["at-least-once", "at-most-once"]
Webhook = Annotated[
    Line, _read_by(hooks.READERS["webhook"]), WithJsonSchema({"type": "string", "pattern": "^(https?://[^/]|/)"})
]
Size = Annotated[int | str, _read_by(taskkeys.size), WithJsonSchema({"anyOf": _SIZES})]
Memory = Annotated[
    int | str,
    _read_by(taskkeys.READERS["memory_max"]),
    WithJsonSchema({"anyOf": [_SIZES[0] | {"minimum": taskkeys.LEAST_MEMORY}, _SIZES[1]]}),
]
_NOT_CRONQ = {"type": "string", "pattern": f"^(?!{taskkeys.CRONQ}$){_ACCOUNT}"}
User = Annotated[str, _read_by(taskkeys.user), WithJsonSchema(_NOT_CRONQ)]
Group = Annotated[str, _read_by(taskkeys.operators), WithJsonSchema(_NOT_CRONQ)]
Submitter = Annotated[
    str,
    _read_by(lambda _key, value: taskkeys.READERS["submit"]("submit", [value])),
    WithJsonSchema({"type": "string", "pattern": f"^@?{_ACCOUNT}"}),
]
RateText = Annotated[
    str,
    _read_by(limitkeys.rate),
    WithJsonSchema({"type": "string", "pattern": f"^0*[1-9][0-9]*/{_DURATION[1:]}", "maxLength": 71}),
]
Template = Annotated[
    str,
    _read_by(limitkeys.READERS["key"]),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^([^\x00-\x1f\x7f-\x9f{}]|\{(args\.(0|[1-9][0-9]?)|user|queue)\})*$",
            "maxLength": limitkeys.MOST_KEY,
        }
    ),
]
_SHARE = {"type": "number", "minimum": taskkeys.LEAST_SHARE, "maximum": taskkeys.MOST_SHARE}
Shares = Annotated[
    dict[str, float],
    _read_by(taskkeys.shares),
    WithJsonSchema({"type": "object", "patternProperties": {f"^{_ACCOUNT}": _SHARE}, "additionalProperties": False}),
]
Umask = Annotated[
    str, _read_by(taskkeys.READERS["umask"]), WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$"})
]
Bytes = Annotated[
    int | str,
    _read_by(lambda key, value: taskkeys.rlimit("as", key, value)),
    WithJsonSchema({"anyOf": [*_SIZES, {"const": taskkeys.UNLIMITED}]}),
]
Counted = Annotated[int, Field(ge=1, le=taskkeys.MAX_COUNTED)]


def key(description: str, *examples: Any, needed: bool = False, alias: str | None = None) -> Any:
    """A key of a form. One that may be left out has no value then; null is none that it may have.

    `alias` is its name where Python has another meaning for it.
    """
    if needed:
        return Field(description=description, examples=list(examples))
    return Field(default=None, alias=alias, description=description, examples=list(examples))


class Form(BaseModel):
    """What all forms share: unknown keys are refused, and no value is bent to fit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        """Which fields do not go together: a sentence each."""
        del fields
        return []

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for sentence in self.clashes({name: getattr(self, name) for name in self.model_fields_set}):
            raise ValueError(sentence)
        return self


class BackoffForm(Form):
    """How long to wait before a further attempt: min(max, base * factor**n) seconds, and up to jitter of it more."""

    base: Duration = key("How long to wait after the first attempt. Default: 15s.", "15s")
    factor: Factor = key("How many times longer to wait after each further attempt, 1 to 100. Default: 2.", 2)
    max: Duration = key("How long to wait at most (jitter comes on top). Default: 1h.", "1h")
    jitter: Jitter = key("The random part on top: 0.2 adds up to a fifth. Default: 0.2.", 0.2)


class ConcurrencyForm(Form):
    """How many jobs with the same key may run at once, and start in how long."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"burst": ["rate"]}})

    key_: Template = key("What tells keys apart. Default: nothing.", "{args.0}", "{user} {args.1}", alias="key")
    group: Name = key("Tasks of one group share their keys. Default: the task has its own.", "hosts")
    limit: Count = key("How many jobs of one key may run at once. Default: 1.", 2)
    on_block: Literal["wait", "discard", "replace", "coalesce"] = key(
        "What becomes of a job whose key is taken. Default: wait.", "coalesce"
    )
    rate: RateText = key("How many of one key may start in how long.", "10/1m")
    burst: Count = key("How many of them at once where there were fewer for a while. Default: 1.", 5)

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        return limitkeys.clashes(fields)


class RlimitsForm(Form):
    """Resource limits of a job's processes (getrlimit(2)): a size, a number, or "unlimited"."""

    as_: Bytes = key("Address space.", "2G", alias="as")
    core: Bytes = key("The largest core dump.", 0)
    cpu: Counted | Literal["unlimited"] = key("Seconds of computing.", 600)
    data: Bytes = key("Data segment.", "1G")
    fsize: Bytes = key("The largest file it may write.", "1G")
    memlock: Bytes = key("Memory that may be locked.", "64K")
    nofile: Counted = key("Open files.", 4096)
    nproc: Counted | Literal["unlimited"] = key("Processes of its user, all of them.", 200)
    stack: Bytes = key("Stack.", "8M")


_NEEDS_UNIQUE: dict[str, Any] = {key: ["unique"] for key in ("unique_until", "unique_for", "on_conflict")}
_NEEDS_FIELDS: dict[str, Any] = {
    "required": ["unique"],
    "properties": {"unique": {"type": "array", "contains": {"enum": ["args", "command"]}}},
}


class JobForm(Form):
    """One job, as a file NAME.job in the inbox says it (docs/job-file.md)."""

    model_config = ConfigDict(
        title="cronq job, version 1",
        json_schema_extra={
            "oneOf": [{"required": ["task"]}, {"required": ["command"]}],
            "dependentRequired": _NEEDS_UNIQUE,
            "dependentSchemas": {
                "command": {"not": {"required": ["args"]}},
                "task": {"not": {"required": ["delivery"]}},
                "delay": {"not": {"required": ["at"]}},
                "retries": {"not": {"required": ["retry_for"]}},
                "expires": {"not": {"required": ["start_within"]}},
                "unique_keys": _NEEDS_FIELDS,
            },
        },
    )

    task: Name = key("The task to run: a name of the configuration. Either this or command.", "resize")
    command: Command = key("The program to run and its arguments, without a shell.", ["rsync", "-a", "/src/", "/dst"])
    args: Arguments = key("Arguments that are appended to the task's command.", ["photo.jpg", "800"])
    stdin: Text = key("What the job reads from its standard input.", "line 1\nline 2\n")
    env: Env = key("Environment variables to add.", {"LANG": "C.UTF-8"})
    cwd: Path = key("The directory to run in, an absolute path.", "/srv/photos")
    queue: Name = key("The queue to stand in. Default: the task's; without one, default.", "mail")
    priority: Priority = key("Higher runs first: low (-10), normal (0), high (10), or -20 to 20.", "high", 5)
    delay: Duration = key("How long to wait before the job may run.", "10m", 90)
    at: Instant = key("When the job may run; local time where it has no offset.", "2026-12-24T18:00:00+01:00")
    expires: Instant = key("A job that has not started by then never runs.", "2026-12-24T20:00:00+01:00")
    start_within: Positive = key("The same, as a time from when the job was due.", "30m")
    after: Ids = key(
        "Jobs that must be done before this one runs; else it is skipped.", ["1000-065f0c2a1b3c4-k3x9q2ab"]
    )
    after_any: Ids = key("Jobs that must have ended before, however.", ["1000-065f0c2a1b3c4-k3x9q2ab"])
    after_fail: Ids = key("It runs if one of these jobs fails; else it is skipped.", ["1000-065f0c2a1b3c4-k3x9q2ab"])
    batch: BatchId = key("The batch that it is added to, which has not ended.", "1000-065f0c2a1b3c4-k3x9q2ab")
    unique: Unique = key(
        "One job of this key at a time: a text, or the fields that make it.", "nightly", ["task", "args"]
    )
    unique_keys: Positions = key("Which of the args, or words of the command, count: positions from 0.", [0])
    unique_until: Literal["start", "end", "success"] = key("Until when its key is taken. Default: end.", "start")
    unique_for: Positive = key("How long its key is taken at least.", "10m")
    on_conflict: OnConflict = key(
        "What becomes of it if its key is taken. Default: ignore.", "attach", {"throttle": "5s"}
    )
    timeout: Positive = key("How long one attempt may take before it is ended.", "10m")
    watchdog: Positive = key("How long an attempt may be silent before it is ended.", "30s")
    retries: Retries = key("How many further attempts a job that failed has.", 3)
    retry_for: Positive = key("The same, as the time within which they begin, by the backoff.", "2h")
    backoff: BackoffForm = key("How long to wait before a further attempt.", {"base": "15s", "factor": 2, "max": "1h"})
    delivery: Delivery = key("Of a free command: what holds after a crash.", "at-most-once")
    mutex: Word = key("Never run at once with anything else of yours that has this word.", "disk")
    weight: Weight = key("For how many jobs it counts, 0 to 1000. Default: the task's; without one, 1.", 2)
    note: Line = key("A line for people; cronq does nothing with it.", "ticket 4711")

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        return jobs.clashes(fields)


class TaskForm(Form):
    """One task, as a table [tasks.NAME] of the configuration says it (docs/config.md)."""

    model_config = ConfigDict(
        title="cronq task",
        json_schema_extra={
            "oneOf": [{"required": [key]} for key in taskkeys.WHAT],
            "dependentRequired": {"burst": ["rate"], "interpreter": ["python"], **_NEEDS_UNIQUE},
            "dependentSchemas": {"retries": {"not": {"required": ["retry_for"]}}, "unique_keys": _NEEDS_FIELDS},
            "allOf": [
                {
                    "if": {"properties": {"mode": {"const": "exec"}}},
                    "then": {"not": {"anyOf": [{"required": [key]} for key in taskkeys.RECYCLED]}},
                },
                {
                    "if": {"properties": {"mode": {"const": "fork"}}, "required": ["mode"]},
                    "then": {"required": ["python"]},
                },
                {"not": {"properties": {"mode": {"const": "pool"}}, "required": ["mode", "shell"]}},
                {
                    "not": {
                        "properties": {"delivery": {"const": "at-most-once"}, "on_crash": {"const": "retry"}},
                        "required": ["delivery", "on_crash"],
                    }
                },
                {"not": {"properties": {"allow": {"contains": {"const": "cwd"}}}, "required": ["allow", "cwd"]}},
                {
                    "if": {"properties": {"user": {"const": "root"}}, "required": ["user"]},
                    "then": {"properties": {"allow_root": {"const": True}}, "required": ["allow_root"]},
                },
            ],
        },
    )

    description: Text = key("What the task does, for people.", "Make a thumbnail of one photo")
    command: Command = key("The program and its first arguments; the job's are appended.", ["convert-photo", "--quiet"])
    shell: Shell = key("A line for /bin/sh; the job's arguments are $1, $2 …", 'convert "$1" -resize 800 "$1.small"')
    python: Python = key("A function of a module, which gets the job's arguments.", "photos.sizes:resize")
    interpreter: Path = key("The Python that calls it. Default: cronq's own.", "/opt/photos/bin/python")
    mode: Literal["exec", "fork", "pool"] = key("A process for each job, a fork of one, or one after another.", "fork")
    max_jobs: Count = key("After so many jobs what is kept is made anew. Default: no limit.", 1000)
    max_age: Positive = key("After so long it is made anew. Default: no limit.", "1h")
    max_rss: Memory = key("From so much memory on it is made anew. Default: no limit.", "500M")
    user: User = key("The user its jobs run as. Default: whoever submits them.", "imgproc")
    submit: list[Submitter] = key(
        "Who may submit it, beside root. Default: everybody; with user, that user only.", ["www-data", "@staff"]
    )
    allow: list[Literal["env", "queue", "retries", "mutex", "weight", "unique", "options", "cwd"]] = key(
        "What a submitter may set; options are arguments with a leading dash. Default: nothing.", ["options", "cwd"]
    )
    allow_root: bool = key("Whether its jobs may run as root. Default: false.", True)
    queue: Name = key("The queue its jobs stand in. Default: default.", "media")
    priority: Priority = key("Its jobs' priority. Default: normal.", "low")
    priority_max: Priority = key("The highest priority that a submitter may ask for. Default: any.", "normal")
    start_within: Positive = key("A job that has not started so long after it was due never runs.", "30m")
    timeout: Positive = key("How long one attempt may take. Default: no limit.", "10m")
    timeout_max: Positive = key("How long an attempt may take in all, with touch. Default: 12h.", "2h")
    watchdog: Positive = key("How long an attempt may be silent. Default: no limit.", "30s")
    grace: Duration = key("How long after SIGTERM an attempt gets SIGKILL. Default: 10s.", "30s")
    retries: Retries = key("How many further attempts a job that failed has. Default: 0.", 5)
    retry_for: Positive = key("The same, as the time within which they begin, by the backoff.", "2h")
    backoff: BackoffForm = key("How long to wait before a further attempt.", {"base": "1m", "jitter": 0.5})
    delivery: Delivery = key("What holds after a crash. Default: at-least-once.", "at-most-once")
    on_crash: Literal["retry", "dead", "hold"] = key(
        "What becomes of a job whose worker died in mid-job. Default: retry; at-most-once: dead.", "hold"
    )
    max_crashes: Count = key("After so many crashes a job is dead. Default: 3.", 1)
    max_snoozes: Again = key("How often a job may put itself off. Default: 100.", 1000)
    max_interruptions: Again = key("How often a job may be interrupted. Default: 10.", 100)
    no_retry_on: list[Literal["signal", "timeout", "watchdog", "memory"]] = key(
        "After which ends a job is dead, however many attempts are left. Default: none.", ["memory"]
    )
    limit: Count = key("How many jobs of the task may run at once. Default: no limit.", 2)
    rate: RateText = key("How many of its jobs may start in how long, evenly spread.", "10/1m")
    burst: Count = key("How many of them at once where there were fewer for a while. Default: 1.", 5)
    pause_on_failure: bool = key("Whether it is paused when a job of it ends dead. Default: false.", True)
    concurrency: ConcurrencyForm = key(
        "How many of its jobs that have the same key may run at once.", {"key": "{args.0}", "limit": 1}
    )
    mutex: Word = key("Its jobs never run at once with anything else that has this word.", "disk")
    weight: Weight = key("For how many jobs one counts in slots and limit, 0 to 1000. Default: 1.", 2)
    unique: Unique = key("One job of this key at a time, of those that say no key of their own.", ["task", "args"])
    unique_keys: Positions = key("Which of the args count: positions from 0.", [0])
    unique_until: Literal["start", "end", "success"] = key("Until when the key is taken. Default: end.", "start")
    unique_for: Positive = key("How long the key is taken at least.", "10m")
    on_conflict: OnConflict = key("What becomes of a job whose key is taken. Default: ignore.", "reject")
    unique_scope: Literal["user", "global"] = key(
        "Whether its unique keys are each submitter's own, or all submitters'. Default: user.", "global"
    )
    env: Env = key("Environment variables to add; the job's own come on top.", {"LANG": "C.UTF-8"})
    env_file: Path = key("A file of further variables that only its user can read.", "/etc/cronq/resize.env")
    cwd: Path = key("The directory to run in. Default: the job's; with user, that user's home.", "/srv/photos")
    umask: Umask = key("Which rights new files lack, in octal. Default: 022.", "027")
    nice: Annotated[int, Field(ge=0, le=19)] = key("How far it steps back for others. Default: 0.", 10)
    oom_score_adj: Annotated[int, Field(ge=0, le=1000)] = key("Ends sooner where memory runs out. Default: 0.", 500)
    rlimits: RlimitsForm = key("Resource limits of its processes.", {"nofile": 4096, "core": 0})
    no_new_privs: bool = key("Whether set-user-ID programs gain it nothing. Default: false.", True)
    memory_max: Memory = key("Memory of a job and all its children. Default: no limit.", "512M")
    pids_max: Annotated[int, Field(ge=1, le=4_194_304)] = key("Processes of a job. Default: no limit.", 100)
    cpu_weight: Annotated[int, Field(ge=1, le=10_000)] = key("Its share of busy CPUs. Default: 100.", 20)
    output_max: Size = key("How much of stdout, and of stderr, is kept. Default: 10M.", "64M")
    leave_children: bool = key("Whether processes that the job leaves behind may live on. Default: false.", True)

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        return taskkeys.clashes(fields)


class KeepForm(Form):
    """For how long what is left of a queue's jobs is kept."""

    results: Age = key("How long results are kept after a job has ended. Default: 7d.", "1d", "never")
    logs: Age = key("How long its output is kept, if not as long as its result.", "12h")
    max_results: Kept = key("How many results of one user are kept, of one queue. Default: any number.", 1000)
    max_size: Size = key("How large these may be together. Default: no bound.", "1G")
    dead: Age = key("How long dead and skipped jobs are kept. Default: 90d.", "30d", "never")
    max_dead: Kept = key("How many dead jobs of one user are kept, of one queue. Default: 10000.", 100)


class RetentionForm(KeepForm):
    """The table [retention] of cronq.toml: for how long what is left of jobs is kept."""

    rejected: Age = key("How long refused files, and the reasons, are kept. Default: 30d.", "7d")
    history: Age = key("How long the history is kept. Default: 90d.", "1w", "never")
    max_history: Size = key("How large the history may be; its first days go. Default: no bound.", "1G")


class QueueForm(Form):
    """One queue, as a table [queues.NAME] of the configuration says it."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"burst": ["rate"]}})

    slots: Count = key("How many jobs of the queue may run at once. Default: no limit but max_jobs.", 2)
    rate: RateText = key("How many jobs of the queue may start in how long, evenly spread.", "10/1m")
    burst: Count = key("How many of them at once where there were fewer for a while. Default: 1.", 5)
    pause_on_failure: bool = key("Whether it is paused when a job of it ends dead. Default: false.", True)
    aging: Duration = key("After how long of waiting a job counts as one priority more (0: never). Default: 5m.", "1m")
    retention: KeepForm = key("For how long what is left of its jobs is kept.", {"results": "1d"})

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        return limitkeys.clashes(fields)


class ScheduleForm(Form):
    """One schedule, as a table [schedules.NAME] of the configuration says it."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["every"]}, {"required": ["cron"]}],
            "dependentRequired": {"zone": ["cron"]},
        }
    )

    every: Period = key("How long from one job to the next: whole seconds, at least 1s.", "2s", "10m")
    cron: Expression = key("When a job is due, as a crontab says it; seconds may come first.", "30 6 * * mon-fri")
    zone: Zone = key("The time zone of cron. Default: the machine's.", "Europe/Berlin")
    catchup: Catchup = key("What is made up for after a downtime. Default: none.", "last/6h")
    jitter: Duration = key("How much later a job may start, always the same for a schedule. Default: 0.", "5m")
    task: Name = key("The task to run. Default: the schedule's own name.", "poll")
    args: Arguments = key("Arguments that are appended to the task's command.", ["--all"])
    priority: Priority = key("Its jobs' priority. Default: the task's.", "low")
    queue: Name = key("The queue its jobs stand in. Default: the task's.", "polls")
    enabled: bool = key("Whether it makes jobs. Default: true.", False)

    @classmethod
    def clashes(cls, fields: Mapping[str, Any]) -> list[str]:
        return rhythm.clashes(fields)


class LimitsForm(Form):
    """The table [limits] of cronq.toml."""

    max_jobs: Count = key("How many jobs may run at once. Default: 4 for each CPU, at least 8.", 16)
    max_jobs_per_user: Count = key(
        "How many jobs of one submitter may run at once. Default: three quarters of max_jobs; rootless, no limit.", 8
    )
    shares: Shares = key(
        "Of how much each submitter has his share, beside others' 1. Default: all alike.", {"ann": 3, "backup": 0.5}
    )


class PressureForm(Form):
    """The table [pressure] of cronq.toml: when the machine has no room for more jobs."""

    max_load: Annotated[float, Field(gt=0, le=limitkeys.MOST_LOAD, allow_inf_nan=False)] = key(
        "Above this load (of the last minute) no job starts. Default: no bound.", 8, 1.5
    )
    min_free_memory: Size = key("With less memory available no job starts. Default: no bound.", "500M")


class ControlForm(Form):
    """The table [control] of cronq.toml."""

    operators: Group = key("The group that may see and control every job, beside root. Default: none.", "adm")


class ExecForm(Form):
    """The table [exec] of cronq.toml: free commands."""

    allow_root: bool = key("Whether free commands of root run. Default: false.", True)


class CronForm(Form):
    """The table [cron] of cronq.toml: the machine's own crontabs."""

    system: bool = key("Whether /etc/crontab, /etc/cron.d and users' crontabs are run. Default: false.", True)
    sendmail: Path = key("The program that takes mail. Default: /usr/sbin/sendmail.", "/usr/sbin/sendmail")


class NotifyForm(Form):
    """The table [notify] of cronq.toml: who is told of crontab lines that fail, and of jobs that die."""

    webhook: Webhook = key("The URL that each event is sent to, or a file that holds it.", "https://example.org/x")
    command: Command = key("The program that is started for each event, and its arguments.", ["page", "--quiet"])
    on: Literal["failure", "change", "always"] = key("Of which runs of crontab lines. Default: failure.", "change")
    user: User = key("The user as whom both run. Default: the one whose job it is about.", "pager")


class StopForm(Form):
    """The table [stop] of cronq.toml: what happens to running jobs when the dispatcher is told to stop."""

    drain_timeout: Duration = key("How long to wait for them; then they run on without. Default: 0.", "30s")
    mode: Literal["leave", "interrupt"] = key(
        "Whether they are ended then, to begin again. Default: leave.", "interrupt"
    )


class MetricsForm(Form):
    """The table [metrics] of cronq.toml: figures for Prometheus."""

    file: PromFile = key("The file in which they are kept. Default: none.", "/var/lib/node-exporter/cronq.prom")
    every: Often = key("How often it is written. Default: 15s.", "1m")
    users: bool = key("Whether they tell users apart. Default: false.", True)


class ConfigForm(Form):
    """cronq.toml; the files of tasks.d may hold tasks, queues and schedules too (docs/config.md)."""

    model_config = ConfigDict(title="cronq configuration")

    tasks: dict[Name, TaskForm] = key("Tasks by name.", {"hello": {"command": ["echo", "hello"]}})
    queues: dict[Name, QueueForm] = key("Queues by name.", {"mail": {"slots": 2}})
    schedules: dict[Name, ScheduleForm] = key("Schedules by name.", {"hello": {"every": "10m"}})
    limits: LimitsForm = key("Limits on everything together; in cronq.toml only.", {"max_jobs": 16})
    pressure: PressureForm = key("When no job starts; in cronq.toml only.", {"max_load": 8})
    control: ControlForm = key("The control socket; in cronq.toml only.", {"operators": "adm"})
    exec: ExecForm = key("Free commands; in cronq.toml only.", {"allow_root": True})
    cron: CronForm = key("Crontabs; in cronq.toml only.", {"system": True})
    notify: NotifyForm = key("Who is told; in cronq.toml only.", {"webhook": "https://example.org/x"})
    retention: RetentionForm = key("How long what is kept; in cronq.toml only.", {"results": "7d"})
    metrics: MetricsForm = key("Figures for Prometheus; in cronq.toml only.", {"users": True})
    stop: StopForm = key("Stopping; in cronq.toml only.", {"drain_timeout": "30s"})


FORMS: dict[str, type[Form]] = {
    "job": JobForm,
    "task": TaskForm,
    "queue": QueueForm,
    "schedule": ScheduleForm,
    "limits": LimitsForm,
    "pressure": PressureForm,
    "control": ControlForm,
    "exec": ExecForm,
    "cron": CronForm,
    "notify": NotifyForm,
    "retention": RetentionForm,
    "metrics": MetricsForm,
    "stop": StopForm,
    "config": ConfigForm,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the form of this name."""
    made: dict[str, Any] = _mended(FORMS[name].model_json_schema())
    return {"$schema": DRAFT, **made, "title": FORMS[name].model_config.get("title", f"cronq {name}")}


def _mended(part: Any, inside: str = "") -> Any:
    """Without null defaults (null is refused) and titles that repeat the key; dictionaries closed to other names."""
    if isinstance(part, list):
        return [_mended(item) for item in part]
    if not isinstance(part, dict):
        return part
    if inside in ("properties", "$defs", "patternProperties"):
        return {name: _mended(item) for name, item in part.items()}
    found = {name: _mended(item, name) for name, item in part.items() if name not in ("title", "default")}
    if "patternProperties" in found:
        found.setdefault("additionalProperties", False)
    return found
