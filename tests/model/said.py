"""The configuration under which dispatcher and reference live, said to each in its own words, and the jobs that are
submitted to them."""

from facts import ALL, Conflict, Says
from hypothesis import strategies as st
from theatre import MORE

from cronq.job import CALLBACKS

CHANCE = 0.5
WINDOW = 3
TOML = """
[limits]
max_jobs = 4
[queues.narrow]
slots = 2
aging = "1s"
[queues.other]
aging = 0
pause_on_failure = true
[tasks.once]
command = ["true"]
delivery = "at-most-once"
retries = 1
[tasks.hold]
command = ["true"]
on_crash = "hold"
retries = 1
[tasks.oncehold]
command = ["true"]
delivery = "at-most-once"
on_crash = "hold"
[tasks.bury]
command = ["true"]
on_crash = "dead"
pause_on_failure = true
[tasks.poison]
command = ["true"]
max_crashes = 2
[tasks.few]
command = ["true"]
limit = 2
[tasks.alone]
command = ["true"]
mutex = "m"
[tasks.long]
command = ["true"]
retry_for = "1m"
backoff = { base = "10s", factor = 2.0, max = "1h", jitter = 0.2 }
[tasks.late]
command = ["true"]
start_within = "7s"
[tasks.pair]
command = ["true"]
concurrency = { key = "{args.0}", limit = 2 }
[tasks.drop]
command = ["true"]
concurrency = { key = "{args.0}", limit = 1, on_block = "discard" }
[tasks.swap]
command = ["true"]
concurrency = { key = "{args.0}", limit = 1, on_block = "replace" }
[tasks.merge]
command = ["true"]
concurrency = { key = "{args.0}", limit = 1, on_block = "coalesce" }
"""
RATES_TOML = """
[queues.paced]
rate = "2/8s"
burst = 2
[tasks.slow]
command = ["true"]
rate = "1/5s"
[tasks.each]
command = ["true"]
concurrency = { key = "{args.0}", rate = "1/4s" }
"""
TASKS = {
    "": {},
    "once": {"once": True, "on_crash": "dead", "retries": 1},
    "hold": {"on_crash": "hold", "retries": 1},
    "oncehold": {"once": True, "on_crash": "hold"},
    "bury": {"on_crash": "dead"},
    "poison": {"max_crashes": 2},
    "few": {},
    "alone": {"mutex": "m"},
    "long": {"retries": 2, "backoff": (10.0, 2.0, 3600.0, 0.2)},  # 10 and 20 seconds; 40 more would be too late
    "late": {"within": 7_000_000},
    "pair": {},
    "drop": {},
    "swap": {},
    "merge": {},
}
KEYS = {"pair": (2, "wait"), "drop": (1, "discard"), "swap": (1, "replace"), "merge": (1, "coalesce")}
KEYED = (*KEYS, "each")
RATES = {"queue paced": (4.0, 2), "task slow": (5.0, 1), "key each": (4.0, 1)}
QUEUES = ("default", "narrow", "other")
GATES = ("drain", *(f"queue:{name}" for name in QUEUES), *(f"task:{name}" for name in TASKS if name))


def says(window: int, rates: dict[str, tuple[float, int]]) -> Says:
    return Says(
        max_jobs=4,
        slots={"narrow": 2},
        limits={"few": 2},
        keys=KEYS,
        rates=rates,
        agings={"narrow": 1, "other": 0},
        pausing=("queue:other", "task:bury"),
        window=window,
        most=window + MORE,
        chance=CHANCE,
    )


specs = st.fixed_dictionaries(
    {"task": st.sampled_from(("", "", "", *TASKS)), "argument": st.sampled_from("xxy")},
    optional={
        "priority": st.sampled_from(("low", "high", 20, 3)),
        "delay": st.sampled_from((0, 1, 7, 60)),
        "at": st.sampled_from((-5, 2, 90)),
        "expires": st.sampled_from((0, 3, 40)),
        "start_within": st.sampled_from((2, 30)),
        "retries": st.sampled_from((0, 1, 3)),
        "backoff": st.sampled_from(((0.0, 2.0, 9.0, 0.0), (1.0, 3.0, 20.0, 0.2))),
        "queue": st.sampled_from(("narrow", "other")),
        "weight": st.sampled_from((0, 2, 3)),
        "mutex": st.sampled_from(("m", "n")),
        "data": st.just(True),
    },
)
keyed = st.fixed_dictionaries(
    {"task": st.sampled_from(tuple(KEYS)), "argument": st.sampled_from("xxxy")},
    optional={
        "priority": st.sampled_from(("low", 3)),
        "delay": st.sampled_from((1, 7)),
        "retries": st.just(1),
        "weight": st.sampled_from((0, 2, 3)),
        "mutex": st.just("m"),
    },
)
paced = st.fixed_dictionaries(
    {"task": st.sampled_from(("slow", "each", "each", "")), "argument": st.sampled_from("xxxy")},
    optional={"queue": st.just("paced"), "priority": st.sampled_from(("low", 3)), "retries": st.just(1)},
)
uniques = st.fixed_dictionaries(
    {"unique": st.sampled_from("uuuv")},
    optional={
        "until": st.sampled_from(("start", "success")),
        "lasts": st.sampled_from((3, 10)),
        "conflict": st.sampled_from(
            (
                *(Conflict(word) for word in ("ignore", "reject", "attach", "requeue-once", "replace", "replace")),
                *(Conflict("replace", parts=parts) for parts in (("args",), ("at",), ("priority", "at"), ALL)),
                Conflict("debounce", 2_000_000),
                Conflict("debounce", 7_000_000, 9_000_000),
                Conflict("throttle", 6_000_000),
            )
        ),
    },
).filter(lambda said: "lasts" not in said or "at" in said.get("conflict", Conflict()).parts)
edits = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from(("low", 5)),
        "delay": st.sampled_from((0, 2, 30)),
        "queue": st.sampled_from(QUEUES),
        "expires": st.sampled_from((1, 20)),
    },
).filter(bool)
picks = st.integers(0, 99)
ends = st.sampled_from((0, 0, 1, 3, 75, 64, 65, 77, 78, "signal", "timeout"))
batches = {
    "members": st.lists(specs, min_size=1, max_size=6),
    "header": st.booleans(),
    "calls": st.sets(st.sampled_from(CALLBACKS)),
}


def of_conflict(conflict: Conflict) -> object:
    """As a job's file says it."""
    if conflict.action == "throttle":
        return {"throttle": f"{conflict.wait // 1_000_000}s"}
    if conflict.action == "debounce":
        most = {} if conflict.longest is None else {"max_wait": f"{conflict.longest // 1_000_000}s"}
        return {"debounce": f"{conflict.wait // 1_000_000}s", **most}
    return conflict.action if conflict.parts == ALL else {"replace": list(conflict.parts)}
