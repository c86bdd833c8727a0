"""The control socket: who may do what is what the kernel says of him, and no peer holds up another."""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import stat
import threading
import time

import pytest
from conftest import eventually
from desk import ANN, BOB, CAROL, OURS, Desk, entry, talk

from cronq import caller, client, control, glance, states
from cronq.errors import NotPermitted
from cronq.shelves import SyncFailed

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
TRUE = {"command": ["true"]}
GAMES = 60  # a group that every Debian has, here the operators'
STATS = b'{"do": "stats"}\n'


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.close()


def ids(answer):
    return [each["id"] for each in answer if "id" in each]


def states_of(answer):
    return {each["id"].rpartition("-")[2]: each["state"] for each in answer if "state" in each}


# ---------------------------------------------------------------- who may do what


@needs_root
def test_everybody_sees_his_own_jobs_and_root_sees_all(desk):
    for uid in (ANN, BOB):
        desk.drop(uid, "job", TRUE)
    desk.start()
    (ann,), (bob,) = ids(desk.ask(ANN, do="list")), ids(desk.ask(BOB, do="list"))
    assert (ann[:5], bob[:5]) == (f"{ANN}-", f"{BOB}-")
    assert ids(desk.ask(0, do="list")) == [ann, bob]
    assert ids(desk.ask(0, do="list", user=BOB)) == [bob]
    assert [desk.ask(uid, do="stats")[0]["ready"] for uid in (ANN, BOB, CAROL, 0)] == [1, 1, 0, 2]
    assert desk.ask(ANN, do="list", user=BOB)[-1]["code"] == 77
    assert desk.ask(ANN, do="stats", user=BOB)[-1]["code"] == 77


@needs_root
@pytest.mark.parametrize("verb", ["show", "cancel", "retry", "rm"])
def test_anothers_id_is_answered_as_an_unknown_one_and_nothing_of_it_is_read(desk, verb):
    """Of the files and of the backlog: what is not looked at takes no time by which it could be told."""
    desk.drop(BOB, "job", TRUE)
    looked = desk.folder / "looked"
    looked.touch()
    looked.chmod(0o666)

    def spy(house):
        def seeing(call):
            def see(*given):
                with looked.open("a") as file:
                    file.write(f"{given}\n")
                return call(*given)

            return see

        house.shelves.result = seeing(house.shelves.result)
        house.backlog.find = seeing(house.backlog.find)
        house.backlog.named = seeing(house.backlog.named)

    desk.start(spy)
    (there,) = ids(desk.ask(BOB, do="list"))
    assert there in looked.read_text()  # so the spy does see
    looked.write_text("")
    missing = f"{BOB}-0661017c581d9-nothing"
    answers = [desk.ask(ANN, do=verb, id=each, ids=[each]) for each in (there, missing)]
    assert "unknown job" in str(answers[0])
    assert str(answers[0]).replace(there, missing) == str(answers[1])
    assert f"{BOB}-" not in looked.read_text()
    assert ids(desk.ask(BOB, do="list")) == [there]


@needs_root
@pytest.mark.parametrize("groups", [[GAMES], [*range(30000, 30400), 65534]])
def test_operators_see_and_control_all_however_many_groups_they_have(desk, groups):
    """The kernel sorts groups: the one that counts is the last of four hundred."""
    desk.drop(BOB, "job", TRUE)
    desk.start(operators="games" if groups == [GAMES] else "nogroup")
    (job,) = ids(desk.ask(CAROL, groups, do="list"))
    assert desk.ask(CAROL, do="show", id=job)[-1]["code"] == 65
    assert desk.ask(CAROL, groups, do="cancel", ids=[job])[0]["state"] == "cancelled"
    assert desk.ask(CAROL, groups, do="list")[0] == {"sees": "all"}
    assert desk.ask(CAROL, do="list")[0] == {"sees": "own"}


@needs_root
def test_an_operators_primary_group_counts_too(desk):
    desk.drop(BOB, "job", TRUE)
    desk.start(operators="games")

    def as_player():
        os.setresgid(GAMES, GAMES, GAMES)
        os.setresuid(CAROL, CAROL, CAROL)
        return talk(desk.connect(), {"do": "list"})

    assert len(ids(desk.of(0, as_player))) == 1


def test_the_inboxes_group_is_never_the_operators(monkeypatch):
    own = os.getegid()
    doorman = caller.Doorman(OURS, system=True)
    name = caller.grp.getgrgid(own).gr_name
    assert not doorman.admit(ANN, frozenset([own]), name, None, 0.0).everything
    monkeypatch.setattr(caller, "OURS", "games")
    assert not doorman.admit(ANN, frozenset([GAMES]), "games", None, 0.0).everything
    assert doorman.admit(ANN, frozenset([4]), "adm", None, 0.0).everything


def test_a_group_is_looked_up_again_after_a_minute(monkeypatch):
    doorman = caller.Doorman(OURS, system=True)

    def may_all(now):
        return doorman.admit(ANN, frozenset([4]), "adm", None, now).everything

    assert may_all(0.0)
    monkeypatch.setattr(caller, "_group", lambda _name: None)
    assert [may_all(now) for now in (59.0, 60.0)] == [True, False]


def test_nothing_is_shown_to_an_account_that_got_the_uid_of_another():
    doorman = caller.Doorman(OURS, system=True)
    with pytest.raises(NotPermitted, match="was ann and is eve now; until an administrator"):
        doorman.admit(ANN, frozenset(), "adm", f"uid {ANN} was ann and is eve now", 0.0)


def test_a_rootless_spool_answers_its_owner_and_root_only():
    doorman = caller.Doorman(ANN, system=False)
    assert doorman.admit(ANN, frozenset(), None, None, 0.0).everything
    assert doorman.admit(0, frozenset(), None, None, 0.0).everything
    with pytest.raises(NotPermitted):
        doorman.admit(BOB, frozenset([4]), "adm", None, 0.0)


# ---------------------------------------------------------------- the socket


@needs_root
def test_everybody_may_connect_on_a_system_spool_and_the_owner_alone_on_his_own(desk):
    desk.start()
    assert stat.S_IMODE(desk.door.stat().st_mode) == 0o666
    assert desk.door.stat().st_uid == OURS
    own = Desk(system=False)
    try:
        own.start()
        assert stat.S_IMODE(own.door.stat().st_mode) == 0o600
        assert own.of(ANN, lambda: _errno(own.connect)) == errno.EACCES
    finally:
        own.close()


def _errno(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0


def test_the_socket_of_a_dispatcher_that_is_dead_is_replaced_and_so_is_one_that_was_cleaned_away():
    desk = Desk(system=False)
    try:
        desk.start()
        desk.end(desk.pid)
        assert desk.door.is_socket()
        assert _errno(desk.connect) == errno.ECONNREFUSED
        desk.start()
        assert talk(desk.connect(), STATS)[-1] == {"ok": True}
        desk.door.unlink()
        eventually(desk.door.is_socket)
        assert talk(desk.connect(), STATS)[-1] == {"ok": True}
    finally:
        desk.close()


@needs_root
@pytest.mark.parametrize(("owner", "mode"), [(ANN, 0o755), (OURS, 0o777)])
def test_no_socket_is_put_where_others_could_put_one(desk, owner, mode):
    """And it is as soon as the directory is mended; meanwhile jobs are taken."""
    run = desk.root / "run"
    os.chown(run, owner, OURS)
    run.chmod(mode)
    desk.drop(ANN, "job", TRUE)
    desk.start()
    eventually(lambda: list((desk.root / "queue" / "ready").rglob("*job*")))
    assert not desk.door.exists()
    os.chown(run, OURS, OURS)
    run.chmod(0o755)
    eventually(desk.door.is_socket)
    assert len(ids(eventually(lambda: desk.ask(ANN, do="list")))) == 1


@needs_root
def test_a_client_is_not_led_elsewhere_by_a_link_in_the_sockets_directory(desk):
    desk.start()
    elsewhere = desk.folder / "elsewhere"
    trap = socket.socket(socket.AF_UNIX)
    trap.bind(str(elsewhere))
    trap.listen()
    trap.setblocking(False)
    desk.end(desk.pid)
    desk.door.unlink()
    desk.door.symlink_to(elsewhere)
    with pytest.raises(client.NotRunning):
        client.connect(str(desk.root), 1.0)
    with pytest.raises(BlockingIOError):
        trap.accept()
    trap.close()


# ---------------------------------------------------------------- bounds


@pytest.fixture
def small(request):
    """A desk of this user alone, with the bounds that the test sets: `control.NAME=value`."""
    made = Desk(system=False)
    made.start(lambda house: [setattr(control, *each) for each in getattr(request, "param", {}).items()])
    yield made
    made.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"rubbish\n",
        b'{"do": "explode"}\n',
        b'{"do": ["list"]}\n',
        b"[]\n",
        b'{"do": "cancel", "ids": 7}\n',
        b'{"do": "list", "states": 7}\n',
        b'{"do": "ids"}\n',
        b'{"do": "stats"}\n{"do": "stats"}\n',
        b'{"do": "stats", "do": "list"}\n',
        b"[" * 50_000 + b"\n",
    ],
)
def test_a_bad_request_gets_one_sentence_and_a_code(small, request_):
    *_, answer = talk(small.connect(), request_)
    assert set(answer) == {"error", "code"}
    assert talk(small.connect(), STATS)[-1] == {"ok": True}


def test_others_ids_are_no_paths(small):
    (answer,) = talk(small.connect(), {"do": "show", "id": "../../etc"})
    assert answer["code"] == 65


@pytest.mark.parametrize("small", [{"PATIENCE": 3600.0}], indirect=True)  # for its size, not for its slowness
def test_a_request_that_is_too_large_is_dropped(small):
    try:
        answer = talk(small.connect(), b"x" * (control.MAX_REQUEST + 70_000))
    except ConnectionError:
        answer = []
    assert answer == []
    assert talk(small.connect(), STATS)[-1] == {"ok": True}


def test_one_user_has_a_bounded_number_of_connections_and_is_told(small):
    held = [small.connect() for _ in range(control.MAX_PEERS_PER_UID)]
    for line in held:
        line.sendall(b" ")
    answer = talk(small.connect(), b"")
    assert "connections" in answer[0]["error"]
    assert answer[0]["code"] == 75
    assert talk(held[0], STATS)[-1] == {"ok": True}
    assert talk(small.connect(), STATS)[-1] == {"ok": True}
    for line in held:
        line.close()


@needs_root
def test_who_takes_most_places_loses_one_to_who_has_fewer(desk):
    desk.start(lambda house: setattr(control, "MAX_PEERS", 10))
    reading, writing = os.pipe()

    def hog():
        held = [desk.connect() for _ in range(12)]
        os.write(writing, b"+")
        time.sleep(60)
        del held

    desk.fork(hog, BOB)
    os.read(reading, 1)
    assert desk.ask(ANN, do="stats")[-1] == {"ok": True}
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("small", [{"PATIENCE": 0.3}], indirect=True)
@pytest.mark.parametrize("slow", ["silent", "a byte at a time"])
def test_who_does_not_come_to_an_end_of_his_request_is_dropped(small, slow):
    line = small.connect()
    line.settimeout(0.02)
    end = time.monotonic() + 60
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if slow != "silent":
                    line.sendall(b" ")
                if not line.recv(1):
                    break
    assert time.monotonic() < end
    assert talk(small.connect(), STATS)[-1] == {"ok": True}


def many(number, uid=None):
    """Hands a house so many jobs without files; they are in the order of dispatch."""

    def fill(house):
        for each in range(number):
            house.backlog.put(states.DELAYED, entry(house.shelves.uid if uid is None else uid, each))

    return fill


def late(house):
    """Nothing of this backlog becomes due during the test."""
    house.backlog.ripe = lambda _now: []
    house.backlog.next_due = lambda: None


@pytest.mark.parametrize("reads", [0, 1])
def test_who_does_not_read_his_answer_is_dropped_and_costs_little(reads):
    """One that reads nothing, and one that reads a byte now and then."""
    desk = Desk(system=False)

    def prepare(house):
        control.PATIENCE = 0.5
        many(20_000)(house)
        late(house)

    try:
        desk.start(prepare)
        before = memory(desk.pid)
        line = desk.connect()
        line.sendall(b'{"do": "list"}\n')
        end = time.monotonic() + 60
        while desk.connections() and time.monotonic() < end:
            if reads:
                line.recv(1)
            assert talk(desk.connect(), STATS)[-1] == {"ok": True}
        assert time.monotonic() < end, "it is still served"
        assert memory(desk.pid) - before < 8 << 20
    finally:
        desk.close()


def memory(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@needs_root
@pytest.mark.parametrize(("lists", "asks"), [(ANN, BOB), (BOB, ANN)])
def test_a_long_list_is_whole_in_order_and_holds_up_nobody(desk, lists, asks):
    """Even where a turn has time for one step of one answer only: then it is the other user's turn."""
    number = 10_000

    def prepare(house):
        control.SLICE = 0.0
        many(number, lists)(house)
        late(house)

    desk.start(prepare)
    reading, writing = os.pipe()

    def read_it():
        line = desk.connect()
        line.sendall(b'{"do": "list"}\n')
        os.write(writing, b"+")
        answer = talk(line, b"")
        found = ids(answer)
        whole = found == sorted(found) and len(found) == number and answer[-1] == {"ok": True}
        os.write(writing, b"+" if whole else b"-")

    desk.fork(read_it, lists)
    assert os.read(reading, 1) == b"+"
    began = time.monotonic()
    wait = desk.of(asks, lambda: _time(lambda: talk(desk.connect(), STATS)))
    assert not select.select([reading], [], [], 0)[0], "the list was over before"
    assert os.read(reading, 1) == b"+"
    assert wait < (time.monotonic() - began) / 2
    os.close(reading)
    os.close(writing)


def test_no_more_is_worked_out_than_is_read():
    """A reader that stands still costs no time either, however many turns pass."""
    desk = Desk(system=False)
    seen = desk.folder / "seen"

    def prepare(house):
        many(20_000)(house)
        late(house)
        view = glance.view

        def counted(*given):
            with seen.open("a") as file:
                file.write("x")
            return view(*given)

        glance.view = counted

    try:
        desk.start(prepare)
        line = desk.connect()
        line.sendall(b'{"do": "list"}\n')
        before = -1
        while before != (before := seen.stat().st_size if seen.exists() else 0):
            for _ in range(20):  # as many turns at least
                talk(desk.connect(), STATS)
        assert 0 < before < 2_000
    finally:
        desk.close()


def _time(act):
    began = time.monotonic()
    act()
    return time.monotonic() - began


@needs_root
def test_a_user_who_floods_does_not_keep_another_from_his_answer(desk):
    def prepare(house):
        many(5_000, BOB)(house)
        late(house)

    desk.start(prepare)

    def flood():
        while True:
            with contextlib.suppress(OSError):
                held = [desk.connect() for _ in range(40)]
                for line in held:
                    line.send(b'{"do": "list"}\n')

    for _ in range(2):
        desk.fork(flood, BOB)
    eventually(lambda: desk.connections() >= control.MAX_PEERS_PER_UID)
    waits = desk.of(ANN, lambda: [_time(lambda: list(client.ask(str(desk.root), {"do": "stats"}))) for _ in range(10)])
    assert sorted(waits)[5] < 2.0, waits  # and each of them within the client's patience


def test_a_peer_that_hangs_up_in_mid_answer_is_forgotten():
    desk = Desk(system=False)

    def prepare(house):
        many(20_000)(house)
        late(house)

    try:
        desk.start(prepare)
        line = desk.connect()
        line.sendall(b'{"do": "list"}\n')
        line.recv(1000)
        line.close()
        eventually(lambda: desk.connections() == 0)
        assert talk(desk.connect(), STATS)[-1] == {"ok": True}
    finally:
        desk.close()


def test_any_number_of_ids_may_be_asked_for(small):
    """More than one request holds: each has its bound."""
    unknown = [f"{small.uid}-0661017c581d9-{'x' * 40}{number:04d}" for number in range(1500)]
    answers = list(client.of_ids(str(small.root), {"do": "cancel"}, unknown))
    assert [each["id"] for each in answers] == unknown


# ---------------------------------------------------------------- what is said, and when


def test_a_change_is_told_of_only_when_it_is_durable():
    desk = Desk(system=False)
    gate = desk.folder / "gate"

    def prepare(house):
        flush = house.history.flush

        def full(now):
            if house.history.lines and not gate.exists():
                raise OSError(errno.ENOSPC, "no room")
            flush(now)

        house.history.flush = full

    try:
        gate.touch()
        desk.start(prepare)
        job = desk.drop(desk.uid, "job", TRUE)
        eventually(lambda: talk(desk.connect(), STATS)[0]["ready"])
        gate.unlink()
        line = desk.connect()
        line.sendall(json.dumps({"do": "cancel", "ids": [job]}).encode() + b"\n")
        eventually(lambda: not list((desk.root / "queue" / "ready").rglob("*job*")))
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(1000)
        other = desk.connect()
        other.sendall(json.dumps({"do": "cancel", "ids": [job]}).encode() + b"\n")
        eventually(lambda: desk.connections() == 2)
        other.close()
        eventually(lambda: desk.connections() == 1)  # who hangs up is not kept until then
        gate.touch()
        line.settimeout(60)
        assert b'"cancelled"' in line.recv(1000)
    finally:
        desk.close()


def test_a_change_that_could_not_be_flushed_is_not_told_of():
    desk = Desk(system=False)

    def prepare(house):
        def fail():
            list(house.history.ended.look())
            if house.backlog.counts["ready"] == 0 and house.history.ended.counts()["cancelled"]:
                raise SyncFailed("the disk is broken")

        house.shelves.sync = fail

    try:
        desk.start(prepare)
        job = desk.drop(desk.uid, "job", TRUE)
        eventually(lambda: talk(desk.connect(), STATS)[0]["ready"])
        for _ in range(2):
            (answer,) = talk(desk.connect(), {"do": "cancel", "ids": [job]})
            assert answer["code"] == 75
            assert "the disk is broken" in answer["error"]
        assert talk(desk.connect(), STATS)[-1] == {"ok": True}  # who only looks is answered
    finally:
        desk.close()


@pytest.mark.parametrize("verb", ["show", "cancel"])
def test_what_has_just_been_dropped_is_known(small, verb):
    """Whoever was told "queued" may ask for it at once, before a turn has looked into the inbox."""
    line = small.connect()
    line.sendall(b" ")
    for _ in range(2):
        talk(small.connect(), STATS)  # so the line has been taken
    os.kill(small.pid, signal.SIGSTOP)
    job = small.drop(small.uid, "new", TRUE)
    line.sendall(json.dumps({"do": verb, "id": job, "ids": [job]}).encode() + b"\n")
    os.kill(small.pid, signal.SIGCONT)
    assert "error" not in talk(line, b"")[0]


def test_what_cannot_be_judged_yet_is_queued_and_not_unknown(small):
    draft = small.root / "in" / str(small.uid) / "half.job"
    draft.write_text('{"command": ')
    eventually(lambda: list((small.root / "queue" / ".capture").glob("*half*")))
    (answer,) = talk(small.connect(), {"do": "show", "id": f"{small.uid}-half"})
    assert (answer["code"], "is queued" in answer["error"]) == (75, True)
    assert talk(small.connect(), {"do": "show", "id": f"{small.uid}-whole"})[0]["code"] == 65


def test_a_client_waits_where_many_others_do(tmp_path):
    """A connection that cannot be taken at once is no dispatcher that hangs."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "control"))
    server.listen(0)
    waiting = []
    with pytest.raises(BlockingIOError):
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect(str(tmp_path / "control"))
    got = []
    thread = threading.Thread(target=lambda: got.append(client.connect(str(tmp_path), 20.0)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "it did not wait"
    waiting.append(server.accept()[0])
    thread.join()
    for line in (*waiting, *got, server):
        line.close()
    assert len(got) == 1


def test_every_state_can_be_listed(small):
    jobs = {name: small.drop(small.uid, name, TRUE) for name in ("gone", "ready")}
    small.drop(small.uid, "later", TRUE | {"delay": "1h"})
    small.drop(small.uid, "bad", {"comand": []})
    eventually(lambda: talk(small.connect(), STATS)[0]["rejected"] == 1)
    talk(small.connect(), {"do": "cancel", "ids": [jobs["gone"]]})
    assert states_of(talk(small.connect(), {"do": "list"})) == {"ready": "ready", "later": "delayed"}
    everything = talk(small.connect(), {"do": "list", "states": list(states.STATES)})
    found = states_of(everything)
    assert found == {"ready": "ready", "later": "delayed", "gone": "cancelled", "bad": "rejected"}
    assert "comand" in next(each["reason"] for each in everything if each.get("state") == "rejected")
    assert len(ids(talk(small.connect(), {"do": "list", "states": list(states.STATES), "limit": 2}))) == 2


def test_what_ended_is_listed_latest_first(small):
    names = ["one", "two", "three"]
    for name in names:
        job = small.drop(small.uid, name, TRUE)
        eventually(lambda: talk(small.connect(), STATS)[0]["ready"])
        talk(small.connect(), {"do": "cancel", "ids": [job]})
    found = talk(small.connect(), {"do": "list", "states": ["cancelled"]})
    assert [each.rpartition("-")[2] for each in ids(found)] == names[::-1]
    assert ids(talk(small.connect(), {"do": "list", "states": ["done"]})) == []


@needs_root
def test_ids_are_found_by_their_tails_and_names_among_ones_own(desk):
    for uid in (ANN, BOB):
        desk.drop(uid, "nightly", TRUE)
    desk.start()
    assert [each[:5] for each in ids(desk.ask(ANN, do="ids", like="nightly"))] == [f"{ANN}-"]
    assert [each[:5] for each in ids(desk.ask(BOB, do="ids", like="ly"))] == [f"{BOB}-"]
    assert len(ids(desk.ask(0, do="ids", like="nightly"))) == 2
    (job,) = ids(desk.ask(ANN, do="ids", like="nightly"))
    assert desk.ask(ANN, do="cancel", ids=[f"{ANN}-nightly"])[0] == {"id": job, "state": "cancelled"}
    assert ids(desk.ask(ANN, do="ids", like="nightly")) == [job]
