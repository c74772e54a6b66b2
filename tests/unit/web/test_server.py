# SPDX-License-Identifier: Apache-2.0
"""web/server.py over real sockets on loopback: good clients, bad ones, slow ones and many."""

import asyncio
import contextlib
import gzip
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from exporter.web import connections, server
from exporter.web.response import Response
from exporter.web.server import Server
from exporter.web.settings import Settings

from .support import GET, HUGE, LARGE, PATIENCE, Answer, Client, Connect, exchange, handler, request, talk


def test_get() -> None:
    """A request is answered with the handler's answer and its length and type."""
    answer = exchange(GET)
    assert (answer.status, answer.body) == (200, b"answer to /hello\n")
    wanted = {"content-length": "17", "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
    assert {name: answer.headers.get(name) for name in wanted} == wanted
    assert answer.headers["date"].endswith(" GMT")


def test_the_query_is_not_part_of_the_path() -> None:
    """What follows the question mark is dropped."""
    assert exchange(request("/hello?a=b&c=/d")).body == b"answer to /hello\n"


@pytest.mark.parametrize("target", ["/hello", "/large"])
def test_head(target: str) -> None:
    """HEAD is answered as GET is, with the same headers and no body; the connection goes on."""

    async def conversation(connect: Connect) -> tuple[Answer, Answer, Answer]:
        client = await connect()
        client.send(request(target, method="HEAD") + request(target) + GET)
        return await client.answer(has_body=False), await client.answer(), await client.answer()

    head, get, after = talk(conversation)
    assert (head.status, head.body) == (get.status, b"")
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(get.body) > 0
    assert after.body == b"answer to /hello\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods(method: str) -> None:
    """Other methods are refused, with those that are allowed."""
    answer = exchange(request("/hello", "Content-Length: 0", method=method))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_headers_that_stand_twice_are_one() -> None:
    """The handler has header names in small letters, and values of the same name joined."""
    assert exchange(request("/header", "X-Many: one", "x-many: two")).body == b"one, two"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",  # TLS
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed(data: bytes) -> None:
    """What is no request is told so, and the connection ends."""

    async def conversation(connect: Connect) -> tuple[Answer, bytes]:
        client = await connect()
        client.send(data)
        return await client.answer(), await client.rest()

    answer, rest = talk(conversation)
    assert (answer.status, answer.headers["connection"], rest) == (400, "close", b"")


def send_and_read_all(port: int, data: bytes) -> bytes:
    """What a client of blocking calls sees, which may have its connection reset while it still sends."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                received += part
    return bytes(received)


@pytest.mark.parametrize("size", [40 * 1024, 1024 * 1024])
def test_a_header_that_is_too_large(size: int) -> None:
    """A header above the limit is told so, however much of it the client goes on to send, and the connection ends."""

    async def conversation(connect: Connect) -> bytes:
        data = request("/hello", "X-Large: " + "x" * size)
        return await asyncio.to_thread(send_and_read_all, (await connect()).port, data)

    head, _, body = talk(conversation).partition(b"\r\n\r\n")
    assert (head.split()[1], b"Connection: close" in head) == (b"431", True)
    assert body == b"Request Header Fields Too Large\n"


def test_a_header_within_the_limit() -> None:
    """A header of many kilobytes, in several parts, is a header."""

    async def conversation(connect: Connect) -> bytes:
        client = await connect()
        data = request("/header", "X-Many: " + "x" * 15_000)
        for start in range(0, len(data), 1000):
            client.send(data[start : start + 1000])
            await asyncio.sleep(0)
        return (await client.answer()).body

    assert talk(conversation) == b"x" * 15_000


@pytest.mark.parametrize(
    ("headers", "encoding"),
    [([], None), (["Accept-Encoding: gzip"], "gzip"), (["Accept-Encoding: gzip;q=0"], None)],
)
def test_gzip(headers: list[str], encoding: str | None) -> None:
    """A large body is packed for those who take it so, and comes out as it went in."""
    answer = exchange(request("/large", *headers))
    assert answer.headers.get("content-encoding") == encoding
    assert (gzip.decompress(answer.body) if encoding else answer.body) == LARGE
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


def test_a_small_body_is_not_packed() -> None:
    """A few bytes go as they are."""
    answer = exchange(request("/hello", "Accept-Encoding: gzip"))
    assert (answer.headers.get("content-encoding"), answer.body) == (None, b"answer to /hello\n")


def test_requests_of_one_connection_are_answered_in_order() -> None:
    """Requests that are sent without waiting are answered one after the other; later ones find the connection open."""

    async def conversation(connect: Connect) -> list[bytes]:
        client = await connect()
        client.send(b"".join(request(f"/{number}") for number in range(20)))
        bodies = [(await client.answer()).body for _ in range(20)]
        client.send(request("/later"))
        return [*bodies, (await client.answer()).body]

    assert talk(conversation) == [*(b"answer to /%d\n" % number for number in range(20)), b"answer to /later\n"]


@pytest.mark.parametrize(
    "data", [request("/hello", "Connection: close"), b"GET /hello HTTP/1.0\r\n\r\n"], ids=["close", "http/1.0"]
)
def test_the_last_request(data: bytes) -> None:
    """A client that wants one answer gets it and then the end."""

    async def conversation(connect: Connect) -> tuple[bytes, bytes]:
        client = await connect()
        client.send(data)
        return (await client.answer()).body, await client.rest()

    assert talk(conversation) == (b"answer to /hello\n", b"")


@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_request_with_a_body(body: bytes) -> None:
    """A body is read and dropped; it is not taken for the next request."""

    async def conversation(connect: Connect) -> list[bytes]:
        client = await connect()
        client.send(b"GET /one HTTP/1.1\r\nHost: x\r\n" + body + request("/two"))
        return [(await client.answer()).body for _ in range(2)]

    assert talk(conversation) == [b"answer to /one\n", b"answer to /two\n"]


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000000\r\n\r\n" + b"x" * 20_000,
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"1388\r\n" + b"x" * 5000 + b"\r\n") * 5,
    ],
)
def test_a_body_that_is_too_large(body: bytes) -> None:
    """What nobody wants is not read without end: it is refused, and the connection ends."""

    async def conversation(connect: Connect) -> bytes:
        data = b"POST /hello HTTP/1.1\r\nHost: x\r\n" + body
        return await asyncio.to_thread(send_and_read_all, (await connect()).port, data)

    head, _, rest = talk(conversation).partition(b"\r\n\r\n")
    assert (head.split()[1], b"Connection: close" in head, rest.count(b"\n")) == (b"413", True, 1)


def test_a_client_that_asks_before_it_sends_a_body() -> None:
    """Expect: 100-continue is answered at once: nobody wants the body (RFC 9110, 10.1.1)."""

    async def conversation(connect: Connect) -> tuple[Answer, bytes]:
        client = await connect()
        client.send(request("/hello", "Content-Length: 5", "Expect: 100-continue"))
        return await client.answer(), await client.rest()

    answer, rest = talk(conversation)
    assert (answer.status, answer.body, rest) == (200, b"answer to /hello\n", b"")


def test_a_flood_of_one_client_leaves_others_their_turn() -> None:
    """After each answer it is the others' turn: a thousand requests that one has sent at once don't come first."""
    order: list[str] = []

    async def conversation(connect: Connect) -> int:
        flooding, other = await connect(), await connect()
        flooding.send(b"".join(request(f"/{number}") for number in range(1000)))
        await begun.wait()
        other.send(request("/other"))
        await other.answer()
        return order.index("/other")

    async def answering(path: str, headers: Mapping[str, str]) -> Response:
        order.append(path)
        begun.set()
        return await handler(path, headers)

    begun = asyncio.Event()
    assert talk(conversation, answering) < 20


def test_a_crowd_of_one_client_leaves_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two addresses that ask at the same time each has its turn, however many connections one of them has."""
    monkeypatch.setattr("exporter.web.server.client", lambda peer: peer[0].encode())  # else this host's are one
    order: list[str] = []

    async def conversation(connect: Connect) -> int:
        port = (await connect()).port
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        for number, (_, writer) in enumerate([*crowd, other]):
            writer.write(request(f"/{number}"))
        for reader, writer in [*crowd, other]:
            await reader.readuntil(b"answer to")
            writer.transport.abort()
        return order.index("/50")

    async def answering(path: str, headers: Mapping[str, str]) -> Response:
        order.append(path)
        return await handler(path, headers)

    assert talk(conversation, answering) < 5


@pytest.mark.parametrize("ending", ["Connection: close", "X-None: x"])
def test_a_client_that_takes_nothing_keeps_nothing(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """An answer that nobody takes, also a last one, ends with its time: no descriptor stays for it."""
    monkeypatch.setattr(server, "SEND_SECONDS", 0.05)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def conversation(connect: Connect) -> None:
        before = descriptors()
        clients = [await connect() for _ in range(5)]
        for client in clients:
            client.pause()
            client.send(request("/huge", ending))
        while len(found[0]._connections._open) < 5:
            await asyncio.sleep(0)
        while found[0]._connections._open or descriptors() > before + len(clients):
            await asyncio.sleep(0.01)  # the time is what is tested

    found: list[Server] = []
    talk(conversation, use=found.append)


def test_headers_of_the_config() -> None:
    """The config's headers are with each answer, those to what was no request too; none stands there twice."""

    async def conversation(connect: Connect) -> list[bytes]:
        found = []
        for data in (GET, request("/", method="POST"), b"junk\r\n\r\n"):
            client = await connect()
            client.send(data)
            client.end()
            found.append((await client.rest()).partition(b"\r\n\r\n")[0])
        return found

    headers = (("X-Content-Type-Options", "nosniff"), ("Strict-Transport-Security", "max-age=63072000"))
    heads = talk(conversation, settings=Settings(headers=headers))
    assert [head.split()[1] for head in heads] == [b"200", b"405", b"400"]
    for head in heads:
        assert head.count(b"X-Content-Type-Options: nosniff") == 1
        assert head.count(b"Strict-Transport-Security: max-age=63072000") == 1


def test_a_password_comes_before_all_else() -> None:
    """Who has not said who he is learns neither what there is nor which methods."""

    async def conversation(connect: Connect) -> list[tuple[int, bytes]]:
        client = await connect()
        found = []
        for target, method in (("/hello", "GET"), ("/none", "GET"), ("/hello", "POST")):
            client.send(request(target, "Authorization: Basic eDp5", method=method))
            answer = await client.answer()
            found.append((answer.status, answer.body))
        return found

    users = (("alice", "$2b$04$M4TnqYXudyZCr4X7JNdarO7onseI0ezZWHCiyx1iVUqwpigTC7Q7a"),)
    assert talk(conversation, settings=Settings(users=users)) == [(401, b"Unauthorized\n")] * 3


def test_a_client_that_ends_after_its_request() -> None:
    """A client that says it will send no more is answered, and then the connection ends."""

    async def conversation(connect: Connect) -> tuple[bytes, bytes]:
        client = await connect()
        client.send(GET)
        client.end()
        return (await client.answer()).body, await client.rest()

    assert talk(conversation) == (b"answer to /hello\n", b"")


def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is a 500 that says nothing of it, a line in the log that does, and the server goes on."""

    async def conversation(connect: Connect) -> tuple[Answer, bytes]:
        client = await connect()
        client.send(request("/raise") + GET)
        return await client.answer(), (await client.answer()).body

    answer, after = talk(conversation)
    assert (answer.status, b"fault" in answer.body, after) == (500, False, b"answer to /hello\n")
    assert [(record.getMessage(), str(record.exc_info and record.exc_info[1])) for record in caplog.records] == [
        ("cannot answer", "a fault of ours")
    ]


@pytest.mark.parametrize("sent", [b"", b"GET /hel", GET])
def test_a_silent_client_holds_up_nobody(sent: bytes) -> None:
    """A client that says nothing, or stops halfway, leaves the others alone."""

    async def conversation(connect: Connect) -> bytes:
        silent = [await connect() for _ in range(10)]
        for client in silent:
            client.send(sent)
        client = await connect()
        client.send(GET)
        return (await client.answer()).body

    assert talk(conversation) == b"answer to /hello\n"


def test_a_slow_handler_holds_up_nobody() -> None:
    """While one answer is being made others are given."""

    async def conversation(connect: Connect) -> list[bytes]:
        first, second = await connect(), await connect()
        first.send(request("/slow"))
        await arrived.wait()
        second.send(GET)
        body = (await second.answer()).body
        released.set()
        return [body, (await first.answer()).body]

    async def answering(path: str, headers: Mapping[str, str]) -> Response:
        if path == "/slow":
            arrived.set()
            await released.wait()
        return await handler(path, headers)

    arrived, released = asyncio.Event(), asyncio.Event()
    assert talk(conversation, answering) == [b"answer to /hello\n", b"answer to /slow\n"]


def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection too many ends the one that has been silent longest, not the one that has just asked."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "SLACK", 0)

    async def conversation(connect: Connect) -> tuple[bytes, list[bytes]]:
        clients = []
        for _ in range(3):
            clients.append(await connect())
            clients[-1].send(GET)
            await clients[-1].answer()
        clients[0].send(GET)  # the first is silent no more: the second has been silent longest
        await clients[0].answer()
        clients.append(await connect())
        ended = await clients[1].rest()
        bodies = []
        for client in (clients[0], clients[2], clients[3]):
            client.send(GET)
            bodies.append((await client.answer()).body)
        return ended, bodies

    assert talk(conversation) == (b"", [b"answer to /hello\n"] * 3)


def test_many_connections_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds also where a crowd comes between two turns of the loop."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "SLACK", 0)

    async def conversation(connect: Connect) -> int:
        port = (await connect()).port
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]  # the loop does not run meanwhile
        client = await connect()
        for _ in range(3):  # all that came before it was accepted before it, and has had time to end
            client.send(GET)
            await client.answer()
        open_ = 0
        for one in crowd:
            one.setblocking(False)
            try:
                open_ += one.recv(1) != b""
            except BlockingIOError:
                open_ += 1
            one.close()
        return open_

    assert talk(conversation) == 2


@pytest.mark.parametrize(
    ("constant", "sent", "answers"),
    [
        ("REQUEST_SECONDS", b"", 0),
        ("REQUEST_SECONDS", b"GET /hel", 0),
        ("REQUEST_SECONDS", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody", 0),
        ("IDLE_SECONDS", GET, 1),
    ],
)
def test_a_client_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, constant: str, sent: bytes, answers: int
) -> None:
    """A request that does not begin or end in time, and a connection that is idle too long, end the connection."""
    monkeypatch.setattr(server, constant, 0.05)

    async def conversation(connect: Connect) -> bytes:
        client = await connect()
        client.send(sent)
        for _ in range(answers):
            await client.answer()
        return await client.rest()

    assert talk(conversation) == b""


def test_a_client_that_sends_drop_by_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a request counts from its beginning: one byte now and then does not make it longer."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)

    async def conversation(connect: Connect) -> bytes:
        client = await connect()

        async def drip() -> None:
            while True:
                client.send(b"x")
                await asyncio.sleep(0.01)  # the pace of the client, not a wait

        dripping = asyncio.create_task(drip())
        ended = await client.rest()
        dripping.cancel()
        return ended

    assert talk(conversation) == b""


def test_a_client_that_does_not_take_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not taken in time is given up, and what is left of it with it."""
    monkeypatch.setattr(server, "SEND_SECONDS", 0.05)

    async def conversation(connect: Connect) -> int:
        before = asyncio.all_tasks()
        client = await connect()
        client.send(request("/hello"))
        await client.answer()
        [serving] = asyncio.all_tasks() - before
        client.pause()
        client.send(request("/huge"))
        await asyncio.wait({serving})
        client.resume()
        return len(await client.rest())

    assert talk(conversation) < HUGE


def test_several_sockets() -> None:
    """A server answers on every socket that it is given."""

    async def main() -> list[bytes]:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            await Server(handler).serve([one, two])
            bodies = []
            for listening in (one, two):
                client = Client(*await asyncio.open_connection("127.0.0.1", listening.getsockname()[1]))
                client.send(GET)
                bodies.append((await client.answer()).body)
                client.close()
            return bodies

    assert asyncio.run(main()) == [b"answer to /hello\n"] * 2
