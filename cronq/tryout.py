"""`cronq try`: one line of a crontab, run now in the foreground, by the code that a worker runs it by.

Does:    a line, or the name of one -> its environment; what it prints, as it prints it; how it ended; the mail that
         cron would send, and who else would be told. Nobody is, nothing of it is queued, and no dispatcher is needed.
Reads:   for a name, the caller's own tables: what he has installed, and of root's what he may read.
Trusts:  the line is the caller's, and runs as the caller.
Fails:   `UsageError` for what is no line, `BadJob` for a bad one and for an unknown name. Exits as the line does.

The world, the start and the end are `World`, `Starter` and `Attempt`, as a worker has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import signal
import socket
import tempfile
import time
from collections.abc import Iterator

from cronq import cronjobs, cronmail, follow, hooks, intake, job, policy, show, tabclient, task
from cronq import spool as spools
from cronq.attempt import Attempt
from cronq.cronfiles import INSTALLED, MACHINES, MACHINES_FOLDER, MOST_BYTES, USERS_FOLDER, Places
from cronq.crontab import CronEntry, parse_crontab
from cronq.cronworld import World
from cronq.entry import LINE, POST
from cronq.errors import BadConfig, BadJob, UnknownJob, UsageError
from cronq.loop import Loop
from cronq.outcome import Outcome
from cronq.start import DEFAULT_UMASK, Starter

SLICE = 1 << 16
LOOK_EVERY = 0.05  # seconds between looks at what is printed, where nothing else happens
INTERRUPTED = 128 + 2


def main(text: str, root: str, config: str) -> int:
    """Run this line; returns what it exits with. Raises `UsageError`, `BadJob`."""
    account = pwd.getpwuid(os.getuid())
    entry = _line(text, account.pw_name) if _is_line(text) else _named(text, root, config, account.pw_name)
    wanted = job.decode(cronjobs.encode(entry))
    plan = task.plan(wanted, {}, system=spools.is_system(root))
    plan.cron = World(entry, account.pw_name, account.pw_dir or "/")
    trial = Trial(plan, f"{account.pw_uid}-{LINE}{entry.identity}-{int(time.time() * 1e6):013x}")
    trial.say(_before(entry, plan.cron))
    ended = trial.run(root)
    trial.say(_after(entry, account, ended, trial))
    return INTERRUPTED if trial.interrupted else _code(ended)


# ---------------------------------------------------------------- which line


def _is_line(text: str) -> bool:
    return any(char in text.strip() for char in " \t\n") or text.startswith("@")


def _line(text: str, user: str) -> CronEntry:
    """The one line that runs something; variables and options may stand above it. Raises `UsageError`, `BadJob`."""
    table = parse_crontab(text.encode("utf-8", "surrogateescape") + b"\n", user=user)
    if table.refused:
        raise BadJob(f"this is no line of a crontab: {table.refused}")
    if table.errors:
        first = table.errors[0]
        raise BadJob("\n".join((first.text, *first.excerpt())))
    if len(table.entries) != 1:
        raise UsageError(f"one line of a crontab is tried at a time, in quotes; this has {len(table.entries)} that run")
    return table.entries[0]


def _named(text: str, root: str, config: str, user: str) -> CronEntry:
    """The caller's line that is called so. Raises `BadJob`."""
    known: dict[str, CronEntry] = {}
    places = Places(config, spools.is_system(root))
    for table, data in _tables(root, config, places):
        for entry in places.parse(table, data).entries:
            if entry.user == user:
                identity = places.identity(table, entry)
                if text in (identity, entry.options.name, f"{table}:{entry.line}", _ticks(identity)):
                    return entry
                known[entry.identity] = entry
    near = intake.suggestion(text, list(known)[:1000])
    hint = f"did you mean {near!r}?" if near else "give a line of a crontab in quotes, or a name that cronq next shows"
    raise UnknownJob(f"unknown entry {job.show(text)}; {hint}")


def _ticks(identity: str) -> str:
    return f"{os.getuid()}-{LINE}{identity}"


def _tables(root: str, config: str, places: Places) -> Iterator[tuple[str, bytes]]:
    """The tables that may have lines of the caller's, as far as he can read them."""
    installed = tabclient.Own(root).read()
    if installed is not None:
        yield f"{INSTALLED}{os.getuid()}", installed
    paths, folders = [places.own], [os.path.join(config, "cron.d")]
    if _is_machines(config):
        paths += [MACHINES, os.path.join(USERS_FOLDER, pwd.getpwuid(os.getuid()).pw_name)]
        folders.append(MACHINES_FOLDER)
    for folder in folders:
        try:
            paths += [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        except OSError:
            continue
    for path in paths:
        if places.known(path, machine=True):
            try:
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                    places.check(path, os.fstat(file.fileno()))
                    yield path, file.read(MOST_BYTES + 1)
            except (OSError, BadJob):
                continue


def _is_machines(config: str) -> bool:
    try:
        return task.main_says(config, "cron", "system") is True
    except BadConfig:
        return False


# ---------------------------------------------------------------- one run


class Trial:
    """One run in the foreground, and what it has printed."""

    def __init__(self, plan: task.Plan, job_id: str) -> None:
        self.interrupted = False
        self.printed = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is there as long as this process
        self._plan = plan
        self._id = job_id
        self._shown = 0
        self._loop = Loop()
        self._over = False
        self._out = show.Printable(1, raw=False)

    def say(self, lines: Iterator[str]) -> None:
        """Print lines about the run."""
        for line in lines:
            self._out.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def run(self, root: str) -> dict[str, object]:
        """Run it to its end, and say how it ended."""
        steps = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the same
        message = {"id": self._id, "attempt": 1, "redelivered": False, "scheduled": time.time()}
        outcome = Outcome(os.dup(steps.fileno()))
        attempt = Attempt(message, self._plan, outcome, self._loop, self._end, lambda _step: None)
        results = [os.dup(self.printed.fileno()), os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)]
        with self._interrupts(attempt):
            attempt.start(Starter(root, os.getuid()), None, results, None)
            self._look_again()
            while not self._over:
                self._loop.turn()
        self._show()
        if self._shown and os.pread(self.printed.fileno(), 1, self._shown - 1) != b"\n":
            self._out.write(b"\n")
        steps.seek(0)
        told: dict[str, object] = json.loads(steps.read().splitlines()[-1])
        return told

    @contextlib.contextmanager
    def _interrupts(self, attempt: Attempt) -> Iterator[None]:
        """Let an interrupt be an event like others: an exception might come in the midst of any of them."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

        def stop() -> None:
            os.read(reading, 64)
            attempt.stop("interrupted", now=self.interrupted)
            self.interrupted = True

        before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
        signal.set_wakeup_fd(writing)
        self._loop.listen(reading, stop)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, before)
            self._loop.ignore(reading)
            os.close(reading)
            os.close(writing)

    def _end(self, _attempt: Attempt) -> None:
        self._over = True

    def _look_again(self) -> None:
        self._show()
        self._loop.after(LOOK_EVERY, self._look_again)

    def _show(self) -> None:
        while part := os.pread(self.printed.fileno(), SLICE, self._shown):
            self._shown += len(part)
            self._out.write(part)


def _before(entry: CronEntry, world: World) -> Iterator[str]:
    command = shlex.join(word.decode("utf-8", "surrogateescape") for word in world.argv)
    yield f"# {command}"
    yield f"# in {world.home.decode('utf-8', 'surrogateescape')}, umask {DEFAULT_UMASK:03o}, with this environment:"
    for name, value in world.env.items():
        yield (name + b"=" + value).decode("utf-8", "surrogateescape")
    if world.stdin:
        yield f"# with this input ({len(world.stdin)} bytes):"
        yield world.stdin.decode("utf-8", "surrogateescape").removesuffix("\n")
    if entry.options.timeout:
        yield f"# for {entry.options.timeout:g} s at most"
    yield "# it prints:"


def _code(ended: dict[str, object]) -> int:
    state = "done" if ended.get("exit_code") == 0 and ended.get("reason") is None else "dead"
    return follow.exit_code({**ended, "state": state, "timeout": ended.get("reason") == "timeout"})


def _after(entry: CronEntry, account: pwd.struct_passwd, ended: dict[str, object], trial: Trial) -> Iterator[str]:
    how = policy.describe(ended)
    yield f"# it ended: {how}, after {ended.get('wall', 0)} s"
    yield from _mail(entry, account, how if _code(ended) else None, trial)
    yield from _told(entry, bool(_code(ended)), os.fstat(trial.printed.fileno()).st_size > 0)


def _told(entry: CronEntry, failed: bool, printed: bool) -> Iterator[str]:
    """Whether the dispatcher would tell the table's webhook and command of this run. Nobody is told."""
    whom = " and ".join("a webhook" if kind == POST else "a command" for kind in hooks.of_line(entry))
    told = {"always": failed or printed, "failure": failed, "change": True, "never": False}[entry.options.notify]
    change = f", if the run before it {'did not fail' if failed else 'failed'}" * (entry.options.notify == "change")
    if whom and told:
        yield f"# {whom} would be told of it{change}"


def _mail(entry: CronEntry, account: pwd.struct_passwd, why: str | None, trial: Trial) -> Iterator[str]:
    """What the dispatcher would mail about this run; `why`: it failed. Nothing of it is sent."""
    failed = why is not None
    notify, size = entry.options.notify, os.fstat(trial.printed.fileno()).st_size
    try:
        to = cronmail.recipient(entry.env, account.pw_name)
    except cronmail.Unsafe as error:
        yield f"# no mail: MAILTO is {error}, and no recipient has such characters"
        return
    if to is None:
        yield "# no mail: MAILTO is empty"
    elif notify == "never" or (notify == "failure" and not failed):
        yield f"# no mail: notify={notify}"
    elif not size and notify == "always":
        yield "# no mail: it printed nothing"
    else:
        when = ", if the run before it did not fail" if failed else ", if the run before it failed"
        yield f"# this would be mailed to {to}{when if notify == 'change' else ''}:"
        word = "" if notify == "always" else " (failed)" if failed else " (recovered)"
        head = cronmail.about(entry, to, account.pw_name, account.pw_dir or "/", socket.gethostname(), word)
        yield head.decode("utf-8", "surrogateescape").removesuffix("\n")
        if failed and word:
            yield f"{why}\n"
        data = os.pread(trial.printed.fileno(), cronmail.MOST_BYTES, 0).decode("utf-8", "surrogateescape")
        yield data.removesuffix("\n")
