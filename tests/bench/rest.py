# SPDX-License-Identifier: Apache-2.0
"""What the daemon takes while nothing happens."""

import statistics
import time

from tests.bench.measure import DEFAULT, Aim, Bench, Result, cpu_ms, processes, pss_mb, spread, table
from tests.kernel.daemon import Daemon

SECONDS = 10
MAX_MB, MAX_PERCENT = 40.0, 0.2
CLOUDFLARE_MB = "46 to 50"  # see scrape.py


def section(bench: Bench) -> Result:
    memory, idle = [], []
    for _ in range(bench.times):
        with Daemon(DEFAULT) as daemon:
            daemon.get("/metrics")
            pids = processes(daemon)
            memory.append(pss_mb(*pids))
            before = cpu_ms(*pids)
            time.sleep(SECONDS)
            idle.append((cpu_ms(*pids) - before) / (SECONDS * 1000) * 100)
    megabytes, percent = statistics.median(memory), statistics.median(idle)
    return Result(
        table(
            ["default config", ""],
            [
                ["memory of all processes (PSS)", f"{spread(memory)} MB"],
                ["memory of cloudflare/ebpf_exporter (quoted)", f"{CLOUDFLARE_MB} MB (RSS)"],
                ["CPU of all processes on a quiet host", f"{spread(idle, 3)} % of a core"],
            ],
        ),
        (
            Aim(f"at most {MAX_MB:.0f} MB", f"{megabytes:.1f} MB", megabytes <= MAX_MB),
            Aim(f"at most {MAX_PERCENT} % of a core when idle", f"{percent:.3f} %", percent <= MAX_PERCENT),
        ),
    )
