# SPDX-License-Identifier: Apache-2.0
"""metrics/labels.py: from a key's bytes to the text between the braces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.metrics.labels import KeyText, escape
from exporter.probe import Table

from ..support import bounded_key, counter, histogram, key, label

TABLE = Table(
    (counter("ebpf_a_total", label("comm", "comm"), label("op", ["read", "write"]), label("result", "errno")),)
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("grün ✓", "grün ✓"),
        ('say "hi"', 'say \\"hi\\"'),
        ("C:\\new", "C:\\\\new"),
        ("two\nlines", "two\\nlines"),
        ("\\n", "\\\\n"),
        ("tab\tend", "tab\\\\x09end"),
        ("\r", "\\\\x0d"),
        ("\x1b[31m", "\\\\x1b[31m"),
        ("\x7f\x85\x9b", "\\\\x7f\\\\x85\\\\x9b"),
        ("\u2028\u2029", "\\\\u2028\\\\u2029"),
        ("{}, #", "{}, #"),
        ("", ""),
    ],
)
def test_escape(value: str, text: str) -> None:
    """What breaks a line or acts on a terminal is spelt out; all else stays."""
    assert escape(value) == text


@given(value=st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029")))
def test_an_escaped_value_comes_back(value: str) -> None:
    """Any value without control characters is read back by Prometheus' own parser as it was."""
    [family] = text_string_to_metric_families(f'a{{l="{escape(value)}"}} 1\n')  # type: ignore[no-untyped-call]  # untyped
    assert family.samples[0].labels == {"l": value}


@given(value=st.text())
def test_an_escaped_value_is_one_line(value: str) -> None:
    """No value, whatever it holds, ends a line or the quotes around it."""
    text = escape(value)
    assert len(f"a{text}b".splitlines()) == 1
    assert '"' not in text.replace("\\\\", "").replace('\\"', "")


@pytest.mark.parametrize(
    ("values", "own", "bounded"),
    [
        (
            {"comm": "bash", "op": 1, "result": 2},
            'comm="bash",op="write",result="ENOENT"',
            'comm="(other)",op="write",result="ENOENT"',
        ),
        ({}, 'comm="",op="read",result="ok"', 'comm="(other)",op="read",result="ok"'),
        (
            {"comm": b'"\\\n\xff', "op": 9, "result": 9999},
            'comm="\\"\\\\\\n\\\\xff",op="9",result="9999"',
            'comm="(other)",op="9",result="9999"',
        ),
    ],
)
def test_labels_of_a_key(values: dict[str, str | bytes | int], own: str, bounded: str) -> None:
    """Labels come in the YAML's order; without a series of its own a key keeps what is bounded."""
    text = KeyText(TABLE)
    assert text.own(key(TABLE, **values)) == own
    assert text.bounded(key(TABLE, **values)) == bounded
    assert text.bounded(bounded_key(TABLE, **values)) == bounded
    assert text.other() == 'comm="(other)",op="(other)",result="(other)"'


def test_labels_that_are_left_out_do_not_show() -> None:
    """A label that the config left out is in no text."""
    table = Table((counter("ebpf_a_total", label("comm", "comm", chosen=False), label("op", ["read", "write"])),))
    text = KeyText(table)
    assert (text.own(key(table, op=1)), text.bounded(key(table, op=1)), text.other()) == (
        'op="write"',
        'op="write"',
        'op="(other)"',
    )


def test_the_bucket_is_no_label() -> None:
    """A histogram's bucket is in the key and not in the labels."""
    table = Table((histogram("ebpf_a", (0, 3), label("comm", "comm")),))
    assert KeyText(table).own(key(table, bucket=2, comm="cat")) == 'comm="cat"'


def test_without_labels() -> None:
    """A table without labels has empty texts."""
    table = Table((counter("ebpf_a_total"),))
    text = KeyText(table)
    assert (text.own(key(table)), text.bounded(b""), text.other()) == ("", "", "")
