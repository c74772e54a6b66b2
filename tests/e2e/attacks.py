# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm, in a process of their own: ``python -m tests.e2e.attacks NAME PORT CA ADDRESS PAUSE``.

Each says ``in place`` when it has done its worst once, and goes on with it from an address of this host, at which the
exporter listens, until it is ended, with a pause of seconds ahead of another connection. With a CA it speaks TLS, but
for those that never get so far.
"""

import asyncio
import base64
import contextlib
import itertools
import resource
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable

METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the beginning of a ClientHello

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# how many do it at once
CROWD = 200


async def idle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Connects, and says nothing; where it is sent away, comes back."""
    await arrive()
    await reader.read()


async def beginning(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begins a request, and stops."""
    writer.write(METRICS[:20])
    await arrive()
    await reader.read()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begins a handshake, and stops."""
    writer.write(HELLO)
    await arrive()
    await reader.read()


async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends one byte a second."""
    for byte in METRICS:
        writer.write(bytes([byte]))
        await writer.drain()
        await arrive()
        await asyncio.sleep(1)  # the pace of the attack


async def header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a header of a megabyte."""
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * (1 << 20))
    await reader.read()
    await arrive()


async def body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Promises a large body, sends a part of it, and is gone."""
    writer.write(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 10_000)
    await writer.drain()
    writer.transport.abort()
    await arrive()


async def methods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks by every method but the right ones."""
    for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"BREW"):
        writer.write(method + b" /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n")
    await arrive()


async def headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for formats and encodings that there are not."""
    for name in (b"Accept: text/plain;version=abc", b"Accept: */*;q=nan", b"Accept-Encoding: gzip;q=0"):
        writer.write(METRICS[:-2] + name + b"\r\n\r\n")
        await read_answer(reader)
    await arrive()


async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for the page, takes some bytes of it, and is gone with a reset."""
    writer.write(METRICS)
    await reader.readexactly(100)
    writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
    writer.transport.abort()
    await arrive()


async def pipeline(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends requests without end, takes the answers as fast as they come."""

    async def take() -> None:
        while await reader.read(1 << 16):
            await arrive()

    taking = asyncio.create_task(take())
    try:
        while not writer.is_closing():
            writer.write((METRICS + METRICS.replace(b"/metrics", b"/-/healthy") * 50) * 20)
            await writer.drain()
    finally:
        taking.cancel()


async def greedy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a thousand requests at once, and takes no answer."""
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # else the stream takes all
    writer.write(METRICS * 1000)
    await arrive()
    await asyncio.sleep(5)  # the pace of the attack


async def shake(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Makes handshakes, one after the other, and asks for nothing."""
    writer.transport.abort()
    await arrive()


_numbers = itertools.count()


async def passwords(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tries passwords, each of them once, for a user who is and for one who is none."""
    while True:
        number = next(_numbers)
        name = ("prometheus", "nobody")[number % 2]
        credentials = base64.b64encode(f"{name}:{number}".encode())
        writer.write(METRICS[:-2] + b"Authorization: Basic " + credentials + b"\r\n\r\n")
        await read_answer(reader)
        await arrive()


async def read_answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


ATTACKS: dict[str, tuple[Act, int]] = {
    "idle": (idle, 1000),
    "beginning": (beginning, 400),
    "hello": (hello, 1000),
    "drip": (drip, CROWD),
    "header": (header, 20),
    "body": (body, CROWD),
    "methods": (methods, CROWD),
    "headers": (headers, CROWD),
    "leaving": (leaving, CROWD),
    "pipeline": (pipeline, 50),
    "greedy": (greedy, CROWD),
    "shake": (shake, 50),
    "passwords": (passwords, 100),
}
RAW = ("idle", "hello")  # these speak no TLS even where it is spoken: they are silent, or stop amid the handshake

_arrived = 0
_all = 1


async def arrive() -> None:
    """Counts how often something was done, and says so when all have done it."""
    global _arrived
    _arrived += 1
    if _arrived == _all:
        print("in place", flush=True)


async def main(name: str, port: int, ca: str | None, address: str, pause: float) -> None:
    global _all
    act, _all = ATTACKS[name]
    context = ssl.create_default_context(cafile=ca) if ca and name not in RAW else None
    server_hostname = "localhost" if context else None

    async def again_and_again() -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=context, server_hostname=server_hostname, local_addr=(address, 0)
                )
                try:
                    await act(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(pause)

    await asyncio.gather(*(again_and_again() for _ in range(_all)))


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 10_000), most))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] or None, sys.argv[4], float(sys.argv[5])))
