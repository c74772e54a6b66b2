# SPDX-License-Identifier: Apache-2.0
"""What several unit tests make: probes, tables and keys without YAML, and the values on a page."""

import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from exporter import kinds
from exporter.probe import Hook, Label, Mechanism, Metric, Probe, Program, Table, powers_of_two

Series = dict[tuple[tuple[str, str], ...], float]  # (("comm", "bash"), ("op", "read")) -> 3.0


def label(name: str, kind: str | Sequence[str], chosen: bool = True) -> Label:
    return Label(name, kinds.parse(kind), chosen)


def counter(name: str, *labels: Label, chosen: bool = True, scale: float = 1.0) -> Metric:
    return Metric(name, "counter", "Help.", labels, chosen, scale)


def gauge(name: str, *labels: Label, keep: str = "last", scale: float = 1.0) -> Metric:
    return Metric(name, "gauge", "Help.", labels, scale=scale, keep=keep)


def histogram(name: str, exponents: tuple[int, int], *labels: Label, scale: float = 1.0) -> Metric:
    bounds, les = powers_of_two(*exponents, scale)
    return Metric(name, "histogram", "Help.", labels, scale=scale, bounds=bounds, les=les)


def probe(*metrics: Metric, source: Path = Path("/probes/p.c"), max_series: int = 1000) -> Probe:
    """A probe of one program, on a tracepoint."""
    mechanism = Mechanism((Program("on_event", (Hook("tracepoint", "a:b"),)),))
    yaml = source.with_suffix(".yaml")
    c = source.read_text() if source.exists() else ""
    return Probe(source.stem, "Counts.", yaml, source, (mechanism,), metrics, max_series=max_series, c=c)


def key(table: Table, **values: str | bytes | int) -> bytes:
    """A key of the map, as the kernel has it; fields not given are 0."""
    return _laid_out(table, values)[: table.key_size]


def bounded_key(table: Table, **values: str | bytes | int) -> bytes:
    """A key of the overflow map: the part of a key that holds its bounded labels."""
    return _laid_out(table, values)[: table.bounded_size]


def _laid_out(table: Table, values: Mapping[str, str | bytes | int]) -> bytes:
    data = bytearray(table.fields[-1].offset + table.fields[-1].size)
    for field in table.fields:
        value = values.get(field.name, 0)
        if isinstance(value, int):
            data[field.offset : field.offset + field.size] = value.to_bytes(field.size, sys.byteorder)
        else:
            text = value.encode() if isinstance(value, str) else value
            data[field.offset : field.offset + field.size] = text.ljust(field.size, b"\0")
    return bytes(data)


def numbers(*values: int) -> bytes:
    """A map value: u64 fields."""
    return struct.pack(f"={len(values)}Q", *values)


def samples(text: str) -> dict[str, Series]:
    """Parses a page with prometheus_client: sample name -> labels, sorted by name -> value. No series stands twice."""
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]  # untyped
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in series, f"{sample.name}{labels} stands there twice"
            series[labels] = sample.value
    return found
