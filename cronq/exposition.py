"""Exposition: figures as Prometheus reads them, the text format 0.0.4.

Does:    `Family.pieces` gives one family: HELP, TYPE, and a line for each sample; a histogram's buckets are cumulative.
Reads:   nothing but its arguments.
Trusts:  names and help texts, which are ours. Not the values of labels: they are escaped.
Fails:   never.

https://prometheus.io/docs/instrumenting/exposition_formats/ and .../practices/naming/ hold what is meant: base units
(seconds), `_total` for what only grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cronq.counting import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
Labels = Mapping[str, str]
_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_ESCAPED_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


class Family(NamedTuple):
    """All samples of one name."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[Labels, float | Histogram]]

    def pieces(self) -> Iterator[str]:
        """Its lines, those of one sample at a time; nothing where it has none."""
        if self.samples:
            help_text = self.help.translate(_ESCAPED_HELP)
            yield f"# HELP {self.name} {help_text}\n# TYPE {self.name} {self.kind}\n"
        for labels, value in self.samples:
            if isinstance(value, Histogram):
                yield "".join(f"{line}\n" for line in _histogram(self.name, labels, value))
            else:
                yield f"{self.name}{_labels(labels)} {_number(value)}\n"


def _histogram(name: str, labels: Labels, found: Histogram) -> Iterator[str]:
    count = 0
    for bound, number in zip((*found.bounds, None), found.buckets, strict=True):
        count += number
        below = "+Inf" if bound is None else _number(bound)
        yield f"{name}_bucket{_labels({**labels, 'le': below})} {count}"
    yield f"{name}_sum{_labels(labels)} {_number(found.sum)}"
    yield f"{name}_count{_labels(labels)} {count}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    said = (f'{key}="{value.translate(_ESCAPED).encode("utf-8", "replace").decode()}"' for key, value in labels.items())
    return "{" + ",".join(said) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(round(value, 6))
