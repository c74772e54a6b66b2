# SPDX-License-Identifier: Apache-2.0
"""What /proc says of connections, addresses and the SSH server."""

import socket
from pathlib import Path

import pytest

from exporter.rules import connections
from exporter.rules.connections import Connection, Host

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0702000A:08AE 0900000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:D431 06 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   3: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:8235 01 0:0 00:0 0 0 0 110 1 0 20 4 0 10
   1: 0000000000000000FFFF00000702000A:0016 0000000000000000FFFF00000900000A:8236 01 0:0 00:0 0 0 0 111 1 0 20 4 0 10
"""
FIB = """\
Main:
  +-- 0.0.0.0/0 3 0 5
           |-- 10.0.2.7
              /32 host LOCAL
           |-- 10.0.2.255
              /32 link BROADCAST
        |-- 127.0.0.1
           /32 host LOCAL
Local:
           |-- 10.0.2.7
              /32 host LOCAL
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000001 02 40 20 80     eth0
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(socket, "if_nameindex", list)
    monkeypatch.setattr(connections, "default_route_interfaces", list)
    (tmp_path / "net").mkdir()
    monkeypatch.setattr(connections, "PROC", tmp_path)
    return tmp_path


def process(proc: Path, pid: int, comm: str, *targets: str) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(f"{comm}\n")
    for number, target in enumerate(targets):
        (proc / str(pid) / "fd" / str(number)).symlink_to(target)


def test_a_host(proc: Path) -> None:
    """Connections that are established, with IPv4 in sockets of IPv6 as IPv4; the ports where sshd listens."""
    for name, text in {"tcp": TCP, "tcp6": TCP6, "fib_trie": FIB, "if_inet6": IF_INET6}.items():
        (proc / "net" / name).write_text(text)
    process(proc, 10, "sshd", "/dev/null", "socket:[100]")
    process(proc, 11, "nginx", "socket:[103]")
    ours, theirs = bytes([10, 0, 2, 7]), bytes([10, 0, 0, 9])
    v6 = [bytes.fromhex(f"20010db80000000000000000{number:08x}") for number in (1, 2)]
    assert connections.here() == Host(
        established=(
            Connection(ours, 2222, theirs, 54_321, False, 101),
            Connection(v6[0], 22, v6[1], 33_333, False, 110),
            Connection(ours, 22, theirs, 33_334, False, 111),
        ),
        addresses=(ours, v6[0]),
        ssh_ports=(22, 2222),
    )


def test_a_host_without_anything(proc: Path) -> None:
    """A kernel without IPv6 or TCP has no such files."""
    assert connections.here() == Host()
    (proc / "12").mkdir()  # a process that ends meanwhile
    assert connections.here() == Host()


def test_this_host() -> None:
    """A connection that is there is found as the socket itself has it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            own, peer = client.getsockname()[1], server.getsockname()[1]
            found = {(one.local_port, one.remote_port) for one in connections.here().established}
            assert {(own, peer), (peer, own)} <= found
