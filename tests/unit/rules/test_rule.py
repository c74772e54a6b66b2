# SPDX-License-Identifier: Apache-2.0
"""What rules say of packets: each condition met and not met, and the order of rules."""

from dataclasses import replace
from typing import Any

import pytest

from exporter.rules.rule import COUNT, DROP, PASS, Networks, Packet, Rule, verdict

PACKET = Packet(
    length=100,
    protocol=6,
    source=bytes([10, 1, 2, 3]),
    destination=bytes([10, 9, 9, 9]),
    source_port=5000,
    destination_port=22,
    flags=0x12,
    direction="egress",
    container="web-1",
)
NET = Networks(v4=bytes([10, 1, 0, 0, 16]) + bytes([192, 0, 2, 1, 32]), v6=bytes(17))


@pytest.mark.parametrize(
    ("condition", "met", "not_met"),
    [
        ({"source": NET}, {"source": bytes([192, 0, 2, 1])}, {"source": bytes([10, 2, 0, 0])}),
        ({"source": NET}, {"source": b"\xff" * 16}, {"source": None}),
        ({"destination": NET}, {"destination": bytes([10, 1, 255, 255])}, {}),
        ({"protocols": frozenset([6, 17])}, {"protocol": 17}, {"protocol": 1}),
        ({"protocols": frozenset([6, 17])}, {}, {"protocol": None}),
        ({"protocols": frozenset([258])}, {"protocol": None}, {"protocol": 257}),
        ({"source_ports": ((1, 2), (5000, 5001))}, {"source_port": 5001}, {"source_port": 5002}),
        ({"source_ports": ((0, 65_535),)}, {"source_port": 0}, {"source_port": None}),
        ({"destination_ports": ((22, 22),)}, {}, {"destination_port": 23}),
        ({"destination_ports": ((22, 22),)}, {"length": 1}, {"destination_port": None}),
        ({"length": (100, None)}, {"length": 70_000}, {"length": 99}),
        ({"length": (0, 100)}, {"length": 1}, {"length": 101}),
        ({"flags_set": 0x02}, {"flags": 0x02}, {"flags": 0x10}),
        ({"flags_set": 0x02, "flags_clear": 0x10}, {"flags": 0x02}, {}),
        ({"flags_clear": 0x01}, {}, {"flags": None}),
        ({"direction": "egress"}, {}, {"direction": "ingress"}),
        ({"containers": ("db", "web-*")}, {}, {"container": "app"}),
        ({"containers": ("*",)}, {"container": "x"}, {"container": None}),
    ],
)
def test_conditions(condition: dict[str, Any], met: dict[str, Any], not_met: dict[str, Any]) -> None:
    """A condition is met by what it names, and not by what a packet does not have."""
    rule = Rule("r", DROP, **condition)
    assert rule.matches(replace(PACKET, **met))
    assert not rule.matches(replace(PACKET, **not_met))


def test_all_conditions_are_to_be_met() -> None:
    """A rule without conditions is met by everything, one with two by what meets both."""
    assert Rule("r", DROP).matches(Packet(14))
    both = Rule("r", DROP, protocols=frozenset([6]), destination_ports=((22, 22),))
    assert both.matches(PACKET)
    assert not both.matches(replace(PACKET, protocol=17))
    assert not both.matches(replace(PACKET, destination_port=23))


def test_the_first_that_decides() -> None:
    """Counting goes on, deciding does not; where nothing decides, the packet passes."""
    one, two, three = Rule("one", COUNT), Rule("two", PASS, protocols=frozenset([6])), Rule("three", DROP)
    assert verdict([one, two, three], PACKET) == (PASS, [one, two])
    assert verdict([one, two, three], replace(PACKET, protocol=17)) == (DROP, [one, three])
    assert verdict([one, two], replace(PACKET, protocol=17)) == (PASS, [one])
    assert verdict([], PACKET) == (PASS, [])
