# SPDX-License-Identifier: Apache-2.0
"""The tables for the kernel: looked up as bpf/lib/rules.h does, they say what the matcher says. Its C is tested in
tests/kernel."""

import struct
from bisect import bisect_right
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from exporter.errors import LoadError
from exporter.rules import tables
from exporter.rules.rule import EGRESS, INGRESS, MAX_RULES, Networks, Packet, Rule
from tests.packets import parsed, some_packet
from tests.rulesets import rules, some_rules


class Lookup:
    """What the program does, on the values of the maps."""

    def __init__(self, asked: list[Rule]) -> None:
        self.defines = tables.defines(asked)
        self.words = self.defines["RULES_WORDS"]
        maps = tables.maps(asked)
        size = 8 if self.words == 1 else 8 + 8 * self.words
        self.sets = [maps["rules_sets"][at : at + size] for at in range(0, len(maps["rules_sets"]), size)]
        self.cells = [cell for (cell,) in struct.iter_unpack("=Q", maps["rules_cells"])]
        self.start = struct.unpack("=2Q6I", maps["rules_start"])
        self.numbers = [number for word in struct.iter_unpack("=3Q64H", maps["rules_words"]) for number in word[3:]]
        self.v4 = list(struct.iter_unpack("=II", maps.get("rules_ranges_v4", b"")))
        v6 = struct.iter_unpack("=QQQ", maps.get("rules_ranges_v6", b""))
        self.v6 = [(high << 64 | low, number) for high, low, number in v6]

    def met(self, packet: Packet) -> int:
        """Returns the set of the rules that a packet meets."""
        found, at = (1 << 64 * self.words) - 1, 0
        values = {
            "PROTOCOL": (258 if packet.protocol is None else packet.protocol, 259, None),
            "SOURCE_PORT": (packet.source_port, 65_536, 2),
            "DESTINATION_PORT": (packet.destination_port, 65_536, 3),
            "TCP_FLAGS": (packet.flags, 256, 4),
            "LENGTH": (min(packet.length, 65_535), 65_536, None),
        }
        for name, (value, size, absent) in values.items():
            if self.defines[f"RULES_{name}"]:
                found &= self._set(self.start[2 + (absent or 0)] if value is None else self.cells[at + value])
                at += size
        for name, address, absent in (("SOURCE", packet.source, 0), ("DESTINATION", packet.destination, 1)):
            if self.defines[f"RULES_{name}"]:
                found &= self._set(self.start[2 + absent] if address is None else self._of_address(address, at))
                at += 2 * 65_536
        return found

    def _set(self, number: int) -> int:
        data = self.sets[number]
        if self.words == 1:
            return int.from_bytes(data, "little")
        rules = int.from_bytes(data[8:], "little")
        group = 64 * -(-self.words // 64)
        summary = sum(1 << bit for bit in range(64) if rules >> bit * group & (1 << group) - 1)
        assert int.from_bytes(data[:8], "little") == summary
        return rules

    def _of_address(self, address: bytes, at: int) -> int:
        ranges = self.v4 if len(address) == 4 else self.v6
        bucket = self.cells[at + (0 if len(address) == 4 else 65_536) + int.from_bytes(address[:2])]
        first, last = bucket & 0xFFFFFFFF, bucket >> 32
        starts = [start for start, _ in ranges[first : last + 1]]
        return int(ranges[first + max(0, bisect_right(starts, int.from_bytes(address)) - 1)][1])


@pytest.mark.parametrize("count", [1, 10, 64, 65, 257, 1025])
def test_tables_say_what_the_matcher_says(count: int) -> None:
    """The rules that a packet meets by the tables are those that it meets by the matcher."""
    chance = Random(count)
    for _ in range(3):
        asked = rules(some_rules(chance, count))
        lookup = Lookup(asked)
        for _ in range(200):
            packet = parsed(some_packet(chance))
            met = sum(1 << at for at, rule in enumerate(asked) if rule.matches(packet))
            assert lookup.met(packet) & (1 << count) - 1 == met
        assert lookup.numbers[:count] == [rule.number for rule in asked]


def test_networks_within_others() -> None:
    """Each address has the set of all networks around it; neighbours of the same set are one range."""
    networks = ("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.1.0/24", "255.255.255.255/32", "0.0.0.0/32")
    asked = rules([{"name": f"r{at}", "action": "drop", "source": one} for at, one in enumerate(networks)])
    lookup = Lookup(asked)
    expected = [
        (0, {5}), (1, set()), (10 << 24, {0}), (10 << 24 | 1 << 16, {0, 1, 2}), (10 << 24 | 257 << 8, {0, 1, 3}),
        (10 << 24 | 258 << 8, {0, 1}), (10 << 24 | 2 << 16, {0}), (11 << 24, set()), (2**32 - 1, {4}),
    ]  # fmt: skip
    found = [(start, {at for at in range(6) if lookup._set(number) >> at & 1}) for start, number in lookup.v4]
    assert found == expected
    assert lookup.v6 == [(0, lookup.v4[1][1])]


def test_side_by_side_is_one_range() -> None:
    """Networks of one rule that touch are one range, and the last may end with the addresses."""
    both = Networks(v4=bytes([128, 0, 0, 0, 2, 192, 0, 0, 0, 2]))
    lookup = Lookup([Rule("a", "drop", 1, source=both)])
    assert [start for start, _ in lookup.v4] == [0, 128 << 24]


@pytest.mark.parametrize(("first", "words"), [("2001:0:0:0:0:0:0:", "2001::/16"), ("10.7.0.", "10.7.0.0/16")])
def test_more_ranges_than_the_kernel_looks_through(monkeypatch: pytest.MonkeyPatch, first: str, words: str) -> None:
    """They are of all rules together, and of the same first 16 bits; as many as it looks through are good."""
    monkeypatch.setattr(tables, "_MOST_RANGES", 8)
    given = [{"name": f"r{at}", "action": "drop", "source": [f"{first}{at}", f"{first}{at + 2}"]} for at in (1, 5)]
    assert Lookup(rules(given[:1]))
    more = "the networks of all rules make 9 ranges of addresses in "
    with pytest.raises(LoadError, match=f"^{more}{words}; the kernel can look through 8: give fewer or larger"):
        tables.maps(rules(given))
    monkeypatch.setattr(tables, "_MOST_RANGES", 9)
    assert Lookup(rules(given))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, 0), (1, 1), (64, 1), (65, 4), (256, 4), (257, 16), (4096, 64), (4097, 157), (MAX_RULES, 157)],
)
def test_sizes_go_in_steps(count: int, words: int) -> None:
    """A rule more is seldom another program."""
    assert tables.words([Rule("a", "drop")] * count) == words


def test_only_what_is_asked_for_is_compiled() -> None:
    """Each condition has its own switch, and without rules there is nothing."""
    assert not any(tables.defines([]).values())
    assert tables.maps([]) == {}
    of: dict[str, dict[str, Any]] = {
        "RULES_SOURCE": {"source": Networks()},
        "RULES_DESTINATION": {"destination": Networks()},
        "RULES_PROTOCOL": {"protocols": frozenset([6])},
        "RULES_SOURCE_PORT": {"source_ports": ((1, 2),)},
        "RULES_DESTINATION_PORT": {"destination_ports": ((1, 2),)},
        "RULES_LENGTH": {"length": (1, None)},
        "RULES_TCP_FLAGS": {"flags_clear": 1},
        "RULES_PLACE": {"direction": EGRESS},
    }
    for name, condition in of.items():
        rule = replace(Rule("a", "drop"), **condition)
        assert {key: value for key, value in tables.defines([rule]).items() if value} == {"RULES_WORDS": 1, name: 1}
    assert tables.defines([Rule("a", "drop", containers=("x",))])["RULES_PLACE"]


def test_places() -> None:
    """The set of a place has the rules that are for its direction and container, and those that ask for neither."""
    asked = [
        Rule("all", "drop"),
        Rule("out", "drop", direction=EGRESS),
        Rule("web", "drop", containers=("web-*", "proxy")),
        Rule("web-in", "drop", containers=("web-*",), direction=INGRESS),
        Rule("any", "drop", containers=("*",)),
    ]

    def here(direction: str, container: str | None) -> set[str]:
        (found,) = struct.unpack("=Q", tables.place(asked, direction, container))
        return {rule.name for at, rule in enumerate(asked) if found >> at & 1}

    assert here(INGRESS, None) == {"all"}
    assert here(EGRESS, None) == {"all", "out"}
    assert here(EGRESS, "db") == {"all", "out", "any"}
    assert here(EGRESS, "proxy") == {"all", "out", "web", "any"}
    assert here(INGRESS, "web-1") == {"all", "web", "web-in", "any"}
    assert len(tables.place(asked * 20, INGRESS, None)) == 8 + 8 * 4
    assert tables.place_key(7, INGRESS) == struct.pack("=II", 7, 0)
    assert tables.place_key(7, EGRESS) == struct.pack("=II", 7, 1)
