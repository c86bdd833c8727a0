"""What a broken dispatcher can do all the same (trust.md row 19): it is done here, and named in docs/security.md.

It is `cronq`, and so owns the queue, the results and the history; it cannot make a file that is a user's. Whatever it
can do with files that users did make is this, and nothing here runs what its user has not written, nor as anybody else.
The rest is refused: test_lies.py, test_verbs.py.
"""

import json
import os
import time
from itertools import count
from pathlib import Path

import pytest
from conftest import eventually
from defences import REPOSITORY
from liar import PROOF, Liar
from machine import SPOOL

from cronq import job as jobs

pytestmark = pytest.mark.root

TASKS = f"""
[tasks.resize]
user = "carl"
submit = ["ann"]
command = ["sh", "-c", "id -u > {PROOF}/resize; cat > {PROOF}/stdin; echo $CRONQ_SCHEDULED_AT > {PROOF}/when"]
limit = 1
[schedules.tidy]
task = "resize"
every = "1d"
"""
NAMES = count(1)


@pytest.fixture(scope="module")
def told(whole_machine):
    """A launcher, whose dispatcher we are, and two workers of each user's."""
    whole_machine.tasks(TASKS)
    made = Liar(whole_machine)
    made.inboxes("ann", "carl")
    made.ann, made.ann_too, made.carl = (made.worker(uid) for uid in (2001, 2001, 2003))
    made.ann_too.number = 1000  # its outcome files are others
    yield made
    made.close()
    whole_machine.reset()


@pytest.fixture
def name():
    return f"n{next(NAMES)}"


def _counted(name: str) -> dict:
    return {"command": ["sh", "-c", f"echo ran >> {PROOF}/{name}"]}


def _runs(name: str) -> int:
    return len((PROOF / name).read_text().split())


def test_it_repeats_a_job_also_one_that_may_run_once_also_at_the_same_time(liar, name):
    story = f"echo ran >> {PROOF}/{name}; until [ -e {PROOF}/open ]; do sleep 0.02; done"
    file = liar.file_of("ann", name, {"command": ["sh", "-c", story], "delivery": "at-most-once"})
    for worker in (liar.ann, liar.ann_too):
        worker.run(f"2001-{name}", file)
    eventually(lambda: (PROOF / name).exists() and _runs(name) == 2)
    (PROOF / "open").touch()
    for worker in (liar.ann, liar.ann_too):
        worker.hear("ended", f"2001-{name}")
    assert liar.ann.do(f"2001-{name}", file, attempt=7)["step"] == "ended"  # of one that it allows


def test_it_revives_a_job_that_was_cancelled(liar, name):
    file = liar.file_of("ann", name, {"command": ["sh", "-c", f"echo ran >> {PROOF}/{name}; sleep 1000"]})
    for _ in range(2):
        before = _runs(name) if (PROOF / name).exists() else 0
        outcome = liar.ann.run(f"2001-{name}", file)
        eventually(lambda before=before: (PROOF / name).exists() and _runs(name) == before + 1)
        liar.ann.send({"do": "stop", "id": f"2001-{name}", "now": True})
        liar.ann.hear("ended", f"2001-{name}")
        assert liar.ann.outcome(outcome)[-1]["reason"] == "cancelled"
    assert _runs(name) == 2


def test_it_delays_and_mistimes(liar, name):
    """A job that is not due for years, one that expired years ago, and a tick at an instant of its choice."""
    for number, when in enumerate(({"at": "2099-01-01T00:00:00Z"}, {"expires": "2020-01-01T00:00:00Z"})):
        file = liar.file_of("ann", f"{name}.{number}", _counted(name) | when)
        assert liar.ann.do(f"2001-{name}.{number}", file)["step"] == "ended"
    assert _runs(name) == 2
    tick = liar.own(f"{name}.tick", jobs.encode({"task": "resize"}))
    assert liar.carl.do(f"{liar.uid}-cron-tidy-1", tick, scheduled=0.0)["step"] == "ended"
    assert (PROOF / "when").read_text() == "1970-01-01T00:00:00Z\n"


@pytest.mark.parametrize("left", [".draft.tmp", "input.data", "notes"])
def test_it_passes_off_what_a_user_wrote_into_his_inbox_as_a_job_of_his(liar, name, left):
    """An unfinished file, an upload, whatever he has put there: it is his, and says what a job says."""
    text = json.dumps(_counted(name))
    inbox = SPOOL / "in" / "2001"
    liar.machine.as_user("ann", "sh", "-c", f"umask 027; cat > {inbox}/{left}", input=text)
    captured = SPOOL / "queue" / f"{name}.captured"
    with liar.cronq():
        (inbox / left).rename(captured)
    assert liar.ann.do(f"2001-{name}", captured)["step"] == "ended"
    assert _runs(name) == 1


def test_it_chooses_the_input_of_a_task_that_runs_as_somebody_else(liar, name):
    """There the input is the dispatcher's copy: a user cannot give a file away."""
    file = liar.file_of("ann", name, {"task": "resize"})
    made_up = liar.own(f"{name}.data", b"of the dispatcher's choice")
    assert liar.carl.do(f"2001-{name}", file, payload=made_up)["step"] == "ended"
    assert liar.ran()["stdin"] == "of the dispatcher's choice"
    assert liar.ran()["resize"] == "2003"


def test_it_exchanges_the_inputs_of_one_users_jobs_and_leaves_them_out(liar, name):
    story = {"command": ["sh", "-c", f"cat > {PROOF}/{name}"]}
    file = liar.file_of("ann", name, story)
    another = liar.file_of("ann", f"{name}.other", b"another of hers", "data")
    assert liar.ann.do(f"2001-{name}", file, payload=another)["step"] == "ended"
    assert (PROOF / name).read_text() == "another of hers"
    assert liar.ann.do(f"2001-{name}", file)["step"] == "ended"
    assert (PROOF / name).read_text() == ""


def test_it_reads_what_is_queued_and_printed_and_tells_wrong_ends(liar, name):
    """They are its own files; what a job did is what its user finds done."""
    secret = {"command": ["echo", "printed"], "env": {"TOKEN": "sesame"}}
    file = liar.file_of("ann", name, secret)
    outcome = liar.ann.run(f"2001-{name}", file)
    liar.ann.hear("ended", f"2001-{name}")
    output = SPOOL / "queue" / "outcome" / f"{outcome}.stdout"
    with liar.cronq():
        assert "sesame" in file.read_text()
        assert output.read_text() == "printed\n"
        output.write_text("forged\n")
        (SPOOL / "history" / "forged").write_text("{}")
    job_id = f"2001-{jobs.new_name()}"
    with liar.cronq():
        folder = SPOOL / "out" / "2001" / job_id
        folder.mkdir(parents=True)
        forged = {"state": "done", "exit_code": 0, "signal": None, "reason": "forged", "ended": time.time()}
        (folder / "result.json").write_text(json.dumps(forged) + "\n")
    shown = liar.machine.cronq("root", "result", job_id).stdout
    assert "reason:        forged" in shown


def test_that_is_what_the_documents_say():
    text = " ".join((REPOSITORY / "docs" / "security.md").read_text().split())
    _, _, residue = text.partition("**What a broken dispatcher can still do**")
    residue = residue.partition("## ")[0]
    for words in (
        "delay jobs",
        "repeat them",
        "at the same time",
        "revive cancelled ones",
        "mistime",
        "pass off what a user has written into his inbox as a job of his",
        "choose the input of a job that runs as somebody else than its submitter",
        "exchange the inputs of one user's jobs",
        "read what is queued and printed",
        "wrong ends",
        "bounds",
    ):
        assert words in residue, words
    assert Path(__file__).name in residue
    assert os.path.exists(__file__)
