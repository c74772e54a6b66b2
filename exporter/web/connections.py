# SPDX-License-Identifier: Apache-2.0
"""Who is connected, and who gives way where there are too many: the largest crowd loses first."""

import asyncio
import socket
import time
from dataclasses import dataclass, field
from typing import Any

MAX_CONNECTIONS = 256
SLACK = 32  # beyond that, before some end: to choose whom takes as long for one as for many
_LOOPBACK = 127  # the first byte of its network
MAX_SENDING_BYTES = 64 * 1024 * 1024  # of answers that clients have still to take


@dataclass(eq=False)
class Connection:
    """One connection: whose it is, when something last went over it, by the monotonic clock, and its task."""

    client: bytes
    moved_at: float = field(default_factory=time.monotonic)
    answering: bool = False  # it waits for us, not we for it
    proven: bool = False  # it has had a page
    sending: int = 0  # bytes of the answer that it is taking
    last: bool = False  # ends with the answer that is being made
    task: "asyncio.Task[None] | None" = None

    def moved(self) -> None:
        self.moved_at = time.monotonic()


class Connections:
    """All that are open."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()

    def add(self, connection: Connection) -> None:
        """Takes one in. Where there are too many, the largest crowd loses one, again and again: connections of a client
        that had a page, or had none. Of these the one on which nothing moved for longest ends, and sooner one that asks
        for nothing. Of crowds that are as large as each other one that had no page loses first, then as within one."""
        self._open.add(connection)
        if len(self._open) <= MAX_CONNECTIONS + SLACK:
            return
        crowds: dict[tuple[bytes, bool], list[Connection]] = {}
        for one in sorted(self._open, key=lambda one: (one.answering, one.moved_at), reverse=True):
            crowds.setdefault((one.client, one.proven), []).append(one)
        while len(self._open) > MAX_CONNECTIONS:
            self._end(max(crowds.values(), key=_loses).pop())

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)

    def make_room(self, connection: Connection, size: int) -> None:
        """Lets go of who is longest in taking an answer, where all that is being sent would be too much to hold."""
        connection.sending = max(size, 1)
        senders = [one for one in self._open if one.sending]
        while len(senders) > 1 and sum(one.sending for one in senders) > MAX_SENDING_BYTES:
            slowest = min(senders, key=lambda one: (one is connection, one.moved_at))
            slowest.sending = 0
            self._end(slowest)
            senders.remove(slowest)

    def renew(self) -> None:
        """Ends all: at once those that ask for nothing, the others with their answer."""
        for connection in list(self._open):
            connection.last = True
            if not connection.answering and not connection.sending:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection.task is not None:
            connection.task.cancel()


def _loses(crowd: list[Connection]) -> tuple[int, bool, bool, float]:
    """A key by which the crowd that is to lose its last connection is the largest."""
    if not crowd:
        return 0, False, False, 0.0
    one = crowd[-1]
    return len(crowd), not one.proven, not one.answering, -one.moved_at


def client(peer: Any) -> bytes:
    """Returns whose connection it is, by what getpeername(2) says: an IPv4 address, or the first half of an IPv6 one,
    which is a network of one host. All of 127.0.0.0/8, which everybody on this host has, are one; so are all on Unix
    sockets."""
    if not isinstance(peer, tuple):
        return b""
    if "." in peer[0]:
        address = socket.inet_aton(peer[0].rpartition(":")[2])  # ::ffff:192.0.2.1 is IPv4 on a socket of IPv6
        return address[:1] if address[0] == _LOOPBACK else address
    return socket.inet_pton(socket.AF_INET6, peer[0].partition("%")[0])[:8]
