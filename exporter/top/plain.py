# SPDX-License-Identifier: Apache-2.0
"""The same as text, where there is no terminal, and as JSON: once, of two answers."""

import json
import math
import time
from typing import Any

from exporter.top import content, rates, text
from exporter.top.answers import Probes, Series
from exporter.top.client import Client
from exporter.top.rates import ProbeRate, Rate
from exporter.top.table import Order, Table, ordered, render


def table(client: Client, probe: str, seconds: float, columns: int | None, encoding: str) -> str:
    """Returns tables whose rates are over so many seconds, so many columns wide; None: as wide as they are."""
    if probe:
        tables = content.of_series(rates.of_series(*_two_series(client, probe, seconds)))
    else:
        tables = [content.of_probes(rates.of_probes(*_two(client, seconds)))]
    return "\n".join(text.of(encoding, _text(one, columns, encoding)) for one in tables) or "it has no series\n"


def _text(table: Table, columns: int | None, encoding: str) -> str:
    order = Order(table.sort)
    head, lines = render(table, ordered(table, order), order, columns, encoding)
    return "".join(f"{line.rstrip(' ')}\n" for line in (head, *lines))


def as_json(client: Client, probe: str, seconds: float) -> str:
    """Returns all probes, or one's series, with rates over so many seconds, as JSON."""
    if not probe:
        before, now = _two(client, seconds)
        value = {"probes": list(map(_probe, rates.of_probes(before, now)))}
        return _object(before.time, now.time, value)
    earlier, later = _two_series(client, probe, seconds)
    metrics = [
        {
            "name": metric.name,
            "type": metric.type,
            "series": [
                {"labels": dict(zip(group.labels, labels, strict=True)), **_rate(metric.type, one[at])}
                for labels, one in group.rows.items()
            ],
        }
        for group in rates.of_series(earlier, later)
        for at, metric in enumerate(group.metrics)
    ]
    return _object(earlier.time, later.time, {"name": later.name, "metrics": metrics})


def _two(client: Client, seconds: float) -> tuple[Probes, Probes]:
    before = client.probes()
    time.sleep(seconds)
    return before, client.probes()


def _two_series(client: Client, probe: str, seconds: float) -> tuple[Series, Series]:
    before = client.series(probe)
    time.sleep(seconds)
    return before, client.series(probe)


def _object(before: float, now: float, value: dict[str, Any]) -> str:
    return json.dumps({"time": now, "seconds": now - before, **value}, indent=2) + "\n"


def _probe(rate: ProbeRate) -> dict[str, Any]:
    probe = rate.probe
    return {
        "name": probe.name,
        "state": probe.state,
        "mechanism": probe.mechanism,
        "reason": probe.reason,
        "events_per_second": rate.events,
        "nanoseconds_per_event": rate.nanoseconds,
        "percent_of_core": rate.percent,
        "series": probe.series,
        "max_series": probe.max_series,
        "events_total": probe.events,
        "missed_total": probe.missed,
        "overflowed_total": probe.overflowed,
        "folded_total": probe.folded,
    }


def _rate(kind: str, rate: Rate) -> dict[str, float | None]:
    found = {"value": rate.value} if kind in ("counter", "gauge") else {"count": rate.value, "mean": rate.mean}
    if kind == "histogram":
        found["p99"] = rate.p99
    if kind != "gauge":
        found["per_second"] = rate.per_second
    # JSON has no infinity
    return {key: value if value is None or math.isfinite(value) else None for key, value in found.items()}
