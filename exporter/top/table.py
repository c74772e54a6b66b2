# SPDX-License-Identifier: Apache-2.0
"""Tables as text: which rows in which order, and what of them fits into a line. Pure functions over frozen values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.top import text

Cell = str | float | None
GAP = "  "


def _words(value: Cell) -> str:
    return value if isinstance(value, str) else text.plain(value)


@dataclass(frozen=True)
class Column:
    """A column of words, or of numbers: these are to the right, and sorted with the largest first.

    show makes a cell's text of what is not words. Where there is no room, words are cut down to so many columns as
    least says; then the column with the highest rank gives way.
    """

    title: str
    show: Callable[[float | None], str] | None = None
    rank: int = 0
    least: int = 8

    @property
    def of_numbers(self) -> bool:
        return self.show is not None

    def text(self, value: Cell, encoding: str = "utf-8") -> str:
        if isinstance(value, str):
            return text.safe(value, encoding)
        return self.show(value) if self.show is not None else _words(value)


class Row(NamedTuple):  # of which there are thousands
    """A row, by what tells it from others."""

    key: tuple[str, ...]
    cells: tuple[Cell, ...]
    bad: bool = False


@dataclass(frozen=True)
class Table:
    """Rows in the order that they have where a column has no other; sort is the column that they are sorted by."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sort: int = 0


@dataclass(frozen=True)
class Order:
    """By which column rows are sorted, and whether the other way round."""

    column: int
    reverse: bool = False


def ordered(table: Table, order: Order) -> list[Row]:
    """Returns the rows, sorted: numbers the largest first, words by the alphabet; what is not known is last."""
    column = table.columns[order.column]
    at = order.column
    known = [row for row in table.rows if _is_known(row.cells[at])]
    unknown = [row for row in table.rows if not _is_known(row.cells[at])]
    if column.of_numbers:
        known.sort(key=lambda row: row.cells[at], reverse=not order.reverse)  # type: ignore[arg-type,return-value]
    else:
        known.sort(key=lambda row: str(row.cells[at]).casefold(), reverse=order.reverse)
    return known + unknown


def _is_known(cell: Cell) -> bool:
    return cell is not None and not (isinstance(cell, float) and math.isnan(cell))


def matching(rows: Sequence[Row], wanted: str, encoding: str = "utf-8") -> list[Row]:
    """Returns the rows in one of whose words this text is, as they are shown, in capitals or not."""
    if not wanted:
        return list(rows)
    wanted = wanted.casefold()
    return [
        row
        for row in rows
        if any(isinstance(cell, str) and wanted in text.safe(cell, encoding).casefold() for cell in row.cells)
    ]


def render(
    table: Table, rows: Sequence[Row], order: Order, columns: int | None = None, encoding: str = "utf-8"
) -> tuple[str, list[str]]:
    """Returns the head and a line for each row, all of so many columns; None: as wide as they are.

    Where there is less room, words are cut, the longest first, and then whole columns give way.
    """
    chosen = list(range(len(table.columns)))
    titles = [_title(table.columns[at], order if at == order.column else None, encoding) for at in chosen]
    cells = [[table.columns[at].text(row.cells[at], encoding) for at in chosen] for row in rows]
    widths = [max(map(text.width, (titles[at], *(line[at] for line in cells)))) for at in chosen]
    if columns is not None:
        chosen, widths = _fitted(table.columns, titles, widths, columns)
    lines = [_line(table.columns, chosen, widths, line, columns) for line in (titles, *cells)]
    return lines[0], lines[1:]


def _title(column: Column, order: Order | None, encoding: str) -> str:
    """Marks the column that rows are sorted by: ``v`` where it falls, ``^`` where it rises."""
    title = text.safe(column.title, encoding)
    if order is None:
        return title
    return f"{title}{'^' if order.reverse == column.of_numbers else 'v'}"


def _fitted(
    columns: Sequence[Column], titles: Sequence[str], natural: Sequence[int], room: int
) -> tuple[list[int], list[int]]:
    """Returns the columns that there is room for, and the widths of all."""
    chosen = list(range(len(columns)))
    widths = list(natural)
    least = [
        width if column.of_numbers else min(width, max(column.least, text.width(title)))
        for column, title, width in zip(columns, titles, natural, strict=True)
    ]
    while len(chosen) > 1 and _taken(chosen, least) > room:
        chosen.remove(max(chosen, key=lambda at: (columns[at].rank, at)))
    while (over := _taken(chosen, widths) - room) > 0:
        cut = [at for at in chosen if widths[at] > least[at]]
        if not cut:
            widths[chosen[0]] = max(0, widths[chosen[0]] - over)
            break
        longest = max(cut, key=lambda at: widths[at])
        second = max((widths[at] for at in cut if at != longest), default=0)
        widths[longest] = max(least[longest], widths[longest] - over, min(second, widths[longest] - 1))
    return chosen, widths


def _taken(chosen: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[at] for at in chosen) + len(GAP) * (len(chosen) - 1)


def _line(
    columns: Sequence[Column], chosen: Sequence[int], widths: Sequence[int], cells: Sequence[str], room: int | None
) -> str:
    line = GAP.join(text.fit(cells[at], widths[at], columns[at].of_numbers) for at in chosen)
    return line.rstrip(" ") if room is None else text.fit(line, room)
