# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes are in the kernel's maps, by every kind of label: the page is good, and its sums are those counted."""

import dataclasses
import math
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from exporter import cgroups, kinds, places, symbols, users
from exporter.cgroups import Paths
from exporter.metrics.exposition import OPENMETRICS, TEXT, page
from exporter.metrics.series import Series
from exporter.places import LONG_PATIENCE, Place, Places
from exporter.probe import MAX_RULE_NAMES, Label, Metric, Table, powers_of_two

from ..support import samples

KEYS = 25 * int(os.environ.get("EBPF_EXPORTER_TEST_FUZZ", "2000"))  # in CI a million
READS = 6  # of each table
AGAIN = 50  # keys that come again, so that they take the places of others
NAMED = 64  # numbers of each sort that have a name

KINDS = (
    *(kinds.parse(name) for name in kinds.SIMPLE if name != "rule"),
    # the kernel has numbers of rules from those who gave them names
    dataclasses.replace(kinds.parse("rule"), values=tuple(f"{number}" for number in range(MAX_RULE_NAMES))),
    *(kinds.parse(f"string({size})") for size in (2, 3, 16, 64, kinds.MAX_STRING)),
    kinds.parse(["read", "write"]),
    kinds.parse([f'"{number}\n' for number in range(255)]),
)
# what is special in a label, a page, or UTF-8; and nothing else
SPECIAL = b'"\\\n\r\t{},=# %\0\x1b\x7f\x85\xc2\xc3\xa9\xe2\x80\xa8\xa9\xed\xf0\x9f\xff' * 10
LINE = re.compile(r'ebpf_\w+(\{\w+="([^"\\\n]|\\["\\n])*"(,\w+="([^"\\\n]|\\["\\n])*")*\})? (\d+|NaN|[-\d.e+]+)')


@dataclass
class Clock:
    """The time by which what is not told is waited for."""

    seconds: float = 0.0


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Has users, cgroups, interfaces and containers be called by any bytes, some of them; all else is not told."""
    clock = Clock()
    chance = Random(7)
    lines = [b"%s:x:%d:0::/:/bin/sh" % (name(chance).replace(b":", b""), number) for number in range(NAMED)]
    (tmp_path / "passwd").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(users, "PASSWD", tmp_path / "passwd")
    paths = Paths()
    monkeypatch.setattr(paths, "walk", lambda: None)
    for number in range(NAMED):
        paths.learn(number, chance.choice((b"/", b"/a.slice/b.service/", b"/lxc.payload.")) + name(chance))
    monkeypatch.setattr(cgroups, "PATHS", paths)
    found = Places(clock=lambda: clock.seconds)
    texts = [name(chance).decode("utf-8", "backslashreplace") for _ in range(3 * NAMED)]
    found.learn(
        {number: Place(texts[number], texts[NAMED + number]) for number in range(NAMED)},
        {f"{number:012x}": texts[2 * NAMED + number] for number in range(NAMED)},
    )
    monkeypatch.setattr(places, "PLACES", found)
    monkeypatch.setattr(kinds, "SYMBOLS", symbols.Symbols())
    return clock


def name(chance: Random) -> bytes:
    data = chance.randbytes(chance.randint(0, 40))
    return data if chance.random() < 0.3 else data.translate(SPECIAL[:256])


def some_tables(chance: Random) -> Iterator[Table]:
    """One table for each kind, and as many of several kinds, of all types of metric."""
    for number, kind in enumerate(KINDS):
        yield Table((Metric(f"ebpf_k{number}_total", "counter", "Help.", (Label("a", kind),)),))
        labels = tuple(
            Label(f"l{at}", kind) for at, kind in enumerate((kind, *chance.choices(KINDS, k=chance.randint(0, 3))))
        )
        bounds, les = powers_of_two(0, chance.choice((0, 5, 30)))
        match number % 4:
            case 0:
                yield Table((Metric(f"ebpf_m{number}_total", "counter", "Help.", labels, scale=0.5),))
            case 1:
                yield Table((Metric(f"ebpf_h{number}", "histogram", "Help.", labels, bounds=bounds, les=les),))
            case 2:
                yield Table((Metric(f"ebpf_g{number}", "gauge", "Help.", labels, keep="max"),))
            case _:
                names = (f"ebpf_a{number}_total", f"ebpf_b{number}_total")
                yield Table(tuple(Metric(one, "counter", "Help.", labels) for one in names))


@dataclass
class Put:
    """What was put into a table's series: for each of its values the sum, and the largest."""

    sums: list[int]
    largest: int = 0

    def add(self, columns: list[list[int]]) -> None:
        self.sums = [total + sum(column) for total, column in zip(self.sums, columns, strict=True)]
        self.largest = max(self.largest, *columns[0])


def random_bytes(chance: Random, size: int, count: int, table: Table) -> bytes:
    """Returns so many keys: of any bytes, of special ones, or of numbers that have names."""
    data = bytearray(chance.randbytes(size * count))
    for field_ in table.fields:
        if field_.offset + field_.size > size:
            continue
        how = chance.random()
        for at in range(field_.size):
            column = slice(field_.offset + at, None, size)
            if field_.kind and field_.kind.name in ("comm", "string"):
                if how < 0.7:
                    data[column] = data[column].translate(SPECIAL[:256])
            elif how < 0.7:  # little endian or not, a number below NAMED somewhere
                data[column] = bytes(number % NAMED if at == 0 else 0 for number in data[column])
    return bytes(data)


def amounts(chance: Random, columns: int, count: int) -> tuple[bytes, list[list[int]]]:
    """Returns the values of so many keys, as the kernel has them, and as columns."""
    rows = array("Q", [number >> 34 for number in memoryview(chance.randbytes(8 * columns * count)).cast("Q")])
    return rows.tobytes(), [rows[at::columns].tolist() for at in range(columns)]


def check(table: Table, series: Series, put: Put) -> None:
    """Compares a page with what was put."""
    text = b"".join(page(series.render(), CollectorRegistry(), TEXT)).decode()
    assert [line for line in text.removesuffix("\n").split("\n") if line[0] != "#" and not LINE.fullmatch(line)] == []
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text) is None
    found = samples(text)
    for at, metric in enumerate(table.metrics):
        if metric.type == "counter":
            assert sum(found[metric.name].values()) == put.sums[at] * metric.scale
        elif metric.type == "gauge":
            assert max(value for value in found[metric.name].values() if not math.isnan(value)) == put.largest
        else:
            assert sum(found[f"{metric.name}_count"].values()) == put.sums[0]
            assert sum(found[f"{metric.name}_sum"].values()) == put.sums[1]
            all_counted = [
                value for labels, value in found[f"{metric.name}_bucket"].items() if ("le", "+Inf") in labels
            ]
            assert sum(all_counted) == put.sums[0]


def test_any_keys_of_every_kind(clock: Clock) -> None:
    """Random keys and values of every kind of label, more of them than there may be series."""
    assert {kind.name for kind in KINDS} == set(kinds._DECODERS)
    chance = Random(11)
    tables = list(some_tables(chance))
    count = KEYS // (len(tables) * READS) + 1
    for table in tables:
        series, put = Series(table, chance.choice((1, 20, 300))), Put([0] * len(table.values))
        again = random_bytes(chance, table.key_size, AGAIN, table)
        for read in range(READS):
            series.begin()
            values, columns = amounts(chance, len(table.values), count)
            series.add(random_bytes(chance, table.key_size, count, table), values)
            put.add(columns)
            if read:
                values, columns = amounts(chance, len(table.values), AGAIN)
                series.add(again, values)
                put.add(columns)
            if table.bounded_size:
                values, columns = amounts(chance, len(table.values) + 1, 8)
                series.add_overflow(random_bytes(chance, table.bounded_size, 8, table), values)
                put.add(columns[:-1])
            values, columns = amounts(chance, len(table.values) + 1, 1)
            series.add_rest(values)
            put.add(columns[:-1])
            series.settle()
            clock.seconds += LONG_PATIENCE / 3
        clock.seconds += LONG_PATIENCE
        series.begin()  # what waited for a name does so no longer
        series.settle()
        check(table, series, put)
        text = b"".join(page(series.render(), CollectorRegistry(), OPENMETRICS)).decode()
        assert list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
