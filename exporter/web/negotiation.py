# SPDX-License-Identifier: Apache-2.0
"""Which format and which encoding a client gets: RFC 9110, sections 12.5.1 and 12.5.3, as far as is needed here."""

from collections.abc import Iterator

from exporter.metrics.exposition import FORMATS, TEXT, Format


def choose_format(accept: str) -> Format:
    """Returns the format of the highest quality; of equals the one named first; text where none can be had.

    The quality of a format is that of the most specific range that it falls under: ``text/plain;q=0,*/*`` is no text.
    """
    ranges = list(_parse(accept))
    best, best_rank = TEXT, (0.0, 0, 0)
    for candidate in FORMATS:
        matching = [
            (specificity, quality, -position)
            for position, (media_type, parameters, quality) in enumerate(ranges)
            if (specificity := _specificity(candidate, media_type, parameters))
        ]
        if matching:
            specificity, quality, position = max(matching)
            if quality > 0 and (quality, specificity, position) > best_rank:
                best, best_rank = candidate, (quality, specificity, position)
    return best


def _specificity(candidate: Format, media_type: str, parameters: dict[str, str]) -> int:
    """0 where a format does not fall under a range; else the more, the more the range says."""
    version = parameters.get("version", "")
    if media_type == candidate.media_type and version in ("", *candidate.versions):
        return 4 if version else 3
    if media_type == f"{candidate.media_type.partition('/')[0]}/*":
        return 2
    return 1 if media_type == "*/*" else 0


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
