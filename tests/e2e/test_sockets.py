# SPDX-License-Identifier: Apache-2.0
"""Where it is listened, what is answered there, and what is not."""

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import malformed
from tests.kernel.daemon import Daemon, free_port
from tests.kernel.test_daemon import COUNT_NOTHING, pair

PROBES: dict[str, object] = {"file_opens": {}}
REQUESTS = 10_000


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses and ports on which sockets of TCP listen in a process's network namespace."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":  # TCP_LISTEN
                address, port = local.split(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


# a network namespace of its own, with loopback and an address besides
APART = ["unshare", "--net", "sh", "-c", 'ip link set lo up && ip address add 192.0.2.1/32 dev lo && exec "$@"', "sh"]


def test_loopback_is_the_default() -> None:
    """A config without listen: is served on loopback alone."""
    with Daemon(PROBES, prefix=APART) as daemon:
        daemon.configure(PROBES)
        config = json.loads(daemon.config.read_text())
        del config["listen"]
        daemon.config.write_text(json.dumps(config))
        daemon.reload()
        found = listening(daemon.worker_pid())
    assert found >= {("127.0.0.1", 9435)}
    assert found <= {("127.0.0.1", 9435), ("::1", 9435)}


def test_several_addresses() -> None:
    """Each address of listen: is served, and no other."""
    ports = [free_port() for _ in range(3)]
    addresses = [f"127.0.0.1:{ports[0]}", f"127.0.0.2:{ports[1]}", f"[::1]:{ports[2]}"]
    with Daemon(PROBES, listen=addresses) as daemon:
        for host, port in (("127.0.0.1", ports[0]), ("127.0.0.2", ports[1]), ("::1", ports[2])):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("GET", "/-/healthy")
            assert connection.getresponse().read() == b"ok\n"
            connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[1]))
        assert " ".join(f"http://{address}/metrics" for address in addresses) in daemon.log()


@contextlib.contextmanager
def activated(*options: str) -> Iterator[Daemon]:
    """A daemon that systemd's tool starts when somebody comes, as systemd does."""
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("needs systemd-socket-activate")
    command = ["systemd-socket-activate", "--setenv=NOTIFY_SOCKET", *options]
    daemon = Daemon(PROBES, prefix=command)
    port = int(options[0].rpartition(":")[2])
    daemon.port = port
    coming = threading.Thread(target=come, args=(port,))
    coming.start()
    with daemon:
        coming.join()
        yield daemon


def come(port: int) -> None:
    """Connects as soon as there is somebody to connect to."""
    for _ in range(100_000):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")  # who started it is answered
            return
    raise AssertionError("nobody listens")


def test_socket_activation(tmp_path: Path) -> None:
    """What systemd passes is served in place of listen:, under its names; a reload, and another worker, leave it so."""
    port, configured = free_port(), free_port()
    path = tmp_path / "socket"
    options = [f"--listen=127.0.0.1:{port}", f"--listen={path}", "--fdname=metrics:local"]
    with activated(*options) as daemon:
        assert daemon.get("/metrics")[0].status == 200
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        log = daemon.log()
        assert f'metrics="http://127.0.0.1:{port}/metrics http://{path}/metrics" systemd="metrics local"' in log
        daemon.configure(PROBES, listen=[f"127.0.0.1:{configured}"])
        assert daemon.reload().returncode == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", configured))
        assert daemon.get("/metrics")[0].status == 200
        worker = daemon.worker_pid()
        os.kill(worker, 9)
        assert daemon.get("/-/healthy")[0].status == 200
        assert daemon.worker_pid() != worker


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(PROBES) as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 200),
        ("GET", "/probes", 200),
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("GET", "/metrics/", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/metrics", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "*", 405),
        ("TRACE", "/", 405),
        ("CONNECT", "example.org:443", 405),
    ],
)
def test_statuses(daemon: Daemon, method: str, path: str, status: int) -> None:
    """What there is, is answered to GET and HEAD; all else has the status that is due, and a body that says so."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == status
    assert (body == b"") is (method == "HEAD")
    assert response.headers["Allow"] == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize(
    "path",
    [
        "/debug",
        "/debug/pprof/",
        "/debug/vars",
        "/config",
        "/flags",
        "/-/reload",
        "/-/quit",
        "/status",
    ],
)
def test_no_pages_for_debugging(daemon: Daemon, path: str) -> None:
    """There is nothing where others have what tells of a process or changes it."""
    assert daemon.get(path)[0].status == 404
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("POST", path)
    assert connection.getresponse().status == 405
    connection.close()


def test_not_ready_is_503(tmp_path: Path) -> None:
    """While a probe starts /-/ready is 503, and the page is there already."""
    waits = tmp_path / "waits.h"
    os.mkfifo(waits)  # the compiler waits for what is in it
    pair(tmp_path / "probes", "waits", f'#include "{waits}"\n{COUNT_NOTHING}')
    daemon = Daemon({**PROBES, "waits": {}}, tmp_path / "probes")
    seen: set[int] = set()

    def ask() -> None:
        while 200 not in seen:
            with contextlib.suppress(OSError, http.client.HTTPException):
                seen.add(daemon.get("/-/ready")[0].status)
                if 200 not in seen:
                    assert daemon.get("/metrics")[0].status == 200
                    os.close(os.open(waits, os.O_WRONLY | os.O_NONBLOCK))  # each pass of the compiler reads it

    asking = threading.Thread(target=ask)
    asking.start()
    with daemon:
        asking.join()
    assert seen == {200, 503}


def conversation(port: int, data: bytes) -> bytes:
    """Sends bytes and says that nothing more comes. Returns all that is answered."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                received += part
    return bytes(received)


def test_malformed_requests(daemon: Daemon) -> None:
    """Ten thousand requests that are none: each has whole answers, none is a fault, and the next scrape is good."""
    source = random.Random(9435)
    worker = daemon.worker_pid()
    found: set[int] = set()
    for _ in range(REQUESTS):
        data = malformed.request(source).replace(b"/metrics", b"/-/healthy")  # a page waits for its read
        statuses = malformed.answers(data, conversation(daemon.port, data))
        assert statuses or not data.strip(), data
        found.update(statuses)
    assert found <= {200, 400, 404, 405, 413, 431, 501}
    assert daemon.get("/metrics")[0].status == 200
    assert daemon.worker_pid() == worker
    assert "Traceback" not in daemon.log()
    assert "ERROR" not in daemon.log()
