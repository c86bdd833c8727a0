"""The tables of `make defences` fit the code: what they take away is there, once, and so is the test that misses it."""

import shutil

import pytest
from defences import REPOSITORY, Change, Stale, table


@pytest.mark.parametrize("defence", table(), ids=str)
def test_what_a_table_takes_away_is_there_once_and_its_test_too(defence, tmp_path):
    for change in defence.changes:
        if not (tmp_path / change.file).exists():
            (tmp_path / change.file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / change.file, tmp_path / change.file)
    defence.take_away(tmp_path)
    file, _, name = defence.test.partition("::")
    assert f"\ndef {name.partition('[')[0]}(" in (REPOSITORY / file).read_text()
    assert defence.red


def test_a_text_that_is_not_there_or_there_twice_is_a_sentence(tmp_path):
    (tmp_path / "x.py").write_text("a = 1\nb = 1\n")
    for old, count in (("c", 0), ("1", 2)):
        with pytest.raises(Stale, match=f"x.py has this text {count} times, and must have it once"):
            Change("x.py", old, "2").apply(tmp_path)
    with pytest.raises(Stale, match="no Python any more"):
        Change("x.py", "a = 1\n", "a =\n").apply(tmp_path)
