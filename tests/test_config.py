"""The configuration: several files, one result, and every fault told at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aside import ANN, CONFIG, aside, write

from cronq import config
from cronq import job as jobs
from cronq.config import Config, Queue, Schedule, load
from cronq.errors import BadConfig

A = '[tasks.a]\ncommand = ["a"]\n'


class Folder:
    """A config directory under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "tasks.d").mkdir()

    def main(self, text: str) -> Folder:
        (self.path / "cronq.toml").write_text(text)
        return self

    def more(self, name: str, text: str) -> Folder:
        (self.path / "tasks.d" / name).write_text(text)
        return self

    def load(self) -> Config:
        return load(str(self.path))

    def faults(self) -> list[str]:
        """What is wrong, without the directory in front."""
        with pytest.raises(BadConfig) as caught:
            self.load()
        assert caught.value.exit_code == 78
        sentences = [caught.value.sentence, *caught.value.more]
        assert all(sentence.startswith(f"{self.path}/") for sentence in sentences)
        return [sentence.removeprefix(f"{self.path}/") for sentence in sentences]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_directory_that_is_not_there_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load(str(tmp_path / "none")) == Config()


def test_an_empty_directory_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load(str(tmp_path)) == Config()


def test_all_tables_are_read_from_all_files(folder: Folder) -> None:
    found = (
        folder.main(A + "[queues.p]\nslots = 1\n[schedules.a]\nevery = 5\n[limits]\nmax_jobs = 3\n")
        .more("b.toml", '[tasks.b]\nshell = "b"\nlimit = 2\n[queues.q]\n[schedules.s]\nevery = "1h"\ntask = "a"\n')
        .load()
    )
    assert sorted(found.tasks) == ["a", "b"]
    assert found.queues == {"p": Queue("p", 1), "q": Queue("q", None)}
    assert found.schedules == {"a": Schedule("a", 5.0, "a"), "s": Schedule("s", 3600.0, "a")}
    assert found.max_jobs == 3
    assert found.slots == {"p": 1}
    assert found.limits == {"b": 2}


def test_the_main_file_says_who_operates_and_how_it_stops(folder: Folder) -> None:
    found = folder.main(
        '[control]\noperators = "adm"\n[exec]\nallow_root = true\n[stop]\ndrain_timeout = "5s"\nmode = "interrupt"\n'
    ).load()
    assert (found.operators, found.drain_timeout, found.stop_mode) == ("adm", 5.0, "interrupt")
    assert Config().operators is None
    assert folder.main("[control]\n[exec]\n").load() == Config()


def test_a_schedule_says_the_job_that_it_makes(folder: Folder) -> None:
    text = '[schedules.s]\nevery = "2s"\ntask = "a"\nargs = ["x"]\npriority = "low"\nqueue = "q"\nenabled = false\n'
    schedule = folder.main(A + text).load().schedules["s"]
    assert schedule == Schedule("s", 2.0, "a", ["x"], -10, "q", enabled=False)
    job = jobs.decode(jobs.encode(schedule.fields()))
    assert (job.task, job.args, job.priority, job.queue) == ("a", ["x"], -10, "q")


def test_a_schedule_that_says_nothing_of_its_job_leaves_it_to_the_task() -> None:
    assert Schedule("s", 2.0, "a").fields() == {"task": "a"}


def test_a_limit_for_each_user_stands_alone_or_beside_that_of_all(folder: Folder) -> None:
    assert Config().max_jobs_per_user is None
    found = folder.main("[limits]\nmax_jobs_per_user = 3\n").load()
    assert (found.max_jobs, found.max_jobs_per_user) == (config.default_max_jobs(), 3)
    found = folder.main("[limits]\nmax_jobs = 5\nmax_jobs_per_user = 2\n").load()
    assert (found.max_jobs, found.max_jobs_per_user) == (5, 2)


def test_without_a_limit_four_jobs_run_for_each_cpu_and_at_least_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cpus in (1, 2, 16):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cpus=cpus: set(range(cpus)))
        found.append(config.default_max_jobs())
    assert found == [8, 8, 64]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[task.a]", "cronq.toml: unknown table 'task'; did you mean 'tasks'?"),
        (
            "x = 1",
            "cronq.toml: unknown table 'x'; known are tasks, queues, schedules, limits, pressure, control, exec, cron, "
            "notify, stop, retention, metrics",
        ),
        ("tasks = 1", "cronq.toml: tasks must be tables, like [tasks.NAME]"),
        ("[[tasks]]", "cronq.toml: tasks must be tables, like [tasks.NAME]"),
        ("[queues]\nmail = 3", "cronq.toml: [queues.mail] must be a table, not 3"),
        ("[queues.'a b']", "cronq.toml: [queues.'a b'] a name has letters, digits, '.', '_', '-', at most 48"),
        ("[queues.mail]\nslot = 1", "cronq.toml: [queues.mail] unknown key 'slot'; did you mean 'slots'?"),
        ("[queues.mail]\nslots = 0", "cronq.toml: [queues.mail] slots must be a whole number from 1 to 100000, not 0"),
        (
            "[queues.mail]\nrate = '0/1m'",
            'cronq.toml: [queues.mail] rate must be how many may start in how long, at least one, like "10/1m", not '
            "'0/1m'",
        ),
        ("[queues.mail]\nburst = 2", "cronq.toml: [queues.mail] burst belongs to a rate; write both, or leave it out"),
        (
            "[tasks.x]\ncommand = ['x']\nconcurrency = { limt = 1 }",
            "cronq.toml: [tasks.x] concurrency: unknown key 'limt'; did you mean 'limit'?",
        ),
        (
            "[tasks.x]\ncommand = ['x']\nweight = -1",
            "cronq.toml: [tasks.x] weight must be a whole number from 0 to 1000, not -1",
        ),
        ("limits = 3", "cronq.toml: limits must be a table, like [limits]"),
        ("[limits]\nmax_job = 3", "cronq.toml: [limits] unknown key 'max_job'; did you mean 'max_jobs'?"),
        ("[limits]\nmax_jobs = -1", "cronq.toml: [limits] max_jobs must be a whole number from 1 to 100000, not -1"),
        (
            "[control]\noperators = 'cronq'",
            "cronq.toml: [control] operators must not be cronq: that group never has members; name another group, "
            "like adm",
        ),
        (
            "[pressure]\nmax_load = 0",
            "cronq.toml: [pressure] max_load must be a number above 0, at most 100000, like 8 or 1.5, not 0",
        ),
        ("[control]\noperator = 'adm'", "cronq.toml: [control] unknown key 'operator'; did you mean 'operators'?"),
        ("[exec]\nallow_root = 1", "cronq.toml: [exec] allow_root must be true or false, not 1"),
        ("exec = true", "cronq.toml: exec must be a table, like [exec]"),
        ("[tasks.x]\ncomand = []", "cronq.toml: [tasks.x] unknown key 'comand'; did you mean 'command'?"),
        (
            "[tasks.x]",
            "cronq.toml: [tasks.x] a task has either a command, a shell line or a python function; write one of the "
            "three keys",
        ),
        ("[schedules.a]", "cronq.toml: [schedules.a] every or cron is missing; write one of them"),
        ("[schedules.a]\nevery = '0.9s'", "cronq.toml: [schedules.a] every must be at least 1s, not '0.9s'"),
        (
            "[schedules.a]\nevery = '2'",
            "cronq.toml: [schedules.a] every must be a duration like 90s, 10m, 1h30m or 2d (50 years at most), not '2'",
        ),
        (
            "[schedules.a]\nevery = '2s'\nenable = true",
            "cronq.toml: [schedules.a] unknown key 'enable'; did you mean 'enabled'?",
        ),
        (
            '[schedules.a]\ncron = "*/5 * * * *"\nevery = "2s"',
            "cronq.toml: [schedules.a] every and cron exclude each other; keep one of them",
        ),
        (
            '[schedules.a]\ncron = "60 * * * *"',
            "cronq.toml: [schedules.a] cron '60 * * * *': bad minute: 60 is not in 0-59; the full hour is 0",
        ),
        (
            '[schedules.a]\ncron = "0 * * * *"\nzone = "Europe/Nowhere"',
            "cronq.toml: [schedules.a] zone must be a time zone like Europe/Berlin, not 'Europe/Nowhere'",
        ),
        (
            "[schedules.s]\nevery = '2s'\ntask = 'aa'",
            "cronq.toml: [schedules.s] unknown task 'aa'; did you mean 'a'?",
        ),
        ("[schedules.zz]\nevery = '2s'", "cronq.toml: [schedules.zz] unknown task 'zz'; known are a"),
    ],
)
def test_a_fault_is_told_with_file_table_key_and_the_way_to_mend_it(folder: Folder, text: str, fault: str) -> None:
    assert folder.main(text).more("a.toml", A).faults() == [fault]


def test_all_faults_of_all_files_are_told_together(folder: Folder) -> None:
    folder.main("[limits]\nmax_jobs = 0\n[queues.q]\nslots = 0\nslot = 1\n")
    folder.more("a.toml", A + "timeout = 0\nretries = -1\n").more("b.toml", "[[[").more("c.toml", "[limits]\n")
    faults = folder.faults()
    assert [fault.partition(":")[0] for fault in faults] == [
        *["cronq.toml"] * 3,
        *["tasks.d/a.toml"] * 2,
        "tasks.d/b.toml",
        "tasks.d/c.toml",
    ]
    assert "unknown key 'slot'" in faults[1]
    assert "not TOML" in faults[5]


@pytest.mark.parametrize("table", ["limits", "control", "exec", "stop"])
def test_what_there_is_once_stands_in_the_main_file_only(folder: Folder, table: str) -> None:
    folder.more("a.toml", f"[{table}]\n")
    assert folder.faults() == [f"tasks.d/a.toml: [{table}] stands in cronq.toml only; move it there"]


@pytest.mark.parametrize("table", ["tasks.a]\ncommand = ['b']", "queues.a]", "schedules.a]\nevery = 9"])
def test_a_name_that_stands_in_two_files_is_told_with_both(folder: Folder, table: str) -> None:
    folder.main(A if "tasks" not in table else "").more("x.toml", f"[{table}\n").more("y.toml", f"[{table}\n")
    title = table.partition("]")[0]
    assert folder.faults() == [
        f"tasks.d/y.toml: [{title}] stands in {folder.path}/tasks.d/x.toml too; keep one of them"
    ]


def test_a_schedule_of_a_task_that_is_there_but_wrong_is_not_told_besides(folder: Folder) -> None:
    faults = folder.main("[schedules.a]\nevery = 5\n[tasks.a]\ncommand = []\n").faults()
    assert faults == ["cronq.toml: [tasks.a] command is empty; its first element is the program"]


def test_a_schedule_of_a_task_in_a_file_that_cannot_be_read_is_not_told_besides(folder: Folder) -> None:
    faults = folder.main("[schedules.a]\nevery = 5\n").more("a.toml", "[").faults()
    assert len(faults) == 1
    assert faults[0].startswith("tasks.d/a.toml: not TOML")


def test_a_folder_of_tasks_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "tasks.d").write_text("")
    with pytest.raises(BadConfig, match=r"tasks.d: cannot be read: Not a directory"):
        load(str(tmp_path))


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Config().max_jobs = 3  # type: ignore[misc]


@aside
def test_a_configuration_for_many_users_is_roots_alone_and_every_fault_is_told() -> None:
    write("cronq.toml", A + "[queues.q]\nslots = 0\n", mode=0o664)
    write("tasks.d/b.toml", "", owner=ANN)
    with pytest.raises(BadConfig) as caught:
        load(str(CONFIG), system=True)
    told = [sentence.removeprefix("/mnt/cronq/") for sentence in (caught.value.sentence, *caught.value.more)]
    assert told == [
        "cronq.toml: can be written by its group, and must be by root alone; chmod go-w /mnt/cronq/cronq.toml",
        "tasks.d/b.toml: belongs to uid 52001, and must be root's; chown root /mnt/cronq/tasks.d/b.toml",
        "cronq.toml: [queues.q] slots must be a whole number from 1 to 100000, not 0",
    ]


@aside
def test_a_schedule_needs_a_user_where_there_are_many() -> None:
    write("cronq.toml", A + '[tasks.b]\ncommand = ["b"]\nuser = "ann"\n')
    write("tasks.d/s.toml", "[schedules.a]\nevery = 5\n[schedules.b]\nevery = 5\n")
    assert sorted(load(str(CONFIG)).schedules) == ["a", "b"]
    with pytest.raises(BadConfig) as caught:
        load(str(CONFIG), system=True)
    assert (caught.value.sentence, caught.value.more) == (
        "/mnt/cronq/tasks.d/s.toml: [schedules.a] has no submitter to run as; write user into [tasks.a]",
        [],
    )
