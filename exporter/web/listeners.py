# SPDX-License-Identifier: Apache-2.0
"""The sockets that clients come in by: those that are served may become others while clients come."""

import asyncio
import contextlib
import itertools
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
        self._served: dict[object, tuple[socket.socket, asyncio.Task[None]]] = {}

    async def use(self, sockets: list[socket.socket]) -> None:
        """Accepts clients of these sockets alone from now on.

        Of two with one address the one that is served already stays, and the other is closed. Who has come in by a
        socket that is not among them is still served.
        """
        wanted = {one.getsockname(): one for one in sockets}
        for address in self._served.keys() - wanted.keys():
            await self._end(*self._served.pop(address))
        for address, one in wanted.items():
            if address in self._served:
                one.close()
            else:
                one.setblocking(False)
                one.listen(BACKLOG)
                self._served[address] = one, asyncio.create_task(self._accept(one))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in itertools.count(1):
            try:
                self._accepted(*await loop.sock_accept(listening))
            except ConnectionAbortedError:  # it is gone already
                continue
            except OSError as error:  # no descriptor is left, or no memory
                log.error("cannot accept connections", extra={"reason": error.strerror})
                await asyncio.sleep(PAUSE_SECONDS)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)

    async def _end(self, listening: socket.socket, accepting: "asyncio.Task[None]") -> None:
        """Closes a socket once those who wait at it have been taken in: closing it would reset their connections."""
        accepting.cancel()
        await asyncio.wait([accepting])
        with listening, contextlib.suppress(OSError):  # nobody waits, or who did is gone
            while True:
                connected, peer = listening.accept()
                connected.setblocking(False)
                self._accepted(connected, peer)
