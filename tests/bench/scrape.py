# SPDX-License-Identifier: Apache-2.0
"""What a scrape costs, beside its limit (a C program that only reads the keys) and the way that is usual in Python."""

import statistics
import subprocess
import threading
import time
from collections.abc import Sequence

from tests.bench.measure import PROBES, Aim, Bench, Result, cpu_ms, processes, pss_mb, settle, spread, table
from tests.kernel.daemon import ROOT, Daemon

# measured on Debian 12 with kernel 6.18, on another machine than this
CLOUDFLARE_CPU_MS = {1_000: 9, 10_000: 67, 100_000: 950}
CLOUDFLARE_MB = {100_000: 124}

PROMETHEUS_CLIENT = """
import ctypes, struct, sys, time
sys.path[:0] = [{root!r}]
from exporter import libbpf
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
fd = libbpf.map_create(1, "bench", 20, 8, {count})
for number in range({count}):
    libbpf.map_update(fd, struct.pack("=I16s", number, b"numbers"), struct.pack("=Q", number))
lib = libbpf._lib
class Collector:
    def collect(self):
        family = CounterMetricFamily("ebpf_numbers", "Calls.", labels=["number", "comm"])
        key, following, value = ctypes.create_string_buffer(20), ctypes.create_string_buffer(20), ctypes.c_uint64()
        previous = None
        while lib.bpf_map_get_next_key(fd, previous, following) == 0:
            key.raw = following.raw
            previous = key
            lib.bpf_map_lookup_elem(fd, key.raw, ctypes.byref(value))
            number, comm = struct.unpack("=I16s", key.raw)
            family.add_metric([str(number), comm.split(b"\\0")[0].decode()], value.value)
        yield family
registry = CollectorRegistry()
registry.register(Collector())
for _ in range({times}):
    before = time.process_time()
    generate_latest(registry)
    print((time.process_time() - before) * 1000)
"""


# of 100,000 series: CPU ms
AIMS = {"all changed": 150, "1% changed": 15, "none changed": 5, "none changed, gzip": 5, "read by another, gzip": 2}


def section(bench: Bench) -> Result:
    rows: list[Sequence[str]] = []
    aims = []
    at_most: dict[str, float] = {}
    for count in (1_000, 10_000, 100_000):
        with Daemon({"numbers": {"max_series": count + 100}}, folder=PROBES, interval="10m") as daemon:
            for encoding in ("", "gzip"):
                packed = f", {encoding}" if encoding else ""
                for name, changed in (("none", 0), ("1%", count // 100), ("all", count)):
                    taken, wall = _scrapes(bench, daemon, count, changed, encoding)
                    rows.append([f"{count:,}", f"ours, {name} changed{packed}", spread(taken), spread(wall)])
                    at_most[f"{name} changed{packed}"] = statistics.median(taken)
                cached = _cached(bench, daemon, encoding)
                rows.append([f"{count:,}", f"ours, read by another{packed}", spread(cached), ""])
                at_most[f"read by another{packed}"] = statistics.median(cached)
            rows.append([f"{count:,}", f"ours: memory {pss_mb(*processes(daemon)):.1f} MB", "", ""])
        theirs = prometheus_client_way(count, bench.times)
        rows += [
            [f"{count:,}", "a C program that only reads the keys, in batches", spread(_limit(bench, count)), ""],
            [f"{count:,}", "prometheus_client, a key at a time", spread(theirs), ""],
            [f"{count:,}", "cloudflare/ebpf_exporter (quoted)", f"{CLOUDFLARE_CPU_MS[count]}", ""],
        ]
        if count in CLOUDFLARE_MB:
            rows.append([f"{count:,}", f"cloudflare/ebpf_exporter (quoted): memory {CLOUDFLARE_MB[count]} MB", "", ""])
        here, there = at_most["all changed"], statistics.median(theirs)
        aims.append(
            Aim(
                f"{count:,} series that all changed take less of a processor than with prometheus_client",
                f"{here:.1f} ms; {there:.1f} ms",
                here < there,
            )
        )
    aims += [
        Aim(f"100,000 series, {name}: at most {most} ms", f"{at_most[name]:.1f} ms", at_most[name] <= most)
        for name, most in AIMS.items()
    ]
    return Result(table(["keys {u32, char[16]}", "", "CPU ms", "latency ms"], rows), tuple(aims))


def _cached(bench: Bench, daemon: Daemon, encoding: str) -> list[float]:
    """Returns the CPU ms of a scrape that shares its read: what nine at once take more than one, by eight."""
    worker, more = daemon.worker_pid(), []
    for _ in range(bench.times):
        taken = []
        for together in (1, 9):
            settle()
            daemon.get("/metrics", accept_encoding=encoding)  # those that come now wait for one read
            threads = [
                threading.Thread(target=daemon.get, args=("/metrics",), kwargs={"accept_encoding": encoding})
                for _ in range(together)
            ]
            before = cpu_ms(worker)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            taken.append(cpu_ms(worker) - before)
        more.append((taken[1] - taken[0]) / 8)
    return more


def _scrapes(bench: Bench, daemon: Daemon, count: int, changed: int, encoding: str) -> tuple[list[float], list[float]]:
    """Returns of each scrape the CPU and the latency in ms, after so many of the series changed."""
    cpu, wall = [], []
    worker = daemon.worker_pid()
    subprocess.run([bench.peers, "numbers", "0", str(count)], check=True)
    daemon.get("/metrics")  # makes the series
    for _ in range(bench.times):
        subprocess.run([bench.peers, "numbers", "0", str(changed)], check=True)
        settle()
        before, began = cpu_ms(worker), time.monotonic()
        daemon.get("/metrics", accept_encoding=encoding)
        wall.append((time.monotonic() - began) * 1000)
        cpu.append(cpu_ms(worker) - before)
    return cpu, wall


def _limit(bench: Bench, count: int) -> list[float]:
    command = [bench.peers, "batch", str(count)]
    outs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(bench.times)]
    return [float(out.split()[0]) for out in outs]


def prometheus_client_way(count: int, times: int) -> list[float]:
    """A family of samples and generate_latest, in a process of its own. Returns the CPU ms of each time."""
    script = PROMETHEUS_CLIENT.format(root=str(ROOT), count=count, times=times)
    out = subprocess.run(["/usr/bin/python3", "-c", script], check=True, capture_output=True, text=True).stdout
    return [float(line) for line in out.split()]
