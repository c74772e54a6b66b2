# SPDX-License-Identifier: Apache-2.0
"""top/content.py: what stands in the tables."""

import pytest

from exporter.top import content, rates
from exporter.top.answers import Distribution
from exporter.top.rates import ProbeRate
from exporter.top.table import Order, render

from .support import metric, probe, probes, series


def test_probes() -> None:
    """A row for each probe: what it counts and costs, and why it does not."""
    good = probe(series=12, missed_total=3)
    bad = probe("xdp", state="failed", reason="no such interface", mechanism="", series=0, max_series=None)
    bad_rate = rates.of_probes(None, probes(0, bad))[0]
    table = content.of_probes([ProbeRate(good, 5200.0, 128.4, 1.234), bad_rate])
    assert [row.bad for row in table.rows] == [False, True]
    head, lines = render(table, table.rows, Order(table.sort))
    assert head.split() == "PROBE STATE EVENTS/Sv NS/EVENT %CORE SERIES BUDGET MISSED MECHANISM REASON".split()
    assert lines[0].split() == "file_io running 5.20k 128 1.23 12 1,000 3 tracepoint".split()
    assert lines[1].split() == "xdp failed - - - 0 - 0 no such interface".split()


def test_series() -> None:
    """Counters with their rate and total, of metrics that have the same labels in a row; the largest total first."""
    before = series(0, metric({("a",): 1, ("b",): 9}, "ebpf_x_bytes_total"), metric({("a",): 2}, "ebpf_x_calls_total"))
    now = series(2, metric({("a",): 5, ("b",): 9}, "ebpf_x_bytes_total"), metric({("a",): 2}, "ebpf_x_calls_total"))
    [table] = content.of_series(rates.of_series(before, now))
    assert (table.title, table.sort) == ("bytes, calls", 1)
    assert [column.title for column in table.columns] == ["COMM", "BYTES/S", "BYTES", "CALLS/S", "CALLS"]
    assert [row.cells for row in table.rows] == [("b", 0.0, 9, None, None), ("a", 2.0, 5, 0.0, 2)]


def test_other_types() -> None:
    """Of a histogram mean and p99, in its unit; of a gauge its value."""
    inf = float("inf")
    one = Distribution(10, 0.001, ((0.0002, 10), (inf, 10)))
    metrics = [
        metric({("a",): one}, "ebpf_x_latency_seconds", kind="histogram"),
        metric({("r",): 4}, "ebpf_x_depth", ("op",), "gauge"),
    ]
    empty = [metric({}, one.name, one.labels, one.type) for one in metrics]
    tables = content.of_series(rates.of_series(series(0, *empty), series(2, *metrics)))
    shown = [render(table, table.rows, Order(table.sort)) for table in tables]
    assert [(head.split(), lines[0].split()) for head, lines in shown] == [
        (["COMM", "EVENTS/Sv", "MEAN", "P99", "EVENTS"], ["a", "5.00", "100us", "198us", "10"]),
        (["OP", "DEPTHv"], ["r", "4"]),
    ]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("ebpf_file_opens_total", "opens"),
        ("ebpf_file_io_bytes_total ebpf_file_io_latency_seconds", "bytes latency_seconds"),
        ("ebpf_xdp_packets_total ebpf_xdp_bytes_total ebpf_xdp_rule_packets_total", "packets bytes rule_packets"),
        ("ebpf_a_total ebpf_a_b_total", "a a_b"),
        ("up", "up"),
        ("", ""),
    ],
)
def test_short_names(names: str, shown: str) -> None:
    """What tells metrics apart, and no less than a word."""
    assert list(content.short(names.split()).values()) == shown.split()
