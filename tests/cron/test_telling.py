"""Who is told of crontab lines and of dead jobs beside the mail: a real dispatcher, a real webhook, real commands."""

import contextlib
import itertools
import json
import os
import re
import signal
from pathlib import Path

import pytest
from conftest import eventually

from cronq import events, states
from cronq.entry import Entry
from cronq.house import Now, Running, Settled
from cronq.policy import Dead, Done

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture
def begin(world):
    """Start a dispatcher with this crontab and this configuration; nothing is mailed."""

    def start(crontab: str = "", toml: str = ""):
        world.tasks(f'[cron]\nsendmail = "/nowhere/sendmail"\n{toml}')
        (world.config / "crontab").write_text(crontab)
        (world.config / "crontab").chmod(0o644)
        world.start()

    return start


def hooks_of(world, name: str = "*") -> list[Path]:
    """The results of the jobs that tell."""
    return sorted((world.spool / "out" / str(world.uid)).glob(f"*-{name}-*/result.json"))


def ticks(world, name: str) -> list:
    return sorted((world.spool / "out" / str(world.uid)).glob(f"*-tab-{name}-*/result.json"))


def test_a_webhook_is_told_of_a_failure_that_printed_nothing_too(world, begin, server):
    begin(f"CRONQ_NOTIFY_WEBHOOK={server.url}/ok\nTZ=Asia/Tokyo\n# cronq: name=bad overlap=skip\n@every 1s exit 3\n")
    event = eventually(server.events)[0]
    tick = json.loads((world.results(event["job"]) / "result.json").read_text())
    assert event["id"].rpartition(".")[0] == tick["id"]
    assert (event["event"], event["entry"], event["command"]) == ("failed", "bad", "exit 3")
    assert (event["exit_code"], event["reason"], event["output"]) == (3, "exit code 3", "")
    assert re.fullmatch(r"bad \(\S+@\S+\) failed: exit code 3", event["text"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", event["time"])
    assert not re.search(
        "ok", " ".join(path.read_text() for path in (world.spool / "out").rglob("job.json") if "-post-" in str(path))
    )


def test_a_command_of_the_tables_has_the_events_of_the_lines_below_it(world, begin):
    told, folder = world.path / "told", world.path / "events"
    folder.mkdir()
    begin(
        f"TOLD={told}\n# cronq: name=before\n@every 1s echo x\n"
        f"CRONQ_NOTIFY_COMMAND=cat > {folder}/$CRONQ_EVENT-$CRONQ_EVENT_ENTRY; test $TOLD = {told}\n"
        "# cronq: name=quiet\n@every 1s true\n# cronq: name=loud\n@every 1s echo out; echo err >&2\n"
        "# cronq: name=silenced notify=never\n@every 1s false\n"
    )
    eventually(lambda: (folder / "printed-loud").exists() and hooks_of(world, "call-loud"))
    eventually(lambda: all(len(ticks(world, name)) >= 2 for name in ("before", "quiet", "silenced")))
    assert [path.name for path in folder.iterdir()] == ["printed-loud"]
    assert json.loads((folder / "printed-loud").read_text())["output"] == "out\nerr\n"
    assert json.loads(hooks_of(world, "call-loud")[0].read_text())["state"] == "done"


@pytest.mark.parametrize("of_whom", ["the table's", "the configuration's"])
def test_by_change_the_first_failure_and_the_recovery_are_told_and_nothing_else(world, begin, server, of_whom):
    good = world.path / "good"
    good.touch()
    line = f"# cronq: name=a overlap=skip\n@every 1s test -e {good}\n"
    if of_whom == "the table's":
        begin(f"CRONQ_NOTIFY_WEBHOOK={server.url}/ok\n" + line.replace("skip", "skip notify=change"))
    else:
        begin(line, f'[notify]\nwebhook = "{server.url}/ok"\non = "change"\n')

    def more(count: int) -> None:
        seen = len(ticks(world, "a"))
        eventually(lambda: len(ticks(world, "a")) >= seen + count)

    more(1)
    good.unlink()
    more(2)
    good.touch()
    more(2)
    eventually(lambda: len(server.events()) >= 2)
    assert [event["event"] for event in server.events()] == ["failed", "recovered"]


def test_by_failure_each_failure_is_told_and_no_success(world, begin, server):
    begin(
        "# cronq: name=ok\n@every 1s echo fine\n# cronq: name=bad overlap=skip\n@every 1s echo no; false\n"
        "# cronq: name=own notify=never\n@every 1s false\n",
        f'[notify]\nwebhook = "{server.url}/ok"\n',
    )
    eventually(lambda: len(ticks(world, "ok")) >= 3 and len(ticks(world, "own")) >= 2 and len(server.events()) >= 2)
    events = server.events()
    assert {(event["event"], event["entry"], event["output"]) for event in events} == {("failed", "bad", "no\n")}
    assert len({event["id"] for event in events}) == len(events)


def test_a_dead_job_is_told_with_the_end_of_what_it_printed_and_one_that_is_tried_again_is_not(world, begin, server):
    begin(
        "",
        f'[notify]\nwebhook = "{server.url}/ok"\ncommand = ["sh", "-c", "cat > {world.path}/died"]\n'
        "[tasks.resize]\nshell = 'echo out; echo \"$1: no space\" >&2; exit 4'\nretries = 1\nbackoff.base = 0.1\n",
    )
    world.run("exec", "--wait", "--", "true")
    job_id = world.submit("submit", "resize", "a b")
    (event,) = eventually(server.events)
    assert (event["job"], event["event"], event["task"]) == (job_id, "died", "resize")
    assert (event["command"], event["output"]) == ("resize 'a b'", "a b: no space\n")
    assert event["reason"] == "exit code 4 (attempt 2 of 2)"
    assert json.loads(eventually(lambda: (world.path / "died").exists() and (world.path / "died").read_text())) == event


def test_a_job_that_is_revived_and_dies_again_is_told_again(world, begin, server):
    begin("", f'[notify]\nwebhook = "{server.url}/ok"\n')
    job_id = world.submit("exec", "--", "false")
    eventually(server.events)
    world.run("retry", job_id)
    eventually(lambda: len(server.events()) == 2)
    assert len({event["id"] for event in server.events()}) == 2


def test_a_hook_that_dies_is_told_to_nobody(world, begin, server):
    begin("", f'[notify]\nwebhook = "{server.url}/status/404"\n')
    first = world.submit("exec", "--", "false")
    (path,) = eventually(lambda: hooks_of(world, "hook-post-*"))
    assert json.loads(path.read_text())["state"] == "dead"
    second = world.submit("exec", "--", "false")
    eventually(lambda: second in [event["job"] for event in server.events("/status/404")])
    assert [event["job"] for event in server.events("/status/404")] == [first, second]


def test_a_server_that_is_down_is_told_later_under_the_same_id(world, begin, server):
    begin("", f'[notify]\nwebhook = "{server.url}/once"\n')
    world.submit("exec", "--", "false")
    eventually(lambda: len(server.events("/once")) == 2)
    assert len({event["id"] for event in server.events("/once")}) == 1
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.got}) == 1
    (hook,) = eventually(lambda: hooks_of(world, "hook-post-*"))
    assert json.loads(hook.read_text())["state"] == "done"


def test_a_server_that_hangs_holds_up_neither_cron_nor_the_queue(world, begin, server):
    begin(f"CRONQ_NOTIFY_WEBHOOK={server.url}/hang\n# cronq: name=a\n@every 1s echo x\n")
    eventually(lambda: len(ticks(world, "a")) >= 5 and server.events("/hang"))
    assert world.run("exec", "--wait", "--", "echo", "alive").stdout == "alive\n"
    assert len(server.events("/hang")) == 1  # one after the other


def test_what_is_told_when_the_dispatcher_is_killed_is_told_after_it(world, begin, server):
    gate = world.path / "gate"
    begin(
        f"CRONQ_NOTIFY_COMMAND=until [ -e {gate} ]; do sleep 0.02; done; cat >> {world.path}/told\n"
        "# cronq: name=a notify=change\n@every 1s false\n"
    )
    eventually(lambda: "-call-a-" in world.run("list", "--state", "running").stdout)
    os.kill(world.dispatcher(world.daemons[0]), signal.SIGKILL)
    gate.touch()
    eventually(lambda: (world.path / "told").exists() and hooks_of(world, "call-a"))
    count = len(ticks(world, "a"))
    eventually(lambda: len(ticks(world, "a")) >= count + 2)
    assert len((world.path / "told").read_text().splitlines()) == 1


# ---------------------------------------------------------------- step by step, and without anybody


class Killed(Exception):
    """Here the dispatcher dies."""


@pytest.fixture
def over(bench):
    """The end of a tick, judged at a bench: nobody runs it. `dies` says at which step the dispatcher does."""

    clock = itertools.count()

    def end(failed: bool, minute: int = 1, dies: str = "") -> None:
        def step(name: str) -> None:
            if name == dies:
                raise Killed

        bench.house.step = step
        if dies == "telling":  # nothing of it is on the disk yet
            bench.house.shelves.make_data = lambda *_: step("telling")
        tick = Entry(
            due=minute * 60_000_000, id=f"{bench.uid}-tab-a-{minute * 60_000_000:013x}", attempt=1, queue="cron"
        )
        verdict = Dead("exit code 1") if failed else Done()
        each = Settled(Running(tick), verdict, {"exit_code": int(failed), "t": minute * 60.0})
        events.ended(
            bench.house,
            Now(60.0 + next(clock), 60.0),  # later each time
            each,
            states.DEAD if failed else states.DONE,
            "exit code 1" if failed else None,
        )

    bench.crontab("# cronq: name=a notify=change\n* * * * * true\n")
    bench.toml('[notify]\ncommand = ["page"]\non = "change"\n')
    bench.minutes(0, 0)
    return end


def told(bench) -> list[str]:
    """What is to be told."""
    names = sorted(entry.id for _, entry in bench.house.shelves.scan("ready") if entry.hook)
    return [json.loads((bench.root / "queue" / "data" / name).read_text())["event"] for name in names]


@pytest.mark.parametrize("dies", ["", "telling", "told"])
def test_a_dispatcher_that_dies_before_it_has_noted_a_change_tells_it_once_all_the_same(bench, over, dies):
    for failed, minute, wanted in ((False, 1, []), (True, 2, ["failed"]), (True, 3, ["failed"])):
        if dies:
            with pytest.raises(Killed) if dies == "told" or wanted != told(bench) else contextlib.nullcontext():
                over(failed, minute, dies)
            bench.restart()
            bench.minutes(0, 0)
        over(failed, minute)
        assert told(bench) == wanted
    over(False, 4)
    over(False, 5)
    assert sorted(told(bench)) == ["failed", "recovered"]


def test_no_more_than_a_hundred_events_wait_for_one_who_does_not_listen(bench, over, capfd):
    bench.toml('[notify]\ncommand = ["page"]\n')
    for minute in range(events.MOST_WAITING + 3):
        over(True, minute)
    assert len(told(bench)) == events.MOST_WAITING
    assert capfd.readouterr().err.count("event=hook-dropped") == 3
    for entry in bench.house.backlog.of(states.READY):
        if entry.hook:
            bench.house.backlog.put(states.DELAYED, entry)  # it was tried: it waits all the same
    over(True, 1000)
    assert len(told(bench)) == events.MOST_WAITING


def test_rootless_nothing_is_told_as_somebody_else(bench, over, capfd):
    bench.toml('[notify]\ncommand = ["page"]\nuser = "nobody"\n')
    over(True)
    assert told(bench) == []
    assert "event=hook-refused" in capfd.readouterr().err


# ---------------------------------------------------------------- as documented


def test_the_example_of_the_documentation_tells_what_is_said_there(world, begin, server):
    page = (DOCS / "cron.md").read_text().split("\n## Webhooks and commands\n")[1].split("\n## ")[0]
    (crontab,), (shown,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("crontab", "json"))
    home = world.path / "home"
    (home / ".config" / "cronq").mkdir(parents=True)
    (home / ".config" / "cronq" / "webhook").write_text(f"{server.url}/ok\n")
    script = home / "backup"
    script.write_text("#!/bin/sh\necho 'tar: /srv: Permission denied' >&2\nexit 1\n")
    script.chmod(0o755)
    begin(f"HOME={home}\n" + crontab.replace("/home/ann", str(home)).replace("/usr/local/bin/backup", str(script)))
    eventually(lambda: "crontab-loaded" in world.daemons[0].log.read_text())
    world.run("run", "backup", "--wait", code=1)
    (event,) = eventually(server.events)
    log = home / "failed.log"
    assert json.loads(eventually(lambda: log.exists() and log.read_text())) == event
    documented = json.loads(shown)
    assert list(event) == list(documented)
    same = ("event", "entry", "reason", "exit_code", "signal", "output")
    assert {key: event[key] for key in same} == {key: documented[key] for key in same}
    assert event["text"] == f"backup ({event['user']}@{event['host']}) failed: exit code 1"
    checked = world.run("check", str(world.config / "crontab"))
    assert "warning" not in checked.stdout, checked.stdout


def test_check_says_what_is_no_address_of_a_webhook(world):
    done = world.run("check", "-", input="CRONQ_NOTIFY_WEBHOOK=hooks.example.org\n* * * * * true\n")
    assert "1:1: warning: nothing is told to that webhook: it must begin with https:// or http://" in done.stdout
