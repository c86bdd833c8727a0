"""The documents say what the code does."""

import os
import re
from pathlib import Path

import pytest
from cron.bench import Bench
from prometheus_client.parser import text_string_to_metric_families

from cronq import config, measures, soundness, states
from cronq.entry import Entry
from cronq.house import Now
from cronq.pauses import Pause

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path, os.getuid())
    yield made
    made.close()


def test_the_table_of_moves_is_the_codes_table():
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| (\w+) \|$", (DOCS / "spool.md").read_text(), re.M)
    written = {move: (tuple(sources.split(", ")), to) for move, sources, to in rows if move != "move"}
    assert written == states.MOVES


def test_every_finding_of_fsck_is_documented_as_the_code_has_it():
    rows = re.findall(r"^\| ([\w-]+) \| (fault|note) \| (.+) \| (.+) \|$", (DOCS / "fsck.md").read_text(), re.M)
    assert {name: soundness.Kind(*said) for name, *said in rows} == soundness.KINDS


def test_every_figure_is_documented_and_what_is_documented_is_one(bench):
    bench.house.config.queues["mail"] = config.Queue("mail", slots=2)
    bench.house.backlog.put(states.READY, Entry(id="7-a", due=0))
    bench.house.pauses.begin("queue:mail", Pause())
    text = "".join(filter(None, measures.text(bench.house, lambda: Now(9.0, 9.0), None)))
    rows = re.findall(r"^\| `(cronq_\w+)` \| ([\w, ]*) ?\| (\w+) \|", (DOCS / "metrics.md").read_text(), re.M)
    written = {name: ({*filter(None, labels.strip().split(", "))}, kind) for name, labels, kind in rows}
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name.removesuffix("_total") for name in written} == set(found)
    for name, (labels, kind) in written.items():
        family = found[name.removesuffix("_total")]
        assert (kind, labels) == (family.type, {*family.samples[0].labels} - {"le"}), name
