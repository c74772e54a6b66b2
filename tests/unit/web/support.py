# SPDX-License-Identifier: Apache-2.0
"""A server on loopback, and clients that send it whatever they like."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, TypeVar, cast

from exporter.web.response import Response
from exporter.web.server import Handler, Server
from exporter.web.settings import Settings

PATIENCE = 30.0  # seconds after which a test is taken to hang
LARGE = bytes(range(256)) * 40
HUGE = 32 * 1024 * 1024  # more than all buffers on the way
GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"


async def handler(path: str, headers: Mapping[str, str]) -> Response:
    if path == "/large":
        return Response(HTTPStatus.OK, LARGE, "application/octet-stream")
    if path == "/huge":
        return Response(HTTPStatus.OK, bytes(HUGE))
    if path == "/raise":
        raise ValueError("a fault of ours")
    if path == "/header":
        return Response(HTTPStatus.OK, headers.get("x-many", "none").encode())
    return Response(HTTPStatus.OK, f"answer to {path}\n".encode())


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A connection that sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def end(self) -> None:
        """Says that nothing more will come."""
        self._writer.write_eof()

    async def answer(self, has_body: bool = True) -> Answer:
        """Reads one answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"]) if has_body else 0
        return Answer(int(first.split()[1]), headers, await self._reader.readexactly(length))

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection, by an end or by a reset."""
        data = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := await self._reader.read(1 << 20):
                data += part
        return bytes(data)

    def pause(self) -> None:
        """Takes no more from the socket, so that the server's answers pile up."""
        cast(asyncio.Transport, self._writer.transport).pause_reading()

    def resume(self) -> None:
        cast(asyncio.Transport, self._writer.transport).resume_reading()

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self._writer.get_extra_info("peername")[1])

    @property
    def certificate(self) -> dict[str, Any]:
        """The server's, where there is TLS."""
        found: dict[str, Any] = self._writer.get_extra_info("peercert")
        return found

    def close(self) -> None:
        self._writer.transport.abort()


class Connect(Protocol):
    """Connects a new client; with a context, by TLS."""

    async def __call__(self, tls: ssl.SSLContext | None = None) -> Client: ...


T = TypeVar("T")


def talk(
    conversation: Callable[[Connect], Awaitable[T]],
    answering: Handler = handler,
    settings: Settings | None = None,
    use: Callable[[Server], None] = lambda _: None,
) -> T:
    """Starts a server on a free port of loopback and has a conversation with it. Returns what that returns.

    use is called with the server, for conversations in which its settings change.
    """
    faults: list[object] = []  # what the server's tasks ended with, if not as they should

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context.get("exception")))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            clients: list[Client] = []

            async def connect(tls: ssl.SSLContext | None = None) -> Client:
                name = "localhost" if tls is not None else None
                streams = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16, ssl=tls, server_hostname=name)
                clients.append(Client(*streams))
                return clients[-1]

            server = Server(answering)
            server.use(settings or Settings())
            use(server)
            await server.serve([listening])
            try:
                return await asyncio.wait_for(conversation(connect), PATIENCE)
            finally:
                for client in clients:
                    client.close()

    result = asyncio.run(main())
    assert faults == []
    return result


def exchange(data: bytes, has_body: bool = True) -> Answer:
    """Sends bytes on a new connection. Returns the first answer."""

    async def conversation(connect: Connect) -> Answer:
        client = await connect()
        client.send(data)
        return await client.answer(has_body)

    return talk(conversation)


def request(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")
