"""The crew: the workers that the launcher made for this dispatcher, and what is under way at each.

Does:    asks the launcher for a worker per user, hands it jobs, hears from it, replaces it after a minute (by one that
         has warmed up what tasks keep warm), and gives up one that does not answer, or has been stopped.
Trusts:  the launcher. Of workers only that a message is a message: how a job ended is read from its outcome file.
Fails:   a worker that is gone leaves its jobs in `lost`; who runs them and whether they still run is for `settle`.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from cronq import process, wire
from cronq.doorbell import Doorbell

LIFETIME = 60.0  # seconds after which group changes and account locks must take hold
ANSWER_WITHIN = 10.0  # seconds in which a worker must have taken up a job it was sent, or go on where it was stopped
LOOK_EVERY = 1.0
MOST_UNANSWERED = 64
RETRY_LAUNCH = 1.0
KILL_WITHIN = 5.0
TELL_EVERY = 0.9
WARM_FOR = 600.0  # seconds after its last job for which a worker keeps what a task has warm
WARM_WITHIN = 30.0  # seconds that a new worker may take to warm up
MOST_WARM = 64  # tasks of one user
MOST_NAME = 48  # characters of a task's
BARRED = 30.0  # seconds until an account that may not have jobs is looked at again


class Worker:
    """One worker process, of one user."""

    def __init__(self, pid: int, uid: int, line: socket.socket, pidfd: int, now: float) -> None:
        self.pid = pid
        self.uid = uid
        self.line = line
        self.pidfd = pidfd
        self.born = now
        self.jobs: set[str] = set()
        self.unanswered: dict[str, float] = {}
        self.looked = now  # whether it is stopped: any job of its user's can do that
        self.stopped: float | None = None  # since when
        self.condemned = False
        self.warming: float | None = None  # since when, before it takes jobs
        self.asked = 0.0  # it, and what it has open, is not older than that
        self.tables: frozenset[str] = frozenset()  # crontabs of root's that it has open


class Bar:
    """Why a user gets no worker, until when; with `hold`, his jobs wait for an administrator."""

    def __init__(self, reason: str, hold: bool, until: float) -> None:
        self.reason = reason
        self.hold = hold
        self.until = until


class Crew:
    """All workers of one dispatcher."""

    def __init__(self, launcher: socket.socket, bell: Doorbell) -> None:
        self.launcher = launcher
        self.launcher_gone = False
        self.bell = bell
        self.current: dict[int, Worker] = {}  # the one that takes new jobs, by uid
        self.workers: dict[int, Worker] = {}  # all, by pid
        self.asked: dict[int, float] = {}
        self.wants: Callable[[int], dict[str, int]] = lambda _uid: {}  # the tables that a worker is to have
        self.tables: list[tuple[dict[str, Any], int | None]] = []  # what the launcher opened, with its descriptor
        self.heard: list[dict[str, Any]] = []
        self.lost: list[str] = []  # jobs whose worker is gone
        self.bars: dict[int, Bar] = {}
        self.inboxes: dict[int, str] = {}  # what became of each that was asked for: empty where it is there
        self.complaints: list[str] = []
        self.placing: dict[str, tuple[int, str, int]] = {}  # by name of the attempt: its worker, its id and number
        self.kills: dict[str, float] = {}  # attempts whose cgroup must be empty by then
        self.warm: dict[int, dict[str, float]] = {}  # by uid: tasks that its workers keep warm, with their last use
        self._told = float("-inf")
        self._asked_for: dict[int, deque[tuple[float, frozenset[str]]]] = {}  # when, and with which tables
        bell.listen(launcher.fileno(), "launcher")

    def ready(self, uid: int, now: float, tables: Collection[str] = (), since: float = 0.0) -> Worker | None:
        """A worker that takes a job of `uid` now; None while there is none (then one is asked for).

        With `tables` it is one that has these open, and was not asked for before `since`.
        """
        worker = self.current.get(uid)
        if self.barred(uid, now) is not None:
            return None
        lacks = worker is not None and tables and (worker.asked < since or not worker.tables.issuperset(tables))
        if worker is None or lacks or now - worker.born > LIFETIME:
            self._ask(uid, now)
        if worker is None or lacks or worker.condemned or len(worker.unanswered) >= MOST_UNANSWERED:
            return None
        return worker

    def barred(self, uid: int, now: float) -> Bar | None:
        """Why no worker of this user can be had for now; None where one can."""
        bar = self.bars.get(uid)
        if bar is not None and now > bar.until:
            del self.bars[uid]
            return None
        return bar

    def invite(self, uid: int) -> None:
        """Ask for a user's inbox; `inboxes` will say what became of it."""
        self._verb({"verb": "INBOX", "uid": uid})

    def crontab(self, number: int) -> None:
        """Ask for a table of root's by its number, and with 0 for a new listing; `tables` will have it."""
        self._verb({"verb": "CRONTAB", "number": number})

    def tell_launcher(self, news: str) -> None:
        """Tell how it goes: ready, turning."""
        self._verb({"is": news})

    def turning(self, now: float) -> None:
        """Tell once a second that the loop turns: systemd's watchdog is fed by that."""
        if now - self._told >= TELL_EVERY:
            self._told = now
            self.tell_launcher("turning")

    def run(self, worker: Worker, message: dict[str, Any], descriptors: list[int], now: float) -> bool:
        """Hand a job over; False, and nothing sent, if the worker cannot take it."""
        try:
            sent = wire.send(worker.line, message, descriptors)
        except OSError:
            self._hear_worker(worker, now)  # its last words: perhaps why it could not come to be
            if self.workers.get(worker.pid) is worker:
                self._lose(worker)
            return False
        if sent:
            worker.jobs.add(message["id"])
            worker.unanswered[message["id"]] = now
        return sent

    def tell(self, uid: int, message: dict[str, Any], now: float, worker: Worker | None = None) -> bool:
        """Send a message that is no job; False if nobody can take it now."""
        receiver = worker or self.ready(uid, now)
        try:
            return receiver is not None and wire.send(receiver.line, message)
        except OSError:
            return False

    def kill(self, job_id: str, attempt: int, now: float) -> None:
        """End all that lives in the cgroup of an attempt."""
        name = f"{job_id}.{attempt}"
        self.kills.setdefault(name, now + KILL_WITHIN)
        self._verb({"verb": "KILL", "job": name})

    def of(self, job_id: str) -> Worker | None:
        """The worker that runs this job."""
        return next((worker for worker in self.workers.values() if job_id in worker.jobs), None)

    def hear(self, rung: set[Any], now: float) -> None:
        """Read what launcher and workers said since."""
        if "launcher" in rung:
            self._hear_launcher(now)
        for name, until in list(self.kills.items()):
            if now > until:
                del self.kills[name]
                self.complaints.append(f"something of {name} cannot be ended")
        for key in rung:
            if isinstance(key, tuple) and key[0] == "worker" and key[1] in self.workers:
                self._hear_worker(self.workers[key[1]], now)
        for worker in list(self.workers.values()):
            if not worker.condemned and _is_silent(worker, now):
                worker.condemned = True
                self.complaints.append(f"worker {worker.pid} does not answer; it is ended")
                self._verb({"verb": "END", "worker": worker.pid})
            elif worker.warming is not None:
                if now - worker.warming > WARM_WITHIN:
                    self._warmed(worker)
            elif not worker.jobs and not self._stays(worker, now):
                self._part(worker)

    def _hear_launcher(self, now: float) -> None:
        for received in _messages(self.launcher):
            if received is None:
                self.launcher_gone = True
                return
            message, descriptors = received
            if "worker" in message and len(descriptors) == 2:
                self._welcome(message, descriptors, now)
            elif "number" in message:
                self.tables.append((message, descriptors[0] if descriptors else None))
            else:
                if "failed" in message:
                    if message.get("uid") in self._asked_for:  # perhaps an inbox: then its worker seems older, no more
                        self._took(message["uid"])
                    self.complaints.append(str(message["failed"]))
                    self.inboxes[message.get("uid", -1)] = str(message["failed"])
                    self._go(message.get("job"), placed=False)
                elif "inbox" in message:
                    self.inboxes[message["inbox"]] = ""
                elif "placed" in message:
                    if message.get("missing"):
                        self.complaints.append(f"{message['placed']} has no {', '.join(message['missing'])} here")
                    self._go(message["placed"], placed=True)
                elif "killed" in message:
                    self._killed(message["killed"], bool(message["left"]))
                for descriptor in descriptors:
                    os.close(descriptor)

    def _welcome(self, message: dict[str, Any], descriptors: list[int], now: float) -> None:
        line = socket.socket(fileno=descriptors[0])
        line.setblocking(False)
        worker = Worker(message["worker"], message["uid"], line, descriptors[1], now)
        worker.asked, worker.tables = self._took(worker.uid)
        self.workers[worker.pid] = worker
        tasks = self._kept_warm(worker.uid, now)
        old = self.current.get(worker.uid)
        if tasks and self.tell(worker.uid, {"do": "warm", "tasks": tasks}, now, worker) and _alike(old, worker):
            worker.warming = now  # the old one goes on meanwhile
        else:
            self.current[worker.uid] = worker
        self.asked.pop(worker.uid, None)
        self.bell.listen(line.fileno(), ("worker", worker.pid))

    def _kept_warm(self, uid: int, now: float) -> list[str]:
        """The tasks that the workers of this user keep warm: those that had a job of late."""
        used = self.warm.get(uid, {})
        for task in [task for task, last in used.items() if now - last > WARM_FOR]:
            del used[task]
        return sorted(used)

    def _stays(self, worker: Worker, now: float) -> bool:
        """Whether a worker without a job is kept; one that has its time behind it, until another is as warm."""
        if worker is not self.current.get(worker.uid):
            return False
        age = now - worker.born
        if LIFETIME < age < 2 * LIFETIME and self._kept_warm(worker.uid, now) and not self.barred(worker.uid, now):
            self._ask(worker.uid, now)
            return True
        return age <= LIFETIME

    def _warmed(self, worker: Worker) -> None:
        """It takes the jobs from now on."""
        worker.warming = None
        self.current[worker.uid] = worker

    def _hear_worker(self, worker: Worker, now: float) -> None:
        for received in _messages(worker.line):
            if received is None:
                self._lose(worker)
                return
            message, descriptors = received
            if message.get("is") == "place" and len(descriptors) == 1:
                self._place(worker, message, descriptors[0])
            for descriptor in descriptors:
                os.close(descriptor)
            if message.get("is") == "barred":
                self._bar(worker.uid, str(message.get("reason")), bool(message.get("hold")), now)
            if message.get("is") == "warm" and worker.warming is not None:
                self._warmed(worker)
            if isinstance(task := message.get("warm"), str) and len(task) <= MOST_NAME:
                used = self.warm.setdefault(worker.uid, {})
                if task in used or len(used) < MOST_WARM:
                    used[task] = now
            job_id = message.get("id")
            if not isinstance(job_id, str):
                continue
            worker.unanswered.pop(job_id, None)
            if message.get("is") == "ended":
                worker.jobs.discard(job_id)
            if message.get("is") in ("ended", "reaped"):
                self.heard.append(message)

    def _place(self, worker: Worker, message: dict[str, Any], pidfd: int) -> None:
        """Pass on that a job, which waits for it, is to be put into a cgroup of its own."""
        name = f"{message.get('id')}.{message.get('attempt')}"
        self.placing[name] = worker.pid, str(message.get("id")), int(message.get("attempt") or 0)
        verb = {"verb": "PLACE", "job": name, "worker": worker.pid, "limits": message.get("limits")}
        if not self._verb(verb, pidfd):
            self._go(name, placed=False)

    def _go(self, name: object, placed: bool) -> None:
        """Let a job begin that waited for its cgroup."""
        pid, job_id, attempt = self.placing.pop(str(name), (0, "", 0))
        worker = self.workers.get(pid)
        if worker is not None:
            try:
                wire.send(worker.line, {"do": "go", "id": job_id, "attempt": attempt, "placed": placed})
            except OSError:
                pass  # it is dead: its line will say so

    def _killed(self, name: str, left: bool) -> None:
        if not left:
            self.kills.pop(name, None)
        elif name in self.kills:
            self._verb({"verb": "KILL", "job": name})

    def _bar(self, uid: int, reason: str, hold: bool, now: float) -> None:
        self.bars[uid] = Bar(reason, hold, now + (BARRED if hold else RETRY_LAUNCH))
        self.complaints.append(f"uid {uid} has no worker: {reason}")

    def _lose(self, worker: Worker) -> None:
        self.lost += sorted(worker.jobs)
        worker.jobs.clear()
        self._part(worker)

    def _part(self, worker: Worker) -> None:
        self.bell.ignore(worker.line.fileno())
        worker.line.close()
        os.close(worker.pidfd)
        del self.workers[worker.pid]
        if self.current.get(worker.uid) is worker:
            del self.current[worker.uid]

    def _ask(self, uid: int, now: float) -> None:
        if any(worker.uid == uid and worker.warming is not None for worker in self.workers.values()):
            return  # it comes
        if now - self.asked.get(uid, -RETRY_LAUNCH) >= RETRY_LAUNCH:
            self.asked[uid] = now
            tables = self.wants(uid)
            if self._verb({"verb": "WORKER", "uid": uid, "tables": sorted(tables.values())}):
                self._asked_for.setdefault(uid, deque()).append((now, frozenset(tables)))

    def _took(self, uid: int) -> tuple[float, frozenset[str]]:
        """What was asked for that the launcher answers now: it answers in order."""
        asked = self._asked_for.get(uid)
        if not asked:
            return 0.0, frozenset()
        found = asked.popleft()
        if not asked:
            del self._asked_for[uid]
        return found

    def _verb(self, message: dict[str, Any], *descriptors: int) -> bool:
        try:
            if wire.send(self.launcher, message, descriptors):
                return True
            self.complaints.append("the launcher does not take messages")
        except OSError:
            self.launcher_gone = True
        return False


def _alike(old: Worker | None, new: Worker) -> bool:
    """Whether the old one can do what the new one could meanwhile."""
    return old is not None and not old.condemned and old.tables == new.tables


def _is_silent(worker: Worker, now: float) -> bool:
    """Whether it has not answered in time; one that is stopped, and has jobs, would not, whatever it were asked."""
    if worker.jobs and now - worker.looked >= LOOK_EVERY:
        worker.looked = now
        found = process.look(worker.pid)
        if found is None or found.state != b"T":
            worker.stopped = None
        elif worker.stopped is None:
            worker.stopped = now
    since = min(worker.unanswered.values(), default=now)
    return now - since > ANSWER_WITHIN or (worker.stopped is not None and now - worker.stopped > ANSWER_WITHIN)


def _messages(line: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]] | None]:
    """What lies in a line, message by message; None at its end, or where it is no language of ours."""
    while True:
        try:
            received = wire.receive(line)
        except BlockingIOError:
            return
        except ConnectionResetError:  # told once, and first, by a peer that left without reading all; its words follow
            continue
        except (OSError, wire.WireError):
            received = None
        yield received
        if received is None:
            return
