"""The producer: a command line or a call from Python -> a job file in the caller's inbox.

Does:    `cronq submit` and `cronq exec`; the same as functions: `submit`, `execute`, `batch`. The caller's directory
         is recorded, for a command his PATH too.
Reads:   its options (usage.py), the file of --stdin and --batch.
Writes:  `in/<uid>/` of the spool, through `spool.put`: whole or absent, durable before the id is printed.
Trusts:  nothing; what it writes is judged by the dispatcher as any other file is.
Fails:   one sentence and an exit code: 2 usage, 65 bad job, 69 no inbox yet, 73 duplicate, 75 no room.

It starts in less than twice the time of a bare Python, and a test holds what it may import.
"""

from __future__ import annotations

import os
import stat
import time

from cronq import job as jobs
from cronq import spool as spools
from cronq import usage
from cronq.errors import BadJob, CronqError, Full, NotPermitted, NotRunning, UnknownJob, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_API_ONLY = frozenset(("backoff", "sync", "attached"))
_JUDGED = 10.0  # seconds in which a dispatcher that runs has looked at a job
_ASK_AGAIN = 0.05
_CALLBACKS = ("on_success", "on_complete", "on_first_death")
_CLI_ONLY = frozenset(("wait", "raw", "no_sync", "json", "batch"))


def main(argv: list[str]) -> int | None:
    """`cronq submit …` or `cronq exec …`; returns the exit code, None where help is asked for (cli.py has it)."""
    try:
        values, words = usage.parse(argv[0], argv[1:])
        if "help" in values:
            return None
        return run(argv[0], values, words)
    except CronqError as error:
        from cronq import attend

        attend.say(error.sentence)
        return error.exit_code
    except OSError as error:  # as `cli` has it
        from cronq import attend

        attend.say(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 70
    except KeyboardInterrupt:
        return 130


def run(verb: str, values: dict[str, Any], words: list[str]) -> int:
    """Queue what a command line asks for, and print its id or wait for it. Raises `CronqError`."""
    since = time.time()
    root = spools.find()
    if "batch" in values:
        job_id, count = queue_lines(verb, values, words, root)
    else:
        job_id, count = _queue_one(verb, values, words, root), 0
    same, waits = None, True
    if "unique" in values and not count:
        same, waits = _standing_for(root, job_id) or (None, True)
    if "wait" in values or "attached" in values:
        from cronq import attend

        attached = "attached" in values
        as_json, write = "json" in values, attend.writer("raw" in values)
        if count:
            return attend.batch(root, job_id, attend.Tally(count), as_json=as_json, write=write, attached=attached)
        if same is not None and waits:
            return attend.job(root, same, 0.0, as_json=as_json, write=write)
        return attend.job(root, job_id, since, as_json=as_json, write=write, attached=attached)
    job_id = same or job_id
    fields = {"id": job_id, "jobs": count or None, "conflict": True if same else None}
    shown = jobs.encode(fields) if "json" in values else f"{job_id}\n".encode()
    try:
        os.write(1, shown)
    except OSError as error:
        raise CronqError(f"{job_id} is queued, but cannot be printed: {error.strerror}") from None
    return 0


def _queue_one(verb: str, values: dict[str, Any], words: list[str], root: str) -> str:
    for key in _CALLBACKS:
        if key in values:
            raise UsageError(f"--{key.replace('_', '-')} is for a batch; give --batch FILE too")
    options = _asked(values, root)
    if not words:
        what = (
            "a task: cronq submit [options] TASK [ARG…]" if verb == "submit" else "a command: cronq exec -- CMD [ARG…]"
        )
        raise UsageError(f"{verb} needs {what}")
    path = options.pop("stdin", None)
    if path is None or path == "-":
        return _queue(_what(verb, words), root, options | ({"stdin": 0} if path else {}), "--")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"--stdin {path}: {error.strerror}") from None
    return _queue(_what(verb, words), root, options | {"stdin": descriptor}, "--")


def _standing_for(root: str, job_id: str) -> tuple[str, bool] | None:
    """The job that stands for this one, and whether it is waited for; None where none does, or nobody knows yet.

    Raises `CronqError` where this one was refused.
    """
    from cronq import client, follow

    end = time.monotonic() + _JUDGED
    while True:
        try:
            list(client.ask(root, {"do": "show", "id": job_id}))
            return None
        except (NotRunning, NotPermitted):
            return None  # it is decided when the dispatcher is there; who waits for this id gets it all the same
        except CronqError as error:
            if isinstance(error, Full) and time.monotonic() < end:
                time.sleep(_ASK_AGAIN)
                continue
        refused = follow.refusal(root, job_id)
        if refused is None:
            return None
        if refused["code"]:
            raise client.refusal({"error": refused["reason"], "code": refused["code"]})
        return spools.twin(root, job_id)


def _asked(values: dict[str, Any], root: str) -> dict[str, Any]:
    """The options of a command line as those of the functions below."""
    options = {key: value for key, value in values.items() if key not in _CLI_ONLY}
    for key in ("after", "after_any", "after_fail"):
        if key in options:
            options[key] = [_meant(root, text) for text in options[key]]
    if "into" in options:
        options["into"] = _meant(root, options["into"])
    if "no_sync" in values:
        options["sync"] = False
    return options


def _meant(root: str, text: str) -> str:
    """The id of the job that is meant: a job file says ids only, since a name may come again. Raises `UnknownJob`."""
    if jobs.is_id(text) and spools.time_of(text) is not None:
        return text
    from cronq import ids  # which asks the dispatcher

    found = ids.resolve(root, text)
    if not jobs.is_id(found) or (spools.time_of(found) is None and not found.partition("-")[2].startswith("tab-")):
        raise UnknownJob(f"no job {jobs.show(text)} has been taken yet; cronq list shows the ids of those that have")
    return found


def _what(verb: str, words: list[str]) -> dict[str, Any]:
    return {"command": words} if verb == "exec" else {"task": words[0], "args": words[1:]}


def queue_lines(verb: str, values: dict[str, Any], words: list[str], root: str) -> tuple[str, int]:
    """Queue the lines of the file `values["batch"]` as one batch: its id, and how many. Raises `CronqError`."""
    from cronq import lines

    path = values["batch"]
    if "unique" in values:
        raise UsageError("--unique is for one job, not for --batch; submit those one by one")
    if "into" in values:
        raise UsageError("--into is for one job, not for --batch; submit those one by one")
    if verb == "exec" and words:
        raise UsageError("exec --batch takes its commands from the lines; leave out CMD")
    if verb != "exec" and not words:
        raise UsageError(f"{verb} --batch needs a task: cronq {verb} --batch FILE TASK [ARG…]")
    options = _asked(values, root)
    stdin = options.pop("stdin", None)
    if stdin is not None:
        options["stdin"] = lines.small_text(path, stdin)
    what = {"command": ["/bin/sh", "-c"]} if verb == "exec" else _what(verb, words)
    return _queue_batch(lines.of_file(path), what, root, options, "--")


def submit(task: str, *args: object, spool: str | None = None, **options: Any) -> str:
    """Queue a job of the named task; returns its id.

    Options are those of the command line (docs/reference.md) with Python's values: `delay=90`, `at=datetime`,
    `env={…}`, `sync=False`; `stdin` is text, bytes or a file open for reading. Raises `CronqError`.
    """
    return _queue({"task": task, "args": [_word(arg) for arg in args]}, spool or spools.find(), options)


def execute(command: str | Sequence[object], *, spool: str | None = None, **options: Any) -> str:
    """Queue a free command, a list of words or a line for the shell; returns its id. Raises `CronqError`."""
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else [_word(word) for word in command]
    return _queue({"command": words}, spool or spools.find(), options)


def batch(
    lines: Iterable[str],
    *,
    task: str | None = None,
    args: Sequence[object] = (),
    spool: str | None = None,
    **options: Any,
) -> str:
    """Queue one job for each line, as one batch; returns its id, of which `<id>+1` … are the jobs' (see `docs/`).

    A line is the last argument of `task`, or without a task a line for the shell. Raises `CronqError`.
    """
    what = {"command": ["/bin/sh", "-c"]} if task is None else {"task": task, "args": [_word(arg) for arg in args]}
    return _queue_batch(
        (line.encode("utf-8", "surrogateescape") for line in lines), what, spool or spools.find(), options
    )[0]


def _word(value: object) -> str:
    return str(value) if isinstance(value, int | float) else os.fspath(value)  # type: ignore[call-overload]


def _queue(what: dict[str, Any], root: str, options: dict[str, Any], dash: str = "") -> str:
    spools.must_be_accepted(root)
    name = _name(options, dash)
    text, payload = _stdin(options.get("stdin"))
    order = _order(what, options, dash)
    data = jobs.encode(order | {"stdin": text})
    if len(data) > jobs.MAX_JOB_BYTES and text is not None:
        payload, data = text.encode(), jobs.encode(order)
    if len(data) > jobs.MAX_JOB_BYTES:
        most = jobs.MAX_JOB_BYTES // 1024
        raise BadJob(f"the job is larger than {most} KiB; put large input into a file and hand it over with --stdin")
    spools.put(root, name, data, payload=payload, **_how(options))
    return f"{os.getuid()}-{name}"


def _queue_batch(
    source: Iterable[bytes], what: dict[str, Any], root: str, options: dict[str, Any], dash: str = ""
) -> tuple[str, int]:
    from cronq import lines

    spools.must_be_accepted(root)
    name = _name(options, dash)
    order = _order(what, options, dash) | {"stdin": options.get("stdin")}
    calls = {key: _callback(options[key], order) for key in _CALLBACKS if options.get(key) is not None}
    writing = lines.Batch(source, order, "command" if "command" in what else "args", calls)
    spools.put(root, name, writing.pour, ending=".jobs", **_how(options))
    return f"{os.getuid()}-{name}", writing.count


def _how(options: dict[str, Any]) -> dict[str, Any]:
    """How it is put into the inbox."""
    return {
        "sync": options.get("sync", True),
        "chosen": "name" in options,
        "attached": bool(options.get("attached")),
    }


def _callback(said: Any, order: dict[str, Any]) -> dict[str, Any]:
    """The job that a callback is: what is given, or words as on a command line, of the same kind as the jobs."""
    if isinstance(said, dict):
        return said
    if "command" in order:
        return {"command": ["/bin/sh", "-c", said], "env": {"PATH": order["env"]["PATH"]}, "cwd": order["cwd"]}
    import shlex

    try:
        task, *args = shlex.split(said)
    except ValueError:
        raise UsageError(f"{jobs.show(said)} must be a task and its arguments, as on a command line") from None
    return {"task": task, "args": args, "cwd": order["cwd"]}


def _name(options: dict[str, Any], dash: str) -> str:
    name = options.get("name")
    if name is None:
        return jobs.new_name()
    if not isinstance(name, str) or not jobs.is_name(name) or name.startswith(("cron-", "tab-")):
        rule = "letters, digits, '.', '_', '-'; at most 81; not cron-… nor tab-…"
        raise UsageError(f"{dash}name must be a name ({rule}), not {jobs.show(name)}")
    return name


def _order(what: dict[str, Any], options: dict[str, Any], dash: str) -> dict[str, Any]:
    """The job's fields but stdin. Raises `UsageError` for an option, `BadJob` for the task, its arguments, the cwd."""
    for key in options:
        if key not in _API_ONLY and not any(key == option.key for option in usage.OPTIONS):
            raise UsageError(f"unknown option {jobs.show(key)}")
    order = {**what, **usage.fields(options, time.time(), dash), "cwd": _cwd(options.get("cwd"))}
    if "command" in what:
        order["env"] = {"PATH": os.environ.get("PATH", os.defpath), **order.get("env", {})}
    for words in (what.get("args"), what.get("command"), (order["cwd"],)):
        for word in words or ():
            _must_be_utf8(word)
    for key in (*what, "cwd"):
        jobs.READERS[key](key, order[key])
    return order


def _must_be_utf8(word: object) -> None:
    try:
        str(word).encode()
    except UnicodeEncodeError:
        raise BadJob(f"{jobs.show(word)} is not UTF-8; a job file is") from None


def _cwd(asked: Any) -> str:
    try:
        return os.path.abspath(asked) if asked else os.getcwd()
    except OSError:
        raise UsageError("the current directory is gone; name the job's with --cwd DIR") from None


def _stdin(given: Any) -> tuple[str | None, Any]:
    """What a job's standard input becomes: text inside the job file, or the content of NAME.data beside it."""
    if given is None:
        return None, None
    if isinstance(given, str | bytes):
        content = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given
        text = usage.inline(content)
        return (text, None) if text is not None else (None, content)
    source = given if isinstance(given, int) else given.fileno()
    head = _head(source)
    text = usage.inline(head) if len(head) <= usage.INLINE_STDIN else None
    if text is not None:
        return text, None

    if stat.S_ISREG(os.fstat(source).st_mode):
        os.lseek(source, -len(head), os.SEEK_CUR)  # whole: what begins in the middle of a block cannot be reflinked
        return None, source

    def pour(target: int) -> None:
        spools.write_all(target, head)
        spools.copy(source, target)

    return None, pour


def _head(source: int) -> bytes:
    """The first bytes of `source`, one more than would go inline; a pipe's rest is not read into memory."""
    head = b""
    try:
        while len(head) <= usage.INLINE_STDIN and (part := os.read(source, usage.INLINE_STDIN + 1 - len(head))):
            head += part
    except OSError as error:
        raise UsageError(f"the standard input cannot be read: {error.strerror}") from None
    return head
