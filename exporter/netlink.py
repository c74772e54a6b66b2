# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7): what the network stack has, as messages and their attributes.

Structures and constants: include/uapi/linux/netlink.h and rtnetlink.h. To ask needs no capability.
"""

import os
import socket
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_REQUEST, _REQUEST_DUMP = 0x1, 0x1 | 0x300
_ERROR, _DONE = 2, 3
_TYPE = 0x3FFF  # of an attribute, without NLA_F_NESTED and NLA_F_NET_BYTEORDER
BUFFER = 1 << 17  # bytes, of which a message has 32 K at most


class Requests:
    """A socket on which the kernel is asked."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def get(self, kind: int, question: bytes) -> bytes:
        """Asks RTM_GET… for one thing. Returns the message without its header; raises OSError."""
        self._send(kind, _REQUEST, question)
        while True:
            for answer, body in self._receive():
                _check(answer, body)
                return body

    def dump(self, kind: int, question: bytes) -> Iterator[bytes]:
        """Asks RTM_GET… for all there is. Yields the messages without their headers; raises OSError."""
        self._send(kind, _REQUEST_DUMP, question)
        while True:
            for answer, body in self._receive():
                _check(answer, body)
                if answer == _DONE:
                    return
                yield body

    def _send(self, kind: int, flags: int, question: bytes) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = _HEADER.pack(_HEADER.size + len(question), kind, flags, self._sequence, 0)
        self._socket.sendto(header + question, (0, 0))

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        for answer, sequence, body in messages(self._socket.recv(BUFFER)):
            if sequence == self._sequence:  # else it is the rest of a dump that nobody read to its end
                yield answer, body


def _check(answer: int, body: bytes) -> None:
    if answer in (_ERROR, _DONE) and len(body) >= 4 and (number := -struct.unpack_from("=i", body)[0]):
        raise OSError(number, os.strerror(number), "netlink")


def dump(kind: int, question: bytes) -> Iterator[bytes]:
    """Asks RTM_GET… for all there is, as ``Requests.dump``, on a socket of its own."""
    asked = Requests()
    try:
        yield from asked.dump(kind, question)
    finally:
        asked.close()


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields each message's type, its sequence number and what is behind its header."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            break
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """Returns an attribute as it stands in a message."""
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(
        _aligned(_ATTRIBUTE.size + len(value)), b"\0"
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """Returns the attributes at the end of a message, or of those nested in one, by their types."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
