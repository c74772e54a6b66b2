# SPDX-License-Identifier: Apache-2.0
"""What scrapers see while events rain: counters that only grow, and nothing older than their scrape."""

import http.client
import mmap
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from exporter.probe import OTHER
from tests.kernel.daemon import Daemon, Samples, count, meanwhile, parsed
from tests.kernel.prometheus import Key, Prometheus, View
from tests.kernel.readahead import BYTES, CALLS, SECTORS, SIZES, ask, counting

pytestmark = pytest.mark.anywhere

EVENTS = 1_000_003  # of all processes, in each round
PROCESSES = 4
READ_AT = "ebpf_exporter_last_read_timestamp_seconds"
COUNTERS = '{__name__=~".+_(total|bucket|count|sum)"}'
OF_PROBE = '{__name__=~"ebpf_readahead.+"}'
SCRAPES = 10  # at least, of each Prometheus server while there are events
ROUNDS = 1000  # a bound, should a server be gone
CLOCKS = 0.01  # seconds: Prometheus rounds the times of its scrapes


@dataclass(frozen=True)
class Scrape:
    """A page, what was done at the least when it was asked for, and at the most when it was there."""

    before: tuple[int, ...]  # events of each process
    asked: float  # Unix time, after `before` was looked at
    page: str
    after: tuple[int, ...]

    def samples(self) -> Samples:
        return parsed(self.page)


class Processes:
    """Processes that cause events as fast as they can. Each keeps in memory that is shared how many are done."""

    def __init__(self, binary: Path, folder: Path, width: int, drift: int, sizes: int) -> None:
        self._binary = binary
        self._sizes = (width, drift, sizes)
        self._shares = [EVENTS // PROCESSES + (number < EVENTS % PROCESSES) for number in range(PROCESSES)]
        self._files = [folder / f"done-{number}" for number in range(PROCESSES)]
        self._done: list[memoryview] = []
        self.rounds = 0
        for path in self._files:
            path.write_bytes(bytes(8))
            with path.open("r+b") as file:
                self._done.append(memoryview(mmap.mmap(file.fileno(), 8)).cast("Q"))

    def done(self) -> tuple[int, ...]:
        return tuple(one[0] for one in self._done)

    def round(self) -> None:
        """Causes EVENTS events more, by all processes at once."""
        running = [
            subprocess.Popen(
                [self._binary, f"asker-{number}", "readaheads", path, *map(str, (share, *self._sizes))],
                stdout=subprocess.DEVNULL,
            )
            for number, (path, share) in enumerate(zip(self._files, self._shares, strict=True))
        ]
        assert [process.wait() for process in running] == [0] * PROCESSES
        self.rounds += 1

    def truth(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Returns (comm, half) -> how many events there were, and the sum of their sizes, by the rounds alone."""
        width, drift, sizes = self._sizes
        return {
            (f"asker-{number}", half): (
                self.rounds * len(range(offset, share, 2)),
                self.rounds * sum((i // drift + i % width) % sizes for i in range(offset, share, 2)),
            )
            for number, share in enumerate(self._shares)
            for offset, half in enumerate(("even", "odd"))
        }


@contextmanager
def scraping(daemon: Daemon, processes: Processes) -> Iterator[list[Scrape]]:
    """Asks for one page after the other, as a loop around curl does; the list fills with what was seen."""
    seen: list[Scrape] = []

    def scrape() -> None:
        before, asked = processes.done(), time.time()
        page = daemon.page()
        seen.append(Scrape(before, asked, page, processes.done()))

    with meanwhile(scrape):
        yield seen


def rain(daemon: Daemon, processes: Processes, servers: list[Prometheus]) -> list[Scrape]:
    """Causes events, while all scrape, until each server has scraped often and after the last of them."""
    for server in servers:
        server.wait_for_scrape(after=0)
    start = [server.scrapes() for server in servers]
    with scraping(daemon, processes) as seen:
        while any(server.scrapes() - before < SCRAPES for server, before in zip(servers, start, strict=True)):
            assert processes.rounds < ROUNDS
            processes.round()
    for _ in range(3):  # reads in which the last keys may still change places
        daemon.page()
    ended = time.time()
    for server in servers:
        server.wait_for_scrape(after=ended + CLOCKS)
    return seen


def view_of(seen: list[Scrape]) -> View:
    """Returns what the loop saw, in the form of what Prometheus saw."""
    view: View = defaultdict(list)
    for scrape in seen:
        for key, value in scrape.samples().items():
            if key[0].endswith(("_total", "_bucket", "_count", "_sum")):
                view[key].append((scrape.asked, value))
    return view


def decreases(view: View) -> list[tuple[Key, float, float]]:
    """Returns where a series reads less than before."""
    return [
        (key, earlier, later)
        for key, samples in view.items()
        for (_, earlier), (_, later) in pairwise(samples)
        if later < earlier
    ]


def summed(view: View) -> View:
    """Returns the sums over all sizes, scrape by scrape."""
    sums: dict[Key, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for (name, labels), samples in view.items():
        if name.startswith("ebpf_readahead"):
            key = name, frozenset(label for label in labels if label[0] != "size")
            for moment, value in samples:
                sums[key][moment] += value
    return {key: sorted(values.items()) for key, values in sums.items()}


def assert_not_older(view: View, seen: list[Scrape]) -> None:
    """No scrape of a Prometheus server has fewer events than were done before it, as the loop knows."""
    totals: dict[float, float] = defaultdict(float)
    for (name, _), samples in view.items():
        if name == CALLS:
            for moment, value in samples:
                totals[moment] += value
    for moment, value in totals.items():
        assert value >= max((sum(one.before) for one in seen if one.asked <= moment - CLOCKS), default=0)


def test_three_scrapers_see_counters_only_grow(tmp_path: Path, workload_binary: Path) -> None:
    """Two Prometheus servers and a loop see 1,000,003 events a round, of four processes: no counter decreases for any
    of them, no page is older than what was asked for, and in the end each has the truth."""
    processes = Processes(workload_binary, tmp_path, width=4099, drift=1, sizes=4099)
    with counting([CALLS, SIZES, BYTES], labels=["comm", "half"], interval="100ms") as daemon, ExitStack() as stack:
        servers = [stack.enter_context(Prometheus(daemon.port)) for _ in range(2)]
        seen = rain(daemon, processes, servers)
        final = daemon.samples()
        series = {key: value for key, value in final.items() if key[0].startswith("ebpf_readahead")}
        for view in (view_of(seen), *(server.samples(COUNTERS) for server in servers)):
            assert decreases(view) == []
        for server in servers:
            view = server.samples(COUNTERS)
            for name in {name for name, _ in view}:
                assert set(server.now(f"resets({name}[1h])").values()) == {0}
            assert_not_older(view, seen)
            assert server.last(OF_PROBE) == series
    for scrape in seen:
        page = scrape.samples()
        for number, (before, after) in enumerate(zip(scrape.before, scrape.after, strict=True)):
            # a process may have been between its event and its note of it
            assert before <= count(page, CALLS, comm=f"asker-{number}") <= after + 1
    for (comm, half), (calls, size) in processes.truth().items():
        assert (
            count(final, CALLS, comm=comm, half=half) == count(final, f"{BYTES}_count", comm=comm, half=half) == calls
        )
        assert count(final, SIZES, comm=comm, half=half) == count(final, f"{BYTES}_sum", comm=comm, half=half) == size


def test_while_keys_change_places_sums_only_grow(tmp_path: Path, workload_binary: Path) -> None:
    """With more busy keys than series, and others all the time, no scraper sees a sum or (other) decrease, or fewer
    events than were done; in the end all have the same series and the true sums.

    A series of its own may: it is gone when its key gives way, and starts at 0 if the key comes back. To Prometheus
    that is a counter that was reset.
    """
    processes = Processes(workload_binary, tmp_path, width=20, drift=9973, sizes=23)
    with (
        counting([CALLS, SECTORS], labels=["size", "half"], max_series=10, interval="100ms") as daemon,
        ExitStack() as stack,
    ):
        servers = [stack.enter_context(Prometheus(daemon.port)) for _ in range(2)]
        seen = rain(daemon, processes, servers)
        final = daemon.samples()
        series = {key: value for key, value in final.items() if key[0].startswith("ebpf_readahead")}
        for server in servers:
            assert server.last(OF_PROBE) == series
            assert_not_older(server.samples(CALLS), seen)
        for view in (view_of(seen), *(server.samples(COUNTERS) for server in servers)):
            assert decreases(summed(view)) == []
            assert decreases({key: samples for key, samples in view.items() if ("size", OTHER) in key[1]}) == []
            assert decreases({key: samples for key, samples in view.items() if "size" not in dict(key[1])}) == []
    pages = [scrape.samples() for scrape in seen]
    for scrape, page in zip(seen, pages, strict=True):
        assert sum(scrape.before) <= count(page, CALLS) <= sum(scrape.after) + PROCESSES
    assert count(final, "ebpf_exporter_series_folded_total", metric=CALLS) > 0
    assert any(earlier.keys() - later.keys() for earlier, later in pairwise(pages)), "no series gave way"
    for half in ("even", "odd"):
        truth = [value for (_, of), value in processes.truth().items() if of == half]
        assert count(final, CALLS, half=half) == sum(calls for calls, _ in truth)
        assert count(final, f"{SECTORS}_count", half=half) == sum(calls for calls, _ in truth)
        assert count(final, f"{SECTORS}_sum", half=half) == 512 * sum(size for _, size in truth)


def test_scrapes_that_come_together_share_a_read() -> None:
    """16 scrapers whose requests are all there when the first is answered: each has what was done before it asked, and
    there were fewer reads than scrapes."""
    scrapers = 16
    with counting([CALLS], labels=[]) as daemon:
        worker = daemon.worker_pid()
        connections = [http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60) for _ in range(scrapers)]
        os.kill(worker, signal.SIGSTOP)
        for connection in connections:
            ask(1, times=7)
            connection.request("GET", "/metrics")
        os.kill(worker, signal.SIGCONT)
        pages = [page_of(connection) for connection in connections]
    for number, page in enumerate(pages, 1):
        assert count(page, CALLS) >= 7 * number
    assert len({count(page, READ_AT) for page in pages}) < scrapers


def test_no_page_is_older_than_its_scrape() -> None:
    """While eight others scrape without a pause, whoever asks after N events is told N."""
    over = threading.Event()
    with counting([CALLS], labels=[]) as daemon:

        def scrape() -> None:
            while not over.is_set():
                daemon.page()

        others = [threading.Thread(target=scrape) for _ in range(8)]
        for thread in others:
            thread.start()
        try:
            for done in range(1, 32):
                ask(1)
                assert count(daemon.samples(), CALLS) == done
        finally:
            over.set()
            for thread in others:
                thread.join()


def page_of(connection: http.client.HTTPConnection) -> Samples:
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    return parsed(body.decode())
