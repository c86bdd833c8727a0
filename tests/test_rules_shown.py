"""RULES.md names, for each rule of the queue, tests that exist, and docs/promises.md for each promise."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGES = [HERE / "RULES.md", HERE.parent / "docs" / "promises.md"]
NAMED = {page.name: set(re.findall(r"`((?:\w+/)?test_\w+\.py(?:::\w+)?)`", page.read_text())) for page in PAGES}


@pytest.mark.parametrize("named", sorted(set.union(*NAMED.values())))
def test_a_rule_or_a_promise_names_a_test_that_is_there(named):
    file, _, test = named.partition("::")
    assert re.search(rf"^ *(def )?{test or 'test_'}\b" if test else r"^def test_", (HERE / file).read_text(), re.M)


def test_both_pages_name_tests():
    assert all(NAMED.values())
