"""Dependencies as far as they are judgement: what a job waits for, and what that comes to by how each of it has ended.

Does:    `judge` says whether a job may go on, waits still, or never will; `Waits` knows who waits for whom, and who is
         to be looked at again because something that it waits for has ended or has come back.
Reads:   its arguments. No clock, no disk.
Trusts:  `backlog`, which tells of every move.
Fails:   never. Nothing of it is kept on disk: a job's file says what it waits for, and where that lies, how it ended.

`after` is met when all of its jobs are done, `after_any` when all of them have ended, `after_fail` when one of them has
ended and is not done: so of two jobs, one `after` and one `after_fail` the same others, exactly one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cronq.states import DEAD, DONE, HELD, SKIPPED, WAITING

KEYS = ("after", "after_any", "after_fail")
GONE = "gone"  # somebody has removed it, or it was refused: nobody can tell how it ended
IN_PART = "done in part"  # a batch of which not every job is done
_KEPT = (WAITING, HELD, SKIPPED)  # where a job's needs are still of interest
_ENDED = ("", DEAD, SKIPPED)
_SAID = 3  # ids in a sentence


class Needs(NamedTuple):
    """What one job waits for: ids."""

    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    after_fail: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: Any) -> Needs:
        """Those of a `Job`."""
        return cls(*(tuple(getattr(wanted, key) or ()) for key in KEYS))

    @property
    def parents(self) -> Iterable[str]:
        """All of them, each once."""
        return dict.fromkeys([*self.after, *self.after_any, *self.after_fail])


class Judgement(NamedTuple):
    """What is still open, or why there is no hope; with neither, the job may go on."""

    open: list[str]
    hopeless: str = ""


def judge(needs: Needs, ended: Callable[[str], str | None]) -> Judgement:
    """What these needs come to; `ended` says how a job has ended, None where it has not."""
    waits: list[str] = []
    for parent in needs.after:
        state = ended(parent)
        if state is None:
            waits.append(parent)
        elif state != DONE:
            return Judgement([], f"it was to run after {parent} is done, which is {state}")
    waits += [parent for parent in needs.after_any if ended(parent) is None]
    ends = {parent: ended(parent) for parent in needs.after_fail}
    if not any(state not in (None, DONE, GONE) for state in ends.values()):
        left = [parent for parent, state in ends.items() if state is None]
        if ends and not left:
            failed = f"{names(ends)} failed" if len(ends) == 1 else f"one of {names(ends)} failed"
            return Judgement([], f"it was to run if {failed}, and none has")
        waits += left
    return Judgement(list(dict.fromkeys(waits)))


def names(ids: Iterable[str]) -> str:
    """Some ids for a sentence, and how many more there are."""
    known = list(ids)
    more = len(known) - _SAID
    return ", ".join(known[:_SAID]) + (f" and {more} more" if more > 0 else "")


class Waits:
    """Who waits for whom. A job that ends costs a look at those that wait for it, and nothing else."""

    def __init__(self) -> None:
        self.needs: dict[str, Needs] = {}  # of jobs that wait, are held before they could, or are skipped
        self.ends: dict[str, str] = {}  # how the jobs that they wait for have ended, as far as it was asked
        self._children: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {}  # of those, members of a batch, by the batch's id
        self._calls: dict[int, dict[str, None]] = {}  # who is to be looked at, by uid, in the order of the calls

    def add(self, job_id: str, needs: Needs) -> None:
        """A job's needs have become known."""
        self.needs[job_id] = needs
        for parent in needs.parents:
            self._children.setdefault(parent, set()).add(job_id)
            batch, plus, _ = parent.partition("+")
            if plus:
                self._members.setdefault(batch, set()).add(parent)

    def moved(self, job_id: str, state: str, waits: bool) -> None:
        """A job is in this state now (empty: below `queue/` no more); `waits` says whether its name says that it does.

        Called for every move of every job, so it costs nothing where nobody waits.
        """
        if waits and state in _KEPT:
            self._call(job_id)
        elif job_id in self.needs:
            self._drop(job_id)
        if job_id in self._children and (state in _ENDED) is not (job_id in self.ends):
            self._tell(job_id)
        if not state and job_id in self._members:  # those that were never made are no more
            for member in list(self._members[job_id]):
                self._tell(member)

    def removed(self, job_id: str) -> None:
        """Nothing is left of a job that had ended: how it did is asked anew, as after a restart, and nobody knows."""
        if job_id in self._children:
            self._tell(job_id)

    def children(self, job_id: str) -> set[str]:
        """The jobs that wait for this one, or were skipped because of it."""
        return self._children.get(job_id, set())

    def end(self, job_id: str, ask: Callable[[str], str | None]) -> str | None:
        """How this job has ended, None where it has not: as it was last told, or by asking."""
        found = self.ends.get(job_id)
        if found is None and (found := ask(job_id)) is not None and job_id in self._children:
            self.ends[job_id] = found
        return found

    @property
    def busy(self) -> bool:
        """Whether somebody is to be looked at."""
        return bool(self._calls)

    def called(self) -> Iterator[str]:
        """Whom to look at, one of each user in turn. The caller may stop at any: that one is called again."""
        while self._calls:
            for uid in list(self._calls):
                own = self._calls[uid]
                job_id = next(iter(own))
                del own[job_id]
                if not own:
                    del self._calls[uid]
                try:
                    yield job_id
                except GeneratorExit:
                    self._call(job_id)
                    raise

    def _call(self, job_id: str) -> None:
        self._calls.setdefault(int(job_id.partition("-")[0]), {})[job_id] = None

    def _tell(self, job_id: str) -> None:
        self.ends.pop(job_id, None)
        for child in self._children.get(job_id, ()):
            self._call(child)

    def _drop(self, job_id: str) -> None:
        for parent in self.needs.pop(job_id).parents:
            children = self._children[parent]
            children.discard(job_id)
            if not children:
                del self._children[parent]
                self.ends.pop(parent, None)
                self._forget_member(parent)

    def _forget_member(self, parent: str) -> None:
        batch, plus, _ = parent.partition("+")
        if plus:
            self._members[batch].discard(parent)
            if not self._members[batch]:
                del self._members[batch]
