# SPDX-License-Identifier: Apache-2.0
"""Clients in turn: of those that want something of the loop at the same time each does one thing in one round of it."""

import asyncio
from collections import deque


class Turns:
    """A queue for each client. However much one of them has to be done, another's comes in the next round."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._next: asyncio.Handle | None = None

    async def take(self, client: bytes) -> None:
        """Returns when it is the client's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        if self._next is None:
            self._next = loop.call_soon(self._round)
        await turn

    def _round(self) -> None:
        for client, turns in list(self._waiting.items()):
            while turns:
                turn = turns.popleft()
                if not turn.done():  # its connection has ended
                    turn.set_result(None)
                    break
            if not turns:
                del self._waiting[client]
        self._next = asyncio.get_running_loop().call_soon(self._round) if self._waiting else None
