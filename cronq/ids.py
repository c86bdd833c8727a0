"""What a person may type for a job's id -> the id.

Does:    takes full ids, one's own without the `<uid>-`, the name that somebody chose (the latest job of that name), and
         any tail that only one known job has; `told` tells of the job.
Reads:   `in/<uid>/`, `out/<uid>/`; asks the dispatcher, where it runs.
Fails:   `UnknownJob` where no job, or more than one, is meant.
"""

from __future__ import annotations

import os
from typing import Any

from cronq import client, follow, safeopen
from cronq import job as jobs
from cronq import spool as spools
from cronq.errors import CronqError, NotPermitted, NotRunning, UnknownJob
from cronq.job import is_id


def resolve(root: str, text: str) -> str:
    """The id that `text` means. Raises `UnknownJob`."""
    if is_id(text) and spools.time_of(text) is not None:
        return text
    base, plus, line = text.partition("+")
    if jobs.name_time(base) is not None:
        return f"{os.getuid()}-{text}"
    owner, _, name = text.partition("-") if is_id(text) else (str(os.getuid()), "", text)
    found = _candidates(root, name)
    of_name = _named(found, owner, name) or _named(found, str(os.getuid()), text)
    if of_name:
        return of_name
    meant = sorted(known for known in found if text and known.endswith(text))
    if not meant and plus:
        meant = sorted(known + plus + line for known in _candidates(root, base) if base and known.endswith(base))
    if len(meant) > 1:
        raise UnknownJob(f"{jobs.show(text)} may be {', '.join(meant[:3])}{' …' * (len(meant) > 3)}; write more of it")
    if not meant and not is_id(text):
        raise UnknownJob(f"no job of yours has the id {jobs.show(text)} (cronq list shows them)")
    return meant[0] if meant else text


def _named(known: set[str], owner: str, name: str) -> str | None:
    """The job of this user that has this name, the latest of those to which he gave it: such names come again."""
    found = [job_id for job_id in known if job_id.startswith(f"{owner}-")]
    meant = [job_id for job_id in found if name in (job_id[len(owner) + 1 :], _chosen(job_id))]
    return max(meant, default=None)


def _chosen(job_id: str) -> str:
    """The name that somebody chose, without the time that the dispatcher put before it; empty for a generated one."""
    name = job_id.partition("-")[2]
    timed = spools.time_of(job_id) is not None and jobs.name_time(name.partition("+")[0]) is None
    return name[14:] if timed else ""


def told(root: str, text: str, verb: str) -> tuple[dict[str, Any], bool]:
    """What the dispatcher says of a job when this is asked; where none runs, the result of one that has ended.

    Also whether it is only that. Raises `UnknownJob`, `NotRunning`.
    """
    job_id = resolve(root, text)
    try:
        (found,) = client.ask(root, {"do": verb, "id": job_id})
    except NotRunning:
        ended = follow.ended(root, job_id)
        if ended is None:
            raise
        return {"id": job_id} | ended, True
    return found, False


def resolve_all(root: str, texts: list[str]) -> list[str]:
    """The ids that these texts mean. Raises `UnknownJob`."""
    return [resolve(root, text) for text in texts]


def _candidates(root: str, text: str) -> set[str]:
    """The known ids that end so: what lies in the files, and what the dispatcher knows beyond that."""
    found = ended_ids(root)
    uid = os.getuid()
    for name in safeopen.names_below(root, spools.inbox("", uid)):
        stem, dot, _ = name.rpartition(".")
        if dot and name.endswith(spools.ENDINGS) and not name.startswith("."):
            found.add(f"{uid}-{stem}")
    try:
        found.update(str(job.get("id")) for job in client.ask(root, {"do": "ids", "like": text}))
    except (NotRunning, NotPermitted):
        pass  # then what lies in the files must do
    return {job_id for job_id in found if job_id.endswith(text)}


def ended_ids(root: str) -> set[str]:
    """One's own ids that have a result directory."""
    return {name for name in safeopen.names_below(root, os.path.join("out", str(os.getuid()))) if is_id(name)}


def known(incomplete: str) -> list[str]:
    """The ids that begin so, for the shell's completion."""
    return sorted(job_id for job_id in ended_ids(spools.find()) if job_id.startswith(incomplete))


def is_anothers(root: str, job_id: str) -> bool:
    """Whether this is another user's job on a system spool: its files are not this user's to read."""
    owner = job_id.partition("-")[0]
    return spools.is_system(root) and os.getuid() not in (0, int(owner) if owner.isdigit() else -1)


def must_be_known(root: str, job_id: str) -> None:
    """Refuse an id for which nobody could ever wait. Raises `UnknownJob`; `NotRunning` where it cannot be known."""
    owner, _, name = job_id.partition("-")
    places = [spools.results("", job_id), *(os.path.join("in", owner, name + ending) for ending in spools.ENDINGS)]
    if any(safeopen.is_below(root, place) for place in places) or follow.refusal(root, job_id):
        return
    try:
        list(client.ask(root, {"do": "show", "id": job_id}))
    except UnknownJob:
        base, plus, _ = job_id.partition("+")
        if not plus:
            raise
        must_be_known(root, base)  # a batch's later jobs are known by their batch alone
    except CronqError as error:
        if error.exit_code != 75:  # it waits in its batch, or in the inbox
            raise
