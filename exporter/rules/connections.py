# SPDX-License-Identifier: Apache-2.0
"""The TCP connections of this host, its addresses, and where its SSH server listens: what /proc says of them."""

import socket
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from exporter.network.interfaces import default_route_interfaces

PROC = Path("/proc")
SSH_PORT = 22

_ESTABLISHED, _LISTEN = 1, 10  # include/net/tcp_states.h


@dataclass(frozen=True)
class Connection:
    """A socket of TCP. Addresses have 4 or 16 bytes; one of IPv4 in a socket of IPv6 has 4."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    listens: bool
    inode: int


@dataclass(frozen=True)
class Host:
    """What of a host its rules may cut off. addresses are its own, but for loopback; ssh_ports the SSH server's.

    interfaces are all that there are, default_interfaces those of the default routes.
    """

    established: tuple[Connection, ...] = ()
    addresses: tuple[bytes, ...] = ()
    ssh_ports: tuple[int, ...] = (SSH_PORT,)
    interfaces: tuple[str, ...] = ()
    default_interfaces: tuple[str, ...] = ()


def here() -> Host:
    """Returns this host. Without root the SSH server is taken to be at its usual port."""
    found = [one for name in ("tcp", "tcp6") for one in _sockets(_lines(PROC / "net" / name)[1:])]
    inodes = _sshd_inodes()
    ports = {SSH_PORT} | {one.local_port for one in found if one.listens and one.inode in inodes}
    established = tuple(dict.fromkeys(one for one in found if not one.listens))
    return Host(
        established,
        tuple(dict.fromkeys(_own_v4() + _own_v6())),
        tuple(sorted(ports)),
        tuple(name for _, name in socket.if_nameindex()),
        tuple(default_route_interfaces()),
    )


def loopback(address: bytes) -> bool:
    """Whether an address is one of loopback: 127.0.0.0/8, ::1."""
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # a kernel without this protocol
        return []


def _sockets(lines: list[str]) -> list[Connection]:
    """``0: 0100007F:E791 00000000:0000 0A …``: number, local, remote, state, …, the tenth is the inode."""
    found: list[Connection] = []
    for line in lines:
        words = line.split()
        state = int(words[3], 16)
        if state in (_ESTABLISHED, _LISTEN):
            found.append(Connection(*_end(words[1]), *_end(words[2]), state == _LISTEN, int(words[9])))
    return found


def _end(text: str) -> tuple[bytes, int]:
    """``0100007F:E791`` -> 127.0.0.1, 59281: an address is of words in this machine's byte order."""
    address, port = text.split(":")
    words = [int(address[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(address), 8)]
    packed = b"".join(words)
    return packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed, int(port, 16)


def _own_v4() -> list[bytes]:
    """From /proc/net/fib_trie: a line ``|-- 192.0.2.7`` and after it ``/32 host LOCAL``."""
    lines = _lines(PROC / "net" / "fib_trie")
    found = [
        bytes(map(int, above.split()[-1].split(".")))
        for above, line in pairwise(lines)
        if line.strip() == "/32 host LOCAL"
    ]
    return [address for address in found if not loopback(address)]


def _own_v6() -> list[bytes]:
    """From /proc/net/if_inet6: ``fe80… 02 40 20 80 eth0``."""
    found = [bytes.fromhex(line.split()[0]) for line in _lines(PROC / "net" / "if_inet6")]
    return [address for address in found if not loopback(address)]


def _sshd_inodes() -> set[int]:
    """Returns the inodes of the sockets that processes called sshd have."""
    found: set[int] = set()
    for process in PROC.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().startswith("sshd"):
                targets = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
                found |= {int(target[8:-1]) for target in targets if target.startswith("socket:[")}
        except OSError:  # it has ended, or is not ours to look at
            continue
    return found
