"""A tick: the job that a schedule of the configuration makes, as dispatcher and worker alike work it out.

Does:    a table [schedules.NAME] -> its values (`READERS`), and the fields of the job that each of its ticks is.
Reads:   `cronq.toml` and `tasks.d/*.toml` of the config directory, in `tables` only.
Trusts:  the config directory's owner. Standard library only: the worker reads schedules by itself, since a tick is a
         file of the dispatcher's, which proves nothing.
Fails:   `BadConfig` with file, table and key; `BadJob` for a schedule that is not there.
"""

from __future__ import annotations

from cronq import job as jobs
from cronq import task as tasks
from cronq import taskkeys
from cronq.errors import BadConfig, BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Table = tuple[str, object]  # the file it stands in, and what it says

SHORTEST_PERIOD = 1.0


def _every(key: str, value: object) -> float:
    found = jobs.seconds(value, key)
    if found < SHORTEST_PERIOD:
        raise BadJob(f"{key} must be at least 1s, not {jobs.show(value)}")
    if found % 1:
        raise BadJob(f"{key} must be whole seconds, not {jobs.show(value)}")
    return found


READERS: dict[str, Callable[[str, Any], Any]] = {
    "every": _every,
    "cron": jobs.READERS["note"],  # when it is due is the dispatcher's to know (`rhythm`)
    "zone": jobs.READERS["note"],
    "catchup": jobs.READERS["note"],
    "jitter": jobs.READERS["delay"],
    "task": jobs.READERS["task"],
    "args": jobs.READERS["args"],
    "priority": jobs.READERS["priority"],
    "queue": jobs.READERS["queue"],
    "enabled": taskkeys.switch,
}


def fields(task: str, args: list[str] | None, priority: int | None, queue: str | None) -> dict[str, Any]:
    """The fields of the job that a tick is; its bytes are `job.encode` of them."""
    asked = {"task": task, "args": args or None, "priority": priority, "queue": queue}
    return {key: value for key, value in asked.items() if value is not None}


def tables(config: str) -> dict[str, Table]:
    """Every table [schedules.NAME] of the config directory, by name. Raises `BadConfig`."""
    found: dict[str, Table] = {}
    for path in tasks.files(config):
        of_file = tasks.tables(path).get("schedules", {})
        if not isinstance(of_file, dict):
            raise BadConfig(f"{path}: schedules must be tables, like [schedules.NAME]")
        for name, table in of_file.items():
            if name in found:
                raise BadConfig(f"{path}: [schedules.{name}] stands in {found[name][0]} too; keep one of them")
            found[name] = (path, table)
    return found


def fields_of(name: str, known: dict[str, Table]) -> dict[str, Any]:
    """The fields of the job that a tick of this schedule is now. Raises `BadConfig`; `BadJob` if it makes none."""
    if name not in known:
        raise BadJob(f"unknown schedule {jobs.show(name)}; known are: {', '.join(sorted(known)) or 'none'}")
    path, table = known[name]
    what = f"{path}: [schedules.{name}]"
    if not isinstance(table, dict):
        raise BadConfig(f"{what} must be a table, not {jobs.show(table)}")
    try:
        found = {key: READERS[key](key, value) for key, value in table.items()}
    except KeyError as error:
        raise BadConfig(f"{what} unknown key {jobs.show(error.args[0])}; known are {', '.join(READERS)}") from None
    except BadJob as error:
        raise BadConfig(f"{what} {error.sentence}") from None
    if found.get("enabled") is False:
        raise BadJob(f"the schedule {name} is not enabled")
    return fields(found.get("task", name), found.get("args"), found.get("priority"), found.get("queue"))


def needs_user(name: str, task: str) -> str:
    """The sentence for a schedule of a task that, in a system with many users, would run as nobody."""
    return f"[schedules.{name}] has no submitter to run as; write user into [tasks.{task}]"
