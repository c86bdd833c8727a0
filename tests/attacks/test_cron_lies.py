"""A dispatcher that lies about crontabs (trust.md row 19): of which line, of whose table, of which bytes."""

import os
import shutil
import sys
from itertools import count
from pathlib import Path

import pytest
from liar import PROOF, PYTHON, Liar, fds, settled
from machine import CONFIG, SPOOL

from cronq import cronjobs, cronmail, hooks
from cronq.cronfiles import Places
from cronq.crontab import parse_crontab

pytestmark = pytest.mark.root
USERS = Path("/var/spool/cron/crontabs")
NAMES = count(1)
OWN = str(CONFIG / "crontab")
PLACES = Places(str(CONFIG), system=True)


def line(name: str, user: str = "") -> str:
    return f"# cronq: name={name}\n* * * * * {user} id -u > {PROOF}/{name}\n"


def write(path: Path, text: str, mode: int = 0o600, owner: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / ".draft"
    draft.write_text(text)
    draft.chmod(mode)
    os.chown(draft, owner, owner)
    draft.rename(path)


@pytest.fixture(scope="module")
def told(whole_machine):
    """One launcher, whose dispatcher we are; tables of root's, and of the machine's, which do not count here."""
    for place in (Path("/etc/cron.d"), USERS):
        shutil.rmtree(place, ignore_errors=True)
    whole_machine.tasks("[limits]\nmax_jobs = 4\n")
    write(CONFIG / "crontab", line("anns", "ann") + line("bobs", "bob") + line("roots", "root") + line("ours", "cronq"))
    write(CONFIG / "cron.d" / "more", line("more", "ann"))
    write(Path("/etc/crontab"), line("machines", "ann"), 0o644)
    write(Path("/etc/cron.d/theirs"), line("theirs", "ann"), 0o644)
    write(USERS / "ann", line("annstab"), owner=2001)
    write(USERS / "bob", line("bobstab"), owner=2002)
    made = Liar(whole_machine)
    made.inboxes("ann", "bob", "carl", "root")
    yield made
    made.close()
    whole_machine.reset()


def listing(liar) -> dict[str, int]:
    """The launcher's tables, by path."""
    found, number, total = {}, 0, 1
    while number < total:
        answer, descriptors = liar.ask({"verb": "CRONTAB", "number": number})
        total = answer["of"]
        if answer["table"]:
            found[answer["table"]] = number
        for descriptor in descriptors:
            os.close(descriptor)
        number += 1
    return found


@pytest.fixture(scope="module")
def crew(told):
    """A worker of each user, with every table of root's open."""
    tables = list(listing(told).values())
    return {user: told.worker(uid, tables) for user, uid in (("ann", 2001), ("bob", 2002), ("root", 0))}


def tick(table: str, text: str, name: str, uid: int, user: str = "") -> tuple[str, bytes]:
    """The id and the bytes of an honest tick of the line of this name."""
    found = parse_crontab(text.encode(), user=user, system=PLACES.has_column(table))
    entry = next(each for each in found.entries if each.identity == name)
    return cronjobs.job_id(uid, PLACES.identity(table, entry), next(NAMES)), cronjobs.encode(entry)


@pytest.fixture
def give(liar, crew):
    """Hand over a tick of a line of root's own table; `lies` is what differs."""

    def hand(user, name, uid, table=OWN, path=None, **lies):
        job_id, data = tick(table, Path(path or table).read_text(), name, uid)
        file = liar.own(f"tick{next(NAMES)}", data)
        content = lies.pop("content", data)
        return crew[user].do(lies.pop("id", job_id), lies.pop("file", file), content, **{"table": table, **lies})

    return hand


@pytest.fixture
def refused(liar, give):
    def look(reason, *args, **lies):
        ended = give(*args, **lies)
        assert (ended["step"], liar.ran()) == ("refused", {}), ended
        assert reason in ended["reason"], ended
        return ended

    return look


def test_the_truth_is_believed(liar, give):
    assert give("ann", "anns", 2001)["step"] == "ended"
    assert give("bob", "bobs", 2002)["step"] == "ended"
    assert give("root", "roots", 0)["step"] == "ended"
    assert give("ann", "more", 2001, table=str(CONFIG / "cron.d" / "more"))["step"] == "ended"
    assert liar.ran() == {"anns": "2001", "bobs": "2002", "roots": "0", "more": "2001"}


def anns() -> str:
    """The identity of ann's line in root's own table."""
    return PLACES.identity(OWN, PLACES.parse(OWN, Path(OWN).read_bytes()).entries[0])


def mail(name: str, user: str, sendmail: str) -> bytes:
    """The bytes of the mail about this user's line, by that program."""
    entries = PLACES.parse(OWN, Path(OWN).read_bytes()).entries
    return cronmail.encode(next(each for each in entries if each.options.name == name), user, sendmail)


@pytest.fixture
def mailer(told):
    """A program of root's that takes mail, and shows it."""
    path = CONFIG / "mailer"
    path.write_text(f"#!/bin/sh\n{{ id -u; echo $*; cat; }} > {PROOF}/mail\n")
    path.chmod(0o755)
    told.machine.tasks(f'[limits]\nmax_jobs = 4\n[cron]\nsendmail = "{path}"\n')
    yield str(path)
    told.machine.tasks("[limits]\nmax_jobs = 4\n")


def test_mail_goes_by_roots_program_to_whom_the_line_mails_and_says_what_the_dispatcher_will(liar, give, mailer):
    identity = anns()
    job_id, data = f"2001-mail-{identity}-{0:013x}", mail("anns", "ann", mailer)
    text = liar.own(f"p{next(NAMES)}", b"hello")
    assert give("ann", "anns", 2001, id=job_id, content=data, payload=text)["step"] == "ended"
    assert liar.ran() == {"mail": "2001\n-FCronDaemon -i -B8BITMIME -oem ann\nhello"}


def test_no_mail_goes_by_another_program_to_others_or_out_of_anothers_file(liar, refused, mailer):
    identity = anns()
    lie = {"id": f"2001-mail-{identity}-{0:013x}", "content": mail("anns", "ann", mailer)}
    text = liar.own(f"p{next(NAMES)}", b"hello")
    refused("another now", "ann", "anns", 2001, **lie | {"content": mail("anns", "ann", "/bin/sh"), "payload": text})
    refused("another now", "ann", "anns", 2001, **lie | {"content": mail("anns", "bob", mailer), "payload": text})
    refused("no tick of a crontab", "ann", "anns", 2001, **lie)
    refused("belongs to uid", "ann", "anns", 2001, **lie, payload="/etc/passwd")


@pytest.fixture
def hook(told, liar, crew):
    """Hand over a hook that root's configuration names, which says as whom it runs; `lies` is what differs."""
    path = CONFIG / "page"
    path.write_text(f"#!/bin/sh\n{{ id -u; echo $*; cat; }} > {PROOF}/page\n")
    path.chmod(0o755)
    honest = f'[limits]\nmax_jobs = 4\n[notify]\ncommand = ["{path}", "--quiet"]\n'
    data = hooks.encode("call-").replace(sys.executable.encode(), str(PYTHON).encode())  # as the installation makes it

    def hand(user, uid, toml=honest, **lies):
        told.machine.tasks(toml)
        kind = lies.pop("kind", "hook-call-2001")
        lie = {"content": data, "table": str(CONFIG / "cronq.toml"), "id": f"{uid}-{kind}-{next(NAMES):013x}"} | lies
        content, job_id = lie.pop("content"), lie.pop("id")
        payload = lie.pop("payload", b'{"id": "x", "event": "died"}')
        if payload is not None:
            lie["payload"] = liar.own(f"p{next(NAMES)}", payload)
        return crew[user].do(job_id, liar.own(f"h{next(NAMES)}", content), content, **lie)

    hand.honest, hand.data = honest, data
    yield hand
    told.machine.tasks("[limits]\nmax_jobs = 4\n")


def test_a_hook_is_what_root_says_whatever_the_dispatcher_does_and_says_what_the_dispatcher_will(liar, hook):
    assert hook("ann", 2001)["step"] == "ended"
    assert liar.ran() == {"page": '2001\n--quiet\n{"id": "x", "event": "died"}'}


def test_no_hook_runs_that_root_does_not_name_or_as_another(liar, hook):
    def refused(reason, *args, **lies):
        ended = hook(*args, **lies)
        assert (ended["step"], liar.ran()) == ("refused", {}), ended
        assert reason in ended["reason"], ended

    refused("does not name that hook", "ann", 2001, toml="[limits]\nmax_jobs = 4\n")
    refused("does not name that hook", "ann", 2001, kind="hook-post-2001")
    refused("run as bob", "ann", 2001, toml=hook.honest + 'user = "bob"\n')
    refused("this worker is uid 2001", "ann", 2002)
    refused("names no hook", "ann", 2001, table=OWN)
    refused("no tick of a crontab", "ann", 2001, payload=None)
    refused("another now", "ann", 2001, content=hook.data.replace(b"herald", b"worker"))
    refused("no crontab that counts", "ann", 2001, kind="call-anns")
    refused("another now", "ann", 2001, kind=f"call-{anns()}", table=OWN)  # its table names no command


def test_a_line_that_is_not_there_does_not_run(liar, refused):
    made_up = tick(OWN, line("evil", "ann"), "evil", 2001)
    refused("another now", "ann", "anns", 2001, id=made_up[0], content=made_up[1])
    changed = tick(OWN, "# cronq: name=anns\n* * * * * ann rm -r /\n", "anns", 2001)
    refused("another now", "ann", "anns", 2001, content=changed[1])
    refused("another now", "ann", "anns", 2001, id="2001-tab-anns-0000000000001")  # as if it were installed
    refused("another now", "ann", "anns", 2001, id="2001-tab-")


def test_a_line_of_another_user_does_not_run_as_me(refused):
    refused("bob's", "ann", "bobs", 2001)
    refused("root's", "ann", "roots", 2001)
    refused("ann's", "root", "anns", 0)
    refused("a tick for uid 2002", "ann", "bobs", 2002)
    refused("a tick for uid 2001", "root", "anns", 2001)


def test_a_table_of_the_machines_does_not_count_where_the_configuration_does_not_say_so(liar, refused, crew):
    for name, table in (("machines", "/etc/crontab"), ("theirs", "/etc/cron.d/theirs"), ("annstab", f"{USERS}/ann")):
        refused("no crontab that counts", "ann", name, 2001, table=table)
    assert set(listing(liar)) == {OWN, str(CONFIG / "cron.d" / "more")}


@pytest.mark.parametrize(
    "table",
    ["/etc/passwd", "installed/", "installed/x", "installed/../2001", "installed/-1", "x", f"{CONFIG}/cron.d/a.b",
     f"{CONFIG}/cron.d/../crontab", f"{CONFIG}/cronq.toml", f"{USERS}/../ann", "\n", "/proc/self/fd/5"],
)  # fmt: skip
def test_a_path_is_no_table(refused, table):
    refused("no crontab that counts", "ann", "anns", 2001, path=OWN, table=table, id="2001-tab-anns-0000000000001")


def test_a_table_that_the_launcher_has_not_opened_for_me_is_none(liar, told, crew):
    bare = told.worker(2001)
    job_id, data = tick(OWN, Path(OWN).read_text(), "anns", 2001)
    ended = bare.do(job_id, liar.own("bare", data), data, table=OWN)
    assert (ended["step"], ended["again"]) == ("refused", True)
    assert "has not" in ended["reason"]
    # That the descriptor of the table comes with the tick changes nothing.
    ended = bare.do(job_id, os.open(OWN, os.O_RDONLY), data, table=OWN)
    assert (ended["step"], liar.ran()) == ("refused", {})


def _of_a_table_just_made(liar, path: Path) -> dict:
    """How a tick of ann's line ends, that is called as its table is, for a worker that has the table open."""
    worker = liar.worker(2001, list(listing(liar).values()))
    job_id, data = tick(str(path), path.read_text(), path.name, 2001)
    return worker.do(job_id, liar.own(path.name, data), data, table=str(path))


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [(0o664, 0, "INSECURE MODE"), (0o646, 0, "INSECURE MODE"), (0o644, 2001, "WRONG FILE OWNER")],
)
def test_a_table_that_others_could_have_written_is_none(liar, mode, owner, reason):
    path = CONFIG / "cron.d" / "loose"
    write(path, line("loose", "ann"), mode, owner)
    try:
        ended = _of_a_table_just_made(liar, path)
    finally:
        path.unlink()
    assert (ended["step"], liar.ran()) == ("refused", {})
    assert reason in ended["reason"]


def test_a_table_with_another_link_is_none(liar):
    path = CONFIG / "cron.d" / "linked"
    write(path, line("linked", "ann"))
    os.link(path, CONFIG / "linked.too")
    try:
        ended = _of_a_table_just_made(liar, path)
    finally:
        path.unlink()
        (CONFIG / "linked.too").unlink()
    assert (ended["step"], liar.ran()) == ("refused", {})
    assert "NUMBER OF HARD LINKS" in ended["reason"]


def test_a_table_that_was_replaced_is_none_any_more(liar, give):
    text = Path(OWN).read_text()
    ended = None
    try:
        write(CONFIG / "crontab", text)
        ended = give("ann", "anns", 2001)
    finally:
        assert (ended["step"], ended["again"]) == ("refused", True)
    assert "was replaced" in ended["reason"]


def test_an_installed_table_is_what_came_through_its_users_inbox(liar, crew):
    text = line("mine")
    job_id, data = tick("installed/2001", text, "mine", 2001, "ann")

    def ask(file, table="installed/2001", user="ann", given=job_id):
        return crew[user].do(given, file, data, table=table)

    good = liar.file_of("ann", "t1", text.encode(), "tab")
    assert ask(good)["step"] == "ended"
    assert liar.ran() == {"mine": "2001"}
    (PROOF / "mine").unlink()
    loose = liar.file_of("ann", "t2", text.encode(), "tab")
    loose.chmod(0o660)
    linked = liar.file_of("ann", "t3", text.encode(), "tab")
    os.link(linked, SPOOL / "queue" / "t3.link")
    lies = [
        (ask(liar.own("t4", text.encode())), f"belongs to uid {liar.uid}"),
        (ask(liar.file_of("bob", "t5", text.encode(), "tab")), "belongs to uid 2002"),
        (ask(loose), "its mode is"),
        (ask(linked), "2 links"),
        (ask(os.open("/etc/passwd", os.O_RDONLY)), ""),
        (ask(os.open(good, os.O_PATH)), ""),
        (ask(liar.file_of("bob", "t6", text.encode(), "tab"), "installed/2002"), "another user's crontab"),
        (ask(good, "installed/2001", "bob", job_id.replace("2001-", "2002-")), "another user's crontab"),
        (ask(liar.file_of("ann", "t7", line("other").encode(), "tab")), "another now"),
    ]
    for ended, reason in lies:
        assert (ended["step"], liar.ran()) == ("refused", {}), ended
        assert reason in ended["reason"], ended


@pytest.mark.parametrize("text", ["Dear ann,\n{}", "{}.\n60 * * * * x\n", "{}# no end"], ids=["prose", "error", "end"])
def test_another_file_of_his_with_a_line_in_it_is_no_installed_table(liar, crew, text):
    """The dispatcher installs no table that has an error, and a mail that a user's program handed in has many."""
    file = liar.file_of("ann", f"f{next(NAMES)}", text.format(line("own")).encode(), "tab")
    job_id, data = tick("installed/2001", line("own"), "own", 2001, "ann")
    ended = crew["ann"].do(job_id, file, data, table="installed/2001")
    assert (ended["step"], liar.ran()) == ("refused", {})
    assert "is ever installed" in ended["reason"]


def test_roots_own_installed_table_needs_leave(liar, crew):
    job_id, data = tick("installed/0", line("own"), "own", 0, "root")
    ended = crew["root"].do(job_id, liar.file_of("root", "r1", line("own").encode(), "tab"), data, table="installed/0")
    assert (ended["step"], liar.ran()) == ("refused", {})
    assert "root's crontab needs" in ended["reason"]


def test_a_tick_has_no_input_and_no_place_in_a_batch(liar, refused):
    refused("no tick of a crontab", "ann", "anns", 2001, payload=liar.own(f"p{next(NAMES)}", b"rm -r /"))
    refused("no tick of a crontab", "ann", "anns", 2001, offset=0)
    refused("no tick of a crontab", "ann", "anns", 2001, id="2001-anns")
    refused("no tick of a crontab", "ann", "anns", 2001, id="2001-cron-anns-1")
    refused("belongs to uid", "ann", "anns", 2001, path=OWN, table="")


# -------------------------------------------------------------------- the launcher


@pytest.mark.parametrize("number", [-1, 2, 10**30])
def test_a_number_is_one_of_the_listings(liar, number):
    listing(liar)
    assert liar.refused({"verb": "CRONTAB", "number": number}) == "there is no table of that number"


def test_a_worker_gets_its_own_users_table_and_no_other_whatever_the_numbers_say(liar, told):
    told.machine.tasks("[cron]\nsystem = true\n")
    try:
        tables = listing(liar)
        assert {str(USERS / "ann"), str(USERS / "bob"), "/etc/crontab", OWN} <= set(tables)
        worker = told.worker(2001, [*tables.values(), -1, 99, True, "0", None, 0.0])
        settled(lambda: _tables_of(worker.pid), {path for path in tables if path != str(USERS / "bob")})
        name = "annstab"
        job_id, data = tick(f"{USERS}/ann", line(name), name, 2001, "ann")
        assert worker.do(job_id, liar.own("u1", data), data, table=f"{USERS}/ann")["step"] == "ended"
        job_id, data = tick(f"{USERS}/bob", line("bobstab"), "bobstab", 2001, "bob")
        ended = worker.do(job_id, liar.own("u2", data), data, table=f"{USERS}/bob")
        assert (ended["step"], liar.ran()) == ("refused", {name: "2001"})
    finally:
        told.machine.tasks("[limits]\nmax_jobs = 4\n")


def _tables_of(pid: int) -> set[str]:
    return {path for path in fds(pid).values() if path.startswith(("/etc/cron", "/var/spool/cron/"))}


def test_a_job_has_none_of_its_workers_tables(liar, give, crew):
    crew["ann"].do("2001-fds", liar.file_of("ann", "fds", {"command": ["ls", "-l", "/proc/self/fd"]}), None)
    assert "cron" not in crew["ann"].output().replace("cronq/queue", "")


def test_what_is_no_table_is_not_opened_for_the_dispatcher(liar, told):
    write(CONFIG / "cron.d" / "good", line("x", "ann"))
    os.mkfifo(CONFIG / "cron.d" / "fifo")
    (CONFIG / "cron.d" / "folder").mkdir()
    (CONFIG / "cron.d" / "null").symlink_to("/dev/null")
    (CONFIG / "cron.d" / "theirs").symlink_to("/etc/shadow")
    os.chown(CONFIG / "cron.d" / "theirs", 2001, 2001, follow_symlinks=False)
    (CONFIG / "cron.d" / "loop").symlink_to("loop")
    try:
        tables = listing(liar)
        whys = dict.fromkeys(("fifo", "folder"), "NOT A REGULAR FILE") | {"null": "can be written by its group"}
        for name, reason in {**whys, "theirs": "WRONG SYMLINK OWNER", "loop": "Too many levels"}.items():
            answer, descriptors = liar.ask({"verb": "CRONTAB", "number": tables[str(CONFIG / "cron.d" / name)]})
            assert descriptors == []
            assert reason in answer["why"], answer
    finally:
        for path in (CONFIG / "cron.d").iterdir():
            if path.name != "more":
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
