# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server for one small site: h11 for the protocol, asyncio for the sockets.

No client can hold up another: each waits on its own; a request has to arrive within a time; headers and connections are
bounded, and when there are too many connections the one that has been silent longest gives way.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from exporter.web.gzip import Packer
from exporter.web.listeners import Listeners
from exporter.web.negotiation import accepts_gzip

MAX_CONNECTIONS = 256
MAX_SENDING_BYTES = 64 * 1024 * 1024  # of answers that clients have still to take
MAX_HEADER_BYTES = 16 * 1024
REQUEST_SECONDS = 10.0  # for a request to arrive once it has begun, and for the first to begin
IDLE_SECONDS = 120.0  # between requests: a Prometheus that scrapes each minute keeps its connection
_PIECE = 128 * 1024  # bytes
SEND_SECONDS = 30.0  # for a client to take an answer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Response:
    """An answer, its body in parts where it is large; headers besides those that every answer has."""

    status: HTTPStatus
    body: bytes | list[bytes]
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[bytes]:
        return [self.body] if isinstance(self.body, bytes) else self.body

    @property
    def size(self) -> int:
        """The body's, in bytes."""
        return sum(map(len, self.parts))


Handler = Callable[[str, Mapping[str, str]], Awaitable[Response]]  # path without its query, headers in small letters


@dataclass(eq=False)
class _Connection:
    """One client: its task, since when nothing has come from it, and what it has still to take."""

    task: "asyncio.Task[None]"
    silent_since: float
    sending: int = 0  # bytes of the answer that it is taking


class Server:
    """Serves one handler on sockets that already listen."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[_Connection] = set()
        self._packed = Packer()
        self._listeners = Listeners(self._accepted, limit=MAX_HEADER_BYTES * 2)

    async def serve(self, listening: list[socket.socket]) -> None:
        """Accepts clients of these sockets, and of no others any more; returns at once."""
        await self._listeners.use(listening)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(task, time.monotonic())
        self._connections.add(connection)
        if len(self._connections) > MAX_CONNECTIONS:
            evicted = min(self._connections, key=lambda other: other.silent_since)
            self._connections.discard(evicted)
            evicted.task.cancel()
        try:
            await self._converse(connection, reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):  # the client is gone or too slow, or gives way
            writer.transport.abort()  # close() would wait for it to take what is left
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _converse(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        patience = REQUEST_SECONDS
        while True:
            try:
                request = await self._request(connection, protocol, reader, patience)
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                await self._send(protocol, writer, Response(status, f"{status.phrase}\n".encode()), None)
                await _drain_rest(reader, writer)
                return
            if request is None:
                return
            response = await self._respond(request)
            self._make_room(connection, response.size)
            await self._send(protocol, writer, response, request)
            connection.sending = 0
            if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
                return
            protocol.start_next_cycle()
            patience = IDLE_SECONDS

    def _make_room(self, connection: _Connection, size: int) -> None:
        """Lets go of who is longest in taking an answer, where all that is being sent would be too much to hold."""
        connection.sending = size
        senders = [other for other in self._connections if other.sending]
        while len(senders) > 1 and sum(other.sending for other in senders) > MAX_SENDING_BYTES:
            slowest = min(senders, key=lambda other: (other is connection, other.silent_since))
            slowest.sending = 0
            slowest.task.cancel()
            senders.remove(slowest)

    async def _request(
        self, connection: _Connection, protocol: h11.Connection, reader: asyncio.StreamReader, patience: float
    ) -> h11.Request | None:
        """Returns the next request, its body read and dropped; None where the client has ended."""
        request: h11.Request | None = None
        deadline = time.monotonic() + patience
        began = False
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    data = await reader.read(MAX_HEADER_BYTES)
                if data and not began:
                    began, deadline = True, time.monotonic() + REQUEST_SECONDS
                connection.silent_since = time.monotonic()
                protocol.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _respond(self, request: h11.Request) -> Response:
        if request.method not in (b"GET", b"HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"Only GET and HEAD.\n", headers={"Allow": "GET, HEAD"})
        asked: dict[str, str] = {}
        for name, value in request.headers:
            key = name.decode("latin-1").lower()
            text = value.decode("latin-1")
            asked[key] = f"{asked[key]}, {text}" if key in asked else text
        try:
            path = urlsplit(request.target.decode("latin-1")).path
        except ValueError:  # http://[ and its like
            return Response(HTTPStatus.BAD_REQUEST, b"Bad request.\n")
        try:
            response = await self._handler(path, asked)
        except Exception:
            log.exception("cannot answer", extra={"path": path})
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"Internal error; the log says more.\n")
        if response.size > 1024 and accepts_gzip(asked.get("accept-encoding", "")):
            headers = {**response.headers, "Content-Encoding": "gzip"}
            return Response(response.status, self._packed(response.parts), response.content_type, headers)
        return response

    async def _send(
        self, protocol: h11.Connection, writer: asyncio.StreamWriter, response: Response, request: h11.Request | None
    ) -> None:
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(response.size)),
            ("Date", formatdate(usegmt=True)),
            ("X-Content-Type-Options", "nosniff"),
            ("Vary", "Accept, Accept-Encoding"),
            *response.headers.items(),
        ]
        if request is None:
            headers.append(("Connection", "close"))
        async with asyncio.timeout(SEND_SECONDS):
            writer.write(protocol.send(h11.Response(status_code=response.status.value, headers=headers)) or b"")
            if not (request is not None and request.method == b"HEAD"):
                # in pieces, of which each goes to the kernel as it is: what a socket doesn't take at once is copied
                for part in response.parts:
                    for start in range(0, len(part), _PIECE):
                        piece = memoryview(part)[start : start + _PIECE]
                        event = h11.Data(data=piece)  # type: ignore[arg-type]  # bytes-like does
                        writer.writelines(protocol.send_with_data_passthrough(event) or [])
                        await writer.drain()
            writer.write(protocol.send(h11.EndOfMessage()) or b"")
            await writer.drain()


async def _drain_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes, for a while, what a client still sends after a refusal: closing at once would reset the connection, and
    the answer with it (RFC 9112, 9.6)."""
    writer.write_eof()
    async with asyncio.timeout(1.0):
        for _ in range(64):
            if not await reader.read(MAX_HEADER_BYTES):
                return
