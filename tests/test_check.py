"""`cronq check`: each thing that would hurt later is one clear sentence now."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aside import ANN, CONFIG, IMGPROC, add, aside, write

from cronq import check, reach
from cronq.reach import FAIL, WARN, Finding

HEAD = "/mnt/cronq/cronq.toml: [tasks.t] "


A_LINE = {"command": None, "shell": "true", "user": "ann"}


def task(**fields: object) -> str:
    lines = {"command": ["/bin/true"]} | fields
    return "[tasks.t]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items() if value is not None)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)  # type: ignore[return-value]


def sound() -> None:
    """Make the machine sound, but for what a test spoils: nobody strange in the group of cronq, homes, shells."""
    group = Path("/etc/group")
    group.write_text(group.read_text().replace("cronq:x:989:eve", "cronq:x:989:"))
    passwd = Path("/etc/passwd")
    passwd.write_text(passwd.read_text().replace("52004:989:", "52004:52004:"))
    Path("/mnt/home").mkdir()
    for name, uid in (("ann", ANN), ("bob", 52002)):
        Path(f"/mnt/home/{name}").mkdir(mode=0o700)
        os.chown(f"/mnt/home/{name}", uid, uid)


def found(**fields: object) -> list[Finding]:
    """What is found about one task on a sound machine, its place taken off."""
    write("cronq.toml", task(**fields))
    return [(level, sentence.removeprefix(HEAD)) for level, sentence in check.findings(str(CONFIG), True)]


@aside
def test_a_sound_configuration_has_nothing_to_tell() -> None:
    sound()
    write("secret.env", "A=b\n", mode=0o400, owner=ANN)
    fields = {"user": "ann", "submit": ["bob", "@staff"], "cwd": "/mnt/home/ann", "env_file": "/mnt/cronq/secret.env"}
    assert found(**fields) == []
    assert found(command=["true"]) == []
    assert found(**A_LINE) == []
    assert found(user="root", allow_root=True) == []
    write("cronq.toml", '[control]\noperators = "adm"\n')
    assert check.findings(str(CONFIG), True) == []


CASES: list[tuple[dict[str, object], str, str]] = [
    (
        {"user": "nosuch"},
        FAIL,
        "there is no user nosuch; make it (useradd --system nosuch), or name another",
    ),
    (
        {"user": "imgproc", "home": False},
        WARN,
        "imgproc has no home (/mnt/none is no directory), so its jobs run in /; make it, or usermod --home",
    ),
    (
        {"user": "imgproc", "home": False, "cwd": "/"},
        WARN,
        "imgproc has no home (/mnt/none is no directory); make it, or usermod --home",
    ),
    (
        {"user": "bob"},
        WARN,
        "the shell of bob, /bin/nosuchshell, is not there; usermod --shell /bin/sh bob",
    ),
    ({"user": "toor"}, FAIL, "its user toor is root; write allow_root = true to let it"),
    (
        {"user": "ann", "allow_root": True},
        WARN,
        "allow_root changes nothing, since it runs as ann; take it out",
    ),
    ({"submit": ["nosuch"]}, WARN, "submit: there is no user nosuch; correct it, or take it out"),
    ({"submit": ["@nosuch"]}, WARN, "submit: there is no group nosuch; correct it, or take it out"),
    (
        {"user": "ann", "command": ["nosuch"]},
        FAIL,
        "its command nosuch is not found by ann; install it, or correct command",
    ),
    (
        {"command": ["/bin/nosuch"]},
        WARN,
        "its command /bin/nosuch is not found by everybody; install it, or correct command",
    ),
    (
        {"user": "ann", "cwd": "/mnt/none"},
        FAIL,
        "its cwd /mnt/none: No such file or directory; make it, or correct cwd",
    ),
    ({"user": "ann", "cwd": "/root"}, FAIL, "its cwd /root: Permission denied; make it, or correct cwd"),
    ({"cwd": "/mnt/home/ann"}, WARN, "its cwd /mnt/home/ann: Permission denied; make it, or correct cwd"),
    (
        {"user": "ann", "env_file": "/mnt/none"},
        FAIL,
        "its env_file /mnt/none: no such file or directory",
    ),
]


@aside
@pytest.mark.parametrize(("fields", "level", "sentence"), CASES, ids=[case[2][:40] for case in CASES])
def test_what_will_hurt_a_task_is_told(fields: dict[str, object], level: str, sentence: str) -> None:
    sound()
    if not fields.pop("home", True):
        passwd = Path("/etc/passwd")
        passwd.write_text(passwd.read_text().replace("990:990:images:/mnt:", "990:990:images:/mnt/none:"))
    assert found(**fields) == [(level, sentence)]


@aside
@pytest.mark.parametrize(
    ("mode", "owner", "level", "words"),
    [
        (0o644, 0, WARN, "can be read by everybody; chown ann /mnt/s.env, chmod 600 /mnt/s.env"),
        (0o604, ANN, WARN, "can be read by everybody"),
        (0o600, 0, FAIL, ": permission denied"),
        (0o620, ANN, FAIL, "its group or others may write it (mode 620); chmod go-w it"),
        (0o644, IMGPROC, FAIL, "belongs to uid 990; it must be root's, or the task's user's (chown it)"),
    ],
)
def test_a_secret_that_others_can_read_or_write_is_told(mode: int, owner: int, level: str, words: str) -> None:
    sound()
    write("../s.env", "A=b\n", mode=mode, owner=owner)
    ((told, sentence),) = found(user="ann", env_file="/mnt/s.env")
    assert (told, words in sentence) == (level, True), sentence


@aside
def test_a_secret_that_is_no_file_is_told_and_waited_for_by_nobody() -> None:
    sound()
    os.mkfifo("/mnt/fifo", 0o644)
    ((level, sentence),) = found(user="ann", env_file="/mnt/fifo")
    assert (level, sentence) == (FAIL, "its env_file /mnt/fifo: not a regular file")


def program(path: str, mode: int = 0o755, owner: int = 0) -> str:
    place = Path(path)
    place.parent.mkdir(exist_ok=True)
    place.write_text("#!/bin/sh\n")
    place.chmod(mode)
    os.chown(place, owner, owner)
    return path


@aside
def test_a_command_that_others_than_root_and_its_user_can_write_is_told_with_the_component() -> None:
    sound()
    path = program("/mnt/bin/x", owner=ANN)
    assert found(user="ann", command=[path]) == []
    mend = "belongs to uid 52001, and must be root's or uid 990's; chown root /mnt/bin/x"
    assert found(user="imgproc", command=[path]) == [(FAIL, f"its command {path}: {mend}")]
    mend = "belongs to uid 52001, and must be root's; chown root /mnt/bin/x"
    assert found(command=[path]) == [(FAIL, f"its command {path}: {mend}")]
    Path("/mnt/bin").chmod(0o777)
    told = (
        "/mnt/bin can be written by its group and others, and must be by root and uid 52001 alone; chmod go-w /mnt/bin"
    )
    assert found(user="ann", command=[path]) == [(FAIL, f"its command {path}: {told}")]


@aside
def test_a_command_is_found_as_a_job_finds_it() -> None:
    sound()
    program("/mnt/bin/tool")
    assert found(user="ann", command=["tool"], env={"PATH": "/nowhere:/mnt/bin"}) == []
    assert found(user="ann", command=["bin/tool"], cwd="/mnt") == []
    assert found(user="ann", command=["tool"])[0][1].startswith("its command tool is not found by ann")
    write("s.env", "PATH=/mnt/bin\n", owner=ANN, mode=0o600)
    assert found(user="ann", command=["tool"], env_file="/mnt/cronq/s.env") == []
    assert found(user="ann", command=["tool"], env_file="/mnt/cronq/s.env", env={"PATH": "/bin"}) != []


@aside
def test_a_secret_that_says_no_variables_is_told_with_its_line() -> None:
    sound()
    write("../s.env", "A=b\nnonsense\n", mode=0o400, owner=ANN)
    ((level, sentence),) = found(user="ann", env_file="/mnt/s.env")
    assert (level, sentence) == (
        FAIL,
        "its env_file /mnt/s.env: line 2: not KEY=VALUE; a key has letters, digits and '_' only",
    )


@aside
def test_a_command_that_nobody_can_run_is_told() -> None:
    sound()
    path = program("/mnt/bin/tool", mode=0o644)
    assert found(user="ann", command=[path]) == [
        (FAIL, "its command /mnt/bin/tool cannot be run by ann; chmod a+x /mnt/bin/tool")
    ]


@aside
def test_what_a_user_keeps_from_answering_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sound()
    monkeypatch.setattr(reach, "PATIENCE", 1)
    monkeypatch.setattr(reach.View, "findings", lambda _self: __import__("signal").pause())
    assert found(user="ann") == [(FAIL, "what it names cannot be looked at as ann: something there does not answer")]


@aside
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: add("/etc/shadow", ""), None),
        (
            lambda: Path("/etc/shadow").write_text("ann:!x:20000::::::\n"),
            "the account ann is locked; usermod -U ann",
        ),
        (
            lambda: Path("/etc/shadow").write_text("ann:*:20000:::::1:\n"),
            "the account ann has expired; chage -E -1 ann",
        ),
        (
            lambda: Path("/etc/group").write_text("cronq:x:989:ann\n"),
            "the group cronq must have no members, and has ann; gpasswd -d ann cronq",
        ),
        (
            lambda: add("/etc/passwd", "tom:x:52009:989::/:/bin/sh\n"),
            "the group cronq must have no members, and is tom's own; usermod --gid GROUP tom",
        ),
    ],
)
def test_an_account_that_jobs_cannot_have_is_told(spoil: Callable[[], object], words: str | None) -> None:
    sound()
    spoil()
    assert found(user="ann") == ([] if words is None else [(FAIL, words)])


@aside
def test_a_machine_without_the_user_of_the_dispatcher_is_told() -> None:
    sound()
    passwd = Path("/etc/passwd")
    passwd.write_text(passwd.read_text().replace("cronq:x", "other:x"))
    ((level, sentence),) = found(user="ann")
    assert level == FAIL
    assert "cronq" in sentence and "useradd" in sentence


@aside
def test_a_share_of_nobody_is_told() -> None:
    sound()
    write("cronq.toml", "[limits]\nshares = { nosuch = 2, root = 3 }\n")
    assert check.findings(str(CONFIG), True) == [
        (WARN, "[limits] shares: there is no user nosuch; correct it, or take it out")
    ]


@aside
def test_operators_that_there_are_not_or_must_not_be_are_told() -> None:
    sound()
    write("cronq.toml", '[control]\noperators = "nosuch"\n')
    assert check.findings(str(CONFIG), True) == [
        (WARN, "[control] operators: there is no group nosuch; groupadd nosuch, or name another")
    ]
    add("/etc/group", "alias:x:989:\n")
    write("cronq.toml", '[control]\noperators = "alias"\n')
    assert check.findings(str(CONFIG), True) == [
        (FAIL, "[control] operators: alias is the group cronq by another name; name another group")
    ]
    write("cronq.toml", '[control]\noperators = "cronq"\n')
    assert "that group never has members" in check.findings(str(CONFIG), True)[0][1]


@aside
def test_a_configuration_that_others_can_write_is_told_and_not_even_read() -> None:
    sound()
    write("cronq.toml", "[[[ no TOML", mode=0o666)
    write("tasks.d/a.toml", "", owner=ANN)
    assert check.findings(str(CONFIG), True) == [
        (
            FAIL,
            "/mnt/cronq/cronq.toml: can be written by its group and others, and must be by root alone; "
            "chmod go-w /mnt/cronq/cronq.toml",
        ),
        (
            FAIL,
            "/mnt/cronq/tasks.d/a.toml: belongs to uid 52001, and must be root's; chown root /mnt/cronq/tasks.d/a.toml",
        ),
    ]


@aside
@pytest.mark.parametrize(
    ("name", "mode", "right"),
    [("", 0o700, "o+rx"), ("cronq.toml", 0o640, "o+r"), ("tasks.d", 0o750, "o+rx"), ("tasks.d/a.toml", 0o600, "o+r"),
     ("exec.allow", 0o600, "o+r")],
)  # fmt: skip
def test_a_configuration_that_workers_cannot_read_is_told(name: str, mode: int, right: str) -> None:
    sound()
    for each in ("cronq.toml", "tasks.d/a.toml", "exec.allow"):
        write(each, "")
    path = CONFIG / name
    path.chmod(mode)
    assert check.findings(str(CONFIG), True) == [
        (FAIL, f"{path} cannot be read by everybody, and each user's worker reads it; chmod {right} {path}")
    ]


@aside
def test_lists_of_users_whom_nobody_knows_are_told() -> None:
    sound()
    write("exec.allow", "# ann's\nann\nnosuch\nann bob\n")
    write("exec.deny", "bob\n")
    assert check.findings(str(CONFIG), True) == [
        (WARN, "/mnt/cronq/exec.deny says nothing beside /mnt/cronq/exec.allow; remove one of them"),
        (WARN, "/mnt/cronq/exec.allow: there is no user nosuch; one name stands on a line"),
        (WARN, "/mnt/cronq/exec.allow: there is no user ann bob; one name stands on a line"),
    ]


@aside
def test_errors_of_all_files_come_first_each_on_its_line() -> None:
    sound()
    write("exec.allow", "nosuch\n")
    write("cronq.toml", "[tasks.t]\n[queues.q]\nslots = 0\n")
    write("tasks.d/a.toml", "[")
    levels = [level for level, _ in check.findings(str(CONFIG), True)]
    assert levels == [FAIL, FAIL, FAIL, WARN]


@aside
def test_somebody_else_than_root_is_told_what_he_cannot_look_at() -> None:
    sound()
    write("cronq.toml", task(user="bob", command=["nosuch"]))
    os.setresgid(ANN, ANN, ANN)
    os.setresuid(ANN, ANN, ANN)
    assert check.findings(str(CONFIG), True) == [(WARN, check.ONLY_ROOT)]


# ---------------------------------------------------------------- rootless, and the command


def run(path: Path, *argv: str, **env: str) -> tuple[int, list[str]]:
    known = {**os.environ, "CRONQ_SPOOL": str(path / "spool"), "CRONQ_CONFIG": str(path / "config"), **env}
    done = subprocess.run([sys.executable, "-m", "cronq", "check", *argv], env=known, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "config" / "tasks.d").mkdir(parents=True)
    return tmp_path


def test_without_a_configuration_there_is_nothing_to_mend(tmp_path: Path) -> None:
    code, lines = run(tmp_path)
    assert code == 0
    assert lines == [f"ok    {tmp_path}/config is not there: no task is known, and commands (cronq exec) need none"]


def test_a_good_configuration_is_said_to_be_good(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text(task())
    assert run(own) == (0, [f"ok    {own}/config"])


def test_every_error_of_every_file_is_a_line_and_the_exit_code(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text("[tasks.t]\ncomand = []\n[queues.q]\nslots = 0\n")
    (own / "config" / "tasks.d" / "a.toml").write_text("[limits]\n")
    code, lines = run(own)
    assert code == 78
    assert [line.partition(":")[0] for line in lines] == [
        f"fail  {own}/config/{name}" for name in ("cronq.toml", "cronq.toml", "tasks.d/a.toml")
    ]


def test_a_task_of_somebody_else_is_told_where_everything_runs_as_one_user(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text(task(user="no-such-user"))
    assert run(own) == (
        78,
        [
            f"fail  {own}/config/cronq.toml: [tasks.t] it runs as no-such-user, and your own dispatcher runs "
            "everything as you; take user out, or give the task to the system's dispatcher"
        ],
    )


def test_ones_own_commands_directories_and_secrets_are_looked_at_too(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text(task(command=["nosuch-x"], cwd="/nosuch", env_file=str(own / "none")))
    head = f"fail  {own}/config/cronq.toml: [tasks.t] its"
    assert run(own) == (
        78,
        [
            f"{head} cwd /nosuch: No such file or directory; make it, or correct cwd",
            f"{head} env_file {own}/none: no such file or directory",
            f"{head} command nosuch-x is not found by you; install it, or correct command",
        ],
    )
    (own / "config" / "cronq.toml").write_text(task(command=["nosuch-x"]))
    assert run(own)[1] == [f"{head} command nosuch-x is not found by you; install it, or correct command"]


def test_the_python_of_a_function_is_looked_for_as_a_command_is(own: Path) -> None:
    config = own / "config" / "cronq.toml"
    config.write_text('[tasks.t]\npython = "json:dumps"\nmode = "fork"\n')
    assert run(own) == (0, [f"ok    {own}/config"])
    config.write_text('[tasks.t]\npython = "json:dumps"\ninterpreter = "/nosuch"\n')
    said = "its command /nosuch is not found by you; install it, or correct interpreter"
    assert run(own) == (78, [f"fail  {config}: [tasks.t] {said}"])


def test_files_and_directories_that_are_named_are_checked_and_no_others(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text("[")
    good, bad, bent = own / "good.toml", own / "bad.toml", own / "bent.toml"
    good.write_text(task() + "[schedules.s]\nevery = 9\ntask = 'elsewhere'\n")
    bad.write_text("[queues.q]\nslot = 1\n")
    bent.write_text("[limits]\n")
    assert run(own, str(good)) == (0, [f"ok    {good}"])
    assert run(own, str(good), str(bad)) == (
        78,
        [f"ok    {good}", f"fail  {bad}: [queues.q] unknown key 'slot'; did you mean 'slots'?"],
    )
    assert run(own, str(bent)) == (78, [f"fail  {bent}: [limits] stands in cronq.toml only; move it there"])
    code, lines = run(own, str(own / "config"))
    assert code == 78
    assert "not TOML" in lines[0]


def test_what_is_not_there_is_a_mistake_of_the_caller_and_what_is_no_toml_a_crontab(own: Path) -> None:
    (own / "crontab").write_text("0 5 * * * x\n")
    missing = (f"cronq: {own}/none.toml is not there", f"ok    {own}/crontab: 1 line to run")
    code, lines = run(own, str(own / "none.toml"), str(own / "crontab"))
    assert (code, sorted(lines)) == (2, sorted(missing))


def test_what_a_file_says_reaches_no_terminal_unescaped(own: Path) -> None:
    (own / "config" / "cronq.toml").write_text('[tasks.t]\ncommand = ["\\u00e4\\t\\u202e"]\n')
    _, lines = run(own)
    assert "\\x09" in lines[0]


@aside
def test_the_systems_configuration_is_checked_as_the_systems() -> None:
    sound()
    write("cronq.toml", task(user="toor") + "[schedules.t]\nevery = 9\n")
    code, lines = run(Path("/mnt"), "--system", CRONQ_CONFIG=str(CONFIG))
    assert (code, lines) == (78, [f"fail  {HEAD}its user toor is root; write allow_root = true to let it"])
    write("cronq.toml", task() + "[schedules.t]\nevery = 9\n")
    code, lines = run(Path("/mnt"), "--system", CRONQ_CONFIG=str(CONFIG))
    assert (code, lines) == (
        78,
        ["fail  /mnt/cronq/cronq.toml: [schedules.t] has no submitter to run as; write user into [tasks.t]"],
    )
    write("cronq.toml", task(submit=["nosuch"]))
    code, lines = run(Path("/mnt"), "--system", CRONQ_CONFIG=str(CONFIG))
    assert (code, lines) == (0, [f"warn  {HEAD}submit: there is no user nosuch; correct it, or take it out"])
