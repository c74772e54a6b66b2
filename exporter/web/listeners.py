# SPDX-License-Identifier: Apache-2.0
"""The sockets that clients come in by: those that are served may become others while clients come."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

Accepted = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listeners:
    """Sockets that listen, each by its address."""

    def __init__(self, accepted: Accepted, limit: int) -> None:
        """accepted has a client's conversation; limit is how many bytes are read ahead for it."""
        self._accepted = accepted
        self._limit = limit
        self._served: dict[object, socket.socket] = {}

    async def use(self, sockets: list[socket.socket]) -> None:
        """Accepts clients of these sockets alone from now on.

        Of two with one address the one that is served already stays, and the other is closed. Who has come in by a
        socket that is not among them is still served.
        """
        wanted = {one.getsockname(): one for one in sockets}
        for address in self._served.keys() - wanted.keys():
            await self._end(self._served.pop(address))
        for address, one in wanted.items():
            if address in self._served:
                one.close()
            else:
                self._served[address] = one
                await asyncio.start_server(self._accepted, sock=one, limit=self._limit)

    async def _end(self, listening: socket.socket) -> None:
        """Closes a socket once those who wait at it have been taken in: closing it would reset their connections.

        asyncio's Server is not told: it would drop whom it is about to take in (an AssertionError in Server._attach).
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        with listening:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:  # nobody waits, or who did is gone
                    return
                client.setblocking(False)
                await loop.connect_accepted_socket(self._protocol, client)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, self._accepted, loop=loop)
