# SPDX-License-Identifier: Apache-2.0
"""The pages: ``/metrics``, ``/probes``, ``/-/healthy``, ``/-/ready`` and a plain ``/``."""

import dataclasses
import html
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from exporter import __version__
from exporter.metrics.exposition import Format
from exporter.metrics.health import Health
from exporter.web.negotiation import choose_format
from exporter.web.response import Response

_NOT_FOUND = Response(HTTPStatus.NOT_FOUND, b"Not found. There are /metrics, /probes, /-/healthy, /-/ready and /.\n")


class Site:
    """Answers requests; metrics is what makes the page of a format, up to date."""

    def __init__(self, health: Health, metrics: Callable[[Format], Awaitable[list[bytes]]]) -> None:
        self._health = health
        self._metrics = metrics

    async def __call__(self, path: str, headers: Mapping[str, str]) -> Response:
        if path == "/metrics":
            wanted = choose_format(headers.get("accept", ""))
            return Response(HTTPStatus.OK, await self._metrics(wanted), wanted.content_type)
        if path == "/probes":
            return Response(HTTPStatus.OK, self._probes(), "application/json")
        if path == "/-/healthy":
            return Response(HTTPStatus.OK, b"ok\n")
        if path == "/-/ready":
            if self._health.settled:
                return Response(HTTPStatus.OK, b"ready\n")
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, b"probes are starting\n")
        if path == "/":
            return Response(HTTPStatus.OK, self._index(), "text/html; charset=utf-8")
        return _NOT_FOUND

    def _probes(self) -> bytes:
        probes = [dataclasses.asdict(status) for status in self._health.current()]
        return json.dumps({"version": __version__, "probes": probes}, indent=2).encode() + b"\n"

    def _index(self) -> bytes:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in columns) + "</tr>\n"
            for status in self._health.current()
            for columns in [(status.name, status.state, status.mechanism, status.purpose, status.reason)]
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>ebpf-exporter</title></head><body>\n'
            f"<h1>ebpf-exporter {__version__}</h1>\n"
            '<p><a href="/metrics">/metrics</a> <a href="/probes">/probes</a></p>\n'
            "<table>\n<tr><th>probe</th><th>state</th><th>mechanism</th><th>counts</th><th>reason</th></tr>\n"
            f"{rows}</table>\n</body></html>\n"
        ).encode()
