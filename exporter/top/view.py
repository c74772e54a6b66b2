# SPDX-License-Identifier: Apache-2.0
"""What is on the screen, and what keys do to it. No terminal is needed: keys come in by name, lines go out as text."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from exporter.top import content, rates, text
from exporter.top.answers import Probes, Series
from exporter.top.rates import ProbeRate
from exporter.top.table import Order, Row, Table, matching, ordered, render

TITLE, HEAD, ROW, SELECTED, BAD, ALERT, DETAIL, KEYS = "title head row selected bad alert detail keys".split()

_DETAILS = 4  # lines at most, of a screen that has them
_HELP = """\
Up Down PgUp PgDn Home End   move
Enter                        the series of a probe
Esc Backspace                clear the filter; back to all probes
Tab                          the probe's next table, if it has metrics with other labels
< >  Left Right              sort by the column before, or after
r                            sort the other way round
/                            show only rows that have a text in their words
p Space                      pause, go on
? h                          this help
q Ctrl-C                     quit

EVENTS/S are runs of a probe's programs, NS/EVENT what one takes, and %CORE all of them, of one processor.
MISSED are events that the kernel did not show. (other) is what has no series of its own."""


@dataclass(frozen=True)
class Line:
    """A line of the screen, as wide as that is, and how it is drawn: by one of the names above."""

    text: str
    style: str


@dataclass
class View:
    """The state of the screen. probe: whose series are shown; empty: all probes.

    quits: it is to end. alert is what is wrong with the exporter; answered, when it was last well, as Unix time.
    """

    place: str
    interval: float
    probe: str = ""
    encoding: str = "utf-8"
    paused: bool = False
    help: bool = False
    typing: bool = False
    quits: bool = False
    alert: str = ""
    answered: float = 0.0
    _filters: dict[str, str] = field(default_factory=dict)  # by probe
    _orders: dict[tuple[str, str], Order] = field(default_factory=dict)  # by probe and table
    _selected: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by probe; none: the first row
    _table: int = 0  # of the probe's
    _top: int = 0  # the first row on the screen
    _page: int = 1  # rows on the screen
    _probes: list[ProbeRate] = field(default_factory=list)
    _before: Probes | Series | None = None
    _now: Probes | Series | None = None
    _tables: list[Table] = field(default_factory=list)

    def take(self, answer: Probes | Series) -> None:
        """Takes what the exporter answered: rates are those since the answer before."""
        if (answer.name if isinstance(answer, Series) else "") != self.probe:
            return  # somebody has gone elsewhere meanwhile
        self.alert, self.answered = "", answer.time
        if isinstance(self._now, type(answer)) and answer.time == self._now.time:
            return  # nothing was read in between
        if isinstance(answer, Probes):
            self._before = self._now if isinstance(self._now, Probes) else None
            self._probes = rates.of_probes(self._before, answer)
            self._tables = [content.of_probes(self._probes)]
        else:
            self._before = self._now if isinstance(self._now, Series) else None
            self._tables = content.of_series(rates.of_series(self._before, answer))
        self._now = answer

    def fail(self, why: str) -> None:
        """The exporter does not answer."""
        self.alert = why

    # -- keys

    def press(self, key: str) -> None:
        """A key: a sign, or a name such as up, enter, escape, backspace, tab, pageup."""
        if self.help:
            self.help = False
            self.quits = key == "q"
        elif self.typing:
            self._type(key)
        elif key in ("up", "down", "pageup", "pagedown", "home", "end"):
            self._move(key)
        elif key in ("<", "left", ">", "right"):
            self._sort_by(-1 if key in ("<", "left") else 1)
        elif key == "r":
            self._set_order(dataclasses.replace(self._order, reverse=not self._order.reverse))
        elif key == "tab" and self._tables:
            self._table, self._top = (self._table + 1) % len(self._tables), 0
            self._selected.pop(self.probe, None)
        elif key == "enter" and not self.probe:
            self._open()
        elif key in ("escape", "backspace"):
            self._back()
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "/":
            self.typing = True
        elif key in ("?", "h"):
            self.help = True
        elif key == "q":
            self.quits = True

    def _type(self, key: str) -> None:
        wanted = self._filters.get(self.probe, "")
        if key in ("enter", "escape"):
            self.typing = False
            wanted = wanted if key == "enter" else ""
        elif key == "backspace":
            wanted = wanted[:-1]
        elif len(key) == 1 and key.isprintable():
            wanted += key
        self._filters[self.probe] = wanted
        self._top = 0

    def _move(self, key: str) -> None:
        rows = self._rows()
        if not rows:
            return
        at = self._at(rows)
        steps = {"up": -1, "down": 1, "pageup": -self._page, "pagedown": self._page, "home": -at, "end": len(rows)}
        at = max(0, min(len(rows) - 1, at + steps[key]))
        if at:
            self._selected[self.probe] = rows[at].key
        else:  # whatever comes to be the first
            self._selected.pop(self.probe, None)

    def _sort_by(self, step: int) -> None:
        if self.table is not None:
            self._set_order(Order((self._order.column + step) % len(self.table.columns)))

    def _set_order(self, order: Order) -> None:
        if self.table is not None:
            self._orders[self.probe, self.table.title] = order

    def _open(self) -> None:
        if rows := self._rows():
            self._go(rows[self._at(rows)].key[0])

    def _back(self) -> None:
        if self._filters.get(self.probe):
            self._filters[self.probe] = ""
        elif self.probe:
            self._go("")

    def _go(self, probe: str) -> None:
        self.probe, self.paused = probe, False
        self._before = self._now = None
        self._table = self._top = 0
        self._tables = [] if probe else [content.of_probes(self._probes)]

    # -- what is shown

    @property
    def table(self) -> Table | None:
        return self._tables[self._table % len(self._tables)] if self._tables else None

    @property
    def _order(self) -> Order:
        if self.table is None:
            return Order(0)
        return self._orders.get((self.probe, self.table.title), Order(self.table.sort))

    def _rows(self) -> list[Row]:
        if self.table is None:
            return []
        wanted = self._filters.get(self.probe, "")
        return matching(ordered(self.table, self._order), wanted, self.encoding)

    def _at(self, rows: Sequence[Row]) -> int:
        selected = self._selected.get(self.probe)
        return next((at for at, row in enumerate(rows) if row.key == selected), 0) if selected else 0

    def frame(self, columns: int, lines: int) -> list[Line]:
        """Returns what the screen shows, so many lines of so many columns."""
        if columns < 1 or lines < 1:
            return []
        if self.help:
            shown = [line for one in _HELP.split("\n") for line in text.wrapped(one, columns, 4) or [""]]
            frame = [self._title(columns), *(Line(line, ROW) for line in shown)][: lines - 1]
            return _filled(frame, Line("any key: back", KEYS), columns, lines)
        rows = self._rows()
        at = self._at(rows)
        head = [self._title(columns)]
        if self.alert:
            style, words = ALERT, self._safe(self.alert)
            head += [Line(line, style) for line in text.wrapped(words, columns, max(1, min(3, lines // 4)))]
        details = self._details(rows[at], columns) if rows and lines >= 12 else []
        self._page = max(1, lines - len(head) - 2 - len(details))
        self._top = max(0, min(self._top, at, len(rows) - self._page))
        self._top = max(self._top, at - self._page + 1)
        return _filled([*head, *self._body(rows, at, columns)], self._last(len(rows)), columns, lines, details)

    def _body(self, rows: Sequence[Row], at: int, columns: int) -> list[Line]:
        if self.table is None:
            return [
                Line(
                    "waiting for the exporter" if self._now is None else "it has no series; Esc: how it stands", DETAIL
                )
            ]
        seen = rows[self._top : self._top + self._page]
        head, drawn = render(self.table, seen, self._order, columns, self.encoding)
        body = [Line(head, HEAD)]
        for number, (row, line) in enumerate(zip(seen, drawn, strict=True), self._top):
            body.append(Line(line, SELECTED if number == at else BAD if row.bad else ROW))
        return body

    def _title(self, columns: int) -> Line:
        place = self._safe(self.place)
        what = f"ebpf-exporter  {self._safe(self.probe)}  {place}" if self.probe else f"ebpf-exporter  {place}"
        when = time.strftime("%H:%M:%S", time.localtime(self.answered)) if self.answered else ""
        marks = "  ".join(filter(None, [self._summary(), "PAUSED" if self.paused else "", when]))
        room = columns - text.width(marks) - 1
        return Line(text.fit(f"{text.fit(what, room)} {marks}" if room > 13 else what, columns), TITLE)

    def _summary(self) -> str:
        if len(self._tables) > 1:
            return f"table {self._table + 1} of {len(self._tables)}"
        if self.probe or not self._probes:
            return ""
        bad = sum(row.bad for row in self._tables[0].rows) if self._tables else 0
        percent = sum(one.percent or 0.0 for one in self._probes)
        return f"{len(self._probes)} probes{f', {bad} not well' if bad else ''}  {text.percent(percent)} %core"

    def _details(self, row: Row, columns: int) -> list[Line]:
        """Tells of a row what its line may have no room for."""
        words: list[str] = []
        if self.probe and self.table is not None:
            pairs = zip(self.table.columns, row.cells, strict=True)
            words = [
                "  ".join(f"{self._safe(column.title)} {column.text(cell, self.encoding)}" for column, cell in pairs)
            ]
        elif not self.probe:
            probe = next(one.probe for one in self._probes if one.probe.name == row.key[0])
            how = f"{probe.state}{f' by {probe.mechanism}' if probe.mechanism else ''}"
            words = [f"{probe.name}: {probe.purpose}", f"{how}{f': {probe.reason}' if probe.reason else ''}"]
            words = [self._safe(one) for one in words]
        found = [line for one in words for line in text.wrapped(one, columns, _DETAILS - len(words) + 1)]
        return [Line(line, DETAIL) for line in found[:_DETAILS]]

    def _safe(self, words: str) -> str:
        return text.safe(words, self.encoding)

    def _last(self, rows: int) -> Line:
        wanted = self._safe(self._filters.get(self.probe, ""))
        if self.typing:
            return Line(f"/{wanted}_", KEYS)
        there = len(self.table.rows) if self.table is not None else 0
        shown = f"{rows} of {there} with '{wanted}'  Esc all  " if wanted else ""
        go = "Esc back" if self.probe else "Enter series"
        tab = "  Tab table" if len(self._tables) > 1 else ""
        return Line(f"{shown}q quit  ? help  {go}{tab}  / filter  < > sort  r reverse  p pause", KEYS)


def _filled(frame: Sequence[Line], last: Line, columns: int, lines: int, details: Sequence[Line] = ()) -> list[Line]:
    """Returns a frame of just so many lines: details and the last are at its end, where there is room."""
    under = [*details, last] if lines > 3 else []
    over = list(frame[: lines - len(under)])
    gap = [Line("", ROW)] * (lines - len(over) - len(under))
    return [Line(text.fit(line.text, columns), line.style) for line in (*over, *gap, *under)]
