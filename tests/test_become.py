"""Becoming somebody: who may have jobs, and that nothing of root is left of who has become another.

Each test is a process of its own on a machine aside: it becomes whom it likes, and has the accounts to itself.
"""

import ctypes
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from aside import ANN, BOB, CRONQ, EVE, GROUP, MAL, NOBODY, SHADOW, add, aside, fresh_machine

from cronq import become
from cronq.become import DAY, Account, Barred

pytestmark = pytest.mark.root

OURS = Account("cronq", CRONQ, CRONQ, [])
NEW = 52010
KEEP_CAPABILITIES = 8  # PR_SET_KEEPCAPS of prctl(2)
STAFF = 50
_libc = ctypes.CDLL(None, use_errno=True)


def shadow(name: str, hashed: str = "*", expires: object = "") -> None:
    """What shadow says of this account, instead of what it said."""
    lines = [line for line in SHADOW.splitlines(keepends=True) if not line.startswith(f"{name}:")]
    Path("/etc/shadow").write_text("".join(lines) + f"{name}:{hashed}:20000:::::{expires}:\n")


def barred(uid: int) -> Barred:
    """The refusal of this user."""
    with pytest.raises(Barred) as caught:
        become.account(uid, OURS)
    return caught.value


# -------------------------------------------------------------------- who may


@aside
def test_an_account_is_known_with_the_groups_that_it_has_now():
    found = become.account(ANN, OURS)
    assert (found.name, found.uid, found.gid, set(found.groups)) == ("ann", ANN, ANN, {ANN, STAFF})
    Path("/etc/group").write_text(GROUP.replace("staff:x:50:ann", "staff:x:50:"))
    assert become.account(ANN, OURS).groups == [ANN]


@aside
def test_who_has_no_account_is_told_to_the_administrator():
    refusal = barred(NOBODY)
    assert f"uid {NOBODY} has no account" in refusal.sentence
    assert refusal.hold


@aside
@pytest.mark.parametrize("uid", [CRONQ, EVE, MAL])
def test_cronq_and_whoever_is_of_its_group_is_barred(uid):
    assert "is of the group cronq, which must have no members; gpasswd -d" in barred(uid).sentence


@aside
@pytest.mark.parametrize("password", ["!$y$j9T$x", "!!$y$j9T$x", "!x"])
def test_a_password_that_was_locked_bars_its_account(password):
    shadow("ann", password)
    assert barred(ANN).sentence == "the account ann is locked; usermod -U ann"
    assert become.account(BOB, OURS).name == "bob"


@aside
@pytest.mark.parametrize("password", ["", "*", "!", "!!", "!*", "$y$j9T$x", "x!"])
def test_an_account_that_never_had_a_password_or_has_one_is_usable(password):
    shadow("ann", password)
    assert become.account(ANN, OURS).name == "ann"


@aside
@pytest.mark.parametrize(("days", "usable"), [(-1, False), (0, False), (1, True), (1000, True)])
def test_an_account_is_expired_from_its_day_on(days, usable):
    noon = 20_000 * DAY + DAY / 2
    shadow("ann", expires=20_000 + days)
    if usable:
        become.must_be_usable("ann", noon)
    else:
        with pytest.raises(Barred, match="the account ann has expired; chage -E -1 ann"):
            become.must_be_usable("ann", noon)


@aside
def test_an_account_that_shadow_does_not_know_is_usable():
    add("/etc/passwd", f"new:x:{NEW}:{NEW}::/:/bin/sh\n")
    assert become.account(NEW, OURS).name == "new"


@aside
def test_a_machine_without_shadow_has_usable_accounts():
    fresh_machine()
    Path("/etc/shadow").unlink()
    assert become.account(ANN, OURS).name == "ann"


@aside
def test_where_shadow_cannot_be_read_nobody_is_usable():
    os.setresuid(BOB, BOB, BOB)
    with pytest.raises(PermissionError, match="shadow cannot be asked for ann"):
        become.must_be_usable("ann", time.time())


@aside
def test_a_name_beyond_ascii_is_judged_like_any_other():
    add("/etc/passwd", f"jörg:x:{NEW}:{NEW}::/:/bin/sh\n")
    assert become.account(NEW, OURS).name == "jörg"
    shadow("jörg", "!$y$x")
    assert barred(NEW).sentence == "the account jörg is locked; usermod -U jörg"


@aside
def test_what_shadow_holds_of_others_is_not_in_memory_afterwards():
    # Written by others: this process must not have it from the test.
    long = f"printf 'eve:$y${'x' * 100}%s%s:20000::::::\\n' EVES SECRET; grep -v ^eve: /etc/shadow"
    subprocess.run(["sh", "-c", f"{{ {long}; }} > /mnt/s; cat /mnt/s > /etc/shadow"], check=True)
    assert become.account(ANN, OURS).name == "ann"
    assert not _in_memory(rb"EVES[S]ECRET")
    become._unusable("ann", time.time())  # asked in this process, libc keeps what it has read
    assert _in_memory(rb"EVES[S]ECRET")


def _in_memory(pattern: bytes) -> bool:
    """Whether something that the pattern means (and its own text is not) is in this process's memory."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in [line for line in maps if line.split()[1].startswith("rw")]:
            low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
            memory.seek(low)
            if re.search(pattern, memory.read(high - low)):
                return True
    return False


# -------------------------------------------------------------------- the drop


def drop(uid: int) -> Account:
    who = become.account(uid, OURS)
    become.drop(who)
    return who


def status(*keys: str) -> list[str]:
    rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return [rows[key].strip() for key in keys]


@aside
def test_who_was_dropped_is_that_user_with_his_groups_and_nothing_of_roots():
    os.setgroups([0, 4, STAFF])
    drop(ANN)
    assert os.getresuid() == (ANN,) * 3
    assert os.getresgid() == (ANN,) * 3
    assert set(os.getgroups()) == {ANN, STAFF}
    assert {int(each, 16) for each in status("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    for back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        with pytest.raises(PermissionError):
            back()


@aside
def test_root_as_a_jobs_user_has_roots_groups_and_all_that_root_may():
    os.setgroups([4, STAFF])
    who = drop(0)
    assert (os.getresuid(), os.getresgid()) == ((0,) * 3, (0,) * 3)
    assert set(os.getgroups()) == set(who.groups)
    assert int(status("CapEff")[0], 16) != 0
    path = Path("/mnt/given")
    path.touch()
    os.chown(path, ANN, ANN)


@aside
@pytest.mark.parametrize(
    "half",
    [
        lambda: (os.setgroups([ANN, STAFF, 4]), os.setresgid(*[ANN] * 3), os.setresuid(*[ANN] * 3)),
        lambda: (os.setgroups([ANN]), os.setresgid(*[ANN] * 3), os.setresuid(*[ANN] * 3)),
        lambda: (os.setgroups([ANN, STAFF]), os.setresgid(ANN, ANN, 0), os.setresuid(*[ANN] * 3)),
        lambda: (os.setgroups([ANN, STAFF]), os.setresgid(*[BOB] * 3), os.setresuid(*[ANN] * 3)),
        lambda: (os.setgroups([ANN, STAFF]), os.setresgid(*[ANN] * 3), os.setresuid(ANN, ANN, 0)),
        lambda: (os.setgroups([ANN, STAFF]), os.setresgid(*[ANN] * 3), os.setresuid(*[BOB] * 3)),
        lambda: None,
    ],
    ids=["a group too many", "a group too few", "saved gid", "another gid", "saved uid", "another uid", "nothing done"],
)
def test_a_drop_by_half_is_found_out(half):
    who = become.account(ANN, OURS)
    half()
    with pytest.raises(PermissionError, match="the drop to ann left "):
        become.verify(who)


@aside
def test_a_capability_that_outlives_the_change_of_uid_is_found_out():
    who = become.account(ANN, OURS)
    assert _libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0) == 0
    os.setgroups(who.groups)
    os.setresgid(*[ANN] * 3)
    os.setresuid(*[ANN] * 3)
    with pytest.raises(PermissionError, match="the drop to ann left capabilities: CapPrm"):
        become.verify(who)


@aside
def test_where_the_kernel_does_not_tell_the_capabilities_nobody_is_taken_for_dropped():
    who = become.account(ANN, OURS)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
    Path("/proc/self").mkdir()
    Path("/proc/self/status").write_text("Name:\tpython\n")
    with pytest.raises(PermissionError, match="does not tell the capabilities"):
        become.drop(who)
