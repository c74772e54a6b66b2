# SPDX-License-Identifier: Apache-2.0
"""The exporter's metrics of itself, served by prometheus_client along with the process metrics."""

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from exporter import __version__, libbpf
from exporter.bpftrace.reader import Reader
from exporter.bpftrace.totals import Shown
from exporter.libbpf import ProgramStatistics
from exporter.metrics.history import History
from exporter.metrics.maps import ProbeMaps
from exporter.probe import Probe
from exporter.status import ProbeStatus


@dataclass
class Running:
    """A probe whose maps are here. programs are descriptors by name.

    links are those attachments that tell what they missed, as program and descriptor; misses_unknown are programs of
    which the kernel does not tell it. starts_missed is the descriptor of a map that counts ends without their starts.
    """

    maps: ProbeMaps
    programs: dict[str, int]
    links: list[tuple[str, int]] = field(default_factory=list)
    misses_unknown: tuple[str, ...] = ()
    starts_missed: int | None = None
    before: dict[str, ProgramStatistics] = field(default_factory=dict)  # of programs that these took the places of
    history: History = field(default_factory=History)

    def missed(self, program: str, statistics: ProgramStatistics) -> int | None:
        """Returns the events that a program was not run for, by the kernel and by each of its links; None: unknown.

        Of the end of a span also those that had no start; where the kernel does not tell of the others, these alone.
        """
        ends = self._ends(program)
        if program in self.misses_unknown:
            return ends
        links = sum(libbpf.link_missed(fd) or 0 for name, fd in self.links if name == program)
        return statistics.missed + links + (ends or 0)

    def all_missed(self) -> int | None:
        """Returns the events that no program was run for, as far as it is known of programs; None: of none."""
        known = [events for name in self.programs if (events := self.missed(name, self.statistics(name))) is not None]
        return sum(known) if known else None

    def remember(self, now: float) -> None:
        """Keeps what the programs have done by now, a Unix time."""
        all_ = [self.statistics(name) for name in self.programs]
        self.history.add((now, sum(one.runs for one in all_), sum(one.run_ns for one in all_) / 1e9))

    def statistics(self, program: str) -> ProgramStatistics:
        """Returns what the kernel has counted of a program, with those whose place it took."""
        now = libbpf.program_statistics(self.programs[program])
        before = self.before.get(program, ProgramStatistics(0, 0, 0))
        return ProgramStatistics(now.runs + before.runs, now.run_ns + before.run_ns, now.missed + before.missed)

    def go_on(self, probe: Probe, programs: dict[str, int], misses_unknown: tuple[str, ...]) -> None:
        """Other programs have taken the places of these, for other rules: what has been counted goes on."""
        same = {
            name
            for name in self.programs.keys() & programs.keys()
            if libbpf.program_identity(self.programs[name]) == libbpf.program_identity(programs[name])
        }
        self.before = {
            name: self.before.get(name, ProgramStatistics(0, 0, 0)) if name in same else self.statistics(name)
            for name in self.programs
        }
        for fd in self.programs.values():
            os.close(fd)
        self.programs, self.misses_unknown = programs, misses_unknown
        self.maps.go_on(probe)

    def close(self) -> None:
        """Lets go of all descriptors: the probe is no more."""
        self.maps.close()
        for fd in [*self.programs.values(), *(fd for _, fd in self.links)]:
            os.close(fd)

    def _ends(self, program: str) -> int | None:
        # all ends count their missing starts in one map: told of the first of them
        ends = [name for name in self.programs if name.startswith("on_end")]
        if self.starts_missed is None or [program] != ends[:1]:
            return None
        return int.from_bytes(libbpf.map_lookup(self.starts_missed, bytes(4), 8), sys.byteorder)


@dataclass(eq=False)
class Health:
    """What the worker knows of itself and of the probes; a collector for prometheus_client. Times in seconds."""

    config_loaded: float
    config_good: bool = True
    interval: float = 0.0  # between reads that nobody asks for
    compiler: str = ""
    settled: bool = False  # every probe has started or failed
    statuses: dict[str, ProbeStatus] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    scripts: dict[str, Reader] = field(default_factory=dict)
    worker_restarts: int = 0
    web_successful: bool = True
    web_read_at: float | None = None  # the web config, with success; None: there is none
    last_read: float = 0.0
    last_read_duration: float = 0.0

    def has_read(self, began: float, now: float) -> None:
        """All maps have been read: from began on, by the monotonic clock; now is a Unix time."""
        self.last_read_duration, self.last_read = time.monotonic() - began, now
        for running in self.running.values():
            running.remember(now)

    def tables(self) -> Iterator[tuple[str, Shown]]:
        """Yields the series of all probes, each with the probe's name."""
        for name, running in self.running.items():
            for series in running.maps.tables:
                yield name, series
        for name, reader in self.scripts.items():
            for shown in reader.tables:
                yield name, shown

    def current(self) -> list[ProbeStatus]:
        """Returns how all probes stand, with what only this process knows."""
        return [
            dataclasses.replace(status, state="degraded", reason="bpftrace does not answer in time: values are older")
            if status.state == "running" and status.name in self.scripts and self.scripts[status.name].late
            else status
            for status in self.statuses.values()
        ]

    def registry(self) -> CollectorRegistry:
        """Returns a registry with this and the process metrics."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)  # type: ignore[arg-type]  # a Collector by its method
        return registry

    def collect(self) -> Iterator[Metric]:
        """Yields the families; prometheus_client calls it."""
        yield from self._of_exporter()
        yield from self._of_probes()
        yield from self._of_programs()
        yield from self._of_series()

    def _of_exporter(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("ebpf_exporter_build_info", "Versions; always 1.", labels=["version", "bcc", "kernel"])
        info.add_metric([__version__, self.compiler, platform.release()], 1)
        yield info
        yield GaugeMetricFamily(
            "ebpf_exporter_last_read_seconds", "Time that the last read of all maps took.", self.last_read_duration
        )
        yield GaugeMetricFamily(
            "ebpf_exporter_last_read_timestamp_seconds", "When all maps were last read.", self.last_read
        )
        yield GaugeMetricFamily(
            "ebpf_exporter_config_last_reload_successful",
            "Whether the config was read with success, last time.",
            self.config_good,
        )
        yield GaugeMetricFamily(
            "ebpf_exporter_config_last_reload_success_timestamp_seconds",
            "When the config was last read with success.",
            self.config_loaded,
        )
        if self.web_read_at is not None:
            yield GaugeMetricFamily(
                "ebpf_exporter_web_config_last_reload_successful",
                "Whether the web config was read with success, last time.",
                self.web_successful,
            )
            yield GaugeMetricFamily(
                "ebpf_exporter_web_config_last_reload_success_timestamp_seconds",
                "When the web config was last read with success.",
                self.web_read_at,
            )
        yield CounterMetricFamily(
            "ebpf_exporter_worker_restarts_total", "Times that the worker was started again.", self.worker_restarts
        )

    def _of_probes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("ebpf_exporter_probe_up", "Whether all of a probe is attached.", labels=["probe"])
        info = GaugeMetricFamily(
            "ebpf_exporter_probe_info",
            "State of a probe, how it is attached, and why not (better); always 1.",
            labels=["probe", "state", "mechanism", "reason"],
        )
        for status in self.current():
            up.add_metric([status.name], status.state == "running")
            info.add_metric([status.name, status.state, status.mechanism, status.reason], 1)
        limit = GaugeMetricFamily(
            "ebpf_exporter_probe_max_cpu_ratio",
            "Share of a core that a probe's programs may take, where there is a limit.",
            labels=["probe"],
        )
        for name, running in self.running.items():
            if percent := running.maps.probe.cpu_percent:
                limit.add_metric([name], percent / 100)
        yield from (up, info, limit)

    def _of_programs(self) -> Iterator[Metric]:
        labels = ["probe", "program"]
        runs = CounterMetricFamily(
            "ebpf_exporter_program_runs_total", "Runs of a BPF program, by the kernel's own statistics.", labels=labels
        )
        seconds = CounterMetricFamily(
            "ebpf_exporter_program_run_seconds_total",
            "Time in a BPF program, by the kernel's own statistics.",
            labels=labels,
        )
        missed = CounterMetricFamily(
            "ebpf_exporter_events_missed_total", "Events for which the kernel did not run the program.", labels=labels
        )
        for name, running in self.running.items():
            for program in running.programs:
                statistics = running.statistics(program)
                runs.add_metric([name, program], statistics.runs)
                seconds.add_metric([name, program], statistics.run_ns / 1e9)
                if (events := running.missed(program, statistics)) is not None:
                    missed.add_metric([name, program], events)
        for name, reader in self.scripts.items():
            missed.add_metric([name, "bpftrace"], reader.missed)
        yield from (runs, seconds, missed)

    def _of_series(self) -> Iterator[Metric]:
        overflowed = CounterMetricFamily(
            "ebpf_exporter_events_overflowed_total",
            "Events counted under (other) because a kernel map was full.",
            labels=["probe", "metric"],
        )
        series = GaugeMetricFamily("ebpf_exporter_series", "Series of a metric, with (other).", labels=["metric"])
        most = GaugeMetricFamily(
            "ebpf_exporter_max_series", "Series that a metric may have, (other) not counted.", labels=["metric"]
        )
        folded = CounterMetricFamily(
            "ebpf_exporter_series_folded_total",
            "Times that a key was counted under (other) because a metric had its max_series.",
            labels=["metric"],
        )
        for name, table in self.tables():
            for metric in table.table.metrics:
                if metric.chosen:
                    overflowed.add_metric([name, metric.name], table.overflowed)
                    series.add_metric([metric.name], len(table))
                    most.add_metric([metric.name], table.max_series)
                    folded.add_metric([metric.name], table.folded)
        yield from (overflowed, series, most, folded)
