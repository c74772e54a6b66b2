# SPDX-License-Identifier: Apache-2.0
"""web/tls.py and web/stream.py: handshakes with openssl's own client, and with Python's."""

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from exporter.web import server, tls
from exporter.web.response import Response
from exporter.web.server import Handler, Server
from exporter.web.settings import IF_GIVEN, REQUIRED, TLS, Settings
from tests.certificates import Authority, Pair, openssl

from .support import GET, LARGE, Answer, Connect, handler, request, talk


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client", "DNS:prometheus.example.org,IP:2001:db8::1")


def settings(pair: Pair, **changes: object) -> TLS:
    found = TLS(pair.certificate.read_bytes(), pair.key.read_bytes())
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]  # by name


def trusting(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts an authority; own is its certificate."""
    found = ssl.create_default_context(cafile=str(authority.certificate))
    if own is not None:
        found.load_cert_chain(own.certificate, own.key)
    return found


def s_client(found: TLS, *options: str) -> str:
    """What ``openssl s_client`` says of a server with these settings."""

    async def conversation(connect: Connect) -> str:
        plain = await connect()
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{plain.port}", *options]
        done = await asyncio.to_thread(
            subprocess.run, command, input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return done.stdout.decode(errors="replace")

    return talk(conversation, settings=Settings(tls=found))


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, [], "New, TLSv1.3, Cipher is"),
        ({}, ["-tls1_2"], "New, TLSv1.2, Cipher is"),
        ({}, ["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], "Cipher is (NONE)"),
        ({"min_version": "TLS13"}, ["-tls1_2"], "Cipher is (NONE)"),
        ({"max_version": "TLS12"}, [], "New, TLSv1.2, Cipher is"),
        ({}, ["-tls1_2", "-cipher", "AES128-SHA"], "Cipher is (NONE)"),
        ({"suites": ("ECDHE-ECDSA-AES256-GCM-SHA384",)}, ["-tls1_2"], "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        (
            {"suites": ("ECDHE-ECDSA-AES256-GCM-SHA384",)},
            ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "Cipher is (NONE)",
        ),
        ({"suites": ()}, ["-tls1_2"], "Cipher is (NONE)"),
        ({"suites": ()}, [], "New, TLSv1.3, Cipher is"),
        ({"curve": "secp384r1"}, [], "Server Temp Key: ECDH, secp384r1, 384 bits"),
        ({"curve": "secp384r1"}, ["-groups", "P-256"], "Cipher is (NONE)"),
        ({}, ["-groups", "X25519"], "Server Temp Key: X25519, 253 bits"),
        ({}, ["-alpn", "h2,http/1.1"], "ALPN protocol: http/1.1"),
        ({}, ["-alpn", "h2"], "No ALPN negotiated"),
    ],
)
def test_what_is_offered(pair: Pair, changes: dict[str, object], options: list[str], expected: str) -> None:
    """Versions, suites, curves and the protocol are those of the settings."""
    assert expected in s_client(settings(pair, **changes), *options).replace("prime256v1", "P-256")


@pytest.mark.parametrize(
    ("server_order", "chosen"), [(True, "ECDHE-ECDSA-AES256-GCM-SHA384"), (False, "ECDHE-ECDSA-AES128-GCM-SHA256")]
)
def test_whose_order(pair: Pair, server_order: bool, chosen: str) -> None:
    """Of the suites that both have, the server's first one is taken, or the client's."""
    suites = ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256")
    said = s_client(
        settings(pair, suites=suites, server_order=server_order), "-tls1_2", "-cipher", ":".join(reversed(suites))
    )
    assert f"Cipher is {chosen}" in said


def test_every_suite_and_curve_is_one_of_openssls(pair: Pair) -> None:
    """What a config may name this host's OpenSSL has."""
    for suite in tls.SUITES.values():
        found = tls.context(settings(pair, suites=(suite,)))
        assert suite in [one["name"] for one in found.get_ciphers()]
    for curve in tls.CURVES.values():
        tls.context(settings(pair, curve=curve))


def test_a_context_leaves_nothing_behind(pair: Pair) -> None:
    """Neither a descriptor nor a file with a key stays, whether it works or not."""
    before = sorted(Path("/proc/self/fd").iterdir())
    tls.context(settings(pair))
    with pytest.raises(ssl.SSLError):
        tls.context(settings(pair, key=b"junk"))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_an_encrypted_key(pair: Pair, tmp_path: Path) -> None:
    """A key that wants a password is refused, and nobody is asked for one."""
    path = tmp_path / "key"
    openssl("ec", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", path)
    with pytest.raises(tls.Encrypted):
        tls.context(settings(pair, key=path.read_bytes()))


def test_no_secret_in_words(pair: Pair) -> None:
    """Settings that are shown show neither a key nor a hash."""
    found = Settings(tls=settings(pair), users=(("alice", "$2y$hash"),))
    assert "PRIVATE" not in repr(found)
    assert "$2y$" not in repr(found)


# -- conversations


def test_requests_by_tls(authority: Authority, pair: Pair) -> None:
    """A client that trusts the authority has its answers, one after the other, small and large."""

    async def conversation(connect: Connect) -> list[Answer]:
        client = await connect(trusting(authority))
        client.send(GET + request("/large"))
        return [await client.answer(), await client.answer()]

    small, large = talk(conversation, settings=Settings(tls=settings(pair)))
    assert (small.body, large.body) == (b"answer to /hello\n", LARGE)


def test_a_huge_answer_by_tls(authority: Authority, pair: Pair) -> None:
    """Megabytes arrive whole, in pieces of whatever size."""

    async def conversation(connect: Connect) -> int:
        client = await connect(trusting(authority))
        client.send(request("/huge"))
        return len((await client.answer()).body)

    assert talk(conversation, settings=Settings(tls=settings(pair))) == 32 * 1024 * 1024


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_end_by_tls(authority: Authority, pair: Pair, version: ssl.TLSVersion) -> None:
    """After the last answer the server says its end as TLS has it, so that nobody takes a cut for one."""

    async def conversation(connect: Connect) -> bytes:
        context = trusting(authority)
        context.maximum_version = version
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which Python sets
        return await asyncio.to_thread(blocking, (await connect()).port, context)

    def blocking(port: int, context: ssl.SSLContext) -> bytes:
        received = bytearray()
        with (
            socket.create_connection(("127.0.0.1", port), 30) as plain,
            context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as one,
        ):
            one.sendall(request("/hello", "Connection: close"))
            while part := one.recv(1000):
                received += part
        return bytes(received)

    answer = talk(conversation, settings=Settings(tls=settings(pair)))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"answer to /hello\n")


def test_http_on_the_tls_port(pair: Pair) -> None:
    """Who speaks HTTP there is told, in HTTP, what is spoken."""

    async def conversation(connect: Connect) -> tuple[Answer, bytes]:
        client = await connect()
        client.send(GET)
        return await client.answer(), await client.rest()

    answer, rest = talk(conversation, settings=Settings(tls=settings(pair)))
    assert (answer.status, answer.body, rest) == (400, b"This port speaks TLS: https://\n", b"")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\xff"])
def test_a_handshake_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, pair: Pair, sent: bytes
) -> None:
    """Who is silent on the TLS port, or stops in the handshake, holds up nobody, and ends."""

    async def conversation(connect: Connect) -> tuple[bytes, bytes]:
        silent = [await connect() for _ in range(20)]
        for one in silent:
            one.send(sent)
        client = await connect(trusting(authority))
        client.send(GET)
        body = (await client.answer()).body
        monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.05)
        late = await connect()
        late.send(sent)
        return body, await late.rest()

    body, rest = talk(conversation, settings=Settings(tls=settings(pair)))
    assert (body, rest[:1] in (b"", b"\x15")) == (b"answer to /hello\n", True)  # nothing, or an alert


@pytest.mark.parametrize("junk", [b"\x16" + b"\xff" * 5000, b"\x16\x03\x03\x00\x05hello", b"\x16\x03\x01\x00\x00" * 99])
def test_junk_for_a_handshake(authority: Authority, pair: Pair, junk: bytes) -> None:
    """What is no ClientHello ends with an alert or with nothing, and the server goes on."""

    async def conversation(connect: Connect) -> tuple[bytes, bytes]:
        client = await connect()
        client.send(junk)
        client.end()
        alert = await client.rest()
        good = await connect(trusting(authority))
        good.send(GET)
        return alert, (await good.answer()).body

    alert, body = talk(conversation, settings=Settings(tls=settings(pair)))
    assert (alert[:1] in (b"\x15", b""), body) == (True, b"answer to /hello\n")


@pytest.mark.parametrize("sent", [b"\x17\x03\x03\x00\x20" + bytes(32), b"GET /hello HTTP/1.1\r\n\r\n"])
def test_junk_within_tls(authority: Authority, pair: Pair, sent: bytes) -> None:
    """Bytes beside the records, after a good handshake, end the connection without a fault of ours."""

    async def conversation(connect: Connect) -> None:
        await asyncio.to_thread(blocking, (await connect()).port)

    def blocking(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as plain:
            duplicate = plain.dup()
            with (
                contextlib.suppress(OSError),
                trusting(authority).wrap_socket(plain, server_hostname="localhost") as one,
            ):
                duplicate.sendall(sent)
                one.recv(1000)
            duplicate.close()

    talk(conversation, settings=Settings(tls=settings(pair)))


def test_a_client_that_says_its_end_first_is_answered(authority: Authority, pair: Pair) -> None:
    """Who has asked, and then says by TLS that nothing more comes, has the answer: each direction ends alone."""

    async def conversation(connect: Connect) -> bytes:
        return await asyncio.to_thread(blocking, (await connect()).port)

    def blocking(port: int) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), 30) as plain:

            def until_done(step: Callable[[], object]) -> object:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        incoming.write(plain.recv(1 << 16))

            until_done(one.do_handshake)
            one.write(GET)
            with contextlib.suppress(ssl.SSLWantReadError):
                one.unwrap()  # the client's end; the server's is still to come
            plain.sendall(outgoing.read())
            plain.shutdown(socket.SHUT_WR)
            received = 0
            while part := plain.recv(1 << 16):
                received += len(part)
            return received.to_bytes(4, "big")

    assert int.from_bytes(talk(conversation, settings=Settings(tls=settings(pair))), "big") > 200


# -- certificates of clients


T = TypeVar("T")


def changing(
    conversation: Callable[[Connect, Server], Awaitable[T]],
    first: Settings | None = None,
    answering: Handler = handler,
) -> T:
    """A conversation that may change the server's settings."""
    servers: list[Server] = []
    return talk(lambda connect: conversation(connect, servers[0]), answering, first, servers.append)


async def hello(connect: Connect, context: ssl.SSLContext) -> int | None:
    """The status of an answer, None where there is none."""
    try:
        client = await connect(context)
        client.send(GET)
        return (await client.answer()).status
    except (OSError, asyncio.IncompleteReadError):
        return None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("clients", "own", "status"),
    [
        (REQUIRED, "good", 200),
        (REQUIRED, "none", None),
        (REQUIRED, "foreign", None),
        (IF_GIVEN, "good", 200),
        (IF_GIVEN, "none", 200),
        (IF_GIVEN, "foreign", None),
    ],
)
def test_client_certificates(
    authority: Authority,
    pair: Pair,
    client_pair: Pair,
    tmp_path: Path,
    clients: str,
    own: str,
    status: int | None,
    version: ssl.TLSVersion,
) -> None:
    """A certificate of the CA opens; none does only where it is left to the client; a foreign one never."""
    foreign = Authority(tmp_path, "foreign").issue("client", "DNS:prometheus.example.org")
    context = trusting(authority, {"good": client_pair, "none": None, "foreign": foreign}[own])
    context.maximum_version = version
    found = settings(pair, client_ca=authority.certificate.read_text(), clients=clients)
    assert talk(lambda connect: hello(connect, context), settings=Settings(tls=found)) == status


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (("prometheus.example.org",), 200),
        (("other", "2001:db8::1"), 200),
        (("prometheus", "example.org"), None),
    ],
)
def test_allowed_names(
    authority: Authority, pair: Pair, client_pair: Pair, allowed: tuple[str, ...], status: int | None
) -> None:
    """A certificate without an allowed name has no answer."""
    found = settings(pair, client_ca=authority.certificate.read_text(), clients=REQUIRED, allowed_names=allowed)
    context = trusting(authority, client_pair)
    assert talk(lambda connect: hello(connect, context), settings=Settings(tls=found)) == status


def test_no_session_carries_a_client_over(authority: Authority, pair: Pair, client_pair: Pair, tmp_path: Path) -> None:
    """A session of before the CA was another one opens nothing after it."""
    new = Authority(tmp_path, "new")

    context = trusting(authority, client_pair)

    async def conversation(connect: Connect, found: Server) -> tuple[int | None, int | None]:
        before = await hello(connect, context)
        found.use(Settings(tls=settings(pair, client_ca=new.certificate.read_text(), clients=REQUIRED)))
        return before, await hello(connect, context)

    found = settings(pair, client_ca=authority.certificate.read_text(), clients=REQUIRED)
    assert changing(conversation, Settings(tls=found)) == (200, None)


# -- other settings while it runs


def test_another_certificate_is_served_at_once(authority: Authority, pair: Pair) -> None:
    """The next handshake has it; who was connected stays."""

    async def conversation(connect: Connect, found: Server) -> tuple[list[str], Answer]:
        staying = await connect(trusting(authority))
        names = []
        for one in (pair, authority.issue("other")):
            found.use(Settings(tls=settings(one)))
            client = await connect(trusting(authority))
            subject = client.certificate["subject"]
            names.append(subject[0][0][1])
        staying.send(GET)
        return names, await staying.answer()

    names, answer = changing(conversation, Settings(tls=settings(pair)))
    assert (names, answer.status) == (["server", "other"], 200)


@pytest.mark.parametrize("changes", [{"min_version": "TLS13"}, {"clients": REQUIRED}, {"allowed_names": ("other",)}])
def test_other_terms_end_connections(authority: Authority, pair: Pair, changes: dict[str, object]) -> None:
    """Who came in by other terms and is idle is ended, and comes back if it may."""

    async def conversation(connect: Connect, found: Server) -> bytes:
        idle = await connect(trusting(authority))
        idle.send(GET)
        await idle.answer()
        found.use(Settings(tls=settings(pair, client_ca=authority.certificate.read_text(), **changes)))
        return await idle.rest()

    assert changing(conversation, Settings(tls=settings(pair))) == b""


def test_what_stays_leaves_connections_alone(authority: Authority, pair: Pair) -> None:
    """Other passwords or headers, or the same of all, do not end a connection; they hold from its next request on."""

    async def conversation(connect: Connect, found: Server) -> list[tuple[int, str | None]]:
        client = await connect(trusting(authority))
        answers = []
        for users in ((), (), (("alice", "$2b$04$M4TnqYXudyZCr4X7JNdarO7onseI0ezZWHCiyx1iVUqwpigTC7Q7a"),)):
            found.use(Settings(tls=settings(pair), users=users, headers=(("X-Frame-Options", f"deny{len(users)}"),)))
            client.send(GET)
            answer = await client.answer()
            answers.append((answer.status, answer.headers.get("x-frame-options")))
        return answers

    expected = [(200, "deny0"), (200, "deny0"), (401, "deny1")]
    assert changing(conversation, Settings(tls=settings(pair))) == expected


def test_from_clear_to_tls(pair: Pair) -> None:
    """Where TLS begins, who waits in the clear has the answer, and that it is the last; who only is there ends."""

    async def conversation(connect: Connect, found: Server) -> tuple[Answer, bytes, bytes]:
        idle, asking = await connect(), await connect()
        for one in (idle, asking):
            one.send(GET)
            await one.answer()
        asking.send(request("/slow") + GET)
        await arrived.wait()
        found.use(Settings(tls=settings(pair)))
        released.set()
        return await asking.answer(), await asking.rest(), await idle.rest()

    async def answering(path: str, headers: Mapping[str, str]) -> Response:
        if path == "/slow":
            arrived.set()
            await released.wait()
        return await handler(path, headers)

    arrived, released = asyncio.Event(), asyncio.Event()
    last, rest, nothing = changing(conversation, answering=answering)
    assert (last.body, last.headers["connection"]) == (b"answer to /slow\n", "close")
    assert (rest, nothing) == (b"", b"")
