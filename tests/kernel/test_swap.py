# SPDX-License-Identifier: Apache-2.0
"""A program takes another's place on interfaces while packets come: no packet is seen by neither."""

import contextlib
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from exporter import libbpf
from exporter.network import links
from exporter.network.attachments import OnInterfaces
from exporter.places import Place
from exporter.probe import Mechanism, Probe
from exporter.rules import tables
from exporter.rules.placing import Placing
from exporter.rules.rule import EGRESS, INGRESS, Rule
from exporter.status import Loaded
from tests.kernel.tc import needs_tcx
from tests.kernel.wires import frame, ip, link

DROP = {libbpf.PROG_TYPE_XDP: 1, libbpf.PROG_TYPE_SCHED_CLS: 2}
SWAPS = 101
PATIENCE = 300  # seconds; what was lost never comes


def counting_drop(kind: int) -> tuple[int, int]:
    """Loads a program that drops all packets and counts them. Returns it and its map of one u64."""
    counted = libbpf.map_create(libbpf.MAP_TYPE_ARRAY, "counted", 4, 8, 1)
    code = [
        (0x62, 10, -4, 0),  # *(u32 *)(r10 - 4) = 0
        (0x18, 0x11, 0, counted),  # r1 = map
        (0, 0, 0, 0),
        (0xBF, 0xA2, 0, 0),  # r2 = r10
        (0x07, 2, 0, -4),  # r2 -= 4
        (0x85, 0, 0, 1),  # call bpf_map_lookup_elem
        (0x15, 0, 2, 0),  # if r0 == 0 goto +2
        (0xB7, 1, 0, 1),  # r1 = 1
        (0xDB, 0x10, 0, 0),  # lock *(u64 *)r0 += r1
        (0xB7, 0, 0, DROP[kind]),  # r0 = drop
        (0x95, 0, 0, 0),  # exit
    ]
    return libbpf.prog_load(kind, "drop", b"".join(struct.pack("<BBhi", *one) for one in code)), counted


def total(counted: int) -> int:
    return int.from_bytes(libbpf.map_lookup(counted, bytes(4), 8), "little")


@pytest.mark.matrix
@pytest.mark.parametrize("way", ["xdp native", "xdp generic", "tc tcx", "tc clsact"])
def test_no_packet_gets_through_while_programs_are_swapped(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of frames that are sent one after the other, and that both of two programs drop, every one is dropped, and
    counted by one of the two, while they take each other's places a hundred times."""
    family, mode = way.split()
    if mode == "tcx":
        needs_tcx()
    elif mode == "clsact":
        monkeypatch.setattr(links, "offers_tcx", lambda _: False)
    kind = libbpf.PROG_TYPE_XDP if family == "xdp" else libbpf.PROG_TYPE_SCHED_CLS
    (one, first), (other, second) = counting_drop(kind), counting_drop(kind)
    probe = Probe("p", "", Path(), None, (), (), interfaces=("ebpf-s0",), mode=mode if family == "xdp" else "auto")
    hook = "xdp" if family == "xdp" else "tc:egress"
    loaded = Loaded(probe, family, (), (), ("drop",), (), (), 0, (), (("drop", hook),), (), "", (), Mechanism(()), "")
    with link("ebpf-s0") as pair, pair.ports() as (here, there):
        # of a program that is entered by way of another, the descriptor becomes that other's: these are copies
        held = [OnInterfaces(loaded, [os.dup(one)])]
        assert held[0].update({}) == []
        assert held[0].mechanism == way
        # XDP drops ahead of what packet sockets see, TC at the egress ahead of the wire
        sender, receiver = (here, there) if family == "tc" else (there, here)
        swapping, sent = threading.Event(), 0
        deadline = time.monotonic() + PATIENCE

        def swap() -> None:
            for number in range(SWAPS):
                before = total(first) + total(second)
                while total(first) + total(second) == before and not swapping.is_set():
                    continue  # frames go by between two swaps
                newer = OnInterfaces(loaded, [os.dup(one if number % 2 else other)])
                newer.take_over(held[0])
                held[0].release()
                held[0] = newer
            swapping.set()

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            while not swapping.is_set():
                sender.send([frame(64)])
                sent += 1
                while total(first) + total(second) < sent:  # no faster than the interface takes them
                    assert receiver.receive(0) == []
                    assert time.monotonic() < deadline
        finally:
            swapping.set()
            swapper.join()
        assert total(first) > 0
        assert total(second) > 0
        assert total(first) + total(second) == sent
        assert receiver.receive(0) == []
        assert held[0].update({}) == []
        assert len(held[0].attachments) == 1
        held[0].release()
        sender.send([frame(64)] * 3)
        assert len(receiver.receive(3)) == 3
    for fd in (one, first, other, second):
        os.close(fd)


@pytest.mark.matrix
def test_rules_are_placed_before_programs_are_swapped() -> None:
    """What takes over has its rules for each container in the kernel as soon as its programs are on the interfaces."""
    rules = (Rule("one", "drop", number=1, containers=("a*",)), Rule("two", "drop", number=2, direction=EGRESS))

    def placing() -> tuple[Placing, int]:
        fd = libbpf.map_create(libbpf.MAP_TYPE_HASH, "places", 8, 8, 16)
        return Placing(fd, rules), fd

    def placed(fd: int, index: int) -> dict[str, int]:
        """Returns the sets of rules by direction, a bit for each rule; none where nothing is said of an interface."""
        found: dict[str, int] = {}
        for direction in (INGRESS, EGRESS):
            with contextlib.suppress(FileNotFoundError):
                found[direction] = int.from_bytes(
                    libbpf.map_lookup(fd, tables.place_key(index, direction), 8), "little"
                )
        return found

    program, counted = counting_drop(libbpf.PROG_TYPE_XDP)
    probe = Probe("p", "", Path(), None, (), (), interfaces=("ebpf-s1", "ebpf-s2"))
    hooks = (("drop", "xdp"),)
    loaded = Loaded(probe, "xdp", (), (), ("drop",), (), (), 0, (), hooks, (), "", (), Mechanism(()), "")
    with link("ebpf-s1"), link("ebpf-s2"):
        first, second = socket.if_nametoindex("ebpf-s1"), socket.if_nametoindex("ebpf-s2")
        (one, before), (other, after) = placing(), placing()
        older, newer = OnInterfaces(loaded, [program], one), OnInterfaces(loaded, [program], other)
        assert older.update({first: Place("ebpf-s1", "abc"), second: Place("ebpf-s2", "")}) == []
        assert placed(before, first) == {INGRESS: 0b01, EGRESS: 0b11}
        assert placed(before, second) == {INGRESS: 0b00, EGRESS: 0b10}  # nobody knows yet who that is
        newer.take_over(older)
        assert len(newer.attachments) == 2
        assert placed(after, first) == {INGRESS: 0b01, EGRESS: 0b11}
        assert newer.update({first: Place("ebpf-s1", "b"), second: Place("ebpf-s2", "ab")}) == []
        assert placed(after, first) == {INGRESS: 0b00, EGRESS: 0b10}
        assert placed(after, second) == {INGRESS: 0b01, EGRESS: 0b11}
        ip("link", "del", "ebpf-s2")
        newer.update({first: Place("ebpf-s1", "b")})
        assert placed(after, second) == {}
        newer.release()
    for fd in (program, counted, before, after):
        os.close(fd)
