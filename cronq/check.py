"""`cronq check`: what is wrong with a configuration or a crontab, or will be when a job runs; told before it hurts.

Does:    `findings` about a config directory, `of_file` about one file of it: levels and sentences, errors first.
         `main` prints them, a line each, and gives the exit code: 78 if one is an error. Files that do not end in
         .toml are crontabs (`tabcheck`): 65.
Reads:   the configuration; passwd, group and shadow; as root, what each task names, as its user sees it (`reach`).
Writes:  nothing.
Trusts:  no configuration for many users that others than root can change: it is not even read.
Fails:   never by itself: what it trips over is a finding.

Of a configuration for many users (`system`) it knows who they are; a rootless one runs everything as whoever runs it.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator

from cronq import attend, become, reach, realm, roottables, show, tabcheck, tabfile, trusted
from cronq import config as configs
from cronq import task as tasks
from cronq.accounts import Accounts
from cronq.config import Config
from cronq.cronfiles import user_of
from cronq.crontab import MAX_BYTES, parse_crontab
from cronq.errors import BadConfig, UsageError
from cronq.reach import FAIL, WARN, Finding
from cronq.shelves import TABLES
from cronq.task import Task

ONLY_ROOT = "whether users reach what their tasks name was not looked at: only root can; sudo cronq check"


def main(
    paths: list[str], config: str, system: bool, *, columns: bool = False, as_json: bool = False, spool: str = ""
) -> int:
    """Check these files and directories, or `config` without any; returns the exit code, that of the worst.

    With `columns`, crontabs have a user column wherever they are. `spool` is where an installed crontab is looked for.
    """
    code = 0
    if spool and not paths and not system:
        _say(config, list(twins(spool, config)), as_json)
    for path in paths or [config]:
        if not os.path.lexists(path) and not paths:
            if not as_json:
                print(f"ok    {show.escape(path)} is not there: no task is known, and commands (cronq exec) need none")
        elif _is_crontab(path):
            code = max(code, _crontab(path, columns, as_json))
        elif not os.path.lexists(path):
            attend.say(f"{show.escape(path)} is not there")
            code = max(code, UsageError.exit_code)
        elif os.path.isdir(path) and os.path.basename(os.path.abspath(path)) == "cron.d":
            code = max(code, 0, *(_crontab(name, True, as_json) for name in _visible(path)))
        else:
            code = max(code, _configuration(path, system, as_json))
            code = max(code, *(_crontab(name, system, as_json) for name in _crontabs(path)), 0)
    return code


def _is_crontab(path: str) -> bool:
    return path == tabfile.STDIN or not (os.path.isdir(path) or path.endswith(".toml"))


def _crontabs(config: str) -> list[str]:
    """cronq's own crontabs in a config directory."""
    own, more = os.path.join(config, "crontab"), os.path.join(config, "cron.d")
    return [own] * os.path.isfile(own) + (_visible(more) if os.path.isdir(more) else [])


def _visible(folder: str) -> list[str]:
    """The files of a cron.d, without those that nobody takes for crontabs (.placeholder)."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]


def _crontab(path: str, columns: bool, as_json: bool) -> int:
    report = tabcheck.check(path, system=columns)
    if as_json:
        for found in tabcheck.objects(report):
            show.one_object(found)
        return report.code
    for line in tabcheck.lines(report):
        print(line)
    return report.code


def _configuration(path: str, system: bool, as_json: bool) -> int:
    found = findings(os.path.abspath(path), system) if os.path.isdir(path) else of_file(path, system)
    _say(path, found, as_json)
    if any(level == FAIL for level, _ in found):
        return BadConfig.exit_code
    if not found and not as_json:
        print(f"ok    {show.escape(path)}")
    return 0


def _say(path: str, found: list[Finding], as_json: bool) -> None:
    for level, sentence in found:
        if as_json:
            grade = tabcheck.ERROR if level == FAIL else tabcheck.WARNING
            show.one_object({"file": path, "line": 0, "column": 0, "level": grade, "message": sentence})
        else:
            print(f"{level:<5} {show.escape(sentence)}")


def twins(spool: str, config: str) -> Iterator[Finding]:
    """Entries of one's own crontab that do not run, since the installed one has some of the same names."""
    own = os.path.join(config, "crontab")
    installed = _identities(os.path.join(spool, TABLES, str(os.getuid())))
    for name, line in _identities(own).items():
        if name in installed:
            yield WARN, f"{own}:{line}: the installed crontab has an entry {name} too, and that one runs; rename one"


def _identities(path: str) -> dict[str, int]:
    """The entries of this user's crontab there, each with its line; none where it is not there, or is another's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
            return {}
        data = file.read(MAX_BYTES + 1)
    return {entry.identity: entry.line for entry in parse_crontab(data, user=user_of(os.getuid())).entries}


def findings(config: str, system: bool) -> list[Finding]:
    """Everything that is wrong with the configuration below the directory `config`."""
    found: list[Finding] = []
    if system:
        found += _ours()
        distrusted = [(FAIL, error.sentence) for error in trusted.problems(config)]
        if distrusted:
            return _ordered(distrusted + found)
        found += _unreadable(config)
        found += _lists(config)
        found += _tables(config)
    try:
        read = configs.load(config, system=system)
    except BadConfig as error:
        return _ordered([(FAIL, sentence) for sentence in (error.sentence, *error.more)] + found)
    places = {name: path for path in tasks.files(config) for name in tasks.tables(path).get("tasks", {})}
    return _ordered(found + _of_config(read, system, places))


def of_file(path: str, system: bool) -> list[Finding]:
    """What is wrong with one file that ends in .toml, whatever stands in others."""
    read, errors = configs.load_file(path, system=system)
    places = dict.fromkeys(read.tasks, path)
    return _ordered([(FAIL, sentence) for sentence in errors] + _of_config(read, system, places))


def _ordered(found: list[Finding]) -> list[Finding]:
    return sorted(dict.fromkeys(found), key=lambda finding: finding[0])  # fail, then warn; else as they came


def _of_config(read: Config, system: bool, places: dict[str, str]) -> list[Finding]:
    found: list[Finding] = []
    ours = _account_of_ours() if system else None
    accounts = Accounts()
    if system:
        found += _operators(read.operators, accounts)
        found += [
            (WARN, f"[limits] shares: there is no user {name}; correct it, or take it out")
            for name in read.shares
            if accounts.uid(name) is None
        ]
    if system and read.tasks and os.getuid() != 0:
        found.append((WARN, ONLY_ROOT))
    for name, task in read.tasks.items():
        of_one = [*_submitters(task, accounts), *_runner(task, ours)] if system else _rootless(task)
        found += [(level, f"{places[name]}: [tasks.{name}] {sentence}") for level, sentence in of_one]
    return found


def _rootless(task: Task) -> list[Finding]:
    if task.user is None or tasks.mine(task.user):
        return list(reach.View(task, system=False).findings())
    mend = "take user out, or give the task to the system's dispatcher"
    return [(FAIL, f"it runs as {task.user}, and your own dispatcher runs everything as you; {mend}")]


# ---------------------------------------------------------------- accounts


def _ours() -> Iterator[Finding]:
    """Is the dispatcher's own account as it must be: there, and alone in its group?"""
    try:
        ours = realm.ours()
    except BadConfig as error:
        yield FAIL, error.sentence
        return
    for entry in pwd.getpwall():
        if entry.pw_gid == ours.gid and entry.pw_uid != ours.uid:
            name = entry.pw_name
            yield FAIL, f"the group {become.OURS} must have no members, and is {name}'s own; usermod --gid GROUP {name}"


def _account_of_ours() -> become.Account | None:
    try:
        return realm.ours()
    except BadConfig:
        return None


def _operators(group: str | None, accounts: Accounts) -> Iterator[Finding]:
    gid = None if group is None else accounts.gid(group)
    if group is not None and gid is None:
        yield WARN, f"[control] operators: there is no group {group}; groupadd {group}, or name another"
    elif gid is not None and gid == accounts.gid(become.OURS):
        yield FAIL, f"[control] operators: {group} is the group {become.OURS} by another name; name another group"


def _submitters(task: Task, accounts: Accounts) -> Iterator[Finding]:
    for name in task.submit or ():
        if name.startswith("@"):
            if accounts.gid(name[1:]) is None:
                yield WARN, f"submit: there is no group {name[1:]}; correct it, or take it out"
        elif accounts.uid(name) is None:
            yield WARN, f"submit: there is no user {name}; correct it, or take it out"


def _runner(task: Task, ours: become.Account | None) -> Iterator[Finding]:
    """Is its user somebody who can run it?"""
    if task.user is None:
        if ours is not None and os.getuid() == 0:
            yield from reach.seen_by(ours, task)  # as any other user
        return
    try:
        uid = pwd.getpwnam(task.user).pw_uid
    except KeyError:
        yield FAIL, f"there is no user {task.user}; make it (useradd --system {task.user}), or name another"
        return
    if uid == 0 and not task.allow_root:
        yield FAIL, f"its user {task.user} is root; write allow_root = true to let it"
    elif uid != 0 and task.allow_root:
        yield WARN, f"allow_root changes nothing, since it runs as {task.user}; take it out"
    if ours is None:
        return
    try:
        who = become.account(uid, ours)
    except become.Barred as error:
        yield FAIL, error.sentence
        return
    except PermissionError:  # shadow is root's to read
        return
    if os.getuid() == 0:
        yield from reach.seen_by(who, task)


# ---------------------------------------------------------------- files


def _tables(config: str) -> Iterator[Finding]:
    """More crontabs than are read."""
    try:
        said = roottables.too_many(roottables.listing(config, machine=realm.cron_is_ours(config)))
    except (BadConfig, OSError):
        return  # `load` says it; or only root can look
    if said:
        yield FAIL, said


def _unreadable(config: str) -> Iterator[Finding]:
    """Every user's worker reads the configuration by itself."""
    try:
        paths = [config, os.path.join(config, "tasks.d"), *tasks.files(config)]
    except BadConfig:
        return  # `load` says it
    for path in [*paths, *(os.path.join(config, name) for name in trusted.LISTS)]:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # there need not be all of them
        needed, right = (0o005, "o+rx") if os.path.isdir(path) else (0o004, "o+r")
        if mode & needed != needed:
            yield FAIL, f"{path} cannot be read by everybody, and each user's worker reads it; chmod {right} {path}"


def _lists(config: str) -> Iterator[Finding]:
    """exec.allow and exec.deny."""
    allow, deny = (os.path.join(config, name) for name in trusted.LISTS)
    if os.path.lexists(allow) and os.path.lexists(deny):
        yield WARN, f"{deny} says nothing beside {allow}; remove one of them"
    accounts = Accounts()
    for path in (allow, deny):
        try:
            with open(path, encoding="utf-8", errors="backslashreplace") as file:
                names = [line.strip() for line in file]
        except OSError:
            continue
        for name in names:
            if name and not name.startswith("#") and accounts.uid(name) is None:
                yield WARN, f"{path}: there is no user {name}; one name stands on a line"
