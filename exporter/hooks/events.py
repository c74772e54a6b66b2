# SPDX-License-Identifier: Apache-2.0
"""The events of perf that count by themselves, software's and the processor's, by their names in perf and bpftrace."""

import errno
import os
from typing import NamedTuple

from exporter import perf


class Event(NamedTuple):
    """An event's config (enum perf_sw_ids, perf_hw_id) and after how many of it a program runs, unless told."""

    config: int
    period: int


# bpftrace's periods, which man bpftrace explains: what is frequent is sampled, in nanoseconds for the clocks
SOFTWARE = {
    "cpu-clock": Event(0, 1_000_000),
    "task-clock": Event(1, 1_000_000),
    "page-faults": Event(2, 100),
    "faults": Event(2, 100),
    "context-switches": Event(3, 1_000),
    "cs": Event(3, 1_000),
    "cpu-migrations": Event(4, 1),
    "migrations": Event(4, 1),
    "minor-faults": Event(5, 100),
    "major-faults": Event(6, 1),
    "alignment-faults": Event(7, 1),
    "emulation-faults": Event(8, 1),
    "dummy": Event(9, 1),
    "bpf-output": Event(10, 1),
    "cgroup-switches": Event(11, 1_000),  # since 5.13
}

HARDWARE = {
    "cpu-cycles": Event(0, 1_000_000),
    "cycles": Event(0, 1_000_000),
    "instructions": Event(1, 1_000_000),
    "cache-references": Event(2, 1_000_000),
    "cache-misses": Event(3, 1_000_000),
    "branch-instructions": Event(4, 100_000),
    "branches": Event(4, 100_000),
    "branch-misses": Event(5, 100_000),
    "bus-cycles": Event(6, 100_000),
    "stalled-cycles-frontend": Event(7, 1_000_000),
    "stalled-cycles-backend": Event(8, 1_000_000),
    "ref-cycles": Event(9, 1_000_000),
}


def offered(kind: int, event: Event) -> bool:
    """Whether this kernel on this machine counts an event: asked by opening it for this process, and closing it.

    Raises OSError where it may not be asked (kernel.perf_event_paranoid), or where there are no perf events at all.
    """
    try:
        flags = perf.DISABLED | perf.EXCLUDE_KERNEL
        os.close(perf.event_open(kind, event.config, 0, -1, period=event.period, flags=flags))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
            return False
        raise
    return True
