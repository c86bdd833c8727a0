"""`cronq crontab` on a spool of one's own: what it prints, what it exits with, and what becomes of the table."""

from __future__ import annotations

import os
import pty
import pwd
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import CRONQ, eventually

from cronq import cli

USER = pwd.getpwuid(os.getuid()).pw_name
ROOT = Path(__file__).parent.parent.parent
ONE, TWO = "5 * * * * one\n", "# mine\n10 * * * * two\n"


@pytest.fixture
def crontab(world, tmp_path):
    """`crontab(words…)` -> code, standard output, standard error; `editor` is a script that has the file as $1."""
    world.env |= {"TMPDIR": str(tmp_path / "tmp"), "LC_ALL": "C.UTF-8"}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)

    def run(*words: str, given: str | bytes = "", editor: str = "", **options) -> tuple[int, str, str]:
        env = world.env
        if editor:
            script = tmp_path / "editor"
            script.write_text(f"#!/bin/sh\n{editor}\n")
            script.chmod(0o755)
            env = env | {"VISUAL": str(script)}
        given = given if isinstance(given, bytes) else given.encode()
        argv = [*options.pop("program", [*CRONQ, "crontab"]), *words]
        done = subprocess.run(argv, input=given, env=env, capture_output=True, timeout=60, cwd=tmp_path, **options)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


@pytest.fixture
def served(world, crontab):
    world.start()
    return crontab


def kept(tmp_path) -> list[Path]:
    """The edits that were left."""
    return sorted((tmp_path / "tmp").glob("crontab.*/crontab"))


def test_a_table_is_replaced_listed_removed_and_put_back_in_silence(served, tmp_path):
    (tmp_path / "table").write_text(TWO)
    assert served("-l") == (1, "", f"no crontab for {USER}\n")
    assert served("-r") == (1, "", f"no crontab for {USER}\n")
    assert served("--undo") == (1, "", f"no earlier crontab for {USER}\n")
    assert served("-", given=ONE) == (0, "", "")
    assert served("-l") == (0, ONE, "")
    assert served("table") == (0, "", "")
    assert served("-l") == (0, TWO, "")
    assert served(given=ONE) == (0, "", "")
    assert served("--undo") == (0, "", "")
    assert served("-l") == (0, TWO, "")
    assert served("-r") == (0, "", "")
    assert served("-l") == (1, "", f"no crontab for {USER}\n")
    assert served("--undo") == (0, "", "")
    assert served("--undo=2") == (0, "", "")
    assert served("-l") == (0, ONE, "")
    assert served("--undo=9") == (1, "", f"no earlier crontab for {USER}\n")


def test_bytes_that_are_no_text_come_back_as_they_were(served):
    table = b"# \xff\xfe\n5 * * * * echo \xe9\r\n"
    assert served("-", given=table)[0] == 0
    done = subprocess.run([*CRONQ, "crontab", "-l"], env=os.environ | served_env(served), capture_output=True)
    assert done.stdout == table


def served_env(served):
    """The environment that the fixture's calls have."""
    return next(cell.cell_contents.env for cell in served.__closure__ if hasattr(cell.cell_contents, "env"))


def test_a_bad_table_is_refused_with_every_line_and_nothing_is_queued(served, world):
    served("-", given=ONE)
    said = '"-":1: bad minute\n"-":3: bad hour\nerrors in crontab file, can\'t install.\n'
    assert served("-", given="61 * * * * x\n\n5 24 * * * x\n") == (1, "", said)
    unfinished = "new crontab file is missing newline before EOF, can't install.\n"
    assert served("-n", "-", given="5 * * * * x") == (1, "", unfinished)
    assert served("-l") == (0, ONE, "")
    assert os.listdir(world.inbox) == []


def test_what_the_client_lets_through_the_dispatcher_refuses(served, world):
    draft = world.inbox / ".bad.tmp"
    draft.write_text("61 * * * * x\n")
    draft.rename(world.inbox / "bad.tab")
    assert '"bad.tab":1: bad minute' in world.rejected("bad", "tab")
    assert served("-l")[0] == 1


def test_a_dry_run_installs_nothing(served):
    assert served("-n", "-", given=ONE) == (0, "", "The syntax of the crontab file was successfully checked.\n")
    assert served("-l")[0] == 1
    served("-", given=ONE)
    for what in ("-r", "-e", "--undo"):
        code, _, said = served("-n", what)
        assert (code, said.splitlines()[0]) == (1, "crontab: usage error: -n changes nothing: it goes with a file only")
    assert served("-l") == (0, ONE, "")


def test_the_end_of_the_input_is_no_answer_to_delete_it(served):
    served("-", given=ONE)
    question = f"crontab: really delete {USER}'s crontab? (y/n) "
    assert served("-ri") == (0, question, "")
    assert served("-ir", given="what") == (0, question, "Please enter Y or N: ")
    assert served("-l") == (0, ONE, "")


def test_what_is_no_regular_file_is_not_waited_for(served, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert served("pipe") == (1, "", "pipe: Not a regular file.\n")


def test_without_a_dispatcher_the_table_is_queued_and_comes_later(world, crontab):
    code, shown, said = crontab("-", given=ONE)
    assert (code, shown) == (69, "")
    assert said.startswith("crontab: your crontab is queued, and is installed when the dispatcher runs: no dispatcher")
    assert crontab("-", given=TWO)[0] == 69
    assert crontab("-r")[0] == 69
    world.start()
    eventually(lambda: crontab("-l") == (0, TWO, ""))
    assert crontab("--undo") == (0, "", "")
    assert crontab("-l") == (0, ONE, "")


def test_a_table_survives_a_dispatcher_that_is_killed(served, world):
    served("-", given=ONE)
    os.kill(world.dispatcher(world.daemons[0]), 9)
    eventually(lambda: served("-", given=TWO)[0] in (0, 69))
    eventually(lambda: served("-l") == (0, TWO, ""))
    eventually(lambda: served("--undo") == (0, "", ""))
    assert served("-l") == (0, ONE, "")


def test_jobs_and_lists_are_not_confused_by_a_crontab(served, world):
    served("-", given=ONE)
    served("-", given=TWO)
    assert world.run("list", "--all").stdout.strip() == ""
    job = world.submit("exec", "--", "true")
    world.result(job)
    assert [line.split()[0] for line in world.run("list", "--all").stdout.splitlines()[0:]] == [job]
    world.run("rm", job)
    assert served("-l") == (0, TWO, "")


# ---------------------------------------------------------------- -e


def test_an_edit_is_installed_though_it_took_no_time(served, tmp_path):
    served("-", given=ONE)
    assert served("-e", editor=f"printf '{TWO}' > $1") == (0, "", "crontab: installing new crontab\n")
    assert served("-l") == (0, TWO, "")
    assert served("-e", editor="mv $1 $1.x; echo '7 * * * * moved' > $1")[0] == 0
    assert served("-l") == (0, "7 * * * * moved\n", "")
    assert kept(tmp_path) == []


def test_an_edit_that_changes_nothing_installs_nothing(served, tmp_path):
    served("-", given=ONE)
    assert served("-e", editor="touch $1; cat $1 >&2") == (0, "", f"{ONE}No modification made\n")
    assert kept(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_edited_file_is_private_and_explains_itself_when_there_is_no_table(served):
    code, shown, said = served("-e", editor="stat -c %a,%U $1 ${1%/*}; cat $1 >&2")
    assert (code, shown) == (0, f"600,{USER}\n700,{USER}\n")
    assert said.startswith(f"no crontab for {USER} - using an empty one\n# A line runs a command")
    assert said.endswith("No modification made\n")
    assert served("-l")[0] == 1


def test_a_bad_edit_can_be_tried_again_or_is_kept(served, tmp_path):
    again = "grep -q 61 $1 && echo '6 * * * * good' > $1 || echo '61 * * * * bad' > $1"
    code, shown, said = served("-e", editor=again, given="x\ny\n")
    assert (code, shown) == (0, "Do you want to retry the same edit? (y/n) " * 2)
    assert 'crontab":1: bad minute\nerrors in crontab file' in said
    assert "\nEnter Y or N\ncrontab: installing new crontab\n" in said
    assert served("-l") == (0, "6 * * * * good\n", "")
    for answer in ("n\n", ""):
        code, _, said = served("-e", editor="echo '62 * * * * lost' > $1", given=answer)
        (left,) = kept(tmp_path)
        assert (code, said.splitlines()[-1]) == (0, f"crontab: edits left in {left}")
        assert left.read_text() == "62 * * * * lost\n"
        left.unlink()
    assert served("-l") == (0, "6 * * * * good\n", "")


def test_an_editor_that_fails_installs_nothing_and_loses_nothing(served, tmp_path):
    editor = tmp_path / "editor"
    failed = f'crontab: "{editor}" exited with status 3\n'
    assert served("-e", editor="exit 3")[::2] == (1, f"no crontab for {USER} - using an empty one\n{failed}")
    assert kept(tmp_path) == []
    code, _, said = served("-e", editor=f"printf '{TWO}' > $1; exit 3")
    (left,) = kept(tmp_path)
    assert said.endswith(f"crontab: edits left in {left}\n{failed}")
    assert (code, left.read_text()) == (1, TWO)
    assert served("-l")[0] == 1


def test_an_edit_without_a_dispatcher_is_queued_and_kept(world, crontab, tmp_path):
    code, _, said = crontab("-e", editor=f"printf '{TWO}' > $1")
    assert code == 69
    assert "your crontab is queued" in said
    assert kept(tmp_path)[0].read_text() == TWO


# ---------------------------------------------------------------- for a person


def on_a_terminal(crontab, *words, given: str = "") -> str:
    """What a person sees who runs it on a terminal."""
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    argv = [*CRONQ, "crontab", *words]
    env = served_env(crontab)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        process.stdin.write(given.encode())
        process.stdin.close()
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # the other end is closed
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_person_is_told_what_has_changed_and_what_runs_next(served):
    named = "# cronq: name=b\n* * * * * two\n"
    said = on_a_terminal(served, "-", given=ONE + named).splitlines()
    assert said[:3] == ["2 entries: 2 new", "  + 5 * * * *  one", "  + * * * * *  two"]
    said = on_a_terminal(served, "-", given=named.replace("two", "three") + "0 0 13 * 5 four\n").splitlines()
    assert said[:4] == [
        "2 entries: 1 new, 1 gone, 1 changed",
        "  + 0 0 13 * 5  four",
        "  - 5 * * * *  one",
        "  ~ * * * * *  three",
    ]
    assert "warning: both day fields are given" in said[4]
    assert [line.split()[0] for line in said[-2:]] == ["next", "next"]
    assert said[-2].endswith("* * * * *  three")
    assert on_a_terminal(served, "--undo").startswith("2 entries: 1 new, 1 gone, 1 changed\n")
    assert served("-", "--verbose", given=ONE)[2].startswith("1 entry: 1 gone\n")


def test_a_terminal_sees_the_bad_line_and_a_caret_and_obeys_nothing(served):
    shown = on_a_terminal(served, "-", given="61 * * * * \x1b[31mx\n")
    assert shown.splitlines()[0] == '"-":1: bad minute'
    assert shown.splitlines()[2].strip().startswith("^")
    served("-", given="5 * * * * echo '\x1b]52;c;eA==\x07'\n")
    assert "\x1b" not in on_a_terminal(served, "-l")
    assert "\x1b" not in on_a_terminal(served, "-", given=ONE)


# ---------------------------------------------------------------- by its name


def test_a_link_named_crontab_is_crontab(served, tmp_path):
    link = tmp_path / "bin" / "crontab"
    link.parent.mkdir()
    link.symlink_to(Path(sys.executable).parent / "cronq")
    assert served("-", given=ONE, program=[str(link)]) == (0, "", "")
    assert served("-l", program=[str(link)]) == (0, ONE, "")
    code, _, said = served("-x", program=[str(link)])
    assert (code, said.splitlines()[:2]) == (
        1,
        ["crontab: invalid option -- 'x'", "crontab: usage error: unrecognized option"],
    )


def test_it_starts_without_the_heavy_half(world):
    heavy = ("typer", "pydantic", "rich", "croniter", "asyncio", "cronq.cli", "cronq.crontab")
    code = (
        "import sys; sys.argv = ['crontab', '-l']\n"
        "from cronq.__main__ import main\n"
        f"code = main(); print(code, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=world.env, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1 []\n", done.stderr


def test_it_stands_in_the_list_of_commands(capsys):
    assert cli.main(["--help"]) == 0
    assert "\n  crontab " in capsys.readouterr().out
