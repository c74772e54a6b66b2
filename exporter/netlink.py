# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7): dumps of what the network stack has, as messages and their attributes.

Structures and constants: include/uapi/linux/netlink.h and rtnetlink.h. Dumps need no capability.
"""

import os
import socket
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_REQUEST_DUMP = 0x1 | 0x300
_ERROR, _DONE = 2, 3
_TYPE = 0x3FFF  # of an attribute, without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_BUFFER = 1 << 17


def dump(kind: int, question: bytes) -> Iterator[bytes]:
    """Asks RTM_GET… for all there is. Yields the messages without their headers; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.bind((0, 0))
        asked.sendto(_HEADER.pack(_HEADER.size + len(question), kind, _REQUEST_DUMP, 1, 0) + question, (0, 0))
        while True:
            data = asked.recv(_BUFFER)
            at = 0
            while at < len(data):
                length, answer, *_ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                if answer in (_ERROR, _DONE):
                    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if number:
                        raise OSError(number, os.strerror(number), "netlink")
                    return
                yield body
                at += _aligned(length)


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
