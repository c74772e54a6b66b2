# SPDX-License-Identifier: Apache-2.0
"""Totals under load, under too many keys, and from two scrapers' eyes."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from exporter.loader import headers
from tests.kernel.conftest import Workload
from tests.kernel.daemon import Daemon, Samples, by, count, meanwhile

OPENS = "ebpf_file_opens_total"
EVENTS = 1_000_003
MISSED = "ebpf_exporter_events_missed_total"
# since then programs at the tracepoints of system calls are preempted, and others skipped meanwhile
MAY_MISS = (7, 2, 0)
ANY_COST = {"max_cpu_percent": 0}  # an emulated machine may take a minute, and be over the budget of it


@contextmanager
def scraping(daemon: Daemon, every: float) -> Iterator[list[Samples]]:
    """Scrapes in the background, every so many seconds; the list fills with what was seen."""
    seen: list[Samples] = []
    with meanwhile(lambda: seen.append(daemon.samples()), every):
        yield seen


def skipped(samples: Samples) -> int:
    """Returns how many opens may lack: those that the page says the kernel skipped, and none where it skips none."""
    told = int(count(samples, MISSED, probe="file_opens"))
    return told if headers.version(platform.release()) >= MAY_MISS else 0


def assert_monotonic(pages: list[Samples]) -> None:
    """No counter that two successive pages have is lower on the second."""
    for earlier, later in pairwise(pages):
        for key, value in earlier.items():
            if key[0].startswith("ebpf_") and key[0].endswith(("_total", "_count", "_bucket")) and key in later:
                assert later[key] >= value, key


@pytest.mark.matrix
def test_not_one_event_is_lost_under_load(workload_binary: Path) -> None:
    """1,000,003 events of four processes at the highest rate, with scrapes all the while: all are counted, or told."""
    shares = [EVENTS // 4 + (number < EVENTS % 4) for number in range(4)]
    with Daemon({"file_opens": ANY_COST}, interval="100ms") as daemon, scraping(daemon, 0.05) as seen:
        running = [
            subprocess.Popen([str(workload_binary), f"storm-{number}", "storm", "/no/such/file", str(share)])
            for number, share in enumerate(shares)
        ]
        assert [process.wait() for process in running] == [0, 0, 0, 0]
        samples = daemon.samples()
    over = [
        int(count(samples, OPENS, comm=f"storm-{number}", result="ENOENT")) - share
        for number, share in enumerate(shares)
    ]
    extra = max(0, *over)  # a dynamic loader may look for a file that is not there
    assert extra <= 1
    lost = [extra - value for value in over]
    assert sum(lost) <= skipped(samples), lost
    assert seen
    assert_monotonic(seen)


def resident(pid: int) -> int:
    """Returns a process's own resident memory in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


@pytest.mark.matrix
def test_a_million_names_cost_neither_events_nor_memory(tmp_path: Path, workload: Workload) -> None:
    """A process that renames itself a million times against 1,000 series: sums exact, pages small, memory flat."""
    file = tmp_path / "file"
    file.touch()
    limit = 1000
    config = {"file_opens": {"max_series": limit, **ANY_COST}}
    with Daemon(config, interval="100ms") as daemon, scraping(daemon, 0.2) as seen:
        before = daemon.samples()
        workload("renamer", "renames", file, 100_000)
        daemon.samples()
        early = resident(daemon.worker_pid())
        workload("renamer", "renames", file, 900_000)
        samples = daemon.samples()
        late = resident(daemon.worker_pid())
    good = by(samples, "comm", OPENS, result="ok")
    good_before = by(before, "comm", OPENS, result="ok")
    others = [name for name in good if name != "(other)" and not (name[0] == "r" and name[1:].isdigit())]
    # what this host's other processes opened meanwhile is told by their names where they have series; the rest of them
    # can only be in (other), so the sum is the truth or a little above it
    renamed = sum(value - good_before.get(name, 0) for name, value in good.items() if name not in others)
    assert 1_000_000 - skipped(samples) <= renamed <= 1_000_000 + 20_000
    results = len(by(samples, "result", OPENS))
    for page in [*seen, samples]:
        assert count(page, "ebpf_exporter_series", metric=OPENS) <= limit + results
        assert sum(name == OPENS for name, _ in page) <= limit + results
    assert late - early <= 5 * 1024 * 1024


@pytest.mark.matrix
def test_the_sum_by_result_is_exact_under_too_many_keys(tmp_path: Path, workload: Workload) -> None:
    """Failures that only the workload has (EISDIR) are counted to the last one, whatever names it takes."""
    with Daemon({"file_opens": {"max_series": 10}}, interval="100ms") as daemon:
        before = count(daemon.samples(), OPENS, result="ENOTDIR")
        (tmp_path / "file").touch()
        done = workload("renamer", "renames-fail", tmp_path / "file" / "below", 50_021)
        after = daemon.samples()
    assert done == {"failed": 50_021}
    counted = count(after, OPENS, result="ENOTDIR") - before
    assert 50_021 - skipped(after) <= counted <= 50_021


@pytest.mark.anywhere
def test_who_becomes_active_gets_a_series_within_three_reads(tmp_path: Path, workload: Workload) -> None:
    """With all series taken by names seen once, a process that goes on opening files is soon shown by its name."""
    file = tmp_path / "file"
    file.touch()
    with Daemon({"file_opens": {"max_series": 50}}, interval="60s") as daemon:
        workload("renamer", "renames", file, 1000)
        sums = [count(daemon.samples(), OPENS, result="ok")]
        pages = []
        for _ in range(4):
            workload("newcomer", "storm", file, 5003)
            pages.append(daemon.samples())
            sums.append(count(pages[-1], OPENS, result="ok"))
    names = [{dict(labels)["comm"] for name, labels in page if name == OPENS} for page in pages]
    assert "newcomer" in names[2]
    assert count(pages[3], OPENS, comm="newcomer") >= 5003
    assert sums == sorted(sums)
    assert all(later - earlier >= 5003 for earlier, later in pairwise(sums))
