# SPDX-License-Identifier: Apache-2.0
"""Totals of one table's series, and their lines on the page.

A series has a number; its totals are at that place of an array, its lines at that place of a template.
A key of the kernel's map leads to a slot: the series' number for a counter; for a histogram, whose keys hold the bucket
as well, ``number * buckets + bucket``. A read changes some slots, and only the text around those is made again.
"""

import struct
from array import array
from collections.abc import Iterable, MutableSequence
from itertools import accumulate
from typing import Literal, cast

from exporter import places
from exporter.metrics.budget import Budget
from exporter.metrics.labels import KeyText
from exporter.probe import Metric, Table


class Series:
    """The series of a table. ``overflowed`` counts events that found the kernel's map full, ``folded`` the times that a
    key was without a series of its own because of the budget; both end in the series whose unbounded labels read
    ``(other)``. A read is: ``begin``, ``add`` and its like for all that was drained, then ``settle``."""

    def __init__(self, table: Table, max_series: int) -> None:
        self.table = table
        self.overflowed = 0
        self.folded = 0
        self._slots = len(table.metrics[0].bounds) + 1 if table.histogram else 1
        self._bucket_at = next((field.offset for field in table.fields if field.name == "bucket"), 0)
        self._text = KeyText(table)
        self._merges = self._slots > 1 or any(label.kind.merges for label in table.labels)
        # besides (other); bounded labels are never folded for the budget, only where they turn out not to be bounded
        self.max_series = max(max_series, table.combinations) if self._text.all_bounded else max_series
        self._budget = Budget(max_series)
        self._of_key: dict[bytes, int] = {}
        self._of_bounded: dict[bytes, int] = {}
        self._of_text: dict[str, int] = {}
        self._keys: list[bytes] = []  # of each series the first key; of an (other) one, none
        self._own: list[int] = []  # numbers of the series that are no (other)
        # arrays, for of numbers that lie side by side more are in the processor's caches
        self._code: Literal["q", "Q"] = "q" if table.keep else "Q"
        self._fresh = _UNSET if table.keep else 0
        self._totals: list[MutableSequence[int]] = [array(self._code) for _ in table.values]
        self._columns = [_Column(metric, index) for index, metric in enumerate(table.metrics) if metric.chosen]
        self._changed: set[int] = set()  # since the page was last made
        self._told = 0  # the version of what was told, by which keys were decoded
        self._waiting: dict[bytes, list[int]] = {}  # amounts of keys whose texts are not known yet
        self._waiting_overflow: dict[bytes, list[int]] = {}
        self._key = struct.Struct(f"{table.key_size}s")
        self._totals_at = range(len(table.values))
        self._bounded_key = struct.Struct(f"{table.bounded_size}s")
        self._over_value = struct.Struct(f"={len(table.values)}{self._code}Q")
        if not table.labels and not table.keep:  # such a metric is there, with 0, before anything happens
            self._number("", b"")

    def rename(self, table: Table) -> None:
        """Knows more names of rules from now on: the table is the same but for them."""
        self.table = table
        self._text = KeyText(table)

    def __len__(self) -> int:
        return len(self._of_text)

    def begin(self) -> None:
        """Begins a read: what waited for a name, and has one now, is added."""
        if self._told != places.PLACES.version and self._text.told:
            self._told = places.PLACES.version
            self._of_key.clear()  # their series are found again, by other texts where those have changed
            self._of_bounded.clear()
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._add_columns(list(waiting), list(map(list, zip(*waiting.values(), strict=True))))
        if self._waiting_overflow:
            overflow, self._waiting_overflow = self._waiting_overflow, {}
            for key, amounts in overflow.items():
                self._add_over(key, amounts)

    def add(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the map: keys and values, packed, equally many."""
        # columns in place of rows: most of the work is then done by loops that are in C
        names = [key for (key,) in self._key.iter_unpack(keys)]
        columns = [
            memoryview(values).cast("B").cast(self._code)[at :: len(self._totals)].tolist() for at in self._totals_at
        ]
        self._add_columns(names, columns)

    def _add_columns(self, names: list[bytes], columns: list[list[int]]) -> None:
        slots = list(map(self._of_key.get, names))
        if None in slots:
            if self._text.told:
                names, slots, columns = self._keep_back(names, slots, columns)
            for at, slot in enumerate(slots):
                if slot is None:
                    slots[at] = self._slot_of(names[at], columns[0][at])
        known = cast("list[int]", slots)
        for at, column in enumerate(columns):
            self._plus(at, zip(known, column, strict=True))
        numbers = known if self._slots == 1 else [slot // self._slots for slot in known]
        if self._budget.contested:
            self._budget.active(numbers, columns[0])
        self._changed.update(numbers)

    def add_overflow(self, keys: bytes | memoryview, values: bytes | memoryview) -> None:
        """Adds what a drain took out of the overflow map; the last of each value's numbers is of events."""
        pairs = zip(self._bounded_key.iter_unpack(keys), self._over_value.iter_unpack(values), strict=True)
        for (key,), amounts in pairs:
            self._add_over(key, list(amounts))

    def _add_over(self, key: bytes, amounts: list[int]) -> None:
        if self._waits(self._waiting_overflow, key):
            self._wait(self._waiting_overflow, key, amounts)
            return
        self._add(self._bounded_slot(key), amounts[:-1])
        self.overflowed += amounts[-1]

    def _keep_back(
        self, names: list[bytes], slots: list[int | None], columns: list[list[int]]
    ) -> tuple[list[bytes], list[int | None], list[list[int]]]:
        """Returns what is to be added now; keeps the rest, of which a name is still to be told."""
        now: list[int] = []
        for at, (key, slot) in enumerate(zip(names, slots, strict=True)):
            if slot is None and self._waits(self._waiting, key):
                self._wait(self._waiting, key, [column[at] for column in columns])
            else:
                now.append(at)
        if len(now) == len(names):
            return names, slots, columns
        return [names[at] for at in now], [slots[at] for at in now], [[column[at] for at in now] for column in columns]

    def _waits(self, waiting: dict[bytes, list[int]], key: bytes) -> bool:
        if key in waiting:  # what comes later is added later
            return True
        return self._text.told and len(waiting) < _MOST_WAITING and not self._text.settled(key)

    def _wait(self, waiting: dict[bytes, list[int]], key: bytes, amounts: list[int]) -> None:
        if (before := waiting.get(key)) is None:
            waiting[key] = amounts
            return
        for at, amount in enumerate(amounts):
            if not self.table.keep or at == len(self._totals):  # the last of an overflow are events
                before[at] += amount
            else:
                before[at] = amount if self.table.keep == "last" else max(before[at], amount)

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
        if self._merges and len(self._of_key) > _MOST_KEYS + self.max_series * self._slots:
            self._of_key.clear()  # their series are found again by their text

    def _displace(self, winners: list[tuple[bytes, int]]) -> None:
        taken: dict[str, tuple[bytes, int]] = {}
        sharing: list[tuple[str, bytes]] = []
        for key, number in winners:
            text = self._text.own(key)
            if text in self._of_text or text in taken:  # keys may differ in what is not shown
                sharing.append((text, key))
            else:
                taken[text] = key, number
        losers = {number for _, number in taken.values()}
        # in place: a copy of so large a dict would be memory that is never given back
        for key in [key for key, slot in self._of_key.items() if slot // self._slots in losers]:
            del self._of_key[key]
        for text in [text for text, number in self._of_text.items() if number in losers]:
            del self._of_text[text]
        for text, (key, number) in taken.items():
            self._fold(number)
            self._of_text[text] = number
            self._keys[number] = key
            self._of_key[key] = self._slot(text, key)
            for column in self._columns:
                column.replace(number, text)
            self._changed.add(number)
        for text, key in sharing:
            if text in self._of_text:  # else that series has just given way: the key stays a stranger
                self._of_key[key] = self._slot(text, key)

    def _fold(self, number: int) -> None:
        """Moves all that a series has counted, or a gauge's value, to its ``(other)``."""
        other = self._bounded_slot(self._keys[number][: self.table.bounded_size]) // self._slots
        for at, total in enumerate(self._totals):
            for bucket in range(self._slots):
                self._plus(at, [(other * self._slots + bucket, total[number * self._slots + bucket])])
                self._totals[at][number * self._slots + bucket] = self._fresh
        self._changed.add(other)

    def _add(self, slot: int, amounts: list[int]) -> None:
        for at, amount in enumerate(amounts):
            self._plus(at, [(slot, amount)])
        self._changed.add(slot // self._slots)

    def _plus(self, at: int, amounts: Iterable[tuple[int, int]]) -> None:
        """Adds amounts to slots of one of the values; of a gauge, keeps the last or the largest."""
        total, rest = self._totals[at], iter(amounts)
        if self.table.keep == "last":
            for slot, amount in rest:
                total[slot] = amount
        elif self.table.keep == "max":
            for slot, amount in rest:
                total[slot] = max(total[slot], amount)
        slot = amount = 0
        while True:
            try:
                for slot, amount in rest:
                    total[slot] += amount
                return
            except OverflowError:  # beyond 64 bits it goes on as a list, without bounds
                total = self._totals[at] = list(total)
                total[slot] += amount

    def _slot_of(self, key: bytes, amount: int) -> int:
        """Returns the slot of a key that had none: its own, if the budget has room, else that of its ``(other)``."""
        if len(self._own) >= self.max_series and not self._shares(key):
            self.folded += 1
            if self._text.all_bounded:  # its bounded labels alone would be the series that there is no room for
                return self._number(self._text.other(), b"") * self._slots + self._bucket(key)
            self._budget.seen(self._without_bucket(key), amount)
            return self._bounded_slot(key[: self.table.bounded_size])
        text = self._text.own(key)
        if not self._text.all_bounded and text == self._text.bounded(key):  # whoever calls itself (other)
            slot = self._bounded_slot(key[: self.table.bounded_size])
        else:
            slot = self._slot(text, key)
        self._of_key[key] = slot
        return slot

    def _shares(self, key: bytes) -> bool:
        """Whether a key belongs to a series that is there: of a histogram each bucket is a key of its own, of a systemd
        unit each cgroup."""
        return self._merges and self._text.own(key) in self._of_text

    def _bounded_slot(self, key: bytes) -> int:
        slot = self._of_bounded.get(key)
        if slot is None:
            text = self._text.bounded(key)
            if text not in self._of_text and len(self._of_text) - len(self._own) >= self.table.combinations:
                # what is called bounded is not: nothing of it is known then
                return self._number(self._text.other(), b"") * self._slots + self._bucket(key)
            if len(self._of_bounded) >= _MOST_KEYS:
                self._of_bounded.clear()
            slot = self._of_bounded[key] = self._number(text, b"") * self._slots + self._bucket(key)
        return slot

    def _slot(self, text: str, key: bytes) -> int:
        return self._number(text, key) * self._slots + self._bucket(key)

    def _bucket(self, key: bytes) -> int:
        return min(key[self._bucket_at], self._slots - 1) if self._slots > 1 else 0

    def _without_bucket(self, key: bytes) -> bytes:
        """Returns what all keys of a histogram's series have in common: how active it is, they are together."""
        return key[: self._bucket_at] + b"\0" + key[self._bucket_at + 1 :] if self._slots > 1 else key

    def _number(self, text: str, key: bytes) -> int:
        """Returns the number of the series with these labels; makes it, for this key, where there is none."""
        number = self._of_text.get(text)
        if number is None:
            number = self._of_text[text] = len(self._keys)
            self._keys.append(key)
            if key:
                self._own.append(number)
            for total in self._totals:
                total.extend([self._fresh] * self._slots)
            for column in self._columns:
                column.append(text)
            self._changed.add(number)
        return number

    def render(self) -> list[tuple[Metric, bytes]]:
        """Returns each metric with the lines of all its series."""
        if self._changed:
            for column in self._columns:
                column.update(self._changed, self._totals)
            self._changed.clear()
        return [(column.metric, column.body()) for column in self._columns]


_UNSET = -(2**63)  # of a gauge, which has had no value yet
_MOST_WAITING = 16_384  # keys; what is beyond reads as far as it is known
_MOST_KEYS = 65_536  # of merging series: cgroups come and go
_BLOCK = 16  # series; of what did not change, the text is kept in pieces of so many


class _Column:
    """The lines of one metric, by blocks of series: of each block a template, in which only the values are missing, and
    the text made from it. Where a series changed, the text of its block is made again."""

    def __init__(self, metric: Metric, index: int) -> None:
        self.metric = metric
        self._index = index
        self._count = 0
        self._templates: list[bytes] = []
        self._blocks: list[bytes] = []
        self._body: bytes | None = b""
        self._bounds = [f'le="{le}"' for le in (*metric.les, "+Inf")]
        self._lines = len(self._bounds) + 2 if metric.type == "histogram" else 1

    def append(self, labels: str) -> None:
        """Adds a series with these labels."""
        if self._count % _BLOCK == 0:
            self._templates.append(b"")
            self._blocks.append(b"")
        self._templates[-1] += self._template(labels)
        self._count += 1

    def replace(self, number: int, labels: str) -> None:
        """Gives a series other labels."""
        block, at = divmod(number, _BLOCK)
        lines = self._templates[block].splitlines(keepends=True)
        lines[at * self._lines : (at + 1) * self._lines] = [self._template(labels)]
        self._templates[block] = b"".join(lines)

    def _template(self, labels: str) -> bytes:
        """Returns the lines of a series with a place for each value, as the % operator has them."""
        name, labels = self.metric.name, labels.replace("%", "%%")
        braced, value = f"{{{labels}}}" if labels else "", "%d" if self.metric.scale == 1 else "%a"
        if self.metric.type == "gauge":
            value = "%b"
        if self.metric.type != "histogram":
            return f"{name}{braced} {value}\n".encode()
        comma = "," if labels else ""
        buckets = "".join(f"{name}_bucket{{{labels}{comma}{bound}}} %d\n" for bound in self._bounds)
        return f"{buckets}{name}_sum{braced} {value}\n{name}_count{braced} %d\n".encode()

    def update(self, changed: set[int], totals: list[MutableSequence[int]]) -> None:
        """Makes the blocks of the changed series again."""
        values = {"histogram": self._histograms, "gauge": self._gauges}.get(self.metric.type, self._numbers)
        for block in {number // _BLOCK for number in changed}:
            self._blocks[block] = self._templates[block] % values(block * _BLOCK, totals)
        self._body = None

    def _numbers(self, start: int, totals: list[MutableSequence[int]]) -> tuple[float, ...]:
        values = tuple(totals[self._index][start : start + _BLOCK])
        return values if self.metric.scale == 1 else tuple(value * self.metric.scale for value in values)

    def _gauges(self, start: int, totals: list[MutableSequence[int]]) -> tuple[bytes, ...]:
        scale = self.metric.scale
        return tuple(
            b"NaN" if value == _UNSET else b"%d" % value if scale == 1 else repr(value * scale).encode()
            for value in totals[self._index][start : start + _BLOCK]
        )

    def _histograms(self, start: int, totals: list[MutableSequence[int]]) -> tuple[float, ...]:
        (counts, sums), slots = totals, len(self._bounds)
        values: list[float] = []
        for number in range(start, min(start + _BLOCK, self._count)):
            own = slice(number * slots, number * slots + slots)
            values.extend(accumulate(counts[own]))
            total = sum(sums[own])
            values += [total if self.metric.scale == 1 else total * self.metric.scale, values[-1]]
        return tuple(values)

    def body(self) -> bytes:
        """Returns all lines."""
        if self._body is None:
            self._body = b"".join(self._blocks)
        return self._body
