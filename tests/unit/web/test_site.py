# SPDX-License-Identifier: Apache-2.0
"""web/site.py: what each path answers."""

import asyncio
import json
from collections.abc import Callable, Hashable, Mapping
from http import HTTPStatus
from pathlib import Path

import pytest

from exporter import __version__
from exporter.metrics.exposition import OPENMETRICS, TEXT, Format
from exporter.metrics.health import Health
from exporter.status import Attempt, ProbeStatus
from exporter.web.response import Response
from exporter.web.site import Site

HOSTILE = '<script>alert("x")</script> & more'


@pytest.fixture
def health() -> Health:
    one = Health(config_loaded=0.0)
    one.statuses = {
        "p": ProbeStatus("p", "Counts.", "running", "kprobe", tried=(Attempt("fexit", "refused", "words"),)),
        "q": ProbeStatus("q", "Counts.", "failed", reason=HOSTILE, details="line 1\nline 2"),
    }
    return one


def ask(health: Health, path: str, headers: Mapping[str, str] | None = None) -> Response:
    async def page(_: Hashable, make: Callable[[], list[bytes]]) -> list[bytes]:
        return make()

    return asyncio.run(Site(health, page)(path, headers or {}))


@pytest.mark.parametrize(("accept", "wanted"), [("", TEXT), ("application/openmetrics-text", OPENMETRICS)])
def test_metrics(health: Health, accept: str, wanted: Format) -> None:
    """/metrics is the page in the format that the client chose, and says which that is."""
    answer = ask(health, "/metrics", {"accept": accept})
    assert (answer.status, answer.content_type) == (HTTPStatus.OK, wanted.content_type)
    page = b"".join(answer.parts).decode()
    assert ('ebpf_exporter_probe_up{probe="p"} 1.0\n' in page, page.endswith("# EOF\n")) == (
        True,
        wanted is OPENMETRICS,
    )


def test_healthy(health: Health) -> None:
    """/-/healthy is there as soon as anything answers."""
    answer = ask(health, "/-/healthy")
    assert (answer.status, b"".join(answer.parts)) == (HTTPStatus.OK, b"ok\n")


@pytest.mark.parametrize(
    ("settled", "status", "body"),
    [(False, HTTPStatus.SERVICE_UNAVAILABLE, b"probes are starting\n"), (True, HTTPStatus.OK, b"ready\n")],
)
def test_ready(health: Health, settled: bool, status: HTTPStatus, body: bytes) -> None:
    """/-/ready says no until every probe has started or failed."""
    health.settled = settled
    answer = ask(health, "/-/ready")
    assert (answer.status, b"".join(answer.parts)) == (status, body)


def test_probes(health: Health) -> None:
    """/probes is JSON with all that is known of each probe."""
    answer = ask(health, "/probes")
    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "application/json")
    found = json.loads(b"".join(answer.parts))
    assert found["version"] == __version__
    assert [(probe["name"], probe["state"]) for probe in found["probes"]] == [("p", "running"), ("q", "failed")]
    assert found["probes"][0]["tried"] == [{"mechanism": "fexit", "reason": "refused", "details": "words"}]
    assert (found["probes"][1]["reason"], found["probes"][1]["details"]) == (HOSTILE, "line 1\nline 2")


def test_status_page(health: Health) -> None:
    """/ is a page that is the same for all, and comes with a policy that lets nothing else run."""
    answer = ask(health, "/")
    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "text/html; charset=utf-8")
    assert answer.body == Path("exporter/web/status.html").read_bytes()
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")


def test_probe(health: Health) -> None:
    """/probes/NAME has the probe's metrics; of one that there is not it says so."""
    answer = ask(health, "/probes/q")
    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "application/json")
    assert json.loads(b"".join(answer.parts)) == {"time": 0.0, "name": "q", "metrics": []}
    for name in ("r", "", "q/", "<script>"):
        answer = ask(health, f"/probes/{name}")
        assert (answer.status, answer.body) == (
            HTTPStatus.NOT_FOUND,
            b"There is no such probe; /probes has their names.\n",
        )


@pytest.mark.parametrize("path", ["/metrics/", "/Metrics", "/favicon.ico", "", "/../etc/passwd", "*"])
def test_elsewhere(health: Health, path: str) -> None:
    """Elsewhere there is nothing."""
    answer = ask(health, path)
    assert (answer.status, b"/metrics" in b"".join(answer.parts)) == (HTTPStatus.NOT_FOUND, True)
