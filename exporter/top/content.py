# SPDX-License-Identifier: Apache-2.0
"""What stands in the tables: all probes, or the series of one."""

from collections.abc import Sequence
from itertools import pairwise

from exporter.top import text
from exporter.top.answers import Metric
from exporter.top.rates import Group, ProbeRate, Rate
from exporter.top.table import Cell, Column, Row, Table

_PROBE_COLUMNS = (
    Column("PROBE", least=24),
    Column("STATE"),
    Column("EVENTS/S", text.number, rank=1),
    Column("NS/EVENT", text.whole, rank=4),
    Column("%CORE", text.percent, rank=2),
    Column("SERIES", text.whole, rank=3),
    Column("BUDGET", text.whole, rank=6),
    Column("MISSED", text.whole, rank=5),
    Column("MECHANISM", rank=7, least=16),
    Column("REASON", rank=8, least=12),
)
_GOOD = ("running", "starting")


def of_probes(rates: Sequence[ProbeRate]) -> Table:
    """Returns a row for each probe, sorted by what it costs."""
    rows = tuple(
        Row(
            (probe.name,),
            (
                probe.name,
                probe.state,
                rate.events,
                rate.nanoseconds,
                rate.percent,
                probe.series,
                probe.max_series,
                probe.missed,
                probe.mechanism,
                probe.reason,
            ),
            bad=probe.state not in _GOOD,
        )
        for rate in rates
        for probe in [rate.probe]
    )
    return Table("probes", _PROBE_COLUMNS, rows, sort=2)


def of_series(groups: Sequence[Group]) -> list[Table]:
    """Returns a table for metrics that have the same labels, each sorted by its first rate."""
    names = short([metric.name for group in groups for metric in group.metrics])
    return [_of_group(group, names) for group in groups]


def _of_group(group: Group, names: dict[str, str]) -> Table:
    columns = [Column(label.upper()) for label in group.labels]
    for metric in group.metrics:
        columns += _columns(metric, names[metric.name].upper())
    kinds = [metric.type for metric in group.metrics]
    rows = []
    for labels, rates in group.rows.items():
        cells: list[Cell] = [*labels]
        for kind, rate in zip(kinds, rates, strict=True):
            cells += _cells(kind, rate)
        rows.append(Row(labels, tuple(cells)))
    rows.sort(key=lambda row: (-(group.rows[row.key][0].value or 0), row.key))
    title = ", ".join(names[metric.name] for metric in group.metrics)
    return Table(title, tuple(columns), tuple(rows), sort=len(group.labels))


_SPREAD = ("histogram", "summary")


def _columns(metric: Metric, name: str) -> list[Column]:
    if metric.type == "counter":
        return [Column(f"{name}/S", text.number), Column(name, text.plain, rank=2)]
    if metric.type in _SPREAD:
        show = text.duration if metric.name.endswith("_seconds") else text.number
        rate = Column(f"{name}/S" if not metric.name.endswith("_seconds") else "EVENTS/S", text.number)
        return [rate, Column("MEAN", show), Column("P99", show, rank=1), Column("EVENTS", text.plain, rank=2)]
    return [Column(name, text.plain)]


def _cells(kind: str, rate: Rate) -> tuple[Cell, ...]:
    if kind == "counter":
        return rate.per_second, rate.value
    if kind in _SPREAD:
        return rate.per_second, rate.mean, rate.p99, rate.value
    return (rate.value,)


def short(names: Sequence[str]) -> dict[str, str]:
    """Returns what tells the metrics of a probe apart: ebpf_xdp_packets_total, ebpf_xdp_rule_packets_total -> packets,
    rule_packets."""
    words = {name: name.removesuffix("_total").split("_") for name in names}
    common = min((len(one) - 1 for one in words.values()), default=0)
    for a, b in pairwise(words.values()):
        common = next((at for at in range(common) if a[at] != b[at]), common)
    return {name: "_".join(one[common:]) for name, one in words.items()}
