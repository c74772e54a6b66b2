# SPDX-License-Identifier: Apache-2.0
"""Rules in the kernel against the same rules in Python, on packets and rules at random: not one disagreement."""

import ipaddress
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from exporter.rules.rule import Networks, Rule, verdict
from tests.kernel.testrun import loaded, xdp
from tests.packets import IPV4, IPV6, UDP, ethernet, ipv4, ipv6, parsed, ports, some_packet
from tests.rulesets import rules, some_rules


def some_cidrs(chance: Random, version: int, count: int) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Networks of all sizes, many within others and side by side."""
    bits = 32 if version == 4 else 128
    found: set[ipaddress.IPv4Network | ipaddress.IPv6Network] = set()
    near = [chance.getrandbits(bits) for _ in range(50)]
    while len(found) < count:
        length = chance.choice((chance.randint(13, bits), bits - chance.randint(0, 8), bits))
        number = chance.getrandbits(bits)
        if chance.random() < 0.5:
            number = chance.choice(near) ^ number >> chance.randint(bits // 2, bits - 1)
        start = number >> (bits - length) << (bits - length)
        found.add((ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network)((start, length)))
    return found


@pytest.mark.matrix
@pytest.mark.parametrize("version", [pytest.param(4, marks=pytest.mark.matrix), 6])
def test_ten_thousand_networks(tmp_path: Path, version: int) -> None:
    """Of 10,000 networks, a packet's source is in one where ipaddress says so: at random, and at their edges."""
    chance = Random(version)
    bits = 32 if version == 4 else 128
    networks = some_cidrs(chance, version, 10_000)
    packed = b"".join(sorted(one.network_address.packed + bytes([one.prefixlen]) for one in networks))
    kind = Networks(v4=packed) if version == 4 else Networks(v6=packed)
    numbers = [chance.getrandbits(bits) for _ in range(5_000)]
    for one in chance.sample(sorted(networks), 3_000):
        first, last = int(one.network_address), int(one.broadcast_address)
        numbers += [number for number in (first - 1, first, last, last + 1) if 0 <= number < 1 << bits]
    make, header = (ipaddress.IPv4Address, ipv4) if version == 4 else (ipaddress.IPv6Address, ipv6)
    net = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    lengths = sorted({one.prefixlen for one in networks})

    def within(number: int) -> bool:
        return any(net((number >> (bits - length) << (bits - length), length)) in networks for length in lengths)

    sources = [make(number).packed for number in numbers]
    kind_of = IPV4 if version == 4 else IPV6
    packets = [ethernet(kind_of, header(source, bytes(bits // 8), UDP, ports())) for source in sources]
    expected = ["drop" if within(number) else "pass" for number in numbers]
    with loaded(xdp(tmp_path, [Rule("networks", "drop", source=kind)])) as program:
        assert program.verdicts(packets) == expected
        assert program.take_rules() == {"networks": expected.count("drop")}
    assert min(expected.count("drop"), expected.count("pass")) > 1_000


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("count", "sets", "each"),
    [
        (65, 2, 5_000),
        pytest.param(1, 10, 3_000, marks=pytest.mark.matrix),
        pytest.param(10, 10, 3_000, marks=pytest.mark.matrix),
        pytest.param(64, 2, 5_000, marks=pytest.mark.matrix),
        pytest.param(100, 2, 5_000, marks=pytest.mark.matrix),
        pytest.param(1_000, 1, 8_000, marks=pytest.mark.matrix),
        pytest.param(10_000, 1, 2_000, marks=pytest.mark.matrix),
    ],
)
def test_random_packets(tmp_path: Path, count: int, sets: int, each: int) -> None:
    """The same verdict for each packet, and for each rule as many packets as the matcher in Python counts."""
    for number in range(sets):
        chance = Random(f"{count} {number}")
        asked = rules(some_rules(chance, count))
        packets = [some_packet(chance) for _ in range(each)]
        found = [verdict(asked, parsed(packet)) for packet in packets]
        names = Counter(rule.name for _, counted in found for rule in counted)
        with loaded(xdp(tmp_path, asked)) as program:
            assert program.verdicts(packets) == [what for what, _ in found]
            assert program.take_rules() == names
        assert names


CONDITIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "source": {"source": ["10.0.0.0/8", "2001:db8::/32"]},
    "destination": {"destination": ["10.0.0.0/8", "2001:db8::/32"]},
    "protocol": {"protocol": "tcp"},
    "source_port": {"source_port": 80},
    "destination_port": {"destination_port": 80},
    "length": {"length": {"min": 60}},
    "tcp_flags": {"tcp_flags": "syn"},
}


@pytest.mark.anywhere
@pytest.mark.parametrize("count", [1, 65, 10_000])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_condition_alone(tmp_path: Path, condition: str, count: int) -> None:
    """The kernel takes the program that asks for one thing only, with few rules and with as many as there may be."""
    asked = rules([{"name": f"r{number}", "action": "count", **CONDITIONS[condition]} for number in range(count)])
    chance = Random(condition)
    packets = [some_packet(chance) for _ in range(50)]
    met = sum(asked[0].matches(parsed(packet)) for packet in packets)
    with loaded(xdp(tmp_path, asked)) as program:
        assert program.verdicts(packets) == ["pass"] * 50
        assert program.take_rules().total() == met * count
    assert met


@pytest.mark.anywhere
@pytest.mark.parametrize("count", [64, 65, 300])
def test_more_rules_than_are_counted_by_name(tmp_path: Path, count: int) -> None:
    """A packet that meets many rules is counted by the first 64, by the one that decides, and else under (other)."""
    asked = [Rule(f"r{number}", "count") for number in range(count)] + [Rule("last", "drop"), Rule("never", "pass")]
    packet = ethernet(IPV4, ipv4(bytes(4), bytes(4), UDP))
    with loaded(xdp(tmp_path, asked)) as program:
        assert program.verdicts([packet] * 7) == ["drop"] * 7
        expected = {f"r{number}": 7 for number in range(64)} | {"last": 7}
        assert program.take_rules() == expected | ({"(other)": 7 * (count - 64)} if count > 64 else {})
