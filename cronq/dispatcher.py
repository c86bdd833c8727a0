"""The dispatcher: one process per spool that decides what runs when, turn after turn.

Does:    waits for the spool's lock (a second dispatcher is a hot standby), takes up what was there, then turns until it
         is told to stop. Started by `launcher`, never by hand.
Reads:   its arguments, the config directory, the spool.
Writes:  the spool; log lines on standard error.
Trusts:  the launcher. When the launcher is gone it exits; workers and their jobs go on.
Fails:   `BadConfig` at the start: exit 78; a disk that refuses then: exit 74, and the launcher starts it again. At a
         reload the old configuration stays, and the log says why.

SIGTERM: start nothing more, wait for running jobs as long as `drain_timeout` says, leave them to their workers, exit; a
second one: at once (`leaving`). SIGHUP: read the configuration anew.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from cronq import (
    arrivals,
    attached,
    cancel,
    claim,
    completion,
    config,
    control,
    installed,
    leaving,
    pace,
    restore,
    settle,
    shelves,
    sole,
    spool,
    states,
)
from cronq.authority import Authority
from cronq.crew import Crew
from cronq.doorbell import Doorbell
from cronq.errors import BadConfig, CronqError
from cronq.guests import Guests
from cronq.history import History
from cronq.house import House, Now
from cronq.log import line as log
from cronq.turn import turn

STANDBY_POLL = 0.25
NOT_TAKEN_UP = 74  # the exit code of one that the disk lets not begin; its launcher tries again


def main(argv: list[str], **seams: Any) -> int:
    """Run the dispatcher of one spool until it is told to stop; its exit code. `seams`: see `run`."""
    options = dict(zip(argv[::2], argv[1::2], strict=False))
    root, config_dir = options["--spool"], options["--config"]
    system = options.get("--system") == "yes"
    line = socket.socket(fileno=int(options["--launcher-fd"]))
    line.setblocking(False)
    os.set_inheritable(line.fileno(), False)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an inbox a user, two a worker, one a peer
    bell = Doorbell(inotify=options.get("--inotify", "yes") != "no")
    bell.catch(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        if system:
            os.umask(0o022)
            spool.make_queue(root)
        else:
            spool.make(root, os.getuid())
        settings = config.load(config_dir, system=system)
    except CronqError as error:
        log("cannot-start", reason=error.sentence)
        return error.exit_code
    lock = sole.lock(root)
    crew = Crew(line, bell)
    if not _wait_for_lock(lock, bell, crew):
        return 0
    if system:
        placing = options.get("--placing") == "yes"
        seams |= {"authority": Authority(config_dir), "cgroups": options.get("--cgroups", ""), "placing": placing}
    try:
        return run(root, config_dir, settings, crew, bell, os.getgid() if system else None, **seams)
    finally:
        lock.release()


def _wait_for_lock(lock: sole.FileLock, bell: Doorbell, crew: Crew) -> bool:
    """Wait until no other dispatcher serves the spool; False if told to stop meanwhile."""
    said = False
    while True:
        try:
            lock.acquire(timeout=0)
        except sole.Taken:
            if not said:
                log("standby", reason="another dispatcher serves this spool; this one takes over when it ends")
                crew.tell_launcher("ready")
                said = True
            rung = bell.wait(STANDBY_POLL)
            crew.hear(rung, time.monotonic())
            crew.turning(time.monotonic())
            if crew.launcher_gone or rung & {signal.SIGTERM, signal.SIGINT}:
                return False
        else:
            return True


def run(
    root: str,
    config_dir: str,
    settings: config.Config,
    crew: Crew,
    bell: Doorbell,
    gid: int | None = None,
    **seams: Any,
) -> int:
    """Serve the spool; `gid`: the group `cronq` of a system's; `seams`: the house's fields that a test hands in."""
    now = clock()
    try:
        files = shelves.Shelves(root, os.getuid(), gid)
        house = House(files, History(root), crew, settings, config_dir, **seams)
        guests = None if gid is None else Guests(house)
        take_up(house, now)
        if guests is not None:
            guests.invite(now)
        desk = control.Control(house, bell)
        house.pauses.sign()
        _watch(house, bell)
    except OSError as error:
        log("cannot-start", reason=f"the spool cannot be taken up: {error}")
        return NOT_TAKEN_UP
    crew.tell_launcher("ready")
    log("ready", spool=root, jobs=sum(house.backlog.counts.values()), running=len(house.running))
    patience = 0.0
    while True:
        rung = bell.wait(patience)
        now = clock()
        if rung & {signal.SIGTERM, signal.SIGINT}:
            house.leave_at = now.mono if house.stopping else None
            house.stopping = True
        if signal.SIGHUP in rung:
            reload(house)
            if guests is not None:
                guests.invite(now)
        crew.hear(rung, now.mono)
        if crew.launcher_gone or (house.stopping and leaving.drained(house, now)):
            return _leave(house, now)
        if guests is not None and guests.turn(now, rung):  # first: who is who, before anybody is answered
            _watch(house, bell)
        desk.hear(rung, now)
        patience = turn(house, now, rung)
        patience = min(patience, desk.say(now))  # only now: what people asked for is durable
        if guests is not None and guests.busy:
            patience = 0.0
        crew.turning(now.mono)
        _complain(house)
        if "in" in rung and guests is None:
            _watch(house, bell)
        _listen_for_orphans(house, bell)
        house.history.counts.turns.add(time.monotonic() - now.mono)


def clock() -> Now:
    """This instant."""
    return Now(time.time(), time.monotonic())


def take_up(house: House, now: Now) -> None:
    """Find what a dispatcher before this one left: where it lies is what it is."""
    for state in states.KEPT:
        for place, entry in house.shelves.scan(state):
            if entry is None:
                log("junk", file=ascii(place))
            elif (earlier := house.backlog.find(entry.id)) is not None:
                log("twice", id=entry.id, state=state, earlier=earlier[0])  # the later state counts: KEPT's order
                with contextlib.suppress(FileNotFoundError):  # one file of two names: else it is a job again one day
                    house.shelves.drop(*earlier)
                house.backlog.put(state, entry)
            else:
                house.backlog.put(state, entry)
    held = {entry.id for entry in house.backlog.of(states.HELD)}
    recalled = house.history.recall(now.wall, pace.since(house, now), held)
    house.reasons = recalled.causes
    pace.restore(house, now, recalled.rates)
    house.shelves.sweep_data(house.backlog.__contains__)
    installed.recover(house)
    settle.recover(house, now)
    restore.results(house, now)
    cancel.take_up(house)
    attached.take_up(house)
    completion.recover(house)
    claim.recover(house, now, recalled.windows)
    arrivals.recover(house, now)


def reload(house: House) -> None:
    """Read the configuration anew, all or nothing."""
    try:
        house.config = config.load(house.config_dir, system=house.authority is not None)
    except BadConfig as error:
        log("reload-failed", reason=error.sentence, kept="the configuration as it was")
    else:
        house.backlog.ready.wake(float("inf"))  # what waits for a rate: it may have another now
        log("reloaded", tasks=len(house.config.tasks), schedules=len(house.config.schedules))


def _watch(house: House, bell: Doorbell) -> None:
    bell.watch(f"{house.shelves.root}/{'in' if house.authority is None else 'hello'}", "in")
    for uid in house.shelves.inboxes.uids():
        try:
            bell.watch(f"/proc/self/fd/{house.shelves.inboxes.enter(uid)}", ("inbox", uid))
        except OSError:
            continue  # it is polled


def _listen_for_orphans(house: House, bell: Doorbell) -> None:
    """Jobs of a worker that is not of this crew: their outcome files are all that tells of them."""
    if any(running.orphan for running in house.running.values()):
        bell.watch(f"{house.shelves.root}/{shelves.OUTCOME}", "outcome")
    else:
        bell.unwatch("outcome")


def _complain(house: House) -> None:
    for sentence in house.crew.complaints:
        log("crew", reason=sentence)
    house.crew.complaints.clear()


def _leave(house: House, now: Now) -> int:
    """Settle what is known, leave running jobs to their workers, and go."""
    house.stopping = True
    turn(house, now, set())
    turn(house, now, set())
    house.history.close()
    log("stopped", running=len(house.running), launcher="gone" if house.crew.launcher_gone else "there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
