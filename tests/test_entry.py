"""Entries and the file names that carry them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cronq import entry as entries
from cronq.entry import Entry, digest, parse

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAME_CHARS = "abcXYZ019._-"
names = st.builds(str.__add__, st.sampled_from("aZ5"), st.text(NAME_CHARS, max_size=15))
instants = st.integers(0, 16**13 - 1)
digests = st.builds(digest, st.binary(max_size=8))
ids = st.builds(
    lambda uid, name, line: f"{uid}-{name}" + (f"+{line}" if line is not None else ""),
    st.integers(0, 2**32 - 1),
    names,
    st.none() | st.integers(0, 10**9 - 1),
)
anything = st.builds(
    Entry,
    priority=st.integers(-20, 20),
    due=instants,
    id=ids,
    attempt=st.integers(0, 999_999),
    crashes=st.integers(0, 999_999),
    snoozes=st.integers(0, 999_999),
    interruptions=st.integers(0, 999_999),
    flags=st.sets(st.sampled_from("cdemnrstvwy")).map(lambda flags: "".join(sorted(flags))),
    task=names | st.just(""),
    queue=names | st.just("default"),
    expires=instants,
    unique=st.just("") | digests,
    key=st.just("") | digests,
    group=st.just("") | digests,
    weight=st.integers(0, 1000),
    into=names | st.just(""),
    batch=st.none() | st.tuples(*[st.integers(0, 10**15 - 1)] * 3),
    hash=st.just("") | digests,
)


def named(entry: Entry) -> str | None:
    try:
        return entry.name
    except ValueError:
        return None


@patient
@given(anything)
def test_an_entry_is_read_back_from_its_name(entry: Entry) -> None:
    name = named(entry)
    if name is not None:
        again = parse(name)
        assert again == entry
        assert {field: getattr(again, field) for field in Entry.__slots__} == {
            field: getattr(entry, field) for field in Entry.__slots__
        }


@patient
@given(anything)
def test_a_name_is_a_file_name_of_at_most_220_bytes(entry: Entry) -> None:
    name = named(entry)
    if name is not None:
        assert name.isascii()
        assert "/" not in name
        assert len(name) <= 220


@patient
@given(st.lists(anything, max_size=8, unique_by=lambda entry: entry.id), instants)
def test_sorted_names_are_the_order_of_dispatch(found: list[Entry], due: int) -> None:
    alike = [entry.but(priority=0, due=due) for entry in found[::2]] + found[1::2]
    fitting = [entry for entry in alike if named(entry) is not None]
    assert sorted(fitting, key=lambda entry: entry.order) == sorted(fitting, key=lambda entry: entry.name)


def test_the_more_urgent_goes_first_then_the_earlier_due_then_the_smaller_id() -> None:
    urgent = Entry(priority=5, due=9, id="1-b")
    early = Entry(due=3, id="1-z")
    small = Entry(due=4, id="1-a")
    last = Entry(due=4, id="1-b")
    assert sorted([last, small, early, urgent], key=lambda entry: entry.order) == [urgent, early, small, last]


def test_the_members_of_a_batch_go_before_the_rest_of_it() -> None:
    batch, member = Entry(due=1, id="1-a", batch=(5, 99, 9)), Entry(due=1, id="1-a+4")
    assert member.order < batch.order
    assert member.name < batch.name


def test_names_that_are_too_long_together_are_told_so() -> None:
    with pytest.raises(ValueError, match="bytes too long together; shorten one"):
        _ = Entry(due=1, id="4294967295-" + "a" * 81, task="t" * 48, queue="q" * 48, hash=digest(b"x"), attempt=3).name


@pytest.mark.parametrize(
    "fields", [{"due": 16**13}, {"due": -1}, {"priority": 21}, {"priority": -21}, {"expires": 16**13}]
)
def test_what_does_not_fit_a_name_makes_none(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _ = Entry(**{"due": 1, "id": "1-a"} | fields).name


GOOD = "20,00065171b6e80,1000-backup"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "backup.job",
        "20,00065171b6e80",
        "2,00065171b6e80,1000-a",
        "41,00065171b6e80,1000-a",
        "xx,00065171b6e80,1000-a",
        "٢٠,00065171b6e80,1000-a",
        "20,00065171B6E80,1000-a",
        "20,0065171b6e80,1000-a",
        "20,00065171b6e80,backup",
        "20,00065171b6e80,-backup",
        "20,00065171b6e80,1000-",
        "20,00065171b6e80,1000-.a",
        "20,00065171b6e80,1000-a+",
        "20,00065171b6e80,1000-a+x",
        "20,00065171b6e80,1000-a+1234567890",
        "20,00065171b6e80,12345678901-a",
        f"{GOOD},",
        f"{GOOD},a",
        f"{GOOD},a0",
        f"{GOOD},a01",
        f"{GOOD},a1x",
        f"{GOOD},a1234567",
        f"{GOOD},a1,a2",
        f"{GOOD},c1,a1",
        f"{GOOD},fdc",
        f"{GOOD},fcc",
        f"{GOOD},fz",
        f"{GOOD},t.x",
        f"{GOOD},tä",
        f"{GOOD},x123",
        f"{GOOD},ushort",
        f"{GOOD},h{'a' * 23}",
        f"{GOOD},haaaaaaa=",
        f"{GOOD},b1.2",
        f"{GOOD},b1.2.x",
        f"{GOOD},y1",
        f"{GOOD}\n",
    ],
)
def test_a_name_of_another_form_is_junk(name: str) -> None:
    with pytest.raises(ValueError, match="not "):
        parse(name)


@patient
@given(st.text("0123456789abcdef,-+.actfxbh\n", max_size=40) | st.text(max_size=30))
def test_whatever_the_name_it_is_an_entry_or_junk(name: str) -> None:
    try:
        parse(name)
    except ValueError as error:
        assert str(error)


def test_an_entry_that_is_changed_leaves_the_first_as_it_was() -> None:
    entry = Entry(due=1, id="1000-a", flags="d")
    moved = entry.but(attempt=2).flagged(entries.CANCEL_WANTED)
    assert (entry.attempt, entry.flags) == (0, "d")
    assert (moved.attempt, moved.flags) == (2, "cd")
    assert moved.flagged("c").flags == "cd"
    assert moved.unflagged("c").flags == "d"
    assert moved.unflagged("m").flags == "cd"


def test_an_id_tells_the_submitter_and_the_batch() -> None:
    assert Entry(due=1, id="1000-a-b").uid == 1000
    assert Entry(due=1, id="1000-a-b").parent == ""
    assert Entry(due=1, id="1000-a-b+17").parent == "1000-a-b"


def test_entries_are_not_hashable_and_equal_by_name() -> None:
    assert Entry(due=1, id="1-a") == Entry(due=1, id="1-a")
    assert Entry(due=1, id="1-a") != Entry(due=1, id="1-a", attempt=1)
    assert Entry(due=1, id="1-a") != "1-a"
    with pytest.raises(TypeError):
        hash(Entry(due=1, id="1-a"))


def test_a_digest_is_22_letters_that_other_bytes_do_not_have() -> None:
    assert len(digest(b"")) == 22
    assert digest(b"a") != digest(b"b")
    assert set(digest(b"a")) <= entries._BASE64
