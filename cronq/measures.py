"""Measures: the figures of a house in the text that Prometheus reads (docs/metrics.md tells what each means).

Does:    `text` gives it piece by piece, with None in between, so that whoever drives it can stop there and go on a turn
         later: of all users' jobs and of the dispatcher, or of one user's jobs alone.
Reads:   what was counted (`counting`), what stands where (`depths`), inboxes, the configuration.
Trusts:  its caller to ask only for users whose jobs may be seen.
Fails:   never.

Series are bounded: by queues, which are told apart as `counting` does, tasks, states and gates; by users only where
the configuration asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping

from cronq import __version__, depths, glance, states
from cronq.counting import Counts, Group
from cronq.depths import Clock, Depths
from cronq.exposition import COUNTER, GAUGE, HISTOGRAM, Family, Labels
from cronq.house import House
from cronq.policy import KINDS

Pair = tuple[str, ...]  # queue and task; or a user
_ATTEMPTS = {
    "cronq_attempts_started_total": "Attempts that were begun.",
    "cronq_attempts_returned_total": "Attempts handed back since they could not begin; the job is ready again.",
    "cronq_jobs_retried_total": "Failed attempts after which the job is tried again.",
}


def text(house: House, clock: Clock, uid: int | None) -> Iterator[str | None]:
    """All of it, of everybody and the dispatcher or of one user's jobs: lines, or None where one may stop."""
    found = yield from counted(house, uid)
    blocked = yield from depths.blocked(house, clock, found)
    for family in _of_jobs(house, clock, found, blocked, uid):
        yield from family.pieces()
    if uid is None:
        if house.config.metrics.users:
            for family in _of_users(house, clock, found):
                yield from family.pieces()
        files = 0
        for number in glance.arrived(house, None):
            files += number or 0
            yield None
        for family in _of_dispatcher(house, files):
            yield from family.pieces()


def counted(house: House, uid: int | None) -> Generator[None, None, Depths]:
    """What stands where; of all users as it was found the last time, where nothing was moved since."""
    if uid is not None:
        return (yield from depths.walk(house, uid))
    if house.depths is None or house.depths.changes != house.backlog.changes:
        house.depths = yield from depths.walk(house, None)
    found: Depths = house.depths
    return found


def groups(house: House, uid: int | None) -> dict[Pair, Group]:
    """What was counted, by queue and task; with nothing for each task that has not been seen yet."""
    found: dict[Pair, Group] = {(task.queue, task.name): Group() for task in house.config.tasks.values()}
    for (owner, queue, task), group in list(house.history.counts.groups.items()):
        if uid in (None, owner):
            found.setdefault((queue, task), Group()).join(group)
    return found


def _of_jobs(
    house: House, clock: Clock, found: Depths, blocked: Counter[tuple[int, str, str]], uid: int | None
) -> Iterator[Family]:
    counts = groups(house, uid)
    jobs: Counter[tuple[Pair, str]] = Counter()
    oldest: dict[Pair, float] = {}
    for ((_, *pair), state), number in found.jobs.items():
        jobs[tuple(pair), state] += number
        counts.setdefault(tuple(pair), Group())
    for (_, *pair), due in found.oldest.items():
        oldest[tuple(pair)] = min(due, oldest.get(tuple(pair), due))
    pairs = sorted(counts)
    labels = {pair: {"queue": pair[0], "task": pair[1]} for pair in pairs}
    yield from _standing("cronq", labels, jobs, oldest, clock)
    kept: Counter[Pair] = Counter()
    for (_, queue, gate), number in blocked.items():
        kept[queue, gate] += number
    yield Family(
        "cronq_jobs_blocked",
        GAUGE,
        "Ready jobs that a closed gate keeps from starting; one may be kept by several.",
        [({"queue": queue, "gate": gate}, kept[queue, gate]) for queue, gate in sorted(kept)],
    )
    yield Family("cronq_batches", GAUGE, "Batches that have not ended.", [({}, found.batches)])
    unmade = "Jobs of batches that are not made yet; they are in no state, and counted nowhere else."
    yield Family("cronq_batch_jobs_unmade", GAUGE, unmade, [({}, found.unmade)])
    yield from _happened("cronq", labels, counts)
    waits = [(labels[pair], counts[pair].wait) for pair in pairs]
    yield Family("cronq_job_wait_seconds", HISTOGRAM, "For how long attempts were due before they started.", waits)
    runs = [(labels[pair], counts[pair].run) for pair in pairs]
    yield Family("cronq_attempt_run_seconds", HISTOGRAM, "For how long attempts ran.", runs)


def _of_users(house: House, clock: Clock, found: Depths) -> Iterator[Family]:
    counts: dict[Pair, Group] = {}
    for (uid, *_), group in list(house.history.counts.groups.items()):
        counts.setdefault((str(uid),), Group()).join(group)
    jobs: Counter[tuple[Pair, str]] = Counter()
    oldest: dict[Pair, float] = {}
    for ((uid, *_), state), number in found.jobs.items():
        jobs[(str(uid),), state] += number
        counts.setdefault((str(uid),), Group())
    for (uid, *_), due in found.oldest.items():
        oldest[(str(uid),)] = min(due, oldest.get((str(uid),), due))
    labels = {pair: {"uid": pair[0]} for pair in sorted(counts)}
    yield from _standing("cronq_user", labels, jobs, oldest, clock)
    yield from _happened("cronq_user", labels, counts)


def _standing(
    prefix: str, labels: Mapping[Pair, Labels], jobs: Counter[tuple[Pair, str]], oldest: dict[Pair, float], clock: Clock
) -> Iterator[Family]:
    samples = [({**said, "state": state}, jobs[pair, state]) for pair, said in labels.items() for state in states.KEPT]
    yield Family(f"{prefix}_jobs", GAUGE, "Jobs that have not ended, or wait for a person, by state.", samples)
    wall = clock().wall
    ages = [(said, max(0.0, wall - oldest.get(pair, wall))) for pair, said in labels.items()]
    help_text = "For how long the oldest ready job has been due; 0 where none is ready."
    yield Family(f"{prefix}_oldest_ready_age_seconds", GAUGE, help_text, ages)


def _happened(prefix: str, labels: Mapping[Pair, Labels], counts: dict[Pair, Group]) -> Iterator[Family]:
    for name, help_text in _ATTEMPTS.items():
        what = name.removesuffix("_total").rpartition("_")[2]
        samples = [(said, getattr(counts[pair], what)) for pair, said in labels.items()]
        yield Family(name.replace("cronq", prefix, 1), COUNTER, help_text, samples)
    failed = [({**said, "reason": kind}, counts[pair].failed[kind]) for pair, said in labels.items() for kind in KINDS]
    yield Family(f"{prefix}_attempts_failed_total", COUNTER, "Attempts that failed, by the kind of their end.", failed)
    ends = states.TERMINAL
    ended = [({**said, "state": each}, counts[pair].ended[each]) for pair, said in labels.items() for each in ends]
    yield Family(f"{prefix}_jobs_ended_total", COUNTER, "Jobs that ended, by state.", ended)


def _of_dispatcher(house: House, files: int) -> Iterator[Family]:
    counts: Counts = house.history.counts
    config = house.config
    yield Family("cronq_inbox_files", GAUGE, "Job files that lie in inboxes, or are being judged.", [({}, files)])
    workers = len(house.crew.workers)
    yield Family("cronq_workers", GAUGE, "Workers, those that only finish what they have too.", [({}, workers)])
    yield Family("cronq_max_jobs", GAUGE, "How many jobs may run at once.", [({}, config.max_jobs)])
    slots = [({"queue": queue}, number) for queue, number in sorted(config.slots.items())]
    yield Family("cronq_queue_slots", GAUGE, "How many jobs of a queue may run at once, if that is limited.", slots)
    paused = [({"gate": gate}, 1) for gate in sorted(house.pauses.gates)]
    yield Family("cronq_paused", GAUGE, "1 for each queue or task that is paused, and for a drain.", paused)
    help_text = "0 where a flush failed, and nothing is accepted or started until the disk is mended."
    yield Family("cronq_working", GAUGE, help_text, [({}, int(not house.broken))])
    yield Family("cronq_turn_seconds", HISTOGRAM, "How long a turn of the dispatcher took.", [({}, counts.turns)])
    flushes = "How long it took to make a turn's moves durable, of turns that had some."
    yield Family("cronq_flush_seconds", HISTOGRAM, flushes, [({}, counts.flushes)])
    started = "When this dispatcher started, in seconds since 1970; all counters begin then."
    yield Family("cronq_start_time_seconds", GAUGE, started, [({}, counts.since)])
    yield Family("cronq_build_info", GAUGE, "Always 1; its label is the version.", [({"version": __version__}, 1)])
