# SPDX-License-Identifier: Apache-2.0
"""web/listeners.py: sockets that come and go while clients do."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest

from exporter.web.listeners import Listeners

PATIENCE = 30.0  # seconds after which a test is taken to hang


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


def run(conversation: Callable[[Listeners], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(conversation(Listeners(echo, 1 << 16)), PATIENCE)

    asyncio.run(main())


def opened() -> tuple[socket.socket, tuple[str, int]]:
    one = socket.create_server(("127.0.0.1", 0))
    return one, one.getsockname()


async def says(address: tuple[str, int], word: bytes) -> bytes:
    """What comes back, on a connection of its own."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(word)
    writer.write_eof()
    data = await reader.read()
    writer.close()
    return data


def test_sockets_come_and_go() -> None:
    """A new socket is served, one that is kept goes on, one that is left out refuses; who is in by it is served on."""

    async def conversation(listeners: Listeners) -> None:
        (first, at_first), (second, at_second), (third, at_third) = opened(), opened(), opened()
        await listeners.use([first, second])
        reader, writer = await asyncio.open_connection(*at_first)
        assert await says(at_second, b"two") == b"two"
        await listeners.use([second.dup(), third])
        assert await says(at_second, b"two") == b"two"
        assert await says(at_third, b"three") == b"three"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*at_first)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        writer.close()
        await listeners.use([])

    run(conversation)


def test_who_waits_at_a_socket_that_goes_is_served() -> None:
    """A client that has connected and is not accepted yet gets its answer, though the socket is closed meanwhile."""

    async def conversation(listeners: Listeners) -> None:
        one, address = opened()
        await listeners.use([one])
        with contextlib.ExitStack() as stack:
            waiting = [
                stack.enter_context(socket.create_connection(address)) for _ in range(20)
            ]  # the loop has no turn
            await listeners.use([])
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            loop = asyncio.get_running_loop()
            for number, client in enumerate(waiting):
                client.setblocking(False)
                await loop.sock_sendall(client, str(number).encode())
                assert await loop.sock_recv(client, 100) == str(number).encode()

    run(conversation)
