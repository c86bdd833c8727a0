"""The states of a job and which move is legal. No I/O: the spool does what this table allows.

A state is a directory of the spool and a move is one rename, so that no status field can disagree with the place. The
table in docs/spool.md is compared with this one by a test.
"""

from __future__ import annotations

QUEUED = "queued"  # in in/<uid>/: the producer was told yes
READY = "ready"
DELAYED = "delayed"
WAITING = "waiting"
HELD = "held"
RUNNING = "running"
DEAD = "dead"
SKIPPED = "skipped"
DONE = "done"
CANCELLED = "cancelled"
EXPIRED = "expired"
REJECTED = "rejected"

KEPT = (READY, DELAYED, WAITING, HELD, RUNNING, DEAD, SKIPPED)  # directories below queue/
ENDED_IN_OUT = (DONE, CANCELLED, EXPIRED)  # the job file is out/<uid>/<id>/job.json, the kind stands in result.json
TERMINAL = (DEAD, SKIPPED, DONE, CANCELLED, EXPIRED, REJECTED)
STATES = (QUEUED, *KEPT, *ENDED_IN_OUT, REJECTED)

_UNSTARTED = (READY, DELAYED, WAITING, HELD)

MOVES: dict[str, tuple[tuple[str, ...], str]] = {
    # arrival: what the producer dropped is captured and judged
    "admit": ((QUEUED,), READY),
    "postpone": ((QUEUED,), DELAYED),
    "await": ((QUEUED, HELD), WAITING),
    "detain": ((QUEUED,), HELD),
    "reject": ((QUEUED, READY, RUNNING), REJECTED),
    # becoming due
    "ripen": ((DELAYED,), READY),
    "unblock": ((WAITING,), READY),
    "skip": ((WAITING,), SKIPPED),
    "expire": (_UNSTARTED, EXPIRED),
    # an attempt
    "start": ((READY,), RUNNING),
    "return": ((RUNNING,), READY),
    "finish": ((RUNNING,), DONE),
    "retry": ((RUNNING,), DELAYED),
    "suspend": ((RUNNING,), HELD),
    "bury": ((RUNNING, *_UNSTARTED), DEAD),  # its last attempt failed, or it expired before its next one
    "stop": ((RUNNING,), CANCELLED),
    # what people do
    "cancel": (_UNSTARTED, CANCELLED),
    "hold": ((READY, DELAYED, WAITING), HELD),
    "release": ((HELD,), READY),
    "defer": ((HELD, WAITING, READY), DELAYED),  # let go on before it is due, or put off
    "revive": ((DEAD,), READY),
    "reopen": ((DONE,), RUNNING),  # a batch, of which a dead job is retried
    "rejoin": ((SKIPPED,), WAITING),
}


class IllegalMove(Exception):
    """A move that the table does not have; nothing was moved."""


def target(move: str, source: str) -> str:
    """The state that `move` leads to from `source`. Raises `IllegalMove`."""
    sources, state = MOVES.get(move, ((), ""))
    if source not in sources:
        raise IllegalMove(f"a {source} job cannot {move}")
    return state
