# SPDX-License-Identifier: Apache-2.0
"""What is left after a long time of everything at once: keys that come and go, two scrapers, reloads, a worker that is
killed again and again.

A worker is killed between two scrapes: what it has read and nobody has scraped ends with it, as with any process. What
the kernel counts while there is no worker is read by the next one. So the sum is that of each worker's last page.
"""

import os
import signal
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import PROBES, Aim, Bench, Result, processes, pss_mb, table
from tests.kernel.daemon import Daemon, Samples, count

RELOAD_SECONDS, KILL_SECONDS, SCRAPE_SECONDS = 10.0, 30.0, 1.0
ROUND_SECONDS = 0.1  # of the workload, at the least
KEYS, STEP, SERIES = (
    5_000,
    500,
    2_000,
)  # keys in use at a time, those of them that a round replaces, and series for them
FLAT = 1.05
NUMBERS = {"max_series": SERIES, "max_cpu_percent": 100}
# one after the other; each kill is after the same one of them. Reads are by scrapes alone.
CONFIGS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"numbers": NUMBERS, "process_execs": {}}, "10m"),
    ({"numbers": NUMBERS, "process_execs": {"labels": ["user"]}}, "11m"),
    ({"numbers": NUMBERS, "file_opens": {"labels": ["result"]}}, "10m"),
)
POINTS = 10  # lines of the table


@dataclass(frozen=True)
class Point:
    """What there is just before a worker is killed."""

    minutes: float
    events: int
    supervisor_mb: float
    worker_mb: float
    descriptors: tuple[int, int]  # of the supervisor, of the worker
    processes: int


class Scrapers:
    """Two who scrape; what they saw of each worker last."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._busy = threading.Lock(), threading.Lock()
        self.pages = self.failures = self.decreases = 0
        self.counted: dict[float, float] = defaultdict(float)  # by the number of the worker: the sum of its last page
        self.overflowed: dict[float, float] = defaultdict(float)
        self.missed = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        threads = [threading.Thread(target=self._scrape, args=(busy, over)) for busy in self._busy]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No scrape runs meanwhile."""
        with ExitStack() as all_held:
            for busy in self._busy:
                all_held.enter_context(busy)
            yield

    def _scrape(self, busy: threading.Lock, over: threading.Event) -> None:
        last: Samples = {}
        while not over.wait(SCRAPE_SECONDS):
            with busy:
                try:
                    last = self.take(last)
                except (OSError, AssertionError, ValueError) as error:
                    self.failures += 1
                    print(f"a scrape failed: {error!r}", flush=True)

    def take(self, last: Samples) -> Samples:
        """Scrapes once. Returns the page."""
        samples = self._daemon.samples()
        worker = count(samples, "ebpf_exporter_worker_restarts_total")
        total = count(samples, "ebpf_numbers_total")
        self.pages += 1
        if count(last, "ebpf_exporter_worker_restarts_total") == worker:
            self.decreases += total < count(last, "ebpf_numbers_total")
        self.counted[worker] = max(self.counted[worker], total)
        self.overflowed[worker] = max(
            self.overflowed[worker], count(samples, "ebpf_exporter_events_overflowed_total", probe="numbers")
        )
        missed = count(samples, "ebpf_exporter_events_missed_total", probe="numbers")
        self.missed = max(self.missed, missed)  # the kernel's own: a worker's end does not touch it
        return samples


class Churn:
    """Events by keys of which some are new in each round."""

    def __init__(self, peers: str) -> None:
        self._peers = peers
        self.events = self._first = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._rounds, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _rounds(self, over: threading.Event) -> None:
        while not over.wait(ROUND_SECONDS):
            subprocess.run([self._peers, "numbers", str(self._first), str(self._first + KEYS)], check=True)
            self.events += KEYS
            self._first += STEP


def section(bench: Bench) -> Result:
    churn = Churn(bench.peers)
    points: list[Point] = []
    reloads = refused = kills = 0
    probes, interval = CONFIGS[0]
    with Daemon(probes, folder=PROBES, interval=interval) as daemon:
        scrapers = Scrapers(daemon)
        with scrapers.running(), churn.running():
            began = time.monotonic()
            for kill, due in schedule(bench.minutes * 60):
                time.sleep(max(0.0, began + due - time.monotonic()))
                if kill:
                    with scrapers.paused():
                        scrapers.take({})
                        points.append(_point(daemon, (time.monotonic() - began) / 60, churn.events))
                        os.kill(daemon.worker_pid(), signal.SIGKILL)
                    kills += 1
                else:
                    reloads += 1
                    probes, interval = CONFIGS[reloads % len(CONFIGS)]
                    daemon.configure(probes, interval=interval)
                    refused += daemon.reload().returncode != 0
        scrapers.take({})
    return _result(points, churn, scrapers, (reloads, refused, kills))


def schedule(seconds: float) -> list[tuple[bool, float]]:
    """Returns when a worker is killed (True) and when there is a reload (False), in seconds, one after the other."""
    kills = [(True, KILL_SECONDS * number + KILL_SECONDS / 2) for number in range(int(seconds / KILL_SECONDS))]
    reloads = [(False, RELOAD_SECONDS * number) for number in range(1, int(seconds / RELOAD_SECONDS) + 1)]
    return sorted(kills + reloads, key=lambda one: one[1])


def _point(daemon: Daemon, minutes: float, events: int) -> Point:
    assert daemon.process is not None
    pids = daemon.process.pid, daemon.worker_pid()
    memory = [pss_mb(pid) for pid in pids]
    descriptors = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]  # noqa: PTH208
    return Point(minutes, events, memory[0], memory[1], (descriptors[0], descriptors[1]), len(processes(daemon)))


def _result(points: list[Point], churn: Churn, scrapers: Scrapers, done: tuple[int, int, int]) -> Result:
    reloads, refused, kills = done
    off = sum(scrapers.counted.values()) - churn.events
    shown = points[:: max(1, len(points) // POINTS)]
    rows = [
        [
            f"{point.minutes:.1f}",
            f"{point.events:,}",
            f"{point.supervisor_mb:.1f}",
            f"{point.worker_mb:.1f}",
            *map(str, point.descriptors),
            str(point.processes),
        ]
        for point in shown
    ]
    head = ["minute", "events", "MB of the supervisor (PSS)", "MB of the worker (PSS)"]
    head += ["supervisor's descriptors", "worker's descriptors", "processes"]
    quarter = max(1, len(points) // 4)
    early, late = points[quarter : 2 * quarter] or points, points[-quarter:]
    megabytes = [statistics.median(one.supervisor_mb + one.worker_mb for one in some) for some in (early, late)]
    most = [tuple(max(one.descriptors[at] for one in some) for at in (0, 1)) for some in (early, late)]
    return Result(
        table(head, rows),
        (
            Aim(
                "no event is lost but those that the page reports",
                f"{churn.events:,} events, sum off by {off:+.0f}, reported as missed {scrapers.missed:.0f}, counted"
                f" under (other) as a map was full {sum(scrapers.overflowed.values()):.0f}; {kills} workers killed",
                off == -scrapers.missed,
            ),
            Aim(
                "each scrape has its page, and no counter goes back while a worker lives",
                f"{scrapers.pages:,} pages, {scrapers.failures} failed, {scrapers.decreases} went back",
                not scrapers.failures and not scrapers.decreases,
            ),
            Aim("each reload is done", f"{reloads} reloads, {refused} refused", not refused),
            Aim(
                "memory is flat at the end (5% at most)",
                f"{megabytes[0]:.1f} MB in the second quarter, {megabytes[1]:.1f} MB in the last",
                megabytes[1] <= megabytes[0] * FLAT,
            ),
            Aim(
                "descriptors are flat at the end",
                f"{most[0][0]} and {most[0][1]} in the second quarter, {most[1][0]} and {most[1][1]} in the last",
                most[1] <= most[0],
            ),
        ),
    )
