# SPDX-License-Identifier: Apache-2.0
"""Packets: made of their headers, at random, and read again as RFCs have it."""

import struct
from random import Random

from exporter.rules.rule import Packet

ETHERNET = bytes(6) + b"\x02\x00\x00\x00\x00\x01"
IPV4, ARP, VLAN, IPV6, QINQ = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
TCP, UDP, DCCP, SCTP, UDPLITE, ICMP, ICMPV6 = 6, 17, 33, 132, 136, 1, 58
WITH_PORTS = (TCP, UDP, DCCP, SCTP, UDPLITE)
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, MOBILITY = 0, 43, 44, 60, 135
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, MOBILITY)


def tags(*identifiers: int, outer: int = QINQ) -> bytes:
    """VLAN tags, without the type that follows the last: of two, the first is of 802.1ad."""
    types = [VLAN] if len(identifiers) == 1 else [outer, VLAN]
    return b"".join(struct.pack("!HH", kind, one) for kind, one in zip(types, identifiers, strict=False))


def ethernet(kind: int, payload: bytes, tag: bytes = b"", size: int = 0) -> bytes:
    return (ETHERNET + tag + struct.pack("!H", kind) + payload).ljust(size, b"\0")


def ports(source: int = 0, destination: int = 0, flags: int | None = None) -> bytes:
    """What TCP, with flags, or UDP and its like begin with."""
    head = struct.pack("!HH", source, destination)
    return head + (bytes(4) if flags is None else struct.pack("!IIBBHHH", 0, 0, 5 << 4, flags, 0, 0, 0))


def ipv4(
    source: bytes, destination: bytes, protocol: int, payload: bytes = b"", fragment: int = 0, options: bytes = b""
) -> bytes:
    """fragment is the 16 bits of flags and place. options are multiples of 4 bytes."""
    words = 5 + len(options) // 4
    length = 4 * words + len(payload)
    head = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, length, 0, fragment, 64, protocol, 0)
    return head + source + destination + options + payload


def ipv6(source: bytes, destination: bytes, first: int, payload: bytes = b"") -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), first, 64) + source + destination + payload


def extension(kind: int, following: int, words: int = 0, fragment: int = 0) -> bytes:
    """An IPv6 extension header; words are of 8 bytes, the first not counted; fragment is its 16 bits."""
    if kind == FRAGMENT:
        return struct.pack("!BBHI", following, 0, fragment, 0)
    return bytes([following, words]) + bytes(6 + 8 * words)


def parsed(data: bytes) -> Packet:
    """Returns what rules can ask of a packet."""
    found: dict[str, object] = {}
    kind, at = int.from_bytes(data[12:14]) if len(data) >= 14 else None, 14
    for _ in range(2):
        if kind in (VLAN, QINQ):
            kind, at = int.from_bytes(data[at + 2 : at + 4]) if len(data) >= at + 4 else None, at + 4
    if kind == IPV4:
        found = _parsed_v4(data[at:])
    elif kind == IPV6:
        found = _parsed_v6(data[at:])
    elif kind is not None:
        found = {"protocol": 256 if kind == ARP else 257}
    return Packet(len(data), **found)  # type: ignore[arg-type]  # its fields


def _parsed_v4(data: bytes) -> dict[str, object]:
    if len(data) < 10:
        return {}
    found: dict[str, object] = {"protocol": data[9]}
    if len(data) >= 20:
        found |= {"source": data[12:16], "destination": data[16:20]}
        words, place = data[0] & 15, int.from_bytes(data[6:8]) & 0x1FFF
        if words >= 5 and place == 0:
            found |= _transport(data[9], data[4 * words :])
    return found


def _parsed_v6(data: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    if len(data) >= 40:
        found = {"source": data[8:24], "destination": data[24:40]}
    header, rest = data[6] if len(data) > 6 else None, data[40:]
    for _ in range(6):
        if header not in EXTENSIONS:
            break
        if len(rest) < (4 if header == FRAGMENT else 2):
            return found
        if header == FRAGMENT and int.from_bytes(rest[2:4]) >> 3:
            return found if rest[0] in EXTENSIONS else found | {"protocol": rest[0]}
        header, rest = rest[0], rest[8 if header == FRAGMENT else 8 * (rest[1] + 1) :]
    if header is None or header in EXTENSIONS:
        return found
    return found | {"protocol": header} | _transport(header, rest)


def _transport(protocol: int, data: bytes) -> dict[str, object]:
    if protocol not in WITH_PORTS or len(data) < 4:
        return {}
    found: dict[str, object] = {"source_port": int.from_bytes(data[:2]), "destination_port": int.from_bytes(data[2:4])}
    return found | ({"flags": data[13]} if protocol == TCP and len(data) >= 14 else {})


def some_address(chance: Random, version: int) -> bytes:
    """An address; many are near each other, so that networks of a few hundred addresses are met."""
    size = 4 if version == 4 else 16
    if chance.random() < 0.2:
        return chance.randbytes(size)
    middle = bytes(size - 4) if chance.random() < 0.7 else chance.randbytes(size - 4)
    head = chance.choice((b"\x0a\x01", b"\x20\x01", b"\xc0\xa8", b"\x00\x00", b"\xff\xff"))
    return (head + middle + bytes([chance.choice((0, 1, 255)), chance.randrange(256)]))[:size]


def some_port(chance: Random) -> int:
    return chance.choice((0, 22, 53, 80, 443, 65_535, chance.randrange(100), chance.randrange(65_536)))


def some_packet(chance: Random) -> bytes:
    """A packet of any form, whole or cut off; at least of an Ethernet header."""
    version = chance.choice((4, 4, 6, 6))
    source, destination = some_address(chance, version), some_address(chance, version)
    others = (ICMP, ICMPV6, 47, 50, 200, chance.randrange(256))
    protocol = chance.choice((TCP, TCP, UDP, UDP, *WITH_PORTS, *others))
    flags = chance.choice((2, 16, 18, 24, chance.randrange(256))) if protocol == TCP else None
    payload = ports(some_port(chance), some_port(chance), flags) + bytes(chance.choice((0, 0, 10, 100, 1000)))
    fragment = chance.choice((0, 0, 0, 0x2000, 0x4000, 1, 0x2001, 0x1FFF, chance.randrange(65_536)))
    if version == 4:
        packet = ipv4(source, destination, protocol, payload, fragment, bytes(4 * chance.choice((0, 0, 0, 1, 10))))
        if chance.random() < 0.02:
            packet = bytes([4 << 4 | chance.randrange(16)]) + packet[1:]
    else:
        for _ in range(chance.choice((0, 0, 0, 1, 2, 3, 6, 7))):
            kind = chance.choice(EXTENSIONS)
            words, place = chance.choice((0, 0, 1, 4)), fragment & 7 if chance.random() < 0.7 else fragment
            payload = extension(kind, protocol, words, place) + payload
            protocol = kind
        packet = ipv6(source, destination, protocol, payload)
    kind = chance.choice((IPV4 if version == 4 else IPV6,) * 20 + (ARP, 0x88CC, IPV4, IPV6, VLAN))
    tag = chance.choice((b"",) * 6 + (tags(5), tags(5, 6), tags(5, 6, outer=VLAN), tags(5, 6) + tags(7)))
    whole = ethernet(kind, packet, tag)
    if chance.random() < 0.2:
        whole = whole[: chance.randrange(14, len(whole) + 1)]
    return whole
