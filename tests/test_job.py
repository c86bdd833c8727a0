"""The one strict decoder of job files, the encoder, durations, instants and names."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import time

import pytest
from conftest import cost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cronq import job as jobs
from cronq.errors import BadJob

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TASK = {"task": "resize"}
FREE = {"command": ["true"]}


def decode(fields: object) -> jobs.Job:
    return jobs.decode(json.dumps(fields).encode())


def refusal(data: bytes) -> str:
    with pytest.raises(BadJob) as caught:
        jobs.decode(data)
    assert caught.value.exit_code == 65
    return caught.value.sentence


def refused(**fields: object) -> str:
    return refusal(json.dumps(fields).encode())


def test_a_job_says_what_its_keys_say() -> None:
    job = decode(
        {
            "task": "resize",
            "args": ["a b", "ü", ""],
            "stdin": "one\ntwo\t",
            "env": {"LANG": "C", "_x1": ""},
            "cwd": "/srv",
            "queue": "media",
            "priority": "high",
            "delay": "1m30s",
            "expires": "2030-01-01T00:00:00Z",
            "timeout": 2.5,
            "retries": 3,
            "backoff": {"base": "1s", "factor": 3, "max": "1h", "jitter": 0},
            "note": "for Ann",
        }
    )
    assert (job.task, job.command, job.args, job.stdin) == ("resize", None, ["a b", "ü", ""], "one\ntwo\t")
    assert (job.env, job.cwd, job.queue, job.priority) == ({"LANG": "C", "_x1": ""}, "/srv", "media", 10)
    assert (job.delay, job.at, job.expires, job.timeout) == (90.0, None, 1893456000.0, 2.5)
    assert job.backoff is not None
    assert (job.backoff.base, job.backoff.factor, job.backoff.max, job.backoff.jitter) == (1.0, 3.0, 3600.0, 0.0)
    assert (job.retries, job.delivery, job.note) == (3, None, "for Ann")


def test_a_key_that_is_left_out_has_no_value() -> None:
    job = decode(FREE)
    assert job.command == ["true"]
    assert (job.args, job.env) == ([], {})
    others = set(jobs.KEYS) - {"command", "args", "env"}
    assert {key: getattr(job, key) for key in others} == dict.fromkeys(others)


def test_a_backoff_that_says_one_thing_has_the_defaults_for_the_others() -> None:
    backoff = decode(TASK | {"backoff": {"base": 1}}).backoff
    assert backoff is not None
    assert (backoff.base, backoff.factor, backoff.max, backoff.jitter) == (1.0, 2.0, 3600.0, 0.2)


def test_a_job_with_two_verbs_is_refused() -> None:
    assert refused(task="a", command=["b"]) == "a job has either a task or a command; write one of the two keys"


def test_a_job_without_a_verb_is_refused() -> None:
    assert refused(note="nothing") == "a job has either a task or a command; write one of the two keys"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (FREE | {"args": []}, "args belong to a task"),
        (TASK | {"delivery": "at-most-once"}, "delivery is a free command's key"),
        (TASK | {"delay": 1, "at": "2030-01-01"}, "delay and at exclude each other"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(fields: dict[str, object], words: str) -> None:
    assert words in refused(**fields)


@pytest.mark.parametrize("key", jobs.KEYS)
def test_null_is_no_value_of_any_key(key: str) -> None:
    base = {"command": ["true"]} if key != "command" else {"task": "t"}
    assert refused(**base | {key: None}).startswith(key)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("task", "", "must be a name"),
        ("task", ".hidden", "must be a name"),
        ("task", "a/b", "must be a name"),
        ("task", "a\n", "control character U+000A"),
        ("task", "ä", "must be a name"),
        ("task", "a" * 49, "longer than 48"),
        ("queue", "-q", "must be a name"),
        ("command", [], "command is empty"),
        ("command", [""], "command is empty"),
        ("command", "true", "must be a list"),
        ("command", ["a", 1], "command[1] must be text, not 1"),
        ("args", {"a": 1}, "must be a list"),
        ("stdin", 5, "must be text"),
        ("env", ["A=b"], "must be an object"),
        ("env", {"1A": ""}, "variable '1A'"),
        ("env", {"": ""}, "variable ''"),
        ("env", {"A-B": ""}, "variable 'A-B'"),
        ("env", {"Ä": ""}, "variable"),
        ("env", {"A": 1}, "env.A must be text"),
        ("cwd", "srv", "must be an absolute path"),
        ("cwd", "", "must be an absolute path"),
        ("cwd", "/a\nb", "control character U+000A"),
        ("cwd", "/" + "a" * 4096, "longer than 4096"),
        ("priority", "urgent", "must be low, normal, high"),
        ("priority", 21, "from -20 to 20"),
        ("priority", -21, "from -20 to 20"),
        ("priority", True, "from -20 to 20"),
        ("priority", 1.0, "from -20 to 20"),
        ("timeout", 0, "longer than nothing"),
        ("timeout", "0s", "longer than nothing"),
        ("retries", -1, "from 0 to 1000"),
        ("retries", 1001, "from 0 to 1000"),
        ("retries", True, "from 0 to 1000"),
        ("retries", "3", "from 0 to 1000"),
        ("backoff", "15s", "must be an object"),
        ("backoff", {"bse": 1}, "unknown key 'bse'"),
        ("backoff", {"base": -1}, "backoff.base must be"),
        ("backoff", {"factor": 0.5}, "backoff.factor must be a number from 1 to 100"),
        ("backoff", {"factor": True}, "backoff.factor must be a number"),
        ("backoff", {"jitter": -0.1}, "backoff.jitter must be a number from 0 to 100"),
        ("delivery", "exactly-once", "at-least-once or at-most-once"),
        ("delivery", ["at-most-once"], "at-least-once or at-most-once"),
        ("note", "two\nlines", "control character U+000A"),
        ("note", "n" * 1001, "longer than 1000"),
        ("prioriy", 1, "unknown key 'prioriy'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(key: str, value: object, words: str) -> None:
    base = FREE if key not in ("task", "command", "args") else TASK if key == "args" else {}
    sentence = refused(**base | {key: value})
    assert key in sentence
    assert words in sentence


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\ud800", "\udfff"])
@pytest.mark.parametrize("fields", [{"args": ["x%s"]}, {"stdin": "x%s"}, {"env": {"A": "x%s"}}, {"note": "x%s"}])
def test_a_control_character_or_half_a_character_is_refused(char: str, fields: dict[str, object]) -> None:
    data = json.dumps(TASK | fields).replace("%s", json.dumps(char)[1:-1]).encode()
    assert f"U+{ord(char):04X}" in refusal(data)


@pytest.mark.parametrize("char", ["\t", "\n", "\r", "\u2028", "\u00a0", "😀"])
def test_line_ends_tabs_and_all_other_characters_are_taken(char: str) -> None:
    job = decode(TASK | {"args": [char], "stdin": char, "env": {"A": char}})
    assert (job.args, job.stdin, job.env) == ([char], char, {"A": char})


def test_a_job_of_64_kib_is_taken_and_a_byte_more_is_refused() -> None:
    empty = len(json.dumps(TASK | {"stdin": ""}))
    largest = json.dumps(TASK | {"stdin": "x" * (65536 - empty)}).encode()
    assert len(largest) == 65536
    assert len(jobs.decode(largest).stdin or "") == 65536 - empty
    assert "larger than 64 KiB" in refusal(largest + b"\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: Expecting property name"),
        (b'{"task": "a",}', "not JSON"),
        (b"{'task': 'a'}", "(line 1, column 2)"),
        (b'{"task": "a"} x', "not JSON: Extra data"),
        (b'\xef\xbb\xbf{"task": "a"}', "not JSON"),
        (b'{"task": "a\tb"}', "not JSON"),
        (b'{"task": "\xff"}', "not UTF-8 (byte 11)"),
        (b'["task", "a"]', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"task": "a", "task": "b"}', "has the key 'task' twice"),
        (b'{"task": "a", "env": {"A": "1", "A": "2"}}', "has the key 'A' twice"),
        (b'{"task": "a", "delay": NaN}', "number NaN"),
        (b'{"task": "a", "delay": -Infinity}', "number -Infinity"),
        (b'{"task": "a", "delay": 1e999}', "delay must be"),
        (b'{"task": "a", "retries": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": ' * 17 + b"1" + b"}" * 17, "nested deeper than 16"),
        (b"[" * 60000, "nested deeper than 16"),
    ],
)
def test_what_is_not_one_json_object_is_refused(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_depth_is_bounded_at_sixteen_and_brackets_in_text_do_not_count() -> None:
    deep: object = 1
    for _ in range(15):
        deep = [deep]
    assert "nested" not in refused(task="a", note=deep)
    assert "nested deeper" in refused(task="a", note=[deep])
    assert decode(TASK | {"stdin": '\\"' + "[{" * 50, "args": ["{" * 50]}).args == ["{" * 50]


def test_a_doubled_key_among_thousands_is_found_in_one_pass() -> None:
    names = [f"{number:04x}" for number in range(7000)]
    data = ("{" + ",".join(f'"{name}":1' for name in [*names, names[-1]]) + "}").encode()[: jobs.MAX_JOB_BYTES * 2]

    def parse() -> None:
        with pytest.raises(BadJob, match="'1b57' twice"):
            jobs.parse_object(data, "the job")

    assert min(cost(parse) for _ in range(3)) < 0.2


def test_a_sentence_shows_little_of_a_strangers_value_and_nothing_unprintable() -> None:
    sentence = refused(**TASK | {"priority": "\u202e\x1b[31m" + "x" * 5000})
    assert sentence.isprintable()
    assert len(sentence) < 200


def test_a_number_too_long_for_python_to_write_is_refused_in_words() -> None:
    with pytest.raises(BadJob, match="too long to show"):
        jobs.seconds(16**5000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@patient
@given(st.binary(max_size=60))
def test_whatever_the_bytes_the_decoder_answers_with_a_job_or_a_sentence(data: bytes) -> None:
    try:
        jobs.decode(data)
    except BadJob as error:
        assert error.sentence


@patient
@given(st.dictionaries(st.sampled_from(jobs.KEYS), json_values, max_size=5))
def test_whatever_the_fields_the_decoder_answers_with_a_job_or_a_sentence(fields: dict[str, object]) -> None:
    try:
        jobs.from_fields(fields)
    except BadJob as error:
        assert error.sentence


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("2.s", 2.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("250ms", 0.25),
        ("1m1ms", 60.001),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: object, seconds: float) -> None:
    assert jobs.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "10",
        "m",
        "10 m",
        "10M",
        "-1s",
        "1.2.3s",
        ".s",
        "1y",
        "1e3s",
        "١s",
        "10m5",
        "9" * 400 + "s",
        "51w" * 22,
        True,
        False,
        None,
        [1],
        {"s": 1},
        -1,
        float("nan"),
        float("inf"),
        51 * 366 * 86400,
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(BadJob, match=r"^delay must be"):
        jobs.seconds(value, "delay")


@pytest.mark.parametrize("longest", [jobs.MAX_SECONDS, int(jobs.MAX_SECONDS), f"{int(jobs.MAX_SECONDS)}s"])
def test_the_longest_delay_from_now_still_fits_into_a_files_name(longest: object) -> None:
    assert time.time() + jobs.seconds(longest) < jobs.LAST_INSTANT < 16**13 / 1e6


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00"),
        ("2026-12-24t18:00:00z", "2026-12-24T18:00:00"),
        ("2026-12-24 18:00Z", "2026-12-24T18:00:00"),
        ("2026-12-24T18:00:00.25-05:30", "2026-12-24T23:30:00.25"),
        ("2026-12-24T18:00:00.123456789Z", "2026-12-24T18:00:00.123456"),
    ],
)
def test_an_instant_with_an_offset_is_the_same_everywhere(text: str, utc: str) -> None:
    assert jobs.instant(text) == datetime.datetime.fromisoformat(utc + "+00:00").timestamp()


def test_an_instant_without_an_offset_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert jobs.instant("2026-12-24T18:00") == jobs.instant("2026-12-24T17:00Z")
        assert jobs.instant("2026-07-24") == jobs.instant("2026-07-23T22:00:00Z")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "tomorrow",
        "18:00",
        "20261224T180000",
        "2026-W52-4",
        "2026-12-24X18:00",
        "2026-12-24T18",
        "2026-12-24T18:00:00+0100",
        "2026-12-24T18:00:00+01:00:30",
        "2026-12-24T18:00:00+24:00",
        "2026-12-24T18:00:00+01:60",
        "2026-12-24T18:00:00.",
        "2026-12-24T18:00:00,5",
        "2026-12-24T18:00:00.1234567890",
        "2026-12-24T24:00:00",
        "2026-12-24T18:60",
        "2026-02-30",
        "2026-12-24T18:00 ",
        "２０２６-12-24",
        "1969-12-31T00:00:00Z",
        "2113-01-01",
        "9999-12-31T23:59:59-23:59",
        1782000000,
        None,
        ["2026-12-24"],
    ],
)
def test_what_is_no_instant_is_refused(value: object) -> None:
    with pytest.raises(BadJob, match=r"^at must be a time like"):
        jobs.instant(value, "at")


@patient
@given(st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.timezones()))
def test_every_instant_that_python_writes_is_read(moment: datetime.datetime) -> None:
    offset = moment.utcoffset() or datetime.timedelta()
    if offset.seconds % 60 == 0:  # RFC 3339 has no offset with seconds
        assert jobs.instant(moment.isoformat()) == moment.timestamp()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
encodable = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@patient
@given(st.dictionaries(texts, encodable, max_size=4))
def test_what_is_encoded_is_json_of_one_line_and_says_the_same(fields: dict[str, object]) -> None:
    data = jobs.encode(fields)
    assert json.loads(data) == fields
    assert data.count(b"\n") == 1
    assert data.endswith(b"}\n")


def test_none_is_left_out_of_a_job() -> None:
    assert jobs.encode({"task": "a", "note": None, "args": ("b",)}) == b'{"task": "a", "args": ["b"]}\n'


def test_bytes_that_are_not_utf8_cannot_be_encoded() -> None:
    with pytest.raises(BadJob, match="is not UTF-8"):
        jobs.encode({"args": [b"\xff".decode("utf-8", "surrogateescape")]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_know_cannot_be_encoded(value: float) -> None:
    with pytest.raises(BadJob, match="not a number that JSON knows"):
        jobs.encode({"delay": value})


def test_what_has_no_form_in_json_cannot_be_encoded() -> None:
    with pytest.raises(TypeError):
        jobs.encode({"args": {1, 2}})


@patient
@given(st.text(st.sampled_from("aZ09._-/ ,+ä\n"), max_size=6) | st.text(max_size=4))
def test_a_name_has_letters_digits_and_three_signs(text: str) -> None:
    assert jobs.is_name(text, 5) == bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,4}", text))


@patient
@given(st.floats(0, jobs.LAST_INSTANT), st.floats(0, jobs.LAST_INSTANT))
def test_new_names_sort_by_time(one: float, other: float) -> None:
    if int(one * 1e6) < int(other * 1e6):
        assert jobs.new_name(one) < jobs.new_name(other)


@patient
@given(st.floats(0, jobs.LAST_INSTANT))
def test_a_new_name_is_a_name_and_knows_its_time(now: float) -> None:
    name = jobs.new_name(now)
    assert jobs.is_name(name, 22)
    made = jobs.name_time(name)
    assert made is not None
    assert made == pytest.approx(now, abs=2e-6)


def test_new_names_differ_within_one_instant() -> None:
    assert len({jobs.new_name(1.0) for _ in range(200)}) == 200


@pytest.mark.parametrize(
    "name",
    [
        "backup",
        "nightly-2",
        "cron-x",
        "0006516f4b3c8-ABCDEFGH",
        "000651Ff4b3c8-abcdefgh",
        "0006516f4b3c8-abcdefghj",
        "0006516f4b3c8-abcdefg",
        "",
    ],
)
def test_a_name_that_a_person_chose_has_no_time(name: str) -> None:
    assert jobs.name_time(name) is None


def test_the_decoder_is_light_to_import() -> None:
    heavy = "{'json', 're', 'typing', 'dataclasses', 'datetime', 'pathlib'}"
    code = f"import cronq.job; print(*sorted({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == ""
