"""What a job says of itself: the grammar of its lines, and that nothing it may say costs more than it should."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronq import statement, status
from cronq.channel import Lines
from cronq.status import MOST_AT_ONCE, MOST_KEPT, MOST_LINE, MOST_METRICS, State

FLOOD = 1_000_000


def told(*lines: bytes | str) -> State:
    """The state that these lines come to, each taken by itself."""
    state = State()
    for line in lines:
        state.take([line if isinstance(line, bytes) else line.encode()])
    return state


def refused(line: bytes | str) -> str:
    """Why a line is passed over; nothing of it may stay."""
    state = told(line)
    assert (state.told().keys(), state.ignored) == ({"ignored", "why_ignored"}, 1), state.told()
    assert (state.cursor, state.snooze, state.touched) == (None, None, 0)
    return str(state.why_ignored)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("progress 3/10", "progress", [3, 10]),
        ("progress 30%", "progress", [30, 100]),
        ("progress 2.5/7", "progress", [2.5, 7]),
        ("progress 0/1", "progress", [0, 1]),
        ("\tprogress  3/10 \r", "progress", [3, 10]),
        ('{"progress": [3, 10]}', "progress", [3, 10]),
        ('{"progress": "3/10"}', "progress", [3, 10]),
        ('{"progress": 0.3}', "progress", [0.3, 1]),
        ("status copying b.jpg", "status", "copying b.jpg"),
        ("warning no EXIF data", "warnings", ["no EXIF data"]),
        ("data one", "data", ["one"]),
        ('{"data": {"x": [1, 2]}}', "data", [{"x": [1, 2]}]),
        ("result 42 thumbnails", "result", "42 thumbnails"),
        ('{"result": 0}', "result", 0),
        ('{"result": {"made": ["a", "b"]}}', "result", {"made": ["a", "b"]}),
        ("metric rows=120 mb=1.5", "metrics", {"rows": 120, "mb": 1.5}),
        ('{"metric": {"rows": 120}}', "metrics", {"rows": 120}),
    ],
)
def test_each_word_says_one_thing(line, key, value):
    assert told(line).told() == {key: value}


def test_a_line_of_json_may_say_many_things_at_once():
    state = told('{"progress": [1, 2], "status": "half", "metric": {"rows": 1}, "cursor": "b", "snooze": "2m"}')
    assert state.told() == {"progress": [1, 2], "status": "half", "metrics": {"rows": 1}}
    assert (state.cursor, state.snooze) == ("b", 120)


def test_what_is_said_again_goes_before_what_was_said():
    state = told(
        "progress 1/9", "progress 2/9", "status a", "status b", "metric x=1", "metric x=2 y=3", "cursor 1", "cursor 2"
    )
    assert state.told() == {"progress": [2, 9], "status": "b", "metrics": {"x": 2, "y": 3}}
    assert state.cursor == "2"


@pytest.mark.parametrize(
    ("line", "seconds"), [("snooze 60", 60), ("snooze 10m", 600), ("snooze 0", 1), ('{"snooze": 5}', 5)]
)
def test_a_snooze_is_a_duration_of_at_least_a_second(line, seconds):
    assert told(line).snooze == seconds


@pytest.mark.parametrize(
    ("line", "seconds"), [("touch", None), ("touch 90", 90), ("touch 2m", 120), ('{"touch": true}', None)]
)
def test_a_touch_is_for_the_timeout_again_or_for_so_long(line, seconds):
    state = told(line)
    assert (state.touched, state.deadline) == (1, seconds)


def test_an_empty_cursor_takes_back_the_one_before():
    assert told("cursor page 17").cursor == "page 17"
    assert told("cursor 17", "cursor").cursor == ""


@pytest.mark.parametrize(
    "line",
    [
        "progress a/b",
        "progress 3",
        "progress 11/10",
        "progress -1/10",
        "progress 1/0",
        "progress nan/10",
        "progress 1/1e999",
        "progress 1/2/3",
        '{"progress": true}',
        '{"progress": [1, 2, 3]}',
        '{"progress": [[], {}]}',
        "snooze",
        "snooze soon",
        "snooze -1",
        "snooze 1e999",
        "touch never",
        "metric",
        "metric rows",
        "metric rows=many",
        "metric rows=nan",
        "metric a b=1",
        '{"metric": {"rows": true}}',
        '{"metric": 7}',
        '{"status": 7}',
        '{"cursor": ["x"]}',
        f"cursor {'x' * 1025}",
        "cursor a\x1bb",
        "prog 3/10",
        "hello",
        "\x1b]52;c;aGVsbG8=\x07",
        b"\xff\xfe\x00binary",
        b"\x1c",
        "\x85\xa0",
        "{",
        '{"progress": [3, 10]',
        '{"progress": NaN}',
        '{"result": 1e999}',
        '{"result": "\\ud800"}',
        '{"result": {"\\ud800": 1}}',
        '{"status": "a", "status": "b"}',
        '{"result": ' + "[" * 1000 + "]" * 1000 + "}",
        '{"result": ' + "9" * 4000 + "x}",
        "[1]",
    ],
)
def test_what_is_no_line_of_ours_is_counted_and_the_first_said_why(line):
    assert refused(line).isprintable()


def test_only_the_first_reason_is_kept():
    state = told("progress a/b", "nothing", b"\xff")
    assert (state.ignored, state.why_ignored) == (3, "progress must be like 3/10 or 30%, not 'a/b'")


def test_an_unknown_key_does_not_keep_the_others_from_being_taken():
    assert told('{"complete": 1, "status": "done"}').told()["status"] == "done"


def test_no_text_can_harm_a_terminal():
    evil = "a\x1b]52;c;x\x07\x9b31m\u202egnp\u2066\tz"
    state = told(f"status {evil}", f"warning {evil}")
    for text in (state.status, *state.warnings):
        assert text.isprintable(), ascii(text)
    assert statement.words(told(json.dumps({"status": evil})).told()).isprintable()


def test_of_warnings_the_first_are_kept_and_of_data_the_last():
    state = told(*(f"warning {n}" for n in range(100)), *(f"data {n}" for n in range(100)))
    assert state.warnings == [str(n) for n in range(MOST_KEPT)]
    assert state.data == [str(n) for n in range(100 - MOST_KEPT, 100)]
    assert state.ignored == 100 - MOST_KEPT


def test_there_are_only_so_many_metrics_and_each_can_still_change():
    state = told(*(f"metric m{n}=1" for n in range(100)), "metric m0=2")
    assert len(state.metrics) == MOST_METRICS
    assert state.metrics["m0"] == 2


def in_slices(data: bytes, size: int = 65536) -> tuple[State, int]:
    """The state that a stream comes to, and how many of its lines were read one by one."""
    state, lines, read = State(), Lines(), 0
    for start in range(0, len(data), size):
        found = lines.cut(data[start : start + size])
        read += len(found) if len(found) <= MOST_AT_ONCE else 0
        state.take(found)
        state.ignore(lines.too_long, "too long")
        lines.too_long = 0
    state.take(lines.end())
    return state, read


def test_of_a_flood_the_last_line_of_each_kind_is_taken_and_all_others_are_counted():
    state, read = in_slices(b"data x\n" * FLOOD + b"progress 3/10\nresult last\n")
    assert state.told()["progress"] == [3, 10]
    assert state.result == "last"
    assert state.ignored > FLOOD * 0.99
    assert read < FLOOD / 100
    assert len(json.dumps(state.told())) < 16 * 1024


@pytest.mark.parametrize("piece", [b"x", b"\x00\xff", b'{"status": "', b"status \xc3\xa4", b"\n" * 9])
def test_a_line_without_end_is_one_that_is_passed_over(piece):
    lines, held = Lines(), 0
    for _ in range(100):
        lines.cut(piece * (65536 // len(piece)))
        held = max(held, len(lines._rest))
    assert held <= MOST_LINE
    assert lines.too_long == (0 if b"\n" in piece else 1)
    assert lines.cut(b"\nstatus again\n")[-1] == b"status again"


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=30), st.integers(1, 50))
def test_lines_are_the_same_however_a_stream_is_cut(wanted, size):
    stream, lines = b"".join(line + b"\n" for line in wanted), Lines()
    found = [line for start in range(0, len(stream), size) for line in lines.cut(stream[start : start + size])]
    assert found == wanted


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(status.WORDS) | st.text(max_size=5), inner)
    ),
    max_leaves=12,
)


@given(
    st.binary(max_size=200)
    | st.tuples(
        st.sampled_from(status.WORDS), st.text(max_size=60) | st.text("0123456789.-+eE_ /%=nafi\x1c\x85", max_size=12)
    ).map(lambda w: " ".join(w).encode())
)
def test_whatever_a_line_says_the_state_can_be_written_and_read_again(line):
    state = told(line.replace(b"\n", b""))
    written = json.dumps(state.told(), allow_nan=False).encode()
    assert statement.clean(json.loads(written)) == state.told()


@given(anything | st.dictionaries(st.sampled_from(status.TOLD), anything))
def test_of_whatever_was_written_down_only_what_can_be_said_is_believed(found):
    cleaned = statement.clean(found)
    assert cleaned.keys() <= set(status.TOLD)
    assert statement.clean(cleaned) == cleaned
    assert isinstance(statement.words(cleaned), str)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b'{"progress": [3', b"null\n", b"7\n"])
def test_a_status_file_that_is_none_says_nothing(data):
    assert statement.read(data) == {}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"progress": [3, 10], "status": "copying"}, "3/10 copying"),
        ({"progress": [30, 100]}, "30%"),
        ({"progress": [0.3, 1]}, "30%"),
        ({"progress": [1_000_000, 2_000_000]}, "1000000/2000000"),
        ({"status": "copying"}, "copying"),
        ({}, ""),
    ],
)
def test_how_far_a_job_is_fits_into_a_line(said, words):
    assert statement.words(said) == words
