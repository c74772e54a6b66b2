# SPDX-License-Identifier: Apache-2.0
"""web/listeners.py: sockets that come and go while clients do."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from exporter.web import listeners
from exporter.web.listeners import Listeners

PATIENCE = 30.0  # seconds after which a test is taken to hang


def run(conversation: Callable[[Listeners], Awaitable[None]]) -> None:
    async def main() -> None:
        tasks = set()

        async def echo(connected: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            with connected:
                while data := await loop.sock_recv(connected, 100):
                    await loop.sock_sendall(connected, data)

        def accepted(connected: socket.socket, _peer: Any) -> None:
            tasks.add(asyncio.create_task(echo(connected)))

        await asyncio.wait_for(conversation(Listeners(accepted)), PATIENCE)

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

    async def conversation(found: Listeners) -> None:
        (first, at_first), (second, at_second), (third, at_third) = opened(), opened(), opened()
        found.use([first, second])
        reader, writer = await asyncio.open_connection(*at_first)
        assert await says(at_second, b"two") == b"two"
        found.use([second.dup(), third])
        assert await says(at_second, b"two") == b"two"
        assert await says(at_third, b"three") == b"three"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*at_first)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        writer.close()
        found.use([])

    run(conversation)


def test_who_waits_at_a_socket_that_goes_is_served() -> None:
    """A client that has connected and is not accepted yet gets its answer, though the socket is closed meanwhile."""

    async def conversation(found: Listeners) -> None:
        one, address = opened()
        found.use([one])
        with contextlib.ExitStack() as stack:
            waiting = [
                stack.enter_context(socket.create_connection(address)) for _ in range(20)
            ]  # the loop has no turn
            found.use([])
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            loop = asyncio.get_running_loop()
            for number, client in enumerate(waiting):
                client.setblocking(False)
                await loop.sock_sendall(client, str(number).encode())
                assert await loop.sock_recv(client, 100) == str(number).encode()

    run(conversation)


def test_a_unix_socket(tmp_path: Any) -> None:
    """A socket that has a path is served like one that has a port."""

    async def conversation(found: Listeners) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / "socket"))
            one.listen()
            found.use([one])
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            writer.close()
            found.use([])

    run(conversation)


def test_a_crowd_leaves_others_their_turn() -> None:
    """While hundreds are being accepted the loop goes round: who is in already is served in between."""

    async def conversation(found: Listeners) -> None:
        one, address = opened()
        one.listen(listeners.BACKLOG)
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(address))
            rounds = 0
            found.use([one])
            reading = asyncio.create_task(says(address, b"last"))
            while not reading.done():
                rounds += 1
                await asyncio.sleep(0)
            assert await reading == b"last"
            assert rounds >= 200 / listeners._AT_ONCE
        found.use([])

    run(conversation)


def test_no_room_for_a_connection(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where this host has no descriptor left it is told, and tried again."""
    monkeypatch.setattr(listeners, "PAUSE_SECONDS", 0.0)
    errors = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if errors:
                raise errors.pop()
            return super().accept()

    async def conversation(found: Listeners) -> None:
        one, address = opened()
        found.use([Full(fileno=one.detach())])
        assert await says(address, b"one") == b"one"
        found.use([])

    run(conversation)
    assert [record.__dict__["reason"] for record in caplog.records] == ["Too many open files"] * (not errors)
