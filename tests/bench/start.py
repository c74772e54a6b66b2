# SPDX-License-Identifier: Apache-2.0
"""How long a start takes, to all probes up and the first page, beside BCC programs started one by one; and a stop."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.measure import DEFAULT, Aim, Bench, CannotRun, Peer, Result, running, spread, table
from tests.kernel.daemon import ROOT, Daemon, count

# those that need neither kprobes nor headers, which not every machine has
BCC = ("bashreadline", "exitsnoop", "syscount", "softirqs", "hardirqs", "gethostlatency")
MAX_SECONDS = 2.0
CLOUDFLARE_SECONDS = (("one program", 0.14), ("six programs", 0.23))  # see scrape.py


def section(bench: Bench) -> Result:
    first, second, stops = [], [], []
    for _ in range(bench.times):
        folder = _never_compiled(bench)
        first.append(_ours(folder)[0])
        start, stop = _ours(folder)
        second.append(start)
        stops.append(stop)
    rows: list[Sequence[str]] = [
        ["ours, five probes, first start (compiles)", spread(first, 2)],
        ["ours, five probes, second start", spread(second, 2)],
        ["ours, five probes, a stop", spread(stops, 2)],
    ]
    one_by_one = [_one_by_one(bench) for _ in range(bench.times)]
    for number, name in enumerate(BCC):
        times = [took for run in one_by_one if isinstance(took := run[number], float)]
        rows.append([f"bcc's {name}", spread(times, 2) if times else f"cannot run here: {one_by_one[0][number]}"])
    sums = [sum(took for took in run if isinstance(took, float)) for run in one_by_one]
    rows.append(["bcc's programs above, one after the other", spread(sums, 2)])
    rows += [[f"cloudflare/ebpf_exporter (quoted), {what}", f"{seconds}"] for what, seconds in CLOUDFLARE_SECONDS]
    here, there = statistics.median(second), statistics.median(sums)
    return Result(
        table(["start", "seconds"], rows),
        (
            Aim(f"a second start takes at most {MAX_SECONDS:.0f} s", f"{here:.2f} s", here <= MAX_SECONDS),
            Aim("a second start is faster than that of the BCC programs", f"{here:.2f} s; {there:.2f} s", here < there),
        ),
    )


def _never_compiled(bench: Bench) -> Path:
    """Returns a folder with the shipped probes, their C a little other than ever before."""
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    for file in (ROOT / "bpf").glob("*.*"):
        shutil.copy(file, folder)
    for file in folder.glob("*.c"):
        file.write_text(f"{file.read_text()}/* {time.time_ns()} */\n")
    return folder


def _ours(folder: Path) -> tuple[float, float]:
    """The default config, to all probes up and the first 200; and its stop. Returns the seconds of each."""
    began = time.monotonic()
    with Daemon(DEFAULT, folder=folder) as daemon:
        response, _ = daemon.get("/metrics")
        took = time.monotonic() - began
        assert response.status == 200
        assert count(daemon.samples(), "ebpf_exporter_probe_up") == len(DEFAULT), daemon.log()
        assert daemon.process
        began = time.monotonic()
        daemon.process.terminate()
        daemon.process.wait()
        return took, time.monotonic() - began


def _one_by_one(bench: Bench) -> list[float | str]:
    """Starts the next when the one before is ready. Returns the seconds that each took, or why it cannot run."""
    result: list[float | str] = []
    with ExitStack() as all_run:
        for name in BCC:
            began = time.monotonic()
            try:
                all_run.enter_context(running(Peer(name, (f"{name}-bpfcc",)), bench))
                result.append(time.monotonic() - began)
            except CannotRun as error:
                result.append(str(error))
    return result
