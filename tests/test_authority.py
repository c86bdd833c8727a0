"""Who may have which job, and as whom it runs: real accounts, real owners, real links, on a machine aside."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aside import ANN, BOB, CONFIG, CRONQ, EVE, IMGPROC, MAL, NOBODY, ROOT, add, aside, write
from conftest import World, eventually

from cronq import become, realm
from cronq import job as jobs
from cronq import task as tasks
from cronq.accounts import Accounts
from cronq.authority import Authority
from cronq.errors import BadConfig, BadJob, CronqError, NotPermitted
from cronq.job import Job
from cronq.task import Task
from cronq.trusted import problems, tree, trusted

A = '[tasks.a]\ncommand = ["a"]\n'


def task(**fields: object) -> Task:
    return tasks.decode("t", {"command": ["true"]} | fields, "x")


def refused(error: type[CronqError], call: object, *args: object) -> str:
    with pytest.raises(error) as caught:
        call(*args)  # type: ignore[operator]
    assert type(caught.value) is error
    assert caught.value.exit_code == error.exit_code
    assert caught.value.sentence.isprintable()
    return caught.value.sentence


def may(task: Task | None, uid: int, **fields: object) -> bool:
    """Whether a job is permitted; a refusal says why, with the exit code of one."""
    job = Job(command=["id"], **fields) if task is None else Job(task=task.name, **fields)
    try:
        Authority(str(CONFIG)).permit(job, task, uid)
    except NotPermitted as error:
        assert error.exit_code == 77
        return False
    return True


def runs_as(task: Task | None, uid: int) -> int:
    return Authority(str(CONFIG)).runs_as(task, uid)


# ---------------------------------------------------------------- as whom


@aside
def test_a_job_runs_as_its_submitter_unless_its_task_names_a_user() -> None:
    assert runs_as(None, ANN) == ANN
    assert runs_as(task(), BOB) == BOB
    assert runs_as(task(user="imgproc"), ANN) == IMGPROC
    assert runs_as(task(user="ann"), ROOT) == ANN


@aside
def test_a_task_of_a_user_whom_nobody_knows_waits_for_the_administrator() -> None:
    sentence = refused(BadConfig, runs_as, task(user="nosuch"), ANN)
    assert sentence == "[tasks.t] there is no user nosuch; make it (useradd --system nosuch), or name another"


@aside
def test_nothing_runs_as_cronq_however_it_is_called() -> None:
    assert "a command would run as cronq, and nothing does" in refused(NotPermitted, runs_as, None, CRONQ)
    assert "a schedule's task needs a user" in refused(NotPermitted, runs_as, task(), CRONQ)
    add("/etc/passwd", "alias:x:989:52001::/:/bin/sh\n")
    assert "name another user" in refused(NotPermitted, runs_as, task(user="alias"), ANN)


@aside
@pytest.mark.parametrize(("uid", "name"), [(EVE, "eve"), (MAL, "mal")])
def test_nothing_runs_as_a_member_of_the_group_of_cronq(uid: int, name: str) -> None:
    for each, submitter in ((None, uid), (task(), uid), (task(user=name), ROOT)):
        sentence = refused(BadConfig, runs_as, each, submitter)
        assert sentence == f"{name} is in the group cronq, which must have no members; gpasswd -d {name} cronq"


@aside
def test_a_task_runs_as_root_only_where_it_allows_root_by_whatever_name() -> None:
    assert runs_as(task(user="root", allow_root=True), ANN) == ROOT
    assert runs_as(task(user="toor", allow_root=True), ANN) == ROOT
    write("cronq.toml", "[exec]\nallow_root = true\n")
    sentence = refused(NotPermitted, runs_as, task(user="toor"), ANN)
    assert sentence == "the task t would run as root; write allow_root = true into [tasks.t] to let it"


@aside
def test_commands_of_root_run_only_where_the_configuration_lets_them() -> None:
    sentence = refused(NotPermitted, runs_as, None, ROOT)
    assert sentence == "a command would run as root; write allow_root = true into [exec] in cronq.toml to let it"
    for text in ("[exec]\n", "[exec]\nallow_root = false\n", "exec = 1\n", "[exec]\nallow_root = 1\n"):
        write("cronq.toml", text)
        refused(NotPermitted, runs_as, None, ROOT)
    write("cronq.toml", "[exec]\nallow_root = true\n")
    assert runs_as(None, ROOT) == ROOT


@aside
def test_a_task_that_runs_as_its_submitter_runs_as_root_where_either_lets_it() -> None:
    refused(NotPermitted, runs_as, task(), ROOT)
    assert runs_as(task(allow_root=True), ROOT) == ROOT
    write("cronq.toml", "[exec]\nallow_root = true\n")
    assert runs_as(task(), ROOT) == ROOT


@aside
def test_a_configuration_that_others_can_write_lets_no_command_of_root_run() -> None:
    write("cronq.toml", "[exec]\nallow_root = true\n", mode=0o664)
    assert "can be written by its group" in refused(BadConfig, runs_as, None, ROOT)


@aside
@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", False),
        (A, False),
        ("[exec]\nallow_root = false\n", False),
        ("[exec]\nallow_root = true\n", True),
        (A + 'user = "root"\nallow_root = true\n', True),
        (A + 'user = "toor"\nallow_root = true\n', True),
        (A + "allow_root = true\n", True),
    ],
)
def test_root_has_a_worker_just_where_something_may_run_as_root(text: str, allowed: bool) -> None:
    write("cronq.toml", text)
    authority = Authority(str(CONFIG))
    tasks_there = [None, *authority.book.tasks().values()]
    runs = []
    for each in tasks_there:
        try:
            runs.append(authority.runs_as(each, ROOT) == ROOT)
        except NotPermitted:
            runs.append(False)
    assert any(runs) == allowed
    if allowed:
        realm.root_must_be_allowed(str(CONFIG))
    else:
        with pytest.raises(become.Barred, match="nothing runs as root: no task below /mnt/cronq says allow_root"):
            realm.root_must_be_allowed(str(CONFIG))


# ---------------------------------------------------------------- who may submit


@aside
def test_a_task_without_a_user_is_everybodys() -> None:
    assert all(may(task(), uid) for uid in (ROOT, ANN, BOB, NOBODY))


@aside
def test_a_task_with_a_user_is_his_and_roots_alone_until_it_says_more() -> None:
    mine = task(user="imgproc")
    assert [may(mine, uid) for uid in (ROOT, IMGPROC, ANN, NOBODY)] == [True, True, False, False]
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, Job(task="t"), mine, ANN)
    assert sentence == (
        "the task t runs as imgproc, so only imgproc and root may submit it; others need to stand in its submit, like "
        'submit = ["ann"]'
    )


@aside
def test_whoever_is_listed_may_submit_and_root_and_nobody_else() -> None:
    listed = task(user="imgproc", submit=["bob", "@staff"])
    assert [may(listed, uid) for uid in (ROOT, BOB, ANN, IMGPROC, EVE, NOBODY)] == [True] * 3 + [False] * 3
    assert [may(task(submit=["ann"]), uid) for uid in (ROOT, ANN, BOB)] == [True, True, False]
    assert [may(task(submit=[]), uid) for uid in (ROOT, ANN)] == [True, False]


@aside
def test_a_group_in_the_list_stands_for_primary_and_supplementary_members() -> None:
    assert [may(task(submit=["@ann"]), uid) for uid in (ANN, BOB)] == [True, False]
    assert [may(task(submit=["@adm"]), uid) for uid in (ANN, BOB)] == [False, True]


@aside
def test_names_that_nobody_has_let_nobody_in() -> None:
    assert [may(task(submit=["nosuch", "@nosuch", "@a\\b"]), uid) for uid in (ANN, NOBODY)] == [False, False]


@aside
def test_a_user_who_left_a_group_is_taken_for_a_member_for_a_minute_at_most() -> None:
    clock = [0.0]
    authority = Authority(str(CONFIG), Accounts(lambda: clock[0]))
    job, staff = Job(task="t"), task(submit=["@staff"])
    authority.permit(job, staff, ANN)
    Path("/etc/group").write_text("staff:x:50:\nann:x:52001:\n")
    clock[0] = 59.9
    authority.permit(job, staff, ANN)
    clock[0] = 60.1
    refused(NotPermitted, authority.permit, job, staff, ANN)


@aside
def test_a_user_who_is_made_is_known_within_seconds() -> None:
    clock = [0.0]
    authority = Authority(str(CONFIG), Accounts(lambda: clock[0]))
    refused(BadConfig, authority.runs_as, task(user="new"), ROOT)
    add("/etc/passwd", "new:x:53000:53000::/:/bin/sh\n")
    clock[0] = 5.1
    assert authority.runs_as(task(user="new"), ROOT) == 53000


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    accounts = Accounts()
    for number in range(10_100):
        accounts.uid(f"\0{number}")  # no name that anybody can have, so nobody is asked
    assert len(accounts._found) <= 10_000


# ---------------------------------------------------------------- what a submitter may set

ASKS = [
    ("env", {"env": {"A": "b"}}, "env: "),
    ("queue", {"queue": "other"}, "queue: "),
    ("retries", {"retries": 0}, "retries: "),
    ("retries", {"retry_for": 60.0}, "retries: "),
    ("options", {"args": ["a", "--quiet"]}, "the argument '--quiet': "),
    ("options", {"args": ["-"]}, "the argument '-': "),
]


@aside
@pytest.mark.parametrize(("word", "fields", "what"), ASKS)
@pytest.mark.parametrize("uid", [ANN, ROOT])
def test_a_submitter_sets_only_what_the_task_allows(word: str, fields: dict[str, object], what: str, uid: int) -> None:
    others = [each for each in ("env", "queue", "retries", "options", "cwd") if each != word]
    assert may(task(allow=[word]), uid, **fields)
    assert not may(task(allow=others), uid, **fields)
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, Job(task="t", **fields), task(), uid)
    assert sentence == (
        f"{what}the task t lets no submitter set that; leave it out, or have {word} added to the task's allow"
    )


@aside
def test_a_submitter_gets_round_no_key_that_the_task_has() -> None:
    mine = Job(task="t", unique="mine")
    assert may(task(), ANN, unique="mine")
    assert may(task(unique="its", allow=["unique"]), ANN, unique="mine")
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, mine, task(unique="its"), ANN)
    assert sentence.startswith("unique: the task t lets no submitter set that")


@aside
def test_what_is_not_allowed_is_told_together() -> None:
    job = Job(task="t", env={"A": "b"}, queue="q", retries=1, args=["-x"])
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, job, task(allow=["queue"]), ANN)
    assert sentence.startswith("env, retries, the argument '-x': ")
    assert sentence.endswith("have env and retries and options added to the task's allow")


@aside
def test_what_needs_no_leave_is_a_submitters_to_set() -> None:
    fields = {
        "args": ["a-b", "", "+1"],
        "priority": 5,
        "at": 1.0,
        "expires": 2.0,
        "stdin": "-",
        "cwd": "/",
        "note": "-",
    }
    assert may(task(), ANN, timeout=100.0, **fields)


@aside
def test_a_job_may_take_less_time_than_its_task_has_and_not_more() -> None:
    assert may(task(timeout="1m"), ANN, timeout=60.0)
    assert not may(task(timeout="1m"), ANN, timeout=60.1)
    sentence = refused(
        NotPermitted, Authority(str(CONFIG)).permit, Job(task="t", timeout=90.0), task(timeout="1m"), ANN
    )
    assert sentence == "timeout: 90s is longer than the task t has (60s); ask for less"


@aside
def test_a_submitter_gets_no_higher_priority_than_the_task_lets_him_have() -> None:
    assert may(task(), ANN, priority=20)
    assert may(task(priority_max="normal"), ANN, priority=0)
    job = Job(task="t", priority=10)
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, job, task(priority_max="normal"), ANN)
    assert sentence == "priority: 10 is more than the task t lets a submitter have (0); ask for less"


@aside
def test_a_free_command_sets_what_it_likes() -> None:
    assert may(None, ANN, env={"A": "b"}, queue="q", retries=3, timeout=9e9)


@aside
def test_a_job_of_a_task_is_never_judged_as_a_free_command() -> None:
    permit = Authority(str(CONFIG)).permit
    assert refused(BadJob, permit, Job(task="t"), None, ANN) == "unknown task 't'"


# ---------------------------------------------------------------- who may submit commands


def commanders() -> list[bool]:
    return [may(None, uid) for uid in (ROOT, ANN, BOB, NOBODY)]


@aside
def test_without_lists_everybody_may_submit_commands() -> None:
    assert commanders() == [True, True, True, True]
    assert not (CONFIG / "cronq.toml").exists()


@aside
def test_a_list_of_those_allowed_lets_them_and_root() -> None:
    write("exec.allow", "# people\n\n  ann  \nnosuch\n")
    assert commanders() == [True, True, False, False]
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, Job(command=["id"]), None, BOB)
    assert sentence == "bob may not submit commands: /mnt/cronq/exec.allow lists who may"
    write("exec.deny", "ann\n")
    assert commanders() == [True, True, False, False]


@aside
def test_a_list_of_those_denied_lets_all_others_who_have_a_name() -> None:
    write("exec.deny", "#ann\nbob\nroot\n")
    assert commanders() == [True, True, False, False]
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, Job(command=["id"]), None, BOB)
    assert sentence == "bob may not submit commands: /mnt/cronq/exec.deny lists who may not"


@aside
def test_an_empty_list_allows_root_alone_or_denies_nobody() -> None:
    write("exec.deny", "")
    assert commanders() == [True, True, True, False]
    write("exec.allow", "")
    assert commanders() == [True, False, False, False]


@aside
@pytest.mark.parametrize("name", ["exec.allow", "exec.deny"])
def test_a_list_that_cannot_be_read_lets_nobody(name: str) -> None:
    write(name, "ann\n", mode=0o600)
    os.setresuid(ANN, ANN, ANN)
    sentence = refused(NotPermitted, Authority(str(CONFIG)).permit, Job(command=["id"]), None, ANN)
    assert sentence == f"ann may not submit commands: /mnt/cronq/{name} cannot be read: Permission denied"


@aside
def test_a_configuration_that_cannot_be_searched_lets_nobody_submit_commands() -> None:
    CONFIG.chmod(0o700)
    os.setresuid(ANN, ANN, ANN)
    assert not may(None, ANN)


@aside
@pytest.mark.parametrize("name", ["exec.allow", "exec.deny"])
def test_a_list_that_others_can_write_waits_for_the_administrator(name: str) -> None:
    write(name, "eve\n", owner=ANN)
    permit = Authority(str(CONFIG)).permit
    assert f"/mnt/cronq/{name}: belongs to uid 52001" in refused(BadConfig, permit, Job(command=["id"]), None, ANN)
    permit(Job(command=["id"]), None, ROOT)


@aside
def test_a_list_that_changes_is_read_again_soon() -> None:
    write("exec.allow", "bob\n")
    authority = Authority(str(CONFIG))
    refused(NotPermitted, authority.permit, Job(command=["id"]), None, ANN)
    write("exec.allow", "ann\n")

    def permitted() -> bool:
        try:
            authority.permit(Job(command=["id"]), None, ANN)
        except NotPermitted:
            return False
        return True

    eventually(permitted)


# ---------------------------------------------------------------- trusted paths


@aside
def test_a_path_that_is_roots_alone_is_trusted() -> None:
    trusted(str(write("cronq.toml", A)))
    trusted("/mnt/cronq/./../cronq//cronq.toml")
    trusted("/")


def bad_trees() -> Iterator[object]:
    for mode, who in ((0o664, "its group"), (0o646, "others"), (0o666, "its group and others")):
        yield pytest.param(
            lambda mode=mode: write("cronq.toml", A, mode=mode),
            f"/mnt/cronq/cronq.toml: can be written by {who}, and must be by root alone; "
            "chmod go-w /mnt/cronq/cronq.toml",
            id=f"file {mode:o}",
        )
    for place in ("/mnt", "/mnt/cronq"):
        for mode, who in ((0o775, "its group"), (0o757, "others")):
            yield pytest.param(
                lambda place=place, mode=mode: Path(place).chmod(mode),
                f"/mnt/cronq/cronq.toml: {place} can be written by {who}, and must be by root alone; "
                f"chmod go-w {place}",
                id=f"{place} {mode:o}",
            )
        yield pytest.param(
            lambda place=place: os.chown(place, ANN, 0),
            f"/mnt/cronq/cronq.toml: {place} belongs to uid 52001, and must be root's; chown root {place}",
            id=f"{place} ann",
        )
    yield pytest.param(
        lambda: Path("/mnt").chmod(0o1777),
        "/mnt/cronq/cronq.toml: /mnt can be written by its group and others, and must be by root alone; "
        "keep it in another place",
        id="sticky",
    )
    yield pytest.param(
        lambda: write("cronq.toml", A, owner=ANN),
        "/mnt/cronq/cronq.toml: belongs to uid 52001, and must be root's; chown root /mnt/cronq/cronq.toml",
        id="file ann",
    )
    yield pytest.param(
        lambda: os.unlink("/mnt/cronq/cronq.toml"),
        "/mnt/cronq/cronq.toml: cannot be looked at: No such file or directory",
        id="missing",
    )


@aside
@pytest.mark.parametrize(("spoil", "sentence"), list(bad_trees()))
def test_a_component_that_others_can_change_is_named_with_its_mend(spoil: object, sentence: str) -> None:
    path = write("cronq.toml", A)
    trusted(str(path))
    spoil()  # type: ignore[operator]
    assert refused(BadConfig, trusted, str(path)) == sentence


@aside
def test_a_link_of_roots_to_what_is_roots_is_trusted() -> None:
    write("real/cronq.toml", A)
    (CONFIG / "link").symlink_to("real")
    (CONFIG / "link2").symlink_to("/mnt/cronq/link/../link")
    trusted("/mnt/cronq/link2/cronq.toml")


@aside
def test_a_link_is_no_better_than_whoever_made_it_and_what_it_leads_to() -> None:
    path = write("cronq.toml", A)
    link = CONFIG / "link"
    link.symlink_to(path)
    os.chown(link, ANN, ANN, follow_symlinks=False)
    sentence = refused(BadConfig, trusted, str(link))
    assert sentence == "/mnt/cronq/link: belongs to uid 52001, and must be root's; chown -h root /mnt/cronq/link"
    os.chown(link, 0, 0, follow_symlinks=False)
    trusted(str(link))
    path.chmod(0o646)
    assert "/mnt/cronq/cronq.toml can be written by others" in refused(BadConfig, trusted, str(link))


@aside
def test_a_directory_on_the_way_of_a_link_counts_too() -> None:
    write("real/cronq.toml", A)
    Path("/mnt/open").mkdir()
    Path("/mnt/open/way").symlink_to("/mnt/cronq/real")
    (CONFIG / "link").symlink_to("../open/way")
    trusted("/mnt/cronq/link/cronq.toml")
    Path("/mnt/open").chmod(0o777)
    assert "/mnt/open can be written by" in refused(BadConfig, trusted, "/mnt/cronq/link/cronq.toml")


@aside
def test_a_circle_of_links_ends() -> None:
    (CONFIG / "a").symlink_to("b")
    (CONFIG / "b").symlink_to("a")
    assert "too many links" in refused(BadConfig, trusted, "/mnt/cronq/a")


@aside
def test_an_acl_that_lets_others_write_is_seen_in_the_mode() -> None:
    path = write("cronq.toml", A)
    everybody = 0xFFFFFFFF
    entries = ((0x01, 6, everybody), (0x02, 6, ANN), (0x04, 4, everybody), (0x10, 6, everybody), (0x20, 4, everybody))
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("no ACLs here")
    assert "can be written by its group" in refused(BadConfig, trusted, str(path))


def test_a_relative_path_is_never_trusted() -> None:
    assert refused(BadConfig, trusted, "etc/cronq") == "etc/cronq: must be an absolute path"


@aside
def test_a_configuration_is_looked_at_whole_and_each_fault_told_once() -> None:
    write("cronq.toml", A, mode=0o646)
    write("exec.allow", "", owner=ANN)
    write("exec.deny", "")
    write("tasks.d/a.toml", "", mode=0o664)
    write("tasks.d/b.toml", "")
    write("tasks.d/notes.txt", "", mode=0o666)
    assert [error.sentence.partition(":")[0].removeprefix("/mnt/cronq/") for error in problems(str(CONFIG))] == [
        "exec.allow",
        "cronq.toml",
        "tasks.d/a.toml",
    ]
    CONFIG.chmod(0o777)
    assert len(list(problems(str(CONFIG)))) == 1


@aside
def test_a_configuration_that_is_not_there_is_nothing_to_mistrust() -> None:
    tree("/mnt/none")
    assert "tasks.d can be written" not in str(list(problems("/mnt/none")))


@aside
def test_a_folder_of_tasks_that_others_can_write_is_told() -> None:
    write("tasks.d/a.toml", "")
    (CONFIG / "tasks.d").chmod(0o777)
    assert "/mnt/cronq/tasks.d: can be written by its group and others" in refused(BadConfig, tree, str(CONFIG))


@aside
def test_tasks_are_read_from_a_trusted_configuration_only() -> None:
    write("tasks.d/a.toml", A)
    assert list(Authority(str(CONFIG)).book.tasks()) == ["a"]
    os.chown("/mnt/cronq/tasks.d/a.toml", ANN, ANN)
    assert "belongs to uid 52001" in refused(BadConfig, Authority(str(CONFIG)).book.tasks)


# ---------------------------------------------------------------- ticks


@aside
def test_a_worker_works_out_by_itself_the_very_bytes_of_a_tick() -> None:
    from cronq import config

    write("cronq.toml", '[tasks.a]\ncommand = ["a"]\nuser = "ann"\n[schedules.a]\nevery = 5\n')
    write(
        "tasks.d/s.toml", '[schedules.s]\nevery = "1m"\ntask = "a"\nargs = ["-x", "ü"]\npriority = "low"\nqueue = "q"\n'
    )
    authority, loaded = Authority(str(CONFIG)), config.load(str(CONFIG), system=True)
    for name in ("a", "s"):
        assert jobs.encode(authority.schedule_fields(name)) == jobs.encode(loaded.schedules[name].fields())
    assert authority.schedule_fields("s") == {"task": "a", "args": ["-x", "ü"], "priority": -10, "queue": "q"}


@aside
@pytest.mark.parametrize(
    ("text", "name", "error", "words"),
    [
        ("[schedules.a]\nevery = 5\nenabled = false\n", "a", BadJob, "the schedule a is not enabled"),
        ("[schedules.a]\nevery = 5\n", "b", BadJob, "unknown schedule 'b'; known are: a"),
        ("", "b", BadJob, "unknown schedule 'b'; known are: none"),
        ("[schedules.a]\nevery = 5\ntask = 'x'\n", "a", BadConfig, "[schedules.a] unknown task 'x'; correct it"),
        (
            "[schedules.a]\nevery = 5\ntask = 'own'\n",
            "a",
            BadConfig,
            "[schedules.a] has no submitter to run as; write user into [tasks.own]",
        ),
        ("[schedules.a]\nevery = 0\n", "a", BadConfig, "cronq.toml: [schedules.a] every must be at least 1s, not 0"),
        ("[schedules.a]\nevry = 5\n", "a", BadConfig, "cronq.toml: [schedules.a] unknown key 'evry'; known are every"),
        ("[schedules]\na = 5\n", "a", BadConfig, "cronq.toml: [schedules.a] must be a table, not 5"),
        ("schedules = 5\n", "a", BadConfig, "cronq.toml: schedules must be tables"),
    ],
)
def test_a_tick_that_its_schedule_does_not_say_is_told(
    text: str, name: str, error: type[CronqError], words: str
) -> None:
    write("cronq.toml", text)
    write("tasks.d/a.toml", '[tasks.a]\ncommand = ["a"]\nuser = "ann"\n[tasks.own]\ncommand = ["a"]\n')
    assert words in refused(error, Authority(str(CONFIG)).schedule_fields, name)


@aside
def test_a_schedule_in_two_files_makes_no_tick() -> None:
    for name in ("x", "y"):
        write(f"tasks.d/{name}.toml", "[schedules.a]\nevery = 5\n")
    sentence = refused(BadConfig, Authority(str(CONFIG)).schedule_fields, "a")
    assert sentence.endswith("y.toml: [schedules.a] stands in /mnt/cronq/tasks.d/x.toml too; keep one of them")


@aside
def test_a_schedule_that_others_can_write_makes_no_tick() -> None:
    write("cronq.toml", '[tasks.a]\ncommand = ["a"]\nuser = "ann"\n[schedules.a]\nevery = 5\n', mode=0o666)
    assert "can be written by" in refused(BadConfig, Authority(str(CONFIG)).schedule_fields, "a")


# ---------------------------------------------------------------- in a worker, and quickly


@aside
def test_whoever_has_dropped_every_privilege_can_ask_without_importing_anything() -> None:
    write(
        "cronq.toml", '[exec]\nallow_root = true\n[tasks.a]\ncommand = ["a"]\nuser = "ann"\n[schedules.a]\nevery = 5\n'
    )
    write("exec.allow", "ann\n")
    code = """
import os, sys
from cronq import job
from cronq.authority import Authority
os.setgroups([]); os.setresgid(52001, 52001, 52001); os.setresuid(52001, 52001, 52001)
class Nothing:
    def find_spec(self, name, path=None, target=None): raise SystemExit("imports " + name)
sys.meta_path.insert(0, Nothing())
authority = Authority("/mnt/cronq")
task = authority.book.tasks()["a"]
asked = job.decode(b'{"task": "a"}') if "json" in sys.modules else job.Job(task="a")
authority.permit(asked, task, 52001)
authority.permit(job.Job(command=["id"]), None, 52001)
print(authority.runs_as(task, 52001), authority.runs_as(None, 0), job.encode(authority.schedule_fields("a")))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == '52001 0 b\'{"task": "a"}\\n\''
    assert not done.stderr, done.stderr


@aside
def test_to_ask_costs_next_to_nothing() -> None:
    write("cronq.toml", '[tasks.a]\ncommand = ["a"]\nuser = "ann"\nsubmit = ["x", "@staff"]\n')
    for number in range(20):
        write(f"tasks.d/{number}.toml", f'[tasks.t{number}]\ncommand = ["a"]\n')
    authority, job = Authority(str(CONFIG)), Job(task="a")
    began = time.process_time()
    for _ in range(10_000):
        task = authority.book.tasks()["a"]
        authority.permit(job, task, ANN)
        authority.runs_as(task, ANN)
    assert time.process_time() - began < 10


# ---------------------------------------------------------------- where everything runs as one user


def test_a_task_of_somebody_else_is_refused_by_a_dispatcher_of_ones_own(world: World) -> None:
    own = '[tasks.own]\ncommand = ["id", "-u"]\nsubmit = []\n'
    world.tasks('[tasks.t]\ncommand = ["id"]\nuser = "no-such-user"\n' + own)
    world.start()
    sentence = world.run("submit", "--wait", "t", code=77).stderr
    assert "the task t runs as no-such-user, and this dispatcher runs everything as uid" in sentence
    assert world.run("submit", "--wait", "own", "--retries", "1").stdout == f"{os.getuid()}\n"
