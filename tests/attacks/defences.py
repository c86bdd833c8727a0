"""Whether each defence is held by its attack: `make defences` takes one away at a time, and sees the attack succeed.

Does:    reads the tables in `defences/`; runs every attack that they name against cronq as it is: all must fail, so the
         tests are green; then, for each defence, copies the tree, takes that defence out of the copy and runs its
         attack: the test must be red, for the reason that the table says.
Reads:   this working tree. A table is TOML: for each defence its row in the list of threats, what it is, the test, some
         words of the failure (`red`), and changes: a file, an old text that is in it once, and the new text.
Writes:  a directory of its own below /var/tmp, with the copy and an environment that takes `cronq` from the copy, also
         for `python -I`; what tests install under /opt is built from the copy, since they build from where they lie.
Fails:   with one sentence for each defence that is not there any more, or that no test misses; then it ends with 1.

    python tests/attacks/defences.py [WORD…]    only the defences with one of these words in them (`row 3:`, a test)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TABLES = Path(__file__).resolve().parent / "defences"
LONGEST = 60  # seconds for one test: an attack that succeeds may well hang what it attacks
NOT_COPIED = (".*cache", "__pycache__", ".git", ".venv", ".hypothesis", "dist")
# A mutant that cannot run proves nothing.
BROKEN = ("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError")


class Stale(Exception):
    """A table does not fit the code any more."""


@dataclass(frozen=True)
class Change:
    """A text in one file of the tree, and what stands in its place where the defence is taken away."""

    file: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        """Change the file. Raises `Stale`."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (count := text.count(self.old)) != 1:
            raise Stale(f"{self.file} has this text {count} times, and must have it once:\n{self.old}")
        changed = text.replace(self.old, self.new)
        try:
            compile(changed, self.file, "exec")
        except SyntaxError as error:
            raise Stale(f"{self.file} is no Python any more when it is changed: {error}") from None
        path.write_text(changed, encoding="utf-8")


@dataclass(frozen=True)
class Defence:
    """One defence; of several that stand in for each other all changes together."""

    table: str
    row: int
    what: str
    test: str
    red: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"row {self.row:2}: {self.what}"

    def take_away(self, tree: Path) -> None:
        """Change a copy of the tree. Raises `Stale`."""
        for change in self.changes:
            change.apply(tree)

    def matches(self, words: list[str]) -> bool:
        text = f"{self.table} row {self.row}: {self.what} {self.test}"
        return not words or any(word in text for word in words)


def table() -> list[Defence]:
    """All defences, as they stand in the tables."""
    found = []
    for path in sorted(TABLES.glob("*.toml")):
        for each in tomllib.loads(path.read_text(encoding="utf-8"))["defence"]:
            changes = tuple(Change(**change) for change in each.pop("change"))
            found.append(Defence(table=path.stem, changes=changes, **each))
    return sorted(found, key=lambda defence: defence.row)


class Scratch:
    """A copy of the tree, and an environment whose `cronq` is the copy's."""

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        self.report = place / "report.xml"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
        self.python = place / "venv" / "bin" / "python"
        ours = [entry for entry in sys.path if entry.endswith("site-packages")]
        # By lines of a .pth, which also `python -I` reads; the .pth files of ours are not, and one of them is cronq's.
        site = next((place / "venv" / "lib").glob("python*/site-packages"))
        (site / "copy.pth").write_text("\n".join([str(self.tree), *ours]) + "\n")

    def renew(self) -> Path:
        """The tree once more as it is; a new one each time, since bytecode is compared by seconds."""
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(REPOSITORY, self.tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return self.tree

    def run(self, *tests: str) -> tuple[str, str]:
        """Run tests in the copy: what came of them (green, red, skipped or broken), and the words that say why."""
        self.report.unlink(missing_ok=True)
        argv = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={LONGEST}"]
        done = subprocess.run(
            [*argv, f"--junitxml={self.report}", *tests], cwd=self.tree, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1) or not self.report.exists():
            return "broken", done.stdout[-2000:] + done.stderr[-2000:]
        cases = list(ET.parse(self.report).getroot().iter("testcase"))  # noqa: S314 - pytest has just written it
        for verdict, tag in (("broken", "error"), ("red", "failure"), ("skipped", "skipped")):
            if texts := list(_texts(cases, tag)):
                return verdict, "\n".join(texts)
        return ("green", "") if cases else ("broken", "no such test")


def _texts(cases: list[ET.Element], tag: str) -> Iterator[str]:
    """Why tests failed: their names, and what the assertion said."""
    for case in cases:
        for found in case.iter(tag):
            said = "\n".join(row for row in (found.text or "").splitlines() if row.startswith("E  "))
            yield f"{case.get('name')}: {found.get('message')}\n{said}"


def check(scratch: Scratch, defence: Defence) -> str:
    """Take one defence away: why that does not do what the table says; "" if it does."""
    try:
        defence.take_away(scratch.renew())
    except Stale as error:
        return f"is not there any more: {error}"
    verdict, why = scratch.run(defence.test)
    if verdict == "green":
        return f"is missed by nobody: {defence.test} passes without it"
    if verdict != "red":
        return f"cannot be tried, its test is {verdict}: {why}"
    if any(word in why for word in BROKEN):
        return f"leaves a program behind that cannot run: {why}"
    if defence.red not in why:
        return f"is missed for another reason than {defence.red!r}: {why}"
    return ""


def main(words: list[str]) -> int:
    wanted = [defence for defence in table() if defence.matches(words)]
    if not wanted:
        print("no such defence", file=sys.stderr)
        return 1
    os.environ.pop("CRONQ_LONG", None)  # the slice of `make test` is what must turn red
    place = Path(tempfile.mkdtemp(prefix="cronq-defences-", dir="/var/tmp"))
    bad = 0
    try:
        scratch = Scratch(place)
        scratch.renew()
        verdict, why = scratch.run(*sorted({defence.test for defence in wanted}))
        if verdict != "green":
            print(f"with every defence in its place the tests are {verdict}: {why}", file=sys.stderr)
            return 1
        for defence in wanted:
            begun = time.monotonic()
            problem = check(scratch, defence)
            bad += bool(problem)
            word = "BAD" if problem else "red"
            print(f"{word} {time.monotonic() - begun:5.1f} s  {defence}{problem and f' {problem}'}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"{len(wanted) - bad} of {len(wanted)} defences are held by their attacks")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
