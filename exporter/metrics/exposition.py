# SPDX-License-Identifier: Apache-2.0
"""The page: Prometheus' text format 0.0.4 and OpenMetrics 1.0, of the same lines.

They differ in the head of a family (OpenMetrics names a counter without its ``_total``) and in ``# EOF`` at the end.
Sources: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics specification.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.probe import Metric


@dataclass(frozen=True)
class Format:
    """A format of the page: what the client is told, and the versions that, asked for, are satisfied by it."""

    media_type: str
    parameters: str
    openmetrics: bool
    versions: tuple[str, ...]

    @property
    def content_type(self) -> str:
        return f"{self.media_type}; {self.parameters}"


TEXT = Format("text/plain", "version=0.0.4; charset=utf-8", False, ("0.0.4",))
OPENMETRICS = Format("application/openmetrics-text", "version=1.0.0; charset=utf-8", True, ("1.0.0", "0.0.1"))
FORMATS = (TEXT, OPENMETRICS)


def head(metric: Metric, wanted: Format) -> str:
    """Returns the HELP and TYPE lines of a metric."""
    help_text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    name = metric.name
    if wanted.openmetrics:
        help_text = help_text.replace('"', '\\"')
        name = name.removesuffix("_total") if metric.type == "counter" else name
    return f"# HELP {name} {help_text}\n# TYPE {name} {metric.type}\n"


_LARGE = 64 * 1024  # bytes; lines of so many are passed on as they are, for to join them is to copy them


def page(metrics: Iterable[tuple[Metric, bytes]], own: CollectorRegistry, wanted: Format) -> list[bytes]:
    """Returns the page, in parts: probes' metrics with the lines of their series, then the exporter's own."""
    parts: list[bytes] = []
    small: list[bytes] = []
    for metric, lines in metrics:
        small.append(head(metric, wanted).encode())
        if len(lines) < _LARGE:
            small.append(lines)
        else:
            parts += [b"".join(small), lines]
            small.clear()
    generate = generate_openmetrics if wanted.openmetrics else generate_latest
    return [*parts, b"".join([*small, generate(own)])]
