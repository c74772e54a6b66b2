# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: opened here or passed by systemd, answered by the worker."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from exporter import systemd
from exporter.errors import StartError

Address = tuple[int, Any]  # a family, and what bind(2) takes


class Listening:
    """The sockets that listen, each by its address."""

    def __init__(self) -> None:
        self._open: dict[Address, socket.socket] = {}
        self._passed: list[tuple[str, socket.socket]] = []

    def take_passed(self) -> None:
        """Takes the sockets that systemd has passed, if it has: they replace all addresses. Raises StartError."""
        self._passed = systemd.sockets()

    @property
    def sockets(self) -> list[socket.socket]:
        return [one for _, one in self._passed] or list(self._open.values())

    @property
    def names(self) -> list[str]:
        """What systemd calls the sockets that it has passed."""
        return [name for name, _ in self._passed]

    def places(self, wanted: tuple[tuple[str, int], ...]) -> list[str]:
        """Returns where it is listened, where these hosts and ports are wanted, as HOST:PORT."""
        passed = [one.getsockname() for _, one in self._passed]
        return list(dict.fromkeys(map(_place, passed or wanted)))

    def change(self, wanted: tuple[tuple[str, int], ...]) -> list[socket.socket]:
        """Makes these hosts and ports those that are listened on; a name such as localhost stands for all its
        addresses.

        Those that stay are not touched, and those that systemd has passed stay always. Returns the sockets that are not
        wanted any more, to be closed once nobody answers on them. Raises StartError, with nothing changed.
        """
        if self._passed:
            return []
        opened: dict[Address, socket.socket] = {}
        try:
            for host, port in wanted:
                opened |= self._host(host, port, self._open | opened)
        except StartError:
            for address in opened.keys() - self._open.keys():
                opened[address].close()
            raise
        gone = [one for address, one in self._open.items() if address not in opened]
        self._open = opened
        return gone

    def _host(self, host: str, port: int, there: dict[Address, socket.socket]) -> dict[Address, socket.socket]:
        """Returns the sockets for a host and a port: those of its addresses that are there, and new ones."""
        # localhost is loopback by RFC 6761, also on a host without /etc/hosts
        names = ["127.0.0.1", "::1"] if host == "localhost" else [host or None]
        try:
            found = [
                (family, address)
                for name in names
                for family, _, _, _, address in socket.getaddrinfo(
                    name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
            ]
        except (OSError, UnicodeError) as error:
            raise StartError(f"cannot listen on {host}:{port}: {host} is no address or name of this host") from error
        opened: dict[Address, socket.socket] = {}
        failures = []
        for family, address in dict.fromkeys(found):
            try:
                opened[family, address] = there.get((family, address)) or _listening(family, address, there)
            except OSError as error:
                failures.append(error)
        # a host without IPv6 has neither its family nor its addresses
        fatal = [error for error in failures if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)]
        if fatal or not opened:
            for key in opened.keys() - there.keys():
                opened[key].close()
            first = (fatal or failures)[0]
            hint = "; is another exporter running?" if first.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host or '*'}:{port}: {first.strerror}{hint}")
        return opened


def _place(address: Any) -> str:
    """("::1", 9435, 0, 0) -> ``[::1]:9435``; a Unix socket's is its path"""
    if not isinstance(address, tuple):
        return str(address)
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host or 'localhost'}:{port}"


def _listening(family: int, address: Any, there: dict[Address, socket.socket]) -> socket.socket:
    """Opens a socket. Where one of ours is there that has the port on another address (127.0.0.1 and all addresses,
    say), both may."""
    ours = [one for (other, (_, port, *_)), one in there.items() if other == family and port == address[1]]
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _sharing([one, *ours] if ours else []):
            one.bind(address)
            one.listen(128)
    except OSError:
        one.close()
        raise
    return one


@contextlib.contextmanager
def _sharing(sockets: list[socket.socket]) -> Iterator[None]:
    """Lets sockets have one port, for as long as it takes to bind: what is another's is refused all the same."""
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
