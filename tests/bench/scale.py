#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a fleet costs its Prometheus, and writes the tables of docs/scale.md.

    sudo tests/bench/scale.py [--hosts N] [--minutes N]

Pages of real exporters, on a host that is at work, or has every series that the default budgets allow, are recorded,
and then served as those of so many hosts, with names of their own and values that change, to a real Prometheus, one
after the other. Wants prometheus, gcc and 5 GB of memory.
"""

import argparse
import datetime
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from tests.bench import hosts  # noqa: E402 - after the line that makes it found
from tests.bench.blocks import replaced  # noqa: E402 - as above
from tests.bench.measure import DEFAULT, table  # noqa: E402 - as above
from tests.kernel.daemon import Daemon, free_port  # noqa: E402 - as above
from tests.kernel.wires import ip  # noqa: E402 - as above

DOCUMENT = ROOT / "docs" / "scale.md"
RULES = ROOT / "deploy" / "prometheus" / "fleet.rules.yml"
INTERVAL = 15  # seconds between two scrapes
INTERFACE, NAMESPACE = "fleet-bench", "fleet-bench"  # for packets that nobody else counts
PROBES: dict[str, dict[str, Any]] = {**DEFAULT, "xdp": {"interfaces": [INTERFACE]}}
# as in docs/scale.md: what has a thousand values is left out
NARROW = {
    "file_io": {"labels": ["op"]},
    "file_opens": {"labels": ["result"]},
    "shell_commands": {"labels": ["user"]},
    "process_execs": {"labels": ["user"]},
    "xdp": {"interfaces": [INTERFACE], "labels": ["interface", "action"]},
}
# what is done, with which probes, and the seconds between two pages: at work, series come and go as they do in them
WORKS: dict[str, tuple[hosts.Work, dict[str, dict[str, Any]], float]] = {
    "at work": (hosts.at_work, PROBES, INTERVAL),
    "all budgets full": (hosts.all_budgets, PROBES, 2),
    "all budgets full, but labels left out": (hosts.all_budgets, NARROW, 2),
}
SIMULATED = ("at work", "all budgets full")
FLEETS = (10, 1_000, 10_000)
RECORDED = '{__name__=~"(instance|job)(_.*)?:.*"}'  # what fleet.rules.yml makes
MB, DAY, BLOCK = 1e6, 86_400, 7_200
READY_SECONDS = 120


@dataclass(frozen=True)
class Found:
    """What a Prometheus was like that scraped a fleet; bytes where nothing else is said."""

    series: float  # in the head
    samples: float  # a second
    empty: float  # resident, before the first scrape
    resident: float  # the most
    of_a_sample: float  # in a block's chunks
    of_an_entry: float  # a series in a block's index
    log: float  # the write-ahead log, a second
    processor: float  # of a core
    scrape: float  # seconds, the median
    scrapes: float  # that succeeded
    recorded: float  # series made by rules
    federated: float  # a second, what a Prometheus above it would fetch; not compressed
    hosts: int

    @property
    def of_a_series(self) -> float:
        return (self.resident - self.empty) / self.series


class Prometheus:
    """A Prometheus that scrapes a fleet, found by files, with the rules for fleets."""

    def __init__(self, folder: Path, port: int, count: int) -> None:
        self._port, self._data = free_port(), folder / "data"
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"__metrics_path__": f"/{host}", "instance": f"host{host:04}"}}
            for host in range(count)
        ]
        (folder / "targets.json").write_text(json.dumps(targets))
        config = {
            "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "ebpf-exporter", "file_sd_configs": [{"files": [str(folder / "targets.json")]}]},
                {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{self._port}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._data}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--web.enable-admin-api",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def resident(self, most: bool = False) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [kilobytes] = re.findall(rf"^{'VmHWM' if most else 'VmRSS'}:\s+(\d+) kB", status, re.MULTILINE)
        return int(kilobytes) * 1024

    def log_bytes(self) -> int:
        return _size(self._data / "wal")

    def get(self, path: str, method: str = "GET") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != http.client.OK:
            raise OSError(f"{path}: {response.status} {body[:200]!r}")
        return body

    def values(self, expression: str) -> list[float]:
        found: dict[str, Any] = json.loads(self.get(f"/api/v1/query?query={quote(expression)}"))
        return [float(series["value"][1]) for series in found["data"]["result"]]

    def value(self, expression: str) -> float:
        [found] = self.values(expression)
        return found

    def of_blocks(self) -> tuple[float, float]:
        """Makes blocks of what is in the head. Returns the bytes of a sample in chunks, of a series in the index."""
        name = json.loads(self.get("/api/v1/admin/tsdb/snapshot", "POST"))["data"]["name"]
        blocks = [meta.parent for meta in (self._data / "snapshots" / name).glob("*/meta.json")]
        stats = [json.loads((block / "meta.json").read_text())["stats"] for block in blocks]
        chunks = sum(_size(block / "chunks") for block in blocks) / sum(one["numSamples"] for one in stats)
        index = sum((block / "index").stat().st_size for block in blocks) / sum(one["numSeries"] for one in stats)
        return chunks, index

    def wait(self) -> None:
        """Returns when it answers."""
        for _ in range(READY_SECONDS * 10):
            try:
                self.get("/-/ready")
                return
            except OSError:
                time.sleep(0.1)  # it tells nobody
        raise OSError("prometheus does not answer")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def wire() -> Iterator[None]:
    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", INTERFACE, "type", "veth", "peer", "name", "peer", "netns", NAMESPACE)
        ip("-n", NAMESPACE, "link", "set", "peer", "up")
        ip("link", "set", INTERFACE, "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)  # the pair goes with it


def record(name: str) -> hosts.Recording:
    """Returns the pages of an exporter."""
    print(f"== {name}: recording", file=sys.stderr, flush=True)
    work, probes, pace = WORKS[name]
    with tempfile.TemporaryDirectory() as folder, Daemon(probes) as daemon:
        return hosts.record(work, daemon, Path(folder), hosts.PAGES if name in SIMULATED else 1, pace)


def simulate(name: str, recording: hosts.Recording, count: int, minutes: float) -> Found:
    """Has a Prometheus scrape a fleet for so long. Returns what it took."""
    print(f"== {name}: {count} hosts", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, hosts.served(hosts.Fleet(recording, count, INTERVAL)) as port:
        prometheus = Prometheus(Path(folder), port, count)
        try:
            prometheus.wait()
            empty = prometheus.resident()
            time.sleep(minutes * 60)
            half, all_of_it = f"{round(minutes * 30)}s", f"{round(minutes * 60) + INTERVAL}s"
            federated = prometheus.get(f"/federate?match[]={quote(RECORDED)}")
            series = prometheus.value("prometheus_tsdb_head_series")
            resident = prometheus.resident(most=True)
            of_a_sample, of_an_entry = prometheus.of_blocks()
            return Found(
                series=series,
                samples=prometheus.value(f"sum(rate(prometheus_tsdb_head_samples_appended_total[{half}]))"),
                empty=empty,
                resident=resident,
                log=prometheus.log_bytes() / (minutes * 60),
                processor=prometheus.value(f'rate(process_cpu_seconds_total{{job="prometheus"}}[{half}])'),
                scrape=statistics.median(prometheus.values('scrape_duration_seconds{job="ebpf-exporter"}')),
                scrapes=prometheus.value(f'sum(sum_over_time(up{{job="ebpf-exporter"}}[{all_of_it}]))'),
                recorded=prometheus.value(f"count({RECORDED})"),
                federated=len(federated) / INTERVAL,
                of_a_sample=of_a_sample,
                of_an_entry=of_an_entry,
                hosts=count,
            )
        except BaseException:
            print((Path(folder) / "log").read_text(), file=sys.stderr)
            raise
        finally:
            prometheus.end()


def of_a_host(recordings: dict[str, hosts.Recording]) -> str:
    rows = []
    for name, one in recordings.items():
        length = statistics.mean(map(len, one.pages))
        rows.append(
            [
                name,
                f"{one.series:,}",
                f"{one.of_itself:,}",
                f"{length / 1e3:,.0f} kB",
                f"{one.compressed / 1e3:,.1f} kB",
            ]
        )
    return table(["host", "series", "the exporter's own", "a page", "compressed"], rows)


def of_a_prometheus(simulated: dict[str, Found]) -> str:
    figures = {
        "series in the head": lambda one: f"{one.series:,.0f}",
        "samples a second": lambda one: f"{one.samples:,.0f}",
        "memory, the most": lambda one: f"{one.resident / MB:,.0f} MB",
        "of it, before the first scrape": lambda one: f"{one.empty / MB:,.0f} MB",
        "a series": lambda one: f"{one.of_a_series / 1e3:,.1f} kB",
        "processor": lambda one: f"{one.processor:.2f} of a core",
        "a scrape, median": lambda one: f"{one.scrape * 1e3:,.0f} ms",
        "scrapes that succeeded": lambda one: f"{one.scrapes:,.0f}",
        "write-ahead log": lambda one: f"{one.log / 1e3:,.0f} kB/s",
        "a sample in a block's chunks": lambda one: f"{one.of_a_sample:.2f} bytes",
        "a series in a block's index": lambda one: f"{one.of_an_entry:.0f} bytes",
        "series made by fleet.rules.yml": lambda one: f"{one.recorded:,.0f}",
        "federating them": lambda one: f"{one.federated / 1e3:,.1f} kB/s",
    }
    names = [f"{one.hosts} hosts {name}" for name, one in simulated.items()]
    return table(["", *names], [[what, *map(show, simulated.values())] for what, show in figures.items()])


def of_fleets(recordings: dict[str, hosts.Recording], simulated: dict[str, Found]) -> str:
    rows = []
    for count in FLEETS:
        for name, one in simulated.items():
            series = one.series / one.hosts * count
            samples = one.samples / one.hosts * count
            rows.append(
                [
                    f"{count:,}",
                    name,
                    f"{series:,.0f}",
                    f"{samples:,.0f}",
                    f"{samples / 4:,.0f}",
                    f"{recordings[name].compressed * count / INTERVAL / MB:,.2f} MB/s",
                    f"{(one.empty + series * one.of_a_series) / 1e9:,.1f} GB",
                    f"{(samples * DAY * one.of_a_sample + series * DAY / BLOCK * one.of_an_entry) / 1e9:,.1f} GB",
                    f"{one.recorded / one.hosts * count:,.0f}",
                ]
            )
    head = ["hosts", "each", "series", "samples/s", "at 60 s", "network", "memory", "disk a day", "series by the rules"]
    return table(head, rows)


def where(options: argparse.Namespace) -> str:
    """Returns what was run when and where."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    out = subprocess.run(["prometheus", "--version"], check=True, capture_output=True, text=True)
    version = (out.stdout + out.stderr).split()[2]
    return (
        f"`sudo tests/bench/scale.py --hosts {options.hosts} --minutes {options.minutes:g}`, "
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {os.cpu_count()} × {(models or [platform.machine()])[0]}; "
        f"kernel {platform.release()}; Prometheus {version}; a scrape each {INTERVAL} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what a fleet costs, and writes the tables of docs/scale.md.")
    parser.add_argument("--hosts", type=int, default=100, help="that are simulated (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of each simulation (default: %(default)s)")
    options = parser.parse_args()
    with wire():
        recordings = {name: record(name) for name in WORKS}
    print(of_a_host(recordings), flush=True)
    simulated = {name: simulate(name, recordings[name], options.hosts, options.minutes) for name in SIMULATED}
    text = DOCUMENT.read_text()
    for name, block in (
        ("a host", of_a_host(recordings)),
        ("a prometheus", f"{where(options)}\n\n{of_a_prometheus(simulated)}"),
        ("fleets", of_fleets(recordings, simulated)),
    ):
        print(block, flush=True)
        text = replaced(text, name, block)
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
