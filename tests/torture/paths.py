"""The ways of a job that the suites of this directory interrupt: a story each, small, and the same each time.

A story is handed a `cell.Cell`. It has jobs submitted and does what its name says; then all must come to what it says.
Jobs write a line to the ledger for each attempt, so that what ran is known from outside.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import verdict
from cell import UID, Cell

CONFIG = """
[tasks.plain]
shell = '. ./says'
{common}
[tasks.other]
shell = '. ./says; cat'
{common}
[tasks.again]
shell = '. ./says; test "$CRONQ_ATTEMPT" -gt 1 || exit 75'
retries = 3
{common}
[tasks.bad]
shell = '. ./says; test -e mended || exit 65'
{common}
[tasks.long]
shell = '. ./says; test -e mended || sleep 600'
{common}
"""
COMMON = """
cwd = "{base}"
delivery = "{delivery}"
backoff = {{base = 0}}
"""
SAYS = """
echo "$CRONQ_JOB_ID $CRONQ_ATTEMPT$(ls mended 2>&-)" >> ledger
echo "out $CRONQ_JOB_ID"
"""
ONCE, LEAST = "at-most-once", "at-least-once"


class Path(NamedTuple):
    """One story, and the programs that it is interrupted in."""

    story: Callable[["Told"], None]
    programs: tuple[str, ...] = ("dispatcher", "worker")
    deliveries: tuple[str, ...] = (LEAST, ONCE)
    late: bool = False  # it says itself from when on


class Told:
    """A story under way: its cell, and what was promised to whom."""

    def __init__(self, cell: Cell, delivery: str) -> None:
        self.cell = cell
        self.delivery = delivery
        self.promised: dict[str, set[str]] = {}  # by id, as what it may end
        self.submitted: list[tuple[int, str, str]] = []
        self.story = ""
        self.program = ""
        self.failing = False
        self.crashed = False  # a worker died while jobs ran, so nobody knows how often they did

    def job(self, *argv: str, ends: str = "done") -> str:
        """Submit one; its id, or "" where it was refused or killed. Of what was said yes to, how it must end."""
        code, out, err = self.cell.submit(*argv)
        self.submitted.append((code, out, err))
        if code == 0:
            self.promised[out] = set(ends.split())
            return out
        return ""

    def must_be_whole(self) -> None:
        """Raises `Damaged` where a job's file could not be read: it is kept, with the reason, and its story is over."""
        if self.failing and any(verdict.is_damaged(self, job) for job in self.promised):
            raise verdict.Damaged

    def until_ended(self, *jobs: str) -> None:
        """Wait until these have a result, whatever has to be started again meanwhile."""

        def over() -> bool:
            self.cell.keep_served()
            return all(not job or self.cell.result(job) for job in jobs)

        self.cell.until(over, f"{jobs} end")


def play(name: str, delivery: str, program: str, cell: Cell, failing: bool) -> list[str]:
    """Tell a story to its end; what is wrong then. `failing`: a call of `program` fails, else it is killed at one."""
    path = PATHS[name]
    common = COMMON.format(base=cell.base, delivery=delivery)
    (cell.config / "cronq.toml").write_text(CONFIG.format(common=common))
    (cell.base / "says").write_text(SAYS)
    told = Told(cell, delivery)
    if name != "submit_first":
        cell.make()
    told.story, told.program, told.failing = name, program, failing
    cell.armour.program = "" if path.late else program
    try:
        cell.watch = told.must_be_whole
        path.story(told)
        verdict.settle(told)
    except verdict.Damaged:
        return []
    return verdict.judge(told)


# ---------------------------------------------------------------- the stories


def submit_first(told: Told) -> None:
    """A first job, which makes the spool."""
    told.job("submit", "plain")
    told.cell.make()
    told.cell.serve()


def submit_data(told: Told) -> None:
    """A job with input too large for its file."""
    (told.cell.base / "input").write_bytes(b"x" * 100_000)
    told.job("submit", "--stdin", "input", "other")
    told.cell.serve()


def submit_named(told: Told) -> None:
    """A job whose name is chosen, and then the same again."""
    first = told.job("submit", "--name", "mine", "plain")
    told.cell.armour.program = ""
    code, out, _ = told.cell.submit("submit", "--name", "mine", "plain")
    if first:
        assert code == 73, (code, out)
    elif code == 0:
        told.promised[out] = {"done"}
    told.cell.serve()


def submit_batch(told: Told) -> None:
    """A file of lines."""
    (told.cell.base / "lines").write_text("a\nb\nc\n")
    told.job("submit", "--batch", "lines", "plain")
    told.cell.serve()


def run(told: Told) -> None:
    """Two jobs that lie there when the dispatcher starts, and one that comes then."""
    told.job("submit", "plain")
    told.job("submit", "plain", "two")
    told.cell.serve()
    told.job("submit", "--priority", "high", "plain", "three")


def data(told: Told) -> None:
    """A job with input of its own."""
    (told.cell.base / "input").write_bytes(b"x" * 100_000)
    told.job("submit", "--stdin", "input", "other")
    told.cell.serve()


def retry(told: Told) -> None:
    """A job that fails once, and is done then."""
    told.job("submit", "again")
    told.cell.serve()


def dead(told: Told) -> None:
    """A job that dies, and is revived when it has been mended."""
    job = told.job("submit", "bad", ends="dead done")
    told.cell.serve()
    told.until_ended(job)
    (told.cell.base / "mended").touch()
    if job:
        revive(told, job)


def revive(told: Told, job: str) -> None:
    """Have it tried again, until somebody says yes, or that it is dead no more: whoever was killed could not."""
    told.promised[job] = {"done"}

    def done() -> bool:
        told.cell.keep_served()
        return told.cell.result(job).get("state") == "done" or told.cell.command("retry", job)[0] in (0, 65)

    told.cell.until(done, f"{job} is revived")


def revived(told: Told) -> None:
    """A dead job that is revived while its queue is paused, and starts when it is resumed."""
    job = told.job("submit", "bad", ends="dead")
    told.cell.serve()
    told.until_ended(job)
    told.cell.ask("pause", "default")
    (told.cell.base / "mended").touch()
    revive(told, job)
    told.cell.ask("resume", "default")


def batch(told: Told) -> None:
    """A batch of three with a callback."""
    (told.cell.base / "lines").write_text("a\nb\nc\n")
    told.job("submit", "--batch", "lines", "--on-complete", "plain", "plain")
    told.cell.serve()


def unique(told: Told) -> None:
    """A delayed job that a newer one of its key replaces."""
    told.cell.serve()
    first = told.job("submit", "--unique", "k", "--delay", "10m", "plain", "old", ends="cancelled done")
    words = ("submit", "--unique", "k", "--on-conflict", "replace", "plain", "new")
    code, out, err = told.cell.submit(*words)
    told.submitted.append((code, out, err))
    if first:
        told.promised[first] = {"done", "cancelled"}
    if first and code:  # it was not replaced, perhaps
        told.cell.command("cancel", first)


def cancel(told: Told) -> None:
    """Jobs that are cancelled: one that waits, one that runs."""
    waits = told.job("submit", "--delay", "10m", "plain", ends="cancelled")
    runs = told.job("submit", "long", ends="cancelled dead")
    told.cell.serve()
    told.cell.until(lambda: told.cell.keep_served() or runs in told.cell.runs() or told.cell.result(runs), "it runs")
    for job in (waits, runs):
        if job:
            told.cell.until(lambda job=job: _cancelled(told, job), "it is cancelled")


def _cancelled(told: Told, job: str) -> bool:
    told.cell.keep_served()
    return (
        told.cell.result(job).get("state") in ("cancelled", "dead") or told.cell.command("cancel", "--now", job)[0] == 0
    )


def hold(told: Told) -> None:
    """A job that is held, edited, released; a queue that is paused and resumed."""
    job = told.job("submit", "--delay", "10m", "plain")
    told.cell.serve()
    if job:
        for words in (
            ("hold", job),
            ("edit", job, "--priority", "high"),
            ("release", job),
            ("pause", "default"),
            ("resume", "default"),
        ):
            told.cell.ask(*words, good=(0, 65))  # 65: it was done already, by whom was killed before he could say so
        told.cell.until(lambda: told.cell.keep_served() or told.cell.runs().get(job) or _now(told, job), "it starts")


def _now(told: Told, job: str) -> None:
    told.cell.command("start", "--now", job)


def depends(told: Told) -> None:
    """One job after another, and one that is skipped, revived with its parent."""
    parent = told.job("submit", "bad", ends="dead done")
    told.job("submit", "--after", parent, "plain", ends="skipped done") if parent else None
    told.cell.serve()
    told.until_ended(*told.promised)
    (told.cell.base / "mended").touch()
    told.promised = {job: {"done"} for job in told.promised}
    if parent:
        revive(told, parent)


def recover(told: Told) -> None:
    """Everything is killed while jobs run, are ready and wait; the next dispatcher is the one that is interrupted."""
    cell = told.cell
    ends = "dead done" if told.delivery == ONCE else "done"
    told.job("submit", "plain")
    long = told.job("submit", "long", ends=ends)
    told.job("submit", "--delay", "2s", "plain")
    cell.serve()
    cell.until(lambda: long in cell.runs() and len(cell.runs()) == 2, "they run")
    worker = _worker(cell)
    cell.end(cell.launcher)
    cell.end(worker)
    told.job("submit", "plain", "late")
    (cell.base / "mended").touch()
    told.crashed = True
    cell.armour.program = told.program
    cell.serve()


def _worker(cell: Cell) -> int:
    for line in cell.log.read_text().splitlines():
        if "event=worker-started" in line:
            return int(line.partition("pid=")[2].split()[0])
    raise AssertionError("no worker")


def prune(told: Told) -> None:
    """More results than are kept: the oldest go, what has not ended stays."""
    told.cell.serve()
    jobs = [told.job("submit", "plain", str(number)) for number in range(3)]
    waits = told.job("submit", "--delay", "10m", "plain")
    told.until_ended(*jobs)
    (told.cell.config / "cronq.toml").open("a").write("[retention]\nmax_results = 1\n")
    told.cell.end(told.cell.launcher)
    told.cell.armour.program = told.program
    told.cell.serve()
    soon = time.monotonic() + 2

    def gone() -> bool:
        told.cell.keep_served()
        if time.monotonic() > soon and told.failing:  # a round that failed is not gone again for ten minutes
            told.cell.end(told.cell.launcher)
            told.cell.serve()
        return len([job for job in jobs if told.cell.result(job)]) <= 1

    told.cell.until(gone, "they go")
    for job in jobs:
        told.promised.pop(job)
    told.cell.ask("cancel", waits)
    told.promised[waits] = {"cancelled"}


def reject(told: Told) -> None:
    """A file that is no job, beside one that is."""
    inbox = told.cell.spool / "in" / str(UID)
    (inbox / "odd.job").write_text('{"comand": ["true"]}')
    told.job("submit", "plain")
    told.cell.serve()
    reason = told.cell.spool / "rejected" / str(UID) / "odd.job.reason"
    told.cell.until(lambda: told.cell.keep_served() or reason.exists(), "it is refused")


def table(told: Told) -> None:
    """A crontab that is installed, and whose line runs when the machine comes up."""
    tab = f'@reboot echo "$LOGNAME-boot 1" >> {told.cell.ledger}\n'
    (told.cell.spool / "in" / str(UID) / "a.tab").write_text(tab)
    told.cell.serve()
    told.job("submit", "plain")
    installed = told.cell.spool / "schedule" / "tables" / str(UID)
    told.cell.until(lambda: told.cell.keep_served() or installed.exists(), "it is installed")


ALL = ("dispatcher", "worker", "launcher")
PATHS = {
    "submit_first": Path(submit_first, ("submit",)),
    "submit_data": Path(submit_data, ("submit",)),
    "submit_named": Path(submit_named, ("submit",)),
    "submit_batch": Path(submit_batch, ("submit",)),
    "run": Path(run, ALL),
    "data": Path(data),
    "retry": Path(retry),
    "dead": Path(dead),
    "revived": Path(revived, ("dispatcher",)),
    "batch": Path(batch),
    "unique": Path(unique, ("dispatcher",)),
    "cancel": Path(cancel),
    "hold": Path(hold, ("dispatcher",)),
    "depends": Path(depends),
    "recover": Path(recover, ALL, late=True),
    "prune": Path(prune, ("dispatcher",), deliveries=(LEAST,), late=True),
    "reject": Path(reject, ("dispatcher",), deliveries=(LEAST,)),
    "table": Path(table, ("dispatcher",), deliveries=(LEAST,)),
}
