# SPDX-License-Identifier: Apache-2.0
"""Requests that are none, or nearly: good ones with some of their bytes changed, and the tricks of the trade."""

import random

import h11

_GOOD = [
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD /probes HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=0\r\n\r\n",
    b"POST /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /-/ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWxpY2U6eA==\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/metrics HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
_WORDS = [
    *(b"\r", b"\n", b"\r\n", b"\0", b"\t", b" ", b":", b";", b",", b"=", b"\xff", b"\xc3\x28", b"\x16\x03\x01"),
    *(b"%00", b"%", b"..", b"//", b"?", b"#", b"[", b"http://[", b"HTTP/1.1", b"HTTP/9", b"HTTP/1.", b"/" * 2000),
    *(b"Content-Length: 0\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: -1\r\n"),
    *(b"Content-Length: +5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n"),
    *(b"Transfer-Encoding: \x0bchunked\r\n", b"Host: y\r\n", b"Accept: a/b;version=abc\r\n", b"Accept: ;;,q=,=;q\r\n"),
    *(b"Accept-Encoding: gzip;q=\r\n", b" folded: x\r\n", b"X:\r\n", b": x\r\n", b"X-Long: " + b"x" * 20000 + b"\r\n"),
    *(b"FFFFFFFFFFFFFFFF\r\n", b"0\r\n\r\n", b"zz\r\n", b'5;ext="\r\n', b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3),
]


def request(source: random.Random) -> bytes:
    """Returns bytes that begin as a request; by the source always the same ones."""
    data = bytearray(source.choice(_GOOD))
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0:
                data[at:at] = source.choice(_WORDS)
            case 1:
                data[at : at + source.randint(1, 8)] = b""
            case 2:
                data[at : at + 1] = bytes([source.randrange(256)])
            case 3:
                data[at:at] = source.randbytes(source.randint(1, 40))
            case 4:
                del data[at:]
            case 5:
                data += source.choice(_GOOD)
    return bytes(data)


def answers(data: bytes, received: bytes) -> list[int]:
    """Returns the statuses of answers to what was sent. Fails where they are not whole answers, and nothing else."""
    statuses: list[int] = []
    rest = received
    while rest:
        one = h11.Connection(h11.CLIENT)
        # what HEAD is answered with has a length and no body: which of the answers it is its place tells
        method = b"HEAD" if b"HEAD" in data and _bodiless(rest) else b"GET"
        one.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        one.send(h11.EndOfMessage())
        one.receive_data(rest)
        while True:
            event = one.next_event()
            assert event is not h11.NEED_DATA, f"{data!r} is answered by a part: {received!r}"
            if isinstance(event, h11.Response):
                statuses.append(event.status_code)
            elif isinstance(event, h11.EndOfMessage):
                break
        rest = one.trailing_data[0]
    return statuses


def _bodiless(data: bytes) -> bool:
    """Whether the first answer has none of the body that its length is of: the next follows at once, or nothing."""
    _, _, rest = data.partition(b"\r\n\r\n")
    return not rest or rest.startswith(b"HTTP/1.1 ")
