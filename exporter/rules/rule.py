# SPDX-License-Identifier: Apache-2.0
"""What a rule is and what it says of a packet. The programs in the kernel do the same with tables (``tables.py``).

Rules are asked in their order. The first ``drop`` or ``pass`` whose conditions a packet meets decides; a ``count`` is
counted, and the next rule is asked. Where none decides, the packet passes.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

MAX_RULES = 10_000

PASS, DROP, COUNT = "pass", "drop", "count"
INGRESS, EGRESS = "ingress", "egress"  # of a container, as it sees it
ARP, NON_IP = 256, 257  # numbers of protocols that are none of IP (kinds.PROTOCOLS)
TRUNCATED = 258  # the number of a protocol that is cut off, or behind too many headers

# bits of the TCP header's flags, in their order from the lowest on (RFC 9293)
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")

Ranges = tuple[tuple[int, int], ...]  # inclusive


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of IPv4 and IPv6, packed: of each its address (4 or 16 bytes) and the bits of its prefix (1 byte)."""

    v4: bytes = b""
    v6: bytes = b""

    def of(self, version: int) -> list[tuple[bytes, int]]:
        """Returns the networks of an IP version: addresses and lengths of prefixes."""
        data, step = (self.v4, 5) if version == 4 else (self.v6, 17)
        return [(data[at : at + step - 1], data[at + step - 1]) for at in range(0, len(data), step)]

    def __contains__(self, address: bytes) -> bool:
        number, bits = int.from_bytes(address), 8 * len(address)
        return any(number >> (bits - length) in starts for length, starts in _by_length(self, len(address)).items())


@functools.lru_cache(maxsize=256)
def _by_length(networks: Networks, size: int) -> Mapping[int, frozenset[int]]:
    """Networks of one IP version, by the lengths of their prefixes: the prefixes as numbers."""
    found: dict[int, set[int]] = {}
    for address, length in networks.of(4 if size == 4 else 6):
        found.setdefault(length, set()).add(int.from_bytes(address) >> (8 * size - length))
    return {length: frozenset(starts) for length, starts in found.items()}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. None and what is empty is no condition; all that are there must be met.

    number stands for the name in the kernel, from 1. protocols are numbers as ``kinds.PROTOCOLS`` has them. length is
    of the whole packet in bytes, from the Ethernet header on, (least, most). Of the TCP flags those of flags_set must
    be set, those of flags_clear not. direction is a container's; containers are globs.
    """

    name: str
    action: str
    number: int = 0
    source: Networks | None = None
    destination: Networks | None = None
    protocols: frozenset[int] | None = None
    source_ports: Ranges = ()
    destination_ports: Ranges = ()
    length: tuple[int, int | None] | None = None
    flags_set: int = 0
    flags_clear: int = 0
    direction: str = ""
    containers: tuple[str, ...] = ()

    def matches(self, packet: "Packet") -> bool:
        """Whether a packet meets all conditions. One of what a packet does not have is not met."""
        return (
            (self.source is None or (packet.source is not None and packet.source in self.source))
            and (
                self.destination is None or (packet.destination is not None and packet.destination in self.destination)
            )
            and (
                self.protocols is None or (TRUNCATED if packet.protocol is None else packet.protocol) in self.protocols
            )
            and _within(packet.source_port, self.source_ports)
            and _within(packet.destination_port, self.destination_ports)
            and (self.length is None or _within(packet.length, ((self.length[0], self.length[1] or packet.length),)))
            and self._flags_match(packet.flags)
            and self.is_for(packet.direction, packet.container)
        )

    def is_for(self, direction: str, container: str | None) -> bool:
        """Whether a rule is for a container's interface in a direction. None is no container: its rules are for all."""
        return self.direction in ("", direction) and (
            not self.containers
            or (container is not None and any(fnmatchcase(container, glob) for glob in self.containers))
        )

    def _flags_match(self, flags: int | None) -> bool:
        if not self.flags_set | self.flags_clear:
            return True
        return flags is not None and flags & self.flags_set == self.flags_set and not flags & self.flags_clear


def _within(number: int | None, ranges: Ranges) -> bool:
    return not ranges or (number is not None and any(low <= number <= high for low, high in ranges))


@dataclass(frozen=True, slots=True)
class Packet:
    """What rules can ask of a packet; None is what it does not have, or what is cut off.

    length in bytes, from the Ethernet header on. Addresses have 4 or 16 bytes. protocol is None where it is
    cut off, or behind too many headers.
    """

    length: int
    protocol: int | None = None
    source: bytes | None = None
    destination: bytes | None = None
    source_port: int | None = None
    destination_port: int | None = None
    flags: int | None = None
    direction: str = ""
    container: str | None = None


def verdict(rules: Sequence[Rule], packet: Packet) -> tuple[str, list[Rule]]:
    """Returns what becomes of a packet, pass or drop, and the rules that it is counted by, in order."""
    counted: list[Rule] = []
    for rule in rules:
        if rule.matches(packet):
            counted.append(rule)
            if rule.action != COUNT:
                return rule.action, counted
    return PASS, counted
