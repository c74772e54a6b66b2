# SPDX-License-Identifier: Apache-2.0
"""Rules that would cut this host off: asked, in Python, of the packets that nobody wants to miss.

These are packets of loopback, of those who scrape the page, of SSH, and those by which neighbours are found. Clients
come from addresses and ports that no rule names, as a rule that drops what it names is meant to; and from those that
are connected now, whoever names them.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from exporter.probe import AUTO, CONTAINERS, Probe
from exporter.rules.connections import Host, loopback
from exporter.rules.rule import ARP, DROP, EGRESS, INGRESS, Networks, Packet, Rule, verdict

_TCP = 6
_SYN, _ACK, _DATA = 0x02, 0x10, 0x18
_LENGTHS = (66, 590, 1514)  # bytes
_LEAST, _LARGEST = 54, 1518  # bytes of a packet of TCP: headers alone, and the most that Ethernet takes
_MOST_LENGTHS = 16  # bounds of rules that are tried
_EPHEMERAL = range(32_768, 61_000)  # ports
_MOST = 100  # addresses of this host, and connections, that are looked at
_SHOWN = 3
_LOOPBACK = (bytes([127, 0, 0, 1]), bytes(15) + b"\1")
_STRANGERS = {  # one, and the first and last of those that there are
    4: ("8.8.8.8", "1.0.0.0", "223.255.255.255"),
    6: ("2606:4700::1", "2000::", "3fff:ffff::"),
}
_NEIGHBOURS = (
    ("ARP, by which IPv4 finds its neighbours", Packet(60, ARP)),
    (
        "neighbour discovery, by which IPv6 finds its neighbours",
        Packet(86, 58, ipaddress.ip_address("fe80::1").packed, ipaddress.ip_address("ff02::1:ff00:1").packed),
    ),
)


@dataclass(frozen=True)
class Danger:
    """A rule of a probe that would drop what nobody wants to miss."""

    probe: str
    rule: str
    what: str

    def __str__(self) -> str:
        return (
            f"probe {self.probe}: the rule {self.rule} would drop {self.what}; action: count shows what it would do,"
            " and a rule with action: pass ahead of it keeps that"
        )


@dataclass(frozen=True)
class _Flow:
    """Packets that come to this host. remote is None of a stranger, a port 0 of one that nobody names."""

    what: str
    remote: bytes | None
    remote_port: int
    local: bytes
    local_port: int
    flags: tuple[int, ...] = (_ACK, _DATA)
    shown: str = ""  # who it is


def dangers(probe: Probe, listen: Sequence[tuple[str, int]], host: Host) -> list[Danger]:
    """Returns which rules of a probe would drop what nobody wants to miss, and what that is: each once."""
    if not any(rule.action == DROP for rule in probe.rules):
        return []
    on_containers = any(hook.family == "tc" for one in probe.mechanisms for item in one.programs for hook in item.hooks)
    on_loopback = any(fnmatchcase("lo", pattern) for pattern in probe.interfaces)
    strangers = _Strangers.to(probe.rules)
    flows = _connected(listen, host, on_loopback)
    if on_loopback:
        flows += [_Flow("loopback", address, 0, address, 0) for address in _LOOPBACK]
    own = _own(probe.rules, host, strangers) if set(probe.interfaces) != {"lo"} else []
    flows += _page(listen, own, on_loopback)
    elsewhere = bool(set(probe.interfaces) - {"lo", CONTAINERS})
    flows += _ssh(host, own) if elsewhere else []
    places = _places(probe.interfaces, host)
    found: dict[tuple[str, str], list[str]] = {}
    loose = [replace(rule, length=None, flags_set=0, flags_clear=0, containers=()) for rule in probe.rules]
    for flow in flows:
        here = ("lo",) if loopback(flow.local) else places
        packets = list(_packets(probe.rules, flow, strangers, on_containers))
        ways = packets[: 2 if on_containers else 1]
        near = [rule for rule, one in zip(probe.rules, loose, strict=True) if any(map(one.matches, ways))]
        for rule in _dropping(near, packets, here):
            whom = found.setdefault((rule.name, flow.what), [])
            if flow.shown and flow.shown not in whom:
                whom.append(flow.shown)
    for what, packet in _NEIGHBOURS if elsewhere else ():
        both = [replace(packet, direction=one) for one in ((EGRESS, INGRESS) if on_containers else ("",))]
        for rule in _dropping(probe.rules, both, places):
            found.setdefault((rule.name, what), [])
    return [Danger(probe.name, rule, _words(what, whom)) for (rule, what), whom in found.items()]


def _places(patterns: Sequence[str], host: Host) -> tuple[str | None, ...]:
    """Returns what rules take for the container of a packet from elsewhere: an interface that is no container's is its
    own; None is a container that no rule names."""
    found: dict[str | None, None] = {}
    for pattern in patterns:
        if pattern == CONTAINERS:
            found[None] = None
        elif pattern == AUTO:
            found |= dict.fromkeys(host.default_interfaces)
        else:
            found |= dict.fromkeys([name for name in host.interfaces if fnmatchcase(name, pattern)] or [pattern])
    return tuple(one for one in found if one != "lo") or (None,)


def _words(what: str, whom: list[str]) -> str:
    if not whom:
        return what
    more = f" and {len(whom) - _SHOWN} more" if len(whom) > _SHOWN else ""
    return f"{what} from {', '.join(whom[:_SHOWN])}{more}"


def _page(listen: Sequence[tuple[str, int]], own: list[bytes], on_loopback: bool) -> list[_Flow]:
    """Those who scrape the page: from elsewhere, where packets from there come to own addresses, and by loopback."""
    flows: list[_Flow] = []
    for name, port in listen:
        what, flags = f"the page's own port ({port})", (_SYN, _ACK, _DATA)
        address = _literal(name)
        by_loopback = name == "localhost" or (address is not None and loopback(address))
        everywhere = address is None or not any(address)
        if on_loopback and (by_loopback or everywhere):
            flows += [_Flow(what, one, 0, one, port, flags) for one in _LOOPBACK]
        if own and not by_loopback:
            served = [address] if address is not None and any(address) else own
            flows += [_Flow(what, None, 0, one, port, flags) for one in served]
    return flows


def _ssh(host: Host, own: list[bytes]) -> list[_Flow]:
    return [_Flow(f"established SSH (port {port})", None, 0, one, port) for port in host.ssh_ports for one in own]


def _connected(listen: Sequence[tuple[str, int]], host: Host, on_loopback: bool) -> list[_Flow]:
    """Those who are connected now, by SSH or to the page."""
    flows: list[_Flow] = []
    for one in host.established:
        ssh, page = one.local_port in host.ssh_ports, one.local_port in {port for _, port in listen}
        if (ssh or page) and (on_loopback or not loopback(one.remote)):
            what = "SSH that is connected now," if ssh else "a client of the page that is connected now,"
            remote = str(ipaddress.ip_address(one.remote))
            flows.append(_Flow(what, one.remote, one.remote_port, one.local, one.local_port, shown=remote))
    return flows[:_MOST]


def _own(rules: Sequence[Rule], host: Host, strangers: "_Strangers") -> list[bytes]:
    """Returns the addresses that packets come to: some that no rule names, and where rules name any, this host's."""
    asked = any(rule.destination for rule in rules)
    return [*(host.addresses[:_MOST] if asked else ()), strangers.v4, strangers.v6]


def _literal(name: str) -> bytes | None:
    """Returns the address that a text is; of none, all zeros, and of a host's name None."""
    try:
        return ipaddress.ip_address(name).packed if name else bytes(4)
    except ValueError:
        return None


def _packets(rules: Sequence[Rule], flow: _Flow, strangers: "_Strangers", on_containers: bool) -> Iterator[Packet]:
    """Yields packets of a flow; of containers, on the way here and back."""
    remote = flow.remote or (strangers.v4 if len(flow.local) == 4 else strangers.v6)
    ends = (remote, flow.local, flow.remote_port or strangers.port, flow.local_port or strangers.port)
    for length in _lengths(rules):
        for flags in flow.flags:
            yield Packet(length, _TCP, *ends, flags, EGRESS if on_containers else "")
            if on_containers:
                yield Packet(length, _TCP, ends[1], ends[0], ends[3], ends[2], flags, INGRESS)


def _lengths(rules: Sequence[Rule]) -> list[int]:
    """Returns the lengths that are tried: usual ones, and the ends of what rules drop of those that there are."""
    asked = [rule for rule in rules if rule.length]
    if not asked:
        return [_LENGTHS[0]]
    found = dict.fromkeys(_LENGTHS)
    for least, most in (rule.length for rule in asked if rule.length and rule.action == DROP):
        low, high = max(least, _LEAST), min(most or _LARGEST, _LARGEST)
        if low <= high and len(found) < _MOST_LENGTHS:
            found |= {low: None, high: None}
    return list(found)


def _dropping(rules: Sequence[Rule], packets: Iterable[Packet], places: Sequence[str | None]) -> Iterator[Rule]:
    """Yields the rules that drop packets at one of the places."""
    for packet in packets:
        for container in places:
            action, counted = verdict(rules, replace(packet, container=container))
            if action == DROP:
                yield counted[-1]


@dataclass(frozen=True)
class _Strangers:
    """Whom no rule names: addresses, and a client's port. Where all are named, they are some of those."""

    v4: bytes
    v6: bytes
    port: int

    @staticmethod
    def to(rules: Sequence[Rule]) -> "_Strangers":
        given = [networks for rule in rules for networks in (rule.source, rule.destination) if networks]
        named = Networks(b"".join(_some(one, 4) for one in given), b"".join(_some(one, 6) for one in given))
        taken = bytearray(65_536)
        for low, high in (ports for rule in rules for ports in (*rule.source_ports, *rule.destination_ports)):
            taken[low : high + 1] = b"\1" * (high + 1 - low)
        port = next((port for port in _EPHEMERAL if not taken[port]), _EPHEMERAL[0])
        return _Strangers(_stranger(named, 4), _stranger(named, 6), port)


def _some(networks: Networks, version: int) -> bytes:
    """Returns networks but the one that has all addresses: who names everybody names nobody."""
    return b"".join(address + bytes([length]) for address, length in networks.of(version) if length)


def _stranger(named: Networks, version: int) -> bytes:
    first, low, high = (ipaddress.ip_address(text).packed for text in _STRANGERS[version])
    ends = (_after(address, length) for address, length in sorted(named.of(version)))
    return next((one for one in (first, *ends) if low <= one <= high and one not in named), first)


def _after(address: bytes, length: int) -> bytes:
    """Returns the first address after a network."""
    bits = 8 * len(address)
    return ((int.from_bytes(address) + (1 << bits - length)) % (1 << bits)).to_bytes(len(address))
