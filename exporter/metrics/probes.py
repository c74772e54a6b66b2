# SPDX-License-Identifier: Apache-2.0
"""How probes stand and what they counted, as JSON: what the status page and ``ebpf-exporter top`` are made of.

A probe's series are made of the lines of ``/metrics``: a label's value as it is escaped there is a string of JSON too.
"""

import dataclasses
import json
import platform
import re
from typing import Any

from exporter import __version__
from exporter.bpftrace.totals import Shown
from exporter.metrics.health import Health
from exporter.probe import Metric, Probe
from exporter.status import ProbeStatus

_VALUE = r'"([^"\\]*(?:\\.[^"\\]*)*)"'  # as it is escaped on the page: a quote within follows a backslash


def overview(health: Health) -> bytes:
    """Returns all probes, with their totals as of the last read; each key has a line of its own."""
    whole = {
        "version": __version__,
        "host": platform.node(),
        "time": health.last_read,
        "interval": health.interval,
        "config_loaded": health.config_loaded,
        "config_good": health.config_good,
        "web_config_good": health.web_successful,
    }
    probes = ",\n".join(f"{{\n{_lines(_probe(health, status))}\n}}" for status in health.current())
    return f'{{\n{_lines(whole)},\n"probes": [\n{probes}\n]\n}}\n'.encode()


def _lines(members: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())


def _probe(health: Health, status: ProbeStatus) -> dict[str, Any]:
    """Returns the members of one probe; None stands for what is not known, or not of a probe that does not run."""
    running, reader = health.running.get(status.name), health.scripts.get(status.name)
    probe: Probe | None = running.maps.probe if running else reader.probe if reader else None
    tables: list[Shown] = [shown for name, shown in health.tables() if name == status.name]
    last = running.history.last if running else None
    return {
        **dataclasses.asdict(status),
        "events_total": last and last[1],
        "run_seconds_total": last and last[2],
        "missed_total": running.all_missed() if running else reader.missed if reader else None,
        "overflowed_total": sum(shown.overflowed for shown in tables),
        "series": max(map(len, tables), default=0),
        "max_series": probe and probe.max_series,
        "folded_total": sum(shown.folded for shown in tables),
        "max_cpu_percent": probe and probe.cpu_percent,
        "metrics": [metric.name for shown in tables for metric in shown.table.metrics if metric.chosen],
        "history": list(running.history) if running else [],
    }


def series(health: Health, name: str) -> list[bytes]:
    """Returns one probe's metrics with all their series, in parts; a series has a line of its own."""
    head = json.dumps({"time": health.last_read, "name": name})[:-1]
    parts, between = [f'{head}, "metrics": ['.encode()], b"\n"
    for owner, shown in health.tables():
        if owner == name:
            for metric, lines in shown.render():
                labels = [label.name for label in shown.table.labels]
                about = {"name": metric.name, "type": metric.type, "help": metric.help, "labels": labels}
                parts += [between + json.dumps(about)[:-1].encode(), b', "series": [\n', _series(metric, labels, lines)]
                between = b"\n]},\n"
    return [*parts, b"\n]}\n]}\n" if len(parts) > 1 else b"]}\n"]


def _series(metric: Metric, labels: list[str], lines: bytes) -> bytes:
    r"""``ebpf_a_total{comm="a\"b"} 3`` -> ``[["a\"b"],3]``"""
    if metric.type in ("histogram", "summary"):
        return b",\n".join(_distributions(metric.name, labels, lines.decode()))
    lines = lines.replace(b" NaN\n", b" null\n")  # a gauge before its first value; labels have no newlines in them
    made = "[[" + ",".join('"%b"' for _ in labels) + "],%b]"
    return b",\n".join(map(made.encode().__mod__, re.findall(_line(metric.name, labels).encode(), lines)))


def _line(name: str, labels: list[str]) -> str:
    """Returns the expression of a line: its groups are the labels' values and the series' value."""
    inner = ",".join(f"{label}={_VALUE}" for label in labels)
    return rf"{name}\{{{inner}\}} (.*)\n" if labels else rf"{name} (.*)\n"


def _distributions(name: str, labels: list[str], lines: str) -> list[bytes]:
    """Returns series whose value is ``{"count": 3, "sum": 0.5, "buckets": [["0.1", 1], ["+Inf", 3]]}``."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(values: tuple[str, ...]) -> dict[str, Any]:
        return found.setdefault(values, {"count": None, "sum": None, "buckets": []})

    for match in re.finditer(_line(f"{name}_bucket", [*labels, "le"]), lines):
        *values, le, count = match.groups()
        one = of(tuple(values))
        one["buckets"].append([le, int(count)])
        one["count"] = int(count)  # the last bucket has them all
    for key, kind in (("sum", float), ("count", int)):
        for match in re.finditer(_line(f"{name}_{key}", labels), lines):
            *values, value = match.groups()
            of(tuple(values))[key] = kind(value)
    texts = (",".join(f'"{value}"' for value in values) for values in found)
    return [f"[[{text}],{json.dumps(one)}]".encode() for text, one in zip(texts, found.values(), strict=True)]
