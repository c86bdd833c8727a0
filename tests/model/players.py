"""Those whom a dispatcher talks to, in the test's own process: a launcher that makes workers at once, and workers that
run nothing, but take jobs by the real wire, hold the real locks and write the real outcomes."""

import os
import socket

from cronq import callbacks, wire
from cronq.entry import digest
from cronq.outcome import Outcome

DEAF, HEARS, STARTS = range(3)  # how far a worker gets with what it is sent


class Part:
    """One attempt at a worker."""

    def __init__(self, message: dict, descriptors: list[int]) -> None:
        self.message = message
        self.id: str = message["id"]
        self.files = descriptors
        self.outcome = Outcome(descriptors.pop(1))
        self.step = ""  # the last one that is written down
        self.stop: bool | None = None  # whether it was told to end, and at once

    def write(self, step: str, **facts: object) -> None:
        assert self.outcome.write(step, **facts)
        self.step = step

    def close(self) -> None:
        self.outcome.close()
        for descriptor in self.files:
            os.close(descriptor)


class Worker:
    """One worker; `parts` are its attempts, by id."""

    def __init__(self, cast: "Cast", pid: int, uid: int, line: socket.socket) -> None:
        self.cast, self.pid, self.uid, self.line = cast, pid, uid, line
        self.line.setblocking(False)
        self.parts: dict[str, Part] = {}
        self.pace = STARTS
        self.gone = False  # its dispatcher
        self.dead = False

    def turn(self) -> int:
        """Do what it was told; how much that was."""
        if self.pace == DEAF:
            return 0
        count = 0
        while not self.gone and (received := self._receive()) is not None:
            count += 1
            self._obey(*received)
        if self.pace == STARTS:
            for part in list(self.parts.values()):
                if part.step == "starting":
                    part.write("started", pid=self.pid, start=1, boot="this")
                    count += 1
                if part.stop:
                    self.end(part.id, "cancelled")
                    count += 1
        return count

    def _receive(self) -> tuple[dict, list[int]] | None:
        while True:
            try:
                received = wire.receive(self.line)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue
            if received is None:
                self.gone = True
                self.line.close()
            return received

    def _obey(self, message: dict, descriptors: list[int]) -> None:
        if message["do"] == "run":
            self._take(Part(message, descriptors))
        elif message["do"] == "stop" and message["id"] in self.parts:
            part = self.parts[message["id"]]
            part.stop = part.stop or message["now"]
        elif message["do"] == "reap":
            self.cast.reap(self, message)

    def _take(self, part: Part) -> None:
        assert self.cast.find(part.id) is None, f"{part.id} runs already"
        data = os.pread(part.files[0], 1 << 16, max(0, part.message["offset"]))
        if event := part.id.partition("+")[2].strip("0123456789"):
            data = callbacks.wanted(data, event)
        elif part.message["offset"] >= 0:
            data = data.partition(b"\n")[0] + b"\n"
        assert digest(data) == part.message["hash"]
        self.parts[part.id] = part
        self._say("starting", part)
        part.write("starting")
        self.cast.taken.append(part)

    def _say(self, what: str, part: Part, **facts: object) -> None:
        if not self.gone:
            try:
                assert wire.send(self.line, {"is": what, "id": part.id, "attempt": part.message["attempt"], **facts})
            except OSError:  # it has died since: what it sent before is read first
                pass

    def end(self, job_id: str, how: object, tell: bool = True) -> None:
        """A job of its ends: with an exit code, or `cancelled`, `timeout`, `signal`."""
        part = self.parts.pop(job_id)
        code = how if isinstance(how, int) else None
        number = None if code is not None else {"signal": 9}.get(str(how), 15)
        part.write("ended", exit_code=code, signal=number, reason=how if how in ("cancelled", "timeout") else None)
        part.close()
        self.cast.over.append((job_id, how))
        if tell:
            self._say("ended", part)

    def die(self) -> None:
        """As by SIGKILL: its line and its locks go, and its jobs with it."""
        self.dead = True
        while not self.gone and (received := self._receive()) is not None:  # what it was sent, and never took
            for descriptor in received[1]:
                os.close(descriptor)
            if received[0]["do"] == "run":
                self.cast.over.append((received[0]["id"], "never started"))
        for part in self.parts.values():
            part.close()
            self.cast.lost.add(part.id)
        self.line.close()
        self.cast.workers.remove(self)

    def reaped(self, message: dict, known: bool) -> bool:
        """Tell of a job of a worker that is dead; whether anybody is there to hear it."""
        said = {"is": "reaped", "id": message["id"], "attempt": message["attempt"], "known": known}
        try:
            return not self.gone and wire.send(self.line, said)
        except OSError:
            return False


class Cast:
    """A launcher and all workers that it made, also those of dispatchers that are gone."""

    def __init__(self) -> None:
        self.line: socket.socket | None = None
        self.workers: list[Worker] = []
        self.pids = 5_000_000  # no process ever has such a number
        self.taken: list[Part] = []  # attempts that workers took, and nobody looked at yet
        self.over: list[
            tuple[str, object]
        ] = []  # how attempts ended of which the dispatcher is to learn in its next turn
        self.lost: set[str] = set()  # jobs whose worker died, and that nobody has ended yet
        self.known = True  # whether jobs of dead workers are seen dead

    def begin(self) -> socket.socket:
        """A line for a new dispatcher."""
        if self.line is not None:
            self.line.close()
        theirs, self.line = wire.pair()
        theirs.setblocking(False)
        self.line.setblocking(False)
        return theirs

    def turn(self) -> int:
        """Do what they were asked for; how much that was."""
        count = 0
        while (received := self._receive()) is not None:
            message = received[0]
            if message.get("verb") == "WORKER":
                count += 1
                self._make(message["uid"])
            elif message.get("verb") == "END":
                count += 1
                for worker in [each for each in self.workers if each.pid == message["worker"]]:
                    worker.die()
        for worker in list(self.workers):
            count += worker.turn()
            if worker.gone and not worker.parts:
                self.workers.remove(worker)
        return count

    def _receive(self) -> tuple[dict, list[int]] | None:
        try:
            return wire.receive(self.line)
        except BlockingIOError:
            return None

    def _make(self, uid: int) -> None:
        self.pids += 1
        theirs, ours = wire.pair()
        pidfd = os.pidfd_open(os.getpid())
        assert wire.send(self.line, {"worker": self.pids, "uid": uid}, [theirs.fileno(), pidfd])
        os.close(pidfd)
        theirs.close()
        self.workers.append(Worker(self, self.pids, uid, ours))

    def find(self, job_id: str) -> tuple[Worker, Part] | None:
        """Who runs this job."""
        return next(((each, each.parts[job_id]) for each in self.workers if job_id in each.parts), None)

    def reap(self, by: Worker, message: dict) -> None:
        """End a job whose worker is gone; one whose worker is there, but of another dispatcher, tells how it ended."""
        found = self.find(message["id"])
        if found is not None:
            found[0].end(message["id"], "signal")
        if by.reaped(message, self.known) and message["id"] in self.lost:
            self.lost.remove(message["id"])
            self.over.append((message["id"], "crashed" if self.known else "unknown"))

    def descriptors(self) -> set[int]:
        found = {each.line.fileno() for each in self.workers if not each.gone}
        found |= {self.line.fileno()} if self.line is not None else set()
        for worker in self.workers:
            for part in worker.parts.values():
                found |= {part.outcome.descriptor, *part.files}
        return found

    def close(self) -> None:
        for worker in list(self.workers):
            worker.die()
        self.line.close()
