"""Installed tables, as the dispatcher keeps them: replaced, kept, put back, and whole whatever kills it in between."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from bench import Bench

from cronq import installed, job, tabrules
from cronq.house import Now

UID = os.getuid()


class Stand(Bench):
    """A bench whose dispatcher takes up what the one before it left."""

    def begin(self) -> None:
        super().begin()
        installed.recover(self.house)

    def turns(self, until=lambda: True) -> None:
        """Turns until this is so, and nothing is being judged."""
        end = time.monotonic() + 60
        while True:
            self.turn(time.time())
            if until() and not self.house.judging and not self.house.looks:
                return
            assert time.monotonic() < end

    def drop(self, text: str | bytes, name: str | None = None) -> str:
        """Put a table into the inbox as `cronq crontab` does; its name."""
        name = name or job.new_name()
        draft = self.inbox / f".{name}.tmp"
        draft.write_bytes(text if isinstance(text, bytes) else text.encode())
        draft.rename(self.inbox / f"{name}.tab")
        return name

    def install(self, text: str | bytes, name: str | None = None) -> str:
        found = self.drop(text, name)
        self.turns()
        return found

    def act(self, what, *more) -> bool:
        done = what(self.house, Now(time.time(), time.monotonic()), UID, *more)
        self.turns()
        return done

    @property
    def inbox(self) -> Path:
        return self.root / "in" / str(UID)

    @property
    def tables(self) -> dict[str, str]:
        """What lies in schedule/tables, by what comes behind the uid."""
        folder = self.root / "schedule" / "tables"
        return {path.name.removeprefix(str(UID)): path.read_text() for path in sorted(folder.iterdir())}

    @property
    def copy(self) -> str | None:
        path = self.root / "out" / str(UID) / "crontab"
        return path.read_text() if path.exists() else None

    def reason(self, name: str) -> str:
        return (self.root / "rejected" / str(UID) / f"{name}.tab.reason").read_text()

    def history(self) -> list[dict]:
        lines = [line for path in (self.root / "history").iterdir() for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]


@pytest.fixture
def stand(tmp_path):
    found = Stand(tmp_path, UID)
    yield found
    found.close()


def line(number: int) -> str:
    return f"{number} * * * * x\n"


# ---------------------------------------------------------------- what becomes of a table


def test_a_table_is_installed_and_its_user_can_read_it(stand):
    stand.install(line(1))
    assert stand.tables == {"": line(1)}
    assert stand.copy == line(1)
    assert os.listdir(stand.root / "queue" / ".capture") == []
    (move,) = stand.history()
    assert (move["id"], move["from"], move["to"]) == (f"{UID}-crontab", "queued", "installed")


def test_what_it_replaces_is_kept_the_newest_first_and_ten_at_most(stand):
    for number in range(13):
        stand.install(line(number))
    assert stand.tables == {"": line(12)} | {f".{back}": line(12 - back) for back in range(1, 11)}
    assert stand.copy == line(12)


def test_the_same_table_once_more_pushes_nothing_out(stand):
    stand.install(line(1))
    stand.install(line(2))
    for _ in range(3):
        stand.install(line(2))
    assert stand.tables == {"": line(2), ".1": line(1)}
    assert os.listdir(stand.root / "queue" / ".capture") == []


def test_the_installed_file_is_the_users_own_and_was_never_copied(stand):
    name = stand.drop(line(1))
    before = (stand.inbox / f"{name}.tab").stat()
    stand.turns()
    after = (stand.root / "schedule" / "tables" / str(UID)).stat()
    assert (before.st_ino, before.st_uid, before.st_mtime_ns) == (after.st_ino, after.st_uid, after.st_mtime_ns)
    assert after.st_nlink == 1


def test_a_removed_table_is_kept_and_comes_back(stand):
    stand.install(line(1))
    assert stand.act(installed.remove)
    assert (stand.tables, stand.copy) == ({".1": line(1)}, None)
    assert not stand.act(installed.remove)
    assert stand.act(installed.undo, 1)
    assert (stand.tables, stand.copy) == ({"": line(1)}, line(1))


def test_undo_puts_back_the_one_before_and_undone_again_the_other(stand):
    for number in range(4):
        stand.install(line(number))
    assert stand.act(installed.undo, 1)
    assert stand.tables == {"": line(2), ".1": line(3), ".2": line(1), ".3": line(0)}
    assert stand.act(installed.undo, 1)
    assert stand.tables == {"": line(3), ".1": line(2), ".2": line(1), ".3": line(0)}
    assert stand.act(installed.undo, 3)
    assert stand.tables == {"": line(0), ".1": line(3), ".2": line(2), ".3": line(1)}
    assert stand.copy == line(0)
    assert not stand.act(installed.undo, 4)
    assert not stand.act(installed.undo, 0)


def test_tables_are_installed_in_the_order_in_which_they_came_however_long_one_takes(stand):
    slow = "".join(line(number % 60) for number in range(tabrules.MAX_LINES))
    stand.drop(slow)
    stand.drop(line(1))
    stand.drop(line(2))
    stand.turns(lambda: stand.copy == line(2))
    assert stand.tables == {"": line(2), ".1": line(1), ".2": slow}


def test_of_one_user_a_single_table_is_in_memory(stand):
    for number in range(5):
        stand.drop(f"{number} * * * * x\n" * 5000)
    stand.turn(time.time())
    assert len(stand.house.judging) == 1
    stand.turns(lambda: ".4" in stand.tables)


def test_a_long_table_is_judged_in_slices(stand):
    stand.drop("".join(line(number % 60) for number in range(tabrules.MAX_LINES)))
    turns = []
    while stand.copy is None:
        began = time.process_time()
        stand.turn(time.time())
        turns.append(time.process_time() - began)
    assert max(turns) < sum(turns) / 3


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"61 * * * * x\n", '"%s.tab":1: bad minute\nerrors in crontab file'),
        (b"5 * * * * x\n\n5 * * * 9 x\nfoo\n", '"%s.tab":3: bad day-of-week\n"%s.tab":4: bad minute\n'),
        (b"5 * * * * x", "new crontab file is missing newline before EOF"),
        (b"5 * * * * \0\n", "NUL byte"),
        (b"\n" * 10_001, "crontab is too long; maximum number of lines is 10000."),
        (b"#" * 20_000 + b"\n", "line 1 of the crontab is too long"),
        (b"#" * 1000 + b"\n" * 2 + (b"#" * 1000 + b"\n") * 5000, "crontab is too large"),
        (b"1," * 8192 + b" * * * * x\n", "line 1 of the crontab is too long"),
        (b"# cronq: nmae=x\n5 * * * * x\n", '"%s.tab":1: '),
    ],
)
def test_a_bad_table_is_refused_with_all_reasons_and_the_one_in_use_stays(stand, table, why):
    stand.install(line(1))
    name = stand.install(table)
    assert why.replace("%s", name) in stand.reason(name)
    assert stand.reason(name).endswith("\nexit 65\n")
    assert (stand.root / "rejected" / str(UID) / f"{name}.tab").read_bytes() == table
    assert (stand.tables, stand.copy) == ({"": line(1)}, line(1))


def test_a_thousand_errors_are_not_all_told(stand):
    name = stand.install("61 * * * * x\n" * 1000)
    assert "… and 981 more" in stand.reason(name)
    assert len(stand.reason(name)) < 3000


def test_a_table_that_somebody_is_writing_under_its_own_name_is_waited_for(stand):
    path = stand.inbox / "mine.tab"
    with path.open("w") as file:
        file.write("5 * * * *")
        file.flush()
        stand.turn(time.time())
        assert stand.tables == {}
        file.write(" x\n")
    stand.turns(lambda: stand.copy is not None)
    assert stand.tables == {"": "5 * * * * x\n"}


def test_a_table_that_has_outgrown_all_bounds_is_not_waited_for(stand):
    stand.drop(b"#" * (5 << 20), "mine")
    stand.turn(time.time())  # whoever writes one under its own name has ten seconds for the rest
    assert "crontab is too large" in stand.reason("mine")


def test_a_symbolic_link_is_no_table(stand):
    secret = stand.root / "secret"
    secret.write_text("5 * * * * secret\n")
    (stand.inbox / "mine.tab").symlink_to(secret)
    stand.turns()
    assert "symbolic link" in stand.reason("mine")
    assert (stand.tables, stand.copy) == ({}, None)


# ---------------------------------------------------------------- what a crash leaves


class Killed:
    """Dies by SIGKILL before its n-th change of the disk; until then it counts them."""

    CALLS = ("rename", "unlink", "fsync", "utime")

    def __init__(self, number: int) -> None:
        self.left = number

    def wrap(self) -> None:
        for name in self.CALLS:
            setattr(os, name, self._dying(getattr(os, name)))

    def _dying(self, real):
        def call(*args, **named):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call


def run_killed(stand, act, number: int) -> bool:
    """Let a fork of this process act, and die before its n-th change; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Killed(number).wrap()
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


NEW = line(59)
ACTS = {  # what is done -> table and earlier ones then, where there were so many before
    "install": lambda before: [NEW, *before][:11],
    "remove": lambda before: ["", *before][:11],
    "undo": lambda before: [before[1], before[0], *before[2:]],
    "undo 3": lambda before: [before[3], *before[:3], *before[4:]],
}


@pytest.mark.parametrize(
    ("what", "count"),
    [("install", 1), ("install", 4), ("install", 11), ("remove", 1), ("remove", 11), ("undo", 4), ("undo 3", 11)],
)
def test_killed_before_any_change_of_the_disk_it_is_as_before_or_as_after(tmp_path, what, count):
    before = [line(number) for number in range(count)]
    number = 0
    while True:
        number += 1
        (tmp_path / str(number)).mkdir()
        stand = Stand(tmp_path / str(number), UID)
        for back, text in enumerate(before):
            path = stand.root / "schedule" / "tables" / (f"{UID}.{back}" if back else str(UID))
            path.write_text(text)
        installed.recover(stand.house)
        expected = [before, before[:10], ACTS[what](before)]  # the eleventh may be gone already
        if what == "install":
            stand.drop(NEW)
        was_killed = run_killed(stand, lambda stand=stand: _act(stand, what), number)
        stand.restart()
        stand.turns()  # what was captured is judged again
        if what == "install":
            stand.house.looks |= dict.fromkeys(stand.house.shelves.captured(), 0.0)
            stand.turns()
            expected = expected[2:]  # the producer was told yes
        found = _content(stand)
        stand.close()
        assert found in expected, number
        assert stand.copy == (_content(stand)[0] or None), number
        if not was_killed:
            assert found == expected[-1]
            assert number > (2 if what == "remove" else 4)
            return


def _act(stand: Stand, what: str) -> None:
    if what == "install":
        stand.turns()
    elif what == "remove":
        stand.act(installed.remove)
    else:
        stand.act(installed.undo, 3 if "3" in what else 1)


def _content(stand: Stand) -> list[str]:
    """The table ("" where there is none) and the earlier ones, in order; a gap between them is none."""
    tables = stand.tables
    assert ".0" not in tables
    return [tables.pop("", ""), *(tables[key] for key in sorted(tables, key=lambda key: int(key[1:])))]


def test_a_copy_that_is_not_of_the_table_is_made_anew_and_one_of_none_goes(stand):
    stand.install(line(1))
    path = stand.root / "out" / str(UID) / "crontab"
    path.write_text("5 * * * * older\n")
    stranger = stand.root / "out" / "4001"
    stranger.mkdir()
    (stranger / "crontab").write_text("5 * * * * gone\n")
    stand.restart()
    assert stand.copy == line(1)
    assert not (stranger / "crontab").exists()


def test_a_full_disk_installs_nothing_and_the_table_comes_when_there_is_room(stand, monkeypatch):
    stand.install(line(1))
    real = installed.write_all

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(installed, "write_all", refuse)
    stand.drop(line(2))
    stand.turn(time.time())
    stand.turn(time.time())
    assert (stand.tables, stand.copy) == ({"": line(1)}, line(1))
    monkeypatch.setattr(installed, "write_all", real)
    stand.turns(lambda: stand.copy == line(2))
    assert stand.tables == {"": line(2), ".1": line(1)}


def test_the_copy_is_for_reading_only_and_flushed_before_anybody_is_told(stand, monkeypatch):
    flushed: list[str] = []
    real = stand.house.shelves._flush
    monkeypatch.setattr(stand.house.shelves, "_flush", lambda folder: (flushed.append(folder), real(folder)))
    stand.install(line(1))
    assert stat.S_IMODE((stand.root / "out" / str(UID) / "crontab").stat().st_mode) == 0o644
    assert {"schedule/tables", "queue/.capture", f"out/{UID}"} <= set(flushed)
    assert flushed.index("schedule/tables") < flushed.index("queue/.capture")
