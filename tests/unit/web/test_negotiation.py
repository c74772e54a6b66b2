# SPDX-License-Identifier: Apache-2.0
"""web/negotiation.py: what real clients send, and what hostile ones do."""

import pytest

from exporter.metrics.exposition import OPENMETRICS, TEXT, Format
from exporter.web.negotiation import accepts_gzip, choose_format

PROMETHEUS_2_5 = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_2_45 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_TEXT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7," + PROMETHEUS_3
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        (PROMETHEUS_2_5, OPENMETRICS),
        (PROMETHEUS_2_45, OPENMETRICS),
        (PROMETHEUS_2_TEXT, TEXT),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_PROTOBUF, OPENMETRICS),
        (BROWSER, TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=abc", TEXT),
        ("application/openmetrics-text;version=abc,application/openmetrics-text;version=1.0.0;q=0.1", OPENMETRICS),
        ("text/plain;version=1.0.0,application/openmetrics-text;q=0.5", OPENMETRICS),
        ("text/plain,application/openmetrics-text;q=0.9", TEXT),
        ("text/plain;q=0.9,application/openmetrics-text", OPENMETRICS),
        ("text/*;q=0.5,application/openmetrics-text;q=0.4", TEXT),
        ("text/plain;q=0,application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;q=0.000,text/plain;q=0.001", TEXT),
        ("application/openmetrics-text;q=many", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=2,text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=-1", TEXT),
        ("application/json", TEXT),
        (",;,=;q=1;;,", TEXT),
        ("\xff\xfe;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.1;q", TEXT),
    ],
)
def test_choose_format(accept: str, wanted: Format) -> None:
    """The client gets what it likes best of what there is, and the text format where it says nothing usable."""
    assert choose_format(accept) == wanted


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br", True),
        ("deflate;q=1.0, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("*;q=0, gzip", True),
        ("identity", False),
        ("identity;q=0", False),
        ("deflate, br, zstd", False),
        ("gzip;q=lots", False),
        ("gzipped", False),
        (";;,,q=1", False),
    ],
)
def test_accepts_gzip(accept_encoding: str, gzip: bool) -> None:
    """gzip is for those who take it, by name or by a star, and not for those who refuse it."""
    assert accepts_gzip(accept_encoding) == gzip
