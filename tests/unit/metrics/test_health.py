# SPDX-License-Identifier: Apache-2.0
"""metrics/health.py: the exporter's metrics of itself."""

import dataclasses
import os
import sys
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from exporter import __version__, libbpf
from exporter.libbpf import ProgramStatistics
from exporter.metrics.exposition import OPENMETRICS, TEXT, Format, page
from exporter.metrics.health import Health, Running
from exporter.metrics.maps import ProbeMaps
from exporter.status import ProbeStatus

from ..support import counter, key, label, numbers, probe, samples


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Health:
    """Of one probe that runs and one that failed; five series are wanted and there is room for two."""
    monkeypatch.setattr(libbpf, "map_lookup", lambda *_: bytes(4))
    monkeypatch.setattr(libbpf, "program_statistics", lambda fd: ProgramStatistics(fd, fd * 10**9, fd + 1))
    found = probe(
        counter("ebpf_a_total", label("comm", "comm")),
        counter("ebpf_b_total", label("comm", "comm"), chosen=False),
        max_series=2,
    )
    maps = ProbeMaps(found, {"writing": 10})
    [series] = maps.tables
    for comm in "abcde":
        series.add(key(series.table, comm=comm), numbers(1, 1))
    series.add_rest(numbers(7, 7, 7))
    one = Health(config_loaded=1700000000.0, compiler="0.26", worker_restarts=2, last_read=5.0, last_read_duration=0.25)
    one.statuses = {
        "p": ProbeStatus("p", "Counts.", "running", "tracepoint"),
        "q": ProbeStatus("q", "Counts.", "failed", reason='no "BTF"\nhere'),
        "r": ProbeStatus("r", "Counts.", "degraded"),
    }
    monkeypatch.setattr(libbpf, "link_missed", lambda fd: fd * 100)
    links = [("on_return", 1), ("on_return", 2), ("silent", 3)]
    one.running["p"] = Running(maps, {"on_event": 3, "on_return": 5, "silent": 7}, links, ("silent",))
    return one


def test_what_programs_counted_goes_on_in_those_that_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, time and misses of one that goes are added to the next one's; a program that stays counts by itself."""
    counted = {number: ProgramStatistics(number, 10 * number, 100 * number) for number in (3, 5, 30)}
    closed: list[int] = []
    monkeypatch.setattr(libbpf, "program_statistics", counted.__getitem__)
    monkeypatch.setattr(libbpf, "program_identity", lambda fd: 5 if fd == 50 else fd)  # 50 is another descriptor of 5
    monkeypatch.setattr(os, "close", closed.append)
    counted[50] = counted[5]
    running = Running(cast(ProbeMaps, SimpleNamespace(go_on=lambda _: None)), {"goes": 3, "stays": 5})
    running.go_on(probe(), {"goes": 30, "stays": 50}, ())
    assert running.statistics("goes") == ProgramStatistics(33, 330, 3300)
    assert running.statistics("stays") == counted[5]
    assert closed == [3, 5]


def text(health: Health, wanted: Format = TEXT) -> str:
    return b"".join(page([], health.registry(), wanted)).decode()


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("last_read_seconds", {}, 0.25),
        ("last_read_timestamp_seconds", {}, 5.0),
        ("config_last_reload_successful", {}, 1.0),
        ("config_last_reload_success_timestamp_seconds", {}, 1700000000.0),
        ("worker_restarts_total", {}, 2.0),
        ("probe_up", {"probe": "p"}, 1.0),
        ("probe_up", {"probe": "q"}, 0.0),
        ("probe_up", {"probe": "r"}, 0.0),
        ("probe_max_cpu_ratio", {"probe": "p"}, 0.05),
        ("probe_info", {"probe": "p", "state": "running", "mechanism": "tracepoint", "reason": ""}, 1.0),
        ("probe_info", {"probe": "q", "state": "failed", "mechanism": "", "reason": 'no "BTF"\nhere'}, 1.0),
        ("program_runs_total", {"probe": "p", "program": "on_event"}, 3.0),
        ("program_run_seconds_total", {"probe": "p", "program": "on_event"}, 3.0),
        ("events_missed_total", {"probe": "p", "program": "on_event"}, 4.0),
        ("events_missed_total", {"probe": "p", "program": "on_return"}, 306.0),
        ("events_overflowed_total", {"probe": "p", "metric": "ebpf_a_total"}, 7.0),
        ("series", {"metric": "ebpf_a_total"}, 3.0),
        ("max_series", {"metric": "ebpf_a_total"}, 2.0),
        ("series_folded_total", {"metric": "ebpf_a_total"}, 3.0),
    ],
)
def test_value(health: Health, name: str, labels: dict[str, str], value: float) -> None:
    """Each of the exporter's own metrics has its value."""
    assert samples(text(health))[f"ebpf_exporter_{name}"][tuple(sorted(labels.items()))] == value


def test_misses_that_the_kernel_does_not_tell_are_no_zero(health: Health) -> None:
    """A program of which they are unknown has no series of them, and has all others."""
    found = samples(text(health))
    assert (("probe", "p"), ("program", "silent")) in found["ebpf_exporter_program_runs_total"]
    assert (("probe", "p"), ("program", "silent")) not in found["ebpf_exporter_events_missed_total"]


def test_a_probe_without_a_limit_has_no_series_of_it(health: Health) -> None:
    """0 in the config is no limit of 0."""
    maps = health.running["p"].maps
    maps.probe = dataclasses.replace(maps.probe, max_cpu_percent=0)
    assert samples(text(health)).get("ebpf_exporter_probe_max_cpu_ratio", {}) == {}


def test_versions(health: Health) -> None:
    """One series tells the versions."""
    [labels] = samples(text(health))["ebpf_exporter_build_info"]
    assert (dict(labels)["version"], dict(labels)["bcc"]) == (__version__, "0.26")


def test_metrics_that_are_left_out_are_not_told(health: Health) -> None:
    """What the config does not want has no health either."""
    assert "ebpf_b_total" not in text(health)


def test_process_metrics(health: Health) -> None:
    """The process' own memory and time are there."""
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total"} <= samples(text(health)).keys()


def test_openmetrics(health: Health) -> None:
    """The page is good OpenMetrics, and every family of ours is named for the exporter."""
    families = list(parse_openmetrics(text(health, OPENMETRICS)))  # type: ignore[no-untyped-call]  # untyped
    assert [family.name for family in families if not family.name.startswith(("ebpf_exporter_", "process_"))] == []
    assert [family.name for family in families if not family.documentation.endswith(".")] == []


@pytest.mark.parametrize(
    ("starts_missed", "unknown", "told"),
    [
        (None, (), {"on_start": 7 + 5, "on_end": 7, "on_end_place_2": 7}),
        (3, (), {"on_start": 7 + 5, "on_end": 7 + 11, "on_end_place_2": 7}),
        (3, ("on_end", "on_end_place_2"), {"on_start": 7 + 5, "on_end": 11, "on_end_place_2": None}),
        (None, ("on_start", "on_end"), {"on_start": None, "on_end": None, "on_end_place_2": 7}),
    ],
    ids=["no span", "a span", "a span of an older kernel", "an older kernel"],
)
def test_what_was_missed(
    monkeypatch: pytest.MonkeyPatch,
    health: Health,
    starts_missed: int | None,
    unknown: tuple[str, ...],
    told: dict[str, int | None],
) -> None:
    """The kernel's number and the links'; ends without a start once for all ends, also where nothing else is known."""

    def map_lookup(fd: int, key: bytes, size: int) -> bytes:
        assert (fd, key) == (3, bytes(4))
        return (11).to_bytes(size, sys.byteorder)

    monkeypatch.setattr(libbpf, "map_lookup", map_lookup)
    monkeypatch.setattr(libbpf, "link_missed", {20: 5, 21: 0}.get)
    programs = dict.fromkeys(told, 9)
    running = Running(health.running["p"].maps, programs, [("on_start", 20), ("on_start", 21)], unknown, starts_missed)
    assert {name: running.missed(name, ProgramStatistics(1000, 1, 7)) for name in programs} == told
