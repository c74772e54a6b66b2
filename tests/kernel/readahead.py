# SPDX-License-Identifier: Apache-2.0
"""Events to a test's liking: readahead(2) on no file, counted by the probe in ``probes/readaheads.*``."""

import ctypes
import re
from pathlib import Path

from tests.kernel.daemon import Daemon

PROBES = Path(__file__).with_name("probes")
CALLS, SIZES = "ebpf_readaheads_total", "ebpf_readaheads_bytes_total"
BYTES, SECTORS, SECONDS = "ebpf_readahead_bytes", "ebpf_readahead_sectors_bytes", "ebpf_readahead_seconds"
HALVES = ("even", "odd")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.readahead.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_size_t)


def counting(metrics: list[str], labels: list[str], max_series: int = 1000, interval: str = "60s") -> Daemon:
    """Returns a daemon with this probe alone. With the default interval nearly all its reads are those of scrapes."""
    settings = {"metrics": metrics, "labels": labels, "max_series": max_series}
    return Daemon({"readaheads": settings}, folder=PROBES, interval=interval)


def ask(size: int, times: int = 1, half: str = "even") -> None:
    """Causes events; each is over, and counted in the kernel, when this returns."""
    for _ in range(times):
        assert _libc.readahead(-1, HALVES.index(half), size) == -1


def exact(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], str]]:
    """Returns a page's numbers as they are written, of which a float would not hold all bits:
    name -> labels, sorted by name -> digits."""
    found: dict[str, dict[tuple[tuple[str, str], ...], str]] = {}
    for line in page.splitlines():
        if matched := re.fullmatch(r"(ebpf_readahead\w+)(?:\{(.*)\})? (\S+)", line):
            name, labels, value = matched.groups()
            found.setdefault(name, {})[tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels or "")))] = value
    return found
