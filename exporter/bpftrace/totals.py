# SPDX-License-Identifier: Apache-2.0
"""The series of a script's map: what bpftrace shows at each read, made into metrics that a Prometheus can use.

bpftrace's values begin at 0 whenever it is started, a script clears its maps, or deletes keys: so what is kept here is
the sum of all increases, and what is below its last value has begun anew.
"""

import struct
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Protocol

from exporter.bpftrace.output import Entries, Pairs, split
from exporter.metrics.labels import escape
from exporter.metrics.series import Series
from exporter.probe import OTHER, Metric, ScriptMap, Table


class Shown(Protocol):
    """The series of one table, as the page has them."""

    table: Table

    @property
    def overflowed(self) -> int: ...

    @property
    def folded(self) -> int: ...

    @property
    def max_series(self) -> int: ...

    def __len__(self) -> int: ...

    def render(self) -> list[tuple[Metric, bytes]]:
        """Returns the metric with the lines of all its series."""


class OfMap(Shown, Protocol):
    """The series of one map of a script."""

    def take(self, entries: Entries) -> None:
        """Takes all that the map holds now."""

    def forget(self) -> None:
        """The map begins anew: bpftrace was started again."""


def shown(map_: ScriptMap, max_series: int) -> OfMap:
    """Returns the series for a map's metric."""
    kinds: dict[str, Callable[[ScriptMap, int], OfMap]] = {
        "counter": Counters,
        "gauge": Gauges,
        "summary": Summaries,
        "histogram": Histograms,
    }
    return kinds[map_.metric.type](map_, max_series)


class Counters:
    """Counters have the budget that all probes have: ``Series`` takes what each key counted since the last read."""

    def __init__(self, map_: ScriptMap, max_series: int) -> None:
        self.table = Table((map_.metric,))
        self._texts = map_.texts
        # A key that is there twice: two of the kernel's keys that read the same. But where keys are deleted while they
        # are gone through, the kernel begins again from the first, and the same key comes twice.
        self._both = max if map_.deletes else int.__add__
        self._series = Series(self.table, max_series)
        self._last: dict[bytes, int] = {}
        self._places = [(field.offset, field.size - 1) for field in self.table.fields if field.kind]

    @property
    def overflowed(self) -> int:
        return self._series.overflowed

    @property
    def folded(self) -> int:
        return self._series.folded

    @property
    def max_series(self) -> int:
        return self._series.max_series

    def __len__(self) -> int:
        return len(self._series)

    def take(self, entries: Entries) -> None:
        now: dict[bytes, int] = {}
        for key, value in entries:
            if _is_int(value):
                now[key] = self._both(now.get(key, 0), max(value, 0))
        keys, values = bytearray(), bytearray()
        for key, value in now.items():
            before = self._last.get(key, 0)
            if grown := (value - before if value >= before else value) % (1 << 64):
                keys += self._packed(key)
                values += struct.pack("=Q", grown)
        self._last = now
        self._series.add(bytes(keys), bytes(values))
        self._series.settle()

    def _packed(self, key: bytes) -> bytes:
        """Lays a key out as ``Series`` has the keys of the kernel's maps: each part in a field of its own."""
        data = bytearray(self.table.key_size)
        for (offset, size), part in zip(self._places, split(key, self._texts), strict=True):
            data[offset : offset + min(size, len(part))] = part[:size]
        return bytes(data)

    def forget(self) -> None:
        self._last = {}

    def render(self) -> list[tuple[Metric, bytes]]:
        return self._series.render()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Names:
    """Labels of keys as text. Who comes first has a series; when there are as many as there may be, others read
    ``(other)``."""

    def __init__(self, map_: ScriptMap, max_series: int) -> None:
        self.texts = map_.texts
        self.labels = [label.name for label in map_.metric.labels]
        self.max_series = max_series
        self.taken: dict[str, None] = {}
        self.folded = 0
        self.other = ",".join(f'{name}="{OTHER}"' for name in self.labels)

    def own(self, key: bytes) -> str:
        parts = [part.decode("utf-8", "backslashreplace") for part in split(key, self.texts)]
        return ",".join(f'{name}="{escape(part)}"' for name, part in zip(self.labels, parts, strict=True))

    def of(self, key: bytes) -> str:
        text = self.own(key)
        if text not in self.taken:
            if len(self.taken) >= self.max_series:
                self.folded += 1
                return self.other
            self.taken[text] = None
        return text


def _line(name: str, labels: str, value: object) -> str:
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


class _Shown:
    """A map's totals that no ``Series`` keeps: what is shown, by the labels' text."""

    overflowed = 0

    def __init__(self, map_: ScriptMap, max_series: int) -> None:
        self.table = Table((map_.metric,))
        self._names = _Names(map_, max_series)
        self._shown: dict[str, Any] = {}

    @property
    def folded(self) -> int:
        return self._names.folded

    @property
    def max_series(self) -> int:
        return self._names.max_series

    def __len__(self) -> int:
        return len(self._shown)


class Gauges(_Shown):
    """What a map holds now. Keys beyond the budget have no value in common: they are not shown."""

    def take(self, entries: Entries) -> None:
        values: dict[str, Any] = {}
        for key, value in entries:
            text = self._names.own(key)
            if not _is_int(value):
                continue
            if text in values or len(values) < self._names.max_series:
                values[text] = value
            else:
                self._names.folded += 1
        self._shown = values

    def forget(self) -> None:
        self._shown = {}

    def render(self) -> list[tuple[Metric, bytes]]:
        metric = self.table.metrics[0]
        lines = (_line(metric.name, text, value) for text, value in self._shown.items())
        return [(metric, "".join(lines).encode())]


class Summaries(_Shown):
    """stats(): how many, and their sum, which may fall where values are negative; so the count alone says whether the
    map began anew."""

    def __init__(self, map_: ScriptMap, max_series: int) -> None:
        super().__init__(map_, max_series)
        self._deletes = map_.deletes
        self._last: dict[bytes, tuple[int, int]] = {}

    def take(self, entries: Entries) -> None:
        now: dict[bytes, tuple[int, int]] = {}
        for key, value in entries:
            found = dict(value) if isinstance(value, Pairs) else {}
            count, total = found.get("count"), found.get("total")
            if isinstance(count, int) and isinstance(total, int):
                before = now.get(key, (0, 0)) if not self._deletes else (0, 0)
                now[key] = before[0] + count, before[1] + total
        for key, (count, total) in now.items():
            last = self._last.get(key, (0, 0))
            if count < last[0]:
                last = (0, 0)
            if (count, total) != last:
                text = self._names.of(key)
                sums = self._shown.get(text, (0, 0))
                self._shown[text] = sums[0] + count - last[0], sums[1] + total - last[1]
        self._last = now

    def forget(self) -> None:
        self._last = {}

    def render(self) -> list[tuple[Metric, bytes]]:
        metric = self.table.metrics[0]
        lines = (
            _line(f"{metric.name}_sum", text, total) + _line(f"{metric.name}_count", text, count)
            for text, (count, total) in self._shown.items()
        )
        return [(metric, "".join(lines).encode())]


_Counts = dict[float, int]  # by the greatest value that belongs to a bucket; infinity where there is none
_INFINITY = float("inf")
# hist() of bpftrace up to 0.19 knows no more than 32 bits: its last bucket, of all from 2**31 on, reads so
_ABOVE = (-(2**31), 0)


class Histograms(_Shown):
    """hist() and lhist(). Their buckets are of whole numbers from min to max: so max is the bucket's bound, le.

    bpftrace leaves out the empty buckets at both ends. Here all series of a map have the bounds that any of them ever
    had, so that they can be added. There is no sum to be had, so no ``_sum``; and by OpenMetrics, then, no ``_count``.
    """

    def __init__(self, map_: ScriptMap, max_series: int) -> None:
        super().__init__(map_, max_series)
        self._last: dict[bytes, _Counts] = {}
        self._bounds: list[float] = [_INFINITY]

    def take(self, entries: Entries) -> None:
        now: dict[bytes, _Counts] = {}
        for key, value in entries:
            counts = now.setdefault(key, {})
            for bucket in value if isinstance(value, list) else []:
                found = dict(bucket) if isinstance(bucket, Pairs) else {}
                if _is_int(found.get("count")):
                    bound = _bound(found)
                    counts[bound] = counts.get(bound, 0) + found["count"]
        for key, counts in now.items():
            last = self._last.get(key, {})
            if any(counts.get(bound, 0) < count for bound, count in last.items()):
                last = {}
            grown = {bound: count - last.get(bound, 0) for bound, count in counts.items()}
            if not any(grown.values()):
                continue
            totals: _Counts = self._shown.setdefault(self._names.of(key), {})
            for bound, count in grown.items():
                totals[bound] = totals.get(bound, 0) + count
        self._last = now
        self._bounds = sorted({*self._bounds, *(bound for counts in now.values() for bound in counts)})

    def forget(self) -> None:
        self._last = {}

    def render(self) -> list[tuple[Metric, bytes]]:
        metric = self.table.metrics[0]
        les = [f'le="{"+Inf" if bound == _INFINITY else repr(float(bound))}"' for bound in self._bounds]
        lines: list[str] = []
        for text, counts in self._shown.items():
            comma = "," if text else ""
            sums = accumulate(counts.get(bound, 0) for bound in self._bounds)
            lines += [
                f"{metric.name}_bucket{{{text}{comma}{le}}} {total}\n" for le, total in zip(les, sums, strict=True)
            ]
        return [(metric, "".join(lines).encode())]


def _bound(bucket: dict[str, Any]) -> float:
    """``{"min": 4, "max": 7}`` -> 7, which is exact as a float up to 2**53"""
    least, most = bucket.get("min"), bucket.get("max")
    return most if isinstance(most, int) and (least, most) != _ABOVE else _INFINITY
