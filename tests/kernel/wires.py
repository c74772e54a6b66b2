# SPDX-License-Identifier: Apache-2.0
"""Veth pairs between here and a namespace, what is sent through them, and what comes out."""

import ctypes
import errno
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

ETHERNET = bytes(6) + b"\x02\x00\x00\x00\x00\x01"
TEST = b"\x88\xb5"  # the Ethernet type for local experiments: nobody else speaks it

_CLONE_NEWNET = 0x40000000
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_ARRIVAL_SECONDS = 60
_ETH_P_ALL = 3
SO_RCVBUFFORCE = 33  # asm-generic/socket.h: above net.core.rmem_max
_libc = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def batch(commands: Iterable[str]) -> None:
    """Runs many commands of ip."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, capture_output=True)


def inside(namespace: str, function: Callable[[], Result]) -> Result:
    """Returns what a function does in a network namespace; a socket that it opens stays there."""
    results: list[Result] = []

    def run() -> None:
        with Path("/run/netns", namespace).open() as entered:
            if _libc.setns(entered.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


class Port:
    """A packet socket on an interface: sends frames as they are, and has all that the interface receives."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self._socket.bind((interface, 0))

    def send(self, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                self._socket.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # TC dropped it on its way out
                    raise

    def send_in_pieces(self, frames: list[bytes], first: int = len(ETHERNET) + 2) -> None:
        """Sends frames of which the kernel keeps only so many bytes in one piece, and the rest in pages."""
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        try:
            # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
            self.send([struct.pack("=BBHHHH", 0, 0, first, 0, 0, 0) + frame for frame in frames])
        finally:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 0)

    def receive(self, count: int, kinds: tuple[bytes, ...] = (TEST,)) -> list[bytes]:
        """Returns the frames of some Ethernet types that came, at least so many; fails where they do not come."""
        frames: list[bytes] = []
        while select.select([self._socket], [], [], _ARRIVAL_SECONDS if len(frames) < count else 0)[0]:
            frame, address = self._socket.recvfrom(1 << 17)
            if address[2] != _PACKET_OUTGOING and frame[12:14] in kinds:
                frames.append(frame)
        assert len(frames) >= count, f"{len(frames)} of {count} frames came"
        return frames

    def close(self) -> None:
        self._socket.close()


class Link:
    """A veth pair: ``name`` here, ``peer`` in a namespace, neither with an address: nobody else speaks on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = f"{name}-ns"

    def create(self) -> None:
        ip("link", "add", self.name, "type", "veth", "peer", "name", "peer", "netns", self.namespace)
        ip("-n", self.namespace, "link", "set", "peer", "addrgenmode", "none")
        ip("link", "set", self.name, "addrgenmode", "none")  # no neighbour discovery of its own
        ip("-n", self.namespace, "link", "set", "peer", "up")
        ip("link", "set", self.name, "up")

    def rename(self, name: str) -> None:
        ip("link", "set", self.name, "down")  # before 6.2, only such have new names
        ip("link", "set", self.name, "name", name)
        ip("link", "set", name, "up")
        self.name = name

    def received(self) -> int:
        return self.counter("rx_packets")

    def counter(self, name: str) -> int:
        """Returns one of the counters that the interface here has: rx_bytes, tx_packets, …."""
        return int(Path(f"/sys/class/net/{self.name}/statistics/{name}").read_text())

    @contextmanager
    def ports(self) -> Iterator[tuple[Port, Port]]:
        """Sockets on the end here and on the one in the namespace."""
        with closing(Port(self.name)) as here, closing(self.port_there()) as there:
            yield here, there

    def port_there(self) -> Port:
        return inside(self.namespace, lambda: Port("peer"))

    def send(self, frames: list[bytes]) -> None:
        """Sends frames from the namespace to here."""
        with closing(self.port_there()) as there:
            there.send(frames)


@contextmanager
def link(name: str) -> Iterator[Link]:
    pair = Link(name)
    ip("netns", "add", pair.namespace)
    try:
        pair.create()
        yield pair
    finally:
        subprocess.run(["ip", "link", "del", pair.name], check=False, capture_output=True)
        ip("netns", "del", pair.namespace)


def frame(size: int, tags: bytes = b"", kind: bytes = TEST) -> bytes:
    """A frame of so many bytes."""
    return (ETHERNET + tags + kind).ljust(size, b"\0")


def ipv4(protocol: int, size: int = 64, tags: bytes = b"") -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 64, protocol, 0, bytes(4), bytes(4))
    return (ETHERNET + tags + b"\x08\x00" + header).ljust(size, b"\0")


def ipv6(first: int, extensions: bytes = b"", size: int = 128) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(extensions), first, 64) + bytes(32)
    return (ETHERNET + b"\x86\xdd" + header + extensions).ljust(size, b"\0")
