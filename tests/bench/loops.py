# SPDX-License-Identifier: Apache-2.0
"""What an event costs: loops of system calls, alone and with something attached to them."""

import ctypes
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import EMULATED, READY_SECONDS, Bench, CannotRun, Program, cpu_ms, programs, spread

CALLS = {"opens": 200_000, "reads": 200_000, "execs": 500}
READY_CALLS = 50


@dataclass(frozen=True)
class Cost:
    """Of each repetition, the nanoseconds for each event: of the loop, in BPF programs, in the peer's own processes."""

    loop: list[float]
    in_bpf: list[float]
    in_user: list[float]

    def row(self, alone: "Cost") -> list[str]:
        """Returns the cells of a table, with how much longer the loop takes than alone."""
        times = statistics.median(self.loop) / statistics.median(alone.loop)
        return [spread(self.in_bpf, 0), spread(self.in_user, 0), spread(self.loop, 0), f"{times:.2f}"]


@contextmanager
def statistics_on() -> Iterator[None]:
    """The kernel takes the time of each run of a BPF program, which costs some 20 ns; so it is on for all alike."""
    fd = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_enable_stats(0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(fd)


def loop(bench: Bench, what: str, count: int) -> float:
    """Runs a loop of so many calls. Returns the nanoseconds of each."""
    out = subprocess.run([bench.peers, what, str(count)], check=True, capture_output=True, text=True).stdout
    return float(out)


def cost(bench: Bench, what: str, others: frozenset[int] = frozenset(), pids: tuple[int, ...] = ()) -> Cost:
    """Measures a loop with whatever is attached; programs that were there before, the others, are left out.

    Raises CannotRun where the loop makes no program run.
    """
    count = CALLS[what] // (20 if EMULATED else 1)
    if pids:
        _wait_until_attached(bench, what, others, pids[0])
    loop(bench, what, count)  # warms up
    result = Cost([], [], [])
    for _ in range(bench.times):
        before, cpu = _runs(others), cpu_ms(*pids)
        result.loop.append(loop(bench, what, count))
        result.in_user.append((cpu_ms(*pids) - cpu) * 1e6 / count)
        result.in_bpf.append((_runs(others).run_time_ns - before.run_time_ns) / count)
    return result


def _runs(others: frozenset[int]) -> Program:
    found = [program for number, program in programs().items() if number not in others]
    return Program(sum(program.run_time_ns for program in found), sum(program.runs for program in found))


def _wait_until_attached(bench: Bench, what: str, others: frozenset[int], pid: int) -> None:
    """Some say that they are ready before they are: until two short loops make as many runs, and some."""
    deadline = time.monotonic() + READY_SECONDS
    last = 0
    while time.monotonic() < deadline and Path(f"/proc/{pid}/cmdline").read_bytes():  # one that has ended has none
        before = _runs(others).runs
        loop(bench, what, READY_CALLS)
        runs = (_runs(others).runs - before) // READY_CALLS
        if runs and runs == last:
            return
        last = runs
    raise CannotRun(f"a loop of {what} does not make its programs run")
