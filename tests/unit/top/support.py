# SPDX-License-Identifier: Apache-2.0
"""Answers of an exporter, and one that gives them by HTTP."""

import base64
import contextlib
import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.top import answers
from exporter.top.answers import Labels, Metric, Probe, Probes, Series, Value


def probe(name: str = "file_io", **fields: Any) -> Probe:
    """Returns a probe that runs, with other values for some fields."""
    return answers.probes({"time": 0, "probes": [probe_answer(name, **fields)]}).probes[0]


def probe_answer(name: str = "file_io", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "running",
        "mechanism": "tracepoint",
        "reason": "",
        "purpose": "Counts.",
        "events_total": 0,
        "run_seconds_total": 0.0,
        "missed_total": 0,
        "overflowed_total": 0,
        "folded_total": 0,
        "series": 2,
        "max_series": 1000,
        "history": [],
        **fields,
    }


def probes(time: float, *found: Probe) -> Probes:
    return Probes(time, found)


def metric(
    series: Mapping[Any, Value], name: str = "ebpf_a_total", labels: Labels = ("comm",), kind: str = "counter"
) -> Metric:
    return Metric(name, kind, "Help.", labels, series)


def series(time: float, *metrics: Metric, name: str = "file_io") -> Series:
    return Series(time, name, metrics)


class Exporter:
    """Answers by HTTP what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}  # by path: bytes, or what becomes JSON
        self.status = 200
        self.user = ""  # NAME:PASSWORD, which it wants
        self.asked: list[str] = []
        self.connections = 0
        self.once = False  # it closes a connection after an answer

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.user and authorization != f"Basic {base64.b64encode(self.user.encode()).decode()}":
            return 401, b"Unauthorized\n"
        if path not in self.answers:
            return 404, b"Not found.\n"
        found = self.answers[path]
        return self.status, found if isinstance(found, bytes) else json.dumps(found).encode()


@contextlib.contextmanager
def serving(exporter: Exporter, unix: Path | None = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Runs it in a thread. Yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            exporter.connections += 1
            super().setup()

        def do_GET(self) -> None:
            status, body = exporter.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = exporter.once  # unannounced, as by a limit of time

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        address_family = socket.AF_UNIX if unix is not None else socket.AF_INET

    with Server(str(unix) if unix is not None else ("127.0.0.1", 0), Handler) as server:  # type: ignore[arg-type]
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            scheme = "http" if tls is None else "https"
            yield f"unix:{unix}" if unix is not None else f"{scheme}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
