# SPDX-License-Identifier: Apache-2.0
"""Each condition of rules on packets through a veth pair: exactly so many dropped, passed and counted as were made for
it, by the metrics, by a receiver's own capture, and by the interface's counters."""

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon import Daemon, by, count
from tests.kernel.wires import SO_RCVBUFFORCE, link
from tests.packets import (
    ARP,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    IPV4,
    IPV6,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    ethernet,
    extension,
    ipv4,
    ipv6,
    ports,
    tags,
)

pytestmark = pytest.mark.matrix

PACKETS, BYTES, RULES = "ebpf_xdp_packets_total", "ebpf_xdp_bytes_total", "ebpf_xdp_rule_packets_total"
_ETH_P_ALL = 3
_RCVBUF = 8 << 20

A, B, C = bytes([192, 0, 2, 1]), bytes([192, 0, 3, 1]), bytes([10, 0, 0, 1])
A6, B6 = (bytes.fromhex(f"20010db8000{number}") + bytes(10) for number in (1, 2))


def v4(source: bytes = A, destination: bytes = C, protocol: int = UDP, payload: bytes = b"", **more: Any) -> bytes:
    return ethernet(IPV4, ipv4(source, destination, protocol, payload, **more))


def v6(source: bytes = A6, destination: bytes = B6, first: int = UDP, payload: bytes = b"") -> bytes:
    return ethernet(IPV6, ipv6(source, destination, first, payload))


@dataclass(frozen=True)
class Sent:
    """Packets that are alike: what is to become of them, and by which rules they are to be counted."""

    packet: bytes
    times: int
    dropped: bool
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    rules: Sequence[dict[str, Any]]
    sent: Sequence[Sent]
    files: dict[str, str] = field(default_factory=dict)


def rule(name: str = "r", action: str = "drop", **conditions: Any) -> dict[str, Any]:
    return {"name": name, "action": action, **conditions}


def drops(packet: bytes, times: int) -> Sent:
    return Sent(packet, times, True, ("r",))


def passes(packet: bytes, times: int) -> Sent:
    return Sent(packet, times, False)


def tagged(packet: bytes, tag: bytes) -> bytes:
    return packet[:12] + tag + packet[12:]


UDP_53, UDP_54 = ports(53, 1000), ports(54, 1000)
SYN, SYN_ACK, RST = ports(1, 2, 0x02), ports(1, 2, 0x12), ports(1, 2, 0x04)

OPTIONS = extension(HOP_BY_HOP, HOP_BY_HOP)
LAST_OPTION = extension(HOP_BY_HOP, UDP)

CASES = {
    "source": Case(
        [rule(source=["192.0.2.0/24", "2001:db8:1::/48"])],
        [drops(v4(A), 17), passes(v4(B), 13), drops(v6(A6), 11), passes(v6(B6), 7), passes(v4(C, A), 5)],
    ),
    "source_file": Case(
        [rule(source="10.0.0.0/8", source_file="FOLDER/bad.txt")],
        [drops(v4(A), 17), drops(v4(C), 13), passes(v4(B), 11), drops(v6(A6), 7), passes(v6(B6), 5)],
        {"bad.txt": "# bad\n192.0.2.1 # one\n2001:db8:1::/48\n"},
    ),
    "destination": Case(
        [rule(destination=["192.0.2.0/24", "2001:db8:1::/48"])],
        [drops(v4(C, A), 17), passes(v4(A, B), 13), drops(v6(B6, A6), 11), passes(v6(A6, B6), 7)],
    ),
    "protocol": Case(
        [rule(protocol=["udp", 47, "arp"])],
        [drops(v4(protocol=UDP), 17), drops(v4(protocol=47), 13), passes(v4(protocol=TCP), 11), drops(v6(), 7),
         passes(v6(first=ICMP), 5), drops(ethernet(ARP, bytes(28)), 3), passes(ethernet(0x88CC, bytes(30)), 2)],
    ),
    "source_port": Case(
        [rule(source_port=[53, "1900-1902"])],
        [drops(v4(payload=UDP_53), 17), passes(v4(payload=UDP_54), 13), drops(v6(payload=ports(1901)), 11),
         drops(v4(protocol=TCP, payload=ports(53, 1, 0x10)), 7), passes(v4(payload=ports(1000, 53)), 5),
         passes(v4(protocol=ICMP, payload=UDP_53), 3)],
    ),
    "destination_port": Case(
        [rule(protocol="tcp", destination_port="20-25")],
        [drops(v4(protocol=TCP, payload=ports(1, 20, 2)), 17), drops(v6(first=TCP, payload=ports(1, 25, 2)), 13),
         passes(v4(protocol=TCP, payload=ports(22, 26, 2)), 11), passes(v4(payload=ports(1, 22)), 7)],
    ),
    "length": Case(
        [rule(length={"min": 100, "max": 200})],
        [drops(v4(payload=bytes(100 - 34)), 17), passes(v4(payload=bytes(99 - 34)), 13),
         drops(v6(payload=bytes(200 - 54)), 11), passes(v6(payload=bytes(201 - 54)), 7)],
    ),
    "tcp_flags": Case(
        [rule(tcp_flags=["syn", "not ack"])],
        [drops(v4(protocol=TCP, payload=SYN), 17), passes(v4(protocol=TCP, payload=SYN_ACK), 13),
         passes(v4(protocol=TCP, payload=RST), 11), drops(v6(first=TCP, payload=SYN), 7), passes(v4(payload=SYN), 5)],
    ),
    "VLAN tags": Case(
        [rule(source_port=53, source="192.0.2.0/24")],
        [drops(tagged(v4(payload=UDP_53), tags(5)), 17), passes(tagged(v4(payload=UDP_54), tags(5)), 13),
         drops(tagged(v4(payload=UDP_53), tags(5, 6)), 11),
         drops(tagged(v4(payload=UDP_53), tags(5, 6, outer=VLAN)), 7),
         passes(tagged(v4(payload=UDP_53), tags(5, 6) + tags(7)), 5)],
    ),
    "extension headers": Case(
        [rule(protocol="udp", source_port=53)],
        [drops(v6(first=HOP_BY_HOP, payload=LAST_OPTION + UDP_53), 17),
         drops(v6(first=ROUTING, payload=extension(ROUTING, HOP_BY_HOP, 2) + extension(0, UDP, 1) + UDP_53), 13),
         passes(v6(first=HOP_BY_HOP, payload=LAST_OPTION + UDP_54), 11),
         drops(v6(first=HOP_BY_HOP, payload=OPTIONS * 5 + LAST_OPTION + UDP_53), 7),
         passes(v6(first=HOP_BY_HOP, payload=OPTIONS * 6 + LAST_OPTION + UDP_53), 5)],
    ),
    "fragments": Case(
        [rule("ports", source_port=53), rule("udp", "count", protocol="udp")],
        [Sent(v4(payload=UDP_53, fragment=0x2000), 17, True, ("ports",)),
         Sent(v4(payload=UDP_53, fragment=1), 13, False, ("udp",)),
         Sent(v4(payload=UDP_53, fragment=0x2001), 11, False, ("udp",)),
         Sent(v6(first=FRAGMENT, payload=extension(FRAGMENT, UDP, fragment=1) + UDP_53), 7, True, ("ports",)),
         Sent(v6(first=FRAGMENT, payload=extension(FRAGMENT, UDP, fragment=8) + UDP_53), 5, False, ("udp",))],
    ),
    "what is cut off": Case(
        [rule("flags", tcp_flags="syn"), rule("ports", destination_port=2), rule("address", source="192.0.2.1"),
         rule("protocol", protocol="tcp"), rule("rest", "count")],
        [Sent(v4(protocol=TCP, payload=SYN), 17, True, ("flags",)),
         Sent(v4(protocol=TCP, payload=SYN)[:-8], 13, True, ("ports",)),
         Sent(v4(protocol=TCP, payload=SYN[:3]), 11, True, ("address",)),
         Sent(v4(protocol=TCP)[:33], 7, True, ("protocol",)),
         Sent(v4(protocol=TCP)[:23], 5, False, ("rest",))],
    ),
    "the order of rules": Case(
        [rule("seen", "count"), rule("friends", "pass", source="192.0.2.1"), rule("all", source="192.0.0.0/16"),
         rule("never", source="192.0.3.0/24"), rule("last", "count")],
        [Sent(v4(A), 17, False, ("seen", "friends")), Sent(v4(B), 13, True, ("seen", "all")),
         Sent(v4(C), 11, False, ("seen", "last"))],
    ),
}  # fmt: skip


class Capture:
    """What arrives on an interface, as its own receiver sees it."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # of no interface yet
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RCVBUF)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)

    def take(self) -> list[bytes]:
        """Returns all that has arrived."""
        found: list[bytes] = []
        while True:
            try:
                found.append(self._socket.recv(65_536))
            except BlockingIOError:
                self._socket.close()
                return found


def number(packet: bytes) -> int:
    """The number that is in a packet's Ethernet source: no rule asks for it, and no VLAN tag that goes moves it."""
    return int.from_bytes(packet[8:12])


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *((case, "native") for case in CASES),
        ("source", "generic"),
        ("VLAN tags", "generic"),
    ],
)
def test_condition(tmp_path: Path, case: str, mode: str) -> None:
    """So many packets as were made for it meet a condition; the others do not."""
    this = CASES[case]
    for name, text in this.files.items():
        (tmp_path / name).write_text(text)
    packets = [sent for sent in this.sent for _ in range(sent.times)]
    numbered = [sent.packet[:8] + struct.pack("!I", at) + sent.packet[12:] for at, sent in enumerate(packets)]
    rules = json.loads(json.dumps(list(this.rules)).replace("FOLDER", str(tmp_path)))
    settings = {"interfaces": ["rules-t0"], "mode": mode, "rules": rules}
    with link("rules-t0") as pair, Daemon({"xdp": settings}) as daemon:
        capture, before = Capture("rules-t0"), pair.received()
        pair.send(numbered)
        daemon.wait_for(lambda: pair.received() - before == len(packets), "all packets")
        captured = capture.take()
        samples = daemon.samples()
        status = daemon.status("xdp")
    assert (status["state"], status["mechanism"]) == ("running", f"xdp {mode}")
    expected = {"drop": 0, "pass": 0}
    sizes = {"drop": 0, "pass": 0}
    counted: dict[str, float] = {}
    for sent in packets:
        action = "drop" if sent.dropped else "pass"
        expected[action] += 1
        sizes[action] += len(sent.packet)
        for name in sent.rules:
            counted[name] = counted.get(name, 0) + 1
    assert {action: count(samples, PACKETS, action=action) for action in expected} == expected
    assert {action: count(samples, BYTES, action=action) for action in sizes} == sizes
    assert by(samples, "rule", RULES, interface="rules-t0") == counted
    assert [number(packet) for packet in captured] == [at for at, sent in enumerate(packets) if not sent.dropped]
