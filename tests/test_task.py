"""Tasks: the decoder of their tables, what a job of one comes to, and the files they stand in."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cronq import job as jobs
from cronq import keys, limitkeys, taskkeys
from cronq import task as tasks
from cronq.errors import BadConfig, BadJob
from cronq.job import Backoff, Job
from cronq.task import Task, decode, plan

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refusal(table: object, name: str = "resize") -> str:
    with pytest.raises(BadConfig) as caught:
        decode(name, table, "tasks.toml")
    assert caught.value.exit_code == 78
    return caught.value.sentence


def refused(**fields: object) -> str:
    return refusal({"command": ["true"]} | fields)


def test_a_task_says_what_its_keys_say() -> None:
    task = decode(
        "resize",
        {
            "description": "thumbnails\nof photos",
            "command": ["convert", "-quiet"],
            "queue": "media",
            "priority": "low",
            "timeout": "10m",
            "grace": 0,
            "retries": 2,
            "backoff": {"base": "1s"},
            "delivery": "at-most-once",
            "on_crash": "hold",
            "max_crashes": 1,
            "limit": 2,
            "env": {"A": "b"},
            "cwd": "/srv",
            "output_max": "64K",
            "leave_children": True,
        },
        "x",
    )
    assert (task.name, task.description, task.command, task.shell) == (
        "resize",
        "thumbnails\nof photos",
        ["convert", "-quiet"],
        None,
    )
    assert (task.queue, task.priority, task.timeout, task.grace, task.retries) == ("media", -10, 600.0, 0.0, 2)
    assert (task.delivery, task.on_crash, task.max_crashes, task.limit) == ("at-most-once", "hold", 1, 2)
    assert (task.env, task.cwd, task.output_max, task.leave_children) == ({"A": "b"}, "/srv", 65536, True)
    assert (task.backoff.base, task.backoff.factor) == (1.0, 2.0)


WORLD = {
    "user": "www-data",
    "env_file": "/etc/cronq/t.env",
    "umask": "027",
    "nice": 5,
    "oom_score_adj": 100,
    "rlimits": {"nofile": 64, "core": "1K", "as": "unlimited"},
    "no_new_privs": True,
    "memory_max": "64M",
    "pids_max": 10,
    "cpu_weight": 20,
}


def test_a_task_says_who_may_submit_it_and_as_whom_and_in_which_world_it_runs() -> None:
    task = decode("t", {"command": ["a"], "submit": ["ann", "@adm"], "allow": ["env"], "allow_root": True} | WORLD, "x")
    assert (task.submit, task.allow, task.allow_root) == (["ann", "@adm"], ["env"], True)
    made = plan(Job(task="t"), {"t": task}, system=True)
    assert (made.user, made.env_file, made.umask, made.nice) == ("www-data", "/etc/cronq/t.env", 0o027, 5)
    assert (made.oom_score_adj, made.no_new_privs) == (100, True)
    assert made.rlimits == {"nofile": 64, "core": 1024, "as": "unlimited"}
    assert (made.memory_max, made.pids_max, made.cpu_weight) == (64 * 1024**2, 10, 20)


def test_a_task_that_says_nothing_of_users_and_world_leaves_them_as_they_are() -> None:
    task = decode("t", {"command": ["a"]}, "x")
    assert (task.submit, task.allow, task.allow_root) == (None, [], False)
    for made in (plan(Job(task="t"), {"t": task}), plan(Job(command=["a"]), {}), plan(Job(command=["a"]), {}, True)):
        assert {getattr(made, key) for key in WORLD.keys() - {"rlimits", "no_new_privs"}} == {None}
        assert (made.rlimits, made.no_new_privs) == ({}, False)


def test_a_task_that_nobody_may_submit_differs_from_one_that_does_not_say() -> None:
    assert decode("t", {"command": ["a"], "submit": []}, "x").submit == []


def test_a_task_that_says_only_its_command_has_the_defaults() -> None:
    task = decode("t", {"command": ["true"]}, "x")
    assert (task.queue, task.priority, task.timeout, task.grace, task.retries) == ("default", 0, None, 10.0, 0)
    assert (task.delivery, task.on_crash, task.max_crashes, task.limit) == ("at-least-once", None, 3, None)
    assert (task.env, task.cwd, task.output_max, task.leave_children) == ({}, None, 10 * 1024**2, False)
    assert (task.backoff.base, task.backoff.max) == (15.0, 3600.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shell": "echo"}, "either a command, a shell line or a python function"),
        ({"command": []}, "command is empty"),
        ({"comand": ["a"]}, "unknown key 'comand'; known are description, command"),
        ({"description": 1}, "description must be text"),
        ({"priority": "urgent"}, "priority must be low"),
        ({"timeout": 0}, "timeout must be longer than nothing"),
        ({"grace": "-1s"}, "grace must be a duration"),
        ({"retries": -1}, "retries must be a whole number"),
        ({"backoff": {"bse": 1}}, "backoff has the unknown key 'bse'"),
        ({"delivery": "once"}, "delivery must be at-least-once or at-most-once"),
        ({"on_crash": "restart"}, "on_crash must be one of retry, dead, hold"),
        ({"on_crash": ["retry"]}, "on_crash must be one of"),
        ({"delivery": "at-most-once", "on_crash": "retry"}, "never run again after a crash"),
        ({"max_crashes": 0}, "from 1 to 100000"),
        ({"limit": True}, "from 1 to 100000"),
        ({"limit": 100001}, "from 1 to 100000"),
        ({"env": {"A": 1}}, "env.A must be text"),
        ({"cwd": "~"}, "cwd must be an absolute path"),
        ({"output_max": "64 M"}, "output_max must be a size"),
        ({"leave_children": "yes"}, "leave_children must be true or false"),
        ({"leave_children": 1}, "leave_children must be true or false"),
        ({"user": "1000"}, "user must be the name of a user, like www-data (no number), not '1000'"),
        ({"user": "cronq"}, "user must not be cronq: the dispatcher's own user runs no jobs"),
        ({"user": "root"}, 'user = "root" needs allow_root = true beside it'),
        ({"submit": "ann"}, 'submit must be a list of users and @groups, like ["www-data", "@staff"], not \'ann\''),
        ({"submit": ["ann", "@"]}, "submit[1] must be the name of a group"),
        ({"submit": ["ann bob"]}, "submit[0] must be the name of a user, or of a @group"),
        ({"allow": ["path"]}, "must be one of env, queue, retries, mutex, weight, unique, options, cwd, not 'path'"),
        ({"retries": 1, "retry_for": "1h"}, "retries and retry_for exclude each other; keep one of them"),
        ({"on_conflict": "reject"}, "on_conflict needs unique beside it"),
        ({"allow": "env"}, "allow must be a list"),
        ({"cwd": "/", "allow": ["cwd"]}, 'so that allow "cwd" changes nothing; keep one of the two'),
        ({"env_file": "t.env"}, "env_file must be an absolute path"),
        ({"umask": 27}, 'umask must be three octal digits as text, like "027", not 27'),
        ({"umask": "1777"}, "umask must be three octal digits"),
        ({"nice": -1}, "nice must be a whole number from 0 to 19"),
        ({"oom_score_adj": -1}, "oom_score_adj must be a whole number from 0 to 1000"),
        ({"rlimits": {"rss": 1}}, "rlimits has the unknown key 'rss'; known are as, core, cpu"),
        ({"rlimits": {"nofile": "unlimited"}}, "rlimits.nofile must be a whole number from 1"),
        ({"rlimits": {"nproc": "1K"}}, "rlimits.nproc must be a whole number from 1"),
        ({"rlimits": {"core": "none"}}, "rlimits.core must be a size like 500K"),
        ({"rlimits": 64}, "rlimits must be a table, like { nofile = 4096, core = 0 }"),
        ({"no_new_privs": 1}, "no_new_privs must be true or false"),
        ({"memory_max": "64"}, "memory_max must be at least 1M"),
        ({"pids_max": 0}, "pids_max must be a whole number from 1"),
        ({"weight": -1}, "weight must be a whole number from 0 to 1000, not -1"),
        ({"mutex": "a b"}, "mutex must be a word"),
        ({"concurrency": 1}, 'concurrency must be a table, like { key = "{args.0}", limit = 1 }, not 1'),
        ({"concurrency": {"limt": 1}}, "concurrency has the unknown key 'limt'; known are key, group, limit, on_block"),
        ({"concurrency": {"limit": 0}}, "concurrency.limit must be a whole number from 1"),
        ({"concurrency": {"on_block": "drop"}}, "on_block must be one of wait, discard, replace, coalesce, not 'drop'"),
        (
            {"concurrency": {"key": "{arg.0}"}},
            "key may hold {args.0} to {args.99}, {user}, {queue}, and no",
        ),
        ({"cpu_weight": 0}, "cpu_weight must be a whole number from 1 to 10000"),
        ({"python": "a:b"}, "either a command, a shell line or a python function"),
        ({"mode": "fork"}, 'mode = "fork" needs python = "package.module:function"'),
        ({"mode": "warm"}, "mode must be one of exec, fork, pool"),
        ({"interpreter": "/usr/bin/python3"}, "interpreter is what runs a python function; write python beside it"),
        ({"max_jobs": 3, "max_age": "1h"}, 'max_jobs, max_age: only what is kept has that; write mode = "fork"'),
    ],
)
def test_a_wrong_table_is_refused_with_file_table_and_key(fields: dict[str, object], words: str) -> None:
    sentence = refused(**fields)
    assert sentence.startswith("tasks.toml: [tasks.resize] ")
    assert words in sentence


def test_a_shell_line_of_nothing_but_blanks_is_refused() -> None:
    assert "shell is empty" in refusal({"shell": " \n"})


@pytest.mark.parametrize("name", ["resize", "photos.resize", "a:b c", "../a:b", "a:", ":b", 1])
def test_a_python_function_is_a_module_and_a_name(name: object) -> None:
    assert "python must be like package.module:function, not" in refusal({"python": name})


def test_a_job_of_a_python_function_is_an_interpreter_that_calls_it_and_so_is_its_host() -> None:
    known = {"t": Task("t", python="a.b:c", mode="fork", cwd="/srv", env={"A": "1"}, max_jobs=2)}
    made = tasks.plan(Job(task="t", args=["x"], env={"B": "2"}, cwd="/home"), known)
    assert made.argv == [sys.executable, tasks.HOST, "once", "a.b:c", "/srv", "x"]
    assert (made.args, made.mode, made.max_jobs) == (["x"], "fork", 2)
    assert made.host is not None
    assert made.host.argv == [sys.executable, tasks.HOST, "fork", "a.b:c", "/srv"]
    assert (made.host.env, made.host.cwd, made.host.mode, made.host.host) == ({"A": "1"}, "/srv", "exec", None)


def test_a_shell_line_is_no_pool() -> None:
    assert 'mode = "pool" needs a command or python' in refusal({"shell": "cat", "mode": "pool"})


def test_a_task_without_a_verb_is_refused() -> None:
    assert "either a command, a shell line or a python function" in refusal({})


@pytest.mark.parametrize("table", [[], "true", 1, None])
def test_a_task_that_is_no_table_is_refused(table: object) -> None:
    assert "a task is a table" in refusal(table)


@pytest.mark.parametrize("name", ["", ".x", "a b", "a" * 49, "ä", "\x1b[31m"])
def test_a_bad_name_of_a_task_is_refused_and_shown_harmless(name: str) -> None:
    sentence = refusal({"command": ["true"]}, name)
    assert "a task's name has letters" in sentence
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("value", "size"), [(0, 0), (500, 500), ("500", 500), ("1K", 1024), ("64M", 64 * 1024**2), ("2G", 2 * 1024**3)]
)
def test_a_size_is_a_number_of_bytes(value: object, size: int) -> None:
    assert taskkeys.size("output_max", value) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "K",
        "1.5M",
        "64m",
        "64MB",
        "-1",
        "1 K",
        "١K",
        "9" * 17,
        "9" * 20 + "K",
        -1,
        1.0,
        True,
        None,
        [1],
        2**61,
    ],
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(BadJob, match=r"output_max must be a size"):
        taskkeys.size("output_max", value)


def test_a_size_too_long_for_python_to_write_is_refused_in_words() -> None:
    with pytest.raises(BadJob, match=r"output_max must be a size .* too long to show"):
        taskkeys.size("output_max", 16**5000)


def of(task: Task, **fields: object) -> tasks.Plan:
    return plan(Job(task=task.name, **fields), {task.name: task})


def test_a_jobs_arguments_are_appended_to_the_tasks_command() -> None:
    assert of(Task("t", command=["convert", "-quiet"]), args=["a b", "$1"]).argv == ["convert", "-quiet", "a b", "$1"]


def test_a_jobs_arguments_are_parameters_of_a_shell_line_and_never_part_of_it() -> None:
    argv = of(decode("t", {"shell": 'echo "$1"'}, "x"), args=["; rm -rf /"]).argv
    assert argv == ["/bin/sh", "-c", 'echo "$1"', "t", "; rm -rf /"]


def test_what_a_job_asks_goes_before_what_its_task_says() -> None:
    task = Task("t", command=["true"], queue="q", priority=3, timeout=9.0, retries=2, backoff=Backoff(base=1))
    said, asked = of(task), of(task, queue="r", priority=0, timeout=1.0, retries=0, backoff=Backoff(base=2))
    assert (said.queue, said.priority, said.timeout, said.retries, said.backoff.base) == ("q", 3, 9.0, 2, 1)
    assert (asked.queue, asked.priority, asked.timeout, asked.retries, asked.backoff.base) == ("r", 0, 1.0, 0, 2)


def test_retry_for_is_as_many_further_attempts_as_begin_within_that_time() -> None:
    task = Task("t", command=["true"], retry_for=100.0, backoff=Backoff(base=10, factor=2, max=40, jitter=1))
    assert of(task).retries == 3  # after 10, 30 and 70 seconds; the next would be at 110
    assert of(task, retry_for=110.0).retries == 4
    assert of(task, retries=1).retries == 1
    assert of(task, backoff=Backoff(base=0)).retries == jobs.MAX_RETRIES
    assert of(Task("t", command=["true"], retries=7), retry_for=9.0).retries == 0


def test_a_jobs_variables_come_on_top_of_its_tasks_and_change_neither() -> None:
    task = Task("t", command=["true"], env={"A": "task", "B": "task"})
    assert of(task, env={"A": "job"}).env == {"A": "job", "B": "task"}
    assert task.env == {"A": "task", "B": "task"}


def test_a_tasks_directory_goes_before_the_one_a_job_recorded() -> None:
    assert of(Task("t", command=["true"], cwd="/task"), cwd="/job").cwd == "/task"
    assert of(Task("t", command=["true"]), cwd="/job").cwd == "/job"


def test_a_task_of_another_user_runs_in_that_users_home_and_not_where_its_submitter_stood() -> None:
    job, task = Job(task="t", cwd="/job"), decode("t", {"command": ["true"], "user": "www-data"}, "x")
    assert plan(job, {"t": task}, system=True).cwd is None
    task.allow = ["cwd"]
    assert plan(job, {"t": task}, system=True).cwd == "/job"
    task.allow, task.cwd = ["env"], "/task"
    assert plan(job, {"t": task}, system=True).cwd == "/task"


def test_a_task_that_runs_as_its_submitter_runs_where_he_stood() -> None:
    assert plan(Job(task="t", cwd="/job"), {"t": Task("t", command=["a"])}, system=True).cwd == "/job"
    assert plan(Job(command=["a"], cwd="/job"), {}, system=True).cwd == "/job"


def test_where_everything_runs_as_one_user_a_task_of_his_does_and_where_he_stood() -> None:
    me = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == os.getuid()), None)
    if me is None:
        pytest.skip("this user has no passwd entry")
    made = plan(Job(task="t", cwd="/job"), {"t": Task("t", command=["a"], user=me)})
    assert (made.user, made.cwd) == (me, "/job")


@pytest.mark.parametrize("user", ["daemon", "no-such-user"])
def test_where_everything_runs_as_one_user_a_task_of_another_is_not_permitted(user: str) -> None:
    with pytest.raises(
        BadJob, match=f"the task t runs as {user}, and this dispatcher runs everything as uid "
    ) as caught:
        plan(Job(task="t"), {"t": Task("t", command=["a"], user=user)})
    assert caught.value.exit_code == 77


def test_a_free_command_is_its_own_argv_under_the_defaults() -> None:
    made = plan(Job(command=["a", "b"], delivery="at-most-once"), {})
    assert (made.argv, made.queue, made.retries, made.limit) == (["a", "b"], "default", 0, None)
    assert (made.delivery, made.on_crash, made.leave_children) == ("at-most-once", "dead", True)


@pytest.mark.parametrize(
    ("fields", "on_crash"),
    [({}, "retry"), ({"delivery": "at-most-once"}, "dead"), ({"delivery": "at-most-once", "on_crash": "hold"}, "hold")],
)
def test_a_crash_is_retried_unless_the_task_runs_at_most_once(fields: dict[str, object], on_crash: str) -> None:
    assert of(Task("t", command=["true"], **fields)).on_crash == on_crash


def test_a_job_of_an_unknown_task_is_refused_with_the_tasks_there_are() -> None:
    with pytest.raises(BadJob, match="unknown task 'resise'; known are: hello, resize"):
        plan(Job(task="resise"), {"resize": Task("resize"), "hello": Task("hello")})


def test_every_key_of_a_task_has_a_reader_and_a_slot() -> None:
    assert set(taskkeys.READERS) == set(tasks.KEYS) == set(Task.__slots__) - {"name"}
    assert set(jobs.READERS) == set(jobs.KEYS) == set(Job.__slots__)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@patient
@given(st.dictionaries(st.sampled_from(tasks.KEYS), values, max_size=4))
def test_whatever_the_table_the_decoder_answers_with_a_task_or_a_sentence(table: dict[str, object]) -> None:
    try:
        decode("t", table, "x")
    except BadConfig as error:
        assert error.sentence.startswith("x: [tasks.t] ")


def test_tasks_are_read_from_all_files_of_the_config_directory(tmp_path: Path) -> None:
    (tmp_path / "tasks.d").mkdir()
    (tmp_path / "cronq.toml").write_text('[tasks.a]\ncommand = ["a"]\n')
    (tmp_path / "tasks.d" / "b.toml").write_text('[tasks.b]\ncommand = ["b"]\n')
    (tmp_path / "tasks.d" / "b.toml.bak").write_text("[")
    (tmp_path / "tasks.d" / ".b.toml").write_text("[")
    assert {name: task.command for name, task in tasks.load(str(tmp_path)).items()} == {"a": ["a"], "b": ["b"]}


def test_a_directory_that_is_not_there_has_no_tasks(tmp_path: Path) -> None:
    assert tasks.load(str(tmp_path / "none")) == {}


def test_a_task_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.d").mkdir()
    for name in ("x.toml", "y.toml"):
        (tmp_path / "tasks.d" / name).write_text('[tasks.a]\ncommand = ["a"]\n')
    with pytest.raises(BadConfig, match=r"y.toml: \[tasks.a\] stands in two files"):
        tasks.load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[tasks.a\n", "not TOML: .* line 1"),
        (b"a = " + b"9" * 5000, "not TOML: "),
        (b"a = " + b"[" * 5000, "not TOML: "),
        (b"a = '\xff'", "not UTF-8 .byte 6"),
        (b"tasks = 3", "tasks must be tables"),
        (b"[tasks.a]\ncommand = ['a']\ntimeout = 0x" + b"f" * 5000, "timeout must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_path(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "cronq.toml").write_bytes(content)
    with pytest.raises(BadConfig, match=words) as caught:
        tasks.load(str(tmp_path))
    assert caught.value.sentence.startswith(str(tmp_path / "cronq.toml"))


def test_a_link_that_leads_nowhere_is_a_mistake_and_not_an_empty_config(tmp_path: Path) -> None:
    (tmp_path / "cronq.toml").symlink_to("nowhere")
    with pytest.raises(BadConfig, match=r"cronq.toml: cannot be read: No such file"):
        tasks.load(str(tmp_path))


def test_a_folder_of_tasks_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "tasks.d").write_text("")
    with pytest.raises(BadConfig, match=r"tasks.d: cannot be read: Not a directory"):
        tasks.load(str(tmp_path))


def test_the_key_of_a_job_is_made_of_its_arguments_its_submitter_and_its_queue() -> None:
    job = Job(task="t", args=["a", "{user}"])
    assert limitkeys.render("{args.0}/{args.1}/{args.2}/{user}/{queue}", job, 1000, "q") == "a/{user}//1000/q"
    assert limitkeys.render("", job, 1000, "q") == ""


def test_keys_are_those_of_a_group_or_of_a_task_and_words_are_their_owners() -> None:
    found = [
        keys.group("g", "t", "x"),
        keys.group("g", "u", "x"),
        keys.group(None, "g", "x"),
        keys.group(None, "t", "x"),
    ]
    assert found[0] == found[1]
    assert len({*found, keys.group("g", "t", "y")}) == 4
    assert keys.mutex(0, "a") != keys.mutex(1000, "a") != keys.line(1000, "a")
