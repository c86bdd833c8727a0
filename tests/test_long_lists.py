"""Very many jobs: a list and the counts cost what is shown of them, not what is there. Counted, not timed."""

import json

import pytest
from conftest import eventually
from desk import Desk, entry, talk

from cronq import glance, states
from cronq.backlog import MOST_MEMBERS, Backlog
from cronq.entry import Entry

MANY = 5_000


@pytest.fixture
def morgue():
    """A dispatcher with very many dead letters: without files, but whoever would open one is counted."""
    desk = Desk(system=False)
    desk.reads = desk.folder / "reads"

    def prepare(house):
        for number in range(MANY):
            house.backlog.put(states.DEAD, entry(house.shelves.uid, number).but(task="t" if number % 2 else "s"))
        for name in ("read", "result", "small"):
            real = getattr(house.shelves, name)

            def counted(*given, real=real):
                with desk.reads.open("a") as file:
                    file.write("x")
                return real(*given)

            setattr(house.shelves, name, counted)

    desk.start(prepare)
    yield desk
    desk.close()


def read(desk, **request):
    """What was answered, and how many files were looked into for it."""
    before = desk.reads.stat().st_size if desk.reads.exists() else 0
    *told, last = talk(desk.connect(), request)
    assert last == {"ok": True}
    return told, (desk.reads.stat().st_size if desk.reads.exists() else 0) - before


def test_of_very_many_dead_letters_no_more_are_read_than_are_asked_for(morgue):
    told, reads = read(morgue, do="list", limit=20)
    assert [each["id"] for each in told[1:]] == [entry(morgue.uid, number).id for number in range(20)]
    assert reads <= 2 * 20
    assert not any("unread" in each for each in told)


def test_a_whole_list_is_whole_and_reads_a_bounded_number_of_them(morgue):
    told, reads = read(morgue, do="list")
    assert [each["id"] for each in told[1:]] == [entry(morgue.uid, number).id for number in range(MANY)]
    assert reads <= 2 * glance.WHOLE
    (last,) = told[-1:]
    assert (last["unread"], last["state"], last["task"], last["queue"]) == (True, "dead", "t", "default")
    assert sum("unread" in each for each in told) == MANY - glance.WHOLE


def test_counting_reads_nothing(morgue):
    (told,), reads = read(morgue, do="stats")
    assert (told["dead"], told["queues"], reads) == (MANY, {"default": {"dead": MANY}}, 0)


def test_choosing_the_first_of_many_by_task_reads_none_of_the_others(morgue):
    told, reads = read(morgue, do="hold", states=["dead"], task="t", limit=3)
    assert [each["id"] for each in told] == [entry(morgue.uid, number).id for number in (1, 3, 5)]
    assert {each["code"] for each in told} == {65}
    assert reads == 0


def test_the_list_says_how_many_it_did_not_look_into(world):
    world.start()
    for number in range(glance.WHOLE + 30):
        world.drop(f"n{number}", {"command": ["true"], "delay": "1d"})
    eventually(lambda: json.loads(world.run("stats", "--json").stdout).get("delayed") == glance.WHOLE + 30)
    done = world.run("list")
    assert len(done.stdout.splitlines()) == glance.WHOLE + 30
    assert "cronq: of the last 30 only their names were read; --limit N" in done.stderr
    assert world.run("list", "--limit", str(glance.WHOLE + 5)).stderr == ""
    told = world.run("list", "--json", "--limit", "2").stdout.splitlines()
    assert [json.loads(each)["command"] for each in told] == [["true"]] * 2


@pytest.mark.parametrize("state", [states.READY, states.DELAYED, states.HELD])
def test_the_first_of_a_state_are_those_that_sort_first_whatever_is_marked_or_withheld(state):
    backlog = Backlog()
    entries = [
        Entry(id=f"{1 + number % 3}-k{number:05}", due=number * 7 % 5000, priority=number % 3, queue="pq"[number % 2])
        for number in range(5000)
    ]
    entries += [Entry(id="1-now", due=3, flags="n"), Entry(id="2-many", due=1, batch=(9000, 9, 10_000), priority=2)]
    entries += [Entry(id=f"2-many+{number:05}", due=9000) for number in range(MOST_MEMBERS + 1)]
    entries += [Entry(id="3-tab-x-0660000000000", due=2, queue="cron")]
    for each in entries:
        backlog.put(state, each)
    house = type("House", (), {"backlog": backlog})
    for uids in (None, [2], [1, 3]):
        of_them = [each for each in entries if uids is None or each.uid in uids]
        found = [each for each in glance._kept(house, [state], uids, 700) if each is not None]
        assert found == sorted(of_them, key=lambda each: each.order)[:700]
    for uid in (None, 2):
        wanted = {}
        for each in entries:
            if uid in (None, each.uid):
                wanted[each.queue] = min(each.due, wanted.get(each.queue, each.due))
        assert backlog.oldest_ready(uid) == (wanted if state == states.READY else {})
        assert dict(backlog.queues(uid)) == {
            (queue, state): sum(e.queue == queue and uid in (None, e.uid) for e in entries) for queue in wanted
        }
    for each in entries:
        backlog.forget(each.id)
    assert (backlog.queues(None), backlog._queues.keys(), backlog._withheld) == ([], {None}, {})
