# SPDX-License-Identifier: Apache-2.0
"""Rules on containers' packets: which hold for whom and in which direction, against what the receivers get."""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import pytest

from tests.kernel.daemon import Daemon, by, count
from tests.kernel.tc import way
from tests.kernel.wires import ETHERNET, Link, Port, frame, inside, ip, ipv6, link

__all__ = ["way"]  # a fixture

PACKETS, RULES = "ebpf_container_network_packets_total", "ebpf_container_network_rule_packets_total"
IPV4 = b"\x08\x00"
IPV6 = b"\x86\xdd"
TAG = b"\x81\x00\x00\x05"


def udp(port: int, size: int = 64, tags: bytes = b"") -> bytes:
    """A frame of UDP to a port."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14 - len(tags), 0, 0, 64, 17, 0, bytes(4), bytes(4))
    return (ETHERNET + tags + IPV4 + header + struct.pack("!HHHH", 999, port, 8, 0)).ljust(size, b"\0")


def actions(daemon: Daemon, pair: Link, direction: str) -> dict[str, float]:
    """Returns the packets of a namespace by what became of them."""
    return by(daemon.samples(), "action", PACKETS, container=pair.namespace, direction=direction)


def met(daemon: Daemon, rule: str, **labels: str) -> float:
    """Returns how many packets met a rule."""
    return count(daemon.samples(), RULES, rule=rule, **labels)


def test_rules_hold_for_their_containers_and_directions(way: Sequence[str]) -> None:
    """A rule for the datagrams that some namespaces send holds for those alone, also for one that begins later: of 13
    to the port and 17 to another, sockets here get what is not dropped; what these namespaces get to that port passes.
    """
    rules = [
        {"name": "seen", "action": "count", "protocol": "udp", "direction": "egress"},
        {"name": "no-mail", "action": "drop", "containers": ["ebpf-p*"], "direction": "egress", "destination_port": 25},
    ]

    def addressed(pair: Link, number: int) -> None:
        ip("address", "add", f"10.98.{number}.1/24", "dev", pair.name)
        ip("-n", pair.namespace, "address", "add", f"10.98.{number}.2/24", "dev", "peer")

    def sends(pair: Link, number: int, ports: dict[int, int]) -> None:
        def run() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for port, times in ports.items():
                    for _ in range(times):
                        out.sendto(b"x", (f"10.98.{number}.1", port))

        inside(pair.namespace, run)

    def gets(number: int, port: int) -> socket.socket:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((f"10.98.{number}.1", port))
        receiver.setblocking(False)
        return receiver

    def came(receiver: socket.socket) -> int:
        datagrams = 0
        try:
            while receiver.recv(64):
                datagrams += 1
        except BlockingIOError:
            return datagrams
        return datagrams

    def has_met(pair: Link, times: float) -> bool:
        return met(daemon, "seen", container=pair.namespace) == times

    def speaks(pair: Link) -> bool:
        pair.send([frame(64)])
        return bool(actions(daemon, pair, "egress"))

    with link("ebpf-o1") as other, Daemon({"container_net": {"rules": rules}}, prefix=way) as daemon:
        addressed(other, 1)
        with link("ebpf-p1") as ours:  # begins later
            addressed(ours, 2)
            for pair, number, mail in ((other, 1, 13), (ours, 2, 0)):
                daemon.wait_for(partial(speaks, pair), "a name")
                before = actions(daemon, pair, "egress")
                seen = met(daemon, "seen", container=pair.namespace)
                with closing(gets(number, 25)) as first, closing(gets(number, 26)) as second:
                    sends(pair, number, {25: 13, 26: 17})
                    daemon.wait_for(partial(has_met, pair, seen + 30), "30 datagrams")
                    assert (came(first), came(second)) == (mail, 17)
                after = actions(daemon, pair, "egress")
                assert after.get("drop", 0) - before.get("drop", 0) == 13 - mail
                assert met(daemon, "no-mail", container=pair.namespace, direction="egress") == 13 - mail
            with ours.ports() as (here, there):
                here.send([udp(25)] * 19)
                assert len(there.receive(19, (IPV4,))) == 19
            assert met(daemon, "no-mail") == 13
            assert met(daemon, "seen", direction="ingress") == 0


@contextmanager
def without_mail(name: str, way: Sequence[str]) -> Iterator[tuple[Daemon, Link, Port, Port]]:
    """A daemon that drops what is for port 25, a link for large frames, and its ends: here and in the namespace."""
    rules = [{"name": "mail", "action": "drop", "protocol": "udp", "destination_port": 25}]
    with (
        link(name) as pair,
        Daemon({"container_net": {"rules": rules}}, prefix=way) as daemon,
        pair.ports() as (here, there),
    ):
        for words in (["link", "set", name], ["-n", pair.namespace, "link", "set", "peer"]):
            ip(*words, "mtu", "60000")
        yield daemon, pair, here, there


@pytest.mark.matrix
def test_headers_with_tags_and_in_pieces(way: Sequence[str]) -> None:
    """Rules find the ports of a frame whose tag is kept beside it, and of one of which only the first bytes lie in one
    piece; of what they pass nothing is lost."""
    large = 40_000
    with without_mail("ebpf-p2", way) as (daemon, pair, here, there):
        # what comes in has its tag beside it
        there.send([udp(25, tags=TAG)] * 11 + [udp(26, tags=TAG)] * 7)
        daemon.wait_for(lambda: sum(actions(daemon, pair, "egress").values()) == 18, "18")
        assert actions(daemon, pair, "egress") == {"drop": 11, "pass": 7}
        here.send_in_pieces([udp(25, large)] * 13 + [udp(26, large)] * 5)
        assert [one[36:38] for one in there.receive(5, (IPV4,))] == [struct.pack("!H", 26)] * 5
        daemon.wait_for(lambda: sum(actions(daemon, pair, "ingress").values()) == 18, "18")
        assert actions(daemon, pair, "ingress") == {"drop": 13, "pass": 5}
        assert met(daemon, "mail", direction="ingress") == 13


@pytest.mark.matrix
def test_extension_headers_in_pieces(way: Sequence[str]) -> None:
    """Rules find the ports of a frame of which the IPv6 header lies in one piece, and the headers behind it do not."""

    def behind(port: int) -> bytes:
        options = bytes([17, 0, 1, 4, 0, 0, 0, 0])  # UDP follows; one option, of padding
        return ipv6(60, options + struct.pack("!HHHH", 999, port, 8, 0), 40_000)

    with without_mail("ebpf-p3", way) as (daemon, pair, here, there):
        here.send_in_pieces([behind(25)] * 13 + [behind(26)] * 5, first=14 + 40)
        assert [one[64:66] for one in there.receive(5, (IPV6,))] == [struct.pack("!H", 26)] * 5
        daemon.wait_for(lambda: sum(actions(daemon, pair, "ingress").values()) == 18, "18")
        assert actions(daemon, pair, "ingress") == {"drop": 13, "pass": 5}
