# SPDX-License-Identifier: Apache-2.0
"""metrics/probes.py: what /probes and /probes/NAME say, compared with what /metrics says."""

import json
import struct
from typing import Any

import pytest

from exporter import libbpf
from exporter.bpftrace.output import Pairs
from exporter.bpftrace.reader import Reader
from exporter.bpftrace.totals import OfMap, shown
from exporter.libbpf import ProgramStatistics
from exporter.metrics import probes
from exporter.metrics.health import Health, Running
from exporter.metrics.maps import ProbeMaps
from exporter.probe import Metric, ScriptMap
from exporter.status import ProbeStatus

from ..support import counter, gauge, histogram, key, label, numbers, probe, samples

HOSTILE = [
    "<script>x",
    '"}, 1',
    '"} 1',
    '",comm="x',
    "back\\slash",
    "two\nlines",
    "esc\x1b[31m",
    "\u202egnp.exe",
    "],NaN]",
    "} NaN",
    'a,b="c',
    "漢字",
    "\x7f\u0085\u2028",
    "",
    "(other)",
]


def health_of(found: Any, *tables: Any, programs: dict[str, int] | None = None) -> Health:
    """Returns the health of one probe that runs, whose tables these functions fill."""
    maps = ProbeMaps(found, {"writing": 10})
    for series, fill in zip(maps.tables, tables, strict=True):
        fill(series)
    one = Health(config_loaded=1.5, interval=5.0)
    one.statuses = {"p": ProbeStatus("p", "Counts.", "running", "kprobe"), "q": ProbeStatus("q", "Counts.", "failed")}
    one.running["p"] = Running(maps, programs or {})
    return one


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "map_lookup", lambda *_: bytes(4))
    monkeypatch.setattr(libbpf, "program_statistics", lambda fd: ProgramStatistics(fd, fd * 10**9, fd + 1))


def of(health: Health, name: str) -> dict[str, Any]:
    return next(dict(one) for one in json.loads(probes.overview(health))["probes"] if one["name"] == name)


def test_totals() -> None:
    """Totals are those of the last read: all programs' runs and time, what was missed, overflowed and folded."""

    def fill(series: Any) -> None:
        for comm in "abcde":
            series.add(key(series.table, comm=comm), numbers(1, 1))
        series.add_rest(numbers(7, 7, 7))

    found = probe(
        counter("ebpf_a_total", label("comm", "comm")),
        counter("ebpf_b_total", label("comm", "comm"), chosen=False),
        max_series=2,
    )
    health = health_of(found, fill, programs={"f": 3, "g": 5})
    before = of(health, "p")
    assert (before["events_total"], before["run_seconds_total"], before["history"]) == (None, None, [])
    health.has_read(0.0, 1000.5)
    expected = {
        "events_total": 8, "run_seconds_total": 8.0, "missed_total": 10, "overflowed_total": 7, "series": 3,
        "max_series": 2, "folded_total": 3, "max_cpu_percent": 5.0, "metrics": ["ebpf_a_total"],
        "history": [[1000.5, 8, 8.0]], "state": "running", "mechanism": "kprobe",
    }  # fmt: skip
    assert {name: value for name, value in of(health, "p").items() if name in expected} == expected
    whole = json.loads(probes.overview(health))
    assert (whole["time"], whole["interval"], whole["config_loaded"], whole["config_good"]) == (1000.5, 5.0, 1.5, True)


def test_a_probe_that_does_not_run_has_no_totals() -> None:
    """What is not known is null: a zero would be a lie."""
    unknown = ("events_total", "run_seconds_total", "missed_total", "max_series", "max_cpu_percent")
    found = of(health_of(probe()), "q")
    assert {found[name] for name in unknown} == {None}
    assert (found["metrics"], found["history"], found["series"]) == ([], [], 0)


def test_misses_that_the_kernel_does_not_tell() -> None:
    """Of programs of which it is unknown it is null; of others their sum."""
    health = health_of(probe(), programs={"f": 3, "g": 5})
    health.running["p"].misses_unknown = ("f",)
    assert of(health, "p")["missed_total"] == 6
    health.running["p"].misses_unknown = ("f", "g")
    assert of(health, "p")["missed_total"] is None


def test_series_are_those_of_metrics() -> None:
    """Label for label and value for value, whatever is in a label, series are what Prometheus reads of /metrics."""

    def fill(series: Any) -> None:
        for number, comm in enumerate(HOSTILE):
            series.add(key(series.table, comm=comm, op=number % 2), numbers(number, 2**60 + number))

    labels = label("op", ["read", "write"]), label("left_out", "u32", chosen=False), label("comm", "string(64)")
    found = probe(counter("ebpf_a_total", *labels), counter("ebpf_b_seconds_total", *labels, scale=1e-9))
    health = health_of(found, fill)
    health.has_read(0.0, 7.25)
    told = json.loads(b"".join(probes.series(health, "p")))
    assert (told["time"], told["name"]) == (7.25, "p")
    heads = [(one["name"], one["type"], one["help"], one["labels"]) for one in told["metrics"]]
    assert heads == [(name, "counter", "Help.", ["op", "comm"]) for name in ("ebpf_a_total", "ebpf_b_seconds_total")]
    for metric, (_, lines) in zip(told["metrics"], health.running["p"].maps.tables[0].render(), strict=True):
        expected = samples(lines.decode())[metric["name"]]
        assert {
            tuple(sorted(zip(metric["labels"], values, strict=True))): value for values, value in metric["series"]
        } == expected
        assert len(metric["series"]) == len(HOSTILE)


def test_control_characters_are_spelled() -> None:
    """A control character reads as it does on /metrics: as its number, in letters."""
    health = health_of(
        probe(counter("ebpf_a_total", label("comm", "comm"))),
        lambda series: series.add(key(series.table, comm="\x1b[31m\n\x00"), numbers(1)),
    )
    [metric] = json.loads(b"".join(probes.series(health, "p")))["metrics"]
    assert metric["series"] == [[["\\x1b[31m\n"], 1]]


def test_no_labels() -> None:
    """A metric without labels has its one series."""
    health = health_of(probe(counter("ebpf_a_total")), lambda series: series.add(bytes(4), numbers(3)))
    [metric] = json.loads(b"".join(probes.series(health, "p")))["metrics"]
    assert (metric["labels"], metric["series"]) == ([], [[[], 3]])


def test_gauges() -> None:
    """A gauge has its value, below 0 as well; one that has had none is null."""

    def fill(series: Any) -> None:
        series.add(key(series.table, comm="} NaN"), struct.pack("=q", -5))
        series.add(key(series.table, comm="none"), struct.pack("=q", -(2**63)))

    health = health_of(probe(gauge("ebpf_a", label("comm", "comm"))), fill)
    [metric] = json.loads(b"".join(probes.series(health, "p")))["metrics"]
    assert metric["series"] == [[["} NaN"], -5], [["none"], None]]


def test_histograms() -> None:
    """A histogram's value are its count, its sum, and its buckets as Prometheus has them: cumulative, by le."""

    def fill(series: Any) -> None:
        for bucket, count in ((0, 2), (2, 3)):
            series.add(key(series.table, comm='le="1"', bucket=bucket), numbers(count, 10 * count))

    found = probe(histogram("ebpf_a_seconds", (0, 1), label("comm", "comm"), scale=0.5))
    [metric] = json.loads(b"".join(probes.series(health_of(found, fill), "p")))["metrics"]
    expected = {"count": 5, "sum": 25.0, "buckets": [["0.5", 2], ["1.0", 2], ["+Inf", 5]]}
    assert (metric["labels"], metric["series"]) == (["comm"], [[['le="1"'], expected]])


def test_several_metrics_and_none() -> None:
    """Tables follow each other; a probe that does not run has none."""
    found = probe(counter("ebpf_a_total"), counter("ebpf_b_total", label("comm", "comm")))
    health = health_of(found, lambda _: None, lambda _: None)
    told = json.loads(b"".join(probes.series(health, "p")))["metrics"]
    assert [(one["name"], one["series"]) for one in told] == [("ebpf_a_total", [[[], 0]]), ("ebpf_b_total", [])]
    assert json.loads(b"".join(probes.series(health, "q")))["metrics"] == []


def script(type_: str, value: Any) -> Health:
    """Returns the health of a script with one map that holds this under ``a``."""
    map_ = ScriptMap("m", Metric("ebpf_m", type_, "Help.", (label("comm", "string(16)"),)), (2,))
    made: OfMap = shown(map_, 10)
    made.take([(b"a", value)])
    one = Health(config_loaded=0.0)
    one.statuses = {"s": ProbeStatus("s", "Counts.", "running", "bpftrace")}
    reader = Reader.__new__(Reader)
    reader.probe, reader.tables, reader.late, reader._lost_before, reader._parser = probe(), [made], False, 4, None
    one.scripts["s"] = reader
    return one


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("counter", 3, 3),
        ("gauge", -3, -3),
        ("summary", Pairs([("count", 2), ("total", -7)]), {"count": 2, "sum": -7.0, "buckets": []}),
        (
            "histogram",
            [Pairs([("min", 4), ("max", 7), ("count", 2)])],
            {"count": 2, "sum": None, "buckets": [["7.0", 2], ["+Inf", 2]]},
        ),
    ],
)
def test_scripts(type_: str, value: Any, expected: Any) -> None:
    """A script's maps are told alike; what it costs is unknown, for its programs are bpftrace's."""
    health = script(type_, value)
    [metric] = json.loads(b"".join(probes.series(health, "s")))["metrics"]
    assert (metric["type"], metric["series"]) == (type_, [[["a"], expected]])
    told = of(health, "s")
    assert (told["events_total"], told["run_seconds_total"], told["missed_total"]) == (None, None, 4)
    assert (told["series"], told["max_series"], told["metrics"]) == (1, 1000, ["ebpf_m"])
