# SPDX-License-Identifier: Apache-2.0
"""The pages: ``/metrics``, ``/probes``, ``/probes/NAME``, ``/-/healthy``, ``/-/ready`` and, for people, ``/``."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from http import HTTPStatus

from exporter.metrics import exposition, probes
from exporter.metrics.exposition import Format
from exporter.metrics.health import Health
from exporter.web.negotiation import choose_format
from exporter.web.page import HEADERS, PAGE
from exporter.web.response import Response

_NOT_FOUND = Response(
    HTTPStatus.NOT_FOUND, b"Not found. There are /metrics, /probes, /probes/NAME, /-/healthy, /-/ready and /.\n"
)
_NO_PROBE = Response(HTTPStatus.NOT_FOUND, b"There is no such probe; /probes has their names.\n")
_JSON = "application/json"

Page = Callable[[Hashable, Callable[[], list[bytes]]], Awaitable[list[bytes]]]


class Site:
    """Answers requests; page has a read made, and then the page by the function that is given, once a read."""

    def __init__(self, health: Health, page: Page) -> None:
        self._health = health
        self._page = page
        self._registry = health.registry()

    async def __call__(self, path: str, headers: Mapping[str, str]) -> Response:
        if path == "/metrics":
            wanted = choose_format(headers.get("accept", ""))
            body = await self._page(wanted, lambda: self._metrics(wanted))
            return Response(HTTPStatus.OK, body, wanted.content_type)
        if path == "/probes":
            return Response(HTTPStatus.OK, await self._page(path, lambda: [probes.overview(self._health)]), _JSON)
        if path.startswith("/probes/"):
            return await self._series(path.removeprefix("/probes/"))
        if path == "/-/healthy":
            return Response(HTTPStatus.OK, b"ok\n")
        if path == "/-/ready":
            if self._health.settled:
                return Response(HTTPStatus.OK, b"ready\n")
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, b"probes are starting\n")
        if path == "/":
            return Response(HTTPStatus.OK, PAGE, "text/html; charset=utf-8", HEADERS)
        return _NOT_FOUND

    def _metrics(self, wanted: Format) -> list[bytes]:
        metrics = [rendered for _, shown in self._health.tables() for rendered in shown.render()]
        return exposition.page(metrics, self._registry, wanted)

    async def _series(self, probe: str) -> Response:
        if probe not in self._health.statuses:
            return _NO_PROBE
        return Response(
            HTTPStatus.OK, await self._page(("series", probe), lambda: probes.series(self._health, probe)), _JSON
        )
