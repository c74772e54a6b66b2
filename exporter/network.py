# SPDX-License-Identifier: Apache-2.0
"""The host's network interfaces: which there are, when they change, and XDP on them."""

import dataclasses
import errno
import fnmatch
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from exporter import libbpf

AUTO = "auto"  # in a config: the interface of the default route

_RTMGRP_LINK, _RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x1, 0x40, 0x400


class Changes:
    """Readable (``fileno``) when an interface or a route came, went or changed. What it was is not said: look again."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE))

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
        for columns in ([os.fsdecode(column) for column in line.split()] for line in lines):
            if path.endswith("/route") and len(columns) > 7 and (columns[1], columns[7]) == (zero, zero):
                names[columns[0]] = None
            elif len(columns) == 10 and (columns[0], columns[1]) == (zero, "00") and columns[9] != "lo":
                names[columns[9]] = None
    return list(names)


def find(patterns: tuple[str, ...]) -> tuple[dict[int, str], list[str]]:
    """Looks for a config's interfaces: names, globs and ``auto``.

    Returns those that exist, names by index, and for each pattern that should name one but does not, a reason. A glob
    may match nothing.
    """
    present = {name: index for index, name in socket.if_nameindex()}
    found: dict[int, str] = {}
    reasons: list[str] = []
    for pattern in patterns:
        if pattern == AUTO:
            names = [name for name in default_route_interfaces() if name in present]
            missing = "there is no default route: name the interfaces"
        else:
            names = fnmatch.filter(present, pattern)
            missing = "" if any(sign in pattern for sign in "*?[") else f"there is no interface {pattern}"
        if not names and missing:
            reasons.append(missing)
        found |= {present[name]: name for name in names}
    return {index: os.fsencode(name).decode("utf-8", "backslashreplace") for index, name in found.items()}, reasons


@dataclass(frozen=True)
class XdpLink:
    """A program on an interface. fd holds it there; mode is native or generic."""

    interface: str
    fd: int
    mode: str


class Busy(OSError):
    """Another XDP program is on the interface; it is never replaced."""


def attach_xdp(program: int, index: int, interface: str, mode: str) -> XdpLink:
    """Attaches XDP in the config's mode; auto is native where the driver can, else generic. Raises OSError, Busy."""
    modes = {"native": libbpf.XDP_FLAGS_DRV_MODE, "generic": libbpf.XDP_FLAGS_SKB_MODE}
    wanted = list(modes) if mode == AUTO else [mode]
    for name in wanted:
        try:
            return XdpLink(interface, libbpf.link_create(program, index, libbpf.ATTACH_XDP, modes[name]), name)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise Busy(error.errno, "another XDP program is on it and is left there") from error
            if name == wanted[-1]:
                raise
    raise AssertionError("no mode")  # wanted is never empty


class XdpAttachments:
    """A probe's program on the interfaces that it is wanted on, as they come and go."""

    def __init__(self, program: int, patterns: tuple[str, ...], mode: str) -> None:
        self._program = program
        self._patterns = patterns
        self._mode = mode
        self._links: dict[int, XdpLink] = {}

    def update(self) -> list[str]:
        """Attaches to interfaces that are new, lets go of those gone. Returns why what is lacking is lacking."""
        found, reasons = find(self._patterns)
        for index, link in list(self._links.items()):
            # the link tells where it is: an index may have come back as another interface's, or somebody detached it
            if index not in found or libbpf.link_ifindex(link.fd) != index:
                os.close(self._links.pop(index).fd)
            elif link.interface != found[index]:
                self._links[index] = dataclasses.replace(link, interface=found[index])
        for index in found.keys() - self._links.keys():
            try:
                self._links[index] = attach_xdp(self._program, index, found[index], self._mode)
            except OSError as error:
                reasons.append(f"{found[index]}: {error.strerror}")
        return reasons

    def release(self) -> None:
        """Detaches all."""
        for link in self._links.values():
            os.close(link.fd)
        self._links.clear()

    @property
    def links(self) -> list[XdpLink]:
        return list(self._links.values())
