# SPDX-License-Identifier: Apache-2.0
"""A client's connection as bytes: in the clear, or under TLS by ssl's memory BIOs.

asyncio's transports and streams keep what a client has sent and not taken, hundreds of kilobytes for each connection;
here the kernel keeps it. And asyncio's own TLS drops the answer to a client that has already said its end.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

READ_BYTES = 16 * 1024
LINGER_SECONDS = 1.0  # for a client to end after we have
_LINGER_READS = 64

T = TypeVar("T")


class Stream(Protocol):
    """What the server wants of a connection. All raise OSError where the client is gone."""

    async def read(self) -> bytes:
        """Returns what came; b"" at the end."""

    async def send(self, parts: Iterable[bytes]) -> None:
        """Returns when the kernel has all of it."""

    async def end(self) -> None:
        """Says that nothing more comes, and waits a while for the client to say so too."""


class Clear:
    """Bytes as they are, by a socket that does not block."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self._socket, READ_BYTES)

    async def send(self, parts: Iterable[bytes]) -> None:
        await self._loop.sock_sendall(self._socket, b"".join(parts))

    async def end(self) -> None:
        """To close while a client still sends would reset the connection, and the answer with it (RFC 9112, 9.6)."""
        self._socket.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_SECONDS):
            for _ in range(_LINGER_READS):
                if not await self.read():
                    return


class Secure:
    """TLS over a connection."""

    def __init__(self, below: Clear, context: ssl.SSLContext) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def begin(self, first: bytes) -> None:
        """Shakes hands; first is what has come already. Raises ssl.SSLError, the client told why, where that fails."""
        self._incoming.write(first)
        await self._until_done(self._object.do_handshake)

    @property
    def names(self) -> list[tuple[str, str]]:
        """The client's subject alternative names, such as ("DNS", "prometheus.example.org"), if it was verified."""
        certificate: dict[str, Any] = self._object.getpeercert() or {}
        return list(certificate.get("subjectAltName", ()))

    async def read(self) -> bytes:
        try:
            return await self._until_done(lambda: self._object.read(READ_BYTES))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # it said its end, or ended without a word
            return b""

    async def send(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[self._object.write(rest) :]
        await self._flush()

    async def end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # the client has not said its end: nothing depends on it
            self._object.unwrap()
        async with asyncio.timeout(LINGER_SECONDS):  # also for a client that takes nothing any more
            await self._flush()
            await self._below.end()

    async def _until_done(self, step: Callable[[], T]) -> T:
        """Returns what a step gives once the client has sent all that it wants."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                await self._flush()  # of a failure, the alert
            if data := await self._below.read():
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._below.send([data])
