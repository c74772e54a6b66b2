# SPDX-License-Identifier: Apache-2.0
"""Objects and descriptors between our own processes, over a socket pair.

Objects are pickled: they go from a process to one with at most the same rights, or come from a child that runs our own
code as root. The worker, which strangers talk to, is never read from in this way: from there come single bytes, marks.
"""

import contextlib
import os
import pickle
import socket
import struct
from typing import Any

_HEADER = struct.Struct("<QH")  # bytes of the object, descriptors with it
_MOST_AT_ONCE = 250  # SCM_MAX_FD is 253


class Channel:
    """One end of a stream of objects with descriptors."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    @staticmethod
    def pair() -> tuple["Channel", "Channel"]:
        """Returns two ends that are connected with each other."""
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return Channel(one), Channel(two)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def mark(self, mark: bytes) -> None:
        """Sends a byte; where nobody takes it, it is lost."""
        with contextlib.suppress(OSError):
            self.socket.send(mark, socket.MSG_DONTWAIT)

    def marks(self) -> bytes:
        """Returns the bytes that are there; b"" where the other end is gone."""
        try:
            return self.socket.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def send(self, message: object, fds: list[int] | None = None) -> None:
        """Sends an object and copies of descriptors. Raises OSError (EPIPE) where the other end is gone."""
        data, fds = pickle.dumps(message), fds or []
        self.socket.sendall(_HEADER.pack(len(data), len(fds)))
        for start in range(0, len(fds), _MOST_AT_ONCE):
            socket.send_fds(self.socket, [b"+"], fds[start : start + _MOST_AT_ONCE])
        self.socket.sendall(data)

    def receive(self) -> tuple[Any, list[int]]:
        """Returns the next object and its descriptors, close-on-exec. Raises EOFError where the other end is gone."""
        size, count = _HEADER.unpack(self._exactly(_HEADER.size))
        fds: list[int] = []
        while len(fds) < count:
            mark, some, _, _ = socket.recv_fds(self.socket, 1, _MOST_AT_ONCE)
            if not mark or not some:
                raise EOFError
            fds.extend(some)
        for fd in fds:
            os.set_inheritable(fd, False)
        return pickle.loads(self._exactly(size)), fds

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.socket.recv(min(size - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return bytes(data)
