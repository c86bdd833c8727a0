"""`cronq doctor` on a system spool, by root and by a user: it finds each fault, and nobody leads root anywhere."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from machine import CONFIG, SPOOL

from cronq import acl
from cronq.doorbell import Doorbell

TASKS = '[tasks.resize]\ncommand = ["true"]\nuser = "ann"\nsubmit = ["bob", "@crew"]\n'


def doctor(machine, user, code):
    done = machine.cronq(user, "doctor", code=code)
    return done.stdout


def failures(machine, user="root"):
    return [line for line in doctor(machine, user, 1).splitlines() if line.startswith("fail")]


def test_two_crons_of_one_machine_are_told(machine):
    machine.tasks("[cron]\nsystem = true\n")
    machine.start()
    assert "ok    cron: cronq runs the machine's crontabs" in doctor(machine, "root", 0)
    program = Path("/run/cron")
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as cron:
        Path("/run/crond.pid").write_text(f"{cron.pid}\n")
        (failure,) = failures(machine)
        cron.kill()
    assert f"fail  cron: cron (pid {cron.pid}) runs, and cronq runs the machine's crontabs too" in failure
    Path("/run/crond.pid").unlink()


@pytest.fixture
def served(machine):
    """A dispatcher that has served ann."""
    machine.tasks('[control]\noperators = "ops"\n' + TASKS)
    machine.start()
    machine.cronq("ann", "exec", "--wait", "--", "true")
    machine.cronq("ann", "exec", "--wait", "--expires", "2020-01-01T00:00:00Z", "--", "true", code=125)
    return machine


def test_a_sound_system_has_no_failure_for_anybody(served):
    found = doctor(served, "root", 0)
    assert not [line for line in found.splitlines() if line.split()[0] not in ("ok", "warn")]
    for words in (
        "ok    accounts: user and group cronq are",
        f"ok    spool: {SPOOL}, its directories as they must be",
        "ok    inboxes: 2, each its user's alone",  # bob's was made since a task lets him submit
        "ok    config: /etc/cronq",
        "ok    dispatcher: answers after",
        "cgroup",
        "ok    processes:",
    ):
        assert words in found
    assert "left out" not in found
    for user in ("ann", "carl"):
        found = doctor(served, user, 0)
        assert "ok    only root can look at the rest of the spool" in found
    assert f"warn  inbox: {SPOOL}/in/2003 is not there yet" in found


def test_every_fault_of_the_tree_is_named_with_the_way_to_mend_it(served):
    """All at once: one finding does not keep another from being made."""
    served.stop()
    queue = SPOOL / "queue"
    (SPOOL / "out").chmod(0o755)
    os.chown(queue / "dead", 2001, 2001)
    (queue / "held").rmdir()
    (SPOOL / "in" / "2001").chmod(0o2777)
    os.removexattr(SPOOL / "in" / "2001", "system.posix_acl_default")
    (SPOOL / "rejected" / "2001").mkdir(mode=0o777, exist_ok=True)
    (SPOOL / "out" / "2001").chmod(0o755)
    (SPOOL / "users" / "2001").write_text("zed\n")
    subprocess.run(["gpasswd", "-a", "bob", "cronq"], check=True, capture_output=True)
    found = failures(served)
    text = "\n".join(found)
    ours = f"{served.uids['cronq']}:"
    for words in (
        "config: the group cronq must have no members, and has bob; gpasswd -d bob cronq",
        f"{SPOOL}/out has the mode 0755; chmod 0711",
        f"{SPOOL}/queue/dead belongs to 2001:2001; chown {ours}",
        f"{SPOOL}/queue/held is not there; start the dispatcher",
        f"{SPOOL}/in/2001 has the mode 2777; chmod 2770",
        f"{SPOOL}/in/2001 has not the default ACL; setfacl -d -m u::rwx,g::r-x,o::---",
        f"{SPOOL}/rejected/2001 belongs to 0:0; chown",
        f"{SPOOL}/out/2001 can be read or written by others",
        "no dispatcher is running for /var/spool/cronq; start it with `systemctl start cronq`",
    ):
        assert words in text, (words, text)
    assert len(found) == 9, text
    assert "warn  users: uid 2001 was zed and is ann now: its jobs are held" in doctor(served, "bob", 1)


def test_a_spool_that_is_not_roots_is_not_looked_into(served):
    served.stop()
    os.chown(SPOOL, 2001, 2001)
    (SPOOL / "in").rename(SPOOL / "in-before")
    os.mkfifo(SPOOL / "in")
    found = failures(served)
    assert found == [f"fail  spool: {SPOOL}: belongs to uid 2001, and must be root's; chown root {SPOOL}"]


def test_root_is_led_nowhere_by_what_lies_in_the_place_of_directories(served):
    """By links, FIFOs and sockets of cronq's and of users': nothing of where they lead is touched."""
    served.stop()
    trap = served.base / "trap"
    (trap / "inside").mkdir(parents=True)
    (trap / "inside" / "result.json").write_text('{"state": "done"}\n')
    ours = served.uids["cronq"]
    for path in ("queue/ready", "queue/running", "out/2001", "schedule", "in/2001"):
        subprocess.run(["rm", "-rf", SPOOL / path], check=True)
    for path, target in (("queue/ready", trap), ("out/2001", trap / "inside"), ("schedule", trap)):
        (SPOOL / path).symlink_to(target)
        os.lchown(SPOOL / path, ours, ours)
    os.mkfifo(SPOOL / "queue" / "running")
    (SPOOL / "in" / "2001").symlink_to(trap)
    os.mkfifo(trap / "fifo")
    (SPOOL / "users" / "2001").unlink()
    (SPOOL / "users" / "2001").symlink_to(trap / "fifo")
    Path("/run/cronq/control").unlink()
    Path("/run/cronq/control").symlink_to(trap / "inside")
    door = Doorbell()
    inotify = door._inotify
    assert inotify is not None
    for folder in (trap, trap / "inside"):
        inotify.add_watch(str(folder), 0xFFF)  # every event there is, opening and listing among them
    text = "\n".join(failures(served))
    for words in (
        f"{SPOOL}/queue/ready is a symbolic link, not a directory",
        f"{SPOOL}/queue/running is a FIFO, not a directory",
        f"{SPOOL}/schedule is a symbolic link, not a directory",
        f"{SPOOL}/out/2001 is a symbolic link, not a directory",
        f"{SPOOL}/in/2001 is a symbolic link, not a directory",
        "no dispatcher is running",
    ):
        assert words in text, (words, text)
    assert inotify.read(timeout=0) == []
    (trap / "seen").touch()
    assert inotify.read(timeout=1000)  # so the trap was set
    door.close()


def test_a_file_system_that_a_user_mounted_on_his_inbox_is_named_and_not_entered(served):
    served.stop()
    elsewhere = served.base / "elsewhere"
    elsewhere.mkdir()
    inbox = SPOOL / "in" / "2001"
    subprocess.run(["mount", "--bind", elsewhere, inbox], check=True)
    try:
        text = "\n".join(failures(served))
        assert f"spool: {inbox} is a file system of its own" in text
        assert f"{inbox} (" in text
        assert "is mounted inside the spool" in text
    finally:
        subprocess.run(["umount", inbox], check=True)


def test_what_check_finds_is_found_and_what_a_user_may_not_read_is_no_failure_of_his(served):
    served.tasks('[tasks.ghost]\ncommand = ["true"]\nuser = "ghost"\n', "cronq.toml")
    CONFIG.joinpath("cronq.toml").chmod(0o640)
    text = "\n".join(failures(served))
    assert f"chmod o+r {CONFIG}/cronq.toml" in text
    assert "[tasks.ghost] there is no user ghost" in text
    assert f"warn  config: {CONFIG}/cronq.toml is not yours to read" in doctor(served, "ann", 0)


def test_without_the_user_cronq_it_says_how_to_make_it(machine):
    subprocess.run(["userdel", "--force", "cronq"], check=True, capture_output=True)  # outside, its processes run
    text = "\n".join(failures(machine))
    assert "cronq install --system" in text


def test_root_is_not_led_into_a_users_spool_by_the_environment(machine):
    home = machine.home("ann")
    machine.as_user("ann", "sh", "-c", "mkdir -p spool/in config; mkfifo spool/queue config/cronq.toml")
    env = {"CRONQ_SPOOL": str(home / "spool"), "CRONQ_CONFIG": str(home / "config")}
    environment = machine.identity("root")["env"] | env
    done = machine.cronq("root", "doctor", code=1, env=environment)
    assert f"fail  spool: {home}/spool belongs to uid 2001; name your own in CRONQ_SPOOL" in done.stdout
    assert "config" not in done.stdout


def test_the_default_acl_is_what_the_launcher_sets(served):
    assert acl.inherits(str(SPOOL / "in" / "2001"))
    assert not acl.inherits(str(SPOOL / "out"))
