"""Open batches: a batch takes further jobs until it has ended (queue.md: members add siblings until it completes)."""

import json
import os
import signal
import sys

import pytest
from conftest import eventually
from cron.bench import Bench
from test_batches import lines, put, results_of, sh

from cronq import additions
from cronq.backlog import Backlog
from cronq.entry import Entry
from cronq.states import RUNNING

CRONQ = f"{sys.executable} -m cronq"
ADD = f'{CRONQ} exec --no-sync --into "$CRONQ_BATCH_ID" -- /bin/sh -c'


def held(world, gate):
    """A command that runs until the gate is there."""
    return f"echo x >> {world.path}/begun; until [ -e {gate} ]; do sleep 0.02; done"


def batch_of(world, name):
    """The id of a batch that was named by hand, as soon as a job of it has begun to run."""
    found = eventually(lambda: list((world.spool / "queue" / "running").rglob(f"*-{name}+*")))
    return found[0].name.split(",")[2].partition("+")[0]


def told(world, job_id):
    """What a callback that is `cat` was told."""
    return json.loads((world.results(job_id) / "stdout").read_text())


# -------------------------------------------------------------------- until it has ended


def test_a_member_that_adds_a_sibling_in_its_last_moment_is_followed_by_it_before_the_end(world):
    """Twenty in a row, each added by the one before, which exits at once; the callback comes after the last."""
    world.start()
    ledger, script = world.path / "ledger", world.path / "step"
    script.write_text(f'echo $1 >> {ledger}\n[ $1 -ge 20 ] || exec {ADD} \'. "$0" "$1"\' {script} $(($1 + 1))\n')
    add = f"set -- 0; . {script}"
    put(world, "b", {"jobs": 1, "on_complete": sh(f"cat; echo end >> {ledger}"), "on_success": sh("cat")}, sh(add))
    result = results_of(world, "b")
    assert (result["jobs"], result["counts"]) == (21, {"done": 21})
    for event in ("complete", "success"):
        call = f"{result['id']}+{event}"
        assert world.result(call)["state"] == "done"
        assert (told(world, call)["jobs"], told(world, call)["counts"]) == (21, {"done": 21})
    assert lines(ledger) == [*map(str, range(21)), "end"]


def test_a_file_that_is_still_to_be_judged_keeps_a_batch_open(world):
    """It parses only later, as one that is written in two goes; the batch ended long before that, but for it."""
    world.start()
    late = {"command": ["/bin/sh", "-c", f"echo late >> {world.path}/ledger"]}
    draft = world.inbox / "late.job"
    put(
        world, "b", {"jobs": 1, "on_complete": sh(f"echo end >> {world.path}/ledger")}, sh(f"echo '{{' > {draft}; true")
    )
    one = results_of(world, "b+1")["id"]
    batch = one.partition("+")[0]
    captured = eventually(lambda: list((world.spool / "queue" / ".capture").glob("*late.job")))[0]
    assert not (world.results(batch) / "result.json").exists()
    captured.write_text(json.dumps(late | {"batch": batch}, indent=1))
    assert results_of(world, "b")["counts"] == {"done": 2}
    world.result(f"{batch}+complete")
    assert lines(world.path / "ledger") == ["late", "end"]


def test_what_is_added_may_wait_for_jobs_of_the_batch_and_for_others_and_the_batch_waits_for_it(world):
    world.start()
    gate, ledger = world.path / "gate", world.path / "ledger"
    say = lambda word: ("--", "sh", "-c", f"echo {word} >> {ledger}")  # noqa: E731
    put(world, "b", {"jobs": 1}, sh(f"{held(world, gate)}; echo b >> {ledger}"))
    batch = batch_of(world, "b")
    other = world.submit("exec", "--delay", "1h", *say("other"))
    first = world.submit("exec", "--into", batch, "--after", f"{batch}+1", *say("first"))
    second = world.submit("exec", "--into", batch, "--after", first, "--after", other, *say("second"))
    assert json.loads(world.run("show", "--json", second).stdout)["state"] == "waiting"
    gate.touch()
    assert world.result(first)["state"] == "done"
    world.run("edit", "--delay", "0s", other)
    result = world.result(batch)
    assert (result["jobs"], result["counts"]) == (3, {"done": 3})
    assert lines(ledger) == ["b", "first", "other", "second"]


def test_a_batch_of_unique_jobs_is_made_by_adding_them(world):
    """As docs/batches.md says."""
    world.start()
    gate, ledger = world.path / "gate", world.path / "ledger"
    batch = world.run("exec", "--batch", "-", input=f"until [ -e {gate} ]; do sleep 0.02; done\n").stdout.strip()
    tell = lambda word: world.run(*f"exec --unique {word} --into {batch} -- sh -c".split(), f"echo {word} >> {ledger}")  # noqa: E731
    world.run("pause", "default")
    for word in ("a", "b", "a"):
        tell(word)
    world.run("resume", "default")
    gate.touch()
    assert world.result(batch)["counts"] == {"done": 3}
    assert sorted(lines(ledger)) == ["a", "b"]


def test_what_was_added_and_skipped_comes_again_with_its_batch_when_what_it_waits_for_is_retried(world):
    world.start()
    gate, mended = world.path / "gate", world.path / "mended"
    put(world, "b", {"jobs": 1}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    other = world.submit("exec", "--", "sh", "-c", f"test -e {mended}")
    added = world.submit("exec", "--into", batch, "--after", other, "--", "true")
    assert world.result(added)["state"] == "skipped"
    gate.touch()
    assert world.result(batch)["counts"] == {"done": 1, "skipped": 1}
    mended.touch()
    world.run("retry", other)
    world.run("wait", added)
    world.run("wait", batch)
    assert world.result(batch)["counts"] == {"done": 2}


def test_what_lies_behind_much_else_in_the_inbox_keeps_a_batch_open(world):
    """More than a turn takes out of an inbox, and the added job's name is the last."""
    world.start()
    many = f"""
import json, os
for number in range(1000):
    open(f"{world.inbox}/a{{number:04d}}.job", "w").write('{{}}')
job = {{"command": ["true"], "batch": os.environ["CRONQ_BATCH_ID"]}}
open("{world.inbox}/.z.tmp", "w").write(json.dumps(job))
os.rename("{world.inbox}/.z.tmp", "{world.inbox}/z.job")
"""
    put(world, "b", {"jobs": 1}, {"command": [sys.executable, "-c", many]})
    assert results_of(world, "b")["counts"] == {"done": 2}


def test_while_nothing_is_accepted_a_batch_ends_unless_there_is_something_to_judge(world):
    world.start()
    gates = [world.path / name for name in "bc"]
    for gate in gates:
        put(world, gate.name, {"jobs": 1}, sh(held(world, gate)))
    batches = [batch_of(world, gate.name) for gate in gates]
    world.run("drain", "--refuse", "--timeout", "100ms", code=75)
    gates[0].touch()
    assert world.result(batches[0])["counts"] == {"done": 1}
    world.drop("n", sh("true") | {"batch": batches[1]})
    gates[1].touch()
    assert world.result(f"{batches[1]}+1")["state"] == "done"
    assert "it ends when all job files in the inbox are judged" in world.run("why", batches[1]).stdout
    world.run("resume")
    assert world.result(batches[1])["counts"] == {"done": 2}


@pytest.mark.parametrize("end", ["exit 0", "exit 3"])
def test_how_an_added_job_ends_counts(world, end):
    world.start()
    gate = world.path / "gate"
    put(world, "b", {"jobs": 1, "on_success": sh("cat"), "on_first_death": sh("cat")}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    added = world.submit("exec", "--into", batch, "--", "/bin/sh", "-c", end)
    done = end == "exit 0"
    assert world.result(added)["batch"] == batch
    if not done:
        assert told(world, results_of(world, "b+first_death")["id"])["dead"] == added
    gate.touch()
    result = results_of(world, "b")
    assert (result["counts"], result["exit_code"]) == (({"done": 2}, 0) if done else ({"done": 1, "dead": 1}, 1))
    assert (world.results(batch + "+success")).exists() is done


def test_cancelling_a_batch_cancels_what_was_added(world):
    world.start()
    gate = world.path / "gate"
    put(world, "b", {"jobs": 1}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    runs = world.submit("exec", "--into", batch, "--", "sleep", "300")
    waits = world.submit("exec", "--into", batch, "--delay", "1h", "--", "true")
    eventually(lambda: len(list((world.spool / "queue" / "running").rglob("*"))) >= 3)
    world.run("cancel", "--now", batch)
    assert results_of(world, "b")["counts"] == {"cancelled": 3}
    assert {world.result(job)["state"] for job in (runs, waits)} == {"cancelled"}


def test_a_dead_job_that_was_added_reopens_its_batch_when_it_is_retried(world):
    world.start()
    gate, flag = world.path / "gate", world.path / "flag"
    put(world, "b", {"jobs": 1, "on_success": sh("cat")}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    added = world.submit("exec", "--into", batch, "--", "test", "-e", str(flag))
    assert world.result(added)["state"] == "dead"
    gate.touch()
    assert world.result(batch)["counts"] == {"done": 1, "dead": 1}
    flag.touch()
    world.run("retry", added)
    assert told(world, results_of(world, "b+success")["id"])["jobs"] == 2
    eventually(lambda: world.result(batch)["counts"] == {"done": 2})


def test_a_job_that_comes_right_behind_its_batch_waits_until_that_is_judged(world):
    (world.path / "lines").write_text("true\n" * 3000)
    batch = world.run("exec", "--no-sync", "--batch", str(world.path / "lines")).stdout.strip()
    added = world.submit("exec", "--into", batch, "--", "true")
    world.start()
    assert world.result(added)["state"] == "done"
    world.run("cancel", batch)
    assert sum(world.result(batch)["counts"].values()) == 3001


def test_a_batch_that_is_cancelled_when_none_of_the_file_was_taken_counts_what_was_added(world):
    world.tasks("[limits]\nmax_jobs = 1\n")
    world.start()
    gate = world.path / "gate"
    world.submit("exec", "--", "sh", "-c", held(world, gate))
    eventually(lambda: lines(world.path / "begun"))
    put(world, "b", {"jobs": 1}, sh("true"))
    kept = eventually(lambda: list((world.spool / "queue" / "ready").rglob("*-b,*")))
    batch = kept[0].name.split(",")[2]
    world.run("hold", batch)
    added = world.submit("exec", "--into", batch, "--", "true")
    gate.touch()
    assert world.result(added)["state"] == "done"
    world.run("cancel", batch)
    assert world.result(batch)["counts"] == {"done": 1, "cancelled": 1}


# -------------------------------------------------------------------- refused


def test_nothing_is_added_to_what_is_over_or_is_no_batch_of_ones_own(world):
    world.start()
    gate = world.path / "gate"
    os.mkfifo(gate)
    put(world, "b", {"jobs": 1}, sh("true"))
    put(world, "c", {"jobs": 1}, sh(f"trap '' TERM; {held(world, world.path / 'go')}"))
    ended, running = results_of(world, "b")["id"], batch_of(world, "c")
    job = world.submit("exec", "--", "true")
    world.result(job)
    waits = world.submit("exec", "--delay", "1h", "--", "true")
    world.run("cancel", running)
    theirs = f"{world.uid + 1}-065f0c2a1b3c4-k3x9q2ab"
    for number, (batch, words) in enumerate(
        {
            ended: f"batch {ended} has ended; nothing can be added to it any more",
            running: f"batch {running} is cancelled; nothing can be added to it any more",
            job: f"batch names the unknown batch '{job}'",
            waits: f"batch names the unknown batch '{waits}'",
            theirs: f"batch names the unknown batch '{theirs}'",
            f"{world.uid}-065f0c2a1b3c4-k3x9q2ab": "batch names the unknown batch",
            f"{ended}+1": "batch must be a batch's id",
        }.items()
    ):
        world.drop(f"n{number}", sh("true") | {"batch": batch})
        assert words in world.rejected(f"n{number}")
        assert "exit 65" in world.rejected(f"n{number}")
    (world.path / "go").touch()


def test_what_would_wait_for_itself_is_refused(world):
    world.start()
    gate = world.path / "gate"
    put(world, "b", {"jobs": 1}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    world.drop("n", sh("true") | {"batch": batch, "after": [batch]})
    assert f"{batch} is its own batch, and that waits for it: both would wait for ever" in world.rejected("n")
    put(world, "c", {"jobs": 1}, sh("true") | {"batch": batch})
    assert "line 1: batch is no key of a batch's own job" in world.rejected("c", "jobs")
    put(world, "d", {"jobs": 1, "on_complete": sh("true") | {"batch": batch}}, sh("true"))
    assert "on_complete: batch is no key of a callback" in world.rejected("d", "jobs")
    assert "--into is for one job" in world.run("exec", "--batch", "-", "--into", batch, input="true\n", code=2).stderr
    gate.touch()


def test_a_circle_by_other_jobs_and_batches_is_refused_over_a_restart_too(world):
    world.tasks("[limits]\nmax_jobs = 2\n")
    daemon = world.start()
    gate = world.path / "gate"
    put(world, "b", {"jobs": 1}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    put(world, "c", {"jobs": 1}, sh(held(world, gate)))
    other = batch_of(world, "c")
    after = world.submit("exec", "--after-any", batch, "--", "true")
    further = world.submit("exec", "--after", after, "--", "true")
    added = world.submit("exec", "--into", other, "--after", further, "--", "true")
    put(world, "d", {"jobs": 1}, sh("true") | {"after": [after]})  # nothing of it is made: as many jobs run as may
    opaque = eventually(lambda: list((world.spool / "queue" / "ready").rglob("*-d,*")))[0].name.split(",")[2]
    for restarted in (False, True):
        if restarted:
            os.kill(world.dispatcher(daemon), signal.SIGKILL)
            eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
        for name, parent in (("after", after), ("further", further), ("other", other), ("added", added)):
            world.drop(f"{name}{restarted}", sh("true") | {"batch": batch, "after_fail": [parent]})
            refused = world.rejected(f"{name}{restarted}")
            assert f"{parent} waits for batch {batch}, and that would wait for this job" in refused
        world.drop(f"opaque{restarted}", sh("true") | {"batch": batch, "after": [opaque]})
        refused = world.rejected(f"opaque{restarted}")
        assert f"batch {opaque}, whose jobs wait for others, and are not all made" in refused
    fine = world.submit("exec", "--into", batch, "--after", f"{other}+1", "--", "true")
    gate.touch()
    assert world.result(fine)["state"] == "done"
    assert world.result(other)["counts"] == {"done": 2}


def test_nothing_is_added_when_the_end_has_been_told(world):
    world.tasks("[limits]\nmax_jobs = 1\n")
    world.start()
    gate = world.path / "gate"
    os.mkfifo(gate)
    put(world, "b", {"jobs": 1, "on_complete": sh(f"cat {gate}")}, sh("exit 65"))
    batch = results_of(world, "b")["id"]
    world.run("retry", f"{batch}+1")
    world.drop("n", sh("true") | {"batch": batch})
    assert f"batch {batch} has come to its end, and its on_complete is told so" in world.rejected("n")
    gate.write_text("")
    world.result(f"{batch}+complete")


# -------------------------------------------------------------------- crashes


@pytest.mark.parametrize("first", [0, 1])
def test_a_batch_of_which_only_what_was_added_has_not_ended_is_not_over_in_whatever_order_they_are_found(first):
    batch = Entry(id="7-065f0c2a1b3c4-k3x9q2ab", due=0, batch=(1, 9, 1))
    added = Entry(id="7-065f0c2a1b3c5-k3x9q2ab", due=0, into=batch.id[2:])
    backlog = Backlog()
    for entry in (batch, added)[:: -1 if first else 1]:
        backlog.put(RUNNING, entry)
    assert (backlog.over(), backlog.unfinished(batch.id), backlog.members) == ([], [added.id], {})
    backlog.forget(added.id)
    assert backlog.over() == [batch]


def test_of_half_a_line_that_a_crash_left_nothing_is_taken_for_a_job_and_of_two_lines_one(tmp_path):
    place, uid = Bench(tmp_path, os.getuid()), os.getuid()
    batch = Entry(id=f"{uid}-065f0c2a1b3c4-k3x9q2ab", due=0, batch=(1, 0, 1))
    into = batch.id.partition("-")[2]
    first, second = (Entry(id=f"{uid}-065f0c2a1b3c{digit}-k3x9q2ab", due=0, into=into) for digit in "56")
    additions.note(place.house, first)
    with (place.root / "out" / str(uid) / batch.id / additions.NAME).open("a") as file:
        file.write(f"{first.id}\n{uid}-065f0c2")
    assert additions.of(place.house.shelves, batch.id) == [first.id]
    additions.note(place.house, second)
    assert additions.of(place.house.shelves, batch.id) == [first.id, second.id]
    assert additions.number(place.house.shelves, batch) == 3
    place.close()


def test_what_was_added_and_has_ended_is_counted_after_a_restart(world):
    daemon = world.start()
    gate = world.path / "gate"
    put(world, "b", {"jobs": 1, "on_complete": sh("cat")}, sh(held(world, gate)))
    batch = batch_of(world, "b")
    added = [world.submit("exec", "--into", batch, "--", "sh", "-c", f"exit {code}") for code in (0, 0, 3)]
    assert [world.result(job)["state"] for job in added] == ["done", "done", "dead"]
    waits = world.submit("exec", "--into", batch, "--", "sh", "-c", held(world, gate))
    eventually(lambda: len(lines(world.path / "begun")) == 2)
    os.kill(world.dispatcher(daemon), signal.SIGKILL)
    eventually(lambda: daemon.log.read_text().count("event=ready") == 2)
    gate.touch()
    assert world.result(waits)["state"] == "done"
    assert told(world, results_of(world, "b+complete")["id"])["counts"] == {"done": 4, "dead": 1}
    assert results_of(world, "b")["jobs"] == 5


@pytest.mark.parametrize("step", ["captured", "noted", "placed", "settled", "over", "called"])
def test_a_dispatcher_killed_at_a_step_neither_loses_nor_doubles_what_was_added(world, serve, step):
    ledger = world.path / "ledger"
    flag = serve("dispatcher", step)
    add = f"[ -e {world.path}/added ] || {{ {ADD} 'echo sibling >> {ledger}' && touch {world.path}/added; }}"
    put(world, "b", {"jobs": 1, "on_complete": sh(f"cat; echo end >> {ledger}")}, sh(add))
    result = results_of(world, "b")
    assert result["counts"] == {"done": 2}
    assert told(world, results_of(world, "b+complete")["id"])["counts"] == {"done": 2}
    assert lines(ledger) == ["sibling", "end"]
    assert flag.exists()
