# SPDX-License-Identifier: Apache-2.0
"""Reads probes' maps exactly: while one half of a table is drained, programs write the other.

To read: turn the switches of all probes; wait once, until no program still writes the old halves; drain those. The wait
is an update of an array of maps, from which the kernel returns only after every BPF program that was running has ended
(commit 1ae80cf31938, "bpf: wait for running BPF programs when updating map-in-map", 5.0).
"""

import os
import struct

from exporter import cgroups, kinds, libbpf
from exporter.metrics.series import Series
from exporter.probe import Probe, map_entries

_FIRST = struct.pack("=I", 0)


class Barrier:
    """Waits for all running BPF programs."""

    def __init__(self, outer: int, inner: int) -> None:
        self._outer = outer
        self._value = struct.pack("=I", inner)

    @staticmethod
    def create() -> list[int]:
        """Makes the two maps that a barrier is of. Returns their descriptors, in the constructor's order."""
        inner = libbpf.map_create(libbpf.MAP_TYPE_ARRAY, "barrier_inner", 4, 4, 1)
        return [libbpf.map_create(libbpf.MAP_TYPE_ARRAY_OF_MAPS, "barrier", 4, 4, 1, inner=inner), inner]

    def wait(self) -> None:
        libbpf.map_update(self._outer, _FIRST, self._value)


class ProbeMaps:
    """The maps of one running probe, and the series that they add to."""

    def __init__(self, probe: Probe, fds: dict[str, int]) -> None:
        self.probe = probe
        self._switch = fds["writing"]
        self._fds = fds
        self._half = int.from_bytes(libbpf.map_lookup(self._switch, _FIRST, 4), "little")  # whoever was here before
        self.tables = [Series(table, probe.max_series) for table in probe.tables if table.chosen]
        self._born = fds.get(cgroups.BORN)
        self._drain_born = libbpf.Drain(8, cgroups.BORN_PATH, 64)
        if not probe.chosen_kinds.isdisjoint(kinds.OF_CGROUPS) and not cgroups.PATHS:
            cgroups.PATHS.walk()  # those that were there before their births were watched
        self._drains = [
            (
                libbpf.Drain(series.table.key_size, 8 * len(series.table.values), map_entries(probe.max_series)),
                libbpf.Drain(series.table.bounded_size, 8 * (len(series.table.values) + 1), series.table.combinations),
            )
            for series in self.tables
        ]

    def go_on(self, probe: Probe) -> None:
        """Goes on for a probe that is the same but for its rules."""
        self.probe = probe
        for series, table in zip(self.tables, (table for table in probe.tables if table.chosen), strict=True):
            series.rename(table)

    def close(self) -> None:
        """Lets go of the maps."""
        for fd in self._fds.values():
            os.close(fd)

    def turn(self) -> None:
        """Makes the programs write the other half from their next run on."""
        self._half ^= 1
        libbpf.map_update(self._switch, _FIRST, struct.pack("=I", self._half))

    def learn(self) -> None:
        """Learns the names of what was made since the last read."""
        if self._born is not None:
            for numbers, paths in self._drain_born(self._born):
                cgroups.PATHS.learn_all(numbers, paths)

    def drain(self) -> None:
        """Moves everything from the half that is not written into the series."""
        old = self._half ^ 1
        for series, (drain, drain_overflow) in zip(self.tables, self._drains, strict=True):
            name = series.table.name
            series.begin()
            for keys, values in drain(self._fds[f"{name}_{old}"]):
                series.add(keys, values)
            if series.table.bounded_size:
                for keys, values in drain_overflow(self._fds[f"{name}_{old}_over"]):
                    series.add_overflow(keys, values)
            self._drain_rest(series, old)
            series.settle()

    def _drain_rest(self, series: Series, old: int) -> None:
        fd, half, size = (
            self._fds[f"{series.table.name}_rest"],
            struct.pack("=I", old),
            8 * (len(series.table.values) + 1),
        )
        value = libbpf.map_lookup(fd, half, size)
        if any(value):
            series.add_rest(value)
            libbpf.map_update(fd, half, bytes(size))


def read(barrier: Barrier, probes: list[ProbeMaps]) -> None:
    """Brings the series of all probes up to now."""
    for probe in probes:
        probe.turn()
    barrier.wait()
    cgroups.PATHS.next_read()
    for probe in probes:
        probe.learn()
    for probe in probes:
        probe.drain()
