# SPDX-License-Identifier: Apache-2.0
"""Sets of rules at random, as a config has them."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from exporter.document import Document
from exporter.kinds import PROTOCOLS
from exporter.probe import OTHER
from exporter.rules import form
from exporter.rules.rule import TCP_FLAGS, Rule
from tests.packets import WITH_PORTS, some_address, some_port

_OTHERS = ("icmp", "icmpv6", 47, 200, "arp", "non-ip", "truncated")


def rules(values: Sequence[dict[str, Any]], on_containers: bool = False, path: Path = Path("c.yaml")) -> list[Rule]:
    """Returns rules as the config has them, numbered from 1 in their order. Raises ConfigError."""
    from dataclasses import replace

    found = form.read(values, Document(path, list(values), {}), ("rules",), on_containers)
    return [replace(rule, number=number) for number, rule in enumerate(found, 1)]


def network(chance: Random, version: int) -> str:
    size = 32 if version == 4 else 128
    length = chance.choice((0, 8, 16, size - 9, size - 8, size - 4, size - 1, size, chance.randint(1, size)))
    address = ipaddress.ip_address(some_address(chance, version))
    return str(ipaddress.ip_network((address, length), strict=False))


def some_networks(chance: Random) -> list[str]:
    versions = chance.choice(((4,), (6,), (4, 6)))
    return [network(chance, version) for version in versions for _ in range(chance.choice((1, 1, 2, 5)))]


def some_ports(chance: Random) -> list[int | str]:
    found: list[int | str] = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        first = some_port(chance)
        last = min(65_535, first + chance.choice((1, 10, 1000, 60_000)))
        found.append(chance.choice((first, f"{first}-{last}")))
    return found


def some_rule(chance: Random, name: str, likely: float) -> dict[str, Any]:
    """A rule that asks for each thing with a likelihood."""
    rule: dict[str, Any] = {"name": name, "action": chance.choice(("drop", "pass", "count", "count"))}

    def asks() -> bool:
        return chance.random() < likely

    ports_or_flags = False
    if asks():
        rule["source_port"], ports_or_flags = some_ports(chance), True
    if asks():
        rule["destination_port"], ports_or_flags = some_ports(chance), True
    if asks():
        flags = chance.sample(TCP_FLAGS, chance.choice((1, 1, 2, 3)))
        rule["tcp_flags"] = [chance.choice((flag, f"not {flag}")) for flag in flags]
    if asks():
        those: tuple[Any, ...] = ("tcp",) if "tcp_flags" in rule else tuple(PROTOCOLS[one] for one in WITH_PORTS)
        if not ports_or_flags and "tcp_flags" not in rule:
            those += _OTHERS
        rule["protocol"] = chance.sample(those, chance.randint(1, min(3, len(those))))
    if asks():
        least = chance.choice((1, 60, 64, 100, chance.randint(1, 1500)))
        rule["length"] = chance.choice(({"min": least}, {"max": least}, {"min": least, "max": least + 50}))
    no_addresses = {"arp", "non-ip"} & set(rule.get("protocol", ()))
    if asks() and not no_addresses:
        rule["source"] = some_networks(chance)
    if asks() and not no_addresses:
        rule["destination"] = some_networks(chance)
        versions = [{":" in one for one in rule[key]} for key in ("source", "destination") if key in rule]
        if len(versions) == 2 and not versions[0] & versions[1]:
            del rule["destination"]
    return rule


def some_rules(chance: Random, count: int) -> list[dict[str, Any]]:
    """Rules of which a packet meets some: the more there are, the more each asks for."""
    likely = {1: 0.2, 10: 0.25, 100: 0.4}.get(count, 0.6)
    return [some_rule(chance, f"r{number}", likely) for number in range(count)]


def names(rules: Sequence[Rule]) -> dict[int, str]:
    """The names of rules by their numbers."""
    return {0: OTHER} | {rule.number: rule.name for rule in rules}
