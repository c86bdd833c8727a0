"""The keys of a task: which there are, how the value of each is read, and which do not go together.

Does:    `READERS` (one strict reader a key, those of a job's keys among them), `clashes` of a whole table.
Reads:   nothing but its arguments. Standard library only: dispatcher and worker use it alike.
Trusts:  nothing.
Fails:   `BadJob` with a sentence that names the key and says what would be right; `task.decode` names the file.
"""

from __future__ import annotations

from cronq import job as jobs
from cronq import limitkeys, uniquekeys
from cronq.errors import BadJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

WHAT = ("command", "shell", "python")
MODES = ("exec", "fork", "pool")
RECYCLED = ("max_jobs", "max_age", "max_rss")
ON_CRASH = ("retry", "dead", "hold")
ENDS = ("signal", "timeout", "watchdog", "memory")  # of an attempt, that have a policy of their own
ALLOWED = ("env", "queue", "retries", "mutex", "weight", "unique", "options", "cwd")
CRONQ = "cronq"  # the user and group of the dispatcher: no job ever runs as either
MAX_SIZE = 2**60
LEAST_MEMORY = 1024 * 1024
UNLIMITED = "unlimited"
RLIMITS = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
COUNTED = ("cpu", "nofile", "nproc")  # seconds, descriptors, processes: no bytes, so no 64K
MAX_COUNTED = 2**31 - 1
MAX_AGAIN = 9999  # a job's file name counts them
MAX_ACCOUNT = 100
MAX_PYTHON = 200
LEAST_SHARE, MOST_SHARE = 0.01, 100
_ACCOUNT_FIRST = jobs.NAME_FIRST | frozenset("_")
_ACCOUNT_REST = jobs.NAME_REST | frozenset("@\\+$")
_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def clashes(fields: Mapping[str, Any]) -> list[str]:
    """Which fields of a task do not go together: a sentence each."""
    found = []
    if sum(key in fields for key in WHAT) != 1:
        found.append("a task has either a command, a shell line or a python function; write one of the three keys")
    found += _cold(fields)
    if fields.get("delivery") == "at-most-once" and fields.get("on_crash") == "retry":
        found.append("an at-most-once job is never run again after a crash; leave out on_crash, or write dead or hold")
    if fields.get("user") == "root" and fields.get("allow_root") is not True:
        found.append('user = "root" needs allow_root = true beside it, to show that it is meant')
    if fields.get("cwd") is not None and "cwd" in (fields.get("allow") or ()):
        found.append('cwd goes before a job\'s own, so that allow "cwd" changes nothing; keep one of the two')
    found += jobs.twice(fields)
    found += uniquekeys.clashes(fields, fields)
    return found + limitkeys.clashes(fields)


def _cold(fields: Mapping[str, Any]) -> list[str]:
    """What of a task is for warm workers only, where it has none."""
    if fields.get("interpreter") is not None and "python" not in fields:
        return ["interpreter is what runs a python function; write python beside it, or leave it out"]
    if fields.get("mode", "exec") == "exec":
        found = [key for key in RECYCLED if key in fields]
        mend = 'write mode = "fork" or "pool", or leave it out'
        return [f"{', '.join(found)}: only what is kept has that; {mend}"] if found else []
    if fields["mode"] == "pool":
        return ['mode = "pool" needs a command or python: a shell line is one job'] if "shell" in fields else []
    return [] if "python" in fields else ['mode = "fork" needs python = "package.module:function"']


def user(key: str, value: object) -> str:
    """The name of a Unix user that a job may run as. Raises `BadJob`."""
    name = account(key, value, "user")
    if name == CRONQ:
        raise BadJob(f"{key} must not be {CRONQ}: the dispatcher's own user runs no jobs; name another user")
    return name


def operators(key: str, value: object) -> str:
    """The name of the group that may see and control every job. Raises `BadJob`."""
    name = account(key, value, "group")
    if name == CRONQ:
        raise BadJob(f"{key} must not be {CRONQ}: that group never has members; name another group, like adm")
    return name


def account(key: str, value: object, what: str) -> str:
    """The name of a Unix user or group (`what`), whether or not there is one. Raises `BadJob`."""
    text = value if isinstance(value, str) else ""
    good = 0 < len(text) <= MAX_ACCOUNT and text[0] in _ACCOUNT_FIRST and all(char in _ACCOUNT_REST for char in text)
    if not good or text.isdigit():
        raise BadJob(f"{key} must be the name of a {what}, like www-data (no number), not {jobs.show(value)}")
    return text


def shares(key: str, value: object) -> dict[str, float]:
    """How much of the whole each of these users has, beside others' 1. Raises `BadJob`."""
    if not isinstance(value, dict):
        raise BadJob(f"{key} must be a table, like {{ ann = 3, backup = 0.5 }}, not {jobs.show(value)}")
    for name, item in value.items():
        account(f"{key}: {jobs.show(name)}", name, "user")
        if isinstance(item, bool) or not isinstance(item, int | float) or not LEAST_SHARE <= item <= MOST_SHARE:
            raise BadJob(f"{key}.{name} must be a number from {LEAST_SHARE} to {MOST_SHARE}, not {jobs.show(item)}")
    return {name: float(item) for name, item in value.items()}


def _submit(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise BadJob(f'{key} must be a list of users and @groups, like ["www-data", "@staff"], not {jobs.show(value)}')
    for place, item in enumerate(value):
        group = isinstance(item, str) and item.startswith("@")
        account(f"{key}[{place}]", item[1:] if group else item, "group" if group else "user, or of a @group")
    return list(value)


def _allow(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise BadJob(f'{key} must be a list, like ["env", "options"], not {jobs.show(value)}')
    for place, item in enumerate(value):
        if item not in ALLOWED:
            raise BadJob(f"{key}[{place}] must be one of {', '.join(ALLOWED)}, not {jobs.show(item)}")
    return list(value)


def _ends(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise BadJob(f'{key} must be a list, like ["memory", "timeout"], not {jobs.show(value)}')
    for place, item in enumerate(value):
        if item not in ENDS:
            raise BadJob(f"{key}[{place}] must be one of {', '.join(ENDS)}, not {jobs.show(item)}")
    return list(value)


def _shell(key: str, value: object) -> str:
    text = str(jobs.READERS["stdin"](key, value))
    if not text.strip():
        raise BadJob(f"{key} is empty")
    return text


def _python(key: str, value: object) -> str:
    text = value if isinstance(value, str) and len(value) <= MAX_PYTHON and value.isascii() else ""
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise BadJob(f"{key} must be like package.module:function, not {jobs.show(value)}")
    return text


def stop_mode(key: str, value: object) -> str:
    """What a dispatcher that stops does about running jobs. Raises `BadJob`."""
    if value not in ("leave", "interrupt"):
        raise BadJob(f"{key} must be leave or interrupt, not {jobs.show(value)}")
    return str(value)


def count(key: str, value: object) -> int:
    """How many of something, at least one. Raises `BadJob`."""
    return jobs.whole(key, value, 1, 100_000)


def switch(key: str, value: object) -> bool:
    """True or false. Raises `BadJob`."""
    if not isinstance(value, bool):
        raise BadJob(f"{key} must be true or false, not {jobs.show(value)}")
    return value


def size(key: str, value: object) -> int:
    """Bytes of a size: a number, or text like 64M. Raises `BadJob`."""
    found = -1
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and value:
        unit = "" if value[-1] in jobs.DIGITS else value[-1]
        number = value[: len(value) - len(unit)]
        if number.isascii() and number.isdigit() and len(number) <= 16 and unit in _SIZES:
            found = int(number) * _SIZES[unit]
    if not 0 <= found <= MAX_SIZE:
        raise BadJob(f"{key} must be a size like 500K, 64M or 2G, not {jobs.show(value)}")
    return found


def _memory(key: str, value: object) -> int:
    found = size(key, value)
    if found < LEAST_MEMORY:
        raise BadJob(f"{key} must be at least 1M: in less no program starts; it is {jobs.show(value)}")
    return found


def _umask(key: str, value: object) -> int:
    text = value if isinstance(value, str) else ""
    if len(text) not in (3, 4) or not all(char in "01234567" for char in text) or (len(text) == 4 and text[0] != "0"):
        raise BadJob(f'{key} must be three octal digits as text, like "027", not {jobs.show(value)}')
    return int(text, 8)


def _rlimits(key: str, value: object) -> dict[str, int | str]:
    if not isinstance(value, dict):
        raise BadJob(f"{key} must be a table, like {{ nofile = 4096, core = 0 }}, not {jobs.show(value)}")
    for name in value:
        if name not in RLIMITS:
            raise BadJob(f"{key} has the unknown key {jobs.show(name)}; known are {', '.join(RLIMITS)}")
    return {name: rlimit(name, f"{key}.{name}", item) for name, item in value.items()}


def rlimit(name: str, key: str, value: object) -> int | str:
    """The value of the resource limit `name`. Raises `BadJob`."""
    if value == UNLIMITED and name != "nofile":  # the kernel has no unlimited number of descriptors
        return UNLIMITED
    if name in COUNTED:
        return jobs.whole(key, value, 1, MAX_COUNTED)
    return size(key, value)


READERS: dict[str, Any] = {
    "description": jobs.READERS["stdin"],
    "command": jobs.READERS["command"],
    "shell": _shell,
    "python": _python,
    "interpreter": jobs.READERS["cwd"],
    "mode": lambda key, value: jobs.one_of(key, value, MODES),
    "max_jobs": count,
    "max_age": jobs.READERS["timeout"],
    "max_rss": _memory,
    "user": user,
    "submit": _submit,
    "allow": _allow,
    "allow_root": switch,
    "queue": jobs.READERS["queue"],
    "priority": jobs.READERS["priority"],
    "priority_max": jobs.READERS["priority"],
    "start_within": jobs.READERS["start_within"],
    "timeout": jobs.READERS["timeout"],
    "timeout_max": jobs.READERS["timeout"],
    "watchdog": jobs.READERS["watchdog"],
    "grace": jobs.READERS["delay"],
    "retries": jobs.READERS["retries"],
    "retry_for": jobs.READERS["retry_for"],
    "backoff": jobs.READERS["backoff"],
    "delivery": jobs.READERS["delivery"],
    "on_crash": lambda key, value: jobs.one_of(key, value, ON_CRASH),
    "max_crashes": count,
    "max_snoozes": lambda key, value: jobs.whole(key, value, 0, MAX_AGAIN),
    "max_interruptions": lambda key, value: jobs.whole(key, value, 0, MAX_AGAIN),
    "no_retry_on": _ends,
    "limit": count,
    "rate": limitkeys.rate,
    "burst": limitkeys.count,
    "pause_on_failure": switch,
    "concurrency": limitkeys.concurrency,
    "mutex": jobs.READERS["mutex"],
    "weight": jobs.READERS["weight"],
    "unique": uniquekeys.unique,
    "unique_keys": uniquekeys.positions,
    "unique_until": uniquekeys.until,
    "unique_for": jobs.READERS["unique_for"],
    "on_conflict": uniquekeys.on_conflict,
    "unique_scope": uniquekeys.scope,
    "env": jobs.READERS["env"],
    "env_file": jobs.READERS["cwd"],
    "cwd": jobs.READERS["cwd"],
    "umask": _umask,
    "nice": lambda key, value: jobs.whole(key, value, 0, 19),
    "oom_score_adj": lambda key, value: jobs.whole(key, value, 0, 1000),
    "rlimits": _rlimits,
    "no_new_privs": switch,
    "memory_max": _memory,
    "pids_max": lambda key, value: jobs.whole(key, value, 1, 4_194_304),
    "cpu_weight": lambda key, value: jobs.whole(key, value, 1, 10_000),
    "output_max": size,
    "leave_children": switch,
}
