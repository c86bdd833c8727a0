"""RULES.md names, for each rule of the queue, tests that exist."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = sorted(set(re.findall(r"`((?:\w+/)?test_\w+\.py(?:::\w+)?)`", (HERE / "RULES.md").read_text())))


@pytest.mark.parametrize("named", NAMED)
def test_a_rule_names_a_test_that_is_there(named):
    file, _, test = named.partition("::")
    assert re.search(rf"^ *(def )?{test or 'test_'}\b" if test else r"^def test_", (HERE / file).read_text(), re.M)
