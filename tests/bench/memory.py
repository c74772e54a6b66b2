# SPDX-License-Identifier: Apache-2.0
"""Memory under keys that come and go: 100,000 series, then generations of as many keys that were never seen."""

import statistics
import subprocess
from pathlib import Path

from tests.bench.measure import PROBES, Aim, Bench, Result, processes, pss_mb, settle, spread, table
from tests.kernel.daemon import Daemon, count

KEYS = 100_000
GENERATIONS = 8
MB = 90
FLAT = 1.05
CLOUDFLARE_MB = {f"{KEYS:,} keys": 124, f"after generation {GENERATIONS} of new keys": 368}  # see scrape.py


def section(bench: Bench) -> Result:
    runs = [_run(bench) for _ in range(bench.times)]
    rows = []
    for generation, points in enumerate(zip(*runs, strict=True)):
        memory, series, fds, difference = zip(*points, strict=True)
        rows.append(
            [
                f"{KEYS:,} keys" if not generation else f"after generation {generation} of new keys",
                spread(memory),
                spread(series, 0),
                spread(fds, 0),
                spread(difference, 0),
            ]
        )
    middle = [statistics.median(point[0] for point in points) for points in zip(*runs, strict=True)]
    differences = {point[3] for points in runs for point in points}
    rows += [
        [f"cloudflare/ebpf_exporter (quoted), {when}", f"{megabytes} (RSS)", "", "", ""]
        for when, megabytes in CLOUDFLARE_MB.items()
    ]
    return Result(
        table(
            ["keys {u32, char[16]}", "MB of all processes (PSS)", "series", "worker's descriptors", "sum − events"],
            rows,
        ),
        (
            Aim(f"at most {MB} MB at {KEYS:,} series", f"{middle[0]:.1f} MB", middle[0] <= MB),
            Aim(f"at most {MB} MB after each generation", f"{max(middle):.1f} MB at most", max(middle) <= MB),
            Aim(
                "no more with each generation (5% at most)",
                f"{middle[1]:.1f} MB after the first, {middle[-1]:.1f} MB after the last",
                middle[-1] <= middle[1] * FLAT,
            ),
            Aim("the sum over the series stays exact", f"off by {max(differences, key=abs):.0f}", differences == {0}),
        ),
    )


def _run(bench: Bench) -> list[tuple[float, float, int, float]]:
    """Returns of each generation the memory in MB, the series, the worker's descriptors and sum − events."""
    points = []
    with Daemon({"numbers": {"max_series": KEYS}}, folder=PROBES, interval="10m") as daemon:
        for generation in range(GENERATIONS + 1):
            bounds = generation * KEYS, (generation + 1) * KEYS
            subprocess.run([bench.peers, "numbers", *map(str, bounds)], check=True)
            settle()
            daemon.get("/metrics")
            memory = pss_mb(*processes(daemon))
            fds = len(list(Path(f"/proc/{daemon.worker_pid()}/fd").iterdir()))
            samples = daemon.samples()
            series = count(samples, "ebpf_exporter_series", metric="ebpf_numbers_total")
            points.append((memory, series, fds, count(samples, "ebpf_numbers_total") - bounds[1]))
    return points
