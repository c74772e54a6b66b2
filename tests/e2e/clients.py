# SPDX-License-Identifier: Apache-2.0
"""Who talks to a daemon: a scraper as Prometheus is one, and attacks."""

import base64
import http.client
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.daemon import ROOT, Daemon

# a page comes within this, by the middle one of several; an emulated processor knows no seconds
PROMPTLY = 60.0 if "EBPF_EXPORTER_TEST_EMULATED" in os.environ else 1.0
SCRAPES = 7


class Scraper:
    """Scrapes a daemon: by TLS, if it is given a context; with a password, if it is given one."""

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, password: str | None = None, address: str = "127.0.0.1"
    ) -> None:
        self._port = port
        self._context = context
        self._source = (address, 0)
        credentials = base64.b64encode(f"prometheus:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}"} if password is not None else {}

    def connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection("127.0.0.1", self._port, 60, self._source)
        return http.client.HTTPSConnection(
            "localhost", self._port, context=self._context, timeout=60, source_address=self._source
        )

    def get(
        self,
        path: str = "/metrics",
        method: str = "GET",
        connection: http.client.HTTPConnection | None = None,
        **more: str,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Returns an answer and its body; by a connection of its own, or by one that is given.

        Where one that was there before has ended meanwhile, a new one is made, as Prometheus does.
        """
        own = connection or self.connect()
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        try:
            for last in (connection is None or own.sock is None, True):
                try:
                    own.request(method, path, headers={**self._headers, **headers})
                    response = own.getresponse()
                    return response, response.read()
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    own.close()
                    if last:
                        raise
            raise AssertionError
        finally:
            if connection is None:
                own.close()

    def seconds(self, connection: http.client.HTTPConnection | None = None) -> float:
        """How long a page took; fails where it is none."""
        began = time.monotonic()
        response, body = self.get(connection=connection)
        assert response.status == 200, body
        assert body.endswith(b"\n")
        return time.monotonic() - began

    def scrapes_promptly(self) -> None:
        """Scrapes by new connections and by one that stays, as Prometheus does: each has its page in time."""
        staying = self.connect()
        new, kept = [], []
        try:
            for _ in range(SCRAPES):
                new.append(self.seconds())
                kept.append(self.seconds(staying))
        finally:
            staying.close()
        assert statistics.median(new) < PROMPTLY, new
        assert statistics.median(kept) < PROMPTLY, kept


def both(daemon: Daemon, probes: Mapping[str, Any]) -> Daemon:
    """Has a daemon listen for two clients on this host: at 127.0.0.1 and ::1. To be called before it runs."""
    daemon.configure(probes, listen=[f"127.0.0.1:{daemon.port}", f"[::1]:{daemon.port}"])
    return daemon


@contextmanager
def attack(name: str, port: int, ca: Path | None, address: str, pause: float) -> Iterator[None]:
    """An attack, from when it is in place to the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.attacks", name, str(port), str(ca or ""), address, str(pause)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "in place\n"
        yield
        assert process.poll() is None, "the attack has ended"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def resident_mb(daemon: Daemon) -> float:
    """The most memory that the worker ever had."""
    for line in Path(f"/proc/{daemon.worker_pid()}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def descriptors(daemon: Daemon) -> int:
    """How many descriptors the worker has."""
    return len(list(Path(f"/proc/{daemon.worker_pid()}/fd").iterdir()))
