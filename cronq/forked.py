"""An attempt whose process comes from a host that has imported its function already (`mode = "fork"`).

Does:    asks a host for the process, and from then on is an attempt like any other: that process waits at its gate
         until it is placed and written down as started.
Writes, trusts: as `attempt`.
Fails:   until the process is there, nothing of the job has run: where its host dies, the job goes back to ready and
         has used no attempt, or cannot start where the host never began one. A stop or a timeout meanwhile ends the
         host, which may be why.
"""

from __future__ import annotations

import signal

from cronq.attempt import DRAIN_SLICES, Attempt
from cronq.gate import Held
from cronq.start import CannotStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cronq.hosts import Asked, Hosts
    from cronq.start import Given, Starter


class Forked(Attempt):
    """One attempt that is under way. Its timeout begins when its host is asked, and again when it begins itself."""

    def __init__(self, hosts: Hosts, task: str, *parts: Any) -> None:
        super().__init__(*parts)
        self._hosts = hosts
        self._task = task
        self._wanted: Asked | None = None

    def _spawn(self, starter: Starter, env: dict[bytes, bytes], outputs: Given, data: int | None) -> None:
        given = (starter.null() if data is None else data, *outputs)
        self._wanted = self._hosts.ask(self._task, self.plan, env, given, self._born)
        self.deadline.begin()

    def _born(self, held: Held | CannotStart | None) -> None:
        self._wanted = None
        self.deadline.over()
        if isinstance(held, Held):
            self._held = held
            self.pid = held.pid
            self._watch()
        elif held is not None:
            for stream in self.streams:  # what it printed while it imported
                stream.drain(DRAIN_SLICES)
            self._stillborn(held)
        else:
            self._not_now("its host ended")

    def stop(self, reason: str, now: bool = False) -> None:
        """End the job; where it has no process yet, it gets none."""
        if self._wanted is None:
            super().stop(reason, now)
            return
        asked, self._wanted = self._wanted, None
        self.reason = reason
        self.deadline.over()
        self._hosts.give_up(asked)
        self._ended = {"exit_code": None, "signal": int(signal.SIGKILL), "reason": reason}
        self._ended |= {"wall": 0.0, "cpu": 0.0, "max_rss": 0}
        self._forget()
        self._conclude()
