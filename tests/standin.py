"""Stand-ins for the dispatcher, in files and on the control socket, so that the client side is tested by itself."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cronq import spool

UID = os.getuid()
CRONQ = [sys.executable, "-m", "cronq"]


def cronq(root: Path, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command on this spool."""
    given = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([*CRONQ, *argv], check=False, **settings(root), **given)


def settings(root: Path, **more: str) -> dict[str, Any]:
    """What a `cronq` process is started with."""
    return {"env": os.environ | {"CRONQ_SPOOL": str(root), "CRONQ_CONFIG": str(root / "config")} | more}


class Runner:
    """Ends jobs by hand: each method writes just what the dispatcher would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        spool.make(str(root), UID)

    def begins(self, job_id: str) -> None:
        """An attempt begins: those of the one before get a number, new ones are made."""
        folder = self.folder(job_id)
        for name in ("stdout", "stderr"):
            if (folder / name).exists():
                number = 1 + sum(1 for _ in folder.glob(f"{name}.*"))
                (folder / name).rename(folder / f"{name}.{number}")
            (folder / name).touch()

    def folder(self, job_id: str) -> Path:
        found = Path(spool.results(str(self.root), job_id))
        found.mkdir(exist_ok=True)
        return found

    def prints(self, job_id: str, text: bytes, name: str = "stdout") -> None:
        with open(self.folder(job_id) / name, "ab") as file:
            file.write(text)

    def ends(self, job_id: str, state: str = "done", **facts: Any) -> None:
        folder = self.folder(job_id)
        draft = folder / "draft"
        draft.write_text(json.dumps({"state": state} | facts) + "\n")
        draft.rename(folder / "result.json")

    def rejects(self, name: str, sentence: str, code: int) -> None:
        folder = self.root / "rejected" / str(UID)
        draft = folder / "draft"
        draft.write_text(f"{sentence}\nexit {code}\n")
        draft.rename(folder / f"{name}.reason")

    def inbox(self) -> list[Path]:
        return sorted(path for path in (self.root / "in" / str(UID)).iterdir() if not path.name.startswith("."))

    def takes_the_next(self, act: Callable[[Path], None]) -> threading.Thread:
        """Wait in a thread for a file in the inbox, and hand it to `act`; to be joined."""
        from cronq.doorbell import Doorbell

        door = Doorbell()
        assert door.watch(str(self.root / "in" / str(UID)), "inbox")

        def run() -> None:
            try:
                while not (found := [path for path in self.inbox() if path.suffix in (".job", ".jobs")]):
                    door.wait(10)
                act(found[0])
            finally:
                door.close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


class Control:
    """A control socket that gives the answers it was told, and remembers what it was asked."""

    def __init__(self, root: Path, answers: dict[str, list[Any]]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers = answers
        self._root = root
        self._line = socket.socket(socket.AF_UNIX)
        here = os.open(root, os.O_PATH)
        self._line.bind(f"/proc/self/fd/{here}/control")
        os.close(here)
        self._line.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._line.accept()
            with peer, contextlib.suppress(BrokenPipeError, ConnectionResetError), peer.makefile("rwb") as file:
                text = file.readline()
                if text == b"stop\n":
                    return
                if text:
                    request = json.loads(text)
                    self.asked.append(request)
                    for answer in self.answers.get(request["do"], [{"error": "unknown request", "code": 70}]):
                        file.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Stop serving; the socket's file stays, as after a dispatcher that was killed."""
        if self._thread.is_alive():
            here = os.open(self._root, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(f"/proc/self/fd/{here}/control")
                peer.sendall(b"stop\n")
            os.close(here)
        self._thread.join()
        self._line.close()
