# SPDX-License-Identifier: Apache-2.0
"""The sockets that clients come in by: those that are served may become others while clients come."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

BACKLOG = 1024  # connections that wait to be accepted: a crowd does not keep out who comes behind it
PAUSE_SECONDS = 0.1  # where this host has no room for another connection
_AT_ONCE = 32  # are accepted, then it is the turn of those who are in

log = logging.getLogger(__name__)

Accepted = Callable[[socket.socket, Any], None]


class Listeners:
    """Sockets that listen, each by its address."""

    def __init__(self, accepted: Accepted) -> None:
        """accepted is given each connection, which does not block, and its other end's address."""
        self._accepted = accepted
        self._served: dict[object, socket.socket] = {}

    def use(self, sockets: list[socket.socket]) -> None:
        """Accepts clients of these sockets alone from now on.

        Of two with one address the one that is served already stays, and the other is closed. Who has come in by a
        socket that is not among them is still served.
        """
        wanted = {one.getsockname(): one for one in sockets}
        for address in self._served.keys() - wanted.keys():
            self._end(self._served.pop(address))
        for address, one in wanted.items():
            if address in self._served:
                one.close()
            else:
                one.setblocking(False)
                one.listen(BACKLOG)
                self._served[address] = one
                self._begin(one)

    def _begin(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:  # it may have come to its end while there was no room
            asyncio.get_running_loop().add_reader(listening, self._take_in, listening)

    def _take_in(self, listening: socket.socket) -> None:
        """Accepts who waits. The loop's own sock_accept may lose, when it is cancelled, what it has accepted."""
        try:
            for _ in range(_AT_ONCE):
                self._accept(listening)
        except BlockingIOError:  # nobody waits any more
            return
        except OSError as error:  # no descriptor is left, or no memory
            log.error("cannot accept connections", extra={"reason": error.strerror})
            asyncio.get_running_loop().remove_reader(listening)
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._begin, listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connected, peer = listening.accept()
        except ConnectionAbortedError:  # it is gone already
            return
        connected.setblocking(False)
        self._accepted(connected, peer)

    def _end(self, listening: socket.socket) -> None:
        """Closes a socket once those who wait at it have been taken in: closing it would reset their connections."""
        asyncio.get_running_loop().remove_reader(listening)
        with listening, contextlib.suppress(OSError):  # nobody waits, or there is no room for them
            while True:
                self._accept(listening)
