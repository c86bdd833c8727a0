"""A dispatcher that lies (trust.md row 19): each lie is refused, and what it can do is no more than it is said to."""

import json
import os
import socket
import subprocess
from itertools import count
from pathlib import Path

import pytest
from conftest import eventually
from liar import PROOF, Liar
from machine import CONFIG, SPOOL

from cronq import job as jobs

pytestmark = pytest.mark.root

TASKS = f"""
[exec]
allow_root = false
[tasks.resize]
user = "carl"
submit = ["ann"]
timeout = "1h"
command = ["sh", "-c", "id -u > {PROOF}/resize; cat > {PROOF}/stdin"]
[tasks.tidy]
user = "carl"
command = ["sh", "-c", "id -u > {PROOF}/tidy; cat > {PROOF}/stdin"]
[tasks.loose]
command = ["sh", "-c", "id -u > {PROOF}/loose"]
[tasks.barely]
user = "root"
allow_root = true
command = ["sh", "-c", "id -u > {PROOF}/barely"]
[tasks.warm]
user = "carl"
python = "of:carl"
interpreter = "/usr/bin/touch"
mode = "fork"
cwd = "{PROOF}"
[tasks.kept]
submit = ["ann"]
python = "of:ann"
interpreter = "/usr/bin/touch"
mode = "fork"
cwd = "{PROOF}"
[schedules.tidy]
every = "1h"
args = ["all"]
[schedules.off]
every = "1h"
task = "tidy"
enabled = false
[schedules.loose]
every = "1h"
"""
TICK = jobs.encode({"task": "tidy", "args": ["all"]})
NAMES = count(1)


@pytest.fixture(scope="module")
def told(whole_machine):
    """One launcher, whose dispatcher we are in every test here."""
    whole_machine.tasks(TASKS)
    made = Liar(whole_machine)
    made.inboxes("ann", "bob", "carl", "root")
    yield made
    made.close()
    whole_machine.reset()


@pytest.fixture(scope="module")
def crew(told):
    """A worker of each user."""
    return {user: told.worker(uid) for user, uid in (("ann", 2001), ("bob", 2002), ("carl", 2003), ("root", 0))}


@pytest.fixture
def name():
    return f"n{next(NAMES)}"


@pytest.fixture
def refused(liar, crew, name):
    """Hand a lie over, and look that it was refused, with this reason, and that nothing ran."""

    def look(user, job_id, file, reason, content=None, **lies):
        ended = crew[user].do(job_id, file, content, **lies)
        assert (ended["step"], liar.ran()) == ("refused", {}), ended
        assert reason in ended["reason"], ended
        return ended

    return look


def test_the_truth_is_believed(liar, crew, name):
    assert crew["ann"].do(f"2001-{name}", liar.file_of("ann", name, liar.job(name)))["step"] == "ended"
    assert liar.ran() == {name: "2001"}
    assert crew["carl"].do(f"2001-{name}", liar.file_of("ann", name, {"task": "resize"}))["step"] == "ended"
    assert liar.ran() == {name: "2001", "resize": "2003", "stdin": ""}


# -------------------------------------------------------------------- whose job it is


def test_another_users_job_is_not_mine(liar, refused, name):
    file = liar.file_of("bob", name, liar.job(name))
    refused("ann", f"2001-{name}", file, "belongs to uid 2002")
    refused("ann", f"2002-{name}", file, "it runs as uid 2002, not as uid 2001")
    refused("root", f"0-{name}", file, "belongs to uid 2002")


def test_a_text_that_root_owns_is_none_of_roots_jobs(liar, refused, name):
    # Whoever starts a set-uid program chooses its argv, and root owns what /proc shows of it.
    text = json.dumps(liar.job(name))
    with subprocess.Popen([text], executable="/bin/cat", stdin=subprocess.PIPE) as sleeper:
        path = eventually(lambda: text in (at := Path(f"/proc/{sleeper.pid}/cmdline")).read_text() and at)
        assert (path.stat().st_uid, path.read_text()) == (0, text + "\0")
        refused("root", f"0-{name}", path, "another file system", text.encode())
        sleeper.stdin.close()


def test_no_file_of_its_own_is_anybodys_job(liar, refused, name):
    job = liar.job(name)
    file = liar.own(name, job)
    for user, uid in (("ann", 2001), ("root", 0)):
        refused(user, f"{uid}-{name}", file, f"belongs to uid {liar.uid}")
        with liar.cronq(), pytest.raises(PermissionError):
            os.chown(file, uid, liar.gid)
        descriptor = liar.open(file, os.O_RDWR)
        with liar.cronq(), pytest.raises(PermissionError):
            os.fchown(descriptor, uid, -1)
        os.close(descriptor)
    refused("ann", f"{liar.uid}-{name}", file, "it is no tick")
    refused("ann", f"{liar.uid}-cron-x", file, "unknown schedule")


def test_what_its_user_wrote_elsewhere_is_no_job_of_his(liar, refused, name):
    liar.machine.as_user("ann", "sh", "-c", f"umask 022; echo '{json.dumps(liar.job(name))}' > /home/ann/{name}")
    liar.machine.as_user("ann", "chmod", "755", "/home/ann")
    refused("ann", f"2001-{name}", Path(f"/home/ann/{name}"), "its group is")


def test_a_file_that_others_could_have_written_proves_nothing(liar, refused, name):
    file = liar.file_of("ann", name, liar.job(name))
    for mode in (0o664, 0o660, 0o644, 0o642, 0o641, 0o620):
        file.chmod(mode)
        refused("ann", f"2001-{name}", os.open(file, os.O_RDONLY), f"its mode is 0{mode:o}")
    rewritten = liar.file_of("ann", f"{name}.2", b"{}")
    rewritten.chmod(0o660)
    with liar.cronq():
        rewritten.write_text(json.dumps(liar.job(name)))
        with pytest.raises(PermissionError):
            rewritten.chmod(0o640)
    refused("ann", f"2001-{name}", rewritten, "its mode is 0660")


def test_a_file_with_another_link_is_none(liar, refused, name):
    file = liar.file_of("ann", name, liar.job(name))
    os.link(file, SPOOL / "queue" / f"{name}.link")
    refused("ann", f"2001-{name}", file, "2 links")
    descriptor = os.open(SPOOL / "queue", os.O_TMPFILE | os.O_RDWR)  # with none at all
    _give(descriptor, liar, liar.job(name))
    refused("ann", f"2001-{name}", descriptor, "0 links")


def test_a_file_of_another_file_system_is_none(liar, refused, name):
    assert os.stat("/run").st_dev != os.stat(SPOOL).st_dev
    descriptor = os.open(PROOF / ".elsewhere", os.O_RDWR | os.O_CREAT)
    os.unlink(PROOF / ".elsewhere")
    _give(descriptor, liar, liar.job(name))
    refused("ann", f"2001-{name}", descriptor, "another file system")
    descriptor = os.memfd_create(name)
    _give(descriptor, liar, liar.job(name))
    refused("ann", f"2001-{name}", descriptor, "another file system")


def _give(descriptor: int, liar: Liar, job: dict) -> None:
    """Let a file have what ann's jobs have: owner, group, mode, and a job in it."""
    os.write(descriptor, json.dumps(job).encode())
    os.fchown(descriptor, 2001, liar.gid)
    os.fchmod(descriptor, 0o640)


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device", "path", "write-only"])
def test_what_is_no_readable_file_is_none(liar, refused, name, kind):
    place = SPOOL / "queue" / name
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "directory":
            place.mkdir()
            given, reason = os.open(place, os.O_RDONLY), "a directory"
        elif kind == "fifo":
            os.mkfifo(place)
            given, reason = os.open(place, os.O_RDWR), "a FIFO"
        elif kind == "socket":
            given, reason = os.dup(bound.fileno()), "a socket"
        elif kind == "device":
            given, reason = os.open("/dev/zero", os.O_RDONLY), "a device"
        else:
            file = liar.file_of("ann", name, liar.job(name))
            given = os.open(file, os.O_PATH if kind == "path" else os.O_WRONLY)
            reason = "cannot be read"
        refused("ann", f"2001-{name}", given, reason, json.dumps(liar.job(name)).encode())


def test_other_bytes_than_were_judged_are_refused(liar, refused, name):
    file = liar.file_of("ann", name, liar.job(name))
    refused("ann", f"2001-{name}", file, "changed after acceptance", b"{}")


# -------------------------------------------------------------------- lines of a batch


def test_a_line_of_a_batch_is_a_job_and_a_piece_of_a_line_is_none(liar, crew, refused, name):
    inner = json.dumps(liar.job("inner"))
    # The end of a line that is a job by itself: its harmless head would have to be no JSON for that.
    tail = inner.encode() + b"\n"
    text = json.dumps(liar.job("first")).encode() + b"\n" + b'{"note": "' + tail
    file = liar.file_of("ann", name, text, "jobs")
    refused("ann", f"2001-{name}+2", file, "in the middle of a line", tail, offset=text.index(tail))
    refused("ann", f"2001-{name}+2", file, "in the middle of a line", tail[1:], offset=text.index(tail) + 1)
    for beyond in (len(text), 2**62, 2**63, 2**70):
        refused("ann", f"2001-{name}+2", file, "", b"", offset=beyond)
    first = text.partition(b"\n")[0] + b"\n"
    assert crew["ann"].do(f"2001-{name}+1", file, first, offset=0)["step"] == "ended"
    assert liar.ran() == {"first": "2001"}


@pytest.mark.parametrize("blank", ["", "\n \n"])
def test_a_line_of_a_job_is_no_member_of_a_batch(liar, refused, name, blank):
    # One job, written over many lines, of which one is a job, too.
    inner = json.dumps({"task": "loose"})
    text = f'{blank}{{"command": ["true"], "env":\n{inner}\n}}\n'.encode()
    assert jobs.decode(text).command == ["true"]
    line = inner.encode() + b"\n"
    file = liar.file_of("ann", name, text)
    refused("ann", f"2001-{name}", file, "no batch", line, offset=text.index(line))


def test_a_callback_is_what_its_batchs_first_line_says(liar, crew, refused, name):
    calls = {"jobs": 1, "on_success": {"task": "resize"}, "on_complete": {"task": "tidy"}}
    member = json.dumps({"on_first_death": liar.job("inner")}).encode()
    text = json.dumps(calls).encode() + b"\n" + member + b"\n"
    file = liar.file_of("ann", name, text, "jobs")
    callback, told = jobs.encode(calls["on_success"]), liar.own(f"{name}.told", b"told")
    own = liar.file_of("ann", name, b"his own", "data")
    refused("ann", f"2001-{name}+first_death", file, "no on_first_death", jobs.encode(liar.job("inner")))
    refused("carl", f"2001-{name}+success", file, "changed after acceptance", jobs.encode({"task": "loose"}))
    refused("carl", f"2001-{name}+complete", file, "only carl and root may submit", jobs.encode(calls["on_complete"]))
    refused("ann", f"2001-{name}+success", file, "it runs as uid 2003", callback)
    refused("carl", f"2001-{name}+success", liar.file_of("ann", name, callback), "no on_success", callback)
    refused("carl", f"2001-{name}+success", liar.own(name, text), f"belongs to uid {liar.uid}", callback)
    refused("carl", f"2001-{name}+success", file, "belongs to uid 2001", callback, payload=own)
    assert crew["carl"].do(f"2001-{name}+success", file, callback, payload=told)["step"] == "ended"
    assert liar.ran() == {"resize": "2003", "stdin": "told"}


def test_what_a_callback_is_told_is_no_file_of_its_users(liar, crew, refused, name):
    """Else it could be changed, or be another file of his."""
    call = {"command": ["sh", "-c", f"cat > {PROOF}/{name}"]}
    file = liar.file_of("ann", name, json.dumps({"on_complete": call}).encode() + b"\n{}\n", "jobs")
    own, content = liar.file_of("ann", name, b"his own", "data"), jobs.encode(call)
    refused("ann", f"2001-{name}+complete", file, "belongs to uid 2001", content, payload=own)
    told = liar.own(f"{name}.told", b"told")
    assert crew["ann"].do(f"2001-{name}+complete", file, content, payload=told)["step"] == "ended"
    assert liar.ran() == {name: "told"}


# -------------------------------------------------------------------- ticks


def test_a_tick_is_what_its_schedule_says(liar, crew, name):
    ended = crew["carl"].do(f"{liar.uid}-cron-tidy-1", liar.own(name, TICK))
    assert (ended["step"], liar.ran()) == ("ended", {"tidy": "2003", "stdin": ""})


@pytest.mark.parametrize(
    ("tick", "content", "reason"),
    [
        ("cron-nosuch-1", TICK, "unknown schedule"),
        ("cron-off-1", jobs.encode({"task": "tidy"}), "not enabled"),
        ("cron-loose-1", jobs.encode({"task": "loose"}), "no submitter to run as"),
        ("cron-tidy-1", jobs.encode({"task": "tidy"}), "its schedule is another now"),
        ("cron-tidy-1", jobs.encode({"task": "tidy", "args": ["all", "more"]}), "its schedule is another now"),
        ("cron-tidy-1", jobs.encode({"command": ["id"]}), "its schedule is another now"),
        ("cron-tidy-1", TICK + b" ", "its schedule is another now"),
        ("cron-", TICK, "unknown schedule"),
        ("tidy", TICK, "it is no tick"),
    ],
)
def test_a_tick_that_its_schedule_does_not_make_is_refused(liar, refused, name, tick, content, reason):
    refused("carl", f"{liar.uid}-{tick}", liar.own(name, content), reason)


def test_a_tick_runs_as_its_tasks_user_only(liar, refused, name):
    refused("ann", f"{liar.uid}-cron-tidy-1", liar.own(name, TICK), "it runs as uid 2003, not as uid 2001")
    refused("root", f"{liar.uid}-cron-tidy-1", liar.own(name, TICK), "it runs as uid 2003, not as uid 0")


def test_a_tick_is_no_file_that_others_could_write(liar, refused, name):
    refused("carl", f"{liar.uid}-cron-tidy-1", liar.own(name, TICK, 0o660), "its mode is 0660")
    refused("carl", f"{liar.uid}-cron-tidy-1", liar.file_of("ann", name, TICK), "belongs to uid 2001")


def test_a_tick_has_no_input_that_its_schedule_does_not_say(liar, refused, name):
    given = liar.own(f"{name}.data", b"rm -r /")
    refused("carl", f"{liar.uid}-cron-tidy-1", liar.own(name, TICK), "a tick has no payload", payload=given)


# -------------------------------------------------------------------- tasks


def test_who_is_not_in_submit_gets_nothing(liar, refused, name):
    refused("carl", f"2002-{name}", liar.file_of("bob", name, {"task": "resize"}), "may not submit")
    refused("carl", f"2002-{name}", liar.file_of("bob", f"{name}.2", {"task": "tidy"}), "only carl and root")


def test_a_task_runs_as_its_user_only(liar, refused, name):
    file = liar.file_of("ann", name, {"task": "resize"})
    refused("ann", f"2001-{name}", file, "it runs as uid 2003, not as uid 2001")
    refused("root", f"2001-{name}", file, "it runs as uid 2003, not as uid 0")
    loose = liar.file_of("bob", name, {"task": "loose"})
    refused("carl", f"2002-{name}", loose, "it runs as uid 2002, not as uid 2003")


def test_nothing_runs_as_root_that_root_has_not_allowed(liar, refused, name):
    refused("root", f"0-{name}", liar.file_of("root", name, liar.job(name)), "would run as root")
    refused("root", f"0-{name}", liar.file_of("root", f"{name}.2", {"task": "loose"}), "would run as root")
    refused("root", f"2001-{name}", liar.file_of("ann", name, {"task": "barely"}), "only root and root")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"args": ["-rf"]}, "-rf"),
        ({"env": {"LD_PRELOAD": "/tmp/x.so"}}, "env"),
        ({"queue": "other"}, "queue"),
        ({"retries": 3}, "retries"),
        ({"timeout": "2h"}, "timeout"),
    ],
)
def test_a_submitter_gets_no_more_than_the_task_lets_him(liar, refused, name, asked, reason):
    file = liar.file_of("ann", name, {"task": "resize", **asked})
    assert reason in refused("carl", f"2001-{name}", file, "")["reason"]


def test_what_a_submitter_may_is_asked_of_roots_configuration_only(liar, crew, name):
    file = liar.file_of("ann", name, liar.job(name))
    liar.machine.tasks("bob\n", "exec.allow")
    try:
        eventually(lambda: "may not submit commands" in crew["ann"].do(f"2001-{name}", file).get("reason", ""))
        CONFIG.chmod(0o777)
        ended = eventually(lambda: (e := crew["ann"].do(f"2001-{name}", file))["code"] == 78 and e)
        assert (ended["step"], ended["again"]) == ("refused", True)
        assert f"{CONFIG} can be written by" in ended["reason"]
    finally:
        CONFIG.chmod(0o755)
        (CONFIG / "exec.allow").unlink()
    eventually(lambda: crew["ann"].do(f"2001-{name}", file)["step"] == "ended")


# -------------------------------------------------------------------- payloads


def test_another_users_upload_is_none_of_mine(liar, refused, name):
    job = liar.file_of("ann", name, liar.job(name))
    theirs = liar.file_of("bob", name, b"bob's secret", "data")
    refused("ann", f"2001-{name}", job, "belongs to uid 2002", payload=theirs)
    refused("ann", f"2001-{name}", job, f"belongs to uid {liar.uid}", payload=liar.own(f"{name}.own", b"made up"))
    task = liar.file_of("ann", f"{name}.2", {"task": "resize"})
    refused("carl", f"2001-{name}", task, "belongs to uid 2002", payload=theirs)


def test_input_that_nobody_can_have_meant_is_none(liar, refused, name):
    job = liar.file_of("ann", name, liar.job(name))
    refused("ann", f"2001-{name}", job, "a device", payload=os.open("/dev/zero", os.O_RDONLY))
    refused("ann", f"2001-{name}", job, "another file system", payload=os.open("/proc/self/environ", os.O_RDONLY))
    said = liar.file_of("ann", f"{name}.2", {**liar.job(name), "stdin": "this and nothing else"})
    mine = liar.file_of("ann", name, b"another of hers", "data")
    refused("ann", f"2001-{name}", said, "stdin", payload=mine)


def test_a_worker_warms_up_what_its_user_may_have_and_nothing_else(liar):
    for user, made in (("bob", set()), ("ann", {"of:ann"}), ("carl", {"of:carl"})):
        uid = liar.machine.uids[user]
        worker = liar.worker(uid)
        worker.send({"do": "warm", "tasks": ["warm", "kept", "loose", "tidy", "absent", 7, None]})
        worker.hear("warm")
        found = {name for name in ("of:ann", "of:carl") if (PROOF / name).exists()}
        assert found == made
        for name in found:
            assert (PROOF / name).stat().st_uid == uid
            (PROOF / name).unlink()
