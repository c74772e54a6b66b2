# SPDX-License-Identifier: Apache-2.0
"""metrics/exposition.py: whole pages, read back by prometheus_client's two parsers."""

import dataclasses
from collections.abc import Callable, Iterable

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import OPENMETRICS, TEXT, Format, head, page
from exporter.metrics.series import Series
from exporter.probe import Metric, Table

from ..support import counter, histogram, key, label, numbers

Parse = Callable[[str], Iterable[prometheus_client.Metric]]

FORMATS = [TEXT, OPENMETRICS]
FILES = Table((counter("ebpf_files_total", label("file", "string(256)"), label("op", ["read", "write"])),))
LATENCY = Table((histogram("ebpf_latency_seconds", (10, 34), label("comm", "comm"), scale=1e-9),))

# bytes of a name in the kernel -> value of the label
HOSTILE = {
    b"a\nb": "a\nb",
    b'say "hi"': 'say "hi"',
    b"C:\\new\\": "C:\\new\\",
    b"\\": "\\",
    b'"} 1\n# EOF\n': '"} 1\n# EOF\n',
    b"\xff\xfe": "\\xff\\xfe",
    b"\x1b[2J\x07": "\\x1b[2J\\x07",
    b"\r\n": "\\x0d\n",
    "\x85\u2028".encode(): "\\x85\\u2028",
    "grün ✓ 𝄞".encode(): "grün ✓ 𝄞",
    b"x" * 255: "x" * 255,
    "é".encode() * 128: "é" * 128,  # all of its 256 bytes, without a NUL
    b'a="b",c{d}': 'a="b",c{d}',
    b" ": " ",
    b"": "",
}


def own() -> CollectorRegistry:
    """A registry as that of the exporter itself, with one counter."""
    registry = CollectorRegistry()
    Counter("ebpf_exporter_things", "Things.", registry=registry).inc(3)
    return registry


def joined(metrics: Iterable[tuple[Metric, bytes]], registry: CollectorRegistry, wanted: Format) -> str:
    return b"".join(page(metrics, registry, wanted)).decode()


def parsed(text: str, wanted: Format) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name -> labels and values, in the page's order."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    parse: Parse = parse_openmetrics if wanted.openmetrics else parse_text
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize("wanted", FORMATS, ids=["text", "openmetrics"])
def test_hostile_values_come_back(wanted: Format) -> None:
    """Whatever processes and files are called, the page is one that Prometheus reads, and the values are theirs."""
    series = Series(FILES, 100)
    for number, name in enumerate(HOSTILE):
        series.add(key(FILES, file=name, op=1), numbers(number))
    found = parsed(joined(series.render(), own(), wanted), wanted)
    assert found["ebpf_files_total"] == [
        ({"file": value, "op": "write"}, float(number)) for number, value in enumerate(HOSTILE.values())
    ]


@pytest.mark.parametrize("wanted", FORMATS, ids=["text", "openmetrics"])
def test_a_page_of_all_sorts(wanted: Format) -> None:
    """Counters, histograms and the exporter's own metrics stand on one page."""
    files, latency = Series(FILES, 100), Series(LATENCY, 100)
    files.add(key(FILES, file="a"), numbers(7))
    latency.add(key(LATENCY, comm="cat", bucket=0) + key(LATENCY, comm="cat", bucket=25), numbers(2, 1000, 1, 10**11))
    found = parsed(joined(files.render() + latency.render(), own(), wanted), wanted)
    buckets = found.pop("ebpf_latency_seconds_bucket")
    assert [value for _, value in buckets] == [2.0] * 25 + [3.0]
    assert [float(labels["le"]) for labels, _ in buckets][:2] == [2**10 * 1e-9, 2**11 * 1e-9]
    assert found.pop("ebpf_latency_seconds_count") == [({"comm": "cat"}, 3.0)]
    assert found.pop("ebpf_latency_seconds_sum") == [({"comm": "cat"}, (1000 + 10**11) * 1e-9)]
    assert found.pop("ebpf_files_total") == [({"file": "a", "op": "read"}, 7.0)]
    assert found.pop("ebpf_exporter_things_total") == [({}, 3.0)]


def test_eof() -> None:
    """OpenMetrics ends with # EOF, once; the text format does not know it."""
    series = Series(FILES, 100)
    series.add(key(FILES, file="a"), numbers(7))
    assert "# EOF" not in joined(series.render(), own(), TEXT)
    text = joined(series.render(), own(), OPENMETRICS)
    assert text.count("# EOF") == 1
    assert text.endswith("\n# EOF\n")


@pytest.mark.parametrize("wanted", FORMATS, ids=["text", "openmetrics"])
def test_a_page_without_series(wanted: Format) -> None:
    """Before anything happened the page is good, with the heads of what there may be."""
    text = joined(Series(FILES, 100).render(), CollectorRegistry(), wanted)
    assert parsed(text, wanted) == {}
    assert text.count("# TYPE") == 1


HELP = dataclasses.replace(counter("ebpf_a_total"), help='A "b" \\ c.')


@pytest.mark.parametrize(
    ("metric", "wanted", "text"),
    [
        (HELP, TEXT, '# HELP ebpf_a_total A "b" \\\\ c.\n# TYPE ebpf_a_total counter\n'),
        (HELP, OPENMETRICS, '# HELP ebpf_a A \\"b\\" \\\\ c.\n# TYPE ebpf_a counter\n'),
        (histogram("ebpf_b_seconds", (0, 1)), TEXT, "# HELP ebpf_b_seconds Help.\n# TYPE ebpf_b_seconds histogram\n"),
        (
            histogram("ebpf_b_seconds", (0, 1)),
            OPENMETRICS,
            "# HELP ebpf_b_seconds Help.\n# TYPE ebpf_b_seconds histogram\n",
        ),
    ],
)
def test_head(metric: Metric, wanted: Format, text: str) -> None:
    """The head of a family, in the spelling of each format."""
    assert head(metric, wanted) == text


@pytest.mark.parametrize(("wanted", "parse"), [(TEXT, parse_text), (OPENMETRICS, parse_openmetrics)])
def test_help_comes_back(wanted: Format, parse: Parse) -> None:
    """A help with quotes and backslashes is read back as it was."""
    series = Series(Table((HELP,)), 1)
    text = joined(series.render(), CollectorRegistry(), wanted)
    assert [family.documentation for family in parse(text)] == [HELP.help]


def test_content_types() -> None:
    """The formats are named as Prometheus knows them."""
    assert [wanted.content_type for wanted in FORMATS] == [
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ]
