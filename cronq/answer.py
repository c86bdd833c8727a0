"""An answer: what one request is told, worked out a step at a time.

Does:    judges who asks, reads the request, and lets its verb work until the step is over or enough waits to be read.
Trusts:  nothing of the request (`job.parse_object`); the doorman about who asks.
Fails:   what a verb raises is the answer's last line: a sentence and an exit code.

What tells of a change is kept back until a turn after it was flushed (docs/spool.md rule 5); where that cannot be, the
answer is why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from cronq import job, verbs
from cronq.caller import Doorman
from cronq.errors import CronqError, Full
from cronq.house import House, Now

STEP = 0.002  # seconds
ENOUGH = 64 * 1024  # bytes that wait to be read, or to be said
SILENCE = 3.0  # seconds after which whoever waits is sent an empty line: much is being looked through for him


class Answer:
    """What is said to one request of one peer."""

    def __init__(self, house: House, doorman: Doorman, uid: int, groups: frozenset[int], text: bytes) -> None:
        self.out = bytearray()  # what may be sent
        self.unsaid = bytearray()  # what tells of changes that are not durable yet
        self.over = False  # all of it has been worked out
        self.stepped = 0.0  # when it was last worked on
        self._said = time.monotonic()
        self._house = house
        self._doorman = doorman
        self._who = (uid, groups)
        self._text = text
        self._ask: verbs.Ask | None = None
        self._work: Iterator[dict[str, Any] | None] = iter(())
        self._flushes = 0

    @property
    def ready(self) -> bool:
        """Whether it can be worked on now: a reader must have read, a change must be durable, before there is more."""
        return not (self.over or self.out or self.unsaid)

    def step(self, now: Now) -> None:
        """Work on it for a moment."""
        self.stepped = time.monotonic()
        self._flushes = self._house.flushes
        try:
            if self._ask is None:
                self._begin(now)
            assert self._ask is not None  # noqa: S101 - or it had raised
            self._ask.now = now
            if self._advance():
                self._say({"ok": True})
                self.over = True
        except CronqError as error:
            self._fail(error.sentence, error.exit_code)
        except OSError as error:
            self._fail(f"the disk refuses: {error}", Full.exit_code)

    def _begin(self, now: Now) -> None:
        uid, groups = self._who
        operators, stranger = self._house.config.operators, self._house.strangers.get(uid)
        caller = self._doorman.admit(uid, groups, operators, stranger, now.mono)
        request = job.parse_object(self._text.rstrip(b"\n"), "the request")
        self._ask = verbs.Ask(self._house, caller, request, now)
        self._work = verbs.answer(self._ask)

    def _advance(self) -> bool:
        """Say on; whether that was all."""
        end = self.stepped + STEP
        for found in self._work:
            if found is not None:
                self._say(found)
            if time.monotonic() >= end or len(self.out) + len(self.unsaid) >= ENOUGH:
                break
        else:
            return True
        if end - self._said > SILENCE and not self.unsaid:
            self._said = end
            self.out += b"\n"
        return False

    def _say(self, found: dict[str, Any]) -> None:
        self._said = self.stepped
        keep = self._ask is not None and self._ask.changes
        (self.unsaid if keep else self.out).extend(json.dumps(found).encode() + b"\n")

    def _fail(self, sentence: str, code: int) -> None:
        self._say({"error": sentence, "code": code})
        self.over = True

    def release(self) -> None:
        """Let out what is durable by now."""
        if self.unsaid and self._house.broken:
            self.unsaid.clear()
            self._ask = None
            self._fail(self._house.broken, Full.exit_code)
        elif self.unsaid and self._house.flushes > self._flushes:
            self.out += self.unsaid
            self.unsaid.clear()
