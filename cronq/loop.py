"""One wait for descriptors and timers: what worker and launcher stand on. Standard library only (see `doorbell`).

Does:    calls what was registered for a descriptor when it is ready, and for a timer when its time has come.
Trusts:  what is called to take a slice and return; whatever blocks, blocks everything.
Fails:   never by itself; what a call raises goes through.
"""

from __future__ import annotations

import heapq
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[[], object]
    Timer = list[Any]  # when, a number that breaks ties, what to call (None: cancelled)


class Loop:
    """An epoll set and a heap of timers, each with what to call."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._calls: dict[int, Call] = {}
        self._timers: list[Timer] = []
        self._made = 0
        self._cancelled = 0

    def listen(self, descriptor: int, call: Call, events: int = select.EPOLLIN) -> None:
        """Call when `descriptor` is ready for these events, hung up or broken."""
        self._poll.register(descriptor, events)  # first: the kernel may have no memory for it
        self._calls[descriptor] = call

    def expect(self, descriptor: int, events: int) -> None:
        """Wait for other events on a descriptor that is listened to."""
        self._poll.modify(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """No longer listen to a descriptor; to be called before it is closed.

        The kernel would forget a closed one by itself only if no fork and no message under way had the same open file.
        """
        del self._calls[descriptor]
        self._poll.unregister(descriptor)

    def after(self, seconds: float, call: Call) -> Timer:
        """Call once, in so many seconds."""
        self._made += 1
        timer: Timer = [time.monotonic() + seconds, self._made, call]
        heapq.heappush(self._timers, timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Do not call after all. Cancelled timers are swept once they are most of the heap."""
        if timer is None or timer[2] is None:
            return
        timer[2] = None
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._timers):
            self._timers = [each for each in self._timers if each[2] is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything left to wait for."""
        return bool(self._calls) or len(self._timers) > self._cancelled

    def turn(self) -> None:
        """Wait until something is due, and do all of it once."""
        # Looked up before the first call: a descriptor closed by one call may be another's by the next.
        ready = [(descriptor, self._calls.get(descriptor)) for descriptor, _ in self._poll.poll(self._patience())]
        for descriptor, call in ready:
            if call is not None and self._calls.get(descriptor) is call:
                call()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            call, timer[2] = timer[2], None
            if call is None:
                self._cancelled -= 1
            else:
                call()

    def _patience(self) -> float:
        while self._timers and self._timers[0][2] is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0
