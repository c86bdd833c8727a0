"""What is asked about the gates of the whole: pause and resume of queues and tasks, drain; what is paused.

Does:    one generator a verb, as in `verbs`. `gates` tells what is paused, or with `like` what queues and tasks may be
         meant by a name; `pause` and `resume` of an entry are `entryverbs`'.
Reads:   the configuration, and which queues the jobs of the backlog stand in.
Writes:  as `pauses` does.
Trusts:  the caller to be who he is (`caller`). Gates are for all: on a system spool only root and operators change
         them. Everybody is told of them, but of no job of another user's.
Fails:   `NotPermitted`; `UnknownJob` for a task that is not there, `UsageError` for what is no gate's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cronq import entryverbs, intake, job, pauses, states
from cronq.errors import NotPermitted, UnknownJob, UsageError
from cronq.log import line as log
from cronq.pauses import QUEUE, TASK, Pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.house import House
    from cronq.verbs import Ask

Found = Iterator[dict[str, Any] | None]
RUN = 2048  # entries that are looked at at a time


def gates(ask: Ask) -> Found:
    """What is paused; with `like`, the queues and tasks that are called so, paused or not."""
    like = ask.request.get("like")
    if like is None:
        yield from paused(ask)
        return
    if not isinstance(like, str):
        raise UsageError("like must be some text")
    names = {pauses.gate(kind, like) for kind in (QUEUE, TASK)} & ask.house.pauses.gates.keys()
    if like in ask.house.config.tasks:
        names.add(pauses.gate(TASK, like))
    for look in _is_queue(ask, like):
        if look is None:
            yield None
        elif look:
            names.add(pauses.gate(QUEUE, like))
    for name in sorted(names):
        yield {"gate": name, "paused": _told(ask.house, name), "may": ask.caller.everything}


def _is_queue(ask: Ask, name: str) -> Iterator[bool | None]:
    """Whether the configuration names such a queue, or a job stands in it; None in between. Others' jobs count not."""
    said = ask.house.config
    if name in said.named_queues:
        yield True
        return
    uid = None if ask.caller.everything else ask.caller.uid
    for state in states.KEPT:
        for number, entry in enumerate(ask.house.backlog.entries(state, uid)):
            if number % RUN == RUN - 1:
                yield None
            if entry.queue == name:
                yield True
                return


def paused(ask: Ask) -> Iterator[dict[str, Any]]:
    """Each gate that is paused: until when, why, and whose failure it was, as far as the caller may know that job."""
    for name, pause in sorted(ask.house.pauses.gates.items()):
        told = {"gate": name, "paused": entryverbs.told(pause.until), "why": pauses.sentence(name, pause)}
        if pause.job and ask.caller.may(int(pause.job.partition("-")[0])):
            told["job"] = pause.job
        yield told


def _told(house: House, name: str) -> float | bool:
    until = house.pauses.until(name)
    return bool(until) and entryverbs.told(until)


def pause(ask: Ask) -> Found:
    """Start nothing more of a queue or a task; or make no more ticks of an entry."""
    if "gate" not in ask.request:
        yield from entryverbs.pause(ask)
        return
    until, name = entryverbs.pauses_until(ask), _gate(ask)
    yield _begin(ask, name, Pause(until, frozen=bool(ask.request.get("freeze"))))


def resume(ask: Ask) -> Found:
    """Let it go on."""
    if "gate" not in ask.request:
        yield from entryverbs.resume(ask)
        return
    yield _end(ask, _gate(ask))


def drain(ask: Ask) -> Found:
    """Start nothing more at all, or with `refuse` take nothing more out of the inboxes; with `end`, both go on."""
    _must_be_everybodys(ask, "drain cronq")
    if ask.request.get("end"):
        for name in (pauses.DRAIN, pauses.REFUSE):
            yield _end(ask, name)
        return
    yield _begin(ask, pauses.REFUSE if ask.request.get("refuse") else pauses.DRAIN, Pause())


def _begin(ask: Ask, name: str, pause: Pause) -> dict[str, Any]:
    ask.house.pauses.begin(name, pause)
    ask.house.pauses.sign()
    log("paused", gate=name, by=ask.caller.uid)
    return {"gate": name, "paused": entryverbs.told(pause.until)} | ({"frozen": True} if pause.frozen else {})


def _end(ask: Ask, name: str) -> dict[str, Any]:
    was = ask.house.pauses.end(name)
    ask.house.pauses.sign()
    if was:
        log("resumed", gate=name, by=ask.caller.uid)
    return {"gate": name, "paused": False, "was": was}


def _gate(ask: Ask) -> str:
    """The queue's or task's gate that is asked for. Raises `NotPermitted`, `UnknownJob`, `UsageError`."""
    name = ask.request.get("gate")
    kind, colon, of = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not isinstance(name, str) or not pauses.is_gate(name):
        raise UsageError(f"a queue or a task is named like queue:mail or task:resize, not {job.show(name)}")
    _must_be_everybodys(ask, f"pause a {kind}")
    if kind == TASK and of not in ask.house.config.tasks and name not in ask.house.pauses.gates:
        raise UnknownJob(intake.unknown_key(of, sorted(ask.house.config.tasks), "task"))
    return name


def _must_be_everybodys(ask: Ask, what: str) -> None:
    if not ask.caller.everything:
        raise NotPermitted(f"only root and operators ([control] operators in cronq.toml) {what}: it is for all users")


def running(house: House) -> dict[str, int]:
    """How much runs, and how much could: what whoever drains waits for."""
    due = len(house.backlog.ready) + len(house.backlog.ticks) + len(house.looks) + len(house.judging)
    return {"running": len(house.running) + len(house.settled), "due": due}


VERBS = {"gates": gates, "pause": pause, "resume": resume, "drain": drain}
