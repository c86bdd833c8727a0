"""The documents say what the code does."""

import re
from pathlib import Path

from cronq import states

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_moves_is_the_codes_table():
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| (\w+) \|$", (DOCS / "spool.md").read_text(), re.M)
    written = {move: (tuple(sources.split(", ")), to) for move, sources, to in rows if move != "move"}
    assert written == states.MOVES
