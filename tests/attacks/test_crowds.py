"""Too much of everything (trust.md row 12): what one user has in quantity costs him, and bob's jobs start as ever.

Each quantity is such that the dispatcher as it was before its mend, or without its bound, would stand still for
seconds. With CRONQ_LONG=1 they are what was found first.
"""

import os

import pytest
from conftest import eventually
from machine import SPOOL

pytestmark = pytest.mark.root
LONG = bool(os.environ.get("CRONQ_LONG"))
HOUR = 3600.0


FLOOD = """
import sys
for number in range(int(sys.argv[1])):
    with open(f"f{number}.job", "w") as file:
        file.write('{"command": ["true"], "at": "2099-01-01"}' if number % 2 else "{}")
"""


def test_a_flood_of_one_user_does_not_reach_another(siege):
    with siege.asleep():
        siege.run("ann", FLOOD, 2_500)
    siege.unharmed(lasting=1)
    if LONG:
        flood = siege.begin("ann", FLOOD, 200_000)
        while flood.poll() is None:
            siege.unharmed(times=1)


def test_who_has_many_jobs_that_last_leaves_room_for_the_next_user(siege):
    siege.put("ann", "many", b'{"command": ["sleep", "60"]}\n' * 200, ending="jobs", age=HOUR)
    eventually(lambda: list((SPOOL / "out/2001").glob("*many+*")))
    siege.unharmed()


def test_junk_in_hello_holds_up_no_newcomer(siege):
    """What only its owner can take away is looked at, all of it, time and again: nobody knows what lies behind."""
    code = """
import os
os.chdir("/var/spool/cronq/hello")
for number in range(600):
    os.mkdir(f"d{number}")
    open(f"d{number}/x", "w").close()
    if number < 100:
        os.symlink("/etc", f"l{number}")
        os.mkfifo(f"p{number}")
"""
    newcomers = [3, 5, 6, 7, 8, 9, 10]  # Debian's sys, games, man, lp, mail, news, uucp
    with siege.asleep():
        siege.run("ann", code)
        for uid in newcomers:
            wish = SPOOL / "hello" / f"wish{uid}"
            wish.touch()
            os.chown(wish, uid, uid)
    siege.machine.cronq("carl", "exec", "--wait", "--", "true")
    eventually(lambda: all((SPOOL / "in" / str(uid)).exists() for uid in newcomers))
    siege.unharmed()


def test_a_batch_of_line_ends_holds_up_nobody(siege):
    siege.put("ann", "blank", b"\n" * (200 << 20 if LONG else 60 << 20), ending="jobs")
    siege.unharmed(lasting=0.5)
    assert "blank lines in a row" in siege.machine.rejected("ann", "blank", "jobs")


def test_a_batch_is_judged_in_slices(siege):
    siege.put(
        "ann", "long", b'{"command": ["true"], "at": "2099-01-01"}\n' * (500_000 if LONG else 60_000), ending="jobs"
    )
    siege.unharmed(lasting=0.5)


def test_many_batches_are_judged_a_slice_of_each_user_a_turn(siege):
    code = """
import os, sys
line = b'{"command": ["true"], "at": "2099-01-01"}\\n'
for number in range(int(sys.argv[1])):
    with open(".tmp", "wb") as file:
        file.write(line * int(sys.argv[2]))
    os.rename(".tmp", f"b{number}.jobs")
"""
    with siege.asleep():
        siege.run("ann", code, 250, 20_000 if LONG else 4_000)
    siege.unharmed(lasting=0.5)


def test_files_that_stay_half_written_are_looked_at_in_slices(siege):
    """Ann still has them open, and makes each as dear to look at as one can be: all of it is read and counted."""
    code = """
import os
names = [f"h{number}.job" for number in range(250)]
kept = [os.open(name, os.O_CREAT | os.O_WRONLY, 0o640) for name in names]
while any(os.path.exists(name) for name in names):
    pass
for descriptor in kept:
    os.pwrite(descriptor, b'{"args": [' + b"[]," * 20_000, 0)
"""
    siege.run("ann", code)
    siege.unharmed(lasting=1)


def test_what_lies_behind_names_of_junk_is_seen(siege):
    code = """
import os, sys
for number in range(int(sys.argv[1])):
    os.close(os.open(f"j{number}.txt", os.O_CREAT | os.O_WRONLY, 0o640))
"""
    with siege.asleep():
        siege.run("ann", code, 100_000 if LONG else 4_000)
        for number in range(8):
            siege.put("ann", f"behind{number}", {"command": ["true"]})
    for number in range(8):
        assert siege.machine.result(siege.job_id("ann", f"behind{number}"))["state"] == "done"
    siege.unharmed()


def test_a_file_of_the_future_is_not_young_for_ever(siege):
    """It may still be being written only if that was a moment ago."""
    siege.put("ann", "half", b"{", age=-HOUR)
    siege.put("ann", "batch", b'{"command": ["true"]}\n', ending="jobs", age=-HOUR)
    siege.put("ann", "short", b'{"jobs": 2}\n{"command": ["true"]}\n', ending="jobs", age=-HOUR)
    assert "not JSON" in siege.machine.rejected("ann", "half")
    assert "but has 1" in siege.machine.rejected("ann", "short", "jobs")
    assert siege.machine.result(siege.job_id("ann", "batch"))["state"] == "done"


def test_no_directory_of_a_users_ever_leaves_his_inbox(siege):
    for name in ("a.job", "b.jobs", "c.data"):
        place = siege.inbox() / name
        place.mkdir()
        os.chown(place, 2001, -1)
        place.chmod(0o2777)  # so that cronq, too, could move it
    siege.put("ann", "c", {"command": ["cat"], "delay": "1s"})
    for name, ending in (("a", "job"), ("b", "jobs"), ("c", "job")):
        assert "directory" in siege.machine.rejected("ann", name, ending)
    siege.unharmed()
    assert {path.name for path in siege.inbox().iterdir()} == {"a.job", "b.jobs", "c.data"}


SWAP = """
import ctypes, os, sys, time
exchange = ctypes.CDLL(None).renameat2

def make_folder(name):
    os.mkdir(name)
    os.chmod(name, 0o777)

def make_file(name):
    with open(".s.tmp", "w") as file:
        file.write("{}")
    os.rename(".s.tmp", name)

make_folder("d")
make_file("s.job")
end = time.monotonic() + float(sys.argv[1])
tries = 0
while time.monotonic() < end or tries <= 5:
    if exchange(-100, b"s.job", -100, b"d", 2) == 0:  # RENAME_EXCHANGE
        continue
    tries += 1
    if os.path.isdir("d"):
        make_file("s.job")
        continue
    soon = time.monotonic() + 0.05  # it is given back
    while not os.path.exists("s.job") and time.monotonic() < soon:
        pass
    if not os.path.exists("s.job"):
        make_folder("s.job")
print(tries)
"""


def test_a_directory_that_takes_a_files_place_in_the_last_moment_stays_where_it_was(siege):
    swapper = siege.begin("ann", SWAP, 30 if LONG else 1)
    while swapper.poll() is None:
        siege.unharmed(times=1)
    assert int(swapper.stdout.read()) > 5
    places = [path for path in SPOOL.rglob("*") if path.is_dir() and path.stat().st_uid == 2001]
    assert {path.parent for path in places} <= {siege.inbox(), siege.inbox().parent}
