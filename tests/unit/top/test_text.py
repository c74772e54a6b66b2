# SPDX-License-Identifier: Apache-2.0
"""top/text.py: what anybody has named something, safe and as wide as it is said to be."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.top import text

ANY = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates as well


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("syslog", "syslog"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\ttab", r"two\nlines\ttab"),
        ("exe\u202egpj.txt", r"exe\u202egpj.txt"),  # a right-to-left override
        ("\u2066a\u2069\u200e", r"\u2066a\u2069\u200e"),  # isolates and marks that somebody else has put there
        ("\x9b31m", r"\x9b31m"),  # an escape sequence's head in one sign
        ("\ud800", r"\ud800"),
        ("漢字.txt", "漢字.txt"),
        ("קובץ 1", "קובץ 1\u200e"),  # what follows it is not drawn into it
        ("\u0301a", r"\u0301a"),  # it would be drawn on what is before it
        ("e" + "\u0301" * 5, "e" + "\u0301" * 3 + r"\u0301\u0301"),
        ("<script>", "<script>"),
    ],
)
def test_safe(name: str, shown: str) -> None:
    """Scripts are shown as they are; what a terminal would obey, or hides, by its number."""
    assert text.safe(name) == shown


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\xe9\u6f22"), ("iso8859-1", r"é\u6f22"), ("what-is-this", r"\xe9\u6f22")]
)
def test_other_encodings(encoding: str, shown: str) -> None:
    """What the terminal's encoding has not is shown by its number, and so are this module's own signs."""
    assert text.safe("é漢", encoding) == shown
    assert text.of(encoding, text.fit("abcdef", 4)) == "abc~"


@given(ANY)
def test_nothing_gets_through(name: str) -> None:
    """No name brings a control character, or a mark of direction but the one that is put at its end."""
    shown = text.safe(name).removesuffix("\u200e")
    assert all(sign.isprintable() for sign in shown)
    assert not any(unicodedata.category(sign)[0] == "C" for sign in shown)


@given(ANY, st.integers(0, 30), st.booleans())
def test_fit(name: str, columns: int, right: bool) -> None:
    """A text is as wide as it is to be, whatever is in it."""
    fitted = text.fit(text.safe(name), columns, right)
    assert text.width(fitted) == columns


@pytest.mark.parametrize(
    ("name", "columns", "fitted"),
    [
        ("abc", 5, "abc  "),
        ("abcdef", 4, "abc…"),
        ("漢字漢字", 6, "漢字… "),  # half a sign is none
        ("漢字", 4, "漢字"),
        ("abc", 0, ""),
        ("קובץ\u200e", 3, "קו…\u200e"),
    ],
)
def test_fit_cuts(name: str, columns: int, fitted: str) -> None:
    """That something was cut is seen."""
    assert text.fit(name, columns) == fitted


def test_wrapped() -> None:
    """Lines break at spaces where they can, and the last is cut."""
    assert text.wrapped("one two three", 8, 3) == ["one two ", "three   "]
    assert text.wrapped("onetwothree four", 6, 2) == ["onetwo", "three…"]
    assert text.wrapped("漢字漢字", 1, 3) == ["…"]
    assert text.wrapped("", 8, 3) == []


@given(ANY, st.integers(1, 20), st.integers(1, 4))
def test_wrapped_is_as_wide(name: str, columns: int, lines: int) -> None:
    """Lines are as many and as wide as they may be."""
    found = text.wrapped(text.safe(name), columns, lines)
    assert len(found) <= lines
    assert {text.width(line) for line in found} <= {columns}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (0.0001, "<0.001"),
        (0.0312, "0.031"),
        (0.5, "0.50"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (12345, "12.3k"),
        (-12345, "-12.3k"),
        (3.9e7, "39.0M"),
        (1.8e19, "18.0E"),
        (1e300, "1.00e+300"),
        (float("inf"), "inf"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    """Three digits, and the power of 1000."""
    assert text.number(value) == shown


def test_other_numbers() -> None:
    """Totals have all their digits; durations their unit."""
    assert [text.whole(1234567), text.whole(99.7), text.whole(None)] == ["1,234,567", "100", "-"]
    assert [text.plain(1234567), text.plain(0.125), text.plain(None)] == ["1,234,567", "0.125", "-"]
    assert {show(10**299) for show in (text.whole, text.plain, text.number)} == {"1.00e+299"}
    assert [text.percent(1.8449), text.percent(0.0001), text.percent(None)] == ["1.84", "0.00", "-"]
    shown = [text.duration(value) for value in (2e-9, 0.00125, 0.9999, 90, None)]
    assert shown == ["2.00ns", "1.25ms", "1.00s", "90.0s", "-"]
