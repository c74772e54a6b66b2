# SPDX-License-Identifier: Apache-2.0
"""network/interfaces.py: which interfaces a config's patterns name."""

import socket
from pathlib import Path

import pytest

from exporter.network import interfaces

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
