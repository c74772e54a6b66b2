# SPDX-License-Identifier: Apache-2.0
"""The host's network interfaces: which there are, and when they change."""

import errno
import fnmatch
import os
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from exporter.probe import AUTO, CONTAINERS

SYSTEM = Path("/sys/class/net")

_WITH_ETHERNET = ("1", "772")  # ARPHRD_ETHER, ARPHRD_LOOPBACK: linux/if_arp.h
_RTMGRP_LINK = 0x1
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _RTNLGRP_IPV4_ROUTE, _RTNLGRP_IPV6_ROUTE = 270, 1, 7, 11


class Changes:
    """Readable (``fileno``) when an interface came, went or changed. What it was is not said: look again."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))

    def follow_routes(self) -> None:
        """Makes it so when a route did, too: on a router that is often."""
        for group in (_RTNLGRP_IPV4_ROUTE, _RTNLGRP_IPV6_ROUTE):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def clear(self) -> None:
        """Forgets all changes up to now. That some were lost (ENOBUFS) is no harm: there was a change."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        self._socket.close()


def default_route_interfaces() -> list[str]:
    """Returns the interfaces of the default routes, IPv4's and IPv6's; usually one.

    /proc/net/route: ``eth0 00000000 …``; /proc/net/ipv6_route: 32 zeros, prefix length 00, …, interface (``lo`` stands
    for "unreachable").
    """
    names: dict[str, None] = {}
    for path, zero in (("/proc/net/route", "00000000"), ("/proc/net/ipv6_route", "0" * 32)):
        try:
            lines = Path(path).read_bytes().split(b"\n")  # bytes: a name may have any but blanks and a slash
        except OSError:  # a kernel without this protocol
            continue
        column = zero.encode()
        # before they are split: there may be a million
        likely = [
            line
            for line in lines
            if line.startswith(column + b" 00 ") or line.partition(b"\t")[2].startswith(column + b"\t")
        ]
        for columns in ([os.fsdecode(column) for column in line.split()] for line in likely):
            if path.endswith("/route") and len(columns) > 7 and (columns[1], columns[7]) == (zero, zero):
                names[columns[0]] = None
            elif len(columns) == 10 and (columns[0], columns[1]) == (zero, "00") and columns[9] != "lo":
                names[columns[9]] = None
    return list(names)


def find(
    patterns: tuple[str, ...], containers: Iterable[int] = (), attached: Collection[int] = ()
) -> tuple[dict[int, str], list[str]]:
    """Looks for a config's interfaces: names, globs, ``auto``, and ``containers``, whose indexes are given.

    Returns those that exist, names by index, and for each pattern that should name one but does not, a reason; and for
    each that has no Ethernet header, where programs read one. A glob may match nothing, and there may be no container.
    Where ``auto`` finds none, as while DHCP has a route made anew, what is ``attached``, by index, is found as well.
    """
    present = {name: index for index, name in socket.if_nameindex()}
    inside = set(containers)
    found: dict[int, str] = {}
    reasons: list[str] = []
    for pattern in patterns:
        if pattern == AUTO:
            names = [name for name in default_route_interfaces() if name in present]
            missing = "there is no default route: name the interfaces"
            if not names and (names := [name for name, index in present.items() if index in attached]):
                reasons.append("there is no default route: what was attached stays until there is")
        elif pattern == CONTAINERS:
            names, missing = [name for name, index in present.items() if index in inside], ""
        else:
            names = fnmatch.filter(present, pattern)
            missing = "" if any(sign in pattern for sign in "*?[") else f"there is no interface {pattern}"
        if not names and missing:
            reasons.append(missing)
        for name in names:
            if _has_ethernet(name):
                found[present[name]] = _text(name)
            else:
                reasons.append(f"{_text(name)} has no Ethernet header: its packets can't be told apart")
    return found, list(dict.fromkeys(reasons))


def _has_ethernet(name: str) -> bool:
    """Whether packets begin with an Ethernet header; not those of tun, WireGuard and PPP."""
    try:
        return (SYSTEM / name / "type").read_text().strip() in _WITH_ETHERNET
    except OSError:  # it has just gone, and is not attached to
        return True


def named(index: int) -> str:
    """Returns an interface's name, to be shown; raises OSError where it is gone."""
    return _text(socket.if_indextoname(index))


def _text(name: str) -> str:
    """A name may have any bytes but blanks and a slash."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
