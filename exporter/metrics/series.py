# SPDX-License-Identifier: Apache-2.0
"""Totals of one table's series, and their lines on the page.

A series has a number; its totals, and for each metric the head of its line and the line, are at that place of a list.
A key of the kernel's map leads to a slot: the series' number for a counter; for a histogram, whose keys hold the bucket
as well, ``number * buckets + bucket``. A read changes some slots, and only the lines of those are made again.
"""

import struct

from exporter.metrics.labels import KeyText
from exporter.probe import Metric, Table


class Series:
    """The series of a table. ``overflowed`` counts events that found the kernel's map full, ``folded`` keys without
    a series of their own because of the budget; both end in the series whose unbounded labels read ``(other)``."""

    def __init__(self, table: Table, max_series: int) -> None:
        self.table = table
        self.overflowed = 0
        self.folded = 0
        self._max_series = max_series
        self._own = 0
        first, last = table.metrics[0].exponents
        self._slots = last - first + 2 if table.histogram else 1
        self._bucket_at = next((field.offset for field in table.fields if field.name == "bucket"), 0)
        self._text = KeyText(table)
        self._of_key: dict[bytes, int] = {}
        self._of_bounded: dict[bytes, int] = {}
        self._of_text: dict[str, int] = {}
        self._totals: tuple[list[int], ...] = tuple([] for _ in table.values)
        self._columns = [_Column(metric, index) for index, metric in enumerate(table.metrics) if metric.chosen]
        self._changed: set[int] = set()
        self._keys = struct.Struct(f"{table.key_size}s")
        self._values = struct.Struct(f"={len(table.values)}Q")
        self._bounded_keys = struct.Struct(f"{table.bounded_size}s")
        self._over_values = struct.Struct(f"={len(table.values) + 1}Q")
        self._rest = (0,) * (len(table.values) + 1)
        if not table.labels:  # such a metric is there, with 0, before anything happens
            self._number("")

    def __len__(self) -> int:
        return len(self._of_text)

    def add(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the map: keys and values, packed, equally many."""
        of_key, totals, slots, changed = self._of_key, self._totals, self._slots, self._changed
        for (key,), amounts in zip(self._keys.iter_unpack(keys), self._values.iter_unpack(values), strict=True):
            slot = of_key.get(key)
            if slot is None:
                slot = self._admit(key)
            for total, amount in zip(totals, amounts, strict=True):
                total[slot] += amount
            changed.add(slot // slots)

    def add_overflow(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the overflow map; the last of each value's numbers is of events."""
        pairs = zip(self._bounded_keys.iter_unpack(keys), self._over_values.iter_unpack(values), strict=True)
        for (key,), (*amounts, events) in pairs:
            self._add(self._bounded_slot(key), amounts)
            self.overflowed += events

    def set_rest(self, values: bytes) -> None:
        """Adds what the last cell, which only grows, holds more than at the last call."""
        rest = self._over_values.unpack(values)
        *amounts, events = (now - before for now, before in zip(rest, self._rest, strict=True))
        if events:
            # of a histogram's event that was counted here the bucket is not known either: above all bounds is true
            self._add(self._number(self._text.other()) * self._slots + self._slots - 1, amounts)
            self.overflowed += events
            self._rest = rest

    def _add(self, slot: int, amounts: list[int]) -> None:
        for total, amount in zip(self._totals, amounts, strict=True):
            total[slot] += amount
        self._changed.add(slot // self._slots)

    def _admit(self, key: bytes) -> int:
        """Returns the slot of a key seen for the first time: its own, if the budget has room, else the other's."""
        text = self._text.own(key)
        if text not in self._of_text:
            if self._own >= self._max_series:
                self.folded += 1
                return self._bounded_slot(key[: self.table.bounded_size])
            self._own += 1
        slot = self._slot(text, key)
        self._of_key[key] = slot
        return slot

    def _bounded_slot(self, key: bytes) -> int:
        slot = self._of_bounded.get(key)
        if slot is None:
            slot = self._of_bounded[key] = self._slot(self._text.bounded(key), key)
        return slot

    def _slot(self, text: str, key: bytes) -> int:
        bucket = min(key[self._bucket_at], self._slots - 1) if self._slots > 1 else 0
        return self._number(text) * self._slots + bucket

    def _number(self, text: str) -> int:
        number = self._of_text.get(text)
        if number is None:
            number = self._of_text[text] = len(self._of_text)
            for total in self._totals:
                total.extend([0] * self._slots)
            for column in self._columns:
                column.append(text)
            self._changed.add(number)
        return number

    def render(self) -> list[tuple[Metric, str]]:
        """Returns each metric with the lines of all its series."""
        for column in self._columns:
            if not self._changed:
                break
            if self.table.histogram:
                column.update_histograms(self._changed, self._totals, self._slots)
            else:
                column.update(self._changed, self._totals)
        self._changed.clear()
        return [(column.metric, column.body()) for column in self._columns]


class _Column:
    """The lines of one metric."""

    def __init__(self, metric: Metric, index: int) -> None:
        self.metric = metric
        self._index = index
        self._heads: list[str] = []  # 'name{labels} ' or, of a histogram, 'labels,'
        self._lines: list[str] = []
        self._body: str | None = ""
        first, last = metric.exponents
        self._bounds = [f'le="{2**exponent * metric.scale!r}"' for exponent in range(first, last + 1)] + ['le="+Inf"']

    def append(self, labels: str) -> None:
        if self.metric.type == "histogram":
            self._heads.append(labels)
        else:
            self._heads.append(f"{self.metric.name}{{{labels}}} " if labels else f"{self.metric.name} ")
        self._lines.append("")

    def update(self, changed: set[int], totals: tuple[list[int], ...]) -> None:
        lines, heads, total = self._lines, self._heads, totals[self._index]
        scale = self.metric.scale
        for number in changed:
            amount = total[number] if scale == 1 else repr(total[number] * scale)
            lines[number] = f"{heads[number]}{amount}\n"
        self._body = None

    def update_histograms(self, changed: set[int], totals: tuple[list[int], ...], slots: int) -> None:
        counts, sums = totals
        name, scale = self.metric.name, self.metric.scale
        for number in changed:
            labels = self._heads[number]
            comma, braced = ("," if labels else ""), (f"{{{labels}}}" if labels else "")
            start, running, lines = number * slots, 0, []
            for bound, count in zip(self._bounds, counts[start : start + slots], strict=True):
                running += count
                lines.append(f"{name}_bucket{{{labels}{comma}{bound}}} {running}\n")
            total = sum(sums[start : start + slots])
            lines.append(f"{name}_sum{braced} {total if scale == 1 else repr(total * scale)}\n")
            lines.append(f"{name}_count{braced} {running}\n")
            self._lines[number] = "".join(lines)
        self._body = None

    def body(self) -> str:
        if self._body is None:
            self._body = "".join(self._lines)
        return self._body
