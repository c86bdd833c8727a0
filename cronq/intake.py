"""Intake: a stranger's bytes -> a job, or a refusal that says in sentences what is wrong and how to mend it.

Does:    `judge` a job file, `complaints` about any table, `schema` of what may be written.
Reads:   nothing but its arguments.
Trusts:  nothing. `job.decode` decides; only of what it refuses do the pydantic models (`forms`, imported then) say
         everything that is wrong, where the decoder stops at the first.
Fails:   never: a refusal is a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cronq import job as jobs
from cronq import limitkeys, retentionkeys
from cronq.errors import BadJob
from cronq.job import Job

SCHEMAS = ("job", "task", "config")
MOST_SENTENCES = 20
_INNER = {"backoff": jobs.BACKOFF_KEYS, "concurrency": limitkeys.KEYS, "retention": (*retentionkeys.OF_QUEUE,)}
LONGEST_KEY = 48  # longer ones have no suggestion: comparing takes time that a stranger must not have


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not taken: one sentence, the exit code that says so, and what else is wrong."""

    sentence: str
    code: int = BadJob.exit_code
    more: list[str] = field(default_factory=list)


def judge(data: bytes) -> Job | Refusal:
    """The job that these bytes say, or why they say none."""
    fields: dict[str, Any] = {}
    try:
        fields = jobs.fields(data)
        return jobs.from_fields(fields)
    except BadJob as error:
        refused = error.sentence
    sentences = complaints("job", fields, jobs.READERS) if fields else []
    return Refusal(sentences[0] if sentences else refused, more=sentences[1:])


def complaints(form: str, fields: dict[str, Any], readers: dict[str, Callable[[str, Any], Any]]) -> list[str]:
    """Everything that is wrong with the fields of a form, a sentence a key: misspelt keys first, clashes last.

    The model finds the keys; the sentence is the one of the decoder's reader of that key, which says what is right.
    """
    from pydantic import ValidationError

    from cronq import forms

    model = forms.FORMS[form]
    try:
        model.model_validate(fields)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    else:
        return []
    unknown, wrong = [], {}
    for each in errors:
        where = [str(part) for part in each["loc"]]
        if len(where) == 1 and each["type"] == "extra_forbidden":
            unknown.append(where[0])
        elif where and where[0] not in wrong:
            wrong[where[0]] = _wrong_value(where, each, fields, readers)
    places = {name: place for place, name in enumerate(fields)}
    ordered = sorted(wrong, key=lambda name: places.get(name, -1))
    found = [unknown_key(name, model.model_fields) for name in unknown[:MOST_SENTENCES]]
    found += [wrong[name] for name in ordered]
    if not unknown:  # what a misspelt key was meant to be may be what is missing
        found += model.clashes(fields)
    if len(unknown) > MOST_SENTENCES:
        found.append(f"and {len(unknown) - MOST_SENTENCES} more unknown keys")
    return found


def _wrong_value(where: list[str], error: Any, fields: dict[str, Any], readers: dict[str, Any]) -> str:
    name = where[0]
    if error["type"] == "missing":
        return f"{'.'.join(where)} is missing; write it"
    if error["type"] == "extra_forbidden" and name in _INNER:
        return f"{name}: {unknown_key(where[-1], _INNER[name])}"
    try:
        if name in readers:
            readers[name](name, fields[name])
    except BadJob as refused:
        return refused.sentence
    return f"{jobs.show(name)[1:-1]}: {error['msg']}"


def unknown_key(name: str, known: Iterable[str], what: str = "key") -> str:
    """The sentence for a name that is not there, with the one that was probably meant."""
    names = list(known)
    meant = suggestion(name, names)
    hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(names) or 'none'}"
    return f"unknown {what} {jobs.show(name)}; {hint}"


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, if one is."""
    import difflib

    if len(name) > LONGEST_KEY:
        return None
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.65)
    return near[0] if near else None


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file, a task's table or cronq.toml: one of `SCHEMAS`."""
    from cronq import forms

    return forms.schema(name)
