# SPDX-License-Identifier: Apache-2.0
"""What a packet through a veth pair costs: with rules that it does not meet, beside nft with the same networks."""

import ipaddress
import random
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.loops import statistics_on
from tests.bench.measure import Aim, Bench, CannotRun, Result, own_words, programs, spread, table
from tests.kernel.daemon import Daemon
from tests.kernel.wires import ip

HERE = Path(__file__).parent
INTERFACE, PEER, NAMESPACE = "ebpf-bench", "ebpf-bench-peer", "ebpf-bench"
RULES = (0, 10, 10_000)
PACKETS, MOST_SECONDS = 1_000_000, 2  # at once: as many as take no longer
PROBES = {
    "XDP native": ("xdp", {"mode": "native"}),
    "XDP generic": ("xdp", {"mode": "generic"}),
    "TC": ("container_net", {}),
}


@dataclass(frozen=True)
class Cost:
    """Of each repetition: nanoseconds of a packet from end to end, and in BPF programs."""

    all: list[float]
    in_bpf: list[float]

    def row(self) -> list[str]:
        rate = [1e9 / one for one in self.all]
        return [spread(rate, 0), spread(self.all, 0), spread(self.in_bpf, 0)]


def section(bench: Bench) -> Result:
    sender = bench.compiled(HERE / "packets.c")
    rows, aims = [], []
    with _wire(), statistics_on():
        rows.append(["nothing", "", *_cost(bench, sender, frozenset(programs())).row()])
        for count in RULES:
            networks = _networks(count)
            found = {name: _with_us(bench, sender, *PROBES[name], networks) for name in PROBES}
            rows += [[name, f"{count:,}", *cost.row()] for name, cost in found.items()]
            for name, script in (("nft, a set", _set), ("nft, a rule for each", _chain)) if count else ():
                try:
                    peer = _with_nft(bench, sender, script(networks))
                except CannotRun as reason:
                    rows.append([name, f"{count:,}", f"cannot run here: {reason}", "", ""])
                    continue
                rows.append([name, f"{count:,}", *peer.row()])
                here, there = statistics.median(found["TC"].all), statistics.median(peer.all)
                aims.append(
                    Aim(
                        f"TC with {count:,} rules takes less than {name}",
                        f"{here:.0f} ns; {there:.0f} ns",
                        here < there,
                    )
                )
    return Result(table(["with", "rules", "packets/s", "ns for each", "ns in BPF for each"], rows), tuple(aims))


@contextmanager
def _wire() -> Iterator[None]:
    """A pair of interfaces on which nobody else speaks, the other end in a namespace."""
    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", INTERFACE, "type", "veth", "peer", "name", PEER, "netns", NAMESPACE)
        for words in (["-n", NAMESPACE, "link", "set", PEER], ["link", "set", INTERFACE]):
            ip(*words, "addrgenmode", "none")
            ip(*words, "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)  # the pair goes with it


def _networks(count: int) -> list[str]:
    """Returns networks of many sizes in which none of the sources is; the same each time."""
    chosen = random.Random(count)
    found: dict[str, None] = {}
    while len(found) < count:
        address = ipaddress.IPv4Address(chosen.randrange(0x0B000000, 0xDF000000))
        found[str(ipaddress.IPv4Network((address, chosen.randint(20, 32)), strict=False))] = None
    return list(found)


def _cost(bench: Bench, sender: str, others: frozenset[int]) -> Cost:
    result = Cost([], [])
    count = min(PACKETS, int(MOST_SECONDS * 1e9 / _send(sender, PACKETS // 100)))  # which warms up as well
    for _ in range(bench.times):
        before, received = _run_time(others), _received()
        result.all.append(_send(sender, count))
        assert _received() - received == count
        result.in_bpf.append((_run_time(others) - before) / count)
    return result


def _send(sender: str, count: int) -> float:
    command = ["ip", "netns", "exec", NAMESPACE, sender, PEER, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _run_time(others: frozenset[int]) -> int:
    return sum(program.run_time_ns for number, program in programs().items() if number not in others)


def _received() -> int:
    return int(Path(f"/sys/class/net/{INTERFACE}/statistics/rx_packets").read_text())


def _with_us(bench: Bench, sender: str, probe: str, settings: dict[str, Any], networks: list[str]) -> Cost:
    rules = [{"name": f"r{at}", "action": "drop", "source": network} for at, network in enumerate(networks)]
    others = frozenset(programs())
    with Daemon({probe: {"interfaces": [INTERFACE], **settings, **({"rules": rules} if rules else {})}}) as daemon:
        status = daemon.status(probe)
        assert status["state"] == "running", status
        return _cost(bench, sender, others)


def _set(networks: list[str]) -> str:
    elements = ", ".join(map(str, ipaddress.collapse_addresses(map(ipaddress.IPv4Network, networks))))
    kept = f"set s {{ type ipv4_addr; flags interval; elements = {{ {elements} }}; }}"
    return f"{kept}\nchain c {{ {_HOOK} ip saddr @s drop; }}"


def _chain(networks: list[str]) -> str:
    return f"chain c {{ {_HOOK}\n" + "\n".join(f"ip saddr {network} drop;" for network in networks) + "\n}"


_HOOK = f'type filter hook ingress device "{INTERFACE}" priority 0;'


def _with_nft(bench: Bench, sender: str, script: str) -> Cost:
    """nft at the same place: ahead of the stack, on that interface alone. Raises CannotRun."""
    others = frozenset(programs())
    try:
        subprocess.run(
            ["nft", "-f", "-"],
            input=f"table netdev ebpf_bench {{\n{script}\n}}\n",
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise CannotRun("not installed") from None
    except subprocess.CalledProcessError as error:
        raise CannotRun(own_words(error.stderr)) from error
    try:
        return _cost(bench, sender, others)
    finally:
        subprocess.run(["nft", "delete", "table", "netdev", "ebpf_bench"], check=True)
