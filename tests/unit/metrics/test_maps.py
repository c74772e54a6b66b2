# SPDX-License-Identifier: Apache-2.0
"""metrics/maps.py: the order of turning, waiting and draining, with the kernel's maps left out."""

import struct
from collections.abc import Iterator

import pytest

from exporter import cgroups, libbpf, places
from exporter.metrics import maps
from exporter.metrics.maps import Barrier, ProbeMaps
from exporter.probe import Probe

from ..support import bounded_key, counter, key, label, numbers, probe, samples

BARRIER = Barrier(900, 901)


class Kernel:
    """What stands in for the kernel: maps by descriptor, and a diary of what was done to them."""

    def __init__(self) -> None:
        self.hashes: dict[int, list[tuple[bytes, bytes]]] = {}
        self.cells: dict[tuple[int, int], bytes] = {}  # (descriptor, index) -> value
        self.diary: list[str] = []

    def map_update(self, fd: int, at: bytes, value: bytes) -> None:
        [index] = struct.unpack("=I", at)
        if fd == 900:
            self.diary.append("wait")
        elif len(value) == 4:
            self.diary.append(f"turn {fd} to {struct.unpack('=I', value)[0]}")
        else:
            assert not any(value)
            self.diary.append(f"empty {fd}[{index}]")
        self.cells[fd, index] = value

    def map_lookup(self, fd: int, at: bytes, value_size: int) -> bytes:
        [index] = struct.unpack("=I", at)
        return self.cells.get((fd, index), bytes(value_size))

    def drain(self, key_size: int, value_size: int, fd: int) -> Iterator[tuple[memoryview, memoryview]]:
        self.diary.append(f"drain {fd}")
        for found, value in self.hashes.pop(fd, []):
            assert (len(found), len(value)) == (key_size, value_size)
            yield memoryview(found), memoryview(value)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    stand_in = Kernel()

    class Drain:
        def __init__(self, key_size: int, value_size: int, entries: int) -> None:
            assert entries > 0
            self.sizes = key_size, value_size

        def __call__(self, fd: int) -> Iterator[tuple[memoryview, memoryview]]:
            return stand_in.drain(*self.sizes, fd)

    monkeypatch.setattr(libbpf, "map_update", stand_in.map_update)
    monkeypatch.setattr(libbpf, "map_lookup", stand_in.map_lookup)
    monkeypatch.setattr(libbpf, "Drain", Drain)
    return stand_in


def one_probe() -> Probe:
    return probe(counter("ebpf_a_total", label("op", ["read", "write"]), label("comm", "comm")))


def fds(base: int) -> dict[str, int]:
    """Descriptors: the switch, the halves, the rest, the halves of the overflow."""
    return {name: base + at for at, name in enumerate(("writing", "a_0", "a_1", "a_rest", "a_0_over", "a_1_over"))}


def counted(read: ProbeMaps) -> dict[str, float]:
    """(comm, op) as text -> value"""
    text = b"".join(lines for series in read.tables for _, lines in series.render()).decode()
    return {
        " ".join(value for _, value in labels): number
        for labels, number in samples(text).get("ebpf_a_total", {}).items()
    }


def test_all_are_turned_then_one_wait_then_all_are_drained(kernel: Kernel) -> None:
    """One wait is enough for all probes, and nothing is drained that a program may still write."""
    probes = [ProbeMaps(one_probe(), fds(10)), ProbeMaps(one_probe(), fds(20))]
    maps.read(BARRIER, probes)
    assert kernel.diary == [
        "turn 10 to 1", "turn 20 to 1", "wait", "drain 11", "drain 14", "drain 21", "drain 24",
    ]  # fmt: skip
    assert kernel.cells[900, 0] == struct.pack("=I", 901)


def test_the_halves_take_turns(kernel: Kernel) -> None:
    """What is drained is always the half that was written up to now."""
    one = ProbeMaps(one_probe(), fds(10))
    for _ in range(3):
        maps.read(BARRIER, [one])
    assert [entry for entry in kernel.diary if entry != "wait"] == [
        "turn 10 to 1", "drain 11", "drain 14", "turn 10 to 0", "drain 12", "drain 15", "turn 10 to 1", "drain 11",
        "drain 14",
    ]  # fmt: skip


def test_who_comes_later_goes_on_where_the_switch_stands(kernel: Kernel) -> None:
    """A worker that takes over maps from another drains the half that is being written, not the one it would guess."""
    kernel.cells[10, 0] = struct.pack("=I", 1)
    maps.read(BARRIER, [ProbeMaps(one_probe(), fds(10))])
    assert kernel.diary == ["turn 10 to 0", "wait", "drain 12", "drain 15"]


def test_what_is_drained_is_counted(kernel: Kernel) -> None:
    """Keys, overflowed keys and the rest all reach the series, each once."""
    found = one_probe()
    table = found.tables[0]
    one = ProbeMaps(found, fds(10))
    kernel.hashes[11] = [(key(table, op=0, comm="cat"), numbers(2)), (key(table, op=1, comm="dd"), numbers(3))]
    kernel.hashes[14] = [(bounded_key(table, op=1), numbers(5, 5))]
    kernel.cells[13, 0] = numbers(7, 7)
    kernel.cells[13, 1] = numbers(1, 1)  # of the other half: not yet
    maps.read(BARRIER, [one])
    assert kernel.diary[-1] == "empty 13[0]"
    kernel.hashes[12] = [(key(table, op=0, comm="cat"), numbers(11))]
    maps.read(BARRIER, [one])
    assert counted(one) == {"cat read": 13.0, "dd write": 3.0, "(other) write": 5.0, "(other) (other)": 8.0}
    assert one.tables[0].overflowed == 13


def test_what_is_left_out_is_not_read(kernel: Kernel) -> None:
    """A table that the config does not want has no maps, and one without bounded labels no overflow maps."""
    found = probe(counter("ebpf_b_total", chosen=False), counter("ebpf_a_total", label("comm", "comm")))
    one = ProbeMaps(found, {"writing": 10, "a_0": 11, "a_1": 12, "a_rest": 13})
    maps.read(BARRIER, [one])
    assert kernel.diary == ["turn 10 to 1", "wait", "drain 11"]
    assert [series.table.name for series in one.tables] == ["a"]


def test_the_maps_of_a_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier is an array of maps of one entry, and an array to put there."""
    made: list[tuple[int, int]] = []

    def map_create(
        kind: int, name: str, key_size: int, value: int, entries: int, flags: int = 0, inner: int = 0
    ) -> int:
        assert (name.startswith("barrier"), key_size, value, entries, flags) == (True, 4, 4, 1, 0)
        made.append((kind, inner))
        return 50 + len(made)

    monkeypatch.setattr(libbpf, "map_create", map_create)
    assert Barrier.create() == [52, 51]
    assert made == [(libbpf.MAP_TYPE_ARRAY, 0), (libbpf.MAP_TYPE_ARRAY_OF_MAPS, 51)]


def test_names_are_learnt_after_the_wait_and_before_they_are_needed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cgroups that were made before what is drained was counted are known, without a walk."""
    walks: list[int] = []
    monkeypatch.setattr(cgroups, "PATHS", cgroups.Paths())
    monkeypatch.setattr(cgroups, "found", lambda: iter([(1, b"/")] if walks.append(1) is None else ()))  # type: ignore[func-returns-value]
    found = probe(counter("ebpf_a_total", label("cgroup", "cgroup")))
    table = found.tables[0]
    one = ProbeMaps(found, {"writing": 10, "a_0": 11, "a_1": 12, "a_rest": 13, cgroups.BORN: 15})
    kernel.hashes[15] = [((7).to_bytes(8, "little"), b"/born".ljust(cgroups.BORN_PATH, b"\0"))]
    kernel.hashes[11] = [(key(table, cgroup=7), numbers(2)), (key(table, cgroup=1), numbers(3))]
    maps.read(BARRIER, [one])
    assert kernel.diary == ["turn 10 to 1", "wait", "drain 15", "drain 11"]
    assert counted(one) == {"/born": 2.0, "/": 3.0}
    assert len(walks) == 1


def test_what_waits_for_a_name_is_added_by_the_next_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drained before a name was told is on the page with the first read after it."""
    told = places.Places()
    told.learn({}, {})
    monkeypatch.setattr(places, "PLACES", told)
    found = probe(counter("ebpf_a_total", label("container", "veth_container")))
    one = ProbeMaps(found, {"writing": 10, "a_0": 11, "a_1": 12, "a_rest": 13})
    kernel.hashes[11] = [(key(found.tables[0], container=7), numbers(2))]
    maps.read(BARRIER, [one])
    assert counted(one) == {}
    told.learn({7: places.Place("veth1", "web")}, {})
    maps.read(BARRIER, [one])
    assert counted(one) == {"web": 2.0}
