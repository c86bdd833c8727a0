"""Crontabs of a system's: whose count, who opens them, as whom their lines run."""

import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import eventually
from machine import CONFIG, SPOOL

pytestmark = pytest.mark.root

SYSTEM = "[cron]\nsystem = true\n"
USERS = Path("/var/spool/cron/crontabs")
PROOF = Path("/run/tabs")
PLACES = (Path("/etc/crontab"), Path("/etc/cron.d"), USERS)


@pytest.fixture
def proof(machine):
    """A directory where lines say that they ran, and as whom; no crontab of the real machine's is there."""
    for place in PLACES:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    PROOF.mkdir(exist_ok=True)
    PROOF.chmod(0o1777)
    Path("/etc/cron.d").mkdir()
    USERS.mkdir(parents=True)
    USERS.chmod(0o1730)
    yield PROOF
    shutil.rmtree(PROOF)


def says(name: str, user: str = "") -> str:
    return f"@every 1s {user} id -un > {PROOF}/.{name} && mv {PROOF}/.{name} {PROOF}/{name}\n"


def write(path: Path, text: str, mode: int = 0o600, owner: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    draft = path.parent / ".draft"
    draft.write_text(text)
    draft.chmod(mode)
    os.chown(draft, owner, owner)
    draft.rename(path)


def ran(name: str) -> str:
    file = PROOF / name
    return eventually(lambda: file.exists() and file.read_text()).strip()


def test_the_configurations_own_tables_run_as_the_user_of_each_line(machine, proof):
    write(CONFIG / "crontab", says("ann", "ann") + says("root", "root"))
    write(CONFIG / "cron.d" / "more", says("bob", "bob"), 0o644)
    write(CONFIG / "cron.d" / "no.thing", says("dot", "bob"), 0o644)
    write(Path("/etc/cron.d/machines"), says("machine", "ann"))
    machine.start()
    assert {name: ran(name) for name in ("ann", "bob", "root")} == {"ann": "ann", "bob": "bob", "root": "root"}
    assert machine.log.count("event=crontab-loaded") == 2
    assert not (proof / "dot").exists()
    assert not (proof / "machine").exists()


def test_the_machines_tables_are_run_where_the_configuration_says_so(machine, proof):
    machine.tasks(SYSTEM)
    write(Path("/etc/crontab"), "V=of the table\n" + says("etc", "ann") + f"@every 1s bob echo $V > {PROOF}/v\n", 0o644)
    write(Path("/etc/cron.d/pack-age_1"), says("package", "carl") + f"@every 1s bob echo -$V > {PROOF}/none\n")
    write(Path("/srv/elsewhere"), says("linked", "root"))
    Path("/etc/cron.d/linked").symlink_to("/srv/elsewhere")
    write(USERS / "ann", says("anns"), owner=2001)
    write(USERS / "bob", says("bobs"))
    machine.start()
    wanted = {"etc": "ann", "package": "carl", "linked": "root", "anns": "ann", "bobs": "bob", "v": "of the table"}
    wanted["none"] = "-"  # a table sees no variable of another's
    assert {name: ran(name) for name in wanted} == wanted


def test_crontab_says_of_a_table_of_crons_that_it_runs_too(machine, proof):
    hint = f"crontab: {USERS}/ann runs too; to have one table: /usr/bin/crontab -l | crontab - && /usr/bin/crontab -r\n"
    write(USERS / "ann", says("anns"), owner=2001)
    daemon = machine.start()
    assert machine.cronq("ann", "crontab", "-l", code=1).stderr == "no crontab for ann\n"  # nobody here runs it
    machine.tasks(SYSTEM)
    daemon.send_signal(signal.SIGHUP)
    assert ran("anns") == "ann"
    assert machine.cronq("ann", "crontab", "-l", code=1).stderr == hint + "no crontab for ann\n"
    installed = machine.cronq("ann", "crontab", "-", input="5 5 * * * true\n")
    assert (installed.stdout, installed.stderr) == ("", hint)
    assert machine.cronq("root", "crontab", "-u", "ann", "-l").stderr == hint
    assert machine.cronq("bob", "crontab", "-l", code=1).stderr == "no crontab for bob\n"
    (USERS / "ann").unlink()
    eventually(lambda: not machine.cronq("ann", "crontab", "-l").stderr)


def test_what_cron_would_not_take_does_not_run_and_the_log_says_why(machine, proof):
    machine.tasks(SYSTEM)
    refused = {
        Path("/etc/crontab"): ("WRONG FILE OWNER", 0o644, 2001),
        Path("/etc/cron.d/loose"): ("INSECURE MODE", 0o664, 0),
        Path("/etc/cron.d/hard"): ("NUMBER OF HARD LINKS > 1", 0o644, 0),
        USERS / "ann": ("INSECURE MODE", 0o640, 2001),
        USERS / "bob": ("WRONG FILE OWNER", 0o600, 2001),
        USERS / "nobody-here": ("ORPHAN", 0o600, 2002),
    }
    for path, (_, mode, owner) in refused.items():
        user = "" if path.parent == USERS else "root"
        write(path, says(path.name, user), mode, owner)
    os.link("/etc/cron.d/hard", "/etc/cron.d/hard.link")
    os.mkfifo(USERS / "carl", 0o600)
    Path("/etc/cron.d/theirs").symlink_to("/etc/cron.d/good")
    os.chown("/etc/cron.d/theirs", 2001, 2001, follow_symlinks=False)
    write(Path("/etc/cron.d/good"), says("good", "ann") + says("unknown", "who") + says("ours", "cronq"), 0o644)
    machine.start()
    assert ran("good") == "ann"
    for path, (word, _, _) in refused.items():
        eventually(
            lambda path=path, word=word: any(
                f"event=crontab-refused table={path} " in line and word in line for line in machine.log.splitlines()
            )
        )
    assert f"NOT A REGULAR FILE ({USERS}/carl)" in machine.log
    assert "WRONG SYMLINK OWNER (/etc/cron.d/theirs)" in machine.log
    assert [path.name for path in proof.iterdir()] == ["good"]
    eventually(lambda: len(list((SPOOL / "out" / "2001").glob("*-tab-*"))) > 2)
    assert machine.log.count("there is no user who") == 1
    assert machine.log.count("would run as cronq, and nothing does") == 1


def test_a_change_of_a_table_of_roots_is_followed_by_a_new_worker(machine, proof):
    write(CONFIG / "crontab", says("one", "ann"))
    machine.start()
    assert ran("one") == "ann"
    write(CONFIG / "crontab", says("two", "ann"))
    assert ran("two") == "ann"
    with (CONFIG / "crontab").open("a") as file:
        file.write(says("three", "ann"))
    assert ran("three") == "ann"
    (CONFIG / "crontab").unlink()
    eventually(lambda: "event=crontab-gone" in machine.log)
    (proof / "two").unlink()
    write(CONFIG / "crontab", says("four", "bob"))
    assert ran("four") == "bob"
    assert not (proof / "two").exists()


def test_an_installed_table_runs_as_its_user_and_sees_nothing_of_roots(machine, proof):
    machine.start()
    machine.as_user("ann", "cronq", "crontab", "-", input=says("ann"))
    assert ran("ann") == "ann"
    machine.as_user("ann", "cronq", "crontab", "-r")
    eventually(lambda: "event=crontab-gone table=installed/2001" in machine.log)


def test_roots_own_installed_table_needs_leave(machine, proof):
    machine.start()
    machine.as_user("root", "cronq", "crontab", "-", input=says("root"))
    eventually(lambda: "root's crontab needs allow_root = true in [exec], or system = true in [cron]" in machine.log)
    assert not (proof / "root").exists()
    machine.tasks(SYSTEM)
    machine.launcher.send_signal(1)
    assert ran("root") == "root"


def test_a_line_whose_worker_died_is_ended_though_nothing_of_cronqs_is_in_its_environment(machine, proof):
    write(CONFIG / "crontab", f"@every 1s ann echo $$ >> {proof}/pids; sleep 60 & wait\n")
    machine.start()
    pid = int(eventually(lambda: (proof / "pids").exists() and (proof / "pids").read_text().split())[0])
    assert b"CRONQ" not in Path(f"/proc/{pid}/environ").read_bytes()
    (CONFIG / "crontab").unlink()
    (worker,) = machine.workers()[2001]
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{each}").exists() for each in (proof / "pids").read_text().split()))
    eventually(lambda: "an at-most-once job is not run again" in machine.log)


def test_whoever_is_locked_out_has_no_lines_run_and_none_pile_up(machine, proof):
    machine.as_user("root", "usermod", "--lock", "--expiredate", "1", "ann")
    write(CONFIG / "crontab", says("ann", "ann") + says("bob", "bob"))
    machine.start()
    assert ran("bob") == "bob"
    result = eventually(lambda: list((SPOOL / "out" / "2001").glob("*/result.json")))[0]
    assert '"state": "expired"' in result.read_text()
    assert list((SPOOL / "queue" / "held").iterdir()) == []
    assert not (proof / "ann").exists()


def test_a_table_whose_user_comes_later_runs_from_then_on(machine, proof):
    machine.tasks(SYSTEM)
    write(USERS / "dora", says("dora"), owner=2009)
    for path in (CONFIG, Path("/etc/cron.d"), USERS):
        os.utime(path, (1, 1))  # what has just changed is looked at again anyway
    machine.start()
    eventually(lambda: f"ORPHAN ({USERS}/dora)" in machine.log)
    machine.as_user("root", "useradd", "--no-log-init", "--no-create-home", "--uid=2009", "dora")
    assert ran("dora") == "dora"
    assert machine.log.count("ORPHAN") == 1


RUBBISH = {
    "lines": b"* * * * * root true\n" * 100_000,
    "long": b"* * * * * " + b"x" * 10_000_000 + b"\n",
    "list": b"1," * 2_000_000 + b"1 * * * * root true\n",
    "nul": b"* * * * * root true\0\n",
    "binary": bytes(byte for byte in random.Random(1).randbytes(2_000_000) if byte) + b"\n",
    "endless": b"# cronq: " + b"a " * 2_000_000 + b"\n",
}
REFUSED = {
    "lines": "100000 lines, and at most 50000 are read",
    "long": "more than 4 MiB, and no more is read",
    "list": "the list has 4000001 characters",
    "nul": "line 1 has a NUL byte",
    "binary": "it is binary",
    "endless": "there is no option a",
}


def test_rubbish_in_any_place_is_refused_with_a_sentence_and_costs_bounded_memory(machine, proof):
    machine.tasks(SYSTEM)
    places = [CONFIG / "crontab", Path("/etc/crontab"), USERS / "carl"]
    chosen = dict(zip(places, ("nul", "binary", "lines"), strict=True))
    chosen |= {folder / name: name for folder in (CONFIG / "cron.d", Path("/etc/cron.d")) for name in RUBBISH}
    for path, name in chosen.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(RUBBISH[name])
        path.chmod(0o600)
    write(USERS / "bob", says("bob"), owner=2002)
    machine.start()
    assert ran("bob") == "bob"
    machine.cronq("ann", "crontab", "-", input="5 5 5 5 * x\n")
    for name, data in RUBBISH.items():
        (machine.home("ann") / name).write_bytes(data)
        refused = machine.cronq("ann", "crontab", machine.home("ann") / name, code=1).stderr
        assert refused.endswith("can't install.\n") or refused.startswith(("crontab is too", "line 1 of the crontab"))
        script = f'umask 027; cat > "$0/.{name}" < {name} && mv "$0/.{name}" "$0/{name}.tab"'
        machine.as_user("ann", "sh", "-c", script, machine.inbox("ann"))
        assert machine.rejected("ann", name, "tab").endswith("\nexit 65\n")
    for path, name in chosen.items():
        said = [line for line in machine.log.splitlines() if f"table={path} " in line and REFUSED[name] in line]
        assert said, (path, name)
    assert len(machine.log) < 300_000
    assert peak(machine.dispatcher()) < 200 << 20
    assert "5 5 5 5 * x" in machine.cronq("ann", "crontab", "-l").stdout


def peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)[0]) << 10
