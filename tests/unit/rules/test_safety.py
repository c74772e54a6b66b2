# SPDX-License-Identifier: Apache-2.0
"""Rules that would cut a host off are told of, and rules that drop whom they name are not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.probe import Hook, Mechanism, Probe, Program
from exporter.rules import safety
from exporter.rules.connections import Connection, Host
from tests.rulesets import rules

ALL = (("", 9435),)
OWN, OWN6 = bytes([192, 0, 2, 7]), bytes.fromhex("20010db8" + "00" * 11 + "07")
SSH = "established SSH (port 22)"
NEIGHBOURS = [
    "ARP, by which IPv4 finds its neighbours",
    "neighbour discovery, by which IPv6 finds its neighbours",
]
PAGE = "the page's own port (9435)"


def told(
    *asked: dict[str, Any],
    interfaces: tuple[str, ...] = ("eth0",),
    listen: tuple[tuple[str, int], ...] = ALL,
    host: Host | None = None,
    family: str = "xdp",
) -> list[tuple[str, str]]:
    """Returns the rules that would cut the host off, and from what. A rule drops, unless it says something else."""
    found = rules([{"name": f"r{at}", "action": "drop", **one} for at, one in enumerate(asked)], family == "tc")
    mechanism = Mechanism((Program("on_packet", (Hook(family, ""),)),))
    probe = Probe(
        "p", "Counts.", Path("p.yaml"), Path("p.c"), (mechanism,), (), interfaces=interfaces, rules=tuple(found)
    )
    return [(one.rule, one.what) for one in safety.dangers(probe, listen, host or Host(addresses=(OWN, OWN6)))]


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({}, [PAGE, SSH, *NEIGHBOURS]),
        ({"protocol": "tcp"}, [PAGE, SSH]),
        ({"destination_port": 22}, [SSH]),
        ({"destination_port": "1-1024"}, [SSH]),
        ({"destination_port": 9435}, [PAGE]),
        ({"tcp_flags": "syn"}, [PAGE]),
        ({"tcp_flags": ["ack", "not psh"]}, [PAGE, SSH]),
        ({"length": {"min": 1500}}, [PAGE, SSH]),
        ({"length": {"min": 1519}}, []),
        ({"length": {"min": 61, "max": 64}}, [PAGE, SSH]),
        ({"length": {"max": 59}}, [PAGE, SSH]),
        ({"length": {"max": 53}}, []),
        ({"length": {"min": 1000, "max": 1400}}, [PAGE, SSH]),
        ({"protocol": "arp"}, NEIGHBOURS[:1]),
        ({"protocol": ["icmp", "icmpv6"]}, NEIGHBOURS[1:]),
        ({"destination": "ff02::/16"}, NEIGHBOURS[1:]),
        ({"destination": "192.0.2.7"}, [PAGE, SSH]),
        ({"destination": "2001:db8::/32", "destination_port": 22}, [SSH]),
        ({"destination": "198.51.100.0/24"}, []),
        ({"source": "0.0.0.0/0"}, [PAGE, SSH]),
        ({"source": "2000::/3"}, [PAGE, SSH]),
        ({"source": ["0.0.0.0/1", "128.0.0.0/1"]}, [PAGE, SSH]),
        ({"source": ["192.0.2.0/24", "8.8.8.0/24", "2001:db8::/32", "2606:4700::/32"]}, []),
        ({"source_port": [53, "32768-32999"]}, []),
        ({"source_port": "1024-65535"}, [PAGE, SSH]),
        ({"protocol": "udp"}, []),
        ({"action": "count"}, []),
        ({"action": "pass"}, []),
    ],
)
def test_rules_on_a_network(rule: dict[str, Any], what: list[str]) -> None:
    """What would drop strangers at the page's port, or any SSH, is told of; what drops whom it names is not."""
    assert told(rule) == [("r0", one) for one in what]


def test_rules_ahead() -> None:
    """What an earlier rule lets through is not dropped; a rule that only counts lets nothing through."""
    ssh = {"action": "pass", "protocol": "tcp", "destination_port": 22}
    ahead = {"action": "pass", "protocol": ["arp", "icmpv6"]}
    assert told(ahead, ssh, {}) == [("r2", PAGE)]
    assert told(ahead, {**ssh, "action": "count"}, {}) == [("r2", PAGE), ("r2", SSH)]
    assert told(ahead, {"destination_port": 22}, {}) == [("r2", PAGE), ("r1", SSH)]


def test_loopback() -> None:
    """It is asked of only where the probe is on it: elsewhere such packets are no loopback."""
    spoofed = {"source": ["127.0.0.0/8", "::1"]}
    assert told(spoofed) == []
    assert told(spoofed, interfaces=("auto",)) == []
    for interfaces in (("lo",), ("*",), ("eth0", "l?")):
        assert ("r0", "loopback") in told(spoofed, interfaces=interfaces)
    assert told({"protocol": "udp"}, interfaces=("lo",)) == []
    assert told({"destination_port": 22}, interfaces=("lo",)) == []


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_page_on_loopback(name: str) -> None:
    """A page that is served on loopback alone is lost on loopback alone."""
    port = {"destination_port": 9435}
    assert told(port, listen=((name, 9435),)) == []
    assert told(port, listen=((name, 9435),), interfaces=("lo",)) == [("r0", PAGE)]
    assert told(port, interfaces=("lo",)) == [("r0", PAGE)]


def test_a_page_on_one_address() -> None:
    """Where it is served on one address, that is where packets come to."""
    of_v4 = {"destination": "203.0.113.0/24"}
    assert told(of_v4, listen=(("203.0.113.9", 9435),)) == [("r0", PAGE)]
    assert told(of_v4, listen=(("198.51.100.9", 9435),)) == []
    assert told({"destination_port": 9435}, listen=(("host.example", 9435),)) == [("r0", PAGE)]


def test_other_ports_of_ssh() -> None:
    """SSH is where its server listens."""
    host = Host(ssh_ports=(22, 2222))
    assert told({"destination_port": 2222}, host=host) == [("r0", "established SSH (port 2222)")]


def connection(remote: bytes, port: int = 22) -> Connection:
    return Connection(OWN, port, remote, 50_000, False, 1)


def test_connections_that_exist() -> None:
    """A rule that names who is connected now is told of, with their addresses."""
    remotes = [bytes([198, 51, 100, number]) for number in range(1, 6)]
    host = Host((*map(connection, remotes), connection(remotes[0], 9435), connection(bytes([127, 0, 0, 1]))))
    rule = {"source": "198.51.100.0/29"}
    assert told(rule, host=host) == [
        ("r0", "SSH that is connected now, from 198.51.100.1, 198.51.100.2, 198.51.100.3 and 2 more"),
        ("r0", "a client of the page that is connected now, from 198.51.100.1"),
    ]
    assert told({"source": "198.51.100.128/25"}, host=host) == []
    assert told({"source": "127.0.0.0/8"}, host=host) == []


def test_rules_on_containers() -> None:
    """There packets go both ways, and the page is what containers want of the host; rules for some containers name
    those."""
    assert told({"direction": "egress", "destination_port": 9435}, family="tc", interfaces=("containers",)) == [
        ("r0", PAGE)
    ]
    assert told({"direction": "ingress", "source_port": 9435}, family="tc", interfaces=("containers",)) == [
        ("r0", PAGE)
    ]
    assert told({"direction": "ingress", "destination_port": 9435}, family="tc", interfaces=("containers",)) == []
    assert told({"direction": "egress", "destination_port": 22}, family="tc", interfaces=("containers",)) == []
    assert told({"containers": "*"}, family="tc", interfaces=("containers",)) == []
    host = Host((connection(bytes([10, 0, 0, 2])),))
    assert told(
        {"direction": "ingress", "destination": "10.0.0.0/8"}, family="tc", interfaces=("containers",), host=host
    ) == [("r0", "SSH that is connected now, from 10.0.0.2")]


def test_rules_on_containers_elsewhere() -> None:
    """On an interface that is no container's the host itself is reached, and rules take its name for the container."""
    ssh = {"protocol": "tcp", "destination_port": 22}
    for interfaces in (("eth0",), ("containers", "eth0")):
        assert told(ssh, family="tc", interfaces=interfaces) == [("r0", SSH)]
        for container in ("*", "eth0"):
            assert told({**ssh, "containers": container}, family="tc", interfaces=interfaces) == [("r0", SSH)]
        assert told({**ssh, "containers": "web"}, family="tc", interfaces=interfaces) == []
        assert told({"protocol": "arp", "containers": "eth0"}, family="tc", interfaces=interfaces) != []
    for interfaces in (("auto",), ("e*",)):
        host = Host(interfaces=("lo", "eth0", "wlan0"), default_interfaces=("eth0",))
        assert told({**ssh, "containers": "eth0"}, family="tc", interfaces=interfaces, host=host) == [("r0", SSH)]
        assert told({**ssh, "containers": "wlan0"}, family="tc", interfaces=interfaces, host=host) == []
    assert told({"protocol": "arp"}, family="tc", interfaces=("containers",)) == []


def test_words() -> None:
    """A warning says which rule it is, what it would drop, and what to do."""
    danger = safety.Danger("xdp", "all", SSH)
    assert str(danger) == (
        "probe xdp: the rule all would drop established SSH (port 22); action: count shows what it would do, and a"
        " rule with action: pass ahead of it keeps that"
    )
    assert replace(danger, rule="x") != danger
