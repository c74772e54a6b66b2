# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: opened here, answered by the worker."""

import errno
import socket
from typing import Any

from exporter.errors import StartError


def open_all(addresses: tuple[tuple[str, int], ...]) -> list[socket.socket]:
    """Opens the listening sockets; a name such as localhost stands for all its addresses. Raises StartError."""
    sockets: list[socket.socket] = []
    for host, port in addresses:
        # localhost is loopback by RFC 6761, also on a host without /etc/hosts
        names = ["127.0.0.1", "::1"] if host == "localhost" else [host or None]
        try:
            found = [
                address
                for name in names
                for address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            ]
        except (OSError, UnicodeError) as error:
            raise StartError(f"cannot listen on {host}:{port}: {host} is no address or name of this host") from error
        failures = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listening(family, address))
            except OSError as error:
                failures.append(error)
        # a host without IPv6 has neither its family nor its addresses
        fatal = [error for error in failures if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)]
        if fatal or len(failures) == len(found):
            first = (fatal or failures)[0]
            hint = "; is another exporter running?" if first.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host or '*'}:{port}: {first.strerror}{hint}")
    return sockets


def _listening(family: int, address: Any) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(128)
    except OSError:
        one.close()
        raise
    return one
