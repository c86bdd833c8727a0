"""One wait for everything that can happen: directories that change, sockets, signals, and the clock.

Does:    `wait` returns which keys rang. inotify is a doorbell, not the truth: whoever waits polls as well, so a lost
         event costs a second, never a job; where inotify is missing or switched off, nothing else changes.
Trusts:  nothing it is told: a ring says "look", never "what".
Fails:   never on a directory that cannot be watched (limits, file systems without inotify): `watch` says False.

Signals only ring the bell (a byte into a pipe); what they mean is decided in the loop that waits.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Hashable

import inotify_simple
from inotify_simple import flags

_ARRIVALS = flags.MOVED_TO | flags.CLOSE_WRITE | flags.CREATE | flags.ONLYDIR


class Doorbell:
    """An epoll set of inotify, descriptors and signals, each with a key of the caller's."""

    def __init__(self, inotify: bool = True) -> None:
        self._poll = select.epoll()
        self._keys: dict[int, Hashable] = {}
        self._watches: dict[int, Hashable] = {}
        self._inotify = _inotify() if inotify else None
        if self._inotify is not None:
            self._poll.register(self._inotify.fileno(), select.EPOLLIN)
        self._signals: int | None = None

    def watch(self, directory: str, key: Hashable, *, growth: bool = False) -> bool:
        """Ring `key` when a name appears in `directory` or a file in it was written; False if that cannot be.

        With `growth` it rings at every write, too: for whoever shows a file as it grows.
        """
        if self._inotify is None:
            return False
        try:
            self._watches[self._inotify.add_watch(directory, _ARRIVALS | (flags.MODIFY if growth else 0))] = key
        except OSError:
            return False
        return True

    def unwatch(self, key: Hashable) -> None:
        """No longer ring for the directories of `key`."""
        for watch in [watch for watch, known in self._watches.items() if known == key]:
            del self._watches[watch]
            try:
                assert self._inotify is not None  # noqa: S101 - there are watches
                self._inotify.rm_watch(watch)
            except OSError:
                pass  # the directory is gone

    def listen(self, descriptor: int, key: Hashable, events: int = select.EPOLLIN) -> None:
        """Ring `key` when `descriptor` is readable (or what `events` says)."""
        self._poll.register(descriptor, events)  # first: the kernel may have no memory for it
        self._keys[descriptor] = key

    def ignore(self, descriptor: int) -> None:
        """No longer ring for `descriptor`; to be called before it is closed."""
        del self._keys[descriptor]
        self._poll.unregister(descriptor)

    def catch(self, *signals: int) -> None:
        """Ring the signal's own number when one of these arrives. Main thread only."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _ring_only)
        self._signals = reading
        self._poll.register(reading, select.EPOLLIN)

    def wait(self, seconds: float) -> set[Hashable]:
        """The keys that rang within `seconds`; empty after a quiet time."""
        rung: set[Hashable] = set()
        for descriptor, _ in self._poll.poll(max(0.0, seconds)):
            if self._inotify is not None and descriptor == self._inotify.fileno():
                rung |= self._read_inotify()
            elif descriptor == self._signals:
                rung |= set(os.read(descriptor, 4096))
            elif descriptor in self._keys:
                rung.add(self._keys[descriptor])
        return rung

    def _read_inotify(self) -> set[Hashable]:
        assert self._inotify is not None  # noqa: S101 - the caller asked
        rung: set[Hashable] = set()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                rung |= set(self._watches.values())
            elif event.wd in self._watches:
                rung.add(self._watches[event.wd])
                if event.mask & flags.IGNORED:
                    del self._watches[event.wd]
        return rung

    def close(self) -> None:
        """Close what this opened."""
        if self._inotify is not None:
            self._inotify.close()
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._signals)
        self._poll.close()


def _inotify() -> inotify_simple.INotify | None:
    try:
        return inotify_simple.INotify(nonblocking=True)
    except OSError:
        return None  # fs.inotify.max_user_instances (128) is soon used up by a user who waits for many jobs


def _ring_only(_number: int, _frame: object) -> None:
    """The handler that a wakeup descriptor needs; everything happens in the loop."""
