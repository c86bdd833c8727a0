"""What strangers write never reaches a terminal as anything but text (trust.md row 13), and a pipe as it is.

A terminal obeys what it is sent: ESC ] 52 fills the clipboard, others type, hide or rewrite lines.
"""

import errno
import json
import os
import pty
import subprocess
import tty

import pytest
import standin
from conftest import CRONQ, World

from cronq.job import new_name

# The clipboard, the screen, the title, a device's status, 8-bit CSI as text and as a byte, backspaces, a rewritten
# line, DEL, a text turned round, a line's end that is none, NUL.
OUTPUT = (
    b"\x1b]52;c;bHM=\x07\x1b[2J\x1b]0;root\x1b\\\x1b[6n\xc2\x9b31m\x9b31m\x90q\x9c\b\b\b"
    b"done\rfailed\x7f\xe2\x80\xaetxt.exe\xe2\x80\xa8\xff\0end\n"
)
NOTE = "\u202etxt.exe\u2028\u200fend"  # a job file holds no control character
ARGUMENT = f"a\rb\n\t{NOTE}"  # but these, in what is text of several lines
TEXT = "\x1b]52;c;bHM=\x07\x9b31m\x90q\b\rdone\x7f\u202etxt.exe\u2028end"  # of whoever types a command
HARMFUL = [*map(chr, (*range(32), *range(127, 160))), "\u202e", "\u2028"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A dispatcher with a job of each kind that has ended, and a file that it refused."""
    world = World(tmp_path_factory.mktemp("terminal"))
    (world.path / "output").write_bytes(OUTPUT)
    world.tasks(f'[tasks.evil]\ncommand = ["cat", "{world.path}/output"]\n')
    world.start()
    script = f'cat "{world.path}/output"; cat "{world.path}/output" >&2; exit 1'
    world.printed = world.submit("exec", "--note", NOTE, "--", "sh", "-c", script, ARGUMENT)
    world.missing = world.submit("exec", "--note", NOTE, "--", f"/nowhere/{ARGUMENT}", ARGUMENT)
    world.cwd = world.submit("exec", "--cwd", f"/nowhere/{NOTE}", "--", "true")
    for job_id in (world.printed, world.missing, world.cwd):
        world.result(job_id)
    world.drop("refused", {TEXT: TEXT})
    world.rejected("refused")
    yield world
    world.stop()


def on_a_terminal(world, *argv: str, **options) -> bytes:
    """What a command sends to the terminal at which it is started, unchanged by that terminal."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    env = world.env | {"TERM": "dumb", "COLUMNS": "4000"}  # a terminal for which nobody means to send any sequence
    given = {"env": env, "stdout": theirs, "stderr": theirs} | options
    with subprocess.Popen([*CRONQ, *argv], **given) as process:
        os.close(theirs)
        found = b""
        while part := _read(ours):
            found += part
    os.close(ours)
    assert process.returncode in (0, 1, 2, 65, 69, 78, 125, 126, 127), found
    return found


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError as error:
        assert error.errno == errno.EIO  # nobody has its other end any more
        return b""


def harmless(shown: bytes) -> str:
    """What was shown, once it is seen that all of it can be."""
    text = shown.decode()  # and nothing that is no text
    assert [char for char in text if char in HARMFUL and char not in "\n\t"] == [], text
    return text


SHOWN = {
    "logs": "logs {printed}",
    "logs of the standard error": "logs --stderr {printed}",
    "logs that follow": "logs --follow {printed}",
    "the list": "list --all",
    "the list as JSON": "list --all --json",
    "a job": "show {printed}",
    "a job as JSON": "show --json {printed}",
    "a job whose program is not there": "show {missing}",
    "a job whose directory is not there": "show {cwd}",
    "a result": "result {missing}",
    "a result as JSON": "result --json {cwd}",
    "waiting": "wait {printed} {missing} {cwd}",
    "waiting for JSON": "wait --json {printed} {missing} {cwd}",
    "waiting for what was refused": "wait {uid}-refused",
    "why a job is dead": "why {printed}",
    "why a job is dead, as JSON": "why --json {printed}",
    "why a job could not start": "why {missing}",
    "why a job was refused": "why {uid}-refused",
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_a_job_says_arrives_as_text(served, what):
    words = SHOWN[what].format(uid=served.uid, **{key: getattr(served, key) for key in ("printed", "missing", "cwd")})
    assert harmless(on_a_terminal(served, *words.split()))


@pytest.mark.parametrize(
    "argv",
    [
        ("exec", "--wait", "--", "sh", "-c", 'cat "$0"; cat "$0" >&2', "{output}"),
        ("submit", "--wait", "evil"),
        ("exec", "--wait", "--json", "--note", NOTE, "--", "cat", "{output}"),
        ("exec", "--wait", "--batch", "{lines}"),
    ],
)
def test_who_waits_sees_text(served, argv):
    output = served.path / "output"
    (served.path / "lines").write_text(f"cat {output}; cat {output} >&2\n" * 3)
    words = [word.replace("{output}", str(output)).replace("{lines}", str(served.path / "lines")) for word in argv]
    assert "txt.exe" in harmless(on_a_terminal(served, *words)) or "--json" in argv


def test_who_maps_sees_text(served):
    (served.path / "line").write_text(f"{served.path}/output\n")
    with (served.path / "line").open() as line:  # standard error would have a bar, which is ours
        shown = on_a_terminal(served, "map", "evil", stdin=line, stderr=subprocess.DEVNULL)
    assert "txt.exe" in harmless(shown)


@pytest.mark.parametrize(
    "argv",
    [
        ("logs", TEXT),
        ("submit", "--stdin", f"/nowhere/{TEXT}", "evil"),
        ("submit", f"--{TEXT}", "evil"),
        ("exec", "--batch", f"/nowhere/{TEXT}"),
        ("list", "--user", TEXT),
        ("list", "--state", TEXT),
        ("show", f"--{TEXT}"),
        (TEXT,),
        ("check", f"/nowhere/{TEXT}"),
        ("cancel", TEXT),
        ("why", TEXT),
        ("why", TEXT, "--at", "02:30"),
        ("why", "x", "--at", TEXT),
    ],
    ids=lambda argv: argv[0] if argv[0].isalpha() else "command",
)
def test_what_is_said_of_ones_own_words_is_text(served, argv):
    assert harmless(on_a_terminal(served, *argv))


def test_check_shows_a_configuration_as_text(served):
    folder = served.path / "hostile"
    folder.mkdir()
    name = TEXT.replace("/", "").replace("\n", "")
    for said in (name, NOTE):
        quoted = "".join(f"\\u{ord(char):04x}" for char in said)
        text = f'[tasks."{quoted}"]\ncommand = ["{quoted}"]\n"{quoted}" = 1\n'
        (folder / "cronq.toml").write_text(text)
        assert harmless(on_a_terminal(served, "check", str(folder)))
    (folder / "cronq.toml").write_text(f'[tasks.a]\ncommand = ["/nowhere/{quoted}"]\ncwd = "/nowhere/{quoted}"\n')
    assert "txt.exe" in harmless(on_a_terminal(served, "check", str(folder)))
    (folder / f"{name}.toml").write_text("a = ")
    assert harmless(on_a_terminal(served, "check", str(folder / f"{name}.toml")))


@pytest.mark.parametrize("argv", [("logs", "{printed}"), ("exec", "--wait", "--", "cat", "{output}")])
def test_through_a_pipe_and_raw_it_is_what_the_job_printed(served, argv):
    words = [word.format(printed=served.printed, output=served.path / "output") for word in argv]
    piped = subprocess.run([*CRONQ, *words], env=served.env, capture_output=True)
    assert piped.stdout == OUTPUT
    assert on_a_terminal(served, words[0], "--raw", *words[1:]) == OUTPUT


def test_json_says_the_same_to_whoever_parses_it(served):
    found = json.loads(served.run("show", "--json", served.printed).stdout)
    assert (found["note"], found["command"][-1]) == (NOTE, ARGUMENT)


# -------------------------------------------------------------------- a dispatcher that lies


LIE = {"id": f"{os.getuid()}-{TEXT}", "uid": 0, "state": TEXT, "task": TEXT, "queue": TEXT, "note": TEXT, TEXT: TEXT}
LIES = {
    "list": [{"sees": TEXT}, LIE, {"ok": True}],
    "show": [LIE | {"attempts": [TEXT, {"reason": TEXT, "started": TEXT}], "last_stderr": [TEXT, 1]}, {"ok": True}],
    "stats": [{TEXT: 1, "queues": {TEXT: {TEXT: 1}}}, {"ok": True}],
    "history": [{"sees": "all"}, LIE | {"reason": TEXT, "ended": TEXT}, {"ok": True}],
    "figures": [LIE | {"runs": TEXT, "since": TEXT}, {"ok": True}],
    "cancel": [LIE, {"error": TEXT, "code": 65}, {"ok": True}],
    "retry": [{"error": TEXT, "code": 65}],
    "about": [{"broken": TEXT, "cgroups": TEXT}, {"ok": True}],
    "ids": [LIE, {"ok": True}],
}


@pytest.fixture(scope="module")
def lied(tmp_path_factory):
    """A spool whose dispatcher answers and writes what it likes."""
    world = World(tmp_path_factory.mktemp("lied"))
    runner = standin.Runner(world.spool)
    world.job = f"{world.uid}-{new_name()}"
    runner.ends(world.job, "dead", reason=TEXT, exit_code=None)
    runner.prints(world.job, OUTPUT)
    world.refused = new_name()
    runner.rejects(f"{world.refused}.job", TEXT.replace("\r", ""), 65)
    control = standin.Control(world.spool, LIES)
    yield world
    control.close()


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "list --json",
        "show {job}",
        "show --json {job}",
        "stats",
        "stats --tasks",
        "stats --tasks --json",
        "history",
        "history --json",
        "cancel {job}",
        "retry {job}",
        "doctor",
        "wait {job}",
        "wait --json {job}",
        "wait {uid}-{refused}",
        "result {job}",
        "result --json {job}",
        "logs {job}",
        "logs no-such",
    ],
)
def test_what_a_dispatcher_says_is_shown_as_text(lied, words):
    argv = words.format(job=lied.job, uid=lied.uid, refused=lied.refused).split()
    assert harmless(on_a_terminal(lied, *argv))
