# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server for one small site: h11 for the protocol, asyncio for the sockets.

No client can hold up another: each waits on its own, and handshakes and answers are made for clients in turn; a
handshake and a request have to arrive within a time; headers, bodies and connections are bounded.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11

from exporter.web.access import Access
from exporter.web.connections import Connection, Connections, client
from exporter.web.gzip import Packer
from exporter.web.listeners import Listeners
from exporter.web.negotiation import accepts_gzip
from exporter.web.response import Response, plain
from exporter.web.settings import Settings
from exporter.web.stream import Clear, Secure, Stream
from exporter.web.turns import Turns

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 16 * 1024  # of a request: what has one has no use for it here
HANDSHAKE_SECONDS = 10.0
REQUEST_SECONDS = 10.0  # for a request to arrive once it has begun, and for the first to begin
IDLE_SECONDS = 120.0  # between requests: a Prometheus that scrapes each minute keeps its connection
SEND_SECONDS = 30.0  # for a client to take an answer
_PIECE = 128 * 1024  # bytes
_TLS_HANDSHAKE = 0x16  # the first byte of a ClientHello's record
_SPEAKS_TLS = Response(HTTPStatus.BAD_REQUEST, b"This port speaks TLS: https://\n")

log = logging.getLogger(__name__)

Handler = Callable[[str, Mapping[str, str]], Awaitable[Response]]  # path without its query, headers in small letters


class Server:
    """Serves one handler on sockets that already listen."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._access = Access()
        self._connections = Connections()
        self._turns = Turns()
        self._listeners = Listeners(self._accepted)
        self._packed = Packer()

    def use(self, settings: Settings) -> None:
        """Clients find these settings from now on. Raises OSError, and changes nothing, if TLS can't be spoken so."""
        before = self._access.settings
        self._access.use(settings)
        former, present = (one.tls and one.tls.terms for one in (before, settings))
        if present != former or (before.users and not settings.users):
            self._connections.renew()

    async def serve(self, listening: list[socket.socket]) -> None:
        """Accepts clients of these sockets, and of no others any more; returns at once."""
        self._listeners.use(listening)

    def _accepted(self, connected: socket.socket, peer: Any) -> None:
        if connected.family != socket.AF_UNIX:  # an answer's head does not wait for its body
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client(peer))

        def ended(_: object) -> None:
            self._connections.discard(connection)
            connection.task = None  # else what TLS holds would wait for the collector
            connected.close()

        connection.task = asyncio.create_task(self._serve(connection, Clear(connected)))
        connection.task.add_done_callback(ended)  # also where it has not even begun
        self._connections.add(connection)

    async def _serve(self, connection: Connection, clear: Clear) -> None:
        try:
            await self._begin(connection, clear)
        except (OSError, TimeoutError):  # the client is gone or too slow
            return
        except Exception:
            log.exception("a connection ends by a fault of ours")

    async def _begin(self, connection: Connection, clear: Clear) -> None:
        stream: Stream | None = clear
        context = self._access.context
        if context is not None:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                stream = await self._secured(connection, clear, context)
        if stream is not None:
            await self._converse(connection, stream)
        await (stream or clear).end()

    async def _secured(self, connection: Connection, clear: Clear, context: ssl.SSLContext) -> Secure | None:
        """Shakes hands. Returns None where the client has to go, and knows why."""
        first = await clear.read()
        if first and first[0] != _TLS_HANDSHAKE:
            await self._send(connection, h11.Connection(h11.SERVER), clear, _SPEAKS_TLS, None)
            return None
        await self._turns.take(connection.client)
        secure = Secure(clear, context)
        try:
            await secure.begin(first)
        except ssl.SSLError:
            return None
        return secure if self._access.admits(secure.names) else None

    async def _converse(self, connection: Connection, stream: Stream) -> None:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        patience = REQUEST_SECONDS
        while True:
            try:
                request = await self._request(connection, protocol, stream, patience)
            except h11.RemoteProtocolError as error:
                await self._send(connection, protocol, stream, plain(HTTPStatus(error.error_status_hint)), None)
                return
            if request is None:
                return
            connection.answering = True
            response = await self._respond(connection, request)
            self._connections.make_room(connection, response.size)
            await self._send(connection, protocol, stream, response, request)
            connection.sending = 0
            connection.proven = connection.proven or response.status is HTTPStatus.OK
            if connection.last or protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
                return
            protocol.start_next_cycle()
            patience = IDLE_SECONDS

    async def _request(
        self, connection: Connection, protocol: h11.Connection, stream: Stream, patience: float
    ) -> h11.Request | None:
        """Returns the next request, its body read and dropped; None where the client has ended."""
        request: h11.Request | None = None
        deadline = time.monotonic() + patience
        began = False
        body = 0
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                if request is not None and protocol.they_are_waiting_for_100_continue:
                    return request  # nobody wants the body
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    data = await stream.read()
                if data and not began:
                    began, deadline = True, time.monotonic() + REQUEST_SECONDS
                connection.moved()
                protocol.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += len(event.data)
                if body > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _respond(self, connection: Connection, request: h11.Request) -> Response:
        asked: dict[str, str] = {}
        for name, value in request.headers:
            key = name.decode("latin-1").lower()
            text = value.decode("latin-1")
            asked[key] = f"{asked[key]}, {text}" if key in asked else text
        try:
            path = urlsplit(request.target.decode("latin-1")).path
        except ValueError:  # http://[ and its like
            return plain(HTTPStatus.BAD_REQUEST)
        await self._turns.take(connection.client)
        if connection.last:  # it has come by what holds no more, and is not judged by what holds now
            return plain(HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            refusal = await self._access.refusal(asked, connection.client)
            if refusal is not None:
                return refusal
            if request.method not in (b"GET", b"HEAD"):
                return plain(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
            response = await self._handler(path, asked)
        except Exception:
            log.exception("cannot answer", extra={"path": path})
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"Internal error; the log says more.\n")
        if response.size > 1024 and accepts_gzip(asked.get("accept-encoding", "")):
            headers = {**response.headers, "Content-Encoding": "gzip"}
            return Response(response.status, self._packed(response.parts), response.content_type, headers)
        return response

    async def _send(
        self,
        connection: Connection,
        protocol: h11.Connection,
        stream: Stream,
        response: Response,
        request: h11.Request | None,
    ) -> None:
        """Answers a request; None: what was none, after which the connection ends."""
        await self._turns.take(connection.client)
        connection.answering = False
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(response.size),
            "Date": formatdate(usegmt=True),
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept, Accept-Encoding",
            **dict(self._access.settings.headers),
            **response.headers,
        }
        if request is None or connection.last:
            headers["Connection"] = "close"
        head = h11.Response(status_code=response.status.value, headers=list(headers.items()))
        waiting = [protocol.send(head) or b""]
        async with asyncio.timeout(SEND_SECONDS):
            if not (request is not None and request.method == b"HEAD"):
                # in pieces, of which each goes to the kernel as it is: what a socket doesn't take at once is copied
                for part in response.parts:
                    for start in range(0, len(part), _PIECE):
                        piece = memoryview(part)[start : start + _PIECE]
                        event = h11.Data(data=piece)  # type: ignore[arg-type]  # bytes-like does
                        waiting += protocol.send_with_data_passthrough(event) or []
                        await stream.send(waiting)
                        connection.moved()
                        waiting = []
            waiting.append(protocol.send(h11.EndOfMessage()) or b"")
            await stream.send(waiting)
