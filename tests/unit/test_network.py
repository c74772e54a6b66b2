# SPDX-License-Identifier: Apache-2.0
"""network/interfaces.py: which interfaces a config's patterns name."""

import os
import selectors
import socket
from pathlib import Path

import pytest

from exporter.network import interfaces
from exporter.supervisor.interfaces import Watch

PRESENT = [(1, "lo"), (2, "eth0"), (3, "eth1"), (9, "docker0"), (12, "br-a[1]")]
NO_ROUTE = "there is no default route: name the interfaces"


@pytest.mark.parametrize(
    ("patterns", "routes", "found", "reasons"),
    [
        (("eth0",), [], {2: "eth0"}, []),
        (("eth*",), [], {2: "eth0", 3: "eth1"}, []),
        (("eth[1-9]", "lo"), [], {3: "eth1", 1: "lo"}, []),
        (("*",), [], {1: "lo", 2: "eth0", 3: "eth1", 9: "docker0", 12: "br-a[1]"}, []),
        (("eth0", "eth*"), [], {2: "eth0", 3: "eth1"}, []),
        (("wlan0", "eth0"), [], {2: "eth0"}, ["there is no interface wlan0"]),
        (("wlan*",), [], {}, []),
        (("auto",), ["eth1"], {3: "eth1"}, []),
        (("auto", "lo"), ["eth0", "eth1"], {2: "eth0", 3: "eth1", 1: "lo"}, []),
        (("auto",), [], {}, [NO_ROUTE]),
        (("auto",), ["ppp0"], {}, [NO_ROUTE]),  # it went between the two looks, or is `*`, of an unreachable route
        (("auto", "wlan0"), [], {}, [NO_ROUTE, "there is no interface wlan0"]),
        (("ETH0",), [], {}, ["there is no interface ETH0"]),
        ((), [], {}, []),
    ],
)
def test_find(
    monkeypatch: pytest.MonkeyPatch,
    patterns: tuple[str, ...],
    routes: list[str],
    found: dict[int, str],
    reasons: list[str],
    tmp_path: Path,
) -> None:
    """Names, globs and auto lead to indexes; a name that is not there is told, a glob may match nothing."""
    monkeypatch.setattr(socket, "if_nameindex", lambda: PRESENT)
    monkeypatch.setattr(interfaces, "default_route_interfaces", lambda: routes)
    monkeypatch.setattr(interfaces, "SYSTEM", tmp_path)
    assert interfaces.find(patterns) == (found, reasons)


@pytest.mark.parametrize("pattern", ["*", "auto", "tun0"])
def test_interfaces_without_ethernet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pattern: str) -> None:
    """What would be read amiss is left out, with its reason, however it was named."""
    for name, kind in (("lo", 772), ("eth0", 1), ("tun0", 65534)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
    monkeypatch.setattr(interfaces, "SYSTEM", tmp_path)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "tun0")])
    monkeypatch.setattr(interfaces, "default_route_interfaces", lambda: ["tun0"])
    reason = "tun0 has no Ethernet header: its packets can't be told apart"
    found = {1: "lo", 2: "eth0"} if pattern == "*" else {}
    assert interfaces.find((pattern, "tun*")) == (found, [reason])


def test_a_default_route_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is no default route what is attached is kept, as far as it is there; with another it is not."""
    routes: list[str] = []
    monkeypatch.setattr(socket, "if_nameindex", lambda: PRESENT)
    monkeypatch.setattr(interfaces, "default_route_interfaces", lambda: routes)
    stays = ["there is no default route: what was attached stays until there is"]
    assert interfaces.find(("auto",), (), {2, 77}) == ({2: "eth0"}, stays)
    assert interfaces.find(("auto",), (), {77}) == ({}, [NO_ROUTE])
    assert interfaces.find(("eth1",), (), {2}) == ({3: "eth1"}, [])
    routes.append("eth1")
    assert interfaces.find(("auto",), (), {2}) == ({3: "eth1"}, [])


@pytest.mark.parametrize(("wanted", "groups"), [([False], 0), ([True], 2), ([False, True], 2), ([False, False], 0)])
def test_routes_are_followed_where_they_matter(wanted: list[bool], groups: int) -> None:
    """Routes wake nobody up as long as no probe is where the default route is; from when one is, they do."""
    with selectors.DefaultSelector() as selector:
        watch = Watch(selector, lambda: None)
        for routes in wanted:
            watch.begin(routes=routes)
        [key] = selector.get_map().values()
        own = os.fstat(key.fd).st_ino
        sockets = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()]
        [line] = [columns for columns in sockets if columns[-1] == str(own)]
        followed = int(line[3], 16)
        selector.unregister(key.fileobj)
        assert isinstance(key.fileobj, interfaces.Changes)
        key.fileobj.close()
    assert followed & 1
    assert (followed & 0x440).bit_count() == groups


def test_default_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the kernel's tables only default routes count: not what is like one in another column, nor a longer mask."""
    tables = {
        "/proc/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth1\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n",
        "/proc/net/ipv6_route": f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 1 0 00000003     eth2\n"
        f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}2 00000400 1 0 00000003     eth3\n"
        f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000100 1 0 00000001     eth4\n"
        f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200       lo\n",
    }
    monkeypatch.setattr(Path, "read_bytes", lambda path: tables[str(path)].encode())
    assert interfaces.default_route_interfaces() == ["eth0", "eth2", "eth3"]
