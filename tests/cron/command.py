"""The command line in this very process: fast, and what it prints is what a shell would see."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cronq import cli


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: list[str]
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out]


def cronq(capfd: pytest.CaptureFixture[str], *argv: str | Path, stdin: bytes | None = None) -> Done:
    """Run `cronq` with these arguments."""
    capfd.readouterr()
    kept = sys.stdin
    if stdin is not None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        code = cli.main([str(word) for word in argv])
    finally:
        sys.stdin = kept
    out, err = capfd.readouterr()
    return Done(code, out.splitlines(), err)


def crontab(folder: Path, *lines: str, name: str = "tab") -> Path:
    """A crontab with these lines."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
