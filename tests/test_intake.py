"""Refusals in sentences, and the models and JSON Schemas that must say what the decoders say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cronq import config, forms, intake, limitkeys, taskkeys, tick
from cronq import job as jobs
from cronq import task as tasks
from cronq.errors import BadConfig, BadJob
from cronq.intake import Refusal, judge
from cronq.job import Job

# A busy machine is not a failure: an example may take as long as it does.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DOCS = Path(__file__).parent.parent / "docs"


def refused(data: object) -> Refusal:
    verdict = judge(data if isinstance(data, bytes) else json.dumps(data).encode())
    assert isinstance(verdict, Refusal)
    return verdict


def test_a_good_job_is_judged_without_importing_pydantic() -> None:
    code = (
        "from cronq import config, intake, policy, lanes;"
        "assert intake.judge(b'{\"task\": \"a\"}').task == 'a';"
        "config.load('/nonexistent');"
        "print('pydantic' in sys.modules);"
        "assert not isinstance(intake.judge(b'{\"x\": 1}'), intake.jobs.Job);"
        "print('pydantic' in sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["False", "True"]


def test_a_misspelt_key_is_answered_with_the_one_that_was_meant() -> None:
    refusal = refused({"task": "a", "prioriy": "high"})
    assert refusal == Refusal("unknown key 'prioriy'; did you mean 'priority'?", 65, [])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("Task", "task"), ("time-out", "timeout"), ("re-tries", "retries"), ("arg", "args"), ("TIME-OUT", "timeout")],
)
def test_a_key_is_guessed_whatever_its_case_and_dashes(key: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refused({"task": "a", key: 1}).sentence


def test_a_key_like_no_other_is_answered_with_those_there_are() -> None:
    sentence = refused({"task": "a", "zzz": 1}).sentence
    assert sentence == f"unknown key 'zzz'; known are {', '.join(jobs.KEYS)}"


def test_everything_that_is_wrong_is_told_in_one_go() -> None:
    refusal = refused(
        {"timeout": "soon", "colour": 1, "args": ["a", 3], "retries": -1, "command": ["true"], "backoff": {"bse": 1}}
    )
    assert refusal.sentence.startswith("unknown key 'colour'")
    assert refusal.more == [
        "timeout must be a duration like 90s, 10m, 1h30m or 2d (50 years at most), not 'soon'",
        "args[1] must be text, not 3",
        "retries must be a whole number from 0 to 1000, not -1",
        "backoff: unknown key 'bse'; did you mean 'base'?",
    ]


def test_keys_that_clash_are_told_last() -> None:
    refusal = refused({"task": "a", "command": [], "delay": 1, "at": "2030-01-01", "delivery": "at-most-once"})
    assert [refusal.sentence, *refusal.more] == [
        "command is empty; its first element is the program",
        "a job has either a task or a command; write one of the two keys",
        "delivery is a free command's key; a task says its own",
        "delay and at exclude each other; keep one of them",
    ]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff", b'{"task": "a", "task": "b"}', b" " * 70000, b'{"task": "a"}' + b" " * 70000, b"{}"],
)
def test_what_is_no_job_at_all_has_the_decoders_sentence(data: bytes) -> None:
    with pytest.raises(BadJob) as caught:
        jobs.decode(data)
    assert refused(data) == Refusal(caught.value.sentence)


def test_thousands_of_wrong_keys_are_told_as_a_few() -> None:
    refusal = refused({f"key{number}": 1 for number in range(4000)})
    assert len(refusal.more) == intake.MOST_SENTENCES
    assert refusal.more[-1] == "and 3980 more unknown keys"


def test_what_is_wrong_inside_a_file_that_is_too_large_is_not_even_read() -> None:
    refusal = refused(b'{"prioriy": 1}' + b" " * jobs.MAX_JOB_BYTES)
    assert refusal == Refusal("the job is larger than 64 KiB; put large input into NAME.data beside it")


def test_only_names_that_may_be_meant_are_compared() -> None:
    longest = "a" * intake.LONGEST_KEY
    assert intake.suggestion(longest, ["a" * 40]) == "a" * 40
    assert intake.suggestion(longest + "a", ["a" * 40]) is None


def test_a_huge_key_is_shown_short_and_compared_with_nothing() -> None:
    refusal = refused({"priority" * 7000: 1})
    assert len(refusal.sentence) < 400
    assert "did you mean" not in refusal.sentence


@patient
@given(
    st.binary(max_size=40)
    | st.dictionaries(st.text(max_size=9), st.text(max_size=5)).map(lambda d: json.dumps(d).encode())
)
def test_whatever_the_bytes_there_is_a_job_or_a_refusal_in_printable_words(data: bytes) -> None:
    verdict = judge(data)
    if isinstance(verdict, Refusal):
        assert all(sentence.isprintable() and sentence for sentence in [verdict.sentence, *verdict.more])


# Values near the grammar: those a key takes, those it does not, and those of which a JSON Schema cannot tell it.

TEXTS = (["", "a", "tab\tline\r\n", "ü€😀"], [None, 1, True, [], {}, "\0", "\x1b[0m", "\x7f", "a\x85"], ["\ud800"])
LINES = (["", "a b", "ü"], [None, 1, "two\nlines", "\t", "x" * 1001], ["\udfff"])
NAMES = (["a", "0", "a.b-c_d", "a" * 48], [None, 1, "", "-a", ".a", "a b", "ä", "a" * 49, "a/b"], ["a\n"])
WORDS = (["a", "0", "a.b-c_d", "a" * 64], [None, 1, "", "-a", ".a", "a b", "ä", "a" * 65, "a/b"], ["a\n"])
HEFTS = ([0, 1, 1000], [None, -1, 1001, "3", True, 1.5], [3.0])
LISTS = ([[], ["a", ""], ["\n"]], [None, "a", {}, [1], ["a", None], ["\0"]], [["\ud800"]])
COMMANDS = ([["a"], ["a", "", "\n"]], [None, [], [""], "a", [1], ["a", 1], ["\0"]], [])
ENVS = (
    [{}, {"A": "b", "_": ""}],
    [None, [], {"": ""}, {"1": ""}, {"A-": ""}, {"Ä": ""}, {"A": 1}, {"A": "\0"}],
    [{"A\n": ""}],
)
PATHS = (["/", "/a b/ü"], [None, 1, "", "a", "~", "/a\nb", "/" + "a" * 4096], ["/\ud800"])
PRIORITIES = (["low", "normal", "high", -20, 0, 20], [None, "", "LOW", "5", -21, 21, 1.5, True, False, []], [1.0])
DURATIONS = (
    [0, 1, 1.5, "0s", "10m", "1h30m", "1.5s", ".5s", "1.s", "5ms", "1w2d"],
    [
        None,
        True,
        False,
        -1,
        1e12,
        "",
        "10",
        "m",
        "1 m",
        "1M",
        "-1s",
        "1.2.3s",
        ".s",
        "1y",
        "1s5",
        [],
        [1],
        {},
        "1s" * 33,
    ],
    ["99999d", float("nan"), float("inf")],
)
NOTHINGS = ([], [0, "0s", "0.0h0m"], [1e-400])
INSTANTS = (
    ["2026-12-24", "2026-12-24T18:00", "2026-12-24 18:00:01z", "2026-12-24t18:00:00.5+01:00", "2026-12-24T18:00-23:59"],
    [
        None,
        1782000000,
        True,
        "",
        "today",
        "2026-13-01",
        "2026-12-32",
        "2026-12-24T24:00",
        "2026-12-24X18:00",
        "20261224",
        "2026-12-24T18:00:00,5",
        "2026-12-24T18:00+0100",
        "2026-12-24T18:00+24:00",
        "2026-12-24T18:00:00.",
        "2026-W52-4",
    ],
    ["2026-02-30", "1960-01-01", "2113-01-01", "2026-12-24\n"],
)
RETRIES = ([0, 1, 1000], [None, -1, 1001, "3", True, 1.5, []], [3.0])
AGAIN = ([0, 1, 9999], [None, -1, 10_000, "3", True, 1.5, []], [3.0])
COUNTS = ([1, 100_000], [None, 0, -1, 100_001, "3", True, 1.5, []], [3.0])
FACTORS = ([1, 1.5, 100], [None, 0.9, 101, "2", True, []], [float("nan"), float("inf")])
JITTERS = ([0, 0.2, 100], [None, -0.1, 101, "2", False], [float("nan")])
BACKOFFS = (
    [{}, {"base": 1, "factor": 2, "max": "1h", "jitter": 0}, {"base": "15s"}],
    [None, 15, "15s", [], {"bse": 1}]
    + [
        {key: value}
        for key, values in (("base", DURATIONS), ("factor", FACTORS), ("jitter", JITTERS))
        for value in values[1]
    ],
    [{"factor": float("nan")}],
)
DELIVERIES = (["at-least-once", "at-most-once"], [None, "", "once", 1, True, []], [])
CRASHES = (["retry", "dead", "hold"], [None, "", "restart", 1, []], [])
SHELLS = (["a", "echo $1\n"], [None, 1, "", " \n\t", "a\0b", "\x85"], ["\ud800"])
SIZES = (
    [0, 500, "0", "64M", "1T"],
    [None, -1, True, 1.5, "", "K", "64m", "1.5M", "-1", "1 K", 2**61, []],
    ["9" * 16 + "T"],
)
SWITCHES = ([True, False], [None, 0, 1, "yes", []], [])
TIMEOUTS = ([value for value in DURATIONS[0] if value not in (0, "0s")], DURATIONS[1] + NOTHINGS[1], DURATIONS[2])
PERIODS = (["1s", "1000ms", 1, "1h"], [None, 0.5, 0, "0s", *DURATIONS[1]], ["0.5s", "999ms", "99999d", 1.5, "1.5s"])
EXPRESSIONS = (
    ["* * * * *", "@daily", "@reboot", "*/10 * * * * *", "0 0 L * *", "H 3 * * *", "@every 10s"],
    [None, 1, [], "a\nb", "a\0"],
    ["", "60 * * * *", "* * * *", "5/15 * * * *", "@never", "R * * * *"],
)
ZONES = (["UTC", "Europe/Berlin"], [None, 1, [], "a\nb", "a\0"], ["Europe/Nowhere", "../etc/passwd"])
CATCHUPS = (
    ["none", "last", "last/6h", "all", "all/2d", "all/2d/10"],
    [None, 1, [], "", "some", "none/6h", "last/"],
    ["last/6x", "all/2d/0", "all/2d/9999"],
)
IDS = (
    [["1000-a"], ["0-065f0c2a1b3c4-k3x9q2ab+000000001", "1000-a", "1000-a"], ["1000-" + "a" * 96]],
    [None, "1000-a", [], {}, [1], [None], ["a"], ["-a"], ["1000"], ["1000-"], ["1000-a+"], ["1000-a+b"], ["1000-.a"]],
    [["1000-a\n"], ["1-" + "a" * 97], ["12345678901-a"], ["1-a+1234567890"], ["١-a"]],
)
UNIQUES = (
    ["nightly", "ä b", "x" * 200, ["task"], ["task", "args", "queue"]],
    [None, 1, {}, [], "", ["env"], [1], "a\nb", "a\0", "x" * 201],
    [],
)
POSITIONS = ([[0], [0, 2, 999]], [None, 0, "0", [], [-1], [1000], ["0"], [True], [None]], [[1.0]])
UNTILS = (["start", "end", "success"], [None, "", "done", 1, []], [])
SCOPES = (["user", "global"], [None, "", "all", 1, []], [])
CONFLICTS = (
    [
        *("ignore", "reject", "attach", "requeue-once", "replace", {"throttle": "5s"}, {"debounce": 5}),
        *({"debounce": "5s", "max_wait": "1m"}, {"replace": ["args"]}, {"replace": ["at", "priority"]}),
    ],
    [
        *(None, "", "throttle", 1, [], {}, {"throttle": 0}, {"throttle": None}, {"max_wait": "5s"}, {"debounce": "x"}),
        *(
            {"throttle": "5s", "debounce": "5s"},
            {"replace": []},
            {"replace": ["env"]},
            {"replace": "args"},
            {"ignore": 1},
        ),
    ],
    [],
)

BATCHES = (
    ["1000-065f0c2a1b3c4-k3x9q2ab", "0-a"],
    [None, 1, "", "a", [], "1000-a+1", "1000-a+success", "-a", "1000-", ["1000-a"], "1000-" + "a" * 97],
    [],
)
JOB = {
    "task": NAMES, "command": COMMANDS, "args": LISTS, "stdin": TEXTS, "env": ENVS, "cwd": PATHS, "queue": NAMES,
    "priority": PRIORITIES, "delay": DURATIONS, "at": INSTANTS, "expires": INSTANTS,
    "start_within": TIMEOUTS, "timeout": TIMEOUTS,
    "watchdog": TIMEOUTS, "retries": RETRIES, "retry_for": TIMEOUTS, "backoff": BACKOFFS,
    "delivery": DELIVERIES, "mutex": WORDS, "weight": HEFTS, "after": IDS, "after_any": IDS,
    "after_fail": IDS, "batch": BATCHES, "unique": UNIQUES, "unique_keys": POSITIONS,
    "unique_until": UNTILS, "unique_for": TIMEOUTS, "on_conflict": CONFLICTS, "note": LINES,
}  # fmt: skip
USERS = (
    ["www-data", "a", "_x.Y", "EXAMPLE\\ann", "ann@example.org", "pc$", "a" * 100],
    [None, 0, "", "1000", "-a", ".a", "@adm", "a b", "a:b", "a/b", "ä", "a" * 101, "cronq", []],
    ["ann\n", "cronq\n"],
)
SUBMITTERS = (
    [[], ["ann"], ["@adm", "www-data", "@adm"], ["cronq"]],
    [None, "ann", {}, [1], ["ann", None], ["1000"], ["@"], ["@1"], ["@@adm"], ["a,b"]],
    [["ann\n"]],
)
ALLOWS = (
    [[], ["env", "queue", "retries", "mutex", "weight", "unique", "options", "cwd"], ["env", "env"]],
    [None, "env", {}, [1], ["path"]],
    [],
)
UMASKS = (
    ["027", "000", "777", "0022"],
    [None, 18, 0o27, "", "27", "028", "00027", "1022", "0o27", "rwx", []],
    ["027\n"],
)
NICE = ([0, 10, 19], [None, -1, 20, "3", True, 1.5, []], [3.0])
OOM = ([0, 1000], [None, -1, 1001, "3", True, 1.5], [3.0])
RLIMITS = (
    [
        {},
        {"nofile": 64, "nproc": 1, "cpu": 600},
        {"as": "2G", "core": 0, "data": 1, "fsize": "1T", "memlock": "64K", "stack": "8M"},
        {key: "unlimited" for key in taskkeys.RLIMITS if key != "nofile"},
    ],
    [None, [], "64", {"rss": 1}, {"": 1}, {"nofile": "unlimited"}]
    + [{key: value} for key in taskkeys.COUNTED for value in (0, -1, "64", "1K", True, None, 1.5, 2**31)]
    + [{"as": value} for value in (None, True, 1.5, "", "K", "infinity", "UNLIMITED", 2**61, -1)],
    [{"nofile": 3.0}, {"as": "9" * 16 + "T"}, {"as_": 1}],
)
RATES = (
    ["1/1s", "10/1m", "100000/1h30m", "007/1.5s", "1/250ms"],
    [None, 1, 1.5, [], "", "10", "10/", "/1m", "-1/1m", "1.5/1m", "0/1m", "10/m", "10/60", "a/1m", "1/1y"],
    ["1/0s", "1000000/1m", "9" * 30 + "/1m", "1/9999w", "10/1m\n"],
)
CONCURRENCIES = (
    [
        {"rate": "1/1s"},
        {"rate": "1/1s", "burst": 3, "limit": 1},
        {},
        {"key": "{args.0}", "limit": 1},
        {"key": "", "group": "g", "limit": 100_000, "on_block": "discard"},
        *({"on_block": word} for word in ("wait", "replace", "coalesce")),
        {"key": "{user} {args.99} {queue}"},
    ],
    [None, [], "{args.0}", 1, {"keys": "a"}, {"": 1}, {"limit": 0}, {"limit": "1"}, {"limit": True}, {"group": "-"}]
    + [{"burst": 1}, {"rate": "0/1m"}, {"rate": "1/1m", "burst": 0}]
    + [{"on_block": value} for value in (None, "drop", 1)]
    + [{"key": value} for value in (None, 1, "{", "}", "{}", "{args}", "{args.00}", "{args.100}", "{{user}}", "\0")],
    [{"limit": 2.0}, {"key": "a" * 201}, {"key_": "a"}],
)
MEMORY = (
    [2**20, "1M", "64M", 2**60],
    [None, 0, 2**20 - 1, 2**61, "64m", "", True, 1.5],
    ["0", "1023K", "9" * 16 + "T"],
)
PIDS = ([1, 4_194_304], [None, 0, 4_194_305, "3", True, 1.5], [3.0])
WEIGHTS = ([1, 10_000], [None, 0, 10_001, "3", True, 1.5], [3.0])
FUNCTIONS = (
    ["a:b", "package.module:function", "_a.b2:c.d"],
    [None, 1, "", "a", "a:", ":b", "a.b", "a b:c", "a:b:c", "1a:b", "a-b:c", "../a:b", ".a:b", "a::b", []],
    ["a" * 199 + ":b", "a:b\n"],
)
MODES = (["exec", "fork", "pool"], [None, "", "Fork", 1, True], [])
TASK = {
    "python": FUNCTIONS, "interpreter": PATHS, "mode": MODES, "max_jobs": COUNTS, "max_age": TIMEOUTS,
    "max_rss": MEMORY,
    "description": TEXTS, "command": COMMANDS, "shell": SHELLS, "user": USERS, "submit": SUBMITTERS, "allow": ALLOWS,
    "allow_root": SWITCHES, "queue": NAMES, "priority": PRIORITIES, "timeout": TIMEOUTS, "grace": DURATIONS,
    "priority_max": PRIORITIES, "start_within": TIMEOUTS, "timeout_max": TIMEOUTS, "watchdog": TIMEOUTS,
    "max_snoozes": AGAIN,
    "max_interruptions": AGAIN,
    "no_retry_on": (
        [[], ["memory"], ["signal", "timeout", "watchdog", "memory"]], [None, "memory", ["exit"], [1], {}, True], []
    ),
    "retries": RETRIES, "retry_for": TIMEOUTS, "backoff": BACKOFFS, "delivery": DELIVERIES,
    "on_crash": CRASHES, "max_crashes": COUNTS,
    "limit": COUNTS, "rate": RATES, "burst": COUNTS, "concurrency": CONCURRENCIES, "mutex": WORDS, "weight": HEFTS,
    "unique": UNIQUES, "unique_keys": POSITIONS, "unique_until": UNTILS, "unique_for": TIMEOUTS,
    "on_conflict": CONFLICTS, "unique_scope": SCOPES, "pause_on_failure": SWITCHES,
    "env": ENVS, "env_file": PATHS, "cwd": PATHS, "umask": UMASKS, "nice": NICE, "oom_score_adj": OOM,
    "rlimits": RLIMITS, "no_new_privs": SWITCHES, "memory_max": MEMORY, "pids_max": PIDS, "cpu_weight": WEIGHTS,
    "output_max": SIZES, "leave_children": SWITCHES,
}  # fmt: skip
AGES = (["never", "1d", 1, 0.5, "90d"], [None, 0, -1, "0s", "", "ever", "1y", True, []], [float("nan")])
KEPT = ([1, 10_000, 100_000_000], [None, 0, -1, "1", True, 100_000_001, []], [])
KEEP = {"results": AGES, "logs": AGES, "max_results": KEPT, "max_size": SIZES, "dead": AGES, "max_dead": KEPT}
KEEPS = ([{}, {"results": "1d", "max_size": "1G"}], [None, [], "1d", {"x": 1}, {"history": "1d"}, {"dead": 0}], [])
RETENTION = KEEP | {"rejected": AGES, "history": AGES, "max_history": SIZES}
QUEUE = {
    "slots": COUNTS, "rate": RATES, "burst": COUNTS, "pause_on_failure": SWITCHES, "aging": DURATIONS,
    "retention": KEEPS,
}  # fmt: skip
SCHEDULE = {
    "every": PERIODS, "cron": EXPRESSIONS, "zone": ZONES, "catchup": CATCHUPS, "jitter": DURATIONS, "task": NAMES,
    "args": LISTS, "priority": PRIORITIES, "queue": NAMES, "enabled": SWITCHES,
}  # fmt: skip
SHARES = (
    [{}, {"ann": 3, "www-data": 0.5}, {"_x": 100, "a.b": 0.01}],
    [None, 1, [], {"ann": 0}, {"ann": -1}, {"ann": "3"}, {"ann": True}, {"ann": 101}, {"1000": 1}, {"a b": 1}, {"": 1}],
    [{"ann": float("nan")}],
)
LIMITS = {"max_jobs": COUNTS, "max_jobs_per_user": COUNTS, "shares": SHARES}
PRESSURE = {
    "max_load": ([1, 0.5, 100_000], [None, 0, -1, "8", True, 100_001, []], [float("nan"), float("inf")]),
    "min_free_memory": SIZES,
}
CONTROL = {"operators": USERS}
EXEC = {"allow_root": SWITCHES}
CRON = {"system": SWITCHES, "sendmail": PATHS}
METRICS = {
    "file": (["/srv/x.prom"], [None, 1, "x.prom", "/srv/x", "/srv/x.prom.tmp", "/srv/\n.prom"], ["/srv/.prom"]),
    "every": (["15s", "1m", 60, "1h"], [None, 0, 0.5, 3601, "0s", "", "often", True, []], ["0.5s", "2h"]),
    "users": SWITCHES,
}
Grammar = dict[str, tuple[list[Any], list[Any], list[Any]]]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def near(grammar: Grammar, *, beyond: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of these keys, mostly good; with `beyond`, also what a schema cannot tell, and arbitrary values."""

    def value(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        good, bad, untold = grammar[key]
        kinds = [st.sampled_from(good)] * 6 + [st.sampled_from(bad)]
        if beyond:
            kinds += [st.sampled_from(untold)] * bool(untold) + [json_values]
        return st.tuples(st.just(key), st.one_of(kinds))

    unknown = st.tuples(st.sampled_from(["tsak", "Task", "", "x"]), json_values)
    one = st.one_of([value(key) for key in grammar] * 3 + ([unknown] if beyond else []))
    return st.lists(one, max_size=5).map(dict)


def model_takes(form: str, fields: dict[str, Any]) -> bool:
    try:
        forms.FORMS[form].model_validate(fields)
    except ValidationError:
        return False
    return True


def job_takes(fields: dict[str, Any]) -> bool:
    try:
        jobs.from_fields(fields)
    except BadJob:
        return False
    return True


def task_takes(fields: dict[str, Any]) -> bool:
    try:
        tasks.decode("t", fields, "x")
    except BadConfig:
        return False
    return True


def table_takes(tables: dict[str, Any]) -> bool:
    reading = config._Reading()
    reading.file("x", tables, main=True)
    return not reading.errors


DECODERS = {
    "job": (JOB, job_takes),
    "task": (TASK, task_takes),
    "queue": (QUEUE, lambda fields: table_takes({"queues": {"t": fields}})),
    "schedule": (SCHEDULE, lambda fields: table_takes({"schedules": {"t": fields}})),
    "limits": (LIMITS, lambda fields: table_takes({"limits": fields})),
    "pressure": (PRESSURE, lambda fields: table_takes({"pressure": fields})),
    "control": (CONTROL, lambda fields: table_takes({"control": fields})),
    "exec": (EXEC, lambda fields: table_takes({"exec": fields})),
    "retention": (RETENTION, lambda fields: table_takes({"retention": fields})),
    "metrics": (METRICS, lambda fields: table_takes({"metrics": fields})),
    "cron": (CRON, lambda fields: table_takes({"cron": fields})),
}


@pytest.mark.parametrize("form", DECODERS)
def test_every_key_has_values_to_try(form: str) -> None:
    grammar, _ = DECODERS[form]
    assert set(grammar) == set(forms.FORMS[form].model_fields)


def base(form: str, key: str) -> dict[str, Any]:
    """What must stand beside a key for the whole to be good."""
    if key in ("unique_keys", "unique_until", "unique_for", "on_conflict"):
        return {"command": ["a"], "unique": ["command"]}
    if key == "burst":
        return {"rate": "1/1s"} | ({"command": ["a"]} if form == "task" else {})
    if form == "job" and key not in ("task", "command"):
        return {"task": "a"} if key == "args" else {"command": ["a"]}
    if form == "task" and key in ("interpreter", "mode"):
        return {"python": "a:b"}
    if form == "task" and key in taskkeys.RECYCLED:
        return {"python": "a:b", "mode": "fork"}
    if form == "task" and key not in taskkeys.WHAT:
        return {"command": ["a"]}
    if form == "schedule" and key not in ("every", "cron"):
        return {"cron": "@daily"} if key == "zone" else {"every": "1s"}
    return {}


@pytest.mark.parametrize(("form", "key"), [(form, key) for form, (grammar, _) in DECODERS.items() for key in grammar])
def test_decoder_model_and_schema_agree_on_each_value_of_each_key(form: str, key: str) -> None:
    grammar, takes = DECODERS[form]
    good, bad, untold = grammar[key]
    schema_takes = validator(form)
    for value, expected in [(value, True) for value in good] + [(value, False) for value in [*bad, *untold]]:
        fields = base(form, key) | {key: value}
        assert (takes(fields), model_takes(form, fields)) == (expected, expected), value
        if not any(value is each for each in untold):
            assert schema_takes(fields) == expected, value


@patient
@given(near(JOB, beyond=True))
@example({"task": "a", "command": ["a"]})
@example({})
def test_model_and_decoder_have_the_same_verdict_on_jobs(fields: dict[str, Any]) -> None:
    assert model_takes("job", fields) == job_takes(fields)


@patient
@given(near(TASK, beyond=True))
@example({"command": ["a"], "delivery": "at-most-once", "on_crash": "retry"})
@example({"command": ["a"], "user": "root"})
@example({"command": ["a"], "user": "root", "allow_root": False})
@example({"command": ["a"], "user": "root", "allow_root": True})
@example({"command": ["a"], "cwd": "/", "allow": ["env", "cwd"]})
def test_model_and_decoder_have_the_same_verdict_on_tasks(fields: dict[str, Any]) -> None:
    assert model_takes("task", fields) == task_takes(fields)


@patient
@given(near(SCHEDULE, beyond=True), near(QUEUE, beyond=True), near(LIMITS | CONTROL | EXEC | CRON, beyond=True))
def test_model_and_decoder_have_the_same_verdict_on_the_other_tables(
    schedule: dict[str, Any], queue: dict[str, Any], only: dict[str, Any]
) -> None:
    tables: dict[str, Any] = {"schedules": {"s": schedule}, "queues": {"q": queue}}
    for title, grammar in (("limits", LIMITS), ("control", CONTROL), ("exec", EXEC), ("cron", CRON)):
        tables[title] = {key: value for key, value in only.items() if key in grammar}
    assert model_takes("config", tables) == table_takes(tables)


@patient
@given(near(JOB, beyond=False))
@example({"task": "a", "args": ["b"], "command": ["c"]})
@example({"task": "a", "delivery": "at-most-once"})
@example({"task": "a", "delay": 1, "at": "2026-12-24"})
@example({"command": ["a"], "args": []})
def test_schema_and_decoder_have_the_same_verdict_on_jobs(fields: dict[str, Any]) -> None:
    assert validator("job")(fields) == job_takes(fields)


@patient
@given(near(TASK, beyond=False))
@example({"command": ["a"], "delivery": "at-most-once", "on_crash": "retry"})
@example({"command": ["a"], "user": "root"})
@example({"command": ["a"], "user": "root", "allow_root": False})
@example({"command": ["a"], "user": "root", "allow_root": True})
@example({"command": ["a"], "cwd": "/", "allow": ["env", "cwd"]})
@example({"command": ["a"], "shell": "a"})
def test_schema_and_decoder_have_the_same_verdict_on_tasks(fields: dict[str, Any]) -> None:
    assert validator("task")(fields) == task_takes(fields)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"tasks": {"a": {"command": ["b"]}}, "queues": {"q": {"slots": 1}}, "limits": {"max_jobs": 1}},
        {"tasks": {"a b": {"command": ["b"]}}},
        {"tasks": {"a": {"command": []}}},
        {"tasks": {"a": []}},
        {"queues": {"-": {}}},
        {"queues": 3},
        {"schedules": {"a": {}}},
        {"schedules": {"a": {"every": "1s", "cron": "* * * * *"}}},
        {"schedules": {"a": {"cron": "* * * * *", "zone": "UTC"}}, "tasks": {"a": {"command": ["b"]}}},
        {"schedules": {"a": {"every": "1s", "zone": "UTC"}}, "tasks": {"a": {"command": ["b"]}}},
        {"limits": []},
        {"results": {}},
    ],
)
def test_schema_model_and_decoder_agree_on_whole_configurations(tables: dict[str, Any]) -> None:
    assert validator("config")(tables) == model_takes("config", tables) == table_takes(tables)


_validators: dict[str, Any] = {}


def validator(form: str) -> Any:
    """Whether the JSON Schema of this form takes a value, by somebody else's validator."""
    jsonschema = pytest.importorskip("jsonschema")
    if form not in _validators:
        made = forms.schema(form)
        jsonschema.Draft202012Validator.check_schema(made)
        _validators[form] = jsonschema.Draft202012Validator(made).is_valid
    return _validators[form]


def every_schema(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [found for item in part for found in every_schema(item)]
    if isinstance(part, dict):
        return [part, *(found for item in part.values() for found in every_schema(item))]
    return []


@pytest.mark.parametrize("name", intake.SCHEMAS)
def test_a_schema_describes_every_key_with_examples_and_offers_no_null(name: str) -> None:
    made = intake.schema(name)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["title"].startswith("cronq ")
    for part in every_schema(made):
        assert part.get("type") != "null"
        assert "default" not in part
        for key in part.get("properties", {}).values():
            if not {"const", "contains"} & set(key):  # those are conditions, and describe no key
                assert key["description"][0].isupper()
                assert key["examples"]
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize(
    ("form", "key", "field"),
    [(form, key, field) for form, model in forms.FORMS.items() for key, field in model.model_fields.items()],
)
def test_every_example_in_a_schema_is_one(form: str, key: str, field: Any) -> None:
    for value in field.examples:
        assert model_takes(form, base(form, key) | {key: value})


def rows_of(page: str) -> list[list[str]]:
    """The cells of each row of a page's tables whose first cell is a key."""
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| `[a-z_]+` \| ", line)]
    return [[cell.strip("| ") for cell in row] for row in rows]


def keys_below(page: str) -> dict[str, list[str]]:
    """The keys of a page's tables, by the heading above."""
    sections = [section.partition("\n") for section in (DOCS / page).read_text().split("\n## ")]
    return {heading: [row[0].strip("`") for row in rows_of(section)] for heading, _, section in sections}


def test_the_reference_of_the_job_file_has_every_key_once() -> None:
    found = keys_below("job-file.md")
    assert found["Keys"] == list(jobs.KEYS)
    assert found["Keys of backoff"] == list(jobs.BACKOFF_KEYS)


def test_the_reference_of_the_configuration_has_every_key_once() -> None:
    found = keys_below("config.md")
    assert found["Tasks: [tasks.NAME]"] == list(tasks.KEYS)
    assert found["Keys of concurrency"] == list(limitkeys.KEYS)
    assert found["Queues: [queues.NAME]"] == list(config.QUEUE_READERS)
    assert found["Schedules: [schedules.NAME]"] == list(tick.READERS)
    assert found["Limits: [limits]"] == list(config.MAIN_READERS["limits"])
    assert found["Pressure: [pressure]"] == list(config.MAIN_READERS["pressure"])
    assert found["Operators: [control]"] == list(config.MAIN_READERS["control"])
    assert found["Free commands: [exec]"] == list(config.MAIN_READERS["exec"])
    assert found["Crontabs: [cron]"] == list(config.MAIN_READERS["cron"])
    assert found["Events: [notify]"] == list(config.MAIN_READERS["notify"])
    assert found["Figures: [metrics]"] == list(config.MAIN_READERS["metrics"])
    assert found["Retention: [retention]"] == list(config.MAIN_READERS["retention"])


@pytest.mark.parametrize("page", ["job-file.md", "config.md"])
def test_every_row_of_a_reference_says_meaning_form_default_and_example(page: str) -> None:
    rows = rows_of((DOCS / page).read_text())
    assert rows
    for row in rows:
        assert len(row) == 5, row
        assert all(row), row


def test_every_job_that_the_reference_shows_is_one() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (DOCS / "job-file.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert isinstance(judge(block.encode()), Job), block


def test_every_configuration_that_the_reference_shows_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "config.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for number, block in enumerate(blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "cronq.toml").write_text(block)
        config.load(str(folder))


@pytest.mark.parametrize(
    ("page", "heading", "form"),
    [
        ("job-file.md", "Keys", "job"),
        ("config.md", "Tasks: [tasks.NAME]", "task"),
        ("config.md", "Queues: [queues.NAME]", "queue"),
        ("config.md", "Schedules: [schedules.NAME]", "schedule"),
        ("config.md", "Limits: [limits]", "limits"),
        ("config.md", "Pressure: [pressure]", "pressure"),
        ("config.md", "Operators: [control]", "control"),
        ("config.md", "Free commands: [exec]", "exec"),
        ("config.md", "Crontabs: [cron]", "cron"),
        ("config.md", "Events: [notify]", "notify"),
    ],
)
def test_the_example_of_every_key_in_a_reference_is_taken(page: str, heading: str, form: str) -> None:
    section = (DOCS / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = rows_of(section)
    assert [row[0].strip("`") for row in rows] == list(forms.FORMS[form].model_fields)
    for row in rows:
        key, text = row[0].strip("`"), row[4].strip("`")
        value = json.loads(text) if page == "job-file.md" else tomllib.loads(f"value = {text}")["value"]
        assert model_takes(form, base(form, key) | {key: value}), row
