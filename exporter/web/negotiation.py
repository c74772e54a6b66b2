# SPDX-License-Identifier: Apache-2.0
"""Which format and which encoding a client gets: RFC 9110, sections 12.5.1 and 12.5.3, as far as is needed here."""

from collections.abc import Iterator

from exporter.metrics.exposition import FORMATS, TEXT, Format

_OPENMETRICS_VERSIONS = ("", "1.0.0", "0.0.1")  # what a 1.0.0 page satisfies


def choose_format(accept: str) -> Format:
    """Returns the format of the highest quality; the text format where the client says nothing that can be had."""
    best, best_quality = TEXT, 0.0
    for media_type, parameters, quality in _parse(accept):
        for candidate in FORMATS:
            if quality > best_quality and _matches(candidate, media_type, parameters):
                best, best_quality = candidate, quality
    return best


def _matches(candidate: Format, media_type: str, parameters: dict[str, str]) -> bool:
    if candidate.openmetrics:
        return media_type == candidate.media_type and parameters.get("version", "") in _OPENMETRICS_VERSIONS
    if media_type in ("*/*", "text/*"):
        return True
    return media_type == candidate.media_type and parameters.get("version", "") in ("", "0.0.4")


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip: named, or by ``*``, with a quality above 0."""
    qualities = {name: quality for name, _, quality in _parse(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def _parse(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """``text/plain;version=0.0.4;q=0.5, */*`` -> ("text/plain", {"version": "0.0.4"}, 0.5), ("*/*", {}, 1.0)"""
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        parameters = {}
        for part in rest:
            key, _, value = part.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name:
            yield name.lower(), parameters, quality if 0 <= quality <= 1 else 0.0
