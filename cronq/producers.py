"""`submit`, `exec` and `map` as typer's commands, made of the one table of their options (usage.py).

Does:    so help, completion and `map` have just the options that `cronq submit` reads by itself.
Fails:   as what it runs: submit.py, parallel.py.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from cronq import spool as spools
from cronq import task as tasks
from cronq import usage
from cronq.errors import CronqError

_MAP_ONLY = {
    "keep_order": "Print in the order of the lines, not of the ends.",
    "fail_fast": "Cancel the rest as soon as one fails, and exit as that one did.",
}


def add(app: typer.Typer, verb: str, text: str) -> None:
    """Give `app` the command `verb`."""

    def command(**given: Any) -> int:
        asked = {key: value for key, value in given.items() if value not in (None, False, [])}
        what = asked.pop("what", None)
        return _run(verb, asked, ([] if what is None else [what]) + list(asked.pop("words", ())))

    command.__signature__ = Signature([*_words(verb), *_options(verb)])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    settings = {"allow_interspersed_args": verb != "exec"}
    app.command(verb, help=text, context_settings=settings)(command)


def _words(verb: str) -> list[Parameter]:
    complete = None if verb == "exec" else _tasks
    what = typer.Argument(metavar="CMD" if verb == "exec" else "TASK", autocompletion=complete, show_default=False)
    rest = typer.Argument(metavar="ARG", show_default=False)
    needed = None if verb == "exec" else Parameter.empty  # exec --batch has its commands elsewhere
    return [
        _parameter("what", Annotated[str, what], needed),
        _parameter("words", Annotated[list[str], rest], None),
    ]


def _tasks(incomplete: str) -> list[str]:
    try:
        names = tasks.load(spools.find_config(spools.find()))
    except CronqError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def _options(verb: str) -> list[Parameter]:
    found = []
    for option in usage.OPTIONS:
        if verb in option.of:
            kind: Any = (list[str] if option.many else str) if option.metavar else bool
            known = typer.Option(option.flag, metavar=option.metavar or None, help=option.help, show_default=False)
            found.append(_parameter(option.key, Annotated[kind, known], None if option.metavar else False))
    if verb == "map":
        for key, text in _MAP_ONLY.items():
            found.append(_parameter(key, Annotated[bool, typer.Option("--" + key.replace("_", "-"), help=text)], False))
    return found


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _run(verb: str, values: dict[str, Any], words: list[str]) -> int:
    if verb == "map":
        from cronq import parallel

        switches = {key: bool(values.pop(key, False)) for key in _MAP_ONLY}
        return parallel.run(values, words, **switches)
    from cronq import submit

    return submit.run(verb, values, words)
