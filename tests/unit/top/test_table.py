# SPDX-License-Identifier: Apache-2.0
"""top/table.py: the order of rows, and what fits into a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.top import text
from exporter.top.table import Column, Order, Row, Table, matching, ordered, render

COLUMNS = (Column("NAME"), Column("RATE", text.number), Column("TOTAL", text.plain, rank=1), Column("WHY", rank=2))
ROWS = (
    Row(("b",), ("beta", 5.0, 10, "")),
    Row(("a",), ("Alpha", None, 30, "a long reason for it")),
    Row(("c",), ("gamma", 7.0, 20, "")),
    Row(("d",), ("delta", float("nan"), 20, "")),
)
TABLE = Table("t", COLUMNS, ROWS, sort=1)


@pytest.mark.parametrize(
    ("order", "keys"),
    [
        (Order(1), "cbad"),  # the largest first; what is not known last,
        (Order(1, reverse=True), "bcad"),  # either way
        (Order(2), "acdb"),  # of equal ones the order of the table
        (Order(0), "abdc"),  # words by the alphabet, capitals or not
        (Order(0, reverse=True), "cdba"),
    ],
)
def test_ordered(order: Order, keys: str) -> None:
    """Numbers fall, words rise, and the other way round."""
    assert "".join(row.key[0] for row in ordered(TABLE, order)) == keys


def test_matching() -> None:
    """A text anywhere in the words of a row, as they are shown; not in its numbers."""
    assert [row.key[0] for row in matching(ROWS, "LONG REASON")] == ["a"]
    assert matching(ROWS, "30") == []
    assert matching(ROWS, "") == list(ROWS)
    hidden = Row(("x",), ("a\x1bb",))
    assert matching([hidden], r"\x1b") == [hidden]


def test_as_wide_as_it_is() -> None:
    """Without a limit all is shown; numbers are to the right, and the sorted column is marked."""
    assert render(TABLE, ROWS, Order(1)) == (
        "NAME   RATEv  TOTAL  WHY",
        [
            "beta    5.00     10",
            "Alpha      -     30  a long reason for it",
            "gamma   7.00     20",
            "delta      -     20",
        ],
    )
    assert render(TABLE, (), Order(0))[0] == "NAME^  RATE  TOTAL  WHY"
    assert render(TABLE, (), Order(1, reverse=True))[0] == "NAME  RATE^  TOTAL  WHY"


@pytest.mark.parametrize(
    ("columns", "head", "line"),
    [
        (36, "NAME   RATEv  TOTAL  WHY           ", "Alpha      -     30  a long reason …"),
        (30, "NAME   RATEv  TOTAL  WHY      ", "Alpha      -     30  a long r…"),
        (28, "NAME   RATEv  TOTAL         ", "Alpha      -     30         "),
        (15, "NAME   RATEv   ", "Alpha      -   "),
        (11, "NAME       ", "Alpha      "),
        (3, "NA…", "Al…"),
    ],
)
def test_less_room(columns: int, head: str, line: str) -> None:
    """Words are cut first, then columns give way, the least important first; the first one stays."""
    assert render(TABLE, ROWS[1:2], Order(1), columns) == (head.ljust(columns), [line])


NAMES = st.text(st.characters(exclude_categories=()), max_size=30)


@given(st.lists(st.tuples(NAMES, NAMES, st.floats()), max_size=5), st.integers(1, 60))
def test_each_line_is_as_wide(found: list[tuple[str, str, float]], columns: int) -> None:
    """Whatever the names are, every line has the width that it is to have."""
    columns_ = (Column("A"), Column("漢字"), Column("N", text.number))
    rows = [Row((str(at),), one) for at, one in enumerate(found)]
    table = Table("t", columns_, tuple(rows))
    head, lines = render(table, rows, Order(0), columns)
    assert {text.width(line) for line in (head, *lines)} == {columns}


def test_wide_signs_keep_columns_in_line() -> None:
    """Signs of two columns, and of none, take the room that they have on a terminal."""
    rows = [Row(("1",), ("漢字", 1.0)), Row(("2",), ("e\u0301", 2.0)), Row(("3",), ("abcd", 3.0))]
    table = Table("t", COLUMNS[:2], tuple(rows))
    assert render(table, rows, Order(0))[1] == ["漢字   1.00", "e\u0301      2.00", "abcd   3.00"]
