# SPDX-License-Identifier: Apache-2.0
"""Totals of one table's series, and their lines on the page.

A series has a number; its totals, and for each metric the head of its line, are at that place of a list.
A key of the kernel's map leads to a slot: the series' number for a counter; for a histogram, whose keys hold the bucket
as well, ``number * buckets + bucket``. A read changes some slots, and only the text around those is made again.
"""

import struct
from typing import cast

from exporter.loader.codegen import OVERFLOW_ENTRIES
from exporter.metrics.budget import Budget
from exporter.metrics.labels import KeyText
from exporter.probe import Metric, Table


class Series:
    """The series of a table. ``overflowed`` counts events that found the kernel's map full, ``folded`` the times that a
    key was without a series of its own because of the budget; both end in the series whose unbounded labels read
    ``(other)``. A read is: ``add`` and its like for all that was drained, then ``settle``."""

    def __init__(self, table: Table, max_series: int) -> None:
        self.table = table
        self.overflowed = 0
        self.folded = 0
        first, last = table.metrics[0].exponents
        self._slots = last - first + 2 if table.histogram else 1
        self._bucket_at = next((field.offset for field in table.fields if field.name == "bucket"), 0)
        self._text = KeyText(table)
        # bounded labels are never folded for the budget, only where they turn out not to be bounded at all
        self._limit = max(max_series, OVERFLOW_ENTRIES) if self._text.all_bounded else max_series
        self._budget = Budget(max_series)
        self._of_key: dict[bytes, int] = {}
        self._of_bounded: dict[bytes, int] = {}
        self._of_text: dict[str, int] = {}
        self._keys: list[bytes] = []  # of each series the first key; of an (other) one, none
        self._own: list[int] = []  # numbers of the series that are no (other)
        self._totals: tuple[list[int], ...] = tuple([] for _ in table.values)
        self._columns = [_Column(metric, index) for index, metric in enumerate(table.metrics) if metric.chosen]
        self._changed: set[int] = set()  # since the page was last made
        self._key = struct.Struct(f"{table.key_size}s")
        self._totals_at = range(len(table.values))
        self._bounded_key = struct.Struct(f"{table.bounded_size}s")
        self._over_value = struct.Struct(f"={len(table.values) + 1}Q")
        if not table.labels:  # such a metric is there, with 0, before anything happens
            self._number("", b"")

    def __len__(self) -> int:
        return len(self._of_text)

    def add(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the map: keys and values, packed, equally many."""
        # columns in place of rows: most of the work is then done by loops that are in C
        names = [key for (key,) in self._key.iter_unpack(keys)]
        columns = [memoryview(values).cast("B").cast("Q")[at :: len(self._totals)].tolist() for at in self._totals_at]
        slots = list(map(self._of_key.get, names))
        if None in slots:
            for at, slot in enumerate(slots):
                if slot is None:
                    slots[at] = self._slot_of(names[at], columns[0][at])
        known = cast("list[int]", slots)
        for total, column in zip(self._totals, columns, strict=True):
            for slot, amount in zip(known, column, strict=True):
                total[slot] += amount
        numbers = known if self._slots == 1 else [slot // self._slots for slot in known]
        if self._budget.contested:
            for number, amount in zip(numbers, columns[0], strict=True):
                self._budget.active(number, amount)
        self._changed.update(numbers)

    def add_overflow(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the overflow map; the last of each value's numbers is of events."""
        pairs = zip(self._bounded_key.iter_unpack(keys), self._over_value.iter_unpack(values), strict=True)
        for (key,), (*amounts, events) in pairs:
            self._add(self._bounded_slot(key), amounts)
            self.overflowed += events

    def add_rest(self, value: bytes) -> None:
        """Adds what a drain took out of the last cell: events of which not even the bounded labels are known."""
        *amounts, events = self._over_value.unpack(value)
        if events:
            # of a histogram's event that was counted here the bucket is not known either: above all bounds is true
            self._add(self._number(self._text.other(), b"") * self._slots + self._slots - 1, amounts)
            self.overflowed += events

    def settle(self) -> None:
        """Ends a read: keys that were more active than the least active series take their places.

        What a series that gives way has counted moves to its ``(other)``, so that every sum stays what it was.
        """
        if self._budget.contested:
            winners = self._budget.winners(self._own)
            if winners:
                self._displace(winners)
        self._budget.end_read()

    def _displace(self, winners: list[tuple[bytes, int]]) -> None:
        places: dict[str, tuple[bytes, int]] = {}
        sharing: list[tuple[str, bytes]] = []
        for key, number in winners:
            text = self._text.own(key)
            if text in self._of_text or text in places:  # as the other buckets of a histogram's series have
                sharing.append((text, key))
            else:
                places[text] = key, number
        losers = {number for _, number in places.values()}
        self._of_key = {key: slot for key, slot in self._of_key.items() if slot // self._slots not in losers}
        self._of_text = {text: number for text, number in self._of_text.items() if number not in losers}
        for text, (key, number) in places.items():
            self._fold(number)
            self._of_text[text] = number
            self._keys[number] = key
            self._of_key[key] = self._slot(text, key)
            for column in self._columns:
                column.heads[number] = column.head(text)
            self._changed.add(number)
        for text, key in sharing:
            if text in self._of_text:  # else that series has just given way: the key stays a stranger
                self._of_key[key] = self._slot(text, key)

    def _fold(self, number: int) -> None:
        """Moves all that a series has counted to its ``(other)``."""
        other = self._bounded_slot(self._keys[number][: self.table.bounded_size]) // self._slots
        for total in self._totals:
            for bucket in range(self._slots):
                total[other * self._slots + bucket] += total[number * self._slots + bucket]
                total[number * self._slots + bucket] = 0
        self._changed.add(other)

    def _add(self, slot: int, amounts: list[int]) -> None:
        for total, amount in zip(self._totals, amounts, strict=True):
            total[slot] += amount
        self._changed.add(slot // self._slots)

    def _slot_of(self, key: bytes, amount: int) -> int:
        """Returns the slot of a key that had none: its own, if the budget has room, else that of its ``(other)``."""
        if len(self._own) >= self._limit and not self._shares(key):
            self.folded += 1
            if self._text.all_bounded:  # its bounded labels alone would be the series that there is no room for
                return self._number(self._text.other(), b"") * self._slots + self._bucket(key)
            self._budget.seen(key, amount)
            return self._bounded_slot(key[: self.table.bounded_size])
        slot = self._of_key[key] = self._slot(self._text.own(key), key)
        return slot

    def _shares(self, key: bytes) -> bool:
        """Whether a key belongs to a series that is there: of a histogram each bucket is a key of its own."""
        return self._slots > 1 and self._text.own(key) in self._of_text

    def _bounded_slot(self, key: bytes) -> int:
        slot = self._of_bounded.get(key)
        if slot is None:
            if len(self._of_bounded) >= OVERFLOW_ENTRIES:  # what is called bounded is not: nothing of it is known then
                return self._number(self._text.other(), b"") * self._slots + self._bucket(key)
            text = self._text.bounded(key)
            slot = self._of_bounded[key] = self._number(text, b"") * self._slots + self._bucket(key)
        return slot

    def _slot(self, text: str, key: bytes) -> int:
        return self._number(text, key) * self._slots + self._bucket(key)

    def _bucket(self, key: bytes) -> int:
        return min(key[self._bucket_at], self._slots - 1) if self._slots > 1 else 0

    def _number(self, text: str, key: bytes) -> int:
        """Returns the number of the series with these labels; makes it, for this key, where there is none."""
        number = self._of_text.get(text)
        if number is None:
            number = self._of_text[text] = len(self._keys)
            self._keys.append(key)
            if key:
                self._own.append(number)
            for total in self._totals:
                total.extend([0] * self._slots)
            for column in self._columns:
                column.heads.append(column.head(text))
            self._changed.add(number)
        return number

    def render(self) -> list[tuple[Metric, bytes]]:
        """Returns each metric with the lines of all its series."""
        if self._changed:
            for column in self._columns:
                column.update(self._changed, self._totals)
            self._changed.clear()
        return [(column.metric, column.body()) for column in self._columns]


_BLOCK = 16  # series; of what did not change, the text is kept in pieces of so many


class _Column:
    """The lines of one metric, kept as text by blocks of series: where one changed, its block is made again."""

    def __init__(self, metric: Metric, index: int) -> None:
        self.metric = metric
        self.heads: list[str] = []
        self._index = index
        self._blocks: list[bytes] = []
        self._body: bytes | None = b""
        first, last = metric.exponents
        self._bounds = [f'le="{2**exponent * metric.scale!r}"' for exponent in range(first, last + 1)] + ['le="+Inf"']

    def head(self, labels: str) -> str:
        """Returns what a series' lines are made from: 'name{labels} ' or, of a histogram, the labels."""
        if self.metric.type == "histogram":
            return labels
        return f"{self.metric.name}{{{labels}}} " if labels else f"{self.metric.name} "

    def update(self, changed: set[int], totals: tuple[list[int], ...]) -> None:
        """Makes the blocks of the changed series again."""
        lines = self._histograms if self.metric.type == "histogram" else self._numbers
        self._blocks.extend([b""] * (-(-len(self.heads) // _BLOCK) - len(self._blocks)))
        for block in {number // _BLOCK for number in changed}:
            self._blocks[block] = "".join(lines(block * _BLOCK, block * _BLOCK + _BLOCK, totals)).encode()
        self._body = None

    def _numbers(self, start: int, end: int, totals: tuple[list[int], ...]) -> list[str]:
        pairs = zip(self.heads[start:end], totals[self._index][start:end], strict=True)
        if self.metric.scale == 1:
            return [f"{head}{total}\n" for head, total in pairs]
        return [f"{head}{total * self.metric.scale!r}\n" for head, total in pairs]

    def _histograms(self, start: int, end: int, totals: tuple[list[int], ...]) -> list[str]:
        counts, sums = totals
        name, scale, slots = self.metric.name, self.metric.scale, len(self._bounds)
        lines: list[str] = []
        for number, labels in enumerate(self.heads[start:end], start):
            comma, braced = ("," if labels else ""), (f"{{{labels}}}" if labels else "")
            own = slice(number * slots, number * slots + slots)
            running = 0
            for bound, count in zip(self._bounds, counts[own], strict=True):
                running += count
                lines.append(f"{name}_bucket{{{labels}{comma}{bound}}} {running}\n")
            total = sum(sums[own])
            lines.append(f"{name}_sum{braced} {total if scale == 1 else repr(total * scale)}\n")
            lines.append(f"{name}_count{braced} {running}\n")
        return lines

    def body(self) -> bytes:
        """Returns all lines."""
        if self._body is None:
            self._body = b"".join(self._blocks)
        return self._body
