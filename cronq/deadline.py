"""When an attempt has had its time: its timeout, which it may begin again (`touch`), and its watchdog.

Does:    calls `stop` with the reason: `timeout`, or `watchdog` where the job was silent too long. While it is frozen,
         neither has its time go by.
Trusts:  the plan. Of the job only that it wants more time, and not for ever: `timeout_max` bounds the whole attempt.
Fails:   never.

A timer is set once and looked at again when it rings, so that a job which says `touch` all the time costs nothing.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cronq.loop import Loop, Timer
    from cronq.task import Plan

LONGEST = 12 * 3600.0  # how long touches keep an attempt going, where its task does not say


class Deadline:
    """The two timers of one attempt."""

    __slots__ = ("_due", "_frozen", "_heard", "_late", "_loop", "_most", "_quiet", "_stop", "_timeout", "_watchdog")

    def __init__(self, loop: Loop, plan: Plan, stop: Callable[[str], object]) -> None:
        self._loop = loop
        self._stop = stop
        self._timeout = plan.timeout
        self._watchdog = plan.watchdog
        self._most = plan.timeout_max
        self._late: Timer | None = None
        self._quiet: Timer | None = None
        self._due = self._heard = 0.0
        self._frozen: float | None = None  # since when no time goes by

    def begin(self) -> None:
        """The job runs from now on."""
        now = self._heard = time.monotonic()
        if self._timeout is not None:
            most = max(self._timeout, LONGEST if self._most is None else self._most)
            self._due, self._most = now + self._timeout, now + most
            self._late = self._loop.after(self._timeout, self._ring)
        if self._watchdog is not None:
            self._quiet = self._loop.after(self._watchdog, self._look)

    def heard(self) -> None:
        """The job said or printed something."""
        self._heard = time.monotonic()

    def touch(self, seconds: float | None) -> None:
        """The timeout begins again now, or ends in so many seconds; where there is none, nothing."""
        if self._late is None or self._timeout is None or self._most is None:
            return
        now = time.monotonic()
        self._due = min(now + (self._timeout if seconds is None else seconds), self._most)
        if self._due < self._late[0]:
            self._loop.cancel(self._late)
            self._late = self._loop.after(max(0.0, self._due - now), self._ring)

    def freeze(self, on: bool) -> None:
        """No time goes by from now on, or it goes on where it stood."""
        now = time.monotonic()
        if on and (self._late is not None or self._quiet is not None):
            self._frozen = now
            self._cancel()
        elif not on and self._frozen is not None:
            stood, self._frozen = now - self._frozen, None
            self._heard += stood
            if self._timeout is not None and self._most is not None:
                self._due, self._most = self._due + stood, self._most + stood
                self._ring()
            if self._watchdog is not None:
                self._look()

    def _ring(self) -> None:
        left = self._due - time.monotonic()
        if left > 0:
            self._late = self._loop.after(left, self._ring)
        else:
            self._stop("timeout")

    def _look(self) -> None:
        assert self._watchdog is not None  # noqa: S101 - there is a timer
        left = self._heard + self._watchdog - time.monotonic()
        if left > 0:
            self._quiet = self._loop.after(left, self._look)
        else:
            self._stop("watchdog")

    def over(self) -> None:
        """It is being ended, or has ended."""
        self._frozen = None
        self._cancel()

    def _cancel(self) -> None:
        self._loop.cancel(self._late)
        self._loop.cancel(self._quiet)
        self._late = self._quiet = None
