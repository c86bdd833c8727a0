"""The producer: what it writes, what it refuses and how it says so, and that it stays light."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from standin import CRONQ, UID, cronq, settings

from cronq import job as jobs
from cronq import lines, submit, usage
from cronq.errors import BadJob, Duplicate, UsageError

ROOT = Path(__file__).parent.parent
HEAVY = (
    "argparse asyncio cronq.cli cronq.client cronq.config cronq.crontab cronq.follow cronq.intake croniter ctypes "
    "dataclasses datetime enum filelock inotify_simple inspect json logging pathlib pydantic re rich select shutil "
    "signal socket subprocess tempfile threading typer typing"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def inbox(root: Path) -> list[str]:
    return sorted(os.listdir(root / "in" / str(UID)))


def only_job(root: Path) -> jobs.Job:
    (name,) = (name for name in inbox(root) if name.endswith(".job"))
    return jobs.decode((root / "in" / str(UID) / name).read_bytes())


# ---------------------------------------------------------------- what it writes


def test_the_printed_id_is_the_files_name(root: Path) -> None:
    done = cronq(root, "submit", "resize", "a.jpg", "b.jpg")
    assert done.returncode == 0, done.stderr
    owner, _, name = done.stdout.strip().partition("-")
    assert int(owner) == UID
    assert jobs.name_time(name) == pytest.approx(time.time(), abs=10)
    assert inbox(root) == [f"{name}.job"]
    job = only_job(root)
    assert (job.task, job.args, job.command) == ("resize", ["a.jpg", "b.jpg"], None)


def test_a_command_carries_its_callers_directory_and_path(root: Path, tmp_path: Path) -> None:
    done = cronq(root, "exec", "--", "ls", "-l", "--", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    job = only_job(root)
    assert job.command == ["ls", "-l", "--", "x"]
    assert job.cwd == str(tmp_path)
    assert job.env == {"PATH": os.environ["PATH"]}


def test_the_dashes_before_a_command_may_be_left_out(root: Path) -> None:
    assert cronq(root, "exec", "--no-sync", "ls", "-l").returncode == 0
    assert only_job(root).command == ["ls", "-l"]


def test_every_option_arrives(root: Path, tmp_path: Path) -> None:
    argv = "--priority high --delay=90 --expires 2099-01-01T00:00:00+01:00 --timeout 1.5s --retries 3 --queue mail"
    more = [
        "--env",
        "A=b=c",
        "--env",
        "B=",
        "--cwd",
        str(tmp_path),
        "--note",
        "two words",
        "--delivery",
        "at-most-once",
    ]
    done = cronq(root, "exec", *argv.split(), *more, "--name", "nightly", "--json", "--", "true")
    assert json.loads(done.stdout) == {"id": f"{UID}-nightly"}, done.stderr
    assert inbox(root) == ["nightly.job"]
    job = only_job(root)
    assert (job.priority, job.delay, job.timeout, job.retries, job.queue) == (10, 90.0, 1.5, 3, "mail")
    assert job.expires == datetime.fromisoformat("2099-01-01T00:00:00+01:00").timestamp()
    assert job.env == {"PATH": os.environ["PATH"], "A": "b=c", "B": ""}
    assert (job.cwd, job.note, job.delivery) == (str(tmp_path), "two words", "at-most-once")


def test_options_of_submit_may_follow_the_task(root: Path) -> None:
    assert cronq(root, "submit", "resize", "a", "--priority", "-3", "b", "--", "--size").returncode == 0
    job = only_job(root)
    assert (job.priority, job.args) == (-3, ["a", "b", "--size"])


def test_python_queues_as_the_command_does(root: Path) -> None:
    when = datetime.now().astimezone() + timedelta(hours=1)
    job_id = submit.submit("add", 2, Path("x"), spool=str(root), at=when, env={"A": "b"}, sync=False)
    job = only_job(root)
    assert inbox(root) == [job_id.partition("-")[2] + ".job"]
    assert (job.task, job.args, job.env) == ("add", ["2", "x"], {"A": "b"})
    assert job.at == pytest.approx(when.timestamp(), abs=1e-5)


def test_python_queues_a_line_for_the_shell(root: Path) -> None:
    submit.execute("echo $HOME | wc", spool=str(root), name="one")
    assert only_job(root).command == ["/bin/sh", "-c", "echo $HOME | wc"]


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n\r"), max_size=20)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@settings_of_hypothesis(deadline=None)  # disks have bad moments
@given(args=st.lists(TEXT, max_size=5), env=st.dictionaries(NAMES, TEXT, max_size=3), text=TEXT)
def test_what_is_queued_is_what_was_asked(tmp_path_factory: pytest.TempPathFactory, args, env, text) -> None:
    root = tmp_path_factory.mktemp("asked") / "spool"
    submit.submit("t", *args, spool=str(root), env=env, stdin=text, sync=False)
    job = only_job(root)
    assert (job.args, job.env, job.stdin) == (args, env, text)


# ---------------------------------------------------------------- standard input


def test_small_text_goes_inside_the_job_file(root: Path) -> None:
    assert cronq(root, "submit", "--stdin", "-", "t", input="zeile\tä\n").returncode == 0
    assert only_job(root).stdin == "zeile\tä\n"


@pytest.mark.parametrize("content", [b"x" * 40_000, b"\xff\xfe", b"a\0b", b"\x1b[1m", b'"' * 33_000])
def test_anything_else_goes_beside_it(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input").write_bytes(content)
    for source in (str(tmp_path / "input"), "-"):
        with open(tmp_path / "input", "rb") as file:
            done = cronq(root, "submit", "--stdin", source, "t", stdin=file)
        name = done.stdout.strip().partition("-")[2]
        assert (root / "in" / str(UID) / f"{name}.data").read_bytes() == content, done.stderr
        assert jobs.decode((root / "in" / str(UID) / f"{name}.job").read_bytes()).stdin is None


def test_text_that_does_not_fit_after_all_goes_beside_it(root: Path) -> None:
    submit.submit("t", "y" * 40_000, stdin="x" * 30_000, spool=str(root))
    (name,) = (name for name in inbox(root) if name.endswith(".data"))
    assert (root / "in" / str(UID) / name).read_text() == "x" * 30_000


def test_a_pipe_of_any_size_is_never_held_in_memory(root: Path) -> None:
    size = 300 * 1024 * 1024

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (200 * 1024 * 1024,) * 2)

    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as source:
        done = cronq(root, "submit", "--no-sync", "--stdin", "-", "t", stdin=source.stdout, preexec_fn=limited)
    assert done.returncode == 0, done.stderr
    (name,) = (name for name in inbox(root) if name.endswith(".data"))
    assert (root / "in" / str(UID) / name).stat().st_size == size


# ---------------------------------------------------------------- batches


def test_a_batch_is_one_file_that_says_how_many(root: Path) -> None:
    done = cronq(root, "exec", "--batch", "-", "--priority", "low", "--json", input='echo "ä"\n\n  \necho 2')
    answer = json.loads(done.stdout)
    assert answer["jobs"] == 2
    assert inbox(root) == [answer["id"].partition("-")[2] + ".jobs"]
    head, *members = (root / "in" / str(UID) / inbox(root)[0]).read_bytes().splitlines()
    assert json.loads(head) == {"jobs": 2}
    assert [jobs.decode(line).command for line in members] == [["/bin/sh", "-c", t] for t in ('echo "ä"', "echo 2")]
    assert {jobs.decode(line).priority for line in members} == {-10}


def test_a_line_is_the_last_argument_of_the_task(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a b\n\\u0000\n")
    done = cronq(root, "submit", "resize", "--batch", str(tmp_path / "list"), "--", "-s", "\\u0000")
    assert done.returncode == 0, done.stderr
    _, *members = (root / "in" / str(UID) / inbox(root)[0]).read_bytes().splitlines()
    assert [jobs.decode(line).args for line in members] == [["-s", "\\u0000", "a b"], ["-s", "\\u0000", "\\u0000"]]


def test_python_queues_a_batch(root: Path) -> None:
    batch_id = submit.batch(["a", "b"], task="t", args=[1], spool=str(root), stdin="hello")
    _, *members = (root / "in" / str(UID) / (batch_id.partition("-")[2] + ".jobs")).read_bytes().splitlines()
    assert [(jobs.decode(line).args, jobs.decode(line).stdin) for line in members] == [
        (["1", "a"], "hello"),
        (["1", "b"], "hello"),
    ]


def test_a_large_batch_takes_little_memory(root: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (60 * 1024 * 1024,) * 2)

    with subprocess.Popen(["seq", "600000"], stdout=subprocess.PIPE) as source:  # a file of 85 MB
        argv = ["submit", "--no-sync", "--batch", "-", "--json", "t", "x" * 100]
        done = cronq(root, *argv, stdin=source.stdout, preexec_fn=limited)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"] == 600_000
    with open(root / "in" / str(UID) / inbox(root)[0], "rb") as file:
        assert sum(1 for _ in file) == 600_001


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the batch is empty"),
        (b"\n \n", "the batch is empty"),
        (b"a\n\xff\n", "line 2 is not UTF-8"),
        (b"a\nb\0\n", "line 2 holds the control character U+0000"),
        (b"a\n" + b"x" * 70_000, "line 2"),
    ],
)
def test_a_bad_line_queues_nothing(root: Path, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "list").write_bytes(content)
    done = cronq(root, "exec", "--batch", str(tmp_path / "list"))
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.startswith(f"cronq: {says}"), done.stderr
    assert inbox(root) == []


def test_a_batch_is_never_shorter_than_it_says(root: Path) -> None:
    """The count is written last: a draft that a crash left behind does not begin with one."""
    seen = []

    def source():
        yield b"a"
        (draft,) = (root / "in" / str(UID)).glob(".*.tmp")
        seen.append(draft.read_bytes()[: lines.HEADER_BYTES])
        yield b"b"

    writing = lines.Batch(source(), {"task": "t"}, "args")
    from cronq import spool

    spool.put(str(root), "b", writing.pour, ending=".jobs")
    assert seen == [b" " * (lines.HEADER_BYTES - 1) + b"\n"]
    assert (root / "in" / str(UID) / "b.jobs").read_bytes().startswith(b'{"jobs": 2}')


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ("submit", 2, "submit needs a task"),
        ("exec", 2, "exec needs a command"),
        ("exec --", 2, "exec needs a command"),
        ("submit --nonsense t", 2, "submit has no option '--nonsense'"),
        (
            "submit t --size 3",
            2,
            "submit has no option '--size'; arguments of the task that begin with a dash go after",
        ),
        ("submit --delivery at-most-once t", 2, "submit has no option '--delivery'"),
        ("submit --priority", 2, "--priority needs a value"),
        ("submit --wait=yes t", 2, "--wait takes no value"),
        ("submit --priority urgent t", 2, "--priority must be low, normal, high"),
        ("submit --priority 21 t", 2, "--priority must be low, normal, high"),
        ("submit --retries -1 t", 2, "--retries must be a whole number"),
        ("submit --delay soon t", 2, "--delay must be a duration"),
        ("submit --timeout 0 t", 2, "--timeout must be longer than nothing"),
        ("submit --at yesterday t", 2, "--at must be a time"),
        ("submit --at 25:00 t", 2, "'25:00' is no time of day"),
        ("submit --expires never t", 2, "--expires must be a time"),
        ("submit --delay 1m --at 10:00 t", 2, "--delay and --at exclude each other"),
        ("submit --env A t", 2, "--env must be K=V"),
        ("submit --env 1A=b t", 2, "--env has the variable '1A'"),
        ("submit --queue a/b t", 2, "--queue must be a name"),
        ("submit --name ../x t", 2, "--name must be a name"),
        ("submit --name cron-x t", 2, "--name must be a name"),
        ("submit --stdin /nowhere t", 2, "--stdin /nowhere: No such file"),
        ("submit --stdin / t", 2, "the standard input cannot be read: Is a directory"),
        ("submit --batch /nowhere t", 2, "--batch /nowhere: No such file"),
        ("submit --batch / t", 2, "--batch /: Is a directory"),
        ("submit --batch - --stdin - t", 2, "--stdin - and --batch - cannot both"),
        ("submit --batch -", 2, "submit --batch needs a task"),
        ("exec --batch - ls", 2, "exec --batch takes its commands from the lines"),
        ("submit a/b", 65, "task must be a name"),
    ],
)
def test_a_refusal_is_one_sentence_and_its_code(root: Path, argv: str, code: int, says: str) -> None:
    done = cronq(root, *argv.split(), stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"cronq: {says}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not root.exists() or inbox(root) == []


def test_an_argument_that_is_not_utf8_is_a_bad_job(root: Path) -> None:
    done = subprocess.run([*CRONQ, "submit", "t", b"a\xff"], check=False, **settings(root), capture_output=True)
    assert done.returncode == 65
    assert b"'a\\udcff' is not UTF-8" in done.stderr


def test_python_refuses_by_the_same_sentences(root: Path) -> None:
    with pytest.raises(UsageError, match=r"^priority must be low"):
        submit.submit("t", spool=str(root), priority="urgent")
    with pytest.raises(UsageError, match="unknown option 'prio'"):
        submit.submit("t", spool=str(root), prio=1)
    with pytest.raises(BadJob, match="control character U\\+0000"):
        submit.submit("t", "a\0", spool=str(root))


def test_a_job_larger_than_a_job_file_is_refused(root: Path) -> None:
    with pytest.raises(BadJob, match=r"larger than 64 KiB.*--stdin"):
        submit.submit("t", "x" * 40_000, "y" * 40_000, spool=str(root))


def test_a_full_disk_says_so_and_leaves_nothing(root: Path) -> None:
    """A file size limit is a disk that is full at that byte."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = cronq(root, "submit", "--stdin", "-", "t", input="x" * 200_000, preexec_fn=limited)
    assert (done.returncode, done.stdout) == (75, "")
    assert "nothing was queued" in done.stderr
    assert inbox(root) == []


def test_a_deleted_directory_is_no_place_to_run_in(root: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f'rmdir "$PWD"; exec {sys.executable} -m cronq exec true'
    started = settings(root) | {"cwd": gone}
    done = subprocess.run(["/bin/sh", "-c", shell], check=False, **started, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the current directory is gone" in done.stderr


def test_an_id_that_cannot_be_printed_is_not_kept_secret(root: Path) -> None:
    with open("/dev/full", "w") as full:
        done = cronq(root, "submit", "t", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 70
    assert f"cronq: {UID}-{inbox(root)[0].removesuffix('.job')} is queued, but" in done.stderr


def test_a_chosen_name_never_replaces_a_job(root: Path) -> None:
    submit.execute(["first"], spool=str(root), name="backup")
    with pytest.raises(Duplicate, match="a job named backup is queued already"):
        submit.execute(["second"], spool=str(root), name="backup", stdin=b"\0")
    assert only_job(root).command == ["first"]
    assert inbox(root) == ["backup.job"]


# ---------------------------------------------------------------- times


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "clock", "then"),
    [
        ("2026-06-01T12:00:00+02:00", "18:30", "2026-06-01T18:30:00+02:00"),
        ("2026-06-01T12:00:00+02:00", "12:00", "2026-06-02T12:00:00+02:00"),
        ("2026-06-01T12:00:00+02:00", "9:05", "2026-06-02T09:05:00+02:00"),
        ("2026-12-31T12:00:00+01:00", "00:00", "2027-01-01T00:00:00+01:00"),
        ("2026-03-28T12:00:00+01:00", "02:30", "2026-03-30T02:30:00+02:00"),  # left out on the 29th
        ("2026-10-25T00:00:00+02:00", "02:30", "2026-10-25T02:30:00+02:00"),  # comes twice: the first
        ("2026-10-25T02:40:00+02:00", "02:30", "2026-10-25T02:30:00+01:00"),  # … and the second
        ("2026-10-25T02:40:00+01:00", "02:30", "2026-10-26T02:30:00+01:00"),
    ],
)
def test_a_time_of_day_is_the_next_one(berlin: None, now: str, clock: str, then: str) -> None:
    fields = usage.fields({"at": clock}, datetime.fromisoformat(now).timestamp())
    assert fields["at"] == then


def test_a_time_without_offset_is_the_callers(berlin: None) -> None:
    assert usage.fields({"at": "2026-07-01T10:00"}, 0.0)["at"] == "2026-07-01T10:00:00+02:00"


def test_expires_is_a_time_or_a_duration(berlin: None) -> None:
    now = datetime.fromisoformat("2026-07-01T10:00:00+02:00").timestamp()
    assert usage.fields({"expires": "1h30m"}, now)["expires"] == "2026-07-01T11:30:00+02:00"
    assert usage.fields({"expires": "11:00"}, now)["expires"] == "2026-07-01T11:00:00+02:00"


@given(st.floats(0, 4e9))
def test_an_instant_survives_being_written(seconds: float) -> None:
    assert jobs.instant(usage.rfc3339(seconds)) == pytest.approx(seconds, abs=1e-6)


# ---------------------------------------------------------------- light


def test_it_imports_nothing_heavy(root: Path) -> None:
    """Each of these costs more than all that `submit` does; `re` alone would take it over its bound."""
    code = (
        "import sys\nfrom cronq import submit\n"
        "assert submit.main(['exec', '--priority', 'low', '--stdin', '-', '--', 'true']) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    argv = [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(argv, **settings(root), capture_output=True, text=True, input="hello", check=True)
    loaded = set(done.stderr.split())
    assert "cronq.submit" in loaded
    assert loaded.isdisjoint(HEAVY.split())
    ours = {name for name in loaded if name.startswith("cronq.")}
    assert ours == {f"cronq.{name}" for name in ("errors", "job", "spool", "usage", "submit")}


def test_it_takes_at_most_twice_the_time_of_a_bare_python(root: Path, tmp_path: Path) -> None:
    """With compiled modules, as installed; the quickest of many alternating runs, since a machine is never quiet."""
    more = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    started = settings(root, **more)
    call = "import sys; sys.argv[1:] = ['submit', 't', 'a']; from cronq.__main__ import main; sys.exit(main())"
    times: dict[str, list[float]] = {"pass": [], call: []}
    for _ in range(25):
        for code, taken in times.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], **started, stdout=subprocess.DEVNULL, check=True)
            taken.append(time.perf_counter() - began)
    assert min(times[call]) <= 2 * min(times["pass"])
