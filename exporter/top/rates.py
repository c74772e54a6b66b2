# SPDX-License-Identifier: Apache-2.0
"""Rates: differences of totals over differences of time. Pure functions over two answers of an exporter."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.top.answers import Distribution, Labels, Metric, Probe, Probes, Series, Totals, Value

OTHER = "(other)"  # what a label reads whose value has no series of its own


@dataclass(frozen=True)
class ProbeRate:
    """What a probe costs: runs of its programs a second, nanoseconds a run, percent of a core. None: not known."""

    probe: Probe
    events: float | None = None
    nanoseconds: float | None = None
    percent: float | None = None


class Rate(NamedTuple):  # there are thousands, and these are made in a third of the time
    """A series: its value, and by how much a second a counter grew. Of a histogram, value are all that were counted;
    mean and p99, in the metric's unit, are of what came in between. None: not known (yet)."""

    value: float | None
    per_second: float | None = None
    mean: float | None = None
    p99: float | None = None


_UNKNOWN = Rate(None)


@dataclass(frozen=True)
class Group:
    """Metrics of a probe that have the same labels, and their series. rows: by labels, one rate for each metric."""

    labels: Labels
    metrics: tuple[Metric, ...]
    rows: Mapping[Labels, tuple[Rate, ...]] = field(default_factory=dict)


def increase(before: float | None, now: float | None) -> float | None:
    """Returns by how much a counter grew; a smaller one began anew at 0, as Prometheus has it."""
    if before is None or now is None:
        return None
    return now - before if now >= before else now


def of_probes(before: Probes | None, now: Probes) -> list[ProbeRate]:
    """Returns the rates of all probes since an earlier answer; without one, since the last read in their history."""
    earlier = {} if before is None else {probe.name: _totals(before.time, probe) for probe in before.probes}
    return [_of_probe(earlier.get(probe.name) or _former(now.time, probe), now.time, probe) for probe in now.probes]


def _totals(time: float, probe: Probe) -> Totals:
    return Totals(time, probe.events, probe.run_seconds)


def _former(time: float, probe: Probe) -> Totals | None:
    return next((totals for totals in reversed(probe.history) if totals.time < time), None)


def _of_probe(before: Totals | None, time: float, probe: Probe) -> ProbeRate:
    if before is None or before.time >= time:
        return ProbeRate(probe)
    passed = time - before.time
    events = increase(before.events, probe.events)
    seconds = increase(before.run_seconds, probe.run_seconds)
    return ProbeRate(
        probe,
        None if events is None else events / passed,
        seconds / events * 1e9 if events and seconds is not None else None,
        None if seconds is None else seconds / passed * 100,
    )


def of_series(before: Series | None, now: Series) -> list[Group]:
    """Returns a probe's metrics by their labels, with the rates of all series since an earlier answer, if there is one.

    The rates of a counter's series add up to what was counted in all: what was moved to ``(other)``, from series that
    gave way, is no event.
    """
    passed = now.time - before.time if before is not None else 0.0
    former = {} if before is None or passed <= 0 else {metric.name: metric for metric in before.metrics}
    groups: dict[Labels, list[Metric]] = {}
    for metric in now.metrics:
        groups.setdefault(metric.labels, []).append(metric)
    found = []
    for labels, metrics in groups.items():
        columns = [_column(former.get(metric.name), metric, passed) for metric in metrics]
        keys = dict.fromkeys(key for column in columns for key in column)
        rows = {key: tuple([column.get(key, _UNKNOWN) for column in columns]) for key in keys}
        found.append(Group(labels, tuple(metrics), rows))
    return found


def _column(before: Metric | None, now: Metric, passed: float) -> dict[Labels, Rate]:
    if before is None or before.labels != now.labels:
        return {
            key: Rate(value.count if isinstance(value, Distribution) else value) for key, value in now.series.items()
        }
    moved = _moved(before, now) if now.type == "counter" else {}
    found = {}
    for key, value in now.series.items():
        former = before.series.get(key)
        if isinstance(value, Distribution):
            found[key] = _distribution(former, value, passed)
        elif now.type != "counter" or value is None:
            found[key] = Rate(value)
        else:
            began = _plain(former)
            grown = max(0.0, value - began - moved.get(key, 0.0)) if value >= began else value
            found[key] = Rate(value, grown / passed)
    return found


def _plain(value: Value) -> float:
    """A series that was not there began at 0."""
    return 0.0 if value is None or isinstance(value, Distribution) else value


def _moved(before: Metric, now: Metric) -> dict[Labels, float]:
    """Returns what series of a counter that gave way have left in others: in those that read ``(other)`` where they
    had a value of their own, with the most labels like theirs."""
    others = [key for key in now.series if OTHER in key]
    moved = dict.fromkeys(others, 0.0)
    for key, value in before.series.items() if others else ():
        left = _plain(value)
        if _plain(now.series.get(key)) >= left or key in moved:
            continue
        fit = [other for other in others if all(a in (OTHER, b) for a, b in zip(other, key, strict=True))]
        if fit:
            moved[min(fit, key=lambda other: other.count(OTHER))] += left
    return moved


def _distribution(before: Value, now: Distribution, passed: float) -> Rate:
    if not isinstance(before, Distribution) or now.count < before.count:
        before = Distribution(0, 0, ())
    count = now.count - before.count
    former = dict(before.buckets)
    buckets = [(le, cumulative - former.get(le, 0.0)) for le, cumulative in now.buckets]
    mean = (now.sum - (before.sum or 0.0)) / count if count and now.sum is not None else None
    return Rate(now.count, count / passed, mean, quantile(0.99, buckets))


def quantile(q: float, buckets: list[tuple[float, float]]) -> float | None:
    """Returns the value below which a share q of a histogram lies, with cumulative counts by their upper bounds.

    Within a bucket it is linear, above all bounds it is the largest, as in Prometheus' histogram_quantile.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    wanted = q * total
    lower, below = 0.0, 0.0
    for le, cumulative in buckets:
        if cumulative >= wanted:
            if math.isinf(le):
                return lower
            inside = cumulative - below
            return lower + (le - lower) * (wanted - below) / inside if inside > 0 else le
        lower, below = le, cumulative
    return lower
