# SPDX-License-Identifier: Apache-2.0
"""Whether each event is counted: ten million from all processors at the highest rate, with scrapes all the while."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.measure import Aim, Bench, Result, spread, table
from tests.kernel.daemon import Daemon, count

EVENTS = 10_000_000
SCRAPE_SECONDS = 0.05
OPENS = "ebpf_file_opens_total"
# a path that is longer than any may be: nobody else on this host opens such a one, and it is refused at once
PATH, RESULT = "n" * 4096, "ENAMETOOLONG"
TASKS = {"storm": "few names", "renames-fail": "a new name for each event"}


def section(bench: Bench) -> Result:
    processes = 2 * (os.cpu_count() or 1)
    rows, differences = [], []
    for task, names in TASKS.items():
        runs = [_run(bench.workload, task, processes) for _ in range(bench.times)]
        off = [found - EVENTS for _, _, found in runs]
        differences += off
        figures = (*zip(*runs, strict=True), off)
        rows.append([names, f"{EVENTS:,}", str(processes), *(spread(figure, 0) for figure in figures)])
    worst = max(differences, key=abs)
    head = ["opens of processes with", "events", "processes", "events/s", "scrapes meanwhile", "sum", "difference"]
    return Result(
        table(head, rows),
        (Aim("the sum over the series is the number of events, to the last one", f"off by {worst:.0f}", worst == 0),),
    )


def _run(workload: str, task: str, processes: int) -> tuple[float, int, float]:
    """Returns the events in a second, the scrapes that were done meanwhile, and the sum over the series."""
    shares = [EVENTS // processes + (number < EVENTS % processes) for number in range(processes)]
    with Daemon({"file_opens": {}}, interval="100ms") as daemon:
        before = count(daemon.samples(), OPENS, result=RESULT)
        with _scraping(daemon) as scrapes:
            began = time.monotonic()
            running = [
                subprocess.Popen([workload, f"storm-{number}", task, PATH, str(share)], stdout=subprocess.DEVNULL)
                for number, share in enumerate(shares)
            ]
            assert [process.wait() for process in running] == [0] * processes
            seconds = time.monotonic() - began
        return EVENTS / seconds, len(scrapes), count(daemon.samples(), OPENS, result=RESULT) - before


@contextmanager
def _scraping(daemon: Daemon) -> Iterator[list[int]]:
    """Scrapes in the background; the list fills with the sizes of the pages."""
    pages: list[int] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS):
            response, body = daemon.get("/metrics")
            assert response.status == 200
            pages.append(len(body))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield pages
    finally:
        over.set()
        thread.join()
